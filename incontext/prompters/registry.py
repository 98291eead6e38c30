"""The published weights of other models that have a name here: where they lie, under which licence, what they do.

Knows a file of facts beside it. Refuses to know whether anything is on this machine (files.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

_FILE: Final = Path(__file__).with_name("registry.json")


@dataclass(frozen=True)
class Entry:
    """Weights with a name.

    Attributes:
        name: What users call them.
        kind: "prompter" or "namer".
        repository: Where they lie on the Hugging Face hub.
        license: The licence, as the repository's card states it.
        seen: Whether the card was read for this; where not, the licence is what others say of it.
        gated: Whether the owners give access on request only.
        does: What one gets from it, in a few words.
        parameters: How many, where known.
        bytes: Size of the weights' file, where known.
    """

    name: str
    kind: Literal["prompter", "namer"]
    repository: str
    license: str
    seen: bool
    gated: bool
    does: str
    parameters: int | None = None
    bytes: int | None = None

    @property
    def size(self) -> str:
        """How large the download is, for people; "" where that is not known."""
        amount = self.bytes if self.bytes is not None else 4 * (self.parameters or 0)
        return "" if not amount else f"{amount / 1e9:.2f} GB" if amount < 1e9 else f"{amount / 1e9:.1f} GB"

    @property
    def terms(self) -> str:
        """The licence, and what a user should know of it before downloading."""
        return self.license + ("" if self.seen else " (unread; look at the card)") + (", gated" if self.gated else "")


@lru_cache
def registry() -> dict[str, Entry]:
    """Return the entries by name, in the file's order."""
    rows = json.loads(_FILE.read_text(encoding="utf-8"))
    return {row["name"]: Entry(**row) for row in rows}


def names_of(kind: Literal["prompter", "namer"]) -> str:
    """Return the names of one kind, for a sentence."""
    return ", ".join(entry.name for entry in registry().values() if entry.kind == kind)
