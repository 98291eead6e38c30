"""The attention core: softmax(q k^T * scale + decomposed relative positions) v, behind one signature.

The only hardware-specific code of the package. It knows tensors and a patch grid; it refuses to know blocks, images,
shots and tasks. Every kernel of ``KERNELS`` gives the same numbers as :func:`plain`; they differ in speed and memory.

The relative positions are those of MViTv2 (arXiv 2112.01526, section 4.1) as used by SegGPT (arXiv 2304.03284): a term
for rows and one for columns, both linear in the *unscaled* query:
``bias[i, j] = q_i . rows[row_i, row_j] + q_i . columns[column_i, column_j]``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


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
    """The two terms of the bias: (..., R * W, R) for the rows and (..., R * W, W) for the columns of the keys.

    Shapes: q (..., R * W, d) unscaled; rows (R, R, d); columns (W, W, d).
    """
    grid = rearrange(q, "... (r w) d -> ... r w d", r=rows.shape[0])
    by_row = torch.einsum("...rwd,rkd->...rwk", grid, rows)
    by_column = torch.einsum("...rwd,wkd->...rwk", grid, columns)
    return by_row.flatten(-3, -2), by_column.flatten(-3, -2)


def _full_bias(q: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    by_row, by_column = relative_bias(q, rows, columns)
    return (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).flatten(-2)


def plain(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The definition, written out; every score exists in memory. The reference that the other kernels are tested on."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + _full_bias(q, rows, columns)
    return torch.softmax(scores, dim=-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype) @ v


def bias_mask(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """PyTorch's scaled_dot_product_attention with the bias as its float mask."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_full_bias(q, rows, columns))


def folded(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The bias folded into wider queries and keys, so that a flash kernel, which takes no bias, computes it.

    ``[q * scale, by_row, by_column] . [k, onehot(row), onehot(column)]`` is the biased score. The bias never exists as
    a (tokens, tokens) tensor. The width is padded to a multiple of 8, as flash kernels ask.
    """
    height, width = rows.shape[0], columns.shape[0]
    by_row, by_column = relative_bias(q, rows, columns)
    onehot_row = torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, dim=0)
    onehot_column = torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1)
    onehot = torch.cat([onehot_row, onehot_column], dim=-1).expand(*k.shape[:-2], -1, -1)
    wide_q = torch.cat([q * q.shape[-1] ** -0.5, by_row, by_column], dim=-1)
    wide_k = torch.cat([k, onehot], dim=-1)
    padding = (0, -wide_q.shape[-1] % 8)
    wide_v = F.pad(v, (0, wide_q.shape[-1] + padding[1] - v.shape[-1]))
    out = F.scaled_dot_product_attention(F.pad(wide_q, padding), F.pad(wide_k, padding), wide_v, scale=1.0)
    return out[..., : v.shape[-1]]


KERNELS: dict[str, Kernel] = {"plain": plain, "bias_mask": bias_mask, "folded": folded}


def choose_kernel(device: torch.device) -> str:
    """The name of the kernel that measured fastest for inference on a kind of device.

    CPU: the bias as SDPA's mask; elsewhere the folded one, which a flash kernel can take.
    """
    return "bias_mask" if device.type == "cpu" else "folded"


def attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, *, kernel: str = "auto") -> Tensor:
    """Global self-attention over a grid of R x W patches with decomposed relative positions.

    Shapes: q, k, v (..., heads, R * W, d); rows (R, R, d) and columns (W, W, d) from :func:`relative_table`.
    Returns (..., heads, R * W, d) in q's dtype. ``kernel`` is "auto" or a key of ``KERNELS``.

    Raises:
        ValueError: the kernel's name is unknown.
    """
    name = choose_kernel(q.device) if kernel == "auto" else kernel
    if name not in KERNELS:
        raise ValueError(f"expected an attention kernel among auto, {', '.join(KERNELS)}; got {kernel!r}")
    return KERNELS[name](q, k, v, rows, columns)
