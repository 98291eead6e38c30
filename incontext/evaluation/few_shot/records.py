"""What is kept of each answer, and the file that lets an evaluation go on where it was stopped.

A record holds counts, never images: every score of a report is made of them. Refuses to know what the scores are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from incontext.evaluation.few_shot.episodes import Absent, Episode
from incontext.evaluation.lines import Lines
from incontext.evaluation.metrics import ConfidenceTally, Overlap


@dataclass(frozen=True)
class Question:
    """Who was asked what: a method, the episode's set, class and images.

    Attributes:
        absent: The second query, if asked.
    """

    method: str
    set: str
    id: int
    query: str
    prompts: tuple[str, ...]
    absent: Absent | None

    @classmethod
    def of(cls, method: str, set_name: str, episode: Episode, shots: int, *, ask_absent: bool) -> Question:
        """Make the question of an episode: with so many of its prompts, and perhaps the query without the thing."""
        absent = episode.absent if ask_absent else None
        return cls(method, set_name, episode.id, episode.query, episode.prompts[:shots], absent)


@dataclass(frozen=True, eq=False)
class Record:
    """What is counted of one answer.

    Attributes:
        foreground, background: At the size of scores.
        present: The thing is there, at its query's own size.
        lost: It is, and no pixel of it was found.
        absent_empty: Whether nothing was found in the query without the thing, None where that was not asked.
        confidence: Likewise, None where the method has none.
        seconds: In the method, for one query.
    """

    foreground: Overlap
    background: Overlap
    present: bool
    lost: bool
    absent_empty: bool | None
    confidence: ConfidenceTally | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Write it in plain numbers, for JSON."""
        tally = self.confidence
        kept = None if tally is None else {"pixels": tally.pixels.tolist(), "total": tally.total.tolist()}
        return {
            "foreground": [self.foreground.intersection, self.foreground.union],
            "background": [self.background.intersection, self.background.union],
            "present": self.present,
            "lost": self.lost,
            "absent_empty": self.absent_empty,
            "confidence": kept,
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read what was written of a record."""
        tally = content["confidence"]
        confidence = None
        if tally is not None:
            confidence = ConfidenceTally(np.array(tally["pixels"], np.int64), np.array(tally["total"], np.float64))
        return cls(
            Overlap(*content["foreground"]),
            Overlap(*content["background"]),
            content["present"],
            content["lost"],
            content["absent_empty"],
            confidence,
            content["seconds"],
        )


class AnswerJournal:
    """Records by their question, in a file of JSON lines that grows with each answer; `Lines` says what is refused."""

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self._known: dict[Question, Record] = {}
        self._lines = Lines(path, settings, self._take)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, question: Question) -> Record | None:
        """Return what was answered before, if it was."""
        return self._known.get(question)

    def add(self, question: Question, record: Record) -> None:
        """Keep an answer, in the file too."""
        self._known[question] = record
        self._lines.add({**asdict(question), **record.to_dict()})

    def _take(self, content: Mapping[str, Any]) -> None:
        self._known[_question(content)] = Record.from_dict(content)


def _question(content: Mapping[str, Any]) -> Question:
    absent = content["absent"]
    return Question(
        content["method"],
        content["set"],
        content["id"],
        content["query"],
        tuple(content["prompts"]),
        None if absent is None else Absent(**absent),
    )
