"""Weights on disk <-> the network, and the registry of weights that have a name.

:mod:`incontext.network.layouts` knows the files; here their tensors are checked against the network, name by name.
It refuses to know devices, precision at run time and pictures: a model comes out in float32, on the CPU, in eval mode.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from incontext.images.write import whole_file
from incontext.network import layouts
from incontext.network.layouts import LAYOUTS, CheckpointError, Layout, Stored, first_line, some
from incontext.network.model import ModelConfig, SegGPT

__all__ = [
    "LAYOUTS",
    "STORED_DTYPES",
    "CheckpointError",
    "Entry",
    "Hub",
    "Layout",
    "StoredDtype",
    "WeightsInfo",
    "average",
    "cached_path",
    "convert",
    "download",
    "fingerprint",
    "info",
    "load_model",
    "read_config",
    "register",
    "registry",
    "resolve",
    "save_model",
    "verify",
    "weights_folder",
]

Location = str | os.PathLike[str]
StoredDtype = Literal["float32", "float16", "bfloat16"]
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
    """The configuration of a checkpoint, stored or inferred. Errors as in :func:`load_model`."""
    return _checked(layouts.read(Path(path))).config


def save_model(
    path: Location,
    model: SegGPT,
    *,
    metadata: Mapping[str, str] | None = None,
    layout: Layout = "incontext",
    dtype: StoredDtype = "float32",
) -> None:
    """Write a model: a file, or a folder of two for "transformers". Each file appears whole or not at all.

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

    The weights stay the same to the last bit unless ``dtype`` rounds them. Errors as in :func:`load_model` and
    :func:`save_model`.
    """
    stored = layouts.read(Path(source))
    used = _dtype(stored)
    kept = "float32" if used == "mixed" else used
    save_model(target, _load(stored), metadata=stored.metadata, layout=layout, dtype=dtype or kept)
    return info(target)


def average(
    sources: Sequence[Location],
    target: Location,
    *,
    shares: Sequence[float] | None = None,
    dtype: StoredDtype = "float32",
) -> WeightsInfo:
    """Write the mean of checkpoints of one configuration, and describe it. shares: their weights, equal by default.

    Weights and those that training went on to from them often do worse, each, than their mean (arXiv 2109.01903). The
    metadata is that of the first, with the SHA-256 and the share of each under "average".

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
        sha256=_sha256(stored.path),
        metadata=stored.metadata,
    )


def fingerprint(model: SegGPT) -> str:
    """A SHA-256 of weights that came from no file: of the parameters rounded to bfloat16, in which they may run."""
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
    """The network for these tensors, on the meta device: shapes without memory. Every difference is named at once."""
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


# --- the registry: weights with a name


@dataclass(frozen=True)
class Hub:
    """One file of a repository on the Hugging Face hub."""

    repo: str
    filename: str
    revision: str


@dataclass(frozen=True)
class Entry:
    """Weights with a name: a ``file`` of the weights folder, or a file on the ``hub``. ``sha256`` None: unknown."""

    name: str
    description: str
    source: str
    licence: str
    config: ModelConfig
    sha256: str | None = None
    file: str | None = None
    hub: Hub | None = None


def weights_folder() -> Path:
    """The folder of the manifest and the embedded weights: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


def registry() -> dict[str, Entry]:
    """The entries of ``manifest.json`` by name, in its order."""
    rows = json.loads((weights_folder() / "manifest.json").read_text(encoding="utf-8"))
    entries = (
        Entry(**{**row, "config": ModelConfig(**row["config"]), "hub": Hub(**row["hub"]) if "hub" in row else None})
        for row in rows
    )
    return {entry.name: entry for entry in entries}


def resolve(name_or_path: Location) -> Path:
    """Find weights by a name of the registry, else by their path. What is not on this machine is downloaded.

    A name wins over a file of the same name, which ``./name`` or a Path reaches. Embedded files are checked against
    the manifest's SHA-256 (milliseconds); those of the hub when they are downloaded.

    Raises:
        FileNotFoundError: neither a name nor a path; or not in the cache, and the hub does not give it.
        CheckpointError: the file is not the one that the manifest describes.
    """
    entry = _named(name_or_path)
    if entry is None and not Path(name_or_path).exists():
        raise FileNotFoundError(
            f"there is no file {os.fspath(name_or_path)!r} and no weights of that name; "
            f"expected a path or one of {', '.join(registry())}"
        )
    if entry is None:
        return Path(name_or_path)
    cached = cached_path(entry) if entry.hub is not None else None
    return cached or download(entry.name)


def cached_path(entry: Entry) -> Path | None:
    """Where an entry's file lies on this machine, None where it would have to be downloaded. Asks no network."""
    if entry.hub is None:
        path = weights_folder() / (entry.file or "")
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(entry.hub.repo, entry.hub.filename, revision=entry.hub.revision)
    return Path(found) if isinstance(found, str) else None


