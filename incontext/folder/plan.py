"""What a folder job is: which pictures, and where the results of each go. Nothing is written or decoded here.

Everything that a user can get wrong about names is found before the first picture is segmented. Refuses to know the
network, and what is inside of files.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from incontext.formats import IMAGE_SUFFIXES, refuse_unwritable

StrPath: TypeAlias = str | os.PathLike[str]

_JPEG_MOST_PIXELS = 65_500  # along a side


@dataclass(frozen=True)
class Query:
    """A picture to segment. name: its path from the folder that it was found through; results are named after it."""

    path: Path
    name: PurePosixPath


@dataclass(frozen=True)
class FileReport:
    """What became of a file. ``error`` None: it was segmented; else it was skipped, and most other fields are None."""

    query: str  # its path, as it was found
    mask: str | None = None  # its path below the output folder
    ids: tuple[int, ...] | None = None  # that were found, ascending
    areas: dict[int, int] | None = None  # id -> pixels
    confidence: float | None = None  # mean over the picture, 0..1
    is_empty: bool | None = None  # nothing was found
    seconds: float = 0.0  # reading it, its share of its batch in the network, and writing
    error: str | None = None


@dataclass(frozen=True)
class FolderJob:
    """The pictures to segment and what to write for each; made by :func:`plan`."""

    queries: tuple[Query, ...]
    out: Path
    inputs: tuple[str, ...]
    prompt_files: tuple[tuple[Path, Path], ...]  # (image, mask), where the context came from files
    overlay: bool
    confidence: bool
    skipped: tuple[FileReport, ...]  # subfolders that cannot be read

    def mask_path(self, query: Query) -> Path:
        """Where a query's mask is written: its name, with the suffix .png."""
        return self.out / query.name.with_suffix(".png")

    def overlay_path(self, query: Query, shape: tuple[int, int]) -> Path:
        """Where a query's overlay is written: a JPEG, or a PNG where a side is longer than a JPEG can be."""
        suffix = ".jpg" if max(shape) <= _JPEG_MOST_PIXELS else ".png"
        return self.out / query.name.with_name(f"{query.name.stem}_overlay{suffix}")

    def confidence_path(self, query: Query) -> Path:
        """Where a query's confidence is written: an 8-bit grey PNG, black for 0 and white for 1."""
        return self.out / query.name.with_name(f"{query.name.stem}_confidence.png")


def plan(
    inputs: Iterable[StrPath],
    out: StrPath,
    *,
    overlay: bool = False,
    confidence: bool = False,
    prompt_files: Iterable[tuple[StrPath, StrPath]] = (),
    leave_out: Iterable[StrPath] = (),
) -> FolderJob:
    """Find the pictures and decide where their results go. Nothing is written.

    inputs: folders, whose pictures are found in all subfolders (hidden ones, what lies in ``out`` and files that are no
    pictures are passed over; links to folders are not followed); files, taken whatever they are; patterns such as
    ``PHOTOS/**/*.jpg``. Results keep the path from the folder, from the fixed part of the pattern, or just the file's
    name. Their order is that of the inputs, within each by name. overlay, confidence: write these beside each mask.
    prompt_files: the (image, mask) files of the context, for the report; no result may overwrite them, and a mask among
    them is no query. leave_out: other files that are no queries and are not overwritten, such as
    masks without a picture.

    Raises:
        FileNotFoundError: there is nothing at an input's path, or nothing that matches it.
        ValueError: there are no pictures, two would get results of the same name (for file systems that ignore case,
            too), a result would overwrite a picture, or ``out`` is a file, an input, or cannot be written to.
    """
    given, out = tuple(os.fspath(each) for each in inputs), Path(out)
    prompts = tuple((Path(image), Path(mask)) for image, mask in prompt_files)
    refuse_unwritable(out)
    search = _Search(out)
    left_out = tuple(map(Path, leave_out))
    masks = {search.place(mask) for mask in (*(mask for _, mask in prompts), *left_out)}
    found: dict[Path, Query] = {}
    for each in given:
        for query in search.find(Path(each)):
            if (place := search.place(query.path)) not in masks:
                found.setdefault(place, query)
    if not found:
        kinds, places = ", ".join(sorted(IMAGE_SUFFIXES)), ", ".join(given) or "the inputs"
        problems = "".join(f"; {report.error}" for report in search.unreadable)
        raise ValueError(f"expected pictures ({kinds}) in {places}, found none{problems}")
    job = FolderJob(tuple(found.values()), out, given, prompts, overlay, confidence, tuple(search.unreadable))
    _refuse_equal_names(job)
    _refuse_overwriting(job, search, left_out)
    return job


