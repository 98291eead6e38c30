"""Files of JSON lines that grow while a run works, so that the next one can go on where a killed one stopped.

A line is in the file, all of it, when :meth:`JsonLines.add` returns; of what a killed run was writing nothing stays.
The first line says in what format the file is and what all its lines depend on. Refuses to know what they mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from incontext.images.write import whole_file


def begin(path: Path, head: Mapping[str, object], lines: Iterable[bytes] = ()) -> None:
    """Make the file anew: its first line, and these. It appears whole or not at all, also in a power cut."""
    with whole_file(path) as stream:
        stream.write(json.dumps(head).encode() + b"\n")
        stream.writelines(line + b"\n" for line in lines)
        stream.flush()
        os.fsync(stream.fileno())  # or a power cut could take the first line, and with it all that was done


def head_of(path: Path) -> dict[str, Any] | None:
    """Read the first line of a file.

    None: there is no file, or a run was killed before that line was whole.

    Raises:
        ValueError: it is no JSON object.
    """
    if not path.exists():
        return None
    with path.open("rb") as stream:
        first = stream.readline()
    if not first.endswith(b"\n"):
        return None
    head = json.loads(first)
    if not isinstance(head, dict):
        raise ValueError(f"{path}: expected a JSON object as the first line, got something else")
    return head


def whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """List the lines that were written to their end: where each begins, in bytes, and the line."""
    place = 0
    with path.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return
            yield place, line[:-1]
            place += len(line)


class JsonLines:
    """The lines of a file that is there, and a place to add more.

    A context manager.

    What was written half goes when the file is opened; `keep` says how many bytes to keep at most.
    """

    def __init__(self, path: Path, *, keep: int | None = None, stream: BinaryIO | None = None) -> None:
        """stream: the file, opened to be read and written without a buffer, where it was opened already."""
        self._path = path
        self._stream: BinaryIO = path.open("r+b", buffering=0) if stream is None else stream
        self._reader = path.open("rb")
        whole = max((place + len(line) + 1 for place, line in whole_lines(path)), default=0)
        self.size = whole if keep is None else min(keep, whole)  # bytes of all lines
        self._stream.truncate(self.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Add no more."""
        self._stream.close()
        self._reader.close()

    def add(self, line: bytes) -> int:
        """Write a line and return where it begins.

        All of it is in the file then, or nothing when this raises OSError.

        Args:
            line: JSON, without the end of the line.
        """
        whole = line + b"\n"
        try:
            if self._stream.seek(0, os.SEEK_END) != self.size:  # an interrupt left something
                self._stream.truncate(self.size)
                self._stream.seek(self.size)
            written = 0
            while written < len(whole):
                written += self._stream.write(whole[written:]) or 0
        except OSError:
            with suppress(OSError):
                self._stream.truncate(self.size)
            raise
        place = self.size
        self.size += len(whole)
        return place

    def at(self, place: int) -> bytes:
        """Read the line that begins there."""
        self._reader.seek(place)
        return self._reader.readline().rstrip(b"\n")

    def __iter__(self) -> Iterator[bytes]:
        return (line for _, line in whole_lines(self._path))
