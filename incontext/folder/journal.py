"""The journal of a job: a line for each image as soon as it is done, so that a job that is killed can go on.

It lies in the output folder while a run is not finished, and `report.json` is made of it. Its first line says what all
masks depend on. Nothing but the place of each line is held in memory. Refuses to know how images are segmented.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from incontext.folder.identity import refuse_another
from incontext.folder.report import REPORT_NAME, FileReport, Totals, count, open_report
from incontext.images.alone import open_alone
from incontext.images.write import refuse_special
from incontext.jsonlines import JsonLines, begin, head_of, whole_lines

JOURNAL_NAME: Final = "report.partial.jsonl"
JOURNAL_FORMAT: Final = "incontext journal 1"

_ABSENT: Final = -1


@dataclass(frozen=True)
class Earlier:
    """What earlier runs left in an output folder.

    Attributes:
        job: What their masks depend on.
        was_killed: The last one did not end by itself.
    """

    job: Mapping[str, object]
    was_killed: bool
    path: Path

    def lines(self) -> Iterator[bytes]:
        """Read a line for each image; of an image that was done again, an earlier one as well."""
        if self.was_killed:
            return (line for place, line in whole_lines(self.path) if place)
        return (file.to_line() for file in open_report(self.path).files)


def find_earlier(out: Path, job: Mapping[str, object], *, where: str | None = None) -> Earlier | None:
    """Find what earlier runs of the same job left in an output folder; None where there is nothing.

    Nothing is written.

    Args:
        where: What users call the folder, if it is not that one.

    Raises:
        ValueError: the folder holds the masks of another job, or a report that is none of this program.
    """
    found = _find_any(out)
    if found is not None:
        refuse_another(where or str(out), found.job, job)
    return found


def wrote_tars(out: Path) -> bool:
    """Tell whether the last run that wrote to this folder, of whatever job, wrote tars."""
    try:
        found = _find_any(out)
    except ValueError:
        return False
    return found is not None and found.job.get("per_tar") is not None


def _find_any(out: Path) -> Earlier | None:
    journal, report = out / JOURNAL_NAME, out / REPORT_NAME
    if (known := _journal_job(journal)) is not None:
        return Earlier(known, True, journal)
    return Earlier(open_report(report).job, False, report) if report.exists() else None


def parse(line: bytes) -> FileReport | None:
    """Read the image of a line; None where the line is damaged: that image is done again."""
    try:
        return FileReport.from_line(line)
    except ValueError:
        return None


class Journal:
    """The lines of a job, in a file that no other run has open.

    A context manager.

    Images are known by their numbers, which are those of this run.

    Args:
        job: What all masks depend on.
        earlier: What to go on from; None begins anew, whatever is there.

    Raises:
        ValueError: another run is writing to this folder.
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, out: Path, job: Mapping[str, object], earlier: Earlier | None) -> None:
        self._path = out / JOURNAL_NAME
        self._places = array("q")  # by number: where its line begins
        out.mkdir(parents=True, exist_ok=True)
        goes_on = earlier is not None and earlier.was_killed
        with _opened(self._path) if self._path.exists() and not goes_on else nullcontext():
            if not goes_on:  # and no other run has the one that is there
                lines = () if earlier is None else earlier.lines()
                begin(self._path, {"format": JOURNAL_FORMAT, "job": job}, lines)
        self._lines = JsonLines(self._path, stream=_opened(self._path))
        with suppress(FileNotFoundError):
            (out / REPORT_NAME).unlink()  # from here on it is the journal that is true

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()

    def __contains__(self, number: int) -> bool:
        return number < len(self._places) and self._places[number] != _ABSENT

    def keep(self, number_of: Callable[[FileReport], int | None]) -> int:
        """Take over the lines that are there.

        Returns how many do.

        Args:
            number_of: The number of an image whose line still holds, else None.
        """
        for place, line in whole_lines(self._path):
            file = parse(line) if place else None
            if file is not None and (number := number_of(file)) is not None:
                self._put(number, place)
        return sum(place != _ABSENT for place in self._places)

    def add(self, number: int, file: FileReport) -> None:
        """Write an image's line, in any order of the numbers; the last one of a number counts.

        It is in the file when this returns, and all of it or nothing when this raises OSError.
        """
        self._put(number, self._lines.add(file.to_line()))

    def read(self, number: int) -> FileReport | None:
        """Read an image's line; None where there is none."""
        if number not in self:
            return None
        return parse(self._lines.at(self._places[number]))

    def lines(self) -> Iterator[bytes]:
        """Read all of them, in the order of the numbers."""
        return (self._lines.at(place) for place in self._places if place != _ABSENT)

    def totals(self, queries: int) -> Totals:
        """Count all lines.

        Args:
            queries: How many images there were to be done.
        """
        return count((FileReport.from_line(line) for line in self.lines()), queries)

    def remove(self) -> None:
        """Remove the file: everything is in the report."""
        self._path.unlink()

    def _put(self, number: int, place: int) -> None:
        if number >= len(self._places):
            self._places.extend([_ABSENT] * (number + 1 - len(self._places)))
        self._places[number] = place


def _opened(path: Path) -> BinaryIO:
    """Open the journal to write to, locked: what is written is in the file at once, all of it or a part."""
    return open_alone(path, buffering=0)


def _journal_job(path: Path) -> Mapping[str, object] | None:
    """Read what the masks of a journal depend on. None: there is none, or it was killed before its first line."""
    refuse_special(path)
    try:
        head = head_of(path)
        if head is None:
            return None
        if head["format"] == JOURNAL_FORMAT:
            return dict(head["job"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(
        f"{path}: expected the journal of a job ({JOURNAL_FORMAT}), got something else; remove it, choose another "
        "folder, or --no-resume to do everything anew"
    )
