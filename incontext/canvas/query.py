"""What goes into the network for one query, and what comes out of it, before and after any thread may work on it.

Refuses to know the network and its device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from incontext.canvas import read, votes
from incontext.canvas.read import Paint
from incontext.canvas.votes import Reading
from incontext.canvas.windows import Window, windows
from incontext.images.ids import Pixels
from incontext.images.resize import resized
from incontext.types import Palette, Segmentation


@dataclass(frozen=True, eq=False)
class FittedQuery:
    """A query squeezed to what a network sees: pixels (side, side, 3) uint8; size (H, W) of the picture itself.

    image: the picture, (H, W, 3) uint8, where windows are cut from it or edges follow it. windows: what the network is
    to see of it one by one, instead of the pixels.
    """

    pixels: Pixels
    size: tuple[int, int]
    image: Pixels | None = None
    windows: tuple[Window, ...] = ()

    @property
    def views(self) -> int:
        """How often the network looks at it."""
        return len(self.windows) or 1

    def seen(self) -> Iterator[Pixels]:
        """What the network sees of it, each (side, side, 3) uint8, made when it is asked for."""
        if self.image is None or not self.windows:
            yield self.pixels
            return
        for window in self.windows:
            yield resized(np.ascontiguousarray(window.of(self.image)), self.pixels.shape[:2])


def fit_query(image: Pixels, side: int, *, window: int | None = None, keep: bool = False) -> FittedQuery:
    """A picture (H, W, 3) uint8 for a network that sees `side` x `side` pixels.

    window: pixels along a side of the windows that a larger picture is cut to. keep: the picture for its edges.
    """
    size = image.shape[0], image.shape[1]
    cut = windows(size, window) if window is not None and max(size) > window else ()
    return FittedQuery(resized(image, (side, side)), size, image if keep or cut else None, cut)


@dataclass(frozen=True, eq=False)
class Answer:
    """A query's painting, a batch of one for each pass; or what was read in each of its windows.

    guide: the picture (H, W, 3) uint8, where edges are to follow it. min_presence: ids that are less likely to be there
    are left out. presence: how likely each is, where windows were read. `read` may run in any thread.
    """

    painted: tuple[Paint, ...]
    size: tuple[int, int]
    shown: Palette
    guide: Pixels | None = None
    min_presence: float = 0.0
    readings: tuple[Reading, ...] = field(default=())
    presence: Mapping[int, float] = field(default_factory=dict)

    def read(self) -> Segmentation:
        """Ids and confidence at the query's own size."""
        if self.readings:
            ids, confidence = votes.elect_windows(self.readings, self.size, guide=self.guide)
        else:
            guides = None if self.guide is None else [self.guide]
            ((ids, confidence),) = read.read(self.painted, [self.size], guides=guides, min_presence=self.min_presence)
        presence = self.presence if self.readings else most_likely({}, self.painted)
        return Segmentation(ids, confidence, self.shown, presence)


class Collected:
    """Sorts what the network painted, view by view, to the queries that it belongs to."""

    def __init__(self, shown: Palette, *, follow: bool, min_presence: float = 0.0) -> None:
        """follow: edges are to follow the pictures. min_presence: see :class:`Answer`."""
        self._shown, self._follow, self._min_presence = shown, follow, min_presence
        self._waiting: deque[tuple[FittedQuery, list[Reading]]] = deque()
        self._presence: dict[int, float] = {}  # of the first that waits, in the windows that were read

    def views(self, query: FittedQuery) -> Iterator[Pixels]:
        """What the network is to see of the next query."""
        self._waiting.append((query, []))
        return query.seen()

    def add(self, painted: Sequence[Paint]) -> Iterator[Answer]:
        """The paint of the next views, in their order -> the answers that it completes."""
        first, count = 0, len(painted[0].painted)
        while first < count:
            query, readings = self._waiting[0]
            last = min(count, first + query.views - len(readings))
            part = tuple(each.part(first, last) for each in painted)
            first = last
            guide = query.image if self._follow else None
            if not query.windows:
                self._waiting.popleft()
                yield Answer(part, query.size, self._shown, guide, self._min_presence)
                continue
            cut = query.windows[len(readings) :][: len(part[0].painted)]
            readings += read_windows(part, cut, min_presence=self._min_presence)
            self._presence = most_likely(self._presence, part)
            if len(readings) == query.views:
                self._waiting.popleft()
                presence, self._presence = self._presence, {}
                yield Answer((), query.size, self._shown, guide, readings=tuple(readings), presence=presence)


def most_likely(known: Mapping[int, float], painted: Sequence[Paint]) -> dict[int, float]:
    """For each id the most that was said of its presence, in what is known and in any picture or window of these."""
    most = dict(known)
    for each in painted:
        if each.presence is not None:
            for i, value in zip(each.palette.ids[1:].tolist(), each.presence.amax(dim=0)[1:].tolist(), strict=True):
                most[i] = max(value, most.get(i, 0.0))
    return most


def read_windows(painted: Sequence[Paint], cut: tuple[Window, ...], *, min_presence: float) -> list[Reading]:
    """Paint of windows -> what was read in them, as small as it gets, on the CPU."""
    ids, confidence = read.read_small(painted, min_presence=min_presence)
    both = zip(cut, ids.cpu(), confidence.to(torch.float16).cpu(), strict=True)
    return [Reading(window, i.clone(), c.clone()) for window, i, c in both]
