"""The colours that people see the objects of a video in: an id that has one keeps it, whatever comes later.

Refuses to know frames and the network, which is shown other colours (canvas/context.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from incontext.images.ids import IGNORED
from incontext.prompt_tensor import PromptTensor
from incontext.types import Palette, Prompt

NOTHING_SHOWN: Final = Palette.spread([])


def extended(shown: Palette, prompts: Iterable[Prompt | PromptTensor]) -> Palette:
    """Add a colour for each id of the prompts that the palette has none for.

    It is the one of the id's file unless that is taken, else the next far one.
    """
    colors = {i: tuple(color) for i, color in zip(shown.ids.tolist(), shown.colors.tolist(), strict=True)}
    far = [tuple(color) for color in Palette.spread(range(1, IGNORED)).colors.tolist()]
    for prompt in prompts:
        palette = prompt.palette or NOTHING_SHOWN
        own = {i: tuple(color) for i, color in zip(palette.ids.tolist(), palette.colors.tolist(), strict=True)}
        for i in sorted(set(prompt.ids) - set(colors)):
            wanted, taken = [own[i]] if i in own else [], set(colors.values())
            colors[i] = next(color for color in (*wanted, *far) if color not in taken)
    rows = sorted(colors)
    return Palette(np.array(rows), np.array([colors[i] for i in rows]))


def by_color(prompt: Prompt, shown: Palette) -> Prompt:
    """Renumber a prompt of an RGB mask: a colour that is shown is that object, any other one is a new object.

    A file by itself counts its colours from 1, which would give an object's id to another one that comes later.

    Raises:
        ValueError: there are more than 254 objects by now.
    """
    if prompt.palette is None:
        return prompt
    known = {tuple(color): i for i, color in zip(shown.ids.tolist(), shown.colors.tolist(), strict=True)}
    new = [known.setdefault(color, max(known.values()) + 1) for color in map(tuple, prompt.palette.colors.tolist())]
    if max(new) >= IGNORED:
        raise ValueError(f"expected at most 254 objects in a video, got {max(new)}; give a mask of ids")
    numbers = np.arange(256, dtype=np.uint8)
    numbers[prompt.palette.ids] = new
    palette = Palette(numbers[prompt.palette.ids], prompt.palette.colors)
    return Prompt(prompt.image, numbers[prompt.mask], palette=palette)
