"""A file of JSON lines that grows with each answer, so that an evaluation can go on where it was stopped.

Its first line says what all answers depend on. Refuses to know what the other lines mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from incontext.images.write import whole_file

_FORMAT = 1


class Lines:
    """The lines of a file, and a place to add more.

    settings: plain values of everything that an answer depends on (weights, side, data). take: called with each line
    that is there. A file made with other settings is refused, and one of whose lines `take` raises KeyError, TypeError
    or ValueError (all as ValueError). What a killed process wrote half is dropped.
    """

    def __init__(self, path: Path, settings: Mapping[str, object], take: Callable[[dict[str, Any]], None]) -> None:
        self._path = path
        self._header: dict[str, Any] = {"format": _FORMAT, "settings": json.loads(json.dumps(settings))}
        self._read(take)
        self._stream = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Nothing more will be added."""
        self._stream.close()

    def add(self, content: Mapping[str, Any]) -> None:
        """Write a line; it is in the file when this returns."""
        self._stream.write(json.dumps(content, separators=(",", ":")) + "\n")
        self._stream.flush()

    def _read(self, take: Callable[[dict[str, Any]], None]) -> None:
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # the last one may have been cut off
        if not whole:
            whole = [json.dumps(self._header) + "\n"]
            lines = []
        self._check(whole[0])
        try:
            for line in whole[1:]:
                take(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self._path}: expected a record on each line, got something else ({error!r}); remove the file"
            ) from None
        if len(whole) != len(lines):
            with whole_file(self._path) as stream:
                stream.write("".join(whole).encode())

    def _check(self, first: str) -> None:
        try:
            header = json.loads(first)
            known = header["settings"] if header["format"] == _FORMAT else {}
        except (KeyError, TypeError, ValueError):
            known = {}
        wanted = self._header["settings"]
        if differing := [name for name in {**known, **wanted} if known.get(name) != wanted.get(name)]:
            raise ValueError(
                f"{self._path} holds answers that were made with other settings ({', '.join(differing)}); name another "
                "folder, or remove that file to start anew"
            )
