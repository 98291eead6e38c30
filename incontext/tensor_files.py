"""Files of learned tensors: what a safetensors file says of itself, in one entry of its metadata.

Knows safetensors. Refuses to know what the tensors are for. Trusts nothing that it reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open


class RefusedFileError(ValueError):
    """A file cannot be used; the message names it."""


def has_record(path: str | os.PathLike[str], entry: str) -> bool:
    """Tell whether a file is safetensors with this entry in its metadata; nothing else of it is checked."""
    if not Path(path).is_file():
        return False
    try:
        with safe_open(path, framework="numpy") as file:
            return entry in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def check_file(path: Path, what: str, most_bytes: int) -> None:
    """Refuse what is no file, or a larger one than can be right.

    Args:
        path: The file.
        what: What it should hold, such as "a prompt tensor".
        most_bytes: Its largest size.

    Raises:
        FileNotFoundError: There is nothing at the path.
        RefusedFileError: It is a folder, or too large.
    """
    if not path.exists():
        noun = what.removeprefix("a ")
        raise FileNotFoundError(f"there is no {noun} at {path}" if noun != what else f"there are no {what} at {path}")
    if not path.is_file():
        raise RefusedFileError(f"{path}: expected {what}, got a folder")
    if (size := path.stat().st_size) > most_bytes:
        raise RefusedFileError(f"{path}: expected {what} of at most {most_bytes >> 20} MiB, got {size >> 20}")


def read_record(
    path: Path, metadata: Mapping[str, str] | None, entry: str, what: str, formats: Collection[int]
) -> dict[str, Any]:
    """Read the entry of a file's metadata, a JSON object with a known ``format``.

    Args:
        path: The file, for messages.
        metadata: Of the open file.
        entry: The name of the entry.
        what: What the file should hold, such as "a prompt tensor".
        formats: Those that this version reads.

    Raises:
        RefusedFileError: There is no such entry, it is no such object, or its format is another.
    """
    text = (metadata or {}).get(entry)
    if text is None:
        raise RefusedFileError(f"{path}: expected {what}, got another safetensors file")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedFileError(f"{path}: expected {what} with metadata as JSON, got something else ({error})") from None
    if not isinstance(record, dict):
        raise RefusedFileError(f"{path}: expected {what} with metadata as a JSON object, got {type(record).__name__}")
    if record.get("format") not in formats:
        raise RefusedFileError(
            f"{path}: expected {what} of format {' or '.join(map(str, formats))}, got "
            f"{str(record.get('format'))[:40]!r}; it may come from another version of incontext"
        )
    return record
