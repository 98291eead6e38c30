"""Segmenting the images of a session, one by one, and what is kept of each: its mask, miniatures, areas.

Refuses to know the page.
"""

from __future__ import annotations

import csv
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image
from scipy.ndimage import label

from incontext.annotations.core import Categories, Result, things_of
from incontext.annotations.exports import writable, write_all
from incontext.annotations.instances import split
from incontext.annotations.known import FORMATS
from incontext.images.gate import below
from incontext.images.ids import Pixels
from incontext.images.masks import read_mask
from incontext.images.read import IMAGE_SUFFIXES, read_image
from incontext.images.resize import resized, resized_mask, shrunk, shrunk_pair
from incontext.images.write import write_image
from incontext.types import Prompt, Segmentation
from incontext.ui.paint import palette_for
from incontext.ui.places import Places
from incontext.ui.sessions import MOST_EXAMPLES, MOST_IMAGES, Example, SegmentedImage, Session, SessionImage

if TYPE_CHECKING:
    from incontext.engine import PreparedContext, Segmenter

LONGEST: Final = 1024  # pixels along an example's longer side: more than any of the networks sees
MINIATURE: Final = 640  # pixels along the longer side of what the page shows of a result
_SMALL: Final = 160  # of an example


# ------------------------------------------------------------------------------------------ examples


def add_example(session: Session, name: str, image: Pixels, ids: Pixels) -> Example:
    """Make a prompt of an image (H, W, 3) and its mask (H, W), and keep it.

    It gets at most 1024 pixels along a side, but for a mask with ids that would be lost.

    Raises:
        ValueError: The mask marks nothing, or there are too many examples.
    """
    if len(session.examples) >= MOST_EXAMPLES:
        raise ValueError(
            f"expected at most {MOST_EXAMPLES} examples, got one more; tune a prompt tensor of them instead"
        )
    palette = palette_for(np.unique(ids).tolist())
    prompt = Prompt(*shrunk_pair(image, ids, LONGEST), palette=palette)
    shown = Segmentation(prompt.mask, np.ones(prompt.mask.shape, np.float32), palette)
    path = session.new_file(".jpg")
    write_image(path, shrunk(shown.overlay(prompt.image), _SMALL, quick=True))
    example = Example(name, prompt, path)
    session.examples.append(example)
    return example


def accept(session: Session, number: int) -> Example:
    """Make a result an example.

    Raises:
        ValueError: Nothing was found in it.
    """
    result = result_of(session, number)
    if result.mask is None:
        raise ValueError(f"{result.image.name}: expected a result to accept, got an image that was not segmented")
    return add_example(session, result.image.name, read_image(result.image.path), read_mask(result.mask).ids)


def result_of(session: Session, number: int) -> SegmentedImage:
    """Find the result of a number.

    Raises:
        ValueError: There is none.
    """
    if not 0 <= number < len(session.results):
        raise ValueError(f"expected one of {len(session.results)} results, got number {number}; segment again")
    return session.results[number]


# ------------------------------------------------------------------------------------------ images


def take_files(session: Session, uploaded: Sequence[str]) -> None:
    """Take what was dropped as the images to segment, in its order.

    Raises:
        ValueError: There are too many.
    """
    _refuse_many(len(uploaded))
    kept = [session.kept(path) for path in uploaded]
    _give(session, [SessionImage(path.name, path) for path in kept])


