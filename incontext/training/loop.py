"""The training loop: episodes in, a checkpoint out, at any point resumable with the same result.

A step's episodes follow from the recipe's seed and the step's number alone, so a run that was stopped and resumed sees
what an uninterrupted one sees, and several processes see together what a single one sees. The loop refuses to know
where episodes come from (episodes.py, scenes/) and what colours are (coloring.py).
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from incontext.learning.losses import (
    Stacked,
    paint_batch,
)
from incontext.network.checkpoint import save_model
from incontext.network.model import SegGPT
from incontext.options import TrainingDtype
from incontext.training.coloring import Painted, collate, paint_episode, see
from incontext.training.episodes import EpisodeSource
from incontext.training.features import Targets
from incontext.training.parallel.processes import ALONE, Team
from incontext.training.parallel.slices import MIB, Slices
from incontext.training.recipes import Recipe
from incontext.training.run import Run, has_state
from incontext.training.sets import ImageSet
from incontext.training.teacher import Heads, listening
from incontext.training.validation import Validation

_BETWEEN_REPORTS = 20  # steps
_RIDGE_EPISODES, _RIDGE_FIRST = 192, 2**40  # by which a teacher's heads are started: none that the run sees


@dataclass(frozen=True)
class TrainingProgress:
    """What the loop reports after a step."""

    step: int  # steps done
    steps: int  # steps of the whole run
    side: int  # of the stage
    loss: float  # running mean
    parts: dict[str, float]
    episodes_per_second: float
    waiting: float  # share of the time that the network waited for episodes
    precision: str  # of the products, such as "training in float32, Newton-Schulz in float32"
    validation: float | None = None  # mean IoU of the averaged weights on held-out images, in steps that measure it
    unseen: float | None = None  # the same on images of sets of which none is learned from


class _Painter(Dataset[Painted]):
    """Episode number and number of prompts -> painted episode; what the loader's workers run."""

    def __init__(
        self, recipe: Recipe, sets: Sequence[ImageSet], side: int, targets: Targets | None, *, unlit: bool = False
    ) -> None:
        self.recipe = recipe
        self.targets = targets
        traced = targets is not None
        self.source = EpisodeSource(sets, recipe.sampling, side=side, seed=recipe.seed, unlit=unlit, traced=traced)

    def __getitem__(self, which: tuple[int, int]) -> Painted:
        episode = self.source.draw(*which)
        rng = np.random.default_rng([self.recipe.seed, which[0], 1])
        recipe = self.recipe
        return paint_episode(episode, rng, patch=recipe.model.patch, coloring=recipe.coloring, targets=self.targets)


def _batches(
    recipe: Recipe,
    sets: Sequence[ImageSet],
    targets: Targets | None,
    first_step: int,
    workers: int,
    team: Team,
    *,
    unlit: bool,
) -> Iterator[Stacked]:
    """Collate the share of each batch that this process has, from ``first_step`` to the end of the run."""
    step = first_step
    while step < recipe.steps:
        stage, start, episodes_before = recipe.stage_at(step)
        first = episodes_before - start * stage.batch
        numbers = (
            [(number, recipe.shots_at(at)) for number in team.share(first + at * stage.batch, stage.batch)]
            for at in range(step, start + stage.steps)
        )
        loader = DataLoader(
            _Painter(recipe, sets, stage.side, targets, unlit=unlit),
            batch_sampler=numbers,
            num_workers=workers,
            collate_fn=collate,
            prefetch_factor=4 if workers else None,
            multiprocessing_context="fork" if workers else None,  # the decoded sets are shared, not copied
        )
        for batch in loader:
            yield batch
            step += 1


