"""LabelMe: a JSON file for each picture, with polygons, rectangles, circles and small masks.

Shapes of one label and group_id are one thing. `mask` shapes hold a PNG, as base64, of the box between their two
points, both inside of it. Lines and points cover nothing and are left out. Shapes called __ignore__ are ignored. The
picture lies at imagePath, seen from the JSON file, or is part of the file (imageData).

Written are polygons, which every version reads; an object's parts share a group_id, and the rings of holes are joined
to their part's (bridges.py says what other tools make of it). The picture is named, not copied into the file.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from PIL import Image

from incontext.annotations.bridges import bridged
from incontext.annotations.core import (
    Add,
    Categories,
    Flags,
    Format,
    Labelled,
    Labels,
    Pictures,
    Result,
    Source,
    Thing,
    brief,
    checked_size,
    is_file,
    picture_size,
    read_json,
)
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
)
from incontext.images.ids import Pixels
from incontext.images.names import natural_order
from incontext.images.outlines import parts
from incontext.images.read import read_image
from incontext.images.write import whole_file

_BACKGROUND_NAME: Final = "_background_"
_NAMES_FILE: Final = "labels.txt"
_POLYGONS: Final = frozenset({"polygon", "oriented_rectangle", "rotation"})
_AREAS: Final = _POLYGONS | {"rectangle", "circle", "mask"}
_VERSION: Final = "5.5.0"  # of LabelMe, whose layout this is
_TRIED: Final = 3  # JSON files of a folder that are looked at to tell what they are
_LARGEST: Final = 32 << 20  # bytes of such a file: a picture may be in it, but not the labels of a whole data set
_USUAL_FOLDERS: Final = ("images", "img", "JPEGImages")


# --------------------------------------------------------------------------------------------------- in


def _recognises(source: Source) -> bool:
    if not source.is_folder:
        return _is_labelme(source.document)
    for path in _json_files(source.path)[:_TRIED]:
        try:
            if path.stat().st_size <= _LARGEST and _is_labelme(read_json(path)):
                return True
        except ValueError:  # broken; told when it is read
            continue
    return False


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
    problems: list[str] = []
    names: dict[str, None] = {}
    pictures = []
    for path in files:
        try:
            document = _document(path)
            picture = _labelled(path, document, root, source.images)
            names |= dict.fromkeys(_names(path, document, problems))
        except ValueError as error:
            problems.append(str(error))
            continue
        pictures.append((path, *picture))
    if not pictures:
        raise ValueError(problems[0] if problems else f"{root}: expected LabelMe's JSON files, got none")
    categories = Categories.listed(_ordered(names, root))
    made = [
        Labelled(name, size, path, partial(_draw, path, size, categories), image, embedded)
        for path, name, size, image, embedded in pictures
    ]
    return Labels(source.path, FORMAT.name, made, categories, problems)


def _document(path: Path) -> Mapping[str, Any]:
    document = read_json(path)
    if not _is_labelme(document):
        raise ValueError(f'{path}: expected a file of LabelMe with "shapes" and "imagePath", got {brief(document)}')
    checked: Mapping[str, Any] = document
    return checked


def _names(path: Path, document: Mapping[str, Any], problems: list[str]) -> list[str]:
    """The labels of the shapes that cover something; of the others it is said how many there are."""
    names = []
    others: Counter[str] = Counter()
    for number, shape in enumerate(document["shapes"], start=1):
        if not isinstance(shape, dict) or not isinstance(label := shape.get("label"), str) or not label:
            raise ValueError(f"{path}, shape {number}: expected a shape with a label, got {brief(shape)}")
        if (kind := _kind(shape)) in _AREAS:
            names.append(label)
        else:
            others[kind] += 1
    if others:
        listed = ", ".join(f"{count} of type {kind}" for kind, count in sorted(others.items()))
        problems.append(f"{path}: left out shapes that cover nothing: {listed}")
    return names


def _kind(shape: Mapping[str, Any]) -> str:
    return str(shape.get("shape_type") or "polygon")  # old versions know nothing else and say nothing


def _ordered(names: Mapping[str, None], root: Path) -> list[str]:
    """The categories: those of labels.txt first, then the others by name."""
    given: list[str] = []
    if is_file(root / _NAMES_FILE):
        lines = (root / _NAMES_FILE).read_bytes().decode("utf-8-sig", "replace").splitlines()
        given = [line.strip() for line in lines if line.strip()]
    special = {IGNORED_NAME, _BACKGROUND_NAME}
    return [name for name in dict.fromkeys([*given, *sorted(names)]) if name not in special]


def _labelled(
    path: Path, document: Mapping[str, Any], root: Path, images: Path | None
) -> tuple[PurePosixPath, tuple[int, int], Path | None, Any]:
    """A file's picture: its name, size, where it lies, and how to read it where it is part of the file."""
    said = document.get("imagePath")
    said = said.replace("\\", "/") if isinstance(said, str) else ""
    suffix = PurePosixPath(said).suffix or ".png"
    name = PurePosixPath(path.relative_to(root).as_posix()).with_suffix(suffix)
    image = _picture(path, said, name, root, images)
    embedded = None
    if image is None and isinstance(document.get("imageData"), str):
        embedded = partial(_embedded, path)
    height, width = document.get("imageHeight"), document.get("imageWidth")
    try:
        if height is not None and width is not None:
            return name, checked_size(height, width), image, embedded
        if image is not None:
            return name, picture_size(image), image, embedded
        if embedded is not None:
            shape = embedded().shape
            return name, (shape[0], shape[1]), image, embedded
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    raise ValueError(f"{path}: expected the picture {brief(said)} or its size, got neither; name its folder (--images)")


