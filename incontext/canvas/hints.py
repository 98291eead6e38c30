"""From hints to patches of the query's mask that the network is told: the one rule, which training shares.

The network learns of hints by patches that are revealed, each flat in the colour of an id. A patch says what the pixel
that was pointed at is, not what most of the patch is: of a crack that is thinner than a patch, most is background.
Refuses to know tensors, the network and files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from einops import repeat

from incontext.canvas.windows import Window
from incontext.hints import Box, Hints, Mark, Point, Polygon
from incontext.images.ids import IGNORED, Pixels
from incontext.images.outlines import fill
from incontext.types import Palette

Flags = npt.NDArray[np.bool_]
Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Told:
    """What a batch is told of its masks in one pass, where anything is.

    (n, grid, grid) bool, false where that is revealed.

    Attributes:
        at: Numbers of those in the batch, (n,).
        masks: (n, side, side, 3) uint8, what is painted on them. hidden:
        pointed: (n, K + 1) bool, which ids of the palette are.
    """

    at: npt.NDArray[np.int64]
    masks: Pixels
    hidden: Flags
    pointed: Flags


def paint_told(said: Sequence[Pixels | None], palette: Palette, patch: int) -> Told | None:
    """Paint what is said of a batch's patches, (grid, grid) uint8 each or None, in a palette; None: nothing is."""
    at = [number for number, each in enumerate(said) if each is not None]
    if not at:
        return None
    ids = np.stack([each for each in said if each is not None])
    masks = palette.table[repeat(np.where(ids == IGNORED, 0, ids), "n r c -> n (r p) (c q)", p=patch, q=patch)]
    pointed = (ids[:, None] == palette.ids[:, None, None]).any(axis=(2, 3))
    return Told(np.array(at), masks, ids == IGNORED, pointed)


def reveal(hints: Hints, size: Size, grid: int, ids: Collection[int], *, window: Window | None = None) -> Pixels:
    """Say what hints reveal of each patch.

    * A point reveals the patch that its pixel is in.
    * Boxes of an id reveal what lies wholly outside of them all as background, if that is so for every one of `ids`,
      and the patch under the middle of each as the id. A box of id 0 reveals what lies wholly inside.
    * A polygon reveals the patches whose middle pixel is inside, or if there are none, those that it touches.
    * Scribbles reveal every patch that they touch; the pixel nearest to its middle decides.

    The later wins, but what is outside of boxes gives way to everything that is pointed at.

    Args:
        hints: In pixels of the image.
        size: (H, W) of the image.
        grid: Patches along a side of what the network sees, which is the image squeezed to a square.
        ids: Those asked for in this pass through the network; a hint of another id says "background" there.
        window: The part of the image that the network sees, None: all of it. Hints outside of it are left out.

    Returns:
        (grid, grid) uint8: ids, and 255 where nothing is said.

    Raises:
        ValueError: A hint does not lie within the image.
    """
    hints.check(size)
    view = window or Window(0, 0, *size)
    said = np.full((grid, grid), IGNORED, np.uint8)
    said[_outside_of_all(hints, view, grid, ids)] = 0
    for mark in hints.marks:
        _reveal(said, mark, view, grid)
    said[(said != IGNORED) & ~np.isin(said, [*ids])] = 0
    return said


def check_hints(hints: Hints | None, ids: Collection[int]) -> None:
    """Raise a ValueError unless hints, or none, go with a context for these ids; no ids: there is no example."""
    if not ids:
        if hints is None:
            raise ValueError("expected hints on a query without an example, got none; give one of the two")
        if not hints.ids:
            raise ValueError(
                'expected hints that point at something (ids from 1 to 254) without an example, got "not this" only'
            )
    elif hints is not None and (unknown := set(hints.ids) - set(ids)):
        raise ValueError(
            f'expected hints with ids of the context, {", ".join(map(str, ids))}, or 0 for "not this"; got '
            f"{', '.join(map(str, sorted(unknown)))}"
        )


def patch_of(x: float, y: float, size: Size, grid: int) -> tuple[int, int]:
    """Find the row and column of the patch that shows the pixel at (x, y) of an image (H, W)."""
    return (2 * int(y) + 1) * grid // (2 * size[0]), (2 * int(x) + 1) * grid // (2 * size[1])


