"""What a folder of labelled images says of itself, in its dataset.json. Refuses to know images and masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "dataset.json"


def described(folder: Path) -> dict[str, Any]:
    """Read what the file says of a set; nothing where there is no such file.

    Raises:
        ValueError: The file, which is named, holds something else than an object.
    """
    path = folder / FILE
    try:
        about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got something else ({error})") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(about).__name__}")
    return about


def has_regions(folder: Path) -> bool:
    """Tell whether the ids of its masks are regions of their own image, which mean nothing in another one."""
    return _masks(folder).startswith("regions")


def has_instances(folder: Path) -> bool:
    """Tell whether the ids of its masks count things of one kind."""
    return _masks(folder).startswith("instances")


def _masks(folder: Path) -> str:
    return str(described(folder).get("masks", ""))
