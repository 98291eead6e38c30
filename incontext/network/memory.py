"""How much memory the network will take, before it runs: its forward pass on tensors that have no data.

The pass itself is traced, so the estimate cannot drift from the code. It counts tensors; what a library's kernels take
for themselves is not seen. Refuses to know images and how much memory a machine has.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from incontext.network.attention import choose_kernel
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT


@lru_cache(maxsize=256)
def estimate(
    config: ModelConfig,
    *,
    side: int,
    shots: int,
    batch: int,
    chunk: int,
    device: str,
    dtype: torch.dtype,
    kernel: str = "auto",
) -> int:
    """Estimate bytes of tensors at the peak of `SegGPT.answer`, the weights and the prepared context included.

    Args:
        side: Pixels along a side of what the network sees.
        batch: Queries.
        chunk: Halves that a block works on at a time.
        device: The kind, "cpu" or "cuda"; it need not be here.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    name = choose_kernel(torch.device(device), dtype) if kernel == "auto" else kernel
    # All blocks are alike, so one for each tap and one before will do; the weights of the others are added.
    few = replace(config, depth=len(config.taps) + 1, merge_layer=0, taps=tuple(range(1, len(config.taps) + 1)))
    with torch.device("meta"):
        model, whole = SegGPT(few, kernel=name).eval(), SegGPT(config)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    missing = sum(p.numel() for p in whole.parameters()) - sum(p.numel() for p in model.parameters())
    with FakeTensorMode(), torch.no_grad(), torch.device(device), _Live() as live:
        weights = {key: torch.empty(shape, dtype=dtype) for key, shape in shapes.items()}
        model.load_state_dict(weights, assign=True)
        images = torch.empty(1, shots, 3, side, side, dtype=dtype)
        context = model.prepare(images, images, chunk=chunk)
        model.answer(torch.empty(batch, 3, side, side, dtype=dtype), context, chunk=chunk)
    return int(live.peak + missing * dtype.itemsize)


def peak(run: Callable[[], object], device: str) -> int:
    """Bytes of tensors at the peak of any computation that makes its own inputs, those that exist already left out.

    Args:
        run: What is computed; its tensors get no data.
        device: The kind that they are made on, "cpu" or "cuda".
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode(), torch.device(device), _Live() as live:
        run()
    return int(live.peak)


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tree_iter(out):
            if isinstance(each, Tensor):
                self._add(each.untyped_storage())
        self.peak = max(self.peak, self.bytes)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()  # noqa: SLF001  the identity of the memory itself
        if key not in self._known:
            self._known.add(key)
            self.bytes += size
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


@dataclass(frozen=True)
class Room:
    """What fits at a time: ``batch`` queries, and ``chunk`` halves of canvases in a block."""

    batch: int
    chunk: int

    @property
    def halved(self) -> Room | None:
        """Half of it: fewer queries first, then fewer prompts; None where it is one of each."""
        if self.batch > 1:
            return replace(self, batch=(self.batch + 1) // 2)
        return replace(self, chunk=(self.chunk + 1) // 2) if self.chunk > 1 else None


def plan(
    config: ModelConfig,
    *,
    side: int,
    shots: int,
    most: int,
    free: int,
    device: str,
    dtype: torch.dtype,
    kernel: str = "auto",
) -> Room:
    """Find the largest batch, up to ``most``, that fits into ``free`` bytes beside weights that are there already.

    Where one query does not fit with all its shots, the shots go through the blocks in chunks. What does not fit with
    chunks of one half is planned all the same: the estimate may be wrong, and running out of memory says so.
    """
    if _generous(config, side, shots, most, dtype) < free:
        return Room(most, shots + 1)
    with torch.device("meta"):
        weights = sum(p.numel() for p in SegGPT(config).parameters()) * dtype.itemsize

    def needs(batch: int, chunk: int) -> int:
        whole = estimate(
            config, side=side, shots=shots, batch=batch, chunk=chunk, device=device, dtype=dtype, kernel=kernel
        )
        return whole - weights

    chunk = shots + 1
    while chunk > 1 and needs(1, chunk) > free:
        chunk = ceil(chunk / 2)
    one, all_at_once = needs(1, chunk), needs(most, chunk)
    if all_at_once <= free or most == 1:
        return Room(most, chunk)
    # The peak is the largest of several moments, each linear in the batch: between two batches no more than the chord.
    return Room(max(1, 1 + int((free - one) * (most - 1) / (all_at_once - one))), chunk)


def _generous(config: ModelConfig, side: int, shots: int, batch: int, dtype: torch.dtype) -> int:
    """Estimate more than any kernel needs, without the third of a second that tracing takes."""
    tokens = (side // config.patch) ** 2
    half = tokens * max(config.width, config.heads * 4 * side // config.patch) * dtype.itemsize
    scores = config.heads * (2 * tokens) ** 2 * 4 * 4  # of the plain kernel, with its softmax in float32
    return batch * ((shots + 1) * (64 * half + scores) + 12 * side * side * config.decoder_width * dtype.itemsize)
