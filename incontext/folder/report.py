"""What became of each image of a job, and `report.json`, which says it: written and read line by line.

Neither writing nor reading holds more than one image's line, however many there are. Refuses to know how images
are segmented and what a job depends on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, Final

from incontext.images.gate import stays_inside
from incontext.images.ids import IGNORED
from incontext.images.write import refuse_special, whole_file

REPORT_NAME: Final = "report.json"
REPORT_FORMAT: Final = "incontext report 2"

_FILES, _END = b' "files": [', b" ]"  # the lines between which each line is an image


@dataclass(frozen=True)
class FileReport:
    """What became of a file. ``error`` None: it was segmented; else it was skipped, and most other fields are None."""

    query: str  # its path, as it was found
    mask: str | None = None  # its path below the output folder
    ids: tuple[int, ...] | None = None  # that were found, ascending
    areas: dict[int, int] | None = None  # id -> pixels
    confidences: dict[int, float] | None = None  # id -> mean over its pixels, 0..1
    presence: dict[int, float] | None = None  # id that was asked for -> how likely it is there at all, 0..1
    confidence: float | None = None  # mean over the image, 0..1
    is_empty: bool | None = None  # nothing was found
    version: str | None = None  # of the image: what changes when its file does
    seconds: float = 0.0  # reading it, its share of its batch in the network, and writing
    error: str | None = None
    note: str | None = None  # what was guessed of the image

    def to_line(self) -> bytes:
        """Write it as JSON in one line. A name that is not UTF-8 becomes a JSON escape."""
        return json.dumps(asdict(self), ensure_ascii=False).encode("utf-8", "backslashreplace")

    @classmethod
    def from_line(cls, line: bytes) -> FileReport:
        """Read what `to_line` made.

        Raises:
            ValueError: It is anything else: lines may be damaged, and reports come from others.
        """
        content = _object(line)
        known = {each.name for each in fields(cls)}
        if not _NEEDED <= content.keys() <= known:
            raise ValueError(f"expected the fields {', '.join(sorted(known))}, got {', '.join(sorted(content))[:80]}")
        for name, check in _CHECKS.items():
            if not check(content.get(name)):
                raise ValueError(f"expected another {name}, got {content.get(name)!r:.80}")
        for name, number in (("areas", int), ("confidences", float), ("presence", float)):
            if content.get(name) is not None:
                content[name] = {int(i): number(value) for i, value in content[name].items()}
        content["ids"] = None if content["ids"] is None else tuple(content["ids"])
        return cls(**content)


def _object(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON, got something else ({str(error) or type(error).__name__})") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    return content


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _is_finite(value: object) -> bool:
    return _is_count(value) or (isinstance(value, float) and isfinite(value))


def _is_id(value: object) -> bool:
    return _is_count(value) and 0 < int(str(value)) < IGNORED


def _is_by_id(value: object, check: Callable[[object], bool]) -> bool:
    return value is None or (
        isinstance(value, dict)
        and all(key.isascii() and key.isdigit() and len(key) <= 3 and _is_id(int(key)) for key in value)
        and all(map(check, value.values()))
    )


_NEEDED: Final = frozenset({"query", "mask", "ids", "areas", "confidences", "error"})
_CHECKS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "query": _is_text,
    "mask": lambda value: value is None or (_is_text(value) and stays_inside(value)),
    "ids": lambda value: value is None or (isinstance(value, list) and all(map(_is_id, value))),
    "areas": lambda value: _is_by_id(value, _is_count),
    "confidences": lambda value: _is_by_id(value, _is_finite),
    "presence": lambda value: _is_by_id(value, _is_finite),
    "confidence": lambda value: value is None or _is_finite(value),
    "is_empty": lambda value: value is None or isinstance(value, bool),
    "version": lambda value: value is None or _is_text(value),
    "seconds": lambda value: value is None or _is_finite(value),
    "error": lambda value: value is None or isinstance(value, str),
    "note": lambda value: value is None or isinstance(value, str),
}


@dataclass(frozen=True)
class Totals:
    """How many images were to be segmented, were, could not be, and in how many of those nothing was found."""

    queries: int
    done: int
    failed: int
    empty: int


class ReportedFiles:
    """The images of a `report.json`, read from it each time they are asked for."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[FileReport]:
        """Give those whose lines are sound."""
        return (each for each in self.read() if isinstance(each, FileReport))

    def read(self) -> Iterator[FileReport | str]:
        """Read each of them, or a sentence about a line that is damaged: it costs itself and nothing else."""
        with self._path.open("rb") as stream:
            lines = enumerate(stream, start=1)
            for _, line in lines:
                if line.startswith(_FILES):
                    break
            for at, line in lines:
                if line.startswith(_END):
                    return
                try:
                    yield FileReport.from_line(line.strip().removesuffix(b","))
                except ValueError as error:
                    yield f"{self._path}, line {at}: {error}"

    def __getitem__(self, position: int) -> FileReport:
        """Read one of them; all before it are read as well."""
        wanted = position + self._count if position < 0 else position
        if not 0 <= wanted < self._count:
            raise IndexError(f"expected a position in {self._count} files, got {position}")
        return next(islice(self, wanted, None))


