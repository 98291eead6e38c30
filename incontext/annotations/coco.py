"""COCO's JSON of objects, in: polygons, both run-length encodings, crowds, categories by name.

Read: `instances_*.json` and what else has "images" and "annotations", and the folders that Roboflow exports, with a
file for each split. Crowds (iscrowd 1) are ignored, but where all of a category are; what overlaps is drawn in the
file's order, so the later one lies on top. Polygons get the pixels that pycocotools gives them. What is written is
coco_out.py's, and panoptic files are panoptic.py's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from incontext.annotations.agree import agreed, renumbered
from incontext.annotations.coco_out import write, write_semantic
from incontext.annotations.core import Categories, Format, Labelled, Labels, Source, Thing
from incontext.annotations.joining import Images, relative_name
from incontext.annotations.shapes import Region, drawn, united
from incontext.annotations.values import Problems, brief, checked_size, is_number, size_of_image
from incontext.images import rle
from incontext.images.ids import MOST_IDS, Color
from incontext.images.outlines import filled_as_coco
from incontext.words import counted

Image: TypeAlias = tuple[PurePosixPath, tuple[int, int], Path | None]
"""An image's name in results, its size (H, W), and where it lies, if it is there."""

_SPLIT_FILE: Final = "_annotations.coco.json"
_FARTHEST: Final = 1e6  # pixels that a corner may lie outside of an image: what lies beyond is a mistake


# ------------------------------------------------------------------------------------------------- in


def recognises(source: Source) -> bool:
    """Recognise a JSON file with images and annotations, not panoptic; or a folder of such files for each split."""
    if source.is_folder:
        return bool(_splits(source.path))
    return source.has_keys("images", "annotations") and not _is_panoptic(source.glimpse)


def _splits(folder: Path) -> list[Path]:
    """List the files of an export by Roboflow: one in each of the folders train, valid and test."""
    return sorted(path for path in folder.glob(f"[!.]*/{_SPLIT_FILE}") if path.is_file())


def _is_panoptic(document: Mapping[str, Any]) -> bool:
    annotations = document["annotations"]
    return isinstance(annotations, list) and any(isinstance(a, dict) and "segments_info" in a for a in annotations[:1])


def read(source: Source) -> Labels:
    """List the images of a COCO file, or of the files of all splits, with their objects.

    What cannot be used is left out, and told.
    """
    if not source.is_folder:
        return _read_file(source)
    parts, problems = [], Problems()
    for path in _splits(source.path):
        images = source.images
        if images is not None and (images / path.parent.name).is_dir():
            images = images / path.parent.name
        try:
            parts.append((path.parent.name, _read_file(Source(path, images=images), problems)))
        except ValueError as error:
            problems.add(str(error))
    if not parts:
        raise ValueError(problems[0])
    categories, numbers = agreed([labels.categories for _, labels in parts])
    found = [
        replace(renumbered(labelled, ids), name=PurePosixPath(split, labelled.name))
        for (split, labels), ids in zip(parts, numbers, strict=True)
        for labelled in labels
    ]
    return Labels(source.path, FORMAT.name, found, categories, problems)


def _read_file(source: Source, problems: Problems | None = None) -> Labels:
    path, document = source.path, source.document
    problems = Problems() if problems is None else problems
    annotations = listed(path, document, "annotations", problems)
    categories, ids = read_categories(path, document, (a.get("category_id") for _, a in annotations), problems)
    crowds = _only_crowds(annotations)
    if told := [categories.names[ids[key]] for key in ids if key in crowds]:
        problems.note(f"{path}: all of {', '.join(told)} is marked as a crowd (iscrowd 1), and read as objects")
    images, refused = read_images(source, problems)
    objects, strange = _sorted(path, annotations, images, refused, problems, ids=ids, crowds=crowds)
    empty = [name for key, (name, _, _) in images.items() if key not in objects]
    if strange and empty:
        problems.add(
            f"{path}: left out {counted(len(empty), 'image')} without annotations, such as {empty[0]}, as "
            f"{counted(strange, 'annotation')} may be meant for them: of images that are not listed"
        )
    found = []
    for key, (name, size, image) in images.items():
        of_image = objects.get(key)
        if of_image == []:
            problems.leave_out(f"{path}: {name}", "expected annotations that can be used, got others alone")
        elif of_image or not strange:
            draw = partial(_draw, path, name, of_image or [], size, problems)
            found.append(Labelled(name, size, path, draw, image))
    return Labels(path, FORMAT.name, found, categories, problems)


