"""A sheet of what the weights get wrong, for the model card: the worst rendered scenes, and what was found in vain.

python benchmarks/failures.py -o docs/images/failures.jpg

Columns 1 to 5: of 64 rendered episodes those with the least IoU. Columns 6 to 10: the examples of the demo put to
images of its other jobs, where the right answer is nothing; the answers that cover most. From above: prompt, query
with its true mask, query with the answer. Seeded, so the same sheet for the same weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from incontext.demo import JOBS, MASKS, find_photographs
from incontext.engine import Segmenter, load
from incontext.images.ids import Pixels
from incontext.images.read import read_image
from incontext.images.resize import resized
from incontext.images.write import write_image
from incontext.training.scenes import render_pair
from incontext.types import Palette, Prompt, Segmentation

SIDE = 160  # pixels of an image of the sheet
SHOWN = 5  # episodes in a row of it
SCENES = 64


class Failure(NamedTuple):
    """An episode and how bad its answer is: the higher, the worse."""

    badness: float
    prompt: Prompt
    query: Pixels
    truth: Pixels  # (H, W) ids
    found: Segmentation


def rendered(segmenter: Segmenter, seed: int) -> list[Failure]:
    """Scenes of the renderer, one thing of each asked for, worst first."""
    rng, failures = np.random.default_rng(seed), []
    for _ in range(SCENES):
        images, masks = render_pair(rng, SIDE)
        shared = [i for i in range(1, 1 + int(masks.max())) if all((mask == i).sum() > SIDE for mask in masks)]
        if not shared:
            continue
        first, second = ((mask == shared[0]).astype(np.uint8) for mask in masks)
        prompt = Prompt(images[0], first)
        found = segmenter.segment(images[1], prompt)
        both, either = (found.mask & second).sum(), (found.mask | second).sum()
        failures.append(Failure(1 - both / either, prompt, images[1], second, found))
    return sorted(failures, key=lambda each: -each.badness)


def absent(segmenter: Segmenter) -> list[Failure]:
    """The demo's examples on images of its other jobs, the largest wrong answers first."""
    photographs = find_photographs()
    failures = []
    for job in JOBS:
        shown = job.prompt.of(read_image(photographs / job.photograph))
        prompt = Prompt.open(shown, MASKS / f"{job.name}.png")
        for other in (each for each in JOBS if each is not job):
            for crop in other.queries.values():
                query = crop.of(read_image(photographs / other.photograph))
                found = segmenter.segment(query, prompt)
                nothing = np.zeros(found.shape, np.uint8)
                failures.append(Failure(float((found.mask > 0).mean()), prompt, query, nothing, found))
    empty = sum(each.badness == 0 for each in failures)
    print(f"{empty} of {len(failures)} answers are empty where nothing of the kind is shown")
    return sorted(failures, key=lambda each: -each.badness)


def panel(failure: Failure) -> Pixels:
    """(3 * SIDE, SIDE, 3): the example, the query with its true mask, the query with the answer."""
    palette = Palette(np.arange(2, dtype=np.uint8), np.array([[0, 0, 0], [240, 60, 60]], np.uint8))

    def marked(image: Pixels, mask: Pixels) -> Pixels:
        sure = np.ones(mask.shape, np.float32)
        return resized(Segmentation((mask > 0).astype(np.uint8), sure, palette).overlay(image), (SIDE, SIDE))

    prompt, query = failure.prompt, failure.query
    rows = [marked(prompt.image, prompt.mask), marked(query, failure.truth), marked(query, failure.found.mask)]
    return np.concatenate(rows)


def main() -> None:
    """Find the failures and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    segmenter = load(given.weights)
    scenes, wrong = rendered(segmenter, given.seed), absent(segmenter)
    print("rendered, mean IoU:", round(1 - float(np.mean([each.badness for each in scenes])), 3))
    rows = [np.concatenate([panel(each) for each in some[:SHOWN]], axis=1) for some in (scenes, wrong)]
    write_image(given.out, np.concatenate(rows, axis=1))


if __name__ == "__main__":
    main()
