"""The layout of PASCAL VOC's segmentation: masks of classes, masks of objects, and the images, in folders.

    ROOT/JPEGImages/NAME.jpg
    ROOT/SegmentationClass/NAME.png     ids of classes; 255 (in colour: 224, 224, 192), the border, is ignored
    ROOT/SegmentationObject/NAME.png    where there is one: numbers of objects
    ROOT/labelmap.txt                   where there is one: name:r,g,b:: for each class, the background among them

Class masks are indexed, or in the colours of labelmap.txt, or of VOC where there is none. labelme's class_names.txt is
understood, too. Without names, folders called VOC2007 or VOC2012 have VOC's, others the numbers of their ids. Written
is the same, with links to the images; an image with more than 254 objects has no object mask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from incontext.annotations.core import Add, Categories, Format, Labelled, Labels, Result, Source, Thing, paint
from incontext.annotations.joining import Images, is_file
from incontext.annotations.links import link_image
from incontext.annotations.mask_files import checked, used_ids
from incontext.annotations.values import Problems, brief, place_of, size_of_image
from incontext.images.ids import IGNORED, MOST_IDS, Color, Pixels
from incontext.images.masks import is_painted, read_mask
from incontext.images.names import natural_order
from incontext.images.read import read_colors
from incontext.images.smoothing import indexed
from incontext.images.text import decoded
from incontext.images.write import whole_file, write_mask
from incontext.types import IGNORED_COLOR

CLASS_FOLDER: Final = "SegmentationClass"
OBJECT_FOLDER: Final = "SegmentationObject"
_IMAGES: Final = "JPEGImages"
_LEGEND_LINE: Final = re.compile(r"(.*?):\s*(\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}|)\s*(?::[^:]*){0,2}")
_LEGEND_FILE: Final = "labelmap.txt"
_NAMES_FILE: Final = "class_names.txt"
_IGNORED_NAMES: Final = frozenset({"ignored", "__ignore__", "void"})
_BACKGROUND_NAMES: Final = frozenset({"background", "_background_"})
_VOC_NAMES: Final = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]


@dataclass(frozen=True)
class _Legend:
    """What masks mean.

    Attributes:
        ids: Of each colour, with 0 and 255.
        told: Whether a file said so, rather than VOC's custom.
    """

    categories: Categories
    ids: Mapping[Color, int] = field(default_factory=dict)
    told: bool = False


# --------------------------------------------------------------------------------------------------- in


def _recognises(source: Source) -> bool:
    return source.is_folder and any(_masks(source.path / CLASS_FOLDER))


def _masks(folder: Path) -> list[Path]:
    """List the masks below a folder, their suffixes in small letters or capitals."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower() == ".png" and path.name[0] != ".")
    return sorted((path for path in paths if path.is_file()), key=natural_order)


def _read(source: Source) -> Labels:
    root, folder = source.path, source.path / CLASS_FOLDER
    masks = _masks(folder)
    problems = Problems()
    legend = _legend(root, masks, problems)
    images = Images(root / _IMAGES) if source.images is None else Images(source.images)
    numbers = {_stem(path, root / OBJECT_FOLDER): path for path in _masks(root / OBJECT_FOLDER)}
    labelled = []
    for path in masks:
        stem = _stem(path, folder)
        try:
            size, image = size_of_image(path), images.find_stem(stem)
        except ValueError as error:
            problems.add(str(error) if str(path) in str(error) else f"{path}: {error}")
            continue
        name = stem.with_name(stem.name + (".jpg" if image is None else image.suffix))
        draw = partial(_draw, path, numbers.get(stem), legend, problems)
        labelled.append(Labelled(name, size, path, draw, image))
    if not labelled:
        raise ValueError(problems[0])
    return Labels(root, FORMAT.name, labelled, legend.categories, problems)


def _stem(path: Path, folder: Path) -> PurePosixPath:
    return PurePosixPath(path.relative_to(folder).with_suffix("").as_posix())


