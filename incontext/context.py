"""From prompts to what the network is shown: which colours, which groups of ids, which pictures go together.

Refuses to know the network, tensors and devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

import numpy as np

from incontext import canvas
from incontext.formats import Pixels
from incontext.types import Palette, Prompt

Ensemble = Literal["auto", "feature", "spatial"]

MOSAIC_PROMPTS: Final = 16  # at most in one mosaic, 4 x 4
COLORS_AT_ONCE: Final = 7  # ids painted in one pass; see docs/log.md


@dataclass(frozen=True, eq=False)
class Stitched:
    """One pass through the network: some of the context's ids, painted in a palette.

    images, masks: (N, side, side, 3) uint8, the N shots with the ids of the palette; a mosaic counts as one shot.
    """

    palette: Palette
    images: Pixels
    masks: Pixels


def stitch(prompts: Sequence[Prompt], side: int, ensemble: Ensemble) -> tuple[Stitched, ...]:
    """The passes of a context, one for each group of at most ``COLORS_AT_ONCE`` ids.

    A prompt takes part in the passes whose ids it shows; what it shows of other ids is background there.

    Raises:
        ValueError: there are no prompts, or masks and raw colours, or raw colours of different palettes; or the
            ensemble is unknown.
    """
    _check(prompts, ensemble)
    return tuple(_pass(prompts, palette, side, ensemble) for palette in _palettes(prompts))


def shown_palette(prompts: Sequence[Prompt]) -> Palette:
    """The colours that people see: those of the first prompt's file where they cover all ids, else far-apart ones."""
    ids, shown = {i for prompt in prompts for i in prompt.ids}, prompts[0].palette
    return Palette.spread(ids) if shown is None or ids - set(shown.ids.tolist()) else shown


def _check(prompts: Sequence[Prompt], ensemble: Ensemble) -> None:
    if not prompts or not all(isinstance(prompt, Prompt) for prompt in prompts):
        kinds = ", ".join(sorted({type(prompt).__name__ for prompt in prompts})) or "nothing"
        raise ValueError(f"expected a Prompt or a sequence of Prompts as the context, got {kinds}")
    if len({prompt.colors is None for prompt in prompts}) > 1:
        raise ValueError("expected either masks or raw colours in a context, got both; use one kind for all prompts")
    if ensemble not in ("auto", "feature", "spatial"):
        raise ValueError(f"expected ensemble auto, feature or spatial, got {ensemble!r}")


def _palettes(prompts: Sequence[Prompt]) -> list[Palette]:
    """The colours that the network sees, a palette for each group: far apart, or the prompts' own raw colours."""
    if prompts[0].colors is None:
        ids = sorted({i for prompt in prompts for i in prompt.ids})
        groups = ceil(len(ids) / COLORS_AT_ONCE)
        return [Palette.spread(int(i) for i in group) for group in np.array_split(ids, groups)]
    palettes = [prompt.palette for prompt in prompts if prompt.palette is not None]
    if any(not np.array_equal(palette.table, palettes[0].table) for palette in palettes):
        raise ValueError("expected raw colour prompts of a context to share their main colours; give masks with ids")
    return palettes[:1]


def _pass(prompts: Sequence[Prompt], palette: Palette, side: int, ensemble: Ensemble) -> Stitched:
    ids = set(palette.ids.tolist())
    showing = [prompt for prompt in prompts if ids & set(prompt.ids)]
    per_canvas = MOSAIC_PROMPTS if ensemble == "spatial" else 1  # "auto" is the feature ensemble: see docs/log.md
    canvases = ceil(len(showing) / per_canvas)
    tiled = [showing[i::canvases] for i in range(canvases)]
    images, masks = zip(*(canvas.mosaic(some, palette, side) for some in tiled), strict=True)
    return Stitched(palette, np.stack(images), np.stack(masks))
