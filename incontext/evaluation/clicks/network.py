"""The network among those that answer clicks: with an example, alone, with its own last answer beside.

The only module here that knows the engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from incontext.engine import Segmenter
from incontext.evaluation.clicks.scoring import Answers, ClickMethod
from incontext.evaluation.clicks.simulation import Click
from incontext.evaluation.metrics import Flags
from incontext.hints import Hints
from incontext.images.ids import Pixels
from incontext.options import SegmentOptions
from incontext.rounds import Rounds
from incontext.types import Prompt

WITH_EXAMPLE, ALONE = "with an example", "alone"


def network_methods(segmenter: Segmenter, options: SegmentOptions) -> list[ClickMethod]:
    """Make methods of a network: with an example, and alone. options: but for tiles, which go with examples only."""
    alone = segmenter.prepare(None, **options.keywords())

    def start(image: Pixels, example: Prompt | None) -> Answers:
        context = alone if example is None else segmenter.prepare(example, **options.keywords())

        def answer(clicks: Sequence[Click]) -> Flags:
            hints = hints_of(clicks)
            if example is None and (hints is None or not hints.ids):
                return np.zeros(image.shape[:2], np.bool_)
            found: Flags = segmenter.segment(image, context, hints=hints).mask == 1
            return found

        return answer

    return [ClickMethod(WITH_EXAMPLE, start, uses_example=True), ClickMethod(ALONE, start)]


def remembering(segmenter: Segmenter, options: SegmentOptions, weight: float, *, uses_example: bool) -> ClickMethod:
    """Make a method in which the last answer stands as an example, with a weight beside those that count 1."""

    def start(image: Pixels, example: Prompt | None) -> Answers:
        rounds = Rounds(segmenter, image, example, answer_weight=weight, **options.keywords())

        def answer(clicks: Sequence[Click]) -> Flags:
            if clicks and (rounds.hints is not None or clicks[-1].positive or uses_example):
                rounds.hint(points=[_point(clicks[-1])])
            found: Flags = np.zeros(image.shape[:2], np.bool_) if rounds.answer is None else rounds.answer.mask == 1
            return found

        return answer

    kind = WITH_EXAMPLE if uses_example else ALONE
    return ClickMethod(f"{kind}, last answer {weight:g}", start, uses_example=uses_example)


def hints_of(clicks: Sequence[Click]) -> Hints | None:
    """Say clicks of the thing, id 1; None where there are none."""
    return Hints(points=[_point(click) for click in clicks]) if clicks else None


def _point(click: Click) -> tuple[int, int, int]:
    return click.x, click.y, int(click.positive)