@dataclass(frozen=True)
class FolderReport:
    """What a run did: `report.json` in the output folder.

    Reading ``files`` reads that file.

    Attributes:
        job: What all masks of the folder depend on; see `identity.identify`. Only ``started``, ``seconds``,
            ``waiting_seconds`` and ``masks`` are not the same in each run, and the seconds of each file.
    """

    path: Path
    finished: bool  # False where it was stopped
    settings: dict[str, object]
    segmenter: dict[str, object]  # Segmenter.describe()
    job: dict[str, object]
    totals: Totals
    started: str  # of the last run; ISO 8601, UTC
    seconds: float  # of that run
    waiting_seconds: float  # of those, the network waited for images to be read or results to be written
    masks: int  # that the last run wrote; earlier ones wrote the others

    @property
    def files(self) -> ReportedFiles:
        """All of them, in the order of the queries."""
        return ReportedFiles(self.path, self.totals.done + self.totals.failed)

    @property
    def failures(self) -> Iterator[FileReport]:
        """What was skipped, and why."""
        return (file for file in self.files if file.error is not None)

    @property
    def done(self) -> int:
        """How many masks there are."""
        return self.totals.done

    @property
    def failed(self) -> int:
        """How many images were skipped."""
        return self.totals.failed

    @property
    def images_per_second(self) -> float:
        """Masks that the last run wrote per second, everything included but loading the weights."""
        return self.masks / self.seconds if self.seconds else 0.0

    def write(self, lines: Iterable[bytes]) -> None:
        """Write `report.json` with these lines of files; it appears whole or not at all."""
        head = {
            "format": REPORT_FORMAT,
            "finished": self.finished,
            "settings": self.settings,
            "segmenter": self.segmenter,
            "job": self.job,
            "totals": asdict(self.totals),
            "time": {
                "started": self.started,
                "seconds": round(self.seconds, 3),
                "waiting_seconds": round(self.waiting_seconds, 3),
                "masks": self.masks,
                "images_per_second": round(self.images_per_second, 3),
            },
        }
        with whole_file(self.path) as stream:
            stream.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2].encode("utf-8", "backslashreplace"))
            stream.write(b",\n" + _FILES)
            for number, line in enumerate(lines):
                stream.write((b",\n  " if number else b"\n  ") + line)
            stream.write(b"\n ]\n}\n")


def count(files: Iterable[FileReport], queries: int) -> Totals:
    """Count the totals of these files."""
    done = failed = empty = 0
    for file in files:
        failed += file.error is not None
        done += file.error is None
        empty += file.is_empty is True
    return Totals(queries, done, failed, empty)


def open_report(path: Path) -> FolderReport:
    """Open what a run wrote.

    Only what stands before the files is read now.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no report of this format, or no file that can be read, such as a pipe.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file; a job writes it when it ends")
    refuse_special(path)
    try:
        head = _head(path)
        time = head["time"]
        return FolderReport(
            path,
            bool(head["finished"]),
            dict(head["settings"]),
            dict(head["segmenter"]),
            dict(head["job"]),
            _totals(head["totals"]),
            str(time["started"]),
            float(time["seconds"]),
            float(time["waiting_seconds"]),
            int(time["masks"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        raise ValueError(
            f"{path}: expected the report of a job ({REPORT_FORMAT}), got something else or an older one; "
            "name another folder, or --no-resume to write a new one in its place"
        ) from None


def _totals(told: Mapping[str, Any]) -> Totals:
    totals = Totals(**told)
    if not all(map(_is_count, asdict(totals).values())):
        raise ValueError("expected totals as numbers")
    return totals


def _head(path: Path) -> Mapping[str, Any]:
    """Read what stands before the files, which may be more than fits into memory."""
    before: list[bytes] = []
    with path.open("rb") as stream:
        first = stream.readline(100), stream.readline(100)
        if REPORT_FORMAT.encode() not in first[1]:
            raise ValueError("another format")
        before += first
        for line in stream:
            if line.startswith(_FILES):
                break
            before.append(line)
    head = _object(b"".join(before).rstrip().removesuffix(b",") + b"\n}")
    if head["format"] != REPORT_FORMAT:
        raise ValueError("another format")
    return dict(head)
