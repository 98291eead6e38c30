"""The folders that the user opened for the page: what may be read from disk by name, and nothing beside it.

Refuses to know the page. A link that leads out of a folder is not followed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

MOST_LISTED: Final = 500  # entries of a list that people choose from
_DEEPEST: Final = 4  # folders below an opened one that are looked into for such a list


@dataclass(frozen=True)
class Places:
    """Opened folders, as real paths."""

    folders: tuple[Path, ...]

    @classmethod
    def open(cls, folders: Iterable[str | os.PathLike[str]]) -> Places:
        """Open folders.

        Raises:
            ValueError: One is no folder.
        """
        opened = []
        for each in folders:
            if not Path(each).is_dir():
                raise ValueError(f"{os.fspath(each)}: expected a folder to open for the page, got none; name another")
            opened.append(Path(os.path.realpath(each)))
        return cls(tuple(dict.fromkeys(opened)))

    def allows(self, path: str | os.PathLike[str]) -> bool:
        """Tell whether it lies in an opened folder once all links are followed."""
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(folder) for folder in self.folders)

    def check(self, path: str | os.PathLike[str]) -> Path:
        """Return the real path.

        Raises:
            ValueError: It lies outside.
        """
        if not self.allows(path):
            opened = ", ".join(map(str, self.folders)) or "none"
            raise ValueError(
                f"{os.fspath(path)}: expected something in the folders that were opened for this page ({opened}); "
                "start it with --folder DIR to open others"
            )
        return Path(os.path.realpath(path))

    def below(self, folder: Path) -> Iterator[Path]:
        """List the files of an opened folder and its subfolders that are allowed, without hidden ones, by name."""
        for parent, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if name[0] != ".")
            paths = (Path(parent, name) for name in sorted(files) if name[0] != ".")
            yield from (path for path in paths if self.allows(path))

    def listed(self, wanted: Callable[[Path], bool]) -> list[str]:
        """List the folders and files in opened folders that are wanted, those of upper folders first."""
        return [str(path) for path in islice(filter(wanted, self._walk()), MOST_LISTED)]

    def _walk(self) -> Iterator[Path]:
        for root in self.folders:
            for parent, folders, files in os.walk(root):
                here = Path(parent)
                deep = len(here.relative_to(root).parts)
                folders[:] = [] if deep >= _DEEPEST else sorted(name for name in folders if name[0] != ".")
                yield here
                yield from (here / name for name in sorted(files) if name[0] != "." and self.allows(here / name))
