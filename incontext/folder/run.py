"""The network of this process: threads decode ahead of it and encode behind it, so that it never waits for a file.

Memory stays bounded whatever the images' sizes and however many there are. Refuses to know the network (engine.py),
what is done for one image (work.py) and what becomes of the reports (job.py).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import psutil

from incontext.folder import work
from incontext.folder.outputs import Outputs
from incontext.folder.plan import Query
from incontext.folder.report import FileReport

if TYPE_CHECKING:  # the engine brings torch, and a plan needs none
    from incontext.engine import Answer, FittedQuery, PreparedContext, Segmenter
    from incontext.options import BatchSize

MOST_WAITING: Final = 64  # images before the network, decoded or queued for it, and as many behind it
PIXELS_WAITING: Final = 64_000_000  # of decoded images before the network (0.2 GB), and behind it (0.5 GB)

_MOST_THREADS = 8  # for reading, and as many for writing
_MOST_LANES = 4
_SHARE_OF_FREE = 0.5  # of the memory that is free, for what goes through the network side by side

Finish: TypeAlias = Callable[[int, FileReport], None]
"""Takes a query's number and what became of it."""


class LocalRunner:
    """Runs queries through a Segmenter of this process. waited: seconds that its network waited for files.

    On a CPU several images go through the network at a time, each in a thread of its own: threads that share one
    image wait for each other.

    Args:
        lanes: How many; None is what `count_lanes` says.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        prepared: PreparedContext,
        outputs: Outputs,
        *,
        batch_size: BatchSize = "auto",
        lanes: int | None = None,
    ) -> None:
        self.waited = 0.0
        self._segmenter, self._prepared, self._outputs = segmenter, prepared, outputs
        self._batch_size = batch_size
        self._lanes = count_lanes(segmenter, prepared, batch_size) if lanes is None else lanes
        self._busy = 0.0  # seconds of the network in this run, in all lanes together

    def run(self, queries: Iterable[tuple[int, Query]], finish: Finish) -> None:
        """Segment the queries and write their results.

        Whatever stops it, Ctrl-C included: what the network has answered by then is written and finished.

        Args:
            finish: Called in this thread for each, in their order.

        Raises:
            UnwritableError: nothing more can be written.
        """
        results = _Results(finish)
        reader = _Reader(self._prepared, queries, results)
        writer = _Writer(self._outputs, results)
        start, self._busy = time.perf_counter(), 0.0
        try:
            with _threads_restored(), writer, reader:
                for waiting, answer in self._side_by_side(reader) if self._lanes > 1 else self._in_batches(reader):
                    writer.write(waiting, answer)
                    results.tell()
        finally:
            idle = time.perf_counter() - start - self._busy / self._lanes
            self.waited += max(0.0, idle) if self._lanes > 1 else reader.waited + writer.waited
            results.tell_rest()

    def _in_batches(self, reader: _Reader) -> Iterator[tuple[_Waiting, Answer]]:
        for answer in self._segmenter.answer_many(reader, self._prepared, batch_size=self._batch_size):
            yield reader.answered(), answer

    def _side_by_side(self, reader: _Reader) -> Iterator[tuple[_Waiting, Answer]]:
        """Run each image in a thread of its own, their order kept."""
        import torch

        threads = max(1, torch.get_num_threads() // self._lanes)
        pool = ThreadPoolExecutor(self._lanes, "network", torch.set_num_threads, (threads,))
        ahead: deque[tuple[_Waiting, Future[tuple[Answer, float]]]] = deque()
        try:
            for fitted in reader:
                ahead.append((reader.handed_out(), pool.submit(self._answer, fitted)))
                if len(ahead) > self._lanes:  # each has one to begin with when it is done
                    yield self._finished(*ahead.popleft())
            while ahead:
                yield self._finished(*ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, fitted: FittedQuery) -> tuple[Answer, float]:
        start = time.perf_counter()
        (answer,) = self._segmenter.answer_many([fitted], self._prepared, batch_size=1)
        return answer, time.perf_counter() - start

    def _finished(self, waiting: _Waiting, future: Future[tuple[Answer, float]]) -> tuple[_Waiting, Answer]:
        answer, seconds = future.result()
        self._busy += seconds
        return waiting.after(seconds), answer


def count_lanes(segmenter: Segmenter, prepared: PreparedContext, batch_size: BatchSize) -> int:
    """Choose how many images go through a network side by side.

    On a CPU it is one for each of PyTorch's threads, up to four, and as memory has room for; it is one where batches
    were
    asked for, and on other devices.
    """
    import torch

    most = min(_MOST_LANES, torch.get_num_threads())
    if most < 2 or batch_size != "auto" or segmenter.device.type != "cpu" or segmenter.compiled:
        return 1
    each = segmenter.estimate_memory(shots=prepared.shots, side=prepared.side)
    return max(1, min(most, int(psutil.virtual_memory().available * _SHARE_OF_FREE) // each))


class _Results:
    """What became of each query, told in the order of the queries."""

    def __init__(self, finish: Finish) -> None:
        self._finish = finish
        self._made: dict[int, tuple[int, Future[FileReport]]] = {}  # by position: the query's number
        self._told = 0  # positions

    def add(self, position: int, number: int, report: FileReport) -> None:
        future: Future[FileReport] = Future()
        future.set_result(report)
        self.expect(position, number, future)

    def expect(self, position: int, number: int, future: Future[FileReport]) -> None:
        self._made[position] = number, future

    def tell(self) -> None:
        """Finish what is done, as far as nothing before it is missing."""
        while (made := self._made.get(self._told)) is not None and made[1].done():
            self._finish(made[0], made[1].result())  # before it is forgotten: an interrupt may come between
            del self._made[self._told]
            self._told += 1

    def tell_rest(self) -> None:
        """Finish what is done, whatever is missing."""
        for position in sorted(self._made):
            number, future = self._made.pop(position)
            if future.done() and future.exception() is None:
                self._finish(number, future.result())


@dataclass(frozen=True, eq=False)
class _Waiting:
    """An image before the network, squeezed to what that sees.

    Attributes:
        position: In the order of the queries.
    """

    position: int
    number: int
    image: work.DecodedQuery
    fitted: FittedQuery

    def after(self, seconds: float) -> _Waiting:
        """Add so much to what it has cost."""
        return replace(self, image=replace(self.image, seconds=self.image.seconds + seconds))


class _Reader:
    """The images in their order, decoded and squeezed to what the network sees by threads while it is at work.

    Iterated once, by one thread.
    """

    def __init__(self, prepared: PreparedContext, queries: Iterable[tuple[int, Query]], results: _Results) -> None:
        self.waited = 0.0  # seconds that the network waited for an image
        self._prepared = prepared
        self._queries = queries
        self._results = results
        self._threads = ThreadPoolExecutor(_thread_count(), "read", _compute_alone)
        self._gate = threading.Condition()  # guards the next three
        self._held = 0  # pixels decoded and not yet taken
        self._wanted = -1  # the position of the image that is waited for, and so is never held back
        self._closed = False
        self._unanswered: deque[_Waiting] = deque()
        self._batch = 0  # images handed out since the last answer
        self._handed_out = 0.0  # when the last of them was
        self._share = 0.0  # seconds of the network for each image of the batch that is being answered

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._gate:
            self._closed = True
            self._gate.notify_all()
        self._threads.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[FittedQuery]:
        ahead: deque[tuple[int, Future[_Waiting | FileReport]]] = deque()
        rest, position = iter(enumerate(self._queries)), 0
        while True:
            ahead.extend(
                (number, self._threads.submit(self._read, place, number, query))
                for place, (number, query) in islice(rest, MOST_WAITING - len(ahead))
            )
            if not ahead:
                return
            number, future = ahead.popleft()
            waiting = self._take(position, future)
            if isinstance(waiting, FileReport):
                self._results.add(position, number, waiting)
            else:
                self._unanswered.append(waiting)
                self._batch, self._handed_out = self._batch + 1, time.perf_counter()
                yield waiting.fitted
            position += 1

    def answered(self) -> _Waiting:
        """Take the image that the network's next answer is for, with the time that it has cost so far."""
        if self._batch:
            self._share, self._batch = (time.perf_counter() - self._handed_out) / self._batch, 0
        return self._unanswered.popleft().after(self._share)

    def handed_out(self) -> _Waiting:
        """Take the image that was handed out last, where each is answered on its own."""
        self._batch = 0
        return self._unanswered.popleft()

    def _take(self, position: int, future: Future[_Waiting | FileReport]) -> _Waiting | FileReport:
        start = time.perf_counter()
        with self._gate:
            self._wanted = position
            self._gate.notify_all()
        waiting = future.result()
        self.waited += time.perf_counter() - start
        if isinstance(waiting, _Waiting):
            with self._gate:
                self._held -= waiting.image.pixels
                self._gate.notify_all()
        return waiting

    def _read(self, position: int, number: int, query: Query) -> _Waiting | FileReport:
        with self._gate:  # images are begun in order, so the one that is waited for always gets here
            self._gate.wait_for(lambda: self._held < PIXELS_WAITING or position <= self._wanted or self._closed)
        start = time.perf_counter()
        image = work.read(query)
        if isinstance(image, FileReport):
            return image
        try:
            fitted = self._prepared.fit(image.image, hints=query.hints)
        except Exception as error:  # noqa: BLE001  as in work.read
            seconds = time.perf_counter() - start
            return work.failure(query, str(query), error, version=image.version, seconds=seconds)
        with self._gate:
            self._held += image.pixels
        return _Waiting(position, number, replace(image, seconds=time.perf_counter() - start), fitted)


