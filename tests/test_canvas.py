"""Pixels to tensors and back, against the published preprocessing and against slow, plain readings."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import load_file

from incontext.canvas import votes
from incontext.canvas.paint import IMAGE_MEAN, IMAGE_STD, mosaic, normalise, normalise_colors, unpaint
from incontext.canvas.read import Paint, read, read_colors
from incontext.images.read import read_image
from incontext.images.resize import resized
from incontext.types import Palette, Prompt


def blocks(ids: list[int], side: int, cell: int, seed: int = 0) -> np.ndarray:
    grid = np.random.default_rng(seed).choice(ids, (side // cell, side // cell)).astype(np.uint8)
    return np.kron(grid, np.ones((cell, cell), np.uint8))


def tensor(rgb: np.ndarray) -> torch.Tensor:
    return normalise(torch.from_numpy(np.array(rgb)))


def nearest(colors: np.ndarray, palette: Palette) -> tuple[np.ndarray, np.ndarray]:
    """The nearest ids and the colour margins, by all distances at once."""
    distances = np.linalg.norm(colors[..., None, :].astype(float) - palette.colors, axis=-1)
    if len(palette.ids) == 1:
        return np.zeros(colors.shape[:-1], np.uint8), np.ones(colors.shape[:-1])
    first, second = np.moveaxis(np.sort(distances, axis=-1)[..., :2], -1, 0)
    return palette.ids[distances.argmin(axis=-1)], (second - first) / (second + first)


def painted(mask: np.ndarray, palette: Palette, noise: float = 0.0) -> torch.Tensor:
    clean = tensor(palette.paint(mask))
    return (clean + noise * torch.randn(clean.shape))[None]


@pytest.mark.parametrize("case", ["one_shot", "two_shot"])
def test_the_published_preprocessing_is_met(golden: Path, shared: Path, case: str) -> None:
    folder, examples = golden / "end_to_end", shared / "data/examples/seggpt"
    meta = {c["name"]: c for c in json.loads((folder / "meta.json").read_text())["cases"]}[case]
    expected = load_file(folder / "cases.safetensors")
    query = tensor(resized(read_image(examples / meta["query"]), (448, 448)))
    for shot, names in enumerate(zip(meta["prompt_images"], meta["prompt_targets"], strict=True)):
        prompt = Prompt.from_colors(*(examples / name for name in names))
        assert prompt.palette is not None
        images = torch.cat([tensor(resized(prompt.image, (448, 448))), query], dim=1)
        paint = tensor(mosaic([prompt], prompt.palette, 448)[1])
        masks = torch.cat([paint, paint], dim=1)
        for name, ours in (("images", images), ("targets", masks)):
            every16 = ours[:, ::16, ::16].permute(1, 2, 0).numpy()
            np.testing.assert_allclose(every16, expected[f"{case}/canvas_{name}_every16"][shot], rtol=0, atol=1e-6)


def test_fit_is_pillow_s_bicubic_then_the_imagenet_statistics() -> None:
    image = np.random.default_rng(0).integers(0, 256, (37, 61, 3), np.uint8)
    squeezed = np.asarray(Image.fromarray(image).resize((24, 24))) / 255.0
    expected = (squeezed - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)
    fitted = tensor(resized(image, (24, 24)))
    assert (fitted.shape, fitted.dtype) == ((3, 24, 24), torch.float32)
    np.testing.assert_allclose(fitted.permute(1, 2, 0), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(50, 70), (24, 24), (5, 300)])
def test_painting_a_mask_is_painting_its_colours_resized_to_the_nearest(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    mask = generator.integers(0, 5, size).astype(np.uint8)
    mask[0, 0] = 255
    palette = Palette.spread(range(1, 5))
    prompt = Prompt(np.zeros((*size, 3), np.uint8), mask)
    expected = Image.fromarray(palette.paint(mask)).resize((24, 24), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(mosaic([prompt], palette, 24)[1], np.asarray(expected))


def test_a_raw_colour_prompt_is_painted_as_it_is() -> None:
    large = Image.new("RGB", (640, 480))
    ImageDraw.Draw(large).ellipse([200, 100, 440, 340], fill=(255, 255, 255))
    colors = np.asarray(large.resize((160, 120), Image.Resampling.BOX))
    prompt = Prompt.from_colors(np.zeros_like(colors), colors)
    back = unpaint(tensor(mosaic([prompt], Palette.spread([1]), 64)[1])[None])[0].numpy()
    expected = np.asarray(Image.fromarray(colors).resize((64, 64), Image.Resampling.NEAREST))
    np.testing.assert_allclose(back, expected, atol=1e-3)
    assert len(np.unique(expected)) > 10


def test_unpaint_undoes_normalise_and_clips() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    colors = unpaint(tensor(rgb)[None])
    assert (colors.shape, colors.dtype) == ((1, 9, 7, 3), torch.float32)
    np.testing.assert_allclose(colors[0], rgb, atol=1e-3)
    assert unpaint(torch.full((1, 3, 2, 2), 99.0)).unique().tolist() == [255]
    assert unpaint(torch.full((1, 3, 2, 2), -99.0, dtype=torch.bfloat16)).unique().tolist() == [0]


def test_normalising_tensors_agrees_with_normalising_images_and_unpaint_undoes_it() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    normalised = normalise_colors(torch.from_numpy(rgb))
    torch.testing.assert_close(normalised, tensor(rgb).permute(1, 2, 0))
    back = unpaint(normalised.permute(2, 0, 1)[None])[0]
    torch.testing.assert_close(back, torch.from_numpy(rgb).float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40, 254])
def test_reading_agrees_with_the_distances_themselves(count: int) -> None:
    generator = np.random.default_rng(count)
    palette = Palette.spread(generator.choice(np.arange(1, 255), count, replace=False))
    colors = generator.uniform(0, 255, (2, 17, 19, 3)).astype(np.float32)
    colors[0, :5] = palette.colors[generator.integers(0, count + 1, (5, 19))]
    ids, confidence = read_colors(torch.from_numpy(colors), palette)
    expected_ids, expected_confidence = nearest(colors, palette)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(confidence, expected_confidence, atol=1e-5)
    assert (ids.dtype, confidence.dtype) == (torch.uint8, torch.float32)


def test_painting_and_reading_are_inverse_for_any_mask() -> None:
    generator = np.random.default_rng(0)
    for count in (1, 2, 5, 30, 254):
        palette = Palette.spread(generator.choice(np.arange(1, 255), count, replace=False))
        mask = generator.choice(palette.ids, (9, 11))
        ids, confidence = read_colors(torch.from_numpy(palette.paint(mask)), palette)
        np.testing.assert_array_equal(ids, mask)
        assert (confidence == 1).all()


def test_confidence_is_the_margin_between_the_two_nearest_colours() -> None:
    grey = torch.tensor([0, 51, 127.5, 204, 255])[:, None].repeat(1, 3)
    ids, confidence = read_colors(grey, Palette.spread([5]))
    assert ids.tolist() == [0, 0, 0, 5, 5]
    np.testing.assert_allclose(confidence, [1, 0.6, 0, 0.6, 1], atol=1e-6)


def test_at_the_network_s_own_size_nothing_changes() -> None:
    palette = Palette.spread([3, 8, 200])
    paint = painted(blocks([0, 3, 8, 200], 32, 4), palette, noise=0.8)
    ((mask, confidence),) = read([Paint(paint, palette)], [(32, 32)])
    ids, margin = nearest(unpaint(paint)[0].numpy(), palette)
    np.testing.assert_array_equal(mask, ids)
    np.testing.assert_allclose(confidence, margin, atol=1e-6)


def plain(ids: np.ndarray, confidence: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The votes of all ids for all pixels at once, upsampled by torch."""
    present = np.unique(ids)
    votes = torch.from_numpy(np.stack([np.where(ids == i, confidence, 0) for i in present]))[None]
    large = torch.nn.functional.interpolate(votes, size, mode="bilinear")[0].numpy()
    return present[large.argmax(axis=0)], (2 * large.max(axis=0) - large.sum(axis=0)).clip(0, 1)


