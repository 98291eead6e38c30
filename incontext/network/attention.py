"""The attention core: softmax(q k^T * scale + decomposed relative positions) v, behind one signature.

The only hardware-specific code of the package. It knows tensors and a patch grid; it refuses to know blocks, images,
shots and tasks. Every kernel of ``KERNELS`` gives the same numbers as :func:`plain`; they differ in speed and memory.

The relative positions are those of MViTv2 (arXiv 2112.01526, section 4.1) as used by SegGPT (arXiv 2304.03284): a term
for rows and one for columns, both linear in the *unscaled* query:
``bias[i, j] = q_i . rows[row_i, row_j] + q_i . columns[column_i, column_j]``.

Queries and keys are whole rows of patches of one canvas, not necessarily the same rows. A kernel also returns, when
asked, the log-sum-exp of each query's scores, with which :func:`merge` joins the attention to disjoint sets of keys.

Shapes, throughout: q (..., heads, Rq * W, d); k and v (..., heads, Rk * W, d), where the leading axes of q broadcast
against theirs; rows (Rq, Rk, d) and columns (W, W, d) from :func:`relative_table`; the answer (..., heads, Rq * W, d)
in q's dtype and its log-sum-exp (..., heads, Rq * W), in float32 at least.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]

PIECE_BYTES = 16 << 20  # of scores or bias that exist at a time on a CPU: more is paged in anew in every block


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
    """The two terms of the bias: (..., Rq * W, Rk) for the rows and (..., Rq * W, W) for the columns of the keys."""
    grid = rearrange(q, "... (r w) d -> ... r w d", r=rows.shape[0])
    by_row = torch.einsum("...rwd,rkd->...rwk", grid, rows)
    by_column = torch.einsum("...rwd,wkd->...rwk", grid, columns)
    return by_row.flatten(-3, -2), by_column.flatten(-3, -2)


def full_bias(q: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The bias of every pair: (..., Rq * W, Rk * W), in float32 at least: a CPU adds that several times as fast."""
    wide = torch.promote_types(q.dtype, torch.float32)
    by_row, by_column = (each.to(wide) for each in relative_bias(q, rows, columns))
    return (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).flatten(-2)


# -------------------------------------------------------------------------------------------- kernels


