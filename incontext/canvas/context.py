"""From a context to what the network is shown: which colours, which groups of ids, which images go together.

Refuses to know the network, tensors and devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from incontext.canvas.paint import mosaic
from incontext.canvas.windows import MOST_CUTS, cut, window_side
from incontext.digest import digest
from incontext.images.ids import Pixels
from incontext.options import Ensemble, Tiles
from incontext.prompt_tensor import LearnedGroup, PromptTensor
from incontext.types import Palette, Prompt

MOSAIC_PROMPTS: Final = 16  # at most in one mosaic, 4 x 4
COLORS_AT_ONCE: Final = 7  # ids painted in one pass; see docs/log/groups.md


@dataclass(frozen=True, eq=False)
class Stitched:
    """One pass through the network: some of the context's ids, painted in a palette.

    Attributes:
        images, masks: (N, side, side, 3) uint8, the shots that show prompts, with the ids of the palette; a mosaic
            counts as one.
        learned: The shots of prompt tensors, which come before those.
        weights: Of all canvases, in their order.
    """

    palette: Palette
    images: Pixels
    masks: Pixels
    learned: tuple[LearnedGroup, ...]
    weights: tuple[float, ...]

    @property
    def shots(self) -> int:
        """Canvases that the network works on for a query."""
        return len(self.images) + sum(len(group.images) for group in self.learned)

    @property
    def side(self) -> int:
        """Pixels along a side of a canvas half."""
        return int(self.images.shape[1])

    @property
    def canvases(self) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Image and mask of each: (3, side, side) float32 normalised if learned, else (side, side, 3) uint8."""
        for group in self.learned:
            yield from zip(group.images, group.masks, strict=True)
        yield from zip(self.images, self.masks, strict=True)


def content_of(image: npt.NDArray[Any], mask: npt.NDArray[Any], task: str) -> str:
    """Make a digest by which a canvas is known again."""
    return digest(task, image, mask)


def stitch(context: Sequence[Prompt | PromptTensor], side: int, ensemble: Ensemble) -> tuple[Stitched, ...]:
    """Stitch a context into passes, one for each group of at most ``COLORS_AT_ONCE`` ids.

    A prompt takes part in the passes whose ids it shows; what it shows of other ids is background there. Prompt tensors
    bring their groups, whose colours cannot be changed: groups that share an id and agree on colours are one pass, and
    prompts are painted in its colours. Ids that no prompt tensor knows go into further groups.

    Raises:
        ValueError: the context is empty, or mixes masks with raw colours, raw colours of different palettes, or raw
            colours with prompt tensors; or names of ids contradict each other.
    """
    _check(context)
    prompts = [each for each in context if isinstance(each, Prompt)]
    learned = _learned([each for each in context if isinstance(each, PromptTensor)])
    known = {i for palette, _ in learned for i in palette.ids.tolist()}
    passes = [*learned, *((palette, ()) for palette in _palettes(prompts, known))]
    return tuple(_pass(prompts, palette, groups, side, ensemble) for palette, groups in passes)


def cut_to_windows(
    context: Sequence[Prompt | PromptTensor], side: int, tiles: Tiles
) -> tuple[int | None, tuple[Prompt | PromptTensor, ...]]:
    """Cut the prompts of a context to windows. Prompt tensors stay as they are.

    Returns:
        The size of windows in pixels along a side, and the context; None and the context itself where there are to be
            no
        windows.

    Raises:
        ValueError: `tiles` is "auto" where no prompt shows how large things are.
    """
    if tiles is None or not context:
        return None, tuple(context)
    prompts = [each for each in context if isinstance(each, Prompt)]
    if tiles == "auto" and not prompts:
        raise ValueError("expected tiles in pixels, as prompt tensors do not show how large things are; got auto")
    window = window_side(prompts, side) if tiles == "auto" else tiles
    most = ceil(MOST_CUTS / max(1, len(prompts)))
    parts = [cut(each, window, most=most) if isinstance(each, Prompt) else (each,) for each in context]
    return window, tuple(part for each in parts for part in each)


def shown_palette(context: Sequence[Prompt | PromptTensor]) -> Palette:
    """Choose the colours that people see: those of the first prompt's file where they cover all ids, else far ones."""
    ids, shown = {i for each in context for i in each.ids}, context[0].palette
    return Palette.spread(ids) if shown is None or ids - set(shown.ids.tolist()) else shown


