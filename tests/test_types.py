"""The values that users hold: what they refuse, what they promise, what they turn into."""

import dataclasses
import io
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from incontext.images import rle
from incontext.images.masks import MaskWarning
from incontext.images.write import write_mask
from incontext.types import IGNORED_COLOR, Palette, Prompt, Segmentation

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
MASK = np.kron(np.array([[0, 1], [2, 255]], np.uint8), np.ones((6, 8), np.uint8))


def segmentation(mask: np.ndarray, confidence: float = 0.5) -> Segmentation:
    ids = {int(i) for i in np.unique(mask)} - {0, 255}
    return Segmentation(mask, np.full(mask.shape, confidence, np.float32), Palette.spread(ids))


# ----------------------------------------------------------------------------------------------- Palette


def test_spread_begins_with_the_corners_of_the_cube_white_first() -> None:
    palette = Palette.spread([9, 3, 7])
    assert palette.ids.tolist() == [0, 3, 7, 9]
    assert palette.colors.tolist() == [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0]]
    assert Palette.spread([]).ids.tolist() == [0]
    assert set(Palette.spread(range(1, 27)).colors.ravel().tolist()) == {0, 128, 255}


def test_spread_depends_on_the_set_of_ids_only() -> None:
    generator = np.random.default_rng(0)
    for _ in range(10):
        ids = generator.choice(np.arange(1, 255), 40, replace=False)
        one, other = Palette.spread(ids), Palette.spread([0, *generator.permutation(ids), ids[0]])
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.colors, other.colors)


@pytest.mark.parametrize(("count", "least"), [(1, 441), (7, 255), (26, 127), (124, 63), (254, 31)])
def test_spread_colours_are_far_apart(count: int, least: float) -> None:
    colors = Palette.spread(range(1, count + 1)).colors.astype(float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert distances[~np.eye(len(colors), dtype=bool)].min() >= least


def test_ignored_is_painted_black_but_shown_in_light_grey() -> None:
    palette = Palette.spread([1])
    assert palette.paint(np.array([[0, 1, 255]])).tolist() == [[[0] * 3, [255] * 3, [0] * 3]]
    assert palette.table[255].tolist() == list(IGNORED_COLOR)
    assert palette.table.shape == (256, 3)


@pytest.mark.parametrize(
    ("ids", "colors", "expected"),
    [
        ([0, 1], [[0, 0, 0]], r"got \(2,\) and \(1, 3\)"),
        ([[0]], [[0, 0, 0]], r"ids \(K\+1,\)"),
        (np.zeros(0, int), np.zeros((0, 3), int), "row 0"),
        ([1], [[0, 0, 0]], "row 0 of the palette to be id 0 in black"),
        ([0], [[1, 0, 0]], "row 0 of the palette to be id 0 in black"),
        ([0, 255], [[0, 0, 0], [1, 1, 1]], r"distinct ids in 0..254, got \[0, 255\]"),
        ([0, -1], [[0, 0, 0], [1, 1, 1]], "distinct ids"),
        ([0, 1, 1], [[0, 0, 0], [1, 1, 1], [2, 2, 2]], "distinct ids"),
        ([0, 1, 2], [[0, 0, 0], [1, 1, 1], [1, 1, 1]], "one colour twice"),
        ([0, 1], [[0, 0, 0], [256, 0, 0]], r"colors in 0..255"),
        ([0, 1], [[0, 0, 0], [0.5, 0, 0]], "got int64 and float64"),
        ([0.0, 1.0], [[0, 0, 0], [1, 0, 0]], "expected integer ids"),
    ],
)
def test_bad_palettes(ids: list[int], colors: list[list[int]], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Palette(np.array(ids), np.array(colors))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: Palette.spread([1, 255]), "distinct ids in 0..254"),
        (lambda: Palette.spread(range(300)), "at most 254 ids, got 299"),
        (lambda: Palette.spread([-3]), "distinct ids in 0..254"),
        (
            lambda: Palette.spread([1]).paint(np.array([[0, 2, 3]])),
            r"expected ids of the palette \[0, 1\], got \[2, 3\]",
        ),
        (lambda: Palette.spread([1]).paint(np.zeros((2, 2))), "got float64"),
        (lambda: Palette.spread([1]).paint(np.zeros((2, 2, 3), int)), "got shape"),
    ],
)
def test_misused_palettes(call: Callable[[], object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        call()


# ------------------------------------------------------------------------------------------------ Prompt


def test_a_prompt_keeps_image_and_ids() -> None:
    prompt = Prompt(IMAGE, MASK.astype(np.int64))
    assert prompt.ids == (1, 2)
    assert prompt.mask.dtype == np.uint8
    np.testing.assert_array_equal(prompt.mask, MASK)
    np.testing.assert_array_equal(prompt.image, IMAGE)
    assert prompt.colors is None
    assert prompt.palette is None
    assert Prompt(IMAGE[..., 0], MASK == 1).ids == (1,)


@pytest.mark.parametrize(
    ("image", "mask", "expected"),
    [
        (IMAGE, MASK * 0, "got background .0. everywhere: the mask is empty"),
        (IMAGE, MASK * 0 + 255, "got ignored .255. everywhere"),
        (IMAGE, np.where(MASK == 255, 255, 0), "only background .0. and ignored .255.; if 255 marks the object"),
        (IMAGE, MASK[:-1], r"expected a mask of the image's size 16 x 12 \(width x height\), got 16 x 11"),
        (IMAGE, MASK.T, "got 12 x 16"),
        (IMAGE, MASK.astype(float), "got float64"),
        (IMAGE, MASK.astype(int) * 200, "expected ids in 0..254"),
        (IMAGE / 255, MASK, "got float64"),
        (IMAGE[:0], MASK[:0], "no pixels"),
        ("missing.png", MASK, "there is no such file"),
    ],
)
def test_bad_prompts(image: Any, mask: Any, expected: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=expected) as caught:
        Prompt(image, mask)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_is_above_0(weight: float) -> None:
    with pytest.raises(ValueError, match="expected a weight above 0"):
        Prompt(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), np.uint8), weight=weight)


