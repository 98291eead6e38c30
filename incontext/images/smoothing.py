"""Which colours of a mask were meant, and which are blends that smoothing or compression made at its edges.

Knows numpy arrays of colours. Refuses to know files and ids: `formats.read_mask` says what becomes of the answer.
"""

import numpy as np
import numpy.typing as npt

from incontext.images.ids import Pixels

_SOLID = 5  # pixels: the side of a square that no blend at an edge fills, even magnified fourfold
_MAX_STROKES = 64  # colours; an image with more of them is a photograph, and looking on would take long


def indexed(rgb: Pixels) -> tuple[npt.NDArray[np.int32], Pixels, npt.NDArray[np.int64]]:
    """Index the colours that occur: (H, W) places; the colours (n, 3), ascending by (R, G, B); and their counts."""
    packed = (rgb[..., 0].astype(np.int32) << 16) | (rgb[..., 1].astype(np.int32) << 8) | rgb[..., 2]
    occurs = np.zeros(1 << 24, np.bool_)
    occurs[packed] = True
    values = np.flatnonzero(occurs)
    rank = np.empty(1 << 24, np.int32)
    rank[values] = np.arange(len(values), dtype=np.int32)
    index = rank[packed]
    colors = np.stack([values >> 16, (values >> 8) & 255, values & 255], axis=1).astype(np.uint8)
    return index, colors, np.bincount(index.ravel(), minlength=len(values))


def _solid(index: npt.NDArray[np.int32], n: int) -> npt.NDArray[np.bool_]:
    """Find which of the n colours fill a square of _SOLID pixels somewhere."""
    height, width = (max(0, length - _SOLID + 1) for length in index.shape)
    corner = index[:height, :width]
    same = np.ones((height, width), np.bool_)
    for y, x in np.ndindex(_SOLID, _SOLID):
        same &= corner == index[y : y + height, x : x + width]
    return np.bincount(corner[same], minlength=n) > 0


def _blends(index: npt.NDArray[np.int32], colors: Pixels, thin: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Find the thin colours that lie, at most of their pixels, between the colours on opposite sides of the pixel."""
    where = np.flatnonzero(thin[index.ravel()])
    where = where[:: len(where) // 200_000 + 1]  # enough to judge by
    rows, columns = np.unravel_index(where, index.shape)
    own = index[rows, columns]
    color = colors[own].astype(np.float32)
    blended = np.zeros(len(where), np.bool_)
    for distance in range(1, _SOLID):  # not only 1: the edge may be soft or magnified
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            one, other = (
                colors[
                    index[
                        np.clip(rows + sign * distance * down, 0, index.shape[0] - 1),
                        np.clip(columns + sign * distance * right, 0, index.shape[1] - 1),
                    ]
                ].astype(np.float32)
                for sign in (-1, 1)
            )
            line = other - one
            length = np.maximum((line**2).sum(axis=1), 1)
            position = ((color - one) * line).sum(axis=1) / length
            off = ((color - one - position[:, None] * line) ** 2).sum(axis=1)
            blended |= (length >= 64**2) & (position > 0.02) & (position < 0.98) & (off <= 8**2)
    votes = np.bincount(own, weights=blended, minlength=len(colors))
    return thin & (votes > 0.5 * np.bincount(own, minlength=len(colors)))


def thin_blends(index: npt.NDArray[np.int32], colors: Pixels) -> npt.NDArray[np.bool_]:
    """Find the thin blends among the colours, where they make up half of those beyond two; otherwise none.

    Anti-aliasing makes such colours in numbers, objects make few: a sliver between two others may look like a blend.
    """
    none = np.zeros(len(colors), np.bool_)
    if len(colors) < 3:
        return none
    solid = _solid(index, len(colors))
    if solid.all() or not solid.any():  # nothing solid is a texture: it has no edges to smooth
        return none
    blends = _blends(index, colors, ~solid)
    return blends if 2 * np.count_nonzero(blends) >= len(colors) - 2 else none


def is_smoothed_grey(values: Pixels, least: int = 1) -> bool:
    """Tell whether grey values are smoothed: `least` of the thin blends are mid-grey, which ids seldom are."""
    occurs = np.zeros(256, np.bool_)
    occurs[values] = True
    if np.count_nonzero(occurs[64:192]) < least:
        return False
    index, colors, _ = indexed(np.repeat(values[..., None], 3, axis=2))
    blends = colors[thin_blends(index, colors), 0]
    return int(np.count_nonzero((blends >= 64) & (blends < 192))) >= least


def main_colors(
    index: npt.NDArray[np.int32], colors: Pixels, counts: npt.NDArray[np.int64], *, lossy: bool
) -> npt.NDArray[np.bool_]:
    """Find which colours are main, as `read_mask` defines it.

    Near copies (closer than 24 of 441) of a more frequent main colour are not. A thin stroke's colour is one that is
    far (48) from every line between two main colours and covers 0.01 % of the pixels, the farthest first; not so in a
    JPEG, because compression makes such colours too.
    """
    points = colors.astype(np.float32)
    main: npt.NDArray[np.bool_] = colors.max(axis=1) == 0
    kept = [np.zeros(3, np.float32)]
    candidates = np.flatnonzero(_solid(index, len(colors)) & ~main)
    for i in candidates[np.argsort(-counts[candidates], kind="stable")]:
        if len(kept) < 256 and np.linalg.norm(np.stack(kept) - points[i], axis=1).min() >= 24:
            kept.append(points[i])
            main[i] = True
    often = np.flatnonzero(counts >= max(9, 1e-4 * index.size))
    if not lossy and len(often):
        away = np.min([_from_lines(points[often], np.stack(kept[: n + 1])) for n in range(len(kept))], axis=0)
        while len(kept) < _MAX_STROKES and away.max() > 48:
            far = often[np.argmax(away)]
            kept.append(points[far])
            main[far] = True
            away = np.minimum(away, _from_lines(points[often], np.stack(kept)))
    if len(kept) == 1:  # black, or too thin and rare for anything above
        main[np.argmax(np.linalg.norm(points, axis=1))] = True
    return main


def _from_lines(points: npt.NDArray[np.float32], ends: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Measure how far each point is from the nearest of the lines between the last end and each end."""
    along = (ends - ends[-1])[:, None]
    position = ((points - ends[-1]) * along).sum(axis=-1) / np.maximum((along**2).sum(axis=-1), 1)
    nearest = ends[-1] + position.clip(0, 1)[..., None] * along
    away: npt.NDArray[np.float32] = np.linalg.norm(points - nearest, axis=-1).min(axis=0)
    return away


def nearest_rows(colors: Pixels, table: Pixels) -> Pixels:
    """Find the row of `table` nearest to each of the colours (n, 3)."""
    best = np.full(len(colors), np.inf)
    rows = np.zeros(len(colors), np.uint8)
    for row, color in enumerate(table.astype(np.int64)):
        distance = ((colors - color) ** 2).sum(axis=1)
        rows[distance < best] = row
        best = np.minimum(best, distance)
    return rows
