"""A contact sheet: some frames of a video, evenly spread, in one image. Memory holds small images, and few.

Refuses to know what is in the images, and how many will come.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from incontext.images.ids import Pixels
from incontext.images.resize import shrunk
from incontext.images.write import write_image

MOST_CELLS: Final = 12
_COLUMNS = 4
_CELL = 320  # pixels along the longer side of a frame
_GAP, _LINE = 8, 20  # pixels
_PAPER, _INK = (255, 255, 255), (20, 20, 20)


class Sheet:
    """Frames at even distances, whatever their number.

    Each second one is dropped, and the distance doubled, whenever there are twice as many as fit.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[str, Image.Image]] = []
        self._distance = 1
        self._seen = 0

    def add(self, caption: str, image: Callable[[], Pixels]) -> None:
        """Add the next frame; its image (H, W, 3) uint8 is asked for only where it is of use."""
        wanted = self._seen % self._distance == 0
        self._seen += 1
        if not wanted:
            return
        small = Image.fromarray(shrunk(image(), _CELL, quick=True))
        self._kept.append((caption, small))
        if len(self._kept) >= 2 * MOST_CELLS:
            self._kept = self._kept[::2]
            self._distance *= 2

    def write(self, path: Path) -> None:
        """Write the sheet: at most 12 frames, in order. The file appears whole or not at all."""
        places = np.unique(np.linspace(0, len(self._kept) - 1, min(MOST_CELLS, len(self._kept))).round().astype(int))
        chosen = [self._kept[place] for place in places.tolist()]
        width, height = chosen[0][1].width + _GAP, chosen[0][1].height + _LINE + _GAP
        columns = min(_COLUMNS, len(chosen))
        rows = -(-len(chosen) // columns)
        sheet = Image.new("RGB", (_GAP + columns * width, _GAP + rows * height), _PAPER)
        draw = ImageDraw.Draw(sheet)
        for cell, (caption, image) in enumerate(chosen):
            row, column = divmod(cell, columns)
            left, top = _GAP + column * width, _GAP + row * height
            draw.text((left, top), caption, _INK, ImageFont.load_default(13))
            sheet.paste(image, (left, top + _LINE))
        write_image(path, np.asarray(sheet))
