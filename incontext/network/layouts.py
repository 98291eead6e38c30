"""Files <-> named tensors and a configuration, for the three layouts in which weights of this network exist.

* ``incontext``: a safetensors file, the published tensor names, the configuration as JSON in its metadata;
* ``published``: the file of the SegGPT authors, ``{"model": tensors}``, a pickle read with ``weights_only=True``; or
  the same names in a safetensors file. Where no configuration is stored it is inferred from the tensors;
* ``transformers``: Hugging Face's SegGptForImageSegmentation, ``model.safetensors`` with ``config.json`` beside it.

They are told apart by content, never by a file's name. This module knows names, shapes and bytes; it refuses to know
whether they make a whole network, and trusts nothing that it reads.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from incontext.images.write import whole_file
from incontext.network.config import ModelConfig
from incontext.options import Layout

LAYOUTS: tuple[Layout, ...] = get_args(Layout)

# The one entry of ours in a safetensors file's metadata: {"config": ..., "metadata": ...}. One, because the library
# writes entries in random order, and equal weights should make equal files.
_RECORD = "incontext"
_FOLDER_FILE = "model.safetensors"  # in a folder of the transformers layout


class CheckpointError(ValueError):
    """A file is no checkpoint of this network, or a damaged one. The message says what differs."""


@dataclass(frozen=True)
class Stored:
    """What a file holds: tensors under the published names, mapped from the file where its format allows it."""

    path: Path
    layout: Layout
    config: ModelConfig
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read(path: Path) -> Stored:
    """Read a file of any layout, or a folder of the transformers layout.

    Raises:
        FileNotFoundError: there is nothing at the path.
        CheckpointError: it is not a checkpoint, is damaged, holds code, or describes no such network.
    """
    if path.is_dir():
        if not (path / _FOLDER_FILE).is_file():
            raise CheckpointError(f"{path} is a folder without {_FOLDER_FILE}; expected a checkpoint or such a folder")
        path = path / _FOLDER_FILE
    elif not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    layout, tensors, config, metadata = _read_raw(path)
    if layout == "transformers":
        theirs, tensors = tensors, {published_name(name): value for name, value in tensors.items()}
        if len(theirs) != len(tensors):
            raise CheckpointError(f"{path} holds the same tensors under the names of two layouts; expected one")
    if not any(name.startswith("blocks.") for name in tensors):
        raise CheckpointError(f"{path} holds no weights of this network: its tensors are {some(tensors)}")
    if config is None:
        config = _infer_config(path, tensors)
    try:
        return Stored(path, layout, ModelConfig(**config), tensors, metadata)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} describes an impossible network: {first_line(error)}") from error


def write(
    path: Path, layout: Layout, tensors: Mapping[str, Tensor], config: ModelConfig, notes: dict[str, str]
) -> None:
    """Write tensors under the published names.

    Each file, "transformers" has two in a folder, appears whole or not at all. ``notes`` travel along in every layout.

    Raises:
        CheckpointError: a folder lies where a file is to be written, or a file where a folder is.
        FileNotFoundError: there is no folder to write to.
    """
    if path.exists() and path.is_dir() != (layout == "transformers"):
        expected, found = ("folder", "file") if layout == "transformers" else ("file", "folder")
        raise CheckpointError(
            f"{path}: the layout {layout!r} is a {expected}, and here is a {found}; give another name"
        )
    if layout == "incontext":
        _write_safetensors(path, tensors, {_RECORD: json.dumps({"config": asdict(config), "metadata": notes})})
    elif layout == "published":
        # The authors' code looks at "model" alone.
        with whole_file(path) as stream:
            torch.save({"model": dict(tensors), "config": asdict(config), "metadata": notes}, stream)
    else:
        path.mkdir(parents=True, exist_ok=True)
        named = {transformers_name(name): value for name, value in tensors.items()}
        # "pt" is what transformers asks for.
        _write_safetensors(path / _FOLDER_FILE, named, {"format": "pt", _RECORD: json.dumps({"metadata": notes})})
        with whole_file(path / "config.json") as stream:
            stream.write(json.dumps(_transformers_config(config), indent=2).encode() + b"\n")


def _write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    with whole_file(path) as stream:
        # By name: to a stream the library gives only the whole file in memory. It puts a private file in place of ours.
        save_file(dict(tensors), stream.name, dict(metadata))
        Path(stream.name).chmod(os.fstat(stream.fileno()).st_mode)


def some(names: Iterable[object]) -> str:
    """Say the first three names, and how many more there are."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "") if shown else "none"


