"""How an image and its mask are cut, squashed and bent before they enter an episode, and how good the image is.

Geometry moves image and mask together; quality touches the image alone, and so does light (light.py). Refuses to
know sets, episodes and tensors.
Everything is Pillow on images of the episode's size, which is what a worker can afford.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from incontext.images.resize import resized, resized_mask

Rng = np.random.Generator
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class Augmentation:
    """How strongly images are changed. Shares are probabilities; the rest are largest amounts."""

    mirror: float = 0.5  # episodes in which both images are mirrored
    turn: float = 0.12  # episodes in which both images are turned by a multiple of 90 degrees
    bend: float = 0.25  # images that are rotated, sheared and scaled a little
    rotation: float = 14.0  # degrees
    shear: float = 0.12
    light: float = 0.8  # images whose contrast, saturation, gamma and white balance change
    hue: float = 18.0  # degrees, in a third of those
    grey: float = 0.04  # images without colour
    blur: float = 0.1
    noise: float = 0.1
    jpeg: float = 0.1  # images that went through a low-quality JPEG


NO_AUGMENTATION = Augmentation(mirror=0, turn=0, bend=0, light=0, grey=0, blur=0, noise=0, jpeg=0)


@dataclass(frozen=True)
class Cut:
    """Which part of an image a view shows. Areas are fractions of the image."""

    whole: bool = True  # the whole image, unless the thing would be too small to see
    min_area: float = 0.15  # of the smallest box
    min_object: float = 0.004  # the least of a box that the thing must cover, if it is in the image at all
    small: float = 96.0  # a thing with fewer pixels in the view is zoomed in on, mostly
    zoom: float = 0.6  # ... with this probability


def choose_box(mask: np.ndarray, focus: int, rng: Rng, cut: Cut, *, pixels: int) -> Box:
    """Choose a part of an image in which ``focus`` can be seen if it is there: (left, top, right, bottom).

    Args:
        mask: (H, W) ids.
        pixels: Of the view that the part will be squashed to.
    """
    height, width = mask.shape
    whole = (0, 0, width, height)
    thing = np.flatnonzero(mask == focus)
    share = len(thing) / mask.size
    low, high = cut.min_area, 1.0
    if 0 < share * pixels < cut.small and rng.random() < cut.zoom:
        high = max(0.04, share * pixels / cut.small)
        low = 0.5 * high
    elif cut.whole:
        return whole
    for _ in range(4):
        area = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        stretch = float(np.exp(rng.uniform(-0.3, 0.3)))
        box_width = int(np.clip(width * np.sqrt(area) * stretch, min(16, width), width))
        box_height = int(np.clip(height * np.sqrt(area) / stretch, min(16, height), height))
        if len(thing) and rng.random() < 0.8:
            row, column = divmod(int(thing[rng.integers(len(thing))]), width)
        else:
            row, column = int(rng.integers(height)), int(rng.integers(width))
        left = int(np.clip(column - rng.uniform(0.15, 0.85) * box_width, 0, width - box_width))
        top = int(np.clip(row - rng.uniform(0.15, 0.85) * box_height, 0, height - box_height))
        inside = mask[top : top + box_height, left : left + box_width] == focus
        if not len(thing) or cut.min_object <= inside.mean() <= 0.9:
            return left, top, left + box_width, top + box_height
    return whole


def empty_box(mask: np.ndarray, ids: Sequence[int], rng: Rng) -> Box | None:
    """Choose a part of an image, a tenth to a half, without a pixel of ``ids``; None where few tries find none."""
    height, width = mask.shape
    marked = np.isin(mask, ids)
    for _ in range(8):
        area, stretch = float(rng.uniform(0.1, 0.5)), float(np.exp(rng.uniform(-0.3, 0.3)))
        box_width = int(np.clip(width * np.sqrt(area) * stretch, min(16, width), width))
        box_height = int(np.clip(height * np.sqrt(area) / stretch, min(16, height), height))
        left, top = int(rng.integers(width - box_width + 1)), int(rng.integers(height - box_height + 1))
        if not marked[top : top + box_height, left : left + box_width].any():
            return left, top, left + box_width, top + box_height
    return None


def view(image: np.ndarray, mask: np.ndarray, box: Box | None, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Cut and squash: (H, W, 3) and (H, W) -> (h, w, 3) and (h, w), uint8.

    Args:
        size: (h, w); no box: the whole image.
    """
    left, top, right, bottom = box or (0, 0, mask.shape[1], mask.shape[0])
    part = slice(top, bottom), slice(left, right)
    return resized(image[part], size, quick=True), resized_mask(mask[part], size)


