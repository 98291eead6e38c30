"""Attention with decomposed relative positions, in five ways that give the same numbers and differ in speed and memory.

The only hardware-specific code of the package. It knows tensors and a patch grid; it refuses to know blocks, images,
shots and tasks. Each way comes alone and with the log-sum-exp of each query's scores, by which attention to disjoint
sets of keys can be merged.

Shapes, throughout: q (..., heads, Rq * W, d); k and v (..., heads, Rk * W, d), where the leading axes of q broadcast
against theirs; rows (Rq, Rk, d) and columns (W, W, d), see relative.py; the answer (..., heads, Rq * W, d) in q's dtype
and its log-sum-exp (..., heads, Rq * W), in float32 at least.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from incontext.network.relative import full_bias, relative_bias

PIECE_BYTES = 16 << 20  # of scores or bias that exist at a time on a CPU: more is paged in anew in every block


@dataclass(frozen=True)
class Kernel:
    """One way to compute attention. Both take q, k, v, rows and columns; the second also gives the log-sum-exp."""

    attend: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    attend_with_lse: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


# ---------------------------------------------------------------------------------------------- plain


def plain(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attend as the definition says; every score exists in memory. The other kernels are tested against this one."""
    out: Tensor = torch.softmax(_scores(q, k, rows, columns), dim=-1).to(q.dtype) @ v
    return out


