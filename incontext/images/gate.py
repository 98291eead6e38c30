"""The gate for names that files of others choose and that become paths: what they name stays inside of one folder.

Knows paths and nothing else. Whatever is refused is a ValueError in one sentence that names it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath, PurePosixPath
from typing import Final

MOST_BYTES: Final = 255  # of one part of a path: nearly all file systems hold no more

_SEPARATORS: Final = re.compile(r"[/\\]")
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MOST_LETTERS: Final = 80  # of a name in a sentence


def checked_name(text: object) -> PurePosixPath:
    """Make a name that a file of others says a path that stays inside of the folder it is put into.

    Raises:
        ValueError: it is no text, empty, absolute, leads out of the folder ("..", a drive's letter), has a part of more
            than 255 bytes, or holds a control character. Backslashes count as separators: on some systems they are.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"expected a name, got {_brief(text)}")
    if _CONTROLS.search(text):
        raise ValueError(f"expected a name without control characters, got {_brief(text)}")
    path, parts = PurePosixPath(text), _SEPARATORS.split(text)
    if not parts[0] or ".." in parts or _DRIVE.match(text):
        raise ValueError(f"expected a name inside of its folder, got {_brief(text)}")
    if not path.name:
        raise ValueError(f"expected a name, got {_brief(text)}")
    if any(len(os.fsencode(part)) > MOST_BYTES for part in path.parts):
        raise ValueError(f"expected a name of at most {MOST_BYTES} bytes, got {_brief(text)}")
    return path


def stays_inside(text: str) -> bool:
    """Tell whether a path leads to something below the folder that it starts from, as far as names tell."""
    path = PurePath(text)
    return bool(path.name) and not path.anchor and ".." not in path.parts and "\0" not in text


def below(folder: Path, name: PurePath) -> Path:
    """Find where a file of that name is written below a folder, in a subfolder that is there when this returns.

    Raises:
        ValueError: the name leads out of the folder, or a link on the way does.
        OSError: the subfolder cannot be made.
    """
    path = folder / name
    if not stays_inside(str(name)):
        raise ValueError(f"expected a name inside of {folder}, got {_brief(name.as_posix())}")
    folder_below(folder, path.parent.relative_to(folder))
    return path


def folder_below(folder: Path, name: str | PurePath) -> Path:
    """Make a subfolder, if need be, of a folder that is there.

    Raises:
        ValueError: It is a link that leads out of it.
    """
    path = folder / name
    if not (real := Path(os.path.realpath(path))).is_relative_to(os.path.realpath(folder)):
        raise ValueError(f"{path}: expected a folder inside of {folder}, got a link to {real}; remove the link")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + " ..."
