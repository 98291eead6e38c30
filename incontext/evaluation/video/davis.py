"""The measures of DAVIS: J, how well a region is met; F, how well its outline is; and what is made of them over time.

Refuses to know files, ids and networks. Masks are (H, W) bool arrays here: `found` and `truth`, and `ignored` where
nothing is scored. By the definition of Perazzi et al. (CVPR 2016) as the official code for DAVIS 2017 (arXiv
1704.00675) computes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, hypot, isqrt

import numpy as np

from incontext.evaluation.metrics import Flags, mean, overlap

_TOLERANCE = 0.008  # of the diagonal: how far apart outlines may be and still match
_GOOD = 0.5  # a frame above it counts as recalled
_PARTS = 4  # of a sequence: decay compares the first with the last


def region(found: Flags, truth: Flags, ignored: Flags) -> float:
    """Compute J of one frame, 0..1: intersection over union, 1 where both masks are empty."""
    return overlap(found, truth, ignored).iou


def boundary(found: Flags, truth: Flags, ignored: Flags, radius: int | None = None) -> float:
    """Compute F of one frame, 0..1: the harmonic mean of the outlines' precision and recall, 1 without outlines.

    A pixel of one outline matches where one of the other lies within ``radius`` pixels of it; None, as DAVIS has it:
    ceil(0.008 * diagonal). What is ignored is background in both masks.

    Raises:
        ValueError: For masks of different sizes.
    """
    if not found.shape == truth.shape == ignored.shape or found.ndim != 2:
        raise ValueError(f"expected (H, W) masks of one size, got {found.shape}, {truth.shape} and {ignored.shape}")
    if radius is None:
        radius = ceil(_TOLERANCE * hypot(*found.shape))
    painted, real = outline(found & ~ignored), outline(truth & ~ignored)
    if not (painted.any() and real.any()):
        return 1.0 if painted.any() == real.any() else 0.0
    precision = np.count_nonzero(painted & widened(real, radius)) / np.count_nonzero(painted)
    recall = np.count_nonzero(real & widened(painted, radius)) / np.count_nonzero(real)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def outline(mask: Flags) -> Flags:
    """Find the pixels that differ from their right, lower or lower right neighbour, (H, W) bool.

    So an outline lies half a pixel up and left of the mask's edge, and none runs along the image's own edge.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    edge: Flags = (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])
    return edge


def widened(mask: Flags, radius: int) -> Flags:
    """Find what lies within `radius` pixels of the mask, by Euclidean distance, (H, W) bool.

    A disk row by row, from its narrow top and bottom to its middle, so that each row widens the one before it.
    """
    height, width = mask.shape
    padded = np.pad(mask, radius)
    rows, reach = padded[:, radius : radius + width].copy(), 0
    near = np.zeros_like(mask)
    for away in range(radius, -1, -1):
        while reach < isqrt(radius**2 - away**2):
            reach += 1
            rows |= padded[:, radius - reach : radius - reach + width]
            rows |= padded[:, radius + reach : radius + reach + width]
        near |= rows[radius - away : radius - away + height]
        near |= rows[radius + away : radius + away + height]
    return near


@dataclass(frozen=True)
class Statistics:
    """Of a measure over an object's frames: mean, recall, the share of frames above 0.5, and decay.

    Decay is the mean of the first quarter less that of the last (negative where it gets better). Means of these over
    objects
    are of this type too.
    """

    mean: float
    recall: float
    decay: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistics:
        """Compute those of values in the order of time.

        Quarters share the frame where they meet. The official code numbers frames with 8 bits and so gets the decay of
        more than 256 frames wrong; this does not.

        Raises:
            ValueError: There are none.
        """
        if not values:
            raise ValueError("expected the values of at least one frame, got none")
        ends = np.rint(np.linspace(1, len(values), _PARTS + 1) + 1e-10).astype(np.int64) - 1
        first, last = values[: ends[1] + 1], values[ends[-2] :]
        return cls(mean(values), mean(float(value > _GOOD) for value in values), mean(first) - mean(last))

    @classmethod
    def over(cls, each: Iterable[Statistics]) -> Statistics:
        """Average over objects."""
        objects = list(each)
        return cls(mean(o.mean for o in objects), mean(o.recall for o in objects), mean(o.decay for o in objects))
