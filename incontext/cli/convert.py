"""`incontext convert`: masks and annotations into other formats."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from incontext.cli.exporting import Instances, Smallest, export
from incontext.cli.options import SnapColors, Strict, app, named_ids, names, strictly
from incontext.words import counted


@app.command()
@strictly
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MASKS|LABELS",
            help="What `incontext segment` wrote; a folder of masks, with their images or without; annotations in "
            "any format (COCO, YOLO, LabelMe, CVAT, Label Studio, VOC).",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT,...",
            help="indexed (PNG masks), coco, panoptic, coco-semantic, yolo, labelme, cvat, label-studio, voc, classes, "
            "objects.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder to write to; of several formats each gets a folder in it."),
    ],
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="FOLDER", help="Where the images are, if not where the annotations say."),
    ] = None,
    instances: Instances = False,
    smallest: Smallest = 1,
    called: Annotated[
        str | None, typer.Option("--names", metavar="ID=NAME,...", help="What ids mean, for masks without names.")
    ] = None,
    snap_colors: SnapColors = False,
    strict: Strict = False,
) -> None:
    """Turn masks or annotations into annotations or masks, without the network.

    Names of categories and their ids are kept, as far as the formats can hold them.
    """
    from incontext.annotations import Categories
    from incontext.annotations.exports import writable
    from incontext.folder.labelled import open_any
    from incontext.images.write import refuse_unwritable

    formats = writable(names(to))
    _refuse_inside(source, out)
    refuse_unwritable(out)
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"{images}: there is no such folder of images")
    labels = open_any(source, images=images, snap=snap_colors)
    known = labels.categories
    own = named_ids(called, set(known.ids))
    if own:
        labels = replace(labels, categories=Categories({**known.names, **own}, known.colors))
    apart = len(formats) > 1
    made = export(labels, formats, out, apart=apart, instances=instances, smallest=smallest, strict=strict)
    print(f"{counted(made.written, 'image')} in {out} ({', '.join(each.name for each in formats)})")
    print(made)
    if made.lost:
        raise typer.Exit(1)


def _refuse_inside(source: Path, out: Path) -> None:
    if Path(os.path.realpath(source)).is_relative_to(os.path.realpath(out)):
        raise ValueError(f"{out}: expected another folder than the one that {source} lies in; name a new one with -o")
