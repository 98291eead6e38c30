"""COCO's JSON of objects, in and out: polygons, both run-length encodings, crowds, categories by name.

Read: `instances_*.json` and what else has "images" and "annotations"; crowds (iscrowd 1) are ignored, and what overlaps
is drawn in the file's order, so the later one lies on top. Polygons get the pixels that pycocotools gives them. Written
(`instances.json`): run-length encodings, as polygons of COCO have no holes. Panoptic files are panoptic.py's.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

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
    relative_name,
    things_of,
)
from incontext.images import rle
from incontext.images.ids import MOST_IDS, Color
from incontext.images.outlines import filled_as_coco
from incontext.images.write import whole_file

FILE_NAME: Final = "instances.json"
SEMANTIC_FILE_NAME: Final = "semantic.json"

_MOST_OUTSIDE: Final = 10_000  # pixels that a corner may lie outside of a picture: edges are walked step by step


# ------------------------------------------------------------------------------------------------- in


def recognises(source: Source) -> bool:
    """A JSON file with images and annotations that are not panoptic."""
    return source.has_keys("images", "annotations") and not _is_panoptic(source.document)


def _is_panoptic(document: Mapping[str, Any]) -> bool:
    annotations = document["annotations"]
    return isinstance(annotations, list) and any(isinstance(a, dict) and "segments_info" in a for a in annotations[:1])


def read(source: Source) -> Labels:
    """The pictures of a COCO file with their objects; an annotation that cannot be used is left out, and told."""
    path, document = source.path, source.document
    problems: list[str] = []
    objects: defaultdict[object, list[dict[str, Any]]] = defaultdict(list)
    annotations = listed(path, document, "annotations")
    categories, ids = read_categories(path, document, (a.get("category_id") for a in annotations))
    images = read_images(path, document, problems)
    for number, annotation in enumerate(annotations):
        image, category = key_of(annotation.get("image_id")), key_of(annotation.get("category_id"))
        trouble: str | None
        if image not in images:
            trouble = f"expected the id of an image, got {brief(annotation.get('image_id'))}"
        elif category not in ids:
            trouble = f"expected the id of a category, got {brief(annotation.get('category_id'))}"
        else:
            trouble = _trouble(annotation.get("segmentation"), images[image][1])
        if trouble is None:
            objects[image].append(annotation)
        else:
            problems.append(f"{path}: annotation {brief(annotation.get('id', number))}: {trouble}")
    pictures = pictures_of(source)
    found = [
        Labelled(name, size, path, partial(_draw, path, objects[key], ids, size), pictures.find(name))
        for key, (name, size) in images.items()
    ]
    return Labels(path, FORMAT.name, found, categories, problems)


def listed(path: Path, document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects of a list of the document. ValueError where it is none."""
    values = document.get(key)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError(f'{path}: expected "{key}", a list of objects, got {brief(values)}')
    return values


def key_of(value: object) -> object:
    """The id of an image or a category, for a dict: numbers and text that say the same are the same; else None."""
    if type(value) is int:
        return str(value)
    if isinstance(value, str) or is_number(value):
        text = str(int(value)) if isinstance(value, float) and value == int(value) else str(value)
        return text.strip()
    return None


def read_categories(
    path: Path, document: Mapping[str, Any], used: Iterator[object]
) -> tuple[Categories, dict[object, int]]:
    """The categories of a document, and the id here for each of its own ids: the same where all are in 1..254, else
    counted from 1 in the order of the file. Of more than 254 those count that are used."""
    entries: dict[object, dict[str, Any]] = {}
    for entry in listed(path, document, "categories"):
        key = key_of(entry.get("id"))
        if key is None or entries.setdefault(key, entry) is not entry:
            raise ValueError(f"{path}: expected categories with an id of their own each, got {brief(entry)}")
        if not isinstance(entry.get("name"), str):
            raise ValueError(f"{path}: expected categories with names, got {brief(entry)}")
    if len(entries) > MOST_IDS:
        wanted = {key_of(each) for each in used}
        entries = {key: entry for key, entry in entries.items() if key in wanted}
    if len(entries) > MOST_IDS:
        raise ValueError(
            f"{path}: expected at most 254 categories with annotations, got {len(entries)}; split the file"
        )
    own = {key: int(str(key)) for key in entries if str(key).isdecimal() and len(str(key)) <= 3}
    kept = len(own) == len(entries) == len(set(own.values())) and all(0 < i <= MOST_IDS for i in own.values())
    ids = own if kept else {key: number for number, key in enumerate(entries, start=1)}
    names = {ids[key]: entry["name"] for key, entry in entries.items()}
    colors = {ids[key]: color for key, entry in entries.items() if (color := _color(entry.get("color"))) is not None}
    return Categories(names, colors), dict(ids)


