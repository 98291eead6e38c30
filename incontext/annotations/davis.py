"""Masks of videos in the layout of DAVIS (arXiv 1704.00675), in: images and masks of the same names.

    ROOT/JPEGImages/480p/VIDEO/00000.jpg
    ROOT/Annotations/480p/VIDEO/00000.png     ids of objects

The folder of the resolution may be missing, as in YouTube-VOS. Where there are several, 480p is read, else the first.
Ids are objects of their own video: 1 of one video and 1 of another need not be alike. In masks of colours a colour is
one id in the whole video, counted from 1 in ascending order of (R, G, B). Frames without a mask are left
out. Which frames are scored, and how, is evaluation/video/clips.py's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final, Self

import numpy as np

from incontext.annotations.core import Categories, Format, Labelled, Labels, Source, Thing, things_of
from incontext.annotations.joining import Images
from incontext.annotations.mask_files import checked
from incontext.annotations.values import Problems
from incontext.images.ids import IGNORED, MOST_IDS, Color
from incontext.images.masks import is_painted, read_ids, read_mask
from incontext.images.names import natural_order

_IMAGES: Final = "JPEGImages"
_MASKS: Final = "Annotations"
_USUAL_RESOLUTION: Final = "480p"


def _recognises(source: Source) -> bool:
    root = source.path
    return (root / _IMAGES).is_dir() and any(path.parent != root / _MASKS for path in _masks(root / _MASKS))


def _read(source: Source) -> Labels:
    problems = Problems()
    below = _resolution(source.path / _MASKS, problems)
    folder = source.path / _MASKS / below
    images = Images(source.path / _IMAGES / below) if source.images is None else Images(source.images)
    clips: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in sorted(_masks(folder), key=natural_order):
        clips[path.parent].append(path)
    opened = [_Clip.open(masks, problems) for masks in clips.values()]
    categories = Categories.plain({i for clip in opened for i in clip.ids})
    labelled = []
    for clip in opened:
        for path, size in clip.masks.items():
            stem = PurePosixPath(path.relative_to(folder).with_suffix("").as_posix())
            try:
                image = images.find_stem(stem)
            except ValueError as error:
                problems.add(f"{path}: {error}")
                continue
            name = stem.with_name(stem.name + (".jpg" if image is None else image.suffix))
            labelled.append(Labelled(name, size, path, partial(_draw, path, clip.colors, categories), image))
    if not labelled:
        raise ValueError(problems[0])
    if len(videos := {each.name.parent for each in labelled}) > 1 and len(categories.ids) > 1:
        problems.note(f"{folder}: ids are objects of their own video, and there are {len(videos)} videos")
    return Labels(source.path, FORMAT.name, labelled, categories, problems)


@dataclass(frozen=True)
class _Clip:
    """The masks of a video.

    Attributes:
        masks: With their sizes (H, W), as far as they can be read.
        ids: Those that are in them.
        colors: The id of each colour in masks of colours, the same in all of them.
    """

    masks: Mapping[Path, tuple[int, int]]
    ids: frozenset[int]
    colors: Mapping[Color, int]

    @classmethod
    def open(cls, paths: Sequence[Path], problems: Problems) -> Self:
        """Masks that cannot be read are told."""
        sizes: dict[Path, tuple[int, int]] = {}
        ids: set[int] = set()
        colors: set[Color] = set()
        for path in paths:
            try:
                file = read_mask(path)
            except (ValueError, OSError) as error:
                problems.add(str(error))
                continue
            sizes[path] = file.ids.shape[0], file.ids.shape[1]
            present = set(np.unique(file.ids).tolist()) - {0}
            if file.colors is not None and is_painted(path):
                colors |= {(r, g, b) for i in present for r, g, b in [file.colors[i].tolist()]}
            else:
                ids |= present - {IGNORED}
        if len(colors) > MOST_IDS:
            problems.add(f"{paths[0].parent}: expected at most {MOST_IDS} colours beside black, got {len(colors)}")
            return cls({}, frozenset(), {})
        numbers = {color: number for number, color in enumerate(sorted(colors), start=1)}
        return cls(sizes, frozenset(ids | set(numbers.values())), numbers)


def _masks(folder: Path) -> list[Path]:
    """List the masks below a folder, their suffixes in small letters or capitals."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower() == ".png" and path.name[0] != ".")
    return [path for path in paths if path.is_file()]


def _resolution(masks: Path, problems: Problems) -> str:
    """Return the folder of a resolution, or "." where the folders are those of videos."""
    folders = sorted((p for p in masks.glob("[!.]*/")), key=natural_order)
    found = [p.name for p in folders if (inside := _masks(p)) and all(path.parent != p for path in inside)]
    if not found:
        return "."
    chosen = _USUAL_RESOLUTION if _USUAL_RESOLUTION in found else found[0]
    if len(found) > 1:
        problems.add(f"{masks}: left out all resolutions but {chosen}: {', '.join(sorted({*found} - {chosen}))}")
    return chosen


def _draw(path: Path, colors: Mapping[Color, int], categories: Categories) -> list[Thing]:
    return things_of(checked(read_ids(path, colors), categories, path))


FORMAT: Final = Format("davis", "DAVIS: masks of videos in JPEGImages/ and Annotations/", _recognises, _read)
