"""In-context coloring: from episodes of ids to painted canvases, hidden patches and the loss.

Every episode gets a fresh random palette, so that a colour means nothing but what the prompt shows (arXiv 2304.03284,
section 3.1). The loss has two parts. Smooth L1 pulls the answer to the colour itself. The reading loss judges what
reading the answer will give: cross-entropy and soft IoU of the nearest-colour posterior, whose logits are the negative
squared distances to the episode's colours, in units of the palette's smallest distance. It knows what smooth L1 alone
does not: that the median of a rare thing is black, and that an answer halfway between two colours is no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from incontext.canvas import normalise_colors
from incontext.model import painting_loss
from incontext.training.episodes import Episode
from incontext.training.hints import reveal
from incontext.training.sets import IGNORED


@dataclass(frozen=True)
class Coloring:
    """How masks are painted and hidden, and what the loss weighs."""

    corner_colors: float = 0.8  # share of episodes painted with corners of the colour cube, the colours of inference
    min_distance: float = 90.0  # smallest distance between two colours of a random palette, in 0..255 RGB
    hide_query: float = 0.8  # share of episodes that hide the whole query mask and nothing else
    hints: float = 0.5  # of the others: a few patches of the query's mask are revealed, as clicks, a scribble or a box
    hidden_patches: float = 0.75  # of both masks, in the episodes that remain, which hide random patches
    smooth_l1: float = 1.0  # weight of the painting loss
    cross_entropy: float = 0.5  # weight of the reading loss
    soft_iou: float = 0.5
    sharpness: float = 6.0  # nats by which an answer that hits a colour prefers it to the colour nearest to that one


@dataclass(frozen=True)
class Batch:
    """Painted episodes on a device. A palette's unused rows are marked in ``used``."""

    image_canvas: Tensor  # (B, 3, 2 * side, side) normalised
    mask_canvas: Tensor  # (B, 3, 2 * side, side) normalised
    masked: Tensor  # (B, rows, columns) bool
    ids: Tensor  # (B, 2 * side, side) int64, 255 ignored
    colors: Tensor  # (B, K, 3) normalised, row 0 black
    used: Tensor  # (B, K) bool


_CORNERS = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)][1:], dtype=np.uint8)


def random_palette(rng: np.random.Generator, count: int, coloring: Coloring) -> np.ndarray:
    """Black and ``count`` colours that can be told apart: (count + 1, 3) uint8."""
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
    """(2 * grid, grid) bool: random patches of both halves."""
    masked = np.zeros((2 * grid, grid), dtype=bool)
    masked.flat[rng.permutation(masked.size)[: round(masked.size * coloring.hidden_patches)]] = True
    return masked


@dataclass(frozen=True)
class Painted:
    """One episode with its colours and hidden patches, still in uint8: what workers hand over."""

    images: np.ndarray  # (2, side, side, 3) uint8
    masks: np.ndarray  # (2, side, side) uint8
    palette: np.ndarray  # (K + 1, 3) uint8
    masked: np.ndarray  # (2 * grid, grid) bool


def paint_episode(episode: Episode, rng: np.random.Generator, *, patch: int, coloring: Coloring) -> Painted:
    """Draw the colours of an episode and the patches that it hides; hinted patches of the query's mask become flat."""
    grid = episode.masks.shape[-1] // patch
    masks, palette = episode.masks, random_palette(rng, episode.count, coloring)
    masked = np.zeros((2 * grid, grid), dtype=bool)
    masked[grid:] = True
    if rng.random() >= coloring.hide_query:
        if rng.random() < coloring.hints:
            hinted, revealed = reveal(masks[1], episode.count, patch, rng)
            masks, masked[grid:] = np.stack([masks[0], hinted]), ~revealed
        else:
            masked = random_masked(rng, grid, coloring)
    return Painted(episode.images, masks, palette, masked)