def _color(value: object) -> Color | None:
    if isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    return None


def read_images(path: Path, document: Mapping[str, Any], problems: list[str]) -> dict[object, tuple[Any, Any]]:
    """id -> (name, size) of each image that can be used."""
    images: dict[object, tuple[Any, Any]] = {}
    for number, entry in enumerate(listed(path, document, "images")):
        what, key = f"{path}: image {brief(entry.get('id', number))}", key_of(entry.get("id"))
        if key is None or key in images:
            problems.append(f"{what}: expected an id of its own, got {brief(entry.get('id'))}")
            continue
        try:
            name, size = relative_name(entry.get("file_name")), checked_size(entry.get("height"), entry.get("width"))
        except ValueError as error:
            problems.append(f"{what}: {error}")
            continue
        images[key] = name, size
    return images


def pictures_of(source: Source) -> Pictures:
    """Where the pictures of a COCO file are looked for: beside it, in images/, in the folder that it is named after
    (train2017 for instances_train2017.json), and in all of these one folder further up."""
    if source.images is not None:
        return Pictures(source.images)
    here, split = source.path.absolute().parent, source.path.stem.rpartition("_")[2]
    inside = ("", "images", split, f"images/{split}")
    return Pictures(*(folder / each for folder in (here, here.parent) for each in inside if (folder / each).is_dir()))


def _trouble(segmentation: object, size: tuple[int, int]) -> str | None:
    """What is wrong with a segmentation, or None."""
    if isinstance(segmentation, list) and segmentation:
        troubles = (_ring_trouble(ring, size) for ring in segmentation)
        return next((trouble for trouble in troubles if trouble is not None), None)
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str | list):
        came = segmentation.get("size")
        if came == list(size):
            return None
        return f"expected runs of the picture's size {list(size)} (height, width), got {brief(came)}"
    return f"expected polygons or run lengths as segmentation, got {brief(segmentation)}"


def _ring_trouble(ring: object, size: tuple[int, int]) -> str | None:
    if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2 or not _are_numbers(ring):
        return f"expected a polygon [x1, y1, x2, y2, ...] of at least 3 corners and finite numbers, got {brief(ring)}"
    if min(ring) < -_MOST_OUTSIDE or max(ring) > max(size) + _MOST_OUTSIDE:
        return f"expected a polygon in its picture of {size[1]} x {size[0]}, got {brief(ring)}"
    return None


def _are_numbers(values: list[Any]) -> bool:
    """As `is_number` of each, but quick: large files have tens of millions of them."""
    try:
        return set(map(type, values)) <= {int, float} and all(map(math.isfinite, values))
    except OverflowError:
        return False


def _draw(
    path: Path, annotations: Sequence[Mapping[str, Any]], ids: Mapping[object, int], size: tuple[int, int]
) -> list[Thing]:
    things = []
    for annotation in annotations:
        category, ignored = ids[key_of(annotation["category_id"])], bool(annotation.get("iscrowd"))
        score = annotation.get("score")
        confidence = float(score) if is_number(score) and 0 <= score <= 1 else None
        try:
            selected, top, left = _pixels(annotation["segmentation"], size)
        except ValueError as error:
            raise ValueError(f"{path}: annotation {brief(annotation.get('id'))}: {error}") from None
        thing = Thing.cut(category, selected, top=top, left=left, confidence=confidence, is_ignored=ignored)
        things += [thing] if thing is not None else []
    return things


