"""Files of 16 bits a channel brought to the 8 that people see, by the range that their data really has.

Cameras of 10, 12 and 14 bits store their values in 16 as they are: shown as 16 bits they are nearly black. Knows Pillow
and numpy. Refuses to know masks, and how files are opened.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

_BITS_TAG, _PHOTOMETRIC_TAG, _MOST_TAG = 258, 262, 281  # of TIFF
_RANGES: Final = (8, 10, 12, 14)  # bits that cameras and microscopes have
_WHITE: Final = 65535
_DARK: Final = 64  # of 255: what 14 bits in 16 stay below

_NOTES: ContextVar[list[str] | None] = ContextVar("notes", default=None)


class RangeWarning(UserWarning):
    """An image is seen by a range of its values that its file does not say."""


@contextmanager
def noted() -> Iterator[list[str]]:
    """Collect what is said of images that are read in here, in place of warnings: for threads, which share those."""
    notes: list[str] = []
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


def grey_of(image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    """Scale a decoded grey image of up to 16 bits to (H, W) uint8.

    A TIFF says what white is where it is not 65535; where nothing says it and no value needs all 16 bits, white is that
    of the 8, 10, 12 or 14 bits that they need.
    """
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _WHITE:
        raise ValueError(f"{name}: expected grey values in 0..65535, got {low}..{high}; save it with 16 bits")
    bits, said = tag_of(image, _BITS_TAG), tag_of(image, _MOST_TAG)
    white = min(2 ** int(bits) - 1 if bits else _WHITE, int(said) if said else _WHITE)
    if white < max(high, 1) or white >= _WHITE:
        white = _seen_white(high, name)
    grey = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    return 255 - grey if tag_of(image, _PHOTOMETRIC_TAG) == 0 else grey


def is_deep(image: Image.Image) -> bool:
    """Tell whether an opened image has 16 bits for each of several channels, of which Pillow drops the lower 8."""
    if image.format == "PNG":
        tiles: Any = getattr(image, "tile", ())
        return not image.mode.startswith("I") and any(str(each.args).endswith(";16B") for each in tiles)
    bits = getattr(image, "tag_v2", {}).get(_BITS_TAG)
    return isinstance(bits, tuple) and len(bits) > 1 and max(bits) == 16


def deep_colors(image: Image.Image, stream: BinaryIO, name: str) -> Image.Image:
    """Scale a decoded image of 16 bits a channel by the range that its values have.

    Where they need all bits it stays as it is, and so it does where no other decoder is at hand.
    """
    bands = [band for band in image.getbands() if band != "A"]
    if max(high for band in bands for high in [image.getchannel(band).getextrema()[1]]) >= _DARK:  # type: ignore[operator]
        return image
    values = _sixteen_bits(stream, "png_pipe" if image.format == "PNG" else "tiff_pipe")
    if values is None or values.shape[:2] != image.size[::-1]:
        return image
    white = _seen_white(int(values[..., :3].max()), name)
    seen = ((values[..., :3].astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    made = Image.fromarray(seen)
    if "A" in image.getbands():
        made.putalpha(image.getchannel("A"))
    made.format, made.info = image.format, image.info
    return made


def tag_of(image: Image.Image, tag: int) -> Any:
    """Return the value of a TIFF's tag, the first where it has several; None for what is no TIFF."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) else value


def _seen_white(high: int, name: str) -> int:
    """Return the value that is white, where none is above `high`."""
    bits = next((each for each in _RANGES if 0 < high < 1 << each), None)
    if bits is None:
        return _WHITE
    told = f"{name}: its 16 bits hold values of {bits} bits, up to {high}, and are seen by that range"
    notes = _NOTES.get()
    if notes is None:
        warnings.warn(told, RangeWarning, stacklevel=2)
    else:
        notes.append(told)
    return (1 << bits) - 1


def _sixteen_bits(stream: BinaryIO, kind: str) -> npt.NDArray[np.uint16] | None:
    """Decode (H, W, 4) uint16, by FFmpeg; None where it cannot."""
    import av
    from av.error import FFmpegError

    stream.seek(0)
    try:
        with av.open(io.BytesIO(stream.read()), "r", format=kind) as container:
            frame = next(container.decode(video=0))
            return np.asarray(frame.to_ndarray(format="rgba64le"), np.uint16)
    except (FFmpegError, StopIteration, ValueError):
        return None
