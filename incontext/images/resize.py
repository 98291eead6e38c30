"""The one way in which images and masks change size, alone or as the cells of a mosaic.

Images by Pillow's bicubic filter, masks by their nearest pixels, as SegGPT does it (arXiv 2304.03284). Sizes are
(H, W) in pixels. Refuses to know files, palettes and tensors.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from incontext.images.ids import Pixels, ids_in

Size = tuple[int, int]

_Kind = TypeVar("_Kind", bound=np.generic)

_QUICK: Final = 2.0  # times the wanted size, down to which whole factors are averaged first


def resized(image: Pixels, size: Size, *, quick: bool = False) -> Pixels:
    """Squeeze or stretch an image (H, W, 3) or (H, W) uint8 to a size, by the bicubic filter.

    Args:
        image: The image; it is returned itself where it has that size.
        size: (H, W) of the result.
        quick: Average whole factors of large images first: nearly the same, several times as fast.
    """
    if image.shape[:2] == tuple(size):
        return image
    gap = _QUICK if quick else None
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC, reducing_gap=gap))


def resized_mask(mask: npt.NDArray[_Kind], size: Size) -> npt.NDArray[_Kind]:
    """Squeeze or stretch a mask to a size (H, W) by taking the nearest pixels.

    Args:
        mask: (H, W) uint8 ids or float32 values, or (H, W, 3) uint8 colours; it is returned itself where it has that
            size.
        size: (H, W) of the result.
    """
    if mask.shape[:2] == tuple(size):
        return mask
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def averaged(image: Pixels, size: Size) -> Pixels:
    """Shrink an image (H, W, 3) to a size by the mean of the pixels that become one.

    Unlike :func:`resized` it does not sharpen, so that what follows its edges follows no edge that is not there.
    """
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BOX))


def shrunk_size(size: Size, *, longest: int | None = None, shortest: int | None = None) -> Size:
    """Tell the size of an image whose longer, or shorter, side is to have at most so many pixels; never enlarge."""
    scale = min(
        1.0,
        1.0 if longest is None else longest / max(size),
        1.0 if shortest is None else shortest / min(size),
    )
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shrunk(image: Pixels, longest: int, *, quick: bool = False) -> Pixels:
    """Shrink an image (H, W, 3) or (H, W) whose longer side has more than `longest` pixels.

    Args:
        quick: See `resized`.
    """
    return resized(image, shrunk_size((image.shape[0], image.shape[1]), longest=longest), quick=quick)


def shrunk_pair(image: Pixels, mask: Pixels, longest: int) -> tuple[Pixels, Pixels]:
    """Shrink an image (H, W, 3) and its mask (H, W), unless an id gets lost: then both come back as they are."""
    size = shrunk_size((mask.shape[0], mask.shape[1]), longest=longest)
    small = resized_mask(mask, size)
    if set(ids_in(small)) != set(ids_in(mask)):
        return image, mask
    return resized(image, size), small


def mosaic(
    images: Sequence[tuple[Pixels, Pixels]], grid: tuple[int, int], side: int, *, cut: int = 0
) -> tuple[Pixels, Pixels]:
    """Tile images with their masks into a square, row by row; where there are fewer than cells, they repeat.

    Each is squeezed once, straight to its cell, whatever its own shape.

    Args:
        images: Images (h, w, 3) and masks (h, w) or (h, w, 3), at least one, all masks of a kind.
        grid: Rows and columns of cells.
        side: Pixels along a side of the square.
        cut: Images that are larger than their cell by at most so many pixels are cut, not squeezed.

    Returns:
        The image (side, side, 3) and the mask (side, side) or (side, side, 3).
    """
    image = np.empty((side, side, 3), np.uint8)
    mask = np.empty((side, side, *images[0][1].shape[2:]), np.uint8)
    for number, at in enumerate(cells(grid, side)):
        shown, marked = images[number % len(images)]
        height, width = at[0].stop - at[0].start, at[1].stop - at[1].start
        if 0 <= shown.shape[0] - height <= cut and 0 <= shown.shape[1] - width <= cut:
            shown, marked = shown[:height, :width], marked[:height, :width]
        image[at], mask[at] = resized(shown, (height, width)), resized_mask(marked, (height, width))
    return image, mask


def cells(grid: tuple[int, int], side: int) -> Iterator[tuple[slice, slice]]:
    """Divide a square into rows and columns as evenly as whole pixels allow; cells come row by row."""
    rows, columns = ([round(i * side / count) for i in range(count + 1)] for count in grid)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            yield slice(top, bottom), slice(left, right)
