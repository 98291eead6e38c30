"""What masks are made of: ids, and the words that all modules have for arrays of them.

An id is a number in 0..255: 0 is background, 1..254 are objects or kinds of things, 255 is ignored.
"""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""An image (H, W, 3) RGB, or a mask (H, W) of ids."""

Color: TypeAlias = tuple[int, int, int]

IGNORED: Final = 255  # the id of pixels that are neither background nor object: left out of training and scoring
MOST_IDS: Final = 254  # in a mask, beside background and ignored


def ids_in(mask: Pixels) -> tuple[int, ...]:
    """List the ids that occur in a mask (H, W), ascending, without background and ignored."""
    present = np.zeros(256, np.bool_)
    present[mask] = True
    return tuple(int(i) for i in np.flatnonzero(present) if i not in (0, IGNORED))


def check_ids(values: npt.NDArray[Any], name: str) -> Pixels:
    """Take an array as ids.

    Args:
        values: (H, W) of any integer type or bool.
        name: What errors call it.

    Returns:
        The same as uint8; not copied where it was that already.

    Raises:
        ValueError: It has another shape or type, or values outside of 0..255.
    """
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"{name}: expected ids (H, W), got shape {values.shape}")
    if values.dtype.kind not in "bui":
        raise ValueError(
            f"{name}: expected integer ids or bool, got {values.dtype}; round, or compare with a threshold first"
        )
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > IGNORED:
        raise ValueError(f"{name}: expected ids in 0..254 (255 = ignored), got {low}..{high}; number the objects anew")
    return values.astype(np.uint8, copy=False)
