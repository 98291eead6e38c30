"""Clicks as the field simulates them: where a user who sees an answer would click next (RITM, arXiv 2102.06583).

Of the false negatives and the false positives of the last answer, ignored pixels left out and a border of one pixel
around them, each pixel's distance to the nearest that is right (or is of the other kind) is taken, clicked pixels
counting 0; the click goes to the pixel farthest away, of equally far ones the first by row. It is positive if that was
a false negative that is farther than every false positive. Real users click elsewhere (RClicks, arXiv 2410.11722), so
figures by this protocol flatter. Refuses to know networks, files and scores over many things.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from incontext.evaluation.metrics import Flags, overlap

MOST_CLICKS = 20  # on one thing, as everyone counts


@dataclass(frozen=True)
class Click:
    """On the pixel in column x and row y.

    Attributes:
        positive: "this", else "not this".
    """

    x: int
    y: int
    positive: bool


@dataclass(frozen=True)
class Curve:
    """What clicks on one thing brought.

    Attributes:
        ious: IoU after 0, 1, 2 ... clicks.
        clicks: One fewer.
        done: Nothing more was to be clicked on, because every wrong pixel had been.
    """

    ious: tuple[float, ...]
    clicks: tuple[Click, ...]
    done: bool = False

    def after(self, count: int) -> float:
        """Return the IoU after so many clicks; of fewer where the simulation stopped, as nothing was wrong any more."""
        return self.ious[min(count, len(self.ious) - 1)]


def next_click(truth: Flags, ignored: Flags, found: Flags, clicked: Sequence[Click] = ()) -> Click | None:
    """Click where the last answer is wrong.

    Args:
        truth: (H, W) bool, the thing.
        ignored: (H, W) bool, where nothing is scored.
        found: (H, W) bool, the last answer.
        clicked: All clicks so far.

    Returns:
        The click, or None where no pixel is wrong that was not clicked on. (The published code then clicks on the first
        pixel of the image, which says nothing.)
    """
    open_ones = np.ones(truth.shape, np.bool_)
    for click in clicked:
        open_ones[click.y, click.x] = False
    missing, surplus = (_depth(wrong & ~ignored) * open_ones for wrong in (truth & ~found, found & ~truth))
    positive = bool(missing.max() > surplus.max())
    depth = missing if positive else surplus
    if depth.max() == 0:
        return None
    y, x = divmod(int(depth.argmax()), depth.shape[1])
    return Click(x, y, positive)


def _depth(wrong: Flags) -> npt.NDArray[np.float64]:
    """Measure how far each such pixel is from the nearest that is not, pixels outside of the image included."""
    depth: npt.NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(wrong, 1))[1:-1, 1:-1]
    return depth


def simulate(
    answer: Callable[[Sequence[Click]], Flags],
    truth: Flags,
    ignored: Flags,
    *,
    first: Flags | None = None,
    most: int = MOST_CLICKS,
    enough: float = 1.0,
    least: int = 0,
) -> Curve:
    """Click on a thing until its answer is good enough.

    Args:
        answer: Clicks so far -> (H, W) bool.
        truth: (H, W) bool, the thing.
        ignored: (H, W) bool, where nothing is scored.
        first: The answer before any click, (H, W) bool; None: an empty one, as the protocol has it.
        most: Clicks at most.
        enough: The IoU at which to stop,
        least: but not before so many clicks.
    """
    found = np.zeros_like(truth) if first is None else first
    ious, clicks = [overlap(found, truth, ignored).iou], list[Click]()
    while len(clicks) < most and (len(clicks) < least or ious[-1] < enough):
        click = next_click(truth, ignored, found, clicks)
        if click is None:
            return Curve(tuple(ious), tuple(clicks), done=True)
        clicks.append(click)
        found = answer(clicks)
        ious.append(overlap(found, truth, ignored).iou)
    return Curve(tuple(ious), tuple(clicks))


def clicks_to_reach(curve: Curve, iou: float) -> int | None:
    """Count the clicks until the IoU is at least so much, 0 where an example alone brought it; None: none did."""
    return next((count for count, value in enumerate(curve.ious) if value >= iou), None)
