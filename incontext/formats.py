"""Files to arrays and back: every image, mask and annotation format that goes in or out.

Knows Pillow and numpy. Refuses to know what a prompt, a palette or a tensor is. Whatever a user can get wrong about a
file is a ValueError (or FileNotFoundError) in one sentence: what was expected, what came, what to do.
"""

import os
import re
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from incontext.smoothing import indexed, is_smoothed_grey, main_colors, nearest_rows, thin_blends

Pixels: TypeAlias = npt.NDArray[np.uint8]
ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]

IMAGE_SUFFIXES: Final = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_PIXELS: Final = 100_000_000
IGNORED: Final = 255  # the id of pixels that are neither background nor object: left out of training and scoring
MAX_STRAY_SHARE: Final = 0.005  # of the pixels, for one stray colour
MAX_STRAY_TOTAL: Final = 0.03  # of the pixels, for all stray colours together

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
_WARNINGS_LOCK = threading.Lock()  # the filters of warnings belong to the process, and folder jobs decode in threads


class MaskWarning(UserWarning):
    """A mask could be read, but not without a guess that the user should know of."""


@dataclass(frozen=True, eq=False)
class MaskFile:
    """What `read_mask` found: ids (H, W) uint8, 0 background, 1..254 objects, 255 ignored; colors (256, 3) uint8, where
    row i is the colour that id i had in the file (rows of absent ids say nothing), or None where the file had none."""

    ids: Pixels
    colors: Pixels | None


# ---------------------------------------------------------------------------------------------- images


def read_image(image: ImageLike) -> Pixels:
    """An image as people see it: (H, W, 3) uint8 RGB, at most 100 megapixels.

    image: a path, a PIL image, or a uint8 array (H, W), (H, W, 1), (H, W, 3: not copied) or (H, W, 4).
    Turned upright by its EXIF orientation, transparency laid over white, 16 bits scaled to 8, CMYK and indexed colours
    converted, the first frame of an animation.
    Raises FileNotFoundError, or ValueError with the file's name.
    """
    if isinstance(image, np.ndarray):
        return _rgb_from_array(image, "image", paper=255)
    picture, name = _picture(image, "image")
    return _rgb_from_picture(picture, name, paper=255)


def read_colors(mask: ImageLike) -> Pixels:
    """A mask's colours as they are, (H, W, 3) uint8 RGB, nothing read into them; what is transparent is black."""
    if isinstance(mask, np.ndarray):
        return _rgb_from_array(mask, "mask", paper=0)
    picture, name = _picture(mask, "mask")
    return _rgb_from_picture(picture, name, paper=0)


def _picture(source: str | os.PathLike[str] | Image.Image, noun: str) -> tuple[Image.Image, str]:
    """The decoded, upright picture and the name to use in messages."""
    if isinstance(source, Image.Image):
        name = f"the {noun}"
        return _decoded(source, name), name
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"expected the {noun} as a path, a PIL image or an array, got {type(source).__name__}")
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.is_dir():
        raise ValueError(f"{path}: expected an image file, got a folder")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes); copy it again from where it came")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be opened ({error.strerror})") from error
    with stream:
        try:
            with _quiet():
                picture = Image.open(stream)
        except UnidentifiedImageError:
            raise ValueError(
                f"{path}: expected an image file, got something else or a kind that cannot be read"
            ) from None
        except Image.DecompressionBombError:
            raise ValueError(_too_large(str(path))) from None
        except Exception as error:  # a broken header makes decoders raise nearly anything
            raise ValueError(_broken(str(path), error)) from error
        return _decoded(picture, str(path)), str(path)


def _decoded(picture: Image.Image, name: str) -> Image.Image:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ValueError(_too_large(name, width * height))
    if width * height == 0:
        raise ValueError(f"{name}: expected at least one pixel, got {width} x {height}")
    try:
        picture.load()
    except Exception as error:  # as above
        raise ValueError(_broken(name, error)) from error
    try:
        with _quiet():
            turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001  unreadable metadata must not cost the pixels
        turn = None
    if turn is None:
        return picture
    upright = picture.transpose(turn)
    upright.format = picture.format
    return upright


