"""Synthetic videos: things that move before a scene under a moving camera, with exact masks.

For: episodes in which the query shows the prompt's very things a little later, and long videos with a known truth.
Refuses to know: networks, files, mask colours.

Everything is drawn once, a scene and a few cut-out things, and then only shifted, turned and scaled, so a frame costs a
few milliseconds and nothing flickers. Nearer things cover farther ones; ids never change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from incontext.training.scenes import shapes
from incontext.training.scenes.layers import Things
from incontext.training.scenes.looks import Rng, View, Wardrobe, log_uniform, uniform
from incontext.training.scenes.scene import compose_scene

_LEAST_SIDE = 16


@dataclass(frozen=True)
class _Wave:
    """A quantity that swings slowly and never repeats: two sines of unrelated periods."""

    middle: float
    reach: float
    periods: tuple[float, float]  # frames
    phases: tuple[float, float]  # radians

    @staticmethod
    def draw(rng: Rng, low: float, high: float, period: float) -> _Wave:
        periods = log_uniform(rng, 0.6 * period, 1.6 * period), log_uniform(rng, 0.2 * period, 0.6 * period)
        phases = uniform(rng, 0, 2 * math.pi), uniform(rng, 0, 2 * math.pi)
        return _Wave((low + high) / 2, (high - low) / 2, periods, phases)

    def at(self, frame: float) -> float:
        slow, fast = (math.sin(2 * math.pi * frame / p + q) for p, q in zip(self.periods, self.phases, strict=True))
        return self.middle + self.reach * (0.75 * slow + 0.25 * fast)


@dataclass(frozen=True)
class _Sprite:
    """A thing cut out of its surroundings, and how it moves.

    Attributes:
        x, y: Of its middle, in frame widths and heights.
    """

    image: Image.Image
    cover: Image.Image  # 0 or 255
    x: _Wave
    y: _Wave
    size: _Wave  # its longer side, in the frame's shorter one
    turn: _Wave  # radians
    mirrored: bool

    def draw(self, frame: Image.Image, ids: Image.Image, label: int, number: float, shift: tuple[float, float]) -> None:
        width, height = frame.size
        scale = self.size.at(number) * min(width, height) / max(self.image.size)
        c, s = math.cos(self.turn.at(number)), math.sin(self.turn.at(number))
        x, y = self.x.at(number) * width + shift[0], self.y.at(number) * height + shift[1]
        half_width, half_height = (length * scale / 2 for length in self.image.size)
        reach_x, reach_y = abs(c) * half_width + abs(s) * half_height, abs(s) * half_width + abs(c) * half_height
        left, top = max(0, math.floor(x - reach_x)), max(0, math.floor(y - reach_y))
        right, bottom = min(width, math.ceil(x + reach_x)), min(height, math.ceil(y + reach_y))
        if left >= right or top >= bottom:
            return
        size = right - left, bottom - top
        flip = -1 if self.mirrored else 1
        (a, b), (d, e) = (flip * c / scale, flip * s / scale), (-s / scale, c / scale)
        (from_x, from_y), middle = (left - x, top - y), (self.image.width / 2, self.image.height / 2)
        matrix = (a, b, a * from_x + b * from_y + middle[0], d, e, d * from_x + e * from_y + middle[1])
        affine, linear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        cover = self.cover.transform(size, affine, matrix, linear)
        frame.paste(self.image.transform(size, affine, matrix, linear), (left, top), cover)
        ids.paste(label, (left, top, right, bottom), cover.convert("1", dither=Image.Dither.NONE))


def render_clip(
    rng: np.random.Generator, size: tuple[int, int], count: int, *, every: int = 1, things: int | None = None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Draw ``count`` frames of a video, one after another: an endless one needs no more memory than a short one.

    Args:
        size: (H, W) of the frames.
        every: Only every ``every``-th frame is drawn.
        things: How many move, 1 to 4 by chance where None; they need some fifty frames from one side to the other.
            Yields images (H, W, 3) uint8 RGB and masks (H, W) uint8: 0 the scene, i the i-th thing, which may leave,
            come back, and be hidden by nearer ones. Everything comes from ``rng``: the same state, the same bytes.

    Raises:
        ValueError: a side is smaller than 16, or there are no things.
    """
    if things is not None and not 1 <= things < 255:
        raise ValueError(f"expected 1 to 254 things, got {things}")
    side = _scene_side(size)
    wardrobe = Wardrobe(rng, grey=rng.random() < 0.1, contrast=uniform(rng, 0.5, 1.2))
    view = View(rng, side, uniform(rng, 0.2, 1.0), False, {})
    for layer in compose_scene(wardrobe):
        layer.draw(view)
    sprites = [
        _sprite(wardrobe, max(64, min(size)), 90) for _ in range(int(rng.integers(1, 5)) if things is None else things)
    ]
    yield from _film(rng, size, range(0, count * every, every), view.image, sprites)


