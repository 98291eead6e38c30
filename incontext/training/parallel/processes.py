"""Several processes that train one network together, as `torchrun` starts them.

Each process takes its share of every batch and all end every step with equal weights, or with parts of the same ones
(sharding.py); process 0 alone writes. Refuses to know what is trained.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Team:
    """One process among those that train together; by default it is alone."""

    rank: int = 0
    size: int = 1

    def share(self, first: int, count: int) -> range:
        """Take every ``size``-th of the numbers ``first`` .. ``first + count - 1``: this process's part of them."""
        return range(first + self.rank, first + count, self.size)

    def add(self, values: Tensor) -> Tensor:
        """Sum a tensor over the processes, which all of them get; its own values where it is alone."""
        if self.size > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def agree(self, value: bool) -> bool:
        """Take over what process 0 says."""
        if self.size > 1:
            said = self._small(int(value and self.rank == 0))
            distributed.all_reduce(said)
            return bool(said)
        return value

    def all(self, value: bool) -> bool:
        """Tell whether it holds for every process."""
        if self.size > 1:
            said = self._small(int(value))
            distributed.all_reduce(said, distributed.ReduceOp.MIN)
            return bool(said)
        return value

    def check_equal(self, value: int, sentence: str) -> None:
        """Wait for all; ValueError with ``sentence`` where ``value`` is not the same in all of them."""
        if self.size > 1:
            both_ends = self._small(value, -value)
            distributed.all_reduce(both_ends, distributed.ReduceOp.MAX)
            if both_ends[0] != -both_ends[1]:
                raise ValueError(sentence)

    @staticmethod
    def _small(*values: int) -> Tensor:
        """Put a few numbers where the processes can exchange them."""
        return torch.tensor(values, device="cuda" if distributed.get_backend() == "nccl" else "cpu")


ALONE = Team()


def team_device(device: str) -> str:
    """Choose the device for this process: under torchrun, "cuda" and a free choice mean the card of its number."""
    local = os.environ.get("LOCAL_RANK")
    if local is not None and device in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{local}"
    return device


@contextmanager
def joined(device: str) -> Iterator[Team]:
    """Join the processes that torchrun started (it sets RANK and WORLD_SIZE); alone where there are none.

    The devices of all are of one kind: "cpu" (they talk through gloo) or "cuda:N" (NCCL).

    Raises:
        ValueError: there are several processes, and the device is of neither kind.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise ValueError(f'expected "cpu" or "cuda" as the device of several processes, got {device!r}')
    if kind == "cuda":
        torch.cuda.set_device(device)
    # Process 0 draws the validation while the others wait.
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=timedelta(hours=1))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Grad strides do not match")  # of the 1 x 1 convolution; 24 numbers
            warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # gives views: none is changed in place
            yield Team(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
