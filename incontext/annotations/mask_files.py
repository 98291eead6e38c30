"""Labels that are images themselves: one file of ids for each labelled image, as VOC and DAVIS lay them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from incontext.annotations.core import Categories
from incontext.annotations.values import Problems
from incontext.images.ids import IGNORED, Pixels


def used_ids(masks: Iterable[Path], read: Callable[[Path], Pixels], problems: Problems) -> set[int]:
    """List the ids 1..254 in these files; those that cannot be read add a problem."""
    found: set[int] = set()
    for path in masks:
        try:
            found.update(np.unique(read(path)).tolist())
        except (ValueError, OSError) as error:
            problems.add(str(error))
    return found - {0, IGNORED}


def checked(mask: Pixels, categories: Categories, path: Path) -> Pixels:
    """Return the mask.

    Raises:
        ValueError: Not all of its ids are categories, background or ignored.
    """
    if strange := set(np.unique(mask).tolist()) - {0, IGNORED, *categories.ids}:
        raise ValueError(f"{path}: expected the ids {list(categories.ids)}, got {sorted(strange)}")
    return mask
