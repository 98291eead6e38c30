"""Synthetic scenes: two images of the same kinds of things, with exact masks.

For: pairs from which a network learns "find what looks like the marked thing" over far more shapes, textures and sizes
than a handful of labelled folders hold. A scene is made of *kinds* (a shape family, a texture, a distribution of
colours); kind k has id k in both images, at other places, scales, rotations and counts, often on another ground and
in another light. Refuses to know: networks, files, mask colours (in-context coloring comes later), global random state.

A scene is a list of layers from back to front. It is drawn twice or more, each time with fresh random numbers, from the
same layers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from incontext.training.scenes import shapes
from incontext.training.scenes.layers import Band, Cells, Ground, Lane, Layer, Stains, Strokes, Style, Things
from incontext.training.scenes.looks import Look, Rng, View, Wardrobe, log_uniform, uniform

_NO_GLYPHS = np.zeros((0, 0, 2, 2))
Compose = Callable[[Wardrobe], list[Layer]]


def render_pair(rng: np.random.Generator, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one scene twice: images (2, side, side, 3) uint8 RGB and masks (2, side, side) uint8, see `render_views`."""
    views = render_views(rng, (side, side), without=(1,) if rng.random() < 0.1 else ())
    return np.stack([image for image, _ in views]), np.stack([mask for _, mask in views])


