"""Text to masks in two steps: a detector finds boxes, and what answers clicks fills them.

The idea of Grounded SAM (arXiv 2401.14159), and for one phrase that of "locate then segment" (arXiv 2103.16284).
Refuses to know which networks do either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from incontext.images.ids import Pixels
from incontext.prompters.parts import Claim, Clicker, Clicks, Detector, Example


class Located:
    """A detector, and what fills its boxes; see `parts.Reader`."""

    def __init__(self, detector: Detector, filler: Clicker) -> None:
        """Hold both."""
        self._detector, self._filler = detector, filler

    def check(self, phrases: Sequence[str]) -> None:
        """Raise ValueError where the phrases are too long for the detector."""
        self._detector.check(phrases)

    def read(
        self, image: Pixels, phrases: Sequence[str], *, least: float, examples: Sequence[Example] = ()
    ) -> Iterator[Claim]:
        """Yield a claim for each box that was found."""
        if examples:
            raise ValueError("expected a text alone for a detector, got boxes as examples; use sam3 for both at once")
        found = self._detector.boxes(image, phrases, least=least)
        filled = self._filler.masks(image, [Clicks.of_box(each.box) for each in found])
        for each, (margins, _) in zip(found, filled, strict=True):
            yield Claim(each.phrase, margins, each.score)

    def refer(self, image: Pixels, phrase: str, *, least: float) -> Claim | None:
        """Return the surest box, filled; None where none is sure enough."""
        found = self._detector.boxes(image, [phrase], least=least)
        if not found:
            return None
        ((margins, _),) = self._filler.masks(image, [Clicks.of_box(found[0].box)])
        return Claim(0, margins, found[0].score)
