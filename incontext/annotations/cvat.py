"""CVAT for images 1.1: one XML file, in which every image lists its shapes.

Polygons, boxes, ellipses and masks are read, painted by z_order; shapes of one label and group_id are one thing. Masks
are runs of zeros and ones, row by row, inside of a box. Lines, points, cuboids and skeletons cover nothing and are left
out. Shapes called __ignore__ are ignored. Files of projects hold several tasks: where two name an image alike, the
task's number is put before its name. Written are masks, which CVAT knows from 2.4 on.

An annotation file is read once to see what is in it, and again from an image's own place when that image is drawn. A
file that declares a document type is refused, so no entity is ever expanded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, TypeAlias
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from incontext.annotations.core import Add, Categories, Format, Labelled, Labels, Result, Source, Thing
from incontext.annotations.joining import Images, relative_name
from incontext.annotations.shapes import (
    IGNORED_NAME,
    Piece,
    Region,
    assembled,
    ellipse,
    pasted,
    points,
    polygon,
    rectangle,
    visible,
)
from incontext.annotations.values import Problems, brief, checked_size, size_of_image
from incontext.images import rle
from incontext.images.ids import Color
from incontext.images.write import whole_file

Attributes: TypeAlias = Mapping[str, str]

_AREAS: Final = frozenset({"polygon", "box", "ellipse", "mask"})
_OTHERS: Final = frozenset({"polyline", "points", "cuboid", "skeleton"})
_KNOWN: Final = _AREAS | _OTHERS | {"tag", "attribute"}
_LOOKED_AT: Final = 4096  # bytes from a file's start, which tell whether it is of CVAT
_ENCODINGS: Final = (b"utf-8", b"utf8", b"us-ascii", b"ascii")
_LABEL: Final = ("labels", "label")  # the last elements of the path to a category's name and colour


# ----------------------------------------------------------------------------------------------- parsing


def _parse(
    stream: BinaryIO | bytes,
    *,
    start: Callable[[str, Attributes, int], None],
    end: Callable[[str, str, int], None],
) -> None:
    """Go through XML and call back at each element's start and end.

    The start has its name, its attributes and the bytes before it; the end its name, its text and the bytes before it.

    Raises:
        ValueError: It is broken, or declares a document type.
    """
    parser = expat.ParserCreate()
    text: list[str] = []

    def refuse(*_: object) -> None:
        raise ValueError("expected plain XML, got a document type, whose entities are not to be trusted; take it out")

    def started(name: str, attributes: dict[str, str]) -> None:
        text.clear()
        start(name, attributes, parser.CurrentByteIndex)

    def ended(name: str) -> None:
        end(name, "".join(text).strip(), parser.CurrentByteIndex)
        text.clear()

    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = started
    parser.EndElementHandler = ended
    parser.CharacterDataHandler = text.append
    try:
        if isinstance(stream, bytes):
            parser.Parse(stream, True)
        else:
            parser.ParseFile(stream)
    except expat.ExpatError as error:
        raise ValueError(f"expected XML, got something else ({error})") from None


@dataclass(eq=False)
class _Image:
    """An image element: its attributes, the bytes that it takes, and how many shapes of each kind it has."""

    about: Attributes
    begin: int
    end: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class _Outline:
    """What a file holds, without the shapes themselves.

    Attributes:
        colors: By the category's name.
    """

    images: list[_Image] = field(default_factory=list)
    names: dict[str, None] = field(default_factory=dict)
    colors: dict[str, Color] = field(default_factory=dict)
    tracks: int = 0


def _outline(path: Path) -> _Outline:
    found = _Outline()
    inside: list[str] = []

    def start(name: str, attributes: Attributes, at: int) -> None:
        if not inside and name != "annotations":
            raise ValueError(f"expected the element annotations, got {brief(name)}")
        if name == "image":
            found.images.append(_Image(dict(attributes), at))
        elif inside[-1:] == ["image"] and found.images:
            found.images[-1].kinds[name] += 1
            if name in _AREAS:
                found.names.setdefault(attributes.get("label", ""))
        found.tracks += name == "track"
        inside.append(name)

    def end(name: str, text: str, at: int) -> None:
        inside.pop()
        if name == "image" and found.images:
            found.images[-1].end = at
        elif tuple(inside[-2:]) == _LABEL and name == "name" and text:
            found.names.setdefault(text)
        elif tuple(inside[-2:]) == _LABEL and name == "color" and re.fullmatch("#[0-9a-fA-F]{6}", text) and found.names:
            found.colors[next(reversed(found.names))] = (int(text[1:3], 16), int(text[3:5], 16), int(text[5:], 16))

    with path.open("rb") as stream:
        declared = re.match(rb"(?:\xef\xbb\xbf)?<\?xml[^>]*encoding=[\"']([\w-]+)", stream.read(_LOOKED_AT))
        if declared and declared.group(1).lower() not in _ENCODINGS:
            raise ValueError(f"expected XML in UTF-8, got {declared.group(1).decode()}; save it as UTF-8")
        stream.seek(0)
        _parse(stream, start=start, end=end)
    return found


# --------------------------------------------------------------------------------------------------- in


def _recognises(source: Source) -> bool:
    if source.is_folder or source.path.suffix.lower() != ".xml":
        return False
    with source.path.open("rb") as stream:
        head = stream.read(_LOOKED_AT)
    return re.search(rb"<annotations[\s/>]", head) is not None


def _read(source: Source) -> Labels:
    path = source.path
    try:
        outline = _outline(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not outline.images:
        kind = "CVAT for video; export it as CVAT for images 1.1" if outline.tracks else "none"
        raise ValueError(f"{path}: expected images with their shapes, got {kind}")
    problems = _problems(path, outline)
    listed = [name for name in outline.names if name not in {"", IGNORED_NAME}]
    categories = Categories.listed(listed, _colors(listed, outline.colors))
    near = [path.parent / "images", path.parent, path.parent.parent / "images"]
    finder = Images(*near, deep=near[:1]) if source.images is None else Images(source.images, deep=[source.images])
    named = finder.named_all(each.about.get("name", "") for each in outline.images)
    images: dict[PurePosixPath, Labelled] = {}
    for each in outline.images:
        try:
            found = named[each.about.get("name", "")]
            if isinstance(found, ValueError):
                raise found
            own, image = found
            size = _size(each.about, image)
            name = own if own not in images else relative_name(f"task_{each.about.get('task_id', '2')}/{own}")
        except ValueError as error:
            problems.add(f"{path}, image {brief(each.about.get('name'))}: {error}")
            continue
        if name in images:
            problems.add(f"{path}: left out the image {own}, which is there already")
            continue
        draw = partial(_draw, path, each, size, categories, problems)
        images[name] = Labelled(name, size, path, draw, image)
    return Labels(path, FORMAT.name, list(images.values()), categories, problems)


def _size(about: Attributes, image: Path | None) -> tuple[int, int]:
    """(H, W) as the file says it, or as the image has it where the file does not."""
    if image is not None and not about.get("height") and not about.get("width"):
        return size_of_image(image)
    return checked_size(_whole(about.get("height")), _whole(about.get("width")))


def _problems(path: Path, outline: _Outline) -> Problems:
    kinds: Counter[str] = sum((each.kinds for each in outline.images), Counter())
    problems = Problems()
    if others := ", ".join(f"{kinds[kind]} of type {kind}" for kind in sorted(kinds.keys() & _OTHERS)):
        problems.add(f"{path}: left out shapes that cover nothing: {others}")
    if unknown := ", ".join(f"{kinds[kind]} of type {kind}" for kind in sorted(kinds.keys() - _KNOWN)):
        problems.add(f"{path}: left out shapes of unknown types: {unknown}")
    if outline.tracks:
        problems.add(f"{path}: left out tracks: {outline.tracks}; export videos as CVAT for images 1.1")
    return problems


def _colors(names: list[str], colors: Mapping[str, Color]) -> list[Color]:
    """Give a colour for each name, or none at all where some have none."""
    return [colors[name] for name in names] if all(name in colors for name in names) else []


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,9}", text) else None


def _draw(path: Path, image: _Image, size: tuple[int, int], categories: Categories, problems: Problems) -> list[Thing]:
    found: list[tuple[float, Piece]] = []
    bad: list[tuple[str, ValueError]] = []
    name = image.about.get("name")
    number = 0

    def start(kind: str, about: Attributes, _: int) -> None:
        nonlocal number
        if kind not in _AREAS:
            return
        number += 1
        try:
            label = about.get("label")
            if not label:
                raise ValueError("expected a shape with a label, got none")
            group = about.get("group_id", "0")
            region = visible(_region(kind, about, size))
            piece = Piece(label, region, None if group in {"", "0"} else group)
            found.append((_number(about, "z_order", 0), piece))
        except ValueError as error:
            bad.append((f"{path}, image {name}: shape {number}, {kind}", error))

    if not image.kinds:  # it may be <image ... />
        return []
    with path.open("rb") as stream:
        stream.seek(image.begin)
        element = stream.read(image.end - image.begin) + b"</image>"
    _parse(element, start=start, end=lambda *_: None)
    problems.settle(bad, str(name), is_any_left=bool(found))
    found.sort(key=lambda each: each[0])  # a stable sort: those of one z_order stay in the order of the file
    return assembled((piece for _, piece in found), categories)


def _region(kind: str, about: Attributes, size: tuple[int, int]) -> Region:
    if kind == "polygon":
        return polygon(points([_pair(text) for text in about.get("points", "").split(";") if text]), size)
    if kind == "mask":
        return _mask(about, size)
    degrees = _number(about, "rotation", 0)
    if kind == "box":
        left, top, right, bottom = (_number(about, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        return rectangle((left, top), (right, bottom), size, degrees=degrees)
    x, y, rx, ry = (_number(about, key) for key in ("cx", "cy", "rx", "ry"))
    return ellipse((x, y), (rx, ry), size, degrees=degrees)


def _pair(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise ValueError(f"expected points as x,y;x,y, got {brief(text)}") from None


def _number(about: Attributes, key: str, default: float | None = None) -> float:
    text = about.get(key)
    try:
        value = float("nan" if text is None and default is None else default if text is None else text)  # type: ignore[arg-type]
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"expected {key} as a number, got {brief(text)}")
    return value


def _mask(about: Attributes, size: tuple[int, int]) -> Region:
    left, top, width, height = (int(_number(about, key)) for key in ("left", "top", "width", "height"))
    if not (0 < width <= size[1] and 0 < height <= size[0]):
        raise ValueError(f"expected a mask inside of the image, got one of {width} x {height}")
    text = about.get("rle", "")
    if not re.fullmatch(r"\s*\d{1,9}(\s*,\s*\d{1,9})*\s*", text):
        raise ValueError(f"expected runs as numbers with commas, got {brief(text)}")
    across = rle.to_mask([int(each) for each in text.split(",")], (width, height))  # rows and columns change places
    return pasted(across.T, top, left, size)


# -------------------------------------------------------------------------------------------------- out


@contextmanager
def _write(out: Path, categories: Categories) -> Iterator[Add]:
    count = 0
    with whole_file(out / "annotations.xml") as stream:

        def add(result: Result) -> None:
            nonlocal count
            element = _image(count, result, categories)
            stream.write(element)
            count += 1

        stream.write(_head(categories))
        yield add
        stream.write(b"</annotations>\n")


def _head(categories: Categories) -> bytes:
    palette = categories.palette
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "<version>1.1</version>",
        "<meta><task><labels>",
    ]
    for (_, name), (r, g, b) in zip(categories.names.items(), palette.colors[1:].tolist(), strict=True):
        color = f"<color>#{r:02x}{g:02x}{b:02x}</color>"
        lines.append(f"<label><name>{escape(_legal(name))}</name>{color}<type>any</type><attributes/></label>")
    return "\n".join([*lines, "</labels></task></meta>", ""]).encode()


def _image(number: int, result: Result, categories: Categories) -> bytes:
    height, width = result.size
    name = quoteattr(_legal(result.name.as_posix()))
    lines = [f'<image id="{number}" name={name} width="{width}" height="{height}">']
    for order, thing in enumerate(result.things):
        label = quoteattr(_legal(IGNORED_NAME if thing.is_ignored else categories.names[thing.category]))
        left, top, across, down = thing.box
        runs = ", ".join(map(str, rle.runs(thing.selected.T)))
        lines.append(
            f'<mask label={label} source="auto" occluded="0" rle="{runs}" left="{left}" top="{top}" width="{across}" '
            f'height="{down}" z_order="{order}"/>'
        )
    return "\n".join([*lines, "</image>", ""]).encode()


def _legal(text: str) -> str:
    """Return the text, if XML can hold it."""
    if re.search("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text):
        raise ValueError(f"expected a name that XML can hold, got {brief(text)}; rename it")
    return text


FORMAT: Final = Format("cvat", "CVAT for images 1.1: annotations.xml", _recognises, _read, _write)
