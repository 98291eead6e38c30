"""Outlines of made-up things: blobs, animals, people, vehicles, plants, as polygons in a unit frame.

For: the synthetic scenes. Refuses to know: pixels, colours, ids, where a thing stands.

The unit frame: x to the right, y down, the thing about 1 long in its longer direction and centred near 0.
A builder takes `rng` and the kind's `traits`, eight numbers in 0..1 that are the same for every thing of a kind (its
proportions); what it draws from `rng` differs from thing to thing (its pose). It returns parts from back to front:
(look, outline), where `look` numbers the kind's textures from 0 (its main one) and `outline` is (n, 2) float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]
Parts = list[tuple[int, Outline]]
Traits = NDArray[np.float64]
Builder = Callable[[np.random.Generator, Traits], Parts]

_TURN = np.linspace(0, 2 * math.pi, 28, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_OVAL = _CIRCLE[::2]


def oval(x: float, y: float, rx: float, ry: float) -> Outline:
    """Draw an ellipse with its axes along the frame's."""
    return _OVAL * (rx, ry) + (x, y)


def box(x0: float, y0: float, x1: float, y1: float, slant: float = 0.0) -> Outline:
    """Draw a rectangle; `slant` moves its upper corners inwards (a trapezoid)."""
    return np.array([(x0 + slant, y0), (x1 - slant, y0), (x1, y1), (x0, y1)])


def limb(x0: float, y0: float, x1: float, y1: float, w0: float, w1: float) -> Outline:
    """Draw a tapering bar from (x0, y0), w0 wide, to (x1, y1), w1 wide, with blunt ends."""
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    u, v = (x1 - x0) / length / 2, (y1 - y0) / length / 2
    start = [(x0 - v * w0, y0 + u * w0), (x0 - u * w0, y0 - v * w0), (x0 + v * w0, y0 - u * w0)]
    return np.array([*start, (x1 + v * w1, y1 - u * w1), (x1 + u * w1, y1 + v * w1), (x1 - v * w1, y1 + u * w1)])


def leaf(x: float, y: float, length: float, width: float, angle: float) -> Outline:
    """Draw a lens with its foot in (x, y)."""
    points = np.stack([(_OVAL[:, 0] + 1) / 2 * length, _OVAL[:, 1] ** 3 * width / 2], axis=1)
    c, s = math.cos(angle), math.sin(angle)
    turned: Outline = points @ np.array([(c, s), (-s, c)]) + (x, y)
    return turned


def _radial(radius: NDArray[np.float64], aspect: float) -> Outline:
    radius = radius / radius.max() / 2
    return _CIRCLE * radius[:, None] * (1.0, aspect)


