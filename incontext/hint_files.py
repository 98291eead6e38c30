"""Files of hints for several images, by the names of these, or for frames of a video, by their numbers.

Refuses to know images and videos.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from incontext.hints import KEYS, Hints, read_json
from incontext.images.write import whole_file


def load_many(path: str | os.PathLike[str]) -> dict[str, Hints]:
    """Read the hints of several images: a JSON object with hints by the images' names, or by frames' numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else; with the file's name.
    """
    content, file = read_json(Path(path)), os.fspath(path)
    if not isinstance(content, dict) or not content or set(content) <= set(KEYS.values()):
        raise ValueError(f"{file}: expected hints by the names of images, as {{NAME: {{points: ...}}}}, got others")
    found = {}
    for name, each in content.items():
        try:
            found[name] = Hints.from_json(each)
        except ValueError as error:
            raise ValueError(f"{file}, {name}: {error}") from None
    return found


def save_many(path: str | os.PathLike[str], hints: Mapping[str, Hints]) -> None:
    """Write what :func:`load_many` reads; the file appears whole or not at all."""
    with whole_file(path) as stream:
        stream.write((json.dumps({name: each.to_json() for name, each in hints.items()}) + "\n").encode())
