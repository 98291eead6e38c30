"""Windows over large images: how large beside what the prompts mark, where they lie, and how prompts are cut to them.

A network in context finds what looks like the prompt, so things must appear in the windows at the scale at which the
prompt shows them: one length, in pixels of the images themselves, holds for queries and prompts. Refuses to know
tensors, the network and files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from incontext.images.ids import IGNORED, ids_in
from incontext.options import LEAST_TILES
from incontext.types import Prompt

OVERLAP: Final = 0.25  # of a window's side: how far neighbours reach into each other, at least
MOST_CUTS: Final = 4  # windows that a prompt is cut to
_EXTENTS: Final = 6.0  # along a side of an automatic window; see docs/log/windows.md
_STEPS = 8  # places tried for a prompt's window along its side


@dataclass(frozen=True)
class Window:
    """A rectangle of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Take that part of an array (H, W, ...), not copied."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


def window_side(prompts: Sequence[Prompt], side: int) -> int:
    """Choose the automatic window, in pixels along a side: as near to full resolution as what is marked allows.

    Six times the extent of what a prompt marks leaves room for its surroundings, and a window is not larger than the
    prompt,
    or things would be smaller in it than in the prompt. Of several prompts the middle one decides.

    Args:
        prompts: At least one.
        side: Of what the network sees; a window is not smaller, as it would show no more.
    """
    wanted = [min(max(side, ceil(_EXTENTS * extent(prompt.mask))), *prompt.mask.shape) for prompt in prompts]
    middle: int = sorted(wanted)[len(wanted) // 2]
    return max(LEAST_TILES, middle)


def extent(mask: npt.NDArray[np.uint8]) -> float:
    """Measure how wide a typical marked part of a mask (H, W) is: four times the area over the outline's length.

    That is the side of squares and the double width of long strips, and needs no parts to be told apart. Outlines run
    where ids meet too; the image's own edge counts.
    """
    area = outline = 0
    for i in ids_in(mask):
        inside = np.pad(mask == i, 1)
        area += int(np.count_nonzero(inside))
        outline += sum(int(np.count_nonzero(np.diff(inside, axis=axis))) for axis in (0, 1))
    return 4 * area / outline if outline else 0.0


def windows(size: tuple[int, int], window: int) -> tuple[Window, ...]:
    """Cover an image (H, W) with squares of `window` pixels, row by row, evenly spread.

    Neighbours overlap by a quarter of a window or more. Along a side that is shorter than a window there is one, as
    short as the side.
    """
    rows, columns = (_starts(length, window) for length in size)
    height, width = (min(length, window) for length in size)
    return tuple(Window(top, left, height, width) for top in rows for left in columns)


def _starts(length: int, window: int) -> list[int]:
    if length <= window:
        return [0]
    count = 1 + ceil((length - window) / (window * (1 - OVERLAP)))
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


def cut(prompt: Prompt, window: int, *, most: int = MOST_CUTS) -> tuple[Prompt, ...]:
    """Cut a prompt to windows around what its mask marks; itself where it is not larger than one.

    Each window is where it shows most of what no window before it shows, as long as its surroundings are in it too: a
    pixel that is newly shown counts by the share of the window that is background. There are at most `most`, or as many
    as it takes to show every id.
    """
    size = prompt.mask.shape[0], prompt.mask.shape[1]
    if max(size) <= window:
        return (prompt,)
    step = max(1, window // _STEPS)
    height, width = (min(length, window) for length in size)
    tops, lefts = _places(size[0], height, step), _places(size[1], width, step)
    marked = (prompt.mask > 0) & (prompt.mask < IGNORED)
    background = 1 - _sums(marked, tops, lefts, height, width) / (height * width)
    unseen, missing = marked.copy(), set(prompt.ids)
    made: list[Prompt] = []
    while missing or (len(made) < most and unseen.any()):
        wanted = unseen & np.isin(prompt.mask, list(missing)) if missing else unseen
        new = _sums(wanted, tops, lefts, height, width)
        row, column = np.unravel_index(np.argmax(new * (background + 1e-3)), new.shape)
        chosen = Window(int(tops[row]), int(lefts[column]), height, width)
        made.append(_part(prompt, chosen))
        chosen.of(unseen)[:] = False
        missing -= set(made[-1].ids)
    return tuple(made)


def _places(length: int, window: int, step: int) -> npt.NDArray[np.int64]:
    """Find where windows may begin along a side: every `step` pixels, and at its end."""
    return np.unique(np.append(np.arange(0, length - window + 1, step), length - window))


def _sums(
    flags: npt.NDArray[np.bool_], tops: npt.NDArray[np.int64], lefts: npt.NDArray[np.int64], height: int, width: int
) -> npt.NDArray[np.int64]:
    """Count how many flags (H, W) are set in each window, (tops, lefts).

    An integral image in two sums of numpy's, of the rows that are asked for alone: neither numpy nor scipy has one.
    """
    down = np.cumsum(flags, axis=0, dtype=np.int32)
    rows = down[tops + height - 1] - np.where(tops[:, None] > 0, down[tops - 1], 0)
    total = np.cumsum(np.pad(rows, ((0, 0), (1, 0))), axis=1, dtype=np.int64)
    return total[:, lefts + width] - total[:, lefts]


def _part(prompt: Prompt, window: Window) -> Prompt:
    colors = None if prompt.colors is None else window.of(prompt.colors)
    return replace(prompt, image=window.of(prompt.image), mask=window.of(prompt.mask), colors=colors)
