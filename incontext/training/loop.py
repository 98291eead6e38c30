"""The training loop: episodes in, a checkpoint out, at any point resumable with the same result.

A step's episodes follow from the recipe's seed and the step's number alone, so a run that was stopped and resumed sees
what an uninterrupted one sees. The loop refuses to know where episodes come from (episodes.py, synthetic.py) and what
colours are (coloring.py).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from incontext.checkpoint import save_model
from incontext.model import SegGPT, Task
from incontext.training.coloring import Batch, Painted, collate, paint_batch, paint_episode, training_loss
from incontext.training.episodes import EpisodeSource, ImageSet
from incontext.training.recipes import Recipe
from incontext.training.validation import Validation


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
    """Episode number -> painted episode; what the loader's workers run."""

    def __init__(self, recipe: Recipe, sets: Sequence[ImageSet], side: int) -> None:
        self.recipe = recipe
        self.source = EpisodeSource(sets, recipe.sampling, side=side, seed=recipe.seed)

    def __getitem__(self, index: int) -> Painted:
        rng = np.random.default_rng([self.recipe.seed, index, 1])
        return paint_episode(self.source[index], rng, patch=self.recipe.model.patch, coloring=self.recipe.coloring)


def _batches(
    recipe: Recipe, sets: Sequence[ImageSet], first_step: int, workers: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """The collated batches from ``first_step`` to the end of the run."""
    step = first_step
    while step < recipe.steps:
        stage, start, episodes_before = recipe.stage_at(step)
        done, end = (step - start) * stage.batch, stage.steps * stage.batch
        loader = DataLoader(
            _Painter(recipe, sets, stage.side),
            batch_size=stage.batch,
            sampler=range(episodes_before + done, episodes_before + end),
            num_workers=workers,
            collate_fn=collate,
            prefetch_factor=4 if workers else None,
            multiprocessing_context="fork" if workers else None,  # the decoded sets are shared, not copied
        )
        for batch in loader:
            yield batch
            step += 1


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon on the matrices of the blocks, AdamW on the rest; weight decay on matrices only."""
    matrices = [
        p
        for name, p in model.named_parameters()
        if name.startswith("blocks.") and name.endswith("weight") and p.ndim == 2
    ]
    taken = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(
            matrices, lr=recipe.matrix_lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(groups, lr=recipe.other_lr, betas=(0.9, 0.98)),
    ]


class Run:
    """The state of a run: weights, their average, optimizers and the step, on a device."""

    def __init__(self, recipe: Recipe, device: torch.device, init: SegGPT | None = None) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.device = device
        self.step = 0
        self.model = SegGPT(recipe.model, kernel="plain")  # measured fastest with gradients at the sides of training
        if init is not None:
            self.model.load_state_dict(init.state_dict())
        self.model.to(device).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizers = make_optimizers(self.model, recipe)
        self._plateau = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def advance(self, batch: Batch) -> tuple[float, dict[str, float]]:
        """One step: the loss and its parts."""
        recipe = self.recipe
        for optimizer, rates in zip(self.optimizers, self._plateau, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * recipe.rate(self.step)
        # Both type tokens see all kinds of episodes in turn, so that either serves whatever is asked of it.
        task: Task = "instance" if self.step % 2 else "semantic"
        with torch.autocast(self.device.type, torch.bfloat16):
            painted = self.model.paint_canvas(batch.image_canvas, batch.mask_canvas, batch.masked, task=task)
        loss, parts = training_loss(painted, batch, recipe.coloring, beta=recipe.beta_at(self.step))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(recipe.ema, (1 + self.step) / (10 + self.step))  # the first steps are soon forgotten
        with torch.no_grad():
            for averaged, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                averaged.lerp_(value, 1 - keep)
        return loss.item(), parts

    def save(self, path: Path) -> None:
        """Write the whole state; the file appears whole or not at all."""
        state = {
            "recipe": json.dumps(self.recipe.to_dict()),
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        beside = path.with_suffix(".partial")
        torch.save(state, beside)
        beside.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: the state belongs to another recipe.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != json.dumps(self.recipe.to_dict()):
            raise ValueError(f"{path} is the state of a run of another recipe; choose another folder, or remove it")
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def train(
    recipe: Recipe,
    sets: Sequence[ImageSet],
    out: Path,
    *,
    held_out: Sequence[ImageSet] = (),
    device: str = "cpu",
    workers: int = 1,
    save_every: int = 500,
    init: SegGPT | None = None,
    on_report: Callable[[Progress], None] | None = None,
) -> Path:
    """Run a recipe, or go on with what ``out`` holds of it, and return the path of the averaged weights.

    sets: what episodes are drawn from; held_out: pictures for validation at every save, drawn into
    ``out/validation/*.png``. ``out/state.pt`` is the whole state, ``out/model.safetensors`` the averaged weights in
    float32, ``out/log.jsonl`` has a line per report (20 steps). ``init``: weights to start from, of the recipe's
    configuration. workers: processes that make episodes; 0 makes them between the steps.

    Raises:
        ValueError: ``out`` holds the state of another recipe.
    """
    (out / "validation").mkdir(parents=True, exist_ok=True)
    run = Run(recipe, torch.device(device), init)
    if (out / "state.pt").exists():
        run.restore(out / "state.pt")
    validations: dict[int, Validation] = {}
    running: float | None = None
    clock, waited, since = time.perf_counter(), 0.0, run.step
    batches = _batches(recipe, sets, run.step, workers)
    while run.step < recipe.steps:
        side, before = recipe.stage_at(run.step)[0].side, time.perf_counter()
        batch = paint_batch(next(batches), run.device)
        waited += time.perf_counter() - before
        loss, parts = run.advance(batch)
        running = loss if running is None else 0.98 * running + 0.02 * loss
        saving = run.step % save_every == 0 or run.step == recipe.steps
        score = None
        if saving:
            run.save(out / "state.pt")
            metadata = {"recipe": json.dumps(recipe.to_dict()), "step": str(run.step)}
            save_model(out / "model.safetensors", run.average, metadata=metadata)
            if held_out:
                if side not in validations:
                    sampling, patch = recipe.sampling, recipe.model.patch
                    validations[side] = Validation.draw(held_out, sampling=sampling, side=side, patch=patch)
                picture = out / "validation" / f"step_{run.step:07d}.png"
                score = validations[side].score(run.average, run.device, picture)
        if run.step % 20 == 0 or saving:
            now = time.perf_counter()
            speed = (run.step - since) * len(batch.ids) / (now - clock)
            progress = Progress(run.step, recipe.steps, side, running, parts, speed, waited / (now - clock), score)
            clock, waited, since = now, 0.0, run.step
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(dataclasses.asdict(progress)) + "\n")
            if on_report is not None:
                on_report(progress)
    return out / "model.safetensors"
