"""Whether what is asked for is there: the head, what it is asked in training, and what becomes of what is not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from incontext.canvas.paint import normalise
from incontext.canvas.query import PaintedAnswer
from incontext.canvas.read import Paint, read
from incontext.engine import MIN_PRESENCE, Segmenter, load
from incontext.learning.losses import (
    Batch,
    LossWeights,
    asked,
    counts,
    presence_loss,
    training_loss,
    unjudged_where_absent,
)
from incontext.network import checkpoint
from incontext.network.config import ModelConfig
from incontext.network.layers import Presence
from incontext.network.model import SegGPT
from incontext.training.recipes import RECIPES, Recipe, Stage
from incontext.training.run import Run
from incontext.training.start.warm import start_from
from incontext.types import Palette, Prompt
from incontext.video import track

CONFIG = ModelConfig(
    width=32,
    heads=2,
    depth=3,
    patch=8,
    side=32,
    decoder_width=8,
    mlp_ratio=2.0,
    merge_layer=1,
    taps=(1, 2),
    pretrain_side=24,
    presence=4,
)


def network(config: ModelConfig = CONFIG) -> SegGPT:
    """Random, and lively enough to paint all colours."""
    torch.manual_seed(0)
    model = SegGPT(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value), alpha=0.1)
    return model


def prompt(*ids: int) -> Prompt:
    rng = np.random.default_rng(0)
    mask = np.zeros((32, 32), np.uint8)
    for number, i in enumerate(ids):
        mask[8 * number : 8 * number + 6] = i
    return Prompt(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), mask)


def image_files(count: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(0, 256, (*size, 3), dtype=np.uint8) for n in range(count)]


# --- the head


def test_the_head_weighs_tokens_by_how_far_they_show_an_id() -> None:
    head, tokens = Presence(6, 4, eps=1e-6), torch.randn(2, 3, 3, 6)
    shares = torch.full((2, 2, 3, 3), 1e-6)
    shares[:, 0, 0, 0] = shares[:, 1, 2, 2] = 1.0
    logits = head(tokens, shares)
    assert logits.shape == (2, 2)
    torch.testing.assert_close(head(tokens, 7 * shares), logits)  # shares of one another, not areas
    moved = tokens.clone()
    moved[:, 0, 0], moved[:, 1, 1] = tokens[:, 1, 1], tokens[:, 0, 0]  # their mean is the same
    changed = (head(moved, shares) - logits).abs()
    assert changed[:, 0].min() > 1e-3
    assert changed[:, 1].max() < 1e-4


def test_the_head_changes_nothing_that_the_network_paints() -> None:
    model = network()
    bare = SegGPT(replace(CONFIG, presence=0)).eval()
    bare.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith("presence.")})
    images, masks, queries = torch.randn(2, 3, 3, 32, 32), torch.randn(2, 3, 3, 32, 32), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        seen = model.see(queries, model.prepare(images, masks))
        assert torch.equal(seen.painted, bare(images, masks, queries))
        assert seen.tokens.shape == (2, 4, 4, 2 * 32)
        both = (torch.cat([each[:, 0], last], dim=2) for each, last in ((images, queries), (masks, queries)))
        hidden = torch.zeros(2, 8, 4, dtype=torch.bool)
        hidden[:, 4:] = True
        canvas_tokens = model.see_canvas(*both, hidden).tokens
        alone = model.see(queries, model.prepare(images[:, :1], masks[:, :1])).tokens
    torch.testing.assert_close(canvas_tokens, alone, rtol=1e-4, atol=1e-4)  # training and inference show it the same


# --- reading


def test_what_is_not_there_is_left_out_and_as_sure_as_that() -> None:
    palette = Palette.spread([3, 9])
    mask = np.zeros((8, 8), np.uint8)
    mask[:3], mask[5:] = 3, 9
    painted = normalise(torch.from_numpy(palette.paint(mask)))[None].expand(2, -1, -1, -1)
    paint = Paint(painted, palette, torch.tensor([[0.0, 0.125, 0.75], [0.0, 0.5, 0.25]]))
    (first, sure), (second, _) = read([paint], [(8, 8)] * 2, min_presence=0.3)
    np.testing.assert_array_equal(first, np.where(mask == 3, 0, mask))
    np.testing.assert_array_equal(second, np.where(mask == 9, 0, mask))
    np.testing.assert_allclose(sure[mask == 3], 1 - 0.125)
    np.testing.assert_allclose(sure[mask != 3], 1, atol=1e-5)  # background was never in question
    for kept, least in ((paint, 0.0), (Paint(painted, palette), 0.9)):
        for found, _ in read([kept], [(8, 8)] * 2, min_presence=least):
            np.testing.assert_array_equal(found, mask)
    answer = PaintedAnswer((paint.part(0, 1),), (8, 8), palette, min_presence=0.3).read()
    assert answer.presence == {3: 0.125, 9: 0.75}
    assert answer.ids == (9,)


@pytest.mark.parametrize("options", [{}, {"tiles": 24}, {"refine": True}, {"ensemble": "spatial"}])
def test_the_bar_decides_what_comes_out(options: dict[str, object]) -> None:
    model, queries, context = network(), image_files(3), [prompt(3, 5), prompt(5, 7)]
    with torch.no_grad():
        model.presence.fc2.weight.mul_(30)  # so that ids and images differ
    answers = {
        bar: list(
            Segmenter(model, device="cpu", dtype="float32", min_presence=bar).segment_many(queries, context, **options)
        )  # type: ignore[arg-type]
        for bar in (0.0, 0.5, 1.0)
    }
    removed = 0
    for everything, some, nothing in zip(*answers.values(), strict=True):
        assert set(everything.presence) == {3, 5, 7}
        assert everything.presence == some.presence == nothing.presence
        assert all(0 <= value <= 1 for value in everything.presence.values())
        assert not everything.is_empty
        assert nothing.is_empty
        if "tiles" not in options:
            gone = {i for i, value in everything.presence.items() if value < 0.5}
            assert not set(some.ids) & gone
            removed += len(set(everything.ids) & gone)
    assert removed or "tiles" in options
    batched = Segmenter(model, device="cpu", dtype="float32", min_presence=0.5)
    for one, other in zip(
        batched.segment_many(queries, context, batch_size=2, **options),  # type: ignore[arg-type]
        answers[0.5],
        strict=True,
    ):
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one.presence == pytest.approx(other.presence, abs=1e-5)


def test_weights_that_cannot_tell_leave_nothing_out() -> None:
    bare, query = network(replace(CONFIG, presence=0)), image_files(1)[0]
    answers = [Segmenter(bare, dtype="float32", min_presence=bar).segment(query, prompt(1)) for bar in (0.0, 1.0)]
    assert answers[0].presence == {}
    np.testing.assert_array_equal(answers[0].mask, answers[1].mask)


def test_a_tracker_tells_it_of_every_frame() -> None:
    segmenter, mask = Segmenter(network(), device="cpu", dtype="float32", min_presence=0.0), prompt(2, 4).mask
    first, *others = track(segmenter, image_files(3, (32, 32)), mask)
    assert first.presence == {2: 1.0, 4: 1.0}  # as it was told
    assert [set(each.presence) for each in others] == [{2, 4}] * 2
    assert all(0 < value < 1 for each in others for value in each.presence.values())


def test_the_bar_is_a_probability() -> None:
    assert Segmenter(network()).min_presence == MIN_PRESENCE
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"min_presence in 0\.\.1"):
            Segmenter(network(), min_presence=wrong)


# --- weights


def test_only_our_own_layout_keeps_the_head(tmp_path: Path) -> None:
    model = network()
    checkpoint.save_model(tmp_path / "own.safetensors", model)
    assert load(tmp_path / "own.safetensors", min_presence=0.7).segment(image_files(1)[0], prompt(1)).presence
    images, masks, query = torch.randn(1, 1, 3, 32, 32), torch.randn(1, 1, 3, 32, 32), torch.randn(1, 3, 32, 32)
    for layout in ("published", "transformers"):
        with pytest.warns(UserWarning, match="no place for the presence head"):
            checkpoint.convert(tmp_path / "own.safetensors", tmp_path / layout, layout=layout)
        other = checkpoint.load_model(tmp_path / layout)
        assert other.config.presence == 0
        with torch.no_grad():
            assert torch.equal(other(images, masks, query), model(images, masks, query))


def test_a_warm_start_keeps_a_head_that_fits() -> None:
    model = network()
    started, left = start_from(model, replace(CONFIG, side=16))
    assert left == ()
    assert torch.equal(started.presence.fc1.weight, model.presence.fc1.weight)  # type: ignore[union-attr]
    _, left = start_from(network(replace(CONFIG, presence=0)), CONFIG)
    assert {name.split(".")[0] for name in left} == {"presence"}


# --- training

MODEL = ModelConfig(
    width=32, heads=2, depth=2, patch=8, side=16, decoder_width=8, merge_layer=0, taps=(0, 1), pretrain_side=16
)


def batch(count: int = 6, shots: int = 1) -> Batch:
    """Random images whose prompts show ids 1 and 2; the query shows id 1 in every other one, and there it is red."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 16 * (shots + 1), 16, generator=generator)
    ids = torch.zeros(count, 16 * (shots + 1), 16, dtype=torch.int64)
    ids[:, : 16 * shots : 2], ids[:, 1 : 16 * shots : 4] = 1, 2
    ids[::2, -10:-4] = 1
    images[:, 0] = torch.where(ids == 1, 3.0, images[:, 0])
    colors = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]).expand(count, -1, -1)
    masked = torch.zeros(count, 2 * (shots + 1), 2, dtype=torch.bool)
    masked[:, -2:] = True
    used = torch.tensor([True, True, True, False]).expand(count, -1)
    return Batch(images, torch.zeros_like(images), masked, ids, colors, used)


