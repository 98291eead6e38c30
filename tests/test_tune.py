"""Tuning: the network stays as it is, the prompt tensor gets better, and the command line brings it about."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tune as benchmark
import typer.main
from einops import rearrange

import incontext
from incontext import cli
from incontext.canvas.paint import normalise, unpaint
from incontext.cli.options import app
from incontext.engine import FittedQuery, Segmenter
from incontext.images.resize import resized, resized_mask
from incontext.images.write import write_image, write_mask
from incontext.learning.losses import LossWeights, training_loss
from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.prompt_tensor import PromptTensor
from incontext.tuning import TuningStep, tune
from incontext.tuning import group as learning
from incontext.tuning.group import FrozenNetwork, Group, _Tested, frozen, mean_iou
from incontext.tuning.images import LabelledImage, changed, covering, fitted, split, tiled
from incontext.types import Palette, Prompt

SIDE = 16
CONFIG = ModelConfig(
    width=32, heads=2, depth=2, patch=4, side=SIDE, decoder_width=8, merge_layer=0, taps=(0, 1), pretrain_side=16
)


def discs(count: int, ids: Sequence[int] = (1,), *, size: int = 24, seed: int = 0) -> list[Prompt]:
    """Grey images with a bright disc for each id."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    made = []
    for _ in range(count):
        image = rng.integers(60, 90, (size, size, 3), dtype=np.uint8)
        mask = np.zeros((size, size), np.uint8)
        for number, i in enumerate(ids):
            centre = rng.uniform(5, size - 5, 2)
            mask[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 16] = i
            image[mask == i] = np.roll((250, 160 - 10 * number, 20 * number), number)
        if set(ids) <= set(np.unique(mask).tolist()):
            made.append(Prompt(image, mask))
    return made if len(made) == count else [*made, *discs(count - len(made), ids, size=size, seed=seed + 1000)]


@pytest.fixture
def segmenter() -> Segmenter:
    model = SegGPT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
    return Segmenter(model, device="cpu", dtype="float32", name="tiny")


# --- learning


def test_the_network_stays_as_it_is_to_the_last_bit(segmenter: Segmenter) -> None:
    before = {name: value.clone() for name, value in segmenter.model.state_dict().items()}
    asking: list[bool] = []

    def look(_: TuningStep) -> None:
        asking.append(any(p.requires_grad or p.grad is not None for p in segmenter.model.parameters()))

    tune(segmenter, discs(4), steps=3, on_step=look)
    assert asking == [False] * 3
    assert all(parameter.requires_grad for parameter in segmenter.model.parameters())  # as before
    assert all(parameter.grad is None for parameter in segmenter.model.parameters())
    for name, value in segmenter.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_networks_state_is_restored_when_tuning_is_stopped(segmenter: Segmenter) -> None:
    def stop(_: TuningStep) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(segmenter, discs(3), steps=3, checkpointing=True, on_step=stop)
    assert all(parameter.requires_grad for parameter in segmenter.model.parameters())
    assert all("forward" not in block.__dict__ for block in segmenter.model.blocks)
    assert not incontext.tune.__module__.endswith(".tune")  # a module of that name would hide the function


def test_it_learns(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "_CLEARLY", 0)  # so small a network finds little
    told: list[TuningStep] = []
    made = tune(segmenter, discs(6), steps=60, lr=0.5, seed=0, on_step=told.append)
    assert np.mean([s.loss for s in told[-10:]]) < 0.98 * np.mean([s.loss for s in told[:5]])
    assert made.origin.after > made.origin.before
    scores = [made.origin.before, *(s.score for s in told if s.score is not None)]
    steady = [np.mean(scores[max(0, n - 2) : n + 1]) for n in range(len(scores))]
    assert told[-1].best == pytest.approx(max(steady), abs=1e-6)
    assert made.origin.after == pytest.approx(scores[int(np.argmax(steady))], abs=1e-6)  # of the step that was kept
    assert [s.score is not None for s in told] == [s.step % 10 == 0 for s in told]
    assert all(s.seconds > 0 and s.memory > 1 << 20 for s in told)
    assert {s.ids for s in told} == {(1,)}