def _broken(name: str, error: Exception) -> str:
    return f"{name}: the file is broken or cut off ({error}); copy it again from where it came"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: from 89 megapixels on it suspects a bomb; the limit here is MAX_PIXELS."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _too_large(name: str, pixels: int | None = None) -> str:
    came = "more than that" if pixels is None else f"{pixels / 1e6:.0f}"
    return f"{name}: expected at most {MAX_PIXELS / 1e6:.0f} megapixels, got {came}; make it smaller first"


def _rgb_from_picture(picture: Image.Image, name: str, *, paper: int) -> Pixels:
    if picture.mode == "F":
        raise ValueError(f"{name}: expected 8 or 16 bits per channel, got floating point; save it as an 8-bit PNG")
    if picture.mode.startswith("I"):
        return _as_rgb(_eight_bits(np.asarray(picture), name))
    try:
        if picture.has_transparency_data:
            backdrop = Image.new("RGBA", picture.size, (paper, paper, paper, 255))
            picture = Image.alpha_composite(backdrop, picture.convert("RGBA"))
        return np.array(picture.convert("RGB"))
    except ValueError as error:
        raise ValueError(f"{name}: cannot convert mode {picture.mode} to RGB ({error}); save it as RGB") from error


def _eight_bits(values: npt.NDArray[Any], name: str) -> Pixels:
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"{name}: expected grey values in 0..65535, got {values.min()}..{values.max()}; save it with 16 bits"
        )
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _as_rgb(grey: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.repeat(grey[..., None], 3, axis=2)


def _rgb_from_array(array: npt.NDArray[Any], noun: str, *, paper: int) -> Pixels:
    expected = f"expected the {noun} as a uint8 array (H, W, 3) of RGB or (H, W) of grey values"
    if array.dtype != np.uint8:
        raise ValueError(f"{expected}, got {array.dtype}; convert it to 0..255 and uint8")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = _as_rgb(array)
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ValueError(f"{expected}, got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{expected}, got no pixels: shape {array.shape}")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ValueError(_too_large(f"the {noun}", array.shape[0] * array.shape[1]))
    if array.shape[2] == 4:
        return _rgb_from_picture(Image.fromarray(np.ascontiguousarray(array)), f"the {noun}", paper=paper)
    return array


# ----------------------------------------------------------------------------------------------- masks


def read_mask(mask: ImageLike, *, snap: bool = False) -> MaskFile:
    """A mask as ids. The one entrance for masks; each form has one reading:

    * bool array or 1-bit image: {0, 1}; array of integers (H, W): the ids as they are;
    * indexed image ("P"): the indices are the ids, the palette is kept, fully transparent entries are background;
    * grey image: {0, 255} (at 16 bits also {0, 65535}) is {0, 1}; anything else is ids, and 255 is ignored. Where 255
      stands beside mid-grey only, as in {0, 128, 255}, white may have been meant as an object: a `MaskWarning` says it;
    * RGB(A) image or uint8 array (H, W, 3 or 4): black and transparent are background, every other colour is an id,
      counted from 1 in ascending order of (R, G, B); at most 255 colours, the background among them.

    A picture whose colours blend at its edges is *smoothed*. Its main colours are black, those that fill 5 x 5 pixels
    somewhere, and those of thin strokes that can be no blend of two others; the rest are stray. Few strays (below 0.5 %
    of the pixels each and 3 % together) snap to the nearest main colour with one `MaskWarning`; more are refused, in a
    JPEG any are.
    `snap=True` snaps however many there are, and says nothing.
    Raises FileNotFoundError, or ValueError with the file's name. A mask without ids can be read; a prompt refuses it.
    """
    if isinstance(mask, np.ndarray):
        return _mask_from_array(mask, snap=snap)
    picture, name = _picture(mask, "mask")
    lossy = picture.format in {"JPEG", "MPO"}
    if picture.mode == "1":
        return MaskFile(np.asarray(picture).astype(np.uint8), None)
    if picture.mode == "P":
        return _mask_from_indexed(picture, name)
    if picture.mode == "F":
        raise ValueError(
            f"{name}: expected a mask of integer ids or colours, got floating point; save it as an 8-bit PNG"
        )
    if picture.mode.startswith("I"):
        return MaskFile(_ids_from_grey_picture(np.asarray(picture), name), None)
    if picture.mode in {"L", "LA"}:
        grey = _rgb_from_picture(picture, name, paper=0)[..., 0]
        if lossy or is_smoothed_grey(grey):
            return _mask_from_colors(_as_rgb(grey), name, snap=snap, lossy=lossy)
        return MaskFile(_ids_from_grey_picture(grey, name), None)
    return _mask_from_colors(_rgb_from_picture(picture, name, paper=0), name, snap=snap, lossy=lossy)


def is_painted(mask: ImageLike) -> bool:
    """Whether a readable mask's ids stand for colours, counted anew in each file: other masks hold ids themselves."""
    if isinstance(mask, np.ndarray):
        return mask.ndim == 3 and mask.shape[2] > 1
    if isinstance(mask, Image.Image):
        mode = mask.mode
    else:
        with _quiet(), Image.open(mask) as picture:  # its header will do
            mode = picture.mode
    return mode not in {"1", "P", "L", "LA", "F"} and not mode.startswith("I")


def _mask_from_array(array: npt.NDArray[Any], *, snap: bool) -> MaskFile:
    name = "the mask"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3:
        return _mask_from_colors(_rgb_from_array(array, "mask", paper=0), name, snap=snap, lossy=False)
    ids = check_ids(array, name)
    if array.size > MAX_PIXELS:
        raise ValueError(_too_large(name, array.size))
    # Ids in an array are taken at their word, but grey pixels in one are a common slip: 255 would count as ignored.
    if array.dtype == np.uint8 and array.max() == IGNORED and is_smoothed_grey(array, least=8):
        return _mask_from_colors(_as_rgb(array), name, snap=snap, lossy=False)
    return MaskFile(ids, None)


def check_ids(values: npt.NDArray[Any], name: str) -> Pixels:
    """Ids (H, W) of any integer type or bool as uint8; ValueError if they are not in 0..255."""
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


def _ids_from_grey_picture(values: npt.NDArray[Any], name: str) -> Pixels:
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


def _mask_from_indexed(picture: Image.Image, name: str) -> MaskFile:
    ids = np.array(picture)
    colors = np.zeros((256, 3), np.uint8)
    table = np.array(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    colors[: len(table)] = table
    clear = picture.info.get("transparency")
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


# ---------------------------------------------------------------------------------------- names, writing


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """A key to sort by that puts 2 before 10."""
    parts = re.split(r"(\d+)", path.as_posix().casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.as_posix()


def refuse_unwritable(out: Path) -> None:
    """ValueError where a folder can be neither made nor written to. Nothing is written."""
    nearest = next(path for path in (out, *out.parents) if path.exists())
    if not nearest.is_dir():
        raise ValueError(f"{nearest}: expected a folder to write to, got a file; name another or move it away")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{nearest}: expected a folder to write to, got one without the permission; name another")


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A stream to write `path` through: the file appears whole when the block ends, and not at all when it raises."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent} to write to; create it first")
    beside = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with beside.open("xb") as stream:
            yield stream
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_mask(path: str | os.PathLike[str], mask: npt.NDArray[Any], colors: Pixels) -> None:
    """Ids (H, W) in 0..255 as an indexed PNG; colors (256, 3) uint8, row i the colour of id i."""
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: masks are saved as PNG, which keeps ids as they are; name it .png")
    if colors.shape != (256, 3):
        raise ValueError(f"{path}: expected colours (256, 3), got {colors.shape}")
    picture = Image.fromarray(check_ids(mask, str(path)))
    picture.putpalette(colors.astype(np.uint8).tobytes(), "RGB")
    with whole_file(path) as stream:
        picture.save(stream, format="PNG")


def write_image(path: str | os.PathLike[str], image: Pixels) -> None:
    """(H, W, 3) uint8 RGB, or (H, W) uint8 grey, in the format that the suffix names."""
    suffix = Path(path).suffix.lower()
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}.get(suffix)
    if kind is None:
        raise ValueError(f"{path}: expected a name that ends in .png, .jpg or .webp, got {suffix or 'no suffix'}")
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or image.size == 0:
        raise ValueError(f"{path}: expected uint8 (H, W, 3) or (H, W), got {image.dtype} {image.shape}")
    with whole_file(path) as stream:
        Image.fromarray(np.ascontiguousarray(image)).save(stream, format=kind, quality=92)


def write_gray(path: str | os.PathLike[str], values: npt.NDArray[np.floating[Any]]) -> None:
    """(H, W) values in 0..1, such as a confidence, as an 8-bit grey picture: 0 is black and 1 is white."""
    if values.dtype.kind != "f":
        raise ValueError(f"{path}: expected values in 0..1, got {values.dtype}")
    write_image(path, np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))


