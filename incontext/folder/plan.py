"""What a folder job is: which images, and where the results of each go. Nothing is written or decoded here.

Everything that a user can get wrong about names is found before the first image is segmented. Refuses to know the
network, and what is inside of files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePath, PurePosixPath
from typing import Final

from incontext.folder.outputs import TAR_NAME, Outputs, folder_for
from incontext.folder.report import FileReport
from incontext.folder.search import Search
from incontext.hints import Hints
from incontext.images.read import IMAGE_SUFFIXES
from incontext.images.write import refuse_unwritable
from incontext.sources.find import file_name
from incontext.sources.pages import paged
from incontext.sources.places import (
    WEB,
    Place,
    RemoteFile,
    StrPath,
    TarMember,
    alike,
    is_image_name,
    is_tar_name,
    protocol,
    shown,
)
from incontext.sources.remote import is_address, is_pattern, path_or_address, refuse_unwritable_address

STDIN: Final = "-"  # among the inputs: a list


@dataclass(frozen=True, slots=True)  # slots: there may be very many
class Query:
    """An image to segment.

    Attributes:
        name: Its path from the folder that it was found through; results are named after it.
        page: Of a file of several images, from 0.
        hints: What is said of it.
    """

    place: Place
    name: PurePosixPath
    page: int | None = None
    hints: Hints | None = None

    def __str__(self) -> str:
        """Return what messages call it."""
        return str(self.place) if self.page is None else f"{self.place} (page {self.page + 1})"


@dataclass(frozen=True)
class FolderJob:
    """The images to segment and what to write for each; made by :func:`plan`."""

    queries: tuple[Query, ...]
    outputs: Outputs
    inputs: tuple[str, ...]
    prompt_files: tuple[tuple[Path, Path], ...]  # (image, mask), where the context came from files
    skipped: tuple[FileReport, ...]  # subfolders that cannot be read, and whatever else of the inputs
    left_out: tuple[Path, ...] = ()  # other files that are no queries and are not overwritten
    listed: tuple[str, ...] = ()  # what "-" among the inputs stands for
    names: Mapping[int, str] = field(default_factory=dict)  # what ids mean, for the report
    pages: bool = False  # each page of a file is a query
    marked: Mapping[PurePosixPath, Path] = field(default_factory=dict)  # masks by a prompter, by names of queries
    marked_by: Mapping[str, object] = field(default_factory=dict)  # which one, and for what: masks depend on it
    passed_over: Mapping[str, int] = field(default_factory=dict)  # files of the inputs that are no images, by suffix


def plan(
    inputs: Iterable[StrPath],
    out: StrPath,
    *,
    overlay: bool = False,
    confidence: bool = False,
    prompt_files: Iterable[tuple[StrPath, StrPath]] = (),
    leave_out: Iterable[StrPath] = (),
    listed: Iterable[StrPath] = (),
    per_tar: int | None = None,
    watch: bool = False,
    pages: bool = False,
) -> FolderJob:
    """Find the images and decide where their results go.

    Nothing is written.

    What is wrong with one member of a tar, or one line of a list, does not keep the others from being segmented.

    Args:
        inputs: Folders, whose images are found in all subfolders (hidden ones, what lies in ``out`` and files that
            are no images are passed over; links to folders are not followed); files, taken whatever they are;
            patterns such as ``PHOTOS/**/*.jpg``. Results keep the path from the folder, from the fixed part of the
            pattern, or just the file's name. Their order is that of the inputs, within each by name. A tar counts as a
            folder, in its own order. Addresses of images, tars, folders and patterns, such as ``s3://bucket/photos``,
            are inputs like any other, and ``out`` may be the address of a folder.
        overlay, confidence: Write these beside each mask.
        prompt_files: The (image, mask) files of the context, for the report; no result may overwrite them, and a mask
            among them is no query.
        leave_out: Other files that are no queries and are not overwritten, such as masks without an image.
        listed: Files, folders, tars and addresses that the input ``-`` stands for; the files are named by their path
            from the folder that all of them share.
        per_tar: Write tars of the results of so many images.
        watch: Images will come later, so there may be none yet.
        pages: Each page of a TIFF, and each frame of a DICOM file, is an image, named NAME_p001 and so on; such files
            are opened to count them.

    Raises:
        FileNotFoundError: there is nothing at an input's path, or nothing that matches it.
        ValueError: there are no images, two would get results of the same name (for file systems that ignore case,
            too), a result would overwrite an image, an address cannot be used, or ``out`` is a file, an input, or
            cannot be written to.
    """
    given = tuple(os.fspath(each) for each in inputs)
    if watch:
        _refuse_unwatchable(given)
    prompts = tuple((Path(image), Path(mask)) for image, mask in prompt_files)
    outputs = _outputs(out, overlay=overlay, confidence=confidence, per_tar=per_tar)
    lines = tuple(os.fspath(each) for each in listed)
    job = FolderJob((), outputs, given, prompts, (), tuple(map(Path, leave_out)), lines, pages=pages)
    search = Search(outputs, needs_inputs=True, needs_matches=not watch)
    found = tuple(_queries(job, search))
    if not found and not watch:
        kinds, places = ", ".join(sorted(IMAGE_SUFFIXES)), ", ".join(map(shown, given)) or "the inputs"
        problems = "".join(f"; {report.error}" for report in search.unreadable)
        raise ValueError(f"expected images ({kinds}) in {places}, found none{problems}")
    job = replace(job, queries=found, skipped=tuple(search.unreadable), passed_over=dict(search.passed_over))
    _refuse_equal_names(job)
    _refuse_overwriting(job, search)
    return job


def look_again(job: FolderJob) -> Iterator[Query]:
    """Find what is in the inputs of a plan by now. An input that is gone, or cannot be read, is passed over."""
    yield from _queries(job, Search(job.outputs, needs_inputs=False, needs_matches=False))


def _outputs(out: StrPath, *, overlay: bool, confidence: bool, per_tar: int | None) -> Outputs:
    """Decide where results go.

    Raises:
        ValueError: Nothing can be written there.
    """
    if per_tar is not None and per_tar < 1:
        raise ValueError(f"expected at least 1 image in a tar, got {per_tar}")
    where = path_or_address(out)
    if isinstance(where, Path):
        refuse_unwritable(where)
        return Outputs(where, overlay, confidence, per_tar=per_tar)
    refuse_unwritable_address(where)
    address = where.rstrip("/")
    return Outputs(folder_for(address), overlay, confidence, address, per_tar)


def _refuse_unwatchable(given: Iterable[str]) -> None:
    for each in given:
        name = file_name(each)
        if each == STDIN or (
            is_address(each)
            and (protocol(each) in WEB or ((is_image_name(name) or is_tar_name(name)) and not is_pattern(each)))
        ):
            raise ValueError(f"{shown(each)}: expected folders or patterns to watch, got something else; leave it out")


def _queries(job: FolderJob, search: Search) -> Iterator[Query]:
    """List each image once, masks left out."""
    masks = {search.place(mask) for mask in (*(mask for _, mask in job.prompt_files), *job.left_out)}
    seen: set[Place] = set()
    for each in job.inputs:
        for place, name in search.find_listed(job.listed) if each == STDIN else search.find(each):
            same = search.place(place)
            if same not in masks and same not in seen:
                seen.add(same)
                yield from (Query(place, *each) for each in (paged(place, name) if job.pages else ((name, None),)))


def _refuse_equal_names(job: FolderJob) -> None:
    taken: dict[str, Query] = {}
    for query in job.queries:
        for path in job.outputs.all_paths(query.name):
            other = taken.setdefault(alike(path), query)
            if other is not query:
                raise ValueError(
                    f"expected results of different names, but {other} and {query} would both write "
                    f"{path}; rename one, leave one out, or give a folder above both so that subfolders are kept"
                )


def _refuse_overwriting(job: FolderJob, search: Search) -> None:
    prompts = (path for pair in job.prompt_files for path in pair)
    originals = [*map(_file_of, (query.place for query in job.queries)), *prompts, *job.left_out]
    kept = {_alike(search, each) for each in originals}
    names = job.outputs.files(query.name for query in job.queries)
    if job.outputs.per_tar is not None:  # a run takes any tar of such a name in its folder for one of an earlier run
        names = chain(names, sorted(name for each in kept if TAR_NAME.fullmatch(name := PurePath(each).name)))
    for name in names:
        path = job.outputs.place(name)
        if _alike(search, path) in kept:
            raise ValueError(f"{path}: this result would overwrite an image; choose another output folder")


def _file_of(place: Place) -> Path | RemoteFile:
    return place.tar if isinstance(place, TarMember) else place


def _alike(search: Search, place: Path | RemoteFile) -> str:
    return alike(search.place(place))
