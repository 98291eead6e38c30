"""Painted batches and the loss: how far answers are from the colours, and what reading them will give.

The loss has two parts. Smooth L1 pulls the answer to the colour itself. The reading loss judges what reading the answer
will give: cross-entropy and soft IoU of the nearest-colour posterior, whose logits are the negative squared distances
to the episode's colours, in units of the palette's smallest distance. It knows what smooth L1 alone does not: that the
median of a rare thing is black, and that an answer halfway between two colours is no answer.

Training and tuning share it. Refuses to know where images, ids and colours come from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from incontext.canvas.paint import normalise_colors
from incontext.canvas.read import SHARPNESS, reading_logits
from incontext.images.ids import IGNORED
from incontext.learning.light import shine


@dataclass(frozen=True)
class LossWeights:
    """What the parts of the loss weigh."""

    smooth_l1: float = 1.0  # of the painting loss
    cross_entropy: float = 0.5  # of the reading loss
    soft_iou: float = 0.5
    sharpness: float = SHARPNESS


@dataclass(frozen=True)
class Batch:
    """Painted episodes on a device: N prompts, 0 or more, over the query. ``used``: a palette's real rows."""

    image_canvas: Tensor  # (B, 3, (N + 1) * side, side) normalised
    mask_canvas: Tensor  # (B, 3, (N + 1) * side, side) normalised
    masked: Tensor  # (B, rows, columns) bool
    ids: Tensor  # (B, (N + 1) * side, side) int64, 255 ignored
    colors: Tensor  # (B, K, 3) normalised, row 0 black
    used: Tensor  # (B, K) bool
    targets: Tensor | None = None  # (B, (N + 1) * rows, columns, D) what a teacher sees in each patch, zeros where none


class Stacked(NamedTuple):
    """A batch before it is on a device and painted: a few bytes a pixel."""

    images: Tensor  # (B, (N + 1) * side, side, 3) uint8
    ids: Tensor  # (B, (N + 1) * side, side) uint8, 255 ignored
    palettes: Tensor  # (B, K, 3) uint8
    used: Tensor  # (B, K) bool, a palette's real rows
    masked: Tensor  # (B, rows, columns) bool
    lights: Tensor | None = None  # (B, N + 1, 16) float32, in which the images are still to be seen (light.py)
    targets: Tensor | None = None  # (B, (N + 1) * rows, columns, D) float16, what a teacher sees in each patch


def paint_batch(stacked: Stacked, device: torch.device) -> Batch:
    """Move a collated batch to a device, and light, paint and normalise it there."""
    on_device = (None if t is None else t.to(device, non_blocking=True) for t in stacked)
    images, ids, palettes, used, masked, lights, targets = Stacked(*on_device)  # type: ignore[arg-type]
    if lights is not None:
        halves = rearrange(images, "b (n h) w c -> (b n) h w c", n=lights.shape[1])
        images = rearrange(shine(halves, lights.flatten(0, 1)), "(b n) h w c -> b (n h) w c", n=lights.shape[1])
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
        None if targets is None else targets.float(),
    )


def painting_loss(
    painted: Tensor, mask_canvas: Tensor, masked: Tensor, *, valid: Tensor | None = None, beta: float = 0.01
) -> Tensor:
    """Compute the published loss: sum(l1 * masked) / sum(masked), masked broadcast over the channels.

    Args:
        painted: (B, 3, 2 * side, side), normalised.
        mask_canvas: What should have been painted, alike.
        masked: (B, rows, columns) bool, the patches that were hidden.
        valid: (B, 2 * side, side) bool, false for pixels whose id is unknown: they do not count.
        beta: Of smooth L1.

    Returns:
        A scalar, in float32 at least.
    """
    patch = painted.shape[-1] // masked.shape[-1]
    weight = masked.repeat_interleave(patch, dim=1).repeat_interleave(patch, dim=2)
    if valid is not None:
        weight = weight & valid
    dtype = torch.promote_types(painted.dtype, torch.float32)
    weight = weight.unsqueeze(1).to(dtype).expand_as(painted)
    per_pixel = F.smooth_l1_loss(painted.to(dtype), mask_canvas.to(dtype), beta=beta, reduction="none")
    return (per_pixel * weight).sum() / weight.sum().clamp_min(1.0)


def judged(batch: Batch) -> tuple[Tensor, Tensor]:
    """Find what the loss looks at: hidden and known pixels (B, (N + 1) * side, side), ids with such pixels (B, K)."""
    patch = batch.ids.shape[-1] // batch.masked.shape[-1]
    hidden = batch.masked.repeat_interleave(patch, dim=1).repeat_interleave(patch, dim=2) & (batch.ids != IGNORED)
    present = torch.zeros_like(batch.used)
    shown = torch.where(hidden, batch.ids, 0).flatten(1)
    present.scatter_(1, shown, True)
    present[:, 0] = False
    return hidden, present & batch.used


