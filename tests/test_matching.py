"""Matching: prototypes, neighbours, leads, and what prompts of any kind contribute."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from incontext.matching.match import (
    BACKGROUNDS,
    MOST_PATCHES,
    PROTOTYPES,
    Examples,
    describe,
    lead,
    learn,
    match,
)

C = 16


def directions(count: int) -> Tensor:
    """That many unit vectors (count, C) at right angles."""
    return torch.linalg.qr(torch.randn(C, C)).Q[:count]


def noisy(direction: Tensor, count: int, spread: float = 0.05) -> Tensor:
    return F.normalize(direction + spread * torch.randn(count, C), dim=-1)


def example(kinds: Tensor, places: list[int], each: int = 30) -> tuple[Tensor, Tensor]:
    """Patches of every kind, ``each`` of them; the kind at position n belongs to place ``places[n]``."""
    patches = torch.cat([noisy(kind, each) for kind in kinds])
    shares = F.one_hot(torch.tensor(places).repeat_interleave(each), max(places) + 1).float()
    return patches, shares


def of(patches: Tensor, shares: Tensor, ids: tuple[int, ...]) -> Examples:
    return learn(patches, shares, torch.ones(len(patches)), ids)


def test_a_query_is_most_like_what_it_shows() -> None:
    kinds = directions(5)  # two things of the background, two looks of id 3, one of id 9
    examples = of(*example(kinds, [0, 0, 1, 1, 2]), (3, 9))
    query = torch.stack([noisy(kind, 1)[0] for kind in kinds]).view(1, 1, 5, C)
    found = match(query, examples)
    assert found.prototypes.shape == found.neighbours.shape == (1, 3, 1, 5)
    for values in (found.prototypes, found.neighbours):
        assert values[0, :, 0].argmax(dim=0).tolist() == [0, 0, 1, 1, 2]
    assert torch.allclose(found.neighbours.sum(dim=1), torch.ones(1, 1, 5))
    assert found.prototypes.abs().max() <= 1 + 1e-5


def test_queries_of_a_batch_do_not_influence_each_other() -> None:
    kinds = directions(3)
    examples = of(*example(kinds, [0, 1, 2]), (1, 2))
    queries = F.normalize(torch.randn(3, 4, 5, C), dim=-1)
    together = match(queries, examples)
    for n in range(3):
        alone = match(queries[n : n + 1], examples)
        assert torch.allclose(together.prototypes[n], alone.prototypes[0], atol=1e-6)
        assert torch.allclose(together.neighbours[n], alone.neighbours[0], atol=1e-6)


def test_prototypes_are_few_of_unit_length_and_always_the_same() -> None:
    patches, shares = example(directions(6), [0, 0, 0, 0, 1, 2])
    one, other = of(patches, shares, (1, 2)), of(patches, shares, (1, 2))
    assert torch.equal(one.prototypes, other.prototypes)
    assert one.owners.bincount().tolist() == [BACKGROUNDS, PROTOTYPES, PROTOTYPES]
    assert torch.allclose(one.prototypes.norm(dim=1), torch.ones(len(one.prototypes)))


def test_shots_are_pooled() -> None:
    """What only the second prompt shows is found, too."""
    kinds = directions(4)
    first, second = example(kinds[[0, 1]], [0, 1]), example(kinds[[2, 3]], [0, 1])
    pooled = of(torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]), (1,))
    query = kinds.view(1, 1, 4, C)
    assert match(query, pooled).prototypes[0, :, 0].argmax(dim=0).tolist() == [0, 1, 0, 1]
    assert match(query, of(*first, (1,))).prototypes[0, 1, 0, 3] < 0.5


def test_what_nothing_is_known_of_has_no_say() -> None:
    kinds = directions(3)
    patches, shares = example(kinds, [0, 1, 1])
    weights = torch.ones(len(patches)).index_fill(0, torch.arange(60, 90), 0.0)
    examples = learn(patches, shares, weights, (1,))
    assert len(examples.patches) == 60
    assert match(kinds[2].view(1, 1, 1, C), examples).prototypes[0, 1] < 0.5


def test_a_prompt_that_counts_more_moves_the_prototypes() -> None:
    looks, other = directions(PROTOTYPES), directions(1)[0]
    light, heavy = (F.normalize(looks + sign * 0.3 * other, dim=1) for sign in (1, -1))
    patches = torch.stack([light, heavy], dim=1).repeat_interleave(4, dim=0).flatten(0, 1)
    shares, weights = torch.tensor([[0.0, 1.0]]).expand(len(patches), -1), torch.tensor([1.0, 9.0])
    even = learn(patches, shares, torch.ones(len(patches)), (1,)).prototypes
    moved = learn(patches, shares, weights.repeat(len(patches) // 2), (1,)).prototypes
    assert ((moved * heavy).sum(dim=1) > (even * heavy).sum(dim=1) + 0.01).all()
    few = learn(patches[:2], shares[:2], torch.ones(2), (1,))
    assert torch.equal(few.prototypes, patches[:2])  # fewer patches than prototypes


def test_things_smaller_than_a_patch_have_examples() -> None:
    kinds = directions(2)
    patches, shares = example(kinds, [0, 0])
    shares = torch.cat([shares, torch.zeros(60, 1)], dim=1)
    shares[45] = torch.tensor([0.8, 0.2])
    examples = of(patches, shares, (7,))
    assert torch.equal(examples.prototypes[examples.owners == 1], patches[45:46])


def test_prompts_that_ids_fill_leave_the_background_at_nothing() -> None:
    patches, shares = example(directions(1), [1])
    examples = of(patches, shares, (1,))
    assert examples.owners.unique().tolist() == [1]
    found = match(patches[:4].view(1, 2, 2, C), examples)
    assert (found.prototypes[:, 0] == 0).all()
    assert (found.prototypes[:, 1] > 0.9).all()
    assert (found.leads([1])[0][:, 1] > 0).all()


def test_an_id_of_which_nothing_is_seen_is_refused() -> None:
    patches, shares = example(directions(2), [0, 1])
    shares = torch.cat([shares, torch.zeros(60, 1)], dim=1)
    with pytest.raises(ValueError, match=r"got nothing of \[8\]"):
        of(patches, shares, (4, 8))


def test_many_patches_are_thinned() -> None:
    patches = F.normalize(torch.randn(MOST_PATCHES + 500, C), dim=-1)
    shares = F.one_hot(torch.arange(len(patches)) % 2, 2).float()
    examples = of(patches, shares, (1,))
    assert len(examples.patches) == len(examples.shares) == MOST_PATCHES
    few = match(patches[:6].view(1, 2, 3, C), of(patches[:4], shares[:4], (1,)))  # fewer than neighbours that are asked
    assert torch.isfinite(few.neighbours).all()


# --- leads


def test_leads_of_two_are_opposite() -> None:
    values = torch.randn(2, 2, 3, 4)
    assert torch.allclose(lead(values)[:, 0], -lead(values)[:, 1])
    assert torch.allclose(lead(values)[:, 1], values[:, 1] - values[:, 0])


def test_the_winner_alone_leads() -> None:
    values = torch.randn(2, 5, 3, 4)
    leads = lead(values)
    assert torch.equal(leads.argmax(dim=1), values.argmax(dim=1))
    assert ((leads > 0).sum(dim=1) == 1).all()
    assert torch.equal(lead(values[:, :1]), values[:, :1])


def test_ids_asked_elsewhere_are_background() -> None:
    kinds = directions(4)
    examples = of(*example(kinds, [0, 1, 2, 3]), (1, 5, 9))
    found = match(kinds.view(1, 1, 4, C), examples)
    by_prototypes, by_neighbours = found.leads([9, 1])
    for leads in (by_prototypes, by_neighbours):
        assert leads.shape == (1, 3, 1, 4)
        assert leads[0, :, 0].argmax(dim=0).tolist() == [0, 2, 0, 1]  # 5 is background here, 9 comes first


# --- directions of patches


def test_stages_become_one_direction() -> None:
    stages = [3 + torch.randn(2, 6, 4, 4), torch.randn(2, 10, 2, 2)]
    made = describe(stages)
    assert made.shape == (2, 4, 4, 16)
    assert torch.allclose(made.norm(dim=-1), torch.ones(2, 4, 4), atol=1e-5)
    halves = made.split([6, 10], dim=-1)
    assert torch.allclose(halves[0].norm(dim=-1), halves[1].norm(dim=-1), atol=1e-5)  # neither outweighs the other


def test_the_centre_is_subtracted() -> None:
    stages = [3 + torch.randn(2, 6, 4, 4)]
    plain, centred = describe(stages), describe(stages, [torch.full((6,), 3.0)])
    assert (plain[..., 0] * plain[..., 1]).mean() > 0.05  # all point the same way
    assert (centred.flatten(0, 2).mean(dim=0)).norm() < 0.6 < plain.flatten(0, 2).mean(dim=0).norm()
    assert torch.allclose(centred, describe([stages[0] - 3.0]))
