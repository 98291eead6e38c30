"""Intersections, unions, and what is made of them: IoU per class, mIoU, FB-IoU; and how much a confidence knows.

Refuses to know files, episodes and colours. Masks are (H, W) arrays here: `found` and `truth` bool, `ignored` bool
where nothing is scored. Counts are summed over many masks first and divided last, as few-shot segmentation does
(HSNet, arXiv 2104.01538).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Overlap:
    """Pixels in both masks and pixels in either; the sum of two is the overlap over both pictures."""

    intersection: int = 0
    union: int = 0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.intersection + other.intersection, self.union + other.union)

    @property
    def iou(self) -> float:
        """Intersection over union, 0..1; 1 where both masks are empty: nothing was there and nothing was found."""
        return self.intersection / self.union if self.union else 1.0


def overlap(found: Flags, truth: Flags, ignored: Flags) -> Overlap:
    """The overlap of two (H, W) bool masks, ignored pixels left out."""
    _same_shape(found, truth, ignored)
    scored = ~ignored
    return Overlap(int((found & truth & scored).sum()), int(((found | truth) & scored).sum()))


def mean(values: Iterable[float]) -> float:
    """The plain mean, of classes' IoUs (mIoU), of foreground's and background's (FB-IoU), or of sets."""
    listed = list(values)
    if not listed:
        raise ValueError("expected at least one value to average, got none")
    return sum(listed) / len(listed)


@dataclass(frozen=True, eq=False)
class ConfidenceTally:
    """Counts from which one can tell whether low confidence points at wrong pixels.

    thresholds: ascending, in 0..1; pixels (2,) and total (2,): number and summed confidence of the [wrong, right]
    pixels; below (2, thresholds): how many of them lie under each threshold. The sum of two tallies is the tally over
    both.
    """

    thresholds: tuple[float, ...]
    pixels: npt.NDArray[np.int64]
    total: npt.NDArray[np.float64]
    below: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, thresholds: Sequence[float]) -> ConfidenceTally:
        shape = (2, len(thresholds))
        return cls(tuple(thresholds), np.zeros(2, np.int64), np.zeros(2), np.zeros(shape, np.int64))

    def count(self, confidence: npt.NDArray[np.floating], right: Flags, ignored: Flags) -> ConfidenceTally:
        """This tally and one more picture: confidence (H, W) in 0..1, right (H, W) bool, ignored pixels left out."""
        _same_shape(confidence, right, ignored)
        groups = [confidence[~right & ~ignored], confidence[right & ~ignored]]
        return ConfidenceTally(
            self.thresholds,
            self.pixels + np.array([group.size for group in groups], np.int64),
            self.total + [group.sum(dtype=np.float64) for group in groups],
            self.below + np.array([[(group < t).sum() for t in self.thresholds] for group in groups], np.int64),
        )


def _same_shape(*arrays: npt.NDArray[np.generic]) -> None:
    shapes = [array.shape for array in arrays]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(f"expected (H, W) arrays of one shape, got {', '.join(map(str, shapes))}")
