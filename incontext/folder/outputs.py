"""Where the results of each image go. Small: it travels to other processes.

Refuses to know what is inside of results (work.py), which images there are (plan.py) and which are done (sinks.py).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from incontext.images.gate import below
from incontext.images.write import remove_half_written, whole_file
from incontext.sources.places import RemoteFile, shown
from incontext.sources.remote import join, upload

TAR_NAME: Final = re.compile(r"(?:[0-9]{6}|[1-9][0-9]{6,})\.tar")  # as `tar_name` names them
UNPACKED: Final = ".unpacked"  # below the output folder: results that are not in their tar yet

_JPEG_MOST_PIXELS = 65_500  # along a side


@dataclass(frozen=True)
class Outputs:
    """What is written for each query, and where. name: a query's path from the folder that it was found through.

    Attributes:
        out: The local folder of journal and report; and of the results, unless they go elsewhere.
        remote: The address of a folder that they go to in its place, see `folder_for`.
        per_tar: The results of so many images go into one tar, in the layout of WebDataset: what belongs to one
            image differs after a dot of the name.
    """

    out: Path
    overlay: bool = False
    confidence: bool = False
    remote: str | None = None
    per_tar: int | None = None

    @property
    def where(self) -> str:
        """What users know as the output."""
        return str(self.out) if self.remote is None else shown(self.remote)

    @property
    def folder(self) -> Path | None:
        """Where single files are written. None: they are uploaded."""
        if self.per_tar is not None:
            return self.out / UNPACKED
        return self.out if self.remote is None else None

    @property
    def draws_later(self) -> bool:
        """Whether overlays can be added to masks that are there: to single files in a local folder."""
        return self.remote is None and self.per_tar is None

    def at(self, out: Path) -> Outputs:
        """Describe the same results as single files in a local folder."""
        return replace(self, out=out, remote=None, per_tar=None)

    def mask_name(self, name: PurePosixPath) -> str:
        """Name a mask's path below the output folder: the query's name, with the suffix .png."""
        return name.with_suffix(".png").as_posix()

    def overlay_name(self, name: PurePosixPath, shape: tuple[int, int]) -> str:
        """Name an overlay: a JPEG, or a PNG where a side is longer than a JPEG can be."""
        suffix = ".jpg" if max(shape) <= _JPEG_MOST_PIXELS else ".png"
        return self._beside(name, f"overlay{suffix}")

    def confidence_name(self, name: PurePosixPath) -> str:
        """Name a confidence: an 8-bit grey PNG, black for 0 and white for 1."""
        return self._beside(name, "confidence.png")

    def names(self, name: PurePosixPath) -> list[str]:
        """Name everything that may be written for a query, the mask first."""
        names = [self.mask_name(name)]
        if self.overlay:
            names += [self.overlay_name(name, shape) for shape in ((1, 1), (1, _JPEG_MOST_PIXELS + 1))]
        if self.confidence:
            names += [self.confidence_name(name)]
        return names

    def files(self, names: Iterable[PurePosixPath]) -> Iterator[str]:
        """Name everything that may be there in the end for these queries, as single files or as tars."""
        if self.per_tar is None:
            yield from (each for name in names for each in self.names(name))
        else:
            yield from (
                tar_name(number // self.per_tar) for number, _ in enumerate(names) if number % self.per_tar == 0
            )

    def all_paths(self, name: PurePosixPath) -> list[Path]:
        """List the paths of all of them below ``out``."""
        return [self.out / each for each in self.names(name)]

    def place(self, name: str) -> Path | RemoteFile:
        """Find where a result, or a tar, of this name is in the end."""
        return self.out / name if self.remote is None else RemoteFile(join(self.remote, name))

    def put(self, name: str, content: bytes) -> None:
        """Write a result; it appears whole or not at all.

        Raises:
            OSError, ValueError: it cannot be written.
        """
        if self.folder is None:
            upload(join(self.remote or "", name), content)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(below(self.folder, PurePosixPath(name))) as stream:
            stream.write(content)

    def sweep(self, names: Iterable[PurePosixPath]) -> None:
        """Remove what a killed run had half written beside the results of these queries."""
        folder = self.folder or self.out
        for each in {self.out, folder, *(folder / parent for parent in {name.parent for name in names})}:
            remove_half_written(each)

    def _beside(self, name: PurePosixPath, ending: str) -> str:
        return name.with_name(f"{name.stem}{'_' if self.per_tar is None else '.'}{ending}").as_posix()


def tar_name(number: int) -> str:
    """Name the tar of that number, from 0."""
    return f"{number:06d}.tar"


def folder_for(address: str) -> Path:
    """Choose the local folder that stands for a remote one: in the user's cache, the same for each run of a job."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "incontext", "jobs", hashlib.sha256(address.encode()).hexdigest()[:16])
