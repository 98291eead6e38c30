"""Image files to arrays: every kind of file that may hold an image, and everything that may be wrong with one.

Knows Pillow, numpy and dicom.py. Refuses to know masks, palettes and tensors. Whatever a user can get wrong about a
file is a ValueError (or FileNotFoundError) in one sentence: what was expected, what came, what to do.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from incontext.images import dicom
from incontext.images.arrays import TensorLike, array_of
from incontext.images.depth import deep_colors, grey_of, is_deep, tag_of
from incontext.images.ids import Pixels
from incontext.images.opening import (
    MAX_PIXELS,
    ORIENTATION_TAG,
    broken,
    loaded,
    one_large,
    opened,
    quiet,
    size_of,
    too_large,
)

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[Any] | TensorLike
Encoded: TypeAlias = bytes | BinaryIO  # an image file's contents; a stream must be able to seek

IMAGE_SUFFIXES: Final = frozenset(
    {
        *(".avif", ".bmp", ".dcm", ".dicom", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    }
)
MAX_PAGES: Final = 10_000  # of one file

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REDUCED_TAG = 254  # of TIFF
_HEAD_BYTES = 132  # what tells DICOM from other files
_PIXELS_AT_ONCE = 4_000_000  # converted at a time, for which Pillow needs up to 16 bytes each


def read_image(image: ImageLike | Encoded, *, name: str | None = None, page: int = 0) -> Pixels:
    """Read an image as people see it: (H, W, 3) uint8 RGB, at most 100 megapixels.

    It is turned upright by its EXIF orientation, transparency is laid over white, 16 bits are scaled to 8 by the range
    that they hold (a `RangeWarning` says where that is less than 16), CMYK and indexed colours are converted; of an
    animation the first frame is taken, and DICOM is seen through the window that it stores.

    Args:
        image: A path; the bytes of a file, or a stream of them that can seek; a PIL image; a uint8 array (H, W), (H, W,
            1), (H, W, 3: not copied) or (H, W, 4); a PyTorch tensor, see `arrays.array_of`.
        name: What messages call it; None: its path.
        page: Of a TIFF or DICOM file, from 0; `page_count` says how many there are.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: It is nothing of these.
        ValueError: It cannot be read as an image; the file is named.
    """
    given = array_of(image, "image")
    if isinstance(given, np.ndarray):
        return rgb_from_array(given, "image", paper=255)
    decoded, called = open_image(image, "image", name=name, page=page, by_range=True)
    return rgb_from_image(decoded, called, paper=255)


def read_colors(mask: ImageLike | Encoded, *, name: str | None = None) -> Pixels:
    """Read a mask's colours as they are, (H, W, 3) uint8 RGB; what is transparent is black."""
    given = array_of(mask, "mask")
    if isinstance(given, np.ndarray):
        return rgb_from_array(given, "mask", paper=0)
    image, called = open_image(mask, "mask", name=name)
    return rgb_from_image(image, called, paper=0)


def page_count(source: str | os.PathLike[str] | Encoded, *, name: str | None = None) -> int:
    """Count the pages that a file has for `read_image`. No pixel is decoded.

    Returns:
        Pages of a TIFF, its smaller copies left out; frames of a DICOM file; 1 for all else, animations too.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image; the file is named.
    """
    with _stream(source, "image", name) as (stream, called):
        if _is_dicom(stream):
            count = _dicom_header(stream, called).frames
        else:
            with opened(stream, called) as image:
                count = len(_tiff_pages(image, called)) if image.format == "TIFF" else 1
    if count > MAX_PAGES:
        raise ValueError(f"{called}: expected at most {MAX_PAGES} pages, got {count}; split the file")
    return count


def image_size(source: str | os.PathLike[str] | Encoded, *, name: str | None = None) -> tuple[int, int]:
    """Read (H, W) of what `read_image` gives, from the file's header. It raises the same."""
    with _stream(source, "image", name) as (stream, called):
        if _is_dicom(stream):
            return _dicom_header(stream, called).size
        with opened(stream, called) as image:
            return size_of(image)


# ------------------------------------------------------------------------------------------ for masks.py


