"""Masks and images to files, each of which appears whole or not at all.

Refuses to know what a palette or a tensor is.
"""

import io
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from incontext.images.ids import Pixels, check_ids

HALF_WRITTEN: Final = re.compile(r"\.[0-9a-f]{32}\.part")  # what `whole_file` calls a file that is not finished


def refuse_unwritable(out: Path) -> None:
    """Refuse a folder that can be neither made nor written to. Nothing is written.

    Raises:
        ValueError: It is one.
    """
    nearest = next(path for path in (out, *out.parents) if path.exists())
    if not nearest.is_dir():
        raise ValueError(f"{nearest}: expected a folder to write to, got a file; name another or move it away")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{nearest}: expected a folder to write to, got one without the permission; name another")


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a device or the like at a path, which would hang whoever reads it.

    Raises:
        ValueError: there is one.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: expected a file, got a pipe or a device; remove it or name another")


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a stream to write `path` through: the file appears whole when the block ends, else not at all."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent} to write to; create it first")
    beside = path.with_name(f".{uuid.uuid4().hex}.part")  # as HALF_WRITTEN has it
    try:
        with beside.open("xb") as stream:
            yield stream
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def remove_half_written(folder: Path) -> None:
    """Remove what a killed process left half written by :func:`whole_file` in a folder, not in its subfolders."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if HALF_WRITTEN.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_mask(path: str | os.PathLike[str], mask: npt.NDArray[Any], colors: Pixels) -> None:
    """Write a mask as an indexed PNG.

    Args:
        path: Of the file, which ends in .png.
        mask: (H, W) ids in 0..255.
        colors: (256, 3) uint8, row i the colour of id i.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: masks are saved as PNG, which keeps ids as they are; name it .png")
    content = encode_mask(mask, colors, name=str(path))
    with whole_file(path) as stream:
        stream.write(content)


def encode_mask(mask: npt.NDArray[Any], colors: Pixels, *, name: str = "the mask") -> bytes:
    """Return the bytes that `write_mask` writes.

    Args:
        name: What errors call it.
    """
    if colors.shape != (256, 3):
        raise ValueError(f"{name}: expected colours (256, 3), got {colors.shape}")
    image = Image.fromarray(check_ids(mask, name))
    image.putpalette(colors.astype(np.uint8).tobytes(), "RGB")
    return _saved(image, "PNG")


def write_image(path: str | os.PathLike[str], image: Pixels) -> None:
    """Write an image in the format that the suffix names.

    Args:
        path: Of the file.
        image: (H, W, 3) uint8 RGB, or (H, W) uint8 grey.
    """
    content = encode_image(image, name=str(path))
    with whole_file(path) as stream:
        stream.write(content)


def encode_image(image: Pixels, *, name: str) -> bytes:
    """Return the bytes that `write_image` writes to a file of that name."""
    suffix = Path(name).suffix.lower()
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}.get(suffix)
    if kind is None:
        raise ValueError(f"{name}: expected a name that ends in .png, .jpg or .webp, got {suffix or 'no suffix'}")
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or image.size == 0:
        raise ValueError(f"{name}: expected uint8 (H, W, 3) or (H, W), got {image.dtype} {image.shape}")
    return _saved(Image.fromarray(np.ascontiguousarray(image)), kind)


def _saved(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, quality=92)  # of which PNG takes no notice
    return stream.getvalue()


def encode_gray(values: npt.NDArray[np.floating[Any]], *, name: str) -> bytes:
    """Encode values in 0..1, such as a confidence, as an 8-bit grey image: 0 is black and 1 is white.

    Args:
        values: (H, W) floats; what lies outside of 0..1 is clipped.
        name: Of the file; its suffix names the format, see :func:`encode_image`.
    """
    if values.dtype.kind != "f":
        raise ValueError(f"{name}: expected values in 0..1, got {values.dtype}")
    return encode_image(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8), name=name)
