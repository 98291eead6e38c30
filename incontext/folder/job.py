"""A folder job from its beginning to its report, however often it is interrupted, by whatever runs it.

The journal is kept while the runner works, and the report is made of it at the end. Memory does not grow with the
number of images but for the plan's list. Refuses to know how a runner works (run.py) and terminals (cli).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, Unpack

from incontext.folder.identity import identify, of_outputs
from incontext.folder.journal import JOURNAL_NAME, Journal, find_earlier, wrote_tars
from incontext.folder.overlays import draw_missing
from incontext.folder.plan import FolderJob, Query
from incontext.folder.prompted import PromptedRunner, RunnerWithExamples, refuse_context, text_of
from incontext.folder.report import REPORT_NAME, FileReport, FolderReport
from incontext.folder.run import Finish, LocalRunner
from incontext.folder.sinks import FolderSink, sink_for
from incontext.folder.watch import Arrived
from incontext.folder.work import UnwritableError, raise_if_unwritable, version_of
from incontext.options import BatchSize, SegmentKeywords, SegmentOptions, takes_options
from incontext.prompt_tensor import PromptTensor, listed
from incontext.sources.places import shown

if TYPE_CHECKING:  # the engine brings torch, and a plan needs none
    from incontext.engine import Context, Segmenter
    from incontext.prompters import Prompter


class Runner(Protocol):
    """Where images are segmented: `run.LocalRunner`, or many machines."""

    @property
    def waited(self) -> float:
        """Seconds that the network waited for files so far."""

    def run(self, queries: Iterable[tuple[int, Query]], finish: Finish) -> None:
        """Segment numbered queries and write their results.

        Args:
            finish: Called once for each, in any order, in the thread that called; also for what was in flight when
                something stops the run. `UnwritableError` stops it.
        """


@takes_options
def segment_folder(
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
) -> FolderReport:
    """Segment the images of a plan and write their results, and `report.json`, into its output folder.

    An image that cannot be read, or a result that cannot be written, is noted and skipped. Every file appears whole or
    not at all, an image's mask after its overlay and confidence; overlays that an earlier run was not asked for are
    drawn of its masks.

    Args:
        segmenter: The network.
        job: The plan.
        context: What shows what to find, as `Segmenter.prepare` takes it; None: hints on every image do.
        batch_size: See `Segmenter.segment_many`.
        resume: See :func:`run_job`, as for the next three.
        arrivals: What comes in place of the plan's queries.
        on_file: Called for each file when it is finished or has failed.
        on_resume: Called once with how many masks earlier runs left, where there are any.
        **options: See `SegmentOptions`.

    Raises:
        OSError: the output folder cannot be written to, or not any more.
        ValueError: what the Segmenter raises about the context and the options, or the folder holds another job's
            masks: before anything is written.
    """
    chosen = SegmentOptions(**options)
    prepared = segmenter.prepare(context, **chosen.keywords())
    return run_job(
        LocalRunner(segmenter, prepared, job.outputs, batch_size=batch_size),
        job,
        settings=settings_of(job, context, chosen, batch_size),
        segmenter=segmenter.describe(),
        identity=identify(segmenter, prepared, context, job.outputs),
        resume=resume,
        arrivals=arrivals,
        on_file=on_file,
        on_resume=on_resume,
    )


@takes_options
def segment_by_prompter(
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
) -> FolderReport:
    """Do :func:`segment_folder` by a prompter that marks every image itself, for the text in ``job.marked_by``.

    Arguments but the first are `segment_folder`'s; there is no context, and options of the network mean nothing here.

    Raises:
        OSError, ValueError: As `segment_folder` raises them; and where there is a context.
    """
    refuse_context(context)
    return run_job(
        PromptedRunner(prompter, text_of(job), job.outputs),
        job,
        settings=settings_of(job, None, SegmentOptions(**options), batch_size),
        segmenter=prompter.describe(),
        identity=of_outputs(job.outputs),
        resume=resume,
        arrivals=arrivals,
        on_file=on_file,
        on_resume=on_resume,
    )


def settings_of(
    job: FolderJob, context: Context | None, options: SegmentOptions, batch_size: BatchSize
) -> dict[str, object]:
    """Say what was asked for, as `report.json` has it."""
    return {
        "inputs": [shown(each) for each in job.inputs],
        "out": job.outputs.where,
        "prompts": [{"image": str(image), "mask": str(mask)} for image, mask in job.prompt_files],
        "prompt_tensors": _learned(context),
        **({"marked_by": dict(job.marked_by)} if job.marked_by else {}),
        "names": {str(i): name for i, name in sorted({**_names(context), **job.names}.items())},
        **options.plain(),
        "pages": job.pages,
        "batch_size": batch_size,
        "overlay": job.outputs.overlay,
        "confidence": job.outputs.confidence,
    }


def run_job(
    runner: Runner,
    job: FolderJob,
    *,
    settings: Mapping[str, object],
    segmenter: Mapping[str, object],
    identity: Mapping[str, object],
    resume: bool = True,
    arrivals: Iterable[Arrived] | None = None,
    on_file: Callable[[FileReport], None] | None = None,
    on_resume: Callable[[int], None] | None = None,
) -> FolderReport:
    """Run a plan by a runner, from where earlier runs of the same job left it.

    Whatever stops the run, Ctrl-C included, leaves a report of what was done, unless the disk is full. A run that is
    killed leaves a journal, `report.partial.jsonl`, from which the next one goes on; what was in flight is lost.

    Args:
        settings, segmenter: For the report.
        identity: What all masks depend on, see `identity.identify`; who marked some of them joins it here.
        resume: Leave out images that are done: their masks are there, and their files have not changed since. Those
            that failed are tried again. False does everything anew.
        arrivals: What comes in place of the plan's queries, see `watch.arrivals`; Ctrl-C is then the way to end.
        on_file: Called in this thread for each file when it is finished or has failed; the local runner keeps the order
            of the queries.
        on_resume: Called once, with how many masks are left from earlier runs, where there are any.

    Raises:
        UnwritableError: the disk is full or has become read-only. The journal is kept.
        OSError: the output folder cannot be written to.
        ValueError: the folder holds another job's masks, or another run is writing to it.
    """
    out, identity = job.outputs.out, {**identity, **job.marked_by}
    if job.marked:
        runner = RunnerWithExamples(runner, job.marked, job.outputs)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    sink = sink_for(job.outputs)
    if (resume or job.outputs.per_tar is not None) and not (out / JOURNAL_NAME).exists():
        sink.fetch(REPORT_NAME)
    earlier = find_earlier(out, identity, where=job.outputs.where) if resume else None
    had_tars = wrote_tars(out)
    try:
        with Journal(out, identity, earlier) as journal:
            heading = _Heading(dict(settings), dict(segmenter), dict(identity), started)
            run = _Run(runner, job, journal, sink, heading, on_file)
            before = run.begin(resume=earlier is not None, had_tars=had_tars)
            if before and on_resume is not None:
                on_resume(before)
            if job.outputs.overlay and job.outputs.draws_later:
                draw_missing(job.outputs, run.done())
            if job.outputs.remote is not None:
                run.announce()
            try:
                run.work(arrivals)
            except UnwritableError:
                raise
            except BaseException:
                run.report(time.perf_counter() - clock)
                raise
            return run.report(time.perf_counter() - clock)
    except UnwritableError:
        raise
    except OSError as error:
        raise_if_unwritable(error, out)
        raise


@dataclass(frozen=True)
class _Heading:
    """What a report says of a run before any image: see `FolderReport`."""

    settings: dict[str, object]
    segmenter: dict[str, object]
    identity: dict[str, object]
    started: str


class _Run:
    """One run of a job. Numbers count subfolders that cannot be read, then queries."""

    def __init__(
        self,
        runner: Runner,
        job: FolderJob,
        journal: Journal,
        sink: FolderSink,
        heading: _Heading,
        on_file: Callable[[FileReport], None] | None,
    ) -> None:
        self._runner, self._job, self._journal, self._sink = runner, job, journal, sink
        self._heading, self._on_file = heading, on_file
        self._numbers: dict[str, int] = {}  # by names of masks; after a slash, by what has none
        self._renamed: list[int] = []  # lines in which an earlier run calls a mask otherwise than this one
        self._masks = 0  # that this run wrote
        self._handed_out = False  # the runner has been given all that there is
        self._in_hand: set[int] = set()  # what it was given and has not finished

    def begin(self, *, resume: bool, had_tars: bool) -> int:
        """Take over what is done, if anything.

        Returns how many images that are.

        Args:
            had_tars: Of the last run.
        """
        if resume:
            self._sink.look()
        else:
            self._sink.forget(wrote_tars=had_tars)
        self._job.outputs.sweep(query.name for query in self._job.queries)
        for file in self._job.skipped:
            self._number(file)
        for query in self._job.queries:
            self._number(query)
        before = self._journal.keep(self._number_of_done)
        for number in self._renamed:
            if (line := self._journal.read(number)) is not None:
                self._journal.add(number, self._called(number, line))
        skipped = len(self._job.skipped)
        self._sink.settle(number - skipped for number in range(skipped, len(self._numbers)) if number in self._journal)
        for file in self._job.skipped:
            self._finish(self._number(file), file)
        return before

    def done(self) -> Iterator[Query]:
        """List the queries whose masks earlier runs left."""
        skipped = len(self._job.skipped)
        return (each for number, each in enumerate(self._job.queries, start=skipped) if number in self._journal)

    def work(self, arrivals: Iterable[Arrived] | None) -> None:
        """Do everything that is not done."""
        if arrivals is None:
            self._round(self._job.queries)
            return
        self._handed_out = True
        try:
            for arrived in arrivals:
                self._round(arrived)
        except KeyboardInterrupt:
            return

    def report(self, seconds: float) -> FolderReport:
        """Make the report of the journal, which is then removed."""
        if self._finished:
            self._sink.close()
        made = self._written(seconds)
        self._sink.publish(made.path)
        self._journal.remove()
        return made

    def announce(self) -> None:
        """Publish the report of a run that has just begun: it says so, and whether anything can be published at all."""
        made = self._written(0.0)
        self._sink.publish(made.path)
        made.path.unlink()  # here, the journal is what is true

    def _written(self, seconds: float) -> FolderReport:
        heading = self._heading
        made = FolderReport(
            self._job.outputs.out / REPORT_NAME,
            self._finished,
            heading.settings,
            heading.segmenter,
            heading.identity,
            self._journal.totals(len(self._numbers) - len(self._job.skipped)),
            heading.started,
            seconds,
            self._runner.waited,
            self._masks,
        )
        made.write(self._journal.lines())
        return made

    def _round(self, arrived: Iterable[Query | FileReport]) -> None:
        self._handed_out = False
        self._runner.run(self._undone(arrived), self._finish)

    @property
    def _finished(self) -> bool:
        return self._handed_out and not self._in_hand

    def _undone(self, arrived: Iterable[Query | FileReport]) -> Iterator[tuple[int, Query]]:
        """List those to segment, with their numbers; what cannot be segmented is finished on the way."""
        for each in arrived:
            number = self._number(each)
            known = self._journal.read(number)
            version = each.version if isinstance(each, FileReport) else version_of(each)
            if known is not None and known.version == version:
                continue
            if isinstance(each, FileReport):
                self._finish(number, each)
            else:
                self._in_hand.add(number)
                yield number, each
        self._handed_out = True

    def _number(self, each: Query | FileReport) -> int:
        name = f"/{each.query}" if isinstance(each, FileReport) else self._job.outputs.mask_name(each.name)
        if name not in self._numbers:
            self._numbers[name] = len(self._numbers)
            if len(self._numbers) > len(self._job.skipped):
                self._sink.expect(None if isinstance(each, FileReport) else each.name)
        return self._numbers[name]

    def _number_of_done(self, file: FileReport) -> int | None:
        """Find the number of a line's image, if there is nothing to do for it any more."""
        if file.mask is None or file.error is not None or not self._sink.holds(file.mask):
            return None
        number = self._numbers.get(self._sink.name(file.mask))
        if number is not None and self._called(number, file) != file:
            self._renamed.append(number)
        if number is None:
            return None
        return number if version_of(self._job.queries[number - len(self._job.skipped)]) == file.version else None

    def _called(self, number: int, file: FileReport) -> FileReport:
        name = None if file.mask is None else self._sink.name(file.mask)
        return file if name is None else replace(file, mask=self._sink.called(number - len(self._job.skipped), name))

    def _finish(self, number: int, file: FileReport) -> None:
        position = number - len(self._job.skipped)
        if file.mask is not None:
            file = replace(file, mask=self._sink.called(position, file.mask))
        try:
            self._journal.add(number, file)
        except OSError as error:
            raise_if_unwritable(error, self._job.outputs.out)
            raise
        self._masks += file.error is None
        if position >= 0:
            self._sink.done(position, failed=file.error is not None)
        self._in_hand.discard(number)
        if self._on_file is not None:
            self._on_file(file)


def _names(context: Context | None) -> dict[int, str]:
    """Tell what ids mean, as far as the context says it."""
    return {i: name for each in listed(context) for i, name in each.names.items()}


def _learned(context: Context | None) -> list[dict[str, object]]:
    """Note what tells the context's prompt tensors from others."""
    return [
        {"ids": list(each.ids), **asdict(each.origin)} for each in listed(context) if isinstance(each, PromptTensor)
    ]