def open_image(
    source: ImageLike | Encoded,
    noun: str,
    *,
    name: str | None = None,
    page: int = 0,
    by_range: bool = False,
) -> tuple[Image.Image, str]:
    """Decode an image and turn it upright; return it with the name to use in messages.

    Args:
        noun: What it is, where it has no name.
        by_range: Colours of 16 bits a channel are seen by the range that they have.
    """
    if isinstance(source, Image.Image):
        called = name or f"the {noun}"
        return _decoded(source, called), called
    with _stream(source, noun, name) as (stream, called):
        if _is_dicom(stream):
            return _from_dicom(stream, called, page), called
        deep = False

        def turn_to(image: Image.Image) -> None:
            nonlocal deep
            _turn_to(image, called, page)
            deep = by_range and page == 0 and is_deep(image)

        image = loaded(stream, called, turn_to)
        return _upright(deep_colors(image, stream, called) if deep else image), called


def open_animation(stream: BinaryIO, name: str) -> Image.Image:
    """Open an image whose frames can be sought, the first one decoded; the stream stays open for them."""
    return loaded(stream, name, partial(_check_image, name=name))


def image_mode(source: str | os.PathLike[str]) -> str:
    """Read Pillow's mode of a file, from its header."""
    with _stream(source, "mask", None) as (stream, called):
        if _is_dicom(stream):
            return _from_dicom(stream, called, 0).mode
        with opened(stream, called) as image:
            return image.mode


