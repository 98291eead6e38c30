"""Folders of images with masks, decoded once and kept in memory; what each image shows, and how large.

Refuses to know episodes, augmentation, tensors and the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from incontext.annotations import Labels
from incontext.annotations.known import open_one, recognised
from incontext.images.dataset import has_instances, has_regions
from incontext.images.ids import IGNORED, Pixels
from incontext.images.masks import number_colors, read_ids
from incontext.images.read import IMAGE_SUFFIXES, read_image
from incontext.images.resize import resized, resized_mask, shrunk_size
from incontext.left_out import LeftOutWarning

MIN_PIXELS = 12  # an id with fewer pixels in an image does not count as shown


@dataclass(frozen=True)
class ImageSet:
    """A folder of images with masks, decoded. ``regions``: ids have no meaning across images."""

    name: str
    regions: bool
    images: tuple[np.ndarray, ...]  # (H, W, 3) uint8
    masks: tuple[np.ndarray, ...]  # (H, W) uint8 ids, 0 background, 255 ignored
    ids: tuple[tuple[int, ...], ...] = field(init=False)  # ids present in each mask, 0 and 255 left out
    by_id: dict[int, tuple[int, ...]] = field(init=False)  # id -> the images that show it

    def __post_init__(self) -> None:
        counts = np.stack([np.bincount(mask.ravel(), minlength=256) for mask in self.masks])
        counts[:, [0, IGNORED]] = 0
        present = counts >= MIN_PIXELS
        object.__setattr__(self, "ids", tuple(tuple(int(i) for i in np.flatnonzero(row)) for row in present))
        shown = np.flatnonzero(present.any(axis=0))
        by_id = {int(i): tuple(int(n) for n in np.flatnonzero(present[:, i])) for i in shown}
        object.__setattr__(self, "by_id", by_id)

    @cached_property
    def areas(self) -> np.ndarray:
        """The share of each image that each id covers, (images, 256) float32, 0..1."""
        shares = [np.bincount(mask.ravel(), minlength=256) / mask.size for mask in self.masks]
        return np.stack(shares).astype(np.float32)

    @cached_property
    def without(self) -> dict[int, tuple[int, ...]]:
        """For each id the images that have not one pixel of it."""
        return {i: tuple(int(n) for n in np.flatnonzero(self.areas[:, i] == 0)) for i in self.by_id}


def read_set(folder: Path, *, shorter_side: int = 256) -> ImageSet:
    """Read a set into memory: ``folder/images`` and ``folder/masks``, files of the same stems.

    Where there are none, the annotation file or folder that ``folder`` is, in any format of `incontext.annotations`.
    ``folder/dataset.json``, where there is one, may say ``"masks": "regions ..."`` or ``"instances ..."``; otherwise
    the ids
    are taken to mean the same in every image.

    Args:
        folder: The set.
        shorter_side: Pixels that images are shrunk to.

    Raises:
        ValueError: There are no pairs, or a mask's size differs from its image's.
        FileNotFoundError: There is nothing at ``folder``.
    """
    by_image = has_regions(folder) or has_instances(folder)
    images, masks = [], []
    for name, image, mask in _pairs(folder):
        if image.shape[:2] != mask.shape:
            raise ValueError(f"expected {name} to have its image's size {image.shape[:2]}, got {mask.shape}")
        size = shrunk_size(image.shape[:2], shortest=shorter_side)
        images.append(resized(image, size))
        masks.append(resized_mask(mask, size))
    made = ImageSet(folder.name, by_image, tuple(images), tuple(masks))
    if not made.by_id:
        raise ValueError(f"expected masks with ids in {folder}; every mask is empty")
    return made


def read_photographs(folder: Path, *, shorter_side: int = 256) -> ImageSet:
    """Read the images of a folder and its subfolders into memory, shrunk to ``shorter_side``, with empty masks.

    Raises:
        ValueError: there are no images.
    """
    images = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            image = read_image(path)
            images.append(resized(image, shrunk_size(image.shape[:2], shortest=shorter_side)))
    if not images:
        raise ValueError(f"expected images in {folder}, found none")
    nothing = tuple(np.broadcast_to(np.uint8(0), image.shape[:2]) for image in images)
    return ImageSet(folder.name, False, tuple(images), nothing)


def _pairs(folder: Path) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Read the mask's name, the image (H, W, 3) and the mask (H, W) of each labelled image."""
    images = {p.stem: p for p in sorted(folder.glob("images/*")) if p.suffix.lower() in IMAGE_SUFFIXES}
    pairs = [(images[p.stem], p) for p in sorted(folder.glob("masks/*")) if p.stem in images]
    numbers = number_colors(mask for _, mask in pairs)
    for image, mask in pairs:
        yield str(mask), read_image(image), read_ids(mask, numbers)
    hits = () if pairs else recognised(folder)
    if not pairs and not hits:
        raise ValueError(
            f"expected {folder} to hold images/ and masks/ with files of the same names, or annotations; found neither"
        )
    if hits:
        yield from _annotated(folder, open_one(folder, hits))


def _annotated(folder: Path, labels: Labels) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Read the same of annotations, as far as their images are there."""
    found = [each for each in labels.images if each.image is not None or each.embedded is not None]
    count = len(labels.images)
    if not found:
        raise ValueError(f"expected the images of {folder} beside it, under the names in it; found none of {count}")
    if len(found) < count:
        warnings.warn(f"{folder}: {count - len(found)} of {count} images are not there", LeftOutWarning, stacklevel=2)
    for problem in labels.problems:
        warnings.warn(f"{folder}: {problem}", LeftOutWarning, stacklevel=2)
    for labelled in found:
        yield f"{labelled.file}: {labelled.name}", labelled.read_image(), labelled.mask()


def hold_out(sets: Iterable[ImageSet], *, every: int = 20) -> tuple[list[ImageSet], list[ImageSet]]:
    """Divide sets to learn from and to validate by: of each one every ``every``-th image is held out.

    A set of fewer images is learned from whole. What is held out and shows nothing is left out.
    """
    kept, held = [], []
    for each in sets:
        chosen = held_out_numbers(len(each.images), every)
        kept.append(_part(each, [i for i in range(len(each.images)) if i not in chosen]))
        if chosen and (validating := _part(each, sorted(chosen))).by_id:
            held.append(validating)
    return kept, held


def held_out_numbers(count: int, every: int) -> set[int]:
    """Which of so many images of a set, in the order of their masks' names, are held out."""
    return set(range(every // 2, count, every)) if count >= every else set()


def _part(source: ImageSet, numbers: Sequence[int]) -> ImageSet:
    return replace(
        source, images=tuple(source.images[i] for i in numbers), masks=tuple(source.masks[i] for i in numbers)
    )
