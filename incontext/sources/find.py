"""What is to be read: the images at an address, those of a list; and how any of them is fetched.

Refuses to know what is inside of an image, and local folders, which plan.py walks.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from incontext.images.text import encoding_of
from incontext.sources.places import (
    WEB,
    Found,
    Place,
    Problem,
    RemoteFile,
    TarMember,
    is_hidden,
    is_image_name,
    is_tar_name,
    named,
    protocol,
    shown,
    within,
)
from incontext.sources.remote import MOST_BYTES, fetch, fetch_part, is_pattern, listing, too_long
from incontext.sources.tars import find_in_tar

_LIST = "expected a list of paths and addresses, a line each"
_LONGEST_NAME = 4096  # bytes: nearly all systems allow no longer paths
_CONTROLS = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f]")  # which no text has, but for colours of a terminal


# --------------------------------------------------------------------------------------------- reading


def contents(place: Place) -> Path | bytes:
    """Give an image what `read_image` takes: a local file's path as it is, the bytes of anything else.

    Raises:
        FileNotFoundError: There is no such remote file.
        ValueError: It cannot be fetched, is larger than 1 GiB, or its tar has changed.
        OSError: A local tar cannot be read.
    """
    if isinstance(place, Path):
        return place
    if isinstance(place, RemoteFile):
        return fetch(place)
    if place.size > MOST_BYTES:
        raise ValueError(f"{place}: {too_long()}")
    return read_member(place)


def read_member(member: TarMember) -> bytes:
    """Read the contents of a file in a tar.

    Raises:
        OSError, ValueError: the tar cannot be read, or has changed.
    """
    if isinstance(member.tar, Path):
        data = _part_of_file(member.tar, member)
    else:
        data = fetch_part(member.tar, member.offset, member.size)
    if len(data) != member.size:
        raise ValueError(f"{member}: expected {member.size} bytes, got {len(data)}; has the tar changed meanwhile?")
    return data


def _part_of_file(tar: Path, member: TarMember) -> bytes:
    with tar.open("rb") as stream:
        stream.seek(member.offset)
        return stream.read(member.size)


def version(place: Place) -> str | None:
    """Tell what changes when an image does: its size in bytes and the time of its last change.

    What stands for that in a listing will do. None: it is gone, or nothing is known without a request.
    """
    if isinstance(place, TarMember):
        of_tar = version(place.tar)
        return None if of_tar is None else f"{place.size}-{of_tar}"
    if isinstance(place, RemoteFile):
        return None if place.stamp is None else f"{place.size}-{place.stamp}"
    try:
        status = place.stat()
    except OSError:
        return None
    return f"{status.st_size}-{status.st_mtime_ns}"


# --------------------------------------------------------------------------------------------- finding


def find_remote(url: str, passed_over: Counter[str] | None = None) -> Iterator[Found | Problem]:
    """Find the images at an address: itself; those below a folder, hidden ones passed over; those of a pattern.

    Args:
        passed_over: Counts files that are no images, by suffix.

    What ends like an image is taken for one and looked at when it is read; a tar counts as a folder. Folders of the
    web cannot be listed. In the order of their names.

    Raises:
        FileNotFoundError: there is nothing at the address, or nothing matches.
        ValueError: it cannot be listed, or a package is missing.
    """
    name = file_name(url)
    is_web = protocol(url) in WEB
    if is_web and (not name or "*" in url):
        raise ValueError(
            f"{shown(url)}: expected the address of one image or tar, as folders of the web cannot be listed; "
            "give the addresses one by one, or a list of them on stdin with -"
        )
    if is_tar_name(name) and not is_pattern(url):
        yield from find_in_tar(RemoteFile(url), passed_over)
    elif is_web or (is_image_name(name) and not is_pattern(url)):
        yield named(RemoteFile(url), name)
    else:
        yield from _find_listed(url, passed_over)


def _find_listed(url: str, passed_over: Counter[str] | None) -> Iterator[Found | Problem]:
    listed = listing(url)
    if listed is None:
        yield named(RemoteFile(url), file_name(url))
        return
    for file, below in listed:
        if is_hidden(PurePosixPath(below)):
            continue
        if is_tar_name(below):
            yield from within(find_in_tar(file, passed_over), PurePosixPath(below).with_suffix(""))
        elif is_image_name(below):
            yield named(file, below)
        elif passed_over is not None and not is_pattern(url):
            passed_over[PurePosixPath(below).suffix.lower() or "no suffix"] += 1


def file_name(url: str) -> str:
    """Take the last part of a URL's path, as a file would be called."""
    name = shown(url).partition("://")[2].partition("/")[2].rpartition("/")[2]
    return unquote(name) if protocol(url) in WEB else name


# ----------------------------------------------------------------------------------------------- lists


def read_list(data: bytes) -> list[str]:
    """Read the paths and addresses of a list: a line each, or a zero byte after each, as `find -print0` has it.

    Empty lines are passed over. Text with a mark of UTF-8, UTF-16 or UTF-32 at its beginning is decoded, and so is
    UTF-16 without one.

    Raises:
        ValueError: it is no list of names, such as an image, an archive, JSON or HTML.
    """
    encoding, mark = encoding_of(data)
    if encoding != "utf-8":
        try:
            data = os.fsencode(data[mark:].decode(encoding))
        except UnicodeError:
            raise ValueError(f"{_LIST}, got text that is broken in {encoding}; save the list as UTF-8") from None
        mark = 0
    lines = [line for each in data[mark:].split(_separator(data)) if (line := each.rstrip(b"\r\n"))]
    for number, line in enumerate(lines, start=1):
        if _CONTROLS.search(line) or len(line) > _LONGEST_NAME:
            raise ValueError(f"{_LIST}, got something else in line {number}, which begins with {line[:20]!r}")
    names = [os.fsdecode(line) for line in lines]
    if names and names[0].lstrip()[:1] in {"{", "[", "<"} and not os.path.lexists(names[0]):
        raise ValueError(f"{_LIST}, got JSON or HTML, as it seems, which begins with {names[0][:20]!r}")
    return names


def _separator(data: bytes) -> bytes:
    return b"\0" if b"\0" in data else b"\n"


def below_common_folder(places: Sequence[Path | RemoteFile]) -> Iterator[Found | Problem]:
    """Name files of a list by their path from the folder that all of them share."""
    parts = [_parts(place) for place in places]
    folders = [each[:-1] for each in parts]
    least, most = min(folders, default=()), max(folders, default=())
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(least, most, strict=False)))
    for place, each in zip(places, parts, strict=True):
        yield named(place, "/".join(each[shared:]))


def _parts(place: Path | RemoteFile) -> tuple[str, ...]:
    if isinstance(place, Path):
        return Path(os.path.normpath(place.absolute())).parts[1:]
    kind, _, rest = shown(place.url).partition("://")
    host, *path = (part for part in rest.split("/") if part)
    return (kind, host.replace(":", "_"), *(unquote(part) if kind in WEB else part for part in path))
