"""Held-out images of the training's sets, and whole sets that nothing is learned from: what weights find and lose.

python benchmarks/heldout.py ../shared/data/train --weights default
python benchmarks/heldout.py ../shared/data/train --weights RUN/model.safetensors,mean.safetensors,default

Decisions about training are made by these figures, as the test episodes may decide nothing. One shot, whole images as
they are, one id each; every twentieth image of a set is held out, as in `incontext train`, and the sets that the
recipe beside the weights leaves out (`unseen`) are scored by themselves. The queries without the thing are drawn as in
training: other images of the set, parts beside the thing, images of other domains. The same sets and numbers give
the same queries for all weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from record import record

from incontext.canvas.paint import unpaint
from incontext.canvas.read import color_shares, read_colors
from incontext.images.ids import IGNORED
from incontext.learning.losses import paint_batch
from incontext.network.checkpoint import info, load_model
from incontext.network.devices import choose_dtype, products_in
from incontext.network.model import SegGPT
from incontext.network.registry import resolve
from incontext.training.coloring import Coloring, collate, paint_episode, see
from incontext.training.episodes import EpisodeSource
from incontext.training.recipes import Recipe
from incontext.training.sets import ImageSet, hold_out, read_set
from incontext.training.validation import AS_USED
from incontext.types import Palette

UNSEEN = "flakes,indian_food,kitchen_appliances,wild_animals_a"
BARS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


class Answers(NamedTuple):
    """Of each query: IoU before any bar, whether nothing of the thing was found, whether nothing was; presence."""

    iou: np.ndarray
    missed: np.ndarray
    empty: np.ndarray
    presence: np.ndarray  # 1 where the network has no such head


@torch.inference_mode()
def ask(model: SegGPT, source: EpisodeSource, count: int) -> Answers:
    """The first ``count`` episodes of a source, one by one."""
    coloring, side = Coloring(corner_colors=1.0, hide_query=1.0), source.side
    cpu = torch.device("cpu")
    rows: list[tuple[float, bool, bool, float]] = []
    for number in range(count):
        rng = np.random.default_rng([7, number])
        painted = paint_episode(source[number], rng, patch=model.config.patch, coloring=coloring)
        batch = paint_batch(collate([painted]), cpu)
        with products_in(choose_dtype("auto", cpu), cpu):
            seen = see(model, batch.image_canvas, batch.mask_canvas, batch.masked)
            answer = seen.painted[:, :, -side:].float()
            shares = color_shares(answer, batch.colors, batch.used, model.config.patch)
            logits = None if model.presence is None else model.presence(seen.tokens, shares)
        ids, _ = read_colors(unpaint(answer), Palette(np.arange(2, dtype=np.uint8), painted.palette))
        found, known = ids[0].numpy() == 1, painted.masks[-1] != IGNORED
        truth = painted.masks[-1] == 1
        overlap, union = (found & truth & known).sum(), ((found | truth) & known).sum()
        presence = 1.0 if logits is None else float(torch.sigmoid(logits[0, 1]))
        rows.append((overlap / union if union else 1.0, not overlap, not found.any(), presence))
    return Answers(*(np.array(column) for column in zip(*rows, strict=True)))


def by_bar(there: Answers, absent: Answers, bar: float) -> dict[str, float]:
    """What a bar empties, right and wrong."""
    kept = there.presence >= bar
    return {
        "bar": bar,
        "mean_iou": round(float((there.iou * kept).mean()), 4),
        "lost": round(float((there.missed | ~kept).mean()), 4),
        "absent_empty": round(float((absent.empty | (absent.presence < bar)).mean()), 4),
    }


def area_under_curve(there: Answers, absent: Answers) -> float:
    """How often a query with the thing has the higher presence, ties by half."""
    higher, lower = there.presence[:, None], absent.presence[None]
    return float(((higher > lower) + 0.5 * (higher == lower)).mean())


def score(model: SegGPT, held: Sequence[ImageSet], recipe: Recipe, count: int) -> dict[str, object]:
    """All figures of one network."""
    drawn = replace(AS_USED, domains=recipe.sampling.domains)
    there, absent = (
        ask(model, EpisodeSource(held, replace(drawn, absent=share), side=model.config.side, seed=20_230_406), count)
        for share in (0.0, 1.0)
    )
    return {
        "presence_auc": round(area_under_curve(there, absent), 4),
        "by_bar": [by_bar(there, absent, bar) for bar in BARS],
    }


def main() -> None:
    """Measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of the training's sets")
    parser.add_argument("--weights", default="default", help="names or files, with commas between")
    parser.add_argument("--queries", type=int, default=256, help="with the thing, and as many without")
    parser.add_argument("--recipe", default="weights/recipe.json", help="whose domains say what is absent where")
    parser.add_argument("--unseen", default=UNSEEN, help="names of sets that are scored apart, with commas between")
    given = parser.parse_args()
    recipe, apart = Recipe.open(given.recipe), given.unseen.split(",")
    sets = [read_set(folder) for folder in sorted(given.data.iterdir()) if folder.is_dir()]
    held = hold_out(each for each in sets if each.name not in apart)[1]
    unseen = [each for each in sets if each.name in apart]
    scores = []
    for name in given.weights.split(","):
        path = resolve(name)
        about = {"weights": Path(name).stem, "sha256": info(path).sha256, "average": info(path).metadata.get("average")}
        model = load_model(path)
        figures = {"held_out": score(model, held, recipe, given.queries)}
        if unseen:
            figures["unseen"] = score(model, unseen, recipe, given.queries)
        scores.append({**about, **figures})
        print(scores[-1], flush=True)
    record("heldout", {"queries": given.queries, "scores": scores}, "cpu", weights=given.weights.split(",")[0])


if __name__ == "__main__":
    main()
