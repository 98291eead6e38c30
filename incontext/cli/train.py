"""`incontext train`."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from incontext.cli.options import Device, app
from incontext.progress import ProgressLine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incontext.matching.backbone import Backbone
    from incontext.network.model import SegGPT
    from incontext.training.features import Targets
    from incontext.training.parallel.processes import Team
    from incontext.training.recipes import Recipe
    from incontext.training.sets import ImageSet

TrainingDtype = Literal["auto", "bfloat16", "float32"]
_WITHOUT_MASKS = 0.2  # share of the episodes for images without masks, where the recipe has none


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
            metavar="NAME|FILE",
            help='"default"; "smoke", to see in a minute that it works; "presence", for the presence head alone of '
            'weights that are there (--init); "large"; or a JSON file such as weights/recipe.json.',
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
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="timm:NAME|FOLDER|efficientnet-lite2",
            help="A network whose features are learned beside masks: of timm, which downloads it; a folder that timm "
            "saved; or the one in the extra train-teacher.",
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option("--features", help="Where a teacher's features are kept. Default: OUT/features."),
    ] = None,
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option("--unlabelled", help="A folder of images without masks, for the teacher. May be given again."),
    ] = None,
    unseen: Annotated[
        list[Path] | None,
        typer.Option("--unseen", help="Data like DATA of which nothing is learned, to judge by. May be given again."),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        TrainingDtype,
        typer.Option("--dtype", help="Of the products. auto: bfloat16 where the hardware multiplies it, else float32."),
    ] = "auto",
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
    from incontext.matching.backbone import open_backbone
    from incontext.network.devices import choose_device, keep_freed_memory
    from incontext.training import loop
    from incontext.training.parallel.processes import joined, team_device
    from incontext.training.parallel.slices import Slices
    from incontext.training.recipes import Recipe
    from incontext.training.sets import hold_out, read_photographs, read_set

    chosen = Recipe.open(recipe)
    if seed is not None:
        chosen = replace(chosen, seed=seed)
    keep_freed_memory()
    used = str(choose_device(team_device(device)))
    chosen, first, told = _start(init, chosen, out)
    chosen = _taught(chosen, teacher, unlabelled or [])
    backbone = None if chosen.teaching is None else open_backbone(chosen.teaching.name, fetch=True)
    shorter = max(256, *(stage.side for stage in chosen.stages), 0 if backbone is None else backbone.side)
    kept, held = hold_out(read_set(folder, shorter_side=shorter) for folder in data or [])
    kept += [read_photographs(folder, shorter_side=shorter) for folder in unlabelled or []]
    judging = [read_set(folder, shorter_side=shorter) for folder in unseen or []]
    with joined(used) as team, ExitStack() as stack:
        targets = None
        if backbone is not None and chosen.teaching is not None:
            targets = _targets(
                backbone, chosen.teaching.dims_of(backbone.channels), kept, features or out / "features", team
            )
        # Only process 0 tells anything.
        progress = stack.enter_context(ProgressLine("steps", chosen.steps)) if team.rank == 0 else None
        if progress is not None and told:
            progress.say(told)

        def say(precision: str) -> None:
            if progress is not None:
                progress.say(precision[0].upper() + precision[1:])

        def tell(state: loop.Progress) -> None:
            if progress is None:
                return
            progress.update(state.step, f"loss {state.loss:.4f}, {state.episodes_per_second:.1f} episodes/s")
            if state.validation is not None:
                progress.say(f"Step {state.step}: validation mIoU {state.validation:.3f}")
            if state.unseen is not None:
                progress.say(f"Step {state.step}: mIoU {state.unseen:.3f} on sets of which nothing is learned")

        written = loop.train(
            chosen,
            kept,
            out,
            held_out=held,
            unseen=judging,
            targets=targets,
            device=used,
            workers=workers,
            dtype=dtype,
            save_minutes=save_minutes,
            slices=None if state_mib is None else Slices(state_mib),
            init=first,
            team=team,
            sharded=shard,
            on_start=say,
            on_report=tell,
        )
    if team.rank == 0:
        print(written)


def _taught(recipe: "Recipe", teacher: str | None, unlabelled: "Sequence[Path]") -> "Recipe":
    """The recipe with the teacher that was asked for, and a share of episodes for images without masks."""
    from incontext.training.teacher import Teaching

    if teacher is not None:
        known = recipe.teaching or Teaching(teacher)
        recipe = replace(recipe, teaching=replace(known, name=teacher))
    if recipe.teaching is None and (unlabelled or recipe.sampling.without_masks > 0):
        raise ValueError(
            "images without masks teach nothing by themselves; name a --teacher whose features are learned"
        )
    if unlabelled and not recipe.sampling.without_masks:
        recipe = replace(recipe, sampling=replace(recipe.sampling, without_masks=_WITHOUT_MASKS))
    return recipe


def _targets(
    backbone: "Backbone", dims: "Sequence[int]", sets: "Sequence[ImageSet]", folder: Path, team: "Team"
) -> "Targets":
    """What the teacher sees in all images, of which process 0 computes what is missing."""
    from incontext.training.features import FeatureFiles, Targets

    files, images = FeatureFiles(backbone, folder), [image for each in sets for image in each.images]
    if not images:
        raise ValueError(f"expected images for {backbone.name} to look at, got none; name folders of them")
    if team.rank == 0:
        with ProgressLine("images seen by the teacher", len(images)) as progress:
            files.fill(images, progress.update)
    team.agree(True)  # the others wait
    return Targets.make(files, [files.path(image) for image in images], dims)


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
        from incontext.training.loop import has_state

        going_on = has_state(out)
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
