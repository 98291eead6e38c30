"""From what was read at the network's resolution to a mask at the image's own: votes for ids, and the election.

Each pixel that the network painted has a vote for its id, weighted by its confidence. Votes are spread to the image's
pixels, those of windows summed where they overlap, and the id with most of them wins. Memory is that of a band of rows,
for any number of ids. Refuses to know colours of ids, palettes and the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from incontext.canvas.edges import REACH, Guide, meet
from incontext.canvas.windows import OVERLAP, Window
from incontext.images.ids import Pixels
from incontext.images.resize import averaged

_BAND_PIXELS = 1 << 18  # of the image, at a time: what fits a processor's cache
_LEAST_MARGIN = 1e-6  # so that a pixel half way between two colours still has a vote
_LEAST_WEIGHT = 1e-3  # of a window at its edge

Elected = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read in a window of an image: ids (h, w) uint8, confidence (h, w) of floats in 0..1."""

    window: Window
    ids: Tensor
    confidence: Tensor


def elect(ids: Tensor, confidence: Tensor, size: tuple[int, int], *, guide: Pixels | None = None) -> Elected:
    """Spread votes to an image's own size and count them.

    Votes are spread bilinearly, or along the edges of the guide where there is one.

    Args:
        ids: (h, w) uint8.
        confidence: (h, w) of floats in 0..1, the weight of each vote.
        size: (H, W).
        guide: (H, W, 3) uint8.

    Returns:
        The id with most votes, (H, W) uint8, and its lead over all others together, (H, W) float32.
    """
    if tuple(size) == tuple(ids.shape) and guide is None:
        return ids.cpu().numpy(), confidence.cpu().numpy()
    votes = _Votes(ids, confidence, size, guide)
    mask, lead = np.empty(size, np.uint8), np.empty(size, np.float32)
    for band in _bands(size):
        ballot = _Ballot(votes.of(band))
        mask[band], lead[band] = ballot.winner.cpu().numpy(), ballot.lead.clamp(0, 1).cpu().numpy()
    return mask, lead


def elect_windows(readings: Sequence[Reading], size: tuple[int, int], *, guide: Pixels | None = None) -> Elected:
    """Count the votes of windows that cover an image, row by row.

    They are averaged, with weights that fall to a window's edge.

    Args:
        readings: One of each window.
        size: (H, W) of the image.
        guide: The whole image (H, W, 3) uint8.

    Returns:
        As :func:`elect`.
    """
    mask, lead = np.empty(size, np.uint8), np.empty(size, np.float32)
    open_ones: dict[int, _Votes] = {}  # what was computed of the windows that the present band touches
    for band in _bands(size):
        touching = [n for n, each in enumerate(readings) if _meets(each.window, band)]
        open_ones = {n: open_ones.get(n) or _window_votes(readings[n], guide) for n in touching}
        summed: dict[int, Tensor] = {}
        weights = torch.zeros(band.stop - band.start, size[1])
        for number, votes in open_ones.items():
            _add(votes, readings[number].window, band, summed, weights)
        ballot = _Ballot((i, summed[i]) for i in sorted(summed))
        mask[band], lead[band] = ballot.winner.numpy(), (ballot.lead / weights).clamp(0, 1).numpy()
    return mask, lead


