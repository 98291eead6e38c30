"""Stand-ins for the benchmarks' data: a few small images in the layouts that the real archives unpack to."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from incontext.images.ids import Pixels
from incontext.images.write import write_image, write_mask
from incontext.types import Palette

SIZE = (24, 40)  # rows and columns
COLORS = Palette.spread(range(1, 255)).table


def image_file(seed: int, size: tuple[int, int] = SIZE) -> Pixels:
    """Noise, another one for each seed."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def box(i: int, top: int, left: int, height: int, width: int, mask: Pixels | None = None) -> Pixels:
    """A mask with a box of that id, or the mask with that box as well."""
    ids = np.zeros(SIZE, np.uint8) if mask is None else mask.copy()
    ids[top : top + height, left : left + width] = i
    return ids


def write_labels(path: Path, ids: Pixels) -> None:
    """A grey PNG of ids, as label files are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


def write_indexed(path: Path, ids: Pixels) -> None:
    """An indexed PNG of ids, as masks of videos are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mask(path, ids, COLORS)


def write_jpeg(path: Path, image: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)


# ------------------------------------------------------------------------------------------------ few-shot


def coco_masks() -> dict[str, Pixels]:
    """Six images of val2014; classes 1, 2, 5 and 80, of which fold 0 tests 1 and 5."""
    return {
        f"COCO_val2014_{number:012}": mask
        for number, mask in {
            9: box(1, 0, 0, 12, 20, box(5, 14, 10, 8, 8)),
            36: box(1, 4, 4, 10, 10),
            42: box(1, 2, 20, 20, 10, box(2, 0, 0, 4, 4)),
            61: box(5, 6, 6, 12, 24),
            74: box(5, 0, 0, 6, 40, box(80, 20, 30, 4, 10)),
            80: box(2, 1, 1, 10, 10),
        }.items()
    }


def every_class() -> dict[str, Pixels]:
    """Two more images, each with all 80 classes in cells of 3 x 4 pixels."""
    ids = np.arange(1, 81, dtype=np.uint8).reshape(8, 10)
    cells = {100: ids, 101: ids[::-1, ::-1]}
    return {f"COCO_val2014_{n:012}": each.repeat(3, axis=0).repeat(4, axis=1) for n, each in cells.items()}


def coco_20i(folder: Path, *, lists: bool = True, whole: bool = False) -> Path:
    """The layout that HSNet's README describes, masks of classes as PNGs. lists: with the pickled lists of Matcher.
    whole: with images of every class, so that episodes of all folds can be drawn."""
    root = folder / "COCO2014"
    masks = {**coco_masks(), **(every_class() if whole else {})}
    for seed, (name, mask) in enumerate(masks.items()):
        write_jpeg(root / "val2014" / f"{name}.jpg", image_file(seed))
        write_labels(root / "annotations" / "val2014" / f"{name}.png", mask)
    if lists:
        for fold in range(4):
            path = root / "splits" / "val" / f"fold{fold}.pkl"
            path.parent.mkdir(parents=True, exist_ok=True)
            content: dict[int, list[str]] = {i: [] for i in range(80)}
            for i in range(fold, 80, 4):  # the published lists count classes from 0
                content[i] = [f"val2014/{name}.jpg" for name, mask in masks.items() if (mask == i + 1).any()]
            path.write_bytes(pickle.dumps(content))
    return folder


def coco_instances(folder: Path) -> Path:
    """The official archives: val2014/ and annotations/instances_val2014.json, with polygons and crowds as runs."""
    images, annotations = [], []
    for seed, (name, mask) in enumerate(coco_masks().items()):
        write_jpeg(folder / "val2014" / f"{name}.jpg", image_file(seed))
        number = int(name.rpartition("_")[2])
        images.append({"id": number, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]})
        shown = sorted(set(np.unique(mask).tolist()) - {0})
        annotations += [{"image_id": number, **annotation(mask == i, COCO_IDS[i - 1], crowd=i == 5)} for i in shown]
    for number, each in enumerate(annotations, start=1):
        each["id"] = number
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": f"category {i}"} for i in COCO_IDS],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2014.json").write_text(json.dumps(document))
    return folder


