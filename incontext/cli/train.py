"""`incontext train`."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from incontext.cli.options import Device, app
from incontext.progress import ProgressLine

if TYPE_CHECKING:
    from incontext.network.model import SegGPT
    from incontext.training.recipes import Recipe

TrainingDtype = Literal["bfloat16", "float32"]


@app.command()
def train(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder for weights, state and log. A state in it is gone on from."),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DATA",
            help="Folders with images/ and masks/, or annotations (COCO, YOLO, ...). None: rendered scenes only.",
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help='"default"; "smoke", to see in a minute that it works; "presence", for the presence head alone of '
            'weights that are there (--init); "large".',
        ),
    ] = "default",
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="NAME|PATH|timm:NAME",
            help="Weights to start from: ours, of any side and depth, or the encoder of a plain ViT of timm, "
            "whose sizes the model then takes. Default: random.",
        ),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[TrainingDtype, typer.Option("--dtype", help="Of the network's products.")] = "bfloat16",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that make episodes.")] = 1,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Default: the recipe's.")] = None,
    save_minutes: Annotated[
        float, typer.Option("--save-minutes", min=0, help="How often the state is saved; every 500 steps, too.")
    ] = 5.0,
    state_mib: Annotated[
        int | None,
        typer.Option(
            "--state-mib",
            min=1,
            max=60,
            help="Save the state in files of at most so many MiB, rounded to 16 bits, 60 MiB in all.",
        ),
    ] = None,
    shard: Annotated[
        bool,
        typer.Option(
            "--shard",
            help="Under torchrun: each process holds a part of weights, average and optimizer state (FSDP2), for "
            "networks of which not each can hold all.",
        ),
    ] = False,
) -> None:
    """Train weights by in-context coloring. Stop with Ctrl-C; the same command goes on where the last state was saved.

    Of every set of 20 pictures or more, one in 20 is held out for validation. Under `torchrun -m incontext train ...`
    the processes share every batch, and the weights come out as from one.
    """
    from incontext.network.devices import choose_device, keep_freed_memory
    from incontext.training import loop
    from incontext.training.parallel.processes import joined, team_device
    from incontext.training.parallel.slices import Slices
    from incontext.training.recipes import RECIPES
    from incontext.training.sets import hold_out, read_set

    if recipe not in RECIPES:
        raise ValueError(f"expected a recipe among {', '.join(RECIPES)}, got {recipe!r}")
    chosen = RECIPES[recipe] if seed is None else replace(RECIPES[recipe], seed=seed)
    keep_freed_memory()
    used = str(choose_device(team_device(device)))
    chosen, first, told = _start(init, chosen, out)
    largest = max(stage.side for stage in chosen.stages)
    kept, held = hold_out(read_set(folder, shorter_side=max(256, largest)) for folder in data or [])
    with joined(used) as team, ExitStack() as stack:
        # Only process 0 tells anything.
        progress = stack.enter_context(ProgressLine("steps", chosen.steps)) if team.rank == 0 else None
        if progress is not None and told:
            progress.say(told)

        def tell(state: loop.Progress) -> None:
            if progress is None:
                return
            progress.update(state.step, f"loss {state.loss:.4f}, {state.episodes_per_second:.1f} episodes/s")
            if state.validation is not None:
                progress.say(f"Step {state.step}: validation mIoU {state.validation:.3f}")

        written = loop.train(
            chosen,
            kept,
            out,
            held_out=held,
            device=used,
            workers=workers,
            dtype=dtype,
            save_minutes=save_minutes,
            slices=None if state_mib is None else Slices(state_mib),
            init=first,
            team=team,
            sharded=shard,
            on_report=tell,
        )
    if team.rank == 0:
        print(written)


def _start(init: str | None, recipe: "Recipe", out: Path) -> "tuple[Recipe, SegGPT | None, str]":
    """The recipe, whose model follows a ViT; the weights to start from; what to tell about them."""
    if recipe.only_presence and (init is None or init.startswith("timm:")):
        raise ValueError("expected --init with weights whose network is to get a presence head; --init default")
    if init is None:
        return recipe, None, ""
    from incontext.network.checkpoint import load_model, resolve
    from incontext.training.start.vit import from_timm
    from incontext.training.start.warm import start_from

    if init.startswith("timm:"):
        going_on = (out / "state.pt").exists() or (out / "state" / "index.json").exists()
        model = from_timm(init.removeprefix("timm:"), recipe.model, pretrained=not going_on, seed=recipe.seed)
        c = model.config
        told = f"The model follows {init}: width {c.width}, {c.heads} heads, {c.depth} blocks, patch {c.patch}."
        return recipe.with_model(c), model, f"{told} Tokens and decoder are fresh."
    loaded = load_model(resolve(init))
    if recipe.only_presence:
        recipe = recipe.with_model(replace(loaded.config, presence=recipe.model.presence))
    try:
        model, left = start_from(loaded, recipe.model, seed=recipe.seed)
    except ValueError as error:
        raise ValueError(f"{init}: {error}") from error
    return recipe, model, f"Fresh, as {init} has no counterpart: {', '.join(left)}" if left else ""