def _legend(root: Path, masks: Sequence[Path], problems: Problems) -> _Legend:
    usual = {_voc_color(i): i for i in range(IGNORED)} | {IGNORED_COLOR: IGNORED}
    if is_file(root / _LEGEND_FILE):
        return _told(root / _LEGEND_FILE, problems)
    if is_file(root / _NAMES_FILE):
        lines = _lines(root / _NAMES_FILE)
        names = [name for name in lines if name not in _IGNORED_NAMES | _BACKGROUND_NAMES]
        return _Legend(Categories.listed(names), usual)
    if re.fullmatch(r"VOC20\d\d", root.absolute().name):
        return _Legend(Categories.listed(_VOC_NAMES, [_voc_color(i + 1) for i in range(len(_VOC_NAMES))]), usual)
    everything = _Legend(Categories.plain(range(1, MOST_IDS + 1)), usual)
    found = used_ids(masks, partial(_class_ids, legend=everything, problems=problems), problems)
    return _Legend(Categories.plain(found), usual)


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in decoded(path.read_bytes()).splitlines())
    return [line for line in lines if line and line[0] != "#"]


def _told(path: Path, problems: Problems) -> _Legend:
    """Tell what labelmap.txt says: NAME:R,G,B:parts:actions, the classes counted from 1 in its order.

    A line without a colour has VOC's of its place.
    """
    names: list[str] = []
    colors: list[Color] = []
    special: dict[Color, int] = {(0, 0, 0): 0}
    lines = _lines(path)
    shift = 0 if lines and lines[0].partition(":")[0].strip() in _BACKGROUND_NAMES else 1  # background has a place, too
    for place, line in enumerate(lines):
        try:
            name, color = _class_of(line, place + shift)
        except ValueError as error:
            problems.leave_out(f"{path}: line {place + 1}", error)
            continue
        if name in _BACKGROUND_NAMES or name in _IGNORED_NAMES:
            special[color] = 0 if name in _BACKGROUND_NAMES else IGNORED
        else:
            names.append(name)
            colors.append(color)
    if not names:
        raise ValueError(problems[0] if problems else f"{path}: expected lines as NAME:R,G,B::, got none")
    if len(set(colors)) < len(colors):
        raise ValueError(f"{path}: expected a colour of its own for each class, got one colour twice")
    categories = Categories.listed(names, colors)
    ids = dict(zip(colors, categories.ids, strict=True))
    return _Legend(categories, {IGNORED_COLOR: IGNORED} | special | ids, told=True)


def _class_of(line: str, place: int) -> tuple[str, Color]:
    """Return the class of a line of labelmap.txt, and its colour: names may hold colons, too."""
    parts = _LEGEND_LINE.fullmatch(line)
    if parts is None:
        if ":" in line:
            raise ValueError(f"expected lines as NAME:R,G,B::, got {brief(line)}")
        return line, _voc_color(place)
    numbers = [int(each) for each in re.findall(r"\d+", parts[2])] or list(_voc_color(place))
    if max(numbers) > 255:
        raise ValueError(f"expected lines as NAME:R,G,B::, got {brief(line)}")
    return parts[1].strip(), (numbers[0], numbers[1], numbers[2])


def _voc_color(number: int) -> Color:
    """VOC's colour of an id: bits 0, 3, 6 of it are the highest of red, bits 1, 4, 7 of green, bits 2, 5 of blue."""
    red, green, blue = (
        sum((number >> (3 * place + channel) & 1) << (7 - place) for place in range(3)) for channel in range(3)
    )
    return red, green, blue


def _draw(path: Path, objects: Path | None, legend: _Legend, problems: Problems) -> list[Thing]:
    classes = _known_only(_class_ids(path, legend=legend, problems=problems), legend.categories, path, problems)
    numbers = np.zeros_like(classes)
    if objects is not None:
        numbers = read_mask(objects).ids
        if numbers.shape != classes.shape:
            raise ValueError(f"{objects}: expected a mask of the size of {path}, got another")
    things = []
    for pair in np.flatnonzero(np.bincount((classes.astype(np.intp) << 8 | numbers).ravel())).tolist():
        category, number = pair >> 8, pair & 255
        if category == 0:
            continue
        ignored = category == IGNORED
        selected = (classes == category) & (numbers == number)
        things.append(Thing.cut(0 if ignored else category, selected, is_ignored=ignored))
    return [thing for thing in things if thing is not None]