def test_an_opened_prompt_shows_its_mask_in_the_file_s_colours(tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    table = np.random.default_rng(0).integers(1, 256, (256, 3)).astype(np.uint8)
    write_mask(tmp_path / "mask.png", MASK, table)
    prompt = Prompt.open(tmp_path / "image.png", str(tmp_path / "mask.png"))
    np.testing.assert_array_equal(prompt.image, IMAGE)
    np.testing.assert_array_equal(prompt.mask, MASK)
    assert prompt.palette is not None
    assert prompt.palette.ids.tolist() == [0, 1, 2]
    assert prompt.palette.colors.tolist() == [[0, 0, 0], *table[1:3].tolist()]
    table[2] = table[1]  # colours that cannot be told apart are no palette
    write_mask(tmp_path / "mask.png", MASK, table)
    assert Prompt.open(tmp_path / "image.png", tmp_path / "mask.png").palette is None


def test_prompts_open_from_colours_pil_images_and_arrays() -> None:
    rgb = np.zeros((*MASK.shape, 3), np.uint8)
    rgb[MASK == 1], rgb[MASK == 2] = (9, 0, 0), (0, 9, 0)
    for mask in (rgb, Image.fromarray(rgb)):
        prompt = Prompt.open(Image.fromarray(IMAGE), mask)
        assert prompt.ids == (1, 2)
        assert prompt.palette is not None
        assert prompt.palette.colors.tolist() == [[0, 0, 0], [0, 9, 0], [9, 0, 0]]
    assert Prompt(IMAGE, rgb).palette is not None


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (Image.new("L", (16, 12)), "mask.png: expected a mask that marks something .* the mask is empty"),
        (
            Image.new("L", (12, 16), 1),
            r"mask.png: expected a mask of the image's size 16 x 12 \(width x height\), got 12",
        ),
        (Image.new("F", (12, 16), 1), "mask.tif: .* got floating point"),
    ],
)
def test_the_message_names_the_mask_s_file(tmp_path: Path, mask: Image.Image, expected: str) -> None:
    path = tmp_path / ("mask.tif" if mask.mode == "F" else "mask.png")
    mask.save(path)
    with pytest.raises(ValueError, match=expected):
        Prompt.open(IMAGE, path)


def smoothed_disc(mode: str = "RGB") -> Image.Image:
    large = Image.new("RGB", (640, 480))
    ImageDraw.Draw(large).ellipse([200, 100, 440, 340], fill=(255, 255, 255))
    return large.resize((160, 120), Image.Resampling.BOX).convert(mode)


