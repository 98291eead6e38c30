"""From hints to what is said of single objects, and from what answers clicks to the ids of an image.

A hint of one id is a hint against the others: who points at the cat does not mean the dog. Refuses to know networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from incontext.hints import Box as BoxHint
from incontext.hints import Hints, Point, Polygon, Scribbles
from incontext.images.ids import IGNORED, Pixels, ids_in
from incontext.images.outlines import fill
from incontext.prompters.layers import Layers
from incontext.prompters.parts import Box, Clicker, Clicks, Margins

MOST_OF_STROKES: Final = 8  # points that stand for the strokes of an id
SURE: Final = 6.0  # log odds of what a user has drawn

_EVERY_WAY = np.ones((3, 3))

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.float32]


def mark(clicker: Clicker, image: Pixels, hints: Hints | None, start: Pixels | None = None) -> Layers:
    """Ask for what hints mean, beginning with nothing or with a mask.

    Args:
        clicker: Answers clicks.
        image: (H, W, 3) uint8.
        hints: In its pixels. Points and strokes of an id belong to the smallest of its boxes and polygons that they
            lie in; those that lie in none are one object together.
        start: (H, W) ids to be corrected: a part in which a hint says something else is asked for anew, the part going
            in as a mask; the others stay.

    Returns:
        The layers of the image.

    Raises:
        ValueError: A hint does not lie within the image.
    """
    height, width = image.shape[:2]
    layers = Layers(height, width)
    kept = np.zeros((height, width), np.uint8) if start is None else start.copy()
    if hints is not None:
        hints.check((height, width))
        said = _Said(hints, (height, width))
        asked = list(_objects(said, kept))
        answers = clicker.masks(image, [clicks for _, clicks in asked])
        for (i, _), (margins, score) in zip(asked, answers, strict=True):
            layers.add(i, said.obeyed(i, margins), score)
        kept[said.nothing] = 0
    layers.fill(kept, SURE)
    return layers


@dataclass(frozen=True, eq=False)
class _Places:
    """Points (n, 2) of x and y, and the id of each (n,)."""

    at: Places
    ids: npt.NDArray[np.int64]

    def within(self, area: Flags) -> npt.NDArray[np.bool_]:
        """(n,) bool: which lie in an area (H, W)."""
        x, y = self.at.astype(np.int64).T
        return np.asarray(area[y, x])


class _Said:
    """Hints, taken apart: places that stand for points and strokes, and areas."""

    def __init__(self, hints: Hints, size: tuple[int, int]) -> None:
        self.hints, self.size = hints, size
        self.drawn: dict[int, Flags] = {}  # by id, what polygons say
        for polygon in hints.polygons:
            area = _filled(polygon, size)
            self.drawn = {i: other & ~area for i, other in self.drawn.items()}  # the later wins
            self.drawn[polygon.id] = self.drawn.get(polygon.id, np.zeros(size, np.bool_)) | area
        self.places = self._places()

    def obeyed(self, number: int, margins: Margins) -> Margins:
        """Return the margins of an id, where it cannot be and where it must be as it is drawn."""
        forbidden = self.nothing
        for i, drawn in self.drawn.items():
            if i != number:
                forbidden |= drawn
        if number in self.drawn:
            margins = np.where(self.drawn[number], np.maximum(margins, SURE), margins)
        return np.where(forbidden, np.minimum(margins, -SURE), margins).astype(np.float32)

    @property
    def nothing(self) -> Flags:
        """(H, W) bool: where boxes and polygons of id 0 say that nothing is."""
        area = self.drawn.get(0, np.zeros(self.size, np.bool_)).copy()
        for box in self.hints.boxes:
            if box.id == 0:
                area |= _filled(box, self.size)
        return area

    def _places(self) -> _Places:
        found: dict[tuple[int, int], tuple[float, float, int]] = {}  # by pixel
        for each in self.hints.marks:
            said: dict[tuple[int, int], tuple[float, float, int]] = {}
            if isinstance(each, Point):
                said[int(each.x), int(each.y)] = (each.x, each.y, each.id)
            elif isinstance(each, Scribbles):
                found = {at: place for at, place in found.items() if each.mask[at[1], at[0]] == IGNORED}
                for i in (0, *ids_in(each.mask)):
                    said.update({(x, y): (x + 0.5, y + 0.5, i) for x, y in _spread(each.mask == i)})
            elif each.id == 0 or isinstance(each, Polygon):
                area = _filled(each, self.size)
                found = {at: place for at, place in found.items() if not area[at[1], at[0]] or place[2] == each.id}
                if isinstance(each, Polygon):
                    x, y = _deepest(area) if area.any() else _middle(each, self.size)
                    said[x, y] = (x + 0.5, y + 0.5, each.id)
            found |= said  # the later wins
        listed = list(found.values())
        at = np.array([(x, y) for x, y, _ in listed], np.float32).reshape(-1, 2)
        return _Places(at, np.array([i for _, _, i in listed], np.int64))


def _objects(said: _Said, kept: Pixels) -> Iterator[tuple[int, Clicks]]:
    """Yield ids and what is said of an object of each. Parts that are asked for anew leave ``kept``."""
    for i in sorted({*said.hints.ids, *ids_in(kept)}):
        mine, others = said.places.ids == i, said.places.ids != i
        parts, count = ndi.label(kept == i, structure=_EVERY_WAY)
        settled = np.zeros(len(mine), np.bool_)
        for number in range(1, count + 1):
            part = parts == number
            inside = said.places.within(part)
            settled |= mine & inside
            if (others & inside).any():
                kept[part] = 0
                yield i, replace(_clicks(said.places, mine & inside, others & inside), mask=part)
        bounds = sorted(_bounds(said, i), key=lambda each: _area(each[0]))
        for box, drawn in bounds:
            own = mine & ~settled & _inside(said.places.at, box)
            settled |= own
            yield i, replace(_clicks(said.places, own, others & _inside(said.places.at, box)), box=box, mask=drawn)
        rest = mine & ~settled
        if rest.any():
            yield i, _clicks(said.places, rest, others)


def _bounds(said: _Said, number: int) -> Iterator[tuple[Box, Flags | None]]:
    """Yield the boxes of an id, and the polygons with what they bound."""
    height, width = said.size
    for box in said.hints.boxes:
        if box.id == number:
            yield (box.left, box.top, min(box.right, width), min(box.bottom, height)), None
    for polygon in said.hints.polygons:
        if polygon.id == number:
            area = _filled(polygon, said.size)
            if area.any():
                rows, columns = np.flatnonzero(area.any(axis=1)), np.flatnonzero(area.any(axis=0))
                yield (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)), area


def _clicks(places: _Places, inside: Flags, outside: Flags) -> Clicks:
    chosen = inside | outside
    return Clicks(places.at[chosen], inside[chosen])


def _inside(at: Places, box: Box) -> Flags:
    x, y = at.T
    return np.asarray((x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3]))


def _filled(mark: BoxHint | Polygon, size: tuple[int, int]) -> Flags:
    """(H, W) bool: the pixels whose middles are inside."""
    if isinstance(mark, Polygon):
        return fill([np.array(mark.ring)], size)
    area = np.zeros(size, np.bool_)
    area[round(mark.top) : round(mark.bottom), round(mark.left) : round(mark.right)] = True
    return area


def _middle(polygon: Polygon, size: tuple[int, int]) -> tuple[int, int]:
    """Return x and y of the pixel amid the corners of a polygon that is too thin to hold one."""
    x, y = np.mean(polygon.ring, axis=0)
    return min(int(x), size[1] - 1), min(int(y), size[0] - 1)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _deepest(area: Flags) -> tuple[int, int]:
    """Return x and y of the pixel that is farthest from the outside of an area."""
    depth = ndi.distance_transform_edt(np.pad(area, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


def _spread(strokes: Flags) -> list[tuple[int, int]]:
    """Choose a few pixels of strokes, each as far as possible from those before: (x, y)."""
    y, x = np.nonzero(strokes)
    if not len(x):
        return []
    at = np.stack([x, y], axis=-1).astype(np.float64)
    chosen = [0]
    away = ((at - at[0]) ** 2).sum(-1)
    while len(chosen) < MOST_OF_STROKES and away.max() > 2:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, ((at - at[chosen[-1]]) ** 2).sum(-1))
    return [(int(x[at]), int(y[at])) for at in chosen]


def refuse_other_size(start: Pixels, image: Pixels) -> None:
    """Raise ValueError where a mask to begin with is not of the image's size, or says 255."""
    if start.shape != image.shape[:2]:
        raise ValueError(
            f"expected a mask of the image's size {image.shape[1]} x {image.shape[0]} (width x height), got "
            f"{start.shape[1]} x {start.shape[0]}"
        )
    if (start == IGNORED).any():
        raise ValueError("expected a mask of ids to begin with, got 255 (ignored) in it; make that background")


def boxes_of(hints: Hints | None) -> Sequence[tuple[Box, int]]:
    """Return the boxes of hints, with their ids."""
    return [] if hints is None else [((b.left, b.top, b.right, b.bottom), b.id) for b in hints.boxes]
