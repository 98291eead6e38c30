"""Arrays of other libraries as numpy arrays in the order of axes that images have here: rows, columns, channels.

Refuses to import those libraries: what has the methods of a PyTorch tensor is taken for one.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

_CHANNELS = (1, 3, 4)


@runtime_checkable
class TensorLike(Protocol):
    """What a PyTorch tensor can do, as far as it is needed here."""

    def detach(self) -> Any:
        """Leave the graph of gradients."""

    def cpu(self) -> Any:
        """Come to the processor's memory."""

    def numpy(self) -> Any:
        """Become an array."""


def array_of(source: object, noun: str) -> object:
    """Turn a tensor into an array, and give back everything else as it is.

    A tensor may be (H, W), (H, W, C) or, as PyTorch has images, (C, H, W), with 1, 3 or 4 channels. Floats are taken
    for 0..1, as torchvision makes them, and become uint8.

    Args:
        source: What a user gave.
        noun: What errors call it, "image" or "mask".

    Returns:
        (H, W) or (H, W, C) of a tensor.

    Raises:
        ValueError: Either axis may be the channels, none can be, or floats lie outside of 0..1.
    """
    if isinstance(source, np.ndarray) or not isinstance(source, TensorLike):
        return source
    array: npt.NDArray[Any] = np.asarray(source.detach().cpu().numpy())
    if array.ndim == 3:
        first, last = array.shape[0] in _CHANNELS, array.shape[2] in _CHANNELS
        if first and last:
            raise ValueError(
                f"expected the {noun} as a tensor whose channels can be told, got {tuple(array.shape)}: both the first "
                "and the last axis may be; give a numpy array (H, W, C)"
            )
        if first:
            array = np.moveaxis(array, 0, -1)
    if array.dtype.kind == "f":
        array = _from_floats(array, noun)
    return np.ascontiguousarray(array)


def _from_floats(array: npt.NDArray[Any], noun: str) -> npt.NDArray[Any]:
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not 0 <= low <= high <= 1:  # catches NaN as well
        raise ValueError(f"expected the {noun} as a tensor of uint8, or of floats in 0..1; got {low:g}..{high:g}")
    if noun == "mask":
        if not np.isin(array, (0, 1)).all():
            raise ValueError("expected the mask as a tensor of ids, got floats between 0 and 1; threshold it")
        return array.astype(np.uint8)
    return np.rint(array.astype(np.float64) * 255).astype(np.uint8)
