"""Metrics by hand, episodes on tiny generated sets, the protocol against known figures of the real ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from incontext.evaluation import FewShotReport, evaluate, read_episodes
from incontext.evaluation.baselines import BASELINES, color_histogram, copy_mask, everything
from incontext.evaluation.few_shot import Found
from incontext.evaluation.metrics import ConfidenceTally, Overlap, mean, overlap
from incontext.formats import Pixels
from incontext.types import Palette, Prompt, Segmentation

PALETTE = Palette.spread([1])


def bools(rows: Sequence[str]) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def test_overlap_leaves_ignored_pixels_out() -> None:
    found, truth, ignored = bools(["##.", "##."]), bools([".##", ".#."]), bools(["...", "#.."])
    assert overlap(found, truth, ignored) == Overlap(2, 4)
    assert overlap(found, truth, ~bools(["...", "..."])) == Overlap(0, 0)


def test_overlaps_are_summed_before_they_are_divided() -> None:
    assert (Overlap(1, 2) + Overlap(0, 8)).iou == 0.1  # not the mean of .5 and 0


def test_nothing_there_and_nothing_found_is_right() -> None:
    assert Overlap().iou == 1.0


@pytest.mark.parametrize(
    "shapes",
    [((2, 3), (3, 2), (2, 3)), ((2, 3), (2, 3), (1, 3)), ((6,), (6,), (6,))],
    ids=["turned", "broadcast", "flat"],
)
def test_masks_of_different_shapes_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(H, W\) arrays of one shape"):
        overlap(*(np.zeros(shape, np.bool_) for shape in shapes))


def test_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean([])


def test_confidence_tally_by_hand() -> None:
    confidence = np.array([[0.1, 0.4, 0.6, 0.9]], np.float32)
    right, ignored = np.array([[False, True, True, True]]), np.array([[False, False, False, True]])
    tally = ConfidenceTally.empty((0.5, 1.0)).count(confidence, right, ignored).count(confidence, right, ignored)
    assert tally.pixels.tolist() == [2, 4]
    np.testing.assert_allclose(tally.total, [0.2, 2.0], rtol=1e-6)
    assert tally.below.tolist() == [[2, 2], [2, 4]]


def write_set(data: Path, name: str, masks: dict[str, np.ndarray]) -> None:
    """Pictures whose red channel tells the mask: 10 * id."""
    for folder in ("images", "masks"):
        (data / name / folder).mkdir(parents=True)
    for stem, mask in masks.items():
        image = np.zeros((*mask.shape, 3), np.uint8)
        image[..., 0] = 10 * mask
        Image.fromarray(image).save(data / name / "images" / f"{stem}.png")
        indexed = Image.fromarray(mask)
        indexed.putpalette(np.arange(768, dtype=np.uint16).astype(np.uint8).tobytes())
        indexed.save(data / name / "masks" / f"{stem}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """8 x 8 pictures, which 224 x 224 enlarges by exactly 28.

    parts: query a is half id 1, a quarter id 2, a quarter ignored; query b is all background.
    things: instances 1 and 2.
    """
    a, b, prompt = (np.zeros((8, 8), np.uint8) for _ in range(3))
    a[:, :4], a[:4, 4:], a[4:, 4:] = 1, 2, 255
    prompt[:, :2], prompt[0, 7], prompt[7, 7] = 1, 2, 255
    write_set(tmp_path, "parts", {"a": a, "b": b, "p": prompt, "q": prompt[:, ::-1].copy()})
    things = np.zeros((8, 8), np.uint8)
    things[:2], things[6:] = 1, 2
    write_set(tmp_path, "things", {"a": things, "p": things.T.copy()})
    parts = [{"id": i, "query": q, "prompts": ["p", "q"]} for i, q in ((1, "a"), (1, "b"), (2, "a"))]
    sets = {
        "parts": {"instances_as_one": False, "episodes": parts},
        "things": {"instances_as_one": True, "episodes": [{"id": 1, "query": "a", "prompts": ["p"]}]},
    }
    (tmp_path / "episodes.json").write_text(json.dumps(sets))
    return tmp_path


def scores(report: FewShotReport) -> list[float]:
    return [each.mean_iou for each in report.sets]


def test_everything_is_foreground_by_hand(data: Path) -> None:
    report = evaluate(everything, data)
    parts, things = report.sets
    # id 1: 32 of 48 scored pixels in a, none of 64 in b; id 2: 16 of 48
    assert parts.class_iou == {1: pytest.approx(32 / 112), 2: pytest.approx(16 / 48)}
    assert parts.mean_iou == pytest.approx((32 / 112 + 16 / 48) / 2)
    assert parts.fb_iou == pytest.approx((48 / 160 + 0) / 2)
    assert things.mean_iou == pytest.approx(0.5), "both instances are foreground"
    assert report.mean_iou == pytest.approx(mean(scores(report)))
    assert report.confidence is None


def test_copying_the_mask_by_hand(data: Path) -> None:
    # id 1: 16 of a's 32; in b 16 that are wrong. id 2: the prompt's corner, one of a's 16
    (parts,) = evaluate(copy_mask, data, sets=["parts"]).sets
    assert parts.class_iou == {1: pytest.approx(16 / 48), 2: pytest.approx(1 / 16)}
    # two shots, each votes for its own side and one vote of two is enough: 8 scored ones wrong in a
    (parts,) = evaluate(copy_mask, data, sets=["parts"], shots=2).sets
    assert parts.class_iou[1] == pytest.approx(16 / (32 + 8 + 32))


def test_color_histogram_finds_the_prompts_colors(data: Path) -> None:
    report = evaluate(color_histogram, data, sets=["things"])
    assert scores(report) == [0.5], "colours 10 and 20: 10 shares its bin with the black ground"
    dark, bright = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 200, np.uint8)
    prompt = Prompt(np.concatenate([dark, bright]), np.repeat([0, 1], 4)[:, None].repeat(4, axis=1).astype(np.uint8))
    found = color_histogram(np.concatenate([bright, dark]), [prompt])
    np.testing.assert_array_equal(found, np.repeat([True, False], 4)[:, None].repeat(4, axis=1))


def test_what_is_shown_to_the_function(data: Path) -> None:
    """Only the asked id, as 1; ignored pixels stay ignored; instances become one; the number of shots is kept."""
    seen: list[tuple[Pixels, Sequence[Prompt]]] = []

    def look(query: Pixels, prompts: Sequence[Prompt]) -> np.ndarray:
        seen.append((query, prompts))
        return np.zeros(query.shape[:2], np.uint8)

    evaluate(look, data, sets=["parts"], shots=2)
    assert [[np.bincount(p.mask.ravel(), minlength=256)[[0, 1, 2, 255]].tolist() for p in ps] for _, ps in seen] == [
        [[47, 16, 0, 1]] * 2,
        [[47, 16, 0, 1]] * 2,
        [[62, 1, 0, 1]] * 2,
    ]
    seen.clear()
    evaluate(look, data, sets=["things"])
    ((query, (prompt,)),) = seen
    assert query.shape == (8, 8, 3)
    assert prompt.ids == (1,)
    assert (prompt.mask == 1).sum() == 32


def test_limit_spreads_over_the_set_and_progress_is_told(data: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = evaluate(
        everything, data, sets=["parts"], limit=2, on_episode=lambda done, total: calls.append((done, total))
    )
    assert sorted(report.sets[0].class_iou) == [1, 2]
    assert calls == [(1, 2), (2, 2)]


def test_confidence_is_reported(data: Path) -> None:
    """An answer that is sure in the left half and unsure in the right one."""

    def unsure(_query: Pixels, _prompts: Sequence[Prompt]) -> Found:
        mask, confidence = np.zeros((8, 8), np.uint8), np.full((8, 8), 0.2, np.float32)
        mask[:, :4], confidence[:, :4] = 1, 0.8
        return Segmentation(mask, confidence, PALETTE)

    known = evaluate(unsure, data, sets=["parts"]).confidence
    assert known is not None
    # right: a asked for 1: 48; b: 32; a asked for 2: 0. wrong: 0, 32, 32 + 16
    assert known.mean_right == pytest.approx((32 * 0.8 + 16 * 0.2 + 32 * 0.2) / 80)
    assert known.mean_wrong == pytest.approx((32 * 0.8 + 32 * 0.8 + 16 * 0.2) / 80)
    row = known.thresholds.index(0.5)
    assert known.wrong_rejected[row] == pytest.approx(16 / 80)
    assert known.right_rejected[row] == pytest.approx(48 / 80)
    assert known.wrong_below[row] == pytest.approx(16 / 64)
    assert known.wrong_below[0] is None, "nothing lies below 0.1"


def test_report_as_json_and_as_tables(data: Path) -> None:
    report = evaluate(lambda *_: Segmentation(np.ones((8, 8), np.uint8), np.ones((8, 8), np.float32), PALETTE), data)
    content = json.loads(report.to_json())
    assert content["mean_iou"] == report.mean_iou
    assert content["sets"][0]["class_iou"] == {"1": pytest.approx(32 / 112), "2": pytest.approx(16 / 48)}
    assert content["confidence"]["mean_wrong"] == 1
    text = report.to_markdown()
    assert "| set, 1 shot, 224 px | mIoU | FB-IoU |" in text
    assert "| parts | 0.310 | 0.150 | 3 |" in text
    assert "| mean | 0.405 |" in text
    assert "| 0.5 | 0.0 % | 0.0 % | - |" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sets": ["cows"]}, "expected sets out of parts, things, got cows"),
        ({"shots": 3}, "expected 1 to 2 shots.*parts.*got 3"),
        ({"shots": 2}, "expected 1 to 1 shots.*things.*got 2"),
        ({"shots": 0}, "expected 1 to 2 shots"),
        ({"limit": 0}, "expected a limit of at least 1"),
    ],
)
def test_bad_arguments(data: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(everything, data, **arguments)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((8, 9), np.bool_), r"expected an answer of the query's size \(8, 8\), got \(8, 9\)"),
        (np.zeros((8, 8), np.float32), "expected an answer of bool or integer ids, got float32"),
    ],
)
def test_bad_answers(data: Path, answer: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(lambda *_: answer, data)


def test_missing_and_broken_files(data: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a file episodes\.json"):
        read_episodes(data / "parts")
    (data / "parts" / "images" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected b\.jpg or b\.png"):
        evaluate(everything, data)
    for text in ("[]", "{}}", '{"parts": {"episodes": []}}'):
        (data / "episodes.json").write_text(text)
        with pytest.raises(ValueError, match="instances_as_one"):
            read_episodes(data)


KNOWN = {  # data/README.md, measured by others
    "copy the prompt's mask": {"cows": 0.379, "pets": 0.323, "pedestrians": 0.149},
    "everything is foreground": {"cows": 0.210, "pets": 0.288, "pedestrians": 0.157},
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_protocol_gives_the_known_figures(shared: Path, name: str) -> None:
    report = evaluate(BASELINES[name], shared / "data" / "test", sets=list(KNOWN[name]))
    for each in report.sets:
        assert each.mean_iou == pytest.approx(KNOWN[name][each.name], abs=1e-3)
