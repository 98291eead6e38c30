"""The training loop: episodes in, a checkpoint out, at any point resumable with the same result.

A step's episodes follow from the recipe's seed and the step's number alone, so a run that was stopped and resumed sees
what an uninterrupted one sees. The loop refuses to know where episodes come from (episodes.py, synthetic.py) and what
colours are (coloring.py).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from incontext.checkpoint import save_model
from incontext.model import SegGPT
from incontext.training.coloring import Painted, collate, paint_batch, paint_episode, training_loss
from incontext.training.episodes import EpisodeSource, ImageSet
from incontext.training.recipes import Recipe


@dataclass(frozen=True)
class Progress:
    """What the loop reports after a step."""

    step: int  # steps done
    steps: int  # steps of the whole run
    loss: float  # running mean
    parts: dict[str, float]
    episodes_per_second: float
    waiting: float  # share of the time that the network waited for episodes


class _Painter(Dataset[Painted]):
    """Episode number -> painted episode; what the loader's workers run."""

    def __init__(self, recipe: Recipe, sets: Sequence[ImageSet], side: int) -> None:
        self.recipe = recipe
        self.source = EpisodeSource(sets, recipe.sampling, side=side, seed=recipe.seed)

    def __getitem__(self, index: int) -> Painted:
        rng = np.random.default_rng([self.recipe.seed, index, 1])
        return paint_episode(self.source[index], rng, patch=self.recipe.model.patch, coloring=self.recipe.coloring)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _batches(
    recipe: Recipe, sets: Sequence[ImageSet], first_step: int, workers: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """The collated batches from ``first_step`` to the end of the run."""
    step = first_step
    while step < recipe.steps:
        stage, episodes_before = recipe.stage_at(step)
        start = recipe.first_step(stage)
        done, end = (step - start) * stage.batch, stage.steps * stage.batch
        loader = DataLoader(
            _Painter(recipe, sets, stage.side),
            batch_size=stage.batch,
            sampler=range(episodes_before + done, episodes_before + end),
            num_workers=workers,
            collate_fn=collate,
            prefetch_factor=4 if workers else None,
            multiprocessing_context="fork" if workers else None,  # the decoded sets are shared, not copied
            worker_init_fn=_one_thread,
        )
        for batch in loader:
            yield batch
            step += 1


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon on the matrices of the blocks, AdamW on the rest; weight decay on matrices only."""
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks.") and name.endswith("weight") and p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=recipe.other_lr, betas=(0.9, 0.98)),
    ]


def train(
    recipe: Recipe,
    sets: Sequence[ImageSet],
    out: Path,
    *,
    device: str = "cpu",
    workers: int = 1,
    save_every: int = 500,
    init: SegGPT | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Path:
    """Run a recipe, or go on with what ``out`` holds of it, and return the path of the averaged weights.

    ``out/state.pt`` is the whole state, ``out/model.safetensors`` the averaged weights, ``out/log.jsonl`` a line per
    20 steps. ``init`` gives the first weights (interpolated to the recipe's side by its own tables).

    Raises:
        ValueError: ``out`` holds the state of another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    target = torch.device(device)
    model = SegGPT(recipe.model, kernel="plain")
    if init is not None:
        model.load_state_dict(init.state_dict())
    model.to(target).train()
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizers = make_optimizers(model, recipe)
    plateau = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    step = 0
    state_path = out / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, map_location=target, weights_only=True)
        if state["recipe"] != json.dumps(recipe.to_dict()):
            raise ValueError(f"{state_path} belongs to another recipe; choose another folder or remove it")
        model.load_state_dict(state["model"])
        average = state["average"]
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step = state["step"]

    autocast = torch.autocast(target.type, torch.bfloat16)
    running, clock, waited, since = None, time.perf_counter(), 0.0, step
    batches = _batches(recipe, sets, step, workers)
    while step < recipe.steps:
        before = time.perf_counter()
        batch = paint_batch(next(batches), target)
        waited += time.perf_counter() - before
        for optimizer, rates in zip(optimizers, plateau, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * recipe.rate(step)
        with autocast:
            painted = model.paint_canvas(batch.image_canvas, batch.mask_canvas, batch.masked, task="instance")
        beta = recipe.beta * (recipe.final_beta / recipe.beta) ** recipe.decay(step)
        loss, parts = training_loss(painted, batch, recipe.coloring, beta=beta)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        decay = min(recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if step % 20 == 0 or step == recipe.steps:
            now = time.perf_counter()
            stage, _ = recipe.stage_at(step - 1)
            speed = (step - since) * stage.batch / (now - clock)
            progress = Progress(step, recipe.steps, running, parts, speed, waited / (now - clock))
            clock, waited, since = now, 0.0, step
            _log(out / "log.jsonl", progress, stage.side)
            if on_step is not None:
                on_step(progress)
        if step % save_every == 0 or step == recipe.steps:
            _save(state_path, recipe, model, average, optimizers, step)
            save_average(out / "model.safetensors", recipe, average, step)
    return out / "model.safetensors"


def save_average(path: Path, recipe: Recipe, average: dict[str, Tensor], step: int) -> None:
    """Write the averaged weights in our layout, with the recipe."""
    model = SegGPT(recipe.model)
    model.load_state_dict(average)
    save_model(path, model, metadata={"recipe": json.dumps(recipe.to_dict()), "step": str(step)})


def _save(
    path: Path, recipe: Recipe, model: nn.Module, average: dict[str, Tensor], optimizers: Sequence[Any], step: int
) -> None:
    state = {
        "recipe": json.dumps(recipe.to_dict()),
        "model": model.state_dict(),
        "average": average,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
    }
    beside = path.with_suffix(".partial")
    torch.save(state, beside)
    os.replace(beside, path)


def _log(path: Path, progress: Progress, side: int) -> None:
    row = {"step": progress.step, "side": side, "loss": round(progress.loss, 5), **progress.parts}
    row |= {"episodes_per_second": round(progress.episodes_per_second, 2), "waiting": round(progress.waiting, 4)}
    with path.open("a") as log:
        log.write(json.dumps(row) + "\n")
