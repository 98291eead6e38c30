"""Recipes: everything that decides what a training run computes, as plain numbers that are stored with the weights."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from incontext.network.config import ModelConfig
from incontext.training.coloring import Coloring
from incontext.training.episodes import Sampling
from incontext.training.teacher import Teaching
from incontext.words import did_you_mean


def _over(stored: Mapping[str, object], defaults: Mapping[str, object]) -> dict[str, object]:
    """Fill stored values up with defaults, within nested mappings too."""
    known = {**defaults, **stored}
    for name, value in stored.items():
        below = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            known[name] = _over(value, below)
    return known


def _made(kind: Any, value: object, where: str) -> object:
    """Make a value of JSON the type that a field has: numbers, strings, tuples, and dataclasses of them."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ValueError(f"expected {where} to be an object of named values, got {value!r}")
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise ValueError(f"{where} has no {', '.join(unknown)}; it has {', '.join(hints)}")
        given = {name: _made(hints[name], each, f"{where}.{name}") for name, each in value.items()}
        try:
            return kind(**given)  # type: ignore[operator]
        except TypeError as error:
            raise ValueError(f"{where}: {error}") from error
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"expected {where} to be a list, got {value!r}")
        kinds = [args[0]] * len(value) if args[1:] == (...,) else list(args)
        if len(kinds) != len(value):
            raise ValueError(f"expected {where} to have {len(kinds)} values, got {len(value)}")
        return tuple(_made(k, each, f"{where}[{at}]") for at, (k, each) in enumerate(zip(kinds, value, strict=True)))
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _made(next(k for k in args if k is not type(None)), value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"expected {where} to be of type {kind.__name__}, got {value!r}")
    return value


@dataclass(frozen=True)
class Stage:
    """A part of a run at one image size."""

    side: int  # pixels along one side of a prompt or query
    steps: int
    batch: int  # episodes per step


@dataclass(frozen=True)
class Recipe:
    """A training run. Steps count over all stages; learning rates are the plateau's."""

    model: ModelConfig
    stages: tuple[Stage, ...]
    sampling: Sampling = field(default_factory=Sampling)
    coloring: Coloring = field(default_factory=Coloring)
    seed: int = 0
    matrix_lr: float = 1e-3  # Muon, for the matrices of the blocks
    other_lr: float = 1e-3  # AdamW, for everything else
    weight_decay: float = 0.05
    warmup_steps: int = 400
    decay_share: float = 0.3  # the last part of the run, over which the learning rates fall to zero
    beta: float = 1.0  # of smooth L1, until the decay; falls to final_beta over it
    final_beta: float = 0.1
    ema: float = 0.999  # decay per step of the averaged weights, which are the result
    clip_norm: float = 1.0
    several_shots: float = 0.0  # share of steps whose episodes have several prompts, two to most_shots
    most_shots: int = 4
    black_if_absent: bool = True  # a mask without the thing is learned as black; else, if there is a head, not at all
    presence_pull: float = 0.0  # share of the presence head's gradient that reaches the network; 0: the head looks on
    only_presence: bool = False  # the presence head alone learns, and reads a network that stays as it is
    corrections: float = 0.0  # share of steps with one prompt in which hints show what the network got wrong
    most_corrections: int = 3  # of a query
    teaching: Teaching | None = None  # the teacher whose features are learned, too

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int, int]:
        """Find the stage that a step belongs to, and how many steps and episodes come before that stage."""
        before = episodes = 0
        for stage in self.stages:
            if step < before + stage.steps:
                return stage, before, episodes
            before += stage.steps
            episodes += stage.steps * stage.batch
        raise IndexError(f"step {step} is past the last of {self.steps}")

    def shots_at(self, step: int) -> int:
        """Draw how many prompts each of a step's episodes has."""
        rng = np.random.default_rng([self.seed, step, 2])
        return int(rng.integers(2, self.most_shots + 1)) if rng.random() < self.several_shots else 1

    def decay(self, step: int) -> float:
        """Tell the progress through the final decay, 0 before it and 1 at the end."""
        length = max(1.0, self.steps * self.decay_share)
        return min(1.0, max(0.0, (step - (self.steps - length)) / length))

    def rate(self, step: int) -> float:
        """Compute the factor on the learning rates: linear warm-up, plateau, a cosine to zero."""
        return min(1.0, (step + 1) / self.warmup_steps) * 0.5 * (1 + math.cos(math.pi * self.decay(step)))

    def beta_at(self, step: int) -> float:
        """Smooth L1's beta: constant until the decay, then falling by a constant factor per step to final_beta."""
        return float(self.beta * (self.final_beta / self.beta) ** self.decay(step))

    def with_model(self, model: ModelConfig) -> Recipe:
        """Adapt the recipe to another network; sides become the nearest multiples of its patch."""
        stages = tuple(replace(s, side=max(1, round(s.side / model.patch)) * model.patch) for s in self.stages)
        return replace(self, model=model, stages=stages)

    def is_corrected(self, step: int) -> bool:
        """Tell whether a step's hints show what the network got wrong."""
        rng = np.random.default_rng([self.seed, step, 3])
        return self.shots_at(step) == 1 and bool(rng.random() < self.corrections)

    @classmethod
    def from_dict(cls, stored: Mapping[str, object]) -> Recipe:
        """Make a recipe of what :meth:`to_dict` gave; what is not named has its default.

        Raises:
            ValueError: a name is not known, or a value is of the wrong kind.
        """
        made = _made(cls, stored, "recipe")
        assert isinstance(made, Recipe)
        return made

    @classmethod
    def open(cls, name: str) -> Recipe:
        """Open a recipe by its name in `RECIPES`, or by the path of a JSON file.

        Raises:
            ValueError: there is no such recipe, or the file is no recipe.
        """
        if name in RECIPES:
            return RECIPES[name]
        path = Path(name)
        if not path.is_file():
            told = f"{name!r}{did_you_mean(name, RECIPES)}"
            raise ValueError(f"expected a recipe among {', '.join(RECIPES)}, or a JSON file of one, got {told}")
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected {path} to hold a recipe as JSON: {error}") from error
        return cls.from_dict(stored)

    def to_dict(self) -> dict[str, object]:
        """Write plain numbers and strings, for JSON."""
        return dataclasses.asdict(self)

    def is_stored_as(self, stored: Mapping[str, object]) -> bool:
        """Tell whether this is what came out of JSON; what an older version did not know yet has its default there."""
        known = _over(stored, Recipe(ModelConfig(), ()).to_dict())
        return json.dumps(known, sort_keys=True) == json.dumps(self.to_dict(), sort_keys=True)


