"""A known image with a known answer, by which users see whether their weights do what they should.

Refuses to know networks and files.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from incontext.hints import Hints
from incontext.images.ids import Pixels
from incontext.prompters.prompter import Prompter
from incontext.types import Segmentation

_SIZE = (240, 320)
_CENTER = (120, 110)  # row, column
_RADIUS = 60


def trial_image() -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Return a red disc on a green meadow, (240, 320, 3) uint8, and where the disc is, (240, 320) bool."""
    grain = np.random.default_rng(0).normal(0, 8, (*_SIZE, 3))
    rows, columns = np.mgrid[: _SIZE[0], : _SIZE[1]]
    disc = (rows - _CENTER[0]) ** 2 + (columns - _CENTER[1]) ** 2 < _RADIUS**2
    flat = np.where(disc[..., None], (215, 60, 50), (70, 110, 60))
    return np.clip(flat + grain, 0, 255).astype(np.uint8), disc


def marked_by(prompter: Prompter, image: Pixels, text: str) -> Segmentation:
    """Mark the disc by text where the prompter reads it, else by a click on its middle."""
    if prompter.takes_text:
        return prompter.segment(image, text=text)
    return prompter.segment(image, hints=Hints(points=[(_CENTER[1], _CENTER[0], 1)]))


def iou_with_disc(found: Segmentation, disc: npt.NDArray[np.bool_]) -> float:
    """Return the IoU, 0..1, of everything that was marked with the disc."""
    marked = found.mask > 0
    return float((marked & disc).sum() / (marked | disc).sum())
