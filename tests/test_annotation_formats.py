"""YOLO, LabelMe, CVAT, Label Studio, VOC and DAVIS: what other tools write is read, and what is written comes back.

Outside checks: Pillow fills polygons, supervision reads YOLO and LabelMe, and Label Studio's bits are read by a decoder
of characters that is written here a second time, from the format's description.
"""

from __future__ import annotations

import base64
import io
import json
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from incontext.annotations import FORMATS, Categories, Labelled, Labels, Result, Thing, open_labels
from incontext.annotations.bridges import bridged, one_ring
from incontext.annotations.brush import pack, unpack
from incontext.annotations.core import paint, things_of
from incontext.images.ids import Pixels
from incontext.images.masks import read_mask
from incontext.images.outlines import fill, parts
from incontext.images.read import read_image
from incontext.images.write import write_image, write_mask

CATEGORIES = Categories({3: "cat", 7: 'über & "dog" <1>', 254: "rust"})
SINGLE_FILES = {"cvat": "annotations.xml", "label-studio": "label_studio.json"}
WRITTEN = ("yolo", "labelme", "cvat", "label-studio", "voc")


def scene(seed: int, size: tuple[int, int] = (23, 37)) -> Pixels:
    """Ids of CATEGORIES, with holes, parts, single pixels, corners that touch, and things at every border."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    for i in (3, 7, 254, 3):
        top, left = rng.integers(0, size[0] - 5), rng.integers(0, size[1] - 5)
        bottom, right = rng.integers(top + 4, size[0] + 1), rng.integers(left + 4, size[1] + 1)
        mask[top:bottom, left:right] = i
        hole = mask[top + 1 : bottom - 1, left + 1 : right - 1]
        hole[rng.random(hole.shape) < 0.3] = rng.choice([0, i])
    mask[rng.integers(size[0]), -1] = 3
    mask[-1, rng.integers(size[1])] = 254
    mask[0, 0] = 7
    return mask


def results(
    folder: Path, masks: Sequence[Pixels], *, things: Callable[[Pixels], list[Thing]] = things_of
) -> list[Result]:
    """Masks as results, one of them in a subfolder, with images in `folder`."""
    made = []
    for number, mask in enumerate(masks):
        name = PurePosixPath(f"deep er/ü{number}.png" if number % 2 else f"{number}.jpg")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, np.repeat(mask[..., None], 3, axis=2))
        made.append(Result(name, mask, things(mask), folder / name))
    return made


def written(out: Path, name: str, made: Sequence[Result], categories: Categories = CATEGORIES) -> Path:
    """What a format writes; the file or folder to open it by."""
    form = next(each for each in FORMATS if each.name == name)
    assert form.write is not None
    out.mkdir(parents=True, exist_ok=True)
    with form.write(out, categories) as add:
        for each in made:
            add(each)
    return out / SINGLE_FILES.get(name, "")


def by_name(mask: Pixels, categories: Categories) -> dict[str, Any]:
    """Which pixels each category covers, for comparing masks whose ids are numbered apart."""
    found = {categories.names[i]: (mask == i).tolist() for i in np.unique(mask).tolist() if i not in (0, 255)}
    return {**found, "ignored": (mask == 255).tolist()} if (mask == 255).any() else found


def only(labels: Labels) -> Labelled:
    (image,) = labels.images
    return image


# ---------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_comes_back(name: str, tmp_path: Path) -> None:
    masks = [scene(seed) for seed in range(6)] + [np.zeros((5, 9), np.uint8), np.full((4, 1), 7, np.uint8)]
    made = results(tmp_path / "images", masks)
    labels = open_labels(written(tmp_path / "out", name, made), images=tmp_path / "images")
    assert labels.format == name
    assert not labels.problems
    assert sorted(image.name for image in labels) == sorted(result.name for result in made)
    for image in labels:
        result = next(each for each in made if each.name == image.name)
        assert image.size == result.size
        assert image.image == result.image
        assert by_name(image.mask(), labels.categories) == by_name(result.mask, CATEGORIES)


@pytest.mark.parametrize("name", ["yolo", "labelme", "voc"])
def test_images_are_found_from_what_is_written(name: str, tmp_path: Path) -> None:
    """By links or by their path; an image that lies in place of a link stays."""
    made = results(tmp_path / "images", [scene(0), scene(1)])
    folder = {"yolo": "images", "voc": "JPEGImages"}.get(name, "")
    (tmp_path / "out" / folder).mkdir(parents=True)
    if folder:
        write_image(tmp_path / "out" / folder / made[0].name, np.full((23, 37), 9, np.uint8))
    for _ in range(2):  # a second time over the first
        labels = open_labels(written(tmp_path / "out", name, made))
    for image, result in zip(sorted(labels, key=lambda each: -len(each.name.parts)), made[::-1], strict=True):
        own = folder and result is made[0]
        assert np.array_equal(image.read_image(), np.full((23, 37, 3), 9) if own else read_image(result.image))


@pytest.mark.parametrize("name", WRITTEN)
def test_ids_without_names_stay_as_they_are(name: str, tmp_path: Path) -> None:
    made = results(tmp_path / "images", [scene(1)])
    path = written(tmp_path / "out", name, made, Categories.plain([3, 7, 254]))
    labels = open_labels(path, images=tmp_path / "images")
    assert np.array_equal(only(labels).mask(), made[0].mask)


@pytest.mark.parametrize("name", WRITTEN)
def test_objects_that_overlap_stay_apart(name: str, tmp_path: Path) -> None:
    """Three objects of one category, the later over the earlier, one of them cut in two; and an ignored one."""
    below, across, hidden = (np.zeros((12, 16), np.bool_) for _ in range(3))
    below[2:9, 1:15], across[:, 7:9], hidden[10:, :5] = True, True, True
    things = [
        Thing.cut(3, below),
        Thing.cut(7, across),
        Thing.cut(3, ~(below | across | hidden)),
        Thing.cut(0, hidden, is_ignored=True),
    ]
    kept = [thing for thing in things if thing is not None]
    mask = paint(kept, (12, 16))
    made = results(tmp_path / "images", [mask], things=lambda _: kept)
    labels = open_labels(written(tmp_path / "out", name, made), images=tmp_path / "images")
    expected = by_name(mask, CATEGORIES)
    if name == "yolo":
        del expected["ignored"]
    assert by_name(only(labels).mask(), labels.categories) == expected
    drawn = [thing for thing in only(labels).draw() if not thing.is_ignored]
    names = sorted(labels.categories.names[thing.category] for thing in drawn)
    assert names == sorted(["cat", "cat", CATEGORIES.names[7]])


@pytest.mark.parametrize("name", ["cvat", "label-studio"])
def test_one_file_for_all_appears_whole_or_not_at_all(name: str, tmp_path: Path) -> None:
    made = results(tmp_path / "images", [scene(1), scene(2)])
    form = next(each for each in FORMATS if each.name == name)
    assert form.write is not None
    (tmp_path / "out").mkdir()

    def broken_off() -> None:
        with form.write(tmp_path / "out", CATEGORIES) as add:
            add(made[0])
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        broken_off()
    assert list((tmp_path / "out").iterdir()) == []


def test_more_objects_than_a_mask_has_ids(tmp_path: Path) -> None:
    mask = np.zeros((32, 64), np.uint8)
    mask[::2, ::2] = 3
    dots = [
        thing for at in np.argwhere(mask) if (thing := Thing.cut(3, np.ones((1, 1), np.bool_), top=at[0], left=at[1]))
    ]
    assert len(dots) == 512
    made = results(tmp_path / "images", [mask], things=lambda _: dots)
    labels = open_labels(written(tmp_path / "out", "voc", made))
    assert by_name(only(labels).mask(), labels.categories) == by_name(mask, CATEGORIES)
    assert not list((tmp_path / "out").glob("SegmentationObject/**/*.png"))


# --------------------------------------------------------------------------------------- outside checks


def filled_by_pillow(ring: np.ndarray, size: tuple[int, int], *, zoom: int = 4) -> np.ndarray:
    """A ring along pixels' edges, painted several times as large, looked at in the middles of pixels."""
    canvas = Image.new("1", (size[1] * zoom + 1, size[0] * zoom + 1))
    ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in (ring * zoom).tolist()], fill=1)
    return np.asarray(canvas)[zoom // 2 :: zoom, zoom // 2 :: zoom][: size[0], : size[1]]


@pytest.mark.parametrize("seed", range(20))
def test_one_ring_is_filled_alike_by_pillow(seed: int) -> None:
    """Bridges lie on pixels' edges, where an image four times as large is not looked at."""
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(2, 20, 2)) < rng.uniform(0.3, 0.9)
    mask[0, 0] = True
    ring = one_ring(mask)
    assert np.array_equal(filled_by_pillow(ring, mask.shape), mask)
    assert np.array_equal(fill([ring], mask.shape), mask)


