"""Files as other tools write them, made here: each is what its makers meant, whatever our own writer does."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from commands import Done, runner
from PIL import Image, PngImagePlugin

from incontext.annotations import open_labels
from incontext.annotations.joining import Images
from incontext.images.read import read_image
from incontext.video.frames import open_frames

pytestmark = pytest.mark.filterwarnings("always::UserWarning")  # which the command line prints

SIZE = (20, 30)
BOX = (4, 5, 14, 15)  # left, top, right, bottom
RING = [4.0, 5.0, 14.0, 5.0, 14.0, 15.0, 4.0, 15.0]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return runner(capsys)


def photo(path: Path, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def square(i: int = 1) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = i
    return mask


def masks(labels: Any) -> dict[str, np.ndarray]:
    return {each.name.as_posix(): each.mask() for each in labels}


def coco(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [RING], "iscrowd": 0}],
    }
    return document | changes


@pytest.mark.parametrize(
    ("file_name", "on_disk"),
    [
        ("a.png", "a.png"),
        ("some\\where\\a.png", "a.png"),
        ("some/where/a.png", "a.png"),
        ("a%20b.png", "a b.png"),
        ("cb0618f1-a.png", "a.png"),
        ("a.png", "cb0618f1-a.png"),
        ("a.PNG", "a.png"),
        ("a.png", "a.PNG"),
        ("e\u0301.png", "\u00e9.png"),
        ("\u00e9.png", "e\u0301.png"),
        ("100%.png", "100%.png"),
    ],
)
def test_one_way_from_a_label_to_its_image(tmp_path: Path, file_name: str, on_disk: str) -> None:
    photo(tmp_path / "images" / on_disk)
    document = coco(images=[{"id": 1, "file_name": file_name, "height": SIZE[0], "width": SIZE[1]}])
    (tmp_path / "labels.json").write_text(json.dumps(document), encoding="utf-8")
    (found,) = open_labels(tmp_path / "labels.json", images=tmp_path / "images")
    assert found.image is not None
    assert found.image.name == on_disk
    np.testing.assert_array_equal(found.mask(), square())


def test_several_candidates_are_refused_with_both_names(tmp_path: Path) -> None:
    photo(tmp_path / "images" / "one" / "a.png")
    photo(tmp_path / "images" / "two" / "a.png")
    document = coco(images=[{"id": 1, "file_name": "elsewhere/a.png", "height": SIZE[0], "width": SIZE[1]}])
    (tmp_path / "labels.json").write_text(json.dumps(document), encoding="utf-8")
    labels = open_labels(tmp_path / "labels.json", images=tmp_path / "images")
    said = " ".join(labels.problems)
    assert "one/a.png" in said
    assert "two/a.png" in said
    assert list(labels) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": [{"id": 1, "file_name": "a.png"}]}, ""),
        ({"images": [{"id": 1, "file_name": "a.png", "height": None, "width": None}]}, ""),
        ({"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": RING, "iscrowd": 0}]}, ""),
        (
            {"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [RING, [1.0, 1.0]]}]},
            "of 1",
        ),
    ],
    ids=["no size", "null size", "a flat list", "a stray point"],
)
def test_coco_of_other_tools(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "labels.json").write_text(json.dumps(coco(**changes)), encoding="utf-8")
    labels = open_labels(tmp_path / "labels.json")
    (found,) = labels
    np.testing.assert_array_equal(found.mask(), square())
    assert bool(labels.problems) == bool(told)


@pytest.mark.parametrize(
    "line",
    [
        "0 0.133333 0.25 0.466667 0.25 0.466667 0.75 0.133333 0.75",
        "0.0 0.133333 0.25 0.466667 0.25 0.466667 0.75 0.133333 0.75",
        "0\t0.133333\t0.25\t0.466667\t0.25\t0.466667\t0.75\t0.133333\t0.75",
        "\ufeff0 0.133333 0.25 0.466667 0.25 0.466667 0.75 0.133333 0.75\r\n",
    ],
    ids=["plain", "a class as a float", "tabs", "a mark of order"],
)
@pytest.mark.parametrize("names", ["data.yaml", "classes.txt", "labels/classes.txt", None])
def test_yolo_of_other_tools(tmp_path: Path, line: str, names: str | None) -> None:
    photo(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(line, encoding="utf-8")
    if names is not None:
        text = "names: [thing]\n" if names.endswith("yaml") else "thing\n"
        (tmp_path / names).write_text(text, encoding="utf-8")
    labels = open_labels(tmp_path)
    (found,) = labels
    np.testing.assert_array_equal(found.mask(), square())
    assert set(labels.categories.names.values()) <= ({"thing"} if names else {"0", "1", "class 0"})


def region(item: int | None, to_name: str) -> dict[str, Any]:
    left, top, right, bottom = BOX
    value = {
        "x": 100 * left / SIZE[1],
        "y": 100 * top / SIZE[0],
        "width": 100 * (right - left) / SIZE[1],
        "height": 100 * (bottom - top) / SIZE[0],
        "rotation": 0,
        "rectanglelabels": ["thing"],
    }
    about = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0, "type": "rectanglelabels"}
    where = {} if item is None else {"item_index": item}
    return {"value": value, "from_name": "label", "to_name": to_name, **about, **where}


@pytest.mark.parametrize("kind", ["a list", "two fields"])
def test_each_region_is_on_its_own_image(tmp_path: Path, kind: str) -> None:
    for name in ("a.png", "b.png"):
        photo(tmp_path / "images" / name)
    if kind == "a list":
        data: dict[str, Any] = {"pages": ["images/a.png", "images/b.png"]}
        regions = [region(1, "pages")]
    else:
        data = {"front": "images/a.png", "back": "images/b.png"}
        regions = [region(None, "back")]
    task = {"id": 1, "data": data, "annotations": [{"id": 1, "result": regions}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]), encoding="utf-8")
    found = {Path(name).name: mask for name, mask in masks(open_labels(tmp_path / "tasks.json")).items()}
    np.testing.assert_array_equal(found["b.png"], square())
    assert not found.get("a.png", np.zeros(1)).any()


def test_voc_with_suffixes_in_capitals(tmp_path: Path) -> None:
    photo(tmp_path / "JPEGImages" / "a.JPG")
    (tmp_path / "SegmentationClass").mkdir()
    colored = np.zeros((*SIZE, 3), np.uint8)
    colored[square() == 1] = (200, 0, 0)
    Image.fromarray(colored).save(tmp_path / "SegmentationClass" / "a.PNG")
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nthing:200,0,0::\n", encoding="utf-8")
    labels = open_labels(tmp_path)
    (found,) = labels
    assert found.image is not None
    np.testing.assert_array_equal(found.mask() > 0, square() > 0)
    assert list(labels.categories.names.values()) == ["thing"]


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jp2", ".tga", ".JPG", ".Tif"])
def test_images_of_every_suffix(run: Callable[..., Done], tmp_path: Path, suffix: str) -> None:
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".jp2": "JPEG2000", ".tga": "TGA", ".JPG": "JPEG", ".Tif": "TIFF"}
    pixels = photo(tmp_path / "in" / "x.png")
    Image.fromarray(pixels).save(tmp_path / "in" / f"y{suffix}", format=kinds[suffix])
    (tmp_path / "in" / "x.png").rename(tmp_path / "example.png")
    Image.fromarray(square()).save(tmp_path / "mask.png")
    example = ("--prompt", tmp_path / "example.png", tmp_path / "mask.png")
    done = run("segment", tmp_path / "in", *example, "-o", tmp_path / "out", "--device", "cpu")
    assert done.status == 0, done.err
    assert (tmp_path / "out" / "y.png").exists()


def test_a_png_with_large_chunks_of_text_is_read(tmp_path: Path) -> None:
    pixels = photo(tmp_path / "x.png")
    about = PngImagePlugin.PngInfo()
    about.add_text("workflow", "x" * 3_000_000, zip=True)
    Image.fromarray(pixels).save(tmp_path / "text.png", pnginfo=about, icc_profile=b"\0" * 2_000_000)
    np.testing.assert_array_equal(read_image(tmp_path / "text.png"), pixels)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_an_animation_with_a_hidden_default_image_starts_at_its_first_frame(tmp_path: Path) -> None:
    def rows(value: int) -> bytes:
        return zlib.compress(b"".join(b"\0" + bytes([value]) * 8 for _ in range(8)))

    def control(number: int) -> bytes:
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 8, 8, 0, 0, 1, 10, 0, 0))

    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
        + chunk(b"acTL", struct.pack(">II", 2, 0))
        + chunk(b"IDAT", rows(10))  # no fcTL before it: what programs without animation show
        + control(0)
        + chunk(b"fdAT", struct.pack(">I", 1) + rows(100))
        + control(2)
        + chunk(b"fdAT", struct.pack(">I", 3) + rows(200))
        + chunk(b"IEND", b"")
    )
    path = path.rename(tmp_path / "a.apng")
    with open_frames(path) as frames:
        assert [int(frame.image.mean()) for frame in frames] == [100, 200]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_lists_in_every_encoding(
    run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    photo(tmp_path / "ä.png")
    photo(tmp_path / "not_listed.png")
    Image.fromarray(square()).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO("ä.png\r\n".encode(encoding)), encoding="utf-8"))
    done = run("segment", "-", "--prompt", "ä.png", "mask.png", "-o", "out", "--device", "cpu")
    assert done.status == 0, done.err
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["ä.png"]


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0", b'{"a": 1}', b"<html>", b"PK\x03\x04\x00\x01"])
def test_what_is_no_list_is_refused_before_anything_is_touched(
    run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    photo(tmp_path / "a.png")
    Image.fromarray(square()).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(data), encoding="utf-8"))
    done = run("segment", "-", "--prompt", "a.png", "mask.png", "-o", "out")
    assert done.status == 2
    assert not (tmp_path / "out").exists()


def test_an_image_whose_name_was_percent_encoded_is_found(tmp_path: Path) -> None:
    encoded, plain = tmp_path / "a%20b.png", tmp_path / "a b.png"
    encoded.write_bytes(b"")
    images = Images(tmp_path)
    assert images.find("a b.png") == encoded
    assert images.find_stem(PurePosixPath("a b")) == encoded
    assert images.find("c.png") is None
    plain.write_bytes(b"")
    images = Images(tmp_path)
    assert images.find("a b.png") == plain, "the name as it stands comes first"
    assert images.find("a%20b.png") == encoded
