"""Label Studio: a JSON export with brush strokes, polygons, rectangles and ellipses; predictions out.

Of a task's annotations one is read: a ground truth if there is one, else the latest that was not skipped; predictions
only where nobody annotated. Coordinates are percentages of the image. A region with several labels has the first.
Regions called __ignore__ are ignored. Images are found by the last part of their address. Of a task with several
images each region is on the one that it is tied to (to_name), and in a list of them on that of its place
(item_index).

Written are tasks with predictions as brush strokes, one for each thing, whose images are addressed below the folder
that Label Studio serves local files from, and beside them the labelling page that fits them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np

from incontext.annotations.brush import pack, unpack
from incontext.annotations.core import Add, Categories, Format, Labelled, Labels, Result, Source, Thing
from incontext.annotations.joining import Images, relative_name
from incontext.annotations.shapes import (
    IGNORED_NAME,
    Piece,
    Region,
    assembled,
    ellipse,
    points,
    polygon,
    rectangle,
    visible,
)
from incontext.annotations.values import Problems, brief, checked_size, is_number, size_of_image
from incontext.images.read import IMAGE_SUFFIXES
from incontext.images.write import whole_file

_AREAS: Final = ("brush", "polygon", "rectangle", "ellipse")  # a region's type is one of them, or one with "labels"
_OTHERS: Final = ("keypoint", "keypointlabels", "vector", "vectorlabels", "bitmask", "bitmasklabels")
_PLACES: Final = frozenset({"x", "y", "points", "vertices", "rle", "imageDataURL"})
_LISTS: Final = ("annotations", "completions", "predictions")
_LOCAL: Final = "/data/local-files/?d="
_TASKS_FILE: Final = "label_studio.json"
_PAGE_FILE: Final = "label_studio.xml"


# --------------------------------------------------------------------------------------------------- in


@dataclass(frozen=True, eq=False)
class _Brushed:
    """A region, its percentages still unread.

    Attributes:
        strokes: Those of a brush, taken out of JSON, which needs more memory.
    """

    kind: str
    name: str
    value: Mapping[str, Any]
    strokes: bytes | None
    confidence: float | None


def _recognises(source: Source) -> bool:
    tasks = source.glimpse
    if not isinstance(tasks, list) or not tasks or not isinstance(tasks[0], dict):
        return False
    return ("data" in tasks[0] and any(key in tasks[0] for key in _LISTS)) or "annotation_id" in tasks[0]


def _read(source: Source) -> Labels:
    path, tasks = source.path, source.document
    if "data" not in tasks[0]:
        raise ValueError(f"{path}: expected Label Studio's JSON, got its JSON-MIN; export it as JSON")
    problems = Problems()
    others: Counter[str] = Counter()
    found: list[_Shown] = []
    for number, task in enumerate(tasks, start=1):
        try:
            chosen = _chosen(task)
            if chosen is None:
                others["tasks that nobody annotated"] += 1
                continue
            for slot, regions in _by_image(task, chosen, others):
                found.append(_Shown(number, task.get("id", number), slot, *_sorted(regions, others)))
        except ValueError as error:
            problems.add(f"{path}, task {number}: {error}")
    categories = Categories.listed(sorted({each.name for shown in found for each in shown.regions} - {IGNORED_NAME}))
    images = _labelled(source, found, categories, problems)
    if not images:
        raise ValueError(problems[0] if problems else f"{path}: expected annotated tasks, got none")
    for what, count in sorted((+others).items()):
        problems.add(f"{path}: left out {what}: {count}")
    return Labels(path, FORMAT.name, images, categories, problems)


def _labelled(source: Source, found: Sequence[_Shown], categories: Categories, problems: Problems) -> list[Labelled]:
    """List the images of all tasks that can be used."""
    path = source.path
    near = [path.parent, *(path.parent / each for each in ("images", "upload"))]
    finder = Images(*near, deep=near[1:]) if source.images is None else Images(source.images, deep=[source.images])
    named = finder.named_all(shown.slot.name for shown in found)
    images: dict[PurePosixPath, Labelled] = {}
    for shown in found:
        try:
            name, joined = relative_name(shown.slot.name), named[shown.slot.name]
            if isinstance(joined, ValueError):
                raise joined
            if name in images:
                name = relative_name(f"task_{shown.task}/{name}")
            size = _size(shown.about, joined[1])
            bad = [(f"{path}, task {shown.number}", error) for error in shown.bad]
            problems.settle(bad, str(name), is_any_left=bool(shown.regions))
        except ValueError as error:
            where = f"{path}, task {shown.number}"
            problems.add(str(error) if str(error).startswith(where) else f"{where}: {error}")
            continue
        draw = partial(_draw, f"{path}, {name}", shown.regions, size, categories, problems)
        images[name] = Labelled(name, size, path, draw, joined[1])
    return list(images.values())


def _chosen(task: object) -> list[Mapping[str, Any]] | None:
    """List the regions of the annotation that counts, or None where there is none."""
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


class _Slot(NamedTuple):
    """An image of a task: the key of its data, its place where that is a list, and the name that its address says."""

    key: str
    place: int | None
    name: str


@dataclass(frozen=True, eq=False)
class _Shown:
    """What was found of an image.

    Attributes:
        number: Of its task in the file.
        task: What the file calls that.
        about: Its regions as they are in the file.
        bad: What is wrong with those that cannot be used.
    """

    number: int
    task: object
    slot: _Slot
    about: Sequence[Mapping[str, Any]]
    regions: Sequence[_Brushed]
    bad: Sequence[ValueError]


def _slots(data: Mapping[str, Any]) -> list[_Slot]:
    """List the images of a task, in the order of its data."""
    slots = []
    for key, value in data.items():
        listed = value if isinstance(value, list) else [value]
        for place, address in enumerate(listed):
            name = _name(address) if isinstance(address, str) else PurePosixPath()
            if name.suffix.lower() in IMAGE_SUFFIXES:
                relative_name(name.as_posix())  # for what it says of a name that leads out
                slots.append(_Slot(str(key), place if isinstance(value, list) else None, name.as_posix()))
    if not slots:
        raise ValueError(f"expected data with the address of an image, got {brief(data)}")
    return slots


def _by_image(
    task: Mapping[str, Any], regions: Sequence[Mapping[str, Any]], others: Counter[str]
) -> list[tuple[_Slot, list[Mapping[str, Any]]]]:
    """Give each image that was annotated, with the regions on it.

    Of a list of images these are all, of several data with an image each those that a region is on, or else the
    first.
    """
    slots = _slots(task["data"])
    on: dict[_Slot, list[Mapping[str, Any]]] = {slot: [] for slot in slots}
    unclear = 0
    for region in regions:
        slot = slots[0] if len(slots) == 1 else _slot_of(region, slots)
        if slot is not None:
            on[slot].append(region)
        elif _has_area(region):
            unclear += 1
    others["regions of which it is not clear on which image they are"] += unclear
    keys = {slot.key for slot, found in on.items() if found} or {slots[0].key}
    shown = [(slot, found) for slot, found in on.items() if slot.key in keys]
    return [(slot, found) for slot, found in shown if found or not unclear]


def _slot_of(region: Mapping[str, Any], slots: Sequence[_Slot]) -> _Slot | None:
    """Return the image that a region is on.

    It is known by what the region is tied to (to_name), and by its place in a list (item_index).
    """
    keys = list(dict.fromkeys(slot.key for slot in slots))
    to = str(region.get("to_name", "")).casefold()
    like = [key for key in keys if key.casefold() == to]
    like = like or [key for key in keys if to and (to in key.casefold() or key.casefold() in to)]
    if len(keys) > 1 and len(like) != 1:
        return None
    key = like[0] if len(like) == 1 else keys[0]
    index = region.get("item_index")
    of_key = [slot for slot in slots if slot.key == key]
    if len(of_key) == 1 and index in (None, of_key[0].place):
        return of_key[0]
    return next((slot for slot in of_key if slot.place == index and isinstance(index, int)), None)


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
                raise ValueError(f"expected an upright image, got one turned by {brief(region['image_rotation'])}")
            return checked_size(region["original_height"], region.get("original_width"))
    if image is None:
        raise ValueError("expected the image or its size, got neither; name the images' folder (--images)")
    return size_of_image(image)


def _sorted(
    regions: Sequence[Mapping[str, Any]], others: Counter[str]
) -> tuple[Sequence[Mapping[str, Any]], list[_Brushed], list[ValueError]]:
    """List the regions themselves, those that cover something, and what is wrong with others.

    Some labelling pages give shape and label in two results of one id.
    """
    apart = {str(each.get("id")): each["value"].get("labels") for each in regions if _has_value(each, "labels")}
    found: list[_Brushed] = []
    bad: list[ValueError] = []
    nameless = 0
    for region in regions:
        said = str(region.get("type", "")).lower()
        kind = said.removesuffix("labels")
        value = region.get("value")
        if kind not in _AREAS or not isinstance(value, dict):
            if _has_area(region):
                others[f"regions of type {said}"] += 1
            continue
        names = value.get(f"{kind}labels") or value.get("labels") or apart.get(str(region.get("id")))
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            others["regions without a label"] += 1
            nameless += 1
            continue
        score = region.get("score")
        confidence = float(score) if is_number(score) and 0 <= score <= 1 else None
        about = {key: each for key, each in value.items() if key != "rle"}
        try:
            strokes = _strokes(value) if kind == "brush" else None
        except ValueError as error:
            bad.append(error)
            continue
        found.append(_Brushed(kind, names[0], about, strokes, confidence))
    if nameless and not found:
        bad.append(ValueError("expected regions with a label, got others alone"))
    return regions, found, bad


def _has_area(region: Mapping[str, Any]) -> bool:
    """Whether it says where something is, rather than what an image shows on the whole."""
    value = region.get("value")
    said = str(region.get("type", "")).lower()
    return said in _OTHERS or (isinstance(value, dict) and bool(value.keys() & _PLACES))


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


def _draw(
    where: str, regions: Sequence[_Brushed], size: tuple[int, int], categories: Categories, problems: Problems
) -> list[Thing]:
    pieces: list[Piece] = []
    bad: list[tuple[str, ValueError]] = []
    for number, region in enumerate(regions, start=1):
        try:
            pieces.append(Piece(region.name, visible(_region(region, size)), confidence=region.confidence))
        except ValueError as error:
            bad.append((f"{where}, {region.kind} {number}", error))
    problems.settle(bad, where, is_any_left=bool(pieces))
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
    """Make the labelling page: the image, and a brush for each category."""
    lines = ['<View><Image name="image" value="$image"/>', '<BrushLabels name="label" toName="image">']
    colors = categories.palette.colors[1:].tolist()
    for name, (r, g, b) in zip(categories.names.values(), colors, strict=True):
        lines.append(f'<Label value={quoteattr(name)} background="#{r:02x}{g:02x}{b:02x}"/>')
    return "\n".join([*lines, "</BrushLabels></View>", ""])


FORMAT: Final = Format("label-studio", "Label Studio: a JSON export", _recognises, _read, _write)
