"""Picture files to arrays: every kind of file that may hold a picture, and everything that may be wrong with one.

Knows Pillow, numpy and dicom.py. Refuses to know masks, palettes and tensors. Whatever a user can get wrong about a
file is a ValueError (or FileNotFoundError) in one sentence: what was expected, what came, what to do.
"""

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from incontext.images import dicom
from incontext.images.ids import Pixels

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]
Encoded: TypeAlias = bytes | BinaryIO  # a picture file's contents; a stream must be able to seek

IMAGE_SUFFIXES: Final = frozenset(
    {
        *(".avif", ".bmp", ".dcm", ".dicom", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
        *(".tif", ".tiff", ".webp"),
    }
)
MAX_PIXELS: Final = 100_000_000
MAX_PAGES: Final = 10_000  # of one file
LARGE_PIXELS: Final = 20_000_000

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REDUCED_TAG, _BITS_TAG, _PHOTOMETRIC_TAG, _MOST_TAG = 254, 258, 262, 281  # of TIFF
_HEAD_BYTES = 132  # what tells one kind of file from another
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"})
_PIXELS_AT_ONCE = 4_000_000  # converted at a time, for which Pillow needs up to 16 bytes each
_ONE_LARGE = threading.Lock()
_WARNINGS_LOCK = threading.Lock()  # the filters of warnings belong to the process, and folder jobs decode in threads


def read_image(image: ImageLike | Encoded, *, name: str | None = None, page: int = 0) -> Pixels:
    """An image as people see it: (H, W, 3) uint8 RGB, at most 100 megapixels.

    image: a path; the bytes of a file, or a stream of them that can seek; a PIL image; a uint8 array (H, W), (H, W, 1),
    (H, W, 3: not copied) or (H, W, 4). name: what messages call it, None: its path. page: of a TIFF or DICOM file, from
    0; `page_count` says how many there are.
    Turned upright by its EXIF orientation, transparency laid over white, 16 bits scaled to 8, CMYK and indexed colours
    converted, the first frame of an animation; DICOM through the window that it stores.
    Raises FileNotFoundError, or ValueError with the file's name.
    """
    if isinstance(image, np.ndarray):
        return rgb_from_array(image, "image", paper=255)
    picture, called = open_picture(image, "image", name=name, page=page)
    return rgb_from_picture(picture, called, paper=255)


def read_colors(mask: ImageLike | Encoded, *, name: str | None = None) -> Pixels:
    """A mask's colours as they are, (H, W, 3) uint8 RGB, nothing read into them; what is transparent is black."""
    if isinstance(mask, np.ndarray):
        return rgb_from_array(mask, "mask", paper=0)
    picture, called = open_picture(mask, "mask", name=name)
    return rgb_from_picture(picture, called, paper=0)


def page_count(source: str | os.PathLike[str] | Encoded, *, name: str | None = None) -> int:
    """How many pages a file has for `read_image`: pages of a TIFF (its smaller copies left out), frames of a DICOM
    file, 1 for all else, animations too. Decodes no pixel.

    Raises FileNotFoundError, or ValueError with the file's name.
    """
    with _stream(source, "image", name) as (stream, called):
        if _is_dicom(stream):
            count = _dicom_header(stream, called).frames
        else:
            with _opened(stream, called) as picture:
                count = len(_tiff_pages(picture, called)) if picture.format == "TIFF" else 1
    if count > MAX_PAGES:
        raise ValueError(f"{called}: expected at most {MAX_PAGES} pages, got {count}; split the file")
    return count


# ------------------------------------------------------------------------------------------ for masks.py


def open_picture(
    source: str | os.PathLike[str] | Image.Image | Encoded, noun: str, *, name: str | None = None, page: int = 0
) -> tuple[Image.Image, str]:
    """The decoded, upright picture, and the name to use in messages. noun: what it is, where it has no name."""
    if isinstance(source, Image.Image):
        called = name or f"the {noun}"
        return _decoded(source, called), called
    with _stream(source, noun, name) as (stream, called):
        if _is_dicom(stream):
            return _from_dicom(stream, called, page), called
        picture = _opened(stream, called)
        if page or picture.format == "TIFF":
            _turn_to(picture, called, page)
        return _decoded(picture, called), called


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of decoders: from 89 megapixels on Pillow suspects a bomb; the limit here is MAX_PIXELS."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def too_large(name: str, pixels: int | None = None) -> str:
    """The sentence for a picture above MAX_PIXELS. pixels: how many, where that is known."""
    came = "more than that" if pixels is None else f"{pixels / 1e6:.0f}"
    return f"{name}: expected at most {MAX_PIXELS / 1e6:.0f} megapixels, got {came}; make it smaller first"


def rgb_from_picture(picture: Image.Image, name: str, *, paper: int) -> Pixels:
    """(H, W, 3) uint8 of a decoded picture; paper: the grey value that what is transparent is laid over."""
    if picture.mode == "F":
        raise ValueError(f"{name}: expected 8 or 16 bits per channel, got floating point; save it as an 8-bit PNG")
    if picture.mode.startswith("I"):
        return as_rgb(_eight_bits(picture, name))
    (width, height), rows = picture.size, max(1, _PIXELS_AT_ONCE // picture.size[0])
    rgb = np.empty((height, width, 3), np.uint8)
    try:
        with one_large(width * height):
            for top in range(0, height, rows):
                band = picture if rows >= height else picture.crop((0, top, width, min(height, top + rows)))
                rgb[top : top + rows] = np.asarray(_on_paper(band, paper).convert("RGB"))
    except ValueError as error:
        raise ValueError(f"{name}: cannot convert mode {picture.mode} to RGB ({error}); save it as RGB") from error
    return rgb


def _on_paper(picture: Image.Image, paper: int) -> Image.Image:
    if not picture.has_transparency_data:
        return picture
    backdrop = Image.new("RGBA", picture.size, (paper, paper, paper, 255))
    return Image.alpha_composite(backdrop, picture.convert("RGBA"))


@contextmanager
def one_large(pixels: int) -> Iterator[None]:
    """Large pictures are worked on one at a time in a process, so that memory does not grow with its threads."""
    with _ONE_LARGE if pixels > LARGE_PIXELS else nullcontext():
        yield


def rgb_from_array(array: npt.NDArray[Any], noun: str, *, paper: int) -> Pixels:
    """(H, W, 3) uint8 of an array that a user gave; paper: as for `rgb_from_picture`."""
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
        return rgb_from_picture(Image.fromarray(np.ascontiguousarray(array)), f"the {noun}", paper=paper)
    return array


def as_rgb(grey: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W) -> (H, W, 3)."""
    return np.repeat(grey[..., None], 3, axis=2)


# ------------------------------------------------------------------------------------- from here on inside


@contextmanager
def _stream(source: object, noun: str, name: str | None) -> Iterator[tuple[BinaryIO, str]]:
    """A stream at the start of the file, and the name to use in messages."""
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
        raise ValueError(
            f"expected the {noun} as the bytes of a file, a path, a PIL image or an array, got {type(source).__name__}"
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
    return f"{name}: the file is empty (0 bytes); copy it again from where it came"


def _opened(stream: BinaryIO, name: str) -> Image.Image:
    """The picture, its header read and no pixel decoded."""
    try:
        with quiet():
            return Image.open(stream)
    except UnidentifiedImageError:
        pass
    except Image.DecompressionBombError:
        raise ValueError(too_large(name)) from None
    except Exception as error:  # a broken header makes decoders raise nearly anything
        raise ValueError(_broken(name, error)) from error
    stream.seek(0)
    brands = _brands(stream.read(_HEAD_BYTES))
    stream.seek(0)
    if brands & _AVIF_BRANDS and "AVIF" in Image.OPEN:
        raise ValueError(_broken(name, ValueError("it begins like AVIF")))
    if brands & _AVIF_BRANDS:
        raise ValueError(f"{name}: expected a picture that can be read, got AVIF, for which Pillow 11.3 is needed")
    if brands & _HEIF_BRANDS:
        return _heif(stream, name)
    raise ValueError(f"{name}: expected an image file, got something else or a kind that cannot be read")


def _brands(head: bytes) -> set[bytes]:
    """What an ISO base media file says it is, the first its own kind; nothing for other files."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(len(head), int.from_bytes(head[:4], "big"))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}


def _heif(stream: BinaryIO, name: str) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ValueError(
            f"{name}: expected a picture that can be read, got HEIC; reading it needs: pip install 'incontext[heif]'"
        ) from None
    try:
        with quiet():
            picture: Image.Image = HeifImageFile(stream)  # type: ignore[no-untyped-call, unused-ignore]
            return picture
    except Exception as error:  # as in _opened
        raise ValueError(_broken(name, error)) from error


def _decoded(picture: Image.Image, name: str) -> Image.Image:
    width, height = picture.size
    _check_size(width, height, name)
    try:
        with one_large(width * height):
            picture.load()
    except Exception as error:  # as in _opened
        raise ValueError(_broken(name, error)) from error
    try:
        with quiet():
            turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001  unreadable metadata must not cost the pixels
        turn = None
    if turn is None:
        return picture
    upright = picture.transpose(turn)
    upright.format = picture.format
    return upright


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(too_large(name, width * height))
    if width * height == 0:
        raise ValueError(f"{name}: expected at least one pixel, got {width} x {height}")


def _broken(name: str, error: Exception) -> str:
    what = " ".join(str(error).split()) or type(error).__name__
    return f"{name}: the file is broken or cut off ({what}); copy it again from where it came"


def _turn_to(picture: Image.Image, name: str, page: int) -> None:
    """Make a page of a TIFF the current one."""
    pages = _tiff_pages(picture, name, page + 1) if picture.format == "TIFF" else [0]
    if not 0 <= page < len(pages):
        raise ValueError(f"{name}: expected a page from 0 to {len(pages) - 1}, got {page}")
    try:
        with quiet():
            picture.seek(pages[page])
    except Exception as error:  # as in _opened
        raise ValueError(_broken(name, error)) from error


def _tiff_pages(picture: Image.Image, name: str, most: int = MAX_PAGES + 1) -> list[int]:
    """The first pages of a TIFF, up to `most`, by their directories; those that hold a smaller copy are left out."""
    pages: list[int] = []
    try:
        with quiet():
            for directory in range(MAX_PAGES + 1):
                try:
                    picture.seek(directory)
                except EOFError:
                    break
                if not int(_tag(picture, _REDUCED_TAG) or 0) & 1:
                    pages.append(directory)
                if len(pages) == most:
                    break
            picture.seek(0)
    except Exception as error:  # as in _opened
        raise ValueError(_broken(name, error)) from error
    return pages or [0]


def _tag(picture: Image.Image, tag: int) -> Any:
    """The value of a TIFF's tag, the first where it has several; None for what is no TIFF."""
    value = getattr(picture, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) else value


def _eight_bits(picture: Image.Image, name: str) -> Pixels:
    """Grey values of up to 16 bits -> (H, W) uint8. A TIFF says what white is where it is not 65535."""
    values = np.asarray(picture)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"{name}: expected grey values in 0..65535, got {low}..{high}; save it with 16 bits")
    bits, said = _tag(picture, _BITS_TAG), _tag(picture, _MOST_TAG)
    white = min(2 ** int(bits) - 1 if bits else 65535, int(said) if said else 65535)
    if white < max(high, 1) or white > 65535:
        white = 65535
    grey: Pixels = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    return 255 - grey if _tag(picture, _PHOTOMETRIC_TAG) == 0 else grey


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
            f"{name}: expected a picture that can be read, got DICOM; reading it needs: pip install 'incontext[dicom]'"
        ) from None
    except Exception as error:  # as in _opened
        raise ValueError(_broken(name, error)) from error
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
    except Exception as error:  # as in _opened
        raise ValueError(_broken(name, error)) from error
