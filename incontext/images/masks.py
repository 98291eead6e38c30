"""Masks to ids: the one entrance for files of masks. read.py reads images, write.py writes both.

Knows Pillow and numpy. Refuses to know what a prompt, a palette or a tensor is. Whatever a user can get wrong about a
file is a ValueError (or FileNotFoundError) in one sentence: what was expected, what came, what to do.
"""

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from incontext.images.arrays import array_of
from incontext.images.ids import IGNORED, Color, Pixels, check_ids
from incontext.images.opening import MAX_PIXELS, too_large
from incontext.images.read import (
    ImageLike,
    as_rgb,
    image_mode,
    open_image,
    rgb_from_array,
    rgb_from_image,
)
from incontext.images.smoothing import indexed, is_smoothed_grey, main_colors, nearest_rows, thin_blends

MAX_STRAY_SHARE: Final = 0.005  # of the pixels, for one stray colour
MAX_STRAY_TOTAL: Final = 0.03  # of the pixels, for all stray colours together


class MaskWarning(UserWarning):
    """A mask could be read, but not without a guess that the user should know of."""


@dataclass(frozen=True, eq=False)
class MaskFile:
    """A mask as `read_mask` found it.

    Attributes:
        ids: (H, W) uint8, 0 background, 1..254 objects, 255 ignored.
        colors: (256, 3) uint8: row i is the colour that id i had in the file, rows of absent ids say nothing. None
            where
            the file had none.
    """

    ids: Pixels
    colors: Pixels | None


# ----------------------------------------------------------------------------------------------- masks


def read_mask(mask: ImageLike, *, snap: bool = False) -> MaskFile:
    """Read a mask as ids. This is the one entrance for masks; each form has one reading.

    * bool array or 1-bit image: {0, 1}; array of integers (H, W): the ids as they are;
    * indexed image ("P"): the indices are the ids, the palette is kept, fully transparent entries are background;
    * grey image: {0, 255} (at 16 bits also {0, 65535}) is {0, 1}; anything else is ids, and 255 is ignored. Where 255
      stands beside mid-grey only, as in {0, 128, 255}, white may have been meant as an object: a `MaskWarning` says it;
    * RGB(A) image or uint8 array (H, W, 3 or 4): black and transparent are background, every other colour is an id,
      counted from 1 in ascending order of (R, G, B); at most 255 colours, the background among them.

    An image whose colours blend at its edges is *smoothed*. Its main colours are black, those that fill 5 x 5 pixels
    somewhere, and those of thin strokes that can be no blend of two others; the rest are stray. Few strays (below 0.5 %
    of the pixels each and 3 % together) snap to the nearest main colour with one `MaskWarning`; more are refused, in a
    JPEG any are. A mask without ids can be read; a prompt refuses it.

    Args:
        mask: A path, a PIL image, an array or a PyTorch tensor, see `arrays.array_of`.
        snap: Snap stray colours however many there are, and say nothing.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: It is nothing of these.
        ValueError: It cannot be read as a mask; the file is named.
    """
    given = array_of(mask, "mask")
    if isinstance(given, np.ndarray):
        return _mask_from_array(given, snap=snap)
    image, name = open_image(mask, "mask")
    lossy = image.format in {"JPEG", "MPO"}
    if image.mode == "1":
        return MaskFile(np.asarray(image).astype(np.uint8), None)
    if image.mode == "P":
        return _mask_from_indexed(image, name)
    if image.mode == "F":
        raise ValueError(
            f"{name}: expected a mask of integer ids or colours, got floating point; save it as an 8-bit PNG"
        )
    if image.mode.startswith("I"):
        return MaskFile(_ids_from_grey_image(np.asarray(image), name), None)
    if image.mode in {"L", "LA"}:
        grey = rgb_from_image(image, name, paper=0)[..., 0]
        if lossy or is_smoothed_grey(grey):
            return _mask_from_colors(as_rgb(grey), name, snap=snap, lossy=lossy)
        return MaskFile(_ids_from_grey_image(grey, name), None)
    return _mask_from_colors(rgb_from_image(image, name, paper=0), name, snap=snap, lossy=lossy)


def is_painted(mask: ImageLike) -> bool:
    """Tell whether a readable mask's ids stand for colours, counted anew in each file, and are not ids themselves."""
    given = array_of(mask, "mask")
    if isinstance(given, np.ndarray):
        return given.ndim == 3 and given.shape[2] > 1
    mode = given.mode if isinstance(given, Image.Image) else image_mode(cast("str | os.PathLike[str]", given))
    return mode not in {"1", "P", "L", "LA", "F"} and not mode.startswith("I")