def collate(episodes: Sequence[Painted]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Stack to images (B, 2 * side, side, 3), ids (B, 2 * side, side), palettes (B, K, 3), used (B, K), masked."""
    rows = max(len(e.palette) for e in episodes)
    palettes = np.zeros((len(episodes), rows, 3), dtype=np.uint8)
    used = np.zeros((len(episodes), rows), dtype=bool)
    for number, episode in enumerate(episodes):
        palettes[number, : len(episode.palette)] = episode.palette
        used[number, : len(episode.palette)] = True
    images = rearrange(np.stack([e.images for e in episodes]), "b two h w c -> b (two h) w c")
    ids = rearrange(np.stack([e.masks for e in episodes]), "b two h w -> b (two h) w")
    masked = np.stack([e.masked for e in episodes])
    tensors = (torch.from_numpy(np.ascontiguousarray(a)) for a in (images, ids, palettes, used, masked))
    return tuple(tensors)  # type: ignore[return-value]


def paint_batch(stacked: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], device: torch.device) -> Batch:
    """Move a collated batch to a device, paint and normalise it there."""
    images, ids, palettes, used, masked = (t.to(device, non_blocking=True) for t in stacked)
    colors = normalise_colors(palettes)
    known = torch.where(ids == IGNORED, 0, ids).long()
    painted = torch.stack([palette[mask] for palette, mask in zip(colors, known, strict=True)])
    return Batch(
        rearrange(normalise_colors(images), "b h w c -> b c h w").contiguous(),
        rearrange(painted, "b h w c -> b c h w").contiguous(),
        masked,
        ids.long(),
        colors,
        used,
    )


def reading_logits(painted: Tensor, colors: Tensor, used: Tensor, *, sharpness: float) -> Tensor:
    """(B, 3, H, W) answers, (B, K, 3) colours -> (B, K, H, W) logits of the nearest-colour posterior."""
    between = torch.cdist(colors, colors).square()
    others = used.unsqueeze(1) & used.unsqueeze(2) & ~torch.eye(colors.shape[1], dtype=torch.bool, device=used.device)
    nearest = between.masked_fill(~others, torch.inf).amin(dim=(1, 2))  # of any two colours of the palette, (B,)
    # The answer's own squared length is common to all colours and cancels in the softmax.
    product = torch.einsum("bkc,bchw->bkhw", colors, painted)
    logits = (2 * product - colors.square().sum(-1)[:, :, None, None]) * (sharpness / nearest)[:, None, None, None]
    return logits.masked_fill(~used[:, :, None, None], -1e4)


def judged(batch: Batch) -> tuple[Tensor, Tensor]:
    """What the loss looks at: pixels that are hidden and known (B, 2 * side, side), ids with such pixels (B, K)."""
    patch = batch.ids.shape[-1] // batch.masked.shape[-1]
    hidden = batch.masked.repeat_interleave(patch, dim=1).repeat_interleave(patch, dim=2) & (batch.ids != IGNORED)
    present = torch.zeros_like(batch.used)
    shown = torch.where(hidden, batch.ids, 0).flatten(1)
    present.scatter_(1, shown, True)
    present[:, 0] = False
    return hidden, present & batch.used


def counts(batch: Batch) -> Tensor:
    """What the parts of the loss are means over: (2,) int64, pixels and ids."""
    return torch.stack([each.sum() for each in judged(batch)])


def training_loss(
    painted: Tensor, batch: Batch, coloring: Coloring, *, beta: float, total: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch of answers (B, 3, 2 * side, side), and its parts as plain numbers for the log.

    total: the :func:`counts` of a larger batch of which this is a part; the losses of the parts then add up to that of
    the whole, and so do their gradients. None: this is the whole.
    """
    painted = painted.float()
    hidden, present = judged(batch)
    pixels, things = (hidden.sum(), present.sum()) if total is None else total.unbind()
    l1 = painting_loss(painted, batch.mask_canvas, batch.masked, valid=batch.ids != IGNORED, beta=beta)
    if total is not None:  # a mean over this part -> its share of the mean over all
        l1 = l1 * (hidden.sum() / pixels.clamp_min(1))
    logits = reading_logits(painted, batch.colors, batch.used, sharpness=coloring.sharpness)
    target = torch.where(hidden, batch.ids, -100)
    # Not its own mean, which is no number where nothing is hidden or everything is ignored.
    cross_entropy = F.cross_entropy(logits, target, ignore_index=-100, reduction="sum") / pixels.clamp_min(1)
    posterior = logits.softmax(dim=1) * hidden.unsqueeze(1)
    truth = F.one_hot(torch.where(hidden, batch.ids, 0), logits.shape[1]).movedim(-1, 1) * hidden.unsqueeze(1)
    overlap = (posterior * truth).sum((2, 3))[:, 1:]
    union = (posterior + truth).sum((2, 3))[:, 1:] - overlap
    iou = (overlap + 1.0) / (union + 1.0)
    soft_iou = ((1 - iou) * present[:, 1:]).sum() / things.clamp_min(1)
    total = coloring.smooth_l1 * l1 + coloring.cross_entropy * cross_entropy + coloring.soft_iou * soft_iou
    return total, {"l1": l1.item(), "cross_entropy": cross_entropy.item(), "soft_iou": soft_iou.item()}
