"""Claims on the pixels of an image, made one after the other, and the mask that they leave.

Memory does not grow with the number of claims. Refuses to know networks, and where claims come from.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from incontext.images.ids import IGNORED, Pixels, ids_in
from incontext.prompters.parts import Margins
from incontext.types import Palette, Segmentation


class Layers:
    """The ids of an image: on each pixel that of the surest claim, where any is above 0."""

    def __init__(self, height: int, width: int) -> None:
        self._ids: Pixels = np.zeros((height, width), np.uint8)
        self._best: Margins = np.full((height, width), -np.inf, np.float32)
        self._scores: dict[int, float] = {}

    def add(self, number: int, margins: Margins, score: float) -> None:
        """Claim pixels for an id.

        Args:
            number: The id, 1..254.
            margins: (H, W) float32 log odds.
            score: 0..1; the id's presence is the highest of its claims that has a pixel.
        """
        surer = margins > self._best
        np.copyto(self._best, margins, where=surer)
        self._ids[surer & (margins > 0)] = number
        if (margins > 0).any():
            self._scores[number] = max(self._scores.get(number, 0.0), min(max(score, 0.0), 1.0))

    def fill(self, mask: Pixels, margin: float) -> None:
        """Give what nobody has claimed to the ids of a mask (H, W), which are as sure as the margin."""
        free = (self._ids == 0) & (mask > 0) & (mask < IGNORED)
        np.copyto(self._ids, mask, where=free)
        self._best[free] = margin
        for i in ids_in(np.where(free, mask, 0).astype(np.uint8)):
            self._scores[i] = max(self._scores.get(i, 0.0), 1.0)

    @property
    def mask(self) -> Pixels:
        """(H, W) ids so far."""
        return self._ids

    def segmentation(self, asked: Iterable[int]) -> Segmentation:
        """Return the mask. asked: the ids that could have been there; those without a pixel have presence 0."""
        confidence = np.tanh(np.abs(self._best) / 2)  # |2 p - 1| of the probability p of the surest claim
        there = set(ids_in(self._ids))
        ids = sorted({*asked, *there})
        presence = {i: self._scores.get(i, 0.0) if i in there else 0.0 for i in ids}
        return Segmentation(self._ids, confidence.astype(np.float32), Palette.spread(ids), presence)
