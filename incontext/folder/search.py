"""Images in the inputs of a job: local folders, files, patterns and tars; addresses; lists of any of them.

Refuses to know what becomes of them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path, PurePosixPath

from incontext.folder.outputs import Outputs
from incontext.folder.report import FileReport
from incontext.sources.find import below_common_folder, file_name, find_remote
from incontext.sources.places import (
    WEB,
    Found,
    Place,
    Problem,
    RemoteFile,
    TarMember,
    is_hidden,
    is_image,
    is_image_name,
    is_tar_name,
    may_be_read,
    protocol,
    shown,
    within,
)
from incontext.sources.remote import is_pattern, path_or_address
from incontext.sources.tars import find_in_tar


class Search:
    """Finds images, and remembers what could not be read.

    Args:
        needs_inputs, needs_matches: An input that is not there, a pattern that matches nothing is a mistake.
    """

    def __init__(self, outputs: Outputs, *, needs_inputs: bool, needs_matches: bool) -> None:
        self._needs_inputs, self._needs_matches = needs_inputs, needs_matches
        self.unreadable: list[FileReport] = []
        self.passed_over: Counter[str] = Counter()  # files that are no images by their names, by suffix
        self._real_folders: dict[Path, Path] = {}  # what os.path.realpath said, as it asks the disk about every part
        self._out = Path(os.path.realpath(outputs.out))
        self._remote = None if outputs.remote is None else _plain(outputs.remote)

    def place(self, place: Place) -> Place:
        """Find where an image lies: the same for all ways to write its path. The name itself is not followed."""
        if isinstance(place, Path):
            return self._real(place.parent) / place.name
        if isinstance(place, RemoteFile):
            return RemoteFile(_plain(place.url))
        return TarMember(self._real(place.tar) if isinstance(place.tar, Path) else place.tar, place.name, 0, 0)

    def find(self, given: str) -> Iterator[Found]:
        """Find the images of one input; see `plan.plan`.

        Raises:
            FileNotFoundError: there is nothing.
            ValueError: it is the output folder, or an address that cannot be read.
        """
        source = path_or_address(given)
        if isinstance(source, Path):
            yield from self._find_local(source)
            return
        if _plain(source) == self._remote:
            raise ValueError(_same(shown(source), f"{shown(source).rstrip('/')}/masks"))
        out_is_meant = self._is_result(source)
        try:
            for place, name in self._noted(find_remote(source, self.passed_over)):
                file = place.tar if isinstance(place, TarMember) else place
                if out_is_meant or not (isinstance(file, RemoteFile) and self._is_result(file.url)):
                    yield place, name
        except FileNotFoundError:
            if self._needs_matches if is_pattern(source) else self._needs_inputs:
                raise

    def find_listed(self, lines: Iterable[str]) -> Iterator[Found]:
        """Find the images of a list. What cannot be found in it is noted, or fails when it is read."""
        parts: list[list[Found] | Path | RemoteFile] = [self._line(line) for line in lines]
        files = [part for part in parts if not isinstance(part, list)]
        found = below_common_folder(files)
        for part in parts:
            yield from part if isinstance(part, list) else self._noted([next(found)])

    def _line(self, line: str) -> list[Found] | Path | RemoteFile:
        """Find what a line stands for, or one file, which will be named later."""
        source = path_or_address(line)
        try:
            if isinstance(source, Path):
                return list(self._find_local(source)) if source.is_dir() or is_tar_name(source.name) else source
            name = file_name(source)
            if not is_tar_name(name) and (is_image_name(name) or protocol(source) in WEB) and not is_pattern(source):
                return RemoteFile(source)
            return list(self.find(line))
        except (OSError, ValueError) as error:
            self._add(shown(str(source)), str(error))
            return []

    def _find_local(self, given: Path) -> Iterator[Found]:
        if given.is_dir():
            if self._real(given) == self._out and self._remote is None:
                raise ValueError(_same(str(given), str(given / "masks")))
            yield from self._named(self._walk(given), given)
        elif is_tar_name(given.name) and os.path.lexists(given):
            yield from self._noted(find_in_tar(given, self.passed_over))
        elif os.path.lexists(given):
            yield given, PurePosixPath(given.name)
        elif wild := _wild_part(given):
            root = Path(*given.parts[: -len(wild)])
            yield from self._named(self._match(root, str(Path(*wild)), given), root)
        elif self._needs_inputs:
            raise FileNotFoundError(f"{given}: there is no such file or folder")

    def _named(self, paths: Iterable[Path], root: Path) -> Iterator[Found]:
        """Name files by their paths from a folder, and what is in a tar as if it were in a folder of its name."""
        for path in paths:
            name = PurePosixPath(path.relative_to(root).as_posix())
            if is_tar_name(name.name):
                yield from self._noted(within(find_in_tar(path, self.passed_over), name.with_suffix("")))
            else:
                yield path, name

    def _match(self, root: Path, pattern: str, given: Path) -> Iterator[Path]:
        hits = sorted(hit for hit in root.glob(pattern) if not is_hidden(PurePosixPath(hit.relative_to(root))))
        if not hits and self._needs_matches:
            raise FileNotFoundError(f"{given}: nothing matches this pattern")
        out_is_meant = self._is_in_out(root)
        for hit in hits:
            folder = hit if hit.is_dir() else hit.parent
            if self._is_in_out(folder) and not out_is_meant:
                continue
            if folder == hit:
                yield from self._walk(hit)
            elif is_source(hit):
                yield hit

    def _walk(self, folder: Path) -> Iterator[Path]:
        """List the images and tars below a folder, its own first, then those of each subfolder in turn."""
        for parent, folders, files in os.walk(folder, onerror=self._note):
            folders[:] = sorted(n for n in folders if n[0] != "." and self._real(Path(parent, n)) != self._out)
            for path in (Path(parent, n) for n in sorted(files) if n[0] != "."):
                if is_source(path):
                    yield path
                else:
                    self.passed_over[path.suffix.lower() or "no suffix"] += 1

    def _is_in_out(self, folder: Path) -> bool:
        return self._real(folder).is_relative_to(self._out)

    def _is_result(self, url: str) -> bool:
        """Tell whether a remote file lies where results go."""
        return self._remote is not None and _plain(url).startswith(f"{self._remote}/")

    def _real(self, folder: Path) -> Path:
        if folder not in self._real_folders:
            self._real_folders[folder] = Path(os.path.realpath(folder))
        return self._real_folders[folder]

    def _noted(self, found: Iterable[Found | Problem]) -> Iterator[Found]:
        for each in found:
            if isinstance(each, Problem):
                self._add(each.place, each.error)
            else:
                yield each

    def _note(self, error: OSError) -> None:
        self._add(str(error.filename), f"{error.filename}: cannot be read ({error.strerror})")

    def _add(self, what: str, error: str) -> None:
        report = FileReport(what, error=error)
        if report not in self.unreadable:
            self.unreadable.append(report)


def is_source(path: Path) -> bool:
    """Tell whether it is an image, or may hold some."""
    return is_image(path) or (is_tar_name(path.name) and may_be_read(path))


def _same(given: str, other: str) -> str:
    return (
        f"{given}: expected another folder to write to than the one that is read, or masks and images get mixed; "
        f"name a new one, such as {other}"
    )


def _wild_part(pattern: Path) -> tuple[str, ...]:
    """Take the parts of a path from the first with a wildcard on."""
    fixed = tuple(takewhile(lambda part: not set(part) & set("*?["), pattern.parts))
    return pattern.parts[len(fixed) :]


def _plain(url: str) -> str:
    """Write an address in one way, whichever of the usual ones it came in."""
    kind, _, rest = url.partition("://")
    return f"{ {'s3a': 's3', 'gcs': 'gs'}.get(kind.lower(), kind.lower()) }://{rest.strip('/')}"
