"""Images in tars, found by the headers: nothing is unpacked, and a remote tar is not copied.

Refuses to know what is inside of images, and who reads them.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from incontext.sources.places import Found, Problem, RemoteFile, TarMember, is_hidden, is_image_name, named
from incontext.sources.remote import opened

MASK_WORDS: Final = frozenset({"mask", "masks", "label", "labels", "gt", "seg", "segmentation"})  # before a suffix
_BLOCK = 512  # bytes of a header


def find_in_tar(tar: Path | RemoteFile, passed_over: Counter[str] | None = None) -> Iterator[Found | Problem]:
    """Find the images in a tar, in its order, named as in it; hidden ones are passed over, and what is no image.

    An image whose name is that of another one and a word for masks, NAME.seg.png beside NAME.jpg, is no photograph,
    but a mask of that one's sample, and passed over, too. passed_over: counts what is, by suffix.

    A tar that is broken or cut off gives what comes before, then a `Problem`; so do names that point out of the tar,
    names that come twice, links and sparse files. Nothing is raised.
    """
    seen: set[PurePosixPath] = set()
    samples = _Samples()
    try:
        with _opened(tar) as (stream, size):
            for member in headers(stream, size):
                if isinstance(member, str):
                    yield Problem(str(tar), f"{tar}: {member}")
                elif member.offset_data + member.size > size and not member.issparse():
                    yield Problem(str(tar), f"{tar}: the tar is cut off in the middle of {member.name}; copy it again")
                    break
                elif _is_meant(member):
                    yield from samples.settle(_checked(tar, member, seen))
                elif passed_over is not None and not member.isdir() and not is_hidden(PurePosixPath(member.name)):
                    passed_over[PurePosixPath(member.name).suffix.lower() or "no suffix"] += 1
    except OSError as error:
        text = error.strerror or str(error)
        yield Problem(str(tar), text if str(tar) in text else f"{tar}: cannot be read ({text})")
    except ValueError as error:
        yield Problem(str(tar), str(error))
    yield from samples.rest()
    if passed_over is not None and samples.masks:
        passed_over["masks of samples"] += samples.masks


class _Samples:
    """Images of a tar in samples: those that share a name up to its first dot and follow each other."""

    def __init__(self) -> None:
        self.masks = 0
        self._key: PurePosixPath | None = None
        self._photographs = False
        self._waiting: list[Found] = []  # what may be a mask, as long as no photograph of its sample has come

    def settle(self, found: Found | Problem) -> Iterator[Found | Problem]:
        """Give on what is known by now to be no mask."""
        if isinstance(found, Problem):
            yield found
            return
        name = found[1]
        key, _, rest = name.name.partition(".")
        if name.with_name(key or name.name) != self._key:
            yield from self.rest()
            self._key, self._photographs = name.with_name(key or name.name), False
        if rest.rpartition(".")[0].rpartition(".")[2].lower() not in MASK_WORDS:
            self._photographs = self._photographs or "." not in rest
            self.masks += len(self._waiting) if self._photographs else 0
            self._waiting = [] if self._photographs else self._waiting
            yield found
        elif self._photographs:
            self.masks += 1
        else:
            self._waiting.append(found)

    def rest(self) -> Iterator[Found]:
        """Give on what had no photograph beside it."""
        yield from self._waiting
        self._waiting = []


def _is_meant(member: tarfile.TarInfo) -> bool:
    return is_image_name(member.name) and not member.isdir() and not is_hidden(PurePosixPath(member.name))


def _checked(tar: Path | RemoteFile, member: tarfile.TarInfo, seen: set[PurePosixPath]) -> Found | Problem:
    place = TarMember(tar, member.name, member.offset_data, member.size)
    found = named(place, member.name)
    if isinstance(found, Problem):
        return found
    if not member.isreg() or member.issparse():
        return Problem(str(place), f"{place}: expected a plain file in the tar, got a link or the like; pack it anew")
    if found[1] in seen:
        return Problem(str(place), f"{place}: comes twice in the tar; the first one is used")
    seen.add(found[1])
    return found


def members_of(tar: Path | RemoteFile) -> tuple[list[TarMember], bool]:
    """List the plain files in a tar that stay inside of a folder; and tell whether the tar is whole.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    members: list[TarMember] = []
    is_whole = True
    with _opened(tar) as (stream, size):
        for member in headers(stream, size):
            if isinstance(member, str):
                is_whole = False
            elif member.isreg() and member.offset_data + member.size <= size:
                place = TarMember(tar, member.name, member.offset_data, member.size)
                members += [] if isinstance(named(place, member.name), Problem) else [place]
    return members, is_whole


def _opened(tar: Path | RemoteFile) -> AbstractContextManager[tuple[BinaryIO, int]]:
    return _file(tar) if isinstance(tar, Path) else opened(tar)


@contextmanager
def _file(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    with path.open("rb") as stream:
        yield stream, os.fstat(stream.fileno()).st_size


def headers(stream: BinaryIO, size: int) -> Iterator[tarfile.TarInfo | str]:
    """Read the members of a tar of `size` bytes; last, where it has no proper end, a sentence about that.

    In constant memory, and for hostile headers too in finite time.
    """
    count = 0
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            before = -1
            while (member := tar.next()) is not None:
                if tar.offset <= before:  # a size below 0 leads back to the same header, for ever
                    yield f"the tar is broken after {count} members (a size below 0)"
                    return
                before, count = tar.offset, count + 1
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                yield member
            if size < tar.offset + _BLOCK:
                yield f"the tar has no end mark after its {count} members; it may be cut off"
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  broken headers make tarfile raise nearly anything
        what = "; ".join(str(error).split("\n")) or type(error).__name__
        if count:
            yield f"the tar is broken or cut off after {count} members ({what}); copy it again"
        else:
            yield f"expected a tar without compression, got something else or a broken one ({what})"