@pytest.mark.parametrize("seed", range(4))
def test_a_polygon_is_the_same_in_every_format(seed: int, tmp_path: Path) -> None:
    """A star with corners between pixels, and beyond the image, in four formats; and as Pillow fills it 16 times as
    large, but for pixels whose centres lie on its very edge."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    reach = rng.uniform(4, 17, 9)
    star = np.stack([15 + reach * np.cos(angles), 10 + reach * np.sin(angles)], axis=1).round(4)
    names = "names: [a]\n"
    pairs = star.tolist()
    shares = " ".join(f"{x / 30:.9f} {y / 20:.9f}" for x, y in pairs)
    opened = [
        yolo(tmp_path / "yolo", f"0 {shares}\n", size=(20, 30), names=names),
        labelme(tmp_path / "x.json", shape("a", "polygon", pairs)),
        cvat(
            tmp_path / "x.xml",
            image_element(f'<polygon label="a" points="{";".join(f"{x},{y}" for x, y in pairs)}"/>'),
        ),
        label_studio(
            tmp_path / "export.json",
            task(region("polygonlabels", "a", points=[percent(x, y) for x, y in pairs])),
        ),
    ]
    masks = [only(open_labels(path)).mask() for path in opened]
    assert all(np.array_equal(masks[0], mask) for mask in masks[1:])
    assert np.count_nonzero(masks[0] != filled_by_pillow(star, (20, 30), zoom=16)) <= 3
    assert np.count_nonzero(masks[0]) > 40


def test_bridges_to_holes_stay_on_the_region() -> None:
    """Whoever paints outlines paints no bridge over a hole: those run between two pixels, the lower of the region."""
    mask = np.ones((9, 12), np.bool_)
    mask[2:4, 2:4], mask[2:7, 6:8], mask[6, 2:5], mask[7, 9:11] = False, False, False, False
    (part,) = parts(mask)
    ring = bridged(part)
    assert len(part.holes) == 4
    own = {tuple(sorted(edge)) for each in (part.outer, *part.holes) for edge in units(each)}
    bridges = [edge for edge in units(ring) if tuple(sorted(edge)) not in own]
    assert bridges
    for (x0, y0), (x1, y1) in bridges:
        assert y0 == y1
        assert mask[y0, min(x0, x1)]


def units(ring: np.ndarray) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """A ring's edges, cut to the length of a pixel."""
    cut = []
    for start, end in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
        at = (
            [tuple(round(s + (e - s) * k / steps) for s, e in zip(start, end, strict=True)) for k in range(steps + 1)]
            if steps
            else []
        )
        cut += list(pairwise(at))
    return cut


def test_supervision_reads_yolo(tmp_path: Path) -> None:
    """It rounds corners to pixels and paints outlines as well, so it sees a pixel more on the right and below."""
    supervision = pytest.importorskip("supervision")
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 8:30], mask[9:14, 12:20], mask[25:39, 35:60] = 3, 0, 254
    made = results(tmp_path / "images", [mask])
    out = written(tmp_path / "out", "yolo", made)
    data = supervision.DetectionDataset.from_yolo(str(tmp_path / "images"), str(out / "labels"), str(out / "data.yaml"))
    assert data.classes == list(CATEGORIES.names.values())
    ((_, image, found),) = list(data)
    assert image.shape[:2] == mask.shape
    assert found.class_id.tolist() == [0, 2]
    for selected, i in zip(found.mask, (3, 254), strict=True):
        truth = mask == i
        widened = truth | np.roll(truth, 1, 0) | np.roll(truth, 1, 1) | np.roll(truth, (1, 1), (0, 1))
        assert (selected >= truth).all()
        assert (selected <= widened).all()
        assert not selected.all()


def test_what_supervision_writes_as_yolo_is_read(tmp_path: Path) -> None:
    """It writes the middles of the outermost pixels, so its polygons are half a pixel smaller than what is meant."""
    supervision = pytest.importorskip("supervision")
    mask = np.zeros((80, 100), np.uint8)
    mask[10:60, 20:70] = 3
    (made,) = results(tmp_path / "images", [mask])
    detections = supervision.Detections(np.array([[20, 10, 70, 60]]), mask=mask[None] == 3, class_id=np.array([1]))
    data = supervision.DetectionDataset(["dog", "cat"], [str(made.image)], {str(made.image): detections})
    data.as_yolo(None, str(tmp_path / "labels"), str(tmp_path / "data.yaml"), approximation_percentage=0.0)
    labels = open_labels(tmp_path)
    assert labels.categories.names[2] == "cat"
    found = only(labels).mask() == 2
    assert (found <= (mask == 3)).all()
    assert found.sum() == 49 * 49


def test_supervision_reads_labelme(tmp_path: Path) -> None:
    labelme = pytest.importorskip("supervision.dataset.formats.labelme")
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 8:30], mask[25:39, 35:60], mask[0:4, 50:55] = 3, 254, 254
    made = results(tmp_path / "images", [mask])
    out = written(tmp_path / "out", "labelme", made)
    classes, images, found = labelme.load_labelme_annotations(str(tmp_path / "images"), str(out))
    assert classes == ["cat", "rust"]
    assert [Path(image) for image in images] == [made[0].image]
    detections = found[images[0]]
    assert detections.class_id.tolist() == [0, 1]  # the parts of rust share a group
    assert [int(selected.sum()) for selected in detections.mask] == [16 * 23, 15 * 25 + 5 * 6]


def decoded_as_described(strokes: Sequence[int]) -> list[int]:
    """Label Studio's stream by its description, digit for digit; the answer is the bytes of the RGBA image."""
    digits = "".join(f"{byte:08b}" for byte in strokes)
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return int(digits[at - count : at], 2)

    total, word = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    out: list[int] = []
    while len(out) < total:
        repeated = take(1)
        count = take(widths[take(2)]) + 1
        out += [take(word)] * count if repeated else [take(word) for _ in range(count)]
    return out


@pytest.mark.parametrize("seed", range(8))
def test_brush_strokes_are_what_the_format_describes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 30, 2)) < rng.random()
    assert decoded_as_described(list(pack(mask))) == np.repeat(mask.ravel() * 255, 4).tolist()
    assert np.array_equal(unpack(pack(mask), mask.shape), mask)


def test_long_runs_of_a_brush() -> None:
    mask = np.zeros((300, 400), np.bool_)
    mask[100:, 50:] = True
    assert decoded_as_described(list(pack(mask)))[3::4] == (mask.ravel() * 255).tolist()
    assert np.array_equal(unpack(pack(mask), mask.shape), mask)