@pytest.mark.parametrize("size", [(64, 64), (33, 100), (32, 75), (71, 32), (500, 40)])
@pytest.mark.parametrize("band", [1, 300, 1 << 22])
def test_bands_give_what_the_whole_gives(size: tuple[int, int], band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "_BAND_PIXELS", band)
    palette = Palette.spread(range(1, 7))
    paint = painted(blocks(list(range(7)), 32, 4), palette, noise=0.5)
    ((mask, confidence),) = read([Paint(paint, palette)], [size])
    assert (mask.shape, mask.dtype, confidence.dtype) == (size, np.uint8, np.float32)
    ids, margin = nearest(unpaint(paint)[0].numpy(), palette)
    expected_mask, expected_confidence = plain(ids, margin, size)
    assert (mask != expected_mask).mean() < 0.002  # ties of rounding
    np.testing.assert_allclose(confidence, expected_confidence, atol=1e-4)


def test_edges_are_smooth_where_the_nearest_would_be_blocky() -> None:
    """A disc painted at 64 pixels with soft edges, read at 1024: much nearer to the disc than blocks of 16 are."""
    y, x = np.mgrid[:1024, :1024] + 0.5
    disc = ((y - 512) ** 2 + (x - 512) ** 2 < 300**2).astype(np.uint8)
    soft = Image.fromarray(disc * 255).resize((64, 64), Image.Resampling.BOX).convert("RGB")
    paint = tensor(np.asarray(soft))[None]
    palette = Palette.spread([1])
    ((mask, _),) = read([Paint(paint, palette)], [(1024, 1024)])
    blocky = np.kron(read([Paint(paint, palette)], [(64, 64)])[0][0], np.ones((16, 16), np.uint8))
    assert (mask != disc).sum() < 0.25 * (blocky != disc).sum()


