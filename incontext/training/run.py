"""The state of a run, and one step of it: a batch in, gradients, and better weights.

It refuses to know where batches come from (loop.py), what colours are (coloring.py), and files other than its state's.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from incontext.canvas.read import color_shares
from incontext.learning.losses import (
    Batch,
    counts,
    presence_loss,
    training_loss,
    unjudged_where_absent,
)
from incontext.network.devices import products_in
from incontext.network.model import SegGPT
from incontext.options import Task, TrainingDtype
from incontext.training.coloring import paint, see
from incontext.training.corrections import corrected
from incontext.training.optimizers import Muon, make_optimizers
from incontext.training.parallel.processes import ALONE, Team
from incontext.training.parallel.sharding import gathered, part_like, restore_optimizer, shard
from incontext.training.parallel.slices import MIB, Slices, pack, read_slices, unpack, write_slices
from incontext.training.precision import Precision
from incontext.training.recipes import Recipe
from incontext.training.teacher import Heads, listening

_CPU_TOKENS = 5000  # that a processor takes at a time; more only need more memory


class _Answer(NamedTuple):
    """What a step judges."""

    painted: Tensor  # (B, 3, (N + 1) * side, side)
    presence: Tensor | None  # (B, K) logits, where there is such a head
    cosines: Tensor | None  # their sum, between what heads say and what the teacher sees


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
        cosines = None
        if self.heads is not None and batch.targets is not None:
            cosines = self.heads(heard, batch.targets)
        if self.model.presence is None:
            return _Answer(seen.painted, None, cosines)
        side = batch.image_canvas.shape[-1]
        query = seen.painted[:, :, -side:].detach()
        shares = color_shares(query, batch.colors, batch.used, side // batch.masked.shape[-1])
        tokens = torch.lerp(seen.tokens.detach(), seen.tokens, self.pull)  # the same tokens
        return _Answer(seen.painted, self.model.presence(tokens, shares), cosines)


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
        """Say in which precision it computes."""
        network, newton_schulz = (
            str(each).removeprefix("torch.") for each in (self.precision.network, self.precision.newton_schulz)
        )
        has_muon = any(isinstance(optimizer, Muon) for optimizer in self.optimizers)
        return f"training in {network}" + (f", Newton-Schulz in {newton_schulz}" if has_muon else "")

    def advance(self, batch: Batch) -> tuple[float, dict[str, float]]:
        """Take one step: return the loss and its parts, of the whole batch of which ``batch`` is a share."""
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
        """Compute the gradients of the whole batch, in every process; and this one's share of the loss and its parts.

        The loss is a mean over pixels, ids and patches, of which processes, and the pieces that a process takes at a
        time, have different numbers. So each piece is divided by the numbers of the whole batch: the losses of pieces,
        and their gradients, add up to those of all at once.
        """
        recipe, team = self.recipe, self.team
        if self.model.presence is not None and not recipe.black_if_absent:
            batch = unjudged_where_absent(batch)
        # Both type tokens see all kinds of episodes in turn, so that either serves whatever is asked of it.
        task: Task = "instance" if self.step % 2 else "semantic"
        if recipe.is_corrected(self.step):
            batch = self._corrected(batch, task)
        total = team.add(counts(batch))
        seen = None if self.heads is None else team.add(self.heads.count(batch.targets))
        sums: dict[str, float] = {}
        whole = torch.zeros((), device=self.device)
        for piece in self._pieces(batch):
            loss, parts = self._loss(piece, task, total, seen)
            summed = loss * team.size  # DistributedDataParallel takes the mean of the gradients
            summed.backward()  # type: ignore[no-untyped-call]
            whole += loss.detach()
            sums = {name: sums.get(name, 0.0) + value for name, value in parts.items()}
        return whole, sums

    def _loss(self, piece: Batch, task: Task, total: Tensor, seen: Tensor | None) -> tuple[Tensor, dict[str, float]]:
        """Compute a piece's share of the loss of a batch that has ``total`` and ``seen`` in all."""
        recipe = self.recipe
        with self._products():
            painted, presence, cosines = self._paint(piece, task)
        loss, parts = training_loss(
            painted, piece, recipe.coloring.loss_weights, beta=recipe.beta_at(self.step), total=total
        )
        if presence is not None:
            judged = presence_loss(presence, piece, total=total)
            loss = judged if recipe.only_presence else loss + judged
            parts["presence"] = judged.item()
        if cosines is not None and seen is not None and self.heads is not None and recipe.teaching is not None:
            away = (self.heads.count(piece.targets) - cosines) / seen.clamp_min(1)
            loss = loss + recipe.teaching.weight * away
            parts["teacher"] = away.item()
        return loss, parts

    def _pieces(self, batch: Batch) -> Iterator[Batch]:
        """Cut the batch to pieces whose activations a processor's memory and caches hold; not on an accelerator."""
        tokens = batch.masked[0].numel()
        size = max(1, _CPU_TOKENS // tokens) if self.device.type == "cpu" else len(batch.ids)
        for first in range(0, len(batch.ids), size):
            part = slice(first, first + size)
            yield Batch(*(None if each is None else each[part] for each in vars(batch).values()))  # type: ignore[arg-type]

    def _products(self) -> torch.autocast:
        return products_in(self.precision.network, self.device)

    @torch.no_grad()
    def _corrected(self, batch: Batch, task: Task) -> Batch:
        """Add hints where the network errs, as it is now, to a batch."""
        with self._products():
            answers = [
                paint(self.model, piece.image_canvas, piece.mask_canvas, piece.masked, task)
                for piece in self._pieces(batch)
            ]
        painted = torch.cat(answers)
        generator = torch.Generator().manual_seed(
            1_000_003 * self.recipe.seed + self.team.size * self.step + self.team.rank
        )
        return corrected(batch, painted, most=self.recipe.most_corrections, generator=generator)

    def averaged(self) -> SegGPT | None:
        """Make the network of the averaged weights, in eval mode; it shares them with a run that is not sharded.

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
        """Return everything that a run goes on from. All processes must call this; sharded, only process 0 gets it."""
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


def has_state(out: Path) -> bool:
    """Tell whether a folder holds the state of a run."""
    return (out / "state.pt").exists() or (out / "state" / "index.json").exists()
