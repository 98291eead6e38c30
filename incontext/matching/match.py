"""Matching without training: what of a query looks like what of the prompts, by a frozen network's features.

A query's patches are compared with a few prototypes of each id and of the background, and with the prompts' patches
that are most like them. Everything is float32 and a handful of matrix products. Refuses to know networks, images, files
and what is done with similarities.

Sources: nearest neighbours among all patches of the prompts, Matcher (arXiv 2305.13310) and INSID3 (arXiv 2603.28480);
prototypes of what is meant and of what is not, PerSAM (arXiv 2305.03048); features of several depths together, HSNet
(arXiv 2104.01538); pooling all shots, UniverSeg (arXiv 2304.06131).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

PROTOTYPES: Final = 3  # of an id
BACKGROUNDS: Final = 7  # prototypes of what is none of the ids: there is more of it
NEIGHBOURS: Final = 9  # patches of the prompts that have a say in a patch of the query
TEMPERATURE: Final = 0.07  # of their say, in cosines
MOST_PATCHES: Final = 8192  # of the prompts, that are neighbours; more are thinned evenly

_ROUNDS = 8  # of finding prototypes
_OWN = 0.5  # of a patch, from which on an id owns it


@dataclass(frozen=True, eq=False)
class Examples:
    """What prompts show a backbone, all of them pooled.

    ids: that the prompts mark, ascending. prototypes: (P, C), of unit length; owners: (P,) int64, the place in
    (0, *ids) of what each stands for. patches: (M, C), of unit length; shares: (M, K + 1), how much of each is
    background and each of the ids, summing to 1.
    """

    ids: tuple[int, ...]
    prototypes: Tensor
    owners: Tensor
    patches: Tensor
    shares: Tensor

    def to(self, device: torch.device) -> Examples:
        """Return the same on a device."""
        tensors = (self.prototypes, self.owners, self.patches, self.shares)
        return Examples(self.ids, *(each.to(device) for each in tensors))


@dataclass(frozen=True, eq=False)
class Similarities:
    """How like what an id stands for each patch of B queries is; the first row is the background.

    ids: K, ascending. prototypes: (B, K + 1, h, w), the greatest cosine with one, -1..1. neighbours: of the same
    shape, how much of the nearest patches of the prompts each id has, 0..1.
    """

    ids: tuple[int, ...]
    prototypes: Tensor
    neighbours: Tensor

    def leads(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """By how much each of these ids leads the best of all others, what is asked elsewhere being background here.

        Args:
            ids: Some of :attr:`ids`, in the order wanted.

        Returns:
            By prototypes and by neighbours, each (B, len(ids) + 1, h, w), the first row being the background: below 0
            where another is more like it. Of two rows, one is the negative of the other.
        """
        places = [1 + self.ids.index(i) for i in ids]
        others = [at for at in range(len(self.ids) + 1) if at not in places]
        by_prototypes = torch.cat([self.prototypes[:, others].amax(1, keepdim=True), self.prototypes[:, places]], 1)
        by_neighbours = torch.cat([self.neighbours[:, others].sum(1, keepdim=True), self.neighbours[:, places]], 1)
        return lead(by_prototypes), lead(by_neighbours)


def lead(values: Tensor) -> Tensor:
    """Return by how much each of K + 1 values leads the best other one, (B, K + 1, ...) -> the same shape."""
    if values.shape[1] == 1:
        return values
    best = values.topk(2, dim=1).values
    is_best = values == best[:, :1]
    return torch.where(is_best, values - best[:, 1:2], values - best[:, :1])


def describe(stages: Sequence[Tensor], centre: Sequence[Tensor] | None = None) -> Tensor:
    """Join a backbone's stages into one direction for each patch of the finest one.

    Args:
        stages: (B, C_s, h_s, w_s) each, fine to coarse.
        centre: For each stage (C_s,), what is subtracted first: the mean over many images.

    Returns:
        (B, h, w, sum of C_s) float32, of unit length, each stage with the same weight.
    """
    size, joined = stages[0].shape[-2:], []
    for number, stage in enumerate(stages):
        found = stage.float()
        if centre is not None:
            found = found - centre[number].to(found.device)[:, None, None]
        found = F.normalize(found, dim=1)
        if found.shape[-2:] != size:
            found = F.interpolate(found, size, mode="bilinear", align_corners=False)
        joined.append(F.normalize(found, dim=1))
    return rearrange(F.normalize(torch.cat(joined, dim=1), dim=1), "b c h w -> b h w c").contiguous()


def learn(patches: Tensor, shares: Tensor, weights: Tensor, ids: Sequence[int]) -> Examples:
    """Pool what prompts show.

    Args:
        patches: (M, C) of unit length, of all prompts.
        shares: (M, K + 1), how much of each is background and each id, 0..1, summing to 1.
        weights: (M,) how much each counts, 0 where nothing is known of it.
        ids: K, ascending.

    Raises:
        ValueError: nothing of some id can be seen.
    """
    known = weights > 0
    patches, shares, weights = patches[known].float(), shares[known].float(), weights[known].float()
    total = shares.sum(dim=0)[1:].tolist()
    if missing := [i for i, much in zip(ids, total, strict=True) if much <= 0]:
        raise ValueError(f"expected prompts that show each id, got nothing of {missing}")
    found, owners = [], []
    for place in range(len(ids) + 1):
        share = shares[:, place]
        own = share >= _OWN if bool((share >= _OWN).any()) else (share > 0) & (share >= share.amax())
        if place == 0 and not bool((share >= _OWN).any()):
            continue  # the ids fill the prompts
        count = PROTOTYPES if place else BACKGROUNDS
        found.append(_prototypes(patches[own], (share * weights)[own], count))
        owners.append(torch.full((len(found[-1]),), place, device=patches.device))
    if len(patches) > MOST_PATCHES:
        kept = torch.linspace(0, len(patches) - 1, MOST_PATCHES, device=patches.device).long()
        patches, shares = patches[kept], shares[kept]
    return Examples(tuple(ids), torch.cat(found), torch.cat(owners), patches, shares)


def match(query: Tensor, examples: Examples) -> Similarities:
    """Compare queries with examples.

    Args:
        query: (B, h, w, C) of unit length, as :func:`describe` returns.
        examples: By the same backbone.
    """
    places = len(examples.ids) + 1
    seen = rearrange(query, "b h w c -> (b h w) c")
    cosines = seen @ examples.prototypes.T
    nearest = cosines.new_zeros(len(seen), places)  # of what has no prototype: as far away as anything centred is
    nearest = nearest.scatter_reduce(1, examples.owners.expand_as(cosines), cosines, reduce="amax", include_self=False)
    top = (seen @ examples.patches.T).topk(min(NEIGHBOURS, len(examples.patches)), dim=1)
    say = (top.values / TEMPERATURE).softmax(dim=1)
    neighbours = (say[..., None] * examples.shares[top.indices]).sum(dim=1)
    shape = dict(zip("bhw", query.shape[:3], strict=True))
    both = (rearrange(each, "(b h w) k -> b k h w", **shape) for each in (nearest, neighbours))
    return Similarities(examples.ids, *both)


def _prototypes(patches: Tensor, weights: Tensor, count: int) -> Tensor:
    """At most that many directions (P, C) that stand for patches (M, C): k-means on the sphere, always the same."""
    if len(patches) <= count:
        return patches
    chosen = patches[torch.linspace(0, len(patches) - 1, count, device=patches.device).long()]
    for _ in range(_ROUNDS):
        nearest = F.one_hot((patches @ chosen.T).argmax(dim=1), count).float() * weights[:, None]
        sums = nearest.T @ patches
        chosen = torch.where(sums.norm(dim=1, keepdim=True) > 1e-6, F.normalize(sums, dim=1), chosen)
    return chosen
