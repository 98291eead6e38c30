"""COCO's formats, instances and panoptic: by hand, there and back, against pycocotools and supervision, and broken."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from labels import (
    CATEGORIES,
    NAMES,
    annotation,
    areas,
    coco,
    hard_masks,
    masks_of,
    results,
    same_masks,
    write_images,
    write_json,
)
from PIL import Image

from incontext.annotations import Categories, Result, open_labels
from incontext.annotations.core import Format, things_of
from incontext.annotations.exports import writable
from incontext.annotations.instances import split
from incontext.images import rle

NO_COPY = "ignore:__array__ implementation:DeprecationWarning"  # pycocotools' own


def write(out: Path, kind: str, every: list[Result], categories: Categories = CATEGORIES) -> None:
    (each,) = writable([kind])
    out.mkdir(parents=True, exist_ok=True)
    assert each.write is not None
    with each.write(out, categories) as add:
        for result in every:
            add(result)


def read_one(tmp_path: Path, document: dict[str, Any]) -> np.ndarray:
    labels = open_labels(write_json(tmp_path / "instances.json", document))
    assert labels.problems == []
    (labelled,) = labels
    return labelled.mask()


# ----------------------------------------------------------------------------------------------- instances


def test_the_later_object_lies_on_top(tmp_path: Path) -> None:
    expected = np.zeros((6, 8), int)
    expected[0:3, 0:4], expected[1:5, 2:6] = 3, 5
    np.testing.assert_array_equal(read_one(tmp_path, coco()), expected)
    expected[0:3, 0:4] = 3
    turned = coco(annotations=coco()["annotations"][::-1])
    np.testing.assert_array_equal(read_one(tmp_path, turned), expected)


def test_objects_on_request(tmp_path: Path) -> None:
    (labelled,) = open_labels(write_json(tmp_path / "i.json", coco(annotations=[annotation(), annotation()] * 2)))
    assert set(np.unique(labelled.mask())) == {0, 3}
    assert set(np.unique(labelled.mask("instances"))) == {0, 4}
    (labelled,) = open_labels(write_json(tmp_path / "i.json", coco(annotations=[annotation()] * 255)))
    with pytest.raises(ValueError, match="at most 254 objects"):
        labelled.mask("instances")


def test_both_run_lengths_polygons_of_several_parts_and_crowds(tmp_path: Path) -> None:
    selected = np.zeros((6, 8), bool)
    selected[1:4, 5:8] = True
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [3, 4, 5, 4, 5, 6, 3, 6]]
    for counts in (rle.runs(selected), rle.from_mask(selected)["counts"]):
        found = read_one(
            tmp_path,
            coco(
                annotations=[
                    annotation(segmentation={"size": [6, 8], "counts": counts}),
                    annotation(segmentation=parts, category_id=5),
                    annotation(segmentation=[[0, 5, 1, 5, 1, 6, 0, 6]], iscrowd=1),
                ]
            ),
        )
        expected = np.where(selected, 3, 0)
        expected[0:2, 0:2] = expected[4:6, 3:5] = 5
        expected[5, 0] = 255
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([3, 254], [3, 254]),
        ([0, 7], [1, 2]),
        ([300, 7], [1, 2]),
        (["12", 7.0], [12, 7]),
        (["b", "a"], [1, 2]),
    ],
)
def test_ids_of_categories_are_kept_where_they_can_be(tmp_path: Path, ids: list[Any], expected: list[int]) -> None:
    kinds = [{"id": i, "name": f"n{number}", "color": [9, 9, number]} for number, i in enumerate(ids)]
    document = coco(categories=kinds, annotations=[annotation(category_id=i) for i in ids])
    labels = open_labels(write_json(tmp_path / "i.json", document))
    assert dict(labels.categories.names) == {i: f"n{number}" for number, i in enumerate(expected)}
    assert dict(labels.categories.colors) == {i: (9, 9, number) for number, i in enumerate(expected)}
    (labelled,) = labels
    assert [thing.category for thing in labelled.draw()] == expected


def test_of_many_categories_the_used_ones_count(tmp_path: Path) -> None:
    kinds = [{"id": i, "name": str(i)} for i in range(1, 1204)]
    document = coco(categories=kinds, annotations=[annotation(category_id=i) for i in (1000, 4)])
    labels = open_labels(write_json(tmp_path / "i.json", document))
    assert dict(labels.categories.names) == {1: "4", 2: "1000"}
    document["annotations"] = [annotation(category_id=i) for i in range(1, 256)]
    with pytest.raises(ValueError, match="at most 254 categories with annotations, got 255"):
        open_labels(write_json(tmp_path / "i.json", document))


@pytest.mark.parametrize("place", ["", "images", "train2017", "../train2017", "../images", "../images/train2017"])
def test_images_are_found(tmp_path: Path, place: str) -> None:
    file = write_json(tmp_path / "annotations" / "instances_train2017.json", coco())
    assert next(iter(open_labels(file))).image is None
    image = tmp_path / "annotations" / place / "a.png"
    write_images(image.parent, {"a.png": np.zeros((6, 8))})
    (labelled,) = open_labels(file)
    assert labelled.image is not None
    assert labelled.image.samefile(image)
    assert labelled.read_image().shape == (6, 8, 3)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (labelled,) = open_labels(file, images=elsewhere)
    assert labelled.image is None
    with pytest.raises(FileNotFoundError, match=r"names the image a\.png, and there is no such file"):
        labelled.read_image()


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"segmentation": [[0, 0, 4, 4]]}, "at least 3 corners and finite numbers"),
    ({"segmentation": [[0, 0, 4, 4, 1, 1, 2]]}, "at least 3 corners"),
    ({"segmentation": [[0, 0, 4, float("nan"), 1, 1]]}, "finite numbers"),
    ({"segmentation": [[0, 0, 4, float("inf"), 1, 1]]}, "finite numbers"),
    ({"segmentation": [[0, 0, 4, 10**400, 1, 1]]}, "finite numbers"),
    ({"segmentation": [[0, 0, 4, 1e15, 1, 1]]}, "a polygon in its image of 8 x 6"),
    ({"segmentation": [[0, 0, 4, "4", 1, 1]]}, "finite numbers"),
    ({"segmentation": [[[0, 0], [4, 4], [1, 1]]]}, "at least 3 corners"),
    ({"segmentation": []}, "polygons or run lengths"),
    ({"segmentation": None}, "polygons or run lengths"),
    ({"segmentation": {"counts": {}, "size": [6, 8]}}, "polygons or run lengths"),
    ({"segmentation": {"counts": [48], "size": [8, 6]}}, r"runs of the image's size \[6, 8\] \(height, width\), got"),
    ({"segmentation": {"counts": [48]}}, "runs of the image's size"),
    ({"image_id": 8}, "the id of an image, got 8"),
    ({"image_id": [7]}, "the id of an image"),
    ({"category_id": 4}, "the id of a category, got 4"),
    ({"category_id": None}, "the id of a category, got None"),
]


@pytest.mark.parametrize(("changes", "problem"), HOSTILE, ids=[problem[:20] for _, problem in HOSTILE])
def test_a_hostile_annotation_is_left_out_and_told(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = write_json(tmp_path / "i.json", coco(annotations=[annotation(**changes), annotation()]))
    labels = open_labels(path)
    assert len(labels.problems) == 1
    assert re.search(problem, labels.problems[0])
    assert labels.problems[0].startswith(f"{path}: annotation 9: expected")
    (labelled,) = labels
    assert areas(list(labelled.draw())) == [(3, 12)]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"file_name": "../../etc/passwd"}, "inside of its folder"),
        ({"file_name": "/etc/passwd"}, "inside of its folder"),
        ({"file_name": "C:\\x.png"}, "inside of its folder"),
        ({"file_name": ""}, "expected a name"),
        ({"file_name": None}, "expected a name"),
        ({"height": 0}, "at least 1 pixel"),
        ({"height": "6"}, "at least 1 pixel"),
        ({"height": 1.5}, "at least 1 pixel"),
        ({"height": True}, "at least 1 pixel"),
        ({"height": 10**6, "width": 10**6}, "at most 100 megapixels"),
        ({"id": None}, "an id of its own"),
        ({"id": 7}, "an id of its own"),
    ],
)
def test_a_hostile_image_is_left_out_and_told(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    bad = {"id": 8, "file_name": "b.png", "height": 6, "width": 8, **changes}
    labels = open_labels(write_json(tmp_path / "i.json", coco(images=[*coco()["images"], bad])))
    assert [labelled.name for labelled in labels] == [PurePosixPath("a.png")]
    assert len(labels.problems) == 1
    assert problem in labels.problems[0]


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"images": 3, "annotations": [], "categories": []}, '"images", a list of objects, got 3'),
        ({"images": [], "annotations": [3], "categories": []}, '"annotations", a list of objects'),
        ({"images": [], "annotations": {}, "categories": []}, '"annotations", a list of objects'),
        ({"images": [], "annotations": []}, '"categories", a list of objects, got None'),
        (coco(categories=[{"id": 1}]), "categories with names"),
        (coco(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "an id of their own each"),
        (coco(categories=[{"name": "a"}]), "an id of their own each"),
        ([], "expected annotations, got something else"),
        ({"images": []}, "expected annotations, got something else"),
    ],
)
def test_a_document_of_no_use_is_refused(tmp_path: Path, document: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        open_labels(write_json(tmp_path / "i.json", document))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"images": 1' + b"0" * 5000 + b"}"])
def test_broken_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "i.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"i\.json: expected JSON, got something else"):
        open_labels(tmp_path / "i.json")


def test_broken_runs_are_told_when_they_are_drawn(tmp_path: Path) -> None:
    bad = annotation(segmentation={"size": [6, 8], "counts": "zzz"})
    (labelled,) = open_labels(write_json(tmp_path / "i.json", coco(annotations=[bad])))
    with pytest.raises(ValueError, match=r"i\.json: annotation 9: expected COCO's compressed runs"):
        labelled.draw()


# --------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("kind", ["coco", "coco-semantic", "panoptic"])
@pytest.mark.parametrize("instances", [False, True])
def test_there_and_back(tmp_path: Path, kind: str, instances: bool) -> None:
    masks = hard_masks()
    every = [Result(r.name, r.mask, split(r.things) if instances else r.things) for r in results(masks, confidence=0.5)]
    write(tmp_path, kind, every)
    labels = open_labels(tmp_path)
    assert labels.problems == []
    assert dict(labels.categories.names) == NAMES
    np.testing.assert_array_equal(labels.categories.palette.colors, CATEGORIES.palette.colors)
    same_masks(masks_of(labels), masks)
    if kind == "coco":
        shown = {thing.confidence for labelled in labels for thing in labelled.draw() if not thing.is_ignored}
        assert shown == {0.5}
    if instances and kind != "coco-semantic":
        for labelled, result in zip(labels, every, strict=True):
            kept = [thing for thing in labelled.draw() if not thing.is_ignored]
            assert areas(kept) == areas([thing for thing in result.things if not thing.is_ignored])


@pytest.mark.filterwarnings(NO_COPY)
def test_pycocotools_reads_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api = pytest.importorskip("pycocotools.coco", reason="pycocotools is an outside check, not a dependency")
    masks = hard_masks()
    write(tmp_path, "coco", results(masks, confidence=0.5))
    read = api.COCO(str(tmp_path / "instances.json"))
    assert {c["id"]: c["name"] for c in read.loadCats(read.getCatIds())} == NAMES
    for image in read.loadImgs(read.getImgIds()):
        found = np.zeros((image["height"], image["width"]), np.uint8)
        for each in read.loadAnns(read.getAnnIds(imgIds=image["id"])):
            selected = read.annToMask(each).astype(bool)
            runs = read.annToRLE(each)
            assert each["area"] == api.maskUtils.area(runs) == selected.sum()
            assert each["bbox"] == api.maskUtils.toBbox(runs).tolist()
            found[selected] = 255 if each["iscrowd"] else each["category_id"]
        np.testing.assert_array_equal(found, masks[image["file_name"]])
    capsys.readouterr()


@pytest.mark.filterwarnings(NO_COPY)
def test_the_evaluation_of_coco_finds_them_perfect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api = pytest.importorskip("pycocotools.coco", reason="pycocotools is an outside check, not a dependency")
    from pycocotools.cocoeval import COCOeval

    masks = {name: mask for name, mask in hard_masks().items() if not (mask == 255).any()}
    write(tmp_path, "coco", results(masks, confidence=0.5))
    truth = api.COCO(str(tmp_path / "instances.json"))
    found = truth.loadRes([{**each, "score": each["score"]} for each in truth.dataset["annotations"]])
    judged = COCOeval(truth, found, "segm")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    assert judged.stats[0] == pytest.approx(1)
    capsys.readouterr()


def test_supervision_reads_the_same(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is an outside check, not a dependency")
    masks = {n: m for n, m in hard_masks().items() if not (m == 255).any() and "/" not in n and (m > 0).any()}
    masks = {name: mask for name, mask in masks.items() if min(mask.shape) > 1}
    write(tmp_path / "out", "coco", results(masks))
    write_images(tmp_path / "images", masks)
    data = supervision.DetectionDataset.from_coco(
        images_directory_path=str(tmp_path / "images"),
        annotations_path=str(tmp_path / "out" / "instances.json"),
        force_masks=True,
    )
    ids = {name: i for i, name in NAMES.items()}
    assert len(data) == len(masks) >= 2
    for path, _, found in data:
        drawn = np.zeros(masks[Path(path).name].shape, np.uint8)
        for selected, kind in zip(found.mask, found.class_id, strict=True):
            drawn[selected.astype(bool)] = ids[data.classes[kind]]
        np.testing.assert_array_equal(drawn, masks[Path(path).name])


def test_polygons_are_drawn_as_pycocotools_draws_them(tmp_path: Path) -> None:
    api = pytest.importorskip("pycocotools.mask", reason="pycocotools is an outside check, not a dependency")
    rng = np.random.default_rng(3)
    for _ in range(20):
        rings = [rng.uniform(-3, 12, 2 * rng.integers(3, 9)).tolist() for _ in range(3)]
        found = read_one(tmp_path, coco(annotations=[annotation(segmentation=rings)]))
        runs = api.merge(api.frPyObjects(rings, 6, 8))
        np.testing.assert_array_equal(found == 3, rle.to_mask(runs["counts"].decode(), (6, 8)))


# ------------------------------------------------------------------------------------------------------ panoptic


def panoptic(folder: Path, **changes: Any) -> Path:
    """A panoptic file of one image, 4 x 3, with three segments, one of them a crowd."""
    numbers = np.array([[0, 7, 7, 7], [300, 300, 7, 7], [300, 300, 70000, 70000]])
    colors = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=-1).astype(np.uint8)
    png = folder / "panoptic_x" / "a.png"
    png.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colors).save(png)
    segments = [
        {"id": 7, "category_id": 1, "iscrowd": 0},
        {"id": 300, "category_id": 200, "iscrowd": 0},
        {"id": 70000, "category_id": 1, "iscrowd": 1},
    ]
    entry = {"image_id": 139, "file_name": "a.png", "segments_info": segments, **changes}
    kinds = [{"id": 1, "name": "person", "color": [220, 20, 60]}, {"id": 200, "name": "rug-merged", "color": [1, 2, 3]}]
    images = [{"id": 139, "file_name": "a.jpg", "height": 3, "width": 4}]
    return write_json(folder / "panoptic_x.json", {"images": images, "annotations": [entry], "categories": kinds})


def test_panoptic_is_read(tmp_path: Path) -> None:
    labels = open_labels(panoptic(tmp_path))
    (labelled,) = labels
    assert (labels.format, labelled.size, labelled.name) == ("panoptic", (3, 4), PurePosixPath("a.jpg"))
    assert labelled.mask().tolist() == [[0, 1, 1, 1], [200, 200, 1, 1], [200, 200, 255, 255]]
    assert labels.categories.palette.colors[1:].tolist() == [[220, 20, 60], [1, 2, 3]]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"file_name": "b.png"}, r"names b\.png, and there is no such file"),
        ({"file_name": "../panoptic_x/a.png"}, "inside of its folder"),
        ({"image_id": 1}, "the id of an image"),
        ({"segments_info": 3}, "expected segments_info, a list"),
        ({"segments_info": [3]}, "a number of their own"),
        ({"segments_info": [{"id": -1, "category_id": 1}]}, "a number of their own"),
        ({"segments_info": [{"id": 1 << 24, "category_id": 1}]}, "a number of their own"),
        ({"segments_info": [{"id": 7, "category_id": 1}] * 2}, "a number of their own"),
        ({"segments_info": [{"id": 7, "category_id": 9}]}, "the id of a category, got 9"),
    ],
)
def test_hostile_panoptic_annotations_are_told(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    labels = open_labels(panoptic(tmp_path, **changes))
    assert (len(labels), len(labels.problems)) == (0, 1)
    assert re.search(problem, "; ".join(labels.problems))


def test_hostile_panoptic_images_are_told_when_they_are_drawn(tmp_path: Path) -> None:
    (labelled,) = open_labels(panoptic(tmp_path, segments_info=[{"id": 7, "category_id": 1}]))
    with pytest.raises(ValueError, match=r"a\.png: expected the segments that the JSON file lists, got \[300, 70000\]"):
        labelled.draw()
    (labelled,) = open_labels(panoptic(tmp_path))
    Image.new("RGB", (5, 3)).save(tmp_path / "panoptic_x" / "a.png")
    with pytest.raises(ValueError, match="expected the image's size 4 x 3, got 5 x 3"):
        labelled.draw()


def test_segments_say_what_is_seen_of_them(tmp_path: Path) -> None:
    """Where objects overlap, areas and boxes are of what is left, and what is covered has no segment."""
    masks = [np.zeros((6, 8), np.uint8) for _ in range(3)]
    masks[0][0:2, 0:2], masks[1][0:3, 0:3], masks[2][2:5, 2:6] = 1, 1, 2
    things = [thing for mask in masks for thing in things_of(mask)]
    write(tmp_path, "panoptic", [Result(PurePosixPath("a.png"), masks[2], things)])
    document = json.loads((tmp_path / "panoptic.json").read_text())
    (entry,) = document["annotations"]
    assert [(s["category_id"], s["area"], s["bbox"]) for s in entry["segments_info"]] == [
        (1, 8, [0, 0, 3, 3]),
        (2, 12, [2, 2, 4, 3]),
    ]
    colors = np.asarray(Image.open(tmp_path / "panoptic" / "a.png")).astype(int)
    numbers = colors @ (1, 256, 65536)
    assert sorted(np.unique(numbers)) == sorted([0, *(s["id"] for s in entry["segments_info"])])


def test_panoptic_images_hold_what_the_file_says(tmp_path: Path) -> None:
    masks = hard_masks()
    write(tmp_path, "panoptic", results(masks))
    document = json.loads((tmp_path / "panoptic.json").read_text())
    kinds = {i["id"]: i["file_name"] for i in document["images"]}
    for entry in document["annotations"]:
        numbers = np.asarray(Image.open(tmp_path / "panoptic" / entry["file_name"])) @ (1, 256, 65536)
        drawn = np.zeros(numbers.shape, np.uint8)
        for s in entry["segments_info"]:
            assert s["area"] == (numbers == s["id"]).sum() > 0
            drawn[numbers == s["id"]] = 255 if s["iscrowd"] else s["category_id"]
        np.testing.assert_array_equal(drawn, masks[kinds[entry["image_id"]]])


# -------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(("kind", "file"), [("coco", "instances.json"), ("panoptic", "panoptic.json")])
def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, kind: str, file: str) -> None:
    (each,) = writable([kind])
    assert each.write is not None

    def fail(one: Format) -> None:
        assert one.write is not None
        with one.write(tmp_path, CATEGORIES) as add:
            add(results(hard_masks())[0])
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fail(each)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == []
    write(tmp_path, kind, [])
    document = json.loads((tmp_path / file).read_text())
    assert (document["images"], document["annotations"], len(document["categories"])) == ([], [], 4)


def test_names_of_any_script_and_none(tmp_path: Path) -> None:
    mask = np.ones((2, 2), np.uint8)
    named = ["Ωmega/图.png", 'quote"s.png', "back\udcffslash.png"]
    write(tmp_path, "coco", [Result(PurePosixPath(name), mask, things_of(mask)) for name in named], CATEGORIES)
    assert [str(labelled.name) for labelled in open_labels(tmp_path)] == named


def test_memory_does_not_grow(tmp_path: Path) -> None:
    result = results({"a.png": hard_masks()["a/noise.png"]})[0]
    (each,) = writable(["coco"])
    assert each.write is not None
    held = []
    with each.write(tmp_path, CATEGORIES) as add:
        tracemalloc.start()
        for number in range(200):
            add(result)
            if number in (100, 199):
                held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert held[1] - held[0] < 20_000


JUNK = [
    None,
    True,
    -1,
    0,
    255,
    10**30,
    1e300,
    float("nan"),
    "",
    "x",
    "../a",
    "\ud800",
    [],
    [[]],
    {},
    {"id": 7},
    [1] * 7,
]


def changed(value: Any, rng: np.random.Generator) -> Any:
    """The same value, something in it replaced by junk or left out."""
    if rng.random() < 0.12 or not isinstance(value, dict | list) or not value:
        return JUNK[rng.integers(len(JUNK))]
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    chosen = keys[rng.integers(len(keys))]
    copy = dict(value) if isinstance(value, dict) else list(value)
    if rng.random() < 0.1:
        del copy[chosen]
    else:
        copy[chosen] = changed(copy[chosen], rng)
    return copy


@pytest.mark.parametrize("kind", ["instances", "panoptic"])
def test_whatever_a_file_holds_the_error_is_a_sentence(tmp_path: Path, kind: str) -> None:
    selected = np.eye(6, 8, dtype=bool)
    if kind == "panoptic":
        path = panoptic(tmp_path)
        document = json.loads(path.read_text())
    else:
        path = tmp_path / "instances.json"
        document = coco(annotations=[annotation(), annotation(segmentation=rle.from_mask(selected), iscrowd=1)])
        document["annotations"].append(annotation(segmentation={"size": [6, 8], "counts": rle.runs(selected)}))
    rng = np.random.default_rng(7)
    used = refused = 0
    for _ in range(250):
        mutant = document
        for _ in range(rng.integers(1, 4)):
            mutant = changed(mutant, rng)
        write_json(path, mutant)
        try:
            labels = open_labels(path)
            shapes = [(labelled.mask().shape, labelled.size) for labelled in labels]
        except ValueError as error:
            sentence, shapes = str(error), []
            refused += 1
        else:
            sentence = "; ".join([str(path), *labels.problems])
        assert str(tmp_path) in sentence
        assert all(shape == size for shape, size in shapes)
        used += len(shapes)
    assert used > 10
    assert refused > 20
