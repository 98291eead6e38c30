"""Windows over large images: where they lie, how prompts are cut to them, and how their answers become one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from incontext.canvas import votes
from incontext.canvas.paint import normalise_colors, unpaint
from incontext.canvas.votes import Reading, elect, elect_windows
from incontext.canvas.windows import OVERLAP, Window, cut, extent, window_side, windows
from incontext.engine import FittedQuery, Segmenter
from incontext.network.config import ModelConfig
from incontext.network.model import ContextTokens, Seen, SegGPT
from incontext.options import SegmentOptions
from incontext.prompt_tensor import PromptTensor
from incontext.types import Prompt

CONFIG = ModelConfig(
    width=16, heads=2, depth=2, patch=4, side=16, decoder_width=4, merge_layer=0, taps=(0, 1), pretrain_side=16
)
RED, GREEN = (255, 0, 0), (0, 255, 0)


class ByColor(SegGPT):
    """Stands in for a trained network: paints each pixel of a query in its own colour where that is strong."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        self.batches: list[int] = []

    def prepare(self, prompt_images: Tensor, prompt_masks: Tensor, **_: object) -> ContextTokens:  # type: ignore[override]
        one = torch.ones(1)
        return ContextTokens(prompt_images, prompt_masks, prompt_masks, self.type_token_ins, self.tables(4), one)

    def see(self, queries: Tensor, context: ContextTokens, *, chunk: int | None = None) -> Seen:  # noqa: ARG002
        self.batches.append(len(queries))
        colors = unpaint(queries)
        strong = colors.amax(dim=-1, keepdim=True) > 100
        return Seen(normalise_colors(torch.where(strong, colors, 0)).permute(0, 3, 1, 2), tokens=queries)


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(ByColor(), device="cpu", dtype="float32")


def field(height: int, width: int, *spots: tuple[int, int, int, tuple[int, int, int]]) -> np.ndarray:
    """Black, with squares (top, left, side, colour)."""
    image = np.zeros((height, width, 3), np.uint8)
    for top, left, side, color in spots:
        image[top : top + side, left : left + side] = color
    return image


def shown(*colors: tuple[int, int, int], size: int = 16) -> Prompt:
    """A prompt whose raw colours are those squares', so that answers are read by them."""
    image = field(size, size, *((2, 2 + 5 * i, 4, color) for i, color in enumerate(colors)))
    return Prompt.from_colors(image, image)


# -------------------------------------------------------------------------------------------- where they lie


@pytest.mark.parametrize("size", [(100, 100), (101, 333), (40, 90), (32, 33), (1000, 7), (31, 20)])
def test_windows_cover_an_image_and_overlap(size: tuple[int, int]) -> None:
    made = windows(size, 32)
    seen = np.zeros(size, np.int64)
    for window in made:
        assert (window.height, window.width) == (min(32, size[0]), min(32, size[1]))
        assert window.of(seen).shape == (window.height, window.width)  # inside the image
        window.of(seen)[:] += 1
    assert seen.min() >= 1
    assert list(made) == sorted(made, key=lambda window: (window.top, window.left))
    for starts in (sorted({w.top for w in made}), sorted({w.left for w in made})):
        assert all(later - earlier <= 32 * (1 - OVERLAP) + 1 for earlier, later in pairwise(starts))
    assert len(made) <= 2.5 * max(1, size[0] / 32 + 1) * max(1, size[1] / 32 + 1)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.pad(np.ones((30, 30), np.uint8), 10), 30),
        (np.pad(np.ones((4, 400), np.uint8), 10), 2 * 4),
        (np.kron(np.eye(8, dtype=np.uint8), np.ones((6, 6), np.uint8)), 6),  # many small ones do not look like a large
        (np.pad(np.repeat([[1], [2]], 20, axis=0) * np.ones((40, 20), np.uint8), 5).astype(np.uint8), 20),
        (np.full((50, 50), 255, np.uint8), 0),
    ],
)
def test_the_extent_of_what_is_marked(mask: np.ndarray, expected: float) -> None:
    assert extent(mask) == pytest.approx(expected, rel=0.02)


