"""`incontext evaluate clicks`: how many clicks things take."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from incontext.cli.options import OnlySets, ReportFolder, evaluate_app, names, numbers, strictly, with_options
from incontext.identity import about, settings_of
from incontext.options import DEFAULTS, LOADING, LoadOptions, SegmentOptions
from incontext.progress import ProgressLine
from incontext.words import did_you_mean

if TYPE_CHECKING:
    from incontext.evaluation.clicks import ClickMethod

LayoutName = Literal["auto", "sets", "video", "grabcut", "berkeley"]


@evaluate_app.command("clicks")
@strictly
@with_options(only=("task", "side", "refine"))
def evaluate_clicks(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Sets as `incontext evaluate few-shot` takes them; videos as `incontext evaluate video` does; GrabCut "
            "(data_GT/, boundary_GT/) or Berkeley (images/, masks/) as RITM lays them out.",
        ),
    ],
    layout: Annotated[
        LayoutName, typer.Option("--layout", help="Which of these. auto: by the folders; Berkeley has to be said.")
    ] = "auto",
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            metavar="NAME,...",
            help='"with an example", "alone", and baselines: "disc", "random walker" (needs scikit-image), "GrabCut" '
            "(needs OpenCV). Default: all that there are.",
        ),
    ] = None,
    clicks: Annotated[int, typer.Option("--clicks", min=1, help="On a thing at most.")] = 20,
    iou_after: Annotated[
        str, typer.Option("--iou-after", metavar="N,...", help="Clicks after which the mean IoU is told.")
    ] = "1,3,5,10",
    sets: OnlySets = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many things of each set.")] = None,
    frames: Annotated[int, typer.Option("--frames", min=1, help="Of each object of a video.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of drawn episodes.")] = 0,
    options: SegmentOptions = DEFAULTS,
    loading: LoadOptions = LOADING,
    out: ReportFolder = None,
) -> None:
    """Count clicks until masks are good (NoC@85, NoC@90), and score IoU after some, as RITM does: a table on stdout.

    With an example of the thing in another image, and alone; beside baselines that have learnt nothing.
    """
    counts = sorted(numbers("--iou-after", iou_after))
    asked = None if methods is None else names(methods)

    from incontext.engine import load_with
    from incontext.evaluation.clicks import ClickJournal, read_things
    from incontext.evaluation.clicks import evaluate_clicks as evaluate
    from incontext.evaluation.clicks.network import network_methods
    from incontext.evaluation.pages.click_report import to_text, write_report
    from incontext.evaluation.workers import shared_processors

    _chosen(asked, [])  # what a user can get wrong is found before the weights are loaded
    found = read_things(
        data, layout=layout, names=None if sets is None else names(sets), limit=limit, frames=frames, seed=seed
    )
    segmenter = load_with(loading)
    chosen = _chosen(asked, network_methods(segmenter, options))
    if not any(each.has_example for each in found):
        chosen = [each for each in chosen if not each.uses_example]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    settings = {**settings_of(segmenter, options), "clicks": clicks, "counts": counts}
    with (
        shared_processors(segmenter) as workers,
        nullcontext() if out is None else ClickJournal(out / "clicks.jsonl", settings) as journal,
        ProgressLine("things", len(found)) as progress,
    ):
        report = evaluate(
            chosen,
            found,
            most=clicks,
            counts=counts,
            workers=workers,
            journal=journal,
            on_thing=lambda done, _: progress.update(done),
        )
    print(to_text(report))
    if out is not None:
        write_report(out, report, {"data": str(data), **about(segmenter, options)})


def _chosen(asked: list[str] | None, network: "list[ClickMethod]") -> "list[ClickMethod]":
    from incontext.evaluation.clicks.baselines import BASELINES, installed
    from incontext.evaluation.clicks.network import ALONE, WITH_EXAMPLE

    there = [*network, *installed()]
    if asked is None:
        return there
    known = [WITH_EXAMPLE, ALONE, *(each.name for each in BASELINES)]
    if not set(asked) <= set(known) or len(set(asked)) < len(asked):
        told = ", ".join(asked) + did_you_mean(asked, known)
        raise ValueError(f"expected --methods out of {', '.join(known)}, each once; got {told}")
    if missing := set(asked) & ({each.name for each in BASELINES} - {each.name for each in there}):
        told = ", ".join(sorted(missing))
        raise ValueError(f"expected the library of {told} to be installed; run: pip install 'incontext[bench]'")
    return [each for each in there if each.name in asked]