def first_line(error: Exception) -> str:
    """Shorten a library's exception to what it says before the paragraphs that follow."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


# --- reading

_Raw = tuple[Layout, dict[str, Tensor], Mapping[str, Any] | None, dict[str, str]]


def _read_raw(path: Path) -> _Raw:
    """Read a file as it is: its layout, its own names, the configuration that it carries, its metadata."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if head[8:9] == b"{":  # a length of eight bytes, then JSON
        return _read_safetensors(path)
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":  # PyTorch's archive, and its bare pickle from before 1.6
        return _read_pickle(path, mapped=head[:1] == b"P")
    found = f"a file that begins with {head[:8]!r}" if head else "an empty file"
    if head.startswith(b"version https://git-lfs"):
        found = "a Git LFS pointer, whose file `git lfs pull` fetches"
    raise CheckpointError(f"{path} is no checkpoint: expected safetensors or a PyTorch file, got {found}")


def _read_safetensors(path: Path) -> _Raw:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path} is damaged or cut short: {first_line(error)}") from error
    record = _json_object(path, metadata.pop(_RECORD, "{}"))
    metadata = {name: value for name, value in metadata.items() if name != "format"} | _notes(record)
    if "config" in record:
        return "incontext", tensors, record["config"], metadata
    if not any(name.startswith("model.encoder.") for name in tensors):
        return "published", tensors, None, metadata
    beside = path.with_name("config.json")
    theirs = _json_object(beside, beside.read_bytes()) if beside.is_file() else None
    return "transformers", tensors, None if theirs is None else _from_transformers_config(beside, theirs), metadata


