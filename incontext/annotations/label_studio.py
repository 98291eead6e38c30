"""Label Studio: a JSON export with brush strokes, polygons, rectangles and ellipses; predictions out.

Of a task's annotations one is read: a ground truth if there is one, else the latest that was not skipped; predictions
only where nobody annotated. Coordinates are percentages of the picture. A region with several labels has the first.
Regions called __ignore__ are ignored. Pictures are found by the last part of their address, with or without the eight
letters that an upload puts before a name.

Written are tasks with predictions as brush strokes, one for each thing, whose pictures are addressed below the folder
that Label Studio serves local files from, and beside them the labelling page that fits them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np

from incontext.annotations.brush import pack, unpack
from incontext.annotations.core import (
    Add,
    Categories,
    Format,
    Labelled,
    Labels,
    Pictures,
    Result,
    Source,
    Thing,
    brief,
    checked_size,
    is_number,
    picture_size,
    relative_name,
)
from incontext.annotations.shapes import IGNORED_NAME, Piece, Region, assembled, ellipse, points, polygon, rectangle
from incontext.images.read import IMAGE_SUFFIXES
from incontext.images.write import whole_file

_AREAS: Final = ("brush", "polygon", "rectangle", "ellipse")  # a region's type is one of them, or one with "labels"
_OTHERS: Final = ("keypoint", "keypointlabels", "vector", "vectorlabels", "bitmask", "bitmasklabels")
_LISTS: Final = ("annotations", "completions", "predictions")
_LOCAL: Final = "/data/local-files/?d="
_UPLOADED: Final = re.compile(r"[0-9a-f]{8}-(?=.)")
_TASKS_FILE: Final = "label_studio.json"
_PAGE_FILE: Final = "label_studio.xml"


# --------------------------------------------------------------------------------------------------- in


@dataclass(frozen=True, eq=False)
class _Brushed:
    """A region, its percentages still unread. strokes: those of a brush, taken out of JSON, which needs more memory."""

    kind: str
    name: str
    value: Mapping[str, Any]
    strokes: bytes | None
    confidence: float | None


def _recognises(source: Source) -> bool:
    tasks = source.document
    if not isinstance(tasks, list) or not tasks or not isinstance(tasks[0], dict):
        return False
    return ("data" in tasks[0] and any(key in tasks[0] for key in _LISTS)) or "annotation_id" in tasks[0]


def _read(source: Source) -> Labels:
    path, tasks = source.path, source.document
    if "data" not in tasks[0]:
        raise ValueError(f"{path}: expected Label Studio's JSON, got its JSON-MIN; export it as JSON")
    problems: list[str] = []
    others: Counter[str] = Counter()
    folders = Pictures(source.images, path.parent, *(path.parent / each for each in ("images", "upload")))
    found: dict[PurePosixPath, tuple[tuple[int, int], list[_Brushed], Path | None]] = {}
    for number, task in enumerate(tasks, start=1):
        try:
            chosen = _chosen(task)
            if chosen is None:
                others["tasks that nobody annotated"] += 1
                continue
            name, image = _picture(task, folders)
            name = name if name not in found else PurePosixPath(f"task_{task.get('id', number)}", name)
            found[name] = (_size(chosen, image), list(_brushed(chosen, others)), image)
        except ValueError as error:
            problems.append(f"{path}, task {number}: {error}")
    if not found:
        raise ValueError(problems[0] if problems else f"{path}: expected annotated tasks, got none")
    problems += [f"{path}: left out {what}: {count}" for what, count in sorted(others.items())]
    names = {region.name for _, regions, _ in found.values() for region in regions} - {IGNORED_NAME}
    categories = Categories.listed(sorted(names))
    pictures = [
        Labelled(name, size, path, partial(_draw, f"{path}, {name}", regions, size, categories), image)
        for name, (size, regions, image) in found.items()
    ]
    return Labels(path, FORMAT.name, pictures, categories, problems)


def _chosen(task: object) -> list[Mapping[str, Any]] | None:
    """The regions of the annotation that counts, or None where there is none."""
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise ValueError(f"expected a task with data, got {brief(task)}")
    made = [each for key in _LISTS[:2] for each in _dicts(task.get(key)) if not each.get("was_cancelled")]
    usable = [each for each in made if each.get("ground_truth")] or made or _dicts(task.get("predictions"))
    if not usable:
        return None
    latest = max(enumerate(usable), key=lambda each: (str(each[1].get("updated_at", "")), each[0]))[1]
    return _dicts(latest.get("result"))


def _dicts(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _picture(task: Mapping[str, Any], folders: Pictures) -> tuple[PurePosixPath, Path | None]:
    """The picture's name, from its address, and where it lies."""
    texts = [each for each in task["data"].values() if isinstance(each, str)]
    addresses = [each for each in texts if _name(each).suffix.lower() in IMAGE_SUFFIXES]
    if not addresses:
        raise ValueError(f"expected data with the address of a picture, got {brief(task['data'])}")
    name = relative_name(_name(addresses[0]).as_posix())
    plain = name.with_name(_UPLOADED.sub("", name.name, count=1))
    candidates = dict.fromkeys([name, PurePosixPath(name.name), plain, PurePosixPath(plain.name)])
    image = next((path for each in candidates if (path := folders.find(each)) is not None), None)
    return name, image


def _name(address: str) -> PurePosixPath:
    """Of a local file the path below the folder that is served, of anything else the last part."""
    try:
        parts = urlsplit(address)
        served = parse_qs(parts.query).get("d", [""])[0] if parts.path.startswith("/data/local-files") else ""
    except ValueError:  # no address
        return PurePosixPath()
    return PurePosixPath(served) if served else PurePosixPath(PurePosixPath(unquote(parts.path)).name)


