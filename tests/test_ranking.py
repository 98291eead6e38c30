"""Ranking examples: leave-one-out scores, which context they make, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from incontext.evaluation.ranking import Ranking, Trial, rank, try_together
from incontext.images.ids import Pixels
from incontext.options import SegmentOptions
from incontext.types import Palette, Prompt, Segmentation


class Grey:
    """Stands in for a Segmenter: id i is where a query has the grey value that a prompt of the context has most often
    where its mask says i."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.fitted = 0

    def fit(self, query: Pixels, *, side: int | None) -> Pixels:
        self.fitted += 1
        return query if side != 64 else 255 - query

    def segment_many(
        self, queries: Iterable[Pixels], context: Prompt | Sequence[Prompt], **asked: Any
    ) -> Iterator[Segmentation]:
        self.asked.append(asked)
        prompts = [context] if isinstance(context, Prompt) else list(context)
        ids = {i for prompt in prompts for i in prompt.ids}
        for query in queries:
            mask = np.zeros(query.shape[:2], np.uint8)
            for prompt in prompts:
                for i in prompt.ids:
                    value = np.bincount(prompt.image[prompt.mask == i][:, 0]).argmax()
                    mask[query[..., 0] == value] = i
            yield Segmentation(mask, np.ones(mask.shape, np.float32), Palette.spread(ids))


def example(mask: Sequence[int], grey: Sequence[int]) -> Prompt:
    """One row of pixels."""
    return Prompt(np.repeat(np.array([grey], np.uint8)[..., None], 3, axis=2), np.array([mask], np.uint8))


# In a and b, id 1 is 50; c shows another grey beside it; d marks 60, which no other image marks.
EXAMPLES = (
    example([1, 1, 0, 0], [50, 50, 10, 10]),
    example([1, 1, 1, 0], [50, 50, 50, 60]),
    example([1, 1, 1, 255], [50, 50, 99, 60]),
    example([1, 0, 0, 0], [60, 50, 10, 10]),
)
NAMES = ("a", "b", "c", "d|d")


def ranked(prompts: Sequence[Prompt] = EXAMPLES, **options: Any) -> Ranking:
    return rank(Grey(), prompts, **options)  # type: ignore[arg-type]


def test_scores_are_those_of_leaving_one_out() -> None:
    ranking = ranked(names=NAMES)
    # a as prompt: b 3/3, c 2/3, d 0 of (50 is painted, 60 is right) 2. Sums first, then the ratio; 255 is not counted.
    expected = [(3 + 2 + 0) / (3 + 3 + 2), (2 + 2 + 0) / (2 + 3 + 2), (2 + 3 + 0) / (2 + 3 + 2), 0 / (2 + 4 + 3)]
    assert ranking.iou[:, 0].tolist() == pytest.approx(expected)
    assert ranking.score.tolist() == pytest.approx(expected)
    assert ranking.order == (2, 0, 1, 3)
    assert ranking.tried.sum(axis=1).tolist() == [3, 3, 3, 3]
    assert ranking.union[0, 0, 0] == 0  # never on itself


def test_an_image_without_the_thing_counts_what_is_painted_in_it() -> None:
    nothing, traps = np.full((1, 4, 3), 10, np.uint8), np.full((1, 4, 3), 50, np.uint8)
    assert ranked(empty=[nothing]).score.tolist() == ranked().score.tolist()
    with_traps = ranked(empty=[traps])
    assert with_traps.iou[0, 0] == pytest.approx(5 / (8 + 4))
    assert with_traps.tried.sum(axis=1).tolist() == [4, 4, 4, 4]


def several_ids() -> tuple[Prompt, ...]:
    """Ids 1 (grey 50) and 2 (grey 80) in 0..3; 4 shows both, id 1 wrongly; 5 alone shows id 3."""
    return (
        example([1, 1, 0, 0], [50, 50, 10, 80]),
        example([1, 1, 1, 0], [50, 50, 50, 10]),
        example([2, 2, 0, 0], [80, 80, 10, 50]),
        example([2, 0, 0, 0], [80, 10, 10, 10]),
        example([1, 2, 2, 2], [10, 80, 80, 80]),
        example([3, 0, 0, 0], [20, 10, 10, 10]),
    )


def test_ids_that_an_example_lacks_do_not_count_against_it() -> None:
    ranking = ranked(several_ids())
    assert ranking.ids == (1, 2, 3)
    # 0 finds id 1: in 1 all 3, in 4 nothing of 1, and one pixel that is painted in 2
    assert ranking.iou[0].tolist() == pytest.approx([3 / (3 + 1 + 1), np.nan, np.nan], nan_ok=True)
    assert ranking.score[0] == pytest.approx(3 / 5)
    # 4 knows id 2 well, and of id 1 it paints the background
    assert ranking.iou[4, 1] == pytest.approx((2 + 1) / (2 + 1 + 1))
    assert ranking.score[4] == pytest.approx((ranking.iou[4, 0] + ranking.iou[4, 1]) / 2)
    assert np.isnan(ranking.iou[5]).all()  # id 3 is in no other image, so nobody can tell
    assert np.isnan(ranking.score[5])
    assert ranking.order[-1] == 5


