"""COCO's panoptic format (arXiv 1801.00868), in and out: a JSON file, and a PNG for each image whose colours are ids.

A segment's id is R + 256 G + 65536 B of its pixels; 0 is unlabelled, read as background. Crowds (iscrowd 1) are read as
ignored; what is ignored and has no category is written as a crowd of the first one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from incontext.annotations.coco import key_of, listed, read_categories, read_images
from incontext.annotations.coco_out import coco_file
from incontext.annotations.core import Add, Categories, Format, Labelled, Labels, Result, Source, Thing
from incontext.annotations.joining import Images, relative_name
from incontext.annotations.values import Problems, brief, place_of
from incontext.images.read import read_colors
from incontext.images.write import write_image

FILE_NAME: Final = "panoptic.json"
_WEIGHTS: Final = np.array([1, 256, 65536], np.uint32)
_MOST_SEGMENTS: Final = (1 << 24) - 1


# ------------------------------------------------------------------------------------------------- in


def recognises(source: Source) -> bool:
    """Recognise a JSON file with images and annotations that have segments_info."""
    if not source.has_keys("images", "annotations") or not isinstance(source.glimpse["annotations"], list):
        return False
    return any(isinstance(a, dict) and "segments_info" in a for a in source.glimpse["annotations"][:1])


def read(source: Source) -> Labels:
    """List the images of a panoptic file; what cannot be used is left out, and told."""
    path, document = source.path, source.document
    problems = Problems()
    annotations = listed(path, document, "annotations", problems)
    used = (s.get("category_id") for _, a in annotations for s in _segments(a))
    categories, ids = read_categories(path, document, used, problems)
    images, refused = read_images(source, problems)
    here = path.absolute().parent
    masks = Images(here / path.stem, here, here / "masks")
    found = []
    for number, annotation in annotations:
        what, key = f"{path}: annotation {number + 1}", key_of(annotation.get("image_id"))
        if key in refused:
            continue  # told with its image
        try:
            if key not in images:
                raise ValueError(f"expected the id of an image, got {brief(annotation.get('image_id'))}")
            mask = masks.find(mask_name := relative_name(annotation.get("file_name")))
            if mask is None:
                raise ValueError(f"names {mask_name}, and there is no such file in {here / path.stem}")
            segments = _checked(annotation, ids, what, problems)
        except ValueError as error:
            problems.leave_out(what, error)
            continue
        name, size, image = images[key]
        found.append(Labelled(name, size, path, partial(_draw, mask, segments, size), image))
    return Labels(path, FORMAT.name, found, categories, problems)


def _segments(annotation: Mapping[str, Any]) -> list[Any]:
    segments = annotation.get("segments_info")
    return [s for s in segments if isinstance(s, dict)] if isinstance(segments, list) else []


Segment: TypeAlias = tuple[int, bool] | None
"""A segment's category, and whether it is a crowd; None for one that cannot be used."""


def _checked(
    annotation: Mapping[str, Any], ids: Mapping[object, int], what: str, problems: Problems
) -> dict[int, Segment]:
    """List the segments by their numbers.

    Raises:
        ValueError: There are some, and none can be used.
    """
    segments: dict[int, Segment] = {}
    if not isinstance(annotation.get("segments_info"), list):
        raise ValueError(f"expected segments_info, a list, got {brief(annotation.get('segments_info'))}")
    bad: list[tuple[str, ValueError]] = []
    for place, each in enumerate(annotation["segments_info"], start=1):
        number = each.get("id") if isinstance(each, dict) else None
        try:
            if type(number) is not int or not 0 < number <= _MOST_SEGMENTS or number in segments:
                raise ValueError(f"expected segments with a number of their own each, got {brief(each)}")
            segments[number] = None
            if (key := key_of(each.get("category_id"))) not in ids:
                raise ValueError(f"expected the id of a category, got {brief(each.get('category_id'))}")
            segments[number] = ids[key], bool(each.get("iscrowd"))
        except ValueError as error:
            bad.append((f"{what}, segment {place}", error))
            if type(number) is int and number in segments:
                segments[number] = None  # of two that share a number nobody knows which is meant
    if bad and not any(segments.values()):
        raise bad[0][1]
    for where, trouble in bad:
        problems.leave_out(where, trouble)
    return segments


def _draw(path: Path, segments: Mapping[int, Segment], size: tuple[int, int]) -> list[Thing]:
    colors = read_colors(path)
    if colors.shape[:2] != size:
        height, width = colors.shape[:2]
        raise ValueError(f"{path}: expected the image's size {size[1]} x {size[0]}, got {width} x {height}")
    numbers: npt.NDArray[np.uint32] = (colors * _WEIGHTS).sum(axis=2, dtype=np.uint32)
    present = set(np.unique(numbers).tolist()) - {0}
    if unknown := sorted(present - segments.keys()):
        raise ValueError(f"{path}: expected the segments that the JSON file lists, got {brief(unknown)}")
    things = []
    for number, segment in segments.items():
        category, is_ignored = segment or (0, True)  # of what was left out nobody knows whether it is there
        thing = Thing.cut(category, numbers == number, is_ignored=is_ignored) if number in present else None
        things += [thing] if thing is not None else []
    return things


# ------------------------------------------------------------------------------------------------ out


@contextmanager
def write(out: Path, categories: Categories) -> Iterator[Add]:
    """`panoptic.json`, and for each image a PNG in `panoptic/`, in colours near those of its categories."""
    base = {i: int((color * _WEIGHTS).sum()) for i, color in _colors(categories)}
    with coco_file(out / FILE_NAME, categories, numbered=False) as put:

        def add(result: Result) -> None:
            name = result.name.with_suffix(".png")
            numbers = np.zeros(result.size, np.uint32)
            segments: dict[int, Thing] = {}
            for thing in result.things if base else ():
                number = base[thing.category or categories.ids[0]]
                while number in segments:
                    number = number % _MOST_SEGMENTS + 1
                segments[number] = thing
                thing.seen_in(numbers)[thing.selected] = number
            path = place_of(out, Path(FILE_NAME).stem / name)
            write_image(path, (numbers[..., None] // _WEIGHTS % 256).astype(np.uint8))
            shown = [_entry(number, thing, numbers, categories) for number, thing in segments.items()]
            entry = {"file_name": name.as_posix(), "segments_info": [each for each in shown if each is not None]}
            put(result, iter([entry]))

        yield add


def _colors(categories: Categories) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    palette = categories.palette
    return zip(palette.ids.tolist()[1:], palette.colors[1:], strict=True)


def _entry(
    number: int, thing: Thing, numbers: npt.NDArray[np.uint32], categories: Categories
) -> dict[str, object] | None:
    """Return a segment, or None where later things cover it."""
    left = Thing.cut(thing.category, thing.seen_in(numbers) == number, top=thing.top, left=thing.left)
    if left is None:
        return None
    return {
        "id": number,
        "category_id": thing.category or categories.ids[0],
        "area": left.area,
        "bbox": list(left.box),
        "iscrowd": int(thing.is_ignored),
    }


FORMAT: Final = Format(
    "panoptic", "COCO panoptic: JSON with a PNG for each image", recognises, read, write, by_name=True
)
