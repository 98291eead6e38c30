"""The images and masks of episodes, each decoded once, as prompts and at the size at which they are scored.

Refuses to know which questions are asked, and what the answers are.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol

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


class ImageSource(Protocol):
    """Where the images of episodes come from. Threads may share it."""

    def image(self, set_name: str, stem: str, /) -> Pixels:
        """Open an image, (H, W, 3) uint8.

        Raises:
            FileNotFoundError: There is no such image.
        """
        ...

    def asked(self, each: EpisodeSet, i: int, stem: str, /) -> Pixels:
        """Read what is asked, (H, W) uint8 of the image's size: 1 a class, 255 where nothing is scored, else 0."""
        ...

    def prompt(self, each: EpisodeSet, i: int, stem: str, /) -> Prompt:
        """Open an image with that mask."""
        ...


class Kept:
    """Arrays by their files, made once as long as half a gigabyte holds them. Threads may share it."""

    def __init__(self, most: int = _CACHED_BYTES) -> None:
        """most: bytes."""
        self._most = most
        self._kept: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Pixels]) -> Pixels:
        """Return what was made for that key, read-only, as many prompts share it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        pixels = make()
        pixels.setflags(write=False)
        with self._lock:
            if key not in self._kept:  # another thread may have been faster
                self._kept[key] = pixels
                self._bytes += pixels.nbytes
            while self._bytes > self._most and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels


class EpisodeImages:
    """The images and masks of sets in folders: a :class:`ImageSource`."""

    def __init__(self, sets: Sequence[EpisodeSet]) -> None:
        self._files = {(each.name, kind): files(each.folder / kind) for each in sets for kind in ("images", "masks")}
        self._numbers = {each.name: number_colors(self._files[each.name, "masks"].values()) for each in sets}
        self._kept = Kept()

    def image(self, set_name: str, stem: str) -> Pixels:
        """Open an image, (H, W, 3) uint8.

        Raises:
            FileNotFoundError: There is no such image.
        """
        path = self.file(set_name, "images", stem)
        return self._kept.get(path, lambda: read_image(path))

    def ids(self, set_name: str, stem: str) -> Pixels:
        """Read the ids of a mask, (H, W) uint8, a colour of RGB masks the same in all of a set.

        Raises:
            FileNotFoundError: None.
        """
        path, numbers = self.file(set_name, "masks", stem), self._numbers[set_name]
        return self._kept.get(path, lambda: read_ids(path, numbers))

    def asked(self, each: EpisodeSet, i: int, stem: str) -> Pixels:
        """Read what is asked, (H, W) uint8: 1 where a class is, 255 where the file ignores, else 0.

        Raises:
            ValueError: The mask has not its image's size.
        """
        ids, size = self.ids(each.name, stem), self.image(each.name, stem).shape[:2]
        if ids.shape != size:
            path = self.file(each.name, "masks", stem)
            raise ValueError(f"{path}: expected a mask of its image's size {size}, got {ids.shape}")
        return np.where(ids == IGNORED, np.uint8(IGNORED), wanted(ids, each, i).astype(np.uint8))

    def prompt(self, each: EpisodeSet, i: int, stem: str) -> Prompt:
        """Open an image with the mask of one class: 1 where it is, 255 where the file ignores."""
        return Prompt(self.image(each.name, stem), self.asked(each, i, stem))

    def file(self, set_name: str, kind: str, stem: str) -> Path:
        """Find the file in the set's folder of that kind, "images" or "masks"."""
        try:
            return self._files[set_name, kind][stem]
        except KeyError:
            raise FileNotFoundError(
                f"expected a file named {stem} (.jpg, .png) in {set_name}/{kind}, got none; an episode names it"
            ) from None


def wanted(ids: Pixels, each: EpisodeSet, i: int) -> npt.NDArray[np.bool_]:
    """Find where the class that is asked for is, (H, W) bool."""
    return np.asarray((ids != 0) & (ids != IGNORED) if each.instances_as_one else ids == i)


def at_scoring_side(array: npt.NDArray[Any], side: int | None = SCORING_SIDE) -> npt.NDArray[Any]:
    """Shrink (H, W) bool, ids or confidence to (side, side), nearest neighbour, as Pillow picks it; None: not."""
    if side is None:
        return array
    kind = np.float32 if array.dtype.kind == "f" else np.uint8
    small = resized_mask(array.astype(kind), (side, side))
    return np.asarray(small).astype(array.dtype)