def train(
    recipe: Recipe,
    sets: Sequence[ImageSet],
    out: Path,
    *,
    held_out: Sequence[ImageSet] = (),
    unseen: Sequence[ImageSet] = (),
    targets: Targets | None = None,
    device: str = "cpu",
    workers: int = 1,
    dtype: TrainingDtype = "auto",
    save_every: int = 500,
    save_minutes: float = 5.0,
    slices: Slices | None = None,
    init: SegGPT | None = None,
    team: Team = ALONE,
    sharded: bool = False,
    on_start: Callable[[str], None] | None = None,
    on_report: Callable[[TrainingProgress], None] | None = None,
) -> Path:
    """Run a recipe, or go on with what ``out`` holds of it, and return the path of the averaged weights.

    With a ``team`` every process calls this with the same arguments, its own device apart, and an ``out`` that all of
    them see; only process 0 writes and reports. All together take the recipe's batch, with the same episodes and up to
    rounding the same losses and weights as one process, so a run may go on with another number of processes.
    ``sharded``: each process holds a part of weights, average and optimizer state (FSDP2), for networks of which not
    each can hold all; a run may go on with or without it.

    Args:
        sets: What episodes are drawn from.
        held_out: Images for validation, drawn into ``out/validation/*.png``. ``out/state.pt``, or ``out/state/`` with
            ``slices``, is the whole state, written every ``save_minutes`` and every ``save_every`` steps: a run that is
            killed loses no more than that. Every ``save_every`` steps the averaged weights are also written to
            ``out/model.safetensors`` in float32, and validated. ``out/log.jsonl`` has a line per report (20 steps), and
            tells the precision. ``init``: weights to start from, of the recipe's configuration.
        workers: Processes that make episodes; 0 makes them between the steps.
        dtype: Precision of the products; "auto" is bfloat16 where the hardware multiplies it, else float32, and a run
            may go on in the other one.
        on_start: Gets the precision in words before the first step.

    Raises:
        ValueError: ``out`` holds the state of another recipe, or is not the same folder for all processes; a batch has
            fewer episodes than there are processes; the network is too large for ``slices``; there is nobody to shard
            it with.
    """
    _check(recipe, team, slices, sharded)
    if team.rank == 0:
        (out / "validation").mkdir(parents=True, exist_ok=True)
    heads = _make_heads(recipe, sets, targets, init, fresh=not has_state(out))
    run = Run(recipe, torch.device(device), init, heads=heads, team=team, dtype=dtype, sharded=sharded)
    run.restore(out)
    team.check_equal(run.step, f"expected a folder that all processes see, got different states in {out}")
    if on_start is not None and team.rank == 0:
        on_start(run.computes())
    watch, saved = _Watch(recipe, out, {"step": held_out, "unseen": unseen}), time.perf_counter()
    # Where there is an accelerator it lights whole batches; else the workers do.
    batches = _batches(recipe, sets, targets, run.step, workers, team, unlit=run.device.type != "cpu")
    while run.step < recipe.steps:
        stage, before = recipe.stage_at(run.step)[0], time.perf_counter()
        batch = paint_batch(next(batches), run.device)
        waited = time.perf_counter() - before
        loss, parts = run.advance(batch)
        watch.learned(loss, stage.batch, waited)
        milestone = run.step % save_every == 0 or run.step == recipe.steps
        average = run.averaged() if milestone else None
        if average is not None and team.rank == 0:  # before the state: a run that goes on from that has these weights
            metadata = {"recipe": json.dumps(recipe.to_dict()), "step": str(run.step)}
            save_model(out / "model.safetensors", average, metadata=metadata)
        if team.agree(milestone or time.perf_counter() - saved >= 60 * save_minutes):
            run.save(out, slices)
            saved = time.perf_counter()
        if team.rank != 0:
            continue
        scores = {} if average is None else watch.scores(run, average, stage.side)
        if run.step % _BETWEEN_REPORTS == 0 or milestone:
            progress = watch.report(run, stage.side, parts, scores)
            if on_report is not None:
                on_report(progress)
    return out / "model.safetensors"


