"""The pictures and masks of episodes, each decoded once, as prompts and at the size at which they are scored.

Refuses to know which questions are asked, and what the answers are.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incontext.evaluation.few_shot.episodes import EpisodeSet, files
from incontext.images.ids import IGNORED, Pixels
from incontext.images.masks import number_colors, read_ids
from incontext.images.read import read_image
from incontext.images.resize import resized_mask
from incontext.types import Prompt

SCORING_SIDE = 224  # pixels
_CACHED_BYTES = 512 << 20


class Pictures:
    """The pictures and masks of sets, decoded once as long as half a gigabyte holds them. Threads may share it."""

    def __init__(self, sets: Sequence[EpisodeSet]) -> None:
        self._files = {(each.name, kind): files(each.folder / kind) for each in sets for kind in ("images", "masks")}
        self._numbers = {each.name: number_colors(self._files[each.name, "masks"].values()) for each in sets}
        self._kept: OrderedDict[Path, Pixels] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def image(self, set_name: str, stem: str) -> Pixels:
        """(H, W, 3) uint8. FileNotFoundError where there is no such picture."""
        return self._read(self.path(set_name, "images", stem), read_image)

    def ids(self, set_name: str, stem: str) -> Pixels:
        """(H, W) uint8: the mask's ids, a colour of RGB masks the same in all of a set. FileNotFoundError if none."""
        numbers = self._numbers[set_name]
        return self._read(self.path(set_name, "masks", stem), lambda path: read_ids(path, numbers))

    def prompt(self, each: EpisodeSet, i: int, stem: str) -> Prompt:
        """A picture with the mask of one class: 1 where it is, 255 where the file ignores."""
        ids = self.ids(each.name, stem)
        mask = np.where(ids == IGNORED, np.uint8(IGNORED), wanted(ids, each, i).astype(np.uint8))
        return Prompt(self.image(each.name, stem), mask)

    def path(self, set_name: str, kind: str, stem: str) -> Path:
        """The file in the set's folder of that kind, "images" or "masks"."""
        try:
            return self._files[set_name, kind][stem]
        except KeyError:
            raise FileNotFoundError(
                f"expected a file named {stem} (.jpg, .png) in {set_name}/{kind}, got none; an episode names it"
            ) from None

    def _read(self, path: Path, read: Callable[[Path], Pixels]) -> Pixels:
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        pixels = read(path)
        pixels.setflags(write=False)  # many prompts share them
        with self._lock:
            if path not in self._kept:  # another thread may have been faster
                self._kept[path] = pixels
                self._bytes += pixels.nbytes
            while self._bytes > _CACHED_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels


def wanted(ids: Pixels, each: EpisodeSet, i: int) -> npt.NDArray[np.bool_]:
    """(H, W) bool: where the class that is asked for is."""
    return np.asarray((ids != 0) & (ids != IGNORED) if each.instances_as_one else ids == i)


def at_scoring_side(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W) bool, ids or confidence -> (224, 224), nearest neighbour, as Pillow picks it."""
    kind = np.float32 if array.dtype.kind == "f" else np.uint8
    small = resized_mask(array.astype(kind), (SCORING_SIDE, SCORING_SIDE))
    return np.asarray(small).astype(array.dtype)