def rgb_from_image(image: Image.Image, name: str, *, paper: int) -> Pixels:
    """Convert a decoded image to (H, W, 3) uint8.

    Args:
        paper: The grey value that what is transparent is laid over.
    """
    if image.mode == "F":
        raise ValueError(f"{name}: expected 8 or 16 bits per channel, got floating point; save it as an 8-bit PNG")
    if image.mode.startswith("I"):
        return as_rgb(grey_of(image, name))
    (width, height), rows = image.size, max(1, _PIXELS_AT_ONCE // image.size[0])
    rgb = np.empty((height, width, 3), np.uint8)
    try:
        with one_large(width * height):
            for top in range(0, height, rows):
                band = image if rows >= height else image.crop((0, top, width, min(height, top + rows)))
                rgb[top : top + rows] = np.asarray(_on_paper(band, paper).convert("RGB"))
    except ValueError as error:
        raise ValueError(f"{name}: cannot convert mode {image.mode} to RGB ({error}); save it as RGB") from error
    return rgb


def _on_paper(image: Image.Image, paper: int) -> Image.Image:
    if not image.has_transparency_data:
        return image
    backdrop = Image.new("RGBA", image.size, (paper, paper, paper, 255))
    return Image.alpha_composite(backdrop, image.convert("RGBA"))


def rgb_from_array(array: npt.NDArray[Any], noun: str, *, paper: int) -> Pixels:
    """Check and convert an array that a user gave to (H, W, 3) uint8.

    Args:
        paper: As for `rgb_from_image`.
    """
    expected = f"expected the {noun} as a uint8 array (H, W, 3) of RGB or (H, W) of grey values"
    if array.dtype != np.uint8:
        raise ValueError(f"{expected}, got {array.dtype}; convert it to 0..255 and uint8")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = as_rgb(array)
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ValueError(f"{expected}, got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{expected}, got no pixels: shape {array.shape}")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ValueError(too_large(f"the {noun}", array.shape[0] * array.shape[1]))
    if array.shape[2] == 4:
        return rgb_from_image(Image.fromarray(np.ascontiguousarray(array)), f"the {noun}", paper=paper)
    return array


def as_rgb(grey: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Repeat (H, W) as (H, W, 3)."""
    return np.repeat(grey[..., None], 3, axis=2)


# ------------------------------------------------------------------------------------- from here on inside


@contextmanager
def _stream(source: object, noun: str, name: str | None) -> Iterator[tuple[BinaryIO, str]]:
    """Open a stream at the start of the file, and tell the name to use in messages."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        called = name or str(path)
        with _file(path, called) as stream:
            yield stream, called
        return
    called = name or f"the {noun}"
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if not (hasattr(source, "read") and hasattr(source, "seek")):
        raise TypeError(
            f"expected the {noun} as a path, the bytes of a file, a PIL image, an array or a tensor, got "
            f"{type(source).__name__}"
        )
    stream = cast("BinaryIO", source)
    if stream.seek(0, os.SEEK_END) == 0:
        raise ValueError(_nothing_in(called))
    stream.seek(0)
    yield stream, called


def _file(path: Path, name: str) -> BinaryIO:
    if not path.exists():
        raise FileNotFoundError(f"{name}: there is no such file")
    if path.is_dir():
        raise ValueError(f"{name}: expected an image file, got a folder")
    if path.stat().st_size == 0:
        raise ValueError(_nothing_in(name))
    try:
        return path.open("rb")
    except OSError as error:
        raise ValueError(f"{name}: the file cannot be opened ({error.strerror})") from error


def _nothing_in(name: str) -> str:
    return f"{name}: the file is empty (0 bytes)"


def _decoded(image: Image.Image, name: str) -> Image.Image:
    """Decode what a user opened."""
    _check_image(image, name)
    try:
        with one_large(image.width * image.height):
            image.load()
    except Exception as error:  # a broken file makes decoders raise nearly anything
        raise ValueError(broken(name, error)) from error
    return _upright(image)


def _check_image(image: Image.Image, name: str) -> None:
    _check_size(*image.size, name)


def _upright(image: Image.Image) -> Image.Image:
    try:
        with quiet():
            turn = _UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001  unreadable metadata must not cost the pixels
        turn = None
    if turn is None:
        return image
    upright = image.transpose(turn)
    upright.format = image.format
    return upright


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(too_large(name, width * height))
    if width * height == 0:
        raise ValueError(f"{name}: expected at least one pixel, got {width} x {height}")


def _turn_to(image: Image.Image, name: str, page: int) -> None:
    """Make the page that is wanted the current one before an image is decoded, and check the size."""
    if page or image.format == "TIFF":
        _turn_page(image, name, page)
    elif getattr(image, "default_image", False):  # of an animated PNG: a stand-in for programs that know no animation
        image.seek(1)
    _check_image(image, name)


def _turn_page(image: Image.Image, name: str, page: int) -> None:
    """Make a page of a TIFF the current one."""
    pages = _tiff_pages(image, name, page + 1) if image.format == "TIFF" else [0]
    if not 0 <= page < len(pages):
        raise ValueError(f"{name}: expected a page from 0 to {len(pages) - 1}, got {page}")
    try:
        with quiet():
            image.seek(pages[page])
    except Exception as error:  # as in _decoded
        raise ValueError(broken(name, error)) from error


def _tiff_pages(image: Image.Image, name: str, most: int = MAX_PAGES + 1) -> list[int]:
    """List the first pages of a TIFF, up to `most`; those that hold a smaller copy are left out."""
    pages: list[int] = []
    try:
        with quiet():
            for directory in range(MAX_PAGES + 1):
                try:
                    image.seek(directory)
                except EOFError:
                    break
                if not int(tag_of(image, _REDUCED_TAG) or 0) & 1:
                    pages.append(directory)
                if len(pages) == most:
                    break
            image.seek(0)
    except Exception as error:  # as in _decoded
        raise ValueError(broken(name, error)) from error
    return pages or [0]


# ------------------------------------------------------------------------------------------------ DICOM


def _is_dicom(stream: BinaryIO) -> bool:
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    return dicom.is_dicom(head)


def _dicom_header(stream: BinaryIO, name: str) -> dicom.DicomHeader:
    try:
        with quiet():
            header = dicom.read_header(stream)
    except ImportError:
        raise ValueError(
            f"{name}: expected an image that can be read, got DICOM; reading it needs: pip install 'incontext[dicom]'"
        ) from None
    except Exception as error:  # as in _decoded
        raise ValueError(broken(name, error)) from error
    stream.seek(0)
    return header


def _from_dicom(stream: BinaryIO, name: str, page: int) -> Image.Image:
    header = _dicom_header(stream, name)
    height, width = header.size
    _check_size(width, height, name)
    if not 0 <= page < header.frames:
        raise ValueError(f"{name}: expected a page from 0 to {header.frames - 1}, got {page}")
    try:
        with quiet():
            return Image.fromarray(dicom.read_frame(stream, page))
    except Exception as error:  # as in _decoded
        raise ValueError(broken(name, error)) from error
