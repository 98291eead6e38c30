"""`incontext segment`."""

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from incontext.cli.counting import are_missed, passed_over_words
from incontext.cli.exporting import Beside, Formats, Instances, Smallest, export_job, formats_beside
from incontext.cli.marking import mark_some, marking_of, refuse_unmarkable
from incontext.cli.options import (
    Examples,
    ExamplesFolder,
    MinScore,
    PairsCommand,
    PrompterName,
    PromptTensors,
    SnapColors,
    Strict,
    Text,
    app,
    pairs_of,
    strictly,
    with_options,
)
from incontext.options import DEFAULTS, LOADING, BatchSize, LoadOptions, RunnerName, SegmentOptions
from incontext.progress import ProgressLine
from incontext.words import counted

if TYPE_CHECKING:
    from incontext.folder import FileReport, FolderJob, FolderReport, Rehearsal
    from incontext.folder.ray.workers import RayNetworks

_MANY_PROMPTS = 16


@app.command(cls=PairsCommand)
@strictly
@with_options()
def segment(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Folders, with all their subfolders; images; tars of images; patterns in quotes, such as "
            "'PHOTOS/**/*.jpg'; addresses of any of these, such as s3://bucket/photos; - for a list of them on stdin.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="The folder for masks and report.json; made if need be. May be an address, such as s3://bucket/masks: "
            "report.json follows at the end, and what is needed to go on after a kill is kept in this user's cache.",
        ),
    ],
    prompt: Examples = None,
    prompts: ExamplesFolder = None,
    prompt_tensor: PromptTensors = None,
    text: Text = None,
    prompter: PrompterName = None,
    min_score: MinScore = None,
    examples: Annotated[
        str | None,
        typer.Option(
            "--examples",
            metavar="N|all",
            help="How many images the prompter marks as examples for all others, chosen for variety and kept in "
            "OUT/examples to look at; all: it marks every image itself. Default: 4.",
        ),
    ] = None,
    hints: Annotated[
        Path | None,
        typer.Option(
            "--hints",
            metavar="FILE",
            help="What is said of some of the images, as JSON by their names: {NAME: {points: [[x, y, id]], boxes: "
            "[[left, top, right, bottom, id]], ...}}; id 0 is: not this. With hints for all of them no example is "
            "needed.",
        ),
    ] = None,
    options: SegmentOptions = DEFAULTS,
    loading: LoadOptions = LOADING,
    pages: Annotated[
        bool,
        typer.Option("--pages", help="Segment every page of a TIFF and every frame of a DICOM file, as NAME_p001.png."),
    ] = False,
    batch_size: Annotated[
        str, typer.Option("--batch-size", metavar="auto|N", help="Images at a time. auto: as memory has room for.")
    ] = "auto",
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write NAME_overlay.jpg: the image under its coloured mask.")
    ] = False,
    save_confidence: Annotated[
        bool, typer.Option("--save-confidence", help="Also write NAME_confidence.png: grey, white where it is sure.")
    ] = False,
    per_tar: Annotated[
        int | None,
        typer.Option(
            "--per-tar",
            metavar="N",
            min=1,
            help="Write tars of the results of N images each, 000000.tar and so on, in place of single files.",
        ),
    ] = None,
    snap_colors: SnapColors = False,
    strict: Strict = False,
    format: Formats = None,
    instances: Instances = False,
    smallest: Smallest = 1,
    runner: Annotated[
        RunnerName,
        typer.Option(
            "--runner",
            help="local: one network in this process. ray: many, on this machine or, with --address, on a cluster.",
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Networks of --runner ray. Default: one for each GPU, or else for two CPU cores."
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="auto|HOST:PORT",
            help="The Ray cluster, which this machine belongs to, in place of a Ray that is started for this job.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            help="Go on where an earlier run of the same job was stopped or killed: what is done is left out, what "
            "failed is tried again. --no-resume does everything anew."
        ),
    ] = True,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep segmenting what arrives in the inputs, until Ctrl-C.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say how many images, how long, how much memory; write nothing."),
    ] = False,
) -> None:
    """Segment images by examples (--prompt, --prompts), by what was learned from them (--prompt-tensor), or both.

    Without an example, let another model mark some images by a text, and ours the others (--text, --prompter).

    Each image's mask becomes an indexed PNG of the same name, with the ids and colours of the examples' masks.
    Subfolders are kept. An image that cannot be read is skipped; report.json lists everything. A run that is stopped,
    or killed, goes on when the same command is given again.
    """
    from incontext.examples import open_context
    from incontext.folder import STDIN, plan, with_hints
    from incontext.folder.ray.workers import RayNetworks
    from incontext.hint_files import load_many
    from incontext.sources.find import read_list

    # What a user can get wrong is found before the weights are loaded.
    marking = marking_of(prompter, text, min_score, examples)
    marks_all = marking is not None and marking.count is None
    size = batch_size_of(batch_size)
    networks = RayNetworks(loading, workers, address, marking.prompting if marking is not None and marks_all else None)
    check_runner(runner, networks, dry_run=dry_run)
    if hints is not None and watch:
        raise ValueError("expected --hints for images that are there, got --watch as well; leave one out")
    said = {} if hints is None else load_many(hints)
    given = open_context(
        pairs_of(prompt), prompts, prompt_tensor or [], snap=snap_colors, needed=hints is None and marking is None
    )
    job = plan(
        inputs,
        out,
        overlay=overlay,
        confidence=save_confidence,
        prompt_files=given.pairs,
        leave_out=given.masks,
        listed=read_list(sys.stdin.buffer.read()) if STDIN in inputs else (),
        per_tar=per_tar,
        watch=watch,
        pages=pages,
    )
    job = replace(job, names=given.names)
    beside = formats_beside(job, format, instances=instances, smallest=smallest)
    context = given.context
    if marking is not None:
        refuse_unmarkable(marking, given, options, watch=watch)
        job, marked = mark_some(marking, job, loading, resume=resume, keep=not dry_run)
        context = (*context, *marked)
    if hints is not None:
        job = with_hints(job, said, {i for each in context for i in each.ids} or set(job.names))
    warn_of_many(len(context), options)
    run = partial(
        runner_of(runner, networks, dry_run=dry_run),
        job,
        context or None,
        batch_size=size,
        resume=resume,
        **options.keywords(),
    )
    if dry_run:
        print(*rehearsal_lines(job, rehearsed(run, job, watch=watch)), sep="\n")
    elif not carry_out(run, job, beside, watch=watch, strict=strict):
        raise typer.Exit(1)


