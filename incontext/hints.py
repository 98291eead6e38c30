"""Hints: what a user says of the query itself, in its own pixels. Frozen, checked when made, numpy inside.

A hint points at pixels and says what they are: an id, or 0 for "not this". Refuses to know tensors, models, devices and
patches (canvas/hints.py turns hints into those).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

from incontext.digest import digest
from incontext.images import rle
from incontext.images.ids import IGNORED, Pixels, check_ids, ids_in
from incontext.images.resize import resized_mask
from incontext.images.write import whole_file

Size: TypeAlias = tuple[int, int]
"""(H, W) in pixels."""


class Point(NamedTuple):
    """A click on the pixel that contains (x, y); x of the first column is in 0..1."""

    x: float
    y: float
    id: int


class Box(NamedTuple):
    """Where all of an id lies, or of id 0 an area where nothing that is asked for lies; edges in pixels."""

    left: float
    top: float
    right: float
    bottom: float
    id: int


class Polygon(NamedTuple):
    """An area that is all of one id; corners (x, y), the last joined to the first."""

    ring: tuple[tuple[float, float], ...]
    id: int


@dataclass(frozen=True, eq=False)
class Scribbles:
    """Strokes over an image: mask (H, W) uint8 ids, 0 "not this", 255 where nothing is said."""

    mask: Pixels


Mark: TypeAlias = Point | Box | Polygon | Scribbles

_KINDS: tuple[type[Mark], ...] = (Box, Polygon, Scribbles, Point)  # from the coarse to the exact
KEYS = {Box: "boxes", Polygon: "polygons", Scribbles: "scribbles", Point: "points"}


@dataclass(frozen=True, eq=False, init=False)
class Hints:
    """What a user says of an image.

    Made of points, boxes, polygons and scribbles; ``+`` joins them.

    All coordinates are pixels of the image as :func:`incontext.images.read.read_image` gives it, so of a photograph
    as people see it, whichever way it was held: (0, 0) is its upper left corner, x goes right, y goes down. An id from
    1 to 254 says "this", 0 says "not this".

    * A point says what the pixel under it is.
    * A box says that all of its id lies within its boxes, and that its middle is of it. A box of id 0 says that nothing
      of what is asked for is inside.
    * A polygon says that all inside of it is of its id.
    * Scribbles say what the pixels under them are; 255 says nothing.

    Where hints contradict each other the later wins: of two that are joined the right one; of one call points over
    scribbles, those over polygons, those over boxes.

    Attributes:
        marks: All of it in order.
    """

    marks: tuple[Mark, ...]

    def __init__(
        self,
        points: Iterable[Sequence[float]] = (),
        boxes: Iterable[Sequence[float]] = (),
        polygons: Iterable[tuple[Iterable[Sequence[float]], int]] = (),
        scribbles: Pixels | None = None,
    ) -> None:
        """Check hints and keep them.

        Args:
            points: (x, y, id) each.
            boxes: (left, top, right, bottom, id) each.
            polygons: ([(x, y), ...], id) each.
            scribbles: (H, W) ids of the image's size, 255 where nothing is said.

        Raises:
            ValueError: nothing is said at all, an id is not in 0..254, or coordinates are none; the message says which.
        """
        marks: list[Mark] = [_box(each) for each in boxes]
        marks += [_polygon(each) for each in polygons]
        if scribbles is not None:
            marks.append(_scribbles(scribbles))
        marks += [_point(each) for each in points]
        if not marks:
            raise ValueError("expected at least one point, box, polygon or scribble as hints, got none")
        object.__setattr__(self, "marks", tuple(marks))

    @classmethod
    def of(cls, marks: Iterable[Mark]) -> Self:
        """Make hints of marks in that order.

        Raises:
            ValueError: There are none.
        """
        listed = tuple(marks)
        if not listed:
            raise ValueError("expected at least one mark as hints, got none")
        hints = cls.__new__(cls)
        object.__setattr__(hints, "marks", listed)
        return hints

    def __add__(self, later: Hints) -> Hints:
        """Join both; where they contradict each other, the right one is right."""
        if not isinstance(later, Hints):
            return NotImplemented
        return Hints.of((*self.marks, *later.marks))

    @property
    def points(self) -> tuple[Point, ...]:
        """The points, in order."""
        return tuple(mark for mark in self.marks if isinstance(mark, Point))

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes, in order."""
        return tuple(mark for mark in self.marks if isinstance(mark, Box))

    @property
    def polygons(self) -> tuple[Polygon, ...]:
        """The polygons, in order."""
        return tuple(mark for mark in self.marks if isinstance(mark, Polygon))

    @property
    def scribbles(self) -> Pixels | None:
        """All scribbles as one mask, later over earlier; None where there are none."""
        masks = [mark.mask for mark in self.marks if isinstance(mark, Scribbles)]
        if not masks:
            return None
        together = masks[0].copy()
        for mask in masks[1:]:
            _refuse_other_size(mask.shape, together.shape)
            np.copyto(together, mask, where=mask != IGNORED)
        return together

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids that are pointed at, ascending, without 0."""
        found = {i for mark in self.marks for i in _ids_of(mark)}
        return tuple(sorted(found - {0}))

    @property
    def digest(self) -> str:
        """What tells these hints from others: 16 hexadecimal digits."""
        return digest(json.dumps(self.to_json()))[:16]

    def about(self, ids: Collection[int]) -> Hints:
        """Keep what these ids are told: of everything else that is pointed at they say "not this"."""

        def turned(mark: Mark) -> Mark:
            if isinstance(mark, Scribbles):
                strange = ~np.isin(mark.mask, [*ids, 0, IGNORED])
                return _scribbles(np.where(strange, 0, mark.mask)) if strange.any() else mark
            if mark.id in ids or mark.id == 0:
                return mark
            if isinstance(mark, Box):  # only its middle is known to be something else
                return Point((mark.left + mark.right) / 2, (mark.top + mark.bottom) / 2, 0)
            return mark._replace(id=0)

        return Hints.of(turned(mark) for mark in self.marks)

    def check(self, size: Size) -> None:
        """Raise a ValueError unless all of it lies within an image (H, W)."""
        height, width = size
        for mark in self.marks:
            if isinstance(mark, Scribbles):
                _refuse_other_size(mark.mask.shape, size)
                continue
            beyond = any(x > width or y > height for x, y in _places(mark))
            # Edges may run along the image's; a click is on a pixel.
            if beyond or (isinstance(mark, Point) and (mark.x >= width or mark.y >= height)):
                raise ValueError(
                    f"expected hints within the image, {width} x {height} (width x height), got {_told(mark)}"
                )

    def resized(self, size: Size, to: Size) -> Hints:
        """Move the hints to an image of another size.

        Args:
            size: (H, W) of the image that they are for.
            to: (H, W) of the same image, enlarged or shrunk.

        Raises:
            ValueError: They do not lie within one of `size` (H, W).
        """
        self.check(size)
        down, across = to[0] / size[0], to[1] / size[1]

        def moved(mark: Mark) -> Mark:
            if isinstance(mark, Scribbles):
                larger = resized_mask(mark.mask, to).copy()
                y, x = np.nonzero(mark.mask != IGNORED)
                larger[y * to[0] // size[0], x * to[1] // size[1]] = mark.mask[y, x]  # so that thin ones stay
                return _scribbles(larger)
            if isinstance(mark, Point):
                return Point(min(mark.x * across, to[1] - 0.5), min(mark.y * down, to[0] - 0.5), mark.id)
            if isinstance(mark, Box):
                return Box(mark.left * across, mark.top * down, mark.right * across, mark.bottom * down, mark.id)
            return Polygon(tuple((x * across, y * down) for x, y in mark.ring), mark.id)

        return Hints.of(moved(mark) for mark in self.marks)

    # --- as JSON

    def to_json(self) -> list[dict[str, Any]]:
        """Write plain values for JSON: what :meth:`from_json` takes, a part for each run of marks of one call."""
        parts: list[dict[str, Any]] = []
        last = len(_KINDS)
        for mark in self.marks:
            rank = _KINDS.index(type(mark))
            if rank < last or (rank == last and isinstance(mark, Scribbles)):
                parts.append({})
            last = rank
            if isinstance(mark, Scribbles):
                parts[-1]["scribbles"] = _plain_scribbles(mark.mask)
                continue
            ring = [list(corner) for corner in mark.ring] if isinstance(mark, Polygon) else []
            plain: object = {"ring": ring, "id": mark.id} if ring else list(mark)
            parts[-1].setdefault(KEYS[type(mark)], []).append(plain)
        return parts

    @classmethod
    def from_json(cls, content: object) -> Self:
        """Read hints from plain values.

        Args:
            content: {"points": [[x, y, id]], "boxes": [[left, top, right, bottom, id]], "polygons": [{"ring": [[x, y]],
                "id": id}], "scribbles": {"size": [H, W], "ids": {id: COCO's compressed runs}}}, of which each may be
                left out; or a list of such, later ones over earlier.

        Raises:
            ValueError: it is something else, or what the constructor refuses.
        """
        parts = content if isinstance(content, list) else [content]
        marks: list[Mark] = []
        for part in parts:
            if not isinstance(part, dict) or not set(part) <= set(KEYS.values()):
                raise ValueError(
                    f"expected hints as an object with points, boxes, polygons or scribbles, got {part!r:.100}"
                )
            try:
                marks += Hints(
                    points=part.get("points", ()),
                    boxes=part.get("boxes", ()),
                    polygons=[(each["ring"], each["id"]) for each in part.get("polygons", ())],
                    scribbles=_read_scribbles(part["scribbles"]) if "scribbles" in part else None,
                ).marks
            except (TypeError, KeyError) as error:
                raise ValueError(f"expected hints as numbers in lists, got something else ({error!r})") from None
        return cls.of(marks)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the hints as JSON; the file appears whole or not at all."""
        with whole_file(path) as stream:
            stream.write((json.dumps(self.to_json()) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read the hints of one image. FileNotFoundError, or ValueError with the file's name."""
        content = read_json(Path(path))
        try:
            return cls.from_json(content)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from None


def read_json(path: Path) -> object:
    """Read a file of hints as plain values. FileNotFoundError, or ValueError with the file's name."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"expected a file of hints, got none named {path}") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected hints as JSON, got something else ({error})") from None


# --- marks from what users give


def _numbers(values: object, count: int, form: str) -> tuple[list[float], int]:
    """Check so many finite coordinates, and an id in 0..254."""
    listed = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    plain = [each.item() if isinstance(each, np.generic) else each for each in listed]
    numbers = [each for each in plain if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(plain) != count + 1 or len(numbers) < len(plain):
        raise ValueError(f"expected {form} as numbers, got {values!r:.100}")
    *places, i = numbers
    if not all(isfinite(each) for each in places):
        raise ValueError(f"expected {form} of finite numbers, got {values!r:.100}")
    return places, _id(i)


def _id(i: object) -> int:
    plain = i.item() if isinstance(i, np.generic) else i
    if isinstance(plain, bool) or not isinstance(plain, int | float) or plain != int(plain):
        raise ValueError(f"expected an id as a whole number, got {i!r:.100}")
    if not 0 <= plain < IGNORED:
        what = "255, which says nothing; leave that hint out" if plain == IGNORED else f"{plain}"
        raise ValueError(f'expected ids in 0..254, 0 for "not this", got {what}')
    return int(plain)


def _refuse_negative(mark: Mark, places: Iterable[tuple[float, float]]) -> None:
    if any(x < 0 or y < 0 for x, y in places):
        raise ValueError(f"expected hints in pixels from 0, got {_told(mark)}")


def _point(given: Sequence[float]) -> Point:
    (x, y), i = _numbers(given, 2, "a point (x, y, id)")
    point = Point(x, y, i)
    _refuse_negative(point, _places(point))
    return point


def _box(given: Sequence[float]) -> Box:
    (left, top, right, bottom), i = _numbers(given, 4, "a box (left, top, right, bottom, id)")
    box = Box(left, top, right, bottom, i)
    if left >= right or top >= bottom:
        raise ValueError(f"expected a box with left below right and top below bottom, got {_told(box)}")
    _refuse_negative(box, _places(box))
    return box


def _polygon(given: tuple[Iterable[Sequence[float]], int]) -> Polygon:
    try:
        corners, i = given
        ring = tuple((float(x), float(y)) for x, y in corners)
    except (TypeError, ValueError):
        raise ValueError(f"expected a polygon ([(x, y), ...], id), got {given!r:.100}") from None
    if len(ring) < 3 or not all(isfinite(each) for corner in ring for each in corner):
        raise ValueError(f"expected a polygon of at least 3 corners in finite numbers, got {ring!r:.100}")
    polygon = Polygon(ring, _id(i))
    _refuse_negative(polygon, ring)
    return polygon


def _scribbles(given: Pixels) -> Scribbles:
    mask = check_ids(np.asarray(given), "scribbles")
    if not (mask != IGNORED).any():
        raise ValueError("expected scribbles that say something, got 255 everywhere")
    mask = mask.copy()
    mask.setflags(write=False)
    return Scribbles(mask)


def _plain_scribbles(mask: Pixels) -> dict[str, Any]:
    said = [int(i) for i in np.unique(mask) if i != IGNORED]
    return {"size": list(mask.shape), "ids": {str(i): rle.from_mask(mask == i)["counts"] for i in said}}


def _read_scribbles(content: dict[str, Any]) -> Pixels:
    height, width = content["size"]
    mask = np.full((height, width), IGNORED, np.uint8)
    for i, counts in content["ids"].items():
        mask[rle.to_mask(counts, (height, width))] = _id(int(i))
    return mask


# --- about marks


def _ids_of(mark: Mark) -> tuple[int, ...]:
    return ids_in(mark.mask) if isinstance(mark, Scribbles) else (mark.id,)


def _places(mark: Point | Box | Polygon) -> Iterator[tuple[float, float]]:
    """List its corners (x, y)."""
    if isinstance(mark, Point):
        yield mark.x, mark.y
    elif isinstance(mark, Box):
        yield mark.left, mark.top
        yield mark.right, mark.bottom
    else:
        yield from mark.ring


def _told(mark: Mark) -> str:
    """Write it for people."""
    if isinstance(mark, Scribbles):
        return f"scribbles of {mark.mask.shape[1]} x {mark.mask.shape[0]}"
    if isinstance(mark, Polygon):
        return f"a polygon {mark.ring!r:.100}"
    return f"a {type(mark).__name__.lower()} ({', '.join(f'{value:g}' for value in mark[:-1])})"


def _refuse_other_size(got: tuple[int, ...], size: tuple[int, ...]) -> None:
    if tuple(got) != tuple(size):
        raise ValueError(
            f"expected scribbles of the image's size, {size[1]} x {size[0]} (width x height), got {got[1]} x {got[0]}"
        )