def _bands(size: tuple[int, int]) -> Iterator[slice]:
    height, width = size
    rows = max(1, _BAND_PIXELS // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


class _Ballot:
    """The count: winner (rows, W) uint8, lead (rows, W) float32, its votes less those of all others."""

    def __init__(self, votes: Iterator[tuple[int, Tensor]]) -> None:
        first, most = next(votes)
        self.winner = torch.full(most.shape, first, dtype=torch.uint8, device=most.device)
        most, total = most.clone(), most.clone()
        for i, own in votes:
            self.winner.masked_fill_(own > most, i)
            torch.maximum(most, own, out=most)
            total += own
        self.lead = 2 * most - total


class _Votes:
    """The votes of one reading, spread to a size (H, W) a band of rows at a time."""

    def __init__(self, ids: Tensor, confidence: Tensor, size: tuple[int, int], guide: Pixels | None) -> None:
        self._ids, self._size, self._guide = ids, size, guide
        self._weight = confidence.float().clamp(min=_LEAST_MARGIN)
        # what is smaller than the network's side is averaged
        self._shrunk = min(size[0], ids.shape[0]), min(size[1], ids.shape[1])

    def of(self, band: slice) -> Iterator[tuple[int, Tensor]]:
        """Give for each id in reach, ascending, its votes (rows, W)."""
        upper, lower, fraction = _taps(band, self._shrunk[0], self._size[0])
        whole = self._shrunk != self._ids.shape
        source = slice(0, self._ids.shape[0]) if whole else slice(int(upper[0]), int(lower[-1]) + 1)
        taps = [t.to(self._ids.device) for t in (upper - source.start, lower - source.start, fraction)]
        reach = 0 if self._guide is None else REACH
        near = slice(max(0, source.start - reach), source.stop + reach)
        for i in torch.unique(self._ids[near]).tolist():
            if self._guide is None:
                own = torch.where(self._ids[source] == i, self._weight[source], 0)
                yield i, self._spread(own[None], *taps)[0]
            else:
                lines = self._spread(self._lines[i][:, source], *taps)
                yield i, meet(lines, torch.from_numpy(np.array(self._guide[band])).to(lines.device))

    def _spread(self, planes: Tensor, upper: Tensor, lower: Tensor, fraction: Tensor) -> Tensor:
        """Spread planes (C, h, w), the source's rows, to (C, rows, W), bilinearly."""
        if self._shrunk != self._ids.shape:
            planes = F.interpolate(planes[None], self._shrunk, mode="bilinear", antialias=True)[0]
        planes = torch.lerp(planes[:, upper], planes[:, lower], fraction[:, None])
        return F.interpolate(planes, self._size[1], mode="linear")

    @cached_property
    def _lines(self) -> dict[int, Tensor]:
        """For each id the lines that its votes follow over the guide."""
        height, width = self._ids.shape
        small = averaged(np.ascontiguousarray(self._guide), (height, width))
        guide = Guide(torch.from_numpy(np.array(small)).to(self._ids.device).permute(2, 0, 1).float() / 255)
        present: list[int] = torch.unique(self._ids).tolist()
        return {i: guide.lines(torch.where(self._ids == i, self._weight, 0)) for i in present}


def _window_votes(reading: Reading, guide: Pixels | None) -> _Votes:
    window = reading.window
    own = None if guide is None else window.of(guide)
    return _Votes(reading.ids, reading.confidence, (window.height, window.width), own)


def _meets(window: Window, band: slice) -> bool:
    above, below = window.top + window.height <= band.start, window.top >= band.stop
    return not above and not below


def _add(votes: _Votes, window: Window, band: slice, summed: dict[int, Tensor], weights: Tensor) -> None:
    """Add a window's votes in a band to the sums (rows, W) of each id, and its weights to theirs."""
    top, bottom = max(band.start, window.top), min(band.stop, window.top + window.height)
    place = slice(top - band.start, bottom - band.start), slice(window.left, window.left + window.width)
    own = slice(top - window.top, bottom - window.top)
    weight = _falling(window.height)[own, None] * _falling(window.width)
    weights[place] += weight
    for i, each in votes.of(own):
        if i not in summed:
            summed[i] = torch.zeros_like(weights)
        summed[i][place].addcmul_(each, weight)


def _falling(length: int) -> Tensor:
    """Weight the pixels along a window: 1 in its middle, falling linearly where neighbours overlap it."""
    place = torch.arange(length, dtype=torch.float32) + 0.5
    edge = torch.minimum(place, length - place)
    return (edge / max(1.0, OVERLAP * length)).clamp(_LEAST_WEIGHT, 1)


def _taps(band: slice, source: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find for rows of a band the two of the `source` rows that each lies between, and how far between."""
    centre = (torch.arange(band.start, band.stop, dtype=torch.float64) + 0.5) * (source / height) - 0.5
    centre = centre.clamp(0, source - 1)
    upper = centre.floor().long()
    return upper, (upper + 1).clamp(max=source - 1), (centre - upper).float()
