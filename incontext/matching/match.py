"""Matching without training: what of a query looks like what of the prompts, by a frozen network's features.

A query's patches are compared with a few prototypes of each id and of the background, and with the prompts' patches
that are most like them. Everything is float32 and a handful of matrix products. Refuses to know networks, images, files
and what is done with similarities.

Sources: nearest neighbours among all patches of the prompts, Matcher (arXiv 2305.13310) and INSID3 (arXiv 2603.28480);
prototypes of what is meant and of what is not, PerSAM (arXiv 2305.03048); features of several depths together, HSNet
(arXiv 2104.01538); pooling all shots, UniverSeg (arXiv 2304.06131). docs/backbones.md says more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

GRID: Final = 28  # patches along a side, at least: masks of prompts are finer than a backbone's last stages
PROTOTYPES: Final = 3  # of an id
BACKGROUNDS: Final = 7  # prototypes of what is none of the ids: there is more of it
NEIGHBOURS: Final = 9  # patches of the prompts that have a say in a patch of the query
TEMPERATURE: Final = 0.07  # of their say, in cosines
MOST_PATCHES: Final = 4096  # of the prompts, that are neighbours; more are thinned evenly

_ROUNDS = 8  # of finding prototypes
_OWN = 0.5  # of a patch, from which on an id owns it


@dataclass(frozen=True, eq=False)
class Examples:
    """What prompts show a backbone, all of them pooled. Features are as the backbone gives them, stages side by side.

    Attributes:
        ids: That the prompts mark, K, ascending.
        channels: Of each stage; C in all.
        mean: (C,) of the prompts' images.
        images: How many these are.
        prototypes: (P, C), means of patches that are alike.
        owners: (P,) int64, the place in (0, *ids) of what each prototype stands for.
        patches: (M, C), those of the prompts of which something is known.
        shares: (M, K + 1), how much of each is background and each of the ids, summing to 1.
    """

    ids: tuple[int, ...]
    channels: tuple[int, ...]
    mean: Tensor
    images: int
    prototypes: Tensor
    owners: Tensor
    patches: Tensor
    shares: Tensor

    def __post_init__(self) -> None:
        wide, places = sum(self.channels), len(self.ids) + 1
        shapes = [tuple(each.shape) for each in (self.mean, self.prototypes, self.owners, self.patches, self.shares)]
        found, known = len(self.prototypes), len(self.patches)
        if shapes != [(wide,), (found, wide), (found,), (known, wide), (known, places)] or not found or not known:
            raise ValueError(f"expected examples of {places - 1} ids with {wide} channels, got tensors {shapes}")

    def to(self, device: torch.device) -> Examples:
        """Return the same on a device."""
        names = ("mean", "prototypes", "owners", "patches", "shares")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True, eq=False)
class Similarities:
    """How like what each id stands for the patches of B queries are; the first row is the background.

    Attributes:
        ids: K, ascending.
        prototypes: (B, K + 1, h, w), the greatest cosine with a prototype, -1..1.
        neighbours: (B, K + 1, h, w), how much of the nearest patches of the prompts each has, 0..1.
    """

    ids: tuple[int, ...]
    prototypes: Tensor
    neighbours: Tensor

    def leads(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tell by how much each of these ids leads the best of all others; what is asked elsewhere is background here.

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
    return torch.where(values == best[:, :1], values - best[:, 1:2], values - best[:, :1])


def patches_of(stages: Sequence[Tensor]) -> Tensor:
    """Bring a backbone's stages side by side, on the finest one's grid or on `GRID` x `GRID`, whatever is finer.

    Args:
        stages: (B, C_s, h_s, w_s) each, fine to coarse.

    Returns:
        (B, h, w, C) float32.
    """
    height, width = stages[0].shape[-2:]
    size = max(GRID, height), max(GRID, width)
    fine = [
        F.interpolate(each.float(), size, mode="bilinear", align_corners=False)
        if each.shape[-2:] != size
        else each.float()
        for each in stages
    ]
    return rearrange(torch.cat(fine, dim=1), "b c h w -> b h w c").contiguous()


def directions(features: Tensor, centre: Tensor, channels: Sequence[int]) -> Tensor:
    """Return where features (..., C) point to from a centre (C,): (..., C) of unit length, stages alike in weight."""
    stages: tuple[Tensor, ...] = (features - centre).split_with_sizes(list(channels), dim=-1)
    pointing = torch.cat([F.normalize(each, dim=-1) for each in stages], dim=-1)
    return pointing / math.sqrt(len(channels))


def learn(
    patches: Tensor, shares: Tensor, ids: Sequence[int], channels: Sequence[int], *, weights: Tensor | None = None
) -> Examples:
    """Pool what prompts show.

    Args:
        patches: (N, L, C), of N prompts, as :func:`patches_of` returns them.
        shares: (N, L, K + 1), how much of each is background and each id; they sum to how much of it is known, 0..1.
        ids: K, ascending.
        channels: Of the backbone's stages.
        weights: (N,) how much each prompt counts; None: all alike.

    Raises:
        ValueError: nothing of some id can be seen.
    """
    total = shares.sum(dim=(0, 1))[1:].tolist()
    if missing := [i for i, much in zip(ids, total, strict=True) if much <= 0]:
        raise ValueError(f"expected prompts that show each id, got nothing of {missing}")
    mean = patches.mean(dim=(0, 1))
    counts = torch.ones(len(patches), device=patches.device) if weights is None else weights.to(patches.device)
    known = shares.sum(dim=-1)
    usable = (known >= _OWN) | (shares[..., 1:].sum(dim=-1) > 0)  # a speck in what is ignored is a speck all the same
    features, owned = patches[usable].float(), shares[usable] / known[usable].clamp(min=1e-6).unsqueeze(-1)
    say = (known * counts[:, None])[usable]
    pointing = directions(features, mean, channels)
    prototypes, owners = [], []
    for place in range(len(ids) + 1):
        share = owned[:, place]
        own = share >= _OWN
        if not bool(own.any()):
            if place == 0:
                continue  # the ids fill the prompts
            own = share >= share.amax()
        groups = _alike(pointing[own], (share * say)[own], PROTOTYPES if place else BACKGROUNDS)
        prototypes.append(groups @ features[own])
        owners.append(torch.full((len(groups),), place, device=features.device))
    if len(features) > MOST_PATCHES:
        kept = torch.linspace(0, len(features) - 1, MOST_PATCHES, device=features.device).long()
        features, owned = features[kept], owned[kept]
    return Examples(
        tuple(ids), tuple(channels), mean, len(patches), torch.cat(prototypes), torch.cat(owners), features, owned
    )


def pooled(examples: Sequence[Examples]) -> Examples:
    """Pool what several contexts, or prompt tensors, bring: ids that several of them know have the prototypes of all.

    Raises:
        ValueError: they are of other backbones.
    """
    first = examples[0]
    if len(examples) == 1:
        return first
    if any(each.channels != first.channels for each in examples):
        raise ValueError("expected examples by one backbone, got them by several")
    ids = tuple(sorted({i for each in examples for i in each.ids}))
    places = {i: 1 + at for at, i in enumerate(ids)} | {0: 0}
    owners, shares = [], []
    for each in examples:
        to = torch.tensor([places[i] for i in (0, *each.ids)], device=each.owners.device)
        owners.append(to[each.owners])
        shares.append(each.shares.new_zeros(len(each.shares), len(ids) + 1).index_copy(1, to, each.shares))
    images = sum(each.images for each in examples)
    return Examples(
        ids,
        first.channels,
        torch.stack([each.mean * (each.images / images) for each in examples]).sum(dim=0),
        images,
        torch.cat([each.prototypes for each in examples]),
        torch.cat(owners),
        torch.cat([each.patches for each in examples]),
        torch.cat(shares),
    )


def match(queries: Tensor, examples: Examples) -> Similarities:
    """Compare queries with examples, each around a centre of its own: the mean of the prompts' images and of it.

    Args:
        queries: (B, h, w, C), as :func:`patches_of` returns them.
        examples: By the same backbone.
    """
    both = [_match_one(query, examples) for query in queries]
    prototypes, neighbours = (torch.stack(each) for each in zip(*both, strict=True))
    return Similarities(examples.ids, prototypes, neighbours)


def _match_one(query: Tensor, examples: Examples) -> tuple[Tensor, Tensor]:
    """Similarities of one query (h, w, C), by prototypes and by neighbours, (K + 1, h, w) each."""
    places, channels = len(examples.ids) + 1, examples.channels
    height, width = query.shape[:2]
    centre = (examples.mean * examples.images + query.mean(dim=(0, 1))) / (examples.images + 1)
    seen, prototypes, patches = (
        directions(each, centre, channels) for each in (query.flatten(0, 1), examples.prototypes, examples.patches)
    )
    cosines = seen @ prototypes.T
    # What has no prototype, like the background of prompts that ids fill, is as near as anything by chance: 0.
    nearest = cosines.new_zeros(len(seen), places)
    nearest = nearest.scatter_reduce(1, examples.owners.expand_as(cosines), cosines, reduce="amax", include_self=False)
    top = (seen @ patches.T).topk(min(NEIGHBOURS, len(patches)), dim=1)
    say = (top.values / TEMPERATURE).softmax(dim=1)
    neighbours = (say[..., None] * examples.shares[top.indices]).sum(dim=1)
    by_place = (rearrange(each, "(h w) k -> k h w", h=height, w=width) for each in (nearest, neighbours))
    first, second = by_place
    return first, second


def _alike(pointing: Tensor, weights: Tensor, count: int) -> Tensor:
    """Group patches (M, C) of unit length that are alike: at most that many groups (P, M), rows that sum to 1.

    k-means on the sphere, from places evenly spread, so that the same patches give the same groups.
    """
    if len(pointing) <= count:
        return torch.eye(len(pointing), device=pointing.device)
    chosen = pointing[torch.linspace(0, len(pointing) - 1, count, device=pointing.device).long()]
    members = pointing.new_zeros(len(pointing), count)
    for _ in range(_ROUNDS):
        members = F.one_hot((pointing @ chosen.T).argmax(dim=1), count).float() * weights[:, None]
        sums = members.T @ pointing
        chosen = torch.where(sums.norm(dim=1, keepdim=True) > 1e-6, F.normalize(sums, dim=1), chosen)
    members = members[:, members.sum(dim=0) > 0]
    return (members / members.sum(dim=0)).T