def asked(batch: Batch) -> tuple[Tensor, Tensor]:
    """Find what the presence head is asked, where a prompt is all that is known.

    It is asked after ids that the prompts show, in episodes that hide the query's whole mask and no other.

    Returns:
        Which ids, and what is true of them: both (B, K) bool.
    """
    side = batch.ids.shape[-1]
    grid = batch.masked.shape[-1]
    whole = batch.masked[:, -grid:].all(dim=(1, 2)) & ~batch.masked[:, :-grid].any(dim=(1, 2))
    shown, there = (torch.zeros_like(batch.used) for _ in range(2))
    for seen, ids in ((shown, batch.ids[:, :-side]), (there, batch.ids[:, -side:])):
        seen.scatter_(1, torch.where(ids == IGNORED, 0, ids).flatten(1), True)
    shown[:, 0] = False
    return shown & batch.used & whole.unsqueeze(1), there


def unjudged_where_absent(batch: Batch) -> Batch:
    """Leave the painting of queries that show none of their episode's ids unjudged: all of it is ignored.

    That a thing is not there is for the presence head to learn, as in SAM 2 (arXiv 2408.00714, training details). Where
    such paintings are judged, the network learns to leave black what it sees badly.
    """
    side = batch.ids.shape[-1]
    query = batch.ids[:, -side:]
    shows = ((query != 0) & (query != IGNORED)).any(dim=2).any(dim=1)
    ids = torch.cat([batch.ids[:, :-side], torch.where(shows[:, None, None], query, IGNORED)], dim=1)
    return replace(batch, ids=ids)


def counts(batch: Batch) -> Tensor:
    """Count what the parts of the loss are means over: (3,) int64, pixels, ids, and ids whose presence is asked."""
    return torch.stack([each.sum() for each in (*judged(batch), asked(batch)[0])])


def presence_loss(logits: Tensor, batch: Batch, *, total: Tensor | None = None) -> Tensor:
    """Compute binary cross-entropy of the presence head's logits (B, K); total as for :func:`training_loss`."""
    which, there = asked(batch)
    number = which.sum() if total is None else total[2]
    each = F.binary_cross_entropy_with_logits(logits.float(), there.float(), reduction="none")
    return (each * which).sum() / number.clamp_min(1)


def training_loss(
    painted: Tensor, batch: Batch, weights: LossWeights, *, beta: float, total: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Compute the loss of a batch of answers, and its parts as plain numbers for the log.

    Args:
        painted: (B, 3, (N + 1) * side, side) normalised.
        batch: The episodes.
        weights: Of the parts.
        beta: Of smooth L1.
        total: The :func:`counts` of a larger batch of which this is a part; the losses of the parts then add up to that
            of the whole, and so do their gradients. None: this is the whole.
    """
    painted = painted.float()
    hidden, present = judged(batch)
    pixels, things = (hidden.sum(), present.sum()) if total is None else total[:2].unbind()
    l1 = painting_loss(painted, batch.mask_canvas, batch.masked, valid=batch.ids != IGNORED, beta=beta)
    if total is not None:  # a mean over this part -> its share of the mean over all
        l1 = l1 * (hidden.sum() / pixels.clamp_min(1))
    logits = reading_logits(painted, batch.colors, batch.used, sharpness=weights.sharpness)
    target = torch.where(hidden, batch.ids, -100)
    # Not its own mean, which is no number where nothing is hidden or everything is ignored.
    cross_entropy = F.cross_entropy(logits, target, ignore_index=-100, reduction="sum") / pixels.clamp_min(1)
    posterior = logits.softmax(dim=1) * hidden.unsqueeze(1)
    truth = F.one_hot(torch.where(hidden, batch.ids, 0), logits.shape[1]).movedim(-1, 1) * hidden.unsqueeze(1)
    overlap = (posterior * truth).sum((2, 3))[:, 1:]
    union = (posterior + truth).sum((2, 3))[:, 1:] - overlap
    iou = (overlap + 1.0) / (union + 1.0)
    soft_iou = ((1 - iou) * present[:, 1:]).sum() / things.clamp_min(1)
    total = weights.smooth_l1 * l1 + weights.cross_entropy * cross_entropy + weights.soft_iou * soft_iou
    return total, {"l1": l1.item(), "cross_entropy": cross_entropy.item(), "soft_iou": soft_iou.item()}
