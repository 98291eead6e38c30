"""What hints are worth: mean IoU when 0, 1, 3 and 5 patches of the query's own mask are revealed to the network.

python benchmarks/hints.py ../shared/data/test --limit 20

One shot on the episodes of a test folder. A hint is a click as an annotator makes it: on the patch of which most pixels
are still wrong, which is revealed flat in the id that most of it has. Then the network is asked again, with all hints
so far. IoU at the network's resolution, over all pixels, the revealed patches included.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, repeat
from record import record
from torch import Tensor

from incontext.canvas.paint import mosaic, normalise, unpaint
from incontext.canvas.read import read_colors
from incontext.evaluation.few_shot.episodes import Episode, EpisodeSet, read_sets
from incontext.evaluation.few_shot.pictures import Pictures
from incontext.evaluation.metrics import Overlap, mean, overlap
from incontext.images.ids import IGNORED, Pixels
from incontext.images.resize import resized, resized_mask
from incontext.network.checkpoint import load_model, resolve
from incontext.network.model import SegGPT
from incontext.types import Palette

COUNTS = (0, 1, 3, 5)
PALETTE = Palette.spread([1])


class Hinted:
    """A query whose mask the network is told of bit by bit."""

    def __init__(self, model: SegGPT, pictures: Pictures, each: EpisodeSet, episode: Episode) -> None:
        side, patch = model.config.side, model.config.patch
        size = side, side
        self.model, self.patch = model, patch
        prompt = pictures.prompt(each, episode.id, episode.prompts[0])
        self.truth = resized_mask(pictures.prompt(each, episode.id, episode.query).mask, size)
        query = resized(pictures.image(each.name, episode.query), size)
        self.images = np.concatenate([resized(prompt.image, size), query])
        self.shown = mosaic([prompt], PALETTE, size[0])[1]
        self.hints = np.full((side // patch, side // patch), IGNORED, np.uint8)  # ids, where revealed

    @torch.inference_mode()
    def ask(self) -> Pixels:
        """(side, side) ids."""
        known = self.hints != IGNORED
        flat = repeat(np.where(known, self.hints, 0), "r c -> (r p) (c q)", p=self.patch, q=self.patch)
        painted = np.concatenate([self.shown, PALETTE.paint(flat.astype(np.uint8))])
        masked = torch.from_numpy(np.concatenate([np.zeros_like(known), ~known]))
        answer: Tensor = self.model.paint_canvas(_normal(self.images), _normal(painted), masked[None])
        ids, _ = read_colors(unpaint(answer)[0, len(flat) :], PALETTE)
        return np.where(repeat(known, "r c -> (r p) (c q)", p=self.patch, q=self.patch), flat, ids.numpy())

    def click(self, found: Pixels) -> None:
        """Reveal the patch of which most is wrong; nothing where all is right."""
        wrong = _cells((found != self.truth) & (self.truth != IGNORED), self.patch).sum(axis=-1)
        wrong[self.hints != IGNORED] = 0
        if wrong.max() == 0:
            return
        row, column = np.unravel_index(wrong.argmax(), wrong.shape)
        self.hints[row, column] = np.median(_cells(self.truth == 1, self.patch)[row, column])

    def overlap(self, found: Pixels) -> Overlap:
        """Of the foreground."""
        return overlap(found == 1, self.truth == 1, self.truth == IGNORED)


def _normal(pixels: Pixels) -> Tensor:
    return normalise(torch.from_numpy(pixels))[None]


def _cells(flags: np.ndarray, patch: int) -> np.ndarray:
    return rearrange(flags, "(r p) (c q) -> r c (p q)", p=patch, q=patch)


def score(model: SegGPT, pictures: Pictures, each: EpisodeSet) -> list[float]:
    """mIoU of a set for each of COUNTS."""
    summed: dict[tuple[int, int], Overlap] = {}
    for episode in each.episodes:
        hinted, i = Hinted(model, pictures, each, episode), 1 if each.instances_as_one else episode.id
        for count in range(COUNTS[-1] + 1):
            found = hinted.ask()
            if count in COUNTS:
                summed[i, count] = summed.get((i, count), Overlap()) + hinted.overlap(found)
            hinted.click(found)
    return [mean(value.iou for (_, n), value in summed.items() if n == count) for count in COUNTS]


def main() -> None:
    """Measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--limit", type=int, help="episodes of each set at most")
    given = parser.parse_args()
    sets = read_sets(given.data, prompts=1, limit=given.limit)
    model, pictures = load_model(resolve(given.weights)).eval(), Pictures(sets)
    found = {each.name: [round(value, 4) for value in score(model, pictures, each)] for each in sets}
    together = [round(mean(values[k] for values in found.values()), 4) for k in range(len(COUNTS))]
    measured = {
        "weights": given.weights,
        "side": model.config.side,
        "episodes": sum(len(each.episodes) for each in sets),
        "revealed_patches": COUNTS,
        "mean_iou": together,
        "sets": found,
    }
    record(f"hints_{Path(given.weights).stem}_side{model.config.side}", measured, "cpu", weights=given.weights)


if __name__ == "__main__":
    main()
