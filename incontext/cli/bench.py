"""`incontext bench`: how fast it is here."""

import time
from typing import Annotated

import typer

from incontext.cli.options import app, numbers, with_options
from incontext.options import DEFAULTS, LOADING, LoadOptions, SegmentOptions
from incontext.progress import ProgressLine


@app.command()
@with_options()
def bench(
    loading: LoadOptions = LOADING,
    options: SegmentOptions = DEFAULTS,
    shots: Annotated[
        str, typer.Option("--shots", metavar="N,...", help="How many examples; several with commas.")
    ] = "1",
    batch_size: Annotated[
        str, typer.Option("--batch-size", metavar="N,...", help="Images at a time; several with commas.")
    ] = "1",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the network first, which takes minutes.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="How long each figure may take, about.")] = 10.0,
) -> None:
    """Measure speed and memory on this machine: a table, and as the last line the same as JSON.

    Times are from 640 x 480 images in memory to their masks. Medians of repeated calls after one that warms up.
    """
    counts, sizes = numbers("--shots", shots), numbers("--batch-size", batch_size)

    from incontext.bench import bench as measure
    from incontext.engine import load_with

    start = time.perf_counter()
    segmenter = load_with(loading, compile=compile)
    loaded = time.perf_counter() - start
    with ProgressLine("rows", len(counts) * len(sizes)) as progress:
        done = 0

        def tell(_: object) -> None:
            nonlocal done
            done += 1
            progress.update(done)

        report = measure(
            segmenter,
            shots=counts,
            batch_sizes=sizes,
            seconds=seconds,
            load_seconds=loaded,
            on_row=tell,
            **options.keywords(),
        )
    print(report.to_markdown())
    print(report.to_json())
