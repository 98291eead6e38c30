"""Whatever holds masks or labels as one kind of value, `Labels`; and labels as results, to be written in other formats.

Holders are what a job wrote, annotations, folders of images and masks, and folders of masks alone.

Refuses to know the network and what the formats are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from incontext.annotations import Categories, Labelled, Labels, Result, Thing
from incontext.annotations.core import paint, things_of
from incontext.annotations.instances import split
from incontext.annotations.joining import Images, is_file
from incontext.annotations.known import open_one, recognised
from incontext.annotations.values import Problems, size_of_image
from incontext.examples.pairs import IMAGE_FOLDERS, MASK_FOLDERS, gather
from incontext.folder.report import REPORT_NAME, FileReport, FolderReport, open_report
from incontext.images.ids import IGNORED, MOST_IDS, Color
from incontext.images.masks import MaskFile, is_painted, read_ids, read_mask
from incontext.images.names import natural_order
from incontext.images.write import remove_half_written
from incontext.sources.places import is_image


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """As many images as that, made each time they are asked for."""

    count: int
    make: Callable[[], Iterable[Labelled]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Labelled]:
        return iter(self.make())


def open_any(path: Path, *, images: Path | None = None, snap: bool = False) -> Labels:
    """Open the masks or labels at a path.

    It may be the folder of a job, with its report; annotations in any format; a folder of images and masks, or of masks
    alone; a context file.

    Args:
        path: The file or folder.
        images: The folder of the images, where they lie elsewhere than the masks or labels say; they are looked for by
            their names.
        snap: See `read_mask`.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: It is none of these, or not clear which.
    """
    is_job = path.is_dir() and (path / REPORT_NAME).is_file()
    hits = recognised(path, images=images) if path.exists() and not is_job else ()
    if hits:
        return open_one(path, hits)
    labels = open_job(path) if is_job else _open_gathered(path, snap)
    return labels if images is None else _with_images(labels, images)


def _with_images(labels: Labels, images: Path) -> Labels:
    """Take what is called like the labels' images in a folder, whatever its suffix, as their images."""
    below = Images(images, deep=[images])

    def make() -> Iterator[Labelled]:
        for each in labels:
            try:
                found = below.find(each.name) or below.find_stem(each.name.with_suffix(""))
            except ValueError as error:
                yield replace(each, draw=partial(_broken, f"{each.file}: {error}"))
                continue
            if found is None:
                yield each
            else:
                name = PurePosixPath(found.relative_to(images).as_posix())
                yield replace(each, name=name, image=found, embedded=None)

    return replace(labels, images=LabelledImages(len(labels), make))


def _open_gathered(path: Path, snap: bool) -> Labels:
    """Open a folder of images and masks, or of masks alone, or a context file."""
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
    """List the masks of a folder that has nothing but PNG files."""
    images = sorted((p for p in folder.rglob("*") if p.name[0] != "." and is_image(p)), key=natural_order)
    return images if all(p.suffix.lower() == ".png" for p in images) else []


# ------------------------------------------------------------------------------------------- what a job wrote


def open_job(out: Path) -> Labels:
    """Open the masks that a job wrote, as its report lists them; ids are called what its context called them.

    Raises:
        FileNotFoundError, ValueError: There is no report, or no mask.
    """
    report = open_report(out / REPORT_NAME)
    if report.job.get("per_tar") is not None:
        raise ValueError(f"{out}: expected a folder of masks, got tars of them; unpack them and name that folder")
    ids: set[int] = set()
    problems = Problems()
    colors: MaskFile | None = None
    count = 0
    for file in report.files.read():
        if isinstance(file, str):
            problems.add(file)
            continue
        count += file.mask is not None and file.error is None
        ids.update(file.ids or ())
        colors = colors or _readable(out, file)
    categories = Categories.plain(ids | (names := _names(report)).keys(), names)
    if colors is not None:
        categories = _colored(categories, colors)
    return Labels(out, "masks", LabelledImages(count, partial(_of_report, out, report)), categories, problems)


def _names(report: FolderReport) -> dict[int, str]:
    """Tell what the context called its ids."""
    named = report.settings.get("names")
    ids = {str(i): i for i in range(1, MOST_IDS + 1)}
    return {ids[i]: str(name) for i, name in named.items() if i in ids} if isinstance(named, dict) else {}


