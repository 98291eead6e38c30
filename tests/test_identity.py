"""What results depend on: differences in words, and contexts that are the same."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from incontext.digest import digest
from incontext.identity import context_hash, differences
from incontext.types import Palette, Prompt

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
PROMPT = Prompt(IMAGE, np.eye(4, 6, dtype=np.uint8))


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"side": 160}, {"side": 160}, ""),
        ({"side": 160}, {"side": 192}, "side was 160, now 192"),
        ({}, {"tiles": "auto"}, "tiles was null, now auto"),
        ({"masks": {"0": "a"}}, {"masks": {"0": "b"}}, "masks 0 was a, now b"),
        ({"weights": "abc"}, {"weights": "abd"}, "the weights were others"),
        ({"context": "abc"}, {"context": "abd"}, "the examples were others"),
        ({"mean": [0.5, 0.5]}, {"mean": (0.5, 0.5)}, ""),  # JSON has no tuples
    ],
)
def test_differences_are_told_in_words(before: dict[str, Any], now: dict[str, Any], told: str) -> None:
    assert differences(before, now) == told


def test_a_context_is_known_by_what_it_shows() -> None:
    assert context_hash(PROMPT) == context_hash([Prompt(IMAGE.copy(), PROMPT.mask.copy())])
    others = [
        replace(PROMPT, weight=2.0),
        replace(PROMPT, palette=Palette.spread([1])),
        Prompt(IMAGE[:, ::-1], PROMPT.mask),
        Prompt(IMAGE, PROMPT.mask * 2),
    ]
    assert len({context_hash(each) for each in (PROMPT, *others)}) == 5
    assert context_hash([PROMPT, PROMPT]) != context_hash(PROMPT)


def test_a_digest_knows_shapes_types_and_what_is_absent() -> None:
    values = np.arange(6, dtype=np.uint8)
    parts: list[Any] = [values, values.reshape(2, 3), values.astype(np.int16), None, "6"]
    assert len({digest(each) for each in parts}) == len(parts)
    assert digest(values.reshape(3, 2).T) == digest(np.ascontiguousarray(values.reshape(3, 2).T))