def bending(size: tuple[int, ...], rng: Rng, changes: Augmentation) -> Callable[..., np.ndarray]:
    """Draw a rotation, shear and scale about the middle of a view; what enters at the rim is mirrored.

    Args:
        size: height and width of the view.
        rng: what draws.
        changes: how far it may go.

    Returns:
        A function of pixels (H, W) or (H, W, 3), uint8 or float32, and of one of Pillow's kernels, which bends them.
    """
    height, width = size
    angle = math.radians(changes.rotation) * float(rng.uniform(-1, 1))
    shear, scale = changes.shear * float(rng.uniform(-1, 1)), math.exp(float(rng.uniform(-0.1, 0.1)))
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    (a, b), (d, e) = (c, c * shear - s), (s, s * shear + c)  # output -> source
    x, y = width / 2, height / 2
    pads = [math.ceil(max(0.0, abs(a) * x + abs(b) * y - x)) + 1, math.ceil(max(0.0, abs(d) * x + abs(e) * y - y)) + 1]
    right, down = min(pads[0], width - 1), min(pads[1], height - 1)
    rows, columns = _mirrored(height, down), _mirrored(width, right)
    matrix = (a, b, x + right - a * x - b * y, d, e, y + down - d * x - e * y)

    def bend(pixels: np.ndarray, kernel: Image.Resampling) -> np.ndarray:
        padded = Image.fromarray(pixels[rows][:, columns])
        return np.asarray(padded.transform((width, height), Image.Transform.AFFINE, matrix, kernel))

    return bend


def bend(image: np.ndarray, mask: np.ndarray, rng: Rng, changes: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """Rotate, shear and scale a view by a random affine map about its middle; what enters at the rim is mirrored."""
    move = bending(mask.shape, rng, changes)
    return move(image, Image.Resampling.BILINEAR), move(mask, Image.Resampling.NEAREST)


def _mirrored(length: int, pad: int) -> np.ndarray:
    """List the rows of an image that is continued by ``pad`` mirrored rows on both sides."""
    positions = np.abs(np.arange(-pad, length + pad))
    mirrored: np.ndarray = (length - 1) - np.abs((length - 1) - positions)
    return mirrored


def degrade(image: np.ndarray, rng: Rng, changes: Augmentation) -> np.ndarray:
    """Lower the quality of an image (H, W, 3) uint8: blur, a lower resolution, a JPEG's blocks."""
    degraded = Image.fromarray(np.ascontiguousarray(image))
    scale = min(degraded.size) / 128
    if rng.random() < changes.blur:
        if rng.random() < 0.5:
            degraded = degraded.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.1)) * scale))
        else:  # seen at a lower resolution
            low = [max(8, round(length * float(rng.uniform(0.4, 0.9)))) for length in degraded.size]
            small = degraded.resize((low[0], low[1]), Image.Resampling.BOX)
            degraded = small.resize(degraded.size, Image.Resampling.BICUBIC)
    if rng.random() < changes.jpeg:
        file = io.BytesIO()
        degraded.save(file, "JPEG", quality=int(rng.integers(18, 75)))
        degraded = Image.open(file).convert("RGB")
    return np.asarray(degraded)
