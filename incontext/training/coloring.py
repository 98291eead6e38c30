"""In-context coloring: from episodes of ids to painted canvases and hidden patches.

Every episode gets a fresh random palette, so that a colour means nothing but what the prompt shows (arXiv 2304.03284,
section 3.1). The loss by which answers are judged is in :mod:`incontext.learning.losses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from incontext.learning.losses import LossWeights, Stacked
from incontext.network.model import Seen, SegGPT
from incontext.options import Task
from incontext.training.episodes import DrawnEpisode
from incontext.training.features import Targets
from incontext.training.hints import reveal


@dataclass(frozen=True)
class Coloring:
    """How masks are painted and hidden, and what the loss weighs."""

    corner_colors: float = 0.8  # share of episodes painted with corners of the colour cube, the colours of inference
    min_distance: float = 90.0  # smallest distance between two colours of a random palette, in 0..255 RGB
    hide_query: float = 0.8  # share of episodes that hide the whole query mask and nothing else
    hints: float = 0.5  # of the others: a few patches of the query's mask are revealed, as clicks, a scribble or a box
    hidden_patches: float = 0.75  # of both masks, in the episodes that remain, which hide random patches
    smooth_l1: float = LossWeights.smooth_l1
    cross_entropy: float = LossWeights.cross_entropy
    soft_iou: float = LossWeights.soft_iou
    sharpness: float = LossWeights.sharpness

    @property
    def loss_weights(self) -> LossWeights:
        """What the loss weighs, by itself."""
        return LossWeights(self.smooth_l1, self.cross_entropy, self.soft_iou, self.sharpness)


_CORNERS = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)][1:], dtype=np.uint8)


def random_palette(rng: np.random.Generator, count: int, coloring: Coloring) -> np.ndarray:
    """Draw black and ``count`` colours that can be told apart: (count + 1, 3) uint8."""
    if count <= len(_CORNERS) and rng.random() < coloring.corner_colors:
        return np.concatenate([np.zeros((1, 3), np.uint8), rng.permutation(_CORNERS)[:count]])
    colors = np.zeros((1, 3))
    distance = coloring.min_distance
    while len(colors) <= count:
        drawn = rng.integers(0, 256, (64, 3)).astype(np.float64)
        for color in drawn:
            if len(colors) <= count and np.linalg.norm(colors - color, axis=1).min() >= distance:
                colors = np.concatenate([colors, color[None]])
        distance *= 0.9  # only reached when no colour of 64 fits
    return colors.astype(np.uint8)


def random_masked(rng: np.random.Generator, grid: int, coloring: Coloring) -> np.ndarray:
    """Draw random patches of both halves: (2 * grid, grid) bool."""
    masked = np.zeros((2 * grid, grid), dtype=bool)
    masked.flat[rng.permutation(masked.size)[: round(masked.size * coloring.hidden_patches)]] = True
    return masked


@dataclass(frozen=True)
class Painted:
    """One episode with its colours and hidden patches, still in uint8: what workers hand over."""

    images: np.ndarray  # (N + 1, side, side, 3) uint8
    masks: np.ndarray  # (N + 1, side, side) uint8
    palette: np.ndarray  # (K + 1, 3) uint8
    masked: np.ndarray  # ((N + 1) * grid, grid) bool
    lights: np.ndarray | None  # (N + 1, 16) float32, in which the images are still to be seen
    targets: np.ndarray | None = None  # ((N + 1) * grid, grid, D) float16, what a teacher sees in each patch, or zeros


def paint_episode(
    episode: DrawnEpisode, rng: np.random.Generator, *, patch: int, coloring: Coloring, targets: Targets | None = None
) -> Painted:
    """Draw the colours of an episode and the patches that it hides; hinted patches of a mask become flat.

    With several prompts it hides the whole query mask, always.

    Args:
        episode: what is to be seen and painted.
        rng: what draws.
        patch: pixels along the side of a patch.
        coloring: how masks are painted and hidden.
        targets: what a teacher sees in the images of the episode, which then carries where its pixels come from.
    """
    grid = episode.masks.shape[-1] // patch
    masks, palette = episode.masks, random_palette(rng, episode.count, coloring)
    masked = np.zeros((len(masks) * grid, grid), dtype=bool)
    masked[-grid:] = True
    if episode.way == "without masks":
        masked[:] = True
    elif episode.way == "by hints alone":
        hinted, revealed = reveal(masks[1], episode.count, patch, rng, every_id=True)
        masks, masked = np.stack([hinted, hinted]), ~np.concatenate([revealed, revealed])
    elif episode.way == "by hints":
        hinted, revealed = reveal(masks[1], episode.count, patch, rng, every_id=True)
        masks, masked[grid:] = np.stack([masks[0], hinted]), ~revealed
    elif len(masks) == 2 and rng.random() >= coloring.hide_query:
        if rng.random() < coloring.hints:
            hinted, revealed = reveal(masks[1], episode.count, patch, rng, every_id=False)
            masks, masked[grid:] = np.stack([masks[0], hinted]), ~revealed
        else:
            masked = random_masked(rng, grid, coloring)
    seen = None
    if targets is not None and episode.origins is not None:
        middles = episode.origins[:, patch // 2 :: patch, patch // 2 :: patch]
        seen = targets.at(rearrange(middles, "n r w c -> (n r) w c"))
    return Painted(episode.images, masks, palette, masked, episode.lights, seen)


def collate(episodes: Sequence[Painted]) -> Stacked:
    """Stack painted episodes of equally many prompts, palettes filled up to the longest."""
    rows = max(len(e.palette) for e in episodes)
    palettes = np.zeros((len(episodes), rows, 3), dtype=np.uint8)
    used = np.zeros((len(episodes), rows), dtype=bool)
    for number, episode in enumerate(episodes):
        palettes[number, : len(episode.palette)] = episode.palette
        used[number, : len(episode.palette)] = True
    images = rearrange(np.stack([e.images for e in episodes]), "b n h w c -> b (n h) w c")
    ids = rearrange(np.stack([e.masks for e in episodes]), "b n h w -> b (n h) w")
    masked = np.stack([e.masked for e in episodes])
    unlit = [e.lights for e in episodes if e.lights is not None]
    taught = [e.targets for e in episodes if e.targets is not None]
    return Stacked(
        images=torch.from_numpy(images),
        ids=torch.from_numpy(ids),
        palettes=torch.from_numpy(palettes),
        used=torch.from_numpy(used),
        masked=torch.from_numpy(masked),
        lights=torch.from_numpy(np.stack(unlit)) if unlit else None,
        targets=torch.from_numpy(np.stack(taught)) if taught else None,
    )


def see(model: SegGPT, image_canvas: Tensor, mask_canvas: Tensor, masked: Tensor, task: Task = "instance") -> Seen:
    """Answer a batch: (B, 3, (N + 1) * side, side), zeros over the prompts where N > 1, and the tokens."""
    halves = image_canvas.shape[-2] // image_canvas.shape[-1]
    if halves == 2:
        return model.see_canvas(image_canvas, mask_canvas, masked, task=task)
    images, masks = (rearrange(each, "b c (n h) w -> b n c h w", n=halves) for each in (image_canvas, mask_canvas))
    seen = model.see(images[:, -1], model.prepare(images[:, :-1], masks[:, :-1], task=task))
    return Seen(F.pad(seen.painted, (0, 0, image_canvas.shape[-2] - seen.painted.shape[-2], 0)), seen.tokens)


def paint(model: SegGPT, image_canvas: Tensor, mask_canvas: Tensor, masked: Tensor, task: Task = "instance") -> Tensor:
    """Answer a batch as :func:`see` does, without the tokens."""
    return see(model, image_canvas, mask_canvas, masked, task).painted
