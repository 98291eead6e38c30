"""What a synthetic scene is made of: layers that draw themselves on a view, afresh each time they are asked.

For: `synthetic`, which composes scenes from these. Refuses to know: which scenes there are, pairs, networks, files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, groupby, zip_longest
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from incontext.training.scenes import shapes
from incontext.training.scenes.looks import Look, Rng, View, noise, uniform

_THIN = 1.45  # a one-pixel line between two rows covers neither by half: strokes need only half / _THIN


_Pose = tuple[
    NDArray[np.float64], list[tuple[int, int, int]]
]  # all points of a thing, and (look, start, end) of its parts


Style = Literal["walk", "tree", "curve", "streets", "writing"]


class Layer(Protocol):
    """Something that draws itself on a view."""

    def draw(self, view: View) -> None:
        """Draw it over what the view shows so far."""


@dataclass(frozen=True)
class Ground:
    """The whole image, one texture; perhaps another one in the second view."""

    look: Look
    other: Look
    label: int = 0

    def draw(self, view: View) -> None:
        """Fill the whole view."""
        view.fill(self.other if view.second else self.look, self.label)


@dataclass(frozen=True)
class Things:
    """Things of one kind. `size` in sides; `horizon`: they stand on a ground plane and shrink towards it."""

    build: shapes.Builder
    traits: shapes.Traits
    looks: tuple[Look, ...]
    labels: tuple[int, ...]
    size: float
    count: tuple[int, int]
    horizon: float | None = None
    soft: float = 0.0
    shadow: float = 0.0
    shaded: bool = False
    rows: bool = False
    repaint: tuple[Look, ...] | None = None  # other looks in the second view: the shape alone tells the kind

    def draw(self, view: View) -> None:
        """Draw each thing, the back ones first."""
        rng = view.rng
        looks = self.repaint if view.second and self.repaint is not None else self.looks
        count = int(rng.integers(self.count[0], self.count[1] + 1))
        scale, tilt = math.exp(rng.normal(0, 0.15)), uniform(rng, -0.3, 0.3)
        feet = sorted(rng.random(count).tolist())
        poses = [self._pose(rng) for _ in range(min(count, 5))]
        things = [self._place(view, poses[k % 5], foot, k, count, scale, tilt) for k, foot in enumerate(feet)]
        groups = (
            [things] if count > 2 else [[thing] for thing in things]
        )  # many: together, run by run, which is much faster
        for group in groups:
            if self.shadow > 0:
                shift = 0.03 * view.side * self.size + 0.7
                if stencil := view.stencil([outline + shift for thing in group for _, outline in thing], 1.0):
                    view.darken(*stencil, self.shadow)
            runs = [
                [(look, [outline for _, outline in run]) for look, run in groupby(thing, key=_look)] for thing in group
            ]
            for step in zip_longest(*runs):
                self._draw_run(view, [run for run in step if run is not None], looks)

    def _pose(self, rng: Rng) -> _Pose:
        parts = self.build(rng, self.traits)
        last = len(self.looks) - 1  # a builder with more looks than the kind has: the last one serves for all
        ends = list(accumulate(len(outline) for _, outline in parts))
        spans = [(min(look, last), end - len(outline), end) for (look, outline), end in zip(parts, ends, strict=True)]
        return np.concatenate([outline for _, outline in parts]), spans

    def _place(
        self, view: View, pose: _Pose, foot: float, k: int, count: int, scale: float, tilt: float
    ) -> shapes.Parts:
        """Place one thing: its parts with outlines in pixels."""
        rng, side = view.rng, view.side
        grow, lean, stretch, bend, dx, dy = rng.standard_normal(6).tolist()
        x, y, turn, flip, phase = rng.random(5).tolist()
        size = self.size * side * scale * math.exp(0.2 * grow)
        turn = 0.08 * lean if self.build in shapes.UPRIGHT else 2 * math.pi * turn
        rim = min(0.25, 0.35 * self.size)
        x, y = rim + (1 - 2 * rim) * x, rim + (1 - 2 * rim) * y
        if self.horizon is not None:
            size *= 0.15 + 0.85 * foot
            y = self.horizon + (0.97 - self.horizon) * foot**1.3 - 0.45 * size / side
        elif self.rows:
            columns = max(1, round(math.sqrt(count)))
            x, y = (k % columns + 0.5) / columns + 0.03 * dx, (k // columns + 0.5) / columns + 0.03 * dy
            x += tilt * (y - 0.5)
        elif self.size > 0.45:
            x, y = 0.5 + 0.13 * dx, 0.5 + 0.13 * dy
        c, s, mirror = math.cos(turn) * size, math.sin(turn) * size, math.copysign(1, flip - 0.5) * (1 + 0.08 * stretch)
        frame = np.array([(c * mirror, s * mirror), (-s, c)])
        points, spans = pose
        points = (points + 0.05 * bend * np.sin(4 * points[:, ::-1] + 6 * phase)) @ frame + (x * side, y * side)
        return [(look, points[start:end]) for look, start, end in spans]

    def _draw_run(self, view: View, runs: list[tuple[int, list[NDArray[np.float64]]]], looks: tuple[Look, ...]) -> None:
        """Draw the same parts of one or several things in one stencil; of several, each has its own brightness."""
        index = runs[0][0]
        stencil = view.stencil([outline for look, outlines in runs if look == index for outline in outlines], self.soft)
        if stencil is None:
            return
        cover, at = stencil
        shade = None
        if self.shaded and len(runs) == 1:
            shade = _relief(view.rng, cover.size)
        elif self.shaded:
            shade = Image.new("L", cover.size, 255)
            draw = ImageDraw.Draw(shade)
            for (_, outlines), tone in zip(runs, view.rng.integers(110, 256, len(runs)).tolist(), strict=True):
                for outline in outlines:
                    draw.polygon((outline - at).ravel().tolist(), fill=tone, outline=int(tone * 0.7))
        view.paint(cover, at, looks[index], self.labels[index], shade=shade)


def _look(part: tuple[int, NDArray[np.float64]]) -> int:
    return part[0]


def _relief(rng: Rng, size: tuple[int, int]) -> Image.Image:
    """Light a patch from one side."""
    corners = Image.frombytes("L", (2, 2), rng.integers(90, 256, 4, dtype=np.uint8).tobytes())
    return corners.resize(size, Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class Strokes:
    """Thin things: cracks, wires, vessels, roads, writing. `width` in pixels of a 128-pixel side."""

    look: Look
    label: int
    style: Style
    width: float
    count: int
    glyphs: NDArray[np.float64]  # (glyphs, strokes, 2, 2): the alphabet of "writing"

    def draw(self, view: View) -> None:
        """Draw each stroke along its path."""
        side = view.side
        cover = Image.new("L", (2 * side, 2 * side))
        draw = ImageDraw.Draw(cover)
        for path, width in self._paths(view.rng):
            pixels = max(1, round(2 * width * side / 128))
            draw.line(
                (path * (2 * side)).ravel().tolist(), fill=255, width=pixels, joint="curve" if pixels > 4 else None
            )
        view.paint(cover.reduce(2), (0, 0), self.look, self.label, reach=_THIN)

    def _paths(self, rng: Rng) -> Iterable[tuple[NDArray[np.float64], float]]:
        if self.style == "streets":
            yield from self._streets(rng)
        elif self.style == "writing":
            yield from self._writing(rng)
        else:
            for _ in range(max(1, self.count + int(rng.integers(-1, 2)))):
                start = rng.random(2)
                heading = math.atan2(0.5 - start[1], 0.5 - start[0]) + rng.normal(0, 0.7)
                yield from self._walk(rng, start, heading, self.width, 2 if self.style == "tree" else 0)

    def _walk(
        self, rng: Rng, start: NDArray[np.float64], heading: float, width: float, forks: int
    ) -> Iterable[tuple[NDArray[np.float64], float]]:
        steps = int(rng.integers(12, 45))
        kink = 0.5 if self.style == "walk" else 0.12
        turns = heading + np.cumsum(rng.normal(0, kink, steps)) * (0.5 if self.style == "walk" else 1.0)
        path = start + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], axis=1), axis=0) * 0.03
        if self.style == "walk":  # a crack is thick here and thin there
            cut = steps // 2
            yield path[: cut + 1], width
            yield path[cut:], max(0.5, width * uniform(rng, 0.4, 1.2))
        else:
            yield path, width
        for _ in range(int(rng.integers(0, 3)) if forks > 0 else int(rng.random() < 0.3) * (self.style == "walk")):
            k = int(rng.integers(steps))
            yield from self._walk(
                rng, path[k], float(turns[k]) + rng.choice((-1, 1)) * uniform(rng, 0.4, 1.1), 0.65 * width, forks - 1
            )

    def _streets(self, rng: Rng) -> Iterable[tuple[NDArray[np.float64], float]]:
        turn = uniform(rng, 0, math.pi)
        for k in range(self.count):
            angle = turn + (k % 2) * math.pi / 2 + rng.normal(0, 0.08)
            along, middle = np.array([math.cos(angle), math.sin(angle)]), rng.random(2)
            bow = rng.normal(0, 0.08) * np.array([-along[1], along[0]])
            reach = 1.0 if rng.random() < 0.7 else 0.3
            t = np.linspace(-reach, reach, 7)[:, None]
            yield middle + t * along + (t**2) * bow, self.width * (1.0 if k < 2 else uniform(rng, 0.5, 1.0))

    def _writing(self, rng: Rng) -> Iterable[tuple[NDArray[np.float64], float]]:
        size, turn = uniform(rng, 0.05, 0.12), rng.normal(0, 0.15)
        frame = size * np.array([(math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))])
        for line in range(self.count):
            start = np.array([uniform(rng, 0, 0.4), (line + uniform(rng, 0.3, 0.9)) / self.count])
            for place in range(int(rng.integers(3, 11))):
                if rng.random() < 0.85:
                    for stroke in self.glyphs[int(rng.integers(len(self.glyphs)))]:
                        yield (stroke + np.array([0.9 * place, 0])) @ frame + start, self.width


@dataclass(frozen=True)
class Stains:
    """Where smooth noise is high: puddles, rust, clouds, undergrowth, phases of a rock."""

    look: Look
    label: int
    cells: int
    share: float  # of the image, about

    def draw(self, view: View) -> None:
        """Lay the stains over the view."""
        rough = ImageChops.blend(
            noise(view.rng, view.side, self.cells), noise(view.rng, view.side, 4 * self.cells), 0.25
        )
        level = 255 * (0.5 + 0.42 * (0.5 - self.share)) + 20
        cover = rough.point(np.clip(128 + 10 * (np.arange(256) - level), 0, 255).astype(int).tolist())
        view.paint(cover, (0, 0), self.look, self.label)


@dataclass(frozen=True)
class Band:
    """Everything below a line: the ground of a landscape.

    `ragged`: how far the line wanders; `steps`: roofs rather than hills.
    """

    look: Look
    label: int
    top: float
    ragged: float
    steps: bool

    def draw(self, view: View) -> None:
        """Fill a band between two uneven edges."""
        rng, side = view.rng, view.side
        x = np.linspace(-0.02, 1.02, 12)
        y = self.top + rng.normal(0, 0.03) + np.cumsum(rng.normal(0, self.ragged, 12)) * (0.2 if self.steps else 0.5)
        if self.steps:
            y = self.top + rng.normal(0, self.ragged * 2, 12)
            x, y = np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]
        ridge = np.stack([x, y], axis=1)
        if stencil := view.stencil([np.concatenate([ridge, [(1.02, 1.02), (-0.02, 1.02)]]) * side]):
            view.paint(*stencil, self.look, self.label)


@dataclass(frozen=True)
class Lane:
    """A road that runs to the horizon, perhaps with a broken line in its middle."""

    look: Look
    label: int
    horizon: float
    width: float
    line: tuple[Look, int] | None

    def draw(self, view: View) -> None:
        """Draw the lane and its borders along its path."""
        rng, side = view.rng, view.side
        vanish, middle = uniform(rng, 0.2, 0.8), uniform(rng, 0.2, 0.8)
        corners = [
            (vanish - 0.02, self.horizon),
            (vanish + 0.02, self.horizon),
            (middle + self.width, 1.05),
            (middle - self.width, 1.05),
        ]
        if stencil := view.stencil([np.array(corners) * side]):
            view.paint(*stencil, self.look, self.label)
        if self.line is None:
            return
        cuts = self.horizon + (1 - self.horizon) * np.array([0.1, 0.2, 0.3, 0.45, 0.6, 0.95])
        dashes = []
        for y0, y1 in cuts.reshape(3, 2):
            at = [vanish + (middle - vanish) * (y - self.horizon) / (1.05 - self.horizon) for y in (y0, y1)]
            w = [0.03 * (y - self.horizon) + 0.003 for y in (y0, y1)]
            dashes.append(
                np.array([(at[0] - w[0], y0), (at[0] + w[0], y0), (at[1] + w[1], y1), (at[1] - w[1], y1)]) * side
            )
        if stencil := view.stencil(dashes):
            view.paint(*stencil, self.line[0], self.line[1], reach=_THIN)


@dataclass(frozen=True)
class Cells:
    """A jittered Voronoi tessellation: membranes, and interiors of one or several kinds."""

    looks: tuple[Look, ...]
    labels: tuple[int, ...]
    wall: Look
    wall_label: int
    grid: int
    wall_width: float  # in cells

    def draw(self, view: View) -> None:
        """Draw walls, interiors and the bodies in them."""
        rng, side, n = view.rng, view.side, self.grid
        small = max(side // 2, 8)
        seed_x, seed_y = rng.random((2, (n + 2) ** 2), dtype=np.float32) * np.float32(0.9)
        axis = np.linspace(1, n + 1, small, endpoint=False, dtype=np.float32)
        swirl = np.asarray(noise(rng, small, n + 1)).astype(np.float32) / 255 - 0.5
        x, y = axis[None, :] + 0.6 * swirl, axis[:, None] + 0.6 * swirl[::-1]
        x, y = np.clip(x, 1, n + 0.999), np.clip(y, 1, n + 0.999)
        column, row = x.astype(np.int32), y.astype(np.int32)
        home, x, y = row * (n + 2) + column, x - column, y - row
        nearest, second = np.full((2, small, small), 9, np.float32)
        owner = np.zeros((small, small), np.int32)
        for step in range(9):  # the nearest seed lies in this cell of the grid or in one beside it
            down, right = np.float32(step // 3 - 1), np.float32(step % 3 - 1)
            cell = home + int(down * (n + 2) + right)
            distance = np.hypot(seed_x.take(cell) + (right - x), seed_y.take(cell) + (down - y))
            closer = distance < nearest
            np.minimum(second, np.maximum(nearest, distance), out=second)
            np.minimum(nearest, distance, out=nearest)
            np.copyto(owner, cell, where=closer)
        kinds = rng.integers(0, len(self.looks), (n + 2) ** 2, dtype=np.uint8)
        wall = max(self.wall_width, 1.5 * n / side)  # a thinner wall would be seen, but cover no pixel by half
        inside = np.clip((second - nearest - wall) * (side / n) * 96 + 128, 0, 255).astype(np.uint8)
        view.fill(self.wall, self.wall_label)
        chosen = kinds[owner]
        for index, (look, label) in enumerate(zip(self.looks, self.labels, strict=True)):
            cover = Image.fromarray(np.where(chosen == index, inside, 0).astype(np.uint8)).resize(
                (side, side), Image.Resampling.BILINEAR
            )
            view.paint(cover, (0, 0), look, label)
