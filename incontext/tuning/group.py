"""Learning one group of ids: the prompt half of both canvases by gradient descent through the frozen network.

Refuses to know where images come from, prompt tensors of several groups, and files.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import cos, pi
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from incontext.canvas.read import read_small
from incontext.engine import Segmenter
from incontext.images.ids import IGNORED, Pixels
from incontext.learning.losses import Batch, LossWeights, Stacked, paint_batch, training_loss
from incontext.network.model import ContextTokens, SegGPT, Tables
from incontext.options import Start, Task
from incontext.placed import to_read
from incontext.prompt_tensor import LearnedGroup
from incontext.tuning.images import LabelledImage, Split, changed, covering, tiled
from incontext.types import Palette

_BETA = 0.1  # of smooth L1: what training ends with
_BETWEEN_SCORES = 10  # steps
_STEADY = 3  # scores in a row whose mean decides, as single ones on few images go up and down by chance
_CLEARLY = 0.02  # by which the start must be beaten: less is luck on few images (docs/log/tuning.md)
_PATIENCE = 8  # scores in a row without a better mean, after which a group is done
_MOST_TRIED = 16  # examples as a start, each on all the others
_TILES = 4  # examples in a mosaic, which is tried as a start where none shows all ids
_MOST_MOSAICS = 8
_MOST_TOLD = 8  # images, of what is found while learning
_LACKING = 0.1  # of the queries show none of a group's ids, where there are such images


@dataclass(frozen=True)
class TuningStep:
    """What `tune` reports after each step."""

    step: int  # steps done; groups that stopped early count in full
    steps: int  # of all groups of ids together
    ids: tuple[int, ...]  # of the group that is being tuned
    loss: float
    seconds: float  # of this step, without scoring
    memory: int  # bytes: allocated on a CUDA device at the step's peak, else held by the process after it
    score: float | None  # mean IoU of the group on the held-out images, 0..1, after steps that measure it
    best: float  # the best mean of three such scores in a row so far, or that of the start
    found: dict[int, Pixels] | None  # with a score: (side, side) ids in the first images that judge, by their numbers


class FrozenNetwork:
    """The frozen network as tuning uses it: differentiable in the context alone."""

    def __init__(self, segmenter: Segmenter, task: Task) -> None:
        self.model, self.device, self.dtype = segmenter.model, segmenter.device, segmenter.dtype
        self.side, self.grid, self.task = segmenter.config.side, segmenter.config.grid, task
        self.min_presence = segmenter.min_presence
        with torch.no_grad():
            self.tables: Tables = self.model.tables(self.grid)

    def prepare(self, images: Tensor, masks: Tensor) -> ContextTokens:
        """Prepare a context: images and masks (N, 3, side, side) each, normalised float32."""
        shown = (each.unsqueeze(0).to(self.dtype) for each in (images, masks))
        return self.model.prepare(*shown, task=self.task, tables=self.tables)

    def answer(self, queries: Tensor, context: ContextTokens) -> Tensor:
        """Answer queries (B, 3, side, side) normalised: the same, float32."""
        return self.model.answer(queries.to(self.dtype), context).float()

    def read(self, queries: Tensor, context: ContextTokens, palette: Palette) -> tuple[Tensor, Pixels]:
        """Answer, and read the ids (B, side, side) as the segmenter does, absent ones left out."""
        paint = to_read(self.model, self.model.see(queries.to(self.dtype), context), palette)
        return paint.painted, read_small([paint], min_presence=self.min_presence)[0].cpu().numpy()


class _Tested(NamedTuple):
    """Mean IoU over a group's ids, the mean loss, and the rows of its palette that were found in each image."""

    score: float
    loss: float
    found: list[Pixels]


