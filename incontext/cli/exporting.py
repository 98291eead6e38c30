"""Masks in other formats, beside a job or instead of one: what `segment` and `convert` share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from incontext.cli.options import names
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


@dataclass(frozen=True)
class Beside:
    """Which formats are written beside the masks of a job, and of what: each connected part, if it is large enough."""

    formats: "tuple[Format, ...]"
    instances: bool
    smallest: int


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


def formats_beside(job: "FolderJob", text: str | None, *, instances: bool, smallest: int) -> Beside:
    """Decide what to write beside the masks of a job. ValueError where that cannot end well."""
    from incontext.annotations.exports import writable

    if text is None:
        if instances or smallest > 1:
            raise ValueError("expected --format beside --instances and --smallest, as the masks themselves stay whole")
        return Beside((), instances, smallest)
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
    return Beside(formats, instances, smallest)


def export_job(job: "FolderJob", beside: Beside) -> int:
    """Write the masks of a job in other formats, and return how many problems there were.

    From its masks and its report alone, so that it does not matter how often it was interrupted.
    """
    from incontext.folder.labelled import open_job, sweep

    formats, out = beside.formats, job.outputs.out
    if not formats:
        return 0
    sweep([out / each.name for each in formats])
    count, lost = export(open_job(out), formats, out, apart=True, instances=beside.instances, smallest=beside.smallest)
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
