"""What a model must beat: three ways to answer an episode without having learnt anything.

Refuses to know files and scores. Each is a `Predict`: (H, W, 3) uint8 queries, prompts with id 1 -> (H, W) bool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from incontext.evaluation.few_shot.images import SCORING_SIDE
from incontext.evaluation.few_shot.scoring import Method
from incontext.images.ids import IGNORED, Pixels
from incontext.images.resize import resized, resized_mask
from incontext.types import Prompt

_BINS = 16  # per colour channel


def everything(queries: Sequence[Pixels], _prompts: Sequence[Prompt]) -> Iterator[npt.NDArray[np.bool_]]:
    """Call all of a query foreground."""
    for query in queries:
        yield np.ones(query.shape[:2], np.bool_)


def copy_mask(queries: Sequence[Pixels], prompts: Sequence[Prompt]) -> Iterator[npt.NDArray[np.bool_]]:
    """Copy the prompts' masks to the query: foreground is where at least half of them say so."""
    for query in queries:
        votes = np.zeros(query.shape[:2], np.int64)
        for prompt in prompts:
            votes += resized_mask(prompt.mask, query.shape[:2]) == 1
        yield 2 * votes >= len(prompts)


def color_histogram(queries: Sequence[Pixels], prompts: Sequence[Prompt]) -> Iterator[npt.NDArray[np.bool_]]:
    """Call foreground the colours, of 16 x 16 x 16, that more prompt pixels have inside the mask than outside."""
    lead = np.zeros(_BINS**3, np.int64)
    for prompt in prompts:
        size = (SCORING_SIDE, SCORING_SIDE)  # so that prompts of any size have the same weight
        bins, mask = _bins(resized(prompt.image, size)), resized_mask(prompt.mask, size)
        lead += np.bincount(bins[mask == 1], minlength=_BINS**3)
        lead -= np.bincount(bins[(mask != 1) & (mask != IGNORED)], minlength=_BINS**3)
    for query in queries:
        yield lead[_bins(query)] > 0


def _bins(image: Pixels) -> npt.NDArray[np.int64]:
    levels = image.astype(np.int64) * _BINS // 256
    return (levels[..., 0] * _BINS + levels[..., 1]) * _BINS + levels[..., 2]


BASELINES = (
    Method("copy the mask", copy_mask, baseline=True),
    Method("colour histogram", color_histogram, baseline=True),
    Method("everything", everything, baseline=True, uses_prompts=False),
)
