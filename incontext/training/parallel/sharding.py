"""A network of which each process holds a part: PyTorch's FSDP2 (the idea: arXiv 2304.11277).

Weights, gradients, average and optimizer state lie in parts of equal size on all processes; a matrix is whole only
while it is used. What is saved is whole, so any number of processes, sharded or not, goes on from it. Refuses to know
the loop, the loss and files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from incontext.network.block import Block


def shard(network: nn.Module, device: torch.device, processes: int) -> None:
    """Leave each process its part of a network that all of them hold, in place.

    All must call this.

    The linear layers of a block are gathered one by one, an MLP at once. The rest is gathered together: it is small,
    and the tables of relative positions are read before their blocks run.
    """
    mesh = init_device_mesh(device.type, (processes,))
    for block in [module for module in network.modules() if isinstance(module, Block)]:
        for part in (block.attn.qkv, block.attn.proj, block.mlp):
            fully_shard(part, mesh=mesh)
    fully_shard(network, mesh=mesh)


def gathered(value: Any, *, keep: bool) -> Any:
    """Make every part of tensors, lists and mappings whole, on the CPU, one after the other.

    All processes must call this.

    Args:
        keep: Whether this one wants them; else it gets None in their place.
    """
    if isinstance(value, DTensor):
        complete = value.full_tensor()
        return complete.cpu() if keep else None
    if isinstance(value, Mapping):
        return {key: gathered(each, keep=keep) for key, each in value.items()}
    if isinstance(value, list):
        return [gathered(each, keep=keep) for each in value]
    return value


def part_like(value: Tensor, other: Tensor) -> Tensor:
    """Take this process's part of a whole tensor, as ``other`` is cut, with its dtype and device.

    All of it where it is not cut.
    """
    value = value.to(other.device, other.dtype)
    if not isinstance(other, DTensor):
        return value
    return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load a whole state, of which this process keeps what belongs to its parts."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        number: {
            name: part_like(value, parameters[number])
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for name, value in of_one.items()
        }
        for number, of_one in saved["state"].items()
    }
    optimizer.load_state_dict({**saved, "state": state})
