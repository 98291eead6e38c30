"""What prompters are put together from: parts that answer clicks, and parts that read words, by what they promise.

Every part speaks of images as they are: (H, W, 3) uint8, coordinates in their own pixels. Refuses to know which
networks answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from incontext.images.ids import Pixels

Margins: TypeAlias = npt.NDArray[np.float32]
"""(H, W) log odds of a pixel being inside: above 0 it is."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom edge, in pixels of the image."""


@dataclass(frozen=True, eq=False)
class Clicks:
    """What is said of one object in an image; at least one thing.

    Attributes:
        points: (n, 2) float32, x and y of pixels.
        inside: (n,) bool, whether each point is on the object.
        box: Around the object, or None.
        mask: (H, W) bool, what it is held to be so far, or None.
    """

    points: npt.NDArray[np.float32]
    inside: npt.NDArray[np.bool_]
    box: Box | None = None
    mask: npt.NDArray[np.bool_] | None = None

    @classmethod
    def of_box(cls, box: Box) -> Clicks:
        """Return what a box alone says."""
        return cls(np.zeros((0, 2), np.float32), np.zeros(0, np.bool_), box)

    @property
    def is_one_click(self) -> bool:
        """Whether it is a single point, which may mean a part or the whole."""
        return self.box is None and self.mask is None and len(self.points) == 1


@dataclass(frozen=True)
class FoundBox:
    """A box that a detector found. phrase: which of the phrases, from 0; score: 0..1."""

    box: Box
    score: float
    phrase: int


@dataclass(frozen=True)
class Example:
    """A box in the image itself that shows what a phrase means; phrase None: what none of them means."""

    box: Box
    phrase: int | None


@dataclass(frozen=True, eq=False)
class Claim:
    """Pixels that belong to a phrase. phrase: which one, from 0; score: 0..1, of the whole claim."""

    phrase: int
    margins: Margins
    score: float


class Clicker(Protocol):
    """Answers clicks."""

    def masks(self, image: Pixels, objects: Sequence[Clicks]) -> Iterator[tuple[Margins, float]]:
        """Yield for each object, in order, its margins and how sure they are, 0..1."""


class Detector(Protocol):
    """Finds boxes for phrases."""

    def check(self, phrases: Sequence[str]) -> None:
        """Raise ValueError where the phrases are too long for it."""

    def boxes(self, image: Pixels, phrases: Sequence[str], *, least: float) -> list[FoundBox]:
        """Return boxes of at least a score, the surest first, inside the image."""


class Reader(Protocol):
    """Finds the pixels of phrases."""

    def check(self, phrases: Sequence[str]) -> None:
        """Raise ValueError where a phrase is too long for it."""

    def read(
        self, image: Pixels, phrases: Sequence[str], *, least: float, examples: Sequence[Example] = ()
    ) -> Iterator[Claim]:
        """Yield claims of at least a score, any number for a phrase. Who cannot use examples raises ValueError."""

    def refer(self, image: Pixels, phrase: str, *, least: float) -> Claim | None:
        """Return the one thing that a phrase means best, None where nothing is sure enough."""