def check_runner(runner: RunnerName, networks: "RayNetworks", *, dry_run: bool) -> None:
    """Refuse options that contradict the runner.

    Raises:
        ValueError: They do.
    """
    if runner == "local" and (networks.workers is not None or networks.address is not None):
        given = "--workers" if networks.workers is not None else "--address"
        raise ValueError(f"expected {given} with --runner ray only; add that, or leave it out")
    if runner == "ray" and dry_run:
        raise ValueError("expected --dry-run with --runner local, as it measures this process; leave --runner ray out")


def runner_of(runner: RunnerName, networks: "RayNetworks", *, dry_run: bool) -> "Callable[..., Any]":
    """Load what is needed and return what runs, or rehearses, a job: all three take the same arguments from here on."""
    if runner == "ray":
        from incontext.folder.ray.job import segment_on_ray

        return partial(segment_on_ray, networks)
    if networks.prompting is not None:
        from incontext.folder import rehearse_by_prompter, segment_by_prompter

        prompter = networks.prompting.open(networks.loading)
        return partial(rehearse_by_prompter if dry_run else segment_by_prompter, prompter)
    from incontext.engine import load_with
    from incontext.folder import rehearse, segment_folder

    return partial(rehearse if dry_run else segment_folder, load_with(networks.loading))


def rehearsed(run: "Callable[..., Rehearsal]", job: "FolderJob", *, watch: bool) -> "Rehearsal":
    """Measure a job.

    Raises:
        ValueError: It is also to be watched.
    """
    from incontext.folder import arrivals

    return run(arrivals=arrivals(job) if watch else None)


def carry_out(
    run: "Callable[..., FolderReport]", job: "FolderJob", beside: Beside, *, watch: bool, strict: bool = False
) -> bool:
    """Run a job, tell how it goes, write other formats beside its masks; whether nothing was lost.

    strict: the first thing that is lost ends it with a ValueError.

    Raises:
        typer.Exit: Ctrl-C ended it, with status 130.
    """
    from incontext.folder import arrivals

    if strict and are_missed(job.passed_over):
        raise ValueError(f"{passed_over_words(job.passed_over)} (--strict)")
    with ProgressLine("images", None if watch else len(job.queries)) as progress:
        told = _Listener(progress, job, strict=strict)
        if watch:
            progress.say("Watching; Ctrl-C ends it.")
        try:
            report = run(arrivals=arrivals(job) if watch else None, on_file=told.file, on_resume=told.earlier)
        except KeyboardInterrupt:
            told.stopped()
            raise typer.Exit(130) from None
    told.finished(report)
    lost = export_job(job, beside)
    parts = [counted(len(report.files), "image"), counted(report.done, "mask")]
    parts += [f"{report.failed} failed"] if report.failed else []
    parts += [passed_over_words(job.passed_over)] if job.passed_over else []
    print(", ".join(parts))
    return not lost and (watch or not (report.failed or are_missed(job.passed_over)))


