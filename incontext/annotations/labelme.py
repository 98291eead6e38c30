"""LabelMe: a JSON file for each image, with polygons, rectangles, circles and small masks.

Shapes of one label and group_id are one thing. `mask` shapes hold a PNG, as base64, of the box between their two
points, both inside of it. Lines and points cover nothing and are left out. Shapes called __ignore__ are ignored. The
image lies at imagePath, seen from the JSON file, or is part of the file (imageData).

Written are polygons, which every version reads; an object's parts share a group_id, and the rings of holes are joined
to their part's (bridges.py says what other tools make of it). The image is named, not copied into the file.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from incontext.annotations.bridges import bridged
from incontext.annotations.core import Add, Categories, Flags, Format, Labelled, Labels, Result, Source, Thing
from incontext.annotations.joining import Images, is_file
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
from incontext.annotations.values import (
    EncodingError,
    Problems,
    brief,
    checked_size,
    glimpse_json,
    place_of,
    read_json,
    size_of_image,
)
from incontext.images.ids import Pixels
from incontext.images.names import natural_order
from incontext.images.outlines import parts
from incontext.images.read import image_size, open_image, read_image
from incontext.images.text import decoded, other_encodings, python_name
from incontext.images.write import whole_file

_BACKGROUND_NAME: Final = "_background_"
_NAMES_FILE: Final = "labels.txt"
_POLYGONS: Final = frozenset({"polygon", "oriented_rectangle", "rotation"})
_AREAS: Final = _POLYGONS | {"rectangle", "circle", "mask"}
_OTHERS: Final = frozenset({"line", "linestrip", "point", "points"})
_VERSION: Final = "5.5.0"  # of LabelMe, whose layout this is
_TRIED: Final = 3  # JSON files of a folder that are looked at to tell what they are
_LARGEST: Final = 32 << 20  # bytes of such a file: an image may be in it, but not the labels of a whole data set
_USUAL_FOLDERS: Final = ("images", "img", "JPEGImages")


# --------------------------------------------------------------------------------------------------- in


def _recognises(source: Source) -> bool:
    if not source.is_folder:
        return _is_labelme(source.glimpse)
    for path in _json_files(source.path)[:_TRIED]:
        try:
            if path.stat().st_size <= _LARGEST and _is_labelme(_glimpse(path)):
                return True
        except ValueError:  # broken; told when it is read
            continue
    return False


def _glimpse(path: Path) -> object:
    try:
        return read_json(path)
    except EncodingError:
        return glimpse_json(path)


def _is_labelme(document: object) -> bool:
    return (
        isinstance(document, dict)
        and isinstance(document.get("shapes"), list)
        and any(key in document for key in ("imagePath", "imageData"))
    )


def _json_files(folder: Path) -> list[Path]:
    return sorted((p for p in folder.rglob("*.json") if p.name[0] != "." and p.is_file()), key=natural_order)


def _read(source: Source) -> Labels:
    root = source.path if source.is_folder else source.path.parent
    files = _json_files(root) if source.is_folder else [source.path]
    problems = Problems()
    names: dict[str, None] = {}
    others: Counter[str] = Counter()
    finder = _Finder(root, source.images)
    opened = []
    for path in files:
        try:
            each, document = _opened(path, finder)
        except ValueError as error:
            problems.add(str(error))
            continue
        if each.encoding is not None:
            problems.note(f"{path}: read as {each.encoding}, in which it names its image; save it as UTF-8")
        names |= dict.fromkeys(_names(document, others))
        opened.append(each)
    if not opened:
        raise ValueError(problems[0] if problems else f"{root}: expected LabelMe's JSON files, got none")
    for what, kinds in (("that cover nothing", others.keys() & _OTHERS), ("of unknown types", others.keys() - _OTHERS)):
        if kinds:
            listed = ", ".join(f"{others[kind]} of type {kind}" for kind in sorted(kinds))
            problems.add(f"{source.path}: left out shapes {what}: {listed}")
    categories = Categories.listed(_ordered(names, root))
    made = [
        Labelled(
            each.name,
            each.size,
            each.path,
            partial(_draw, each.path, each.encoding, each.size, categories, problems),
            each.image,
            partial(_embedded, each.path, each.encoding) if each.is_embedded else None,
        )
        for each in opened
    ]
    return Labels(source.path, FORMAT.name, made, categories, problems)


@dataclass(frozen=True, eq=False)
class _Opened:
    """A file that can be used.

    Attributes:
        encoding: What people call it, where it is not UTF-8.
        image: Where its image lies.
        is_embedded: It has none, but is part of the file.
    """

    path: Path
    encoding: str | None
    name: PurePosixPath
    size: tuple[int, int]
    image: Path | None
    is_embedded: bool


def _opened(path: Path, finder: _Finder) -> tuple[_Opened, Mapping[str, Any]]:
    document, encoding, image = _with_image(path, finder)
    said = document.get("imagePath")
    suffix = PurePosixPath(said.replace("\\", "/")).suffix if isinstance(said, str) else ""
    name = PurePosixPath(path.relative_to(finder.root).as_posix()).with_suffix(suffix or ".png")
    is_embedded = image is None and isinstance(document.get("imageData"), str)
    size = _size(path, document, encoding, image, is_embedded=is_embedded)
    return _Opened(path, encoding, name, size, image, is_embedded), document


def _with_image(path: Path, finder: _Finder) -> tuple[Mapping[str, Any], str | None, Path | None]:
    """Tell what a file holds, its encoding where that is not UTF-8, and its image, if it is there.

    An encoding that the file does not say is known by the image: it is the one in which that is named. Text in an
    older one may pass for UTF-8.
    """
    content = path.read_bytes()
    refused: EncodingError | None = None
    for encoding in (None, *([] if content.isascii() else other_encodings(content))):
        try:
            document = _document(path, encoding)
            if encoding is not None and str(document.get("imagePath")).isascii():
                continue  # its name tells nothing
            if (image := finder.find(path, document)) is not None:
                return document, encoding, image
        except EncodingError as error:
            refused = error
        except ValueError:
            if encoding is None:
                raise
    if refused is not None:
        raise refused
    return _document(path, None), None, finder.beside(path)


def _document(path: Path, encoding: str | None) -> Mapping[str, Any]:
    document = read_json(path) if encoding is None else json.loads(path.read_bytes().decode(python_name(encoding)))
    if not _is_labelme(document):
        raise ValueError(f'{path}: expected a file of LabelMe with "shapes" and "imagePath", got {brief(document)}')
    checked: Mapping[str, Any] = document
    return checked


def _names(document: Mapping[str, Any], others: Counter[str]) -> list[str]:
    """List the labels of the shapes that may cover something; others of them are counted by their types."""
    names = []
    for shape in document["shapes"]:
        if not isinstance(shape, dict):
            continue  # told where it is drawn
        if (kind := _kind(shape)) not in _AREAS:
            others[kind] += 1
        elif isinstance(label := shape.get("label"), str) and label:
            names.append(label)
    return names


def _kind(shape: Mapping[str, Any]) -> str:
    return str(shape.get("shape_type") or "polygon")  # old versions know nothing else and say nothing


def _ordered(names: Mapping[str, None], root: Path) -> list[str]:
    """List the categories: those of labels.txt first, then the others by name."""
    given: list[str] = []
    if is_file(root / _NAMES_FILE):
        lines = decoded((root / _NAMES_FILE).read_bytes()).splitlines()
        given = [line.strip() for line in lines if line.strip()]
    special = {IGNORED_NAME, _BACKGROUND_NAME}
    return [name for name in dict.fromkeys([*given, *sorted(names)]) if name not in special]


def _size(
    path: Path, document: Mapping[str, Any], encoding: str | None, image: Path | None, *, is_embedded: bool
) -> tuple[int, int]:
    height, width = document.get("imageHeight"), document.get("imageWidth")
    try:
        if height is not None and width is not None:
            return checked_size(height, width)
        if image is not None:
            return size_of_image(image)
        if is_embedded:
            shape = _embedded(path, encoding).shape
            return shape[0], shape[1]
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    said = document.get("imagePath")
    raise ValueError(f"{path}: expected the image {brief(said)} or its size, got neither; name its folder (--images)")


class _Finder:
    """Finds the images of the files below a folder."""

    def __init__(self, root: Path, images: Path | None) -> None:
        self.root = root
        self._images = None if images is None else Images(images, deep=[images])
        self._near: dict[Path, Images] = {}  # by the folder that a file lies in

    def beside(self, path: Path) -> Path | None:
        """Return the image beside a file that has its name.

        Raises:
            ValueError: There are several.
        """
        return Images(path.parent).called(path.stem) if self._images is None else None

    def find(self, path: Path, document: Mapping[str, Any]) -> Path | None:
        """Return the image that a file names, if it is there.

        imagePath may lead up to two folders above the one that was opened, and no further up unless that is below the
        working folder: what comes from others is not to say which file of this machine is shown. ValueError where the
        name means several.
        """
        said = document.get("imagePath")
        said = said.replace("\\", "/") if isinstance(said, str) and "\0" not in said else ""
        if self._images is not None:
            own = path.relative_to(self.root).with_suffix(PurePosixPath(said).suffix or ".png")
            return self._images.find(own.as_posix()) or (self._images.find(said) if said else None)
        if said and (target := self._target(path, said)) is not None:
            return target
        return self._beside(path.parent).find(said) if said else None

    def _target(self, path: Path, said: str) -> Path | None:
        """Return the file at exactly that place, seen from the file that says it."""
        target = Path(os.path.normpath(path.parent.absolute() / said))
        above = Path(os.path.normpath(self.root.absolute())).parent
        near = (above, above.parent, Path.cwd())
        allowed = any(target.is_relative_to(each) for each in near if each != each.parent)
        return target if allowed and is_file(target) else None

    def _beside(self, folder: Path) -> Images:
        if folder not in self._near:
            usual = [root / each for root in (self.root, self.root.parent) for each in _USUAL_FOLDERS]
            self._near[folder] = Images(folder, *usual)
        return self._near[folder]


def _embedded(path: Path, encoding: str | None) -> Pixels:
    """(H, W, 3) uint8: the image that is part of a file."""
    return read_image(_bytes(_document(path, encoding).get("imageData"), "imageData"), name=f"{path}: imageData")


def _bytes(text: object, name: str) -> bytes:
    """Encode an image file as base64."""
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=False)
    except ValueError:
        pass
    raise ValueError(f"{name}: expected an image file as base64, got {brief(text)}")


def _draw(
    path: Path, encoding: str | None, size: tuple[int, int], categories: Categories, problems: Problems
) -> list[Thing]:
    pieces: list[Piece] = []
    bad: list[tuple[str, ValueError]] = []
    for number, shape in enumerate(_document(path, encoding)["shapes"], start=1):
        try:
            if not isinstance(shape, dict) or not isinstance(label := shape.get("label"), str) or not label:
                raise ValueError(f"expected a shape with a label, got {brief(shape)}")
            if _kind(shape) not in _AREAS or label == _BACKGROUND_NAME:
                continue
            group = shape.get("group_id")
            region = visible(_region(shape, size))
            pieces.append(Piece(label, region, group if isinstance(group, int | str) else None))
        except ValueError as error:
            bad.append((f"{path}, shape {number}", error))
    problems.settle(bad, path.stem, is_any_left=bool(pieces))
    return assembled(pieces, categories)


def _region(shape: Mapping[str, Any], size: tuple[int, int]) -> Region:
    kind = _kind(shape)
    if kind in _POLYGONS:
        return polygon(points(shape.get("points")), size)
    corners = points(shape.get("points"), least=2)
    (x0, y0), (x1, y1) = corners[0], corners[1]
    if kind == "rectangle":
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)  # some tools list all four
        return rectangle((left, top), (right, bottom), size)
    if kind == "circle":
        radius = float(np.hypot(x1 - x0, y1 - y0))
        return ellipse((x0, y0), (radius, radius), size)
    return pasted(_small_mask(shape.get("mask"), size), int(min(y0, y1)), int(min(x0, x1)), size)


def _small_mask(text: object, size: tuple[int, int]) -> Flags:
    """Decode a mask from a PNG in base64: (h, w) bool, True where it is not black."""
    content = _bytes(text, "mask")
    try:
        height, width = image_size(content, name="its mask")
        if width > size[1] or height > size[0]:
            raise ValueError(f"expected a mask inside of the image, got one of {width} x {height}")
        image, _ = open_image(content, "mask", name="its mask")
    except ValueError as error:
        raise ValueError(f"mask: expected an image file as base64, got something else ({error})") from None
    return np.asarray(image if image.mode in {"1", "L", "P"} else image.convert("L")) > 0


# -------------------------------------------------------------------------------------------------- out


@contextmanager
def _write(out: Path, categories: Categories) -> Iterator[Add]:
    def add(result: Result) -> None:
        path = place_of(out, result.name.with_suffix(".json"))
        image = result.name.name if result.image is None else _from(path.parent, result.image)
        document: dict[str, object] = {
            "version": _VERSION,
            "flags": {},
            "shapes": list(_shapes(result.things, categories)),
            "imagePath": image,
            "imageData": None,
            "imageHeight": result.size[0],
            "imageWidth": result.size[1],
        }
        with whole_file(path) as stream:
            stream.write(json.dumps(document).encode())

    yield add


def _from(folder: Path, image: Path) -> str:
    try:
        return Path(os.path.relpath(image.absolute(), folder.absolute())).as_posix()
    except ValueError:  # on another drive of Windows
        return image.absolute().as_posix()


def _shapes(things: Sequence[Thing], categories: Categories) -> Iterator[dict[str, object]]:
    for group, thing in enumerate(things, start=1):
        found = parts(thing.selected)
        for part in found:
            yield {
                "label": IGNORED_NAME if thing.is_ignored else categories.names[thing.category],
                "points": (bridged(part) + np.array([thing.left, thing.top])).tolist(),
                "group_id": group if len(found) > 1 else None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
            }


FORMAT: Final = Format("labelme", "LabelMe: a JSON file for each image", _recognises, _read, _write, by_name=True)