def middles(size: Size, grid: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """List the rows and the columns, (grid,) each, of the pixels of an image (H, W) in the middles of patches."""
    steps = 2 * np.arange(grid) + 1
    return steps * size[0] // (2 * grid), steps * size[1] // (2 * grid)


def reveal_pixels(pointed: Pixels, grid: int) -> Pixels:
    """Say of each patch what the pixels that are pointed at in it are: the nearest to its middle decides.

    Args:
        pointed: (H, W) ids, 255 where nothing is pointed at.
        grid: Patches along a side.

    Returns:
        (grid, grid) uint8 ids, 255 where nothing is said.
    """
    said = np.full((grid, grid), IGNORED, np.uint8)
    y, x = np.nonzero(pointed != IGNORED)
    rows, columns = (
        (2 * place + 1) * grid // (2 * length) for place, length in zip((y, x), pointed.shape, strict=True)
    )
    away = [
        ((place + 0.5) * grid / length - patch - 0.5) ** 2
        for place, length, patch in zip((y, x), pointed.shape, (rows, columns), strict=True)
    ]
    order = np.argsort(-(away[0] + away[1]), kind="stable")  # the nearest is written last
    said[rows[order], columns[order]] = pointed[y[order], x[order]]
    return said


def outside(boxes: Iterable[Iterable[float]], size: Size, grid: int) -> Flags:
    """Find patches of an image (H, W) wholly outside of boxes (left, top, right, bottom): (grid, grid)."""
    away = np.ones((grid, grid), np.bool_)
    low = np.arange(grid)
    for left, top, right, bottom in boxes:
        rows, columns = (
            (low * length < last * grid) & ((low + 1) * length > first * grid)
            for first, last, length in ((top, bottom, size[0]), (left, right, size[1]))
        )
        away[np.ix_(rows, columns)] = False
    return away


def _outside_of_all(hints: Hints, view: Window, grid: int, ids: Collection[int]) -> Flags:
    """Find where none of these ids can be, because each lies within boxes of its own."""
    boxed = {i: [_seen(box, view) for box in hints.boxes if box.id == i] for i in ids if i}
    if not boxed or not all(boxed.values()):
        return np.zeros((grid, grid), np.bool_)
    return outside((box for boxes in boxed.values() for box in boxes), (view.height, view.width), grid)


def _seen(box: Box, view: Window) -> tuple[float, float, float, float]:
    """Cut its edges as a window sees them."""
    return box.left - view.left, box.top - view.top, box.right - view.left, box.bottom - view.top


def _reveal(said: Pixels, mark: Mark, view: Window, grid: int) -> None:
    """Write what one mark says over what was said before."""
    size = view.height, view.width
    if isinstance(mark, Point):
        _point_at(said, mark.x - view.left, mark.y - view.top, mark.id, size)
    elif isinstance(mark, Box) and mark.id:
        left, top, right, bottom = _seen(mark, view)
        _point_at(said, (left + right) / 2, (top + bottom) / 2, mark.id, size)
    elif isinstance(mark, Box):
        left, top, right, bottom = _seen(mark, view)
        rows, columns = (_inside(*each, grid) for each in ((top, bottom, size[0]), (left, right, size[1])))
        said[np.ix_(rows, columns)] = 0
    elif isinstance(mark, Polygon):
        ring = np.array(mark.ring) - (view.left, view.top)
        area = fill([ring], size)
        within = area[np.ix_(*middles(size, grid))]
        if not within.any():
            within = reveal_pixels(np.where(area, np.uint8(0), np.uint8(IGNORED)), grid) != IGNORED
        said[within] = mark.id
        if not within.any():  # it lies between the middles of pixels
            x, y = ring.mean(axis=0).tolist()
            _point_at(said, x, y, mark.id, size)
    else:
        told = reveal_pixels(view.of(mark.mask), grid)
        np.copyto(said, told, where=told != IGNORED)


def _point_at(said: Pixels, x: float, y: float, i: int, size: Size) -> None:
    """Reveal the patch of a pixel, if it is in the image."""
    if 0 <= x < size[1] and 0 <= y < size[0]:
        said[patch_of(x, y, size, len(said))] = i


def _inside(first: float, last: float, length: int, grid: int) -> Flags:
    """Find which of the patches along a side lie wholly between two edges."""
    low = np.arange(grid) * length / grid
    return (low >= first) & (low + length / grid <= last)
