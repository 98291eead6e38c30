"""Labels whose things a namer has named, to be written in any format.

Refuses to know the namer's networks, and what the formats are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from incontext.annotations import Categories, Labelled, Labels, Thing
from incontext.annotations.instances import split
from incontext.folder.labelled import LabelledImages
from incontext.images.ids import Pixels
from incontext.images.read import read_image

Flags = npt.NDArray[np.bool_]


class NamesMasks(Protocol):
    """What names masks: `incontext.prompters.Namer`."""

    def name(
        self, image: Pixels, masks: Sequence[Flags], names: Sequence[str], *, at_least: float | None = None
    ) -> list[tuple[str | None, float]]:
        """Name masks of an image: for each its name, or None, and a score 0..1."""


def named(
    labels: Labels,
    namer: NamesMasks,
    names: Sequence[str],
    *,
    at_least: float | None = None,
    instances: bool = False,
    smallest: int = 1,
    on_unnamed: Callable[[int], None] | None = None,
) -> Labels:
    """Name the things of labels; their categories are then the names, in their order, ids from 1.

    What they were called before does not matter. A thing that none of the names fits is left out.

    Args:
        labels: Masks with their images.
        namer: Who names them.
        names: Those that may be given, all different.
        at_least: See `Namer.name`.
        instances: Name each connected part of a thing by itself.
        smallest: Leave out things with fewer pixels.
        on_unnamed: Called for each image with how many things none of the names fitted, if any.
    """
    ids = {name: i for i, name in enumerate(names, start=1)}

    def draw(each: Labelled) -> list[Thing]:
        image = image_of(each)
        things = [thing for thing in each.draw() if not thing.is_ignored]
        things = split(things, smallest=smallest) if instances else [t for t in things if t.area >= smallest]
        masks = [mask_of(thing, each.size) for thing in things]
        called = namer.name(image, masks, names, at_least=at_least)
        found = [
            replace(thing, category=ids[name], confidence=score)
            for thing, (name, score) in zip(things, called, strict=True)
            if name is not None
        ]
        if on_unnamed is not None and len(found) < len(things):
            on_unnamed(len(things) - len(found))
        return found

    def make() -> Iterator[Labelled]:
        for each in labels:
            yield replace(each, draw=partial(draw, each))

    return replace(
        labels, images=LabelledImages(len(labels), make), categories=Categories({i: name for name, i in ids.items()})
    )


def mask_of(thing: Thing, size: tuple[int, int]) -> Flags:
    """Return a thing as (H, W) bool of its image's size."""
    mask = np.zeros(size, np.bool_)
    height, width = thing.selected.shape
    mask[thing.top : thing.top + height, thing.left : thing.left + width] = thing.selected
    return mask


def image_of(each: Labelled) -> Pixels:
    """Open the image.

    Raises:
        ValueError: It is not known, or of another size than the mask.
    """
    if each.image is None:
        raise ValueError(f"{each.file}: expected the image of this mask, got none; say where the images are")
    image = read_image(each.image)
    if image.shape[:2] != each.size:
        (height, width), (own_height, own_width) = image.shape[:2], each.size
        raise ValueError(
            f"{each.image}: expected an image of the mask's size, {own_width} x {own_height}, got {width} x {height}"
        )
    return image
