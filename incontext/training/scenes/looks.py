"""Looks, the textures and colours of synthetic things; a wardrobe that keeps those of one scene apart; a view to paint.

For: the layers of synthetic scenes. Refuses to know: what is drawn, scenes, files.

Pillow draws (8 bit, compiled), numpy makes texture fields. Outlines are drawn at twice the side and reduced: images
have soft edges, and a pixel belongs to the thing that covers at least half of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Rng = np.random.Generator
Bytes = NDArray[np.uint8]
Pattern = Literal["flat", "plain", "clouds", "grain", "stripes", "checks", "dots", "marble", "tufts"]
_PATTERNS: tuple[Pattern, ...] = ("flat", "plain", "clouds", "grain", "stripes", "checks", "dots", "marble", "tufts")
_FLIPS = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180)
_RAMP = np.clip(1 - np.abs(np.linspace(0, 3, 256)[:, None] - np.arange(4)), 0, 1)  # (256, 4): blends four colour stops


def uniform(rng: Rng, low: float, high: float) -> float:
    """Draw a number between low and high."""
    return low + (high - low) * float(rng.random())


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """Draw a number between low and high, each octave as likely as the next."""
    return float(low * (high / low) ** rng.random())


def noise(rng: Rng, side: int, cells: int) -> Image.Image:
    """Smooth noise, 8 bit: a random grid of cells x cells values, enlarged."""
    cells = max(2, min(cells, side))
    grid = Image.frombytes("L", (cells, cells), rng.bytes(cells * cells))
    return grid.resize((side, side), Image.Resampling.BICUBIC if cells < 12 else Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class Look:
    """A texture: a pattern of one scalar field, coloured through a ramp.

    Attributes:
        ramp: (256, 3) float 0..255.
        period: The size of its features in sides.
        angle: Radians.
        warp: 0 straight .. 1 bent.
    """

    pattern: Pattern
    ramp: NDArray[np.float64]
    period: float
    angle: float
    warp: float

    def colors(self, rng: Rng, gain: float) -> Bytes:
        """Make the ramp as one view sees it, (256, 3); `gain` is the strength of the view's own shift of colours."""
        shift = gain * rng.standard_normal(4)
        ramp: Bytes = np.clip(self.ramp * (1 + 0.1 * shift[0]) + 6 * shift[1:], 0, 255).astype(np.uint8)
        return ramp

    def levels(self, rng: Rng, side: int) -> Image.Image:
        """Draw the pattern, (side, side), 8 bit."""
        cells = round(1 / self.period)
        if self.pattern == "plain":
            return noise(rng, side, 3)
        if self.pattern == "clouds":
            return ImageChops.blend(noise(rng, side, cells), noise(rng, side, 3 * cells), 0.4)
        if self.pattern == "grain":
            return ImageChops.blend(noise(rng, side, 4), noise(rng, side, max(side // 3, 4 * cells)), 0.7)
        if self.pattern == "marble":  # thin dark veins where the noise crosses its middle
            return noise(rng, side, cells).point([min(255, 4 * abs(value - 128)) for value in range(256)])
        if self.pattern == "tufts":  # short upright streaks: grass, fur, bark
            rows, columns = max(2, cells), max(4, 4 * cells)
            grid = Image.frombytes("L", (columns, rows), rng.bytes(columns * rows))
            return grid.resize((side, side), Image.Resampling.BICUBIC).rotate(math.degrees(self.angle) / 4)
        turn = self.angle + (0.1 * rng.standard_normal())
        x = np.arange(side, dtype=np.float32) * (2 * math.pi / (self.period * side))
        c, s = math.cos(turn), math.sin(turn)
        bend = np.asarray(noise(rng, side, 4)).astype(np.float32) * (self.warp / 40) if self.warp > 0 else np.float32(0)
        along = np.sin(x * np.float32(c) + (x * np.float32(s) + np.float32(6 * rng.random()))[:, None] + bend)
        if self.pattern == "stripes":
            wave = along
        else:
            across = np.sin(x * np.float32(s) - (x * np.float32(c))[:, None] + bend)
            wave = np.clip(6 * along * across, -1, 1) if self.pattern == "checks" else np.clip(along + across, -1, 1)
        return Image.fromarray((wave * 127 + 128).astype(np.uint8))


@dataclass
class Wardrobe:
    """Hands out looks and ids for one scene, so that no two looks are too alike.

    Attributes:
        grey: Only greys.
        contrast: How far apart main colours are kept, 1 is 110 levels summed over the channels.
    """

    rng: Rng
    grey: bool
    contrast: float
    taken: list[list[float]] = field(default_factory=list)
    next_id: int = 1

    def new_id(self) -> int:
        """Take an id that no kind has yet."""
        self.next_id += 1
        return self.next_id - 1

    def color(self, low: float, high: float) -> list[float]:
        """Draw a colour whose brightest channel is in low..high."""
        rng = self.rng
        value = uniform(rng, low, high)
        if self.grey:
            return [value] * 3
        saturation = uniform(rng, 0, 0.4) if rng.random() < 0.65 else uniform(rng, 0.3, 0.95)
        turn = 6 * float(rng.random())
        hues = (min(1.0, max(0.0, abs((turn + shift) % 6 - 3) - 1)) for shift in (0, 4, 2))
        return [value * (1 - saturation + saturation * hue) for hue in hues]

    def look(self, *patterns: Pattern, like: Look | None = None, low: float = 30, high: float = 250) -> Look:
        """Draw a new look.

        Args:
            *patterns: One of these; none: any.
            like: A look whose colours to take, in another pattern.
            low: How bright the main colour is at least; it is apart from all others.
            high: How bright it is at most.
        """
        rng = self.rng
        names = [name for name in patterns or _PATTERNS if like is None or name != like.pattern]
        pattern = names[int(rng.integers(len(names)))]
        shape = (log_uniform(rng, 0.03, 0.3), uniform(rng, 0, math.pi), max(0.0, uniform(rng, -0.5, 1.0)))
        if like is not None:
            return Look(pattern, like.ramp, *shape)
        base = self.color(low, high)
        for _ in range(8):
            if all(
                sum(abs(a - b) for a, b in zip(base, other, strict=True)) > 110 * self.contrast for other in self.taken
            ):
                break
            base = self.color(low, high)
        self.taken.append(base)
        spread = log_uniform(rng, 0.06, 0.5)
        stops = np.array(base) * (1 + spread * np.array([[-1.0], [-0.2], [0.4], [1.0]]))
        if not self.grey:
            stops += rng.normal(0, 60 * spread, (4, 3))
            if rng.random() < 0.2:
                stops[int(rng.integers(4))] = self.color(30, 250)
        ramp = _RAMP @ stops
        return Look(pattern, ramp, *shape)


@dataclass
class View:
    """One image being drawn: its pixels, its ids, and the textures rendered so far.

    Attributes:
        gain: How far the looks shift their colours in this view.
        second: Whether it is the second image of the pair.
    """

    rng: Rng
    side: int
    gain: float
    second: bool
    fields: dict[int, Image.Image]  # by look; kept between the views of a scene, for they are costly
    image: Image.Image = field(init=False)
    ids: Image.Image = field(init=False)
    textures: dict[int, Image.Image] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.image = Image.new("RGB", (self.side, self.side))
        self.ids = Image.new("L", (self.side, self.side))

    def texture(self, look: Look) -> Image.Image:
        """Spread `look` over the whole image, RGB, the same each time within this view."""
        key = id(look)
        if key not in self.textures:
            colors, size = look.colors(self.rng, self.gain), (self.side, self.side)
            if look.pattern == "flat":
                self.textures[key] = Image.new("RGB", size, tuple(colors[128].tolist()))
            else:
                if key not in self.fields:
                    self.fields[key] = look.levels(self.rng, self.side)
                levels = self.fields[key].transpose(_FLIPS[int(self.rng.integers(3))])
                levels.putpalette(colors.tobytes())
                self.textures[key] = levels.convert("RGB")
        return self.textures[key]

    def fill(self, look: Look, label: int) -> None:
        """Cover all of the view with a look and a label."""
        self.image.paste(self.texture(look))
        self.ids.paste(label, (0, 0, self.side, self.side))

    def paint(
        self,
        cover: Image.Image,
        at: tuple[int, int],
        look: Look,
        label: int,
        *,
        shade: Image.Image | None = None,
        reach: float = 1.0,
    ) -> None:
        """Lay a look where a cover is bright.

        A pixel gets the label where the coverage times `reach` is a half or more.

        Args:
            cover: 8 bit.
            at: Its upper left corner, inside the image.
            look: What is laid.
            label: The id.
            shade: What multiplies the look.
            reach: See above.
        """
        box = (*at, at[0] + cover.width, at[1] + cover.height)
        patch = self.texture(look).crop(box)
        if shade is not None:
            patch = ImageChops.multiply(patch, Image.merge("RGB", (shade, shade, shade)))
        self.image.paste(patch, at, cover)
        if reach != 1:
            cover = ImageChops.add(cover, cover, 2 / reach)
        self.ids.paste(label, box, cover.convert("1", dither=Image.Dither.NONE))

    def darken(self, cover: Image.Image, at: tuple[int, int], strength: float) -> None:
        """Cast a shadow: the image gets darker under `cover`, the ids stay."""
        self.image.paste((0, 0, 0), at, ImageChops.multiply(cover, Image.new("L", cover.size, int(255 * strength))))

    def stencil(
        self, outlines: Sequence[NDArray[np.float64]], soft: float = 0.0
    ) -> tuple[Image.Image, tuple[int, int]] | None:
        """Fill outlines, in pixels, as (coverage, upper left corner), cut to the image; None: all outside."""
        points = np.concatenate(outlines)
        pad = 2 + int(2 * soft)
        x0, y0 = (max(0, int(value) - pad) for value in points.min(axis=0).tolist())
        x1, y1 = (min(self.side, int(value) + 1 + pad) for value in points.max(axis=0).tolist())
        if x1 <= x0 or y1 <= y0:
            return None
        cover = Image.new("L", (2 * (x1 - x0), 2 * (y1 - y0)))
        draw = ImageDraw.Draw(cover)
        flat = ((points - (x0, y0)) * 2 - 0.5).ravel().tolist()
        start = 0
        for outline in outlines:
            draw.polygon(flat[start : start + outline.size], fill=255)
            start += outline.size
        cover = cover.reduce(2)
        return (cover.filter(ImageFilter.BoxBlur(soft)) if soft > 0.2 else cover), (x0, y0)