@pytest.mark.parametrize("shots", [1, 2])
def test_it_is_asked_after_what_the_prompts_show_where_they_are_all_that_is_known(shots: int) -> None:
    made = batch(4, shots)
    which, there = asked(made)
    assert which.tolist() == [[False, True, True, False]] * 4
    assert there[:, 1:3].tolist() == [[True, False], [False, False]] * 2
    hinted, holes, unknown = (made.masked.clone() for _ in range(3))
    hinted[0, -1, 0] = False  # a hint shows a part of the answer
    holes[1, 0, 0] = True  # a part of the prompt is hidden
    assert asked(replace(made, masked=hinted))[0].any(dim=1).tolist() == [False, True, True, True]
    assert asked(replace(made, masked=holes))[0].any(dim=1).tolist() == [True, False, True, True]
    ids = made.ids.clone()
    ids[2, -16:] = 255  # nobody knows what is there: no id is said to be
    assert not asked(replace(made, ids=ids, masked=unknown))[1][2, 1:].any()


def test_shares_of_the_loss_add_up() -> None:
    made, logits = batch(6), torch.randn(6, 4)
    parts = [
        Batch(*(None if each is None else each[part] for each in vars(made).values()))
        for part in (slice(0, 2), slice(2, 6))
    ]
    total = sum(counts(part) for part in parts)
    halves = [
        presence_loss(logits[p], part, total=total) for p, part in zip((slice(0, 2), slice(2, 6)), parts, strict=True)
    ]
    torch.testing.assert_close(sum(halves), presence_loss(logits, made))