_DEFAULT_MODEL = ModelConfig(
    width=192,
    heads=3,
    depth=12,
    patch=8,
    side=160,
    decoder_width=16,
    merge_layer=1,
    taps=(1, 4, 7, 11),
    pretrain_side=64,
    presence=64,
)
_SMOKE_MODEL = ModelConfig(
    width=64, heads=2, depth=3, patch=8, side=32, decoder_width=8, merge_layer=0, taps=(0, 1, 2), pretrain_side=32
)

RECIPES: dict[str, Recipe] = {
    # What the embedded weights were trained with, as one run; theirs was interrupted and changed (weights/README.md).
    # Some five hours on two cores that do nothing else (24 episodes/s at 96 pixels, 6 at 160).
    "default": Recipe(
        _DEFAULT_MODEL,
        (Stage(64, 3100, 32), Stage(96, 3250, 24), Stage(128, 4770, 16), Stage(160, 1490, 12)),
        Sampling(absent=0.2),
        decay_share=0.2,
        several_shots=0.25,
        most_shots=3,
        black_if_absent=False,
        presence_pull=0.3,
    ),
    # The presence head for weights that are there, on as many queries with the thing as without: `--init default`.
    "presence": Recipe(
        _DEFAULT_MODEL,
        (Stage(160, 500, 16),),
        Sampling(absent=0.5, mosaic=0.08, two_views=0.05, single_id=0.75, whole_images=0.9),
        Coloring(hide_query=1.0),
        warmup_steps=20,
        decay_share=0.7,
        other_lr=3e-3,
        ema=0.98,
        several_shots=0.25,
        most_shots=3,
        only_presence=True,
    ),
    # Features of a teacher (`--teacher`) alone, of any images; a few minutes on two cores.
    "distill": Recipe(
        _DEFAULT_MODEL,
        (Stage(96, 180, 16),),
        Sampling(without_masks=1.0, rendered=0.0),
        warmup_steps=20,
        decay_share=0.5,
        ema=0.98,
    ),
    # A minute: to see that data, loop and checkpoint work.
    "smoke": Recipe(_SMOKE_MODEL, (Stage(32, 60, 16),), warmup_steps=20),
    # The published network at its published size and rates (arXiv 2304.03284, section 4.1). Never run by us: it needs
    # so many large GPUs that each holds its share of a batch at once, and weights to start from, as the authors had.
    # Differs from theirs in that Muon updates the matrices of the blocks, in steps as large as AdamW's, and in the
    # reading loss.
    "large": Recipe(
        ModelConfig(),
        (Stage(448, 9000, 2048),),
        matrix_lr=1e-4,
        other_lr=1e-4,
        warmup_steps=1800,
        decay_share=1.0,
        beta=0.01,
        final_beta=0.01,
    ),
}
