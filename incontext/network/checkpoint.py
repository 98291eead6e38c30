"""Weights on disk <-> the network.

:mod:`incontext.network.layouts` knows the files; here their tensors are checked against the network, name by name.
It refuses to know devices, precision at run time and images: a model comes out in float32, on the CPU, in eval mode.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from incontext.network import layouts
from incontext.network.config import ModelConfig
from incontext.network.layouts import LAYOUTS, CheckpointError, Stored, first_line, some
from incontext.network.model import SegGPT
from incontext.options import Layout, StoredDtype

Location = str | os.PathLike[str]
STORED_DTYPES: dict[StoredDtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class WeightsInfo:
    """What a checkpoint holds. ``dtype`` is "mixed" where its tensors are stored in several."""

    path: Path
    layout: Layout
    config: ModelConfig
    parameters: int
    dtype: StoredDtype | Literal["mixed"]
    bytes: int
    sha256: str
    metadata: Mapping[str, str]


def load_model(path: Location) -> SegGPT:
    """Read a checkpoint of any layout: the network in float32, on the CPU, in eval mode.

    Names, shapes, dtypes and finiteness are checked strictly. The file is mapped and copied tensor by tensor, so that
    the weights exist once in memory.

    Raises:
        FileNotFoundError: there is nothing at the path.
        CheckpointError: it is not a checkpoint, is damaged, holds code, or does not fit the network that it describes.
    """
    return _load(layouts.read(Path(path)))


def read_config(path: Location) -> ModelConfig:
    """Read the configuration of a checkpoint, stored or inferred. Errors as in :func:`load_model`."""
    return _checked(layouts.read(Path(path))).config


def save_model(
    path: Location,
    model: SegGPT,
    *,
    metadata: Mapping[str, str] | None = None,
    layout: Layout = "incontext",
    dtype: StoredDtype = "float32",
) -> None:
    """Write a model: a file, or a folder of two for "transformers".

    Each file appears whole or not at all.

    ``metadata`` travels along in every layout. "published" is what the authors' code reads. Only "incontext" keeps the
    presence head, of which the others do not know.

    Raises:
        CheckpointError: a weight is not finite, or not once rounded to ``dtype``; the layout or the dtype is unknown.
    """
    if layout not in LAYOUTS or dtype not in STORED_DTYPES:
        raise CheckpointError(
            f"expected a layout among {', '.join(LAYOUTS)} and a dtype among {', '.join(STORED_DTYPES)}; "
            f"got {layout!r} and {dtype!r}"
        )
    kind = STORED_DTYPES[dtype]
    tensors = {name: value.detach().cpu().to(kind).contiguous() for name, value in model.state_dict().items()}
    config = model.config
    if layout != "incontext":
        tensors = {name: value for name, value in tensors.items() if not name.startswith("presence.")}
        config = replace(config, presence=0)
    _refuse_non_finite(Path(path), tensors)
    layouts.write(Path(path), layout, tensors, config, dict(metadata or {}))


def convert(
    source: Location, target: Location, *, layout: Layout = "incontext", dtype: StoredDtype | None = None
) -> WeightsInfo:
    """Rewrite a checkpoint in another layout or dtype (None: the source's own) and describe the result.

    The weights stay the same to the last bit unless ``dtype`` rounds them. What the layout has no place for, such as
    the presence head, is left out with a warning. Errors as in :func:`load_model` and :func:`save_model`.
    """
    stored = layouts.read(Path(source))
    used = _dtype(stored)
    kept = "float32" if used == "mixed" else used
    save_model(target, _load(stored), metadata=stored.metadata, layout=layout, dtype=dtype or kept)
    written = info(target)
    if stored.config.presence and not written.config.presence:
        warnings.warn(
            f"{written.path}: the layout {layout} has no place for the presence head, which was left out; with these "
            "weights nothing is known of whether an id is there at all",
            stacklevel=2,
        )
    return written


def average(
    sources: Sequence[Location],
    target: Location,
    *,
    shares: Sequence[float] | None = None,
    dtype: StoredDtype = "float32",
) -> WeightsInfo:
    """Write the mean of checkpoints of one configuration, and describe it.

    Weights and those that training went on to from them often do worse, each, than their mean (arXiv 2109.01903). The
    metadata is that of the first, with the SHA-256 and the share of each under "average".

    Args:
        shares: Their weights, equal by default.

    Raises:
        CheckpointError: the configurations differ; or as in :func:`load_model` and :func:`save_model`.
        ValueError: there are no checkpoints; or the shares are not as many, not finite, below 0, or add up to 0.
    """
    parts = [1.0] * len(sources) if shares is None else list(shares)
    if not sources or len(parts) != len(sources) or not all(0 <= p < math.inf for p in parts) or not sum(parts):
        raise ValueError(
            f"expected checkpoints and a share from 0 up for each, not all of them 0; got {len(sources)} checkpoints "
            f"and the shares {', '.join(f'{p:g}' for p in parts) or 'none'}"
        )
    parts = [part / sum(parts) for part in parts]
    infos, mean = [info(source) for source in sources], load_model(sources[0])
    sums = {name: value * parts[0] for name, value in mean.state_dict().items()}
    for found, part in zip(infos[1:], parts[1:], strict=True):
        if found.config != mean.config:
            raise CheckpointError(f"{found.path}: expected {mean.config} as in {infos[0].path}, got {found.config}")
        for name, value in load_model(found.path).state_dict().items():
            sums[name].add_(value, alpha=part)
    mean.load_state_dict(sums)
    made_of = [{"sha256": found.sha256, "share": round(part, 6)} for found, part in zip(infos, parts, strict=True)]
    save_model(target, mean, metadata={**infos[0].metadata, "average": json.dumps(made_of)}, dtype=dtype)
    return info(target)


def info(path: Location) -> WeightsInfo:
    """Describe a checkpoint. Names, shapes and dtypes are checked as in :func:`load_model`, values are not."""
    stored = layouts.read(Path(path))
    _checked(stored)
    return WeightsInfo(
        path=stored.path,
        layout=stored.layout,
        config=stored.config,
        parameters=sum(value.numel() for value in stored.tensors.values()),
        dtype=_dtype(stored),
        bytes=stored.path.stat().st_size,
        sha256=file_sha256(stored.path),
        metadata=stored.metadata,
    )


def fingerprint(model: SegGPT) -> str:
    """Compute a SHA-256 of weights that came from no file.

    It is of the parameters rounded to bfloat16, in which they may run.
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.to("cpu", torch.bfloat16).flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load(stored: Stored) -> SegGPT:
    model = _checked(stored)
    tensors = {name: value.to(torch.float32, copy=True).contiguous() for name, value in stored.tensors.items()}
    _refuse_non_finite(stored.path, tensors)
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval()


def _checked(stored: Stored) -> SegGPT:
    """Make the network for these tensors, on the meta device: shapes without memory.

    Raises:
        CheckpointError: They do not fit; every difference is named at once.
    """
    config = stored.config
    size = f"a network of width {config.width}, {config.depth} blocks, {config.heads} heads and side {config.side}"
    if config.depth > len(stored.tensors):  # before an absurd depth is built
        raise CheckpointError(f"{stored.path} describes {size}, and holds {len(stored.tensors)} tensors")
    try:
        with torch.device("meta"):
            model = SegGPT(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{stored.path} describes an impossible network: {first_line(error)}") from error
    spoken = layouts.transformers_name if stored.layout == "transformers" else str  # the words of the file
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    both = {name: value for name, value in stored.tensors.items() if name in expected}
    problems = {
        "missing": [spoken(name) for name in expected if name not in both],
        "surplus": [spoken(name) for name in stored.tensors if name not in expected],
        "misshapen": [
            f"{spoken(name)} {tuple(value.shape)} instead of {expected[name]}"
            for name, value in both.items()
            if tuple(value.shape) != expected[name]
        ],
        "of an unknown kind": [
            f"{spoken(name)} {value.dtype}"
            for name, value in both.items()
            if value.dtype not in STORED_DTYPES.values() or value.layout != torch.strided or value.device.type != "cpu"
        ],
    }
    found = "; ".join(f"{len(names)} {kind}: {some(names)}" for kind, names in problems.items() if names)
    if found:
        raise CheckpointError(f"{stored.path} does not fit {size}: {found}")
    return model


def _dtype(stored: Stored) -> StoredDtype | Literal["mixed"]:
    used = {value.dtype for value in stored.tensors.values()}
    return next((name for name, dtype in STORED_DTYPES.items() if used == {dtype}), "mixed")


def _refuse_non_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise CheckpointError(f"{path}: expected finite weights, got infinities or NaN in {some(bad)}")


def file_sha256(path: Path) -> str:
    """Make the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
