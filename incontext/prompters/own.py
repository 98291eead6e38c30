"""What fills boxes where no SAM is at hand: anything that answers hints, such as our own network.

Refuses to know the engine: it knows what the engine's Segmenter promises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from incontext.hints import Hints
from incontext.images.ids import IGNORED, Pixels
from incontext.prompters.parts import Clicks, Margins
from incontext.types import Segmentation

_MOST = 1 - 1e-6  # of a confidence, whose log odds are finite


class AnswersHints(Protocol):
    """What segments an image by hints on it alone; `incontext.Segmenter` does."""

    def segment(self, query: Pixels, context: None, *, hints: Hints) -> Segmentation:
        """Return the ids that are pointed at."""


class ByHints:
    """Answers clicks by asking for each object with hints of id 1; see `parts.Clicker`."""

    def __init__(self, segmenter: AnswersHints) -> None:
        """Hold what answers."""
        self._segmenter = segmenter

    def masks(self, image: Pixels, objects: Sequence[Clicks]) -> Iterator[tuple[Margins, float]]:
        """Yield for each object its margins, and the mean confidence inside."""
        for each in objects:
            answer = self._segmenter.segment(image, None, hints=_hints(each))
            odds = 2 * np.arctanh(np.minimum(answer.confidence, _MOST))
            inside = answer.mask == 1
            score = float(answer.confidence[inside].mean()) if inside.any() else 0.0
            yield np.where(inside, odds, -odds).astype(np.float32), score


def _hints(clicks: Clicks) -> Hints:
    points = [(float(x), float(y), int(inside)) for (x, y), inside in zip(clicks.points, clicks.inside, strict=True)]
    boxes = [] if clicks.box is None else [(*clicks.box, 1)]
    if clicks.mask is None:
        return Hints(points=points, boxes=boxes)
    return Hints(points=points, boxes=boxes, scribbles=np.where(clicks.mask, 1, IGNORED).astype(np.uint8))