class Group:
    """The ids of one palette: the labelled images as the network sees them, and the learning.

    Args:
        images: What tuning was given, with rows of the palette for masks; others are told by their numbers among
            them.
        empty: Images with nothing in them.
    """

    def __init__(
        self,
        network: FrozenNetwork,
        palette: Palette,
        images: Sequence[LabelledImage],
        empty: Sequence[LabelledImage],
    ) -> None:
        self.network = network
        self.palette = palette
        self._images = list(images)
        self._empty = list(empty)

    def to_try(self, start: Start, shots: int, parts: Split, rng: np.random.Generator) -> list[tuple[int, ...]]:
        """Choose the examples that will be tried as a start.

        They are tried by themselves, at least one more than needed, as the last that judges cannot be taken; and in
        mosaics,
        of those that learn, where none of them shows all ids.
        """
        if start != "best":
            return []
        showing = rng.permutation(self._showing(range(len(self._images)))).tolist()
        alone = [(number,) for number in showing[: max(shots + 1, _MOST_TRIED)]]
        ids = [self._images[n].ids if n in parts.learning else frozenset() for n in range(len(self._images))]
        return alone + (covering(ids, _TILES, _MOST_MOSAICS, rng) if len(ids) >= 2 * _TILES else [])

    def started(
        self,
        start: Start,
        shots: int,
        parts: Split,
        rng: np.random.Generator,
        tried: Sequence[tuple[int, ...]],
        on_tried: Callable[[], None],
    ) -> tuple[LearnedGroup, Split]:
        """Find what learning begins with, and who learns and judges then.

        Held-out images that it begins with learn, unless none would be left to judge.

        Args:
            start: From the best of the examples, their mean, or noise.
            shots: How many canvases are learned.
            parts: Who learns and who judges so far.
            rng: For what is drawn.
            tried: What `to_try` gave.
            on_tried: Called for each of them.

        Raises:
            ValueError: Too few images show the ids.
        """
        side, needed, showing = self.network.side, 1 if start == "noise" else shots, self._showing(parts.learning)
        if len(showing) < needed:
            raise ValueError(
                f"expected at least {needed} images to learn from that show one of the ids "
                f"{self.palette.ids[1:].tolist()}, one for each shot, got {len(showing)}; ask for fewer shots, "
                "hold out fewer images, or start from noise"
            )
        if start == "noise":
            shape = (shots, 3, side, side)
            return LearnedGroup(self.palette, *(rng.standard_normal(shape, dtype=np.float32) for _ in range(2))), parts
        if start == "mean":
            means = [self._mean(showing[shot::shots]) for shot in range(shots)]
            return LearnedGroup(self.palette, *(np.stack(each) for each in zip(*means, strict=True))), parts
        ranked, chosen = self._ranked(tried, on_tried), list[tuple[int, ...]]()
        while len(chosen) < shots:
            chosen.append(next(each for each in ranked if each not in chosen and parts.spares(each)))
            parts = parts.taught(chosen[-1])
        shown = self._batch([self._tiled(each) for each in chosen])
        return LearnedGroup(self.palette, shown.image_canvas.cpu().numpy(), shown.mask_canvas.cpu().numpy()), parts

    def learn(
        self,
        start: LearnedGroup,
        parts: Split,
        steps: int,
        lr: float,
        batch_size: int,
        cell: int,
        rng: np.random.Generator,
        on_step: Callable[[TuningStep], None],
    ) -> LearnedGroup:
        """Keep the best of what gradient descent passes through, by the judging images: see `_STEADY` and `_CLEARLY`.

        Args:
            cell: Pixels along a side of the squares that are moved as one, all of a square by the same colour.
        """
        device, judging = self.network.device, parts.judging
        begun = [torch.tensor(each, device=device) for each in (start.images, start.masks)]
        cells = self.network.side // cell
        moved = [torch.zeros(*each.shape[:2], cells, cells, device=device, requires_grad=True) for each in begun]

        def shown() -> list[Tensor]:
            grown = (F.interpolate(each, scale_factor=cell, mode="nearest") for each in moved)
            return [each + shift for each, shift in zip(begun, grown, strict=True)]

        optimizer = torch.optim.Adam(moved, lr=lr, betas=(0.9, 0.95))
        queries = self._queries(parts.learning, batch_size, rng)
        best, scores, waited = start, deque([self._test(begun[0], begun[1], judging).score], _STEADY), 0
        start_score = best_score = scores[0]
        for step in range(1, steps + 1):
            clock = time.perf_counter()
            _reset_peak(device)
            for settings in optimizer.param_groups:
                settings["lr"] = lr * (0.55 + 0.45 * cos(pi * step / steps))  # to a tenth
            batch = self._batch(next(queries))
            painted = self.network.answer(batch.image_canvas, self.network.prepare(*shown()))
            loss, _ = training_loss(painted, batch, LossWeights(), beta=_BETA)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seconds, memory, score, found = time.perf_counter() - clock, _memory(device), None, None
            if step % _BETWEEN_SCORES == 0 or step == steps:
                with torch.no_grad():
                    now = shown()
                tested = self._test(now[0], now[1], judging)
                told = zip(judging, tested.found[:_MOST_TOLD], strict=False)
                score, found = tested.score, {n: self.palette.ids[rows] for n, rows in told}
                scores.append(score)
                waited += 1
                steady = float(np.mean(scores))
                if steady > best_score and steady >= start_score + _CLEARLY:
                    best_score, waited = steady, 0
                    best = LearnedGroup(self.palette, *(each.cpu().numpy() for each in now))
            on_step(TuningStep(step, steps, best.ids, loss.item(), seconds, memory, score, best_score, found))
            if waited >= _PATIENCE:
                break
        return best

    def _showing(self, numbers: Iterable[int]) -> list[int]:
        return [n for n in numbers if self._images[n].ids]

    def _tiled(self, numbers: Sequence[int]) -> LabelledImage:
        return tiled([self._images[n] for n in numbers], self.network.side)

    def _mean(self, numbers: Sequence[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Average their canvases, (3, side, side) each."""
        batches = [self._batch([self._images[n]]) for n in numbers]
        images, masks = (
            sum(getattr(batch, name)[0] for batch in batches) / len(batches) for name in ("image_canvas", "mask_canvas")
        )
        return images.cpu().numpy(), masks.cpu().numpy()

    def _ranked(self, candidates: Sequence[tuple[int, ...]], on_tried: Callable[[], None]) -> list[tuple[int, ...]]:
        """Order the labelled images by what each finds as the only prompt of all others: by mean IoU, then by loss."""
        ranked = []
        for candidate in candidates:
            batch = self._batch([self._tiled(candidate)])
            others = [n for n in range(len(self._images)) if n not in candidate]
            tested = self._test(batch.image_canvas, batch.mask_canvas, others or candidate)
            ranked.append((-tested.score, tested.loss, candidate))
            on_tried()
        return [candidate for _, _, candidate in sorted(ranked)]

    @torch.no_grad()
    def _test(self, images: Tensor, masks: Tensor, numbers: Sequence[int]) -> _Tested:
        """Measure what a prompt tensor is worth on images as the network sees them."""
        context, found, losses = self.network.prepare(images, masks), [], []
        rows = Palette(np.arange(len(self.palette.ids), dtype=np.uint8), self.palette.colors)
        judges = [self._images[n] for n in numbers]
        for judge in judges:
            batch = self._batch([judge])
            painted, read = self.network.read(batch.image_canvas, context, rows)
            losses.append(training_loss(painted, batch, LossWeights(), beta=_BETA)[0].item())
            found.append(read[0])
        score = mean_iou(found, [judge.mask for judge in judges], range(1, len(self.palette.ids)))
        return _Tested(score, float(np.mean(losses)), found)

    def _queries(self, numbers: Sequence[int], count: int, rng: np.random.Generator) -> Iterator[list[LabelledImage]]:
        """Draw augmented queries, `count` at a time: images that show the ids in turns, now and then one without."""
        showing = self._showing(numbers)
        lacking = [*(self._images[n] for n in numbers if n not in showing), *self._empty]
        turn: list[int] = []
        while True:
            drawn = []
            for _ in range(count):
                if lacking and rng.random() < _LACKING:
                    image = lacking[int(rng.integers(len(lacking)))]
                else:
                    turn = turn or rng.permutation(showing).tolist()
                    image = self._images[turn.pop()]
                drawn.append(changed(image, rng))
            yield drawn

    def _batch(self, images: Sequence[LabelledImage]) -> Batch:
        """Make queries of (side, side) with their masks painted in the group's colours, the whole mask hidden."""
        count, grid = len(images), self.network.grid
        stacked = Stacked(
            torch.from_numpy(np.stack([image.image for image in images])),
            torch.from_numpy(np.stack([image.mask for image in images])),
            torch.tensor(self.palette.colors).expand(count, -1, -1),
            torch.ones(count, len(self.palette.ids), dtype=torch.bool),
            torch.ones(count, grid, grid, dtype=torch.bool),
        )
        return paint_batch(stacked, self.network.device)


def mean_iou(found: Sequence[Pixels], truth: Sequence[npt.NDArray[np.integer]], ids: Sequence[int]) -> float:
    """Average IoU over the ids that are in the truth or were found, 0..1; pixels are summed over all images first.

    Args:
        found, truth: (H, W) ids each, of the same sizes; where the truth is 255 nothing counts. 1 where nothing was
            there and nothing was found.
    """
    intersection, union = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for one, other in zip(found, truth, strict=True):
        known = other != IGNORED
        one, other = one[known], other[known]  # noqa: PLW2901
        both = np.bincount(one[one == other], minlength=256)
        intersection += both
        union += np.bincount(one, minlength=256) + np.bincount(other, minlength=256) - both
    shares = [intersection[i] / union[i] for i in ids if union[i]]
    return float(np.mean(shares)) if shares else 1.0


_WHOLE = ("forward", "last_rows", "apart")  # what runs a block


@contextmanager
def frozen(model: SegGPT, checkpointing: bool) -> Iterator[None]:
    """Keep all parameters from asking for a gradient.

    Args:
        checkpointing: Blocks keep their inputs only and are computed twice.
    """
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    if checkpointing:
        for block in model.blocks:
            for name in _WHOLE:
                block.__dict__[name] = partial(checkpoint, getattr(block, name), use_reentrant=False)
    try:
        yield
    finally:
        for block in model.blocks:
            for name in _WHOLE:
                block.__dict__.pop(name, None)
        for parameter, needed in asked:
            parameter.requires_grad_(needed)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)