def blob(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw a closed curve with a few harmonics: traits say how elongated and rough, chance where it bulges."""
    waves = np.arange(2, 7)
    sizes = (0.05 + 0.5 * traits[0] ** 2) * rng.random(5) / waves
    radius = 1 + np.cos(_TURN[:, None] * waves + rng.random(5) * 2 * math.pi) @ sizes
    return [(0, _radial(radius, 0.35 + 0.65 * traits[1]))]


def ellipse(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw an ellipse, of some kinds with a spot of another look inside."""
    aspect = (0.3 + 0.7 * traits[0]) * (1 + 0.12 * rng.standard_normal())
    parts = [(0, oval(0, 0, 0.5, 0.5 * float(np.clip(aspect, 0.2, 1))))]
    if traits[1] < 0.35:
        r = 0.1 + 0.25 * traits[2]
        parts.append((1, oval(0.2 * rng.random() - 0.1, 0, r * 0.9, r * 0.9 * min(1, aspect))))
    return parts


def polygon(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw three to seven corners, more or less regular."""
    corners = 3 + int(traits[0] * 5)
    turn = (np.arange(corners) + 0.35 * traits[1] * rng.random(corners)) * 2 * math.pi / corners
    return [(0, 0.5 * np.stack([np.cos(turn), (0.4 + 0.6 * traits[2]) * np.sin(turn)], axis=1))]


def star(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw three to seven points."""
    points = 3 + int(traits[0] * 5)
    radius = np.where(np.arange(2 * points) % 2, 0.15 + 0.2 * traits[1], 0.5) * (
        1 + 0.08 * rng.standard_normal(2 * points)
    )
    turn = np.arange(2 * points) * math.pi / points
    return [(0, np.stack([np.cos(turn), np.sin(turn)], axis=1) * radius[:, None])]


def flower(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw a flower: 0 petals, 1 the disc in their middle."""
    petals = 4 + int(traits[0] * 7)
    turns = np.arange(petals) * 2 * math.pi / petals + 0.1 * rng.standard_normal(petals)
    width = (0.6 + 1.0 * traits[1]) * 3 / petals
    parts = [(0, leaf(0, 0, 0.5 * (0.85 + 0.15 * rng.random()), width * 0.5, float(t))) for t in turns]
    return [*parts, (1, oval(0, 0, 0.07 + 0.12 * traits[2], 0.07 + 0.12 * traits[2]))]


def rosette(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw a small plant from above: leaves of several lengths about a centre, on stalks or not."""
    leaves = 3 + int(traits[0] * 7)
    stalk = 0.25 * traits[1]
    parts: Parts = []
    for k in range(leaves):
        t = (k + 0.6 * rng.random()) * 2 * math.pi / leaves
        c, s, length = math.cos(t), math.sin(t), 0.2 + 0.3 * rng.random()
        if stalk > 0.08:
            parts.append((0, limb(0, 0, stalk * c, stalk * s, 0.03, 0.03)))
        parts.append((0, leaf(stalk * c, stalk * s, length, 0.04 + 0.3 * traits[2] * length, t)))
    return parts


def animal(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw a four-legged body from the side: traits make it a cow, a cat or a lizard; pose moves its limbs."""
    bulk, legs, neck = 0.1 + 0.12 * traits[0], 0.1 + 0.25 * traits[1], 0.02 + 0.25 * traits[2]
    head, thin = 0.07 + 0.09 * traits[3], 0.03 + 0.05 * traits[4]
    lying = rng.random() < 0.15
    parts: Parts = []
    for x in (-0.27, 0.2, -0.2, 0.27):
        step = 0.07 * rng.standard_normal()
        foot = (x + 2.5 * step, bulk * 0.6) if lying else (x + step, bulk * 0.5 + legs)
        parts.append((0, limb(x, 0.0, *foot, 1.6 * thin, thin)))
    up = (-0.5 + 1.3 * rng.random()) * neck + 0.1 * traits[5]
    hx, hy = 0.36 + 0.3 * neck, -0.3 * bulk - up
    parts.append((0, limb(-0.3, -0.3 * bulk, -0.45 - 0.1 * traits[6], 0.25 * rng.standard_normal(), 0.04, 0.02)))
    parts.append((0, limb(0.22, -0.1 * bulk, hx, hy, 1.3 * bulk, head)))
    body = oval(0, 0, 0.34, bulk)
    body[:, 1] += 0.15 * bulk * np.sin(body[:, 0] * 9 + 6 * traits[7])
    parts.append((0, body))
    if traits[5] < 0.4:  # a patched coat
        parts += [
            (1, oval(x, -0.2 * bulk, 0.07, 0.5 * bulk)) for x in (-0.2 + 0.1 * rng.random(), 0.05 + 0.15 * rng.random())
        ]
    parts.append((0, limb(hx - 0.02, hy - 0.4 * head, hx - 0.06, hy - 1.5 * head, 0.5 * head, 0.1 * head)))
    parts.append((1 if traits[6] < 0.25 else 0, oval(hx, hy, head * (0.9 + 0.4 * traits[7]), 0.8 * head)))
    return parts


def sitting(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw an animal that sits, seen from the front or curled up: a pear with ears and a tail."""
    wide, head = 0.18 + 0.12 * traits[0], 0.12 + 0.08 * traits[1]
    lean = 0.08 * rng.standard_normal()
    hy = -0.3 + 0.1 * rng.random()
    parts: Parts = [(0, limb(0.1, 0.42, 0.3 + 0.2 * rng.random(), 0.45 - 0.3 * rng.random(), 0.06, 0.04))]
    parts += [(0, oval(0, 0.25, wide, 0.23)), (0, limb(0, 0.3, lean, hy, 1.5 * wide, head))]
    parts += [(0, limb(s * 0.06, 0.1, s * 0.08, 0.47, 0.09, 0.07)) for s in (-1, 1)]
    if traits[2] < 0.4:
        parts.append((1, oval(0.5 * lean, 0.1, 0.4 * wide, 0.15)))
    parts.append((0, oval(lean, hy, head, 0.85 * head)))
    ear = 0.06 + 0.1 * traits[3]
    for s in (-1, 1):
        parts.append(
            (0, limb(lean + s * 0.6 * head, hy - 0.5 * head, lean + s * 0.8 * head, hy - 0.5 * head - ear, 0.09, 0.01))
        )
        parts.append((2, oval(lean + s * 0.4 * head, hy - 0.1 * head, 0.022, 0.022)))
    return parts


def person(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw a standing or walking figure: 0 clothes above, 1 skin, 2 clothes below, 3 hair."""
    shoulders, hips, step = 0.17 + 0.06 * traits[0], 0.11 + 0.04 * traits[1], 0.09 * rng.standard_normal()
    parts: Parts = []
    for s in (-1, 1):
        knee = 0.03 * s + 0.5 * s * step
        parts += [
            (2, limb(0.03 * s, 0.04, knee, 0.26, 0.09, 0.07)),
            (2, limb(knee, 0.25, 0.035 * s + s * step, 0.48, 0.065, 0.05)),
        ]
    arm = 0.12 * rng.standard_normal()
    elbows = [(s, s * shoulders / 2 + s * 0.03 + arm * 0.4) for s in (-1, 1)]
    parts += [(1, limb(elbow, -0.1, elbow + arm * s, 0.04, 0.04, 0.035)) for s, elbow in elbows]
    parts += [(0, limb(s * shoulders * 0.42, -0.27, elbow, -0.1, 0.06, 0.05)) for s, elbow in elbows]
    parts.append((0, np.array([(-shoulders / 2, -0.3), (shoulders / 2, -0.3), (hips / 2, 0.08), (-hips / 2, 0.08)])))
    if traits[2] < 0.3:  # a skirt or a long coat
        parts.append((0, box(-hips * 0.9, 0.0, hips * 0.9, 0.2 + 0.15 * traits[3], 0.03)))
    parts += [
        (1, limb(0, -0.33, 0, -0.27, 0.05, 0.05)),
        (3, oval(0, -0.42, 0.06, 0.07)),
        (1, oval(0.01, -0.4, 0.05, 0.06)),
    ]
    return parts


def bust(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw head and shoulders: 0 skin, 1 hair, 2 clothes, 3 eyes and mouth."""
    wide, tall, turn = 0.15 + 0.05 * traits[0], 0.2 + 0.06 * traits[1], 0.03 * rng.standard_normal()
    long = 0.3 * traits[2]
    parts: Parts = [
        (1, box(-wide * 1.15, -0.15, wide * 1.15, -0.1 + long, 0.02)),
        (1, oval(0, -0.17, wide * 1.25, tall * 1.12)),
    ]
    parts += [(2, np.array([(-0.1, 0.15), (0.1, 0.15), (0.36, 0.25), (0.45, 0.5), (-0.45, 0.5), (-0.36, 0.25)]))]
    parts += [(0, limb(0, 0, 0, 0.2, 0.15, 0.17)), (0, oval(turn, -0.11, wide, tall))]
    parts.append((1, oval(turn * 0.5, -0.12 - 0.8 * tall, wide * 0.95, 0.3 * tall)))
    parts += [(3, oval(turn * 1.5 + s * 0.07, -0.14, 0.028, 0.016)) for s in (-1, 1)]
    return [*parts, (3, oval(turn * 1.5, 0.0, 0.05, 0.013 + 0.02 * rng.random()))]


def car(_rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw a vehicle from the side: 0 body, 1 windows, 2 wheels, 3 lights."""
    roof, hood, high = 0.08 + 0.16 * traits[0], 0.25 * traits[1], 0.1 + 0.06 * traits[2]
    cabin = [(-0.46, -0.02), (-0.4 + 0.1 * traits[3], -roof), (0.32 - hood, -roof), (0.44 - hood * 0.6, -0.02)]
    shell = np.array([*cabin, (0.5, 0.02), (0.5, high), (-0.5, high), (-0.5, 0.0)])
    parts: Parts = [(0, shell)]
    x0, x1 = -0.36 + 0.08 * traits[3], 0.3 - hood
    panes = 2 + int(traits[4] * 3)
    for k in range(panes):
        a, b = x0 + (x1 - x0) * k / panes, x0 + (x1 - x0) * (k + 0.85) / panes
        parts.append((1, box(a, -roof * 0.85, b, -0.02)))
    wheel = 0.06 + 0.04 * traits[5]
    parts += [(2, oval(x, high, wheel, wheel)) for x in (-0.29, 0.3)]
    return [*parts, (3, oval(0.48, 0.05, 0.025, 0.02)), (3, oval(-0.485, 0.04, 0.02, 0.02))]


def front(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw a car, bus or train from the front: 0 body, 1 windshield, 2 wheels, 3 lights."""
    half, top, mid = 0.3 + 0.12 * traits[0], -0.25 - 0.2 * traits[1], -0.05 + 0.1 * traits[2]
    foot = 0.25 + 0.15 * traits[3]
    parts: Parts = [(2, box(s * half * 0.75 - 0.06, foot - 0.05, s * half * 0.75 + 0.06, foot + 0.07)) for s in (-1, 1)]
    parts += [(0, box(-half * 0.95, top, half * 0.95, mid + 0.02, 0.12 * traits[4])), (0, box(-half, mid, half, foot))]
    parts.append((1, box(-half * 0.82, top + 0.05, half * 0.82, mid - 0.02, 0.11 * traits[4])))
    y = mid + 0.5 * (foot - mid) * (0.6 + 0.4 * traits[5])
    parts += [(3, oval(s * half * 0.75, y, 0.07, 0.04)) for s in (-1, 1)]
    if rng.random() < 0.5:
        parts.append((2, box(-half * 0.4, y, half * 0.4, y + 0.08)))
    return parts


def house(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw a house: 0 wall, 1 roof, 2 windows and door."""
    half, eave = 0.25 + 0.2 * traits[0], -0.2 + 0.2 * traits[1]
    columns, rows = 2 + int(3 * traits[2]), 1 + int(3 * traits[3] * (0.2 - eave))
    parts: Parts = [(0, box(-half, eave, half, 0.48))]
    if traits[4] < 0.7:
        parts.append((1, box(-half - 0.04, eave - 0.1 - 0.15 * traits[5], half + 0.04, eave, half * traits[6])))
    for row in range(rows):
        for column in range(columns):
            x, y = -half + 2 * half * (column + 0.3) / columns, eave + (0.45 - eave) * (row + 0.25) / rows
            if rng.random() < 0.9:
                parts.append((2, box(x, y, x + 0.8 * half / columns, y + 0.2 / rows)))
    return parts


def tree(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw a tree: 0 crown, 1 trunk."""
    if traits[0] < 0.3:  # a fir
        half = 0.12 + 0.15 * traits[1]
        crown = [box(-half * k, -0.75 + 0.35 * k, half * k, -0.3 + 0.4 * k, half * k * 0.95) for k in (1.0, 0.75, 0.5)]
    else:
        n = 3 + int(4 * traits[2])
        spots = rng.normal((0, -0.2), 0.11, (n, 2))
        crown = [oval(x, y, 0.14 + 0.08 * traits[1], 0.13 + 0.08 * traits[3]) for x, y in spots.tolist()]
    return [(1, limb(0, 0.5, 0, -0.1, 0.09, 0.05)), *((0, part) for part in crown)]


def vessel(_rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw a turned profile: bottles, vases, screws, tools; traits give radii along the axis. 1 is a band."""
    y = np.linspace(-0.5, 0.5, 8)
    radius = 0.05 + 0.25 * np.repeat(traits[:4], 2) ** 1.5
    outline = np.concatenate([np.stack([radius, y], axis=1), np.stack([-radius, y], axis=1)[::-1]])
    if traits[4] > 0.6:
        return [(0, outline)]
    top, r = -0.2 + 0.5 * traits[5], 0.04 + 0.25 * float(min(traits[1], traits[2])) ** 1.5
    return [(0, outline), (1, box(-r, top, r, top + 0.1))]


def creature(rng: np.random.Generator, traits: Traits) -> Parts:
    """Draw nothing in particular: a chain of ovals, sized by the traits, bent by chance, its last link another look."""
    parts: Parts = []
    x, y, angle = -0.35, 0.0, rng.normal(0, 0.4)
    count = 2 + int(traits[7] * 4)
    for k in range(count):
        r = 0.06 + 0.18 * traits[k]
        parts.append((1 if k == count - 1 and traits[6] < 0.6 else 0, oval(x, y, r, r * (0.5 + 0.5 * traits[6]))))
        angle += rng.normal(0, 0.5)
        x, y = x + 0.75 / count * math.cos(angle), y + 0.75 / count * math.sin(angle)
    return parts


SIMPLE: tuple[Builder, ...] = (blob, ellipse, polygon, star)
COMPOSITE: tuple[Builder, ...] = (
    flower,
    rosette,
    animal,
    sitting,
    person,
    bust,
    car,
    front,
    house,
    tree,
    vessel,
    creature,
)
UPRIGHT: frozenset[Builder] = frozenset({animal, sitting, person, bust, car, front, house, tree, vessel})