# ----------------------------------------------------------------------------------------- annotations


def rle_from_mask(selected: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run-length encoding of an (H, W) bool mask: {"size": [H, W], "counts": str}.

    Runs go down the columns, the first is of zeros; the string is that of pycocotools (common/maskApi.c, rleToString).
    """
    return {"size": list(selected.shape), "counts": rle_string(rle_counts(selected))}


def rle_counts(selected: npt.NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed runs of an (H, W) bool mask: lengths of alternating zeros and ones, column by column."""
    flat = selected.astype(np.bool_).ravel(order="F")
    ends = np.concatenate([np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    runs: list[int] = np.diff(ends, prepend=0).tolist()
    return [0, *runs] if flat[:1].any() else runs


def rle_string(counts: list[int]) -> str:
    """The runs as text: each, less the run before last, in groups of 5 bits from the low end, with a bit for "more"."""
    text: list[str] = []
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + 32 * more))
    return "".join(text)


def polygons(selected: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int32]]:
    """The outlines of an (H, W) bool mask, exactly along the pixels' edges: rings (n, 2) of corners (x, y), not closed.

    Pixels belong together when they share an edge. Outer rings run clockwise as seen, so the shoelace formula gives
    them a positive area (y points down); holes are rings of their own and run the other way.
    """
    padded = np.pad(selected.astype(np.bool_), 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    leaving = (  # corners from which an outline goes right, down, left and up, with its pixels on the right hand
        lower_right & ~upper_right,
        lower_left & ~lower_right,
        upper_left & ~lower_left,
        upper_right & ~upper_left,
    )
    edges = [set(np.flatnonzero(corners).tolist()) for corners in leaving]
    width = padded.shape[1] - 1
    step = (1, width, -1, -width)
    rings = []
    for start in sorted(edges[0]):  # every ring goes right somewhere, and first at a corner
        if start not in edges[0]:
            continue
        ring: list[int] = []
        at, heading = start, 0
        while not ring or (at, heading) != (start, 0):
            ring.append(at)
            while at in edges[heading]:
                edges[heading].remove(at)
                at += step[heading]
            right, left = (heading + 1) % 4, (heading - 1) % 4  # right first: round the same pixel where two only touch
            heading = right if at in edges[right] or (at, right) == (start, 0) else left
        rings.append(np.stack(np.divmod(ring, width)[::-1], axis=1).astype(np.int32))
    return rings