def recipe(**changes: object) -> Recipe:
    made = Recipe(replace(MODEL, presence=8), (Stage(16, 60, 6),), warmup_steps=1, other_lr=1e-2, ema=0.0)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_alone_it_learns_and_the_network_stays_as_it_is() -> None:
    run = Run(recipe(only_presence=True), torch.device("cpu"), dtype="float32")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    losses = [run.advance(batch())[0] for _ in range(60)]
    assert losses[-1] < 0.3 * losses[0]
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("presence."), name
    assert not any(value.requires_grad for name, value in run.model.named_parameters() if "presence" not in name)
    with pytest.raises(ValueError, match="presence head"):
        Run(recipe(only_presence=True, model=MODEL), torch.device("cpu"))


def test_beside_the_network_it_looks_on() -> None:
    """What the network learns is what it would learn without a head, but for the length of the clipped gradient."""
    runs = [
        Run(recipe(model=replace(MODEL, presence=hidden)), torch.device("cpu"), dtype="float32") for hidden in (0, 8)
    ]
    runs[1].model.load_state_dict({**runs[1].model.state_dict(), **runs[0].model.state_dict()})
    for run in runs:
        _, parts = run.backward(batch())
        assert ("presence" in parts) == (run.model.presence is not None)
    without, beside = (dict(run.model.named_parameters()) for run in runs)
    assert all(beside[name].grad is not None for name in beside if name.startswith("presence."))
    for name, value in without.items():
        if value.grad is not None:
            torch.testing.assert_close(beside[name].grad, value.grad)


