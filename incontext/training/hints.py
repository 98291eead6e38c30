"""Hints: a few patches of the query's own mask, revealed as a user's clicks, scribbles and boxes would reveal them.

A hint speaks of whole patches in one flat id, as a click does that knows nothing of edges; the mask under a revealed
patch is flattened to it. Refuses to know pictures, colours and tensors.
"""

from __future__ import annotations

import numpy as np
from einops import rearrange, repeat

from incontext.training.sets import IGNORED

Rng = np.random.Generator
_STEPS = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])


def reveal(mask: np.ndarray, count: int, patch: int, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Hint at some patches of a query's mask: clicks (half of the time), a scribble or a box.

    mask: (side, side) ids 0..count, 255 ignored. Returns the mask with each hinted patch flat in its id, and
    which patches those are, (rows, columns) bool. Nothing is hinted at where nothing is certain.
    """
    grid = mask.shape[0] // patch
    cells = rearrange(mask, "(r p) (c q) -> r c (p q)", p=patch, q=patch)
    shares = np.stack([(cells == i).mean(axis=-1) for i in range(count + 1)], axis=-1)  # (rows, columns, ids)
    flat = shares.argmax(axis=-1)
    things, empty = shares[..., 1:].max(axis=-1), shares[..., 0] >= 0.95
    if things.max(initial=0.0) > 0:
        sure = things >= min(0.6, float(things.max()))  # a thing thinner than a patch is clicked on all the same
        flat = np.where(sure, shares[..., 1:].argmax(axis=-1) + 1, flat)
    else:
        sure = np.zeros_like(empty)
    way = rng.random()
    chosen = np.zeros((grid, grid), dtype=bool)
    if way < 0.25:
        chosen = _box(mask, patch, rng) & ~(cells == IGNORED).any(axis=-1)
        flat = np.where(chosen, 0, flat)
    if way < 0.5 and not chosen.any():
        chosen = _scribble(sure if sure.any() and rng.random() < 0.7 else empty, rng)
    if not chosen.any():
        chosen = _clicks(sure, empty, rng)
    hinted = repeat(flat, "r c -> (r p) (c q)", p=patch, q=patch).astype(np.uint8)
    where = repeat(chosen, "r c -> (r p) (c q)", p=patch, q=patch)
    return np.where(where, hinted, mask), chosen


def _clicks(sure: np.ndarray, empty: np.ndarray, rng: Rng) -> np.ndarray:
    """One to five single patches, on things or beside them."""
    chosen = np.zeros_like(sure)
    for number in range(int(rng.integers(1, 6))):
        on_thing = sure.any() and rng.random() < (0.8 if number == 0 else 0.5)
        places = np.flatnonzero(sure if on_thing else empty)
        if len(places):
            chosen.flat[places[rng.integers(len(places))]] = True
    return chosen


def _scribble(allowed: np.ndarray, rng: Rng) -> np.ndarray:
    """A connected path over allowed patches that mostly keeps its direction."""
    chosen = np.zeros_like(allowed)
    places = np.argwhere(allowed)
    if not len(places):
        return chosen
    at = places[rng.integers(len(places))]
    direction = int(rng.integers(4))
    chosen[tuple(at)] = True
    for _ in range(int(rng.integers(2, 2 + allowed.shape[0]))):
        if rng.random() < 0.3:
            direction = int(rng.integers(4))
        step = at + _STEPS[direction]
        if (step >= 0).all() and (step < allowed.shape[0]).all() and allowed[tuple(step)]:
            at = step
            chosen[tuple(at)] = True
        else:
            direction = int(rng.integers(4))
    return chosen


def _box(mask: np.ndarray, patch: int, rng: Rng) -> np.ndarray:
    """The patches outside a box around everything asked for, or only the frame around that box; all background."""
    grid = mask.shape[0] // patch
    outside = np.zeros((grid, grid), dtype=bool)
    marked = (mask > 0) & (mask != IGNORED)
    if not marked.any():
        return outside
    rows, columns = (np.flatnonzero(marked.any(axis=axis)) // patch for axis in (1, 0))
    loose = int(rng.integers(2))  # patches between the thing and its box
    inner = (
        slice(max(0, rows[0] - loose), rows[-1] + 1 + loose),
        slice(max(0, columns[0] - loose), columns[-1] + 1 + loose),
    )
    outer = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in inner)
    outside[outer if rng.random() < 0.5 else slice(None)] = True
    outside[inner] = False
    return outside
