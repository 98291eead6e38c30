"""The one way in which images and masks change size, against Pillow itself."""

import numpy as np
import pytest
from PIL import Image

from incontext.images.ids import ids_in
from incontext.images.resize import averaged, cells, mosaic, resized, resized_mask, shrunk, shrunk_pair, shrunk_size

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (37, 61, 3), np.uint8)
MASK = RNG.integers(0, 5, (37, 61)).astype(np.uint8)


@pytest.mark.parametrize("size", [(24, 24), (80, 30), (1, 1)])
def test_sizes_are_rows_and_columns_and_filters_are_pillow_s(size: tuple[int, int]) -> None:
    image, mask = Image.fromarray(IMAGE), Image.fromarray(MASK)
    np.testing.assert_array_equal(resized(IMAGE, size), np.asarray(image.resize(size[::-1])))
    np.testing.assert_array_equal(
        resized_mask(MASK, size), np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST))
    )
    np.testing.assert_array_equal(averaged(IMAGE, size), np.asarray(image.resize(size[::-1], Image.Resampling.BOX)))


def test_what_has_the_size_is_returned_itself() -> None:
    assert resized(IMAGE, (37, 61)) is IMAGE
    assert resized_mask(MASK, (37, 61)) is MASK
    assert shrunk(IMAGE, 61) is IMAGE


def test_values_of_masks_may_be_floats_or_colours() -> None:
    confidence = RNG.random((20, 30), np.float32)
    assert set(np.unique(resized_mask(confidence, (7, 9)))) <= set(np.unique(confidence))
    assert resized_mask(IMAGE, (5, 6)).shape == (5, 6, 3)


def test_shrinking_keeps_the_shape_and_never_enlarges() -> None:
    assert shrunk_size((100, 50), longest=10) == (10, 5)
    assert shrunk_size((100, 50), shortest=10) == (20, 10)
    assert shrunk_size((100, 50), longest=500) == (100, 50)
    assert shrunk_size((1000, 1), longest=10) == (10, 1)


def test_a_pair_is_shrunk_unless_an_id_gets_lost() -> None:
    image, mask = np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100), np.uint8)
    mask[:50] = 1
    small = shrunk_pair(image, mask, 10)
    assert (small[0].shape, small[1].shape) == ((10, 10, 3), (10, 10))
    mask[99, 99] = 7
    kept = shrunk_pair(image, mask, 10)
    assert kept[0] is image
    assert ids_in(kept[1]) == (1, 7)


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 2), (3, 3)])
def test_cells_cover_a_square_once(grid: tuple[int, int]) -> None:
    covered = np.zeros((50, 50), int)
    for at in cells(grid, 50):
        covered[at] += 1
    assert (covered == 1).all()


def test_a_mosaic_squeezes_each_image_to_its_cell_and_cuts_what_nearly_fits() -> None:
    images = [(np.full((8, 8, 3), 10 * n, np.uint8), np.full((8, 8), n, np.uint8)) for n in (1, 2)]
    image, mask = mosaic(images, (2, 2), 10)
    assert mask[:5, :5].tolist() == mask[5:, :5].tolist() == np.full((5, 5), 1).tolist()
    assert (image[:, 5:] == 20).all()
    nearly = np.arange(36, dtype=np.uint8).reshape(6, 6)
    _, cut = mosaic([(np.zeros((6, 6, 3), np.uint8), nearly)], (1, 1), 5, cut=1)
    np.testing.assert_array_equal(cut, nearly[:5, :5])