def _sorted(
    path: Path,
    annotations: Iterable[tuple[int, Mapping[str, Any]]],
    images: Mapping[object, Image],
    refused: set[object],
    problems: Problems,
    *,
    ids: Mapping[object, int],
    crowds: set[object],
) -> tuple[dict[object, list[_Annotation]], int]:
    """Return the usable annotations of each image that has some, and how many are of images that are not listed."""
    objects: dict[object, list[_Annotation]] = {}
    strange = 0
    for number, annotation in annotations:
        image, category = key_of(annotation.get("image_id")), key_of(annotation.get("category_id"))
        called = brief(annotation.get("id", number))
        where = f"{path}: annotation {called}"
        if image in refused:
            continue  # told with its image
        if image not in images:
            problems.leave_out(where, f"expected the id of an image, got {brief(annotation.get('image_id'))}")
            strange += 1
            continue
        of_image = objects.setdefault(image, [])
        try:
            if category not in ids:
                raise ValueError(f"expected the id of a category, got {brief(annotation.get('category_id'))}")
            segmentation = _usable(annotation.get("segmentation"), images[image][1], where, problems)
        except ValueError as error:
            problems.leave_out(where, error)
            continue
        ignored = bool(annotation.get("ignore")) or (bool(annotation.get("iscrowd")) and category not in crowds)
        of_image.append(_Annotation(called, ids[category], segmentation, annotation.get("score"), ignored))
    return objects, strange


class _Annotation(NamedTuple):
    """An annotation that belongs to an image. called: its own id, for sentences. category: its id here."""

    called: str
    category: int
    segmentation: object
    score: object
    is_ignored: bool


def _only_crowds(annotations: Iterable[tuple[int, Mapping[str, Any]]]) -> set[object]:
    """List the categories of which every annotation is a crowd: some tools mark all that they draw with run lengths.

    What is to be ignored is marked as such (ignore) in files that are written here.
    """
    seen: dict[object, bool] = {}
    for _, annotation in annotations:
        key = key_of(annotation.get("category_id"))
        is_crowd = bool(annotation.get("iscrowd")) and not annotation.get("ignore")
        seen[key] = seen.get(key, True) and is_crowd
    return {key for key, only in seen.items() if only}


def listed(path: Path, document: Mapping[str, Any], key: str, problems: Problems) -> list[tuple[int, dict[str, Any]]]:
    """List the objects of a list of the document, with their places.

    Raises:
        ValueError: It is none, or holds none.
    """
    values = document.get(key)
    if not isinstance(values, list) or (values and not any(isinstance(value, dict) for value in values)):
        raise ValueError(f'{path}: expected "{key}", a list of objects, got {brief(values)}')
    found = [(number, value) for number, value in enumerate(values) if isinstance(value, dict)]
    if len(found) < len(values):
        strange = next(value for value in values if not isinstance(value, dict))
        problems.add(f'{path}: left out {len(values) - len(found)} of "{key}": expected objects, got {brief(strange)}')
    return found


def key_of(value: object) -> object:
    """Return the id of an image or a category, for a dict: numbers and text that say the same are the same.

    None for what is no id.
    """
    if type(value) is int:
        return str(value)
    if isinstance(value, str) or is_number(value):
        text = str(int(value)) if isinstance(value, float) and value == int(value) else str(value)
        return text.strip()
    return None


