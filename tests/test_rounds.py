"""Rounds of hints on one query: they add up, are taken back and given again, and accepted answers become examples."""

from __future__ import annotations

import numpy as np
import pytest
from test_hinting import image, made, prompt

import incontext
from incontext.hints import Hints
from incontext.rounds import Rounds
from incontext.types import Prompt, Segmentation


def same(one: Segmentation | None, other: Segmentation | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool((one.mask == other.mask).all() and (one.confidence == other.confidence).all())


def test_hints_add_up() -> None:
    segmenter, query = made(), image()
    rounds = incontext.Rounds(segmenter, query, prompt())
    assert same(rounds.answer, segmenter.segment(query, prompt()))
    assert rounds.hints is None
    first = rounds.hint(points=[(3, 3, 1)])
    assert same(first, segmenter.segment(query, prompt(), hints=Hints(points=[(3, 3, 1)])))
    second = rounds.hint(Hints(points=[(20, 20, 0)]))
    assert same(second, segmenter.segment(query, prompt(), hints=Hints(points=[(3, 3, 1), (20, 20, 0)])))
    assert same(second, rounds.answer)
    assert rounds.hints is not None
    assert rounds.hints.points == ((3, 3, 1), (20, 20, 0))


def test_what_was_said_is_taken_back_and_said_again() -> None:
    rounds = Rounds(made(), image())
    assert rounds.answer is None
    with pytest.raises(ValueError, match="a hint to take back"):
        rounds.undo()
    first = rounds.hint(points=[(3, 3, 1)])
    second = rounds.hint(points=[(20, 20, 0)])
    assert same(rounds.undo(), first)
    assert rounds.undo() is None
    assert rounds.hints is None
    assert same(rounds.redo(), first)
    assert same(rounds.redo(), second)
    with pytest.raises(ValueError, match="that was taken back"):
        rounds.redo()
    rounds.undo()
    rounds.hint(boxes=[(2, 2, 20, 20, 1)])
    with pytest.raises(ValueError, match="that was taken back"):
        rounds.redo()
    assert rounds.hints is not None
    assert len(rounds.hints.marks) == 2


def test_a_hint_that_cannot_be_used_changes_nothing() -> None:
    rounds = Rounds(made(), image(), prompt())
    before = rounds.hint(points=[(3, 3, 1)])
    for wrong in ({"points": [(400, 3, 1)]}, {"points": [(4, 3, 9)]}, {}):
        with pytest.raises(ValueError, match="expected"):
            rounds.hint(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got both"):
        rounds.hint(Hints(points=[(3, 3, 1)]), points=[(3, 3, 1)])
    assert same(rounds.answer, before)
    assert rounds.hints is not None
    assert len(rounds.hints.marks) == 1


def test_an_accepted_answer_joins_the_context_of_the_next_query() -> None:
    segmenter, query, other = made(), image(), image(seed=3)
    rounds = Rounds(segmenter, query)
    with pytest.raises(ValueError, match="an answer that marks something"):
        rounds.prompt()
    rounds.hint(points=[(3, 3, 1)])
    shown = rounds.prompt(weight=2.0)
    assert isinstance(shown, Prompt)
    assert shown.weight == 2.0
    assert rounds.answer is not None
    np.testing.assert_array_equal(shown.mask, rounds.answer.mask)
    following = rounds.accept(other)
    assert following.context[0].ids == shown.ids
    assert same(following.answer, segmenter.segment(other, rounds.prompt()))
    further = following.accept(image(seed=4))
    assert len(further.context) == 2


def test_the_last_answer_may_stand_as_an_example_that_counts_less() -> None:
    segmenter, query = made(), image()
    plain, weighted = (Rounds(segmenter, query, prompt(), answer_weight=weight) for weight in (0.0, 0.5))
    last = weighted.answer
    assert last is not None
    shot = Prompt(query, last.mask, palette=last.palette, weight=0.5)
    hints = Hints(points=[(3, 3, 1)])
    expected = segmenter.segment(query, [prompt(), shot], hints=hints)
    got = weighted.hint(hints)
    np.testing.assert_allclose(got.confidence, expected.confidence, atol=1e-4)
    assert np.abs(got.confidence - plain.hint(hints).confidence).max() > 1e-3
    alone = Rounds(segmenter, query, answer_weight=1.0)
    first = alone.hint(points=[(3, 3, 1)])
    second = alone.hint(points=[(30, 3, 0)])
    both = Hints(points=[(3, 3, 1), (30, 3, 0)])
    expected = segmenter.segment(query, Prompt(query, first.mask, palette=first.palette), hints=both)
    np.testing.assert_allclose(second.confidence, expected.confidence, atol=1e-4)
    assert set(alone.hint(points=[(20, 20, 7)]).ids) <= {1, 7}
    with pytest.raises(ValueError, match="answer_weight of at least 0"):
        Rounds(segmenter, query, answer_weight=-1)
