"""What becomes of results beyond writing them: which are there already, tars of them, copies in remote folders.

A sink is what a run has; engines only know `Outputs`. It learns of images by their positions in the job. Refuses to
know what is inside of results, and how the journal is kept.
"""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from incontext.folder.outputs import TAR_NAME, Outputs, tar_name
from incontext.images.write import whole_file
from incontext.sources.find import read_member
from incontext.sources.places import RemoteFile, TarMember
from incontext.sources.remote import fetch_to, join, listing, remove, upload
from incontext.sources.tars import members_of

_UNDONE, _DONE, _FAILED = 0, 1, 2  # what became of an image


def sink_for(outputs: Outputs) -> FolderSink:
    """Make the sink that these outputs need."""
    if outputs.per_tar is not None:
        return TarSink(outputs)
    return FolderSink(outputs) if outputs.remote is None else RemoteSink(outputs)


class FolderSink:
    """Single files in a local folder: they are where they belong as soon as they are written."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs

    def fetch(self, report: str) -> None:
        """Get the report of that name that earlier runs left, where it is not here."""
        if self.outputs.remote is not None:
            fetch_to(join(self.outputs.remote, report), self.outputs.out / report)

    def look(self) -> None:
        """Find out which results are there; before `holds`."""

    def forget(self, *, wrote_tars: bool) -> None:
        """Forget, in place of `look`, whatever is there: everything is done anew.

        Args:
            wrote_tars: So did the last run there.
        """

    def holds(self, mask: str) -> bool:
        """Tell whether a mask, as reports call it, is there: what belongs to it was written before it.

        An empty file, which a power cut leaves, is no mask.
        """
        return _is_written((self.outputs.folder or self.outputs.out) / mask)

    def called(self, position: int, mask: str) -> str:  # noqa: ARG002  in a tar, it depends on the position
        """Name a mask as reports do: by its path below the output folder."""
        return mask

    def name(self, mask: str) -> str:
        """Find the mask of what reports call it: the reverse of `called`."""
        return mask

    def expect(self, name: PurePosixPath | None) -> None:
        """Note that the next position is that of the query of this name; None: of what has no results."""

    def settle(self, kept: Iterable[int]) -> None:
        """Note that these images were done by earlier runs; now others will be."""

    def done(self, position: int, *, failed: bool) -> None:
        """Note that an image is finished, and in the journal."""

    def close(self) -> None:
        """Finish, as all images are."""

    def publish(self, report: Path) -> None:
        """Put the report where the results are."""
        if self.outputs.remote is not None:
            upload(join(self.outputs.remote, report.name), report)


class RemoteSink(FolderSink):
    """Single files in a remote folder, uploaded as they are written."""

    def __init__(self, outputs: Outputs) -> None:
        super().__init__(outputs)
        self._there: frozenset[str] = frozenset()

    def look(self) -> None:
        """List what is there."""
        self._there = frozenset(below for file, below in _listed(self.outputs.remote or "") if file.size != 0)

    def holds(self, mask: str) -> bool:
        """Tell whether a mask is there."""
        return mask in self._there


class TarSink(FolderSink):
    """Tars of the results of so many images, in the order of the queries; the same results are the same bytes.

    Results are single files in a hidden folder until all images of their tar are finished. So nothing is lost when a
    run is killed, and images may be finished in any order. Where a tar's images are others than in an earlier run,
    it is unpacked and packed anew.
    """

    def __init__(self, outputs: Outputs) -> None:
        super().__init__(outputs)
        self._size = outputs.per_tar or 1
        self._unpacked = outputs.folder or outputs.out
        self._names: list[PurePosixPath | None] = []  # by position
        self._states = bytearray()
        self._open: Counter[int] = Counter()  # by tar: how many of its images are not finished
        self._left: dict[int, list[TarMember] | None] = {}  # what is in tars of earlier runs, None: they are broken
        self._held: frozenset[str] = frozenset()
        self._packed: set[int] = set()  # tars that are there, with nothing but results of this job
        self._stale: set[int] = set()  # of those, the ones to be packed anew

    def look(self) -> None:
        """Find the tars that are whole, and the single files of the others."""
        for number, tar in self._tars():
            members, is_whole = members_of(tar)
            self._left[number] = members if is_whole else None
        self._held = frozenset(member.name for members in self._left.values() for member in members or ())

    def forget(self, *, wrote_tars: bool) -> None:
        """Remove what earlier runs left half done, and their tars where these were of a run that wrote tars."""
        shutil.rmtree(self._unpacked, ignore_errors=True)
        for number, _ in self._tars() if wrote_tars else ():
            self._remove(number)

    def holds(self, mask: str) -> bool:
        """Tell whether a mask is in a whole tar or waits as a single file."""
        return self.name(mask) in self._held or _is_written(self._unpacked / self.name(mask))

    def called(self, position: int, mask: str) -> str:
        """Name a mask as reports do: by its tar and its name in it."""
        return f"{tar_name(position // self._size)}/{mask}"

    def name(self, mask: str) -> str:
        """Find the mask of what reports call it: the reverse of `called`."""
        return mask.partition("/")[2]

    def expect(self, name: PurePosixPath | None) -> None:
        """Note the name of the next position, by which its tar is known."""
        self._open[len(self._names) // self._size] += 1
        self._names.append(name)
        self._states.append(_UNDONE)

    def settle(self, kept: Iterable[int]) -> None:
        """Note which images were done before, and pack the tars that are complete by that."""
        for position in kept:
            self._mark(position, _DONE)
        for number, members in self._left.items():
            if members is not None and self._fits(number, [member.name for member in members]):
                self._packed.add(number)
            else:
                self._unpack(number, members or [])
        self._left, self._held = {}, frozenset()
        for number in range(len(self._names) // self._size):
            self._pack(number)

    def done(self, position: int, *, failed: bool) -> None:
        """Note that an image is finished, and pack its tar where it was the last one."""
        number = position // self._size
        if self._states[position] == _DONE or not failed:
            self._stale.add(number)
        self._mark(position, _FAILED if failed else _DONE)
        if (number + 1) * self._size <= len(self._names):
            self._pack(number)

    def close(self) -> None:
        """Pack what is left."""
        for number in self._open:
            self._pack(number)
        shutil.rmtree(self._unpacked, ignore_errors=True)

    def _mark(self, position: int, state: int) -> None:
        self._open[position // self._size] -= self._states[position] == _UNDONE
        self._states[position] = state

    def _tars(self) -> Iterator[tuple[int, Path | RemoteFile]]:
        """List those that earlier runs left, with their numbers."""
        if self.outputs.remote is None:
            there = ((path.name, path) for path in sorted(self.outputs.out.glob("*.tar")))
            yield from ((int(name[:-4]), path) for name, path in there if TAR_NAME.fullmatch(name))
        else:
            listed = _listed(self.outputs.remote)
            yield from ((int(below[:-4]), file) for file, below in listed if TAR_NAME.fullmatch(below))

    def _queries(self, number: int) -> Iterator[PurePosixPath]:
        """List the names of a tar's images that are done."""
        positions = range(number * self._size, min(len(self._names), (number + 1) * self._size))
        for position in positions:
            if (name := self._names[position]) is not None and self._states[position] == _DONE:
                yield name

    def _fits(self, number: int, members: Sequence[str]) -> bool:
        """Tell whether a tar holds what is done of its images, and nothing else."""
        there = set(members)
        in_order = [each for name in self._queries(number) for each in self.outputs.names(name) if each in there]
        masks = (self.outputs.mask_name(name) for name in self._queries(number))
        return list(members) == in_order and there.issuperset(masks)

    def _unpack(self, number: int, members: Iterable[TarMember]) -> None:
        """Make single files of a tar again, where there are no newer ones."""
        for member in members:
            if not (self._unpacked / member.name).exists():
                self.outputs.put(member.name, read_member(member))
        self._remove(number)

    def _remove(self, number: int) -> None:
        tar = self.outputs.place(tar_name(number))
        if isinstance(tar, Path):
            tar.unlink()
        else:
            remove(tar.url)

    def _pack(self, number: int) -> None:
        """Write a tar, if all of its images are finished and it is not there as it should be."""
        if self._open[number]:
            return
        results = [each for name in self._queries(number) for each in self.outputs.names(name)]
        single = {name for name in results if (self._unpacked / name).exists()}
        if number in self._packed and number not in self._stale and not single:
            return
        old = (
            {each.name: each for each in members_of(self.outputs.place(tar_name(number)))[0]}
            if number in self._packed
            else {}
        )
        masks = {self.outputs.mask_name(name) for name in self._queries(number)}
        path = self.outputs.out / tar_name(number)
        with whole_file(path) as stream:
            self._write(stream, [name for name in results if name in single or name in old or name in masks], old)
        if self.outputs.remote is not None:
            upload(join(self.outputs.remote, path.name), path)
            path.unlink()
        self._packed.add(number)
        self._stale.discard(number)
        for name in single:
            (self._unpacked / name).unlink()

    def _write(self, stream: BinaryIO, names: Iterable[str], old: Mapping[str, TarMember]) -> None:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in names:
                single = self._unpacked / name
                data = read_member(old[name]) if name in old and not single.exists() else single.read_bytes()
                info = tarfile.TarInfo(name)  # its time is 0, and its owner
                info.size = len(data)
                tar.addfile(info, BytesIO(data))


def _is_written(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _listed(url: str) -> list[tuple[RemoteFile, str]]:
    try:
        return listing(url) or []
    except FileNotFoundError:
        return []
