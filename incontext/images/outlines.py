"""Regions of pixels and their outlines: connected regions, exact rings along pixels' edges, and rings filled again.

Rings are (n, 2) arrays of corners (x, y), not closed; x counts pixels' edges from the left, y from the top, so pixel
(row, column) spans column..column + 1 and row..row + 1. Refuses to know files and what a region means.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Flags: TypeAlias = npt.NDArray[np.bool_]
Ring: TypeAlias = npt.NDArray[np.int32]
Corners: TypeAlias = npt.NDArray[np.floating[Any]] | npt.NDArray[np.integer[Any]]

_MOST_STEPS: Final = 1 << 21  # taken along edges at a time, to bound memory
_MOST_CROSSINGS: Final = 1 << 23  # of one outline: there and back over the largest image hundreds of times
_COCO_STEPS: Final = 5  # of a pixel: how finely pycocotools rounds corners


@dataclass(frozen=True, eq=False)
class Part:
    """A region whose pixels are connected by their edges: its outer ring, and the rings of its holes."""

    outer: Ring
    holes: tuple[Ring, ...]


# ------------------------------------------------------------------------------------------- out of pixels


def connected(ids: npt.NDArray[Any], *, diagonal: bool = True) -> npt.NDArray[np.int32]:
    """Find the connected regions of equal ids, and number them.

    Runs of pixels are found by numpy and joined by scipy's graphs: `scipy.ndimage.label` takes one id at a time.

    Args:
        ids: (H, W) bool or integers.
        diagonal: Pixels that touch at a corner are connected, too.

    Returns:
        (H, W) int32: 0 where they are 0, else the number of the region, from 1 in the order of first pixels.
    """
    from scipy.sparse import coo_array  # here, so that `import incontext.types` stays cheap
    from scipy.sparse.csgraph import connected_components

    height, width = ids.shape
    values = ids.astype(np.int32)
    padded = np.pad(values, ((0, 0), (1, 1)))
    inside = values != 0
    row, first = np.nonzero(inside & (padded[:, :-2] != values))
    last = np.nonzero(inside & (padded[:, 2:] != values))[1]
    stride, reach = width + 4, int(diagonal)
    below = (row + 1) * stride
    low = np.searchsorted(row * stride + last, below + first - reach, side="left")
    high = np.searchsorted(row * stride + first, below + last + reach, side="right")
    counts = np.maximum(high - low, 0)
    upper = np.repeat(np.arange(len(row)), counts)
    lower = np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    same = values[row[upper], first[upper]] == values[row[lower], first[lower]]
    pairs = np.ones(int(same.sum()), np.bool_), (upper[same], lower[same])
    owner = connected_components(coo_array(pairs, shape=(len(row), len(row))), directed=False)[1]
    _, begins = np.unique(owner, return_index=True)
    numbers = np.argsort(np.argsort(begins))[owner]  # scipy does not promise an order
    labels = np.zeros((height, width), np.int32)
    labels[inside] = np.repeat(numbers.astype(np.int32) + 1, last - first + 1)
    return labels


def rings(selected: Flags) -> list[Ring]:
    """Trace the outlines of an (H, W) bool mask, exactly along the pixels' edges: int32 rings.

    Pixels belong together when they share an edge. Outer rings run clockwise as seen, so the shoelace formula gives
    them a positive area (y points down); holes are rings of their own and run the other way.
    """
    padded = np.pad(selected.astype(np.bool_), 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    leaving = (  # corners from which an outline goes right, down, left and up, with its pixels on the right hand
        lower_right & ~upper_right,
        lower_left & ~lower_right,
        upper_left & ~lower_left,
        upper_right & ~upper_left,
    )
    edges = [set(np.flatnonzero(corners).tolist()) for corners in leaving]
    width = padded.shape[1] - 1
    step = (1, width, -1, -width)
    found = []
    for start in sorted(edges[0]):  # every ring goes right somewhere, and first at a corner
        if start not in edges[0]:
            continue
        ring: list[int] = []
        at, heading = start, 0
        while not ring or (at, heading) != (start, 0):
            ring.append(at)
            while at in edges[heading]:
                edges[heading].remove(at)
                at += step[heading]
            right, left = (heading + 1) % 4, (heading - 1) % 4  # right first: round the same pixel where two only touch
            heading = right if at in edges[right] or (at, right) == (start, 0) else left
        found.append(np.stack(np.divmod(ring, width)[::-1], axis=1).astype(np.int32))
    return found


def parts(selected: Flags) -> list[Part]:
    """Find the regions of an (H, W) bool mask that are connected by edges, in the order of first pixels."""
    labels = connected(selected, diagonal=False)
    outer: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    for ring in rings(selected):
        x, y = ring[0]  # a ring begins at the upper left corner of a pixel of its region
        region = int(labels[y, x])
        if outer.setdefault(region, ring) is not ring:  # the outer ring is the first: it begins highest
            holes.setdefault(region, []).append(ring)
    return [Part(ring, tuple(holes.get(region, ()))) for region, ring in outer.items()]


# ------------------------------------------------------------------------------------------- into pixels


def fill(corners: Sequence[Corners], size: tuple[int, int]) -> Flags:
    """Fill rings: (H, W) bool, the pixels whose centres lie inside of an odd number of them (the even-odd rule).

    Rings may lie partly or wholly outside; a centre exactly on an edge counts for the pixel right of it or below. So
    the rings of :func:`rings`, in any order, give back their mask exactly.

    Raises:
        ValueError: An outline crosses rows or columns millions of times.
    """
    selected = np.zeros(size, np.bool_)
    found, top, left = filled(corners, size)
    selected[top : top + found.shape[0], left : left + found.shape[1]] = found
    return selected


def filled(corners: Sequence[Corners], size: tuple[int, int]) -> tuple[Flags, int, int]:
    """Fill rings as :func:`fill` does, but only the box that they touch.

    Returns:
        (h, w) bool, and the row and column where it begins.
    """
    every = np.concatenate([np.zeros((0, 2)), *corners])
    if not len(every):
        return np.zeros((0, 0), np.bool_), 0, 0
    (left, top), (right, bottom) = (
        np.clip(edge, 0, (size[1], size[0])).astype(np.int64)
        for edge in (np.floor(every.min(axis=0)), np.ceil(every.max(axis=0)))
    )
    toggles = np.zeros((bottom - top, right - left + 1), np.uint8)  # parity is all that counts, so it may overflow
    for ring in corners:
        start = np.asarray(ring, np.float64) - (left, top)
        for row, x in _crossings(start, np.roll(start, -1, axis=0), bottom - top):
            np.add.at(toggles, (row, np.clip(np.ceil(x - 0.5), 0, right - left).astype(np.int64)), 1)
    inside = np.bitwise_xor.accumulate(toggles & 1, axis=1)[:, :-1].astype(np.bool_)
    return inside, int(top), int(left)


def _crossings(
    start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], height: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Find where edges cross the middles of rows: rows and x, some edges at a time."""
    first, last = (
        np.clip(np.ceil(pick(start[:, 1], end[:, 1]) - 0.5), 0, height).astype(np.int64)
        for pick in (np.minimum, np.maximum)
    )
    for edge, step in _steps(last - first):
        row = first[edge] + step
        (x0, y0), (x1, y1) = start[edge].T, end[edge].T
        yield row, x0 + (x1 - x0) * ((row + 0.5 - y0) / (y1 - y0))


