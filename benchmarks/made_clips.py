"""Videos with exact masks, as a folder for `incontext evaluate video`: what is decided about memory is decided on
these, so that the scored sequences stay unseen.

python benchmarks/made_clips.py CLIPS/ --count 12 --frames 24                                     rendered scenes
python benchmarks/made_clips.py CLIPS/ --count 12 --frames 24 --photographs ../shared/data/train  photographs
python benchmarks/video.py CLIPS/ --out SCORES/ --memory 0,4,8

With photographs, things that were cut out of some move before others; they are of those that training holds out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np

from incontext.images.write import write_image, write_mask
from incontext.training.scenes import move_cutouts, render_clip
from incontext.training.sets import ImageSet, hold_out, read_set
from incontext.types import Palette

SIZE = 240, 426
AREAS = 0.03, 0.5  # of its image, which a thing covers that is cut out
COMPACT = 0.45  # of its own box, which it covers at least


def drawn(
    rng: np.random.Generator, sets: Sequence[ImageSet], frames: int, every: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A clip: rendered, or of one to three things out of a set of photographs, where there are sets."""
    if not sets:
        return list(render_clip(rng, SIZE, frames, every=every))
    images = np.cumsum([len(each.images) for each in sets])
    at, behind = (sets[int(np.searchsorted(images, rng.integers(images[-1]), side="right"))] for _ in range(2))
    fitting = [(n, i) for n, ids in enumerate(at.ids) for i in ids if AREAS[0] < at.areas[n, i] < AREAS[1]]
    found = [(n, i) for n, i in fitting if filling(at.masks[n] == i) > COMPACT]
    chosen = rng.permutation(len(found))[: int(rng.integers(1, 4))]
    things = [(at.images[n], at.masks[n] == i) for n, i in (found[int(k)] for k in chosen)]
    scene = behind.images[int(rng.integers(len(behind.images)))]
    return list(move_cutouts(rng, SIZE, frames, scene, things, every=every)) if things else []


def filling(cover: np.ndarray) -> float:
    """How much of its box a thing covers, 0..1."""
    sides = [np.flatnonzero(cover.any(axis=axis)) for axis in (0, 1)]
    return float(cover.sum() / np.prod([side[-1] + 1 - side[0] for side in sides]))


def main() -> None:
    """Draw and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a new folder: CLIP/frames and CLIP/masks of each")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--frames", type=int, default=24, help="of each")
    parser.add_argument("--every", type=int, default=2, help="only every so many frames are drawn: faster things")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photographs", type=Path, help="a folder of sets: videos of what training holds out of them")
    given = parser.parse_args()
    folders = [] if given.photographs is None else [each.parent for each in sorted(given.photographs.glob("*/masks"))]
    sets = hold_out(read_set(folder) for folder in folders)[1]
    number = 0
    for attempt in count():
        clip = drawn(np.random.default_rng([given.seed, attempt]), sets, given.frames, given.every)
        if not clip or not clip[0][1].any():  # nothing to follow from the first frame on
            continue
        frames, masks = (given.out / f"clip{number:03d}" / name for name in ("frames", "masks"))
        for folder in (frames, masks):
            folder.mkdir(parents=True)
        for index, (image, mask) in enumerate(clip):
            write_image(frames / f"{index:05d}.jpg", image)
            write_mask(masks / f"{index:05d}.png", mask, Palette.spread(range(1, 5)).table)
        number += 1
        if number == given.count:
            break


if __name__ == "__main__":
    main()
