"""Warm starts: the weights of one network as the beginning of another with another side, depth, taps or decoder.

Everything that has a counterpart is taken over, so that the new network answers as the old one does wherever that is
possible. Refuses to know files, devices, recipes and other people's networks (see vit.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.network.relative import relative_table


@dataclass(frozen=True)
class Source:
    """Where a block of the new network comes from."""

    block: int  # of the old network
    silent: bool  # a block that the old network does not have: the identity at first


def start_from(model: SegGPT, config: ModelConfig, *, seed: int = 0) -> tuple[SegGPT, tuple[str, ...]]:
    """Make a network of ``config`` that begins with the weights of ``model``; and name those that it could not give.

    float32, on the CPU, in eval mode. ``seed`` decides the fresh weights; the global generator is left as it was.

    Raises:
        ValueError: width, heads or the MLP's channels differ, for which there is no counterpart.
    """
    mapped = map_weights(model.state_dict(), model.config, config)
    started = fresh(config, seed=seed)
    left = tuple(name for name in started.state_dict() if name not in mapped)
    started.load_state_dict({**started.state_dict(), **mapped})
    return started, left


def fresh(config: ModelConfig, *, seed: int) -> SegGPT:
    """Make a network with random weights that depend on the seed alone, on the CPU, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SegGPT(config).eval()


def map_weights(tensors: Mapping[str, Tensor], source: ModelConfig, target: ModelConfig) -> dict[str, Tensor]:
    """Map the state of a network of ``source`` to that of one of ``target``; what has no counterpart is left out.

    * Another side: the tables of relative positions are interpolated as the network itself does it, so that the answers
      at the new side stay what they were.
    * More blocks: each stretch between two taps, or before the merge, keeps its blocks in order, and every new block
      follows an old one as its copy with zero output projections. It is the identity, so the answers stay the same to
      the last bit, and it learns from the first step on; a plain copy would apply the old block twice and break them.
    * Fewer blocks: the old ones are chosen evenly from each stretch.
    * Another pretraining grid: the position table is resized (bicubic). Another patch: so are the patch filters.
    * The decoder is left out where its widths, the patch or the number of taps differ, the presence head likewise.

    Raises:
        ValueError: width, heads or the MLP's channels differ.
    """
    _check_widths(source, target)
    mapped = {
        name: tensors[name].clone()
        for name in ("mask_token", "segment_token_x", "segment_token_y", "type_token_cls", "type_token_ins")
    }
    mapped["patch_embed.proj.weight"] = _resize_filters(tensors["patch_embed.proj.weight"], target.patch)
    mapped["patch_embed.proj.bias"] = tensors["patch_embed.proj.bias"].clone()
    mapped["pos_embed"] = _resize_positions(tensors["pos_embed"], target.pretrain_side // target.patch)
    for number, origin in enumerate(block_plan(source, target)):
        prefix = f"blocks.{origin.block}."
        for name in (name for name in tensors if name.startswith(prefix)):
            inner = name.removeprefix(prefix)
            mapped[f"blocks.{number}.{inner}"] = _block_weight(inner, tensors[name], target.grid, origin.silent)
    kept = ["norm."]
    if source.presence == target.presence and len(source.taps) == len(target.taps):
        kept.append("presence.")
    if source.decoder_width == target.decoder_width:
        kept.append("decoder_pred.")
        if source.patch == target.patch and len(source.taps) == len(target.taps):
            kept.append("decoder_embed.")
    mapped |= {name: value.clone() for name, value in tensors.items() if name.startswith(tuple(kept))}
    return mapped


def block_plan(source: ModelConfig, target: ModelConfig) -> tuple[Source, ...]:
    """Plan where each block of ``target`` comes from. The merge stays there, and each tap, if there are as many."""
    ends = [
        (config.merge_layer, *(config.taps if len(source.taps) == len(target.taps) else ()), config.depth - 1)
        for config in (source, target)
    ]
    plan: list[Source] = []
    first = 0
    for old_end, new_end in zip(*ends, strict=True):
        old, new = old_end + 1 - first, new_end + 1 - len(plan)
        plan += [_origin(first, old, new, slot) for slot in range(new)]
        first += old
    return tuple(plan)


def _origin(first: int, old: int, new: int, slot: int) -> Source:
    """Find the source of block ``slot`` of ``new`` ones that take the place of ``old`` ones from ``first`` on."""
    if old == 0:
        return Source(first - 1, silent=True)
    if new < old:
        return Source(first + (2 * slot + 1) * old // (2 * new), silent=False)
    chosen = max(i for i in range(old) if i * new // old <= slot)
    return Source(first + chosen, silent=slot != chosen * new // old)


def _block_weight(inner: str, value: Tensor, grid: int, silent: bool) -> Tensor:
    if inner == "attn.rel_pos_h":
        return _resize_relative(value, 2 * grid)
    if inner == "attn.rel_pos_w":
        return _resize_relative(value, grid)
    if silent and inner.startswith(("attn.proj.", "mlp.fc2.")):
        return torch.zeros_like(value)
    return value.clone()


def _resize_relative(table: Tensor, length: int) -> Tensor:
    """Resize (2 * L - 1, d) to (2 * length - 1, d), read back from the network's own look-up of every pair."""
    looked_up = relative_table(table, length)  # [i, j] for the offset i - j
    return torch.cat([looked_up[0].flip(0), looked_up[1:, 0]])


def _resize_positions(table: Tensor, size: int) -> Tensor:
    """Resize (1, 1 + g * g, C) to (1, 1 + size * size, C); the class position, which comes first, is kept."""
    old = round((table.shape[1] - 1) ** 0.5)
    if old == size:
        return table.clone()
    grid = rearrange(table[:, 1:], "1 (r w) c -> 1 c r w", r=old)
    resized = F.interpolate(grid, size=(size, size), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], rearrange(resized, "1 c r w -> 1 (r w) c")], dim=1)


def _resize_filters(weight: Tensor, patch: int) -> Tensor:
    """Resize (C, 3, p, p) to (C, 3, patch, patch), such that a patch of one colour keeps its embedding."""
    old = weight.shape[-1]
    if old == patch:
        return weight.clone()
    resized = F.interpolate(weight, size=(patch, patch), mode="bicubic", align_corners=False) * (old / patch) ** 2
    # What is left of the difference, after the scale, goes to all pixels alike.
    return resized + (weight.sum((2, 3), keepdim=True) - resized.sum((2, 3), keepdim=True)) / patch**2


def _check_widths(source: ModelConfig, target: ModelConfig) -> None:
    def said(config: ModelConfig) -> str:
        hidden = round(config.width * config.mlp_ratio)
        return f"width {config.width}, {config.heads} heads and {hidden} channels in the MLP"

    if said(source) != said(target):
        raise ValueError(
            f"expected weights of {said(target)}, as the model to train has, got {said(source)}; a warm start changes "
            "side, depth, patch, taps and decoder, never widths: train a model of these widths, or without --init"
        )
