"""`incontext demo`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from incontext.cli.options import app, with_options
from incontext.options import LOADING, LoadOptions


@app.command()
@with_options()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for images and masks.")] = Path("demo-output"),
    loading: LoadOptions = LOADING,
) -> None:
    """Segment photographs that come with scikit-image by examples that we drew, and show the commands that do it."""
    from incontext.demo import find_photographs, run

    find_photographs()

    from incontext.engine import load_with

    start = time.perf_counter()
    segmenter = load_with(loading)
    print(f"{loading.weights}: loaded in {time.perf_counter() - start:.1f} s")
    report = run(segmenter, out, on_job=lambda job: print(job.describe()))
    print(f"All in one image: {report.sheet}")
    if any(job.result.failed for job in report.jobs):
        raise typer.Exit(1)