COCO_IDS = [i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}]


def annotation(selected: np.ndarray[Any, np.dtype[np.bool_]], category: int, *, crowd: bool) -> dict[str, Any]:
    """A polygon around the box of a mask; of a crowd, run lengths down the columns."""
    rows, columns = np.flatnonzero(selected.any(axis=1)), np.flatnonzero(selected.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    area = int(selected.sum())
    if not crowd:
        ring = [left, top, right, top, right, bottom, left, bottom]
        return {"category_id": category, "iscrowd": 0, "area": area, "segmentation": [[float(each) for each in ring]]}
    flat = selected.ravel(order="F").tolist()
    counts = [len(list(run)) for _, run in groupby(flat)]
    segmentation = {"size": list(SIZE), "counts": [0, *counts] if flat[0] else counts}
    return {"category_id": category, "iscrowd": 1, "area": area, "segmentation": segmentation}


VOC_PAIRS = {
    0: [("2007_000033", 1), ("2007_000061", 4), ("2007_000129", 4), ("2007_000346", 1), ("2007_000346", 4)],
    1: [("2007_000452", 6), ("2007_000464", 6)],
}


def voc_masks() -> dict[str, Pixels]:
    """Six images of VOC 2012 with classes 1, 4 and 6, and borders that are ignored."""
    border = box(255, 10, 0, 2, 40)
    return {
        "2007_000033": box(1, 0, 0, 10, 30, border),
        "2007_000061": box(4, 12, 5, 12, 20, border),
        "2007_000129": box(4, 0, 10, 9, 12, border),
        "2007_000346": box(1, 12, 0, 10, 10, box(4, 0, 20, 10, 20, border)),
        "2007_000452": box(6, 0, 0, 24, 12),
        "2007_000464": box(6, 4, 8, 12, 22),
    }


def every_voc_class() -> dict[str, Pixels]:
    """Two more images, each with all 20 classes in cells of 6 x 8 pixels."""
    ids = np.arange(1, 21, dtype=np.uint8).reshape(4, 5)
    cells = {"2011_002879": ids, "2011_003103": ids[::-1]}
    return {name: each.repeat(6, axis=0).repeat(8, axis=1) for name, each in cells.items()}


def pascal_5i(folder: Path, *, masks: str = "SegmentationClassAug", whole: bool = False) -> Path:
    """VOCdevkit/VOC2012 as the devkit unpacks, with HSNet's lists of two folds beside it. whole: with images of every
    class and the lists of all folds, so that episodes can be drawn."""
    root = folder / "VOCdevkit" / "VOC2012"
    made = {**voc_masks(), **(every_voc_class() if whole else {})}
    for seed, (name, mask) in enumerate(made.items()):
        write_jpeg(root / "JPEGImages" / f"{name}.jpg", image_file(seed))
        (write_labels if masks.endswith("Aug") else write_indexed)(root / masks / f"{name}.png", mask)
    lists = {fold: list(pairs) for fold, pairs in VOC_PAIRS.items()}
    if whole:
        lists = {
            f: [(n, i) for n in made for i in range(5 * f + 1, 5 * f + 6) if (made[n] == i).any()] for f in range(4)
        }
    for fold, pairs in lists.items():
        path = folder / "splits" / "pascal" / "val" / f"fold{fold}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}__{i:02}\n" for name, i in pairs))
    return folder


FSS_CLASSES = ("bus", "coin")


def fss_masks() -> dict[str, Pixels]:
    """Ten images of each of two classes: a box that grows with the image's number."""
    return {
        f"{name}/{number}": box(255, 2 * place, 3, 8 + number, 12 + number)
        for place, name in enumerate(FSS_CLASSES)
        for number in range(1, 11)
    }


