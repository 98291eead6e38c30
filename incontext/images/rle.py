"""COCO's run-length encodings: runs of an (H, W) bool mask, as numbers and as text, there and back.

Runs go down the columns and alternate, the first is of zeros; the text is that of pycocotools (common/maskApi.c,
rleToString). Refuses to know files and what a mask means.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_MOST_GROUPS: Final = 8  # of 5 bits for one run: far more than images need


def from_mask(selected: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Encode an (H, W) bool mask as COCO does, compressed: {"size": [H, W], "counts": str}."""
    return {"size": list(selected.shape), "counts": to_text(runs(selected))}


def runs(selected: npt.NDArray[np.bool_]) -> list[int]:
    """Count COCO's uncompressed runs of an (H, W) bool mask: alternating zeros and ones, column by column."""
    flat = selected.astype(np.bool_).ravel(order="F")
    ends = np.concatenate([np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    lengths: list[int] = np.diff(ends, prepend=0).tolist()
    return [0, *lengths] if flat[:1].any() else lengths


def to_text(counts: Sequence[int]) -> str:
    """Write runs as text: each, less the run before last, in groups of 5 bits, with a bit for "more"."""
    text: list[str] = []
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + 32 * more))
    return "".join(text)


def from_text(text: str) -> list[int]:
    """Read the runs of such a text.

    Raises:
        ValueError: It is none.
    """
    counts: list[int] = []
    value = groups = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or groups >= _MOST_GROUPS:
            raise ValueError(f"expected COCO's compressed runs, got {letter!r} in them")
        value |= (bits & 31) << 5 * groups
        groups += 1
        if not bits & 32:
            value -= (1 << 5 * groups) if bits & 16 else 0
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = groups = 0
    if groups:
        raise ValueError("expected COCO's compressed runs, got text that is cut off")
    return counts


def to_mask(counts: Sequence[int] | str, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Turn runs, as numbers or as text, into the (H, W) bool mask.

    Raises:
        ValueError: They do not cover exactly that size.
    """
    selected = np.zeros(size, np.bool_)
    found, top, left = to_region(counts, size)
    selected[top : top + found.shape[0], left : left + found.shape[1]] = found
    return selected


def to_region(counts: Sequence[int] | str, size: tuple[int, int]) -> tuple[npt.NDArray[np.bool_], int, int]:
    """Turn runs into the columns alone that their ones touch, so that small objects in large images cost little.

    Returns:
        (h, w) bool, and the row and column where it begins.
    """
    lengths = from_text(counts) if isinstance(counts, str) else list(counts)
    if not all(type(length) is int and length >= 0 for length in lengths):
        raise ValueError("expected runs of whole numbers of at least 0, got others")
    if sum(lengths) != size[0] * size[1]:
        raise ValueError(
            f"expected runs over the {size[0] * size[1]} pixels of {size[1]} x {size[0]} (width x height), got "
            f"{sum(lengths)}"
        )
    ends = np.cumsum(np.array(lengths, np.int64))
    ones = np.flatnonzero(np.array(lengths[1::2], np.int64)) * 2 + 1
    if not len(ones):
        return np.zeros((0, 0), np.bool_), 0, 0
    first, last = int(ends[ones[0] - 1]) // size[0], (int(ends[ones[-1]]) - 1) // size[0]
    edges = np.clip(np.concatenate([[0], ends]), first * size[0], (last + 1) * size[0])
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, np.diff(edges))
    return np.ascontiguousarray(flat.reshape((size[0], -1), order="F")), 0, first