def test_the_automatic_window_follows_what_is_marked_within_the_prompt() -> None:
    def marked(size: int, side: int) -> Prompt:
        mask = np.zeros((size, size), np.uint8)
        mask[5 : 5 + side, 5 : 5 + side] = 1
        return Prompt(np.zeros((size, size, 3), np.uint8), mask)

    assert window_side([marked(1000, 5)], 64) == 64  # full resolution
    middle = window_side([marked(1000, 60)], 64)
    assert 200 <= middle <= 800
    assert window_side([marked(1000, 120)], 64) == pytest.approx(2 * middle, abs=2)
    assert window_side([marked(1000, 600)], 64) == 1000  # not larger than the prompt
    assert window_side([marked(1000, 5), marked(1000, 60), marked(1000, 600)], 64) == middle
    assert window_side([marked(40, 20)], 64) == 40


@pytest.mark.parametrize("tiles", [None, "auto", 16, 5000])
def test_sizes_of_windows(tiles: Any) -> None:
    assert SegmentOptions(tiles=tiles).tiles == tiles


@pytest.mark.parametrize("tiles", [0, 15, -3, True, 2.5, "large", ""])
def test_sizes_that_cannot_be(tiles: Any, segmenter: Segmenter) -> None:
    with pytest.raises(ValueError, match='expected tiles as "auto" or at least 16 pixels, got'):
        segmenter.segment(field(20, 20), shown(RED), tiles=tiles)


# -------------------------------------------------------------------------------------------- prompts, cut


def test_a_prompt_is_cut_around_what_its_mask_marks() -> None:
    mask = np.zeros((200, 300), np.uint8)
    mask[150:160, 250:260] = 4
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    (part,) = cut(Prompt(image, mask), 48)
    assert part.mask.shape == (48, 48)
    assert np.count_nonzero(part.mask == 4) == 100  # all of it
    rows, columns = np.argwhere(part.mask == 4)[0]
    np.testing.assert_array_equal(part.image, image[150 - rows :, 250 - columns :][:48, :48])


def test_a_prompt_no_larger_than_a_window_stays_whole() -> None:
    prompt = Prompt(field(48, 30), np.eye(48, 30, dtype=np.uint8))
    assert cut(prompt, 48) == (prompt,)
    assert all(part.mask.shape == (40, 30) for part in cut(prompt, 40))


def test_windows_of_a_prompt_show_different_things_and_background() -> None:
    mask = np.zeros((400, 400), np.uint8)
    mask[20:320, 20:320] = 1  # larger than a window, so that one inside would show nothing else
    for top, left in ((350, 20), (350, 350), (20, 350)):
        mask[top : top + 12, left : left + 12] = 2
    parts = cut(Prompt(np.zeros((400, 400, 3), np.uint8), mask), 64)
    assert len(parts) == 4
    assert {i for part in parts for i in part.ids} == {1, 2}
    assert all((part.mask == 0).mean() > 0.2 for part in parts)
    assert len(cut(Prompt(np.zeros((400, 400, 3), np.uint8), mask), 64, most=2)) == 2


def test_every_id_is_shown_however_few_windows_are_wanted() -> None:
    mask = np.zeros((300, 300), np.uint8)
    for i in range(1, 8):
        mask[40 * i : 40 * i + 3, 280 - 40 * i : 283 - 40 * i] = i
    mask[0, 0] = 255
    parts = cut(Prompt(np.zeros((300, 300, 3), np.uint8), mask), 32, most=1)
    assert {i for part in parts for i in part.ids} == set(range(1, 8))


