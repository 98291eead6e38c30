"""What a user asks of a training run, settled before it begins: recipe, sets, the first weights, the teacher.

Refuses to know the loop, processes and terminals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from incontext.matching.backbone import Backbone
from incontext.matching.names import open_backbone
from incontext.network.checkpoint import load_model
from incontext.network.model import SegGPT
from incontext.network.registry import resolve
from incontext.training.recipes import Recipe
from incontext.training.run import has_state
from incontext.training.sets import ImageSet, hold_out, read_photographs, read_set
from incontext.training.start.warm import start_from
from incontext.training.teacher import Teaching

_WITHOUT_MASKS = 0.2  # share of the episodes for images without masks, where the recipe has none
_SHORTEST = 256  # pixels along the shorter side that images are shrunk to, at least


@dataclass(frozen=True)
class Asked:
    """What a user names.

    Attributes:
        recipe: A name, or a file.
        seed: None is the recipe's.
        init: Weights to start from: a name, a path, or "timm:NAME"; None is random.
        teacher: A network whose features are learned; None is the recipe's.
        data: Folders of images with masks, to learn from.
        unlabelled: Folders of images without masks.
        unseen: Folders like `data` of which nothing is learned.
    """

    recipe: str
    seed: int | None = None
    init: str | None = None
    teacher: str | None = None
    data: tuple[Path, ...] = ()
    unlabelled: tuple[Path, ...] = ()
    unseen: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """What a run is made of.

    Attributes:
        recipe: With the sizes of the weights that it starts from.
        init: These weights, if any.
        told: What a user should know of them.
        backbone: The teacher, if any.
        sets: To learn from.
        held_out: Of these, to validate by.
        unseen: Sets of which nothing is learned.
    """

    recipe: Recipe
    init: SegGPT | None
    told: str
    backbone: Backbone | None
    sets: list[ImageSet]
    held_out: list[ImageSet]
    unseen: list[ImageSet]


def settled(asked: Asked, out: Path) -> TrainingPlan:
    """Open everything that a user names, before anything is computed.

    Args:
        asked: What was named.
        out: The folder of the run: where it has begun already, weights are not loaded anew.

    Raises:
        FileNotFoundError, ValueError: something cannot be used; the message says why.
    """
    recipe = Recipe.open(asked.recipe)
    if asked.seed is not None:
        recipe = replace(recipe, seed=asked.seed)
    recipe, init, told = _start(asked.init, recipe, out)
    recipe = _taught(recipe, asked.teacher, asked.unlabelled)
    backbone = None if recipe.teaching is None else open_backbone(recipe.teaching.name, fetch=True)
    shorter = max(_SHORTEST, *(stage.side for stage in recipe.stages), 0 if backbone is None else backbone.side)
    sets, held = hold_out(read_set(folder, shorter_side=shorter) for folder in asked.data)
    sets += [read_photographs(folder, shorter_side=shorter) for folder in asked.unlabelled]
    unseen = [read_set(folder, shorter_side=shorter) for folder in asked.unseen]
    return TrainingPlan(recipe, init, told, backbone, sets, held, unseen)


def _taught(recipe: Recipe, teacher: str | None, unlabelled: Sequence[Path]) -> Recipe:
    """Add the teacher that was asked for to a recipe, and a share of episodes for images without masks."""
    if teacher is not None:
        known = recipe.teaching or Teaching(teacher)
        recipe = replace(recipe, teaching=replace(known, name=teacher))
    if recipe.teaching is None and (unlabelled or recipe.sampling.without_masks > 0):
        raise ValueError(
            "images without masks teach nothing by themselves; name a --teacher whose features are learned"
        )
    if unlabelled and not recipe.sampling.without_masks:
        recipe = replace(recipe, sampling=replace(recipe.sampling, without_masks=_WITHOUT_MASKS))
    return recipe


def _start(init: str | None, recipe: Recipe, out: Path) -> tuple[Recipe, SegGPT | None, str]:
    """Find the recipe, whose model follows a ViT; the weights to start from; what to tell about them."""
    if recipe.only_presence and (init is None or init.startswith("timm:")):
        raise ValueError("expected --init with weights whose network is to get a presence head; --init default")
    if init is None:
        return recipe, None, ""
    if init.startswith("timm:"):
        from incontext.training.start.vit import from_timm  # timm may be missing

        going_on = has_state(out)
        model = from_timm(init.removeprefix("timm:"), recipe.model, pretrained=not going_on, seed=recipe.seed)
        c = model.config
        told = f"The model follows {init}: width {c.width}, {c.heads} heads, {c.depth} blocks, patch {c.patch}."
        return recipe.with_model(c), model, f"{told} Tokens and decoder are fresh."
    loaded = load_model(resolve(init))
    if recipe.only_presence:
        recipe = recipe.with_model(replace(loaded.config, presence=recipe.model.presence))
    try:
        model, left = start_from(loaded, recipe.model, seed=recipe.seed)
    except ValueError as error:
        raise ValueError(f"{init}: {error}") from error
    return recipe, model, f"Fresh, as {init} has no counterpart: {', '.join(left)}" if left else ""