@pytest.mark.parametrize("seed", range(6))
def test_brush_strokes_of_others(seed: int) -> None:
    """Runs of different values, other widths, other channels than alpha, values half transparent."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2).tolist()
    rgba = rng.integers(0, 256, height * width * 4).tolist()
    widths = (2, 5, 6, 10)
    digits = f"{len(rgba):032b}{7:05b}" + "".join(f"{each - 1:04b}" for each in widths)
    at = 0
    while at < len(rgba):
        choice, repeated = int(rng.integers(4)), bool(rng.integers(2))
        count = min(int(rng.integers(1, 1 + (1 << widths[choice]))), len(rgba) - at)
        if repeated:
            rgba[at : at + count] = [rgba[at]] * count
        values = rgba[at : at + 1] if repeated else rgba[at : at + count]
        digits += f"{int(repeated)}{choice:02b}{count - 1:0{widths[choice]}b}" + "".join(f"{v:08b}" for v in values)
        at += count
    digits += "0" * (-len(digits) % 8)
    strokes = int(digits, 2).to_bytes(len(digits) // 8, "big")
    assert decoded_as_described(list(strokes)) == rgba
    assert np.array_equal(unpack(strokes, (height, width)).ravel(), np.array(rgba[3::4]) > 127.5)


def test_the_head_of_a_real_export() -> None:
    """The first bytes of a public export of an image of 3332 x 2527: the widths are 3, 4, 8 and 16."""
    head = bytes([2, 1, 233, 240, 57, 27, 255, 255, 255, 0, 255, 255, 224, 31, 255])
    with pytest.raises(ValueError, match="break off"):
        unpack(head, (2527, 3332))
    assert pack(np.zeros((2527, 3332), np.bool_))[:6] == head[:6]
    with pytest.raises(ValueError, match=r"expected brush strokes of 16 bytes for 2 x 2 pixels .*, got 33679856"):
        unpack(head, (2, 2))


# ------------------------------------------------------------------------------------------------ YOLO


def yolo(root: Path, lines: str, *, size: tuple[int, int] = (20, 40), names: str = "names: [a, b]\n") -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    write_image(root / "images" / "x.png", np.zeros((*size, 3), np.uint8))
    (root / "labels" / "x.txt").write_text(lines)
    if names:
        (root / "data.yaml").write_text(names)
    return root


def test_yolo_polygons_boxes_and_confidences(tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.25 0.5 0.5 0.5 0.5 1 0.25 1 0.9\n\n1.0 0.5 0.25 0.5 0.5\n1 0.9 0.9 0.1 0.1 0.8\n")
    write_image(root / "images" / "nothing.png", np.zeros((3, 4, 3), np.uint8))
    labels = open_labels(root)
    assert [str(image.name) for image in labels] == ["nothing.png", "x.png"]
    expected = np.zeros((20, 40), np.uint8)
    expected[10:20, 10:20] = 1
    expected[0:10, 10:30] = 2
    expected[17:19, 34:38] = 2
    assert np.array_equal(labels.images[1].mask(), expected)
    assert not labels.images[0].mask().any()
    assert dict(labels.categories.names) == {1: "a", 2: "b"}
    from_yaml = open_labels(root / "data.yaml")
    assert from_yaml.images[1].mask("instances").max() == 3


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("names:\n  0: a\n  10: c\n  2: b\n", {1: "a", 2: "b", 3: "c"}),
        ("nc: 1\nnames: ['3']\n", {3: "3"}),
    ],
)
def test_yolo_names(names: str, expected: dict[int, str], tmp_path: Path) -> None:
    assert dict(open_labels(yolo(tmp_path, "", names=names)).categories.names) == expected


def test_yolo_layouts(tmp_path: Path) -> None:
    """Splits above and below images/, images beside their text files, and lists of names."""
    square = "0 0 0 1 0 1 1 0 1\n"
    yolo(tmp_path / "a" / "train", square, names="")
    yolo(tmp_path / "a" / "valid", "", names="")
    (tmp_path / "a" / "data.yaml").write_text("path: /etc\ntrain: ../../../etc\nnames: [a]\n")
    labels = open_labels(tmp_path / "a")
    assert [str(image.name) for image in labels] == ["train/x.png", "valid/x.png"]
    assert [int(image.mask().sum()) for image in labels] == [800, 0]
    (tmp_path / "all").mkdir()
    write_image(tmp_path / "all" / "x.png", np.zeros((4, 4, 3), np.uint8))
    write_image(tmp_path / "all" / "of no split.png", np.zeros((4, 4, 3), np.uint8))
    elsewhere = open_labels(tmp_path / "a", images=tmp_path / "all")
    assert [str(image.name) for image in elsewhere] == ["train/x.png", "valid/x.png"]
    for path in ("b/images/val/y.png", "c/y.png"):
        (tmp_path / path).parent.mkdir(parents=True)
        write_image(tmp_path / path, np.zeros((4, 4, 3), np.uint8))
        label = (tmp_path / path.replace("images", "labels")).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(square)
    (tmp_path / "c" / "classes.txt").write_text("dog\n")
    nameless, listed = open_labels(tmp_path / "b"), open_labels(tmp_path / "c")
    assert str(only(nameless).name) == "val/y.png"
    assert dict(nameless.categories.names) == {1: "class 0"}
    assert "names no classes" in nameless.problems[0]
    assert dict(listed.categories.names) == {1: "dog"}
    assert (only(listed).mask() == 1).all()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("0 0.1 0.1", r"x\.txt, line 1: expected a polygon of at least 3 points, got 1"),
        ("0 0.1 nan 0.1 0.2 0.3 0.4", "expected a class and finite numbers"),
        ("0 0.1 inf 0.1 0.2 0.3 0.4", "expected a class and finite numbers"),
        ("0.5 0.1 0.1 0.1 0.2 0.3 0.4", "expected a class and finite numbers"),
        ("-1 0.1 0.1 0.1 0.2 0.3 0.4", "expected a class and finite numbers"),
        ("cat 0.1 0.1 0.1 0.2 0.3 0.4", "expected a class and the corners"),
        ("0 10 10 200 10 200 200", r"expected corners as shares of the image, 0\.\.1, got 10\.\.200"),
        ("5 0.1 0.1 0.1 0.2 0.3 0.4", r"expected a class out of \[0, 1\], got 5"),
        ("\0\1\2\xff", "expected a class and the corners"),
    ],
)
def test_yolo_lines_that_are_none(line: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        only(open_labels(yolo(tmp_path, line))).draw()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("names: {a: b}", "expected names, a list, or numbers with names"),
        ("names: 5", "expected names, a list"),
        ("names: [a]\nkpt_shape: [17, 3]", "labels of key points"),
        ("names: [a\n:::", "expected plain YAML"),
        ("names: [&a [x, x], *a, *a]", "aliases, which can grow without end"),
        ("names: " + str([f"n{i}" for i in range(300)]), "at most 254 categories, got 300"),
    ],
)
def test_yolo_names_that_are_none(names: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        open_labels(yolo(tmp_path, "", names=names))


def test_text_beside_masks_is_no_yolo(tmp_path: Path) -> None:
    """Folders of masks may be called labels, and hold notes; and not every YAML file is about classes."""
    yolo(tmp_path, "We labelled 3 images in May.\n", names="")
    (tmp_path / "notes.txt").write_text("0 0.1 0.2 0.3 0.4")
    (tmp_path / "job.yaml").write_text("!Job {names: [}")
    with pytest.raises(ValueError, match="expected annotations, got something else"):
        open_labels(tmp_path)
    (tmp_path / "labels" / "x.txt").write_text("0 0.1 0.2 0.3 0.4\n")
    assert open_labels(tmp_path).format == "yolo"


def test_yolo_without_images(tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0 0 1 0 1 1")
    (root / "labels" / "lonely.txt").write_text("")
    (root / "images" / "broken.png").write_bytes(b"no image")
    labels = open_labels(root)
    assert len(labels) == 1
    assert ["without an image" in each or "expected an image" in each for each in labels.problems] == [True, True]
    (root / "images" / "x.png").unlink()
    (root / "images" / "broken.png").unlink()
    with pytest.raises(ValueError, match="got no such pair"):
        open_labels(root)


# --------------------------------------------------------------------------------------------- LabelMe


def png(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


def labelme(path: Path, *shapes: dict[str, Any], **about: Any) -> Path:
    document = {"version": "5.4.1", "shapes": list(shapes), "imagePath": "x.png", "imageData": None}
    path.write_text(json.dumps(document | {"imageHeight": 20, "imageWidth": 30} | about))
    return path


def shape(label: str, kind: str | None, corners: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": corners, "group_id": None, "flags": {}, **more}


SQUARE = [[2, 3], [8, 3], [8, 9], [2, 9]]


def test_labelme_shapes(tmp_path: Path) -> None:
    small = np.array([[1, 0], [1, 1], [0, 1]], np.uint8)
    path = labelme(
        tmp_path / "x.json",
        shape("b", "polygon", SQUARE),
        shape("a", None, [[20, 0], [30, 0], [30, 4], [20, 4]]),
        shape("b", "rectangle", [[14.0, 12.0], [10.0, 10.0]]),
        shape("c", "mask", [[5, 15], [6, 17]], mask=png(small)),
        shape("a", "circle", [[25, 12], [25, 15]]),
        shape("a", "oriented_rectangle", [[0, 10], [4, 12], [2, 16], [-2, 14]]),
        shape("a", "linestrip", [[0, 0], [5, 5]]),
        shape("a", "point", [[0, 0]]),
        shape("__ignore__", "rectangle", [[0, 18], [30, 20]]),
    )
    labels = open_labels(path)
    assert dict(labels.categories.names) == {1: "a", 2: "b", 3: "c"}
    assert labels.problems == [f"{path}: left out shapes that cover nothing: 1 of type linestrip, 1 of type point"]
    expected = np.zeros((20, 30), np.uint8)
    expected[3:9, 2:8] = expected[10:12, 10:14] = 2
    expected[0:4, 20:30] = 1
    expected[15:18, 5:7][small > 0] = 3
    expected[fill([np.array([(0, 10), (4, 12), (2, 16), (-2, 14)])], (20, 30))] = 1
    y, x = np.mgrid[:20, :30] + 0.5
    expected[(x - 25) ** 2 + (y - 12) ** 2 <= 9] = 1
    expected[18:] = 255
    assert np.array_equal(only(labels).mask(), expected)


def test_labelme_groups_are_one_thing(tmp_path: Path) -> None:
    path = labelme(
        tmp_path / "x.json",
        shape("a", "rectangle", [[0, 0], [2, 2]], group_id=4),
        shape("a", "rectangle", [[5, 0], [7, 2]], group_id=None),
        shape("b", "rectangle", [[10, 0], [12, 2]], group_id=4),
        shape("a", "rectangle", [[20, 5], [22, 7]], group_id=4),
    )
    mask = only(open_labels(path)).mask("instances")
    assert [mask[0, 0], mask[0, 5], mask[0, 10], mask[5, 20]] == [1, 2, 3, 1]


def test_labelme_folder(tmp_path: Path) -> None:
    """Names over all files, in the order of labels.txt; a broken file costs itself alone."""
    (tmp_path / "sub").mkdir()
    labelme(tmp_path / "1.json", shape("z", "polygon", SQUARE))
    labelme(tmp_path / "sub" / "2.json", shape("b", "polygon", SQUARE), imagePath="..\\x.png")
    (tmp_path / "3.json").write_text('{"shapes": [')
    labelme(tmp_path / "4.json", shape("b", "polygon", SQUARE), imageHeight=0)
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nz\n")
    write_image(tmp_path / "x.png", np.zeros((20, 30, 3), np.uint8))
    labels = open_labels(tmp_path)
    assert dict(labels.categories.names) == {1: "z", 2: "b"}
    assert [str(image.name) for image in labels] == ["1.png", "sub/2.png"]
    assert [image.image for image in labels] == [tmp_path / "x.png"] * 2
    assert len(labels.problems) == 2
    assert "3.json: expected JSON" in labels.problems[0]
    assert "4.json: expected height and width" in labels.problems[1]


def test_labelme_embedded_image(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    about = {"imagePath": "../../../nowhere.png", "imageData": png(image)}
    found = only(open_labels(labelme(tmp_path / "x.json", shape("a", "polygon", SQUARE), **about)))
    assert found.image is None
    assert np.array_equal(found.read_image(), image)
    about |= {"imageHeight": None, "imageWidth": None}
    assert only(open_labels(labelme(tmp_path / "y.json", shape("a", "polygon", SQUARE), **about))).size == (20, 30)


def test_labelme_images_lie_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """../images is where a folder of JSON files usually finds them; what lies far above is not shown."""
    top, tmp_path = tmp_path, tmp_path / "deep"
    (tmp_path / "a" / "json").mkdir(parents=True)
    (tmp_path / "a" / "images").mkdir()
    for place in (tmp_path / "a" / "images" / "x.png", tmp_path / "far.png", top / "secret.png"):
        write_image(place, np.zeros((20, 30, 3), np.uint8))
    for said, expected in (
        ("../images/x.png", tmp_path / "a" / "images" / "x.png"),
        ("C:\\photos\\x.png", tmp_path / "a" / "images" / "x.png"),
        ("../../far.png", tmp_path / "far.png"),
        ("../../../secret.png", None),
        (str(top / "secret.png"), None),
        ("../../../../../../etc/passwd", None),
        ("a\0b.png", None),
        ("..", None),
    ):
        path = labelme(tmp_path / "a" / "json" / "x.json", shape("a", "polygon", SQUARE), imagePath=said)
        image = only(open_labels(path))
        assert image.image == expected, said
        assert ".." not in image.name.parts
        if expected is None:
            with pytest.raises(FileNotFoundError, match="there is no such file"):
                image.read_image()
    monkeypatch.chdir(top)
    path = labelme(tmp_path / "a" / "json" / "x.json", shape("a", "polygon", SQUARE), imagePath="../../../secret.png")
    assert only(open_labels(path)).image == top / "secret.png"


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (shape("a", "polygon", [[1, 1], [2, 2]]), "shape 1: expected a polygon of at least 3 points, got 2"),
        (shape("a", "polygon", [[1, 1], [2, float("nan")], [3, 3]]), "expected a list of points"),
        (shape("a", "polygon", [[1, 1], [2, "3"], [3, 3]]), "expected a list of points"),
        (shape("a", "polygon", [[1, 1], [2, 1e300], [3, 3]]), "expected points in or near the image"),
        (shape("a", "polygon", [[1, 1], [2, 10**400], [3, 3]]), "expected"),
        (shape("a", "rectangle", [[1, 1]]), "expected at least 2 points, got 1"),
        (shape("a", "circle", [[1, 1], [1, 1]]), "expected radii above 0"),
        (shape("a", "mask", [[1, 1], [2, 2]]), "mask: expected an image file as base64"),
        (shape("a", "mask", [[1, 1], [2, 2]], mask="!!!"), "mask: expected an image file as base64"),
        (shape("a", "mask", [[1, 1], [2, 2]], mask=png(np.ones((9, 9), np.uint8))[:60]), "mask: expected"),
        (shape("a", "mask", [[1, 1], [2, 2]], mask=png(np.ones((999, 999), np.uint8))), "a mask inside of the image"),
        ({"shape_type": "polygon", "points": SQUARE}, "shape 1: expected a shape with a label"),
        (shape("", "polygon", SQUARE), "expected a shape with a label"),
        ("polygon", "expected a shape with a label, got 'polygon'"),
    ],
)
def test_labelme_shapes_that_are_none(broken: Any, sentence: str, tmp_path: Path) -> None:
    path = labelme(tmp_path / "x.json", broken)
    with pytest.raises(ValueError, match=rf"x\.json.*{sentence}"):
        only(open_labels(path)).draw()


# ------------------------------------------------------------------------------------------------ CVAT


def cvat(path: Path, *images: str, meta: str = "<task><labels/></task>") -> Path:
    body = "".join(images)
    path.write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f"<annotations><version>1.1</version><meta>{meta}</meta>{body}</annotations>"
    )
    return path


def image_element(*shapes: str, name: str = "x.png", more: str = "") -> str:
    return f'<image id="0" name="{name}" width="30" height="20" {more}>\n' + "\n".join(shapes) + "\n</image>\n"


LABELS = """<task><labels>
  <label><name>b</name><color>#ff0000</color><attributes><attribute><name>fur</name><values>x</values></attribute></attributes></label>
  <label><name>a</name><color>#0000ff</color><attributes/></label>
