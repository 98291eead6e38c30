"""The encoder of a plain Vision Transformer of timm as the beginning of a network of ours.

The model follows the ViT: its width, heads, depth, patch and MLP are the ViT's, and what the ViT has no word on, the
decoder, the taps, the side, is the recipe's. Refuses to know checkpoints of ours (see warm.py), devices and recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from incontext.canvas.paint import IMAGE_MEAN, IMAGE_STD
from incontext.matching.names import import_timm
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.training.start.warm import fresh

_HEADS = ("cls_token", "head.", "fc_norm.", "attn_pool.")  # for classifying whole images: not needed


def from_timm(name: str, like: ModelConfig, *, pretrained: bool = True, seed: int = 0) -> SegGPT:
    """Make a network around timm's ViT of this name, such as "vit_base_patch16_224.mae"; see :func:`from_vit`.

    Args:
        pretrained: With timm's weights, which are downloaded on first use; otherwise with random ones.

    Raises:
        ValueError: timm has no such model, or it is no plain ViT.
        FileNotFoundError: timm is not installed, or its weights are not on this machine and cannot be fetched.
    """
    timm = import_timm()
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm has no model named {name!r}; expected a plain ViT, such as vit_base_patch16_224.mae")
    try:
        vit = timm.create_model(name, pretrained=pretrained)
    except Exception as error:  # those of the hub's client and its HTTP library change with their versions
        raise FileNotFoundError(f"the weights of timm's {name!r} cannot be fetched ({error})") from error
    return from_vit(vit, like, seed=seed)


def from_vit(vit: nn.Module, like: ModelConfig, *, seed: int = 0) -> SegGPT:
    """Make a network with the patch embedding, positions, blocks and norm of a timm ViT, float32, in eval mode.

    Its configuration is the ViT's, with the decoder of ``like``, its side rounded to the ViT's patch, and its merge and
    taps at the same relative depth. The tables of relative positions, which a ViT does not have, begin at zero, so each
    block answers as the ViT's does; tokens and decoder are random by ``seed``. A ViT that expects pixels in another
    range than ours gets it: the difference is moved into the patch embedding, exactly.

    Raises:
        ValueError: it is no plain ViT; the sentence names what differs.
    """
    tensors = {name: value.detach().float() for name, value in vit.state_dict().items() if not name.startswith(_HEADS)}
    for kind in ("weight", "bias"):  # the final norm of a ViT that averages before it
        if f"norm.{kind}" not in tensors and f"fc_norm.{kind}" in vit.state_dict():
            tensors[f"norm.{kind}"] = vit.state_dict()[f"fc_norm.{kind}"].detach().float()
    _check_kind(vit)
    model = fresh(_config(vit, like), seed=seed)
    ours = {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith(("blocks.", "patch_embed.", "pos_embed", "norm."))
    }
    _check_names(tensors, [name for name in ours if ".rel_pos_" not in name])
    positions = ours["pos_embed"].shape[1]
    if tensors["pos_embed"].shape[1] == positions - 1:  # no position for the class token, which is not used here
        tensors["pos_embed"] = torch.cat([torch.zeros_like(ours["pos_embed"][:, :1]), tensors["pos_embed"]], dim=1)
    if tensors["pos_embed"].shape[1] != positions:
        raise ValueError(f"expected a square of positions, {positions} with the class's, got those of another image")
    zeros = {name: torch.zeros_like(value) for name, value in ours.items() if ".rel_pos_" in name}
    model.load_state_dict({**model.state_dict(), **zeros, **_for_our_pixels(vit, tensors)})
    return model


def _for_our_pixels(vit: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adapt the patch embedding to pixels that are normalised with our mean and deviation, not the ViT's."""
    about: Mapping[str, Any] = getattr(vit, "pretrained_cfg", None) or {}
    mean, std = (torch.tensor(about.get(key) or ours) for key, ours in (("mean", IMAGE_MEAN), ("std", IMAGE_STD)))
    scale, shift = (
        torch.tensor(IMAGE_STD) / std,
        (torch.tensor(IMAGE_MEAN) - mean) / std,
    )  # theirs = ours * scale + shift
    weight = tensors["patch_embed.proj.weight"]
    bias = tensors["patch_embed.proj.bias"] + torch.einsum("ocpq,c->o", weight, shift)
    return {
        **tensors,
        "patch_embed.proj.weight": weight * scale[:, None, None],
        "patch_embed.proj.bias": bias,
    }


def _check_kind(vit: nn.Module) -> None:
    from timm.models.vision_transformer import Block, VisionTransformer

    plain = type(vit) is VisionTransformer and all(type(block) is Block for block in vit.blocks)
    if not plain:
        inside = f" of {type(vit.blocks[0]).__name__}s" if isinstance(vit, VisionTransformer) else ""
        raise ValueError(
            f"expected a plain VisionTransformer of timm, got a {type(vit).__name__}{inside}: it attends, embeds "
            "positions or is built in another way than this network"
        )
    odd = {repr(m.act) for m in vit.modules() if hasattr(m, "fc1") and repr(m.act) != repr(nn.GELU())}
    if odd:
        raise ValueError(f"expected a ViT whose MLPs have the exact GELU, got {', '.join(sorted(odd))}")


def _check_names(tensors: Mapping[str, Tensor], expected: list[str]) -> None:
    differing = {
        "surplus": [name for name in tensors if name not in expected],
        "missing": [name for name in expected if name not in tensors],
    }
    found = "; ".join(
        f"{kind}: {', '.join(names[:4])}" + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        for kind, names in differing.items()
        if names
    )
    if found:
        raise ValueError(
            "expected a plain ViT: patch embedding, learned positions, blocks of norm1, attn, norm2 and mlp with "
            f"biases, norm; without layer scale, register tokens and the like. Got tensors that differ: {found}"
        )


def _config(vit: Any, like: ModelConfig) -> ModelConfig:
    patch, rest = vit.patch_embed.patch_size
    rows, columns = vit.patch_embed.grid_size
    if rest != patch or rows != columns:
        raise ValueError(f"expected a ViT with square patches and a square of positions, got {rows} x {columns} of "
                         f"{patch} x {rest} pixels")  # fmt: skip
    depth, width = len(vit.blocks), vit.embed_dim

    def deep(block: int) -> int:  # the block that ends at the same share of the depth
        return max(0, round((block + 1) * depth / like.depth) - 1)

    merge = deep(like.merge_layer)
    return replace(
        like,
        width=width,
        heads=vit.blocks[0].attn.num_heads,
        depth=depth,
        patch=patch,
        side=max(1, round(like.side / patch)) * patch,
        mlp_ratio=vit.blocks[0].mlp.fc1.out_features / width,
        merge_layer=merge,
        taps=tuple(sorted({max(merge, deep(tap)) for tap in like.taps})),
        pretrain_side=rows * patch,
        norm_eps=vit.blocks[0].norm1.eps,
    )
