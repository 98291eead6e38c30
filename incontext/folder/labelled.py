"""Whatever holds masks or labels as one kind of value, `Labels`: what a job wrote, annotations, folders of pictures and
masks, folders of masks alone. And labels as results, to be written in other formats.

Refuses to know the network and what the formats are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from incontext.annotations import Categories, Labelled, Labels, Result, Thing
from incontext.annotations.core import Pictures, is_file, paint, picture_size, things_of
from incontext.annotations.instances import split
from incontext.annotations.known import open_one, recognised
from incontext.examples.pairs import IMAGE_FOLDERS, MASK_FOLDERS, gather
from incontext.folder.report import REPORT_NAME, FileReport, FolderReport, open_report
from incontext.images.ids import Color, ids_in
from incontext.images.masks import MaskFile, is_painted, number_colors, read_ids, read_mask
from incontext.images.names import natural_order
from incontext.images.write import remove_half_written
from incontext.sources.places import is_picture


@dataclass(frozen=True, eq=False)
class _Pictures:
    """As many pictures as that, made each time they are asked for."""

    count: int
    make: Callable[[], Iterable[Labelled]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Labelled]:
        return iter(self.make())


def open_any(path: Path, *, images: Path | None = None, snap: bool = False) -> Labels:
    """The masks or labels at a path: the folder of a job, with its report; annotations in any format; a folder of
    pictures and masks, or of masks alone; a context file.

    images: the folder of the pictures, where they lie elsewhere than the masks or labels say; they are looked for by
    their names. snap: see `formats.read_mask`.
    Raises FileNotFoundError, or ValueError where it is none of these, or not clear which.
    """
    is_job = path.is_dir() and (path / REPORT_NAME).is_file()
    hits = recognised(path, images=images) if path.exists() and not is_job else ()
    if hits:
        return open_one(path, hits)
    labels = open_job(path) if is_job else _open_gathered(path, snap)
    return labels if images is None else _with_pictures(labels, images)


def _with_pictures(labels: Labels, images: Path) -> Labels:
    """The same labels, with what is called like their pictures in a folder, whatever its suffix, as the pictures."""
    pictures = Pictures(images)

    def make() -> Iterator[Labelled]:
        for each in labels:
            found = pictures.find(each.name) or pictures.find_stem(each.name.with_suffix(""))
            if found is None:
                yield each
            else:
                name = PurePosixPath(found.relative_to(images).as_posix())
                yield replace(each, name=name, image=found, embedded=None)

    return replace(labels, pictures=_Pictures(len(labels), make))


def _open_gathered(path: Path, snap: bool) -> Labels:
    """A folder of pictures and masks, or of masks alone; a context file."""
    try:
        files = gather(source=path)
    except ValueError:
        masks = _only_masks(path)
        if not masks:
            raise
        return _of_masks(path, [(None, mask) for mask in masks], snap)
    if not files.labels:
        return _of_masks(path, list(files.pairs), snap)
    if len(files.labels) < len(files.pairs):
        raise ValueError(f"{path}: expected masks or annotation files, got both; make a context file of each kind")
    return Labels(path, "context", list(files.labels.values()), files.categories)


def _only_masks(folder: Path) -> list[Path]:
    """The masks of a folder that has nothing but PNG files."""
    pictures = sorted((p for p in folder.rglob("*") if p.name[0] != "." and is_picture(p)), key=natural_order)
    return pictures if all(p.suffix.lower() == ".png" for p in pictures) else []


# ------------------------------------------------------------------------------------------- what a job wrote


def open_job(out: Path) -> Labels:
    """The masks that a job wrote, as its report lists them; ids are called what its context called them.

    Raises FileNotFoundError or ValueError where there is no report, or no mask.
    """
    report = open_report(out / REPORT_NAME)
    if report.job.get("per_tar") is not None:
        raise ValueError(f"{out}: expected a folder of masks, got tars of them; unpack them and name that folder")
    ids = {i for file in report.files for i in file.ids or ()}
    named = report.settings.get("names")
    names = {int(i): str(name) for i, name in named.items()} if isinstance(named, dict) else {}
    categories = Categories.plain(ids | names.keys(), names)
    first = next((file.mask for file in report.files if file.ids), None)
    if first is not None:
        categories = _colored(categories, read_mask(out / first))
    pictures = _Pictures(report.done, partial(_of_report, out, report))
    return Labels(out, "masks", pictures, categories)


def _of_report(out: Path, report: FolderReport) -> Iterator[Labelled]:
    for file in report.files:
        if file.mask is not None and file.error is None:
            yield _of_file(out, file, file.mask)


def _of_file(out: Path, file: FileReport, mask: str) -> Labelled:
    path = out / mask
    image = Path(file.query)
    name = PurePosixPath(mask).with_suffix(PurePosixPath(file.query).suffix)
    draw = partial(_draw, path, file.confidences)
    return Labelled(name, picture_size(path), path, draw, image if is_file(image) else None)


def _draw(path: Path, confidences: Mapping[int, float] | None) -> list[Thing]:
    return things_of(read_mask(path).ids, confidences)


def _colored(categories: Categories, file: MaskFile) -> Categories:
    if file.colors is None:
        return categories
    rows = {i: tuple(file.colors[i].tolist()) for i in categories.ids}
    return Categories(categories.names, {i: (row[0], row[1], row[2]) for i, row in rows.items()})


def sweep(folders: Iterable[Path]) -> None:
    """Remove what a killed run had half written in folders of exports."""
    for folder in folders:
        for each in (folder, *folder.rglob("*/")):
            remove_half_written(each)


# -------------------------------------------------------------------------------------------- masks as files


def _of_masks(path: Path, pairs: list[tuple[Path | None, Path]], snap: bool) -> Labels:
    """Masks, with their pictures where these are known. A colour of RGB masks is the same id in each."""
    ids: set[int] = set()
    shown: MaskFile | None = None
    numbers = number_colors((mask for _, mask in pairs), snap=snap)
    for mask in (mask for _, mask in pairs if not is_painted(mask)):
        file = read_mask(mask, snap=snap)
        present = set(ids_in(file.ids))
        ids |= present
        shown = shown or (file if present else None)
    categories = Categories.plain(ids | set(numbers.values()))
    if shown is not None and not numbers:
        categories = _colored(categories, shown)
    elif not ids:
        categories = replace(categories, colors={i: color for color, i in numbers.items()})
    found = [_of_pair(path, image, mask, partial(_draw_mask, mask, numbers, snap)) for image, mask in pairs]
    return Labels(path, "masks", found, categories)


def _of_pair(root: Path, image: Path | None, mask: Path, draw: Callable[[], list[Thing]]) -> Labelled:
    shown = image or mask
    inside = shown.relative_to(root) if shown.is_relative_to(root) else Path(shown.name)
    if len(inside.parts) > 1 and inside.parts[0].lower() in (*IMAGE_FOLDERS, *MASK_FOLDERS):
        inside = Path(*inside.parts[1:])
    return Labelled(PurePosixPath(inside.as_posix()), picture_size(mask), mask, draw, image)


def _draw_mask(mask: Path, numbers: Mapping[Color, int], snap: bool) -> list[Thing]:
    return things_of(read_ids(mask, numbers, snap=snap))


# ------------------------------------------------------------------------------------------------- results


def results_of(
    labels: Labels,
    *,
    instances: bool = False,
    smallest: int = 1,
    on_picture: Callable[[str | None], None] | None = None,
) -> Iterator[Result]:
    """Labels as results, one after another.

    instances: each connected part of a thing is a thing of its own; smallest: leave out those with fewer pixels.
    on_picture: called after each picture, with a sentence where it could not be read and is left out, else None.
    """
    for labelled in labels:
        try:
            things = list(labelled.draw())
            if instances or smallest > 1:
                things = split(things, smallest=smallest) if instances else _large(things, smallest)
            result = Result(labelled.name, paint(things, labelled.size), things, labelled.image)
        except (ValueError, OSError) as error:
            if on_picture is not None:
                on_picture(str(error))
            continue
        yield result
        if on_picture is not None:
            on_picture(None)


def _large(things: Iterable[Thing], smallest: int) -> list[Thing]:
    return [thing for thing in things if thing.is_ignored or thing.area >= smallest]
