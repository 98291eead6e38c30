"""Intersections, unions, and what is made of them: IoU per class, mIoU, FB-IoU.

And how sure those figures are, and how much a confidence knows.

Refuses to know files, episodes and colours. Masks are (H, W) arrays here: `found` and `truth` bool, `ignored` bool
where nothing is scored. Counts are summed over many masks first and divided last, as few-shot segmentation does
(HSNet, arXiv 2104.01538).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

BINS = 20  # of confidence, each 0.05 wide
_EDGES = np.linspace(0, 1, BINS + 1).astype(np.float32)[1:-1]
REPLICATES = 1000  # of the bootstrap


@dataclass(frozen=True)
class Overlap:
    """Pixels in both masks and pixels in either; the sum of two is the overlap over both images."""

    intersection: int = 0
    union: int = 0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.intersection + other.intersection, self.union + other.union)

    @property
    def iou(self) -> float:
        """Intersection over union, 0..1; 1 where both masks are empty: nothing was there and nothing was found."""
        return self.intersection / self.union if self.union else 1.0


def overlap(found: Flags, truth: Flags, ignored: Flags) -> Overlap:
    """Count the overlap of two (H, W) bool masks, ignored pixels left out."""
    _same_shape(found, truth, ignored)
    scored = ~ignored
    return Overlap(int((found & truth & scored).sum()), int(((found | truth) & scored).sum()))


def mean(values: Iterable[float]) -> float:
    """Average plainly: classes' IoUs (mIoU), foreground's and background's (FB-IoU), or sets."""
    listed = list(values)
    if not listed:
        raise ValueError("expected at least one value to average, got none")
    return sum(listed) / len(listed)


def resamples(episodes: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw how often each of a set's episodes is in each replicate of a bootstrap, (REPLICATES, episodes).

    Every row sums to `episodes`: they are drawn with replacement (Efron, Annals of Statistics 7, 1979). Scores of one
    set that share a seed share their replicates, so their differences may be compared replicate by replicate, for which
    `scipy.stats.bootstrap`, which draws anew for each statistic, has no way.
    """
    shares = np.full(episodes, 1 / episodes)
    return np.random.default_rng(seed).multinomial(episodes, shares, size=REPLICATES)


def resampled_mean_iou(drawn: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], overlaps: Floats) -> Floats:
    """Compute mIoU in each replicate of a bootstrap.

    A class none of whose episodes was drawn is left out of its replicate's mean.

    Args:
        drawn: (R, E), from `resamples`.
        classes: (E,) ids.
        overlaps: (E, 2), intersections and unions: sums to divide.

    Returns:
        (R,).
    """
    member = classes[:, None] == np.unique(classes)  # (E, K)
    summed = np.einsum("re,ek,eo->rko", drawn.astype(np.float64), member.astype(np.float64), overlaps, optimize=True)
    iou = np.divide(summed[..., 0], summed[..., 1], out=np.ones(summed.shape[:2]), where=summed[..., 1] > 0)
    shown = (drawn @ member) > 0
    result: Floats = (iou * shown).sum(axis=1) / shown.sum(axis=1)
    return result


def interval(replicates: Floats) -> Interval:
    """Take the middle 95 % of the replicates (R,) of a bootstrap: its percentile interval."""
    low, high = np.percentile(replicates, [2.5, 97.5]).tolist()
    return low, high


@dataclass(frozen=True, eq=False)
class ConfidenceTally:
    """Counts from which one can tell whether low confidence points at wrong pixels.

    pixels (2, BINS) and total (2, BINS): number and summed confidence of the [wrong, right] pixels in bins of
    confidence, [0, 0.05) and so on up to [0.95, 1]. The sum of two tallies is the tally over both.
    """

    pixels: npt.NDArray[np.int64]
    total: Floats

    @classmethod
    def empty(cls) -> ConfidenceTally:
        """Make a tally of nothing."""
        return cls(np.zeros((2, BINS), np.int64), np.zeros((2, BINS)))

    @classmethod
    def of(cls, confidence: npt.NDArray[np.floating], right: Flags, ignored: Flags) -> ConfidenceTally:
        """Tally one image: confidence (H, W) in 0..1, right (H, W) bool, ignored pixels left out."""
        _same_shape(confidence, right, ignored)
        scored = ~ignored
        values = confidence[scored].astype(np.float32)
        place = np.digitize(values, _EDGES) + BINS * right[scored]
        pixels = np.bincount(place, minlength=2 * BINS).reshape(2, BINS)
        total = np.bincount(place, weights=values, minlength=2 * BINS).reshape(2, BINS)
        return cls(pixels.astype(np.int64), total.astype(np.float64))

    def __add__(self, other: ConfidenceTally) -> ConfidenceTally:
        return ConfidenceTally(self.pixels + other.pixels, self.total + other.total)

    def below(self, threshold: float) -> tuple[int, int]:
        """Count how many wrong and how many right pixels lie below a threshold that is a multiple of 0.05."""
        bins = round(threshold * BINS)
        if abs(bins - threshold * BINS) > 1e-9:
            raise ValueError(f"expected a threshold that is a multiple of {1 / BINS:g}, got {threshold:g}")
        wrong, right = self.pixels[:, :bins].sum(axis=1).tolist()
        return wrong, right

    @property
    def calibration_error(self) -> float | None:
        """The expected calibration error, 0..1; None where nothing was counted.

        It is |share right - mean confidence| of a bin, weighted by its pixels (Guo et al., arXiv 1706.04599).
        """
        pixels = self.pixels.sum(axis=0)
        if not pixels.any():
            return None
        return float(np.abs(self.pixels[1] - self.total.sum(axis=0)).sum() / pixels.sum())


def _same_shape(*arrays: npt.NDArray[np.generic]) -> None:
    shapes = [array.shape for array in arrays]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise ValueError(f"expected (H, W) arrays of one shape, got {', '.join(map(str, shapes))}")