def test_what_comes_back_is_what_scored_best_and_it_says_so(segmenter: Segmenter) -> None:
    prompts = discs(6)
    made = tune(segmenter, prompts, steps=20, lr=0.1, image_names=[f"{n}.jpg" for n in range(6)], names={1: "disc"})
    judging = [int(Path(name).stem) for name in made.origin.held_out]
    assert len(judging) == 2
    assert {*made.origin.images, *made.origin.held_out} == {f"{n}.jpg" for n in range(6)}
    assert dict(made.names) == {1: "disc"}
    assert (made.origin.weights, made.origin.sha256, made.origin.task) == ("tiny", segmenter.sha256, "instance")
    assert made.origin.version == incontext.__version__
    truth = [resized_mask(prompts[n].mask, (SIDE, SIDE)) for n in judging]
    queries = [FittedQuery(resized(prompts[n].image, (SIDE, SIDE)), (SIDE, SIDE)) for n in judging]
    found = [answer.mask for answer in segmenter.segment_many(queries, made)]
    assert mean_iou(found, truth, [1]) == pytest.approx(made.origin.after)


@pytest.mark.slow
def test_nothing_better_means_the_start_and_an_early_end(segmenter: Segmenter) -> None:
    """At a rate that throws every value far away nothing gets better: the start comes back, long before the end."""
    told: list[TuningStep] = []
    prompts = discs(5)
    made = tune(segmenter, prompts, steps=500, lr=10.0, on_step=told.append)
    begun = tune(segmenter, prompts, steps=0)
    if made.origin.after == made.origin.before:
        np.testing.assert_array_equal(made.groups[0].images, begun.groups[0].images)
    assert told[-1].step < 500
    scores = [begun.origin.after, *(s.score for s in told if s.score is not None)]
    steady = [np.mean(scores[max(0, n - 2) : n + 1]) for n in range(len(scores))]
    assert max(steady) < steady[0] + learning._CLEARLY
    assert len(steady) - 1 == 8  # as many in a row without a better one


def test_the_same_seed_gives_the_same_result_and_another_does_not(segmenter: Segmenter) -> None:
    one, again, other = (tune(segmenter, discs(4), steps=2, lr=0.1, start="noise", seed=seed) for seed in (3, 3, 4))
    for kind in ("images", "masks"):
        values = [getattr(made.groups[0], kind) for made in (one, again, other)]
        np.testing.assert_array_equal(values[0], values[1])
        assert np.abs(values[0] - values[2]).max() > 0.1


def test_starts_are_what_they_are_called(segmenter: Segmenter) -> None:
    prompts = discs(4)
    best, mean, noise = (
        tune(segmenter, prompts, steps=0, held_out=0, start=start) for start in ("best", "mean", "noise")
    )
    palette = Palette.spread([1])
    with frozen(segmenter.model, checkpointing=False):
        images = [fitted(LabelledImage(prompt.image, prompt.mask), SIDE) for prompt in prompts]
        group = Group(FrozenNetwork(segmenter, "instance"), palette, images, [])
        real = group._batch(images)
        tested = []
        for candidate in range(4):
            others = [n for n in range(4) if n != candidate]
            tested.append(group._test(real.image_canvas[[candidate]], real.mask_canvas[[candidate]], others))
    chosen = min(range(4), key=lambda n: (-tested[n].score, tested[n].loss))
    np.testing.assert_allclose(best.groups[0].images[0], real.image_canvas[chosen], atol=1e-6)
    np.testing.assert_allclose(mean.groups[0].masks[0], real.mask_canvas.mean(dim=0), atol=1e-5)
    assert noise.groups[0].images.std() == pytest.approx(1, abs=0.1)
    assert best.origin.held_out == ()
    assert best.origin.images == tuple(f"image {n}" for n in range(4))


