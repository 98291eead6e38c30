"""Claims on the pixels of a picture, made one after the other, and the mask that they leave.

Memory does not grow with the number of claims. Refuses to know networks, and where claims come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np

from incontext.images.read import Pixels
from incontext.prompters.parts import Margins
from incontext.types import Palette, Segmentation


class Layers:
    """The ids of a picture: on each pixel that of the surest claim, where any is above 0."""

    def __init__(self, height: int, width: int) -> None:
        self._ids: Pixels = np.zeros((height, width), np.uint8)
        self._best: Margins = np.full((height, width), -np.inf, np.float32)
        self._scores: dict[int, float] = {}

    @classmethod
    def of_mask(cls, mask: Pixels, margin: float) -> Self:
        """Return layers in which a mask's ids have claimed their pixels with a margin."""
        made = cls(*mask.shape)
        made._ids[:] = mask
        made._best[:] = np.where(mask > 0, margin, -margin)
        made._scores = {int(i): 1.0 for i in np.unique(mask) if i}
        return made

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

    def segmentation(self, asked: Iterable[int]) -> Segmentation:
        """Return the mask. asked: the ids that could have been there; those without a pixel have presence 0."""
        confidence = np.tanh(np.abs(self._best) / 2)  # |2 p - 1| of the probability p of the surest claim
        there = {int(i) for i in np.unique(self._ids) if i}
        ids = sorted({*asked, *there})
        presence = {i: self._scores.get(i, 0.0) if i in there else 0.0 for i in ids}
        return Segmentation(self._ids, confidence.astype(np.float32), Palette.spread(ids), presence)
