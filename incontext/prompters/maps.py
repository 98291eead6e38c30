"""Images and maps between their own size and that of a network; what was computed of an image is kept.

Refuses to know networks of any kind.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from incontext.images.ids import Pixels
from incontext.prompters.parts import Box, Margins

KEPT_IMAGES: Final = 4  # whose embeddings are kept: 12 MB each of SAM 2
_SUREST = 30.0  # log odds beyond which nothing is told apart

T = TypeVar("T")


class Kept(Generic[T]):
    """What was computed of the last few images, so that the next click on one of them costs little."""

    def __init__(self, compute: Callable[[Pixels], T]) -> None:
        self._compute = compute
        self._kept: OrderedDict[bytes, T] = OrderedDict()

    def of(self, image: Pixels) -> T:
        """Return what is computed of an image, which may have been computed before."""
        key = hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).digest()
        if key not in self._kept:
            self._kept[key] = self._compute(image)
            while len(self._kept) > KEPT_IMAGES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def pixels_of(processor: Any, image: Pixels) -> dict[str, Any]:
    """Return what a processor of transformers makes of an image (H, W, 3) uint8, which may be read-only."""
    image = image if image.flags.writeable else image.copy()
    return dict(processor.image_processor(image, return_tensors="pt", input_data_format="channels_last"))


def to_size(maps: Tensor, height: int, width: int) -> Tensor:
    """(n, h, w) on any device -> (n, height, width) float32, bilinear."""
    return F.interpolate(maps[:, None].float(), (height, width), mode="bilinear", align_corners=False)[:, 0]


def as_margins(probability: Tensor, least: float) -> Margins:
    """(H, W) probabilities -> log odds, moved so that `least` becomes 0."""
    odds = torch.logit(probability.double().clamp(0, 1), eps=1e-12) - float(np.log(least / (1 - least)))
    return np.asarray(odds.clamp(-_SUREST, _SUREST).float().cpu())


def clipped(box: Any, height: int, width: int) -> Box | None:
    """Return a box inside the image, None where nothing of it is."""
    left, top, right, bottom = (float(edge) for edge in box)
    left, right = max(0.0, left), min(float(width), right)
    top, bottom = max(0.0, top), min(float(height), bottom)
    return (left, top, right, bottom) if left < right and top < bottom else None