@pytest.mark.parametrize(("share", "taken"), [(0.5, True), (0.25, False)])
def test_the_start_learns_even_if_it_was_held_out(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, share: float, taken: bool
) -> None:
    """Unless none would be left to judge: one of four is, two of four are not."""
    prompts, tried, asked = discs(4), list[tuple[int, int]](), list[Sequence[int]]()
    parts = split(prompts, share)
    wanted = parts.held_out[-1]

    def scored(*given: Any) -> _Tested:
        numbers = given[-1]
        asked.append(numbers)
        return _Tested(float(wanted not in numbers), 0.0, [])  # so it is the best

    monkeypatch.setattr(Group, "_test", scored)
    made = tune(segmenter, prompts, steps=0, held_out=share, on_tried=lambda *done: tried.append(done))
    assert tried == [(n, 4) for n in (1, 2, 3, 4)]
    assert sorted(map(tuple, asked[:4])) == [tuple(m for m in range(4) if m != n) for n in (3, 2, 1, 0)]
    shown = fitted(LabelledImage(prompts[wanted].image, prompts[wanted].mask), SIDE).image
    real = normalise(torch.tensor(shown[None]))[0]
    starts_with_it = np.allclose(made.groups[0].images[0], real, atol=1e-5)
    assert starts_with_it == taken
    assert (f"image {wanted}" in made.origin.held_out) == (not taken)
    assert len(made.origin.held_out) == 1
    assert len(made.origin.images) == 3


def test_many_shots_leave_one_to_judge(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "_MOST_TRIED", 2)
    for seed in range(6):  # in some of them the only one that judges is among the two best
        made = tune(segmenter, discs(4), steps=0, shots=2, seed=seed)
        assert (made.shots, len(made.origin.held_out)) == (2, 1)


def test_patches_are_shifted_as_one_and_noise_is_learned_pixel_by_pixel(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    rising = itertools.count()
    monkeypatch.setattr(Group, "_test", lambda *_: _Tested(float(next(rising)), 0.0, []))  # the last one is kept
    patch = CONFIG.patch
    for start, alike in (("best", True), ("mean", True), ("noise", False)):
        begun, made = (tune(segmenter, discs(4), steps=steps, start=start, held_out=0) for steps in (0, 10))
        for kind in ("images", "masks"):
            moved = getattr(made.groups[0], kind) - getattr(begun.groups[0], kind)
            cells = rearrange(moved, "n c (r p) (w q) -> (n c r w) (p q)", p=patch, q=patch)
            assert np.abs(cells).max() > 0.05
            assert (np.ptp(cells, axis=1).max() < 1e-5) == alike


@pytest.mark.parametrize(("gain", "kept"), [(0.019, False), (0.021, True)])
def test_what_is_no_clear_gain_is_left(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, gain: float, kept: bool
) -> None:
    scores = itertools.chain([0.5] * 5, itertools.repeat(0.5 + gain))  # four examples tried, and the start judged
    monkeypatch.setattr(Group, "_test", lambda *_: _Tested(next(scores), 0.0, []))
    made = tune(segmenter, discs(4), steps=40, lr=0.1)
    begun = tune(segmenter, discs(4), steps=0)
    assert bool(np.abs(made.groups[0].images - begun.groups[0].images).max() > 0.01) == kept


def test_several_shots_differ_and_all_learn(segmenter: Segmenter) -> None:
    for start in ("best", "mean"):
        begun = tune(segmenter, discs(6), steps=0, shots=2, start=start)
        made = tune(segmenter, discs(6), steps=10, shots=2, start=start, lr=0.02, held_out=0)
        assert begun.shots == made.shots == 2
        assert np.abs(begun.groups[0].images[0] - begun.groups[0].images[1]).max() > 0.1
    with torch.enable_grad(), frozen(segmenter.model, checkpointing=False):
        images = torch.randn(2, 3, SIDE, SIDE, requires_grad=True)
        masks = torch.randn(2, 3, SIDE, SIDE, requires_grad=True)
        network = FrozenNetwork(segmenter, "instance")
        network.answer(torch.randn(3, 3, SIDE, SIDE), network.prepare(images, masks)).square().sum().backward()
    for gradient in (images.grad, masks.grad):
        assert gradient is not None
        assert (gradient.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_checkpointing_changes_nothing_but_memory(segmenter: Segmenter) -> None:
    gradients = []
    shown, queries = torch.randn(2, 1, 3, SIDE, SIDE), torch.randn(2, 3, SIDE, SIDE)
    for checkpointing in (False, True):
        images, masks = (each.clone().requires_grad_() for each in shown)
        calls = []
        hooks = [
            block.norm1.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
            for block in segmenter.model.blocks
        ]
        with torch.enable_grad(), frozen(segmenter.model, checkpointing=checkpointing):
            network = FrozenNetwork(segmenter, "semantic")
            network.answer(queries, network.prepare(images, masks)).square().sum().backward()
        for hook in hooks:
            hook.remove()
        assert images.grad is not None
        gradients.append((images.grad, masks.grad, len(calls)))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1])
    assert gradients[1][2] == 2 * gradients[0][2]  # each block ran twice


