"""Things taken apart: connected regions as things of their own. Refuses to know files."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from incontext.annotations.core import Thing
from incontext.images.outlines import connected


def split(things: Iterable[Thing], *, smallest: int = 1) -> list[Thing]:
    """Give each connected region of a thing as a thing of its own, in the order of its first pixel.

    Pixels that touch at corners are connected. Regions of fewer than `smallest` pixels are left out.

    Confidence is the whole thing's; what is ignored stays as it is.
    """
    found: list[Thing] = []
    for thing in things:
        if thing.is_ignored:
            found.append(thing)
            continue
        labels = connected(thing.selected)
        sizes = np.bincount(labels.reshape(-1))
        for number in range(1, len(sizes)):
            if sizes[number] < smallest:
                continue
            part = Thing.cut(
                thing.category, labels == number, top=thing.top, left=thing.left, confidence=thing.confidence
            )
            found += [part] if part is not None else []
    return found
