"""Which of many images differ most: a few that stand for all of them.

Refuses to know files, and what the images show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from incontext.images.ids import Pixels
from incontext.images.resize import averaged

_GRID: Final = 8  # cells along each side
_LEVELS: Final = 4  # of each colour channel, in the histogram


def look(image: Pixels) -> npt.NDArray[np.float32]:
    """Describe an image (H, W, 3) uint8 by where which colours are: 256 float32.

    The mean colours of 8 x 8 cells, each 0..1, and the square roots of a histogram of 4 x 4 x 4 colours.
    """
    small = averaged(image, (4 * _GRID, 4 * _GRID))
    cells = small.reshape(_GRID, 4, _GRID, 4, 3).mean(axis=(1, 3)).ravel() / 255
    levels = small.astype(np.int64) * _LEVELS // 256
    places = (levels[..., 0] * _LEVELS + levels[..., 1]) * _LEVELS + levels[..., 2]
    counts = np.bincount(places.ravel(), minlength=_LEVELS**3) / places.size
    # Both halves weigh about the same: cells differ by some tenths, and there are many of them.
    return np.concatenate([cells / _GRID, np.sqrt(counts)]).astype(np.float32)


def by_variety(descriptions: Sequence[npt.NDArray[np.float32]]) -> list[int]:
    """Order images such that the first few stand for all of them.

    First the one that is nearest to all others on average, then always the one that is farthest from those chosen so
    far (the greedy k-center of Gonzalez, 1985).

    Args:
        descriptions: What `look` says of each.

    Returns:
        All their numbers.
    """
    if not descriptions:
        return []
    seen = np.stack(descriptions)
    apart = np.sqrt(np.maximum(((seen[:, None] - seen[None]) ** 2).sum(axis=-1), 0))
    order = [int(apart.mean(axis=1).argmin())]
    nearest = apart[order[0]].copy()
    while len(order) < len(seen):
        nearest[order] = -1
        order.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, apart[order[-1]])
    return order
