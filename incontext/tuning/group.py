"""Learning one group of ids: the prompt half of both canvases by gradient descent through the frozen network.

Refuses to know where pictures come from, prompt tensors of several groups, and files.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import cos, pi
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from incontext import canvas
from incontext.engine import Segmenter
from incontext.formats import IGNORED, Pixels
from incontext.losses import Batch, LossWeights, paint_batch, training_loss
from incontext.model import ContextTokens, SegGPT, Tables, Task
from incontext.prompt_tensor import LearnedGroup
from incontext.tuning.pictures import Picture, changed
from incontext.types import Palette

Start = Literal["best", "mean", "noise"]

_BETA = 0.1  # of smooth L1: what training ends with
_BETWEEN_SCORES = 10  # steps
_STEADY = 3  # scores in a row whose mean decides, as single ones on few pictures go up and down by chance
_PATIENCE = 8  # scores in a row without a better mean, after which a group is done
_MOST_TRIED = 16  # examples as a start, each on all the others
_MOST_TOLD = 8  # pictures, of what is found while learning
_LACKING = 0.1  # of the queries show none of a group's ids, where there are such pictures


@dataclass(frozen=True)
class TuningStep:
    """What `tune` reports after each step."""

    step: int  # steps done; groups that stopped early count in full
    steps: int  # of all groups of ids together
    ids: tuple[int, ...]  # of the group that is being tuned
    loss: float
    seconds: float  # of this step, without scoring
    memory: int  # bytes: allocated on a CUDA device at the step's peak, else held by the process after it
    score: float | None  # mean IoU of the group on the held-out pictures, 0..1, after steps that measure it
    best: float  # the best mean of three such scores in a row so far, or that of the start
    found: tuple[Pixels, ...] | None  # with a score: (side, side) ids found in the first pictures that judge


class Network:
    """The frozen network as tuning uses it: differentiable in the context alone."""

    def __init__(self, segmenter: Segmenter, task: Task) -> None:
        self.model, self.device, self.dtype = segmenter.model, segmenter.device, segmenter.dtype
        self.side, self.grid, self.task = segmenter.config.side, segmenter.config.grid, task
        with torch.no_grad():
            self.tables: Tables = self.model.tables(self.grid)

    def prepare(self, images: Tensor, masks: Tensor) -> ContextTokens:
        """(N, 3, side, side) each, normalised float32."""
        shown = (each.unsqueeze(0).to(self.dtype) for each in (images, masks))
        return self.model.prepare(*shown, task=self.task, tables=self.tables)

    def answer(self, queries: Tensor, context: ContextTokens) -> Tensor:
        """(B, 3, side, side) normalised -> the same, float32."""
        return self.model.answer(queries.to(self.dtype), context).float()


class _Tested(NamedTuple):
    """Mean IoU over a group's ids, the mean loss, and the rows of its palette that were found in each picture."""

    score: float
    loss: float
    found: list[Pixels]


