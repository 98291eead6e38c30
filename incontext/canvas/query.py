"""What goes into the network for one query, and what comes out of it, before and after any thread may work on it.

Refuses to know the network and its device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch

from incontext.canvas import read, votes
from incontext.canvas.hints import reveal
from incontext.canvas.read import Paint
from incontext.canvas.votes import Reading
from incontext.canvas.windows import Window, windows
from incontext.hints import Hints
from incontext.images.ids import IGNORED, Pixels
from incontext.images.resize import resized
from incontext.types import Palette, Segmentation


@dataclass(frozen=True, eq=False)
class View:
    """What the network sees at once of a query: pixels (side, side, 3) uint8.

    Attributes:
        size: (H, W) of the query.
        hints: What is said of it.
        window: The part of it that is seen, None: all.
        second: The same for a backbone, which sees squares of another side; None: there is none.
    """

    pixels: Pixels
    size: tuple[int, int]
    hints: Hints | None = None
    window: Window | None = None
    second: Pixels | None = None

    def told(self, ids: Collection[int], grid: int) -> Pixels | None:
        """Reveal patches to a pass for these ids: (grid, grid) uint8, 255 where nothing is known; None: none is."""
        if self.hints is None:
            return None
        said = reveal(self.hints, self.size, grid, ids, window=self.window)
        return said if (said != IGNORED).any() else None


@dataclass(frozen=True, eq=False)
class FittedQuery:
    """A query squeezed to what a network sees: pixels (side, side, 3) uint8; size (H, W) of the image itself.

    Attributes:
        image: The image, (H, W, 3) uint8, where windows are cut from it or edges follow it.
        windows: What the network is to see of it one by one, instead of the pixels.
        hints: What is said of it, in its own pixels.
        second: What a backbone sees, (its side, its side, 3) uint8; None: there is none.
    """

    pixels: Pixels
    size: tuple[int, int]
    image: Pixels | None = None
    windows: tuple[Window, ...] = ()
    hints: Hints | None = None
    second: Pixels | None = None

    @property
    def views(self) -> int:
        """How often the network looks at it."""
        return len(self.windows) or 1

    def seen(self) -> Iterator[View]:
        """Make what the network sees of it, each view when it is asked for."""
        if self.image is None or not self.windows:
            yield View(self.pixels, self.size, self.hints, second=self.second)
            return
        for window in self.windows:
            part = np.ascontiguousarray(window.of(self.image))
            second = None if self.second is None else resized(part, self.second.shape[:2])
            yield View(resized(part, self.pixels.shape[:2]), self.size, self.hints, window, second)


def fit_query(
    image: Pixels,
    side: int,
    *,
    window: int | None = None,
    keep: bool = False,
    hints: Hints | None = None,
    second: int | None = None,
) -> FittedQuery:
    """Fit an image (H, W, 3) uint8 to a network that sees `side` x `side` pixels.

    Args:
        window: Pixels along a side of the windows that a larger image is cut to.
        keep: The image for its edges.
        hints: What is said of it.
        second: Pixels along a side of what a backbone sees, None: there is none.

    Raises:
        ValueError: Hints do not lie within it.
    """
    size = image.shape[0], image.shape[1]
    if hints is not None:
        hints.check(size)
    cut = windows(size, window) if window is not None and max(size) > window else ()
    other = None if second is None else resized(image, (second, second))
    return FittedQuery(resized(image, (side, side)), size, image if keep or cut else None, cut, hints, other)


@dataclass(frozen=True, eq=False)
class PaintedAnswer:
    """A query's painting, not yet read: a batch of one for each pass.

    `read` may run in any thread.

    Attributes:
        painted: What each pass painted.
        size: (H, W) of the query.
        shown: The colours to show the answer in.
        guide: The query (H, W, 3) uint8, where edges are to follow it.
        min_presence: Ids that are less likely than that to be there are left out.
        names: What ids mean, as far as that is known.
    """

    painted: tuple[Paint, ...]
    size: tuple[int, int]
    shown: Palette
    guide: Pixels | None = None
    min_presence: float = 0.0
    names: Mapping[int, str] = field(default_factory=dict)

    def read(self) -> Segmentation:
        """Read ids and confidence, at the query's own size."""
        guides = None if self.guide is None else [self.guide]
        ((ids, confidence),) = read.read(self.painted, [self.size], guides=guides, min_presence=self.min_presence)
        return Segmentation(ids, confidence, self.shown, most_likely({}, self.painted), self.names)


@dataclass(frozen=True, eq=False)
class WindowedAnswer:
    """What was read in each window of a query, to be put together.

    `read` may run in any thread.

    Attributes:
        readings: One for each window; together they cover the query.
        size: (H, W) of the query.
        shown: The colours to show the answer in.
        guide: The query (H, W, 3) uint8, where edges are to follow it.
        presence: How likely each id is in the query at all, as far as the network can tell.
        names: What ids mean, as far as that is known.
    """

    readings: tuple[Reading, ...]
    size: tuple[int, int]
    shown: Palette
    guide: Pixels | None = None
    presence: Mapping[int, float] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)

    def read(self) -> Segmentation:
        """Put ids and confidence together, at the query's own size."""
        ids, confidence = votes.elect_windows(self.readings, self.size, guide=self.guide)
        return Segmentation(ids, confidence, self.shown, self.presence, self.names)


Answer: TypeAlias = PaintedAnswer | WindowedAnswer
"""What the network gave for one query, before its last step."""


class ViewSorter:
    """Sorts what the network painted, view by view, to the queries that it belongs to."""

    def __init__(
        self,
        shown: Palette | None,
        *,
        follow: bool,
        min_presence: float = 0.0,
        names: Mapping[int, str] | None = None,
    ) -> None:
        """Begin without queries.

        Args:
            shown: Colours of answers; None: those of what hints point at.
            follow: Whether edges are to follow the images.
            min_presence: See :class:`PaintedAnswer`.
            names: What ids mean.
        """
        self._names = names or {}
        self._shown, self._follow, self._min_presence = shown, follow, min_presence
        self._waiting: deque[tuple[FittedQuery, list[Reading]]] = deque()
        self._presence: dict[int, float] = {}  # of the first that waits, in the windows that were read

    def views(self, query: FittedQuery) -> Iterator[View]:
        """Make what the network is to see of the next query."""
        self._waiting.append((query, []))
        return query.seen()

    def add(self, painted: Sequence[Paint]) -> Iterator[Answer]:
        """Take the paint of the next views, in their order, and give the answers that it completes."""
        first, count = 0, len(painted[0].painted)
        while first < count:
            query, readings = self._waiting[0]
            last = min(count, first + query.views - len(readings))
            part = tuple(each.part(first, last) for each in painted)
            first = last
            guide = query.image if self._follow else None
            shown = self._shown or Palette.spread(() if query.hints is None else query.hints.ids)
            if not query.windows:
                self._waiting.popleft()
                yield PaintedAnswer(part, query.size, shown, guide, self._min_presence, self._names)
                continue
            cut = query.windows[len(readings) :][: len(part[0].painted)]
            readings += read_windows(part, cut, min_presence=self._min_presence)
            self._presence = most_likely(self._presence, part)
            if len(readings) == query.views:
                self._waiting.popleft()
                presence, self._presence = self._presence, {}
                yield WindowedAnswer(tuple(readings), query.size, shown, guide, presence, self._names)


def most_likely(known: Mapping[int, float], painted: Sequence[Paint]) -> dict[int, float]:
    """Keep for each id the most that was said of its presence, in what is known and in any view of these."""
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