def take_folder(session: Session, places: Places, folder: str) -> None:
    """Take the images of an opened folder, with those of its subfolders, as those to segment."""
    root = places.check(folder)
    named = (path for path in places.below(root) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    found = list(islice(named, MOST_IMAGES + 1))
    if not found:
        raise ValueError(f"{folder}: expected images in this folder, found none; choose another")
    _refuse_many(len(found))
    _give(session, [SessionImage(path.relative_to(root).as_posix(), path) for path in found])


def _give(session: Session, images: list[SessionImage]) -> None:
    before, session.images = session.images, images
    _drop_unused(session, before)


def _drop_unused(session: Session, before: Sequence[SessionImage]) -> None:
    """Remove uploads that are neither to segment nor of the last round, whose results are accepted and corrected."""
    used = {*session.images, *session.segmented}
    for image in before:
        if image not in used:
            session.drop(image.path)


def _refuse_many(count: int) -> None:
    if count > MOST_IMAGES:
        raise ValueError(
            f"expected at most {MOST_IMAGES} images on the page, got more; `incontext segment` takes any number"
        )


# ------------------------------------------------------------------------------------------- results


def segment_images(session: Session, segmenter: Segmenter, prepared: PreparedContext) -> Iterator[SegmentedImage]:
    """Segment the session's images in order; an image that cannot be read costs itself and no more.

    Each result is added to the session before it is yielded. Ends early when the session is told to stop.
    """
    stop = session.stops["segment"]
    _forget_results(session)
    session.answered_by = prepared
    before, session.segmented = session.segmented, session.images
    _drop_unused(session, before)
    for image in session.segmented:
        if stop.is_set():
            return
        try:
            result = _segmented(session, segmenter, prepared, image)
        except (ValueError, OSError) as error:
            result = SegmentedImage(image, problem=str(error))
        session.results.append(result)
        yield result


def _forget_results(session: Session) -> None:
    for result in (*session.results, *session.replaced):
        _remove_files(result)
    session.results, session.replaced, session.correcting = [], [], None


def _remove_files(result: SegmentedImage) -> None:
    for path in (result.mask, *(result.miniatures or ())):
        if path is not None:
            path.unlink(missing_ok=True)


def _segmented(
    session: Session, segmenter: Segmenter, prepared: PreparedContext, source: SessionImage
) -> SegmentedImage:
    image = read_image(source.path)
    return _result(session, source, image, segmenter.segment(image, prepared))


def replace_result(session: Session, number: int, image: Pixels, found: Segmentation) -> SegmentedImage:
    """Put another answer in the place of a result's."""
    before = result_of(session, number)
    session.results[number] = made = _result(session, before.image, image, found)
    _remove_files(before)
    return made


def correct(session: Session, number: int, image: Pixels, ids: Pixels) -> tuple[SegmentedImage, SegmentedImage]:
    """Put a mask (H, W) that was made by hand in the place of a result's; both are returned, the old one first.

    The old one's files stay until the images are segmented again, for who wants it back.
    """
    before = result_of(session, number)
    palette = palette_for(np.unique(ids).tolist())
    found = Segmentation(ids, np.ones(ids.shape, np.float32), palette)
    made = replace(_result(session, before.image, image, found), by_hand=True)
    session.results[number] = made
    session.replaced.append(before)
    return before, made


def put_back(session: Session, number: int, result: SegmentedImage) -> None:
    """Put a result that a correction replaced, or the correction, in its place again."""
    other = result_of(session, number)
    session.results[number] = result
    session.replaced = [*(each for each in session.replaced if each is not result), other]


def _result(session: Session, source: SessionImage, image: Pixels, found: Segmentation) -> SegmentedImage:
    mask = session.new_file(".png")
    found.save(mask)
    counts = np.bincount(found.mask.ravel(), minlength=256)
    return SegmentedImage(
        source,
        mask,
        found.shape,
        {i: int(counts[i]) for i in found.ids},
        float(found.confidence.mean()),
        _miniatures(session, image, found),
        objects={i: int(label(found.mask == i)[1]) for i in found.ids},
    )


def _miniatures(session: Session, image: Pixels, found: Segmentation) -> tuple[Path, Path, Path]:
    """Shrink the image, the mask's colours where something was found, and the confidence to one small size."""
    small = shrunk(image, MINIATURE, quick=True)
    mask = resized_mask(found.mask, small.shape[:2])
    paint = np.dstack([found.palette.paint(mask), np.where(mask > 0, 255, 0).astype(np.uint8)])
    sure = resized(np.rint(found.confidence * 255).astype(np.uint8), small.shape[:2], quick=True)
    files = session.new_file(".jpg"), session.new_file(".png"), session.new_file(".png")
    Image.fromarray(small).save(files[0], quality=85)
    Image.fromarray(paint).save(files[1], compress_level=1)
    Image.fromarray(sure).save(files[2], compress_level=1)
    return files


# ----------------------------------------------------------------------------------------------- ZIP


def zip_folder(folder: Path, target: Path) -> Path:
    """Write all files below a folder as a ZIP."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return target


# What can be downloaded beside annotation formats: name -> what people read.
DRAWN: Final = {
    "overlays": "each image under its mask, as JPEG",
    "cut-outs": "what was found of each image, on nothing, as PNG",
    "csv": "a table of areas and counts",
}


def formats() -> list[tuple[str, str]]:
    """List what masks can be downloaded as: what people read, and the format's name."""
    known = [(f"{each.name}: {each.about}", each.name) for each in FORMATS if each.write is not None]
    return [*known, *((f"{name}: {about}", name) for name, about in DRAWN.items())]


def zip_masks(session: Session, name: str, *, apart: bool, on_problem: Callable[[str], None]) -> Path:
    """Write the masks of all results that have one as a ZIP, in one of the annotation formats.

    Args:
        apart: Each connected region is an object of its own.
        on_problem: Told what the format cannot hold.

    Raises:
        ValueError: There are no results, or no such format.
    """
    chosen = () if name in DRAWN else writable([name])
    named = list(_named(session.results))
    if not named:
        raise ValueError("expected results to download, got none; segment some images first")
    if name in DRAWN:
        return _zip_drawn(session, name, named)
    ids = sorted({i for _, result in named for i in result.areas})
    colors = palette_for(ids)
    shown = {i: (r, g, b) for i, (r, g, b) in zip(colors.ids.tolist(), colors.colors.tolist(), strict=True) if i}
    categories = Categories(dict(Categories.plain(ids, session.names).names), shown)
    folder, target = session.new_folder(), session.new_folder() / f"masks-{name}.zip"
    write_all((_written(*each, apart) for each in named), chosen, {name: folder}, categories, on_problem=on_problem)
    zip_folder(folder, target)
    shutil.rmtree(folder)
    return target


def _zip_drawn(session: Session, name: str, named: Sequence[tuple[PurePosixPath, SegmentedImage]]) -> Path:
    """Write overlays, cut-outs or a table of all results as a ZIP."""
    folder, target = session.new_folder(), session.new_folder() / f"{name}.zip"
    if name == "csv":
        write_table(folder / "areas.csv", named, session.names)
    else:
        for place, result in named:
            cut_out = name == "cut-outs"
            path = below(folder, place.with_suffix(".png" if cut_out else ".jpg"))
            Image.fromarray(_drawn(result, cut_out=cut_out)).save(path, quality=92)
    zip_folder(folder, target)
    shutil.rmtree(folder)
    return target


def write_table(path: Path, named: Sequence[tuple[PurePosixPath, SegmentedImage]], names: Mapping[int, str]) -> None:
    """Write a row for each id in each image: pixels, their share, connected parts, the mean confidence."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "id", "name", "pixels", "share", "objects", "confidence"])
        for _, result in named:
            whole = max(1, result.size[0] * result.size[1])
            sure = "" if result.by_hand else round(result.confidence, 4)
            for i, pixels in result.areas.items():
                share = round(pixels / whole, 6)
                table.writerow([result.image.name, i, names.get(i, ""), pixels, share, result.objects.get(i, ""), sure])
            if not result.areas:
                table.writerow([result.image.name, "", "", 0, 0.0, 0, sure])


def _drawn(result: SegmentedImage, *, cut_out: bool) -> Pixels:
    """Draw an image (H, W, 3) under its mask; or (H, W, 4) what was found of it, clear elsewhere."""
    image = read_image(result.image.path)
    ids = read_mask(result.mask).ids if result.mask is not None else np.zeros(image.shape[:2], np.uint8)
    if cut_out:
        return np.dstack([image, np.where(ids > 0, 255, 0).astype(np.uint8)])
    palette = palette_for(np.unique(ids).tolist())
    return Segmentation(ids, np.ones(ids.shape, np.float32), palette).overlay(image)


def _written(name: PurePosixPath, result: SegmentedImage, apart: bool) -> Result:
    mask = read_mask(result.mask).ids if result.mask is not None else np.zeros(result.size, np.uint8)
    things = things_of(mask)
    return Result(name, mask, split(things) if apart else things, result.image.path)


def _named(results: Sequence[SegmentedImage]) -> Iterator[tuple[PurePosixPath, SegmentedImage]]:
    """Name results with a mask so that they differ without suffixes: a.jpg and a.png become a and a_2."""
    taken: set[str] = set()
    for result in results:
        if result.mask is None:
            continue
        name = PurePosixPath(result.image.name)
        stem, number = name.stem, 2
        while str(name.with_suffix("")).casefold() in taken:
            name, number = name.with_name(f"{stem}_{number}{name.suffix}"), number + 1
        taken.add(str(name.with_suffix("")).casefold())
        yield name, result
