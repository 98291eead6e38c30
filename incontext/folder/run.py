"""Running a folder job: threads decode ahead of the network and encode behind it, so that it never waits for a file.

Memory stays bounded whatever the pictures' sizes. Refuses to know the network (engine.py), file formats (formats.py)
and terminals (cli.py).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from PIL import Image

from incontext.folder.plan import FileReport, FolderJob, Query, StrPath
from incontext.formats import IGNORED, Pixels, read_image, whole_file, write_gray, write_image
from incontext.prompt_tensor import PromptTensor
from incontext.types import Prompt

if TYPE_CHECKING:  # the engine brings torch, and a plan needs none
    from incontext.context import Ensemble
    from incontext.engine import Answer, BatchSize, Context, FittedQuery, Segmenter
    from incontext.model import Task

MOST_WAITING: Final = 64  # pictures before the network, decoded or queued for it, and as many behind it
PIXELS_WAITING: Final = 64_000_000  # of decoded pictures before the network (0.2 GB), and behind it (0.5 GB)
REPORT_NAME: Final = "report.json"

_MOST_THREADS = 8  # for reading, and as many for writing


@dataclass(frozen=True)
class FolderReport:
    """What a run did: `report.json` in the output folder."""

    finished: bool  # False while it runs, and for ever if it was stopped
    started: str  # ISO 8601, UTC
    settings: dict[str, object]
    segmenter: dict[str, object]  # Segmenter.describe()
    queries: int  # how many were to be segmented
    seconds: float
    waiting_seconds: float  # of those, the network waited for pictures to be read or results to be written
    files: tuple[FileReport, ...]  # in the order of the queries

    @property
    def failures(self) -> tuple[FileReport, ...]:
        """What was skipped, and why."""
        return tuple(file for file in self.files if file.error is not None)

    @property
    def done(self) -> int:
        """How many masks were written."""
        return len(self.files) - len(self.failures)

    @property
    def images_per_second(self) -> float:
        """Masks written per second, everything included but loading the weights."""
        return self.done / self.seconds if self.seconds else 0.0

    def save(self, path: StrPath) -> None:
        """Write it as JSON; the file appears whole or not at all."""
        totals = {
            "queries": self.queries,
            "done": self.done,
            "failed": len(self.failures),
            "empty": sum(file.is_empty is True for file in self.files),
            "seconds": round(self.seconds, 3),
            "waiting_seconds": round(self.waiting_seconds, 3),
            "images_per_second": round(self.images_per_second, 3),
        }
        document = {
            "finished": self.finished,
            "started": self.started,
            "settings": self.settings,
            "segmenter": self.segmenter,
            "totals": totals,
            "files": [asdict(file) for file in self.files],
        }
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        with whole_file(path) as stream:
            stream.write(text.encode("utf-8", "backslashreplace"))  # a name that is not UTF-8 becomes a JSON escape


def segment_folder(
    segmenter: Segmenter,
    job: FolderJob,
    context: Context,
    *,
    ensemble: Ensemble = "auto",
    task: Task = "instance",
    side: int | None = None,
    batch_size: BatchSize = "auto",
    on_file: Callable[[FileReport], None] | None = None,
) -> FolderReport:
    """Segment the pictures of a plan and write their results, and `report.json`, into its output folder.

    context, ensemble, task, side: see `Segmenter.prepare`; batch_size: `Segmenter.segment_many`. on_file: called in
    this thread for each file when it is finished or has failed, in the order of the queries.

    A picture that cannot be read, or a result that cannot be written, is noted and skipped. Every file appears whole or
    not at all, a picture's mask after its overlay and confidence. Whatever stops the run, Ctrl-C included, leaves a
    report of what was done; a run that is killed leaves the report that it began with, which says it is unfinished.

    Raises:
        OSError: the output folder or the report cannot be written.
        ValueError: what the Segmenter raises about the context and the options, before anything is written.
    """
    prepared = segmenter.prepare(context, ensemble=ensemble, task=task, side=side)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    settings: dict[str, object] = {
        "inputs": list(job.inputs),
        "out": str(job.out),
        "prompts": [{"image": str(image), "mask": str(mask)} for image, mask in job.prompt_files],
        "prompt_tensors": _learned(context),
        "ensemble": ensemble,
        "task": task,
        "side": side,
        "batch_size": batch_size,
        "overlay": job.overlay,
        "confidence": job.confidence,
    }
    described, total = segmenter.describe(), len(job.queries)
    results = _Results(job.skipped, on_file)
    reader, writer = _Reader(segmenter, prepared.side, job.queries, results), _Writer(job, results)

    def report(*, finished: bool) -> FolderReport:
        seconds, waiting = time.perf_counter() - clock, reader.waited + writer.waited
        made = FolderReport(finished, started, settings, described, total, seconds, waiting, results.done())
        made.save(job.out / REPORT_NAME)
        return made

    job.out.mkdir(parents=True, exist_ok=True)
    report(finished=False)  # before the network starts: that this folder can be written, and that a run has begun
    finished = False
    try:
        with _threads_restored(), writer, reader:
            for answer in segmenter.answer_many(reader, prepared, batch_size=batch_size):
                writer.write(reader.answered(), answer)
                results.tell()
        finished = True
    finally:
        last = report(finished=finished)
        results.tell()
    return last


def _learned(context: Context) -> list[dict[str, object]]:
    """What tells the context's prompt tensors from others."""
    keys = (context,) if isinstance(context, Prompt | PromptTensor) else context
    return [{"ids": list(key.ids), **asdict(key.origin)} for key in keys if isinstance(key, PromptTensor)]


