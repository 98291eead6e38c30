"""Labelled images as tuning needs them: split, fitted, with ids as rows of a palette, changed a little.

Refuses to know the network and tensors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from incontext.images.ids import IGNORED, Pixels, ids_in
from incontext.images.resize import mosaic, resized, resized_mask
from incontext.learning.augmentation import Augmentation, bend, degrade
from incontext.learning.light import draw_light, lit
from incontext.types import Palette, Prompt

# Parts of images and quarter turns, as in training, are not asked later: they teach less (docs/log/tuning.md).
_CHANGES = Augmentation(bend=0.5)


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """A labelled image: image (H, W, 3) uint8; mask (H, W) uint8 ids, or rows of a palette, 255 ignored."""

    image: Pixels
    mask: Pixels

    @property
    def ids(self) -> frozenset[int]:
        """What is marked: ids, or rows of a palette."""
        return frozenset(ids_in(self.mask))


class Split(NamedTuple):
    """The numbers of the images that learn and of those that judge, ascending; all of both if none is held out."""

    learning: tuple[int, ...]
    judging: tuple[int, ...]

    @property
    def held_out(self) -> tuple[int, ...]:
        """Those that judge alone."""
        return tuple(n for n in self.judging if n not in self.learning)

    def spares(self, numbers: Collection[int]) -> bool:
        """Tell whether some are left to judge where these learn."""
        return not self.held_out or bool(set(self.held_out) - set(numbers))

    def taught(self, numbers: Collection[int]) -> Split:
        """Add these to those that learn."""
        moved = set(numbers) & set(self.held_out)
        return Split(tuple(sorted({*self.learning, *moved})), tuple(n for n in self.judging if n not in moved))


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


def relabelled(image: LabelledImage, palette: Palette) -> LabelledImage:
    """Replace ids by rows of the palette; every other id is background."""
    rows = np.zeros(256, np.uint8)
    rows[palette.ids] = np.arange(len(palette.ids))
    rows[IGNORED] = IGNORED
    return LabelledImage(image.image, rows[image.mask])


def fitted(image: LabelledImage, side: int) -> LabelledImage:
    """Squeeze a whole image to what the network is shown of it."""
    size = (side, side)
    return LabelledImage(resized(image.image, size), resized_mask(image.mask, size))


def covering(ids: Sequence[Collection[int]], count: int, most: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """List different choices of ``count`` images that together show more than any alone, ``most`` at most.

    Args:
        ids: What each image shows. Each choice begins with an image by chance, and goes on with the one that adds
            most.
    """
    alone, found = max((len(each) for each in ids), default=0), list[tuple[int, ...]]()
    showing = [number for number, each in enumerate(ids) if each]
    if len(showing) < count or alone == len({i for each in ids for i in each}):
        return []
    for first in rng.permutation(showing).tolist():
        chosen, seen = [first], set(ids[first])
        while len(chosen) < count:
            free = [n for n in rng.permutation(showing).tolist() if n not in chosen]
            chosen.append(max(free, key=lambda n: len(set(ids[n]) - seen)))
            seen |= set(ids[chosen[-1]])
        if len(seen) > alone and sorted(chosen) not in map(sorted, found):
            found.append(tuple(chosen))
    return found[:most]


def tiled(images: Sequence[LabelledImage], side: int) -> LabelledImage:
    """Tile images side by side in a square, n x n of them: a mosaic (arXiv 2304.03284, section 3.3)."""
    n = math.isqrt(len(images))
    return LabelledImage(*mosaic([(image.image, image.mask) for image in images], (n, n), side))


def changed(labelled: LabelledImage, rng: np.random.Generator) -> LabelledImage:
    """Draw a query: a whole image as the network sees it, perhaps mirrored, bent a little, and in another light."""
    image, mask = labelled.image, labelled.mask
    if rng.random() < _CHANGES.bend:
        image, mask = bend(image, mask, rng, _CHANGES)
    image = lit(degrade(image, rng, _CHANGES), draw_light(rng, _CHANGES))
    if rng.random() < _CHANGES.mirror:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return LabelledImage(image, mask)
