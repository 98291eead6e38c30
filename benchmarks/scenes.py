"""A sheet of rendered scenes for the documentation: what training learns from beside photographs.

python benchmarks/scenes.py -o docs/images/scenes.jpg

Each scene is drawn twice, as an episode shows it: an image, and another one of the same kinds of things under their
mask. Seeded, so the same sheet every time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from incontext.images.ids import Pixels
from incontext.images.write import write_image
from incontext.training.scenes import render_pair
from incontext.types import Palette, Segmentation


def scene(rng: np.random.Generator, side: int) -> Pixels:
    """(side, 2 * side, 3) uint8."""
    images, masks = render_pair(rng, side)
    palette = Palette.spread(range(1, 1 + int(masks.max())))
    shown = Segmentation(masks[1], np.ones(masks[1].shape, np.float32), palette).overlay(images[1])
    return np.concatenate([images[0], shown], axis=1)


def sheet(rows: int, columns: int, side: int, seed: int) -> Pixels:
    """(rows * side, 2 * columns * side, 3) uint8."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [np.concatenate([scene(rng, side) for _ in range(columns)], axis=1) for _ in range(rows)], axis=0
    )


def main() -> None:
    """Draw and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=3)
    given = parser.parse_args()
    write_image(given.out, sheet(5, 4, 128, given.seed))


if __name__ == "__main__":
    main()
