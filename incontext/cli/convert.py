"""`incontext convert`: masks and annotations into other formats."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from incontext.cli.options import SnapColors, app, named_ids, names
from incontext.progress import ProgressLine

if TYPE_CHECKING:
    from incontext.annotations import Labels
    from incontext.annotations.core import Format
    from incontext.folder import FolderJob

_MOST_TOLD = 20  # problems on stderr

Formats = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT,...",
        help="Also write the masks in these formats, each into OUT/FORMAT: coco, panoptic, coco-semantic, yolo, "
        "labelme, cvat, label-studio, voc, classes (a black and white PNG for each class), objects (an id for each "
        "object).",
    ),
]
Instances = Annotated[
    bool, typer.Option("--instances", help="Each connected part of what is found is an object of its own.")
]
Smallest = Annotated[
    int, typer.Option("--smallest", min=1, metavar="PIXELS", help="Leave out objects with fewer pixels.")
]


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MASKS|LABELS",
            help="What `incontext segment` wrote; a folder of masks, with their pictures or without; annotations in "
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
        typer.Option("--images", metavar="FOLDER", help="Where the pictures are, if not where the annotations say."),
    ] = None,
    instances: Instances = False,
    smallest: Smallest = 1,
    called: Annotated[
        str | None, typer.Option("--names", metavar="ID=NAME,...", help="What ids mean, for masks without names.")
    ] = None,
    snap_colors: SnapColors = False,
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
        raise FileNotFoundError(f"{images}: there is no such folder of pictures")
    labels = open_any(source, images=images, snap=snap_colors)
    known = labels.categories
    own = named_ids(called, set(known.ids))
    if own:
        labels = replace(labels, categories=Categories({**known.names, **own}, known.colors))
    count, lost = export(labels, formats, out, apart=len(formats) > 1, instances=instances, smallest=smallest)
    print(f"{count} pictures in {out} ({', '.join(each.name for each in formats)})")
    if lost:
        raise typer.Exit(1)


def export(
    labels: "Labels", formats: "tuple[Format, ...]", out: Path, *, apart: bool, instances: bool, smallest: int
) -> tuple[int, int]:
    """Write labels in formats, each in a folder of its own where they are kept `apart`; tell what cannot be.

    Returns how many pictures were written, and how many problems there were.
    """
    from incontext.annotations.exports import folders_for, write_all
    from incontext.folder.labelled import results_of

    with ProgressLine("pictures", len(labels)) as progress:
        problems = _Problems(progress.say)
        for sentence in labels.problems:
            problems.tell(sentence)
        done = 0

        def tell(problem: str | None) -> None:
            nonlocal done
            done += 1
            if problem is not None:
                problems.tell(problem)
            progress.update(done)

        results = results_of(labels, instances=instances, smallest=smallest, on_picture=tell)
        folders = folders_for(formats, out, apart=apart)
        count = write_all(results, formats, folders, labels.categories, on_problem=problems.tell)
        problems.end()
    return count, problems.count


def formats_beside(job: "FolderJob", text: str | None, *, asked: bool) -> "tuple[Format, ...]":
    """The formats to write beside the masks of a job. ValueError where that cannot end well. asked: there are options
    that matter to formats only."""
    from incontext.annotations.exports import writable

    if text is None:
        if asked:
            raise ValueError("expected --format beside --instances and --smallest, as the masks themselves stay whole")
        return ()
    formats = writable(names(text))
    if job.outputs.remote is not None or job.outputs.per_tar is not None:
        raise ValueError("expected a local folder of masks for --format, got another; `incontext convert` can follow")
    taken = {each.name for each in formats}
    for query in job.queries:
        if len(query.name.parts) > 1 and query.name.parts[0] in taken:
            raise ValueError(
                f"{query.name}: its mask would lie in the folder of --format {query.name.parts[0]}; choose another "
                "folder above it, or let `incontext convert` follow"
            )
    return formats


def export_job(job: "FolderJob", formats: "tuple[Format, ...]", *, instances: bool, smallest: int) -> int:
    """Write the masks of a job in these formats, from its masks and its report alone, so that it does not matter how
    often it was interrupted. Returns how many problems there were."""
    from incontext.folder.labelled import open_job, sweep

    if not formats:
        return 0
    out = job.outputs.out
    sweep([out / each.name for each in formats])
    count, lost = export(open_job(out), formats, out, apart=True, instances=instances, smallest=smallest)
    print(f"{count} pictures as {', '.join(str(out / each.name) for each in formats)}")
    return lost


class _Problems:
    """Tells the first few, and how many more there were."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.count = 0

    def tell(self, sentence: str) -> None:
        self.count += 1
        if self.count <= _MOST_TOLD:
            self._say(f"Left out: {sentence}")

    def end(self) -> None:
        if self.count > _MOST_TOLD:
            self._say(f"... and {self.count - _MOST_TOLD} more.")


def _refuse_inside(source: Path, out: Path) -> None:
    if Path(os.path.realpath(source)).is_relative_to(os.path.realpath(out)):
        raise ValueError(f"{out}: expected another folder than the one that {source} lies in; name a new one with -o")
