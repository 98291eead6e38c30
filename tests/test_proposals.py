"""Masks of everything: grids of clicks, filters, suppression, specks and holes, and their files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import incontext
from incontext.images import rle
from incontext.proposals import (
    Proposals,
    expected_iou,
    grid,
    propose,
    stability_score,
    surest_of_overlapping,
    without_specks_and_holes,
)

IMAGE = np.zeros((60, 80, 3), np.uint8)
THINGS = {  # rows and columns in an image of 60 x 80 pixels
    "left": (slice(10, 50), slice(5, 35)),
    "right": (slice(20, 40), slice(45, 75)),
}


class Rigged:
    """Answers a click on one of the things with it, as sure as it is told; elsewhere with nothing."""

    def __init__(self, sure: dict[str, float], *, logit: float = 8.0, small: int = 1) -> None:
        self.sure, self.logit, self.small = sure, logit, small
        self.asked: list[int] = []

    def answer_clicks(
        self, image: np.ndarray, points: Sequence[tuple[float, float]]
    ) -> Iterator[tuple[np.ndarray, float]]:
        self.asked.append(len(points))
        for x, y in points:
            logits, sure = np.full(image.shape[:2], -8.0, np.float32), 0.0
            for name, (rows, columns) in THINGS.items():
                if rows.start <= y < rows.stop and columns.start <= x < columns.stop:
                    logits[rows, columns], sure = self.logit, self.sure[name]
            yield logits[:: self.small, :: self.small], sure


def test_the_grid_is_that_of_sam() -> None:
    assert grid(2, (60, 80)) == [(20.0, 15.0), (60.0, 15.0), (20.0, 45.0), (60.0, 45.0)]
    assert len(grid(16, (480, 640))) == 256


def test_everything_is_found_once_the_surest_first() -> None:
    answers = Rigged({"left": 0.8, "right": 0.95})
    told: list[tuple[int, int]] = []
    found = incontext.propose(
        answers, IMAGE, points_per_side=8, points_per_batch=10, on_points=lambda *a: told.append(a)
    )
    assert answers.asked == [10] * 6 + [4]
    assert told[-1] == (64, 64)
    assert len(told) == 64
    assert [each.predicted_iou for each in found] == [0.95, 0.8]
    for number, name in enumerate(("right", "left")):
        rows, columns = THINGS[name]
        expected = np.zeros((60, 80), np.bool_)
        expected[rows, columns] = True
        np.testing.assert_array_equal(found.mask(number), expected)
        assert found[number].box == (columns.start, rows.start, columns.stop, rows.stop)
        assert found[number].area == expected.sum()
    ids = found.to_mask()
    assert np.unique(ids).tolist() == [0, 1, 2]
    assert ids[30, 60] == 1
    assert len(found.best(1)) == 1


def test_answers_are_stretched_over_the_whole_image() -> None:
    found = propose(Rigged({"left": 0.9, "right": 0.8}, small=5), IMAGE, points_per_side=8)
    assert len(found) == 2
    rows, columns = THINGS["left"]
    assert found.mask(0)[rows.start + 3 : rows.stop - 3, columns.start + 3 : columns.stop - 3].all()


def test_what_is_unsure_or_unstable_is_dropped() -> None:
    both = {"left": 0.8, "right": 0.95}
    assert len(propose(Rigged(both), IMAGE, points_per_side=8, pred_iou_thresh=0.9)) == 1
    assert len(propose(Rigged(both, logit=0.5), IMAGE, points_per_side=8)) == 0
    assert len(propose(Rigged(both, logit=0.5), IMAGE, points_per_side=8, stability_score_thresh=0)) == 2
    assert len(propose(Rigged(both), np.zeros((6, 8, 3), np.uint8), points_per_side=1)) == 0


def test_suppression_keeps_the_surest_of_boxes_that_overlap() -> None:
    boxes = [((0, 0, 10, 10), 0.5), ((0, 0, 10, 9), 0.9), ((20, 20, 30, 30), 0.7), ((0, 0, 5, 10), 0.6)]
    assert surest_of_overlapping(boxes, 0.7) == [1, 2, 3]
    assert surest_of_overlapping(boxes, 0.4) == [1, 2]
    assert surest_of_overlapping(boxes, 1.0) == [1, 2, 3, 0]
    assert surest_of_overlapping([], 0.7) == []
    assert surest_of_overlapping([((0, 0, 2, 2), 0.5)] * 3, 0.9) == [0]


def test_specks_and_holes_are_removed_but_the_largest_part_stays() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[2:12, 2:12] = True
    mask[5:7, 5:7] = False  # a hole of 4
    mask[15, 15] = mask[16, 16] = True  # a speck of 2, joined at a corner
    cleaned = without_specks_and_holes(mask, 3)
    assert not cleaned[15:17, 15:17].any()
    assert not cleaned[5:7, 5:7].any()
    assert without_specks_and_holes(mask, 5)[2:12, 2:12].all()
    np.testing.assert_array_equal(without_specks_and_holes(mask, 2), mask)
    np.testing.assert_array_equal(without_specks_and_holes(mask, 0), mask)
    alone = np.zeros((20, 20), np.bool_)
    alone[3, 3] = True
    np.testing.assert_array_equal(without_specks_and_holes(alone, 50), alone)


def test_scores_of_logits() -> None:
    logits = np.full((4, 10), -9.0, np.float32)
    logits[:, :4], logits[:, 4], logits[:, 5] = 9.0, 0.5, -0.5
    assert stability_score(logits) == pytest.approx(16 / 24)
    assert stability_score(np.full((4, 4), -9.0, np.float32)) == 0
    p = 1 / (1 + np.exp(-0.5))
    assert expected_iou(logits) == pytest.approx((16 + 4 * p) / (20 + 4 * (1 - p)), abs=1e-3)
    assert expected_iou(np.full((4, 4), -9.0, np.float32)) == 0


def test_proposals_come_back_from_their_file(tmp_path: Path) -> None:
    found = propose(Rigged({"left": 0.8, "right": 0.95}), IMAGE, points_per_side=8)
    found.save(tmp_path / "all.json")
    back = Proposals.load(tmp_path / "all.json")
    assert back == found
    content = json.loads((tmp_path / "all.json").read_text())
    assert content["size"] == [60, 80]
    assert content["masks"][0]["bbox"] == [45, 20, 30, 20]
    np.testing.assert_array_equal(rle.to_mask(content["masks"][0]["segmentation"]["counts"], (60, 80)), found.mask(0))
    with pytest.raises(FileNotFoundError, match="expected a file of proposals"):
        Proposals.load(tmp_path / "none.json")
    for text in ("{", "[]", '{"size": [2, 2], "masks": [{"segmentation": {"counts": "zz"}}]}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.json: expected proposals"):
            Proposals.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"points_per_side": 0}, "points_per_side of at least 1"),
        ({"points_per_batch": 0}, "points_per_batch of at least 1"),
        ({"pred_iou_thresh": 1.5}, "pred_iou_thresh in 0..1"),
        ({"stability_score_thresh": -1}, "stability_score_thresh in 0..1"),
        ({"box_nms_thresh": 2}, "box_nms_thresh in 0..1"),
        ({"min_mask_region_area": -5}, "min_mask_region_area of at least 0"),
    ],
)
def test_options_that_cannot_be_used_are_refused(option: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        propose(Rigged({}), IMAGE, **option)  # type: ignore[arg-type]
