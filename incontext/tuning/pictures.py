"""Labelled pictures as tuning needs them: split, stored small, with ids as rows of a palette, changed as in training.

Refuses to know the network and tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from incontext import canvas
from incontext.formats import IGNORED, Pixels
from incontext.types import Palette, Prompt
from incontext.views import Augmentation, Cut, bend, choose_box, jitter, view

_WHOLE = 0.8  # of the queries show the whole picture, as in training; the others a part


@dataclass(frozen=True, eq=False)
class Picture:
    """A labelled picture: image (H, W, 3) uint8; mask (H, W) uint8 ids, or rows of a palette, 255 ignored."""

    image: Pixels
    mask: Pixels

    @property
    def shows(self) -> bool:
        """Whether anything is marked."""
        return bool(((self.mask != 0) & (self.mask != IGNORED)).any())


def split(prompts: Sequence[Prompt], share: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """The numbers of the prompts that learn and of those that judge, about so large a `share`, both ascending.

    Those that learn show every id; those that judge, as many as possible. All of both where nothing can be held out.
    """
    everyone = list(range(len(prompts)))
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
    return ([n for n in everyone if n not in judging], sorted(judging)) if judging else (everyone, everyone)


def stored(image: Pixels, mask: Pixels, longest: int) -> Picture:
    """A picture whose longer side has at most so many pixels."""
    scale = min(1.0, longest / max(mask.shape))
    size = tuple(max(1, round(length * scale)) for length in mask.shape)
    return Picture(image, mask) if size == mask.shape else Picture(*view(image, mask, None, (size[0], size[1])))


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


def changed(picture: Picture, side: int, rng: np.random.Generator) -> Picture:
    """A query as training would show it: perhaps a part of the picture, mirrored, turned, bent; in another light."""
    changes, box = Augmentation(), None
    if rng.random() >= _WHOLE:
        shown = np.setdiff1d(picture.mask, (0, IGNORED))
        focus = int(rng.choice(shown)) if len(shown) else 0
        box = choose_box(picture.mask, focus, rng, Cut(whole=False), pixels=side * side)
    image, mask = view(picture.image, picture.mask, box, (side, side))
    if rng.random() < changes.bend:
        image, mask = bend(image, mask, rng, changes)
    image = jitter(image, rng, changes)
    if rng.random() < changes.mirror:
        image, mask = image[:, ::-1], mask[:, ::-1]
    turn = int(rng.integers(4)) if rng.random() < changes.turn else 0
    return Picture(np.rot90(image, turn), np.rot90(mask, turn))