def test_raw_colours_are_cut_with_their_prompt() -> None:
    image = field(80, 80, (60, 60, 10, RED))
    (part,) = cut(Prompt.from_colors(image, image), 32)
    np.testing.assert_array_equal(part.colors, part.image)
    assert part.palette is not None


# ------------------------------------------------------------------------------------------ answers, joined


def reading(window: Window, ids: np.ndarray, confidence: float = 1.0) -> Reading:
    both = torch.from_numpy(ids.astype(np.uint8))
    return Reading(window, both, torch.full(both.shape, confidence, dtype=torch.float16))


@pytest.mark.parametrize("band", [64, 1 << 20])
def test_one_window_answers_like_the_whole(monkeypatch: pytest.MonkeyPatch, band: int) -> None:
    monkeypatch.setattr(votes, "_BAND_PIXELS", band)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 4, (16, 16), generator=generator, dtype=torch.uint8)
    confidence = torch.rand(16, 16, generator=generator).half()
    for size in ((50, 70), (16, 16), (9, 40)):
        mask, lead = elect(ids, confidence.float(), size)
        joined, its_lead = elect_windows([Reading(Window(0, 0, *size), ids, confidence)], size)
        np.testing.assert_array_equal(joined, mask)
        np.testing.assert_allclose(its_lead, lead, atol=1e-5)


@pytest.mark.parametrize("band", [50, 1 << 20])
def test_windows_are_blended_where_they_overlap(monkeypatch: pytest.MonkeyPatch, band: int) -> None:
    """The left window sees id 1, the right one id 2: the border lies in the middle, and nobody is sure there."""
    monkeypatch.setattr(votes, "_BAND_PIXELS", band)
    left, right = Window(0, 0, 20, 40), Window(0, 30, 20, 40)
    ones = np.ones((16, 16))
    mask, lead = elect_windows([reading(left, ones), reading(right, 2 * ones)], (20, 70))
    assert (mask[:, :35] == 1).all()
    assert (mask[:, 35:] == 2).all()
    assert (lead[:, :30] == 1).all()
    assert (lead[:, 40:] == 1).all()
    assert (np.diff(lead[10, 30:35]) < 0).all()  # falls towards the border, smoothly
    assert lead[10, 34] < 0.2
    surer, _ = elect_windows([reading(left, ones, 0.3), reading(right, 2 * ones, 0.9)], (20, 70))
    assert (surer[:, 33:] == 2).all()  # the surer one has more


def test_ids_keep_their_meaning_across_windows() -> None:
    """A bar over all windows, of which each sees its part: one id, no seams."""
    size, side = (60, 200), 32
    truth = np.zeros(size, np.uint8)
    truth[20:40] = 7
    parts = [
        Reading(window, torch.from_numpy(window.of(truth).copy()), torch.ones(window.height, window.width).half())
        for window in windows(size, side)
    ]
    mask, lead = elect_windows(parts, size)
    np.testing.assert_array_equal(mask, truth)
    assert lead.min() > 0.99


# ------------------------------------------------------------------------------------------ in the Segmenter


def test_small_things_are_found_in_windows_only(segmenter: Segmenter) -> None:
    image = field(200, 300, (31, 77, 3, RED), (150, 200, 3, GREEN), (90, 290, 3, RED))
    prompt = shown(RED, GREEN)
    assert segmenter.segment(image, prompt).is_empty
    found = segmenter.segment(image, prompt, tiles=16)
    green, red = (prompt.mask[2, 2 + 5 * i] for i in (1, 0))
    truth = np.where(image[..., 0] > 0, red, np.where(image[..., 1] > 0, green, 0))
    np.testing.assert_array_equal(found.mask, truth)
    assert found.confidence[truth == 0].min() > 0.9


def test_an_image_no_larger_than_a_window_is_answered_as_ever(segmenter: Segmenter) -> None:
    image = field(30, 40, (5, 5, 20, RED))
    plain, tiled = (segmenter.segment(image, shown(RED), tiles=tiles) for tiles in (None, 40))
    np.testing.assert_array_equal(plain.mask, tiled.mask)
    np.testing.assert_array_equal(plain.confidence, tiled.confidence)
    assert not plain.is_empty


