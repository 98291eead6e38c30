"""A file of JSON lines that grows with each answer, so that an evaluation can go on where it was stopped.

Its first line says what all answers depend on. Refuses to know what the other lines mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from incontext.identity import differences
from incontext.jsonlines import JsonLines, begin, head_of

_FORMAT = 1


class Lines:
    """The lines of a file, and a place to add more.

    Args:
        settings: Plain values of everything that an answer depends on (weights, side, data).
        take: Called with each line that is there. A file made with other settings is refused, and one of whose lines
            `take` raises KeyError, TypeError or ValueError (all as ValueError). What a killed process wrote half is
            dropped.
    """

    def __init__(self, path: Path, settings: Mapping[str, object], take: Callable[[dict[str, Any]], None]) -> None:
        self._path = path
        self._check(settings)
        self._lines = JsonLines(path)
        try:
            for line in islice(self._lines, 1, None):
                take(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            self.close()
            raise ValueError(
                f"{path}: expected a record on each line, got something else ({error!r}); remove the file"
            ) from None

    def close(self) -> None:
        """Add no more."""
        self._lines.close()

    def add(self, content: Mapping[str, Any]) -> None:
        """Write a line; it is in the file when this returns."""
        self._lines.add(json.dumps(content, separators=(",", ":")).encode())

    def _check(self, settings: Mapping[str, object]) -> None:
        try:
            head = head_of(self._path)
            known = {} if head is None or head["format"] != _FORMAT else head["settings"]
            told = "" if head is None else differences(known, settings)
        except (KeyError, TypeError, ValueError):
            head, told = {}, "it is none of this program"
        if told:
            raise ValueError(
                f"{self._path} holds answers that were made with other settings ({told}); name another folder, or "
                "remove that file to start anew"
            )
        if head is None:
            begin(self._path, {"format": _FORMAT, "settings": settings})
