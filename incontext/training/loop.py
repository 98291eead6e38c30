"""The training loop: episodes in, a checkpoint out, at any point resumable with the same result.

A step's episodes follow from the recipe's seed and the step's number alone, so a run that was stopped and resumed sees
what an uninterrupted one sees, and several processes see together what a single one sees. The loop refuses to know
where episodes come from (episodes.py, training/scenes/scene.py) and what colours are (coloring.py).
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from incontext.canvas.read import color_shares
from incontext.learning.losses import (
    Batch,
    Stacked,
    counts,
    paint_batch,
    presence_loss,
    training_loss,
    unjudged_where_absent,
)
from incontext.network.checkpoint import save_model
from incontext.network.devices import products_in
from incontext.network.model import SegGPT, Task
from incontext.training.coloring import Painted, collate, paint, paint_episode, see
from incontext.training.corrections import corrected
from incontext.training.episodes import EpisodeSource
from incontext.training.features import Targets
from incontext.training.optimizers import Muon, make_optimizers
from incontext.training.parallel.processes import ALONE, Team
from incontext.training.parallel.sharding import gathered, part_like, restore_optimizer, shard
from incontext.training.parallel.slices import MIB, Slices, pack, read_slices, unpack, write_slices
from incontext.training.precision import Precision, TrainingDtype
from incontext.training.recipes import Recipe
from incontext.training.sets import ImageSet
from incontext.training.teacher import Heads, listening
from incontext.training.validation import Validation

_RIDGE_EPISODES, _RIDGE_FIRST = 192, 2**40  # by which a teacher's heads are started: none that the run sees


@dataclass(frozen=True)
class Progress:
    """What the loop reports after a step."""

    step: int  # steps done
    steps: int  # steps of the whole run
    side: int  # of the stage
    loss: float  # running mean
    parts: dict[str, float]
    episodes_per_second: float
    waiting: float  # share of the time that the network waited for episodes
    precision: str  # of the products, such as "training in float32, Newton-Schulz in float32"
    validation: float | None = None  # mean IoU of the averaged weights on held-out pictures, in steps that measure it
    unseen: float | None = None  # the same on pictures of sets of which none is learned from


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
    """This process's collated share of each batch, from ``first_step`` to the end of the run."""
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


class _Answer(NamedTuple):
    """What a step judges."""

    painted: Tensor  # (B, 3, (N + 1) * side, side)
    presence: Tensor | None  # (B, K) logits, where there is such a head
    taught: tuple[Tensor, Tensor] | None  # sum and number of the cosines to the teacher's features