class _Watch:
    """What is known of how a run goes: its loss, its speed, its scores; the log is kept here.

    Args:
        judging: Sets to validate by, by the word that their images are called after.
    """

    def __init__(self, recipe: Recipe, out: Path, judging: Mapping[str, Sequence[ImageSet]]) -> None:
        self._recipe, self._out, self._judging = recipe, out, judging
        self._validations: dict[tuple[int, str], Validation] = {}
        self._loss: float | None = None
        self._clock, self._waited, self._drawn = time.perf_counter(), 0.0, 0

    def learned(self, loss: float, episodes: int, waited: float) -> None:
        """Note a step: its loss, its episodes, and the seconds that it waited for them."""
        self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
        self._waited += waited
        self._drawn += episodes

    def scores(self, run: Run, average: SegGPT, side: int) -> dict[str, float]:
        """Validate averaged weights by every kind of sets that there is, and draw an image of each."""
        found: dict[str, float] = {}
        for kind, judging in self._judging.items():
            if not judging:
                continue
            if (side, kind) not in self._validations:
                self._validations[side, kind] = Validation.draw(judging, side=side, patch=self._recipe.model.patch)
            image = self._out / "validation" / f"{kind}_{run.step:07d}.png"
            found[kind] = self._validations[side, kind].score(average, run.device, image)
        return found

    def report(self, run: Run, side: int, parts: dict[str, float], scores: Mapping[str, float]) -> TrainingProgress:
        """Write a line into the log, and begin to count anew."""
        now = time.perf_counter()
        assert self._loss is not None  # a step was learned
        progress = TrainingProgress(
            run.step,
            self._recipe.steps,
            side,
            self._loss,
            parts,
            self._drawn / (now - self._clock),
            self._waited / (now - self._clock),
            run.computes(),
            scores.get("step"),
            scores.get("unseen"),
        )
        self._clock, self._waited, self._drawn = now, 0.0, 0
        with (self._out / "log.jsonl").open("a") as log:
            log.write(json.dumps(dataclasses.asdict(progress)) + "\n")
        return progress


def _make_heads(
    recipe: Recipe, sets: Sequence[ImageSet], targets: Targets | None, init: SegGPT | None, *, fresh: bool
) -> Heads | None:
    """Make the heads that a recipe needs for its teacher; a new run begins with the best that the tokens allow."""
    if recipe.teaching is None:
        return None
    if targets is None:
        raise ValueError(f"the recipe learns from {recipe.teaching.name}, but there are no features of it")
    heads = Heads(recipe.teaching.blocks_of(recipe.model), recipe.model.width, targets.dims)
    if not fresh or init is None:
        return heads
    stage, painter = recipe.stages[0], _Painter(recipe, sets, recipe.stages[0].side, targets)

    def pairs() -> Iterator[tuple[list[Tensor], Tensor]]:
        for first in range(0, _RIDGE_EPISODES, stage.batch):
            numbers = range(_RIDGE_FIRST + first, _RIDGE_FIRST + first + stage.batch)
            batch = paint_batch(collate([painter[number, 1] for number in numbers]), torch.device("cpu"))
            with torch.no_grad(), listening(init, heads.blocks) as heard:
                see(init, batch.image_canvas, batch.mask_canvas, batch.masked)
            assert batch.targets is not None
            yield heard, batch.targets

    heads.start(pairs())
    return heads


def _check(recipe: Recipe, team: Team, slices: Slices | None, sharded: bool) -> None:
    if sharded and team.size == 1:
        raise ValueError("expected several processes to share a network among, got one; start them with torchrun")
    smallest = min(stage.batch for stage in recipe.stages)
    if smallest < team.size:
        raise ValueError(f"expected at most {smallest} processes, as the smallest batch has episodes, got {team.size}")
    if slices is not None:
        with torch.device("meta"):
            parameters = sum(p.numel() for p in SegGPT(recipe.model).parameters())
        needed = -(-4 * parameters // MIB)  # weights and average, two bytes each
        if needed > slices.total_mib:
            raise ValueError(
                f"expected a network whose state fits into {slices.total_mib} MiB of slices, got one that needs "
                f"{needed} without its optimizers; allow more, or save the state whole"
            )