def _pixels(segmentation: Any, size: tuple[int, int]) -> tuple[np.ndarray, int, int]:
    """The pixels of a segmentation, in a box, and the box's top and left."""
    if isinstance(segmentation, dict):
        return rle.to_mask(segmentation["counts"], size), 0, 0
    filled = [filled_as_coco(np.array(ring, np.float64).reshape(-1, 2), size) for ring in segmentation]
    if len(filled) == 1:
        return filled[0]
    selected = np.zeros(size, np.bool_)
    for part, top, left in filled:
        selected[top : top + part.shape[0], left : left + part.shape[1]] |= part
    return selected, 0, 0


# ------------------------------------------------------------------------------------------------ out


@contextmanager
def write(out: Path, categories: Categories) -> Iterator[Add]:
    """`instances.json`: an annotation for each thing, with its score where one is known."""
    with coco_file(out / FILE_NAME, categories) as put:

        def add(result: Result) -> None:
            put(result, (entry for thing in result.things for entry in entries_of(thing, result.size, categories)))

        yield add


@contextmanager
def write_semantic(out: Path, categories: Categories) -> Iterator[Add]:
    """`semantic.json`: an annotation for each category that a picture shows, as COCO's stuff segmentation has it."""
    with coco_file(out / SEMANTIC_FILE_NAME, categories) as put:

        def add(result: Result) -> None:
            scores = {thing.category: thing.confidence for thing in result.things if thing.confidence is not None}
            things = things_of(result.mask, scores)
            put(result, (entry for thing in things for entry in entries_of(thing, result.size, categories)))

        yield add


def entries_of(thing: Thing, size: tuple[int, int], categories: Categories) -> Iterator[dict[str, Any]]:
    """The annotations of a thing, without ids. What is ignored is a crowd, of every category where it has none."""
    segmentation, box = rle.from_mask(thing.whole(size)), list(thing.box)
    for category in (thing.category,) if thing.category else categories.ids:
        yield {
            "category_id": category,
            "bbox": box,
            "area": thing.area,
            "iscrowd": int(thing.is_ignored),
            "segmentation": segmentation,
            **({} if thing.confidence is None else {"score": round(thing.confidence, 4)}),
        }


Put = Callable[[Result, Iterator[dict[str, Any]]], None]


@contextmanager
def coco_file(path: Path, categories: Categories, *, numbered: bool = True) -> Iterator[Put]:
    """A COCO file that takes pictures with their annotations one after another, and appears when all are there.

    numbered: annotations get ids. Annotations wait on disk, as they come after all images in the file.
    """
    image = annotation = 0
    with whole_file(path) as stream, tempfile.TemporaryFile(dir=path.parent) as waiting:
        stream.write(b'{"images": [')

        def put(result: Result, entries: Iterator[dict[str, Any]]) -> None:
            nonlocal image, annotation
            image += 1
            height, width = result.size
            entry = {"id": image, "file_name": result.name.as_posix(), "height": height, "width": width}
            _append(stream, entry, first=image == 1)
            for each in entries:
                annotation += 1
                number = {"id": annotation} if numbered else {}
                _append(waiting, {**number, "image_id": image, **each}, first=annotation == 1)

        yield put
        stream.write(b'\n],\n"annotations": [')
        waiting.seek(0)
        while block := waiting.read(1 << 20):
            stream.write(block)
        stream.write(b'\n],\n"categories": [')
        for category in categories.ids:
            _append(stream, category_entry(categories, category), first=category == categories.ids[0])
        stream.write(b"\n]}\n")


def _append(stream: BinaryIO | Any, entry: Mapping[str, Any], *, first: bool) -> None:
    text = json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace")
    stream.write((b"\n" if first else b",\n") + text)


def category_entry(categories: Categories, category: int) -> dict[str, Any]:
    """A category as COCO writes it, with its colour as panoptic files have it."""
    palette = categories.palette
    color = palette.colors[palette.ids.tolist().index(category)].tolist()
    return {"id": category, "name": categories.names[category], "supercategory": "", "isthing": 1, "color": color}


FORMAT: Final = Format("coco", "COCO instances: JSON with polygons or run lengths", recognises, read, write)
SEMANTIC: Final = Format("coco-semantic", "COCO stuff: one annotation for each category", write=write_semantic)