def test_the_loss_is_that_of_training_on_the_whole_query(segmenter: Segmenter) -> None:
    with torch.no_grad():
        images = [fitted(LabelledImage(prompt.image, prompt.mask), SIDE) for prompt in discs(2, (1, 2))]
        group = Group(FrozenNetwork(segmenter, "instance"), Palette.spread([1, 2]), images, [])
        batch = group._batch(images)
        right, _ = training_loss(batch.mask_canvas, batch, LossWeights(), beta=0.1)
        black, _ = training_loss(
            batch.mask_canvas.amin() * torch.ones_like(batch.mask_canvas), batch, LossWeights(), beta=0.1
        )
    assert batch.masked.all()
    assert right < 0.1 < black
    white, red = (
        batch.mask_canvas[0].movedim(0, -1)[batch.ids[0] == 1],
        batch.mask_canvas[0].movedim(0, -1)[batch.ids[0] == 2],
    )
    torch.testing.assert_close(white[0], batch.colors[0, 1])
    torch.testing.assert_close(red[0], batch.colors[0, 2])


def test_twenty_ids_are_tuned_in_groups_with_tensors_of_their_own(segmenter: Segmenter) -> None:
    ids = range(10, 30)
    stripes = np.repeat(np.arange(10, 34, dtype=np.uint8), 2)
    mask = np.where(stripes < 30, stripes, 0)[None].repeat(48, axis=0).astype(np.uint8)
    prompts = [
        Prompt(np.random.default_rng(n).integers(0, 256, (48, 48, 3), np.uint8), np.roll(mask, n)) for n in range(4)
    ]
    told: list[TuningStep] = []
    made = tune(segmenter, prompts, steps=2, lr=0.05, batch_size=1, on_step=told.append)
    assert made.ids == tuple(ids)
    assert [len(group.ids) for group in made.groups] == [7, 7, 6]
    assert [(s.step, s.steps) for s in told] == [(n, 6) for n in range(1, 7)]
    assert [s.ids for s in told[::2]] == [group.ids for group in made.groups]
    assert len(segmenter.prepare(made).passes) == 3
    assert set(segmenter.segment(prompts[0].image, made).ids) <= set(ids)


def test_bfloat16_tunes_float32_values() -> None:
    segmenter = Segmenter(SegGPT(CONFIG), device="cpu", dtype="bfloat16")
    made = tune(segmenter, discs(3), steps=10, lr=0.05, held_out=0, start="mean")
    assert made.groups[0].images.dtype == np.float32


# --- which images, and what is done to them


def test_a_split_keeps_every_id_among_those_that_learn() -> None:
    prompts = [*discs(6, (1,)), *discs(2, (1, 2), seed=7), *discs(1, (3,), seed=9)]
    learning, judging = parts = split(prompts, 0.3)
    assert sorted(learning + judging) == list(range(9))
    assert len(judging) == 3
    assert {i for n in learning for i in prompts[n].ids} == {1, 2, 3}
    assert {i for n in judging for i in prompts[n].ids} == {1, 2}  # 3 is shown once only
    assert split(prompts, 0.3) == parts
    assert parts.held_out == judging
    assert parts.taught(judging[:1]) == (tuple(sorted((*learning, judging[0]))), judging[1:])
    assert split(prompts, 0.0) == (tuple(range(9)), tuple(range(9)))
    assert split(prompts[:1], 0.25) == ((0,), (0,))


