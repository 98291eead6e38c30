"""`incontext train`."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from incontext.cli.options import app, strictly
from incontext.options import TrainingDtype
from incontext.progress import ProgressLine

if TYPE_CHECKING:
    from incontext.training.features import Targets
    from incontext.training.loop import TrainingProgress
    from incontext.training.parallel.processes import Team
    from incontext.training.request import TrainingPlan


@app.command()
@strictly
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
    device: Annotated[str, typer.Option("--device", help='"auto", "cpu", "cuda", "cuda:1", "mps".')] = "auto",
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
    """Train weights by in-context coloring.

    Stop with Ctrl-C; the same command goes on where the last state was saved.

    Of every set of 20 images or more, one in 20 is held out for validation. Under `torchrun -m incontext train ...`
    the processes share every batch, and the weights come out as from one.
    """
    from incontext.training.request import Asked, settled

    asked = Asked(recipe, seed, init, teacher, tuple(data or ()), tuple(unlabelled or ()), tuple(unseen or ()))
    run(
        settled(asked, out),
        out,
        features=features or out / "features",
        device=device,
        dtype=dtype,
        workers=workers,
        save_minutes=save_minutes,
        state_mib=state_mib,
        sharded=shard,
    )


def run(
    plan: "TrainingPlan",
    out: Path,
    *,
    features: Path,
    device: str,
    dtype: TrainingDtype,
    workers: int,
    save_minutes: float,
    state_mib: int | None,
    sharded: bool,
) -> None:
    """Train by a plan, and tell how it goes; the process that writes tells alone."""
    from incontext.network.devices import choose_device, keep_freed_memory
    from incontext.training import loop
    from incontext.training.parallel.processes import joined, team_device
    from incontext.training.parallel.slices import Slices

    used = str(choose_device(team_device(device)))
    with joined(used) as team, ExitStack() as stack:
        targets = targets_of(plan, features, team)
        keep_freed_memory()  # from here on, as what reading took is not needed again
        # Only process 0 tells anything.
        progress = stack.enter_context(ProgressLine("steps", plan.recipe.steps)) if team.rank == 0 else None
        listener = _Listener(progress)
        if plan.told:
            listener.say(plan.told)
        written = loop.train(
            plan.recipe,
            plan.sets,
            out,
            held_out=plan.held_out,
            unseen=plan.unseen,
            targets=targets,
            device=used,
            workers=workers,
            dtype=dtype,
            save_minutes=save_minutes,
            slices=None if state_mib is None else Slices(state_mib),
            init=plan.init,
            team=team,
            sharded=sharded,
            on_start=lambda precision: listener.say(precision[0].upper() + precision[1:]),
            on_report=listener.report,
        )
    if team.rank == 0:
        print(written)


class _Listener:
    """What a user reads while a run goes on; nothing in processes that tell nothing."""

    def __init__(self, progress: ProgressLine | None) -> None:
        self._progress = progress

    def say(self, sentence: str) -> None:
        if self._progress is not None:
            self._progress.say(sentence)

    def report(self, state: "TrainingProgress") -> None:
        if self._progress is None:
            return
        self._progress.update(state.step, f"loss {state.loss:.4f}, {state.episodes_per_second:.1f} episodes/s")
        if state.validation is not None:
            self.say(f"Step {state.step}: validation mIoU {state.validation:.3f}")
        if state.unseen is not None:
            self.say(f"Step {state.step}: mIoU {state.unseen:.3f} on sets of which nothing is learned")


def targets_of(plan: "TrainingPlan", folder: Path, team: "Team") -> "Targets | None":
    """Let the teacher, if there is one, see all images; process 0 computes what is missing."""
    from incontext.training.features import FeatureFiles, Targets

    backbone, teaching = plan.backbone, plan.recipe.teaching
    if backbone is None or teaching is None:
        return None
    files, images = FeatureFiles(backbone, folder), [image for each in plan.sets for image in each.images]
    if not images:
        raise ValueError(f"expected images for {backbone.name} to look at, got none; name folders of them")
    if team.rank == 0:
        with ProgressLine("images seen by the teacher", len(images)) as progress:
            files.fill(images, progress.update)
    team.agree(True)  # the others wait
    return Targets.make(files, [files.path(image) for image in images], teaching.dims_of(backbone.channels))