def download(name: str) -> Path:
    """Bring named weights into the hub's cache, with a progress bar, and check their SHA-256. Errors as in
    :func:`resolve`. Embedded weights are there already."""
    entry = _named(name)
    if entry is None:
        raise FileNotFoundError(f"there are no weights named {name!r}; expected one of {', '.join(registry())}")
    path = _fetch(entry, entry.hub) if entry.hub is not None else cached_path(entry)
    if path is None:
        raise FileNotFoundError(f"the embedded weights {name!r} are not in {weights_folder()}; reinstall incontext")
    _check_sha256(path, entry)
    return path


def verify(name_or_path: Location) -> WeightsInfo:
    """Check weights completely, every value included, and named ones against the manifest's SHA-256 and configuration.

    Errors as in :func:`resolve` and :func:`load_model`.
    """
    path = resolve(name_or_path)
    load_model(path)
    found = info(path)
    entry = _named(name_or_path)
    if entry is not None:
        _check_sha256(path, entry)
        if found.config != entry.config:
            raise CheckpointError(f"{path}: expected the manifest's {entry.config}, got {found.config}")
    return found


def register(
    checkpoint: Location,
    *,
    description: str,
    source: str,
    licence: str,
    name: str = "default",
    dtype: StoredDtype = "float16",
) -> Entry:
    """Embed a checkpoint: write it into the weights folder, and its entry with the SHA-256 into the manifest.

    For developers in a checkout: the only way in, so that files and manifest are never out of step. Errors as in
    :func:`convert`.
    """
    entries = registry()
    written = convert(checkpoint, weights_folder() / f"{name}.safetensors", dtype=dtype)
    entry = Entry(name, description, source, licence, written.config, written.sha256, file=written.path.name)
    # A new name goes first: what is embedded comes before what has to be downloaded.
    entries = {**entries, name: entry} if name in entries else {name: entry, **entries}
    rows = [{key: value for key, value in asdict(row).items() if value is not None} for row in entries.values()]
    with whole_file(weights_folder() / "manifest.json") as stream:
        stream.write(json.dumps(rows, indent=2).encode() + b"\n")
    return entry


def _named(name: Location) -> Entry | None:
    return registry().get(name) if isinstance(name, str) else None


def _fetch(entry: Entry, hub: Hub) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        # One question first: where there is no network, hf_hub_download repeats its own for 20 seconds.
        get_hf_file_metadata(hf_hub_url(hub.repo, hub.filename, revision=hub.revision))
        return Path(hf_hub_download(hub.repo, hub.filename, revision=hub.revision))
    except Exception as error:  # the HTTP library of the hub's client, and so its errors, changes with its version
        cached = cached_path(entry)
        if cached is not None:
            return cached
        raise FileNotFoundError(
            f"{entry.name!r} ({hub.repo}/{hub.filename}) is not in the cache and cannot be fetched from the hub "
            f"({first_line(error)}); download it on a machine with network with "
            f"`incontext weights download {entry.name}` or pass --weights PATH"
        ) from error


def _check_sha256(path: Path, entry: Entry) -> None:
    if entry.sha256 is not None and (found := _sha256(path)) != entry.sha256:
        raise CheckpointError(
            f"{path} is not the file that the manifest names {entry.name!r}: expected SHA-256 {entry.sha256}, "
            f"got {found}; delete it and fetch it again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