def test_mosaics_show_more_ids_than_any_image_alone() -> None:
    ids = [{1}, {2}, {1, 3}, {4}, set(), {1}, {2}, {5}]
    found = covering(ids, 4, 8, np.random.default_rng(0))
    assert 1 < len(found) <= 8
    assert len({tuple(sorted(each)) for each in found}) == len(found)
    for chosen in found:
        assert len(set(chosen)) == 4
        assert 4 not in chosen
        assert len(set().union(*(ids[n] for n in chosen))) > 2
    assert len(covering(ids, 4, 1, np.random.default_rng(0))) == 1
    assert covering([{1, 2}, {1}, {2}, {1, 2}], 4, 8, np.random.default_rng(0)) == []  # one shows all
    assert covering([{1}, {2}, {3}], 4, 8, np.random.default_rng(0)) == []  # too few


def test_a_mosaic_has_its_images_in_their_places() -> None:
    images = [LabelledImage(np.full((9, 9, 3), 10 * n, np.uint8), np.full((9, 9), n, np.uint8)) for n in range(4)]
    made = tiled(images, 9)
    assert made.mask.shape == (9, 9)
    assert [made.mask[row, column] for row in (0, 8) for column in (0, 8)] == [0, 1, 2, 3]
    np.testing.assert_array_equal(made.image, 10 * np.stack([made.mask] * 3, axis=-1))
    np.testing.assert_array_equal(tiled(images[3:], 9).image, images[3].image)


def test_where_no_image_shows_all_ids_mosaics_are_tried_as_a_start(segmenter: Segmenter) -> None:
    prompts = [prompt for i in (1, 2, 3) for prompt in discs(4, (i,), seed=i)]
    tried: list[tuple[int, int]] = []
    tune(segmenter, prompts, steps=0, on_tried=lambda *told: tried.append(told))
    assert 12 < tried[-1][1] <= 12 + 8
    assert tried == [(n + 1, tried[-1][1]) for n in range(tried[-1][1])]
    alone: list[tuple[int, int]] = []
    tune(segmenter, discs(12), steps=0, on_tried=lambda *told: alone.append(told))
    assert len(alone) == 12
    group = Group(
        FrozenNetwork(segmenter, "instance"),
        Palette.spread([1, 2, 3]),
        [fitted(LabelledImage(prompt.image, prompt.mask), SIDE) for prompt in prompts],
        [],
    )
    parts = split(prompts, 0.25)
    candidates = group.to_try("best", 1, parts, np.random.default_rng(0))
    mosaics = [each for each in candidates if len(each) > 1]
    assert mosaics
    assert {n for each in mosaics for n in each} <= set(parts.learning)
    started, now = group.started("best", 1, parts, np.random.default_rng(0), mosaics[:1], lambda: None)
    assert now == parts
    expected = tiled([group._images[n] for n in mosaics[0]], SIDE)
    np.testing.assert_allclose(unpaint(torch.tensor(started.images))[0], expected.image, atol=0.01)


def test_images_without_the_ids_teach_where_nothing_is(segmenter: Segmenter) -> None:
    empty = LabelledImage(np.full((SIDE, SIDE, 3), 7, np.uint8), np.zeros((SIDE, SIDE), np.uint8))
    images = [LabelledImage(prompt.image, prompt.mask) for prompt in discs(3)]
    group = Group(FrozenNetwork(segmenter, "instance"), Palette.spread([1]), images, [empty])
    queries = group._queries(range(3), 4, np.random.default_rng(0))
    marked = [bool(image.ids) for _ in range(50) for image in next(queries)]
    assert 0.02 < 1 - np.mean(marked) < 0.3
    lacking = Group(FrozenNetwork(segmenter, "instance"), Palette.spread([1]), [*images, empty], [])
    for numbers, share in ((range(4), 0.1), (range(3), 0)):  # not by one that only judges
        queries = lacking._queries(numbers, 4, np.random.default_rng(0))
        marked = [bool(image.ids) for _ in range(50) for image in next(queries)]
        assert 1 - np.mean(marked) == pytest.approx(share, abs=0.09)