class _Results:
    """What became of each file, by its number; told in order, whatever order it comes in."""

    def __init__(self, skipped: Sequence[FileReport], on_file: Callable[[FileReport], None] | None) -> None:
        self._on_file = on_file
        self._made: dict[int, Future[FileReport]] = {}
        self._next = -len(skipped)  # the number to tell; what the plan skipped comes before the queries
        for number, report in enumerate(skipped, start=self._next):
            self.add(number, report)

    def add(self, number: int, report: FileReport) -> None:
        future: Future[FileReport] = Future()
        future.set_result(report)
        self._made[number] = future

    def expect(self, number: int, future: Future[FileReport]) -> None:
        self._made[number] = future

    def tell(self) -> None:
        """Call on_file for all that are done, up to the first that is not."""
        while (future := self._made.get(self._next)) is not None and future.done():
            self._next += 1
            if self._on_file is not None:
                self._on_file(future.result())

    def done(self) -> tuple[FileReport, ...]:
        """Those that are done, in order."""
        return tuple(future.result() for _, future in sorted(self._made.items()) if future.done())


@dataclass(frozen=True, eq=False)
class _Picture:
    """A decoded query. seconds: what it has cost so far."""

    number: int
    query: Query
    image: Pixels
    fitted: FittedQuery
    seconds: float

    @property
    def pixels(self) -> int:
        pixels: int = self.image.shape[0] * self.image.shape[1]
        return pixels


class _Reader:
    """The pictures in their order, decoded and squeezed to what the network sees (pixels of `side` x `side`) by threads
    while it is at work. Iterated once, by one thread."""

    def __init__(self, segmenter: Segmenter, side: int, queries: Sequence[Query], results: _Results) -> None:
        self.waited = 0.0  # seconds that the network waited for a picture
        self._segmenter = segmenter
        self._side = side
        self._queries = queries
        self._results = results
        self._threads = ThreadPoolExecutor(_thread_count(), "read", _compute_alone)
        self._gate = threading.Condition()  # guards the next three
        self._held = 0  # pixels decoded and not yet taken
        self._wanted = -1  # the number of the picture that is waited for, and so is never held back
        self._closed = False
        self._unanswered: deque[_Picture] = deque()
        self._batch = 0  # pictures handed out since the last answer
        self._handed_out = 0.0  # when the last of them was
        self._share = 0.0  # seconds of the network for each picture of the batch that is being answered

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._gate:
            self._closed = True
            self._gate.notify_all()
        self._threads.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[FittedQuery]:
        ahead: deque[Future[_Picture | FileReport]] = deque()
        rest = iter(enumerate(self._queries))
        for number in range(len(self._queries)):
            ahead.extend(self._threads.submit(self._read, *each) for each in islice(rest, MOST_WAITING - len(ahead)))
            picture = self._take(number, ahead.popleft())
            if isinstance(picture, FileReport):
                self._results.add(number, picture)
                continue
            self._unanswered.append(picture)
            self._batch, self._handed_out = self._batch + 1, time.perf_counter()
            yield picture.fitted

    def answered(self) -> _Picture:
        """The picture that the network's next answer is for, with the time that it has cost so far."""
        if self._batch:
            self._share, self._batch = (time.perf_counter() - self._handed_out) / self._batch, 0
        picture = self._unanswered.popleft()
        return replace(picture, seconds=picture.seconds + self._share)

    def _take(self, number: int, future: Future[_Picture | FileReport]) -> _Picture | FileReport:
        start = time.perf_counter()
        with self._gate:
            self._wanted = number
            self._gate.notify_all()
        picture = future.result()
        self.waited += time.perf_counter() - start
        if isinstance(picture, _Picture):
            with self._gate:
                self._held -= picture.pixels
                self._gate.notify_all()
        return picture

    def _read(self, number: int, query: Query) -> _Picture | FileReport:
        with self._gate:  # pictures are begun in order, so the one that is waited for always gets here
            self._gate.wait_for(lambda: self._held < PIXELS_WAITING or number <= self._wanted or self._closed)
        start = time.perf_counter()
        try:
            image = read_image(query.path)
            fitted = self._segmenter.fit(image, side=self._side)
        except Exception as error:  # noqa: BLE001  whatever is wrong with a file, the others are not to suffer from it
            return _failure(query.path, query, error, time.perf_counter() - start)
        picture = _Picture(number, query, image, fitted, time.perf_counter() - start)
        with self._gate:
            self._held += picture.pixels
        return picture