class _Listener:
    """What a user reads while a job runs, and after it."""

    def __init__(self, progress: ProgressLine, job: "FolderJob", *, strict: bool) -> None:
        self._progress, self._job, self._strict = progress, job, strict
        self._has_noted = False
        self._done = 0

    def earlier(self, masks: int) -> None:
        """Count those that are done already."""
        self._done = masks
        self._progress.say(f"Going on: {counted(masks, 'mask')} of an earlier run in {self._job.outputs.where}.")

    def file(self, file: "FileReport") -> None:
        """Count one more."""
        self._done += 1
        if file.error is not None and self._strict:
            raise ValueError(f"{file.error} (--strict)")
        if file.error is not None:
            self._progress.say(f"Skipped: {file.error}")
        if file.note is not None and not self._has_noted:
            self._has_noted = True
            self._progress.say(f"Note: {file.note}; report.json says of which others this holds, too.")
        self._progress.update(self._done)

    def stopped(self) -> None:
        """Hear that the user wants no more."""
        of_all = f"{self._done} of {counted(len(self._job.queries), 'image')}"
        where = self._job.outputs.place("report.json")
        self._progress.say(f"Stopped after {of_all}; {where} lists them, and the same command goes on from there.")

    def finished(self, report: "FolderReport") -> None:
        """Print what came of it."""
        outputs = self._job.outputs
        tars = "" if outputs.per_tar is None else f"tars of {counted(outputs.per_tar, 'image')} in "
        parts = [f"{counted(report.done, 'mask')} in {tars}{outputs.where}"]
        if report.totals.empty:
            parts.append(f"{report.totals.empty} of them empty")
        if report.masks < report.done:
            parts.append(f"{report.masks} of them new" if report.masks else "none of them new")
        speed = f" ({report.images_per_second:.1f} images/s)" if report.masks else ""
        print(", ".join(parts) + speed)
        if report.failed:
            self._progress.say(
                f"{report.failed} of {len(report.files)} failed; {outputs.place(report.path.name)} says why."
            )


def rehearsal_lines(job: "FolderJob", trial: "Rehearsal") -> list[str]:
    """Say what a job would take, and what it would write."""
    rest = trial.queries - trial.before
    lines = [f"{counted(trial.queries, 'image')}, {trial.before} of them done: {rest} to segment."]
    lines += [f"Would skip: {failure.error}" for failure in (*job.skipped, *trial.failures)]
    if trial.seconds is not None and trial.seconds_each is not None:
        parts = ("reading", "network", "writing")
        means = (sum(getattr(each, part) for each in trial.measured) / len(trial.measured) for part in parts)
        told = ", ".join(f"{part} {mean:.3f} s" for part, mean in zip(parts, means, strict=True))
        lines += [
            f"Time: about {timedelta(seconds=round(trial.seconds))}, {trial.seconds_each:.3f} s an image",
            f"  ({told}; measured on {counted(len(trial.measured), 'image')}).",
        ]
    if trial.memory is not None and trial.disk is not None:
        device = f", and {trial.device_bytes / 1e9:.1f} GB on the device" if trial.device_bytes else ""
        lines.append(f"Memory: about {trial.memory / 1e9:.1f} GB{device}. Disk: about {trial.disk / 1e6:.1f} MB.")
    shown = [str(job.outputs.place(each)) for each in islice(job.outputs.files(q.name for q in job.queries), 3)]
    listed = ", ".join(shown[:2]) + (", ..." if len(shown) > 2 else "")
    return [*lines, f"Would write {listed} and {job.outputs.place('report.json')}. Nothing was written."]


def batch_size_of(text: str) -> BatchSize:
    """Read "auto", or a number of at least 1."""
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"expected --batch-size as auto or a number of at least 1, got {text!r}")
    return int(text)


def warn_of_many(count: int, options: SegmentOptions) -> None:
    """Warn of what so many prompts cost."""
    from incontext.examples import PromptWarning

    if count > _MANY_PROMPTS and options.ensemble != "spatial":
        warnings.warn(
            f"{count} prompts: an image takes {count // 2} times as long as with one, or longer; "
            "`incontext rank --top N` chooses the best few, and --ensemble spatial is quicker",
            PromptWarning,
            stacklevel=2,
        )
