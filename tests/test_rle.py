"""Run-length encodings: by hand, on random masks, against pycocotools, and broken ones."""

import numpy as np
import pytest

from incontext.images import rle


@pytest.mark.parametrize(
    ("rows", "counts", "text"),
    [  # the text as pycocotools 2.0.11 writes it
        ([[0, 0], [0, 0]], [4], "4"),
        ([[1, 1], [1, 1]], [0, 4], "04"),
        ([[0, 1], [1, 0]], [1, 2, 1], "121"),
        ([[1, 0, 0], [0, 0, 1]], [0, 1, 4, 1], "0140"),
    ],
)
def test_by_hand(rows: list[list[int]], counts: list[int], text: str) -> None:
    selected = np.array(rows, bool)
    assert rle.runs(selected) == counts
    assert rle.from_mask(selected) == {"size": list(selected.shape), "counts": text}
    for written in (counts, text):
        np.testing.assert_array_equal(rle.to_mask(written, selected.shape), selected)


def random_masks() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    masks = [generator.random(generator.integers(1, 30, 2)) < generator.random() for _ in range(60)]
    return [*masks, np.ones((1000, 3), bool), np.zeros((7, 900), bool), np.kron(masks[0], np.ones((50, 70))) > 0]


def test_random_masks_come_back() -> None:
    for selected in random_masks():
        text = rle.from_mask(selected)["counts"]
        assert rle.from_text(text) == rle.runs(selected)
        np.testing.assert_array_equal(rle.to_mask(text, selected.shape), selected)


def test_equals_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is an outside check, not a dependency")
    for selected in random_masks():
        expected = coco.encode(np.asfortranarray(selected.astype(np.uint8)))
        assert rle.from_mask(selected)["counts"] == expected["counts"].decode()


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ([3], "runs over the 4 pixels of 2 x 2 .* got 3"),
        ([2, 3], "got 5"),
        ([5, -1], "at least 0"),
        ([2.0, 2.0], "whole numbers"),
        ([True, 3], "whole numbers"),
        ("", "got 0"),
        ("5", "got 5"),
        ("1é2", "got 'é' in them"),
        ("1 2", "got ' ' in them"),
        ("T", "cut off"),
        ("P" * 50 + "1", "got 'P' in them"),
    ],
)
def test_broken_runs_are_refused(counts: list[int] | str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        rle.to_mask(counts, (2, 2))
