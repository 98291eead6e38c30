"""Which prompter marks images, and for what: small enough to travel to other processes.

Refuses to know which images are marked, and what becomes of the masks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from incontext.images.write import whole_file
from incontext.options import LOADING, LoadOptions

if TYPE_CHECKING:  # they bring seconds
    from incontext.prompters import Prompter
    from incontext.types import Segmentation

NOTE: Final = "prompter.json"


@dataclass(frozen=True)
class Prompting:
    """A prompter that is not open yet, and the text that it is asked for.

    Attributes:
        prompter: As `load_prompter` takes it.
        text: Phrases; the first becomes id 1.
        min_score: How sure a find must be to count, 0..1; None is what is usual for the model.
    """

    prompter: str
    text: tuple[str, ...]
    min_score: float | None = None

    def __post_init__(self) -> None:
        from incontext.prompters.phrases import phrases_of

        object.__setattr__(self, "text", phrases_of(self.text))
        if self.min_score is not None and not 0 < self.min_score < 1:
            raise ValueError(f"expected a least score above 0 and below 1, got {self.min_score}")

    @property
    def names(self) -> dict[int, str]:
        """What the ids mean."""
        from incontext.prompters.phrases import names_of_ids

        return dict(names_of_ids(self.text))

    def describe(self) -> dict[str, object]:
        """Tell, in plain values, all that its masks depend on. The files are read; no network is opened.

        Raises:
            FileNotFoundError: The files are not on this machine.
            ValueError: It is no prompter.
        """
        from incontext.prompters.load import find_prompter, prompter_sha256, usual_min_score

        files = find_prompter(self.prompter)
        least = usual_min_score(files) if self.min_score is None else self.min_score
        return {"prompter": prompter_sha256(files), "min_score": least, "text": list(self.text)}

    def open(self, loading: LoadOptions = LOADING) -> Prompter:
        """Open the prompter, and refuse a text that it cannot read.

        Raises:
            FileNotFoundError: The files are not on this machine.
            ValueError: It is no prompter, reads no text, or cannot be used.
        """
        prompter = open_prompter(self.prompter, loading, min_score=self.min_score)
        prompter.check(text=self.text)
        return prompter


def open_prompter(name: str, loading: LoadOptions = LOADING, *, min_score: float | None = None) -> Prompter:
    """Open a prompter; a detector that stands alone gets our own network behind it.

    Args:
        name: As `load_prompter` takes it.
        loading: Where it runs, and which weights stand behind a detector.
        min_score: See `Prompting`.

    Raises:
        FileNotFoundError, ValueError: As `load_prompter` raises them.
    """
    from incontext.prompters import load_prompter
    from incontext.prompters.load import find_prompter, needs_segmenter

    segmenter = None
    if needs_segmenter(find_prompter(name)):
        from incontext.engine import load_with

        segmenter = load_with(loading)
    return load_prompter(name, device=loading.device, min_score=min_score, segmenter=segmenter)


def read_note(folder: Path) -> dict[str, Any] | None:
    """Read what `write_note` wrote beside masks of a prompter; None where there is nothing of the kind."""
    try:
        note = json.loads((folder / NOTE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return note if isinstance(note, dict) else None


def write_note(folder: Path, note: Mapping[str, object]) -> None:
    """Keep what masks of a prompter depend on beside them; the file appears whole or not at all."""
    with whole_file(folder / NOTE) as stream:
        stream.write(json.dumps(note, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


@dataclass(frozen=True, eq=False)
class Found:
    """An answer that is read already, where others are still paint."""

    answer: Segmentation

    def read(self) -> Segmentation:
        """Return the answer."""
        return self.answer
