"""Matching: prototypes, neighbours, leads, and what prompts of any kind contribute."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from incontext.matching.match import (
    BACKGROUNDS,
    GRID,
    MOST_PATCHES,
    PROTOTYPES,
    Examples,
    directions,
    lead,
    learn,
    match,
    patches_of,
    pooled,
)

C = 16
STAGES = (6, 10)


def right_angled(count: int) -> Tensor:
    """That many unit vectors (count, C) at right angles, of both stages alike."""
    halves = [torch.linalg.qr(torch.randn(wide, wide)).Q[:count] for wide in STAGES]
    return torch.cat(halves, dim=1) / 2**0.5


def noisy(direction: Tensor, count: int, spread: float = 0.05) -> Tensor:
    return direction + spread * torch.randn(count, C)


def example(kinds: Tensor, places: list[int], each: int = 30) -> tuple[Tensor, Tensor]:
    """Patches of every kind, ``each`` of them; the kind at position n belongs to place ``places[n]``."""
    patches = torch.cat([noisy(kind, each) for kind in kinds])
    shares = F.one_hot(torch.tensor(places).repeat_interleave(each), max(places) + 1).float()
    return patches, shares


def of(patches: Tensor, shares: Tensor, ids: tuple[int, ...]) -> Examples:
    return learn(patches[None], shares[None], ids, STAGES)


def winners(values: Tensor) -> list[int]:
    """Of each patch of one query in a row, the place that is most like it."""
    return values[0, :, 0].argmax(dim=0).tolist()


def test_a_query_is_most_like_what_it_shows() -> None:
    kinds = right_angled(5)  # two things of the background, two looks of id 3, one of id 9
    examples = of(*example(kinds, [0, 0, 1, 1, 2]), (3, 9))
    found = match(kinds.view(1, 1, 5, C), examples)
    assert found.prototypes.shape == found.neighbours.shape == (1, 3, 1, 5)
    for values in (found.prototypes, found.neighbours):
        assert winners(values) == [0, 0, 1, 1, 2]
    assert torch.allclose(found.neighbours.sum(dim=1), torch.ones(1, 1, 5))
    assert found.prototypes.abs().max() <= 1 + 1e-5


def test_queries_of_a_batch_do_not_influence_each_other() -> None:
    kinds = right_angled(3)
    examples = of(*example(kinds, [0, 1, 2]), (1, 2))
    queries = torch.randn(3, 4, 5, C)
    together = match(queries, examples)
    for n in range(3):
        alone = match(queries[n : n + 1], examples)
        assert torch.equal(together.prototypes[n], alone.prototypes[0])
        assert torch.equal(together.neighbours[n], alone.neighbours[0])


def test_what_all_images_have_in_common_does_not_matter() -> None:
    """A backbone whose features all point the same way tells things apart as well: features are centred."""
    kinds, common = right_angled(4), 20 * torch.randn(C)
    patches, shares = example(kinds, [0, 0, 1, 1])
    plain = match(kinds.view(1, 1, 4, C), of(patches, shares, (1,)))
    moved = match((kinds + common).view(1, 1, 4, C), of(patches + common, shares, (1,)))
    assert torch.allclose(plain.prototypes, moved.prototypes, atol=1e-3)
    assert torch.allclose(plain.neighbours, moved.neighbours, atol=1e-2)


def test_stages_count_alike_however_large_their_values_are() -> None:
    features, centre = torch.randn(7, C), torch.randn(C)
    scale = torch.tensor([1000.0] * STAGES[0] + [1.0] * STAGES[1])
    found = directions(features, centre, STAGES)
    assert torch.allclose(found, directions(features * scale, centre * scale, STAGES), atol=1e-5)
    assert torch.allclose(found.norm(dim=1), torch.ones(7))


def test_prototypes_are_few_and_always_the_same() -> None:
    patches, shares = example(right_angled(6), [0, 0, 0, 0, 1, 2])
    one, other = of(patches, shares, (1, 2)), of(patches, shares, (1, 2))
    assert torch.equal(one.prototypes, other.prototypes)
    counts = one.owners.bincount().tolist()
    assert 4 <= counts[0] <= BACKGROUNDS
    assert 1 <= counts[1] <= PROTOTYPES


def test_shots_are_pooled() -> None:
    """What only the second prompt shows is found, too; and so it is where contexts are pooled afterwards."""
    kinds = right_angled(4)
    first, second = example(kinds[[0, 1]], [0, 1]), example(kinds[[2, 3]], [0, 1])
    both = [torch.stack(each) for each in zip(first, second, strict=True)]
    query = kinds.view(1, 1, 4, C)
    together = learn(*both, (1,), STAGES)
    joined = pooled([of(*first, (1,)), of(*second, (1,))])
    assert torch.allclose(together.mean, joined.mean, atol=1e-6)
    assert together.images == joined.images == 2
    for examples in (together, joined):
        assert winners(match(query, examples).prototypes) == winners(match(query, examples).neighbours) == [0, 1, 0, 1]
    # By the first alone, what it does not show is nearer to neither by much.
    assert match(query, of(*first, (1,))).prototypes[0, :, 0, 3].amax() < 0.7


def test_examples_of_different_ids_are_pooled() -> None:
    kinds = right_angled(3)
    one, other = of(*example(kinds[[0, 1]], [0, 1]), (7,)), of(*example(kinds[[0, 2]], [0, 1]), (2,))
    examples = pooled([one, other])
    assert examples.ids == (2, 7)
    assert winners(match(kinds.view(1, 1, 3, C), examples).prototypes) == [0, 2, 1]
    assert pooled([one]) is one
    with pytest.raises(ValueError, match="by one backbone"):
        pooled([one, learn(torch.randn(1, 4, 5), F.one_hot(torch.tensor([[0, 1, 0, 1]])).float(), (1,), (5,))])


def test_what_nothing_is_known_of_has_no_say() -> None:
    kinds = right_angled(3)
    patches, shares = example(kinds, [0, 1, 1])
    shares[60:] = 0
    assert len(of(patches, shares, (1,)).patches) == 60


def test_half_known_patches_count_whole_as_neighbours() -> None:
    patches, shares = example(right_angled(2), [0, 1])
    examples = of(patches, 0.6 * shares, (1,))
    assert torch.allclose(examples.shares.sum(dim=1), torch.ones(60))


def test_a_prompt_that_counts_more_moves_the_prototypes() -> None:
    looks, other = right_angled(PROTOTYPES + 1).split([PROTOTYPES, 1])
    light, heavy = (looks + sign * 0.3 * other for sign in (1, -1))
    patches = torch.stack([each.repeat_interleave(4, dim=0) for each in (light, heavy)])
    shares = torch.tensor([0.0, 1.0]).expand(2, 4 * PROTOTYPES, 2)
    even = learn(patches, shares, (1,), STAGES).prototypes
    moved = learn(patches, shares, (1,), STAGES, weights=torch.tensor([1.0, 9.0])).prototypes
    assert torch.allclose(even @ other[0], torch.zeros(len(even)), atol=1e-5)
    assert ((moved @ other[0]) < -0.1).all()


def test_fewer_patches_than_prototypes_are_prototypes() -> None:
    patches, shares = example(right_angled(2), [0, 1], each=2)
    assert torch.equal(of(patches, shares, (1,)).prototypes, patches)


def test_things_smaller_than_a_patch_have_examples() -> None:
    patches, shares = example(right_angled(2), [0, 0])
    shares = torch.cat([shares, torch.zeros(60, 1)], dim=1)
    shares[45] = torch.tensor([0.8, 0.2])
    examples = of(patches, shares, (7,))
    assert torch.equal(examples.prototypes[examples.owners == 1], patches[45:46])
    shares[45] = torch.tensor([0.0, 0.1])  # all else of the patch is ignored
    assert torch.equal((small := of(patches, shares, (7,))).prototypes[small.owners == 1], patches[45:46])


def test_prompts_that_ids_fill_leave_the_background_at_nothing() -> None:
    kinds = right_angled(2)
    patches, shares = example(kinds, [1, 2])
    examples = of(patches, shares, (1, 2))
    assert examples.owners.unique().tolist() == [1, 2]
    found = match(kinds.view(1, 1, 2, C), examples)
    assert (found.prototypes[:, 0] == 0).all()
    assert winners(found.prototypes) == [1, 2]


def test_an_id_of_which_nothing_is_seen_is_refused() -> None:
    patches, shares = example(right_angled(2), [0, 1])
    shares = torch.cat([shares, torch.zeros(60, 1)], dim=1)
    with pytest.raises(ValueError, match=r"got nothing of \[8\]"):
        of(patches, shares, (4, 8))


def test_many_patches_are_thinned() -> None:
    patches = torch.randn(MOST_PATCHES + 500, C)
    shares = F.one_hot(torch.arange(len(patches)) % 2, 2).float()
    examples = of(patches, shares, (1,))
    assert len(examples.patches) == len(examples.shares) == MOST_PATCHES
    few = match(patches[:6].view(1, 2, 3, C), of(patches[:4], shares[:4], (1,)))  # fewer than neighbours that are asked
    assert torch.isfinite(few.neighbours).all()


def test_tensors_that_do_not_fit_are_refused() -> None:
    made = of(*example(right_angled(2), [0, 1]), (1,))
    with pytest.raises(ValueError, match="expected examples of 2 ids with 16 channels"):
        Examples((1, 2), STAGES, made.mean, 1, made.prototypes, made.owners, made.patches, made.shares)


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
    kinds = right_angled(4)
    found = match(kinds.view(1, 1, 4, C), of(*example(kinds, [0, 1, 2, 3]), (1, 5, 9)))
    for leads in found.leads([9, 1]):
        assert leads.shape == (1, 3, 1, 4)
        assert winners(leads) == [0, 2, 0, 1]  # 5 is background here, 9 comes first


# --- patches


def test_stages_stand_side_by_side_on_the_finest_grid() -> None:
    fine, coarse = torch.randn(2, 6, 40, 30), torch.randn(2, 10, 20, 15)
    made = patches_of([fine, coarse])
    assert made.shape == (2, 40, 30, 16)
    assert torch.equal(made[..., :6], fine.permute(0, 2, 3, 1))
    assert torch.allclose(made[..., 6:].mean(dim=(1, 2)), coarse.mean(dim=(2, 3)), atol=0.05)
    assert patches_of([fine[..., :20, :20], coarse[..., :10, :10]]).shape == (2, GRID, GRID, 16)
