"""What refined edges and windows are worth: on the fixed episodes of a test folder, and on large mosaics made of them.

python benchmarks/refine.py ../shared/data/test --limit 10 --mosaics 1

One shot. Edges: mean IoU, F as DAVIS defines it and F within one pixel, at the images' own size, plain and refined.
Mosaics: 3 x 3 cells of 256 pixels, four with what is asked for and five of other sets without it, and the mean IoU of
each way to see more of them: seen whole, on a larger canvas, in windows, by a single image or by another mosaic.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from record import record

from incontext.canvas import votes
from incontext.canvas.query import PaintedAnswer
from incontext.canvas.read import read_small
from incontext.engine import Segmenter, load
from incontext.evaluation.few_shot.episodes import EpisodeSet, read_sets
from incontext.evaluation.few_shot.images import EpisodeImages, wanted
from incontext.evaluation.metrics import mean, overlap
from incontext.evaluation.video.davis import boundary
from incontext.images.ids import IGNORED, Pixels
from incontext.network.checkpoint import info
from incontext.network.registry import resolve
from incontext.options import SegmentKeywords
from incontext.types import Prompt

CELL, CELLS, SHOWING = 256, 3, 4  # pixels, cells along a side, cells with the thing
WAYS: dict[str, SegmentKeywords] = {  # to see a mosaic: options of Segmenter.segment
    "whole": {},
    "whole, refined": {"refine": True},
    "side 320": {"side": 320},
    "tiles auto": {"tiles": "auto"},
    "tiles 256": {"tiles": 256},
    "tiles 256, refined": {"tiles": 256, "refine": True},
}


def measure_edges(segmenter: Segmenter, sets: Sequence[EpisodeSet], images: EpisodeImages) -> dict[str, object]:
    """Plain and refined, from the same answers of the network."""
    rows: dict[str, dict[str, list[list[float]]]] = {"plain": defaultdict(list), "refined": defaultdict(list)}
    seconds = dict.fromkeys(rows, 0.0)
    for each in sets:
        for episode in each.episodes:
            query = images.image(each.name, episode.query)
            truth = images.prompt(each, episode.id, episode.query).mask
            prompt = images.prompt(each, episode.id, episode.prompts[0])
            (answer,) = segmenter.answer_many([query], prompt)
            assert isinstance(answer, PaintedAnswer)  # it is seen whole
            ids, confidence = (one[0] for one in read_small(answer.painted))
            for name, guide in (("plain", None), ("refined", query)):
                start = time.perf_counter()
                found = votes.elect(ids, confidence, truth.shape, guide=guide)[0] > 0
                seconds[name] += time.perf_counter() - start
                real, ignored = truth == 1, truth == IGNORED
                iou = overlap(found, real, ignored).iou
                scores = [iou, *(boundary(found, real, ignored, radius) for radius in (None, 1))]
                rows[name][each.name].append(scores)
    return {name: {**_summary(of_sets), "seconds": round(seconds[name], 2)} for name, of_sets in rows.items()}


def _summary(of_sets: dict[str, list[list[float]]]) -> dict[str, object]:
    means = {name: np.mean(scores, axis=0).round(4).tolist() for name, scores in of_sets.items()}
    return {"scores": ["iou", "f", "f_1px"], "mean": np.mean(list(means.values()), axis=0).round(4).tolist(), **means}


class Mosaics:
    """Large images with exact masks, made of the sets' images. `make(name)` is one that shows what a set's
    first episode asks for."""

    def __init__(self, sets: Sequence[EpisodeSet], images: EpisodeImages, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._cells: dict[str, list[tuple[Pixels, Pixels]]] = {}
        for each in sets:
            stems = dict.fromkeys(stem for e in each.episodes for stem in (e.query, *e.prompts))
            i = each.episodes[0].id
            cut = (self._cut(images.image(each.name, s), _mask(images, each, i, s)) for s in list(stems)[:20])
            self._cells[each.name] = [cell for cell in cut if cell is not None and (cell[1] == 1).mean() > 0.002]
        self.names = [name for name, cells in self._cells.items() if len(cells) > 2 * SHOWING]

    def single(self, name: str) -> Prompt:
        """One cell as a prompt; none of the mosaics shows it."""
        return Prompt(*self._cells[name][0])

    def make(self, name: str) -> tuple[Pixels, Pixels]:
        """An image and its ids, 1 the set's class."""
        own = [self._cells[name][i] for i in 1 + self._rng.permutation(len(self._cells[name]) - 1)[:SHOWING]]
        others = [other for other in self._cells if other != name and self._cells[other]]
        for _ in range(CELLS**2 - SHOWING):
            cells = self._cells[others[self._rng.integers(len(others))]]
            image, mask = cells[self._rng.integers(len(cells))]
            own.append((image, np.zeros_like(mask)))
        order = self._rng.permutation(CELLS**2)
        image, mask = (
            np.concatenate([np.concatenate([own[i][part] for i in row], axis=1) for row in order.reshape(CELLS, -1)])
            for part in (0, 1)
        )
        return image, mask

    @staticmethod
    def _cut(image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels] | None:
        if min(mask.shape) < CELL:
            return None
        top, left = ((length - CELL) // 2 for length in mask.shape)
        return image[top : top + CELL, left : left + CELL], mask[top : top + CELL, left : left + CELL]


def _mask(images: EpisodeImages, each: EpisodeSet, i: int, stem: str) -> Pixels:
    """(H, W): 1 where the class is, which may be nowhere, 255 where the file ignores."""
    ids = images.ids(each.name, stem)
    return np.where(ids == IGNORED, np.uint8(IGNORED), wanted(ids, each, i).astype(np.uint8))


def measure_mosaics(segmenter: Segmenter, mosaics: Mosaics, count: int) -> dict[str, object]:
    """For each way, and each kind of prompt, the mean IoU over the sets, and seconds of a mosaic."""
    asked: dict[str, Callable[[str], Prompt]] = {
        "by one image": mosaics.single,
        "by a mosaic": lambda name: Prompt(*mosaics.make(name)),
    }
    rows: dict[str, object] = {}
    drawn = [
        (name, mosaics.make(name), {kind: make(name) for kind, make in asked.items()})
        for name in mosaics.names
        for _ in range(count)
    ]
    for kind in asked:
        for way, options in WAYS.items():
            start, of_sets = time.perf_counter(), defaultdict(list)
            for name, (image, mask), prompts in drawn:
                found = segmenter.segment(image, prompts[kind], **options).mask == 1
                of_sets[name].append(overlap(found, mask == 1, mask == IGNORED).iou)
            ious = {name: round(mean(each), 4) for name, each in of_sets.items()}
            seconds = round((time.perf_counter() - start) / len(drawn), 3)
            rows[f"{way}, {kind}"] = {"mean": round(mean(ious.values()), 4), "seconds": seconds, "sets": ious}
            print(way, kind, rows[f"{way}, {kind}"], flush=True)
    return rows


def main() -> None:
    """Measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--limit", type=int, default=10, help="episodes of each set, evenly spread; 0: no edges")
    parser.add_argument("--mosaics", type=int, default=1, help="of each set; 0: none")
    options = parser.parse_args()
    segmenter = load(options.weights)
    measured: dict[str, object] = {
        "weights": options.weights,
        "sha256": info(resolve(options.weights)).sha256,
        "dtype": segmenter.describe()["dtype"],
        "side": segmenter.config.side,
        "limit": options.limit,
        "mosaics_of_each_set": options.mosaics,
    }
    sets = read_sets(options.data, limit=max(1, options.limit))
    images = EpisodeImages(sets)
    if options.limit:
        measured["edges"] = measure_edges(segmenter, sets, images)
        print(measured["edges"], flush=True)
    if options.mosaics:
        measured["mosaics"] = measure_mosaics(segmenter, Mosaics(sets, images), options.mosaics)
    record(f"refine_{Path(options.weights).stem}", measured, segmenter.device, weights=options.weights)


if __name__ == "__main__":
    main()