def _known_only(ids: Pixels, categories: Categories, path: Path, problems: Problems) -> Pixels:
    """Return the mask, ids that are no categories ignored and told.

    Raises:
        ValueError: There are no others.
    """
    present = set(np.unique(ids).tolist()) - {0, IGNORED}
    if not (present - set(categories.ids)):
        return ids
    if not present & set(categories.ids):
        return checked(ids, categories, path)
    strange = sorted(present - set(categories.ids))
    problems.leave_out(str(path), f"expected the ids {list(categories.ids)}, got {strange}, which are ignored")
    return np.where(np.isin(ids, strange), np.uint8(IGNORED), ids)


def _class_ids(path: Path, *, legend: _Legend, problems: Problems) -> Pixels:
    """(H, W) ids of a class mask, by its colours where they are known, else by its indices."""
    if is_painted(path):
        index, colors, _ = indexed(read_colors(path))
        return _ids_of([(r, g, b) for r, g, b in colors.tolist()], legend, path, problems)[index]
    file = read_mask(path)
    if not legend.told or file.colors is None:
        return file.ids
    present = np.unique(file.ids)
    known = [legend.ids.get((r, g, b)) for r, g, b in file.colors[present].tolist()]
    if None in known:  # the indices may be right where the colours are not
        return file.ids
    ids = np.zeros(256, np.uint8)
    ids[present] = [i or 0 for i in known]
    return ids[file.ids]


def _ids_of(colors: Sequence[Color], legend: _Legend, path: Path, problems: Problems) -> Pixels:
    """Return the id of each colour.

    Those that labelmap.txt does not name are ignored and told, where it names others of them.

    Raises:
        ValueError: It names none, or there is no such file and colours are not VOC's.
    """
    found = [legend.ids.get(color) for color in colors]
    strange = [color for color, i in zip(colors, found, strict=True) if i is None]
    if strange:
        told = ", ".join(map(str, strange[0]))
        if not legend.told:
            raise ValueError(
                f"{path}: expected the colours of VOC, got {told}; put a {_LEGEND_FILE} beside {CLASS_FOLDER}"
            )
        if not any(found):
            raise ValueError(f"{path}: expected the colours of {_LEGEND_FILE}, got {told}")
        problems.leave_out(str(path), f"expected the colours of {_LEGEND_FILE}, got {told}, which is ignored")
    return np.array([IGNORED if i is None else i for i in found], np.uint8)


# -------------------------------------------------------------------------------------------------- out


@contextmanager
def _write(out: Path, categories: Categories) -> Iterator[Add]:
    table = categories.palette.table
    objects_table = np.array([*map(_voc_color, range(IGNORED)), IGNORED_COLOR], np.uint8)
    with whole_file(place_of(out, PurePosixPath("ImageSets/Segmentation/default.txt"))) as listing:

        def add(result: Result) -> None:
            name = result.name.with_suffix(".png")
            write_mask(place_of(out, CLASS_FOLDER / name), result.mask, table)
            if sum(not thing.is_ignored for thing in result.things) <= MOST_IDS:
                numbers = paint(result.things, result.size, "instances")
                write_mask(place_of(out, OBJECT_FOLDER / name), numbers, objects_table)
            link_image(out, _IMAGES / result.name, result.image)
            listing.write(f"{result.name.with_suffix('')}\n".encode("utf-8", "surrogateescape"))

        yield add
    with whole_file(out / _LEGEND_FILE) as stream:
        stream.write(_legend_text(categories).encode())


def _legend_text(categories: Categories) -> str:
    colors = categories.palette.colors[1:].tolist()
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    for name, (r, g, b) in zip(categories.names.values(), colors, strict=True):
        lines.append(f"{' '.join(name.replace(':', ' ').split())}:{r},{g},{b}::")
    return "\n".join([*lines, ""])


FORMAT: Final = Format(
    "voc",
    "PASCAL VOC: SegmentationClass/, SegmentationObject/, labelmap.txt",
    _recognises,
    _read,
    _write,
    by_name=True,
)
