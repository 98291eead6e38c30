"""The shapes that labelling tools know, as pixels: polygons, rectangles, ellipses, and small masks at a place.

Coordinates count pixels' edges: pixel (row, column) spans column..column + 1, row..row + 1, and a shape covers the
pixels whose centres lie in it. Whatever cannot be a shape is a ValueError in a sentence that the caller puts a file's
name before. Refuses to know files and formats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from incontext.annotations.core import Categories, Flags, Thing
from incontext.annotations.values import brief, is_number
from incontext.images.outlines import filled

IGNORED_NAME: Final = "__ignore__"  # the category that means "ignored", as LabelMe's own tools have it
_FARTHEST: Final = 1e6  # pixels from the image's corner: what lies beyond is a mistake
_LEAST_CORNERS: Final = 3
_PIXELS_AT_ONCE: Final = 1 << 20  # looked at together: each takes some tens of bytes

Points = npt.NDArray[np.float64]


class Region(NamedTuple):
    """selected: (h, w) bool from the image's row `top` and column `left` on, all of it inside of the image."""

    selected: Flags
    top: int
    left: int


@dataclass(frozen=True, eq=False)
class Piece:
    """A shape of a category.

    Attributes:
        group: Pieces of one name and group are one thing; None: a thing of its own.
    """

    name: str
    region: Region
    group: object = None
    confidence: float | None = None


def assembled(pieces: Iterable[Piece], categories: Categories) -> list[Thing]:
    """Pieces in painting order -> things, each in the place of its first piece. All of them cover something."""
    groups: dict[object, list[Piece]] = {}
    for number, piece in enumerate(pieces):
        key = (number,) if piece.group is None else (piece.name, piece.group)
        groups.setdefault(key, []).append(piece)
    ids = {name: i for i, name in reversed(list(categories.names.items()))}  # of several of one name, the first
    things = []
    for members in groups.values():
        first = members[0]
        ignored = first.name == IGNORED_NAME
        if not ignored and first.name not in ids:
            raise ValueError(f"expected one of the categories {brief(list(ids))}, got {brief(first.name)}")
        region = united([piece.region for piece in members])
        thing = Thing.cut(
            0 if ignored else ids[first.name],
            region.selected,
            top=region.top,
            left=region.left,
            confidence=first.confidence,
            is_ignored=ignored,
        )
        things += [thing] if thing is not None else []
    return things


def visible(region: Region) -> Region:
    """Return the same region.

    Raises:
        ValueError: It has no pixel.
    """
    if not region.selected.any():
        raise ValueError("expected something in its image, got what covers no pixel of it")
    return region


def drawn(category: int, region: Region, confidence: float | None = None, *, is_ignored: bool = False) -> Thing:
    """Return the thing that covers a region.

    Raises:
        ValueError: That has no pixel.
    """
    selected, top, left = visible(region)
    thing = Thing.cut(category, selected, top=top, left=left, confidence=confidence, is_ignored=is_ignored)
    assert thing is not None  # as something is visible
    return thing


def united(regions: Sequence[Region]) -> Region:
    """All of them as one, in the smallest box."""
    if len(regions) == 1:
        return regions[0]
    top, left = min(region.top for region in regions), min(region.left for region in regions)
    bottom = max(region.top + region.selected.shape[0] for region in regions)
    right = max(region.left + region.selected.shape[1] for region in regions)
    selected = np.zeros((bottom - top, right - left), np.bool_)
    for region in regions:
        height, width = region.selected.shape
        row, column = region.top - top, region.left - left
        selected[row : row + height, column : column + width] |= region.selected
    return Region(selected, top, left)


# ----------------------------------------------------------------------------------------------- shapes


def points(listed: object, *, least: int = 0) -> Points:
    """Points as JSON lists them, [[x, y], ...] -> (n, 2) float64, finite and not absurdly far away."""
    if not isinstance(listed, list | tuple) or not all(
        isinstance(point, list | tuple) and len(point) == 2 and is_number(point[0]) and is_number(point[1])
        for point in listed
    ):
        raise ValueError(f"expected a list of points [x, y], got {brief(listed)}")
    if len(listed) < least:
        raise ValueError(f"expected at least {least} points, got {len(listed)}")
    array = np.array(listed, np.float64).reshape(-1, 2)
    if np.abs(array).max(initial=0) > _FARTHEST:
        raise ValueError(f"expected points in or near the image, got coordinates up to {np.abs(array).max():g}")
    return array


def polygon(corners: Points, size: tuple[int, int]) -> Region:
    """Draw a polygon (n, 2) of (x, y); where it crosses itself, by the even-odd rule."""
    if len(corners) < _LEAST_CORNERS:
        raise ValueError(f"expected a polygon of at least {_LEAST_CORNERS} points, got {len(corners)}")
    return Region(*filled([corners], size))


def rectangle(
    corner: tuple[float, float],
    opposite: tuple[float, float],
    size: tuple[int, int],
    *,
    degrees: float = 0.0,
    about: tuple[float, float] | None = None,
) -> Region:
    """Draw a rectangle between two opposite corners (x, y), turned clockwise as seen, about its middle or a point."""
    (x0, y0), (x1, y1) = points([corner, opposite])
    ring = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    pivot = np.array([(x0 + x1) / 2, (y0 + y1) / 2] if about is None else about)
    return Region(*filled([_turned(ring - pivot, degrees) + pivot], size))


def _turned(offsets: Points, degrees: float) -> Points:
    if degrees == 0:  # the most common angle, without rounding
        return offsets
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned: Points = offsets @ np.array([[cosine, sine], [-sine, cosine]])  # y points down, so clockwise as seen
    return turned


def ellipse(
    center: tuple[float, float], radii: tuple[float, float], size: tuple[int, int], *, degrees: float = 0.0
) -> Region:
    """Draw an ellipse about (x, y) with its radii along x and y before it is turned, clockwise as seen."""
    (x, y), (rx, ry) = points([center, radii])
    if min(rx, ry) <= 0:
        raise ValueError(f"expected radii above 0, got {rx:g} and {ry:g}")
    reach = max(rx, ry)
    left, right = (int(np.clip(edge, 0, size[1])) for edge in (math.floor(x - reach), math.ceil(x + reach)))
    top, bottom = (int(np.clip(edge, 0, size[0])) for edge in (math.floor(y - reach), math.ceil(y + reach)))
    across = (np.arange(left, right) + 0.5 - x)[None, :]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    inside = np.zeros((max(0, bottom - top), max(0, right - left)), np.bool_)
    rows = max(1, _PIXELS_AT_ONCE // max(1, inside.shape[1]))
    for begin in range(0, inside.shape[0], rows):
        down = (np.arange(top + begin, min(bottom, top + begin + rows)) + 0.5 - y)[:, None]
        along, beside = (across * cosine + down * sine) / rx, (down * cosine - across * sine) / ry
        inside[begin : begin + rows] = along**2 + beside**2 <= 1
    return Region(inside, top, left)


def pasted(selected: Flags, top: int, left: int, size: tuple[int, int]) -> Region:
    """Draw a small mask (h, w) whose upper left pixel is (top, left) of the image, cut where it leaves it."""
    height, width = selected.shape
    if abs(top) > _FARTHEST or abs(left) > _FARTHEST:
        raise ValueError(f"expected a mask in or near the image, got one at {left}, {top}")
    first_row, first_column = max(0, -top), max(0, -left)
    rows, columns = (
        slice(first_row, max(first_row, min(height, size[0] - top))),
        slice(first_column, max(first_column, min(width, size[1] - left))),
    )
    return Region(selected[rows, columns], max(0, top), max(0, left))
