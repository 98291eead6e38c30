"""Many prompts opened at once, so that they can be one context.

What one file cannot know of is settled here: a colour means the same id in every RGB mask, and all prompts know the
colours of all ids. Refuses to know which files belong together (pairs.py) and the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from incontext.annotations.values import parts_left_out
from incontext.examples.pairs import Pair, PromptFiles, PromptLeftOutWarning, some_of
from incontext.images.ids import IGNORED, Pixels
from incontext.images.masks import is_painted, read_mask
from incontext.images.read import read_image
from incontext.images.resize import shrunk, shrunk_pair
from incontext.types import Palette, Prompt

_MOST_PROBLEMS = 3  # in a sentence


@dataclass(frozen=True)
class OpenedPrompts:
    """Prompts and, in the same order, the files that they came from.

    Attributes:
        empty: Pairs whose mask is background throughout, in which nothing is to be found.
        names: What ids mean, as far as annotation files say it.
    """

    prompts: tuple[Prompt, ...]
    pairs: tuple[Pair, ...]
    empty: tuple[Pair, ...]
    names: Mapping[int, str] = field(default_factory=dict)


def open_prompts(files: PromptFiles, *, snap: bool = False, longest: int | None = None) -> OpenedPrompts:
    """Open all prompts; one that marks nothing is set apart, unless it was named.

    Args:
        snap: See `formats.read_mask`.
        longest: Shrink images whose longer side has more pixels, as long as no id gets lost; None keeps them as they
            are. Colours of RGB masks are counted over all of them in ascending order of (R, G, B), so that a colour is
            the same id in each; where the masks agree on the colour of each id, all prompts know all of these colours.

    Of annotations, what cannot be used is left out and told in a `PromptWarning`, as long as something is left.

    Raises:
        ValueError: (or FileNotFoundError), each problem with the name of its file.
    """
    prompts: list[Prompt] = []
    pairs: list[Pair] = []
    empty: list[Pair] = []
    problems: list[Exception] = []
    unusable: list[Exception] = []  # labels of a set, of which others can be used
    for pair in files.pairs:
        try:
            prompt = _opened(pair, files, snap)
        except (ValueError, OSError) as error:
            if pair not in files.named and _is_empty(pair, files):
                empty.append(pair)
            elif pair not in files.named and pair in files.labels:
                unusable.append(error)
            else:
                problems.append(error)
            continue
        if longest is not None:
            image, mask = shrunk_pair(prompt.image, prompt.mask, longest)
            prompt = replace(prompt, image=image, mask=mask)
        prompts.append(prompt)
        pairs.append(pair)
    _refuse(problems if prompts else problems + unusable, len(files.pairs))
    if unusable:
        told = f"; and {len(unusable) - 1} more" if len(unusable) > 1 else ""
        _warn(f"left out prompts that cannot be used: {unusable[0]}{told}")
    for sentence in (sentence for labels in files.sources for sentence in parts_left_out(labels.problems)):
        _warn(f"left out: {sentence}")
    if not prompts:
        masks = some_of([mask for _, mask in empty])
        raise ValueError(f"expected masks that mark something, got background (0) everywhere in {masks}")
    painted = [pair not in files.labels and is_painted(pair[1]) for pair in pairs]
    shown = {i for prompt in prompts for i in prompt.ids}
    names = {i: name for i, name in files.categories.names.items() if i in shown}
    return OpenedPrompts(tuple(_agreed(prompts, painted)), tuple(pairs), tuple(empty), names)


def _refuse(problems: Sequence[Exception], count: int) -> None:
    """Raise what is wrong with some of so many prompts, if anything is."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        told = "; ".join(str(error) for error in problems[:_MOST_PROBLEMS])
        raise ValueError(f"{len(problems)} of {count} prompts cannot be used: {told}{more}")


def _warn(sentence: str) -> None:
    warnings.warn(sentence, PromptLeftOutWarning, stacklevel=3)


def _opened(pair: Pair, files: PromptFiles, snap: bool) -> Prompt:
    labelled = files.labels.get(pair)
    if labelled is None:
        return Prompt.open(*pair, snap=snap)
    image, mask = labelled.read_image(), labelled.mask()
    try:
        return Prompt(image, mask, palette=files.categories.palette)
    except ValueError as error:
        raise ValueError(f"{pair[1]}: {labelled.name}: {error}") from None


def read_empty(pair: Pair, *, longest: int) -> Pixels:
    """Read the image of an empty pair, (H, W, 3) uint8, shrunk as :func:`open_prompts` does it."""
    return shrunk(read_image(pair[0]), longest)


def _is_empty(pair: Pair, files: PromptFiles) -> bool:
    labelled = files.labels.get(pair)
    try:
        if labelled is not None:
            return labelled.embedded is None and not labelled.mask().any()
        return not read_mask(pair[1]).ids.any()
    except (ValueError, OSError):
        return False


def _agreed(prompts: Sequence[Prompt], painted: Sequence[bool]) -> list[Prompt]:
    """Give a colour of RGB masks the same id in each prompt, and one palette to all where their colours agree."""
    named = [p.palette for p, is_rgb in zip(prompts, painted, strict=True) if is_rgb and p.palette is not None]
    colors = sorted({tuple(color) for palette in named for color in palette.colors[1:].tolist()})
    if len(colors) >= IGNORED:
        raise ValueError(f"expected at most 254 colours beside black in the masks together, got {len(colors)}")
    ids = {color: number for number, color in enumerate(colors, start=1)}
    agreed = [_recounted(p, ids) if is_rgb else p for p, is_rgb in zip(prompts, painted, strict=True)]
    palette = _common_palette(agreed)
    return (
        agreed
        if palette is None
        else [replace(p, palette=palette) if set(p.ids) <= set(palette.ids.tolist()) else p for p in agreed]
    )


def _recounted(prompt: Prompt, ids: Mapping[tuple[int, ...], int]) -> Prompt:
    if prompt.palette is None:
        return prompt
    new = [0] + [ids[tuple(color)] for color in prompt.palette.colors[1:].tolist()]
    numbers = np.arange(256, dtype=np.uint8)
    numbers[prompt.palette.ids] = new
    return Prompt(prompt.image, numbers[prompt.mask], palette=Palette(np.array(new), prompt.palette.colors))


def _common_palette(prompts: Sequence[Prompt]) -> Palette | None:
    """Join the colours of all prompts; None where two of them disagree."""
    colors: dict[int, tuple[int, ...]] = {}
    for palette in (prompt.palette for prompt in prompts if prompt.palette is not None):
        for i, color in zip(palette.ids.tolist(), map(tuple, palette.colors.tolist()), strict=True):
            if colors.setdefault(i, color) != color:
                return None
    if not colors or len(set(colors.values())) < len(colors):
        return None
    rows = sorted(colors)
    return Palette(np.array(rows), np.array([colors[i] for i in rows]))