</labels></task>"""


def test_cvat_shapes(tmp_path: Path) -> None:
    path = cvat(
        tmp_path / "annotations.xml",
        image_element(
            '<box label="a" xtl="0" ytl="0" xbr="10.0" ybr="5" z_order="2"><attribute name="fur">x</attribute></box>',
            '<polygon label="b" points="8,3;12,3;12,8;8,8" z_order="3"/>',
            '<polygon label="a" points="5,0;30,0;30,10;5,10" z_order="1"/>',
            '<ellipse label="b" cx="20" cy="15" rx="6" ry="2" rotation="90" z_order="4"/>',
            '<mask label="b" rle="0, 2, 1, 3" left="0" top="17" width="3" height="2" z_order="0"/>',
            '<box label="a" xtl="2" ytl="9" xbr="8" ybr="11" rotation="90" z_order="5"/>',
            '<polyline label="a" points="0,0;1,1"/>',
            '<points label="a" points="0,0"/>',
            '<tag label="a"/>',
        ),
        '<image id="1" name="empty.png" width="4" height="3"/>',
        meta=LABELS,
    )
    labels = open_labels(path)
    assert dict(labels.categories.names) == {1: "b", 2: "a"}
    assert dict(labels.categories.colors) == {1: (255, 0, 0), 2: (0, 0, 255)}
    assert labels.problems == [f"{path}: left out shapes that cover nothing: 1 of type points, 1 of type polyline"]
    expected = np.zeros((20, 30), np.uint8)
    expected[17, 0:2] = expected[18, 0:3] = 1
    expected[0:10, 5:30] = 2
    expected[0:5, 0:10] = 2
    expected[3:8, 8:12] = 1
    y, x = np.mgrid[:20, :30] + 0.5
    expected[((x - 20) / 2) ** 2 + ((y - 15) / 6) ** 2 <= 1] = 1
    expected[7:13, 4:6] = 2
    assert np.array_equal(labels.images[0].mask(), expected)
    assert labels.images[1].mask().shape == (3, 4)
    assert not labels.images[1].mask().any()


def test_cvat_turned_clockwise(tmp_path: Path) -> None:
    """A long ellipse and a long box turned by 45 degrees run down to the right."""
    for kind in (
        'box label="a" xtl="5" ytl="9" xbr="25" ybr="11"',
        'ellipse label="a" cx="15" cy="10" rx="10" ry="1.5"',
    ):
        path = cvat(tmp_path / "annotations.xml", image_element(f'<{kind} rotation="45"/>'))
        mask = only(open_labels(path)).mask()
        assert mask[5, 10] == mask[14, 19] == 1
        assert mask[5, 19] == mask[14, 10] == 0


def test_cvat_groups_and_tasks(tmp_path: Path) -> None:
    """Shapes of a group are one thing; a project's file holds several tasks, whose images may have equal names."""
    boxes = [
        f'<box label="a" xtl="{x}" ytl="0" xbr="{x + 2}" ybr="2" group_id="{g}"/>'
        for x, g in ((0, 1), (5, 0), (10, 1), (15, 0))
    ]
    tasks = "<project><labels><label><name>a</name></label></labels><tasks><task><id>4</id></task></tasks></project>"
    path = cvat(
        tmp_path / "annotations.xml",
        image_element(*boxes, more='task_id="4" subset="train"'),
        image_element(more='task_id="5" subset="train"'),
        image_element(more='task_id="5" subset="train"'),
        meta=tasks,
    )
    labels = open_labels(path)
    assert [str(image.name) for image in labels] == ["x.png", "task_5/x.png"]
    assert labels.problems == [f"{path}: left out the image x.png, which is there already"]
    assert labels.images[0].mask("instances")[0, [0, 5, 10, 15]].tolist() == [1, 2, 1, 3]


