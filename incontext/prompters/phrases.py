"""Phrases that users give: one or several, each with words in it.

Refuses to know networks and tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

MOST_PHRASES: Final = 254  # as many as there are ids
_MOST_LETTERS = 60  # of a phrase, in a sentence


def phrases_of(text: str | Sequence[str]) -> tuple[str, ...]:
    """Return the phrases of a text: one where it is a string, each where it is a sequence; spaces are put in order.

    Raises:
        ValueError: There is none, one has no words, one comes twice, or there are more than ids.
    """
    given = (text,) if isinstance(text, str) else tuple(text)
    if not given:
        raise ValueError('expected a text such as "a red car", got none')
    phrases = tuple(" ".join(each.split()) for each in given)
    for phrase in phrases:
        if not any(letter.isalnum() for letter in phrase):
            raise ValueError(f'expected a text with words in it, such as "a red car", got {phrase!r}')
    if len({phrase.casefold() for phrase in phrases}) < len(phrases):
        raise ValueError(f"expected different phrases, as each becomes an id; got {', '.join(phrases)}")
    if len(phrases) > MOST_PHRASES:
        raise ValueError(f"expected at most {MOST_PHRASES} phrases, as each becomes an id; got {len(phrases)}")
    return phrases


def names_of_ids(phrases: Sequence[str]) -> Mapping[int, str]:
    """Return what the ids mean that phrases become: 1 is the first."""
    return dict(enumerate(phrases, start=1))


def refuse_long(phrase: str, tokens: int, most: int) -> None:
    """Raise ValueError where a phrase has more tokens than a network reads: it would drop the rest in silence."""
    if tokens > most:
        shown = phrase if len(phrase) <= _MOST_LETTERS else f"{phrase[:_MOST_LETTERS]}..."
        raise ValueError(f"expected a text of at most {most} tokens, got {tokens} in {shown!r}; use fewer words")
