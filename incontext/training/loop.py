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
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from incontext.canvas.paint import color_shares
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
from incontext.network.model import SegGPT, Task
from incontext.training.coloring import Painted, collate, paint_episode, see
from incontext.training.episodes import EpisodeSource
from incontext.training.parallel.processes import ALONE, Team
from incontext.training.parallel.sharding import ShardedMuon, gathered, part_like, restore_optimizer, shard
from incontext.training.parallel.slices import MIB, Slices, pack, read_slices, unpack, write_slices
from incontext.training.recipes import Recipe
from incontext.training.sets import ImageSet
from incontext.training.validation import Validation

TrainingDtype = Literal["bfloat16", "float32"]  # of the network's products; weights, loss and optimizers are float32


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
    validation: float | None = None  # mean IoU of the averaged weights on held-out pictures, in steps that measure it


class _Painter(Dataset[Painted]):
    """Episode number and number of prompts -> painted episode; what the loader's workers run."""

    def __init__(self, recipe: Recipe, sets: Sequence[ImageSet], side: int, *, unlit: bool = False) -> None:
        self.recipe = recipe
        self.source = EpisodeSource(sets, recipe.sampling, side=side, seed=recipe.seed, unlit=unlit)

    def __getitem__(self, which: tuple[int, int]) -> Painted:
        episode = self.source.draw(*which)
        rng = np.random.default_rng([self.recipe.seed, which[0], 1])
        return paint_episode(episode, rng, patch=self.recipe.model.patch, coloring=self.recipe.coloring)


def _batches(
    recipe: Recipe, sets: Sequence[ImageSet], first_step: int, workers: int, team: Team, *, unlit: bool
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
            _Painter(recipe, sets, stage.side, unlit=unlit),
            batch_sampler=numbers,
            num_workers=workers,
            collate_fn=collate,
            prefetch_factor=4 if workers else None,
            multiprocessing_context="fork" if workers else None,  # the decoded sets are shared, not copied
        )
        for batch in loader:
            yield batch
            step += 1


def make_optimizers(model: nn.Module, recipe: Recipe, *, sharded: bool = False) -> list[torch.optim.Optimizer]:
    """Muon on the matrices of the blocks, AdamW on the rest; weight decay on matrices only. Of what learns."""
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = [
        p for name, p in learning.items() if name.startswith("blocks.") and name.endswith("weight") and p.ndim == 2
    ]
    taken = {id(p) for p in matrices}
    rest = [p for p in learning.values() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=recipe.other_lr, betas=(0.9, 0.98))
    if not matrices:
        return [adamw]
    kind = ShardedMuon if sharded else torch.optim.Muon
    muon = kind(matrices, lr=recipe.matrix_lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, adamw]


class _Painting(nn.Module):
    """The network as DistributedDataParallel calls it: answers, and logits of presence where there is such a head.

    ``pull`` is the share of the head's gradient that goes on into the network. At 0 the head looks on, and masks are
    learned as without it.
    """

    def __init__(self, model: SegGPT, pull: float) -> None:
        super().__init__()
        self.model = model
        self.pull = pull

    def forward(self, batch: Batch, task: Task) -> tuple[Tensor, Tensor | None]:
        seen = see(self.model, batch.image_canvas, batch.mask_canvas, batch.masked, task)
        if self.model.presence is None:
            return seen.painted, None
        side = batch.image_canvas.shape[-1]
        query = seen.painted[:, :, -side:].detach()
        shares = color_shares(query, batch.colors, batch.used, side // batch.masked.shape[-1])
        tokens = torch.lerp(seen.tokens.detach(), seen.tokens, self.pull)  # the same tokens
        return seen.painted, self.model.presence(tokens, shares)


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
        team: Team = ALONE,
        dtype: TrainingDtype = "bfloat16",
        sharded: bool = False,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.device = device
        self.team = team
        self.dtype = dtype
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
        self._paint: nn.Module = _Painting(self.model, recipe.presence_pull)
        if sharded:
            shard(self._paint, device, team.size)
        elif team.size > 1:  # one of the type tokens is unused in every step
            self._paint = DistributedDataParallel(self._paint, find_unused_parameters=True)
        self._average = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.optimizers = make_optimizers(self.model, recipe, sharded=sharded)
        self._plateau = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

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
        total = team.add(counts(batch)) if team.size > 1 else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            painted, presence = self._paint(batch, task)
        loss, parts = training_loss(
            painted, batch, recipe.coloring.loss_weights, beta=recipe.beta_at(self.step), total=total
        )
        if presence is not None:
            judged = presence_loss(presence, batch, total=total)
            loss = judged if recipe.only_presence else loss + judged
            parts["presence"] = judged.item()
        summed = loss * team.size  # DistributedDataParallel takes the mean of the gradients
        summed.backward()  # type: ignore[no-untyped-call]
        return loss, parts

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
        if state["optimizers"] is not None:
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                restore_optimizer(optimizer, saved)


def train(
    recipe: Recipe,
    sets: Sequence[ImageSet],
    out: Path,
    *,
    held_out: Sequence[ImageSet] = (),
    device: str = "cpu",
    workers: int = 1,
    dtype: TrainingDtype = "bfloat16",
    save_every: int = 500,
    save_minutes: float = 5.0,
    slices: Slices | None = None,
    init: SegGPT | None = None,
    team: Team = ALONE,
    sharded: bool = False,
    on_report: Callable[[Progress], None] | None = None,
) -> Path:
    """Run a recipe, or go on with what ``out`` holds of it, and return the path of the averaged weights.

    sets: what episodes are drawn from; held_out: pictures for validation, drawn into ``out/validation/*.png``.
    ``out/state.pt``, or ``out/state/`` with ``slices``, is the whole state, written every ``save_minutes`` and every
    ``save_every`` steps: a run that is killed loses no more than that. Every ``save_every`` steps the averaged weights
    are also written to ``out/model.safetensors`` in float32, and validated. ``out/log.jsonl`` has a line per report
    (20 steps). ``init``: weights to start from, of the recipe's configuration. workers: processes that make episodes;
    0 makes them between the steps.

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
    run = Run(recipe, torch.device(device), init, team=team, dtype=dtype, sharded=sharded)
    run.restore(out)
    team.check_equal(run.step, f"expected a folder that all processes see, got different states in {out}")
    validations: dict[int, Validation] = {}
    running: float | None = None
    clock, waited, drawn = time.perf_counter(), 0.0, 0
    saved = clock
    # Where there is an accelerator it lights whole batches; else the workers do.
    batches = _batches(recipe, sets, run.step, workers, team, unlit=run.device.type != "cpu")
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
        score = None
        if average is not None and held_out:
            if stage.side not in validations:
                validations[stage.side] = Validation.draw(held_out, side=stage.side, patch=recipe.model.patch)
            picture = out / "validation" / f"step_{run.step:07d}.png"
            score = validations[stage.side].score(average, run.device, picture)
        if run.step % 20 == 0 or milestone:
            now = time.perf_counter()
            speed, waiting = drawn / (now - clock), waited / (now - clock)
            progress = Progress(run.step, recipe.steps, stage.side, running, parts, speed, waiting, score)
            clock, waited, drawn = now, 0.0, 0
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(dataclasses.asdict(progress)) + "\n")
            if on_report is not None:
                on_report(progress)
    return out / "model.safetensors"


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