def test_cvat_masks_by_another_parser(tmp_path: Path) -> None:
    """What is written, read by ElementTree and unrolled run by run as CVAT's documentation says."""
    mask = scene(5)
    path = written(tmp_path, "cvat", [Result(PurePosixPath("x.jpg"), mask, things_of(mask))])
    (image,) = ET.parse(path).getroot().findall("image")
    ids = {name: i for i, name in CATEGORIES.names.items()}
    found = np.zeros((int(image.get("height", "")), int(image.get("width", ""))), np.uint8)
    for element in sorted(image.findall("mask"), key=lambda each: int(each.get("z_order", ""))):
        left, top, width, height = (int(element.get(key, "")) for key in ("left", "top", "width", "height"))
        flat: list[bool] = []
        value = False
        for run in element.get("rle", "").split(", "):
            flat += [value] * int(run)
            value = not value
        box = found[top : top + height, left : left + width]
        box[np.array(flat).reshape(height, width)] = ids[element.get("label", "")]
    assert np.array_equal(found, mask)


BOMB = '<?xml version="1.0"?><!DOCTYPE annotations [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BOMB + "<annotations>&b;</annotations>", "expected plain XML, got a document type"),
        ('<!DOCTYPE annotations SYSTEM "file:///etc/passwd"><annotations/>', "expected plain XML, got a document type"),
        ("<annotations>", "expected XML, got something else"),
        ("<annotations></annotations>", "expected images with their shapes, got none"),
        ('<annotations><track id="0"/></annotations>', "got CVAT for video"),
        ("<html><annotations></annotations></html>", "expected the element annotations, got 'html'"),
        ('<?xml version="1.0" encoding="utf-16"?><annotations></annotations>', "expected XML in UTF-8, got utf-16"),
    ],
)
def test_xml_that_is_not_cvats(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_text(text)
    with pytest.raises(ValueError, match=rf"x\.xml: .*{sentence}"):
        open_labels(tmp_path / "x.xml")


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ('<polygon label="a" points="1,1;2,2"/>', "polygon: expected a polygon of at least 3 points, got 2"),
        ('<polygon label="a" points="1,1;2,2;nan,3"/>', "expected a list of points"),
        ('<polygon label="a" points="1,1;2,2;x,3"/>', "expected points as x,y;x,y"),
        ('<polygon label="a" points="1,1;2,2;3"/>', "expected a list of points"),
        ('<polygon label="a"/>', "expected a polygon of at least 3 points, got 0"),
        ('<polygon points="1,1;2,2;3,3"/>', "expected a shape with a label"),
        ('<box label="a" xtl="1" ytl="1" xbr="2"/>', "expected ybr as a number, got None"),
        ('<box label="a" xtl="1" ytl="1" xbr="2" ybr="inf"/>', "expected ybr as a number, got 'inf'"),
        ('<ellipse label="a" cx="1" cy="1" rx="0" ry="2"/>', "expected radii above 0"),
        ('<mask label="a" rle="1, 2" left="0" top="0" width="3" height="2"/>', "expected runs over the 6 pixels"),
        ('<mask label="a" rle="-1, 7" left="0" top="0" width="3" height="2"/>', "expected runs as numbers with commas"),
        ('<mask label="a" rle="" left="0" top="0" width="3" height="2"/>', "expected runs as numbers with commas"),
        (
            '<mask label="a" rle="999999999" left="0" top="0" width="99999" height="10000"/>',
            "a mask inside of the image",
        ),
        ('<mask label="a" rle="6" left="99999999" top="0" width="3" height="2"/>', "a mask in or near the image"),
    ],
)
def test_cvat_shapes_that_are_none(broken: str, sentence: str, tmp_path: Path) -> None:
    path = cvat(tmp_path / "annotations.xml", image_element(broken))
    with pytest.raises(ValueError, match=rf"annotations\.xml, image x\.png: .*{sentence}"):
        only(open_labels(path)).draw()