def fss_1000(folder: Path) -> Path:
    """The layout of Matcher: FSS-1000/data/CLASS/N.jpg and N.png, splits/test.txt. Masks are coloured and smoothed."""
    root = folder / "FSS-1000"
    for seed, (name, mask) in enumerate(fss_masks().items()):
        write_jpeg(root / "data" / f"{name}.jpg", image_file(seed))
        grey = mask.copy()
        grey[0, -1] = 127  # below the threshold
        write_labels(root / "data" / f"{name}.png", np.repeat(grey[..., None], 3, axis=2))
    (root / "splits").mkdir()
    (root / "splits" / "test.txt").write_text("".join(f"{name}\n" for name in reversed(FSS_CLASSES)))
    return folder


# -------------------------------------------------------------------------------------------------- videos


def moving(i: int, count: int, *, top: int, start: int = 0) -> list[Pixels]:
    """A box that goes right by a column each frame; not there before frame `start`."""
    return [box(i, top, number, 8, 8) if number >= start else np.zeros(SIZE, np.uint8) for number in range(count)]


def both(one: Sequence[Pixels], other: Sequence[Pixels]) -> list[Pixels]:
    return [np.maximum(a, b) for a, b in zip(one, other, strict=True)]


def davis(folder: Path) -> Path:
    """DAVIS: two videos of two objects, listed for 2016 and 2017."""
    root = folder / "DAVIS"
    videos = {
        "bear": both(moving(1, 5, top=2), moving(2, 5, top=14)),
        "cow": both(moving(1, 4, top=0), moving(3, 4, top=12)),
    }
    for name, masks in videos.items():
        _video(root / "JPEGImages/480p" / name, root / "Annotations/480p" / name, dict(enumerate(masks)), len(masks))
    for year, listed in ((2016, "bear"), (2017, "bear\ncow")):
        path = root / "ImageSets" / str(year) / "val.txt"
        path.parent.mkdir(parents=True)
        path.write_text(listed + "\n")
    return folder


def _video(frames: Path, masks: Path, ids: Mapping[int, Pixels], count: int, *, every: int = 1) -> None:
    for number in range(count):
        write_jpeg(frames / f"{number * every:05}.jpg", image_file(number))
    for number, mask in ids.items():
        write_indexed(masks / f"{number * every:05}.png", mask)


def youtube_vos(folder: Path) -> Path:
    """YouTube-VOS: in valid/ a video whose second object comes later, every fifth frame of it, masks where objects are
    first seen alone; all frames in valid_all_frames/; in train/ a video with all masks."""
    first, later = moving(1, 6, top=0), moving(2, 6, top=12, start=2)
    valid = folder / "valid"
    _video(valid / "JPEGImages/0a1b", valid / "Annotations/0a1b", {0: first[0], 2: later[2]}, 6, every=5)
    _video(folder / "valid_all_frames/JPEGImages/0a1b", folder / "none", {}, 26)
    names = [f"{5 * number:05}" for number in range(6)]
    _meta(valid, "0a1b", {"1": ("bear", names), "2": ("otter", names[2:5])})
    train = folder / "train"
    _video(train / "JPEGImages/ffff", train / "Annotations/ffff", dict(enumerate(both(first, later))), 6, every=5)
    _meta(train, "ffff", {"1": ("bear", names), "2": ("cat", names[2:])})
    return folder


