"""Labelled pictures as tuning needs them: split, fitted, with ids as rows of a palette, changed a little.

Refuses to know the network and tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from incontext import canvas
from incontext.formats import IGNORED, Pixels
from incontext.light import draw_light, lit
from incontext.types import Palette, Prompt
from incontext.views import Augmentation, bend, degrade

# Parts of pictures and quarter turns, as in training, are not what is asked later: less is learned (docs/log.md).
_CHANGES = Augmentation(bend=0.5)


@dataclass(frozen=True, eq=False)
class Picture:
    """A labelled picture: image (H, W, 3) uint8; mask (H, W) uint8 ids, or rows of a palette, 255 ignored."""

    image: Pixels
    mask: Pixels

    @property
    def shows(self) -> bool:
        """Whether anything is marked."""
        return bool(((self.mask != 0) & (self.mask != IGNORED)).any())


class Split(NamedTuple):
    """The numbers of the pictures that learn and of those that judge, ascending; all of both if none is held out."""

    learning: tuple[int, ...]
    judging: tuple[int, ...]

    @property
    def held_out(self) -> tuple[int, ...]:
        """Those that judge alone."""
        return tuple(n for n in self.judging if n not in self.learning)

    def spares(self, number: int) -> bool:
        """Whether some are left to judge where this one learns."""
        return self.held_out != (number,)

    def taught(self, number: int) -> Split:
        """With this one among those that learn."""
        if number not in self.held_out:
            return self
        return Split(tuple(sorted((*self.learning, number))), tuple(n for n in self.judging if n != number))


def split(prompts: Sequence[Prompt], share: float, seed: int = 0) -> Split:
    """Hold out about so large a `share` of the prompts to judge by.

    Those that learn show every id; those that judge, as many as possible.
    """
    everyone = tuple(range(len(prompts)))
    count = min(len(prompts) - 1, max(1, round(share * len(prompts)))) if share else 0
    showing = {i: sum(i in prompt.ids for prompt in prompts) for prompt in prompts for i in prompt.ids}
    order = np.random.default_rng([seed, len(prompts)]).permutation(len(prompts)).tolist()
    judging: list[int] = []
    judged: set[int] = set()
    while len(judging) < count:
        free = [n for n in order if n not in judging and all(showing[i] > 1 for i in prompts[n].ids)]
        if not free:
            break
        chosen = max(free, key=lambda n: len(set(prompts[n].ids) - judged))  # of equals the first of the order
        judging.append(chosen)
        judged |= set(prompts[chosen].ids)
        for i in prompts[chosen].ids:
            showing[i] -= 1
    if not judging:
        return Split(everyone, everyone)
    return Split(tuple(n for n in everyone if n not in judging), tuple(sorted(judging)))


def relabelled(picture: Picture, palette: Palette) -> Picture:
    """Ids -> rows of the palette; every other id is background."""
    rows = np.zeros(256, np.uint8)
    rows[palette.ids] = np.arange(len(palette.ids))
    rows[IGNORED] = IGNORED
    return Picture(picture.image, rows[picture.mask])


def fitted(picture: Picture, side: int) -> Picture:
    """A whole picture as the network is shown it."""
    size = (side, side)
    return Picture(canvas.fit(picture.image, size), canvas.fit_mask(picture.mask, size))


def changed(picture: Picture, rng: np.random.Generator) -> Picture:
    """A query: a whole picture as the network sees it, perhaps mirrored, bent a little, and in another light."""
    image, mask = picture.image, picture.mask
    if rng.random() < _CHANGES.bend:
        image, mask = bend(image, mask, rng, _CHANGES)
    image = lit(degrade(image, rng, _CHANGES), draw_light(rng, _CHANGES))
    if rng.random() < _CHANGES.mirror:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return Picture(image, mask)
