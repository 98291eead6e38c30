"""`incontext segment` and `incontext demo`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from incontext.cli.options import Device, Dtype, Side, Task, Weights, app
from incontext.progress import ProgressLine


@app.command()
def segment(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            help="Folders, with all their subfolders; pictures; or patterns in quotes, such as 'PHOTOS/**/*.jpg'.",
        ),
    ],
    prompt: Annotated[
        tuple[Path, Path],
        typer.Option(
            "--prompt", metavar="IMAGE MASK", help="The example: a picture, and a mask of what to find in it."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for masks and report.json; made if need be.")],
    weights: Weights = "default",
    device: Device = "auto",
    dtype: Dtype = "auto",
    task: Task = "instance",
    side: Side = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Pictures at a time. Default: 8 on CUDA, else 1.")
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write NAME_overlay.jpg: the picture under its coloured mask.")
    ] = False,
    save_confidence: Annotated[
        bool, typer.Option("--save-confidence", help="Also write NAME_confidence.png: grey, white where it is sure.")
    ] = False,
    snap_colors: Annotated[
        bool, typer.Option("--snap-colors", help="Give each stray colour of the prompt's mask the nearest main colour.")
    ] = False,
) -> None:
    """Segment pictures by one example.

    Each picture's mask becomes an indexed PNG of the same name, with the ids and colours of the example's mask.
    Subfolders are kept. A picture that cannot be read is skipped; report.json lists everything.
    """
    from incontext.folder import REPORT_NAME, FileReport, plan, segment_folder
    from incontext.types import Prompt

    # What a user can get wrong is found before the weights are loaded.
    context = Prompt.open(*prompt, snap=snap_colors)
    job = plan(inputs, out, overlay=overlay, confidence=save_confidence, prompt_files=[prompt])

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
            report = segment_folder(segmenter, job, context, task=task, side=side, batch_size=batch_size, on_file=tell)
        except KeyboardInterrupt:
            progress.say(f"Stopped after {told} of {len(job.queries)} pictures; {report_path} lists them.")
            raise typer.Exit(130) from None
    empty = sum(file.is_empty is True for file in report.files)
    found_nothing = f", {empty} of them empty" if empty else ""
    print(f"{report.done} masks in {out}{found_nothing} ({report.images_per_second:.1f} images/s)")
    if report.failures:
        progress.say(f"{len(report.failures)} of {len(report.files)} failed; {report_path} says why.")
        raise typer.Exit(1)


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
