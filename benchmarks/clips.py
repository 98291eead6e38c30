"""Rendered videos with exact masks, as a folder for `incontext evaluate video`: what is decided about memory is decided
on these, so that the scored sequences stay unseen.

python benchmarks/clips.py CLIPS/ --count 12 --frames 24
python benchmarks/video.py CLIPS/ --out SCORES/ --memory 0,4,8
"""

from __future__ import annotations

import argparse
from itertools import count
from pathlib import Path

import numpy as np

from incontext.formats import write_image, write_mask
from incontext.training.moving import render_clip
from incontext.types import Palette

SIZE = 240, 426


def main() -> None:
    """Draw and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a new folder: CLIP/frames and CLIP/masks of each")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--frames", type=int, default=24, help="of each")
    parser.add_argument("--every", type=int, default=2, help="only every so many frames are drawn: faster things")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    number = 0
    for attempt in count():
        clip = list(render_clip(np.random.default_rng([given.seed, attempt]), SIZE, given.frames, every=given.every))
        if not clip[0][1].any():  # nothing to follow from the first frame on
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