def _check(context: Sequence[Prompt | PromptTensor]) -> None:
    if not context:
        raise ValueError("expected a Prompt, a PromptTensor or a sequence of these as the context, got none")
    kinds_of_paint = {isinstance(each, Prompt) and each.colors is not None for each in context}
    if len(kinds_of_paint) > 1:
        raise ValueError(
            "expected either masks or raw colours in a context, got both; "
            "use one kind for all, or masks with prompt tensors"
        )
    names_of(context)


def names_of(context: Sequence[Prompt | PromptTensor]) -> dict[int, str]:
    """Tell what ids mean, as far as prompts and prompt tensors say it.

    Raises:
        ValueError: Two of them mean different things by one id.
    """
    names: dict[int, str] = {}
    for each in context:
        for i, name in each.names.items():
            if names.setdefault(i, name) != name:
                raise ValueError(
                    f"expected a context that means the same by id {i}, got {names[i]!r} and {name!r}; give one "
                    "of them another id"
                )
    return names


def _learned(prompt_tensors: Sequence[PromptTensor]) -> list[tuple[Palette, tuple[LearnedGroup, ...]]]:
    """Gather the groups of prompt tensors, together where they show the same things in the same colours."""
    passes: list[tuple[Palette, tuple[LearnedGroup, ...]]] = []
    for group in (group for each in prompt_tensors for group in each.groups):
        joined = [_agreed(palette, group.palette) for palette, _ in passes]
        place = next((number for number, palette in enumerate(joined) if palette is not None), None)
        if place is None:
            passes.append((group.palette, (group,)))
        else:
            passes[place] = (joined[place] or group.palette, (*passes[place][1], group))
    return passes


def _agreed(one: Palette, other: Palette) -> Palette | None:
    """Join the colours of both; None where they share no id, contradict each other, or are too many."""
    colors = dict(zip(one.ids.tolist(), map(tuple, one.colors.tolist()), strict=True))
    shared = set(other.ids.tolist()) & set(colors) - {0}
    for i, color in zip(other.ids.tolist(), map(tuple, other.colors.tolist()), strict=True):
        if colors.setdefault(i, color) != color:
            return None
    most = max(COLORS_AT_ONCE, len(one.ids) - 1, len(other.ids) - 1)
    if not shared or len(set(colors.values())) < len(colors) or len(colors) - 1 > most:
        return None
    return Palette(np.array(list(colors)), np.array(list(colors.values())))


def _palettes(prompts: Sequence[Prompt], known: set[int]) -> list[Palette]:
    """Choose a palette for each group of ids that are not `known`: far-apart colours, or the prompts' own raw ones."""
    if prompts and prompts[0].colors is not None:
        palettes = [prompt.palette for prompt in prompts if prompt.palette is not None]
        if any(not np.array_equal(palette.table, palettes[0].table) for palette in palettes):
            raise ValueError(
                "expected raw colour prompts of a context to share their main colours; give masks with ids"
            )
        return palettes[:1]
    return grouped({i for prompt in prompts for i in prompt.ids} - known)


def grouped(ids: set[int]) -> list[Palette]:
    """Choose palettes of far-apart colours for these ids, each for as many as a pass keeps apart."""
    if not ids:
        return []
    groups = np.array_split(sorted(ids), ceil(len(ids) / COLORS_AT_ONCE))
    return [Palette.spread(int(i) for i in group) for group in groups]


def _pass(
    prompts: Sequence[Prompt], palette: Palette, learned: tuple[LearnedGroup, ...], side: int, ensemble: Ensemble
) -> Stitched:
    ids = set(palette.ids.tolist()) - {0}
    showing = [prompt for prompt in prompts if ids & set(prompt.ids)]
    per_canvas = MOSAIC_PROMPTS if ensemble == "spatial" else 1  # "auto" is the feature ensemble: docs/log/examples.md
    canvases = ceil(len(showing) / per_canvas)
    images, masks = np.empty((2, canvases, side, side, 3), np.uint8)
    weights = [1.0] * sum(len(group.images) for group in learned)
    for i in range(canvases):
        images[i], masks[i] = mosaic(showing[i::canvases], palette, side)
        weights.append(sum(prompt.weight for prompt in showing[i::canvases]) / len(showing[i::canvases]))
    return Stitched(palette, images, masks, learned, tuple(weights))