def plain_with_lse(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`plain`, and the log-sum-exp."""
    scores = _scores(q, k, rows, columns)
    return torch.softmax(scores, dim=-1).to(q.dtype) @ v, torch.logsumexp(scores, dim=-1)


def _scores(q: Tensor, k: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + full_bias(q, rows, columns)
    return scores


# --------------------------------------------------------------------------------------------- pieces


def pieces(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Compute :func:`plain` on a CPU without gradients: some heads at a time, in memory that each thread keeps."""
    if not _fits_pieces(q, k, v, rows, columns):
        return plain(q, k, v, rows, columns)

    def piece(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        narrow, scores = _kept_scores(q, k, rows, columns)
        torch.softmax(scores, dim=-1, out=scores)
        return narrow.copy_(scores) @ v

    return _in_pieces(piece, q, k, v)


def pieces_with_lse(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`pieces`, and the log-sum-exp."""
    if not _fits_pieces(q, k, v, rows, columns):
        return plain_with_lse(q, k, v, rows, columns)

    def piece(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        narrow, scores = _kept_scores(q, k, rows, columns)
        largest = scores.amax(dim=-1)
        torch.softmax(scores, dim=-1, out=scores)
        # The largest weight is exp(the largest score - the log-sum-exp): no second exponential of all scores.
        return narrow.copy_(scores) @ v, largest - scores.amax(dim=-1).log()

    return _in_pieces_with_lse(piece, q, k, v)


def _fits_pieces(q: Tensor, *others: Tensor) -> bool:
    return q.device.type == "cpu" and not needs_grad(q, *others) and not torch.compiler.is_compiling()


def _kept_scores(q: Tensor, k: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Keep memory for the weights in q's dtype, and the scores in float32 at least, with the thread."""
    wide = torch.promote_types(q.dtype, torch.float32)
    shape = *_lead(q, k), q.shape[-2], k.shape[-2]
    by_row, by_column = (each.to(wide) for each in relative_bias(q, rows, columns))
    narrow = _kept.take(q, shape, q.dtype)
    scores = _kept.take(q, shape, wide) if q.dtype != wide else narrow
    torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-2, -1), out=narrow)
    scores.copy_(narrow)
    grid = scores.view(*shape[:-1], rows.shape[1], -1)
    grid += by_row.unsqueeze(-1)
    grid += by_column.unsqueeze(-2)
    return narrow, scores


class _Kept(threading.local):
    """Memory for scores that a thread does not give back: paged in anew at each call it would cost more than they."""

    def __init__(self) -> None:
        self._of: dict[torch.dtype, Tensor] = {}

    def take(self, like: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Take a tensor of any content, in the same memory each time; fresh if it is large, or `like` has no memory."""
        count = math.prod(shape)
        if type(like) is not Tensor or count * dtype.itemsize > PIECE_BYTES:
            return like.new_empty(shape, dtype=dtype)
        if dtype not in self._of or count > self._of[dtype].numel():
            with torch.inference_mode(False):  # what is made in inference mode cannot be written to outside
                self._of[dtype] = torch.empty(PIECE_BYTES // dtype.itemsize, dtype=dtype)
        return self._of[dtype][:count].view(*shape)


_kept = _Kept()


# ------------------------------------------------------------------------------------------ bias mask


def bias_mask(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attend by PyTorch's scaled_dot_product_attention, with the bias as its float mask.

    On a CPU without gradients some heads at a time, so that the bias stays small.
    """
    if q.device.type != "cpu" or needs_grad(q, k, v, rows, columns):
        return _dot_product(q, k, v, full_bias(q, rows, columns).to(q.dtype), _scale(q))
    return _in_pieces(lambda q, k, v: _dot_product(q, k, v, full_bias(q, rows, columns), _scale(q)), q, k, v)


def bias_mask_with_lse(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`bias_mask`, and the log-sum-exp."""
    if q.device.type != "cpu" or needs_grad(q, k, v, rows, columns):
        return _dot_product_with_lse(q, k, v, full_bias(q, rows, columns).to(q.dtype), _scale(q))
    return _in_pieces_with_lse(
        lambda q, k, v: _dot_product_with_lse(q, k, v, full_bias(q, rows, columns), _scale(q)), q, k, v
    )


def _scale(q: Tensor) -> float:
    return float(q.shape[-1] ** -0.5)


# --------------------------------------------------------------------------------------------- folded


def folded(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attend with the bias folded into wider queries and keys, so that a flash kernel, which takes no bias, will do.

    ``[q * scale, by_row, by_column] . [k, onehot(row), onehot(column)]`` is the biased score. The bias never exists as
    a (tokens, tokens) tensor. The width is padded to a multiple of 8, as flash kernels ask.
    """
    return _dot_product(*_folded(q, k, v, rows, columns), None, 1.0)[..., : v.shape[-1]]


def folded_with_lse(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`folded`, and the log-sum-exp."""
    out, lse = _dot_product_with_lse(*_folded(q, k, v, rows, columns), None, 1.0)
    return out[..., : v.shape[-1]], lse


def _folded(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    height, width = rows.shape[1], columns.shape[0]
    by_row, by_column = relative_bias(q, rows, columns)
    onehot_row = torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, dim=0)
    onehot_column = torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1)
    onehot = torch.cat([onehot_row, onehot_column], dim=-1).expand(*k.shape[:-2], -1, -1)
    wide_q = torch.cat([q * _scale(q), by_row, by_column], dim=-1)
    wide_k = torch.cat([k, onehot], dim=-1)
    padding = (0, -wide_q.shape[-1] % 8)
    wide_v = F.pad(v, (0, wide_q.shape[-1] + padding[1] - v.shape[-1]))
    return F.pad(wide_q, padding), F.pad(wide_k, padding), wide_v


# ----------------------------------------------------------------------------------------------- flex


def flex(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attend by FlexAttention with the bias as its score modification, compiled (arXiv 2412.05496); on CUDA alone.

    On a CPU, PyTorch 2.14 compiles it to code that now and then answers NaN where there is no AVX-512.

    Raises:
        ValueError: it does not run here: the device is not CUDA, or the inputs are float64.
    """
    _refuse_flex(q)
    return flex_by(_compiled(written_out), q, k, v, rows, columns)


def flex_with_lse(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`flex`, and the log-sum-exp; it raises the same."""
    _refuse_flex(q)
    return flex_with_lse_by(_compiled(written_out_with_lse), q, k, v, rows, columns)


def _refuse_flex(q: Tensor) -> None:
    if q.device.type != "cuda" or q.dtype == torch.float64:
        got = "float64" if q.device.type == "cuda" else f"tensors on {q.device.type}"
        raise ValueError(
            f"the attention kernel flex takes tensors of at most 32 bits on a CUDA device, got {got}; "
            "use auto, plain, bias_mask or folded"
        )


def flex_by(run: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Hand FlexAttention, compiled or not (`run`), inputs in the shapes of this module."""
    lead = _lead(q, k)
    return _unbatched(run(*(_batched(each, lead) for each in (q, k, v, *relative_bias(q, rows, columns)))), lead)


def flex_with_lse_by(
    run: Callable[..., tuple[Tensor, Tensor]], q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute :func:`flex_by` for what also gives the log-sum-exp."""
    lead = _lead(q, k)
    out, lse = run(*(_batched(each, lead) for each in (q, k, v, *relative_bias(q, rows, columns))))
    return _unbatched(out, lead), _unbatched(lse, lead)


def written_out(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Call PyTorch's FlexAttention, (batch, heads, tokens, d) each; not compiled it is written out."""
    from torch.nn.attention.flex_attention import flex_attention

    out: Tensor = flex_attention(q, k, v, score_mod=_adding(by_row, by_column))
    return out


def written_out_with_lse(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor) -> tuple[Tensor, Tensor]:
    """Compute :func:`written_out`, and the log-sum-exp."""
    from torch.nn.attention.flex_attention import flex_attention

    out, lse = flex_attention(q, k, v, score_mod=_adding(by_row, by_column), return_lse=True)
    return out, lse


def _adding(by_row: Tensor, by_column: Tensor) -> Callable[..., Tensor]:
    width = by_column.shape[-1]

    def add_bias(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + by_row[b, h, i, j // width] + by_column[b, h, i, j % width]

    return add_bias


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)


KERNELS: Final[dict[str, Kernel]] = {
    "plain": Kernel(plain, plain_with_lse),
    "pieces": Kernel(pieces, pieces_with_lse),
    "bias_mask": Kernel(bias_mask, bias_mask_with_lse),
    "folded": Kernel(folded, folded_with_lse),
    "flex": Kernel(flex, flex_with_lse),
}


# --------------------------------------------------------------------------------- PyTorch's own kernels


def needs_grad(*tensors: Tensor) -> bool:
    """Tell whether a gradient of one of these tensors is asked for."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _in_pieces(one: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Run an attention on so many queries, keys and values at a time as PIECE_BYTES of scores allow."""
    parts = list(_parts(q, k))
    if len(parts) == 1:
        return one(q, k, v)
    out, q = q.new_empty(*_lead(q, k), *q.shape[-2:]), q.expand(k.shape[0], *q.shape[1:])
    for at in parts:
        out[at] = one(q[at], k[at], v[at])
    return out


def _in_pieces_with_lse(
    one: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]], q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute :func:`_in_pieces` for what also gives the log-sum-exp."""
    parts = list(_parts(q, k))
    if len(parts) == 1:
        return one(q, k, v)
    lead, wide = _lead(q, k), torch.promote_types(q.dtype, torch.float32)
    out, lse = q.new_empty(*lead, *q.shape[-2:]), q.new_empty(*lead, q.shape[-2], dtype=wide)
    q = q.expand(lead[0], *q.shape[1:])
    for at in parts:
        out[at], lse[at[:-1]] = one(q[at], k[at], v[at])
    return out, lse


def _parts(q: Tensor, k: Tensor) -> Iterator[tuple[Any, ...]]:
    """Cut the first axis and the heads into slices whose scores fit into PIECE_BYTES."""
    lead, per_head = _lead(q, k), q.shape[-2] * k.shape[-2] * torch.promote_types(q.dtype, torch.float32).itemsize
    at_once, heads = PIECE_BYTES // per_head, lead[-1]
    if at_once >= lead.numel():
        yield (...,)
        return
    rows, some = max(1, at_once // lead[1:].numel()), max(1, at_once // lead[1:-1].numel())
    for row in range(0, lead[0], rows):
        for head in range(0, heads, some):
            yield slice(row, row + rows), ..., slice(head, head + some), slice(None), slice(None)


def _dot_product(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Compute scaled_dot_product_attention for any number of leading axes."""
    lead = _lead(q, k)
    q, k, v = (_batched(each, lead) for each in (q, k, v))
    mask = None if bias is None else _batched(bias, lead)
    return _unbatched(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale), lead)


def _dot_product_with_lse(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Compute :func:`_dot_product` with the log-sum-exp, which only the operators beneath it return."""
    lead, tokens = _lead(q, k), q.shape[-2]
    q, k, v = (_batched(each, lead) for each in (q, k, v))
    mask = None if bias is None else _batched(bias, lead)
    aten = torch.ops.aten
    if q.device.type == "cpu":
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask, scale=scale)  # noqa: SLF001
    elif q.device.type == "cuda" and mask is None and q.dtype in (torch.bfloat16, torch.float16):
        out, lse = aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[:2]  # noqa: SLF001
    elif q.device.type == "cuda":
        if mask is not None:  # the operator wants rows of the mask to begin at multiples of 8
            mask = F.pad(mask, (0, -mask.shape[-1] % 8))[..., : mask.shape[-1]]
        out, lse = aten._scaled_dot_product_efficient_attention(q, k, v, mask, True, scale=scale)[:2]  # noqa: SLF001
        lse = lse[..., :tokens]  # padded to the operator's block
    else:
        raise ValueError(f"PyTorch has no attention kernel with log-sum-exp for {q.device.type}; use plain, or auto")
    return _unbatched(out, lead), _unbatched(lse, lead)


def _lead(q: Tensor, k: Tensor) -> torch.Size:
    """Find the leading axes of the answer: those of q and k, broadcast."""
    return torch.Size(max(pair) for pair in zip(q.shape[:-2], k.shape[:-2], strict=True))


def _batched(tensor: Tensor, lead: torch.Size) -> Tensor:
    """View (..., heads, n, m) as (batch, heads, n, m), which PyTorch's operators take."""
    return tensor.expand(*lead, *tensor.shape[-2:]).flatten(0, len(lead) - 2)


def _unbatched(tensor: Tensor, lead: torch.Size) -> Tensor:
    return tensor.reshape(*lead, *tensor.shape[2:])
