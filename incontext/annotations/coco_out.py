"""COCO's JSON of objects, out: run-length encodings, as polygons of COCO have no holes.

What is ignored is a crowd that is marked by "ignore" as well: some tools mark all objects as crowds.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from incontext.annotations.core import Add, Categories, Result, Thing, things_of
from incontext.images import rle
from incontext.images.write import whole_file

FILE_NAME: Final = "instances.json"
SEMANTIC_FILE_NAME: Final = "semantic.json"


@contextmanager
def write(out: Path, categories: Categories) -> Iterator[Add]:
    """`instances.json`: an annotation for each thing, with its score where one is known."""
    with coco_file(out / FILE_NAME, categories) as put:

        def add(result: Result) -> None:
            put(result, (entry for thing in result.things for entry in entries_of(thing, result.size, categories)))

        yield add


@contextmanager
def write_semantic(out: Path, categories: Categories) -> Iterator[Add]:
    """`semantic.json`: an annotation for each category that an image shows, as COCO's stuff segmentation has it."""
    with coco_file(out / SEMANTIC_FILE_NAME, categories) as put:

        def add(result: Result) -> None:
            scores = {thing.category: thing.confidence for thing in result.things if thing.confidence is not None}
            things = things_of(result.mask, scores)
            put(result, (entry for thing in things for entry in entries_of(thing, result.size, categories)))

        yield add


def entries_of(thing: Thing, size: tuple[int, int], categories: Categories) -> Iterator[dict[str, Any]]:
    """List the annotations of a thing, without ids.

    What is ignored is a crowd, of every category where it has none.
    """
    segmentation, box = rle.from_mask(thing.whole(size)), list(thing.box)
    for category in (thing.category,) if thing.category else categories.ids:
        yield {
            "category_id": category,
            "bbox": box,
            "area": thing.area,
            "iscrowd": int(thing.is_ignored),
            **({"ignore": 1} if thing.is_ignored else {}),
            "segmentation": segmentation,
            **({} if thing.confidence is None else {"score": round(thing.confidence, 4)}),
        }


Put = Callable[[Result, Iterator[dict[str, Any]]], None]


@contextmanager
def coco_file(path: Path, categories: Categories, *, numbered: bool = True) -> Iterator[Put]:
    """Open a COCO file that takes images with their annotations one after another, and appears when all are there.

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
    """Write a category as COCO does, with its colour as panoptic files have it."""
    palette = categories.palette
    color = palette.colors[palette.ids.tolist().index(category)].tolist()
    return {"id": category, "name": categories.names[category], "supercategory": "", "isthing": 1, "color": color}
