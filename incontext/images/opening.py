"""Image files opened by what is in them: the promised kinds and no other, and what their headers say.

Some decoders of Pillow start other programs, and all of them widen what a hostile file can reach, so only those are
asked that are promised. Knows Pillow. Refuses to know pixels, masks and paths.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO, Final

from PIL import Image, UnidentifiedImageError

MAX_PIXELS: Final = 100_000_000
LARGE_PIXELS: Final = 20_000_000
FORMATS: Final = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", "TGA")
"""Pillow's names of the kinds that are read; the last has no mark of its own to be known by, so it comes last."""

ORIENTATION_TAG: Final = 0x0112
_WIDTH_TAG, _HEIGHT_TAG = 256, 257  # of TIFF
_LYING: Final = frozenset({5, 6, 7, 8})  # orientations that swap width and height
_HEAD_BYTES = 32
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"})
_PNG_MARK: Final = b"\x89PNG\r\n\x1a\n"
_PNG_WORDS: Final = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})  # chunks without which the image is the same
_ONE_LARGE = threading.Lock()
_WARNINGS_LOCK = threading.Lock()  # the filters of warnings belong to the process, and folder jobs decode in threads


@contextmanager
def quiet() -> Iterator[None]:
    """Leave decoders' warnings out: from 89 megapixels on Pillow suspects a bomb; the limit here is MAX_PIXELS."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def promised_formats_only() -> Iterator[None]:
    """Keep all of this process, libraries included, from opening other kinds of images with Pillow meanwhile."""
    Image.init()
    before, order = dict(Image.OPEN), list(Image.ID)
    try:
        Image.ID[:] = [kind for kind in order if kind in FORMATS]
        for kind in before.keys() - set(FORMATS):
            del Image.OPEN[kind]
        yield
    finally:
        Image.OPEN.update(before)
        Image.ID[:] = order


def opened(stream: BinaryIO, name: str) -> Image.Image:
    """Read an image's header and decode no pixel.

    Raises:
        ValueError: It is no image; its name is said.
    """
    try:
        return _by_pillow(stream)
    except UnidentifiedImageError:
        pass
    except Image.DecompressionBombError:
        raise ValueError(too_large(name)) from None
    except Exception as error:  # a broken header makes decoders raise nearly anything
        plain = without_words(stream)
        if plain is not None:
            return opened(plain, name)
        raise ValueError(broken(name, error)) from error
    stream.seek(0)
    brands = _brands(stream.read(_HEAD_BYTES))
    stream.seek(0)
    if brands & _AVIF_BRANDS and "AVIF" in Image.OPEN:
        raise ValueError(broken(name, ValueError("it begins like AVIF")))
    if brands & _AVIF_BRANDS:
        raise ValueError(f"{name}: expected an image that can be read, got AVIF, for which Pillow 11.3 is needed")
    if brands & _HEIF_BRANDS:
        return _heif(stream, name)
    raise ValueError(f"{name}: expected an image file, got something else or a kind that cannot be read")


def loaded(stream: BinaryIO, name: str, turn_to: Callable[[Image.Image], None]) -> Image.Image:
    """Decode an image; `turn_to` is called before.

    Raises:
        ValueError: It is broken; its name is said.
    """
    image = opened(stream, name)
    turn_to(image)
    try:
        with one_large(image.width * image.height):
            image.load()
    except Exception as error:  # as in opened
        plain = without_words(stream) if image.format == "PNG" else None
        if plain is not None:
            return loaded(plain, name, turn_to)
        raise ValueError(broken(name, error)) from error
    return image


@contextmanager
def one_large(pixels: int) -> Iterator[None]:
    """Work on large images one at a time in a process, so that memory does not grow with its threads."""
    with _ONE_LARGE if pixels > LARGE_PIXELS else nullcontext():
        yield


def size_of(image: Image.Image) -> tuple[int, int]:
    """Return (H, W) of an opened image as people see it, turned upright by its orientation."""
    width, height = image.size
    try:
        with quiet():
            lies = image.getexif().get(ORIENTATION_TAG, 1) in _LYING
    except Exception:  # noqa: BLE001  unreadable metadata must not cost the image
        lies = False
    if image.format == "TIFF":  # some versions of Pillow have swapped the sides already
        tags: Any = getattr(image, "tag_v2", {})
        width, height = tags.get(_WIDTH_TAG, width), tags.get(_HEIGHT_TAG, height)
    return (width, height) if lies else (height, width)


def without_words(stream: BinaryIO) -> BinaryIO | None:
    """Leave out a PNG's texts and colour profile, which Pillow refuses where they are long.

    None where it has none, or is no PNG.
    """
    stream.seek(0)
    if stream.read(len(_PNG_MARK)) != _PNG_MARK:
        return None
    kept, found = [_PNG_MARK], False
    while len(head := stream.read(8)) == 8:
        length = int.from_bytes(head[:4], "big") + 4  # and its check sum
        if head[4:] in _PNG_WORDS:
            found = True
            stream.seek(length, os.SEEK_CUR)
        else:
            kept += [head, stream.read(length)]
    return io.BytesIO(b"".join([*kept, head])) if found else None


def too_large(name: str, pixels: int | None = None) -> str:
    """Say in a sentence that an image is above MAX_PIXELS.

    Args:
        pixels: How many, where that is known.
    """
    came = "more than that" if pixels is None else f"{pixels / 1e6:.0f}"
    return f"{name}: expected at most {MAX_PIXELS / 1e6:.0f} megapixels, got {came}; make it smaller first"


def broken(name: str, error: Exception) -> str:
    """Say in a sentence that a decoder refuses a file."""
    what = " ".join(str(error).split()) or type(error).__name__
    return (
        f"{name}: the file is broken or cut off ({what}), or stored in a way that is not read here; "
        "if other programs open it, save it anew as PNG"
    )


def _by_pillow(stream: BinaryIO) -> Image.Image:
    Image.init()
    with quiet():
        return Image.open(stream, formats=[kind for kind in FORMATS if kind in Image.OPEN])


def _brands(head: bytes) -> set[bytes]:
    """List what an ISO base media file says it is, its own kind first; nothing for other files."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(len(head), int.from_bytes(head[:4], "big"))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}


def _heif(stream: BinaryIO, name: str) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ValueError(
            f"{name}: expected an image that can be read, got HEIC; reading it needs: pip install 'incontext[heif]'"
        ) from None
    try:
        with quiet():
            image: Image.Image = HeifImageFile(stream)  # type: ignore[no-untyped-call, unused-ignore]
            return image
    except Exception as error:  # as in opened
        raise ValueError(broken(name, error)) from error
