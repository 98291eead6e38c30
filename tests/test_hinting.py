"""Hints in the engine: exactly whole canvases, by examples and alone, in groups, windows, batches; what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import repeat
from PIL import Image
from test_prompt_tensor import fitting, group
from torch import Tensor

from incontext.canvas.hints import reveal
from incontext.canvas.paint import normalise
from incontext.canvas.read import Paint, read_small
from incontext.engine import PreparedContext, Segmenter
from incontext.hints import Hints
from incontext.images.resize import resized
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.network.reference import Reference
from incontext.proposals import propose
from incontext.types import Palette, Prompt

SIDE, PATCH = 16, 4
CONFIG = ModelConfig(
    width=16, heads=2, depth=3, patch=PATCH, side=SIDE, decoder_width=4, merge_layer=1, taps=(1, 2), pretrain_side=16
)
HINTS = Hints(points=[(3, 2, 1), (30, 20, 0)], boxes=[(0, 0, 25, 20, 1)])


def made(config: ModelConfig = CONFIG, *, double: bool = False, compile: bool = False) -> Segmenter:
    """A Segmenter with random weights, in float64 if need be."""
    torch.manual_seed(0)
    model = SegGPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    segmenter = Segmenter(model, device="cpu", dtype="float32", compile=compile, name="tiny")
    if double:
        segmenter.model.double()
        segmenter._placed.dtype = torch.float64
    return segmenter


def image(height: int = 24, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prompt(ids: tuple[int, ...] = (1,), seed: int = 5) -> Prompt:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for number, i in enumerate(ids):
        mask[2:14, number : number + 1] = i
    return Prompt(image(SIDE, SIDE, seed), mask)


def painted(segmenter: Segmenter, query: np.ndarray, context: PreparedContext, hints: Hints | None) -> list[Paint]:
    """What the engine lets the network paint, one for each pass."""
    (answer,) = segmenter.answer_many([context.fit(query, hints=hints)], context)
    return list(answer.painted)


def canvas(ids: np.ndarray, palette: Palette) -> Tensor:
    """A mask of patches (grid, grid), painted: (3, side, side) float64."""
    return normalise(torch.from_numpy(palette.paint(repeat(ids, "r c -> (r p) (c q)", p=PATCH, q=PATCH)))).double()


def seen(query: np.ndarray) -> Tensor:
    return normalise(torch.from_numpy(resized(query, (SIDE, SIDE)).copy())).double()


def expected(segmenter: Segmenter, query: np.ndarray, prompts: list[Prompt], palette: Palette, hints: Hints) -> Tensor:
    """What the plain network paints on whole canvases with these patches revealed: (3, side, side)."""
    grid, ids = SIDE // PATCH, palette.ids.tolist()
    said = reveal(hints, query.shape[:2], grid, ids)
    images = torch.stack([seen(each.image) for each in prompts])[None]
    masks = [np.where(np.isin(each.mask, ids), each.mask, 0) for each in prompts]
    masks = torch.stack([normalise(torch.from_numpy(palette.paint(mask))).double() for mask in masks])[None]
    hidden = torch.from_numpy(np.concatenate([np.zeros((grid, grid), np.bool_), said == 255]))[None]
    told = canvas(np.where(said == 255, 0, said), palette)[None]
    return Reference(segmenter.model)(images, masks, seen(query)[None], query_masks=told, hidden=hidden)[0]


# --- exact


@pytest.mark.parametrize("shots", [1, 3])
def test_a_hinted_query_is_the_whole_canvas_with_these_patches_revealed(shots: int) -> None:
    segmenter, query = made(double=True), image()
    prompts = [prompt(seed=seed) for seed in range(shots)]
    (paint,) = painted(segmenter, query, segmenter.prepare(prompts), HINTS)
    wanted = expected(segmenter, query, prompts, paint.palette, HINTS)
    torch.testing.assert_close(paint.painted[0], wanted.float(), rtol=1e-5, atol=1e-5)
    (without,) = painted(segmenter, query, segmenter.prepare(prompts), None)
    assert (without.painted[0] - wanted).abs().max() > 1e-2


def test_ids_go_through_the_network_in_groups_and_a_hint_of_another_is_background() -> None:
    segmenter, query = made(double=True), image()
    shown = prompt(tuple(range(1, 10)))
    hints = Hints(points=[(3, 2, 1), (30, 20, 9), (35, 3, 0)])
    both = painted(segmenter, query, segmenter.prepare(shown), hints)
    assert len(both) == 2
    for paint in both:
        wanted = expected(segmenter, query, [shown], paint.palette, hints)
        torch.testing.assert_close(paint.painted[0], wanted.float(), rtol=1e-5, atol=1e-5)


def test_hints_are_seen_beside_prompt_tensors_too() -> None:
    segmenter, query = made(double=True), image()
    segmenter_32 = made()
    learned = group(shots=2)
    key = fitting(segmenter_32, learned)
    key = replace(key, origin=replace(key.origin, sha256=segmenter.sha256))
    (paint,) = painted(segmenter, query, segmenter.prepare([key, prompt()]), HINTS)
    said = reveal(HINTS, query.shape[:2], SIDE // PATCH, [1])
    shown = prompt()
    images = torch.cat([torch.tensor(learned.images).double(), seen(shown.image)[None]])[None]
    masks = torch.cat(
        [
            torch.tensor(learned.masks).double(),
            normalise(torch.from_numpy(paint.palette.paint(shown.mask))).double()[None],
        ]
    )[None]
    hidden = torch.from_numpy(np.concatenate([np.zeros_like(said, np.bool_), said == 255]))[None]
    told = canvas(np.where(said == 255, 0, said), paint.palette)[None]
    wanted = Reference(segmenter.model)(images, masks, seen(query)[None], query_masks=told, hidden=hidden)[0]
    torch.testing.assert_close(paint.painted[0], wanted.float(), rtol=1e-5, atol=1e-5)


def test_hints_alone_show_the_query_twice_with_the_same_patches_revealed() -> None:
    segmenter, query = made(double=True), image()
    hints = Hints(points=[(3, 2, 4), (30, 20, 0), (20, 20, 7)])
    (paint,) = painted(segmenter, query, segmenter.prepare(None), hints)
    assert paint.palette.ids.tolist() == [0, 4, 7]
    said = reveal(hints, query.shape[:2], SIDE // PATCH, [4, 7])
    told, own = canvas(np.where(said == 255, 0, said), paint.palette), seen(query)
    hidden = torch.from_numpy(np.concatenate([said == 255, said == 255]))
    whole = segmenter.model.paint_canvas(
        torch.cat([own, own], dim=1)[None], torch.cat([told, told], dim=1)[None], hidden[None]
    )
    torch.testing.assert_close(paint.painted[0], whole[0, :, SIDE:].float(), rtol=1e-5, atol=1e-5)
    found = segmenter.segment(query, hints=hints)
    assert set(found.ids) <= {4, 7}
    assert found.shape == (24, 40)
    assert set(found.palette.ids.tolist()) == {0, 4, 7}


# --- batches


def test_hinted_and_unhinted_queries_share_a_batch_and_do_not_touch() -> None:
    segmenter = made()
    context = segmenter.prepare([prompt((1, 2)), prompt((1,), seed=6)])
    queries = [image(20 + i, 30, seed=i) for i in range(5)]
    some = [None, Hints(points=[(3, 3, 1)]), None, Hints(points=[(9, 9, 2)], boxes=[(2, 2, 20, 15, 1)]), None]
    fitted = [context.fit(query, hints=hints) for query, hints in zip(queries, some, strict=True)]
    mixed = list(segmenter.segment_many(fitted, context, batch_size=5))
    plain = list(segmenter.segment_many(queries, context, batch_size=5))
    for number, hints in enumerate(some):
        if hints is None:  # to the bit
            np.testing.assert_array_equal(mixed[number].mask, plain[number].mask)
            np.testing.assert_array_equal(mixed[number].confidence, plain[number].confidence)
        else:
            alone = segmenter.segment(queries[number], context, hints=hints)
            np.testing.assert_allclose(mixed[number].confidence, alone.confidence, atol=1e-4)
            assert np.abs(mixed[number].confidence - plain[number].confidence).max() > 1e-3


def test_queries_alone_may_ask_for_different_ids() -> None:
    segmenter = made()
    context = segmenter.prepare(None)
    asked = [Hints(points=[(3, 3, i)]) for i in (1, 1, 7)] + [Hints(points=[(4 * i, 4, i) for i in range(1, 10)])]
    fitted = [context.fit(image(seed=i), hints=hints) for i, hints in enumerate(asked)]
    together = list(segmenter.segment_many(fitted, context, batch_size=4))
    for number, hints in enumerate(asked):
        alone = segmenter.segment(image(seed=number), hints=hints)
        np.testing.assert_allclose(together[number].confidence, alone.confidence, atol=1e-4)
        assert set(together[number].palette.ids.tolist()) == {0, *hints.ids}


def test_memory_that_runs_out_halves_hinted_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = made()
    context = segmenter.prepare(prompt())
    fitted = [context.fit(image(seed=i), hints=Hints(points=[(3 + i, 3, 1)])) for i in range(4)]
    whole = list(segmenter.segment_many(fitted, context, batch_size=4))
    run, sizes = segmenter._placed._run, list[int]()

    def small(views: list[object], *rest: object) -> Paint:
        sizes.append(len(views))
        if len(views) > 2:
            raise MemoryError
        return run(views, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(segmenter._placed, "_run", small)
    with pytest.warns(UserWarning, match="2 queries at a time"):
        halved = list(segmenter.segment_many(fitted, context, batch_size=4))
    assert sizes == [4, 2, 2]
    for one, other in zip(whole, halved, strict=True):
        np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-4)


# --- windows


def test_hints_reach_the_windows_that_they_lie_in() -> None:
    segmenter = made()
    query = image(48, 48)
    context = segmenter.prepare(prompt(), tiles=16)
    plain = segmenter.segment(query, context)
    hinted = segmenter.segment(query, context, hints=Hints(points=[(44, 44, 1)]))
    assert hinted.shape == (48, 48)
    np.testing.assert_array_equal(hinted.confidence[:28, :28], plain.confidence[:28, :28])
    assert np.abs(hinted.confidence[36:, 36:] - plain.confidence[36:, 36:]).max() > 1e-3
    corner = segmenter.segment(query[32:, 32:], segmenter.prepare(prompt()), hints=Hints(points=[(12, 12, 1)]))
    np.testing.assert_allclose(hinted.confidence[46:, 46:], corner.confidence[14:, 14:], atol=1e-2)


# --- presence


def test_what_was_pointed_at_is_never_dropped_for_its_presence() -> None:
    segmenter = made(replace(CONFIG, presence=4))
    with torch.no_grad():
        assert segmenter.model.presence is not None
        segmenter.model.presence.fc2.bias.fill_(-50.0)  # nothing is ever there
    query, shown = image(), prompt((1, 2))
    context = segmenter.prepare(shown)
    assert segmenter.segment(query, context).is_empty
    found = segmenter.segment(query, context, hints=Hints(points=[(3, 3, 2), (30, 3, 0)]))
    assert found.presence[2] == 1
    assert found.presence[1] < 0.01
    assert set(found.ids) <= {2}
    (paint,) = painted(segmenter, query, context, Hints(points=[(3, 3, 2), (30, 3, 0)]))
    kept, all_of_it = (read_small([each], min_presence=0.5)[0] for each in (paint, paint._replace(presence=None)))
    np.testing.assert_array_equal(kept == 2, all_of_it == 2)
    assert (kept == 2).any()
    assert not (kept == 1).any()
    batch = [context.fit(query), context.fit(query, hints=Hints(points=[(3, 3, 1)])), context.fit(query)]
    first, second, third = segmenter.segment_many(batch, context, batch_size=3)
    assert first.is_empty
    assert third.is_empty
    assert second.presence[1] == 1


# --- photographs


def test_hints_are_in_the_pixels_of_the_photograph_as_people_see_it(tmp_path: Path) -> None:
    upright = image(24, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright)).save(tmp_path / "turned.png", exif=exif)
    segmenter, hints = made(), Hints(points=[(39, 23, 1)])
    from_file = segmenter.segment(tmp_path / "turned.png", prompt(), hints=hints)
    np.testing.assert_array_equal(from_file.confidence, segmenter.segment(upright, prompt(), hints=hints).confidence)


# --- many clicks on one image


def test_each_of_many_clicks_is_answered_by_itself() -> None:
    segmenter, query = made(), image()
    points = [(3.0, 2.0), (30.0, 20.0), (39.9, 23.9)]
    answers = list(segmenter.answer_clicks(query, points))
    assert len(answers) == 3
    for (x, y), (logits, promised) in zip(points, answers, strict=True):
        assert logits.shape == (SIDE, SIDE)
        assert np.isfinite(logits).all()
        assert 0 <= promised <= 1
        (paint,) = painted(segmenter, query, segmenter.prepare(None), Hints(points=[(x, y, 1)]))
        ids, confidence = read_small([paint])
        signed = np.where(ids[0] == 1, confidence[0], -confidence[0])
        np.testing.assert_allclose(np.tanh(logits / 2), np.clip(signed, -0.9999, 0.9999), atol=1e-3)
    assert list(segmenter.answer_clicks(query, [])) == []


def test_a_segmenter_proposes_masks_of_everything() -> None:
    segmenter, query = made(), image(30, 50)
    found = propose(segmenter, query, points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0)
    assert found.size == (30, 50)
    assert len(found) > 0


# --- bad input


def test_what_cannot_be_asked_is_refused_in_a_sentence() -> None:
    segmenter = made()
    context = segmenter.prepare(prompt((1, 2)))
    with pytest.raises(ValueError, match=r"within the image, 40 x 24 \(width x height\), got a point \(40, 3\)"):
        segmenter.segment(image(), context, hints=Hints(points=[(40, 3, 1)]))
    with pytest.raises(ValueError, match=r"ids of the context, 1, 2, or 0 .*got 3, 9"):
        segmenter.segment(image(), context, hints=Hints(points=[(4, 3, 9), (5, 3, 3)]))
    with pytest.raises(ValueError, match="expected hints on a query without an example, got none"):
        segmenter.segment(image())
    with pytest.raises(ValueError, match="expected hints on a query without an example, got none"):
        segmenter.segment(image(), None)
    with pytest.raises(ValueError, match="that point at something"):
        segmenter.segment(image(), hints=Hints(points=[(4, 3, 0)]))
    with pytest.raises(ValueError, match="tiles with examples only"):
        segmenter.prepare(None, tiles=16)
    with pytest.raises(ValueError, match="got a fitted one"):
        segmenter.segment(context.fit(image()), context, hints=HINTS)
    alone = segmenter.prepare(None)
    with pytest.raises(ValueError, match="ids of the context"):
        segmenter.segment(alone.fit(image(), hints=Hints(points=[(4, 3, 9)])), context)
    with pytest.raises(ValueError, match="expected hints on a query without an example"):
        next(segmenter.segment_many([context.fit(image())], alone))