def test_its_gradient_reaches_the_network_in_the_share_that_the_recipe_says() -> None:
    gradients = {}
    for pull in (0.0, 0.25, 1.0):
        run = Run(recipe(presence_pull=pull), torch.device("cpu"), dtype="float32")
        run.backward(batch())
        gradients[pull] = {name: value.grad for name, value in run.model.named_parameters() if value.grad is not None}
    qkv = [gradients[pull]["blocks.0.attn.qkv.weight"] for pull in (0.0, 0.25, 1.0)]
    assert (qkv[2] - qkv[0]).norm() > 0.01 * qkv[0].norm()
    torch.testing.assert_close(qkv[1] - qkv[0], (qkv[2] - qkv[0]) / 4, rtol=1e-3, atol=1e-6)
    for pull in (0.25, 1.0):  # the head itself learns as ever
        torch.testing.assert_close(gradients[pull]["presence.fc1.weight"], gradients[0.0]["presence.fc1.weight"])


def test_a_painting_need_not_be_judged_where_nothing_is_there() -> None:
    made = batch(4)
    unjudged = unjudged_where_absent(made)
    assert torch.equal(unjudged.ids[::2], made.ids[::2])
    assert torch.equal(unjudged.ids[:, :16], made.ids[:, :16])
    assert (unjudged.ids[1::2, 16:] == 255).all()
    assert all(torch.equal(*pair) for pair in zip(asked(made), asked(unjudged), strict=True))  # the head is
    painted = torch.randn(4, 3, 32, 16)
    moved = torch.cat([painted[:, :, :16], painted[:, :, 16:] + torch.tensor([0.0, 1, 0, 1])[:, None, None, None]], 2)
    for each, same in ((unjudged, True), (made, False)):
        losses = [training_loss(answer, each, LossWeights(), beta=0.1)[0] for answer in (painted, moved)]
        assert torch.equal(*losses) == same
    parts = []
    for black in (True, False):
        run = Run(recipe(black_if_absent=black), torch.device("cpu"), dtype="float32")
        parts.append(run.backward(batch())[1])
    assert parts[0]["presence"] == parts[1]["presence"]
    assert parts[0]["l1"] != parts[1]["l1"]
    for black in (True, False):  # without a head there is nobody else to learn it
        run = Run(recipe(black_if_absent=black, model=MODEL), torch.device("cpu"), dtype="float32")
        parts.append(run.backward(batch())[1])
    assert parts[2] == parts[3]


def test_the_recipe_is_of_the_head_alone() -> None:
    made = RECIPES["presence"]
    assert made.only_presence
    assert made.model.presence
    assert made.coloring.hide_query == 1.0
