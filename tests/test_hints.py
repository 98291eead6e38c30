"""Hints: what users may say of an image, what is refused, files, and which patches of the mask they reveal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import incontext
from incontext.canvas.hints import middles, outside, patch_of, reveal, reveal_pixels
from incontext.canvas.windows import Window
from incontext.hint_files import load_many, save_many
from incontext.hints import Hints
from incontext.images.read import read_image

NOTHING = 255
SQUARE = [(16.0, 16.0), (48.0, 16.0), (48.0, 48.0), (16.0, 48.0)]


def scribbled(size: tuple[int, int], places: dict[tuple[int, int], int]) -> np.ndarray:
    """A mask (H, W) with ids at some (row, column), 255 elsewhere."""
    mask = np.full(size, NOTHING, np.uint8)
    for place, i in places.items():
        mask[place] = i
    return mask


def told(said: np.ndarray) -> dict[tuple[int, int], int]:
    """What is said, by row and column."""
    return {(int(row), int(column)): int(said[row, column]) for row, column in np.argwhere(said != NOTHING)}


# --- what users hold


def test_hints_are_a_public_name_and_tell_what_they_are_made_of() -> None:
    mask = scribbled((64, 64), {(5, 5): 2, (6, 5): 0})
    hints = incontext.Hints(points=[(1, 2, 3)], boxes=[(0, 0, 10, 12, 1)], polygons=[(SQUARE, 7)], scribbles=mask)
    assert hints.points == ((1, 2, 3),)
    assert hints.boxes == ((0, 0, 10, 12, 1),)
    assert hints.polygons == ((tuple(SQUARE), 7),)
    np.testing.assert_array_equal(hints.scribbles, mask)
    assert hints.ids == (1, 2, 3, 7)


def test_hints_do_not_change_with_the_array_that_they_were_made_of() -> None:
    mask = scribbled((8, 8), {(0, 0): 1})
    hints = Hints(scribbles=mask)
    mask[:] = 2
    assert hints.scribbles is not None
    assert hints.ids == (1,)
    with pytest.raises(ValueError, match="read-only"):
        hints.marks[0].mask[0, 0] = 5  # type: ignore[union-attr]


def test_plus_joins_in_order_and_the_later_scribble_lies_over_the_earlier() -> None:
    first = Hints(points=[(1, 1, 1)], scribbles=scribbled((8, 8), {(0, 0): 1, (0, 1): 1}))
    second = Hints(points=[(2, 2, 2)], scribbles=scribbled((8, 8), {(0, 1): 2}))
    both = first + second
    assert both.points == ((1, 1, 1), (2, 2, 2))
    assert both.scribbles is not None
    assert both.scribbles[0, :3].tolist() == [1, 2, NOTHING]
    assert first.ids == (1,)
    with pytest.raises(TypeError):
        first + 1  # type: ignore[operator]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "expected at least one point"),
        ({"points": [(1, 2)]}, r"expected a point \(x, y, id\) as numbers"),
        ({"points": [(1, 2, 3, 4)]}, "expected a point"),
        ({"points": ["120"]}, "expected a point"),
        ({"points": [(float("nan"), 2, 1)]}, "finite"),
        ({"points": [(float("inf"), 2, 1)]}, "finite"),
        ({"points": [(-1, 2, 1)]}, "pixels from 0, got a point"),
        ({"points": [(1, 2, 255)]}, "255, which says nothing"),
        ({"points": [(1, 2, 300)]}, "0..254"),
        ({"points": [(1, 2, -1)]}, "0..254"),
        ({"points": [(1, 2, 1.5)]}, "whole number"),
        ({"points": [(1, 2, True)]}, "expected a point"),
        ({"boxes": [(5, 5, 5, 9, 1)]}, "left below right"),
        ({"boxes": [(0, 9, 5, 3, 1)]}, "top below bottom"),
        ({"boxes": [(-2, 0, 5, 3, 1)]}, "pixels from 0"),
        ({"polygons": [([(0, 0), (1, 1)], 1)]}, "at least 3 corners"),
        ({"polygons": [([0, 1, 2], 1)]}, "expected a polygon"),
        ({"polygons": [(SQUARE, 255)]}, "255"),
        ({"scribbles": np.full((4, 4), 255)}, "255 everywhere"),
        ({"scribbles": np.zeros((4, 4, 3))}, r"expected ids \(H, W\)"),
        ({"scribbles": np.full((4, 4), 0.5)}, "integer ids"),
    ],
)
def test_what_cannot_be_a_hint_is_refused_in_a_sentence(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Hints(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hints", "got"),
    [
        (Hints(points=[(64, 3, 1)]), r"a point \(64, 3\)"),
        (Hints(points=[(3, 48, 1)]), r"a point \(3, 48\)"),
        (Hints(boxes=[(0, 0, 65, 10, 1)]), r"a box \(0, 0, 65, 10\)"),
        (Hints(polygons=[([(0, 0), (10, 0), (10, 49)], 1)]), "a polygon"),
        (Hints(scribbles=scribbled((64, 48), {(0, 0): 1})), "got 48 x 64"),
    ],
)
def test_hints_outside_of_the_image_are_refused(hints: Hints, got: str) -> None:
    with pytest.raises(ValueError, match=rf"64 x 48 \(width x height\), got {got}|{got}"):
        hints.check((48, 64))


def test_edges_may_run_along_the_images_own() -> None:
    Hints(boxes=[(0, 0, 64, 48, 1)], polygons=[([(0, 0), (64, 0), (64, 48)], 1)], points=[(63.9, 47.9, 1)]).check(
        (48, 64)
    )


# --- files


def test_hints_come_back_from_their_file_in_the_same_order(tmp_path: Path) -> None:
    mask = scribbled((30, 40), {(2, 3): 9, (2, 4): 0})
    hints = Hints(points=[(1.5, 2, 3)], boxes=[(0, 0, 10, 12, 1)]) + Hints(
        boxes=[(1, 1, 5, 5, 0)], polygons=[(SQUARE, 7)], scribbles=mask
    )
    hints.save(tmp_path / "hints.json")
    back = Hints.load(tmp_path / "hints.json")
    assert back.boxes == hints.boxes
    assert back.points == hints.points
    assert back.polygons == hints.polygons
    np.testing.assert_array_equal(back.scribbles, mask)
    assert [type(mark) for mark in back.marks] == [type(mark) for mark in hints.marks]


def test_hints_can_be_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "hints.json").write_text('{"points": [[120, 80, 1], [10, 10, 0]], "boxes": [[20, 30, 200, 180, 1]]}')
    hints = Hints.load(tmp_path / "hints.json")
    assert hints.points == ((120, 80, 1), (10, 10, 0))
    assert hints.boxes == ((20, 30, 200, 180, 1),)


def test_hints_of_several_images_share_a_file(tmp_path: Path) -> None:
    save_many(tmp_path / "hints.json", {"a/b.jpg": Hints(points=[(1, 2, 1)]), "c.jpg": Hints(points=[(3, 4, 0)])})
    both = load_many(tmp_path / "hints.json")
    assert {name: hints.points for name, hints in both.items()} == {"a/b.jpg": ((1, 2, 1),), "c.jpg": ((3, 4, 0),)}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "expected hints as JSON"),
        ("3", "expected hints as an object"),
        ("[]", "at least one mark"),
        ("{}", "at least one point"),
        ('{"point": [[1, 2, 3]]}', "with points, boxes, polygons or scribbles"),
        ('{"points": [[1, 2]]}', "expected a point"),
        ('{"points": 5}', "numbers in lists"),
        ('{"polygons": [[1, 2]]}', "numbers in lists"),
        ('{"scribbles": {"size": [2, 2], "ids": {"1": "zz"}}}', "runs"),
        ('{"scribbles": {"size": [2, 2], "ids": {"300": "04"}}}', "0..254"),
    ],
)
def test_a_file_that_holds_no_hints_is_refused_by_its_name(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "hints.json").write_text(content)
    with pytest.raises(ValueError, match=rf"hints\.json.*{sentence}"):
        Hints.load(tmp_path / "hints.json")


def test_files_that_are_missing_or_of_one_image_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a file of hints"):
        Hints.load(tmp_path / "none.json")
    (tmp_path / "one.json").write_text(json.dumps({"points": [[1, 2, 1]]}))
    with pytest.raises(ValueError, match="by the names of images"):
        load_many(tmp_path / "one.json")
    (tmp_path / "bad.json").write_text(json.dumps({"a.jpg": {"points": [[1, 2, 999]]}}))
    with pytest.raises(ValueError, match=r"bad\.json, a\.jpg: .*0\.\.254"):
        load_many(tmp_path / "bad.json")


# --- which patches they reveal


def test_a_point_reveals_the_patch_of_its_pixel_with_what_the_pixel_is() -> None:
    said = reveal(Hints(points=[(17, 40, 3), (63.9, 0, 0)]), (64, 64), 8, [3])
    assert told(said) == {(5, 2): 3, (0, 7): 0}


@pytest.mark.parametrize("size", [(64, 64), (100, 37), (5, 7), (641, 479)])
def test_hints_on_the_border_reveal_the_patches_at_the_border(size: tuple[int, int]) -> None:
    height, width = size
    corners = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)]
    said = reveal(Hints(points=[(x, y, 1) for x, y in corners]), size, 8, [1])
    rows = {patch_of(x, y, size, 8) for x, y in corners}
    assert set(told(said)) == rows
    if min(size) >= 8:
        assert rows == {(0, 0), (0, 7), (7, 0), (7, 7)}


def test_a_patch_is_told_by_its_own_pixels_whatever_the_images_shape() -> None:
    size = (123, 311)
    for y, x in [(0, 0), (61, 200), (122, 310), (37, 5)]:
        row, column = patch_of(x, y, size, 20)
        assert row <= (y + 0.5) * 20 / 123 < row + 1
        assert column <= (x + 0.5) * 20 / 311 < column + 1
    for row, y in enumerate(middles(size, 20)[0]):
        assert patch_of(0, y, size, 20)[0] == row


def test_the_later_hint_wins() -> None:
    two = Hints(points=[(17, 40, 3), (18, 41, 0)])
    assert told(reveal(two, (64, 64), 8, [3])) == {(5, 2): 0}
    turned = Hints(points=[(18, 41, 0)]) + Hints(points=[(17, 40, 3)])
    assert told(reveal(turned, (64, 64), 8, [3])) == {(5, 2): 3}
    over = Hints(polygons=[(SQUARE, 1)], points=[(20, 20, 0)])
    assert reveal(over, (64, 64), 8, [1])[2, 2] == 0
    under = over + Hints(polygons=[(SQUARE, 1)])
    assert reveal(under, (64, 64), 8, [1])[2, 2] == 1


def test_a_hint_of_another_group_is_background_there() -> None:
    hints = Hints(points=[(4, 4, 3), (60, 60, 9)])
    assert told(reveal(hints, (64, 64), 8, [1, 2, 3])) == {(0, 0): 3, (7, 7): 0}
    assert told(reveal(hints, (64, 64), 8, [9])) == {(0, 0): 0, (7, 7): 9}


def test_a_box_reveals_what_is_wholly_outside_and_its_middle() -> None:
    said = reveal(Hints(boxes=[(12, 20, 40, 44, 2)]), (64, 64), 8, [2])
    inside = np.zeros((8, 8), np.bool_)
    inside[2:6, 1:5] = True
    assert (said[~inside] == 0).all()
    assert told(np.where(inside, said, NOTHING)) == {(4, 3): 2}


def test_boxes_confine_only_what_they_are_about() -> None:
    one = Hints(boxes=[(16, 16, 32, 32, 1)])
    assert told(reveal(one, (64, 64), 8, [1, 2])) == {(3, 3): 1}  # 2 may be anywhere
    both = one + Hints(boxes=[(32, 16, 48, 32, 2)])
    said = reveal(both, (64, 64), 8, [1, 2])
    assert (said[2:4, 2:6] != 0).all()
    assert (said == 0).sum() == 64 - 8
    twice = one + Hints(boxes=[(48, 48, 64, 64, 1)])
    assert (reveal(twice, (64, 64), 8, [1]) == 0).sum() == 64 - 8


def test_what_lies_outside_of_boxes_gives_way_to_what_is_pointed_at() -> None:
    hints = Hints(points=[(60, 60, 1)]) + Hints(boxes=[(0, 0, 16, 16, 1)])
    assert reveal(hints, (64, 64), 8, [1])[7, 7] == 1


def test_a_box_of_not_this_reveals_only_what_is_wholly_inside() -> None:
    assert told(reveal(Hints(boxes=[(12, 16, 33, 32, 0)]), (64, 64), 8, [1])) == {
        (row, column): 0 for row in (2, 3) for column in (2, 3)
    }


def test_a_polygon_reveals_patches_by_their_middles_and_a_thin_one_those_that_it_touches() -> None:
    assert told(reveal(Hints(polygons=[(SQUARE, 4)]), (64, 64), 8, [4])) == {
        (row, column): 4 for row in range(2, 6) for column in range(2, 6)
    }
    thin = [(0.0, 1.0), (64.0, 1.0), (64.0, 2.0), (0.0, 2.0)]
    assert told(reveal(Hints(polygons=[(thin, 4)]), (64, 64), 8, [4])) == {(0, column): 4 for column in range(8)}
    tiny = [(20.6, 30.6), (20.8, 30.6), (20.8, 30.8)]  # between the middles of pixels
    assert told(reveal(Hints(polygons=[(tiny, 4)]), (64, 64), 8, [4])) == {(3, 2): 4}


def test_scribbles_reveal_what_they_touch_and_the_pixel_nearest_to_the_middle_decides() -> None:
    mask = scribbled((64, 64), {(0, 0): 1, (3, 3): 2, (7, 7): 1, (63, 20): 0})
    assert told(reveal(Hints(scribbles=mask), (64, 64), 8, [1, 2])) == {(0, 0): 2, (7, 2): 0}
    rng = np.random.default_rng(0)
    pointed = np.where(rng.random((90, 50)) < 0.02, rng.integers(0, 4, (90, 50)), NOTHING).astype(np.uint8)
    expected = np.full((8, 8), NOTHING)
    best = np.full((8, 8), np.inf)
    for y, x in np.argwhere(pointed != NOTHING):
        patch = patch_of(x, y, (90, 50), 8)
        away = ((y + 0.5) * 8 / 90 - patch[0] - 0.5) ** 2 + ((x + 0.5) * 8 / 50 - patch[1] - 0.5) ** 2
        if away < best[patch] - 1e-12:
            best[patch], expected[patch] = away, pointed[y, x]
    np.testing.assert_array_equal(reveal_pixels(pointed, 8) == NOTHING, expected == NOTHING)
    assert (reveal_pixels(pointed, 8) == expected).mean() > 0.95  # equally near ones may differ


def test_hints_inside_a_window_are_those_that_it_shows() -> None:
    size, window = (200, 300), Window(100, 200, 64, 64)
    hints = Hints(points=[(210, 110, 1), (10, 10, 1), (199, 110, 1)], boxes=[(216, 116, 248, 148, 1)])
    said = reveal(hints, size, 8, [1], window=window)
    assert said[1, 1] == 1
    assert said[4, 4] == 1  # the middle of the box
    assert said[7, 7] == 0
    elsewhere = reveal(hints, size, 8, [1], window=Window(0, 0, 64, 64))
    assert told(elsewhere).pop((1, 1)) == 1
    assert (elsewhere == 0).sum() == 63  # the box is in another window
    whole = scribbled(size, {(130, 230): 1})
    assert told(reveal(Hints(scribbles=whole), size, 8, [1], window=window)) == {(3, 3): 1}
    area = [(216.0, 116.0), (248.0, 116.0), (248.0, 148.0), (216.0, 148.0)]
    assert told(reveal(Hints(polygons=[(area, 1)]), size, 8, [1], window=window)) == {
        (row, column): 1 for row in range(2, 6) for column in range(2, 6)
    }


def test_hints_that_do_not_fit_the_image_reveal_nothing_but_an_error() -> None:
    with pytest.raises(ValueError, match="within the image, 64 x 64"):
        reveal(Hints(points=[(64, 0, 1)]), (64, 64), 8, [1])


def test_hints_are_in_the_pixels_of_a_photograph_as_people_see_it(tmp_path: Path) -> None:
    upright = np.zeros((40, 80, 3), np.uint8)
    upright[3, 70] = 255  # row 3, column 70
    turned = Image.fromarray(np.rot90(upright))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    seen = read_image(tmp_path / "turned.png")
    assert seen.shape == (40, 80, 3)
    row, column = np.argwhere(seen[..., 0] == 255)[0]
    said = reveal(Hints(points=[(column, row, 1)]), (40, 80), 8, [1])
    assert told(said) == {(3 * 8 // 40, 70 * 8 // 80): 1}


def test_patches_outside_of_boxes_are_those_that_no_box_touches() -> None:
    away = outside([(8.0, 8.0, 16.1, 16.0)], (64, 64), 8)
    assert set(map(tuple, np.argwhere(~away).tolist())) == {(1, 1), (1, 2)}
    assert outside([], (64, 64), 8).all()
    assert outside([(-50, -50, -10, -10)], (64, 64), 8).all()