def _picture(path: Path, said: str, name: PurePosixPath, root: Path, images: Path | None) -> Path | None:
    """The picture's file. imagePath may lead up to two folders above the one that was opened, and no further up unless
    that is below the working folder: what comes from others is not to say which file of this machine is shown."""
    base = PurePosixPath(said).name
    if not base or base == ".." or "\0" in said:
        return None
    if images is not None:
        return Pictures(images).find(name) or Pictures(images).find(PurePosixPath(base))
    target = Path(os.path.normpath(path.parent.absolute() / said))
    above = Path(os.path.normpath(root.absolute())).parent
    near = (above, above.parent, Path.cwd())
    if any(target.is_relative_to(each) for each in near if each != each.parent) and is_file(target):
        return target
    folders = (path.parent, *(root / each for each in _USUAL_FOLDERS), *(root.parent / each for each in _USUAL_FOLDERS))
    return Pictures(*folders).find(PurePosixPath(base))


def _embedded(path: Path) -> Pixels:
    """(H, W, 3) uint8: the picture that is part of a file."""
    return read_image(_decoded(_document(path).get("imageData"), f"{path}: imageData"))


def _decoded(text: object, name: str) -> Image.Image:
    """An image file as base64."""
    try:
        if not isinstance(text, str):
            raise ValueError(f"expected base64, got {brief(text)}")
        return Image.open(io.BytesIO(base64.b64decode(text, validate=False)))
    except Exception as error:  # noqa: BLE001  a broken header makes decoders raise nearly anything
        raise ValueError(f"{name}: expected an image file as base64, got something else ({error})") from None


def _draw(path: Path, size: tuple[int, int], categories: Categories) -> list[Thing]:
    pieces = []
    for number, shape in enumerate(_document(path)["shapes"], start=1):
        if _kind(shape) not in _AREAS or shape["label"] == _BACKGROUND_NAME:
            continue
        try:
            region = _region(shape, size)
        except ValueError as error:
            raise ValueError(f"{path}, shape {number}: {error}") from None
        group = shape.get("group_id")
        pieces.append(Piece(shape["label"], region, group if isinstance(group, int | str) else None))
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
    """A mask as a PNG in base64 -> (h, w) bool: what is not black."""
    picture = _decoded(text, "mask")
    if picture.width > size[1] or picture.height > size[0]:
        raise ValueError(f"expected a mask inside of the picture, got one of {picture.width} x {picture.height}")
    try:
        return np.asarray(picture if picture.mode in {"1", "L", "P"} else picture.convert("L")) > 0
    except Exception as error:  # noqa: BLE001  as above
        raise ValueError(f"mask: expected a PNG as base64, got a broken one ({error})") from None


# -------------------------------------------------------------------------------------------------- out


@contextmanager
def _write(out: Path, categories: Categories) -> Iterator[Add]:
    def add(result: Result) -> None:
        path = out / result.name.with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
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


FORMAT: Final = Format("labelme", "LabelMe: a JSON file for each picture", _recognises, _read, _write, by_name=True)