@pytest.mark.parametrize("batch_size", [1, 3, 64, "auto"])
def test_windows_of_many_queries_fill_batches_and_find_back(batch_size: Any) -> None:
    network = ByColor()
    segmenter = Segmenter(network, device="cpu", dtype="float32")
    sizes = [(16, 16), (40, 20), (16, 90), (10, 10), (50, 50)]
    images = [field(*size, (i, i, 4, RED)) for i, size in enumerate(sizes)]
    prepared = segmenter.prepare(shown(RED), tiles=16)
    found = list(segmenter.segment_many((prepared.fit(image) for image in images), prepared, batch_size=batch_size))
    for image, each in zip(images, found, strict=True):
        assert each.shape == image.shape[:2]
        np.testing.assert_array_equal(each.mask > 0, image[..., 0] > 0)
    views = sum(len(windows(size, 16)) for size in sizes)
    assert sum(network.batches) == views
    assert max(network.batches) == {1: 1, 3: 3, 64: views, "auto": 1}[batch_size]


def test_queries_are_cut_as_they_are_needed(segmenter: Segmenter) -> None:
    """A fitted query holds the image, not its windows: memory does not double."""
    image = field(160, 160)
    fitted = segmenter.prepare(shown(RED), tiles=16).fit(image)
    assert fitted.image is image
    assert fitted.views == len(windows((160, 160), 16)) == len(list(fitted.seen()))


def test_large_prompts_become_several_shots(segmenter: Segmenter) -> None:
    mask = np.zeros((160, 160), np.uint8)
    mask[10:14, 10:14] = mask[100:104, 140:144] = 3
    prompt = Prompt(field(160, 160), mask)
    assert segmenter.prepare(prompt).shots == 1
    prepared = segmenter.prepare(prompt, tiles="auto")
    assert (prepared.shots, prepared.window) == (2, 24)  # six times 4 pixels
    assert segmenter.prepare([prompt] * 4, tiles=16).shots == 4  # one window of each is enough


def test_what_is_decided_cannot_be_asked_for_again(segmenter: Segmenter) -> None:
    prepared = segmenter.prepare(shown(RED), tiles=16)
    assert segmenter.segment(field(40, 40, (9, 9, 3, RED)), prepared, tiles=16).ids
    with pytest.raises(ValueError, match="expected tiles=16, for which the context was prepared, got 32"):
        segmenter.segment(field(40, 40), prepared, tiles=32)
    with pytest.raises(ValueError, match="expected refine=False, for which the context was prepared, got True"):
        segmenter.segment(field(40, 40), prepared, refine=True)
    with pytest.raises(ValueError, match=r"fitted for tiles or refining, got others; use PreparedContext\.fit"):
        segmenter.segment(segmenter.fit(field(40, 40)), prepared)
    with pytest.raises(ValueError, match="without tiles to paint with"):
        segmenter.paint(field(40, 40), prepared)
    small = FittedQuery(np.zeros((16, 16, 3), np.uint8), (16, 16))
    assert segmenter.segment(small, prepared).is_empty  # seen whole anyway


def test_prompt_tensors_need_a_size_in_pixels(segmenter: Segmenter) -> None:
    from incontext.canvas.context import cut_to_windows

    key = object.__new__(PromptTensor)
    with pytest.raises(ValueError, match="expected tiles in pixels, as prompt tensors do not show how large"):
        cut_to_windows([key], 16, "auto")
    assert cut_to_windows([key], 16, 99) == (99, (key,))
    assert cut_to_windows([key], 16, None) == (None, (key,))
    with pytest.raises(ValueError, match="expected a Prompt, a PromptTensor or a sequence"):
        segmenter.prepare([], tiles="auto")
