"""What a brush leaves on an image, as ids, and ids as something that a brush can change.

Knows numpy. Refuses to know the page, sessions and the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from incontext.images.ids import IGNORED, Pixels
from incontext.images.resize import resized, resized_mask
from incontext.images.smoothing import nearest_rows
from incontext.types import Palette

# Ids 1..7, which go through the network at once. Vivid, named, apart for most eyes that are colour-blind.
BRUSHES: Final[tuple[tuple[str, tuple[int, int, int]], ...]] = (
    ("red", (230, 25, 75)),
    ("green", (60, 180, 75)),
    ("blue", (67, 99, 216)),
    ("yellow", (255, 225, 25)),
    ("magenta", (240, 50, 230)),
    ("cyan", (66, 212, 244)),
    ("orange", (245, 130, 49)),
)
# Rows and columns that are painted on, the same for all images: Gradio's editor puts masks beside their images when
# its canvas changes its size. More than any of the networks sees.
CANVAS: Final = (720, 960)
_BESIDE = 128  # grey of the canvas beside the image
_COVERED = 128  # alpha from which a pixel counts as painted
_COLORS = np.array([color for _, color in BRUSHES], np.uint8)


def brush_names() -> list[str]:
    """List the brushes' colours as a page writes them, that of id 1 first."""
    return ["#{:02x}{:02x}{:02x}".format(*color) for _, color in BRUSHES]


def palette_for(ids: Iterable[int]) -> Palette:
    """Choose a palette of these ids, 1..7 in the colours of the brushes, others in colours of their own."""
    rows = sorted({int(i) for i in ids} - {0, IGNORED})
    brushes = {number: color for number, (_, color) in enumerate(BRUSHES, start=1)}
    taken = {(0, 0, 0), *brushes.values()}
    spare = (color for color in map(tuple, Palette.spread(range(1, IGNORED)).colors.tolist()) if color not in taken)
    colors = [brushes[i] if i in brushes else next(spare) for i in rows]
    return Palette(np.array([0, *rows]), np.array([(0, 0, 0), *colors]))


def ids_of_strokes(layers: Sequence[npt.NDArray[np.uint8]], shape: tuple[int, int]) -> Pixels:
    """Read layers (h, w, 4) uint8, the uppermost last, as ids (H, W) uint8 at this shape.

    A pixel that is at least half covered is the id of the nearest brush; others are background. Smoothed edges
    therefore end where the stroke's own edge is, in its own colour.
    """
    ids = np.zeros(shape, np.uint8)
    for layer in layers:
        if layer.ndim != 3 or layer.shape[2] != 4 or layer.dtype != np.uint8:
            raise ValueError(f"expected layers (h, w, 4) of uint8, got {layer.dtype} {layer.shape}")
        covered = layer[..., 3] >= _COVERED
        drawn = np.zeros(covered.shape, np.uint8)
        colors, places = np.unique(layer[covered][:, :3], axis=0, return_inverse=True)
        if len(colors):
            drawn[covered] = nearest_rows(colors, _COLORS)[places.reshape(-1)] + 1
        drawn = resized_mask(drawn, shape)
        ids[drawn > 0] = drawn[drawn > 0]
    return ids


def is_paintable(ids: Pixels) -> bool:
    """Tell whether brushes could have painted this mask (H, W)."""
    return bool(ids.max(initial=0) <= len(BRUSHES))


def strokes_of_ids(ids: Pixels) -> Pixels:
    """Draw ids 0..7 (H, W) as a layer (H, W, 4) that a brush can go on with."""
    if not is_paintable(ids):
        raise ValueError(
            f"expected ids in 0..{len(BRUSHES)}, for which there are brushes, got {ids.max()}; number what examples "
            f"show from 1 to {len(BRUSHES)} to correct what is found"
        )
    table = np.zeros((len(BRUSHES) + 1, 4), np.uint8)
    table[1:, :3], table[1:, 3] = _COLORS, 255
    return table[ids]


def box_on_canvas(shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Find where an image (H, W) lies on the canvas, as large as it can: top, left, height, width."""
    height, width = shape
    scale = min(CANVAS[0] / height, CANVAS[1] / width)
    inside = max(1, min(CANVAS[0], round(height * scale))), max(1, min(CANVAS[1], round(width * scale)))
    return (CANVAS[0] - inside[0]) // 2, (CANVAS[1] - inside[1]) // 2, *inside


def image_on_canvas(image: Pixels) -> Pixels:
    """Put an image (H, W, 3) into the middle of the canvas (720, 960, 3), grey beside it."""
    top, left, height, width = box_on_canvas(image.shape[:2])
    canvas = np.full((*CANVAS, 3), _BESIDE, np.uint8)
    canvas[top : top + height, left : left + width] = resized(image, (height, width), quick=True)
    return canvas


def ids_on_canvas(ids: Pixels) -> Pixels:
    """Put ids of an image (H, W) on the canvas (720, 960), where `image_on_canvas` puts the image."""
    top, left, height, width = box_on_canvas(ids.shape)
    canvas = np.zeros(CANVAS, np.uint8)
    canvas[top : top + height, left : left + width] = resized_mask(ids, (height, width))
    return canvas


def ids_from_canvas(canvas: Pixels, shape: tuple[int, int]) -> Pixels:
    """Take the ids of an image (H, W) from the canvas (720, 960) that it lies on."""
    top, left, height, width = box_on_canvas(shape)
    return resized_mask(np.ascontiguousarray(canvas[top : top + height, left : left + width]), shape)
