"""Edges that follow the photograph: the guided filter by its definition, and what it does to a mask."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from test_tiles import RED, ByColor, field, shown
from torch import Tensor

from incontext.canvas import votes
from incontext.canvas.edges import Guide, meet
from incontext.canvas.votes import Reading, elect, elect_windows
from incontext.canvas.windows import windows
from incontext.engine import Segmenter
from incontext.network.model import ContextTokens, Seen

SMALL, LARGE = 32, 256


def disc(side: int, *, wobble: float = 0.06) -> np.ndarray:
    """(side, side) bool: a flower with seven petals."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    return np.hypot(y, x) < 0.3 + wobble * np.sin(7 * np.arctan2(y, x))


def photograph(truth: np.ndarray, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: the thing is orange and the background blue, with noise."""
    colors = np.where(truth[..., None], (200, 120, 40), (60, 90, 150))
    noise = np.random.default_rng(seed).normal(0, 8, colors.shape)
    return np.clip(colors + noise, 0, 255).astype(np.uint8)


def answered(truth: np.ndarray, side: int = SMALL) -> tuple[Tensor, Tensor]:
    """What a network at a small side would read: the nearest pixels of the truth, sure everywhere."""
    step = truth.shape[0] // side
    ids = torch.from_numpy(truth[step // 2 :: step, step // 2 :: step].astype(np.uint8).copy())
    return ids, torch.ones(ids.shape)


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def test_lines_are_those_of_the_definition() -> None:
    """By loops over neighbourhoods, equations 19 and 20 of the TPAMI paper, in float64."""
    generator = np.random.default_rng(0)
    colors, wanted = generator.random((3, 9, 11)), generator.random((9, 11))
    radius, smoothness = 2, 1e-2
    slopes, heights = np.zeros((9, 11, 3)), np.zeros((9, 11))
    for y in range(9):
        for x in range(11):
            near = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            shades, votes_near = colors[(slice(None), *near)].reshape(3, -1), wanted[near].ravel()
            spread = np.cov(shades, bias=True) + smoothness * np.eye(3)
            together = (shades * votes_near).mean(axis=1) - shades.mean(axis=1) * votes_near.mean()
            slopes[y, x] = np.linalg.solve(spread, together)
            heights[y, x] = votes_near.mean() - slopes[y, x] @ shades.mean(axis=1)
    guide = Guide(torch.from_numpy(colors).float(), radius=radius, smoothness=smoothness)
    lines = guide.lines(torch.from_numpy(wanted).float())
    for y, x in ((0, 0), (4, 5), (8, 10), (3, 0)):
        near = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        expected = [*slopes[near].reshape(-1, 3).mean(axis=0), heights[near].mean()]
        np.testing.assert_allclose(lines[:, y, x].numpy(), expected, rtol=1e-3, atol=1e-4)
    shades = (colors.transpose(1, 2, 0) * 255).round().astype(np.uint8)
    met = meet(lines, torch.from_numpy(shades)).numpy()
    straight = (lines[:3].numpy() * (shades.transpose(2, 0, 1) / 255)).sum(axis=0) + lines[3].numpy()
    np.testing.assert_allclose(met, np.maximum(straight, 0), atol=1e-5)


def test_edges_follow_the_photograph() -> None:
    truth = disc(LARGE)
    ids, confidence = answered(truth)
    plain, _ = elect(ids, confidence, truth.shape)
    refined, lead = elect(ids, confidence, truth.shape, guide=photograph(truth))
    assert iou(plain > 0, truth) < 0.95
    assert iou(refined > 0, truth) > 0.985
    assert 0 <= lead.min() <= lead.max() <= 1


def test_a_flat_photograph_moves_nothing_far() -> None:
    truth = disc(LARGE, wobble=0)
    ids, confidence = answered(truth)
    plain, _ = elect(ids, confidence, truth.shape)
    flat, _ = elect(ids, confidence, truth.shape, guide=np.full((*truth.shape, 3), 90, np.uint8))
    assert iou(plain > 0, flat > 0) > 0.93  # rounder, by less than a pixel of the network's


def test_several_ids_each_find_their_edge() -> None:
    truth = disc(LARGE).astype(np.uint8) * 3
    truth[:, LARGE // 2 :][truth[:, LARGE // 2 :] > 0] = 200
    image = photograph(truth > 0)
    image[truth == 200] = image[truth == 200][:, ::-1]
    ids, confidence = answered(truth.astype(np.uint8))
    ids = torch.from_numpy(truth[4::8, 4::8].copy())
    refined, _ = elect(ids, confidence, truth.shape, guide=image)
    assert set(np.unique(refined)) == {0, 3, 200}
    for i in (3, 200):
        assert iou(refined == i, truth == i) > 0.97


@pytest.mark.parametrize("size", [(70, 50), (16, 300), (1, 1), (32, 32)])
def test_any_size_comes_out(size: tuple[int, int]) -> None:
    """Smaller than the network's answer, larger, and both; at its own size too, where plain reading changes nothing."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    mask, lead = elect(*answered(disc(LARGE)), size, guide=image)
    assert mask.shape == lead.shape == size
    assert np.isfinite(lead).all()


@pytest.mark.parametrize("band", [300, 1 << 22])
def test_bands_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, band: int) -> None:
    truth = disc(LARGE)
    ids, confidence = answered(truth)
    whole = elect(ids, confidence, truth.shape, guide=photograph(truth))
    monkeypatch.setattr(votes, "_BAND_PIXELS", band)
    mask, lead = elect(ids, confidence, truth.shape, guide=photograph(truth))
    np.testing.assert_array_equal(mask, whole[0])
    np.testing.assert_allclose(lead, whole[1], atol=1e-6)


