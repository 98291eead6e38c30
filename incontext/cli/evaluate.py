"""`incontext evaluate`: scores on data with masks."""

import json
from pathlib import Path
from typing import Annotated

import typer

from incontext.cli.options import Device, Dtype, Side, Task, Weights, evaluate_app
from incontext.progress import ProgressLine


@evaluate_app.command("few-shot")
def evaluate_few_shot(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder with episodes.json and the sets it names.")],
    shots: Annotated[int, typer.Option("--shots", min=1, help="Prompts per query.")] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many episodes of each set.")] = None,
    weights: Weights = "default",
    device: Device = "auto",
    dtype: Dtype = "auto",
    task: Task = "instance",
    side: Side = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the scores as JSON to this file.")] = None,
) -> None:
    """Mean IoU on fixed episodes: a table on stdout."""
    from incontext.engine import load
    from incontext.evaluation.few_shot import evaluate
    from incontext.formats import whole_file

    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)  # before the work, so that it is not lost
    segmenter = load(weights, device=device, dtype=dtype)
    with ProgressLine("episodes", 0) as progress:
        report = evaluate(
            lambda query, prompts: segmenter.segment(query, prompts, task=task, side=side),
            data,
            shots=shots,
            limit=limit,
            on_episode=lambda done, total: progress.update(done, total=total),
        )
    print(report.to_markdown())
    if out is not None:
        document = {"segmenter": segmenter.describe(), "task": task, **json.loads(report.to_json())}
        with whole_file(out) as stream:
            stream.write(json.dumps(document, indent=1).encode() + b"\n")
