"""What a job would take, before it runs: measured on a few of its images, whose results are thrown away.

Refuses to know terminals (cli).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, Unpack

import psutil

from incontext.folder.identity import identify, of_outputs
from incontext.folder.journal import JOURNAL_NAME, Earlier, find_earlier, parse
from incontext.folder.plan import FolderJob, Query
from incontext.folder.prompted import PromptedRunner, refuse_context, text_of
from incontext.folder.report import REPORT_NAME, FileReport
from incontext.folder.run import MOST_WAITING, PIXELS_WAITING
from incontext.folder.sinks import FolderSink, sink_for
from incontext.folder.watch import Arrived
from incontext.folder.work import DecodedQuery, Readable, read, version_of, write
from incontext.options import BatchSize, SegmentKeywords, SegmentOptions, takes_options

if TYPE_CHECKING:  # the engine brings torch
    from incontext.engine import Answer, Context, PreparedContext, Segmenter
    from incontext.prompters import Prompter

MOST_MEASURED: Final = 3
Answered: TypeAlias = Callable[[DecodedQuery], Readable]

_MOST_TRIED = 10  # where images cannot be read
_BYTES_BEFORE, _BYTES_BEHIND = 3, 8  # of an image that waits before the network and behind it, for each pixel


@dataclass(frozen=True)
class Measured:
    """What one image took: seconds, alone and one after the other.

    Attributes:
        size: Bytes of its results.
    """

    pixels: int
    reading: float
    network: float
    writing: float
    size: int


@dataclass(frozen=True)
class Rehearsal:
    """What a job would take.

    Attributes:
        before: Of the queries, how many are done already.
        device_bytes: Of the network on a device with memory of its own, 0 on a CPU. The rest is None where no image
            could be measured.
    """

    queries: int
    before: int
    measured: tuple[Measured, ...]
    failures: tuple[FileReport, ...]  # of those that were to be measured
    seconds_each: float | None
    memory: int | None  # bytes of this process at its peak, the network included
    device_bytes: int
    disk: int | None  # bytes of all results that are still to be written

    @property
    def seconds(self) -> float | None:
        """For everything that is not done."""
        return None if self.seconds_each is None else self.seconds_each * (self.queries - self.before)


@takes_options
def rehearse(
    segmenter: Segmenter,
    job: FolderJob,
    context: Context | None,
    *,
    batch_size: BatchSize = "auto",
    resume: bool = True,
    arrivals: Iterable[Arrived] | None = None,
    on_file: Callable[[FileReport], None] | None = None,
    on_resume: Callable[[int], None] | None = None,
    **options: Unpack[SegmentKeywords],
) -> Rehearsal:
    """Measure up to three images of a job, evenly spread over those that are not done.

    The output folder is read, and nothing is written to it: results go to a temporary folder, which is removed.
    Arguments and errors are those of `job.segment_folder`; on_file is called for what was measured.

    Raises:
        ValueError: there are `arrivals`, of which nothing can be known before they come.
    """
    _refuse_arrivals(arrivals)
    prepared = segmenter.prepare(context, **SegmentOptions(**options).keywords())
    count = 1 if batch_size == "auto" else batch_size
    on_cpu = segmenter.device.type == "cpu"
    return _rehearsed(
        partial(_answered, segmenter, prepared, count=count),
        job,
        identify(segmenter, prepared, context, job.outputs),
        count=count,
        on_cpu=on_cpu,
        device_bytes=(
            0 if on_cpu else segmenter.estimate_memory(shots=prepared.shots, batch_size=count, side=prepared.side)
        ),
        resume=resume,
        on_file=on_file,
        on_resume=on_resume,
    )


@takes_options
def rehearse_by_prompter(
    prompter: Prompter,
    job: FolderJob,
    context: Context | None,
    *,
    batch_size: BatchSize = "auto",
    resume: bool = True,
    arrivals: Iterable[Arrived] | None = None,
    on_file: Callable[[FileReport], None] | None = None,
    on_resume: Callable[[int], None] | None = None,
    **options: Unpack[SegmentKeywords],
) -> Rehearsal:
    """Do :func:`rehearse` for `job.segment_by_prompter`; what the prompter holds on a device is not known.

    Raises:
        ValueError: As `rehearse` raises it, and where there is a context.
    """
    _refuse_arrivals(arrivals)
    refuse_context(context)
    _ = SegmentOptions(**options), batch_size  # checked, and of no use here
    runner = PromptedRunner(prompter, text_of(job), job.outputs)
    return _rehearsed(
        runner.answer,
        job,
        of_outputs(job.outputs),
        count=1,
        on_cpu=True,
        device_bytes=0,
        resume=resume,
        on_file=on_file,
        on_resume=on_resume,
    )


def _refuse_arrivals(arrivals: Iterable[Arrived] | None) -> None:
    if arrivals is not None:
        raise ValueError("expected --watch or --dry-run, got both; leave one out")


def _rehearsed(
    answered: Answered,
    job: FolderJob,
    identity: Mapping[str, object],
    *,
    count: int,
    on_cpu: bool,
    device_bytes: int,
    resume: bool,
    on_file: Callable[[FileReport], None] | None,
    on_resume: Callable[[int], None] | None,
) -> Rehearsal:
    """Measure what answers images, `count` at a time."""
    sink = sink_for(job.outputs)
    earlier = _earlier(sink, {**identity, **job.marked_by}) if resume else None
    done = (
        {}
        if earlier is None
        else {f.mask and sink.name(f.mask): (f.mask, f.version) for f in map(parse, earlier.lines()) if f is not None}
    )
    rest = [query for query in job.queries if not _is_done(sink, query, done)]
    before = len(job.queries) - len(rest)
    if before and on_resume is not None:
        on_resume(before)
    measured, failures = _measured(answered, job, rest, count, on_file)
    return Rehearsal(
        len(job.queries),
        before,
        measured,
        failures,
        _seconds_each(measured, on_cpu=on_cpu),
        _memory(measured, len(rest)),
        device_bytes,
        round(_mean([each.size for each in measured]) * len(rest)) if measured else None,
    )


def _earlier(sink: FolderSink, identity: Mapping[str, object]) -> Earlier | None:
    out = sink.outputs.out
    if not (out / JOURNAL_NAME).exists():
        sink.fetch(REPORT_NAME)
    earlier = find_earlier(out, identity, where=sink.outputs.where)
    if earlier is not None:
        sink.look()
    return earlier


def _is_done(sink: FolderSink, query: Query, done: dict[str | None, tuple[str | None, str | None]]) -> bool:
    mask, version = done.get(sink.outputs.mask_name(query.name), (None, None))
    return mask is not None and version == version_of(query) and sink.holds(mask)


def _measured(
    answered: Answered,
    job: FolderJob,
    rest: Sequence[Query],
    count: int,
    on_file: Callable[[FileReport], None] | None,
) -> tuple[tuple[Measured, ...], tuple[FileReport, ...]]:
    """Measure what can be measured, and tell what cannot be read.

    Args:
        count: Images that go through the network together.
    """
    done: list[Measured] = []
    failures: list[FileReport] = []
    with tempfile.TemporaryDirectory() as name:
        trial = replace(job, outputs=job.outputs.at(Path(name)))
        for query in _spread(rest):
            image = read(query)
            if isinstance(image, FileReport):
                failures.append(image)
                continue
            if not done:
                answered(image)  # the first pass of a network is slower than the others
            measured, report = _measure(answered, trial, image, count)
            done.append(measured)
            if on_file is not None:
                on_file(report)
            if len(done) == MOST_MEASURED:
                break
    return tuple(done), tuple(failures)


def _measure(answered: Answered, trial: FolderJob, image: DecodedQuery, count: int) -> tuple[Measured, FileReport]:
    start = time.perf_counter()
    answer = answered(image)
    network = (time.perf_counter() - start) / count
    report = write(trial.outputs, replace(image, seconds=0.0), answer)
    paths = trial.outputs.all_paths(image.query.name)
    size = sum(path.stat().st_size for path in paths if path.exists())
    return Measured(image.pixels, image.seconds, network, report.seconds, size), report


def _answered(segmenter: Segmenter, prepared: PreparedContext, image: DecodedQuery, *, count: int) -> Answer:
    """Answer a batch of so many times this image."""
    from incontext.canvas.query import PaintedAnswer

    fitted = prepared.fit(image.image, hints=image.query.hints)
    *_, answer = segmenter.answer_many([fitted] * count, prepared, batch_size=count)
    if isinstance(answer, PaintedAnswer):
        for each in answer.painted:
            each.painted.cpu()  # waits for it
    return answer


def _spread(rest: Sequence[Query]) -> Iterator[Query]:
    """Take the middle of each third, then others."""
    count = len(rest)
    first = [count * (2 * i + 1) // (2 * MOST_MEASURED) for i in range(min(count, MOST_MEASURED))]
    others = (i for i in range(min(count, _MOST_TRIED)) if i not in first)
    for i in dict.fromkeys([*first, *others]):
        yield rest[i]


def _seconds_each(measured: Sequence[Measured], *, on_cpu: bool) -> float | None:
    """Foresee seconds an image: threads work beside the network; a CPU is shared, elsewhere the slower one counts."""
    if not measured:
        return None
    network = _mean([each.network for each in measured])
    files = _mean([each.reading + each.writing for each in measured]) / (os.cpu_count() or 1)
    return network + files if on_cpu else max(network, files)


def _memory(measured: Sequence[Measured], rest: int) -> int | None:
    """Add up what this process has by now, and the images that wait before and behind the network."""
    if not measured:
        return None
    pixels, largest = _mean([each.pixels for each in measured]), max(each.pixels for each in measured)
    waiting = min(min(rest, MOST_WAITING) * pixels, PIXELS_WAITING + largest)
    return int(psutil.Process().memory_info().rss + waiting * (_BYTES_BEFORE + _BYTES_BEHIND))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