class _Writer:
    """Answers on their way to the disk, read from their paint and encoded by threads while the network is at work."""

    def __init__(self, outputs: Outputs, results: _Results) -> None:
        self.waited = 0.0  # seconds that the network waited because too much was still to be written
        self._outputs = outputs
        self._results = results
        self._threads = ThreadPoolExecutor(_thread_count(), "write", _compute_alone)
        self._unwritten: deque[tuple[Future[FileReport], int]] = deque()  # with the number of pixels

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._threads.shutdown()  # what the network has answered is written, even when the run was stopped
        while self._unwritten and exception[0] is None:
            self._unwritten.popleft()[0].result()

    def write(self, waiting: _Waiting, answer: Answer) -> None:
        image = waiting.image
        future: Future[FileReport] = Future()
        self._results.expect(waiting.position, waiting.number, future)  # first: an interrupt may come between
        self._threads.submit(self._write, image, answer, future)
        self._unwritten.append((future, image.pixels))
        start = time.perf_counter()
        while self._unwritten and (self._unwritten[0][0].done() or self._is_too_much()):
            self._unwritten.popleft()[0].result()
        self.waited += time.perf_counter() - start

    def _write(self, image: work.DecodedQuery, answer: Answer, future: Future[FileReport]) -> None:
        try:
            future.set_result(work.write(self._outputs, image, answer))
        except BaseException as error:  # noqa: BLE001  the future's, as an executor would have it
            future.set_exception(error)

    def _is_too_much(self) -> bool:
        return len(self._unwritten) > MOST_WAITING or sum(pixels for _, pixels in self._unwritten) > PIXELS_WAITING


def _compute_alone() -> None:
    """Keep PyTorch in this thread from using others: they would spin on the processors that the network needs."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def _threads_restored() -> Iterator[None]:
    """Put PyTorch's threads back: what one thread sets, others begin with from then on."""
    import torch

    try:
        yield
    finally:
        torch.set_num_threads(torch.get_num_threads())


def _thread_count() -> int:
    return min(_MOST_THREADS, os.cpu_count() or 1)
