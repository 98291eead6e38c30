"""DICOM images as people see them: frames to grey or RGB, rescaled and windowed as the file says.

Knows pydicom (the extra `dicom`) and numpy. Refuses to know paths and the limits on sizes. What is wrong with a file
is whatever pydicom raises, or a ValueError without the file's name: read.py makes a sentence of either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pydicom import Dataset

_MAGIC_AT, _MAGIC = 128, b"DICM"
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"  # the transfer syntax: a few bytes may become any number
_UID_WITHIN = 1024  # bytes from the start of a file

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DicomHeader:
    """What is known before pixels are decoded.

    Attributes:
        size: (H, W) of a frame.
    """

    size: tuple[int, int]
    frames: int


def is_dicom(head: bytes) -> bool:
    """Tell whether a file that begins so is DICOM: its first 132 bytes tell."""
    return head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC


def read_header(stream: BinaryIO) -> DicomHeader:
    """Read the size and the number of frames. The stream is at its start; no pixel is decoded."""
    data = _dataset(stream)
    if "Rows" not in data or "Columns" not in data:
        raise ValueError("it holds no image, as a report or a structured file does not")
    return DicomHeader((int(data.Rows), int(data.Columns)), max(1, int(data.get("NumberOfFrames") or 1)))


def read_frame(stream: BinaryIO, frame: int) -> npt.NDArray[np.uint8]:
    """Read one frame, counted from 0, as (H, W) grey or (H, W, 3) RGB, uint8.

    The stream is at its start.

    Grey: the modality's rescale or table first, then the window (the first where there are several) or the table of
    values of interest; where there is neither, the frame's own range. MONOCHROME1 is inverted, so that air is dark.
    Part 3 of the standard, C.7.6.3.1.2 and C.11.2.
    """
    from pydicom.pixels import processing
    from pydicom.pixels.utils import pixel_array

    data = _dataset(stream)
    stream.seek(0)
    stored = pixel_array(stream, index=frame)
    kind = str(data.get("PhotometricInterpretation", ""))
    if kind == "PALETTE COLOR":
        stored = vars(processing)["apply_color_lut"](stored, data)  # a name with a word that is not used here
        return _scaled(stored, 0, 255 if stored.dtype == np.uint8 else 65535)
    if stored.ndim == 3:
        return _scaled(stored, 0, 2 ** int(data.BitsStored) - 1)
    grey = _shown(stored, data, frame)
    return 255 - grey if kind == "MONOCHROME1" else grey


def _dataset(stream: BinaryIO) -> Dataset:
    from pydicom import dcmread

    head = stream.read(_UID_WITHIN)
    if _DEFLATED in head:
        raise ValueError("its contents are deflated, which is not read; store it uncompressed")
    stream.seek(0)
    return dcmread(stream, stop_before_pixels=True)


def _shown(stored: npt.NDArray[Any], data: Dataset, frame: int) -> npt.NDArray[np.uint8]:
    """Show stored grey values (H, W) as the file's window does."""
    from pydicom.pixels.processing import apply_rescale, apply_voi

    slope = _of_frame(data, frame, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _of_frame(data, frame, "PixelValueTransformationSequence", "RescaleIntercept")
    if slope is not None and intercept is not None:
        values = stored * float(slope) + float(intercept)
    else:
        values = np.asarray(apply_rescale(stored, data))
    center = _first(_of_frame(data, frame, "FrameVOILUTSequence", "WindowCenter"))
    width = _first(_of_frame(data, frame, "FrameVOILUTSequence", "WindowWidth"))
    if center is not None and width is not None:
        how = str(_of_frame(data, frame, "FrameVOILUTSequence", "VOILUTFunction") or "LINEAR")
        return _scaled(_windowed(values, center, width, how), 0, 1)
    if tables := data.get("VOILUTSequence"):
        return _scaled(apply_voi(values.astype(stored.dtype), data), 0, 2 ** int(tables[0].LUTDescriptor[2]) - 1)
    return _scaled(values, float(values.min()), float(values.max()))


def _windowed(values: npt.NDArray[Any], center: float, width: float, how: str) -> Floats:
    """Map values to 0..1 (beyond them where the window ends), by the functions of C.11.2.1.2 and C.11.2.1.3."""
    if how == "SIGMOID":
        exponent = np.clip(-4 * (values - center) / max(width, 1e-6), -700, 700)
        return np.asarray(1 / (1 + np.exp(exponent)))
    if how == "LINEAR":
        center, width = center - 0.5, width - 1
    return np.asarray((values - center) / max(width, 1e-6) + 0.5)


def _of_frame(data: Dataset, frame: int, sequence: str, name: str) -> Any:
    """Find an attribute of a frame: its own, that of all frames (enhanced multi-frame), or of the file; else None."""
    places = []
    own, shared = data.get("PerFrameFunctionalGroupsSequence"), data.get("SharedFunctionalGroupsSequence")
    if own is not None and frame < len(own):
        places.append(own[frame])
    if shared:
        places.append(shared[0])
    for place in places:
        inner = place.get(sequence)
        if inner and (value := inner[0].get(name)) is not None:
            return value
    return data.get(name)


def _first(value: Any) -> float | None:
    """Take the first of several windows."""
    if value is None or value == "":
        return None
    from pydicom.multival import MultiValue

    return float(value[0]) if isinstance(value, MultiValue) else float(value)


def _scaled(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Scale values from low..high to 0..255, clipped and rounded."""
    reach = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return np.rint(np.clip(reach, 0, 1) * 255).astype(np.uint8)
