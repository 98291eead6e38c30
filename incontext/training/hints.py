"""Hints: a few patches of the query's own mask, revealed as a user's clicks, scribbles and boxes would reveal them.

A hint points at a pixel, and its whole patch then says what that pixel is, by the rule that holds for users' hints
(canvas/hints.py); the mask under a revealed patch is flattened to it. Refuses to know images, colours and tensors.
"""

from __future__ import annotations

import numpy as np
from einops import repeat

from incontext.canvas.hints import middles, outside, patch_of, reveal_pixels
from incontext.images.ids import IGNORED

Rng = np.random.Generator
_STEPS = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])
_NEAR = 3  # patches from a thing that are still beside it


def reveal(mask: np.ndarray, count: int, patch: int, rng: Rng, *, every_id: bool) -> tuple[np.ndarray, np.ndarray]:
    """Reveal some patches of a query's mask: clicks (half of the time), a scribble or a box.

    Args:
        mask: (side, side) ids 0..count, 255 ignored.
        count: of ids.
        patch: pixels along the side of a patch.
        rng: what draws.
        every_id: whether each id that is there is pointed at, because nothing else says what it is.

    Returns:
        The mask with each hinted patch flat in its id, and which patches those are, (rows, columns) bool. Nothing is
        hinted at where nothing is known.
    """
    grid = mask.shape[0] // patch
    said = np.full((grid, grid), IGNORED, np.uint8)  # what each patch says, where it says anything
    at_middles = np.ix_(*middles((len(mask), len(mask)), grid))
    middle = mask[at_middles]
    way = rng.random()
    if way < 0.25:
        said[_box(mask, patch, rng)] = 0
        if rng.random() < 0.5:  # and what the middle of the box is, or all of a part of it that is of one id
            _inside(said, mask, patch, rng)
        said[(mask == IGNORED).reshape(grid, patch, grid, patch).any(axis=(1, 3))] = IGNORED
    if way < 0.5 and (said == IGNORED).all():
        thing = (middle != 0) & (middle != IGNORED)
        along = _scribble(thing if thing.any() and rng.random() < 0.7 else middle == 0, rng)
        pointed = np.full_like(mask, IGNORED)
        pointed[at_middles] = np.where(along, middle, IGNORED)
        said = reveal_pixels(pointed, grid)
    if (said == IGNORED).all():
        _clicks(said, mask, count, patch, rng)
    if every_id:
        for each in range(1, count + 1):
            if not (said == each).any():
                _click(said, mask == each, each, rng)
    chosen = said != IGNORED
    flat = repeat(said, "r c -> (r p) (c q)", p=patch, q=patch)
    return np.where(flat != IGNORED, flat, mask).astype(np.uint8), chosen


def _click(said: np.ndarray, allowed: np.ndarray, value: int, rng: Rng) -> None:
    """Point at one pixel of those that are allowed, if there are any."""
    places = np.flatnonzero(allowed)
    if len(places):
        row, column = divmod(int(places[rng.integers(len(places))]), allowed.shape[1])
        said[patch_of(column, row, allowed.shape, len(said))] = value


def _clicks(said: np.ndarray, mask: np.ndarray, count: int, patch: int, rng: Rng) -> None:
    """Draw one to five clicks, on things or beside them, often near them."""
    there = [i for i in range(1, count + 1) if (mask == i).any()]
    for number in range(int(rng.integers(1, 6))):
        if there and rng.random() < (0.8 if number == 0 else 0.5):
            value = there[int(rng.integers(len(there)))]
            _click(said, mask == value, value, rng)
            continue
        empty = mask == 0
        if there and rng.random() < 0.6:
            rows, columns = np.nonzero((mask != 0) & (mask != IGNORED))
            reach = _NEAR * patch
            part = (
                slice(max(0, rows.min() - reach), rows.max() + reach + 1),
                slice(max(0, columns.min() - reach), columns.max() + reach + 1),
            )
            near = np.zeros_like(empty)
            near[part] = empty[part]
            empty = near
        _click(said, empty, 0, rng)


def _inside(said: np.ndarray, mask: np.ndarray, patch: int, rng: Rng) -> None:
    """Choose patches within the box that a user drags over a thing: around a pixel, as far as all is of its id."""
    places = np.argwhere((mask != 0) & (mask != IGNORED))
    if not len(places):
        return
    row, column = places[rng.integers(len(places))]
    value, grid = mask[row, column], said.shape[0]
    pure = (mask == value).reshape(grid, patch, grid, patch).all(axis=(1, 3))
    top, left = bottom, right = row // patch, column // patch
    said[top, left] = value
    for _ in range(int(rng.integers(0, 4))):
        wider = slice(max(0, top - 1), bottom + 2), slice(max(0, left - 1), right + 2)
        if not pure[wider].all():
            break
        top, bottom, left, right = top - 1, bottom + 1, left - 1, right + 1
        said[wider] = value


def _scribble(allowed: np.ndarray, rng: Rng) -> np.ndarray:
    """Draw a connected path over allowed patches that mostly keeps its direction."""
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
    """Choose the patches outside a box around everything asked for, or the frame around that box; all background."""
    size, grid = (len(mask), len(mask)), len(mask) // patch
    marked = (mask > 0) & (mask != IGNORED)
    if not marked.any():
        return np.zeros((grid, grid), dtype=bool)
    rows, columns = (np.flatnonzero(marked.any(axis=axis)) for axis in (1, 0))
    edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    edges += np.array([-1, -1, 1, 1]) * patch * int(rng.integers(2))  # some leave a patch between the thing and its box
    away = outside([edges], size, grid)
    if rng.random() < 0.5:
        away &= ~outside([edges + np.array([-1, -1, 1, 1]) * patch], size, grid)
    return away
