"""The line that a command ends with: what it read, and what came of it."""

from collections.abc import Mapping
from typing import Final

from incontext.words import counted

# What lies beside images and is none: notes, annotations, what cameras and systems write. It is counted, and nobody
# misses it.
COMPANIONS: Final = frozenset(
    {
        *(".aae", ".csv", ".db", ".htm", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".npy", ".npz", ".thm"),
        *(".tsv", ".txt", ".xml", ".xmp", ".yaml", ".yml", "masks of samples"),
    }
)


def passed_over_words(kinds: Mapping[str, int]) -> str:
    """Say how many files were passed over, by suffix: "2 files passed over: .xyz (1), no suffix (1)"; "" for none."""
    if not kinds:
        return ""
    listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))
    return f"{counted(sum(kinds.values()), 'file')} passed over: {listed}"


def are_missed(kinds: Mapping[str, int]) -> bool:
    """Whether files were passed over that may have been meant."""
    return bool(kinds.keys() - COMPANIONS)
