"""One ring for a region of many: for formats whose polygons have neither holes nor parts.

Rings are joined by bridges: a path that is walked there and back, so that it encloses nothing. Bridges run along the
edges of pixels, so a reader that asks which pixels' centres lie inside gets the region back exactly. One that also
paints the outline (OpenCV and Pillow do) adds a pixel along the right and lower edges; of bridges it sees none that
leads to a hole, as the region is there anyway, but one between two parts as a thin line. Refuses to know files and
formats.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from incontext.images.outlines import Flags, Part, Ring, parts

_ROUNDS = 4  # of looking for the nearest corner from the nearest corner


def one_ring(selected: Flags) -> Ring:
    """Return the outline of an (h, w) bool region, not empty, as a single ring (n, 2) int32 of corners (x, y)."""
    return _chained([bridged(part) for part in parts(selected)])


def bridged(part: Part) -> Ring:
    """Splice the rings of a part's holes into its outer ring.

    Each hole is reached from its upper left corner along its row, leftwards to the next outline, which is that of
    another hole or the outer one.
    """
    rings = [part.outer, *part.holes]
    if len(rings) == 1:
        return part.outer
    starts = [_leftmost(ring) for ring in rings]
    landing = _landings(rings, [rings[k][start] for k, start in enumerate(starts)])
    loops: dict[int, list[Ring]] = {}
    waiting: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)  # ring -> (edge, hole) to splice into it
    for k in sorted(range(1, len(rings)), key=lambda k: -int(rings[k][starts[k]][0])):  # none is reached from its left
        loops[k] = _spliced(rings[k], starts[k], waiting.pop(k, []), loops)
        owner, edge = landing[k]
        waiting[owner].append((edge, k))
    return np.concatenate(_spliced(rings[0], 0, waiting.pop(0), loops)[:-1])


def _spliced(ring: Ring, start: int, waiting: Sequence[tuple[int, int]], loops: dict[int, list[Ring]]) -> list[Ring]:
    """Return the ring from its start round to its start, and on its edges there and back the loops of the holes."""
    by_edge: defaultdict[int, list[list[Ring]]] = defaultdict(list)
    for edge, hole in waiting:
        by_edge[edge].append(loops.pop(hole))
    walked: list[Ring] = []
    for step in range(len(ring)):
        edge = (start + step) % len(ring)
        walked.append(ring[edge : edge + 1])
        down = ring[(edge + 1) % len(ring)][1] > ring[edge][1]
        for loop in sorted(by_edge.get(edge, ()), key=lambda loop: int(loop[0][0][1]), reverse=not down):
            base = np.array([[ring[edge][0], loop[0][0][1]]], np.int32)
            walked += [base, *loop, base]
    return [*walked, ring[start : start + 1]]


def _leftmost(ring: Ring) -> int:
    """Return the highest of its leftmost corners."""
    return int(np.lexsort((ring[:, 1], ring[:, 0]))[0])


def _landings(rings: Sequence[Ring], starts: Sequence[npt.NDArray[np.int32]]) -> list[tuple[int, int]]:
    """For each corner the ring, and the number of its edge, that is next on the left in the corner's row of pixels."""
    row, x, owner, edge = (np.concatenate(each) for each in zip(*map(_walls, rings, range(len(rings))), strict=True))
    width = int(x.max()) + 1
    order = np.argsort(row * width + x, kind="stable")
    keys = (row * width + x)[order]
    found = []
    for corner in starts:
        left = order[max(0, int(np.searchsorted(keys, int(corner[1]) * width + int(corner[0]))) - 1)]
        found.append((int(owner[left]), int(edge[left])))
    return found


def _walls(ring: Ring, number: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Return the upright edges of a ring cut into rows of pixels: row, x, the ring's number, the edge's number."""
    ends = np.roll(ring, -1, axis=0).astype(np.int64)
    top, length = np.minimum(ring[:, 1], ends[:, 1]), np.abs(ends[:, 1] - ring[:, 1])
    edge = np.repeat(np.arange(len(ring)), length)
    row = np.repeat(top, length) + np.arange(len(edge)) - np.repeat(np.cumsum(length) - length, length)
    return row, ring[edge, 0].astype(np.int64), np.full(len(edge), number), edge


def _chained(rings: Sequence[Ring]) -> Ring:
    """Rings joined one to the next, by bridges with one bend between corners that are near each other."""
    there: list[Ring] = []
    back: list[Ring] = []
    entry = 0
    for ring, following in zip(rings, [*rings[1:], None], strict=True):
        turned = np.roll(ring, -entry, axis=0)
        if following is None:
            there += [turned, turned[:1]] if back else [turned]
            break
        leave, entry = _near(turned, following)
        bend = np.array([[following[entry][0], turned[leave][1]]], np.int32)
        there += [turned[: leave + 1], bend]
        back += [turned[:1], turned[leave:], bend]
    return np.concatenate([*there, *reversed(back)])


def _near(ring: Ring, other: Ring) -> tuple[int, int]:
    """Choose a corner of each that is near the other, by the steps between them; not always the nearest two."""
    here = there = 0
    for _ in range(_ROUNDS):
        there = int(np.abs(other - ring[here]).sum(axis=1).argmin())
        here = int(np.abs(ring - other[there]).sum(axis=1).argmin())
    return here, there
