"""Weights that have a name: the manifest, the embedded files, downloads, and their checks.

Refuses to know what is inside of a file (checkpoint.py).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from incontext.images.write import whole_file
from incontext.network.checkpoint import Location, WeightsInfo, convert, file_sha256, info, load_model
from incontext.network.config import ModelConfig
from incontext.network.layouts import CheckpointError, first_line
from incontext.options import StoredDtype
from incontext.words import did_you_mean


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
    """Find the folder of the manifest and the embedded weights: in an installed package, beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


def registry() -> dict[str, Entry]:
    """Read the entries of ``manifest.json`` by name, in its order."""
    rows = json.loads((weights_folder() / "manifest.json").read_text(encoding="utf-8"))
    entries = (
        Entry(**{**row, "config": ModelConfig(**row["config"]), "hub": Hub(**row["hub"]) if "hub" in row else None})
        for row in rows
    )
    return {entry.name: entry for entry in entries}


def resolve(name_or_path: Location) -> Path:
    """Find weights by a name of the registry, else by their path.

    What is not on this machine is downloaded.

    A name wins over a file of the same name, which ``./name`` or a Path reaches. Embedded files are checked against the
    manifest's SHA-256 (milliseconds); those of the hub when they are downloaded.

    Raises:
        FileNotFoundError: neither a name nor a path; or not in the cache, and the hub does not give it.
        CheckpointError: the file is not the one that the manifest describes.
    """
    entry = _named(name_or_path)
    if entry is None and not Path(name_or_path).exists():
        raise FileNotFoundError(
            f"there is no file {os.fspath(name_or_path)!r} and no weights of that name; "
            f"expected a path or one of {', '.join(registry())}{did_you_mean(os.fspath(name_or_path), registry())}"
        )
    if entry is None:
        return Path(name_or_path)
    cached = cached_path(entry) if entry.hub is not None else None
    return cached or download(entry.name)


def cached_path(entry: Entry) -> Path | None:
    """Find where an entry's file lies on this machine, None where it would have to be downloaded. Asks no network."""
    if entry.hub is None:
        path = weights_folder() / (entry.file or "")
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(entry.hub.repo, entry.hub.filename, revision=entry.hub.revision)
    return Path(found) if isinstance(found, str) else None


def download(name: str) -> Path:
    """Bring named weights into the hub's cache, with a progress bar, and check their SHA-256.

    Errors as in :func:`resolve`. Embedded weights are there already.
    """
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
    if entry.sha256 is not None and (found := file_sha256(path)) != entry.sha256:
        raise CheckpointError(
            f"{path} is not the file that the manifest names {entry.name!r}: expected SHA-256 {entry.sha256}, "
            f"got {found}; delete it and fetch it again"
        )
