"""How well whole scenes are labelled: intersections and unions of all classes, and panoptic quality.

Counts of single images that are summed first and divided last. Refuses to know files, networks and what classes mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from incontext.annotations.core import Thing
from incontext.images.ids import IGNORED, Pixels
from incontext.images.outlines import connected

Counts = dict[int, tuple[float, ...]]
"""By class: the numbers that are summed over images."""
Floats = npt.NDArray[np.float64]

STUFF_LEAST: Final = 64 * 64  # pixels: smaller regions of stuff are left out, as COCO's own tool for merging does
_MATCH: Final = 0.5


def overlaps(found: Pixels, truth: Pixels) -> Counts:
    """Count by class pixels in both, and pixels in either.

    Args:
        found: (H, W) uint8 ids, 0 none.
        truth: Likewise, 255 where nothing is scored. Classes that neither shows are left out.
    """
    if found.shape != truth.shape:
        raise ValueError(f"expected an answer of the truth's size {truth.shape}, got {found.shape}")
    pairs = np.bincount((truth.astype(np.int32) * 256 + found).ravel(), minlength=65536).reshape(256, 256)
    pairs = pairs[:IGNORED]  # pixels that are not scored
    real, answered, both = pairs.sum(axis=1), pairs.sum(axis=0)[:IGNORED], pairs.diagonal()
    union = real + answered - both
    return {i: (int(both[i]), int(union[i])) for i in np.flatnonzero(union).tolist() if i}


def iou(sums: Floats) -> Floats:
    """Compute IoU of sums of `overlaps` (..., 2): (...), NaN where there is nothing."""
    return _ratio(sums[..., 0], sums[..., 1])


def segments(ids: Pixels, countable: frozenset[int], *, smallest: int) -> tuple[npt.NDArray[np.int32], dict[int, int]]:
    """Cut an answer's classes (H, W) into segments: their numbers (H, W), 0 none, and the class of each number.

    Args:
        countable: Classes whose connected parts are segments of their own, if they have `smallest` pixels; of the
            others all pixels are one segment, if they are 64 x 64 at least.
    """
    numbers = np.zeros(ids.shape, np.int32)
    classes: dict[int, int] = {}
    for i in set(np.unique(ids).tolist()) - {0, IGNORED}:
        parts = connected(ids == i) if i in countable else (ids == i).astype(np.int32)
        sizes, least = np.bincount(parts.ravel()), smallest if i in countable else STUFF_LEAST
        for part in np.flatnonzero(sizes >= least).tolist():
            if part:
                classes[len(classes) + 1] = i
                numbers[parts == part] = len(classes)
    return numbers, classes


def matches(numbers: npt.NDArray[np.int32], classes: Mapping[int, int], things: Sequence[Thing]) -> Counts:
    """Match found segments with real ones, as COCO's panopticapi counts them (arXiv 1801.00868).

    What is found where there is no real segment takes no part in a union; what is left over counts only if not more
    than
    half of it lies there or in a crowd of its class.

    Args:
        numbers: What was found, as `segments` gives it.
        classes: The class of each number.
        things: The real segments, not overlapping; those that are ignored are crowds.

    Returns:
        By class: the sum of the IoUs of matched segments, how many match, how many found and how many real ones are
            left.
    """
    real = np.zeros(numbers.shape, np.int32)
    for number, thing in enumerate(things, start=1):
        thing.seen_in(real)[thing.selected] = number
    found_count = max(classes, default=0) + 1
    pairs = np.bincount((real * found_count + numbers).ravel(), minlength=(len(things) + 1) * found_count)
    pairs = pairs.reshape(len(things) + 1, found_count)
    areas, found_areas, in_void = pairs.sum(axis=1), pairs.sum(axis=0), pairs[0]
    counts: dict[int, list[float]] = {}
    left_real, left_found = set(range(1, len(things) + 1)), set(classes)
    for one, other in np.argwhere(pairs[1:, 1:] > 0) + 1:
        thing, i = things[one - 1], classes[int(other)]
        if thing.is_ignored or thing.category != i:
            continue
        both = pairs[one, other]
        share = both / (areas[one] + found_areas[other] - both - in_void[other])
        if share > _MATCH:
            own = counts.setdefault(i, [0.0, 0, 0, 0])
            own[0] += float(share)
            own[1] += 1
            left_real.discard(int(one))
            left_found.discard(int(other))
    crowds = {things[one - 1].category: one for one in sorted(left_real) if things[one - 1].is_ignored}
    for other in left_found:
        i = classes[other]
        beside = in_void[other] + (pairs[crowds[i], other] if i in crowds else 0)
        if beside <= _MATCH * found_areas[other]:
            counts.setdefault(i, [0.0, 0, 0, 0])[2] += 1
    for one in left_real:
        if not things[one - 1].is_ignored:
            counts.setdefault(things[one - 1].category, [0.0, 0, 0, 0])[3] += 1
    return {i: tuple(own) for i, own in counts.items()}


def panoptic_quality(sums: Floats) -> Floats:
    """Compute PQ of sums of `matches` (..., 4): (...), NaN where there is nothing."""
    return _ratio(sums[..., 0], sums[..., 1] + (sums[..., 2] + sums[..., 3]) / 2)


def segmentation_quality(sums: Floats) -> Floats:
    """Compute the mean IoU of matches (SQ) of sums of `matches` (..., 4): (...), 0 without any, NaN without all."""
    return np.where(np.isnan(panoptic_quality(sums)), np.nan, np.nan_to_num(_ratio(sums[..., 0], sums[..., 1])))


def recognition_quality(sums: Floats) -> Floats:
    """Compute the share of segments that match (RQ) of sums of `matches` (..., 4): (...), NaN without any."""
    return _ratio(sums[..., 1], sums[..., 1] + (sums[..., 2] + sums[..., 3]) / 2)


def _ratio(part: Floats, whole: Floats) -> Floats:
    ratio = np.full(np.broadcast(part, whole).shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
