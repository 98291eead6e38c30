"""How good masks of everything are, and how long they take: average recall at 10, 50 and 100 proposals.

python benchmarks/proposals.py ../shared/data --limit 10

On the held-out photographs of BSDS500 in DATA/train, whose regions people drew, and on the queries of the test sets in
DATA/test, where a thing is a connected part of what an episode asks for, or all of an id of a set of instances. Beside
it superpixels of scikit-image. Average recall is that of COCO: the mean over IoU thresholds .5 to .95.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from record import record
from scipy import ndimage

from incontext.engine import Segmenter, load
from incontext.evaluation.few_shot.episodes import read_sets
from incontext.evaluation.few_shot.images import EpisodeImages
from incontext.evaluation.metrics import Flags, mean
from incontext.evaluation.proposals import COUNTS, average_recall, best_ious, superpixels
from incontext.images.ids import IGNORED, Pixels
from incontext.proposals import propose
from incontext.training.sets import hold_out, read_set

REGIONS = "bsds500"
LEAST = 0.002  # of an image: smaller things are not asked for


def things_in(mask: Pixels, *, regions: bool) -> list[Flags]:
    """Every region, or every connected part of an id, that is not too small."""
    ids = [i for i in np.unique(mask).tolist() if i not in ((IGNORED,) if regions else (0, IGNORED))]
    found = [mask == i for i in ids]
    if not regions:
        found = [part == n for each in found for part, count in [ndimage.label(each)] for n in range(1, count + 1)]
    return [each for each in found if each.sum() >= LEAST * mask.size]


def regions_of(data: Path, limit: int | None) -> Iterator[tuple[Pixels, Pixels]]:
    """Held-out photographs of which every region is drawn."""
    _, held = hold_out([read_set(data / "train" / REGIONS)])
    yield from zip(held[0].images[:limit], held[0].masks[:limit], strict=True)


def queries_of(data: Path, name: str, limit: int | None) -> Iterator[tuple[Pixels, Pixels]]:
    """The queries of a test set, each once, with what episodes ask for."""
    (each,) = read_sets(data / "test", names=[name], prompts=1)
    images = EpisodeImages([each])
    seen = list(dict.fromkeys(episode.query for episode in each.episodes))[:limit]
    for stem in seen:
        yield images.image(name, stem), images.ids(name, stem)


def measure(
    segmenter: Segmenter, images: Iterator[tuple[Pixels, Pixels]], points: int, *, regions: bool
) -> dict[str, object]:
    """Average recall of both ways, and seconds an image."""
    ious: dict[str, list[np.ndarray]] = {"network": [], "superpixels": []}
    seconds, counts = list[float](), list[int]()
    for image, mask in images:
        things = things_in(mask, regions=regions)
        if not things:
            continue
        start = time.perf_counter()
        found = propose(segmenter, image, points_per_side=points)
        seconds.append(time.perf_counter() - start)
        counts.append(len(found))
        ignored = mask == IGNORED
        ious["network"].append(best_ious((found.mask(i) for i in range(len(found))), things, ignored))
        ious["superpixels"].append(best_ious(superpixels(image), things, ignored))
    if not seconds:
        return {"images": 0}
    recall = {
        name: [round(average_recall(np.concatenate(each, axis=1)[row]), 4) for row in range(len(COUNTS))]
        for name, each in ious.items()
    }
    about = {"images": len(seconds), "things": sum(each.shape[1] for each in ious["network"])}
    return {**about, **recall, "proposals": round(mean(counts), 1), "seconds": round(mean(seconds), 2)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of test/ and train/")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--limit", type=int, help="images of each set at most")
    parser.add_argument("--points", type=int, default=16, help="along a side of the grid of clicks")
    parser.add_argument("--sets", help="only these, with commas")
    given = parser.parse_args(arguments)
    segmenter = load(given.weights)
    names = [REGIONS, *(each.name for each in read_sets(given.data / "test", prompts=1, limit=1))]
    asked = names if given.sets is None else given.sets.split(",")
    rows = []
    for name in asked:
        regions = name == REGIONS
        images = regions_of(given.data, given.limit) if regions else queries_of(given.data, name, given.limit)
        rows.append({"set": name, **measure(segmenter, images, given.points, regions=regions)})
        print(rows[-1])
    measured = {"weights": given.weights, "points_per_side": given.points, "counts": COUNTS, "sets": rows}
    record(f"proposals_{Path(given.weights).stem}_side{segmenter.config.side}", measured, "cpu", weights=given.weights)


if __name__ == "__main__":
    main()
