"""Where an image may lie: a local file, a file behind an address, or a member of a tar. Values that travel anywhere.

Refuses to know how any of them is found (remote.py, tars.py) or fetched (find.py).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

from incontext.images.gate import checked_name
from incontext.images.read import IMAGE_SUFFIXES

TAR_SUFFIX: Final = ".tar"
WEB: Final = frozenset({"http", "https"})

StrPath: TypeAlias = str | os.PathLike[str]

_LOGIN = re.compile(r"^([a-zA-Z0-9+.-]+://)[^/]*@")


@dataclass(frozen=True)
class RemoteFile:
    """A file that fsspec reaches.

    As text: its address without a login and, on the web, without what follows the path, which often is a signature.

    Attributes:
        size, stamp: Its bytes, and what changes with it, where a listing has told them.
    """

    url: str
    size: int | None = None
    stamp: str | None = None

    def __str__(self) -> str:
        return shown(self.url)


@dataclass(frozen=True)
class TarMember:
    """A file inside of a tar that is not compressed.

    Attributes:
        offset, size: Of its contents, in bytes from the tar's start.
    """

    tar: Path | RemoteFile
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}/{self.name}"


Place: TypeAlias = Path | RemoteFile | TarMember
"""Where an image lies. Its text is what reports call it."""

Found: TypeAlias = tuple[Place, PurePosixPath]
"""An image, and its name below the source that it was found in."""


@dataclass(frozen=True)
class Problem:
    """Something in a source that cannot be used, while the rest of it can.

    Attributes:
        error: A sentence that names the place.
    """

    place: str
    error: str


def protocol(url: str) -> str:
    """Take what stands before ://, in small letters."""
    return url.partition("://")[0].lower()


def shown(url: str) -> str:
    """Write a URL as people and reports may see it, see `RemoteFile`."""
    plain = _LOGIN.sub(r"\1", url)
    return re.split(r"[?#]", plain, maxsplit=1)[0] if protocol(url) in WEB else plain


def is_image_name(name: str) -> bool:
    """Tell whether it is the name of an image, by its suffix."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def is_image(path: Path) -> bool:
    """Tell whether it is an image, by its name; a link to nowhere too, which is then reported; no pipe or device."""
    return is_image_name(path.name) and may_be_read(path)


def may_be_read(path: Path) -> bool:
    """Tell whether it is a file, or nothing at all, which is then reported: no folder, pipe or device."""
    return path.is_file() or not path.exists()


def alike(path: Place) -> str:
    """Make equal the paths that some file systems take for one: case and the way accents are written do not count."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def is_tar_name(name: str) -> bool:
    """Tell whether it is the name of a tar, by its suffix."""
    return PurePosixPath(name).suffix.lower() == TAR_SUFFIX


def is_hidden(name: PurePosixPath) -> bool:
    """Tell whether a part of this relative path begins with a dot. What points upwards is not hidden, but refused."""
    return any(part.startswith(".") and part != ".." for part in name.parts)


def named(place: Place, name: str) -> Found | Problem:
    """Put an image under a name that others have chosen, which must stay below the folder that it is put into."""
    try:
        return place, checked_name(name)
    except ValueError as error:
        return Problem(str(place), f"{place}: {error}; rename it")


def within(found: Iterable[Found | Problem], folder: PurePosixPath) -> Iterator[Found | Problem]:
    """Name the same images as in a subfolder."""
    for each in found:
        yield each if isinstance(each, Problem) else (each[0], folder / each[1])
