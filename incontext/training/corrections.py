"""Hints where the network errs: what a user would click on who sees its answer.

As in RITM (arXiv 2102.06583) the network answers without gradient, and the next step shows it pixels that it got wrong.
Refuses to know the loop and where batches come from.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from incontext.canvas.read import reading_logits
from incontext.images.ids import IGNORED
from incontext.learning.losses import Batch

_APART = 5  # patches along the side of the square about a correction in which there is no other


@torch.no_grad()
def corrected(batch: Batch, painted: Tensor, *, most: int, generator: torch.Generator) -> Batch:
    """Reveal patches of the queries' masks where an answer is wrong, each flat in the id of a pixel that it got wrong.

    Args:
        batch: of episodes with one prompt.
        painted: the network's answers to it, (B, 3, 2 * side, side).
        most: corrections of each query at most; one to so many are drawn for the batch.
        generator: what draws, on the CPU.

    Returns:
        The batch with those patches revealed; queries without a mistake stay as they are.
    """
    side, grid = batch.ids.shape[-1], batch.masked.shape[-1]
    patch = side // grid
    ids = batch.ids[:, -side:]
    read = reading_logits(painted.float(), batch.colors, batch.used, sharpness=1.0).argmax(dim=1)[:, -side:]
    hidden = batch.masked[:, -grid:]
    wrong = (read != ids) & (ids != IGNORED)
    errors = rearrange(wrong, "b (r p) (w q) -> b r w (p q)", p=patch, q=patch) & hidden.unsqueeze(-1)
    cells = rearrange(ids, "b (r p) (w q) -> b r w (p q)", p=patch, q=patch)
    counts = errors.float().mean(dim=-1)
    # The middle of a large mistake before its rim, and by chance another.
    weight = F.avg_pool2d(counts.unsqueeze(1), 3, stride=1, padding=1)[:, 0] * (counts > 0)
    weight = weight * torch.rand(weight.shape, generator=generator).to(weight.device).clamp_min(0.2)
    pixel = (errors * torch.rand(errors.shape, generator=generator).to(weight.device)).argmax(dim=-1)
    value = cells.gather(-1, pixel.unsqueeze(-1)).squeeze(-1)  # (B, R, W): of a pixel that is wrong, if one is
    revealed = torch.zeros_like(hidden)
    for _ in range(int(torch.randint(1, most + 1, (), generator=generator))):
        best = weight.flatten(1).argmax(dim=1)
        row = F.one_hot(best, grid * grid).view(-1, grid, grid).bool() & (weight > 0)
        revealed |= row
        near = F.max_pool2d(row.float().unsqueeze(1), _APART, stride=1, padding=_APART // 2)[:, 0] > 0
        weight = weight.masked_fill(near, 0.0)
    where = revealed.repeat_interleave(patch, dim=1).repeat_interleave(patch, dim=2)
    flat = torch.where(where, value.repeat_interleave(patch, dim=1).repeat_interleave(patch, dim=2), ids)
    shown = torch.stack([colors[mask] for colors, mask in zip(batch.colors, torch.where(where, flat, 0), strict=True)])
    mask_canvas = batch.mask_canvas.clone()
    mask_canvas[:, :, -side:] = torch.where(
        where.unsqueeze(1), rearrange(shown, "b h w c -> b c h w"), mask_canvas[:, :, -side:]
    )
    masked = batch.masked.clone()
    masked[:, -grid:] &= ~revealed
    return replace(batch, ids=torch.cat([batch.ids[:, :-side], flat], dim=1), mask_canvas=mask_canvas, masked=masked)