@pytest.mark.parametrize("bias", [-100.0, 100.0])
def test_what_the_network_takes_for_absent_scores_nothing(segmenter: Segmenter, bias: float) -> None:
    """Starts are chosen, and keys kept, by what the segmenter will answer."""
    model = SegGPT(replace(CONFIG, presence=4))
    model.load_state_dict(segmenter.model.state_dict(), strict=False)
    assert model.presence is not None
    torch.nn.init.constant_(model.presence.fc2.bias, bias)
    told: list[TuningStep] = []
    sure = Segmenter(model, device="cpu", dtype="float32")
    made = tune(sure, discs(4), steps=10, on_step=told.append)
    without = tune(segmenter, discs(4), steps=10)
    assert without.origin.before > 0
    assert made.origin.before == (0 if bias < 0 else without.origin.before)
    assert (told[-1].score == 0) == (bias < 0)


def test_queries_are_changed_and_keep_their_masks_in_place() -> None:
    (prompt,) = discs(1, size=48)
    rng = np.random.default_rng(0)
    seen = [changed(fitted(LabelledImage(prompt.image, prompt.mask), SIDE), rng) for _ in range(40)]
    assert all(each.image.shape == (SIDE, SIDE, 3) and each.mask.shape == (SIDE, SIDE) for each in seen)
    assert len({each.image.tobytes() for each in seen}) > 35  # a few are seen as they are
    assert len({each.mask.tobytes() for each in seen}) > 4
    brighter = [each.image[each.mask == 1].mean() > each.image[each.mask == 0].mean() for each in seen if each.ids]
    assert np.mean(brighter) > 0.95


def test_mean_iou_sums_pixels_and_leaves_out_what_is_ignored() -> None:
    truth = [np.array([[1, 1, 2, 255]], np.uint8), np.array([[1, 0, 0, 0]], np.uint8)]
    found = [np.array([[1, 0, 2, 2]], np.uint8), np.array([[1, 1, 0, 0]], np.uint8)]
    assert mean_iou(found, truth, [1, 2, 3]) == pytest.approx((2 / 4 + 1) / 2)
    assert mean_iou(truth, truth, [3]) == 1
    assert mean_iou([found[1]], [np.zeros((1, 4), np.uint8)], [1]) == 0


@pytest.mark.parametrize(
    ("prompts", "options", "sentence"),
    [
        ([], {}, "expected Prompts to learn from, got nothing"),
        ([1], {}, "got int"),
        ("raw", {}, "got raw colours, which are no ids to learn"),
        (None, {"steps": -1}, "steps of at least 0, got -1"),
        (None, {"shots": 0}, "shots of at least 1, got 0"),
        (None, {"batch_size": 0}, "batch_size of at least 1"),
        (None, {"lr": 0.0}, "lr above 0"),
        (None, {"lr": float("nan")}, "lr above 0"),
        (None, {"start": "worst"}, "start among best, mean, noise, got 'worst'"),
        (None, {"held_out": 1.0}, "held_out as a share"),
        (None, {"image_names": ["a"]}, "a name for each of 2 images, got 1"),
        (None, {"names": {5: "five"}}, r"names of the ids \[1\], got one for \[5\]"),
        (None, {"shots": 2}, r"at least 2 images to learn from that show one of the ids \[1\].*got 1; ask for fewer"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    segmenter: Segmenter, prompts: Any, options: dict[str, Any], sentence: str
) -> None:
    if prompts is None:
        prompts = discs(2)
    elif prompts == "raw":
        prompts = [Prompt.from_colors(np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), 255, np.uint8))]
    with pytest.raises(ValueError, match=sentence):
        tune(segmenter, prompts, **options)


# --- the command line


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: tiny weights, LABELLED with four images and one with nothing in it, PHOTOS with two."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_model(tmp_path / "tiny.safetensors", SegGPT(CONFIG))
    save_model(tmp_path / "other.safetensors", SegGPT(replace(CONFIG, depth=3)))
    for folder in ("LABELLED/images", "LABELLED/masks", "PHOTOS"):
        (tmp_path / folder).mkdir(parents=True)
    palette = Palette(np.array([0, 1]), np.array([(0, 0, 0), (200, 30, 30)]))
    for number, prompt in enumerate(discs(6)):
        if number < 4:
            write_image(tmp_path / f"LABELLED/images/{number}.png", prompt.image)
            write_mask(tmp_path / f"LABELLED/masks/{number}.png", prompt.mask, palette.table)
        else:
            write_image(tmp_path / f"PHOTOS/{number}.png", prompt.image)
    write_image(tmp_path / "LABELLED/images/none.png", np.full((24, 24, 3), 80, np.uint8))
    write_mask(tmp_path / "LABELLED/masks/none.png", np.zeros((24, 24), np.uint8), palette.table)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*arguments])
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, captured.out, captured.err

    return call