def test_cvat_names_that_lead_away(tmp_path: Path) -> None:
    names = ("../../etc/passwd", "/etc/passwd", "C:\\x.png", "")
    path = cvat(
        tmp_path / "annotations.xml", *(image_element(name=name) for name in names), image_element(name="a/x.png")
    )
    labels = open_labels(path)
    assert [str(image.name) for image in labels] == ["a/x.png"]
    assert len(labels.problems) == len(names)
    assert all("expected a name" in each for each in labels.problems)


def test_cvat_sizes_that_are_none(tmp_path: Path) -> None:
    sizes = ('width="0" height="5"', 'width="99999" height="99999"', 'width="1.5" height="2"', "")
    images = [f'<image id="0" name="{number}.png" {size}></image>' for number, size in enumerate(sizes)]
    labels = open_labels(cvat(tmp_path / "annotations.xml", *images, image_element()))
    assert len(labels) == 1
    assert len(labels.problems) == len(sizes)


# ---------------------------------------------------------------------------------------- Label Studio


def region(kind: str, label: str | None, **value: Any) -> dict[str, Any]:
    labelled = {kind: [label]} if label else {}
    about = {"original_width": 30, "original_height": 20, "image_rotation": 0, "from_name": "l", "to_name": "i"}
    return {"id": "r", "type": kind, "value": {**value, **labelled}, **about}


def label_studio(path: Path, *tasks: dict[str, Any]) -> Path:
    path.write_text(json.dumps(list(tasks)))
    return path


def task(*regions: dict[str, Any], image: str = "/data/upload/1/0a1b2c3d-x.png", **more: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"text": "a cat", "image": image}, "annotations": [{"result": list(regions)}], **more}


def percent(x: float, y: float) -> list[float]:
    return [x / 30 * 100, y / 20 * 100]


def test_label_studio_regions(tmp_path: Path) -> None:
    strokes = np.zeros((20, 30), np.bool_)
    strokes[15:, :4] = True
    box = {"x": 4 / 30 * 100, "y": 10, "width": 5 / 30 * 100, "height": 10, "rotation": 0}
    path = label_studio(
        tmp_path / "export.json",
        task(
            region("brushlabels", "b", format="rle", rle=list(pack(strokes))),
            region("polygonlabels", "a", points=[percent(10, 4), percent(20, 4), percent(20, 8), percent(10, 8)]),
            region("rectanglelabels", "b", **box),
            region("rectanglelabels", "a", **(box | {"x": percent(25, 0)[0], "y": 50, "rotation": 90})),
            region("ellipselabels", "c", x=50, y=75, radiusX=10, radiusY=10, rotation=0),
            region("keypointlabels", "a", x=1, y=1),
            {"type": "choices", "value": {"choices": ["good"]}},
            region("polygonlabels", None, points=[percent(0, 0), percent(9, 0), percent(9, 9)]),
        ),
    )
    write_image(tmp_path / "x.png", np.zeros((20, 30, 3), np.uint8))
    labels = open_labels(path)
    assert dict(labels.categories.names) == {1: "a", 2: "b", 3: "c"}
    assert only(labels).image == tmp_path / "x.png"
    assert str(only(labels).name) == "0a1b2c3d-x.png"
    assert [each.removeprefix(f"{path}: ") for each in labels.problems] == [
        "left out regions of type keypointlabels: 1",
        "left out regions without a label: 1",
    ]
    expected = np.zeros((20, 30), np.uint8)
    expected[strokes] = 2
    expected[4:8, 10:20] = 1
    expected[2:4, 4:9] = 2
    expected[10:15, 23:25] = 1  # turned by 90 degrees about its upper left corner (25, 10), 5 wide and 2 high
    y, x = np.mgrid[:20, :30] + 0.5
    expected[((x - 15) / 3) ** 2 + ((y - 15) / 2) ** 2 <= 1] = 3
    assert np.array_equal(only(labels).mask(), expected)


def test_label_studio_label_and_shape_apart(tmp_path: Path) -> None:
    """Pages with <Brush> and <Labels> give two results of one id."""
    strokes = {"id": "7", "type": "brush", "value": {"format": "rle", "rle": list(pack(np.ones((2, 3), np.bool_)))}}
    strokes |= {"original_width": 3, "original_height": 2}
    label = {"id": "7", "type": "labels", "value": {"labels": ["rust"]}}
    labels = open_labels(label_studio(tmp_path / "x.json", task(strokes, label)))
    assert dict(labels.categories.names) == {1: "rust"}
    assert only(labels).mask().all()


def test_label_studio_which_annotation_counts(tmp_path: Path) -> None:
    full = [region("rectanglelabels", "full", x=0, y=0, width=100, height=100)]
    other = [region("rectanglelabels", "other", x=0, y=0, width=10, height=100)]

    def chosen(**lists: Any) -> set[str]:
        one = {"id": 1, "data": {"image": "s3://bucket/dir/x.png"}, **lists}
        labels = open_labels(label_studio(tmp_path / "x.json", one))
        return set(labels.categories.names.values())

    assert chosen(annotations=[{"result": other}, {"result": full}]) == {"full"}
    assert chosen(
        annotations=[{"result": full, "updated_at": "2024-02"}, {"result": other, "updated_at": "2024-01"}]
    ) == {"full"}
    assert chosen(annotations=[{"result": full}, {"result": other, "was_cancelled": True}]) == {"full"}
    assert chosen(annotations=[{"result": full, "ground_truth": True}, {"result": other}]) == {"full"}
    assert chosen(annotations=[{"result": full}], predictions=[{"result": other}]) == {"full"}
    assert chosen(annotations=[], predictions=[{"result": full}]) == {"full"}


def test_label_studio_addresses(tmp_path: Path) -> None:
    (tmp_path / "images" / "a b").mkdir(parents=True)
    write_image(tmp_path / "images" / "a b" / "ü.png", np.zeros((20, 30, 3), np.uint8))
    whole = region("rectanglelabels", "a", x=0, y=0, width=100, height=100)
    tasks = [
        task(whole, image="/data/local-files/?d=a%20b/%C3%BC.png"),
        task(whole, image="https://example.org/p/y.jpg?token=1"),
        task(whole, image="/data/local-files/?d=../../etc/x.png"),
        task(whole, image="gs://bucket/deep/y.jpg") | {"id": 9},
        {"id": 4, "data": {"image": "z.png"}, "annotations": []},
        {"id": 5, "data": {"text": "no image"}, "annotations": [{"result": []}]},
    ]
    path = label_studio(tmp_path / "x.json", *tasks)
    labels = open_labels(path)
    assert [str(image.name) for image in labels] == ["a b/ü.png", "y.jpg", "task_9/y.jpg"]
    assert labels.images[0].image == tmp_path / "images" / "a b" / "ü.png"
    assert "task 3: expected a name inside of its folder" in labels.problems[0]
    assert "task 6: expected data with the address of an image" in labels.problems[1]
    assert labels.problems[2] == f"{path}: left out tasks that nobody annotated: 1"