def move_cutouts(
    rng: np.random.Generator,
    size: tuple[int, int],
    count: int,
    scene: NDArray[np.uint8],
    things: Sequence[tuple[NDArray[np.uint8], NDArray[np.bool_]]],
    *,
    every: int = 1,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Film photographs as `render_clip` does scenes: things cut out of some move before another.

    Args:
        scene: (H, W, 3) uint8.
        things: Images (h, w, 3) uint8 and which of their pixels are the thing, (h, w) bool.

    Raises:
        ValueError: a side is smaller than 16, or there are no things, or too many, or nothing of one.
    """
    if not 1 <= len(things) < 255 or not all(cover.any() for _, cover in things):
        raise ValueError(f"expected 1 to 254 things that cover something, got {len(things)}")
    side = _scene_side(size)
    covers = [Image.fromarray(255 * cover.astype(np.uint8)) for _, cover in things]
    boxes = [cover.getbbox() for cover in covers]
    sprites = [
        _Sprite(
            Image.fromarray(image).crop(box),
            cover.crop(box),
            *_course(rng, log_uniform(rng, 0.3, 0.9), 0.3, 90),
            mirrored=bool(rng.random() < 0.5),
        )
        for (image, _), cover, box in zip(things, covers, boxes, strict=True)
    ]
    whole = Image.fromarray(scene).resize((side, side), Image.Resampling.BICUBIC)
    yield from _film(rng, size, range(0, count * every, every), whole, sprites)


def _scene_side(size: tuple[int, int]) -> int:
    """Tell how large a scene is of which the camera sees a part."""
    if min(size) < _LEAST_SIDE:
        raise ValueError(f"expected frames of at least {_LEAST_SIDE} x {_LEAST_SIDE}, got {size}")
    return math.ceil(1.25 * max(size))


def _film(
    rng: Rng, size: tuple[int, int], numbers: range, scene: Image.Image, sprites: Sequence[_Sprite]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Draw images and ids of these frames.

    Args:
        scene: A square of `_scene_side`.
    """
    height, width = size
    side = scene.width
    pan_x, pan_y = _Wave.draw(rng, 0, side - width, 240), _Wave.draw(rng, 0, side - height, 240)
    light = _Wave.draw(rng, 0.85, 1.15, 240)
    grain = uniform(rng, 0.0, 5.0)
    for number in numbers:
        left, top = pan_x.at(number), pan_y.at(number)
        frame = scene.transform(
            (width, height), Image.Transform.AFFINE, (1, 0, left, 0, 1, top), Image.Resampling.BILINEAR
        )
        ids = Image.new("L", (width, height))
        for label, sprite in enumerate(sprites, start=1):
            sprite.draw(frame, ids, label, number, (pan_x.middle - left, pan_y.middle - top))
        pixels = np.asarray(ImageEnhance.Brightness(frame).enhance(light.at(number))).astype(np.int16)
        pixels += np.rint(rng.normal(0, grain, pixels.shape[:2])).astype(np.int16)[..., None]
        yield np.clip(pixels, 0, 255).astype(np.uint8), np.asarray(ids)


def _course(rng: Rng, largest: float, turn: float, period: float) -> tuple[_Wave, _Wave, _Wave, _Wave]:
    """Plan where a thing is, how large, and how it is turned.

    Args:
        largest: Of the frame's shorter side.
        turn: radians.
    """
    return (
        _Wave.draw(rng, uniform(rng, -0.1, 0.3), uniform(rng, 0.7, 1.1), period),
        _Wave.draw(rng, uniform(rng, 0.0, 0.45), uniform(rng, 0.55, 1.0), 1.3 * period),
        _Wave.draw(rng, largest * uniform(rng, 0.5, 0.9), largest, 1.5 * period),
        _Wave.draw(rng, -turn, turn, period if turn < 1 else 2 * period),
    )


def _sprite(wardrobe: Wardrobe, side: int, period: float) -> _Sprite:
    """Draw a thing of a kind of its own, alone; again in the rare case that nothing of it is seen."""
    rng = wardrobe.rng
    builders = shapes.SIMPLE if rng.random() < 0.4 else shapes.COMPOSITE
    build, traits = builders[int(rng.integers(len(builders)))], rng.random(8)
    number = 1 + max(look for look, _ in build(rng, traits))
    looks = (wardrobe.look(), *(wardrobe.look("flat", "plain", "grain", "stripes") for _ in range(number - 1)))
    kind = Things(build, traits, looks, (1,) * number, 0.6, (1, 1), shaded=rng.random() < 0.5)
    box = None
    while box is None:
        view = View(rng, side, 0.0, False, {})
        kind.draw(view)
        box = view.ids.getbbox()
    cover = view.ids.crop(box).point(lambda value: 255 * (value > 0))
    course = _course(rng, log_uniform(rng, 0.15, 0.6), 0.2 if build in shapes.UPRIGHT else 2.0, period)
    return _Sprite(view.image.crop(box), cover, *course, mirrored=bool(rng.random() < 0.5))