def _size(regions: Sequence[Mapping[str, Any]], image: Path | None) -> tuple[int, int]:
    for region in regions:
        if region.get("original_height") is not None:
            if region.get("image_rotation"):
                raise ValueError(f"expected an upright picture, got one turned by {brief(region['image_rotation'])}")
            return checked_size(region["original_height"], region.get("original_width"))
    if image is None:
        raise ValueError("expected the picture or its size, got neither; name the pictures' folder (--images)")
    return picture_size(image)


def _brushed(regions: Sequence[Mapping[str, Any]], others: Counter[str]) -> Iterator[_Brushed]:
    """The regions that cover something. Some labelling pages give shape and label in two results of one id."""
    apart = {each.get("id"): each["value"].get("labels") for each in regions if _has_value(each, "labels")}
    for region in regions:
        said = str(region.get("type", "")).lower()
        kind = said.removesuffix("labels")
        value = region.get("value")
        if kind not in _AREAS or not isinstance(value, dict):
            if said in _OTHERS:
                others[f"regions of type {said}"] += 1
            continue
        names = value.get(f"{kind}labels") or value.get("labels") or apart.get(region.get("id"))
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            others["regions without a label"] += 1
            continue
        score = region.get("score")
        confidence = float(score) if is_number(score) and 0 <= score <= 1 else None
        about = {key: each for key, each in value.items() if key != "rle"}
        yield _Brushed(kind, names[0], about, _strokes(value) if kind == "brush" else None, confidence)


def _has_value(region: Mapping[str, Any], kind: str) -> bool:
    return region.get("type") == kind and isinstance(region.get("value"), dict)


def _strokes(value: Mapping[str, Any]) -> bytes:
    listed = value.get("rle")
    try:
        if not isinstance(listed, list):  # of a number, bytes() would make so many zeros
            raise TypeError
        return bytes(listed)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"expected brush strokes as numbers in 0..255, got {brief(listed)}") from None


def _draw(where: str, regions: Sequence[_Brushed], size: tuple[int, int], categories: Categories) -> list[Thing]:
    pieces = []
    for number, region in enumerate(regions, start=1):
        try:
            pieces.append(Piece(region.name, _region(region, size), confidence=region.confidence))
        except ValueError as error:
            raise ValueError(f"{where}, {region.kind} {number}: {error}") from None
    return assembled(pieces, categories)


def _region(region: _Brushed, size: tuple[int, int]) -> Region:
    value = region.value
    if region.strokes is not None:
        return Region(unpack(region.strokes, size), 0, 0)
    scale = np.array([size[1], size[0]]) / 100
    if region.kind == "polygon":
        return polygon(points(value.get("points")) * scale, size)
    degrees = value.get("rotation", 0)
    if not is_number(degrees):
        raise ValueError(f"expected a rotation in degrees, got {brief(degrees)}")
    first = points([[value.get("x"), value.get("y")]])[0] * scale
    keys = ("width", "height") if region.kind == "rectangle" else ("radiusX", "radiusY")
    extent = points([[value.get(key) for key in keys]])[0] * scale
    x, y = float(first[0]), float(first[1])
    if region.kind == "ellipse":
        return ellipse((x, y), (float(extent[0]), float(extent[1])), size, degrees=degrees)
    return rectangle((x, y), (x + float(extent[0]), y + float(extent[1])), size, degrees=degrees, about=(x, y))


# -------------------------------------------------------------------------------------------------- out


@contextmanager
def _write(out: Path, categories: Categories) -> Iterator[Add]:
    first = True
    with whole_file(out / _TASKS_FILE) as stream:

        def add(result: Result) -> None:
            nonlocal first
            stream.write((b"" if first else b",\n") + json.dumps(_task(result, categories)).encode())
            first = False

        stream.write(b"[\n")
        yield add
        stream.write(b"\n]\n")
    with whole_file(out / _PAGE_FILE) as stream:
        stream.write(_page(categories).encode())


def _task(result: Result, categories: Categories) -> dict[str, object]:
    regions = []
    for number, thing in enumerate(result.things, start=1):
        label = IGNORED_NAME if thing.is_ignored else categories.names[thing.category]
        region: dict[str, object] = {
            "id": f"thing{number}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": result.size[1],
            "original_height": result.size[0],
            "image_rotation": 0,
            "value": {"format": "rle", "rle": list(pack(thing.whole(result.size))), "brushlabels": [label]},
        }
        regions.append(region if thing.confidence is None else {**region, "score": round(thing.confidence, 4)})
    address = _LOCAL + quote(result.name.as_posix().encode("utf-8", "surrogateescape"))
    return {"data": {"image": address}, "predictions": [{"model_version": "incontext", "result": regions}]}


def _page(categories: Categories) -> str:
    """The labelling page: the picture, and a brush for each category."""
    lines = ['<View><Image name="image" value="$image"/>', '<BrushLabels name="label" toName="image">']
    colors = categories.palette.colors[1:].tolist()
    for name, (r, g, b) in zip(categories.names.values(), colors, strict=True):
        lines.append(f'<Label value={quoteattr(name)} background="#{r:02x}{g:02x}{b:02x}"/>')
    return "\n".join([*lines, "</BrushLabels></View>", ""])


FORMAT: Final = Format("label-studio", "Label Studio: a JSON export", _recognises, _read, _write)