def test_label_studio_predictions(tmp_path: Path) -> None:
    """What is written is a task to import, with a page whose brushes are the categories."""
    thing = Thing.cut(7, np.ones((2, 3), np.bool_), top=1, left=2, confidence=0.25)
    assert thing is not None
    result = Result(PurePosixPath("a b/ü.png"), paint([thing], (5, 6)), [thing])
    (one,) = json.loads(written(tmp_path, "label-studio", [result]).read_text())
    assert one["data"] == {"image": "/data/local-files/?d=a%20b/%C3%BC.png"}
    ((region_,),) = [prediction["result"] for prediction in one["predictions"]]
    assert (region_["original_width"], region_["original_height"], region_["score"]) == (6, 5, 0.25)
    assert region_["value"]["brushlabels"] == [CATEGORIES.names[7]]
    assert np.array_equal(np.array(decoded_as_described(region_["value"]["rle"])[3::4]) > 0, result.mask.ravel() > 0)
    page = ET.parse(tmp_path / "label_studio.xml").getroot()
    assert [each.get("value") for each in page.iter("Label")] == list(CATEGORIES.names.values())
    assert {region_["from_name"], region_["to_name"]} == {each.get("name") for each in page}


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (region("brushlabels", "a", rle=[300]), r"task 1: expected brush strokes as numbers in 0\.\.255"),
        (region("brushlabels", "a", rle="x"), "task 1: expected brush strokes as numbers"),
        (region("brushlabels", "a", rle=[]), "brush 1: .*break off"),
        (
            region("brushlabels", "a", rle=list(pack(np.ones((3, 3), np.bool_)))),
            "brush 1: expected brush strokes of 2400",
        ),
        (region("brushlabels", "a", rle=list(pack(np.ones((20, 30), np.bool_)))[:9]), "brush 1: .*break off"),
        (region("polygonlabels", "a", points=[[1, 1], [2, 2]]), "polygon 1: expected a polygon of at least 3 points"),
        (region("polygonlabels", "a", points=[[1, 1], [2, None], [3, 3]]), "polygon 1: expected a list of points"),
        (region("rectanglelabels", "a", x=1, y=1, width=1), "rectangle 1: expected a list of points"),
        (region("rectanglelabels", "a", x=1, y=1, width=1, height=1, rotation="x"), "expected a rotation"),
        (region("ellipselabels", "a", x=1, y=1, radiusX=0, radiusY=1), "ellipse 1: expected radii above 0"),
        (region("brushlabels", "a", rle=[]) | {"image_rotation": 90}, "task 1: expected an upright image"),
        (region("brushlabels", "a", rle=[]) | {"original_width": -5}, "task 1: expected height and width"),
    ],
)
def test_label_studio_regions_that_are_none(broken: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path = label_studio(tmp_path / "x.json", task(broken))
    with pytest.raises(ValueError, match=sentence):
        only(open_labels(path)).draw()


def test_label_studio_min_is_told(tmp_path: Path) -> None:
    path = label_studio(tmp_path / "x.json", {"image": "x.png", "annotation_id": 3, "label": []})
    with pytest.raises(ValueError, match="got its JSON-MIN; export it as JSON"):
        open_labels(path)


# ------------------------------------------------------------------------------------------------- VOC


def indexed(path: Path, mask: Pixels, palette: Sequence[tuple[int, int, int]] = ()) -> None:
    """An indexed PNG whose first colours are these, and the others grey."""
    table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    table[: len(palette)] = np.array(palette, np.uint8).reshape(-1, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mask(path, mask, table)


VOC_START = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]


def voc_scene() -> tuple[Pixels, Pixels]:
    classes, objects = np.zeros((10, 14), np.uint8), np.zeros((10, 14), np.uint8)
    classes[1:5, 1:6], objects[1:5, 1:6] = 1, 1
    classes[1:5, 6:9], objects[1:5, 6:9] = 1, 2
    classes[6:9, 2:12], objects[6:9, 2:12] = 4, 3
    classes[5, :] = objects[5, :] = 255
    return classes, objects


def test_voc_itself(tmp_path: Path) -> None:
    """Indexed masks, VOC's names from the folder's, the border ignored, objects told apart."""
    root = tmp_path / "VOC2012"
    classes, objects = voc_scene()
    indexed(root / "SegmentationClass" / "2007_1.png", classes, VOC_START)
    indexed(root / "SegmentationObject" / "2007_1.png", objects, VOC_START)
    (root / "JPEGImages").mkdir()
    write_image(root / "JPEGImages" / "2007_1.jpg", np.zeros((10, 14, 3), np.uint8))
    labels = open_labels(root)
    assert len(labels.categories.ids) == 20
    assert (labels.categories.names[1], labels.categories.names[4]) == ("aeroplane", "boat")
    assert labels.categories.colors[4] == (0, 0, 128)
    image = only(labels)
    assert image.image == root / "JPEGImages" / "2007_1.jpg"
    assert np.array_equal(image.mask(), classes)
    assert np.array_equal(image.mask("instances"), objects)


@pytest.mark.parametrize("told", [True, False])
def test_voc_in_colours(told: bool, tmp_path: Path) -> None:
    """As CVAT exports it: RGB in the colours of labelmap.txt, whose order counts; else VOC's own colours."""
    classes, _ = voc_scene()
    table = np.zeros((256, 3), np.uint8)
    table[[1, 4, 255]] = [(10, 20, 30), (128, 0, 0), (224, 224, 192)] if told else [*VOC_START[1::3], (224, 224, 192)]
    (tmp_path / "SegmentationClass").mkdir()
    write_image(tmp_path / "SegmentationClass" / "x.png", table[classes])
    if told:
        (tmp_path / "labelmap.txt").write_text("# label:color\nbackground:0,0,0::\nred:128,0,0::\ndull:10,20,30::\n")
    labels = open_labels(tmp_path)
    names = {1: "red", 2: "dull"} if told else {1: "1", 4: "4"}
    assert dict(labels.categories.names) == names
    expected = np.where(classes == 1, 2, np.where(classes == 4, 1, classes)) if told else classes
    assert np.array_equal(only(labels).mask(), expected)


def test_voc_indices_where_the_colours_are_none_of_the_list(tmp_path: Path) -> None:
    classes, _ = voc_scene()
    classes[classes == 4] = 2
    indexed(tmp_path / "SegmentationClass" / "x.png", classes)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\na:200,0,0::\nb:0,200,0::\n")
    assert np.array_equal(only(open_labels(tmp_path)).mask(), classes)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\na:200,0,0::\n")
    labels = open_labels(tmp_path)
    assert np.array_equal(only(labels).mask(), np.where(classes == 2, 255, classes))
    assert "x.png: expected the ids [1], got [2], which are ignored" in labels.problems[0]
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\n9:200,0,0::\n")
    with pytest.raises(ValueError, match=r"x\.png: expected the ids \[9\], got \[1, 2\]"):
        only(open_labels(tmp_path)).draw()


def test_voc_lines_without_colours(tmp_path: Path) -> None:
    """As datumaro writes them: each has VOC's colour of its place."""
    classes, _ = voc_scene()
    classes[classes == 4] = 2
    indexed(tmp_path / "SegmentationClass" / "x.png", classes, VOC_START)
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:::\ncat:::\ndog:::\n")
    labels = open_labels(tmp_path)
    assert dict(labels.categories.names) == {1: "cat", 2: "dog"}
    assert labels.categories.colors[2] == (0, 128, 0)
    assert np.array_equal(only(labels).mask(), classes)


def test_voc_names_of_labelme(tmp_path: Path) -> None:
    indexed(tmp_path / "SegmentationClass" / "x.png", np.full((3, 4), 2, np.uint8), VOC_START)
    (tmp_path / "class_names.txt").write_text("_background_\ncat\ndog\n")
    labels = open_labels(tmp_path)
    assert dict(labels.categories.names) == {1: "cat", 2: "dog"}
    assert (only(labels).mask() == 2).all()


def test_voc_that_is_broken(tmp_path: Path) -> None:
    classes, objects = voc_scene()
    indexed(tmp_path / "SegmentationClass" / "x.png", classes, VOC_START)
    indexed(tmp_path / "SegmentationObject" / "x.png", objects[:5], VOC_START)
    (tmp_path / "SegmentationClass" / "y.png").write_bytes(b"no image")
    labels = open_labels(tmp_path)
    assert any("y.png" in each for each in labels.problems)
    with pytest.raises(ValueError, match="expected a mask of the size of"):
        only(labels).draw()
    write_image(tmp_path / "SegmentationClass" / "x.png", np.full((4, 4, 3), 77, np.uint8))
    with pytest.raises(ValueError, match=r"expected the colours of VOC, got 77, 77, 77; put a labelmap\.txt"):
        only(open_labels(tmp_path)).draw()
    for text, sentence in (("cat:1,2", "expected lines as NAME:R,G,B"), ("a:1,1,1::\nb:1,1,1::", "one colour twice")):
        (tmp_path / "labelmap.txt").write_text(text)
        with pytest.raises(ValueError, match=rf"labelmap\.txt: .*{sentence}"):
            open_labels(tmp_path)


def test_voc_as_written(tmp_path: Path) -> None:
    """The list, the colours and the numbers of objects, as other tools expect them."""
    left, right = np.zeros((6, 8), np.bool_), np.zeros((6, 8), np.bool_)
    left[1:3, 1:3], right[2:5, 5:8] = True, True
    things = [thing for thing in (Thing.cut(254, left), Thing.cut(254, right)) if thing is not None]
    written(tmp_path, "voc", [Result(PurePosixPath("d/x.jpg"), paint(things, (6, 8)), things)])
    assert (tmp_path / "ImageSets" / "Segmentation" / "default.txt").read_text() == "d/x\n"
    lines = (tmp_path / "labelmap.txt").read_text().splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == ["background", *CATEGORIES.names.values()]
    color = tuple(map(int, lines[3].split(":")[1].split(",")))
    with Image.open(tmp_path / "SegmentationClass" / "d" / "x.png") as image:
        assert image.convert("RGB").getpixel((1, 1)) == color
    objects = read_mask(tmp_path / "SegmentationObject" / "d" / "x.png")
    assert np.array_equal(objects.ids, left * 1 + right * 2)
    assert objects.colors is not None
    assert objects.colors[[1, 2, 255]].tolist() == [[128, 0, 0], [0, 128, 0], [224, 224, 192]]


# ----------------------------------------------------------------------------------------------- DAVIS


@pytest.mark.parametrize("resolution", ["480p/", ""])
def test_davis(resolution: str, tmp_path: Path) -> None:
    masks = {}
    for video, frames in (("bear", 3), ("camel", 2)):
        for number in range(frames):
            name = f"{video}/{number:05d}"
            mask = np.zeros((6, 9), np.uint8)
            mask[1:3, : number + 2], mask[4, 4] = 1, 2
            masks[f"{name}.jpg"] = mask
            indexed(tmp_path / "Annotations" / f"{resolution}{name}.png", mask, VOC_START)
            path = tmp_path / "JPEGImages" / f"{resolution}{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, np.zeros((6, 9, 3), np.uint8))
    (tmp_path / "Annotations" / f"{resolution}bear" / "00001.png").unlink()
    del masks["bear/00001.jpg"]
    if resolution:
        indexed(tmp_path / "Annotations" / "1080p" / "bear" / "00000.png", np.ones((60, 90), np.uint8), VOC_START)
    labels = open_labels(tmp_path)
    assert {str(image.name): image.mask().tolist() for image in labels} == {k: v.tolist() for k, v in masks.items()}
    assert all(image.image == tmp_path / "JPEGImages" / resolution / image.name for image in labels)
    assert dict(labels.categories.names) == {1: "1", 2: "2"}
    assert any("left out all resolutions but 480p: 1080p" in each for each in labels.problems) == bool(resolution)
    assert any("there are 2 videos" in each for each in labels.problems)


def test_davis_of_one_object(tmp_path: Path) -> None:
    """DAVIS 2016: black and white."""
    mask = np.zeros((6, 9), np.uint8)
    mask[2:4] = 255
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".png")):
        path = tmp_path / folder / "480p" / "bear" / f"00000{suffix}"
        path.parent.mkdir(parents=True)
        write_image(path, mask)
    (tmp_path / "Annotations" / "480p" / "bear" / "00001.png").write_bytes(b"no image")
    labels = open_labels(tmp_path)
    assert np.array_equal(only(labels).mask(), (mask > 0).astype(np.uint8))
    assert any("00001.png" in each for each in labels.problems)


