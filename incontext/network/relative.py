"""Decomposed relative positions, a term for rows and one for columns, both linear in the *unscaled* query.

Those of MViTv2 (arXiv 2112.01526, section 4.1) as used by SegGPT (arXiv 2304.03284):
``bias[i, j] = q_i . rows[row_i, row_j] + q_i . columns[column_i, column_j]``.

Shapes, throughout: q (..., Rq * W, d); rows (Rq, Rk, d) and columns (W, W, d) from :func:`relative_table`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def relative_table(table: Tensor, length: int) -> Tensor:
    """Look a table of relative positions up for every pair of positions along one axis.

    Shapes: table (2 * L - 1, d) for any L -> (length, length, d), entry [i, j] for the offset i - j. A table made for
    another length is interpolated linearly, in float32 at least.
    """
    wanted = 2 * length - 1
    if table.shape[0] != wanted:
        wide = table.to(torch.promote_types(table.dtype, torch.float32))
        resized = F.interpolate(rearrange(wide, "l d -> 1 d l"), size=wanted, mode="linear")
        table = rearrange(resized, "1 d l -> l d").to(table.dtype)
    position = torch.arange(length, device=table.device)
    return table[position[:, None] - position[None, :] + length - 1]


def relative_bias(q: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the terms of the bias: (..., Rq * W, Rk) for the rows and (..., Rq * W, W) for the columns of keys."""
    grid = rearrange(q, "... (r w) d -> ... r w d", r=rows.shape[0])
    by_row = torch.einsum("...rwd,rkd->...rwk", grid, rows)
    by_column = torch.einsum("...rwd,wkd->...rwk", grid, columns)
    return by_row.flatten(-3, -2), by_column.flatten(-3, -2)


def full_bias(q: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Add up the bias of every pair: (..., Rq * W, Rk * W), in float32 at least, which a CPU adds faster."""
    wide = torch.promote_types(q.dtype, torch.float32)
    by_row, by_column = (each.to(wide) for each in relative_bias(q, rows, columns))
    return (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).flatten(-2)