def read_categories(
    path: Path, document: Mapping[str, Any], used: Iterable[object], problems: Problems
) -> tuple[Categories, dict[object, int]]:
    """List the categories of a document, and the id here for each of its own ids.

    It is the same where all are in 1..254, else counted from 1 in the order of the file. Of more than 254 those count
    that are used.
    """
    wanted = {key_of(each) for each in used}
    entries = _without_headings(_entries(path, document, problems), wanted)
    if len(entries) > MOST_IDS:
        entries = {key: entry for key, entry in entries.items() if key in wanted}
    if len(entries) > MOST_IDS:
        raise ValueError(
            f"{path}: expected at most 254 categories with annotations, got {len(entries)}; split the file"
        )
    own = {key: int(str(key)) for key in entries if str(key).isdecimal() and len(str(key)) <= 3}
    kept = len(own) == len(entries) == len(set(own.values())) and all(0 < i <= MOST_IDS for i in own.values())
    ids = own if kept else {key: number for number, key in enumerate(entries, start=1)}
    names = {ids[key]: entry["name"] for key, entry in entries.items()}
    colors = {ids[key]: color for key, entry in entries.items() if (color := _color(entry.get("color"))) is not None}
    return Categories(names, colors), dict(ids)


def _entries(path: Path, document: Mapping[str, Any], problems: Problems) -> dict[object, dict[str, Any]]:
    """List the categories that can be used, by their ids.

    Raises:
        ValueError: There are some, and none of them can.
    """
    entries: dict[object, dict[str, Any]] = {}
    bad: list[tuple[object, str]] = []
    for number, entry in listed(path, document, "categories", problems):
        key = key_of(entry.get("id"))
        if not isinstance(entry.get("name"), str):
            bad.append((number, f"expected categories with names, got {brief(entry)}"))
        elif key is None or entries.setdefault(key, entry)["name"] != entry["name"]:
            bad.append((key, f"expected categories with an id of their own each, got {brief(entry)}"))
    for key, _ in bad:
        entries.pop(key, None)  # of two that share an id nobody knows which is meant
    if bad and not entries:
        raise ValueError(f"{path}: {bad[0][1]}")
    for key, trouble in bad:
        problems.leave_out(f"{path}: category {brief(key)}", trouble)
    return entries


def _without_headings(entries: dict[object, dict[str, Any]], used: set[object]) -> dict[object, dict[str, Any]]:
    """Without what is no category, but the name over all others that Roboflow lists as one."""
    over = {entry.get("supercategory") for entry in entries.values()}
    return {
        key: entry
        for key, entry in entries.items()
        if key in used or entry["name"] not in over or entry.get("supercategory") != "none"
    }


def _color(value: object) -> Color | None:
    if isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    return None


def read_images(source: Source, problems: Problems) -> tuple[dict[object, Image], set[object]]:
    """Map an id to each image that can be used, and the ids of those that cannot."""
    path, places = source.path, images_of(source)
    entries = listed(path, source.document, "images", problems)
    named = places.named_all(text for _, entry in entries if isinstance(text := entry.get("file_name"), str))
    images: dict[object, Image] = {}
    refused: set[object] = set()
    for number, entry in entries:
        what, key = f"{path}: image {brief(entry.get('id', number))}", key_of(entry.get("id"))
        if key is None or key in images or key in refused:
            problems.leave_out(what, f"expected an id of its own, got {brief(entry.get('id'))}")
            continue
        try:
            text = entry.get("file_name")
            found = named[text] if isinstance(text, str) else (relative_name(text), None)
            if isinstance(found, ValueError):
                raise found
            images[key] = found[0], _size(entry, found[1]), found[1]
        except ValueError as error:
            refused.add(key)
            problems.add(f"{what}: {error}")
    return images, refused


