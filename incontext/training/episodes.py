"""Episodes from folders: which prompt, which query, which ids, and how both pictures are cut and changed.

An episode is a prompt and a query that share ids. Semantic data, whose ids mean the same in every picture, gives two
pictures that share an id; region and instance data, whose ids mean nothing elsewhere, gives two views of one picture
(arXiv 2304.03284, section 3.1). Everything is drawn from one generator per episode, so that episode number i of a seed
is the same on every run, machine and worker. This module refuses to know tensors, colours and the network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from incontext.formats import IMAGE_SUFFIXES, read_image, read_mask
from incontext.training.synthetic import render_pair

IGNORED = 255
MIN_PIXELS = 12  # an id with fewer pixels in a picture does not count as shown
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


@dataclass(frozen=True)
class Sampling:
    """How episodes are drawn. Shares are probabilities; areas are fractions of a picture."""

    rendered: float = 0.15  # episodes of rendered scenes, the rest from the folders
    two_views: float = 0.4  # of the episodes from semantic folders: two views of one picture instead of two pictures
    absent: float = 0.04  # episodes whose query does not show the prompt's ids
    single_id: float = 0.7  # episodes that ask for one id; the others ask for up to max_ids
    max_ids: int = 6
    whole_picture: float = 0.5  # views that show the whole picture
    min_view: float = 0.15  # area of the smallest view
    min_object: float = 0.004  # area of the smallest object in a view that is looked for
    set_balance: float = 0.35  # a set is drawn in proportion to (number of pictures) ** set_balance


@dataclass(frozen=True)
class ImageSet:
    """A folder of pictures with masks, decoded. ``regions``: ids have no meaning across pictures."""

    name: str
    regions: bool
    images: tuple[np.ndarray, ...]  # (H, W, 3) uint8
    masks: tuple[np.ndarray, ...]  # (H, W) uint8 ids, 0 background, 255 ignored
    ids: tuple[tuple[int, ...], ...] = field(init=False)  # ids present in each mask, 0 and 255 left out
    by_id: dict[int, tuple[int, ...]] = field(init=False)  # id -> the pictures that show it

    def __post_init__(self) -> None:
        counts = np.stack([np.bincount(mask.ravel(), minlength=256) for mask in self.masks])
        counts[:, [0, IGNORED]] = 0
        present = counts >= MIN_PIXELS
        object.__setattr__(self, "ids", tuple(tuple(int(i) for i in np.flatnonzero(row)) for row in present))
        shown = np.flatnonzero(present.any(axis=0))
        by_id = {int(i): tuple(int(n) for n in np.flatnonzero(present[:, i])) for i in shown}
        object.__setattr__(self, "by_id", by_id)


@dataclass(frozen=True)
class Episode:
    """A prompt (index 0) and a query (index 1). Ids are 1..count, 0 background, 255 ignored."""

    images: np.ndarray  # (2, side, side, 3) uint8
    masks: np.ndarray  # (2, side, side) uint8
    count: int


def read_set(folder: Path, *, shorter_side: int = 256) -> ImageSet:
    """Read ``folder/images`` and ``folder/masks`` (same stems) into memory, shrunk to ``shorter_side``.

    ``folder/dataset.json``, where there is one, may say ``"masks": "regions ..."`` or ``"instances ..."``;
    otherwise the ids are taken to mean the same in every picture.

    Raises:
        ValueError: there are no pairs, or a mask's size differs from its picture's.
    """
    about = folder / "dataset.json"
    kind = str(json.loads(about.read_text()).get("masks", "")) if about.is_file() else ""
    pictures = {p.stem: p for p in sorted(folder.glob("images/*")) if p.suffix.lower() in IMAGE_SUFFIXES}
    pairs = [(pictures[p.stem], p) for p in sorted(folder.glob("masks/*")) if p.stem in pictures]
    if not pairs:
        raise ValueError(f"expected {folder} to hold images/ and masks/ with files of the same names; found no pair")
    images, masks = [], []
    for image_path, mask_path in pairs:
        image, mask = read_image(image_path), read_mask(mask_path).ids
        if image.shape[:2] != mask.shape:
            raise ValueError(f"expected {mask_path} to have its picture's size {image.shape[:2]}, got {mask.shape}")
        height, width = mask.shape
        scale = min(1.0, shorter_side / min(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if scale < 1.0:
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
            mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        images.append(image)
        masks.append(mask)
    made = ImageSet(folder.name, kind.startswith(("regions", "instances")), tuple(images), tuple(masks))
    if not made.by_id:
        raise ValueError(f"expected masks with ids in {folder}; every mask is empty")
    return made


def hold_out(source: ImageSet, *, every: int = 20) -> tuple[ImageSet, ImageSet]:
    """Split a set for training and validation: every ``every``-th picture is held out."""

    def part(held: bool) -> ImageSet:
        chosen = [i for i in range(len(source.images)) if (i % every == every // 2) == held]
        return replace(
            source, images=tuple(source.images[i] for i in chosen), masks=tuple(source.masks[i] for i in chosen)
        )

    return part(False), part(True)


class EpisodeSource:
    """Episode number i of a seed, from sets of pictures and from the renderer."""

    def __init__(self, sets: Sequence[ImageSet], sampling: Sampling, *, side: int, seed: int) -> None:
        self.sets = tuple(each for each in sets if each.by_id)  # what shows nothing can ask for nothing
        self.sampling = sampling
        self.side = side
        self.seed = seed
        weights = np.array([len(s.images) ** sampling.set_balance for s in self.sets], dtype=np.float64)
        self.weights = weights / weights.sum() if len(weights) else weights

    def __getitem__(self, index: int) -> Episode:
        rng = np.random.default_rng([self.seed, index])
        if not self.sets or rng.random() < self.sampling.rendered:
            return self._rendered(rng)
        return self._drawn(rng, self.sets[rng.choice(len(self.sets), p=self.weights)])

    def _rendered(self, rng: np.random.Generator) -> Episode:
        images, masks = render_pair(rng, self.side)
        shared = [int(i) for i in np.unique(masks[0]) if i not in (0, IGNORED)]
        ids = self._choose_ids(rng, shared) or [1]
        changed = np.stack([jitter(image, rng) for image in images])
        return Episode(changed, np.stack([relabel(mask, ids) for mask in masks]), len(ids))

    def _drawn(self, rng: np.random.Generator, source: ImageSet) -> Episode:
        some = self.sampling
        two_views = source.regions or rng.random() < some.two_views
        if source.regions:
            prompt = int(rng.integers(len(source.images)))
            while not source.ids[prompt]:
                prompt = int(rng.integers(len(source.images)))
            focus = int(rng.choice(source.ids[prompt]))
        else:
            focus = int(rng.choice(list(source.by_id)))
            prompt = int(rng.choice(source.by_id[focus]))
        if two_views:
            query = prompt
        elif rng.random() < some.absent:
            query = int(rng.integers(len(source.images)))
        else:
            query = int(rng.choice(source.by_id[focus]))
        others = [i for i in source.ids[prompt] if i != focus]
        ids = self._choose_ids(rng, others, first=focus)
        turn, mirror = int(rng.integers(4)) if rng.random() < 0.12 else 0, bool(rng.random() < 0.5)
        images, masks = [], []
        for number in (prompt, query):
            image, mask = source.images[number], source.masks[number]
            box = choose_box(mask, focus, rng, some)
            image, mask = view(image, mask, box, self.side)
            mirror_this = mirror ^ (two_views and rng.random() < 0.25)
            image, mask = (np.rot90(a[:, ::-1] if mirror_this else a, turn) for a in (image, mask))
            images.append(jitter(image, rng))
            masks.append(relabel(mask, ids))
        return Episode(np.stack(images), np.stack(masks), len(ids))

    def _choose_ids(self, rng: np.random.Generator, ids: Sequence[int], first: int | None = None) -> list[int]:
        """The ids that an episode asks for, in random order; ``first`` is always among them."""
        head = [] if first is None else [first]
        most = self.sampling.max_ids - len(head)
        room = 1 - len(head) if rng.random() < self.sampling.single_id else int(rng.integers(1, most + 1))
        tail = [int(i) for i in rng.permutation(np.asarray(ids, dtype=np.int64))[:room]]
        return head + tail


def choose_box(mask: np.ndarray, focus: int, rng: np.random.Generator, sampling: Sampling) -> Box:
    """A view of a picture in which ``focus`` can be seen if it is in the picture at all: (left, top, right, bottom)."""
    height, width = mask.shape
    whole = (0, 0, width, height)
    if rng.random() < sampling.whole_picture:
        return whole
    pixels = np.flatnonzero(mask == focus)
    for _ in range(4):
        area = float(np.exp(rng.uniform(np.log(sampling.min_view), 0.0)))
        stretch = float(np.exp(rng.uniform(-0.3, 0.3)))
        box_width = int(np.clip(width * np.sqrt(area) * stretch, 16, width))
        box_height = int(np.clip(height * np.sqrt(area) / stretch, 16, height))
        if len(pixels) and rng.random() < 0.8:
            row, column = divmod(int(pixels[rng.integers(len(pixels))]), width)
        else:
            row, column = int(rng.integers(height)), int(rng.integers(width))
        left = int(np.clip(column - rng.uniform(0.15, 0.85) * box_width, 0, width - box_width))
        top = int(np.clip(row - rng.uniform(0.15, 0.85) * box_height, 0, height - box_height))
        inside = mask[top : top + box_height, left : left + box_width] == focus
        if not len(pixels) or sampling.min_object <= inside.mean() <= 0.9:
            return left, top, left + box_width, top + box_height
    return whole


def view(image: np.ndarray, mask: np.ndarray, box: Box, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut and squash: (H, W, 3) and (H, W) -> (side, side, 3) and (side, side)."""
    left, top, right, bottom = box
    pictures = Image.fromarray(image[top:bottom, left:right]), Image.fromarray(mask[top:bottom, left:right])
    small = pictures[0].resize((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(small), np.asarray(pictures[1].resize((side, side), Image.Resampling.NEAREST))


def relabel(mask: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """The ids asked for become 1..K in their order, every other one background; 255 stays ignored."""
    table = np.zeros(256, dtype=np.uint8)
    table[list(ids)] = np.arange(1, len(ids) + 1)
    table[IGNORED] = IGNORED
    relabelled: np.ndarray = table[mask]
    return relabelled


def jitter(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light, contrast, saturation, white balance and sometimes noise or grey: (H, W, 3) uint8 -> the same."""
    pixels = image.astype(np.float32)
    if rng.random() < 0.8:
        grey = pixels.mean(axis=2, keepdims=True)
        saturation = rng.uniform(0.5, 1.4)
        pixels = grey + (pixels - grey) * saturation
        gain = np.exp(rng.normal(0.0, 0.06, 3)).astype(np.float32) * np.float32(np.exp(rng.normal(0.0, 0.18)))
        middle = pixels.mean()
        pixels = (pixels - middle) * np.float32(rng.uniform(0.7, 1.35)) + middle * gain
    if rng.random() < 0.04:
        pixels = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 0.1:
        pixels = pixels + rng.normal(0.0, rng.uniform(2.0, 12.0), pixels.shape).astype(np.float32)
    return np.clip(pixels, 0.0, 255.0).astype(np.uint8)