def render_views(
    rng: np.random.Generator, sides: Sequence[int], *, without: Sequence[int] = ()
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Draw one scene as often as there are sides, each time with its things at other places.

    For each side, in pixels, an image (side, side, 3) uint8 RGB and a mask (side, side) uint8: 0 background, k = kind
    k, the same in all; never 255. A kind may be hidden in any image. ``without``: numbers of the images that lack
    one of the scene's layers, the same in all of them. Everything comes from `rng`: the same state, the same bytes.

    Raises:
        ValueError: a side is smaller than 16.
    """
    if min(sides) < 16:
        raise ValueError(f"expected a side of at least 16 pixels for a synthetic scene, got {min(sides)}")
    wardrobe = Wardrobe(rng, grey=rng.random() < 0.2, contrast=uniform(rng, 0.4, 1.2))
    layers = compose_scene(wardrobe)
    gone = int(rng.integers(1, len(layers))) if len(layers) > 2 else len(layers)
    camera = _Camera.draw(rng)
    views = []
    fields: dict[int, dict[int, Image.Image]] = {}
    for number, side in enumerate(sides):
        if number and rng.random() < 0.5:  # a later image comes from another camera, in other light
            camera = _Camera.draw(rng)
        view = View(rng, side, camera.gain, number > 0, fields.setdefault(side, {}))
        for depth, layer in enumerate(layers):
            if depth != gone or number not in without:
                layer.draw(view)
        views.append((np.asarray(camera.expose(rng, view.image)), np.asarray(view.ids)))
    return views


def compose_scene(wardrobe: Wardrobe) -> list[Layer]:
    """Compose the layers of some scene, from back to front."""
    return _SCENES[int(np.searchsorted(_CUMULATED, wardrobe.rng.random()))](wardrobe)


@dataclass(frozen=True)
class _Camera:
    """Light and image quality of one view."""

    gain: float  # how far the looks shift their colours
    tint: NDArray[np.float64] | None  # (3,) factors, applied after gamma
    light: float  # 0 even .. 1 strong light and dark places
    gamma: float
    blur: float
    noise: float  # share of white noise in the image
    jpeg: int  # quality; 0: none
    zoom: float  # < 1: seen at a lower resolution

    @staticmethod
    def draw(rng: Rng) -> _Camera:
        return _Camera(
            gain=uniform(rng, 0.2, 1.2),
            tint=1 + rng.normal(0, 0.08, 3) if rng.random() < 0.6 else None,
            light=uniform(rng, 0, 0.6) if rng.random() < 0.6 else 0.0,
            gamma=math.exp(rng.normal(0, 0.25)),
            blur=uniform(rng, 0.3, 0.9) if rng.random() < 0.3 else 0.0,
            noise=log_uniform(rng, 0.02, 0.25) if rng.random() < 0.5 else 0.0,
            jpeg=int(rng.integers(25, 85)) if rng.random() < 0.15 else 0,
            zoom=uniform(rng, 0.45, 0.9) if rng.random() < 0.12 else 1.0,
        )

    def expose(self, rng: Rng, image: Image.Image) -> Image.Image:
        side = image.width
        if self.tint is not None:
            levels = 255 * (np.arange(256) / 255) ** self.gamma
            image = image.point(
                np.clip(np.concatenate([levels * factor for factor in self.tint]), 0, 255).astype(int).tolist()
            )
        if self.light > 0:
            grid = (255 * (1 - self.light * rng.random((3, 3)))).astype(np.uint8)
            lamp = Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)
            image = ImageChops.multiply(image, Image.merge("RGB", (lamp, lamp, lamp)))
        if self.zoom < 1:
            low = max(8, int(side * self.zoom))
            image = image.resize((low, low), Image.Resampling.BOX).resize((side, side), Image.Resampling.BICUBIC)
        if self.blur > 0:
            image = image.filter(ImageFilter.BoxBlur(self.blur * side / 128))
        if self.noise > 0:
            image = Image.blend(image, Image.frombytes("RGB", (side, side), rng.bytes(3 * side * side)), self.noise)
        if self.jpeg > 0:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=self.jpeg)
            image = Image.open(file).convert("RGB")
        return image


def _ground(w: Wardrobe, *looks: Look) -> Ground:
    """Lay unlabelled ground; in half of the pairs the second image stands on another one."""
    first = looks[0] if looks else w.look()
    return Ground(first, w.look() if w.rng.random() < 0.5 and not looks else first)


def _things(
    w: Wardrobe,
    builders: Sequence[shapes.Builder],
    size: float,
    count: tuple[int, int],
    *,
    horizon: float | None = None,
    parts: float = 0.5,
) -> Things:
    """Make a kind of thing; with probability `parts`, each look of it is an id of its own."""
    rng = w.rng
    build, traits = builders[int(rng.integers(len(builders)))], rng.random(8)
    number = 1 + max(look for look, _ in build(rng, traits))
    looks = (w.look(), *(w.look("flat", "flat", "plain", "grain", "stripes") for _ in range(number - 1)))
    first = w.new_id()
    labels = (first, *(w.new_id() for _ in looks[1:])) if rng.random() < parts else (first,) * number
    return Things(
        build,
        traits,
        looks,
        labels,
        size,
        count,
        horizon=horizon,
        soft=uniform(rng, 0.3, 1.0) if rng.random() < 0.15 else 0.0,
        shadow=uniform(rng, 0.2, 0.6) if rng.random() < 0.25 else 0.0,
        shaded=rng.random() < 0.5,
        repaint=tuple(w.look() for _ in looks) if rng.random() < 0.15 else None,
    )


def _twin(w: Wardrobe, kind: Things) -> Things:
    """Make a kind that differs from another in one thing only: its colours, its pattern or its shape."""
    rng = w.rng
    labels = (w.new_id(),) * len(kind.labels)
    way = int(rng.integers(3))
    if way == 0:
        return replace(kind, looks=tuple(w.look() for _ in kind.looks), labels=labels)
    if way == 1:
        return replace(kind, looks=tuple(w.look(like=look) for look in kind.looks), labels=labels)
    builders = (shapes.polygon, shapes.star) if kind.build in (shapes.blob, shapes.ellipse) else shapes.COMPOSITE
    others = [build for build in builders if build is not kind.build]
    return replace(kind, build=others[int(rng.integers(len(others)))], labels=labels)


def _objects(w: Wardrobe) -> list[Layer]:
    """Compose a few kinds of objects of any size, in front of each other."""
    rng = w.rng
    kinds: list[Things] = []
    for _ in range(int(rng.integers(1, 4))):
        size = log_uniform(rng, 0.07, 0.8)
        most = int(min(8, 0.3 / size**1.5)) + 1
        kind = _things(w, shapes.SIMPLE if rng.random() < 0.4 else shapes.COMPOSITE, size, (max(1, most // 3), most))
        kinds.append(kind)
        if len(kind.looks) <= 2 and rng.random() < 0.3:
            kinds[-1] = replace(kind, repaint=None)  # or it might put on its twin's look
            kinds.append(_twin(w, kinds[-1]))
    kinds.sort(key=lambda kind: -kind.size)
    stains: list[Layer] = [Stains(w.look(), 0, int(rng.integers(2, 6)), 0.4)] if rng.random() < 0.4 else []
    return [_ground(w), *stains, *kinds]


def _portrait(w: Wardrobe) -> list[Layer]:
    """Compose one thing that fills most of the image; some clutter."""
    rng = w.rng
    clutter: list[Layer] = []
    if rng.random() < 0.5:
        clutter.append(_things(w, shapes.SIMPLE, log_uniform(rng, 0.1, 0.4), (1, 5)))
    if rng.random() < 0.4:
        clutter.append(Band(w.look(), w.new_id() if rng.random() < 0.5 else 0, uniform(rng, 0.5, 0.9), 0.02, False))
    main = _things(w, shapes.COMPOSITE, uniform(rng, 0.5, 1.1), (1, 1), parts=0.6)
    front: list[Layer] = []
    if rng.random() < 0.25:
        front.append(_things(w, (*shapes.SIMPLE, shapes.rosette), log_uniform(rng, 0.1, 0.3), (1, 3)))
    return [_ground(w), *clutter, main, *front]


def _micrograph(w: Wardrobe) -> list[Layer]:
    """Compose many small things with soft borders on a dark or light ground: nuclei, cells, beads, seeds."""
    rng = w.rng
    dark = rng.random() < 0.6
    low, high = (90, 250) if dark else (30, 190)
    ground = w.look("plain", "clouds", "grain", low=5 if dark else 180, high=60 if dark else 250)
    layers: list[Layer] = [_ground(w, ground)]
    if rng.random() < 0.3:
        layers.append(
            Stains(w.look("plain", "clouds", low=low, high=high), w.new_id() * int(rng.random() < 0.5), 3, 0.4)
        )
    size = log_uniform(rng, 0.03, 0.16)
    for _ in range(int(rng.integers(1, 4))):
        looks = (w.look("plain", "clouds", "grain", low=low, high=high),)
        build = shapes.ellipse if rng.random() < 0.5 else shapes.blob
        own = size * log_uniform(rng, 0.6, 1.6)
        most = int(min(36, 0.2 / own**1.7)) + 2
        traits = rng.random(8)
        traits[1] = max(traits[1], 0.5)  # no second look
        kind = Things(build, traits, looks, (w.new_id(),), own, (max(2, most // 4), most), soft=uniform(rng, 0, 1.2))
        layers.append(replace(kind, shaded=rng.random() < 0.5, rows=rng.random() < 0.1))
    return layers


def _membranes(w: Wardrobe) -> list[Layer]:
    """Compose a tissue: walls, interiors of one to three kinds, bodies in them that do or do not count as interior."""
    rng = w.rng
    inner = tuple(w.look() for _ in range(int(rng.choice((1, 1, 2, 3)))))
    labels = tuple(w.new_id() for _ in inner)
    cells = Cells(inner, labels, w.look(), w.new_id(), int(rng.integers(3, 13)), uniform(rng, 0.04, 0.22))
    layers: list[Layer] = [cells]
    if rng.random() < 0.6:
        looks = (w.look("stripes", "clouds", "marble", "plain"),)
        label = labels[0] if len(labels) == 1 and rng.random() < 0.5 else w.new_id()
        layers.append(Things(shapes.blob, rng.random(8), looks, (label,), log_uniform(rng, 0.04, 0.15), (2, 14)))
    return layers


def _street(w: Wardrobe) -> list[Layer]:
    """Compose bands from sky to ground, a road in perspective, things on it that shrink towards the horizon."""
    rng = w.rng
    horizon = uniform(rng, 0.3, 0.6)
    sky = w.look("plain", "clouds", low=120)
    layers: list[Layer] = [Ground(sky, sky, w.new_id())]
    for depth in range(int(rng.integers(1, 3))):
        top, roofs = horizon * uniform(rng, 0.4, 0.8) + 0.1 * depth, rng.random() < 0.6
        layers.append(Band(w.look(), w.new_id(), top, 0.06, roofs))
    layers.append(Band(w.look(), w.new_id(), horizon, 0.005, False))
    if rng.random() < 0.75:
        line = (w.look("plain", low=200), w.new_id()) if rng.random() < 0.5 else None
        layers.append(Lane(w.look("grain", "clouds", "plain"), w.new_id(), horizon, uniform(rng, 0.3, 0.8), line))
    standing = (shapes.person, shapes.car, shapes.front, shapes.tree, shapes.house, shapes.animal, shapes.vessel)
    layers += [
        _things(w, standing, log_uniform(rng, 0.15, 0.7), (1, 4), horizon=horizon, parts=0.2)
        for _ in range(int(rng.integers(1, 3)))
    ]
    if rng.random() < 0.4:  # poles and wires
        layers.append(Strokes(w.look("plain"), w.new_id(), "streets", uniform(rng, 0.7, 2.5), 3, _NO_GLYPHS))
    return layers


def _aerial(w: Wardrobe) -> list[Layer]:
    """Compose ground from above: fields, roads, roofs, trees, water."""
    rng = w.rng
    layers: list[Layer] = [_ground(w)]
    layers += [
        Stains(w.look(), w.new_id(), int(rng.integers(2, 7)), uniform(rng, 0.2, 0.5))
        for _ in range(int(rng.integers(0, 3)))
    ]
    style: Style = "streets" if rng.random() < 0.7 else "curve"
    road = w.look("plain", "grain", "clouds")
    layers.append(Strokes(road, w.new_id(), style, log_uniform(rng, 2, 12), int(rng.integers(1, 6)), _NO_GLYPHS))
    size = log_uniform(rng, 0.04, 0.16)
    roofs = _things(w, (shapes.polygon,), size, (4, 18))
    layers.append(replace(roofs, rows=rng.random() < 0.6, shadow=0.4))
    if rng.random() < 0.6:
        layers.append(replace(_things(w, (shapes.blob,), size * uniform(rng, 0.4, 1), (4, 14)), shadow=0.3))
    return layers


def _surface(w: Wardrobe) -> list[Layer]:
    """Compose thin structures on a textured surface: cracks, wires, vessels; stains beside them."""
    rng = w.rng
    base = w.look("grain", "clouds", "plain", "marble", "stripes", "checks")
    layers: list[Layer] = [_ground(w, base) if rng.random() < 0.6 else _ground(w)]
    if rng.random() < 0.5:
        layers.append(Stains(w.look(), w.new_id(), int(rng.integers(2, 8)), uniform(rng, 0.1, 0.35)))
    for style in rng.permutation(["walk", "walk", "tree", "curve"])[: int(rng.integers(1, 3))].tolist():
        look = w.look("plain", "grain", high=90) if rng.random() < 0.5 else w.look("plain", "grain")
        layers.append(Strokes(look, w.new_id(), style, log_uniform(rng, 0.7, 4), int(rng.integers(1, 5)), _NO_GLYPHS))
    if rng.random() < 0.3:
        layers.append(_things(w, shapes.SIMPLE, log_uniform(rng, 0.03, 0.2), (2, 12)))
    return layers


def _garden(w: Wardrobe) -> list[Layer]:
    """Compose plants on soil or grass, in rows or wild, two kinds of green among them."""
    rng = w.rng
    layers: list[Layer] = [_ground(w, w.look("clouds", "grain", "tufts", "marble"))]
    for _ in range(int(rng.integers(1, 4))):
        kind = _things(
            w,
            (shapes.rosette, shapes.rosette, shapes.flower, shapes.star, shapes.blob),
            log_uniform(rng, 0.07, 0.5),
            (1, 2),
            parts=0.3,
        )
        most = int(min(12, 0.6 / kind.size**1.4)) + 1
        layers.append(replace(kind, count=(max(1, most // 2), most), rows=rng.random() < 0.4))
    return layers


def _matter(w: Wardrobe) -> list[Layer]:
    """Compose no things, only stuff: regions that differ in texture and colour."""
    rng = w.rng
    first = w.look()
    layers: list[Layer] = [Ground(first, first, w.new_id() * int(rng.random() < 0.6))]
    cells = int(rng.integers(2, 9))
    for _ in range(int(rng.integers(1, 4))):
        look = w.look(like=first) if rng.random() < 0.25 else w.look()
        layers.append(Stains(look, w.new_id(), cells, uniform(rng, 0.15, 0.5)))
    return layers


def _page(w: Wardrobe) -> list[Layer]:
    """Compose writing in one or two alphabets and inks, on paper or on anything."""
    rng = w.rng
    layers: list[Layer] = [_ground(w)]
    if rng.random() < 0.4:
        layers.append(_things(w, shapes.SIMPLE, uniform(rng, 0.2, 0.6), (1, 2)))
    for _ in range(int(rng.integers(1, 3))):
        glyphs = rng.integers(0, 4, (int(rng.integers(4, 9)), 3, 2, 2)) * np.array([0.22, 0.4])
        layers.append(
            Strokes(
                w.look("plain", "grain"), w.new_id(), "writing", uniform(rng, 0.8, 3), int(rng.integers(1, 6)), glyphs
            )
        )
    return layers


_WEIGHTED: tuple[tuple[Compose, float], ...] = (
    (_objects, 0.30),
    (_portrait, 0.14),
    (_micrograph, 0.12),
    (_membranes, 0.06),
    (_street, 0.11),
    (_aerial, 0.07),
    (_surface, 0.08),
    (_garden, 0.06),
    (_matter, 0.04),
    (_page, 0.02),
)
_SCENES = tuple(compose for compose, _ in _WEIGHTED)
_CUMULATED = np.cumsum([weight for _, weight in _WEIGHTED])