def _steps(counts: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Step along each edge, for counts (n,) of steps: the edge and the number of each step, a bounded number at a time.

    Raises:
        ValueError: An outline goes to and fro far more often than one does that people or tools draw.
    """
    begins = np.concatenate([[0], np.cumsum(counts)])
    if begins[-1] > _MOST_CROSSINGS:
        raise ValueError(
            f"expected an outline that crosses rows or columns at most {_MOST_CROSSINGS} times, got {begins[-1]} times"
        )
    for begin in range(0, int(begins[-1]), _MOST_STEPS):
        step = np.arange(begin, min(begin + _MOST_STEPS, int(begins[-1])))
        edge = np.searchsorted(begins, step, side="right") - 1
        yield edge, step - begins[edge]


def filled_as_coco(ring: Corners, size: tuple[int, int]) -> tuple[Flags, int, int]:
    """Fill one ring with the same pixels as pycocotools, in the form of :func:`filled`.

    Its rule is that of pixels' centres too, but with corners rounded to fifths of a pixel, edges walked from fifth to
    fifth, and rows counted from the fifth above (common/maskApi.c, rleFrPoly).
    """
    points = np.trunc(np.asarray(ring, np.float64) * _COCO_STEPS + 0.5).astype(np.int64)
    limits = np.array([size[1], size[0]])
    left, top = np.clip(points.min(axis=0) // _COCO_STEPS, 0, limits).tolist()
    right, bottom = np.clip(-(-points.max(axis=0) // _COCO_STEPS), 0, limits).tolist()
    toggles = np.zeros((right - left, bottom - top + 1), np.uint8)
    for column, height in _coco_crossings(points, np.roll(points, -1, axis=0), left, right):
        row = np.ceil(np.clip((height + 0.5) / _COCO_STEPS - 0.5, 0, size[0])).astype(np.int64) - top
        np.add.at(toggles, (column - left, row), 1)
    inside = np.bitwise_xor.accumulate(toggles & 1, axis=1)[:, :-1].astype(np.bool_)
    return np.ascontiguousarray(inside.T), top, left


def _coco_crossings(
    start: npt.NDArray[np.int64], end: npt.NDArray[np.int64], left: int, right: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Find where edges (n, 2) in fifths of a pixel cross the middles of columns: columns and y in fifths.

    pycocotools walks along an edge, from fifth to fifth of its longer direction, and looks where x steps over a middle.
    Here that step is found at once, so that the work does not grow with what lies outside of the image.
    """
    along = np.abs(end - start)
    flat = along[:, 0] >= along[:, 1]  # more columns than rows, so it is walked from column to column
    rows, axis, count = np.arange(len(start)), np.where(flat, 0, 1), along.max(axis=1)
    flip = start[rows, axis] > end[rows, axis]
    low, high = np.where(flip[:, None], end, start), np.where(flip[:, None], start, end)
    slope = (high - low)[rows, 1 - axis] / np.maximum(count, 1)
    middle = _COCO_STEPS // 2
    nearest, farthest = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
    first = np.maximum(-((middle - nearest) // _COCO_STEPS), left)
    last = np.minimum((farthest - middle - 1) // _COCO_STEPS, right - 1)

    def beside(edge: npt.NDArray[np.int64], step: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Compute the other coordinate after so many steps."""
        found: npt.NDArray[np.int64] = np.trunc(low[edge, 1 - axis[edge]] + slope[edge] * step + 0.5).astype(np.int64)
        return found

    for edge, number in _steps(np.maximum(last - first + 1, 0)):
        column = first[edge] + number
        before = _COCO_STEPS * column + middle  # the last fifth on the left of a column's middle
        across = before - low[edge, 0]
        height = np.minimum(beside(edge, across), beside(edge, across + 1))
        steep = np.flatnonzero(~flat[edge])
        if len(steep):
            which, left_of = edge[steep], before[steep]
            rises = slope[which] > 0
            reached = (left_of + 0.5 - low[which, 0]) / slope[which]
            step = np.where(rises, np.ceil(reached), np.floor(reached) + 1).astype(np.int64) + 1
            for _ in range(2):  # the quotient may be off by rounding
                is_over = (beside(which, step - 1) > left_of) == rises
                step = np.where(is_over, step - 1, step)
            height[steep] = low[which, 1] + step - 1
        yield column, height
