"""Dense features of a frozen network of timm: pixels in, maps of channels out.

Any network that timm gives intermediate features of serves, a CNN by the last stage of each resolution, a plain ViT by
tokens of its blocks, class and register tokens dropped. Refuses to know masks, ids and what the features are for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

SIDE: Final = 320  # pixels along the square that an image is squashed to, rounded to what the network cuts it into
COARSEST: Final = 32  # pixels per feature, at most, that are still of use


@dataclass(frozen=True)
class Backbone:
    """A frozen network and how it wants to be asked."""

    name: str
    sha256: str  # of its weights: of their names, shapes and values in float32
    network: nn.Module
    side: int  # pixels
    mean: tuple[float, ...]  # of the channels, in 0..1
    std: tuple[float, ...]
    stages: tuple[int, ...]  # which of timm's intermediate features, fine to coarse
    channels: tuple[int, ...]  # of each stage
    flat: bool = False  # a plain ViT: all stages are as fine, and its last normalisation is for each of them

    def to(self, device: torch.device) -> Backbone:
        """Return the same on a device."""
        return replace(self, network=self.network.to(device))

    @torch.inference_mode()
    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features of images, stage by stage.

        Args:
            images: (B, H, W, 3) uint8 on any device; each is squashed to the network's own square.

        Returns:
            For each stage (B, C, h, w) float32, on the network's device.
        """
        like = next(self.network.parameters())
        pixels = rearrange(images, "b h w c -> b c h w").to(like.device, torch.float32)
        size = (self.side, self.side)
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 255)
        mean, std = (pixels.new_tensor(each).view(-1, 1, 1) for each in (self.mean, self.std))
        seen = self.network.forward_intermediates(  # type: ignore[operator]
            (pixels / 255 - mean) / std,
            indices=list(self.stages),
            intermediates_only=True,
            **({"norm": True} if self.flat else {}),
        )
        return tuple(each.float() for each in seen)


def of_network(
    name: str, network: nn.Module, *, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> Backbone:
    """Return the backbone that a network of timm is.

    Mean and standard deviation are the network's own by default.

    Raises:
        ValueError: it has no spatial features.
    """
    about: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    known = getattr(network, "feature_info", None)
    stages_of = list(getattr(known, "info", known) or [])
    if not hasattr(network, "forward_intermediates") or not stages_of:
        raise ValueError(f"{name} has no spatial features; expected a CNN or a ViT of timm that has")
    stages = _chosen([int(each["reduction"]) for each in stages_of])
    step = max(int(stages_of[stage]["reduction"]) for stage in stages)
    side = max(step, round(SIDE / step) * step)
    network = network.eval().requires_grad_(False).float()
    own = int((about.get("input_size") or (3, side, side))[-1])  # all that some networks with windows take
    refused: Exception | None = None
    for tried in dict.fromkeys((side, own)):
        made = Backbone(
            name,
            _sha256(network),
            network,
            tried,
            tuple(mean or about.get("mean") or (0.485, 0.456, 0.406)),
            tuple(std or about.get("std") or (0.229, 0.224, 0.225)),
            stages,
            tuple(int(stages_of[stage]["num_chs"]) for stage in stages),
            flat=len({int(each["reduction"]) for each in stages_of}) == 1,
        )
        try:
            seen = made.features(torch.zeros(1, tried, tried, 3, dtype=torch.uint8))
        except (AssertionError, RuntimeError, TypeError) as error:
            refused = error
            continue
        if any(each.ndim != 4 or each.shape[1] != wide for each, wide in zip(seen, made.channels, strict=True)):
            raise ValueError(f"{name} has no spatial features; got {[tuple(each.shape) for each in seen]}")
        return made
    raise ValueError(f"{name} gives no features of squares of {side} or {own} pixels: {refused}")


def _chosen(reductions: list[int]) -> tuple[int, ...]:
    """Choose of a CNN the last stages at the two coarsest useful resolutions; of a ViT two blocks with the last."""
    useful = sorted({each for each in reductions if each <= COARSEST})
    if len(useful) > 1:
        last = {each: at for at, each in enumerate(reductions)}
        return tuple(sorted(last[each] for each in useful[-2:]))
    depth = len(reductions)
    return tuple(sorted({2 * depth // 3 - 1 if depth > 2 else 0, depth - 1}))


def _sha256(network: nn.Module) -> str:
    """Hash the weights: the sorted names, shapes and values in float32."""
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()