class _Search:
    """Finds pictures, and remembers which folders could not be read."""

    def __init__(self, out: Path) -> None:
        self.unreadable: list[FileReport] = []
        self._real_folders: dict[Path, Path] = {}  # what os.path.realpath said, as it asks the disk about every part
        self._out = Path(os.path.realpath(out))

    def place(self, path: Path) -> Path:
        """Where a file or link lies: the same for all ways to write its path. The name itself is not followed."""
        return self._real(path.parent) / path.name

    def find(self, given: Path) -> Iterator[Query]:
        if given.is_dir():
            if self._real(given) == self._out:
                raise ValueError(
                    f"{given}: expected another folder to write to than the one that is read, or masks and pictures "
                    f"get mixed; name a new one, such as {given / 'masks'}"
                )
            yield from (_query(path, given) for path in self._walk(given))
        elif os.path.lexists(given):
            yield _query(given, given.parent)
        elif wild := _wild_part(given):
            root = Path(*given.parts[: -len(wild)])
            yield from (_query(path, root) for path in self._match(root, str(Path(*wild)), given))
        else:
            raise FileNotFoundError(f"{given}: there is no such file or folder")

    def _match(self, root: Path, pattern: str, given: Path) -> Iterator[Path]:
        hits = sorted(hit for hit in root.glob(pattern) if not _is_hidden(hit.relative_to(root)))
        if not hits:
            raise FileNotFoundError(f"{given}: nothing matches this pattern")
        out_is_meant = self._is_in_out(root)
        for hit in hits:
            folder = hit if hit.is_dir() else hit.parent
            if self._is_in_out(folder) and not out_is_meant:
                continue
            if folder == hit:
                yield from self._walk(hit)
            elif is_picture(hit):
                yield hit

    def _walk(self, folder: Path) -> Iterator[Path]:
        """The pictures below a folder, its own first, then those of each subfolder in turn."""
        for parent, folders, files in os.walk(folder, onerror=self._note):
            folders[:] = sorted(n for n in folders if n[0] != "." and self._real(Path(parent, n)) != self._out)
            yield from (path for n in sorted(files) if n[0] != "." and is_picture(path := Path(parent, n)))

    def _is_in_out(self, folder: Path) -> bool:
        return self._real(folder).is_relative_to(self._out)

    def _real(self, folder: Path) -> Path:
        if folder not in self._real_folders:
            self._real_folders[folder] = Path(os.path.realpath(folder))
        return self._real_folders[folder]

    def _note(self, error: OSError) -> None:
        report = FileReport(str(error.filename), error=f"{error.filename}: cannot be read ({error.strerror})")
        if report not in self.unreadable:
            self.unreadable.append(report)


def _query(path: Path, root: Path) -> Query:
    return Query(path, PurePosixPath(path.relative_to(root).as_posix()))


def is_picture(path: Path) -> bool:
    """By its name; also a link that leads nowhere, which is then reported, but no pipe or device, which would block."""
    return path.suffix.lower() in IMAGE_SUFFIXES and (path.is_file() or not path.exists())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _wild_part(pattern: Path) -> tuple[str, ...]:
    """The parts of a path from the first with a wildcard on."""
    fixed = tuple(takewhile(lambda part: not set(part) & set("*?["), pattern.parts))
    return pattern.parts[len(fixed) :]


def _refuse_equal_names(job: FolderJob) -> None:
    taken: dict[str, Query] = {}
    for query in job.queries:
        for path in _results(job, query):
            other = taken.setdefault(alike(path), query)
            if other is not query:
                raise ValueError(
                    f"expected results of different names, but {other.path} and {query.path} would both write {path}; "
                    "rename one of them, leave one out, or give a folder above both so that subfolders are kept"
                )


def _refuse_overwriting(job: FolderJob, search: _Search, left_out: Iterable[Path]) -> None:
    prompts = (path for pair in job.prompt_files for path in pair)
    originals = [*(query.path for query in job.queries), *prompts, *left_out]
    kept = {alike(search.place(path)) for path in originals}
    for path in (path for query in job.queries for path in _results(job, query)):
        if alike(search.place(path)) in kept:
            raise ValueError(f"{path}: this result would overwrite a picture; choose another output folder")


def _results(job: FolderJob, query: Query) -> list[Path]:
    """Everything that may be written for a query."""
    paths = [job.mask_path(query)]
    if job.overlay:
        paths += [job.overlay_path(query, shape) for shape in ((1, 1), (1, _JPEG_MOST_PIXELS + 1))]
    if job.confidence:
        paths += [job.confidence_path(query)]
    return paths


def alike(path: Path) -> str:
    """Equal for paths that some file systems take for one: case and the way accents are written do not count."""
    return unicodedata.normalize("NFC", str(path)).casefold()
