"""`incontext segment`."""

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from incontext.cli.convert import Formats, Instances, Smallest, export_job, formats_beside
from incontext.cli.options import (
    Device,
    Dtype,
    EngineName,
    Ensemble,
    MinPresence,
    PairsCommand,
    PromptTensors,
    Side,
    SnapColors,
    Task,
    Weights,
    app,
)
from incontext.progress import ProgressLine

if TYPE_CHECKING:
    from incontext.engine import BatchSize, Tiles
    from incontext.examples import OpenedPrompts
    from incontext.folder import FileReport, FolderJob, FolderReport, Rehearsal

_MANY_PROMPTS = 16


@app.command(cls=PairsCommand)
def segment(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Folders, with all their subfolders; pictures; tars of pictures; patterns in quotes, such as "
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
    prompt: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompt",
            metavar="IMAGE MASK",
            help="An example: a picture, and a mask of what to find in it, or the annotation file that has it (COCO, "
            "LabelMe, ...). May be given several times.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FOLDER|FILE",
            help="More examples: a folder with images/ and masks/, files of the same names, or with NAME_mask.png "
            "beside NAME.jpg; annotations (COCO, YOLO, LabelMe, CVAT, Label Studio, VOC); or a context file, as "
            "`incontext rank --top` writes it.",
        ),
    ] = None,
    prompt_tensor: PromptTensors = None,
    ensemble: Ensemble = "auto",
    weights: Weights = "default",
    device: Device = "auto",
    dtype: Dtype = "auto",
    task: Task = "instance",
    side: Side = None,
    min_presence: MinPresence = None,
    tiles: Annotated[
        str | None,
        typer.Option(
            "--tiles",
            metavar="auto|PIXELS",
            help="Segment large pictures in overlapping windows of so many pixels, by examples cut to such windows, so "
            "that small things are seen. auto: by the size of what the examples mark.",
        ),
    ] = None,
    refine: Annotated[bool, typer.Option("--refine", help="Let edges follow those of the photograph.")] = False,
    pages: Annotated[
        bool,
        typer.Option("--pages", help="Segment every page of a TIFF and every frame of a DICOM file, as NAME_p001.png."),
    ] = False,
    batch_size: Annotated[
        str, typer.Option("--batch-size", metavar="auto|N", help="Pictures at a time. auto: as memory has room for.")
    ] = "auto",
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write NAME_overlay.jpg: the picture under its coloured mask.")
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
            help="Write tars of the results of N pictures each, 000000.tar and so on, in place of single files.",
        ),
    ] = None,
    snap_colors: SnapColors = False,
    format: Formats = None,
    instances: Instances = False,
    smallest: Smallest = 1,
    engine: Annotated[
        EngineName,
        typer.Option(
            "--engine",
            help="local: one network in this process. ray: many, on this machine or, with --address, on a cluster.",
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Networks of --engine ray. Default: one for each GPU, or else for two CPU cores."
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
        typer.Option("--dry-run", help="Say how many pictures, how long, how much memory; write nothing."),
    ] = False,
) -> None:
    """Segment pictures by examples (--prompt, --prompts), by what was learned from them (--prompt-tensor), or both.

    Each picture's mask becomes an indexed PNG of the same name, with the ids and colours of the examples' masks.
    Subfolders are kept. A picture that cannot be read is skipped; report.json lists everything. A run that is stopped,
    or killed, goes on when the same command is given again.
    """
    from incontext.examples import OpenedPrompts, PromptFiles, gather, open_prompts
    from incontext.folder import STDIN, arrivals, plan, rehearse, segment_folder
    from incontext.prompt_tensor import PromptTensor
    from incontext.sources.find import read_list
    from incontext.types import Prompt

    # What a user can get wrong is found before the weights are loaded.
    size, windows = _batch_size(batch_size), _tiles(tiles)
    if watch and dry_run:
        raise ValueError("expected --watch or --dry-run, got both; leave one out")
    _refuse_engine(engine, dry_run=dry_run, workers=workers, address=address)
    paths = prompt or []
    _refuse_remote_prompts([*paths, *([] if prompts is None else [prompts])])
    keys = [PromptTensor.load(path) for path in prompt_tensor or []]
    files, opened = PromptFiles(()), OpenedPrompts((), (), ())
    if paths or prompts is not None or not keys:
        files = gather(zip(paths[::2], paths[1::2], strict=True), prompts)
        opened = open_prompts(files, snap=snap_colors)
    job = plan(
        inputs,
        out,
        overlay=overlay,
        confidence=save_confidence,
        prompt_files=opened.pairs,
        leave_out=files.masks,
        listed=read_list(sys.stdin.buffer.read()) if STDIN in inputs else (),
        per_tar=per_tar,
        watch=watch,
        pages=pages,
    )
    job = replace(job, names=opened.names)
    formats = formats_beside(job, format, asked=instances or smallest > 1)
    _tell_about(opened, ensemble)

    context: list[Prompt | PromptTensor] = [*opened.prompts, *keys]
    run: Callable[..., FolderReport]
    if engine == "ray":
        from incontext.folder.ray.job import segment_on_ray

        run = partial(
            segment_on_ray,
            weights=weights,
            device=device,
            dtype=dtype,
            min_presence=min_presence,
            workers=workers,
            address=address,
        )
    else:
        from incontext.engine import load

        segmenter = load(weights, device=device, dtype=dtype, min_presence=min_presence)
        run = partial(segment_folder, segmenter)
    if dry_run:
        trial = rehearse(
            segmenter,
            job,
            context,
            ensemble=ensemble,
            task=task,
            side=side,
            tiles=windows,
            refine=refine,
            resume=resume,
        )
        _tell_rehearsal(job, trial)
        return
    with ProgressLine("images", None if watch else len(job.queries)) as progress:
        told = _Told(progress, job)
        if watch:
            progress.say("Watching; Ctrl-C ends it.")
        try:
            report = run(
                job,
                context,
                ensemble=ensemble,
                task=task,
                side=side,
                tiles=windows,
                refine=refine,
                batch_size=size,
                resume=resume,
                arrivals=arrivals(job) if watch else None,
                on_file=told.file,
                on_resume=told.earlier,
            )
        except KeyboardInterrupt:
            told.stopped()
            raise typer.Exit(130) from None
    told.finished(report)
    lost = export_job(job, formats, instances=instances, smallest=smallest)
    if lost or (report.failed and not watch):
        raise typer.Exit(1)


