"""Masks of videos in the layout of DAVIS (arXiv 1704.00675), in: pictures and masks of the same names.

    ROOT/JPEGImages/480p/VIDEO/00000.jpg
    ROOT/Annotations/480p/VIDEO/00000.png     ids of objects

The folder of the resolution may be missing, as in YouTube-VOS. Where there are several, 480p is read, else the first.
Ids are objects of their own video: 1 of one video and 1 of another need not be alike. Frames without a mask are left
out. Which frames are scored, and how, is evaluation/video/clips.py's.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

from incontext.annotations.core import (
    Categories,
    Format,
    Labelled,
    Labels,
    Pictures,
    Source,
    Thing,
    picture_size,
    things_of,
)
from incontext.annotations.mask_files import checked, used_ids
from incontext.images.ids import Pixels
from incontext.images.masks import read_mask
from incontext.images.names import natural_order

_PICTURES: Final = "JPEGImages"
_MASKS: Final = "Annotations"
_USUAL_RESOLUTION: Final = "480p"


def _recognises(source: Source) -> bool:
    root = source.path
    return (root / _PICTURES).is_dir() and any((root / _MASKS).glob("*/**/*.png"))


def _read(source: Source) -> Labels:
    problems: list[str] = []
    below = _resolution(source.path / _MASKS, problems)
    folder, images = source.path / _MASKS / below, Pictures(source.images, source.path / _PICTURES / below)
    masks = sorted((p for p in folder.rglob("*.png") if p.name[0] != "."), key=natural_order)
    categories = Categories.plain(used_ids(masks, _ids, problems))
    pictures = []
    for path in masks:
        stem = PurePosixPath(path.relative_to(folder).with_suffix("").as_posix())
        image = images.find_stem(stem)
        try:
            size = picture_size(path)
        except ValueError:
            continue  # told by used_ids
        name = stem.with_name(stem.name + (".jpg" if image is None else image.suffix))
        pictures.append(Labelled(name, size, path, partial(_draw, path, categories), image))
    if not pictures:
        raise ValueError(problems[0])
    if len(videos := {picture.name.parent for picture in pictures}) > 1 and len(categories.ids) > 1:
        problems.append(f"{folder}: ids are objects of their own video, and there are {len(videos)} videos")
    return Labels(source.path, FORMAT.name, pictures, categories, problems)


def _resolution(masks: Path, problems: list[str]) -> str:
    """The folder of a resolution, or "." where the folders are those of videos."""
    folders = sorted((p for p in masks.glob("[!.]*/")), key=natural_order)
    found = [p.name for p in folders if any(p.glob("[!.]*/**/*.png")) and not any(p.glob("*.png"))]
    if not found:
        return "."
    chosen = _USUAL_RESOLUTION if _USUAL_RESOLUTION in found else found[0]
    if len(found) > 1:
        problems.append(f"{masks}: left out all resolutions but {chosen}: {', '.join(sorted({*found} - {chosen}))}")
    return chosen


def _ids(path: Path) -> Pixels:
    return read_mask(path).ids


def _draw(path: Path, categories: Categories) -> list[Thing]:
    return things_of(checked(_ids(path), categories, path))


FORMAT: Final = Format("davis", "DAVIS: masks of videos in JPEGImages/ and Annotations/", _recognises, _read)
