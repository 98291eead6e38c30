"""Synthetic scenes: repeatable, labelled alike in both images, masks on the things themselves, varied."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from incontext.training.scenes import move_cutouts, render_clip, scene, shapes
from incontext.training.scenes.layers import Ground, Things
from incontext.training.scenes.looks import Look, View, Wardrobe


@pytest.mark.parametrize("side", [16, 64, 100])
def test_shapes_dtypes_and_ids(side: int) -> None:
    images, masks = scene.render_pair(np.random.default_rng(0), side)
    assert images.shape == (2, side, side, 3)
    assert masks.shape == (2, side, side)
    assert images.dtype == masks.dtype == np.uint8
    assert masks.max() < 255


def test_the_seed_is_all_that_matters() -> None:
    first, second = ([scene.render_pair(rng, 48) for _ in range(30)] for rng in map(np.random.default_rng, (7, 7)))
    for (images, masks), (other_images, other_masks) in zip(first, second, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(masks, other_masks)
    assert not np.array_equal(first[0][0], scene.render_pair(np.random.default_rng(8), 48)[0])


def test_too_small_a_side_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 pixels"):
        scene.render_pair(np.random.default_rng(0), 8)


def test_pairs_share_kinds_and_differ_in_place() -> None:
    rng, shared_ids, moved, areas = np.random.default_rng(1), 0, 0, []
    for _ in range(100):
        _, (first, second) = scene.render_pair(rng, 48)
        common = (set(np.unique(first)) & set(np.unique(second))) - {0}
        shared_ids += bool(common)
        moved += not np.array_equal(first, second)
        areas += [float((first == i).mean()) for i in common]
    assert shared_ids > 85
    assert moved > 95
    assert min(areas) < 0.005
    assert max(areas) > 0.5


@pytest.mark.parametrize("compose", scene._SCENES, ids=lambda compose: compose.__name__)
def test_every_scene_marks_something(compose: scene.Compose) -> None:
    rng, found = np.random.default_rng(2), 0
    for _ in range(8):
        view = View(rng, 48, 0.5, False, {})
        for layer in compose(Wardrobe(rng, grey=False, contrast=1.0)):
            layer.draw(view)
        found += len(set(np.unique(np.asarray(view.ids))) - {0})
    assert found >= 8


def flat(value: float) -> Look:
    return Look("flat", np.full((256, 3), value), 0.1, 0.0, 0.0)


@pytest.mark.parametrize("build", [*shapes.SIMPLE, *shapes.COMPOSITE], ids=lambda build: build.__name__)
def test_masks_lie_exactly_on_the_things(build: shapes.Builder) -> None:
    """White things on black: a pixel has the id exactly where it is at least half white."""
    rng = np.random.default_rng(3)
    view = View(rng, 96, 0.0, False, {})
    white = (flat(255.0),) * 4
    for layer in (Ground(flat(0.0), flat(0.0)), Things(build, rng.random(8), white, (5,) * 4, 0.4, (1, 1))):
        layer.draw(view)
    ids, grey = np.asarray(view.ids), np.asarray(view.image.convert("L"))
    assert set(np.unique(ids)) == {0, 5}
    agree = (ids == 5) == (grey >= 128)
    assert agree.mean() > 0.995  # parts that overlap add up to more than half where none covers half alone
    assert agree[np.isin(grey, (0, 255))].all()


@pytest.mark.parametrize("build", [*shapes.SIMPLE, *shapes.COMPOSITE], ids=lambda build: build.__name__)
def test_outlines_keep_to_the_unit_frame(build: shapes.Builder) -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        parts = build(rng, rng.random(8))
        points = np.concatenate([outline for _, outline in parts])
        assert np.abs(points).max() < 1.2
        assert np.ptp(points, axis=0).max() > 0.3
        assert all(0 <= look < 4 for look, _ in parts)


def test_shadows_darken_and_do_not_label() -> None:
    rng = np.random.default_rng(5)
    view = View(rng, 32, 0.0, False, {})
    Ground(flat(200.0), flat(200.0), label=3).draw(view)
    view.darken(Image.new("L", (8, 8), 255), (4, 4), 0.5)
    grey = np.asarray(view.image.convert("L"))
    assert grey[5, 5] < 120 < grey[20, 20]
    assert (np.asarray(view.ids) == 3).all()


def test_the_second_view_may_stand_on_other_ground_and_wear_other_coats() -> None:
    layers = (
        Ground(flat(0.0), flat(90.0)),
        Things(shapes.ellipse, np.full(8, 0.9), (flat(255.0),), (1,), 0.6, (1, 1), repaint=(flat(180.0),)),
    )
    greys = []
    for second in (False, True):
        view = View(np.random.default_rng(6), 48, 0.0, second, {})
        for layer in layers:
            layer.draw(view)
        ids, grey = np.asarray(view.ids), np.asarray(view.image.convert("L"))
        greys.append((int(np.median(grey[ids == 0])), int(np.median(grey[ids == 1]))))
    assert greys == [(0, 255), (90, 180)]


# --- videos


def test_a_clip_is_seeded_and_its_things_move_and_stay_what_they_are() -> None:
    first, again = (list(render_clip(np.random.default_rng(3), (40, 60), 8, every=4)) for _ in range(2))
    for (image, mask), (other_image, other_mask) in zip(first, again, strict=True):
        assert image.shape == (40, 60, 3)
        assert mask.shape == (40, 60)
        assert image.dtype == mask.dtype == np.uint8
        np.testing.assert_array_equal(image, other_image)
        np.testing.assert_array_equal(mask, other_mask)
    moved, drift = [], []
    for seed in range(12):
        frames = list(render_clip(np.random.default_rng(seed), (48, 64), 2, things=1))
        (one, mask), (two, later) = frames
        if min(mask.sum(), later.sum()) < 60:
            continue
        moved.append(not np.array_equal(mask, later))
        drift.append(float(np.abs(one[mask == 1].mean(axis=0) - two[later == 1].mean(axis=0)).max()))
    assert len(moved) >= 6
    assert sum(moved) >= len(moved) - 1
    assert np.median(drift) < 8  # the thing's own colours, one frame later


def test_the_mask_of_a_clip_is_where_the_thing_is() -> None:
    marked, differing = 0, 0
    for seed in range(6):
        for image, mask in render_clip(np.random.default_rng(seed), (64, 64), 3, every=9, things=2):
            assert set(np.unique(mask)) <= {0, 1, 2}
            marked += int((mask > 0).sum())
            inside, outside = image[mask > 0].astype(float), image[mask == 0].astype(float)
            if len(inside) > 100 and len(outside):
                differing += bool(np.abs(np.median(inside, axis=0) - np.median(outside, axis=0)).max() > 12)
    assert marked > 2000
    assert differing >= 8


def test_every_nth_frame_is_the_same_as_in_the_whole_clip_but_for_noise() -> None:
    whole = [mask for _, mask in render_clip(np.random.default_rng(1), (40, 40), 9)]
    some = [mask for _, mask in render_clip(np.random.default_rng(1), (40, 40), 3, every=4)]
    for mask, expected in zip(some, whole[::4], strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_cutouts_of_photographs_move_before_another() -> None:
    scene, thing = np.full((50, 90, 3), 60, np.uint8), np.full((40, 30, 3), 10, np.uint8)
    cover = np.zeros((40, 30), np.bool_)
    cover[8:30, 5:25] = True
    thing[cover] = 200
    frames = list(move_cutouts(np.random.default_rng(2), (48, 64), 6, scene, [(thing, cover)], every=8))
    assert len({mask.tobytes() for _, mask in frames}) == 6
    for image, mask in frames:
        assert set(np.unique(mask)) <= {0, 1}
        assert image[mask == 0].mean() < 90  # nothing of what was around it comes along
        assert image[mask == 1].mean() > 150


def test_a_clip_of_nothing_is_refused() -> None:
    for size, things, match in (((8, 40), 1, "16 x 16"), ((40, 40), 0, "1 to 254"), ((40, 40), 255, "1 to 254")):
        with pytest.raises(ValueError, match=match):
            next(render_clip(np.random.default_rng(0), size, 1, things=things))
    image = np.zeros((40, 40, 3), np.uint8)
    for cutouts in ([], [(image, np.zeros((40, 40), np.bool_))]):
        with pytest.raises(ValueError, match="things that cover something"):
            next(move_cutouts(np.random.default_rng(0), (40, 40), 1, image, cutouts))