def plain(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """The definition, written out; every score exists in memory. The reference that the other kernels are tested on."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + full_bias(q, rows, columns)
    out = torch.softmax(scores, dim=-1).to(q.dtype) @ v
    return out, torch.logsumexp(scores, dim=-1) if with_lse else None


def pieces(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """:func:`plain` for a CPU without gradients: some heads at a time, in memory that each thread keeps."""
    if q.device.type != "cpu" or _needs_grad(q, k, v, rows, columns) or torch.compiler.is_compiling():
        return plain(q, k, v, rows, columns, with_lse)
    wide = torch.promote_types(q.dtype, torch.float32)

    def piece(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        shape = *_lead(q, k), q.shape[-2], k.shape[-2]
        by_row, by_column = (each.to(wide) for each in relative_bias(q, rows, columns))
        narrow = _kept.take(q, shape, q.dtype)
        scores = _kept.take(q, shape, wide) if q.dtype != wide else narrow
        torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-2, -1), out=narrow)
        scores.copy_(narrow)
        grid = scores.view(*shape[:-1], rows.shape[1], -1)
        grid += by_row.unsqueeze(-1)
        grid += by_column.unsqueeze(-2)
        largest = scores.amax(dim=-1) if with_lse else None
        torch.softmax(scores, dim=-1, out=scores)
        # The largest weight is exp(the largest score - the log-sum-exp): no second exponential of all scores.
        lse = None if largest is None else largest - scores.amax(dim=-1).log()
        return narrow.copy_(scores) @ v, lse

    return _in_pieces(piece, q, k, v)


def bias_mask(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """PyTorch's scaled_dot_product_attention with the bias as its float mask.

    On a CPU without gradients some heads at a time, so that the bias stays small.
    """
    scale = q.shape[-1] ** -0.5
    if q.device.type != "cpu" or _needs_grad(q, k, v, rows, columns):
        return _dot_product(q, k, v, full_bias(q, rows, columns).to(q.dtype), scale, with_lse)

    def piece(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        return _dot_product(q, k, v, full_bias(q, rows, columns), scale, with_lse)

    return _in_pieces(piece, q, k, v)


def folded(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """The bias folded into wider queries and keys, so that a flash kernel, which takes no bias, computes it.

    ``[q * scale, by_row, by_column] . [k, onehot(row), onehot(column)]`` is the biased score. The bias never exists as
    a (tokens, tokens) tensor. The width is padded to a multiple of 8, as flash kernels ask.
    """
    height, width = rows.shape[1], columns.shape[0]
    by_row, by_column = relative_bias(q, rows, columns)
    onehot_row = torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, dim=0)
    onehot_column = torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1)
    onehot = torch.cat([onehot_row, onehot_column], dim=-1).expand(*k.shape[:-2], -1, -1)
    wide_q = torch.cat([q * q.shape[-1] ** -0.5, by_row, by_column], dim=-1)
    wide_k = torch.cat([k, onehot], dim=-1)
    padding = (0, -wide_q.shape[-1] % 8)
    wide_v = F.pad(v, (0, wide_q.shape[-1] + padding[1] - v.shape[-1]))
    out, lse = _dot_product(F.pad(wide_q, padding), F.pad(wide_k, padding), wide_v, None, 1.0, with_lse)
    return out[..., : v.shape[-1]], lse


def flex(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """FlexAttention with the bias as its score modification, always compiled (arXiv 2412.05496); on CUDA alone.

    On a CPU, PyTorch 2.14 compiles it to code that now and then answers NaN where there is no AVX-512.

    Raises:
        ValueError: it does not run here: the device is not CUDA, or the inputs are float64.
    """
    if q.device.type != "cuda" or q.dtype == torch.float64:
        got = "float64" if q.device.type == "cuda" else f"tensors on {q.device.type}"
        raise ValueError(
            f"the attention kernel flex takes tensors of at most 32 bits on a CUDA device, got {got}; "
            "use auto, plain, bias_mask or folded"
        )
    return _flex_by(_compiled_flex(), q, k, v, rows, columns, with_lse)


def _flex_by(
    run: Callable[..., tuple[Tensor, Tensor | None]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    columns: Tensor,
    with_lse: bool,
) -> tuple[Tensor, Tensor | None]:
    """FlexAttention, compiled or not, of inputs in the shapes of this module."""
    lead = _lead(q, k)
    inputs = [_batched(each, lead) for each in (q, k, v, *relative_bias(q, rows, columns))]
    out, lse = run(*inputs, with_lse)
    return _unbatched(out, lead), None if lse is None else _unbatched(lse, lead)


@cache
def _compiled_flex() -> Callable[..., tuple[Tensor, Tensor | None]]:
    return torch.compile(_uncompiled_flex, dynamic=False)


def _uncompiled_flex(
    q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    from torch.nn.attention.flex_attention import flex_attention

    width = by_column.shape[-1]

    def add_bias(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + by_row[b, h, i, j // width] + by_column[b, h, i, j % width]

    if with_lse:
        return flex_attention(q, k, v, score_mod=add_bias, return_lse=True)
    return flex_attention(q, k, v, score_mod=add_bias), None


KERNELS: dict[str, Kernel] = {
    "plain": plain,
    "pieces": pieces,
    "bias_mask": bias_mask,
    "folded": folded,
    "flex": flex,
}


# --------------------------------------------------------------------------------------- entry points

MATRIX_UNIT: Final[bool] = torch.cpu._is_amx_tile_supported()  # noqa: SLF001  of this processor, for bfloat16


def choose_kernel(device: torch.device, dtype: torch.dtype, *, gradients: bool = False) -> str:
    """The name of the kernel that measured fastest (docs/log.md has the figures; no size turned the order round).

    The folded kernel where its wider products are cheap: on CUDA, which has flash kernels for them, and in bfloat16 on
    processors with a matrix unit. On other processors plain products in bfloat16, which SDPA is slow at there, and the
    bias as SDPA's mask in float32. Plain elsewhere, and for gradients in full precision or without such a unit.
    """
    reduced = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cpu" and dtype == torch.bfloat16 and MATRIX_UNIT:
        return "folded"
    if device.type == "cuda" and (reduced or not gradients):
        return "folded"
    if device.type != "cpu" or gradients:
        return "plain"
    return "pieces" if dtype == torch.bfloat16 else "bias_mask"


def attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, *, kernel: str = "auto") -> Tensor:
    """Attention of rows of patches to rows of patches; shapes as the module says. ``kernel``: "auto" or of ``KERNELS``.

    Raises:
        ValueError: the kernel's name is unknown, or it cannot run here.
    """
    name = kernel
    if name == "auto":
        name = choose_kernel(q.device, q.dtype, gradients=_needs_grad(q, k, v, rows, columns))
    return _kernel(name)(q, k, v, rows, columns, False)[0]


def attention_with_lse(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, *, kernel: str = "auto"
) -> tuple[Tensor, Tensor]:
    """:func:`attention` and the log-sum-exp of its scores. Only plain, which "auto" then takes, has its gradient.

    Raises:
        ValueError: the kernel's name is unknown, or it cannot run here.
    """
    gradients = _needs_grad(q, k, v, rows, columns)
    name = kernel
    if name == "auto":
        name = "plain" if gradients else choose_kernel(q.device, q.dtype)
    if gradients and name != "plain":
        raise ValueError(f"the log-sum-exp of the attention kernel {name} has no gradient; use plain, or auto")
    out, lse = _kernel(name)(q, k, v, rows, columns, True)
    assert lse is not None
    return out, lse


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> Tensor:
    """The attention to two disjoint sets of keys as if to both at once; the leading axes broadcast.

    The weights of the two answers are the softmax of their log-sum-exps, as between the blocks of flash attention
    (arXiv 2205.14135, section 3.1).
    """
    weight = torch.sigmoid(lse - other_lse).unsqueeze(-1)
    return torch.lerp(other.to(weight.dtype), out.to(weight.dtype), weight).to(out.dtype)


# --------------------------------------------------------------------------------- PyTorch's own kernels


def _kernel(name: str) -> Kernel:
    if name not in KERNELS:
        raise ValueError(f"expected an attention kernel among auto, {', '.join(KERNELS)}; got {name!r}")
    return KERNELS[name]


def _needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


class _Kept(threading.local):
    """Memory for scores that a thread does not give back: paged in anew at each call it would cost more than they."""

    def __init__(self) -> None:
        self._of: dict[torch.dtype, Tensor] = {}

    def take(self, like: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of any content, the same memory each time. Fresh if it is large, or ``like`` has no memory."""
        count = math.prod(shape)
        if type(like) is not Tensor or count * dtype.itemsize > PIECE_BYTES:
            return like.new_empty(shape, dtype=dtype)
        if dtype not in self._of or count > self._of[dtype].numel():
            with torch.inference_mode(False):  # what is made in inference mode cannot be written to outside
                self._of[dtype] = torch.empty(PIECE_BYTES // dtype.itemsize, dtype=dtype)
        return self._of[dtype][:count].view(*shape)


_kept = _Kept()


def _in_pieces(
    one: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]], q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor | None]:
    """An attention of queries, keys and values, of so many at a time as PIECE_BYTES of scores allow."""
    lead, per_head = _lead(q, k), q.shape[-2] * k.shape[-2] * torch.promote_types(q.dtype, torch.float32).itemsize
    at_once, heads = PIECE_BYTES // per_head, lead[-1]
    if at_once >= lead.numel():
        return one(q, k, v)
    rows, some = max(1, at_once // lead[1:].numel()), max(1, at_once // lead[1:-1].numel())
    out, lse = q.new_empty(*lead, *q.shape[-2:]), None
    q = q.expand(lead[0], *q.shape[1:])
    for row in range(0, lead[0], rows):
        for head in range(0, heads, some):
            at = slice(row, row + rows), ..., slice(head, head + some), slice(None)
            found, found_lse = one(*(each[*at, slice(None)] for each in (q, k, v)))
            out[*at, slice(None)] = found
            if found_lse is not None:
                lse = found_lse.new_empty(*lead, q.shape[-2]) if lse is None else lse
                lse[at] = found_lse
    return out, lse


def _dot_product(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """scaled_dot_product_attention; with the log-sum-exp, which only the operators beneath it return."""
    lead = _lead(q, k)
    q, k, v = (_batched(each, lead) for each in (q, k, v))
    mask = None if bias is None else _batched(bias, lead)
    aten, out, lse = torch.ops.aten, None, None
    if not with_lse:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    elif q.device.type == "cpu":
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask, scale=scale)  # noqa: SLF001
    elif q.device.type == "cuda" and mask is None and q.dtype in (torch.bfloat16, torch.float16):
        out, lse = aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[:2]  # noqa: SLF001
    elif q.device.type == "cuda":
        if mask is not None:  # the operator wants rows of the mask to begin at multiples of 8
            mask = F.pad(mask, (0, -mask.shape[-1] % 8))[..., : mask.shape[-1]]
        out, lse = aten._scaled_dot_product_efficient_attention(q, k, v, mask, True, scale=scale)[:2]  # noqa: SLF001
        lse = lse[..., : q.shape[-2]]  # padded to the operator's block
    else:
        raise ValueError(f"PyTorch has no attention kernel with log-sum-exp for {q.device.type}; use plain, or auto")
    return _unbatched(out, lead), None if lse is None else _unbatched(lse, lead)


def _lead(q: Tensor, k: Tensor) -> torch.Size:
    """The leading axes of the answer: those of q and k, broadcast."""
    return torch.Size(max(pair) for pair in zip(q.shape[:-2], k.shape[:-2], strict=True))


def _batched(tensor: Tensor, lead: torch.Size) -> Tensor:
    """(..., heads, n, m) -> (batch, heads, n, m), which is what PyTorch's operators take; a view where it can be."""
    return tensor.expand(*lead, *tensor.shape[-2:]).flatten(0, len(lead) - 2)


def _unbatched(tensor: Tensor, lead: torch.Size) -> Tensor:
    return tensor.reshape(*lead, *tensor.shape[2:])
