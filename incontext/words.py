"""Words for people: how many there are of something, and what may have been meant by an unknown word.

Refuses to know what the words are for.
"""

import difflib
from collections.abc import Iterable
from typing import Final

# What people call things that are called otherwise here.
_ALIASES: Final = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "metal": "mps",
    "apple": "mps",
    "fp16": "float16",
    "half": "float16",
}


def did_you_mean(given: str | Iterable[str], known: Iterable[str]) -> str:
    """Suggest what may have been meant, as the end of an error: ". Did you mean 'coco'?"; "" where nothing is near.

    Args:
        given: A word, or several; the first that is unknown counts.
        known: The words that would do.
    """
    listed = list(known)
    words = [given] if isinstance(given, str) else list(given)
    plain = next((word.strip().casefold() for word in words if word not in listed), "")
    near = _ALIASES.get(plain)
    if near not in listed:
        near = next(iter(difflib.get_close_matches(plain, listed, n=1)), None)
    return "" if near is None else f". Did you mean {near!r}?"


def counted(number: int, noun: str) -> str:
    """Say how many: 1 image, 2 images."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