class Group:
    """The ids of one palette: the pictures that show them, as the network sees them, and the learning."""

    def __init__(
        self,
        network: Network,
        palette: Palette,
        learning: Sequence[Picture],
        judging: Sequence[Picture],
        empty: Sequence[Picture],
    ) -> None:
        self.network = network
        self.palette = palette
        self.showing = [picture for picture in learning if picture.shows]
        self.lacking = [picture for picture in (*learning, *empty) if not picture.shows]
        self.judging = list(judging)
        self._labelled = list(dict.fromkeys((*learning, *judging)))  # each once

    def to_try(self, start: Start, shots: int) -> int:
        """How many examples will be tried as a start."""
        return min(len(self.showing), max(shots, _MOST_TRIED)) if start == "best" else 0

    def started(self, start: Start, shots: int, rng: np.random.Generator, on_tried: Callable[[], None]) -> LearnedGroup:
        """What learning begins with; on_tried is called for each of `to_try` examples.

        Raises:
            ValueError: too few pictures show the ids.
        """
        side, needed = self.network.side, 1 if start == "noise" else shots
        if len(self.showing) < needed:
            raise ValueError(
                f"expected at least {needed} pictures to learn from that show one of the ids "
                f"{self.palette.ids[1:].tolist()}, one for each shot, got {len(self.showing)}; ask for fewer shots, "
                "hold out fewer pictures, or start from noise"
            )
        if start == "noise":
            shape = (shots, 3, side, side)
            return LearnedGroup(self.palette, *(rng.standard_normal(shape, dtype=np.float32) for _ in range(2)))
        if start == "mean":
            means = [self._mean(self.showing[shot::shots]) for shot in range(shots)]
            return LearnedGroup(self.palette, *(np.stack(each) for each in zip(*means, strict=True)))
        shown = self._batch(self._best(shots, rng, on_tried))
        return LearnedGroup(self.palette, shown.image_canvas.cpu().numpy(), shown.mask_canvas.cpu().numpy())

    def learn(
        self,
        start: LearnedGroup,
        steps: int,
        lr: float,
        batch_size: int,
        cell: int,
        rng: np.random.Generator,
        on_step: Callable[[TuningStep], None],
    ) -> LearnedGroup:
        """The best of what gradient descent passes through, by the judging pictures: see `_STEADY`.

        cell: pixels along a side of the squares that are moved as one, all of a square by the same colour.
        """
        device = self.network.device
        begun = [torch.tensor(each, device=device) for each in (start.images, start.masks)]
        cells = self.network.side // cell
        moved = [torch.zeros(*each.shape[:2], cells, cells, device=device, requires_grad=True) for each in begun]

        def shown() -> list[Tensor]:
            grown = (F.interpolate(each, scale_factor=cell, mode="nearest") for each in moved)
            return [each + shift for each, shift in zip(begun, grown, strict=True)]

        optimizer = torch.optim.Adam(moved, lr=lr, betas=(0.9, 0.95))
        queries = self._queries(batch_size, rng)
        best, scores, waited = start, deque([self._test(begun[0], begun[1], self.judging).score], _STEADY), 0
        best_score = scores[0]
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
                tested = self._test(now[0], now[1], self.judging)
                score, found = tested.score, tuple(self.palette.ids[each] for each in tested.found[:_MOST_TOLD])
                scores.append(score)
                waited += 1
                if (steady := float(np.mean(scores))) > best_score:
                    best_score, waited = steady, 0
                    best = LearnedGroup(self.palette, *(each.cpu().numpy() for each in now))
            on_step(TuningStep(step, steps, best.ids, loss.item(), seconds, memory, score, best_score, found))
            if waited >= _PATIENCE:
                break
        return best

    def _mean(self, pictures: Sequence[Picture]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The mean of their canvases, (3, side, side) each."""
        batches = [self._batch([picture]) for picture in pictures]
        images, masks = (
            sum(getattr(batch, name)[0] for batch in batches) / len(batches) for name in ("image_canvas", "mask_canvas")
        )
        return images.cpu().numpy(), masks.cpu().numpy()

    def _best(self, count: int, rng: np.random.Generator, on_tried: Callable[[], None]) -> list[Picture]:
        """The pictures that find most as the only prompt of all other labelled ones: by mean IoU, then by loss."""
        tried = [self.showing[n] for n in rng.permutation(len(self.showing))[: self.to_try("best", count)]]
        ranked = []
        for number, candidate in enumerate(tried):
            others = [picture for picture in self._labelled if picture is not candidate]
            batch = self._batch([candidate])
            tested = self._test(batch.image_canvas, batch.mask_canvas, others or [candidate])
            ranked.append((-tested.score, tested.loss, number))
            on_tried()
        return [tried[number] for _, _, number in sorted(ranked)[:count]]

    @torch.no_grad()
    def _test(self, images: Tensor, masks: Tensor, pictures: Sequence[Picture]) -> _Tested:
        """What a key is worth on pictures as the network sees them."""
        context, found, losses = self.network.prepare(images, masks), [], []
        rows = Palette(np.arange(len(self.palette.ids), dtype=np.uint8), self.palette.colors)
        for picture in pictures:
            batch = self._batch([picture])
            painted = self.network.answer(batch.image_canvas, context)
            losses.append(training_loss(painted, batch, LossWeights(), beta=_BETA)[0].item())
            found.append(canvas.read_colors(canvas.unpaint(painted), rows)[0][0].cpu().numpy())
        score = mean_iou(found, [picture.mask for picture in pictures], range(1, len(self.palette.ids)))
        return _Tested(score, float(np.mean(losses)), found)

    def _queries(self, count: int, rng: np.random.Generator) -> Iterator[list[Picture]]:
        """Augmented queries, `count` at a time: the pictures that show the ids in turns, now and then one without."""
        turn: list[int] = []
        while True:
            drawn = []
            for _ in range(count):
                if self.lacking and rng.random() < _LACKING:
                    picture = self.lacking[int(rng.integers(len(self.lacking)))]
                else:
                    turn = turn or rng.permutation(len(self.showing)).tolist()
                    picture = self.showing[turn.pop()]
                drawn.append(changed(picture, rng))
            yield drawn

    def _batch(self, pictures: Sequence[Picture]) -> Batch:
        """Queries of (side, side) with their masks painted in the group's colours, the whole mask hidden."""
        count, grid = len(pictures), self.network.grid
        stacked = (
            torch.from_numpy(np.stack([picture.image for picture in pictures])),
            torch.from_numpy(np.stack([picture.mask for picture in pictures])),
            torch.tensor(self.palette.colors).expand(count, -1, -1),
            torch.ones(count, len(self.palette.ids), dtype=torch.bool),
            torch.ones(count, grid, grid, dtype=torch.bool),
        )
        return paint_batch(stacked, self.network.device)


def mean_iou(found: Sequence[Pixels], truth: Sequence[npt.NDArray[np.integer]], ids: Sequence[int]) -> float:
    """Mean IoU over the ids that are in the truth or were found, 0..1; pixels are summed over all pictures first.

    found, truth: (H, W) ids each, of the same sizes; where the truth is 255 nothing counts. 1 where nothing was there
    and nothing was found.
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


@contextmanager
def frozen(model: SegGPT, checkpointing: bool) -> Iterator[None]:
    """No parameter asks for a gradient. checkpointing: blocks keep their inputs only and are computed twice."""
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    if checkpointing:
        for block in model.blocks:
            for name in ("forward", "apart"):
                block.__dict__[name] = partial(checkpoint, getattr(block, name), use_reentrant=False)
    try:
        yield
    finally:
        for block in model.blocks:
            for name in ("forward", "apart"):
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