def test_no_third_colour_appears_between_two() -> None:
    """Half way from red (2) to green (3) lies an olive that another palette row (11) is nearest to."""
    palette = Palette.spread(range(1, 12))
    mask = np.repeat(np.array([2] * 16 + [3] * 16, np.uint8)[None], 32, axis=0)
    mask[:4, :4] = 11  # present in the image, and yet not at the seam
    ((large, confidence),) = read([Paint(painted(mask, palette), palette)], [(200, 200)])
    assert set(np.unique(large[50:])) == {2, 3}
    assert confidence[50:].min() < 0.2  # the seam knows that it is one
    assert confidence[50:, :90].min() > 0.99


def test_ids_in_the_answer_are_ids_of_the_reading_for_any_paint() -> None:
    palette = Palette.spread([1, 2, 3])
    for seed in range(5):
        torch.manual_seed(seed)
        sizes = [(40, 9), (7, 5), (16, 16), (1, 1)]
        paint = torch.randn(4, 3, 16, 16) * 3
        for (mask, confidence), size, one in zip(read([Paint(paint, palette)], sizes), sizes, paint, strict=True):
            assert mask.shape == confidence.shape == size
            assert set(np.unique(mask)) <= set(np.unique(read([Paint(one[None], palette)], [(16, 16)])[0][0]))
            assert confidence.min() >= 0
            assert confidence.max() <= 1


def test_queries_of_a_batch_do_not_touch() -> None:
    palette = Palette.spread([1, 2])
    paint, sizes = torch.randn(3, 3, 16, 16), [(20, 30), (16, 16), (9, 50)]
    for i, (mask, confidence) in enumerate(read([Paint(paint, palette)], sizes)):
        ((alone, alone_confidence),) = read([Paint(paint[i : i + 1], palette)], sizes[i : i + 1])
        np.testing.assert_array_equal(mask, alone)
        np.testing.assert_array_equal(confidence, alone_confidence)


