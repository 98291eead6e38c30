"""From labelled images of a recurring job to a prompt tensor, the network frozen (arXiv 2304.03284, section 3.4).

What is learned is the prompt half of both canvases, image and painted mask, as the network sees them: continuous and
normalised. Nothing of the network changes. Refuses to know files, formats and terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from itertools import count
from pathlib import Path
from typing import Final, get_args

import numpy as np
import torch

from incontext.canvas.context import grouped, shown_palette
from incontext.engine import FittedQuery, Segmenter
from incontext.images.ids import Pixels
from incontext.images.resize import resized
from incontext.options import Start, Task
from incontext.prompt_tensor import LearnedGroup, Origin, PromptTensor
from incontext.tuning.group import FrozenNetwork, Group, TuningStep, frozen, mean_iou
from incontext.tuning.images import LabelledImage, Split, fitted, relabelled, split
from incontext.types import Prompt
from incontext.version import __version__

STEPS: Final = 100
RATE: Final = 0.1
HELD_OUT: Final = 0.25  # of the images


def tune(
    segmenter: Segmenter,
    prompts: Sequence[Prompt],
    *,
    steps: int = STEPS,
    lr: float = RATE,
    shots: int = 1,
    start: Start = "best",
    held_out: float = HELD_OUT,
    batch_size: int = 4,
    task: Task = "instance",
    empty: Sequence[Pixels] = (),
    names: Mapping[int, str] | None = None,
    image_names: Sequence[str] | None = None,
    checkpointing: bool = False,
    seed: int = 0,
    on_step: Callable[[TuningStep], None] | None = None,
    on_tried: Callable[[int, int], None] | None = None,
) -> PromptTensor:
    """Learn a prompt tensor that finds in any image what these prompts show, by gradient descent on its pixels.

    The loss is that of training, over the whole mask of queries drawn from the prompts and changed a little. For each
    patch of the start's image and mask a colour is learned that is added to all its pixels: pixels that are free each
    learn the images by heart (docs/log/tuning.md). From noise, which has nothing to keep, each pixel is learned. Ids
    keep the colours that are stored with them; many ids are tuned in groups, one after the other. What is returned is
    what scored best on the held-out images, or the start where that is not clearly better; a group ends early when
    nothing better comes.

    Args:
        segmenter: The network; a backbone beside it sees the images that learn, and the result carries that.
        prompts: Labelled images, with masks of ids.
        steps: Of each group at most; 0 keeps the start.
        lr: Of Adam at the beginning, in normalised values a step.
        shots: How many canvases a group gets, at the cost of as many prompts.
        start: The prompts that do best for all others (16 are tried at most, and 8 mosaics of four where none shows all
            ids of a group), their mean, or noise.
        held_out: The share of the images that only judge; with 0, or a single image, all learn and all judge.
        batch_size: Queries in a step.
        task: The type token, see `SegmentOptions`.
        empty: (H, W, 3) uint8 images in which nothing is to be found.
        names: What ids mean; stored with the result, like the next.
        image_names: Of the prompts' images.
        checkpointing: Compute each block twice and keep less, for large networks.
        seed: Of everything that is drawn.
        on_step: Called after each step.
        on_tried: Called before them, with how many examples were tried as a start and how many will be.

    Raises:
        ValueError: there are no prompts, or raw colour prompts, too few for the shots; or an option cannot be used.
    """
    _check(prompts, steps, lr, shots, start, held_out, batch_size, names, image_names)
    stems = [f"image {number}" for number in range(len(prompts))] if image_names is None else list(image_names)
    parts = split(prompts, held_out, seed)
    side = segmenter.config.side
    cell = 1 if start == "noise" else segmenter.config.patch
    kept = [fitted(LabelledImage(prompt.image, prompt.mask), side) for prompt in prompts]
    nothing = [fitted(LabelledImage(image, np.zeros(image.shape[:2], np.uint8)), side) for image in empty]
    palettes = grouped({i for prompt in prompts for i in prompt.ids})
    generators = [np.random.default_rng([seed, number]) for number in range(len(palettes))]
    with frozen(segmenter.model, checkpointing), torch.enable_grad():
        network, groups = FrozenNetwork(segmenter, task), []
        for palette in palettes:
            known = [relabelled(image, palette) for image in kept]
            groups.append(Group(network, palette, known, nothing))
        # All of them before the first learns: what is refused is refused at once.
        to_try = [group.to_try(start, shots, parts, rng) for group, rng in zip(groups, generators, strict=True)]
        total, tried = sum(map(len, to_try)), count(1)
        on_one = (lambda: None) if on_tried is None else (lambda: on_tried(next(tried), total))
        started, learned = [], []
        for group, rng, candidates in zip(groups, generators, to_try, strict=True):
            begun, parts = group.started(start, shots, parts, rng, candidates, on_one)
            started.append(begun)
        for number, (group, begun, rng) in enumerate(zip(groups, started, generators, strict=True)):

            def tell(step: TuningStep, before: int = number * steps) -> None:
                if on_step is not None:
                    on_step(replace(step, step=before + step.step, steps=steps * len(palettes)))

            learned.append(group.learn(begun, parts, steps, lr, batch_size, cell, rng, tell))
    return _made(segmenter, prompts, parts, (stems, kept), (started, learned), task, names or {})


def _made(
    segmenter: Segmenter,
    prompts: Sequence[Prompt],
    parts: Split,
    labelled: tuple[list[str], list[LabelledImage]],
    groups: tuple[list[LearnedGroup], list[LearnedGroup]],
    task: Task,
    names: Mapping[int, str],
) -> PromptTensor:
    """Make the prompt tensor of what was learned, judged beside what learning started from.

    Args:
        segmenter: Whose network it was learned for.
        prompts: The labelled images.
        parts: Who learned and who judged.
        labelled: Names of the images, and these as the network sees them.
        groups: Before and after learning.
        task: That it was learned for.
        names: What ids mean.
    """
    stems, images = labelled
    shown = shown_palette(prompts)
    origin = Origin(
        weights=Path(segmenter.name).name,
        sha256=segmenter.sha256,
        task=task,
        images=tuple(stems[n] for n in parts.learning),
        held_out=tuple(stems[n] for n in parts.held_out),
        before=0.0,
        after=0.0,
        date=date.today().isoformat(),  # noqa: DTZ011  the user's own day
        version=__version__,
    )
    judges, voter = [images[n] for n in parts.judging], segmenter.voter
    seen = None if voter is None else voter.carried([prompts[n] for n in parts.learning])
    second = [None if voter is None else resized(prompts[n].image, (voter.side,) * 2) for n in parts.judging]
    started, learned = map(tuple, groups)
    before = _score(segmenter, PromptTensor(started, origin, shown, seen=seen), judges, second)
    after = _score(segmenter, PromptTensor(learned, origin, shown, seen=seen), judges, second)
    return PromptTensor(learned, replace(origin, before=before, after=after), shown, names, seen)


def _score(
    segmenter: Segmenter, learned: PromptTensor, images: Sequence[LabelledImage], second: Sequence[Pixels | None]
) -> float:
    """Measure mean IoU of a prompt tensor in use, all groups together, on images as network and backbone see them."""
    size = (learned.side, learned.side)
    queries = [FittedQuery(each.image, size, second=other) for each, other in zip(images, second, strict=True)]
    answers = segmenter.segment_many(queries, learned, task=learned.origin.task)
    return mean_iou([answer.mask for answer in answers], [each.mask for each in images], learned.ids)


def _check(
    prompts: Sequence[Prompt],
    steps: int,
    lr: float,
    shots: int,
    start: str,
    held_out: float,
    batch_size: int,
    names: Mapping[int, str] | None,
    image_names: Sequence[str] | None,
) -> None:
    if not prompts or not all(isinstance(prompt, Prompt) for prompt in prompts):
        kinds = ", ".join(sorted({type(prompt).__name__ for prompt in prompts})) or "nothing"
        raise ValueError(f"expected Prompts to learn from, got {kinds}")
    if any(prompt.colors is not None for prompt in prompts):
        raise ValueError("expected prompts with masks of ids, got raw colours, which are no ids to learn; give masks")
    for name, value, least in (("steps", steps, 0), ("shots", shots, 1), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"expected {name} of at least {least}, got {value}")
    if not 0 < lr <= 10:
        raise ValueError(f"expected lr above 0 and at most 10, in normalised values a step, got {lr}")
    if start not in get_args(Start):
        raise ValueError(f"expected start among {', '.join(get_args(Start))}, got {start!r}")
    if not 0 <= held_out < 1:
        raise ValueError(f"expected held_out as a share of the images, from 0 to below 1, got {held_out}")
    ids = {i for prompt in prompts for i in prompt.ids}
    if names is not None and (unknown := set(names) - ids):
        raise ValueError(f"expected names of the ids {sorted(ids)}, got one for {sorted(unknown)}")
    if image_names is not None and len(image_names) != len(prompts):
        raise ValueError(f"expected a name for each of {len(prompts)} images, got {len(image_names)}")
