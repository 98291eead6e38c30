"""`incontext train`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from incontext.cli.options import Device, app
from incontext.progress import ProgressLine


@app.command()
def train(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder for weights, state and log. A state in it is gone on from."),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DATA", help="Folders with images/ and masks/. None: rendered scenes only."),
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help='"default", or "smoke" to see in a minute that it works.')
    ] = "default",
    init: Annotated[
        str | None, typer.Option("--init", metavar="NAME|PATH", help="Weights to start from. Default: random.")
    ] = None,
    device: Device = "auto",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that make episodes.")] = 1,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Default: the recipe's.")] = None,
) -> None:
    """Train weights by in-context coloring. Stop with Ctrl-C; the same command goes on where the last state was saved.

    Of every set of 20 pictures or more, one in 20 is held out for validation.
    """
    from incontext.checkpoint import load_model, resolve
    from incontext.engine import choose_device
    from incontext.training import loop
    from incontext.training.episodes import hold_out, read_set
    from incontext.training.recipes import RECIPES

    if recipe not in RECIPES:
        raise ValueError(f"expected a recipe among {', '.join(RECIPES)}, got {recipe!r}")
    chosen = RECIPES[recipe] if seed is None else replace(RECIPES[recipe], seed=seed)
    first = None if init is None else load_model(resolve(init))
    if first is not None and first.config != chosen.model:
        raise ValueError(f"{init}: expected weights of the recipe's {chosen.model}, got {first.config}")
    sets = [read_set(folder) for folder in data or []]
    small = [each for each in sets if len(each.images) < 20]
    split = [hold_out(each) for each in sets if len(each.images) >= 20]
    with ProgressLine("steps", chosen.steps) as progress:

        def tell(state: loop.Progress) -> None:
            progress.update(state.step, f"loss {state.loss:.4f}, {state.episodes_per_second:.1f} episodes/s")
            if state.validation is not None:
                progress.say(f"Step {state.step}: validation mIoU {state.validation:.3f}")

        written = loop.train(
            chosen,
            [*small, *(kept for kept, _ in split)],
            out,
            held_out=[held for _, held in split if held.by_id],
            device=str(choose_device(device)),
            workers=workers,
            init=first,
            on_report=tell,
        )
    print(written)
