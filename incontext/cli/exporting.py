"""Masks in other formats, beside a job or instead of one: what `segment` and `convert` share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from incontext.cli.options import names
from incontext.progress import ProgressLine
from incontext.words import counted

if TYPE_CHECKING:
    from incontext.annotations import Labels, Result
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


@dataclass(frozen=True)
class Exported:
    """What became of labels.

    Attributes:
        read: Images read.
        written: Images written.
        objects: Objects in those written.
        ignored: Images of which everything is ignored.
        lost: Things that had to be left out.
    """

    read: int
    written: int
    objects: int
    ignored: int
    lost: int

    def __str__(self) -> str:
        """Make the line that a command ends with."""
        parts = [counted(self.read, "image"), counted(self.objects, "object")]
        parts += [f"{self.ignored} wholly ignored"] if self.ignored else []
        parts += [f"{self.written} written"] if self.written != self.read else []
        parts += [f"{self.lost} left out"] if self.lost else []
        return ", ".join(parts)


def export(
    labels: "Labels",
    formats: "tuple[Format, ...]",
    out: Path,
    *,
    apart: bool,
    instances: bool,
    smallest: int,
    strict: bool = False,
) -> Exported:
    """Write labels in formats, each in a folder of its own where they are kept `apart`; tell what cannot be.

    strict: the first thing that cannot be is a ValueError.
    """
    from incontext.annotations.exports import folders_for, write_all
    from incontext.folder.labelled import results_of

    objects = ignored = read = 0
    with ProgressLine("images", len(labels)) as progress:
        problems = _Problems(progress.say, strict=strict)
        problems.tell_of(labels.problems)

        def tell(problem: str | None) -> None:
            nonlocal read
            read += 1
            if problem is not None:
                problems.tell(problem)
            progress.update(read)

        def seen(results: "Iterable[Result]") -> "Iterator[Result]":
            nonlocal objects, ignored
            for result in results:
                kept = sum(not thing.is_ignored for thing in result.things)
                objects, ignored = objects + kept, ignored + (kept == 0 and bool(result.things))
                yield result
                problems.tell_of(labels.problems)

        results = seen(results_of(labels, instances=instances, smallest=smallest, on_image=tell))
        folders = folders_for(formats, out, apart=apart)
        count = write_all(results, formats, folders, labels.categories, on_problem=problems.tell)
        problems.tell_of(labels.problems, parts=True)
        problems.end()
    return Exported(max(read, len(labels)), count, objects, ignored, problems.count)


def formats_beside(job: "FolderJob", text: str | None, *, instances: bool, smallest: int) -> Beside:
    """Decide what to write beside the masks of a job.

    Raises:
        ValueError: That cannot end well.
    """
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
    made = export(open_job(out), formats, out, apart=True, instances=beside.instances, smallest=beside.smallest)
    print(f"{counted(made.written, 'image')} as {', '.join(str(out / each.name) for each in formats)}")
    print(made)
    return made.lost


class _Problems:
    """Tells the first few, and how many more there were; each once. Parts of labels are told in the end, counted."""

    def __init__(self, say: Callable[[str], None], *, strict: bool) -> None:
        self._say, self._strict = say, strict
        self._told: set[str] = set()
        self.count = 0

    def tell(self, sentence: str) -> None:
        """Something is left out."""
        self.count += 1
        if self._strict:
            raise ValueError(f"{sentence} (--strict)")
        if self.count <= _MOST_TOLD:
            self._say(f"Left out: {sentence}")

    def tell_of(self, problems: Sequence[str], *, parts: bool = False) -> None:
        """Tell what is known of labels by now and was not told; parts of them only where they are counted."""
        from incontext.annotations.values import notes_among, parts_left_out

        late, notes = set(parts_left_out(problems)), set(notes_among(problems))
        if self._strict and late:
            parts = True
        for sentence in problems:
            if sentence in self._told or (sentence in late and not parts):
                continue
            self._told.add(sentence)
            if sentence in notes:
                self._say(f"Note: {sentence}")
            else:
                self.tell(sentence)

    def end(self) -> None:
        """Say how many more there were."""
        if self.count > _MOST_TOLD:
            self._say(f"... and {self.count - _MOST_TOLD} more.")
