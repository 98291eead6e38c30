"""What a namer is shown of a mask: the box around it as a square, everything outside filled with the mean colour.

The crops of OVSeg (arXiv 2210.04150, section 3.2). Refuses to know networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from incontext.images.ids import Pixels, check_ids, ids_in
from incontext.images.resize import resized
from incontext.types import box

Flags = npt.NDArray[np.bool_]
Masks = npt.NDArray[np.integer | np.bool_] | Sequence[Flags]


@dataclass(frozen=True, eq=False)
class Crop:
    """A mask cut out of its image, as a namer's network sees it.

    Attributes:
        image: (side, side, 3) uint8.
        inside: (side, side) bool, which of it is the mask.
    """

    image: Pixels
    inside: Flags

    def empty(self, patch: int) -> Flags:
        """(side / patch squared,) bool, row by row: the patches in which nothing of the mask is."""
        rows = len(self.inside) // patch
        cells = self.inside[: rows * patch, : rows * patch].reshape(rows, patch, rows, patch)
        return np.asarray(~cells.any(axis=(1, 3)).reshape(-1))


def masks_of(masks: Masks, image: Pixels) -> list[Flags]:
    """Return each mask as (H, W) bool: for a mask of ids, one for each id that is in it, ascending.

    Raises:
        ValueError: A mask is not of the image's size, or of no size at all.
    """
    given = np.asarray(masks) if isinstance(masks, np.ndarray) else None
    if given is not None and given.ndim == 2:
        _refuse_other_size(given, image)
        if given.dtype == np.bool_:
            return [given.astype(np.bool_)]
        return [given == i for i in ids_in(check_ids(given, "the mask"))]
    listed = list(masks)
    for each in listed:
        _refuse_other_size(np.asarray(each), image)
    return [np.asarray(each).astype(np.bool_) for each in listed]


def cut(image: Pixels, inside: Flags, side: int, color: Iterable[int]) -> Crop | None:
    """Cut a mask out of an image.

    Args:
        image: (H, W, 3) uint8.
        inside: (H, W) bool.
        side: Pixels along the crop.
        color: What is outside of the mask, 0..255 each.

    Returns:
        The crop, in the middle of a square of that colour; None for a mask without a pixel.
    """
    if not inside.any():
        return None
    left, top, right, bottom = box(inside)
    height, width = bottom - top, right - left
    longest = max(height, width)
    seen = inside[top:bottom, left:right]
    square = np.empty((longest, longest, 3), np.uint8)
    square[:] = np.array(list(color), np.uint8)
    mask = np.zeros((longest, longest), np.uint8)
    down, across = (longest - height) // 2, (longest - width) // 2
    place = np.s_[down : down + height, across : across + width]
    square[place][seen] = image[top:bottom, left:right][seen]
    mask[place] = seen
    shrunk = resized(255 * mask, (side, side))
    within = next((found for least in (127, 0) if (found := shrunk > least).any()), np.ones((side, side), np.bool_))
    return Crop(resized(square, (side, side)), within)


def _refuse_other_size(mask: npt.NDArray[np.generic], image: Pixels) -> None:
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"expected masks of the image's size {image.shape[:2]} (height, width), got one of shape {mask.shape}"
        )