class _Painting(nn.Module):
    """The network as DistributedDataParallel calls it, with the heads that stand on it while it learns.

    ``pull`` is the share of the presence head's gradient that goes on into the network. At 0 the head looks on, and
    masks are learned as without it.
    """

    def __init__(self, model: SegGPT, pull: float, heads: Heads | None) -> None:
        super().__init__()
        self.model = model
        self.pull = pull
        self.heads = heads

    def forward(self, batch: Batch, task: Task) -> _Answer:
        with listening(self.model, () if self.heads is None else self.heads.blocks) as heard:
            seen = see(self.model, batch.image_canvas, batch.mask_canvas, batch.masked, task)
        taught = None
        if self.heads is not None and batch.targets is not None:
            taught = self.heads(heard, batch.targets)
        if self.model.presence is None:
            return _Answer(seen.painted, None, taught)
        side = batch.image_canvas.shape[-1]
        query = seen.painted[:, :, -side:].detach()
        shares = color_shares(query, batch.colors, batch.used, side // batch.masked.shape[-1])
        tokens = torch.lerp(seen.tokens.detach(), seen.tokens, self.pull)  # the same tokens
        return _Answer(seen.painted, self.model.presence(tokens, shares), taught)


class Run:
    """The state of a run: weights, their average, optimizers and the step, on a device.

    With a ``team`` of several processes each holds all of it, or if ``sharded`` a part of it, and advances by its share
    of the batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        init: SegGPT | None = None,
        *,
        heads: Heads | None = None,
        team: Team = ALONE,
        dtype: TrainingDtype = "auto",
        sharded: bool = False,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.device = device
        self.team = team
        self.precision = Precision.choose(dtype, device, team)
        self.sharded = sharded
        self.step = 0
        self.model = SegGPT(recipe.model)
        if init is not None:
            self.model.load_state_dict(init.state_dict())
        self.model.to(device).train()
        if recipe.only_presence:
            if self.model.presence is None:
                raise ValueError("expected a network with a presence head, of which alone this recipe is")
            self.model.requires_grad_(False)
            self.model.presence.requires_grad_(True)
        self.heads = None if heads is None else heads.to(device)
        self._paint: nn.Module = _Painting(self.model, recipe.presence_pull, self.heads)
        if sharded:
            shard(self._paint, device, team.size)
        elif team.size > 1:  # one of the type tokens is unused in every step
            self._paint = DistributedDataParallel(self._paint, find_unused_parameters=True)
        self._average = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.optimizers = make_optimizers(self.model, recipe, self.heads, newton_schulz=self.precision.newton_schulz)
        self._plateau = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def computes(self) -> str:
        """In which precision, for people."""
        network, newton_schulz = (
            str(each).removeprefix("torch.") for each in (self.precision.network, self.precision.newton_schulz)
        )
        has_muon = any(isinstance(optimizer, Muon) for optimizer in self.optimizers)
        return f"training in {network}" + (f", Newton-Schulz in {newton_schulz}" if has_muon else "")

    def advance(self, batch: Batch) -> tuple[float, dict[str, float]]:
        """One step: the loss and its parts, of the whole batch of which ``batch`` is this process's share."""
        recipe, team = self.recipe, self.team
        for optimizer, rates in zip(self.optimizers, self._plateau, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * recipe.rate(self.step)
        loss, parts = self.backward(batch)
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(recipe.ema, (1 + self.step) / (10 + self.step))  # the first steps are soon forgotten
        with torch.no_grad():
            for averaged, value in zip(self._average.values(), self.model.parameters(), strict=True):
                averaged.lerp_(value, 1 - keep)
        values = team.add(torch.tensor([loss.item(), *parts.values()], device=self.device)).tolist()
        return values[0], dict(zip(parts, values[1:], strict=True))

    def backward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The gradients of the whole batch, in every process; this one's share of the loss and of its parts.

        The loss is a mean over pixels and ids, of which the processes have different numbers. So each share is divided
        by the numbers of the whole batch: the shares, and their gradients, add up to what a single process computes.
        """
        recipe, team = self.recipe, self.team
        if self.model.presence is not None and not recipe.black_if_absent:
            batch = unjudged_where_absent(batch)
        # Both type tokens see all kinds of episodes in turn, so that either serves whatever is asked of it.
        task: Task = "instance" if self.step % 2 else "semantic"
        precision = products_in(self.precision.network, self.device)
        if recipe.is_corrected(self.step):
            batch = self._corrected(batch, task, precision)
        total = team.add(counts(batch)) if team.size > 1 else None
        with precision:
            painted, presence, taught = self._paint(batch, task)
        loss, parts = training_loss(
            painted, batch, recipe.coloring.loss_weights, beta=recipe.beta_at(self.step), total=total
        )
        if presence is not None:
            judged = presence_loss(presence, batch, total=total)
            loss = judged if recipe.only_presence else loss + judged
            parts["presence"] = judged.item()
        if taught is not None and recipe.teaching is not None:
            cosines, number = taught
            away = 1 - cosines / (number if team.size == 1 else team.add(number)).clamp_min(1)
            away = away if team.size == 1 else away - 1 + 1 / team.size  # the shares of one
            loss = loss + recipe.teaching.weight * away
            parts["teacher"] = away.item()
        summed = loss * team.size  # DistributedDataParallel takes the mean of the gradients
        summed.backward()  # type: ignore[no-untyped-call]
        return loss, parts

    @torch.no_grad()
    def _corrected(self, batch: Batch, task: Task, precision: torch.autocast) -> Batch:
        """The batch with hints where the network errs, as it is now."""
        with precision:
            painted = paint(self.model, batch.image_canvas, batch.mask_canvas, batch.masked, task)
        generator = torch.Generator().manual_seed(
            1_000_003 * self.recipe.seed + self.team.size * self.step + self.team.rank
        )
        return corrected(batch, painted, most=self.recipe.most_corrections, generator=generator)

    def averaged(self) -> SegGPT | None:
        """The network of the averaged weights, in eval mode; it shares them with a run that is not sharded.

        All processes must call this; of a sharded run only process 0 gets it.
        """
        average = gathered(self._average, keep=self.team.rank == 0)
        if self.sharded and self.team.rank != 0:
            return None
        with torch.device("meta"):
            model = SegGPT(self.recipe.model)
        model.load_state_dict(average, assign=True)
        return model.to(self.device).eval().requires_grad_(False)

    def state(self) -> dict[str, Any]:
        """Everything that a run goes on from. All processes must call this; of a sharded run only process 0 gets it."""
        state = {
            "recipe": json.dumps(self.recipe.to_dict()),
            "step": self.step,
            "model": dict(self.model.state_dict()),
            "average": self._average,
            "heads": None if self.heads is None else dict(self.heads.state_dict()),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        return gathered(state, keep=self.team.rank == 0)  # type: ignore[no-any-return]

    def save(self, out: Path, slices: Slices | None = None) -> None:
        """Write the whole state to ``out/state.pt``, or rounded to ``out/state/`` in slices; whole or not at all.

        All processes must call this; process 0 writes. Slices hold weights and average in bfloat16, and the optimizers'
        state too where it fits.

        Raises:
            ValueError: weights and average are larger than all slices together may be.
        """
        state, path, folder = self.state(), out / "state.pt", out / "state"
        if self.team.rank != 0:
            return
        if slices is None:
            beside = path.with_suffix(".partial")
            torch.save(state, beside)
            beside.replace(path)
            shutil.rmtree(folder, ignore_errors=True)
            return
        packed = pack(state)
        if len(packed) > slices.total_mib * MIB:
            packed = pack({**state, "optimizers": None})
        write_slices(folder, packed, self.step, slices)
        path.unlink(missing_ok=True)

    def restore(self, out: Path) -> None:
        """Go on from what ``out`` holds, if anything: the last state that was written.

        Raises:
            ValueError: the state belongs to another recipe, or is damaged.
        """
        path = out / "state.pt"
        if path.exists():
            with path.open("rb") as file:
                try:
                    state = torch.load(file, map_location="cpu", weights_only=True)
                except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
                    raise ValueError(f"{path} is damaged; remove it to begin anew, or choose another folder") from error
        elif (out / "state" / "index.json").exists():
            path = out / "state"
            state = unpack(read_slices(path))
        else:
            return
        if not self.recipe.is_stored_as(json.loads(state["recipe"])):
            raise ValueError(f"{path} is the state of a run of another recipe; choose another folder, or remove it")
        self.step = state["step"]
        own = self.model.state_dict()
        self.model.load_state_dict({name: part_like(value, own[name]) for name, value in state["model"].items()})
        for name, value in self._average.items():
            value.copy_(part_like(state["average"][name], value))
        if self.heads is not None:
            own = self.heads.state_dict()
            self.heads.load_state_dict({name: part_like(value, own[name]) for name, value in state["heads"].items()})
        if state["optimizers"] is not None:
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                restore_optimizer(optimizer, saved)


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
    on_report: Callable[[Progress], None] | None = None,
) -> Path:
    """Run a recipe, or go on with what ``out`` holds of it, and return the path of the averaged weights.

    sets: what episodes are drawn from; held_out: pictures for validation, drawn into ``out/validation/*.png``.
    ``out/state.pt``, or ``out/state/`` with ``slices``, is the whole state, written every ``save_minutes`` and every
    ``save_every`` steps: a run that is killed loses no more than that. Every ``save_every`` steps the averaged weights
    are also written to ``out/model.safetensors`` in float32, and validated. ``out/log.jsonl`` has a line per report
    (20 steps), and tells the precision. ``init``: weights to start from, of the recipe's configuration. workers:
    processes that make episodes; 0 makes them between the steps. dtype: precision of the products; "auto" is bfloat16
    where the hardware multiplies it, else float32, and a run may go on in the other one. on_start: gets the precision
    in words before the first step.

    With a ``team`` every process calls this with the same arguments, its own device apart, and an ``out`` that all of
    them see; only process 0 writes and reports. All together take the recipe's batch, with the same episodes and up to
    rounding the same losses and weights as one process, so a run may go on with another number of processes.
    ``sharded``: each process holds a part of weights, average and optimizer state (FSDP2), for networks of which not
    each can hold all; a run may go on with or without it.

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
    validations: dict[tuple[int, str], Validation] = {}
    running: float | None = None
    clock, waited, drawn = time.perf_counter(), 0.0, 0
    saved = clock
    # Where there is an accelerator it lights whole batches; else the workers do.
    batches = _batches(recipe, sets, targets, run.step, workers, team, unlit=run.device.type != "cpu")
    while run.step < recipe.steps:
        stage, before = recipe.stage_at(run.step)[0], time.perf_counter()
        batch = paint_batch(next(batches), run.device)
        waited += time.perf_counter() - before
        loss, parts = run.advance(batch)
        running = loss if running is None else 0.98 * running + 0.02 * loss
        drawn += stage.batch
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
        scores: dict[str, float] = {}
        for kind, judging in (("step", held_out), ("unseen", unseen)):
            if average is None or not judging:
                continue
            if (stage.side, kind) not in validations:
                validations[stage.side, kind] = Validation.draw(judging, side=stage.side, patch=recipe.model.patch)
            picture = out / "validation" / f"{kind}_{run.step:07d}.png"
            scores[kind] = validations[stage.side, kind].score(average, run.device, picture)
        if run.step % 20 == 0 or milestone:
            now = time.perf_counter()
            speed, waiting = drawn / (now - clock), waited / (now - clock)
            progress = Progress(
                run.step,
                recipe.steps,
                stage.side,
                running,
                parts,
                speed,
                waiting,
                run.computes(),
                scores.get("step"),
                scores.get("unseen"),
            )
            clock, waited, drawn = now, 0.0, 0
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(dataclasses.asdict(progress)) + "\n")
            if on_report is not None:
                on_report(progress)
    return out / "model.safetensors"


def has_state(out: Path) -> bool:
    """Whether a folder holds the state of a run."""
    return (out / "state.pt").exists() or (out / "state" / "index.json").exists()


def _make_heads(
    recipe: Recipe, sets: Sequence[ImageSet], targets: Targets | None, init: SegGPT | None, *, fresh: bool
) -> Heads | None:
    """The heads that a recipe needs for its teacher; a new run begins with the best that the tokens allow."""
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
