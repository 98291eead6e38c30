"""Patches of queries' masks that are revealed to the network: exactly whole canvases, for any shots and batches."""

from __future__ import annotations

import pytest
import torch
from test_model import TINY, make_inputs, make_model
from torch import Tensor

from incontext.network.model import SegGPT
from incontext.network.reference import Reference

DOUBLE = torch.float64
GRID = TINY.grid


def revealed(batch: int, share: float = 0.4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Painted masks of queries, and which of their patches stay hidden."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randn((batch, 3, TINY.side, TINY.side), generator=generator).to(DOUBLE)
    return masks, torch.rand((batch, GRID, GRID), generator=generator) > share


def differ(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


def nothing_of_prompts(hidden: Tensor) -> Tensor:
    """What is hidden of whole canvases when all of the prompts is shown."""
    return torch.cat([torch.zeros_like(hidden), hidden], dim=1)


@pytest.fixture(scope="module")
def model() -> SegGPT:
    return make_model(dtype=DOUBLE)


@torch.no_grad()
def test_one_shot_is_the_whole_canvas(model: SegGPT) -> None:
    images, masks, queries = make_inputs(3, 1, dtype=DOUBLE)
    told, hidden = revealed(3)
    context = model.reveal(model.prepare(images, masks), told, hidden)
    whole = model.see_canvas(
        torch.cat([images[:, 0], queries], dim=-2),
        torch.cat([masks[:, 0], told], dim=-2),
        nothing_of_prompts(hidden),
    )
    seen = model.see(queries, context)
    assert differ(seen.painted, whole.painted[:, :, TINY.side :]) < 1e-12
    assert differ(seen.tokens, whole.tokens) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("shots", [1, 2, 5])
@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_any_number_of_shots_is_what_the_plain_network_makes_of_canvases(model: SegGPT, shots: int, task: str) -> None:
    images, masks, queries = make_inputs(2, shots, dtype=DOUBLE)
    told, hidden = revealed(2, seed=shots)
    context = model.prepare(images, masks, task=task)  # type: ignore[arg-type]
    got = model.answer(queries, model.reveal(context, told, hidden))
    expected = Reference(model)(
        images,
        masks,
        queries,
        task=task,
        query_masks=told,
        hidden=nothing_of_prompts(hidden),  # type: ignore[arg-type]
    )
    assert differ(got, expected) < 1e-11
    assert differ(got, model.answer(queries, context)) > 1e-3
    chunked = model.answer(queries, model.reveal(context, told, hidden, chunk=2), chunk=2)
    assert differ(chunked, expected) < 1e-11


@torch.no_grad()
def test_one_context_serves_a_batch_and_queries_do_not_touch(model: SegGPT) -> None:
    images, masks, _ = make_inputs(1, 2, dtype=DOUBLE)
    queries = make_inputs(4, 2, dtype=DOUBLE)[2]
    told, hidden = revealed(4)
    context = model.prepare(images, masks)
    together = model.answer(queries, model.reveal(context, told, hidden))
    for number in range(4):
        part = slice(number, number + 1)
        alone = model.answer(queries[part], model.reveal(context, told[part], hidden[part]))
        assert differ(together[part], alone) < 1e-12


@torch.no_grad()
def test_equal_shots_are_one_and_weights_count(model: SegGPT) -> None:
    images, masks, queries = make_inputs(1, 1, dtype=DOUBLE)
    told, hidden = revealed(1)
    one = model.answer(queries, model.reveal(model.prepare(images, masks), told, hidden))
    three = model.prepare(images.expand(-1, 3, -1, -1, -1), masks.expand(-1, 3, -1, -1, -1))
    assert differ(model.answer(queries, model.reveal(three, told, hidden)), one) < 1e-11
    other_images, other_masks, _ = make_inputs(2, 1, dtype=DOUBLE)
    both = torch.cat([images, other_images[:1]], dim=1), torch.cat([masks, other_masks[:1]], dim=1)
    heavy = model.prepare(*both, weights=[1e9, 1.0])
    assert differ(model.answer(queries, model.reveal(heavy, told, hidden)), one) < 1e-6


@torch.no_grad()
def test_what_stays_hidden_is_not_seen_and_nothing_revealed_changes_nothing(model: SegGPT) -> None:
    images, masks, queries = make_inputs(2, 2, dtype=DOUBLE)
    told, hidden = revealed(2)
    context = model.prepare(images, masks)
    noise = told + torch.randn_like(told) * hidden.repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1)
    torch.testing.assert_close(
        model.answer(queries, model.reveal(context, told, hidden)),
        model.answer(queries, model.reveal(context, noise, hidden)),
        rtol=0,
        atol=0,
    )
    nothing = model.reveal(context, told, torch.ones_like(hidden))
    assert differ(model.answer(queries, nothing), model.answer(queries, context)) < 1e-12


@torch.no_grad()
def test_a_query_alone_is_its_own_prompt_with_the_same_patches_revealed(model: SegGPT) -> None:
    queries = make_inputs(3, 1, dtype=DOUBLE)[2]
    told, hidden = revealed(3)
    context = model.alone(queries, told, hidden)
    whole = model.see_canvas(
        torch.cat([queries, queries], dim=-2), torch.cat([told, told], dim=-2), torch.cat([hidden, hidden], dim=1)
    )
    assert differ(model.answer(queries, context), whole.painted[:, :, TINY.side :]) < 1e-12


@torch.no_grad()
def test_many_ways_to_point_at_one_query_share_its_images(model: SegGPT) -> None:
    queries = make_inputs(1, 1, dtype=DOUBLE)[2]
    told, hidden = revealed(5)
    shared = model.answer(queries, model.alone(queries, told, hidden))
    same = queries.expand(5, -1, -1, -1)
    assert differ(shared, model.answer(same, model.alone(same, told, hidden))) < 1e-12
    context = model.prepare(*make_inputs(1, 2, dtype=DOUBLE)[:2])
    by_example = model.answer(queries, model.reveal(context, told, hidden))
    assert differ(by_example, model.answer(same, model.reveal(context, told, hidden))) < 1e-12


@torch.no_grad()
def test_numbers_of_queries_that_do_not_fit_are_refused(model: SegGPT) -> None:
    images, masks, queries = make_inputs(3, 1, dtype=DOUBLE)
    context = model.reveal(model.prepare(images[:1], masks[:1]), *revealed(2))
    with pytest.raises(ValueError, match=r"expected queries \(2, 3, 16, 16\)"):
        model.answer(queries, context)