def _meta(folder: Path, video: str, objects: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    entries = {i: {"category": category, "frames": list(frames)} for i, (category, frames) in objects.items()}
    (folder / "meta.json").write_text(json.dumps({"videos": {video: {"objects": entries}}}))


def mose(folder: Path) -> Path:
    """MOSE: a video with the mask of the first frame alone, and one of the training split with all masks."""
    masks = both(moving(1, 5, top=0), moving(2, 5, top=12))
    _video(folder / "valid/JPEGImages/7f2c", folder / "valid/Annotations/7f2c", {0: masks[0]}, 5)
    train = folder / "train"
    _video(train / "JPEGImages/1234", train / "Annotations/1234", dict(enumerate(masks)), 5)
    return folder


# -------------------------------------------------------------------------------------------------- scenes


def ade20k(folder: Path, *, classes: int = 150) -> Path:
    """ADEChallengeData2016: three images to label, and training images that show every class once or twice."""
    root = folder / "ADEChallengeData2016"
    truth = {
        "ADE_val_00000001": box(1, 0, 0, 24, 20, box(2, 0, 20, 24, 20)),
        "ADE_val_00000002": box(2, 0, 0, 12, 40),  # the lower half has no class
        "ADE_val_00000003": box(1, 0, 0, 4, 4, box(150, 0, 0, 24, 40)),
    }
    for seed, (name, ids) in enumerate(truth.items()):
        write_jpeg(root / "images/validation" / f"{name}.jpg", image_file(seed))
        write_labels(root / "annotations/validation" / f"{name}.png", ids)
    for number, first in enumerate(range(1, classes + 1, 10), start=1):
        ids = np.zeros(SIZE, np.uint8)
        for column, i in enumerate(range(first, min(first + 10, classes + 1))):
            ids[:, 4 * column : 4 * column + 4] = i
        write_jpeg(root / "images/training" / f"ADE_train_{number:08}.jpg", image_file(100 + number))
        write_labels(root / "annotations/training" / f"ADE_train_{number:08}.png", ids)
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName", *(f"{i}\t0.1\t10\t5\t1\tname {i}, other" for i in range(1, 151))]
    (root / "objectInfo150.txt").write_text("\n".join(lines) + "\n")
    return folder


Segments = list[tuple[int, int, bool, tuple[int, int, int, int]]]
"""Number, category, whether it is a crowd, and its box: top, left, height, width."""

PANOPTIC: dict[str, Segments] = {
    "000000000139": [(1, 1, False, (0, 0, 40, 30)), (2, 1, False, (0, 40, 40, 30)), (3, 200, False, (40, 0, 80, 100))],
    "000000000285": [(7, 23, False, (10, 10, 60, 60)), (9, 1, True, (80, 0, 40, 100))],
}
PANOPTIC_SIZE = (120, 100)


def coco_panoptic(folder: Path) -> Path:
    """COCO panoptic: two images of val2017 with things, stuff and a crowd, and two of train2017 with all categories."""
    categories = [
        {"id": 1, "name": "person", "isthing": 1},
        {"id": 23, "name": "bear", "isthing": 1},
        {"id": 200, "name": "rug-merged", "isthing": 0},
    ]
    training: dict[str, Segments] = {
        "000000000009": [(1, 1, False, (0, 0, 40, 100)), (2, 200, False, (40, 0, 80, 100))],
        "000000000025": [(5, 23, False, (0, 0, 120, 50))],
    }
    for split, images in (("val2017", PANOPTIC), ("train2017", training)):
        document: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
        for seed, (name, segments) in enumerate(images.items()):
            write_jpeg(folder / split / f"{name}.jpg", image_file(seed, PANOPTIC_SIZE))
            numbers = np.zeros((*PANOPTIC_SIZE, 3), np.uint8)
            for number, _, _, (top, left, height, width) in segments:
                numbers[top : top + height, left : left + width] = (number, 0, 0)
            write_jpeg(folder / f"annotations/panoptic_{split}/{name}.png", numbers)
            height, width = PANOPTIC_SIZE
            document["images"].append({"id": int(name), "file_name": f"{name}.jpg", "height": height, "width": width})
            listed = [
                {"id": n, "category_id": i, "iscrowd": int(crowd), "area": place[2] * place[3]}
                for n, i, crowd, place in segments
            ]
            entry = {"image_id": int(name), "file_name": f"{name}.png", "segments_info": listed}
            document["annotations"].append(entry)
        (folder / f"annotations/panoptic_{split}.json").write_text(json.dumps(document))
    return folder