class _Writer:
    """Answers on their way to the disk, read from their paint and encoded by threads while the network is at work."""

    def __init__(self, job: FolderJob, results: _Results) -> None:
        self.waited = 0.0  # seconds that the network waited because too much was still to be written
        self._job = job
        self._results = results
        self._threads = ThreadPoolExecutor(_thread_count(), "write", _compute_alone)
        self._unwritten: deque[tuple[Future[FileReport], int]] = deque()  # with the number of pixels

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._threads.shutdown()  # what the network has answered is written, even when the run was stopped

    def write(self, picture: _Picture, answer: Answer) -> None:
        future = self._threads.submit(_write, self._job, picture, answer)
        self._results.expect(picture.number, future)
        self._unwritten.append((future, picture.pixels))
        start = time.perf_counter()
        while self._unwritten and (self._unwritten[0][0].done() or self._is_too_much()):
            self._unwritten.popleft()[0].result()
        self.waited += time.perf_counter() - start

    def _is_too_much(self) -> bool:
        return len(self._unwritten) > MOST_WAITING or sum(pixels for _, pixels in self._unwritten) > PIXELS_WAITING


def _write(job: FolderJob, picture: _Picture, painted: Answer) -> FileReport:
    """Write the results of one picture and describe them. The mask comes last: where it is, the others are."""
    start, query = time.perf_counter(), picture.query
    mask_path = job.mask_path(query)
    try:
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        answer = painted.read()
        if job.overlay:
            write_image(job.overlay_path(query, answer.shape), answer.overlay(picture.image))
        if job.confidence:
            write_gray(job.confidence_path(query), answer.confidence)
        answer.save(mask_path)
    except (OSError, ValueError, MemoryError) as error:
        return _failure(mask_path, query, error, picture.seconds + time.perf_counter() - start)
    counts = Image.fromarray(answer.mask).histogram()  # np.bincount would copy the mask to 64 bits a pixel
    areas = {i: count for i, count in enumerate(counts) if count and i not in (0, IGNORED)}
    return FileReport(
        str(query.path),
        mask=mask_path.relative_to(job.out).as_posix(),
        ids=tuple(areas),
        areas=areas,
        confidence=round(float(answer.confidence.mean()), 4),
        is_empty=not areas,
        seconds=round(picture.seconds + time.perf_counter() - start, 4),
    )


def _failure(path: Path, query: Query, error: Exception, seconds: float) -> FileReport:
    """A skipped file. path: what the error is about, put before the error's text where that does not name it."""
    what = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    sentence = what if str(path) in what else f"{path}: {what}"
    return FileReport(str(query.path), error=sentence, seconds=round(seconds, 4))


def _compute_alone() -> None:
    """PyTorch in this thread uses no others: they would wait, spinning, on the processors that the network needs."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def _threads_restored() -> Iterator[None]:
    """What one thread sets is also what threads of PyTorch begin with from then on: put back what this one has."""
    import torch

    try:
        yield
    finally:
        torch.set_num_threads(torch.get_num_threads())


def _thread_count() -> int:
    return min(_MOST_THREADS, os.cpu_count() or 1)
