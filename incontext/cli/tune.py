"""`incontext tune`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from incontext.cli.options import SnapColors, app, name_below, named_ids, strictly, with_options
from incontext.options import DEFAULTS, LOADING, LoadOptions, SegmentOptions, Start
from incontext.progress import ProgressLine
from incontext.words import counted

if TYPE_CHECKING:
    from incontext.prompt_tensor import PromptTensor
    from incontext.tuning import TuningStep


_LONGEST = 768  # pixels along an image's longer side: more than tuning looks at


@app.command()
@strictly
@with_options(only=("task",))
def tune(
    labelled: Annotated[
        Path,
        typer.Argument(
            metavar="LABELLED",
            help="Examples: images/ and masks/, files of the same names, or NAME_mask.png beside NAME.jpg; "
            "annotations (COCO, YOLO, LabelMe, CVAT, Label Studio, VOC); or a context file.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="KEY", help="The file to write, KEY.safetensors.")],
    steps: Annotated[int, typer.Option("--steps", min=1, help="At most, for each seven ids.")] = 100,
    lr: Annotated[float, typer.Option("--lr", help="How far a value moves in a step, at the beginning.")] = 0.1,
    shots: Annotated[int, typer.Option("--shots", min=1, help="Costs as much in use as so many examples.")] = 1,
    start: Annotated[
        Start, typer.Option("--start", help="From the best of the examples, their mean, or noise.")
    ] = "best",
    val_share: Annotated[
        float, typer.Option("--val-share", help="Of the images, held out to judge by. 0: all learn and all judge.")
    ] = 0.25,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images in a step.")] = 4,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Slower, with less memory: for large networks.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything that is drawn.")] = 0,
    names: Annotated[
        str | None, typer.Option("--names", metavar="ID=NAME,...", help="What ids mean, to be kept in the file.")
    ] = None,
    options: SegmentOptions = DEFAULTS,
    loading: LoadOptions = LOADING,
    snap_colors: SnapColors = False,
) -> None:
    """Learn from labelled images what `segment --prompt-tensor` then takes in place of examples.

    The network stays as it is; the file holds what it is shown. Images without anything marked teach where to find
    nothing. Beside KEY.safetensors, KEY.html shows how it went and what is found in the held-out images.
    """
    from incontext.examples import gather, open_prompts, read_empty

    # What a user can get wrong is found before the weights are loaded.
    _check_target(out)
    opened = open_prompts(gather(source=labelled), snap=snap_colors, longest=_LONGEST)
    images = [name_below(image, labelled) for image, _ in opened.pairs]
    called = {**opened.names, **named_ids(names, {i for prompt in opened.prompts for i in prompt.ids})}
    empty = [read_empty(pair, longest=_LONGEST) for pair in opened.empty]
    out.parent.mkdir(parents=True, exist_ok=True)

    from incontext.engine import load_with
    from incontext.evaluation.pages.tuning_report import write_page
    from incontext.network.devices import keep_freed_memory
    from incontext.tuning import tune as learn

    keep_freed_memory()
    segmenter = load_with(loading)
    run = partial(
        learn,
        segmenter,
        opened.prompts,
        steps=steps,
        lr=lr,
        shots=shots,
        start=start,
        held_out=val_share,
        batch_size=batch_size,
        task=options.task,
        empty=empty,
        names=called,
        image_names=images,
        checkpointing=checkpointing,
        seed=seed,
    )
    learned, told = listened(run, steps)
    learned.save(out)
    page = write_page(out.with_suffix(".html"), segmenter, learned, told, opened.prompts, images)
    made = learned.origin
    judges = f"{len(made.held_out)} held-out images" if made.held_out else "the images it was tuned on"
    print(f"{out}: mean IoU {made.before:.3f} before, {made.after:.3f} after tuning, on {judges}; {page} shows them")
    ids = counted(len(learned.ids), "id")
    print(f"{counted(len(opened.prompts) + len(opened.empty), 'image')}, 1 prompt tensor of {ids}")


def listened(run: "Callable[..., PromptTensor]", steps: int) -> "tuple[PromptTensor, list[TuningStep]]":
    """Tune, and tell how it goes; return the result and its steps.

    Raises:
        typer.Exit: Ctrl-C ended it, with status 130.
    """
    told = list["TuningStep"]()
    with ProgressLine("steps", steps) as progress:

        def tell(step: "TuningStep") -> None:
            told.append(step)
            note = f"loss {step.loss:.3f}, held out {step.best:.3f}, {step.memory >> 20} MiB"
            progress.update(step.step, note, total=step.steps)

        def tell_start(done: int, total: int) -> None:
            progress.update(0, f"choosing where to start: example {done} of {total}")

        try:
            return run(on_step=tell, on_tried=tell_start), told
        except KeyboardInterrupt:
            progress.say(f"Stopped after {counted(len(told), 'step')}; nothing was written.")
            raise typer.Exit(130) from None


def _check_target(out: Path) -> None:
    from incontext.prompt_tensor import is_prompt_tensor

    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: expected a name that ends in .safetensors; give another with -o")
    if out.exists() and not is_prompt_tensor(out):
        raise ValueError(f"{out}: expected a new file, or a prompt tensor to replace; name another with -o")