def _read_pickle(path: Path, *, mapped: bool) -> _Raw:
    # Given a path that ends in .safetensors, newer versions of PyTorch expect safetensors there, whatever it holds.
    by_name = mapped and path.suffix != ".safetensors"
    try:
        with path.open("rb") as file:
            loaded = torch.load(path if by_name else file, map_location="cpu", weights_only=True, mmap=by_name)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was refused: it is damaged, or holds more than tensors, and a pickle with code in it can do "
            f"anything to this machine ({first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged or cut short: {first_line(error)}") from error
    tensors = loaded.get("model") if isinstance(loaded, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        found = f"a dictionary of {some(loaded)}" if isinstance(loaded, dict) else type(loaded).__name__
        raise CheckpointError(f'{path}: expected {{"model": tensors by name}}, got {found}')
    return "published", {str(name): value for name, value in tensors.items()}, loaded.get("config"), _notes(loaded)


def _notes(record: Mapping[str, Any]) -> dict[str, str]:
    notes = record.get("metadata")
    return {str(key): str(value) for key, value in notes.items()} if isinstance(notes, dict) else {}


def _json_object(path: Path, text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its configuration is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected its configuration to be a JSON object, got {text[:40]!r}")
    return value


def _infer_config(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the sizes off the tensors.

    What leaves no trace there is taken as published: evenly spaced taps, streams merged after block 2 (or the first
    tap, where that comes earlier), epsilon.
    """
    try:
        width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
        depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
        columns, head_width = tensors["blocks.0.attn.rel_pos_w"].shape
        every = depth * width // tensors["decoder_embed.weight"].shape[1]  # blocks from tap to tap
        positions = tensors["pos_embed"].shape[1] - 1
        return {
            "width": width,
            "heads": width // head_width,
            "depth": depth,
            "patch": patch,
            "side": (columns + 1) // 2 * patch,
            "decoder_width": tensors["decoder_pred.0.weight"].shape[0],
            "mlp_ratio": tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
            "merge_layer": min(ModelConfig.merge_layer, every - 1),
            "taps": tuple(range(every - 1, depth, every)),
            "pretrain_side": round(positions**0.5) * patch,
        }
    except KeyError as error:
        raise CheckpointError(f"{path}: {error} is missing, from which the network's sizes are read") from error
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: its tensors have shapes that no such network has ({error})") from error


# --- the words of transformers

_CONFIG_NAMES = {
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "depth": "num_hidden_layers",
    "patch": "patch_size",
    "decoder_width": "decoder_hidden_size",
    "merge_layer": "merge_index",
    "taps": "intermediate_hidden_state_indices",
    "pretrain_side": "pretrain_image_size",
    "norm_eps": "layer_norm_eps",
}
_NAMES = {
    "mask_token": "model.embeddings.mask_token",
    "segment_token_x": "model.embeddings.segment_token_input",
    "segment_token_y": "model.embeddings.segment_token_prompt",
    "type_token_cls": "model.embeddings.type_token_semantic",
    "type_token_ins": "model.embeddings.type_token_instance",
    "pos_embed": "model.embeddings.position_embeddings",
    "patch_embed.proj": "model.embeddings.patch_embeddings.projection",
    "norm": "model.encoder.layernorm",
    "decoder_embed": "decoder.decoder_embed",
    "decoder_pred.0": "decoder.decoder_pred.conv",
    "decoder_pred.1": "decoder.decoder_pred.layernorm",
    "decoder_pred.3": "decoder.decoder_pred.head",
}
_BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.proj",
    "attn.rel_pos_h": "attention.rel_pos_h",
    "attn.rel_pos_w": "attention.rel_pos_w",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.lin1",
    "mlp.fc2": "mlp.lin2",
}


def transformers_name(name: str) -> str:
    """Translate the published name of a tensor to transformers' name."""
    return _translate(name, "blocks.", "model.encoder.layers.", _NAMES, _BLOCK_NAMES)


def published_name(name: str) -> str:
    """Translate transformers' name of a tensor to the published name."""
    names, block_names = ({theirs: ours for ours, theirs in table.items()} for table in (_NAMES, _BLOCK_NAMES))
    return _translate(name, "model.encoder.layers.", "blocks.", names, block_names)


def _translate(name: str, old: str, new: str, names: Mapping[str, str], block_names: Mapping[str, str]) -> str:
    """Translate a name; one that stands in no table stays as it is, for whoever compares names to report."""
    stem, dot, kind = name.rpartition(".")
    if kind not in ("weight", "bias"):
        stem, dot, kind = name, "", ""
    if not stem.startswith(old):
        return names.get(stem, stem) + dot + kind
    number, _, inner = stem.removeprefix(old).partition(".")
    return f"{new}{number}.{block_names.get(inner, inner)}{dot}{kind}"


def _transformers_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["SegGptForImageSegmentation"],
        "model_type": "seggpt",
        "image_size": [2 * config.side, config.side],
        "mlp_dim": round(config.width * config.mlp_ratio),
        **{theirs: getattr(config, ours) for ours, theirs in _CONFIG_NAMES.items()},
    }


def _from_transformers_config(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Read a configuration of transformers; what is left out has its default, the published network's."""
    fixed = {"model_type": "seggpt", "hidden_act": "gelu", "qkv_bias": True, "use_relative_position_embeddings": True}
    odd = [f"{key} {values[key]!r}" for key, value in fixed.items() if values.get(key, value) != value]
    config = {ours: values[theirs] for ours, theirs in _CONFIG_NAMES.items() if theirs in values}
    try:
        if "image_size" in values:
            height, config["side"] = values["image_size"]
            if height != 2 * config["side"]:
                odd.append(f"image_size {values['image_size']}")
        if values.get("mlp_dim") is not None:
            config["mlp_ratio"] = values["mlp_dim"] / values.get("hidden_size", ModelConfig.width)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} has sizes that cannot be read: {error}") from error
    if odd:
        raise CheckpointError(f"{path} describes another network than SegGPT on a canvas of two squares: {some(odd)}")
    return config