def test_small_queries_average_rather_than_skip() -> None:
    """Every fourth column marked: at a quarter of the size a quarter of the votes, so background everywhere."""
    palette = Palette.spread([1])
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 1::4] = 1
    ((small, confidence),) = read([Paint(painted(mask, palette), palette)], [(8, 8)])
    assert not small.any()
    assert 0.3 < confidence.mean() < 0.7


def test_pixels_half_way_still_choose_the_nearest_row() -> None:
    palette = Palette.spread([1])
    grey = tensor(np.full((8, 8, 3), 128, np.uint8))[None]
    assert read([Paint(grey, palette)], [(20, 20)])[0][0].all()


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((1, 3, 8, 8), []), ((2, 3, 8, 8), [(8, 8)]), ((1, 4, 8, 8), [(8, 8)]), ((3, 8, 8), [(8, 8)] * 3)],
)
def test_what_cannot_be_read(shape: tuple[int, ...], sizes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"expected paint \(B, 3, side, side\) and B sizes"):
        read([Paint(torch.zeros(shape), Palette.spread([1]))], sizes)


@pytest.mark.gpu
def test_a_gpu_reads_what_the_cpu_reads() -> None:
    palette = Palette.spread(range(1, 9))
    paint = painted(blocks(list(range(9)), 64, 8), palette, noise=0.5)
    sizes = [(64, 64)], [(300, 500)], [(20, 30)], [(200, 30)]
    for size in sizes:
        ((mask, confidence),) = read([Paint(paint, palette)], size)
        ((other, other_confidence),) = read([Paint(paint.cuda(), palette)], size)
        assert (mask != other).mean() < 1e-3
        np.testing.assert_allclose(confidence, other_confidence, atol=1e-3)


# --- groups of ids, mosaics


def test_of_the_groups_that_claim_a_pixel_the_surest_has_it() -> None:
    first, second = Palette.spread([1, 2]), Palette.spread([8, 9])
    one, other = np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.uint8)
    one[:8], one[8:12, :8], other[4:, 8:] = 1, 2, 9
    faded = (painted(other, second) - tensor(np.zeros((16, 16, 3), np.uint8))) * 0.8 + tensor(
        np.zeros((16, 16, 3), np.uint8)
    )
    ((mask, confidence),) = read([Paint(painted(one, first), first), Paint(faded, second)], [(16, 16)])
    expected = np.where(one > 0, one, other)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_allclose(confidence[one > 0], 1, atol=1e-5)
    assert (confidence[(one == 0) & (other > 0)] < 0.9).all()
    ((mask, _),) = read([Paint(faded, second), Paint(painted(one, first), first)], [(16, 16)])
    np.testing.assert_array_equal(mask, expected)  # in whichever order they come


@pytest.mark.parametrize("shots", range(1, 17))
def test_a_mosaic_shows_every_prompt_and_repeats_them_in_spare_cells(shots: int) -> None:
    prompts = [
        Prompt(np.full((20 + i, 30, 3), 10 * i + 5, np.uint8), np.full((20 + i, 30), i + 1, np.uint8))
        for i in range(shots)
    ]
    palette = Palette.spread(range(1, 17))
    image, paint = mosaic(prompts, palette, 50)
    n = math.ceil(math.sqrt(shots))
    assert image.shape == paint.shape == (50, 50, 3)
    ids, _ = nearest(paint, palette)
    for cell in range(n * n):
        row, column = (round((at + 0.5) * 50 / n) for at in divmod(cell, n))
        assert ids[row, column] == cell % shots + 1
        assert image[row, column, 0] == 10 * (cell % shots) + 5
    assert (np.bincount(ids.ravel(), minlength=17)[1 : shots + 1] > 0).all()
    assert not (ids == 0).any()


def test_ids_without_a_colour_are_background() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:4], mask[4:6], mask[6:] = 1, 2, 255
    paint = mosaic([Prompt(np.zeros((8, 8, 3), np.uint8), mask)], Palette.spread([2]), 8)[1]
    np.testing.assert_array_equal(paint[..., 0] > 0, mask == 2)
