"""What each choice of the recipe is worth: short runs of a small network from scratch, alike but for one change.

python benchmarks/ablations.py ../shared/data/train --out RUNS/
python benchmarks/ablations.py ../shared/data/train --out RUNS/ --only "base,no negatives"

Of each: mean IoU over held-out queries, and the share of held-out queries without the thing that are left empty. A run
that was stopped goes on where it was; what is finished is kept in its folder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record

from incontext.canvas.read import reading_logits
from incontext.images.write import whole_file
from incontext.learning.losses import paint_batch
from incontext.network.checkpoint import load_model
from incontext.network.config import ModelConfig
from incontext.network.devices import choose_dtype, products_in
from incontext.network.model import SegGPT
from incontext.training import loop
from incontext.training.coloring import Coloring, collate, paint, paint_episode
from incontext.training.episodes import EpisodeSource, Sampling
from incontext.training.recipes import RECIPES, Recipe, Stage
from incontext.training.sets import ImageSet, hold_out, read_set
from incontext.training.validation import AS_USED, Validation

SIDE, BATCH = 64, 24
QUERIES, ABSENT = 512, 128  # that a run is scored on

_SMALL = ModelConfig(
    width=128, heads=2, depth=6, patch=8, side=SIDE, decoder_width=16, merge_layer=1, taps=(1, 2, 3, 5),
    pretrain_side=SIDE,
)  # fmt: skip


def recipes(steps: int) -> dict[str, Recipe]:
    """By what is changed, all of so many steps."""
    base = replace(
        RECIPES["default"],
        model=_SMALL,
        stages=(Stage(SIDE, steps, BATCH),),
        warmup_steps=60,
        decay_share=0.5,
        ema=0.99,
        several_shots=0.0,
        seed=3,
    )

    def sampled(**changes: Any) -> Recipe:
        return replace(base, sampling=replace(base.sampling, **changes))

    def built(**changes: Any) -> Recipe:
        return base.with_model(replace(_SMALL, **changes))

    return {
        "base": base,
        "base with another seed": replace(base, seed=4),
        "no negatives": sampled(absent=0.0),
        "no renderer": sampled(rendered=0.0),
        "no two views": sampled(two_views=0.0),
        "no mix-context": sampled(mosaic=0.0),
        "beta 1 throughout": replace(base, final_beta=1.0),
        "beta 0.01 throughout": replace(base, beta=0.01, final_beta=0.01),
        "no reading loss": replace(base, coloring=replace(base.coloring, cross_entropy=0.0, soft_iou=0.0)),
        "patch 16": built(patch=16),
        "3 blocks of 192": built(depth=3, width=192, heads=3, merge_layer=0, taps=(0, 1, 2)),
        "12 blocks of 96": built(depth=12, width=96, taps=(2, 5, 8, 11)),
        "two views .4": sampled(two_views=0.4),
    }


@torch.no_grad()
def left_empty(model: SegGPT, held: Sequence[ImageSet], sampling: Sampling) -> float:
    """The share of held-out queries without the prompt's thing in whose answer there is none."""
    plain = replace(AS_USED, absent=1.0, domains=sampling.domains)
    source, hidden = EpisodeSource(held, plain, side=SIDE, seed=5), Coloring(corner_colors=1.0, hide_query=1.0)
    empty, cpu = list[bool](), torch.device("cpu")
    for first in range(0, ABSENT, 16):
        episodes = [
            paint_episode(source[n], np.random.default_rng([7, n]), patch=model.config.patch, coloring=hidden)
            for n in range(first, first + 16)
        ]
        batch = paint_batch(collate(episodes), cpu)
        with products_in(choose_dtype("auto", cpu), cpu):
            painted = paint(model, batch.image_canvas, batch.mask_canvas, batch.masked).float()
        found = reading_logits(painted, batch.colors, batch.used, sharpness=1.0).argmax(1)[:, SIDE:]
        empty += (found == 0).flatten(1).all(1).tolist()
    return float(np.mean(empty))


def measure(name: str, recipe: Recipe, kept: Sequence[ImageSet], held: Sequence[ImageSet], out: Path) -> dict[str, Any]:
    """Train, score."""
    speeds = list[float]()
    start = time.perf_counter()
    loop.train(
        recipe,
        kept,
        out,
        held_out=held,
        workers=1,
        save_every=recipe.steps,
        on_report=lambda report: speeds.append(report.episodes_per_second),
    )
    model = load_model(out / "model.safetensors").eval()
    validation = Validation.draw(held, side=SIDE, patch=recipe.model.patch, count=QUERIES)
    row = {
        "name": name,
        "mean_iou": round(validation.score(model, torch.device("cpu")), 4),
        "left_empty": round(left_empty(model, held, recipe.sampling), 3),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "episodes_per_second": round(float(np.median(speeds)), 1),
        "minutes": round((time.perf_counter() - start) / 60, 2),
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Train all of them, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of sets, each with images/ and masks/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", help="these, with commas between")
    given = parser.parse_args()
    known = recipes(given.steps)
    chosen = list(known) if given.only is None else given.only.split(",")
    rows, sets = [], None
    for name in chosen:
        folder = given.out / f"{name.replace(' ', '_')}_{given.steps}_steps"
        kept_row = folder / "row.json"
        if not kept_row.is_file():
            sets = sets or hold_out(
                read_set(path) for path in sorted(given.data.iterdir()) if (path / "images").is_dir()
            )
            row = measure(name, known[name], *sets, folder)
            with whole_file(kept_row) as stream:
                stream.write(json.dumps(row).encode())
        rows.append(json.loads(kept_row.read_text()))
    record("ablations", {"recipe": known["base"].to_dict(), "rows": rows}, "cpu")


if __name__ == "__main__":
    main()
