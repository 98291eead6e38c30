"""`incontext segment` and `incontext demo`."""

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from incontext.cli.options import (
    Device,
    Dtype,
    Ensemble,
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
    from incontext.engine import BatchSize
    from incontext.folder import OpenedPrompts

_MANY_PROMPTS = 16


@app.command(cls=PairsCommand)
def segment(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            help="Folders, with all their subfolders; pictures; or patterns in quotes, such as 'PHOTOS/**/*.jpg'.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for masks and report.json; made if need be.")],
    prompt: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompt",
            metavar="IMAGE MASK",
            help="An example: a picture, and a mask of what to find in it. May be given several times.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FOLDER|FILE",
            help="More examples: a folder with images/ and masks/, files of the same names, or with NAME_mask.png "
            "beside NAME.jpg; or a context file, as `incontext rank --top` writes it.",
        ),
    ] = None,
    prompt_tensor: PromptTensors = None,
    ensemble: Ensemble = "auto",
    weights: Weights = "default",
    device: Device = "auto",
    dtype: Dtype = "auto",
    task: Task = "instance",
    side: Side = None,
    batch_size: Annotated[
        str, typer.Option("--batch-size", metavar="auto|N", help="Pictures at a time. auto: as memory has room for.")
    ] = "auto",
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write NAME_overlay.jpg: the picture under its coloured mask.")
    ] = False,
    save_confidence: Annotated[
        bool, typer.Option("--save-confidence", help="Also write NAME_confidence.png: grey, white where it is sure.")
    ] = False,
    snap_colors: SnapColors = False,
) -> None:
    """Segment pictures by examples (--prompt, --prompts), by what was learned from them (--prompt-tensor), or both.

    Each picture's mask becomes an indexed PNG of the same name, with the ids and colours of the examples' masks.
    Subfolders are kept. A picture that cannot be read is skipped; report.json lists everything.
    """
    from incontext.folder import (
        REPORT_NAME,
        FileReport,
        OpenedPrompts,
        PromptFiles,
        gather,
        open_prompts,
        plan,
        segment_folder,
    )
    from incontext.prompt_tensor import PromptTensor

    # What a user can get wrong is found before the weights are loaded.
    size = _batch_size(batch_size)
    paths = prompt or []
    keys = [PromptTensor.load(path) for path in prompt_tensor or []]
    files, opened = PromptFiles(()), OpenedPrompts((), (), ())
    if paths or prompts is not None or not keys:
        files = gather(zip(paths[::2], paths[1::2], strict=True), prompts)
        opened = open_prompts(files, snap=snap_colors)
    job = plan(
        inputs, out, overlay=overlay, confidence=save_confidence, prompt_files=opened.pairs, leave_out=files.masks
    )
    _tell_about(opened, ensemble)

    from incontext.engine import load

    segmenter = load(weights, device=device, dtype=dtype)
    report_path, told = out / REPORT_NAME, 0
    with ProgressLine("images", len(job.queries)) as progress:

        def tell(file: FileReport) -> None:
            nonlocal told
            told += 1
            if file.error is not None:
                progress.say(f"Skipped: {file.error}")
            progress.update(told)

        try:
            report = segment_folder(
                segmenter,
                job,
                [*opened.prompts, *keys],
                ensemble=ensemble,
                task=task,
                side=side,
                batch_size=size,
                on_file=tell,
            )
        except KeyboardInterrupt:
            progress.say(f"Stopped after {told} of {len(job.queries)} pictures; {report_path} lists them.")
            raise typer.Exit(130) from None
    empty = sum(file.is_empty is True for file in report.files)
    found_nothing = f", {empty} of them empty" if empty else ""
    print(f"{report.done} masks in {out}{found_nothing} ({report.images_per_second:.1f} images/s)")
    if report.failures:
        progress.say(f"{len(report.failures)} of {len(report.files)} failed; {report_path} says why.")
        raise typer.Exit(1)


def _batch_size(text: str) -> "BatchSize":
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"expected --batch-size as auto or a number of at least 1, got {text!r}")
    return int(text)


def _tell_about(opened: "OpenedPrompts", ensemble: str) -> None:
    """What a user should know of the prompts before the network starts."""
    from incontext.folder import PromptWarning

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
    from incontext.folder import PromptWarning
    from incontext.folder.pairs import some_of

    if opened.empty:
        masks = some_of([mask for _, mask in opened.empty])
        what = (
            "1 prompt whose mask marks" if len(opened.empty) == 1 else f"{len(opened.empty)} prompts whose masks mark"
        )
        warnings.warn(f"left out {what} nothing: {masks}", PromptWarning, stacklevel=3)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for pictures and masks.")] = Path("demo-output"),
    weights: Weights = "default",
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Segment photographs that come with scikit-image by examples that we drew, and show the commands that do it."""
    from incontext.demo import find_photographs, run

    find_photographs()

    from incontext.engine import load

    start = time.perf_counter()
    segmenter = load(weights, device=device, dtype=dtype)
    print(f"{weights}: loaded in {time.perf_counter() - start:.1f} s")
    report = run(segmenter, out, on_job=lambda job: print(job.describe()))
    print(f"All in one picture: {report.sheet}")
    if any(job.result.failures for job in report.jobs):
        raise typer.Exit(1)
