"""Where a benchmark's data lie: folders are told by what is in them, as archives unpack to different depths.

Refuses to know what the files mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from incontext.images.names import natural_order

_DEPTH = 3  # folders below the one that is named
_MOST_FOLDERS = 64  # in a folder that is looked into: more are the data themselves


@dataclass(frozen=True)
class Part:
    """Something that a layout has: any of these paths below its root, files or folders.

    Attributes:
        what: It is, for people.
    """

    paths: tuple[str, ...]
    what: str

    def found(self, root: Path) -> Path | None:
        """Find where it lies, the first path that exists."""
        return next((root / path for path in self.paths if (root / path).exists()), None)


def find(data: Path, title: str, parts: Sequence[Part], *, prefer: str | None = None) -> Path:
    """Find the folder, `data` itself or one below it, that has all parts of a layout.

    Args:
        prefer: The name of the folder to take where several have them.

    Raises:
        FileNotFoundError: none has them all; the message names the part that is missing where most are there. Or there
            are several, and none of the preferred name.
        ValueError: several have them, and it cannot be told which is meant.
    """
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: there is no such folder")
    folders = list(folders_below(data))
    whole = [folder for folder in folders if all(part.found(folder) for part in parts)]
    named = [folder for folder in whole if folder.resolve().name == prefer]
    if len(named or whole) > 1:
        several = ", ".join(map(str, named or whole))
        if prefer is not None and not named:
            raise FileNotFoundError(f"{data}: expected a folder {prefer} with {title}, got {several}")
        raise ValueError(f"{data}: expected one folder with {title}, got {several}; name the one that is meant")
    if whole:
        return (named or whole)[0]
    best = max(folders, key=lambda folder: sum(part.found(folder) is not None for part in parts))
    missing = next(part for part in parts if part.found(best) is None)
    expected = " or ".join(str(best / path) for path in missing.paths)
    raise FileNotFoundError(
        f"{title}: expected {expected} ({missing.what}), there is none; docs/protocols.md names the files"
    )


def folders_below(data: Path) -> Iterator[Path]:
    """List a folder and those below it, the upper ones first."""
    level = [data]
    for _ in range(_DEPTH + 1):
        yield from level
        below = [subfolders(folder) for folder in level]
        level = [each for inside in below if len(inside) <= _MOST_FOLDERS for each in inside]


def subfolders(folder: Path) -> list[Path]:
    """List the folders in a folder, hidden ones left out, in natural order."""
    return sorted((path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."), key=natural_order)


def beside(root: Path, data: Path, paths: Sequence[str]) -> Path | None:
    """Find a file or folder that may lie in a layout's root, or in a folder between it and `data`."""
    ups = [root, *(folder for folder in root.parents if folder.is_relative_to(data))]
    return next((folder / path for folder in ups for path in paths if (folder / path).exists()), None)


def lines_of(path: Path) -> list[str]:
    """Read the lines of a text file, without empty ones."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def check_files(paths: Sequence[Path], what: str) -> None:
    """Look whether files are there.

    Raises:
        FileNotFoundError: Some are missing: the first of them is named, and how many there are.
    """
    if missing := [path for path in paths if not path.is_file()]:
        others = len(missing) - 1
        more = f", nor {'is' if others == 1 else 'are'} {others} more" if others else ""
        raise FileNotFoundError(f"{missing[0]}: expected this file ({what}), it is not there{more}")
