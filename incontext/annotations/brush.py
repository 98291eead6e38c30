"""Label Studio's run-length encoding of brush strokes: a stream of bits, the most significant first.

It packs the bytes of an RGBA image, row by row. A header has the number of bytes (32 bits), the bits of a value less
one (5), and four widths of a count, each less one (4 bits each). Then come runs: a bit that says "one value, repeated",
2 bits that choose a width, the count less one in that width, and the value, or as many values as counted. What was
brushed is the alpha channel. The layout is that of the package rle-pack (thi.ng), which the labelling page uses.

Refuses to know files, labels and JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

CHANNELS: Final = 4
_WIDTHS: Final = (3, 4, 8, 16)  # of counts, in bits: those that the labelling page writes
_VALUE_BITS: Final = 8
_HALF: Final = 0.5  # of full opacity, from which on a pixel counts as brushed
_WINDOW: Final = 8  # bytes: 7 bits to skip, 1 + 2 + 16 of a run's head and 32 of a value are at most 58 bits


def pack(selected: npt.NDArray[np.bool_]) -> bytes:
    """Return an (H, W) bool mask as brush strokes: all four channels are 255 where it is True."""
    flat = selected.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    bits = [f"{CHANNELS * flat.size:032b}{_VALUE_BITS - 1:05b}", *(f"{width - 1:04b}" for width in _WIDTHS)]
    start = 0
    for end in ends.tolist():
        bits += _run(CHANNELS * (end - start), 255 if flat[start] else 0)
        start = end
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _run(length: int, value: int) -> Iterator[str]:
    while length:
        width = next((i for i, bits in enumerate(_WIDTHS) if length <= 1 << bits), len(_WIDTHS) - 1)
        count = min(length, 1 << _WIDTHS[width])
        yield f"1{width:02b}{count - 1:0{_WIDTHS[width]}b}{value:0{_VALUE_BITS}b}"
        length -= count


def unpack(packed: bytes, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Brush strokes -> (H, W) bool: where at least half opaque.

    Args:
        size: (H, W) of the image.

    Raises:
        ValueError: The stream is of another size, or ends too early.
    """
    height, width = size
    bits = _Bits(packed)
    total, value_bits = bits.take(32), bits.take(5) + 1
    widths = [bits.take(4) + 1 for _ in range(4)]
    if total != CHANNELS * height * width:
        raise ValueError(
            f"expected brush strokes of {CHANNELS * height * width} bytes for {width} x {height} pixels (width x "
            f"height), got {total}"
        )
    alpha = np.zeros(height * width, np.bool_)
    least = _HALF * ((1 << value_bits) - 1)
    at = 0
    while at < total:
        repeated = bits.take(1)
        end = at + 1 + bits.take(widths[bits.take(2)])
        if end > total:
            raise ValueError(f"expected brush strokes of {total} bytes, got a run that ends at {end}")
        pixels = slice(at // CHANNELS, end // CHANNELS)  # whose alpha is byte 3 of each four
        if repeated:
            alpha[pixels] = bits.take(value_bits) > least
        else:
            values = bits.take_many(end - at, value_bits)
            alpha[pixels] = values[(CHANNELS - 1 - at) % CHANNELS :: CHANNELS] > least
        at = end
    return alpha.reshape(height, width)


class _Bits:
    """Numbers read off a stream of bits."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> int:
        """Return the next number of so many bits (at most 32)."""
        first, skipped = divmod(self._at, 8)
        self._advance(count)
        window = int.from_bytes(self._data[first : first + _WINDOW].ljust(_WINDOW, b"\0"), "big")
        return window >> (8 * _WINDOW - skipped - count) & ((1 << count) - 1)

    def take_many(self, number: int, count: int) -> npt.NDArray[np.int64]:
        """Return the next so many numbers of `count` bits each."""
        first, skipped = divmod(self._at, 8)
        self._advance(number * count)
        spread = np.unpackbits(np.frombuffer(self._data, np.uint8)[first : (self._at + 7) // 8])
        rows = spread[skipped : skipped + number * count].reshape(number, count).astype(np.int64)
        found: npt.NDArray[np.int64] = rows @ (1 << np.arange(count - 1, -1, -1, dtype=np.int64))
        return found

    def _advance(self, count: int) -> None:
        self._at += count
        if self._at > 8 * len(self._data):
            raise ValueError(f"expected more brush strokes than {len(self._data)} bytes of them, which break off")
