"""Masks as images, out: an indexed PNG for each image, or a black and white one for each class in it.

Reading masks is images/masks.py's, and finding the image of each is that of folders of prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from incontext.annotations.core import Add, Categories, Format, Result, paint
from incontext.annotations.values import place_of
from incontext.images.ids import IGNORED, MOST_IDS
from incontext.images.write import write_image, write_mask
from incontext.types import Palette

_UNSAFE: Final = re.compile(r'[\x00-\x1f/\\:*?"<>|]+|^\.+|[. ]+$')
_MOST_LETTERS: Final = 100


@contextmanager
def write_indexed(out: Path, categories: Categories) -> Iterator[Add]:
    """NAME.png: ids as indices, with the categories' colours."""
    table = categories.palette.table

    def add(result: Result) -> None:
        path = place_of(out, result.name.with_suffix(".png"))
        write_mask(path, result.mask, table)

    yield add


@contextmanager
def write_objects(out: Path, _categories: Categories) -> Iterator[Add]:
    """NAME.png: an id for each object of an image, counted from 1 in painting order; at most 254 in an image."""
    table = Palette.spread(range(1, MOST_IDS + 1)).table

    def add(result: Result) -> None:
        path = place_of(out, result.name.with_suffix(".png"))
        write_mask(path, paint(result.things, result.size, "instances"), table)

    yield add


@contextmanager
def write_classes(out: Path, categories: Categories) -> Iterator[Add]:
    """CLASS/NAME.png for each class that an image shows: white where it is, grey (128) where it is ignored."""
    folders = _folders(categories)

    def add(result: Result) -> None:
        for i in np.unique(result.mask).tolist():
            if i in folders:
                path = place_of(out, folders[i] / result.name.with_suffix(".png"))
                values = np.where(result.mask == i, 255, np.where(result.mask == IGNORED, 128, 0))
                write_image(path, values.astype(np.uint8))

    yield add


def _folders(categories: Categories) -> dict[int, str]:
    """Choose a folder's name for each id: the category's, with its id where the name alone would not do."""
    safe = {i: _UNSAFE.sub("_", name)[:_MOST_LETTERS] for i, name in categories.names.items()}
    alike = [name.casefold() for name in safe.values()]
    return {
        i: name if name.strip("_") and alike.count(name.casefold()) == 1 else f"{i}_{name}" for i, name in safe.items()
    }


INDEXED: Final = Format("indexed", "PNG with a palette, one for each image", write=write_indexed, by_name=True)
OBJECTS: Final = Format("objects", "PNG with a palette, an id for each object", write=write_objects, by_name=True)
CLASSES: Final = Format(
    "classes", "black and white PNG, one for each class and image", write=write_classes, by_name=True
)