def number_colors(masks: Iterable[Path], *, snap: bool = False) -> dict[Color, int]:
    """Give numbers to the colours in the RGB masks of a set, which `read_mask` counts anew in each file.

    They count from 1, in ascending order of (R, G, B) over all masks; those that hold ids themselves have no say.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A mask cannot be read, or there are more than 254 colours.
    """
    colors: set[Color] = set()
    for path in masks:
        if is_painted(path):
            file = read_mask(path, snap=snap)
            colors |= _colors_by_id(file).keys()
    if len(colors) >= IGNORED:
        raise ValueError(f"expected at most 254 colours beside black in the masks together, got {len(colors)}")
    return {color: number for number, color in enumerate(sorted(colors), start=1)}


def read_ids(mask: Path, numbers: Mapping[Color, int], *, snap: bool = False) -> Pixels:
    """Read the ids of a mask of a set whose colours have these numbers, (H, W) uint8."""
    file = read_mask(mask, snap=snap)
    if not is_painted(mask):
        return file.ids
    table = np.zeros(256, np.uint8)
    for color, i in _colors_by_id(file).items():
        table[i] = numbers[color]
    ids: Pixels = table[file.ids]
    return ids


def _colors_by_id(file: MaskFile) -> dict[Color, int]:
    """Tell the colours of an RGB mask's ids, the background left out."""
    assert file.colors is not None
    return {(r, g, b): i for i in np.unique(file.ids).tolist() if i for r, g, b in [file.colors[i].tolist()]}


def _mask_from_array(array: npt.NDArray[Any], *, snap: bool) -> MaskFile:
    name = "the mask"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3:
        return _mask_from_colors(rgb_from_array(array, "mask", paper=0), name, snap=snap, lossy=False)
    ids = check_ids(array, name)
    if array.size > MAX_PIXELS:
        raise ValueError(too_large(name, array.size))
    # Ids in an array are taken at their word, but grey pixels in one are a common slip: 255 would count as ignored.
    if array.dtype == np.uint8 and array.max() == IGNORED and is_smoothed_grey(array, least=8):
        return _mask_from_colors(as_rgb(array), name, snap=snap, lossy=False)
    return MaskFile(ids, None)


def _ids_from_grey_image(values: npt.NDArray[Any], name: str) -> Pixels:
    present = set(np.unique(values).tolist())
    if present <= {0, 255} or present <= {0, 65535}:
        return (values > 0).astype(np.uint8)
    ids = check_ids(values, name)
    if IGNORED in present and min(present - {0}) >= 32:  # grey levels, as it seems, rather than ids counted from 1
        share = np.count_nonzero(ids == IGNORED) / ids.size
        _warn(
            f"{name}: 255 ({share:.1%} of the pixels) is read as ignored; if white is an object, save the mask as RGB"
        )
    return ids


def _mask_from_indexed(image: Image.Image, name: str) -> MaskFile:
    ids = np.array(image)
    colors = np.zeros((256, 3), np.uint8)
    table = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    colors[: len(table)] = table
    clear = image.info.get("transparency")
    if clear is not None:
        alpha = np.frombuffer(clear, np.uint8) if isinstance(clear, bytes) else None
        hidden = np.flatnonzero(alpha == 0) if alpha is not None else np.array([clear])
        ids[np.isin(ids, hidden)] = 0
    present = np.unique(ids)
    black = [int(i) for i in present if 0 < i < IGNORED and not colors[i].any()]
    if black and 0 in present and colors[0].any():
        _warn(
            f"{name}: index 0 is read as background, but index {black[0]} is the black one; if not so, save it as RGB"
        )
    return MaskFile(ids, colors)


def _mask_from_colors(rgb: Pixels, name: str, *, snap: bool, lossy: bool) -> MaskFile:
    index, colors, counts = indexed(rgb)
    if lossy or len(colors) > 255 or thin_blends(index, colors).any():
        main = main_colors(index, colors, counts, lossy=lossy)
    else:
        main = np.ones(len(colors), np.bool_)
    objects = colors[main & colors.any(axis=1)]
    if len(objects) > IGNORED - 1:
        raise ValueError(f"{name}: expected at most 254 colours beside black, got {len(objects)} or more")
    strays, shares = int(np.count_nonzero(~main)), counts[~main] / index.size
    few = not lossy and shares.max(initial=0) < MAX_STRAY_SHARE and shares.sum() < MAX_STRAY_TOTAL
    if strays and not (few or snap):
        raise ValueError(
            f"{name}: expected a mask of flat colours, got {strays} stray colours on {shares.sum():.1%} of the pixels"
            " (is it anti-aliased, JPEG-compressed, a photograph?); save it as PNG without smoothing, or give each the"
            " nearest main colour with --snap-colors (snap=True in Python)"
        )
    table = np.zeros((256, 3), np.uint8)
    table[1 : len(objects) + 1] = objects
    ids = nearest_rows(colors, table[: len(objects) + 1])[index]
    if strays and not snap:
        kept = f"{len(objects) + 1} main ones, black among them"
        _warn(f"{name}: {strays} stray colours on {shares.sum():.2%} of the pixels snapped to the nearest of {kept}")
    return MaskFile(ids, table)


def _warn(sentence: str) -> None:
    warnings.warn(sentence, MaskWarning, stacklevel=4)
