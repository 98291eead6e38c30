"""Attention of rows of patches to rows of patches, by the kernel that measured fastest where it runs; and its merging.

It knows tensors and a patch grid; it refuses to know blocks, images, shots and tasks. Shapes are those of kernels.py:
queries and keys are whole rows of patches of one canvas, not necessarily the same rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from incontext.network.kernels import KERNELS, Kernel, needs_grad


def attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, *, kernel: str = "auto") -> Tensor:
    """Compute softmax(q k^T * scale + decomposed relative positions) v.

    Args:
        q: (..., heads, Rq * W, d).
        k: (..., heads, Rk * W, d).
        v: (..., heads, Rk * W, d).
        rows: (Rq, Rk, d), see relative.py.
        columns: (W, W, d).
        kernel: "auto", or one of ``KERNELS``.

    Returns:
        (..., heads, Rq * W, d) in q's dtype.

    Raises:
        ValueError: the kernel's name is unknown, or it cannot run here.
    """
    name = kernel
    if name == "auto":
        name = choose_kernel(q.device, q.dtype, gradients=needs_grad(q, k, v, rows, columns))
    return _named(name).attend(q, k, v, rows, columns)


def attention_with_lse(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, *, kernel: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Compute :func:`attention` and the log-sum-exp of each query's scores, (..., heads, Rq * W) in float32 at least.

    Only the plain kernel, which "auto" then takes, has the gradient of the log-sum-exp.

    Raises:
        ValueError: the kernel's name is unknown, or it cannot run here.
    """
    gradients = needs_grad(q, k, v, rows, columns)
    name = kernel
    if name == "auto":
        name = "plain" if gradients else choose_kernel(q.device, q.dtype)
    if gradients and name != "plain":
        raise ValueError(f"the log-sum-exp of the attention kernel {name} has no gradient; use plain, or auto")
    return _named(name).attend_with_lse(q, k, v, rows, columns)


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> Tensor:
    """Merge attention to two disjoint sets of keys into attention to both; the leading axes broadcast.

    The weights of the two answers are the softmax of their log-sum-exps, as between the blocks of flash attention
    (arXiv 2205.14135, section 3.1).
    """
    weight = torch.sigmoid(lse - other_lse).unsqueeze(-1)
    return torch.lerp(other.to(weight.dtype), out.to(weight.dtype), weight).to(out.dtype)


def choose_kernel(device: torch.device, dtype: torch.dtype, *, gradients: bool = False) -> str:
    """Name the kernel that measured fastest (docs/log/kernels.md has the figures; no size turned the order round).

    The folded kernel where its wider products are cheap: on CUDA, which has flash kernels for them, and in bfloat16 on
    processors with a matrix unit. On other processors plain products in bfloat16, which SDPA is slow at there, and the
    bias as SDPA's mask in float32. Plain elsewhere, and for gradients in full precision or without such a unit.
    """
    reduced = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cpu" and dtype == torch.bfloat16 and has_matrix_unit():
        return "folded"
    if device.type == "cuda" and (reduced or not gradients):
        return "folded"
    if device.type != "cpu" or gradients:
        return "plain"
    return "pieces" if dtype == torch.bfloat16 else "bias_mask"


def has_matrix_unit() -> bool:
    """Tell whether this machine's processor multiplies matrices of bfloat16 in a unit of their own.

    The processor is asked once, so that compiled code, which cannot ask, finds the answer.
    """
    if "amx" not in _asked:
        _asked["amx"] = bool(torch.cpu._is_amx_tile_supported())  # noqa: SLF001
    return _asked["amx"]


_asked: dict[str, bool] = {}  # of this machine's processor


def _named(name: str) -> Kernel:
    if name not in KERNELS:
        raise ValueError(f"expected an attention kernel among auto, {', '.join(KERNELS)}; got {name!r}")
    return KERNELS[name]
