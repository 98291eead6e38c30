"""`incontext backbone`: second opinions, and what they are worth."""

from pathlib import Path
from typing import Annotated

import typer

from incontext.cli.options import backbone_app, names, numbers, with_options
from incontext.options import LOADING, LoadOptions
from incontext.progress import ProgressLine

Name = Annotated[str, typer.Argument(metavar="NAME|PATH", help="As --backbone takes it.")]


@backbone_app.command("info")
def backbone_info(name: Name) -> None:
    """Show what is in a backbone, and what its votes count. Nothing is downloaded."""
    from incontext.matching.voter import open_voter
    from incontext.network.devices import choose_device

    voter = open_voter(name, choose_device("cpu"))
    rows = {**voter.describe(), **voter.calibration.origin}
    for title, value in rows.items():
        print(f"{title.removeprefix('backbone_').replace('_', ' ') + ':':18} {value}")


@backbone_app.command("calibrate")
@with_options(without=("min_presence", "backbone"))
def backbone_calibrate(
    name: Name,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Labelled images that the weights did not learn from: a folder with images/ and masks/, files of "
            "the same names, or a folder of such folders.",
        ),
    ],
    shots: Annotated[str, typer.Option("--shots", metavar="N,...", help="Prompts per query.")] = "1,4",
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Queries of each set.")] = 12,
    sets: Annotated[str | None, typer.Option("--sets", metavar="NAME,...", help="Only these sets.")] = None,
    every: Annotated[
        int,
        typer.Option("--every", min=1, help="Of each set, every N-th image only, as `train` holds them out: 20."),
    ] = 1,
    whole: Annotated[
        str, typer.Option("--whole", metavar="NAME,...", help="Sets of which, all the same, every image serves.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the episodes that are drawn.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where to keep the numbers. Default: this user's own file."),
    ] = None,
    loading: LoadOptions = LOADING,
) -> None:
    """Find what a backbone's votes count beside the network's, once for all uses, and keep it.

    The numbers are kept under the SHA-256 of the backbone's weights, and found there whenever it is used. Never do this
    on images that anything is to be scored on.
    """
    counts = sorted(numbers("--shots", shots))

    from incontext.engine import load_with
    from incontext.evaluation.calibration import collect, fit, held_out_sets
    from incontext.matching.calibration import keep
    from incontext.matching.voter import open_voter

    found = held_out_sets(
        data,
        prompts=max(counts),
        episodes=episodes,
        every=every,
        whole=names(whole) if whole else (),
        names=None if sets is None else names(sets),
        seed=seed,
    )
    segmenter = load_with(loading)
    voter = open_voter(name, segmenter.device)
    with ProgressLine("episodes", sum(len(each.episodes) for each in found)) as progress:
        opinions = collect(segmenter, voter, found, shots=counts, on_episode=progress.update)
    about = {"sets": [each.name for each in found], "episodes": episodes, "every": every, "seed": seed}
    made = fit(opinions, voter, segmenter, about=about)
    path = keep(made, out)
    print(
        f"{voter.backbone.name}: {made.prototypes:g} by prototypes, {made.neighbours:g} by neighbours; kept in {path}"
    )
    for count in map(str, counts):
        alone, both = (made.origin[f"mean_iou_{kind}"][count] for kind in ("alone", "both"))
        print(f"mean IoU at {count} shot{'' if count == '1' else 's'}: {alone:.3f} alone, {both:.3f} with it")
    if made.origin["presence_auc"]:
        areas = made.origin["presence_auc"]
        print(f"presence, area under the curve: {areas['alone']:.3f} alone, {areas['both']:.3f} with it")
