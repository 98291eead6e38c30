"""What people meet in Python and in notebooks: values that say what they are and draw themselves; types; errors."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import incontext
from incontext import CheckpointError, Palette, Prompt, Segmentation
from incontext.engine import Segmenter
from incontext.images.masks import read_mask
from incontext.images.read import read_image

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
MASK = np.zeros((20, 30), np.uint8)
MASK[2:12, 3:9] = 1
MASK[14:16, 20:26] = 7


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return incontext.load(device="cpu", dtype="float32")


def drawn(png: bytes) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
        image.load()
    assert image.format is None or image.format == "PNG"
    return image


def test_values_say_what_they_are_in_one_line(segmenter: Segmenter) -> None:
    prompt = Prompt(IMAGE, MASK, weight=2)
    assert repr(prompt) == "Prompt(30 x 20 (width x height), ids 1 (10 %), 7 (2 %), weight 2)"
    assert repr(Prompt(IMAGE, MASK == 1)) == "Prompt(30 x 20 (width x height), id 1 (10 %))"
    assert repr(Palette.spread([1, 7])) == "Palette(1 #ffffff, 7 #ff0000)"
    assert repr(Palette.spread(range(1, 10))).endswith("6 #ff00ff and 3 more)")
    found = Segmentation(MASK, np.full(MASK.shape, 0.25, np.float32), Palette.spread([1, 7]))
    assert repr(found) == "Segmentation(30 x 20 (width x height), ids 1 (10 %), 7 (2 %), confidence 0.25)"
    empty = Segmentation(MASK * 0, np.ones(MASK.shape, np.float32), Palette.spread([1]))
    assert repr(empty) == "Segmentation(30 x 20 (width x height), nothing found)"
    assert repr(segmenter) == "Segmenter(default, cpu, float32)"
    assert repr(segmenter.prepare(prompt)) == "PreparedContext(ids 1, 7, Segmenter(default, cpu, float32))"
    assert repr(segmenter.prepare(None)).startswith("PreparedContext(by hints alone, ")


def test_values_draw_themselves(segmenter: Segmenter) -> None:
    large = Prompt(np.repeat(np.repeat(IMAGE, 50, 0), 50, 1), np.repeat(np.repeat(MASK, 50, 0), 50, 1))
    assert drawn(large._repr_png_()).size == (640, 427)
    own = Image.open(io.BytesIO(Prompt(IMAGE, MASK)._repr_png_()))
    shown = Segmentation(MASK, np.ones(MASK.shape, np.float32), Palette.spread([1, 7])).overlay(IMAGE)
    np.testing.assert_array_equal(np.asarray(own.convert("RGB")), shown)
    found = Segmentation(MASK, np.ones(MASK.shape, np.float32), Palette.spread([1, 7]))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found._repr_png_()))), MASK)
    html = Palette.spread([1, 7])._repr_html_()
    assert html.count("<span") == 2
    assert "#ff0000" in html
    table = segmenter._repr_html_()
    assert "<th>weights</th><td>default</td>" in table


@pytest.mark.parametrize(
    "form",
    [
        IMAGE,
        torch.from_numpy(IMAGE),
        torch.from_numpy(IMAGE).permute(2, 0, 1),
        torch.from_numpy(IMAGE).permute(2, 0, 1).float() / 255,
        (torch.from_numpy(IMAGE).float() / 255).requires_grad_(),
        Image.fromarray(IMAGE),
    ],
    ids=["array", "rows first", "channels first", "floats", "with a gradient", "PIL"],
)
def test_images_in_every_form_are_one_image(form: Any) -> None:
    np.testing.assert_array_equal(read_image(form), IMAGE)


@pytest.mark.parametrize(
    "form",
    [MASK == 1, torch.from_numpy(MASK == 1), torch.from_numpy(MASK == 1)[None], torch.from_numpy(MASK == 1).float()],
    ids=["bool", "bool tensor", "one channel", "floats"],
)
def test_masks_in_every_form_are_one_mask(form: Any) -> None:
    np.testing.assert_array_equal(read_mask(form).ids, MASK == 1)
    np.testing.assert_array_equal(Prompt(torch.from_numpy(IMAGE).permute(2, 0, 1), form).mask, MASK == 1)


@pytest.mark.parametrize(
    ("read", "form", "told"),
    [
        (read_image, torch.zeros(3, 9, 4, dtype=torch.uint8), "both the first and the last axis may be"),
        (read_image, torch.full((3, 9, 9), 1.5), r"floats in 0\.\.1; got 1\.5\.\.1\.5"),
        (read_image, torch.full((3, 9, 9), torch.nan), "floats in"),
        (read_mask, torch.full((9, 9), 0.5), "threshold it"),
        (read_image, torch.zeros(5, 9, 9, dtype=torch.uint8), "got shape"),
    ],
)
def test_a_tensor_that_may_mean_two_things_is_refused(read: Any, form: torch.Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read(form)


@pytest.mark.parametrize(
    ("context", "told"),
    [
        ("mask.png", r"got str 'mask\.png'; open it first, Prompt\.open\(image, mask\)"),
        (Path("mask.png"), "open it first"),
        (3, "got int"),
        ([Prompt(IMAGE, MASK), 3], "got int in it"),
        (["a.jpg", "a.png"], r"got str 'a\.jpg'; open it first"),
    ],
)
def test_what_is_no_context_is_a_type_error(segmenter: Segmenter, context: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        segmenter.segment(IMAGE, context)
    with pytest.raises(TypeError, match=told):
        incontext.Tracker(segmenter, context=context)


@pytest.mark.parametrize("queries", ["photo.jpg", Path("photo.jpg"), b"bytes", IMAGE])
def test_one_query_where_several_belong_says_so(segmenter: Segmenter, queries: Any) -> None:
    with pytest.raises(TypeError, match=r"a sequence of queries, got one .*; write \[query\]"):
        segmenter.segment_many(queries, Prompt(IMAGE, MASK))


@pytest.mark.parametrize("wrong", [3, None, [1, 2], object()])
def test_what_is_no_image_is_a_type_error(wrong: Any) -> None:
    for read in (read_image, read_mask):
        with pytest.raises(TypeError, match="a PIL image, an array or a tensor, got"):
            read(wrong)


def test_the_folder_job_and_its_errors_are_public(tmp_path: Path, segmenter: Segmenter) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    job = incontext.plan([tmp_path], tmp_path / "out")
    report = incontext.segment_folder(segmenter, job, Prompt(IMAGE, MASK))
    assert (report.done, (tmp_path / "out" / "a.png").exists()) == (1, True)
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError):
        incontext.load(tmp_path / "bad.safetensors")


def test_a_tensor_may_be_the_first_frames_mask(segmenter: Segmenter) -> None:
    found = list(incontext.track(segmenter, [IMAGE, IMAGE], torch.from_numpy(MASK)))
    np.testing.assert_array_equal(found[0].mask, MASK)
