"""The journal of a job: a line for each picture as soon as it is done, so that a job that is killed can go on.

It lies in the output folder while a run is not finished, and `report.json` is made of it. Its first line says what all
masks depend on. Nothing but the place of each line is held in memory. Refuses to know how pictures are segmented.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from incontext.folder.identity import refuse_another
from incontext.folder.report import REPORT_NAME, FileReport, Totals, count, open_report
from incontext.images.write import whole_file

JOURNAL_NAME: Final = "report.partial.jsonl"
JOURNAL_FORMAT: Final = "incontext journal 1"

_ABSENT: Final = -1


@dataclass(frozen=True)
class Earlier:
    """What earlier runs left in an output folder. job: what their masks depend on. was_killed: the last one did not
    end by itself."""

    job: Mapping[str, object]
    was_killed: bool
    path: Path

    def lines(self) -> Iterator[bytes]:
        """A line for each picture; of a picture that was done again, an earlier one as well."""
        if self.was_killed:
            return (line for _, line in _whole_lines(self.path))
        return (file.to_line() for file in open_report(self.path).files)


def find_earlier(out: Path, job: Mapping[str, object], *, where: str | None = None) -> Earlier | None:
    """What earlier runs of the same job left in an output folder, None where there is nothing. Nothing is written.

    where: what users call the folder, if it is not that one.

    Raises:
        ValueError: the folder holds the masks of another job, or a report that is none of this program.
    """
    found = _find_any(out)
    if found is not None:
        refuse_another(where or str(out), found.job, job)
    return found


def wrote_tars(out: Path) -> bool:
    """Whether the last run that wrote to this folder, of whatever job, wrote tars."""
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
    """The picture of a line, None where the line is damaged: that picture is done again."""
    try:
        return FileReport.from_line(line)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class Journal:
    """The lines of a job, in a file that no other run has open. A context manager.

    Pictures are known by their numbers, which are those of this run. job: what all masks depend on. earlier: what to go
    on from; None begins anew, whatever is there.

    Raises:
        ValueError: another run is writing to this folder.
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, out: Path, job: Mapping[str, object], earlier: Earlier | None) -> None:
        self._path = out / JOURNAL_NAME
        self._places = array("q")  # by number: where its line begins
        out.mkdir(parents=True, exist_ok=True)
        goes_on = earlier is not None and earlier.was_killed
        with _opened(self._path, out) if self._path.exists() and not goes_on else nullcontext():
            if not goes_on:  # and no other run has the one that is there
                self._write_anew(job, () if earlier is None else earlier.lines())
        self._stream = _opened(self._path, out)
        self._lines = self._path.open("rb")
        self._end = max((place + len(line) + 1 for place, line in _whole_lines(self._path, head=True)), default=0)
        self._stream.truncate(self._end)  # what a killed run wrote half goes
        with suppress(FileNotFoundError):
            (out / REPORT_NAME).unlink()  # from here on it is the journal that is true

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()
        self._lines.close()

    def __contains__(self, number: int) -> bool:
        return number < len(self._places) and self._places[number] != _ABSENT

    def keep(self, number_of: Callable[[FileReport], int | None]) -> int:
        """Take over the lines that are there. number_of: the number of a picture whose line still holds, else None.
        Returns how many do."""
        for place, line in _whole_lines(self._path):
            file = parse(line)
            if file is not None and (number := number_of(file)) is not None:
                self._put(number, place)
        return sum(place != _ABSENT for place in self._places)

    def add(self, number: int, file: FileReport) -> None:
        """Write a picture's line, in any order of the numbers; the last one of a number counts. It is in the file when
        this returns, and all of it or nothing when this raises OSError."""
        line = file.to_line() + b"\n"
        try:
            if self._stream.seek(0, os.SEEK_END) != self._end:  # an interrupt left something
                self._stream.truncate(self._end)
                self._stream.seek(self._end)
            written = 0
            while written < len(line):
                written += self._stream.write(line[written:]) or 0
        except OSError:
            with suppress(OSError):
                self._stream.truncate(self._end)
            raise
        self._put(number, self._end)
        self._end += len(line)

    def read(self, number: int) -> FileReport | None:
        """A picture's line, None where there is none."""
        if number not in self:
            return None
        self._lines.seek(self._places[number])
        return parse(self._lines.readline())

    def lines(self) -> Iterator[bytes]:
        """All of them, in the order of the numbers."""
        for place in self._places:
            if place != _ABSENT:
                self._lines.seek(place)
                yield self._lines.readline().rstrip(b"\n")

    def totals(self, queries: int) -> Totals:
        """Of all lines; queries: how many pictures there were to be done."""
        return count((FileReport.from_line(line) for line in self.lines()), queries)

    def remove(self) -> None:
        """Everything is in the report."""
        self._path.unlink()

    def _write_anew(self, job: Mapping[str, object], lines: Iterable[bytes]) -> None:
        with whole_file(self._path) as stream:
            stream.write(json.dumps({"format": JOURNAL_FORMAT, "job": job}).encode() + b"\n")
            stream.writelines(line + b"\n" for line in lines)
            stream.flush()
            os.fsync(stream.fileno())  # or a power cut could take the first line, and with it all that was done

    def _put(self, number: int, place: int) -> None:
        if number >= len(self._places):
            self._places.extend([_ABSENT] * (number + 1 - len(self._places)))
        self._places[number] = place


def _opened(path: Path, out: Path) -> BinaryIO:
    """The journal to write to, locked for this process as long as it is open, where the system can do so."""
    stream: BinaryIO = path.open("r+b", buffering=0)
    try:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_there = path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except BlockingIOError:
        is_there = False
    except (ImportError, OSError):  # no locks in this system, or not on this disk
        return stream
    if not is_there:
        stream.close()
        raise ValueError(f"{out}: another run is writing to this folder; wait until it ends, or choose another folder")
    return stream


def _journal_job(path: Path) -> Mapping[str, object] | None:
    """What the masks of a journal depend on. None: there is no journal, or it was killed before its first line."""
    if not path.exists():
        return None
    with path.open("rb") as stream:
        first = stream.readline()
    if not first.endswith(b"\n"):
        return None
    try:
        head = json.loads(first)
        if head["format"] == JOURNAL_FORMAT:
            return dict(head["job"])
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"{path}: expected the journal of a job ({JOURNAL_FORMAT}), got something else; remove it, choose another "
        "folder, or --no-resume to do everything anew"
    )


def _whole_lines(path: Path, *, head: bool = False) -> Iterator[tuple[int, bytes]]:
    """(where it begins, line) of each line that was written to its end. head: the first, which is no picture's, too."""
    place = 0
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return
            if place or head:
                yield place, line[:-1]
            place += len(line)
