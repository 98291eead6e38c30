"""The files of other models' weights: where they lie on this machine, their hash, and how they get here.

Nothing is fetched but by `download`: everything else asks the disk alone. Refuses to know what is inside (opening.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from incontext.network.layouts import CheckpointError, first_line
from incontext.prompters.registry import Entry, registry

# What is of use in a repository. Weights in other formats than that of transformers lie beside them in some.
_ABOUT: Final = ("*.json", "*.txt", "*.model")
_SAFETENSORS: Final = ("model.safetensors", "model-*-of-*.safetensors")
_PICKLED: Final = ("pytorch_model.bin", "pytorch_model-*-of-*.bin")
_HASHED: Final = frozenset({".json", ".txt", ".model", ".safetensors", ".bin"})


@dataclass(frozen=True)
class Files:
    """The files of a model on this machine.

    Attributes:
        name: The registry's name, or the path that was given.
        folder: Holds `config.json`, the weights, and what the processor needs.
        family: `model_type` of `config.json`.
    """

    name: str
    folder: Path
    family: str

    @property
    def sha256(self) -> str:
        """SHA-256 over all files that matter: what changes when any of them does."""
        return _sha256(self.folder)


def find_files(name_or_path: str | os.PathLike[str]) -> Files:
    """Find a model's files by a name of the registry, else by the path of a folder. Asks no network.

    Raises:
        FileNotFoundError: It is not on this machine.
        CheckpointError: The folder is not one that transformers saves.
    """
    name = os.fspath(name_or_path)
    entry = registry().get(name) if isinstance(name_or_path, str) else None
    if entry is not None:
        folder = cached_folder(entry)
        if folder is None:
            raise FileNotFoundError(_not_here(entry))
        return Files(name, folder, _family(folder))
    folder = Path(name)
    if not folder.exists():
        raise FileNotFoundError(
            f"there is no folder {name!r} and no model of that name; expected a folder with config.json and "
            f"model.safetensors, or one of {', '.join(registry())}"
        )
    return Files(name, folder, _family(folder))


def cached_folder(entry: Entry) -> Path | None:
    """Return where an entry's files lie in the hub's cache, None where they, or some, are missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for weights in (_SAFETENSORS, _PICKLED):
        try:
            found = snapshot_download(entry.repository, allow_patterns=[*_ABOUT, *weights], local_files_only=True)
        except LocalEntryNotFoundError:
            continue
        folder = Path(found)
        if (folder / "config.json").is_file() and any(_weights(folder)):
            return folder
    return None


def download(name: str, *, say: Callable[[str], None]) -> Path:
    """Fetch the files of a name into the hub's cache, the licence said first.

    Args:
        name: Of the registry.
        say: Called with sentences for the user, before anything is fetched.

    Returns:
        The folder that they lie in.

    Raises:
        ValueError: There is no such name.
        PermissionError: The repository is gated, and this user may not read it.
        FileNotFoundError: There is no such repository (any more), or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, snapshot_download

    entry = registry().get(name)
    if entry is None:
        raise ValueError(f"there is no model named {name!r}; expected one of {', '.join(registry())}")
    try:
        about = HfApi().model_info(entry.repository)
        say(_terms(entry, about))
        patterns = [*_ABOUT, *_weights_of(about)]
        folder = Path(snapshot_download(entry.repository, revision=about.sha, allow_patterns=patterns))
    except Exception as error:  # those of the hub's client and its HTTP library change with their versions
        raise _in_a_sentence(entry, error) from error
    if cached_folder(entry) is None:
        raise FileNotFoundError(
            f"{entry.repository} holds no config.json with weights in the layout of transformers; what it has lies "
            f"in {folder}"
        )
    return folder


def _terms(entry: Entry, about: Any) -> str:
    """Say what the card says by now, beside what the registry says."""
    card = getattr(about, "card_data", None)
    stated = getattr(card, "license_name", None) or getattr(card, "license", None) or "none stated"
    size = f", about {entry.size}" if entry.size else ""
    return (
        f"{entry.name}: {entry.repository}{size}. Licence on its card: {stated}; here it is noted as {entry.terms}. "
        "Using the weights is on its terms."
    )


def _weights_of(about: Any) -> tuple[str, ...]:
    """Return the patterns of the weights, safetensors where there are any."""
    files = {each.rfilename for each in about.siblings or ()}
    pickled = not any(each.startswith("model") and each.endswith(".safetensors") for each in files)
    return _PICKLED if pickled else _SAFETENSORS


def _in_a_sentence(entry: Entry, error: Exception) -> OSError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"{entry.repository} is gated: its owners give access on request. Ask for it on the repository's page, "
            f"log in with `hf auth login`, then: incontext prompters download {entry.name}"
        )
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"the hub has no repository {entry.repository} that you may see; it may have moved or become private"
        )
    return FileNotFoundError(
        f"the hub cannot be reached for {entry.repository} ({first_line(error)}); run `incontext prompters download "
        f"{entry.name}` where there is a network, or give the path of a folder that holds the files"
    )


def _not_here(entry: Entry) -> str:
    how = f"incontext prompters download {entry.name}"
    what = f"{entry.name!r} ({entry.repository}; {entry.terms}) is not on this machine, and nothing is fetched unasked"
    if entry.gated:
        return f"{what}; it is gated: ask for access on the repository's page, log in with `hf auth login`, then: {how}"
    return f"{what}; fetch it with: {how}"


def _weights(folder: Path) -> list[Path]:
    return [path for pattern in (*_SAFETENSORS, *_PICKLED) for path in folder.glob(pattern)]


def _family(folder: Path) -> str:
    config = folder / "config.json"
    if not config.is_file() or not _weights(folder):
        raise CheckpointError(
            f"{folder}: expected a folder as transformers saves it, with config.json and model.safetensors, "
            f"got one without {'weights' if config.is_file() else 'config.json'}"
        )
    try:
        family = json.loads(config.read_bytes())["model_type"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{config}: expected JSON with a model_type, got something else ({error})") from None
    return str(family)


def _sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _HASHED:
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