TINY = ("--weights", "tiny.safetensors", "--device", "cpu", "--dtype", "float32")


def test_from_labelled_images_to_masks(labelled: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = run(
        "tune", "LABELLED", "-o", "keys/rust.safetensors", "--steps", "12", "--names", "1=rust", *TINY
    )
    assert (status, err.count("Error")) == (0, 0), err
    made = PromptTensor.load("keys/rust.safetensors")
    assert f"mean IoU {made.origin.before:.3f} before, {made.origin.after:.3f} after" in out
    assert sorted(made.origin.images + made.origin.held_out) == [f"images/{n}.png" for n in range(4)]
    page = (labelled / "keys/rust.html").read_text()
    assert page.count("<img") == 2 * len(made.origin.held_out)
    assert "<polyline" in page
    assert made.origin.held_out[0] in page
    assert sorted(path.name for path in (labelled / "keys").iterdir()) == ["rust.html", "rust.safetensors"]

    status, out, err = run("weights", "info", "keys/rust.safetensors")
    assert (status, err) == (0, "")
    for words in ("tiny.safetensors", made.origin.sha256, "1 rust", made.origin.held_out[0], "after tuning"):
        assert words in out

    status, out, err = run("segment", "PHOTOS", "--prompt-tensor", "keys/rust.safetensors", "-o", "MASKS", *TINY)
    assert status == 0, err
    assert (labelled / "MASKS/4.png").is_file()
    report = json.loads((labelled / "MASKS/report.json").read_text())
    assert report["settings"]["prompts"] == []
    assert report["settings"]["prompt_tensors"][0]["sha256"] == made.origin.sha256
    two = ("--prompt-tensor", "keys/rust.safetensors", "--prompt-tensor", "keys/rust.safetensors")
    beside = ("--prompt", "LABELLED/images/0.png", "LABELLED/masks/0.png")
    status, _, err = run("segment", "PHOTOS", *two, *beside, "-o", "MORE", *TINY)
    assert status == 0, err
    report = json.loads((labelled / "MORE/report.json").read_text())
    assert (len(report["settings"]["prompts"]), len(report["settings"]["prompt_tensors"])) == (1, 2)


def test_what_the_command_line_refuses(labelled: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    segmenter = incontext.load("tiny.safetensors", device="cpu", dtype="float32")
    tune(segmenter, discs(2), steps=0).save("key.safetensors")
    other = ("--weights", "other.safetensors", "--device", "cpu")
    for arguments, sentence in (
        (("segment", "PHOTOS", "--prompt-tensor", "key.safetensors", "-o", "OUT", *other), "'tiny.safetensors' (SHA"),
        (("segment", "PHOTOS", "--prompt-tensor", "tiny.safetensors", "-o", "OUT"), "got another safetensors file"),
        (("segment", "PHOTOS", "--prompt-tensor", "none.safetensors", "-o", "OUT"), "no prompt tensor at none"),
        (("tune", "LABELLED", "-o", "tiny.safetensors"), "expected a new file, or a prompt tensor to replace"),
        (("tune", "LABELLED", "-o", "key.bin"), "ends in .safetensors"),
        (("tune", "NOWHERE", "-o", "new.safetensors"), "NOWHERE"),
        (
            ("tune", "LABELLED", "-o", "new.safetensors", "--names", "7=seven"),
            "--names of ids that the masks show, [1]",
        ),
        (("tune", "LABELLED", "-o", "new.safetensors", "--names", "rust"), "got 'rust'"),
        (("tune", "LABELLED", "-o", "new.safetensors", "--shots", "9", *TINY), "at least 9 images"),
    ):
        status, out, err = run(*arguments)
        assert (status, out) == (2, ""), (arguments, err)
        assert sentence in err
        assert "Traceback" not in err
    assert not (labelled / "OUT").exists()
    assert not (labelled / "new.safetensors").exists()


def test_the_command_and_the_function_have_the_same_defaults() -> None:
    command = typer.main.get_command(app).commands["tune"]  # type: ignore[attr-defined]
    asked = {each.name: each.default for each in command.params}
    wanted = {name: each.default for name, each in signature(tune).parameters.items()}
    for name in ("steps", "lr", "shots", "start", "batch_size", "checkpointing", "seed", "task"):
        assert asked[name] == wanted[name], name
    assert asked["val_share"] == wanted["held_out"]


@pytest.mark.slow
def test_the_documented_recipe_for_ade20k_runs_on_a_folder_of_its_layout(
    labelled: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    """Grey annotations of 150 classes below images/ and annotations/: the list of the recipe, then its two commands."""
    rng = np.random.default_rng(0)
    for part, count in (("training", 4), ("validation", 1)):
        for number in range(count):
            stripes = 1 + (np.arange(75) + 75 * (number % 2)) % 150  # each class in two images
            mask = np.repeat(np.repeat(stripes.reshape(5, 15), 20, axis=0), 8, axis=1).astype(np.uint8)
            mask[:4] = 0
            for kind, name, pixels in (
                ("images", "jpg", rng.integers(0, 256, (*mask.shape, 3), np.uint8)),
                ("annotations", "png", mask),
            ):
                path = labelled / f"ADEChallengeData2016/{kind}/{part}/ADE_{part}_{number:08d}.{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, pixels)
    text = (Path(__file__).parents[1] / "docs/how-to/tune.md").read_text()
    subprocess.run([sys.executable, "-c", text.split("<<'LIST'\n")[1].split("\nLIST\n")[0]], check=True, cwd=labelled)
    options = ("--task", "semantic", *TINY)
    status, _, err = run("tune", "ade.json", "-o", "ade20k.safetensors", "--checkpointing", "--steps", "1", *options)
    assert status == 0, err
    made = PromptTensor.load("ade20k.safetensors")
    assert made.ids == tuple(range(1, 151))
    assert (len(made.groups), made.origin.task) == (22, "semantic")
    images = "ADEChallengeData2016/images/validation"
    status, _, err = run("segment", images, "--prompt-tensor", "ade20k.safetensors", "-o", "ADE", *options)
    assert status == 0, err
    assert (labelled / "ADE/ADE_validation_00000000.png").is_file()


def test_the_benchmark_cuts_measures_and_goes_on_where_it_was(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (labelled / "SETS").mkdir()
    (labelled / "LABELLED").rename(labelled / "SETS/discs")
    recorded: list[dict[str, Any]] = []
    monkeypatch.setattr(
        benchmark, "record", lambda name, measured, _, **__: recorded.append({"name": name, **measured})
    )
    arguments = "SETS --out OUT --labelled 3 --ensembles 1,3 --tuned 2,3 --steps 2 --device cpu --dtype float32"
    monkeypatch.setattr(
        sys, "argv", ["tune.py", *arguments.split(), "--weights", "tiny.safetensors", "--plot", "p.png"]
    )
    benchmark.main()
    (measured,) = recorded[0]["sets"]
    assert recorded[0]["name"] == f"tune_tiny_side{SIDE}"
    assert (measured["set"], measured["ids"], len(measured["labelled"]), measured["test"]) == ("discs", [1], 3, 1)
    assert [row["images"] for row in measured["untuned"]] == [1, 3]
    assert [(row["images"], row["steps"]) for row in measured["tuned"]] == [(2, 2), (3, 2)]
    for row in (*measured["untuned"], *measured["tuned"]):
        assert 0 <= row["mean_iou"] <= 1
        assert row["seconds"] > 0
    assert PromptTensor.load("OUT/discs_3.safetensors").origin.after == pytest.approx(
        measured["tuned"][1]["held_out_after"], abs=1e-4
    )
    assert (labelled / "p.png").stat().st_size > 1000
    monkeypatch.setattr(benchmark, "measure", None)  # nothing is measured twice
    benchmark.main()
    assert recorded[1]["sets"] == recorded[0]["sets"]