# ---------------------------------------------------------------------------------------- broken files

HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    10**30,
    float("nan"),
    "",
    "../../x.png",
    "a\0b",
    [],
    {},
    [None],
    "\ud800",
]


def mutated(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """A value of JSON or an attribute of XML put in place of another, or bytes changed, added and taken out."""
    if suffix == ".json" and rng.random() < 0.7:
        document = json.loads(data)
        node: Any = document
        while (
            isinstance(child := node[(key := rng.choice(keys_of(node)))], dict | list) and child and rng.random() < 0.8
        ):
            node = child
        node[key] = rng.choice(HOSTILE)
        return json.dumps(document).encode()
    if suffix == ".xml" and rng.random() < 0.8:
        values = re.findall(rb'="([^"]*)"', data)
        others = [b"", b"nan", b"-1", b"1e400", b"99999999", b"1,2", b"a;b", b"../../x", b"0," * 40 + b"9"]
        return data.replace(b'="' + rng.choice(values) + b'"', b'="' + rng.choice(others) + b'"', 1)
    at = rng.randrange(len(data) + 1)
    instead = rng.choice(
        [b"", b"nan", b"-", b"999999999999", b"<", b'"', b"\0", b"1e308", b"../", bytes([rng.randrange(256)])]
    )
    return data[:at] + instead + data[at + rng.randrange(8) :] if rng.random() < 0.8 else data[:at]


def keys_of(node: dict[str, Any] | list[Any]) -> list[Any]:
    return list(node) if isinstance(node, dict) else list(range(len(node)))


@pytest.mark.parametrize("name", WRITTEN)
def test_broken_files_are_sentences(name: str, tmp_path: Path) -> None:
    """Each of 60 broken files is read, or refused with the name of a file; nothing else comes out."""
    rng = random.Random(name)
    made = results(tmp_path / "images", [scene(1), scene(2)])
    path = written(tmp_path / "out", name, made)
    files = sorted(each for each in (tmp_path / "out").rglob("*") if each.is_file() and not each.is_symlink())
    refused: list[str] = []
    for _ in range(60):
        file = rng.choice([each for each in files if each.stat().st_size])
        data = file.read_bytes()
        file.write_bytes(mutated(data, file.suffix, rng))
        try:
            labels = open_labels(path, images=tmp_path / "images")
            for image in labels:
                for meaning in ("semantic", "instances"):
                    assert image.mask(meaning).shape == image.size
                image.read_image()
            refused += labels.problems
        except (ValueError, FileNotFoundError) as error:
            refused.append(str(error))
        finally:
            file.write_bytes(data)
    assert len(refused) > 3
    assert all(str(tmp_path) in sentence for sentence in refused)