def test_windows_follow_their_part_of_the_photograph() -> None:
    truth = disc(LARGE)
    image = photograph(truth)
    parts = []
    for window in windows(truth.shape, 96):
        ids = torch.from_numpy(window.of(truth)[3::6, 3::6].astype(np.uint8))
        parts.append(Reading(window, ids, torch.ones(ids.shape).half()))
    plain, _ = elect_windows(parts, truth.shape)
    refined, _ = elect_windows(parts, truth.shape, guide=image)
    assert iou(refined > 0, truth) > max(0.985, iou(plain > 0, truth))


def test_memory_does_not_grow_with_the_image() -> None:
    """Beside the answer itself, 5 bytes a pixel, only bands."""
    ids, confidence = answered(disc(LARGE))
    image = np.zeros((3000, 2000, 3), np.uint8)
    tracemalloc.start()
    try:
        elect(ids, confidence, (3000, 2000), guide=image)
        assert tracemalloc.get_traced_memory()[1] < 5 * 6_000_000 + 8_000_000
    finally:
        tracemalloc.stop()


class Coarse(ByColor):
    """Paints blocks of 4 x 4 pixels, as a network does that knows patches only."""

    def see(self, queries: Tensor, context: ContextTokens, *, chunk: int | None = None) -> Seen:
        seen = super().see(queries, context, chunk=chunk)
        blocks = seen.painted[..., 2::4, 2::4]
        return Seen(blocks.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2), seen.tokens)


@pytest.mark.parametrize("tiles", [None, 32])
def test_the_segmenter_refines_when_asked(tiles: int | None) -> None:
    segmenter = Segmenter(Coarse(), device="cpu", dtype="float32")
    image = field(64, 64, (13, 19, 30, RED))
    image.setflags(write=False)  # as those of prompts are
    prepared = segmenter.prepare(shown(RED), tiles=tiles, refine=True)
    refined = segmenter.segment(image, prepared)
    plain = segmenter.segment(image, shown(RED), tiles=tiles)
    truth = image[..., 0] > 0
    assert iou(refined.mask > 0, truth) > iou(plain.mask > 0, truth) + 0.02
    fitted = prepared.fit(image)
    np.testing.assert_array_equal(segmenter.segment(fitted, prepared).mask, refined.mask)
    with pytest.raises(ValueError, match="fitted for tiles or refining"):
        segmenter.segment(segmenter.fit(image), prepared)