def test_the_best_show_all_ids_and_each_as_often() -> None:
    ranking = ranked(several_ids())
    assert np.nan_to_num(ranking.iou[:, :2]).tolist() == [
        [0.6, 0], [0.5, 0], [0, 0.8], [0, pytest.approx(5 / 6)], [0, 0.75], [0, 0],
    ]  # fmt: skip
    # 3 is the best; then 0 is better for id 1 than 4, which has it wrong; then 5, the only one that shows id 3
    assert ranking.best(3) == (3, 0, 5)
    assert ranking.best(5) == (3, 0, 5, 2, 1)  # 2 is better than 4; of id 1 there are then fewer examples
    assert sorted(ranking.best(6)) == list(range(6))
    for count in (0, 7):
        with pytest.raises(ValueError, match=f"expected to choose 1 to 6 examples, as many as there are, got {count}"):
            ranking.best(count)


def test_with_one_id_the_best_are_the_first_of_the_table() -> None:
    ranking = ranked()
    assert [ranking.best(n) for n in (1, 2, 4)] == [ranking.order[:1], ranking.order[:2], ranking.order]


def test_the_chosen_are_tried_together_on_the_rest() -> None:
    segmenter: Any = Grey()
    ranking = rank(segmenter, EXAMPLES)
    # c and a find 50 in b (3 of 3) and in d (0 of 2), as c does alone
    assert try_together(segmenter, EXAMPLES, ranking, (2, 0)) == Trial(pytest.approx(3 / 5), pytest.approx(3 / 5), 2)
    together = try_together(segmenter, EXAMPLES, ranking, (2, 3))  # d finds 60, which is wrong in b
    assert together == Trial(pytest.approx((2 + 3) / (2 + 4)), pytest.approx(1.0), 2)
    assert try_together(segmenter, EXAMPLES, ranking, range(4)) is None


def test_together_counts_the_ids_that_are_missing() -> None:
    prompts = several_ids()
    segmenter: Any = Grey()
    ranking = rank(segmenter, prompts)
    trial = try_together(segmenter, prompts, ranking, (0, 2))
    assert trial is not None
    assert trial.queries == 4
    # ids 1, 2 and 3 are in the other four; id 3 is known to none of the chosen, and 2 not to the first
    assert trial.together == pytest.approx((3 / 4 + 4 / 4 + 0) / 3)
    assert trial.alone == pytest.approx((3 / 4) / 3)


def test_a_limit_bounds_the_queries_and_keeps_every_id_among_them() -> None:
    prompts = [example([1, 0, 0, 0], [50, 10, 10, 10])] * 30 + [example([2, 0, 0, 0], [80, 10, 10, 10])] * 2
    for seed in range(5):
        ranking = ranked(prompts, limit=6, seed=seed)
        assert len(ranking.queries) == 6
        assert ranking.wanted.sum(axis=0).tolist() == [4, 2]
        assert not np.isnan(ranking.score).any()
        assert set(ranking.tried.sum(axis=1).tolist()) == {5, 6}
    assert ranked(prompts, limit=6).queries.tolist() == ranked(prompts, limit=6).queries.tolist()
    assert ranked(prompts, limit=6).queries.tolist() != ranked(prompts, limit=6, seed=1).queries.tolist()
    assert len(ranked(prompts, limit=99).queries) == 32
    with pytest.raises(ValueError, match="expected a limit of at least 1 query, got 0"):
        ranked(prompts, limit=0)


def test_options_reach_the_segmenter_and_queries_are_fitted_once() -> None:
    segmenter: Any = Grey()
    told: list[tuple[int, int]] = []
    ranking = rank(segmenter, EXAMPLES, task="semantic", side=64, on_answer=lambda *each: told.append(each))
    assert segmenter.asked == [SegmentOptions(task="semantic", side=64).plain()] * 4
    assert segmenter.fitted == 4
    assert told == [(number, 12) for number in range(1, 13)]
    assert ranking.score.tolist() != ranked().score.tolist()  # the stand-in sees negatives at that side


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (EXAMPLES[:1], "expected at least two examples, as each is tried on the others, got 1"),
        ((), "got 0"),
        (
            [example([i, 0], [50, 10]) for i in (1, 2, 3, 9)],
            r"expected an id that two examples show, .* got ids 1-3, 9, each in one mask only; give the same thing",
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused(prompts: Sequence[Prompt], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranked(prompts)


def test_tables() -> None:
    ranking = ranked(names=NAMES)
    assert ranking.to_markdown().splitlines() == [
        "| example | mean IoU | queries |",
        "|---|---|---|",
        "| c | 0.714 | 3 |",
        "| a | 0.625 | 3 |",
        "| b | 0.571 | 3 |",
        "| d\\|d | 0.000 | 3 |",
    ]
    document = json.loads(ranking.to_json())
    assert document["ids"] == [1]
    assert document["examples"][0] == {
        "name": "c", "mean_iou": pytest.approx(5 / 7), "iou": {"1": pytest.approx(5 / 7)}, "queries": 3,
    }  # fmt: skip
    several = ranked(several_ids())
    assert several.to_markdown().splitlines()[0] == "| example | mean IoU | id 1 | id 2 | id 3 | queries |"
    assert several.to_markdown().splitlines()[-1] == "| 5 | - | - | - | - | 5 |"
    assert json.loads(several.to_json())["examples"][-1] == {
        "name": "5", "mean_iou": None, "iou": {"3": None}, "queries": 5,
    }  # fmt: skip
    wide = np.arange(1, 11).tolist()
    many = ranked([example(wide, wide), example(wide, wide)])
    assert many.to_markdown().splitlines()[0] == "| example | mean IoU | ids | queries |"
    assert many.to_markdown().splitlines()[2] == "| 0 | 1.000 | 1-10 | 1 |"
