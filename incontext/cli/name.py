"""`incontext name` and `incontext tune-namer`: names for masks, and what a namer can learn."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from incontext.cli.exporting import Instances, Smallest, export
from incontext.cli.options import Strict, app, names, strictly
from incontext.progress import ProgressLine
from incontext.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from incontext.annotations import Labels
    from incontext.tuning.namer import NamedMask, NamerStep

_Namer = Annotated[
    str, typer.Option("--namer", metavar="NAME|PATH", help="Such as clip or siglip2; see incontext prompters list.")
]
_Device = Annotated[str, typer.Option("--device", help='"auto", "cpu", "cuda", "cuda:1", "mps".')]
_Images = Annotated[
    Path | None,
    typer.Option("--images", metavar="FOLDER", help="Where the images are, if not where the labels say."),
]


@app.command()
@strictly
def name(
    masks: Annotated[
        Path,
        typer.Argument(
            metavar="MASKS",
            help="What `incontext segment` or `incontext propose` wrote; a folder of masks; annotations in any format.",
        ),
    ],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="The folder of their images.")],
    called: Annotated[str, typer.Option("--names", metavar="NAME,...", help="The names that may be given.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder to write to; of several formats each gets a folder in it."),
    ],
    namer: _Namer = "clip",
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT,...",
            help="The formats to write, as `incontext convert` knows them: coco, yolo, ...",
        ),
    ] = "coco",
    at_least: Annotated[
        float | None,
        typer.Option(
            "--at-least", min=0.0, max=1.0, help="The score below which a mask gets no name. Default: the namer's."
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", metavar="FILE", help="What `incontext tune-namer` learned for this namer."),
    ] = None,
    instances: Instances = False,
    smallest: Smallest = 1,
    device: _Device = "auto",
    strict: Strict = False,
) -> None:
    """Name masks out of a list, by another model, and write them in any format under these names.

    Each id of a mask is named by what it shows, whatever it was called before; one that none of the names fits is left
    out, and counted.
    """
    from incontext.annotations.exports import writable
    from incontext.folder.labelled import open_any
    from incontext.folder.named import named
    from incontext.images.write import refuse_unwritable
    from incontext.prompters import load_namer
    from incontext.prompters.phrases import phrases_of

    formats, wanted = writable(names(to)), phrases_of(names(called))
    refuse_unwritable(out)
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: there is no such folder of images")
    labels = open_any(masks, images=images)
    unnamed = 0

    def count(more: int) -> None:
        nonlocal unnamed
        unnamed += more
        if strict:
            raise ValueError(f"none of the names fits {counted(more, 'mask')} (--strict)")

    with load_namer(namer, device=device, tokens=tokens) as opened:
        told = named(
            labels, opened, wanted, at_least=at_least, instances=instances, smallest=smallest, on_unnamed=count
        )
        made = export(told, formats, out, apart=len(formats) > 1, instances=False, smallest=1, strict=strict)
    print(f"{counted(made.written, 'image')} in {out} ({', '.join(each.name for each in formats)})")
    print(f"{made}{f', {unnamed} without a name' if unnamed else ''}")
    if made.lost:
        raise typer.Exit(1)


@app.command("tune-namer")
@strictly
def tune_namer(
    labelled: Annotated[
        Path,
        typer.Argument(
            metavar="LABELLED",
            help="Annotations with names of categories (COCO, YOLO, LabelMe, CVAT, Label Studio, VOC).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write, NAME.safetensors.")],
    namer: _Namer = "clip",
    images: _Images = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of learning.")] = 200,
    lr: Annotated[float, typer.Option("--lr", help="How far a value moves in a step, at the beginning.")] = 0.01,
    val_share: Annotated[
        float, typer.Option("--val-share", help="Of the masks, held out to judge by. 0: all learn and all judge.")
    ] = 0.25,
    device: _Device = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything that is drawn.")] = 0,
) -> None:
    """Teach a namer what to see in place of what is cut away around a mask; the namer itself stays as it is.

    Learns mask prompt tokens (OVSeg, arXiv 2210.04150) from masks whose names are known; `incontext name --tokens`
    takes the file.
    """
    from incontext.folder.labelled import open_any
    from incontext.images.write import refuse_unwritable
    from incontext.prompters import load_namer
    from incontext.prompters.mask_tokens import is_mask_tokens
    from incontext.tuning.namer import tune_namer as learn

    if out.exists() and not is_mask_tokens(out):
        raise ValueError(f"{out}: expected a new file, or mask tokens to replace; name another with -o")
    refuse_unwritable(out.parent)
    labels = open_any(labelled, images=images)
    out.parent.mkdir(parents=True, exist_ok=True)
    with load_namer(namer, device=device) as opened, ProgressLine("steps", steps) as progress:

        def tell(now: "NamerStep") -> None:
            progress.update(now.step)

        try:
            tokens = learn(
                opened, _named_masks(labels), steps=steps, lr=lr, held_out=val_share, seed=seed, on_step=tell
            )
        except KeyboardInterrupt:
            progress.say("Stopped; nothing was written.")
            raise typer.Exit(130) from None
    tokens.save(out)
    made = tokens.origin
    learned, judged = made.crops
    judges = f"{judged} held-out masks" if judged else "the masks that they were tuned on"
    print(f"{out}: mean loss {made.before:.3f} before, {made.after:.3f} after tuning, on {judges}")
    print(f"{counted(learned + judged, 'mask')} of {counted(len(made.names), 'name')}")


def _named_masks(labels: "Labels") -> "Iterator[NamedMask]":
    """List the things of labels with their names; an image that cannot be used costs itself, and a warning."""
    import warnings

    from incontext.folder.named import image_of, mask_of
    from incontext.left_out import LeftOutWarning
    from incontext.tuning.namer import NamedMask

    for each in labels:
        try:
            image, things = image_of(each), [thing for thing in each.draw() if not thing.is_ignored]
        except (ValueError, OSError) as error:
            warnings.warn(str(error), LeftOutWarning, stacklevel=2)
            continue
        for thing in things:
            yield NamedMask(image, mask_of(thing, each.size), labels.categories.names[thing.category])