class _Told:
    """What a user reads while a job runs, and after it."""

    def __init__(self, progress: ProgressLine, job: "FolderJob") -> None:
        self._progress, self._job = progress, job
        self._done = 0

    def earlier(self, masks: int) -> None:
        """So many are done already."""
        self._done = masks
        self._progress.say(f"Going on: {_count(masks, 'mask')} of an earlier run in {self._job.outputs.where}.")

    def file(self, file: "FileReport") -> None:
        """One more is done."""
        self._done += 1
        if file.error is not None:
            self._progress.say(f"Skipped: {file.error}")
        self._progress.update(self._done)

    def stopped(self) -> None:
        """The user wants no more."""
        of_all = f"{self._done} of {_count(len(self._job.queries), 'picture')}"
        where = self._job.outputs.place("report.json")
        self._progress.say(f"Stopped after {of_all}; {where} lists them, and the same command goes on from there.")

    def finished(self, report: "FolderReport") -> None:
        """What came of it."""
        outputs = self._job.outputs
        tars = "" if outputs.per_tar is None else f"tars of {_count(outputs.per_tar, 'picture')} in "
        parts = [f"{_count(report.done, 'mask')} in {tars}{outputs.where}"]
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


def _tell_rehearsal(job: "FolderJob", trial: "Rehearsal") -> None:
    """What a job would take, and what it would write."""
    rest = trial.queries - trial.before
    print(f"{_count(trial.queries, 'picture')}, {trial.before} of them done: {rest} to segment.")
    for failure in (*job.skipped, *trial.failures):
        print(f"Would skip: {failure.error}")
    if trial.seconds is not None and trial.seconds_each is not None:
        parts = ("reading", "network", "writing")
        means = (sum(getattr(each, part) for each in trial.measured) / len(trial.measured) for part in parts)
        told = ", ".join(f"{part} {mean:.3f} s" for part, mean in zip(parts, means, strict=True))
        print(f"Time: about {timedelta(seconds=round(trial.seconds))}, {trial.seconds_each:.3f} s a picture")
        print(f"  ({told}; measured on {_count(len(trial.measured), 'picture')}).")
    if trial.memory is not None and trial.disk is not None:
        device = f", and {trial.device_bytes / 1e9:.1f} GB on the device" if trial.device_bytes else ""
        print(f"Memory: about {trial.memory / 1e9:.1f} GB{device}. Disk: about {trial.disk / 1e6:.1f} MB.")
    shown = [str(job.outputs.place(each)) for each in islice(job.outputs.files(q.name for q in job.queries), 3)]
    listed = ", ".join(shown[:2]) + (", ..." if len(shown) > 2 else "")
    print(f"Would write {listed} and {job.outputs.place('report.json')}. Nothing was written.")


def _refuse_engine(engine: EngineName, *, dry_run: bool, workers: int | None, address: str | None) -> None:
    if engine == "local" and (workers is not None or address is not None):
        given = "--workers" if workers is not None else "--address"
        raise ValueError(f"expected {given} with --engine ray only; add that, or leave it out")
    if engine == "ray" and dry_run:
        raise ValueError("expected --dry-run with --engine local, as it measures this process; leave --engine ray out")


def _refuse_remote_prompts(paths: list[Path]) -> None:
    for path in paths:
        if path.parts and len(path.parts[0]) > 2 and path.parts[0].endswith(":"):
            raise ValueError(f"{path}: expected local files as prompts, got an address; copy them here first")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _batch_size(text: str) -> "BatchSize":
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"expected --batch-size as auto or a number of at least 1, got {text!r}")
    return int(text)


def _tiles(text: str | None) -> "Tiles":
    from incontext.canvas.windows import LEAST_TILES

    if text is None:
        return None
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text) >= LEAST_TILES):
        raise ValueError(f"expected --tiles as auto or a number of at least {LEAST_TILES} pixels, got {text!r}")
    return int(text)


def _tell_about(opened: "OpenedPrompts", ensemble: str) -> None:
    """What a user should know of the prompts before the network starts."""
    from incontext.examples import PromptWarning

    tell_about_empty(opened)
    if (count := len(opened.prompts)) > _MANY_PROMPTS and ensemble != "spatial":
        warnings.warn(
            f"{count} prompts: a picture takes {count // 2} times as long as with one, or longer; "
            "`incontext rank --top N` chooses the best few, and --ensemble spatial is quicker",
            PromptWarning,
            stacklevel=2,
        )


def tell_about_empty(opened: "OpenedPrompts") -> None:
    """Which of the prompts are left out."""
    from incontext.examples.pairs import PromptWarning, some_of

    if opened.empty:
        masks = some_of([mask for _, mask in opened.empty])
        what = (
            "1 prompt whose mask marks" if len(opened.empty) == 1 else f"{len(opened.empty)} prompts whose masks mark"
        )
        warnings.warn(f"left out {what} nothing: {masks}", PromptWarning, stacklevel=3)