def _size(entry: Mapping[str, Any], image: Path | None) -> tuple[int, int]:
    """(H, W) as the file says it, or as the image has it where the file does not."""
    height, width = entry.get("height"), entry.get("width")
    if (height is None or width is None) and image is not None:
        return size_of_image(image)
    return checked_size(height, width)


def images_of(source: Source) -> Images:
    """Tell where the images of a COCO file are looked for.

    That is beside it, in images/, in the folder that it is named after (train2017 for instances_train2017.json), and
    in all of these one folder further up.
    """
    if source.images is not None:
        return Images(source.images, deep=[source.images])
    here, split = source.path.absolute().parent, source.path.stem.rpartition("_")[2]
    inside = ("", "images", split, f"images/{split}")
    folders = [folder / each for folder in (here, here.parent) for each in inside if (folder / each).is_dir()]
    return Images(*folders, deep=[folder for folder in folders if folder not in (here, here.parent)])


def _usable(segmentation: object, size: tuple[int, int], where: str, problems: Problems) -> object:
    """Return a segmentation without the rings that are none.

    Raises:
        ValueError: Nothing is left.
    """
    if isinstance(segmentation, list) and segmentation:
        rings = [segmentation] if all(map(is_number, segmentation)) else segmentation
        troubles = [_ring_trouble(ring, size) for ring in rings]
        bad = [(number, trouble) for number, trouble in enumerate(troubles, start=1) if trouble is not None]
        if len(bad) == len(rings):
            raise ValueError(bad[0][1])
        for number, trouble in bad:
            problems.leave_out(f"{where}, ring {number}", trouble)
        return [ring for ring, trouble in zip(rings, troubles, strict=True) if trouble is None]
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str | list):
        came = segmentation.get("size")
        if came == list(size):
            return segmentation
        raise ValueError(f"expected runs of the image's size {list(size)} (height, width), got {brief(came)}")
    raise ValueError(f"expected polygons or run lengths as segmentation, got {brief(segmentation)}")


def _ring_trouble(ring: object, size: tuple[int, int]) -> str | None:
    if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2 or not _are_numbers(ring):
        return f"expected a polygon [x1, y1, x2, y2, ...] of at least 3 corners and finite numbers, got {brief(ring)}"
    if max(map(abs, ring)) > _FARTHEST:
        return f"expected a polygon in its image of {size[1]} x {size[0]}, got {brief(ring)}"
    return None


def _are_numbers(values: list[Any]) -> bool:
    """As `is_number` of each, but quick: large files have tens of millions of them."""
    try:
        return set(map(type, values)) <= {int, float} and all(map(math.isfinite, values))
    except OverflowError:
        return False


def _draw(
    path: Path, name: PurePosixPath, annotations: Sequence[_Annotation], size: tuple[int, int], problems: Problems
) -> list[Thing]:
    things: list[Thing] = []
    bad: list[tuple[str, ValueError]] = []
    for each in annotations:
        confidence = float(each.score) if is_number(each.score) and 0 <= each.score <= 1 else None
        try:
            region = _region(each.segmentation, size)
            things.append(drawn(each.category, region, confidence, is_ignored=each.is_ignored))
        except ValueError as error:
            bad.append((f"{path}: annotation {each.called}", error))
    problems.settle(bad, f"{name}", is_any_left=bool(things))
    return things


def _region(segmentation: Any, size: tuple[int, int]) -> Region:
    if isinstance(segmentation, dict):
        return Region(*rle.to_region(segmentation["counts"], size))
    return united([Region(*filled_as_coco(np.array(ring, np.float64).reshape(-1, 2), size)) for ring in segmentation])


FORMAT: Final = Format("coco", "COCO instances: JSON with polygons or run lengths", recognises, read, write)
SEMANTIC: Final = Format("coco-semantic", "COCO stuff: one annotation for each category", write=write_semantic)