def _readable(out: Path, file: FileReport) -> MaskFile | None:
    """Read the mask of an image in which something was found, if it can be read."""
    try:
        return read_mask(out / file.mask) if file.mask is not None and file.ids else None
    except (ValueError, OSError):
        return None  # told where it is drawn


def _of_report(out: Path, report: FolderReport) -> Iterator[Labelled]:
    for file in report.files:
        if file.mask is not None and file.error is None:
            yield _of_file(out, file, file.mask)


def _of_file(out: Path, file: FileReport, mask: str) -> Labelled:
    path = out / mask
    image = Path(file.query)
    name = PurePosixPath(mask).with_suffix(PurePosixPath(file.query).suffix)
    try:
        size = size_of_image(path)
    except ValueError as error:
        return Labelled(name, (1, 1), path, partial(_broken, str(error)))
    return Labelled(name, size, path, partial(_draw, path, file.confidences), image if is_file(image) else None)


def _broken(sentence: str) -> list[Thing]:
    """Raise, in place of giving things, what is wrong with their file: it costs that image."""
    raise ValueError(sentence)


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
    """Make labels of masks, with their images where known. A colour of RGB masks is the same id in each."""
    ids: set[int] = set()
    colors: set[Color] = set()
    shown: MaskFile | None = None
    problems = Problems()
    usable = []
    for image, mask in pairs:
        try:
            file = read_mask(mask, snap=snap)
        except (ValueError, OSError) as error:
            problems.add(str(error))
            continue
        usable.append((image, mask))
        present = set(np.unique(file.ids).tolist()) - {0}
        if file.colors is not None and is_painted(mask):
            colors |= {(r, g, b) for i in present for r, g, b in [file.colors[i].tolist()]}
        else:
            ids |= present - {IGNORED}
            shown = shown or (file if present - {IGNORED} else None)
    if not usable:
        raise ValueError(problems[0])
    if len(colors) > MOST_IDS:
        raise ValueError(f"{path}: expected at most 254 colours beside black in the masks together, got {len(colors)}")
    numbers = {color: number for number, color in enumerate(sorted(colors), start=1)}
    categories = Categories.plain(ids | set(numbers.values()))
    if shown is not None and not numbers:
        categories = _colored(categories, shown)
    elif not ids:
        categories = replace(categories, colors={i: color for color, i in numbers.items()})
    found = [_of_pair(path, image, mask, partial(_draw_mask, mask, numbers, snap)) for image, mask in usable]
    return Labels(path, "masks", found, categories, problems)


def _of_pair(root: Path, image: Path | None, mask: Path, draw: Callable[[], list[Thing]]) -> Labelled:
    shown = image or mask
    inside = shown.relative_to(root) if shown.is_relative_to(root) else Path(shown.name)
    if len(inside.parts) > 1 and inside.parts[0].lower() in (*IMAGE_FOLDERS, *MASK_FOLDERS):
        inside = Path(*inside.parts[1:])
    return Labelled(PurePosixPath(inside.as_posix()), size_of_image(mask), mask, draw, image)


def _draw_mask(mask: Path, numbers: Mapping[Color, int], snap: bool) -> list[Thing]:
    return things_of(read_ids(mask, numbers, snap=snap))


# ------------------------------------------------------------------------------------------------- results


def results_of(
    labels: Labels,
    *,
    instances: bool = False,
    smallest: int = 1,
    on_image: Callable[[str | None], None] | None = None,
) -> Iterator[Result]:
    """Give labels as results, one after another.

    Args:
        instances: Each connected part of a thing is a thing of its own.
        smallest: Leave out those with fewer pixels.
        on_image: Called after each image, with a sentence where it could not be read and is left out, else None.
    """
    for labelled in labels:
        try:
            things = list(labelled.draw())
            if instances or smallest > 1:
                things = split(things, smallest=smallest) if instances else _large(things, smallest)
            result = Result(labelled.name, paint(things, labelled.size), things, labelled.image)
        except (ValueError, OSError) as error:
            if on_image is not None:
                on_image(str(error))
            continue
        yield result
        if on_image is not None:
            on_image(None)


def _large(things: Iterable[Thing], smallest: int) -> list[Thing]:
    return [thing for thing in things if thing.is_ignored or thing.area >= smallest]