def test_a_raw_colour_prompt_keeps_its_colours() -> None:
    image, colors = np.zeros((120, 160, 3), np.uint8), np.array(smoothed_disc())
    prompt = Prompt.from_colors(image, colors)
    np.testing.assert_array_equal(prompt.colors, colors)
    np.testing.assert_array_equal(prompt.mask, colors[..., 0] > 127)
    assert prompt.palette is not None
    assert prompt.palette.colors.tolist() == [[0, 0, 0], [255, 255, 255]]
    np.testing.assert_array_equal(Prompt.from_colors(image, smoothed_disc("L")).colors, colors)
    with pytest.warns(MaskWarning, match="snapped"):
        np.testing.assert_array_equal(Prompt.open(image, colors).mask, prompt.mask)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: Prompt.from_colors(IMAGE, IMAGE * 0), "the mask is empty"),
        (lambda: Prompt.from_colors(IMAGE, np.full((3, 4, 3), 255, np.uint8)), "got 4 x 3"),
        (lambda: Prompt(IMAGE, MASK, np.zeros((3, 4, 3), np.uint8)), "colours of the image's size"),
        (lambda: Prompt(IMAGE, MASK, IMAGE), "use Prompt.from_colors"),
        (lambda: Prompt(IMAGE, MASK, palette=Palette.spread([1])), r"got none for \[2\]"),
    ],
)
def test_bad_raw_colour_prompts(call: Callable[[], object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        call()


# ------------------------------------------------------------------------------------------ Segmentation


def test_a_segmentation_says_what_was_found() -> None:
    found = segmentation(MASK)
    assert (found.ids, found.shape, found.is_empty) == ((1, 2), (12, 16), False)
    assert segmentation(MASK * 0).is_empty
    assert segmentation(MASK * 0).ids == ()


@pytest.mark.parametrize(
    ("mask", "confidence", "palette", "expected"),
    [
        (MASK, np.zeros((3, 4), np.float32), Palette.spread([1, 2]), "confidence of floats for the mask"),
        (MASK, np.zeros(MASK.shape, int), Palette.spread([1, 2]), "got int64"),
        (MASK, np.full(MASK.shape, 1.5), Palette.spread([1, 2]), "in 0..1, got 1.5"),
        (MASK, np.full(MASK.shape, np.nan), Palette.spread([1, 2]), "in 0..1, got nan"),
        (MASK, np.zeros(MASK.shape), Palette.spread([1]), r"got none for \[2\]"),
        (MASK / 2, np.zeros(MASK.shape), Palette.spread([1, 2]), "got float64"),
        (MASK[..., None], np.zeros(MASK.shape), Palette.spread([1, 2]), "got shape"),
        (MASK[:0], np.zeros((0, 16)), Palette.spread([1, 2]), "got shape"),
    ],
)
def test_bad_segmentations(mask: np.ndarray, confidence: np.ndarray, palette: Palette, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Segmentation(mask, confidence, palette)


def test_values_are_frozen_and_share_nothing_that_may_change() -> None:
    image, mask, confidence = IMAGE.copy(), MASK.copy(), np.zeros(MASK.shape, np.float32)
    ids, colors = np.array([0, 1, 2], np.uint8), np.array([(0, 0, 0), (1, 1, 1), (2, 2, 2)], np.uint8)
    palette = Palette(ids, colors)
    prompt, found = Prompt(image, mask, image, palette), Segmentation(mask, confidence, palette)
    for value in (palette, prompt, found):
        for field in dataclasses.fields(value):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(value, field.name, None)
            array = getattr(value, field.name)
            if isinstance(array, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    array[...] = 0
    for array in (image, mask, confidence, ids, colors):  # the caller's own stay writable, and do not reach the values
        array[...] = 1
    np.testing.assert_array_equal(prompt.image, IMAGE)
    np.testing.assert_array_equal(prompt.colors, IMAGE)
    np.testing.assert_array_equal(prompt.mask, MASK)
    np.testing.assert_array_equal(found.mask, MASK)
    assert not found.confidence.any()
    assert palette.ids.tolist() == [0, 1, 2]
    assert prompt != Prompt(image, MASK, image, palette)  # by identity: arrays have no truth value
    assert len({prompt, found, palette}) == 3


def test_the_overlay_shows_ids_and_outlines() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 4
    image = np.full((40, 40, 3), 100, np.uint8)
    shown = segmentation(mask).overlay(image)
    assert shown.dtype == np.uint8
    assert shown[20, 20].tolist() == [178] * 3
    assert shown[10, 20].tolist() == [255] * 3
    assert shown[9, 20].tolist() == [0] * 3
    assert shown[2, 2].tolist() == [100] * 3
    assert segmentation(mask).overlay(image, 0.0)[20, 20].tolist() == [100] * 3
    assert segmentation(mask).overlay(Image.fromarray(image), 1.0)[20, 20].tolist() == [255] * 3
    np.testing.assert_array_equal(segmentation(mask * 0).overlay(image), image)
    assert (image == 100).all()


def test_outlines_grow_with_the_image() -> None:
    mask = np.zeros((1600, 1600), np.uint8)
    mask[400:1200, 400:1200] = 1
    shown = segmentation(mask).overlay(np.full((1600, 1600, 3), 100, np.uint8))
    assert (shown[800] == 255).all(axis=-1).sum() == 2 * 4
    assert segmentation(MASK[:1]).overlay(IMAGE[:1]).shape == (1, 16, 3)


@pytest.mark.parametrize(
    ("image", "alpha", "expected"),
    [
        (IMAGE[:3], 0.5, "expected the query itself, 16 x 12"),
        (IMAGE, 1.5, "alpha in 0..1"),
        (IMAGE, -1, "alpha in 0..1"),
    ],
)
def test_bad_overlays(image: np.ndarray, alpha: float, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        segmentation(MASK).overlay(image, alpha)


def test_notebooks_draw_the_mask_in_its_colours() -> None:
    found = segmentation(np.kron(MASK, np.ones((100, 100), np.uint8)))
    with Image.open(io.BytesIO(found._repr_png_())) as drawn:
        assert drawn.size == (640, 480), "no larger than a notebook shows"
        np.testing.assert_array_equal(np.asarray(drawn)[::240, ::320], [[0, 1], [2, 255]])
        assert np.asarray(drawn.convert("RGB"))[0, 639].tolist() == found.palette.colors[1].tolist()
    with Image.open(io.BytesIO(segmentation(MASK)._repr_png_())) as small:
        np.testing.assert_array_equal(np.asarray(small), MASK)


def test_a_saved_segmentation_opens_as_a_prompt(tmp_path: Path) -> None:
    found = segmentation(MASK)
    found.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P"
        shown = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(shown, found.palette.table[MASK])
    prompt = Prompt.open(IMAGE, tmp_path / "mask.png")
    np.testing.assert_array_equal(prompt.mask, MASK)
    assert prompt.palette is not None
    np.testing.assert_array_equal(prompt.palette.colors, found.palette.colors)


def test_conversions_have_one_entry_for_each_id() -> None:
    found = segmentation(MASK)
    assert found.to_coco_rle() == {i: rle.from_mask(i == MASK) for i in (1, 2)}
    assert found.to_coco_rle()[2]["size"] == [12, 16]
    rings = found.to_polygons()
    assert rings[1][0].tolist() == [[8, 0], [16, 0], [16, 6], [8, 6]]
    assert list(rings) == [1, 2]
    assert segmentation(MASK * 0).to_coco_rle() == segmentation(MASK * 0).to_polygons() == {}


def test_detections(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = types.ModuleType("supervision")
    stand_in.Detections = types.SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    detections = segmentation(MASK, 0.25).to_supervision()
    assert detections.class_id.tolist() == [1, 2]
    assert detections.xyxy.tolist() == [[8, 0, 16, 6], [0, 6, 8, 12]]
    assert detections.confidence.tolist() == [0.25, 0.25]
    np.testing.assert_array_equal(detections.mask, [MASK == 1, MASK == 2])
    nothing = segmentation(MASK * 0).to_supervision()
    assert (nothing.xyxy.shape, nothing.mask.shape) == ((0, 4), (0, 12, 16))


def test_supervision_takes_them() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is an outside check, not a dependency")
    detections = segmentation(MASK, 0.25).to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert detections.area.tolist() == detections.box_area.tolist() == [48, 48]
    pixels = supervision.mask_to_xyxy(detections.mask)  # the first and the last; ours are edges
    np.testing.assert_array_equal(detections.xyxy, pixels + np.array([0, 0, 1, 1]))
    shown = supervision.MaskAnnotator(opacity=1).annotate(IMAGE.copy(), detections)
    np.testing.assert_array_equal((shown != IMAGE).any(axis=2), np.isin(MASK, (1, 2)))
    assert len(detections[detections.class_id == 2]) == 1
    assert len(segmentation(MASK * 0).to_supervision()) == 0


def test_without_supervision_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        segmentation(MASK).to_supervision()
