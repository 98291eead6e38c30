"""Which images and ids an episode asks for: absence, mosaics, hints, balance, and how images are changed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from incontext.learning.augmentation import (
    NO_AUGMENTATION,
    Augmentation,
    Cut,
    bend,
    choose_box,
    degrade,
    empty_box,
    view,
)
from incontext.learning.light import AS_IT_IS, draw_light, lit, shine
from incontext.training.coloring import Coloring, paint_episode
from incontext.training.episodes import EpisodeSource, Sampling, Sight, tile
from incontext.training.hints import reveal
from incontext.training.scenes import render_views
from incontext.training.sets import ImageSet

PLAIN = Sampling(
    rendered=0.0, two_views=0.0, absent=0.0, mosaic=0.0, whole_images=1.0, augmentation=NO_AUGMENTATION, single_id=1.0
)


def squares(values: list[list[int]], *, name: str = "squares", regions: bool = False, size: int = 48) -> ImageSet:
    """An image per list: for each id in it one square, 10 pixels wide, whose red is 40 times the id; the rest grey."""
    images, masks = [], []
    for ids in values:
        image, mask = np.full((size, size, 3), 128, np.uint8), np.zeros((size, size), np.uint8)
        for place, i in enumerate(ids):
            top, left = 4 + 22 * (place // 2), 4 + 22 * (place % 2)
            image[top : top + 10, left : left + 10] = (40 * i, 0, 0)
            mask[top : top + 10, left : left + 10] = i
        images.append(image)
        masks.append(mask)
    return ImageSet(name, regions, tuple(images), tuple(masks))


def reds(image: np.ndarray) -> set[int]:
    """Which ids' squares an image of `squares` shows."""
    dark = image[..., 1] < 10
    return {round(int(red) / 40) for red in np.unique(image[dark][:, 0])}


# --- several prompts


@pytest.mark.parametrize("regions", [False, True])
def test_every_prompt_of_an_episode_shows_what_is_asked(regions: bool) -> None:
    source = EpisodeSource([squares([[1, 2], [2, 1], [1], [3, 1], [2], [1]], regions=regions)], PLAIN, side=48, seed=0)
    images = set()
    for i in range(30):
        episode = source.draw(i, shots=3)
        assert episode.images.shape == (4, 48, 48, 3)
        assert episode.masks.shape == (4, 48, 48)
        asked = [reds(np.where((mask == 1)[..., None], image, 255)) for image, mask in
                 zip(episode.images, episode.masks, strict=True)]  # fmt: skip
        assert len(asked[0]) == 1
        assert all(each == asked[0] for each in asked)
        images.add(len({image.tobytes() for image in episode.images}))
    assert max(images) == 4
    for i in range(30):
        np.testing.assert_array_equal(source.draw(i).images, source[i].images)


def test_with_several_prompts_an_absent_thing_is_nowhere_in_the_query() -> None:
    sets = [squares([[1, 2], [2], [1], [2, 1], [1, 2]])]
    for rendered in (0.0, 1.0):
        source = EpisodeSource(sets, replace(PLAIN, rendered=rendered, absent=1.0), side=48, seed=1)
        for i in range(30):
            masks = source.draw(i, shots=2).masks
            assert all((mask == 1).any() for mask in masks[:2]) or rendered
            assert not masks[2].any()


# --- absence


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("rendered", [0.0, 1.0])
def test_where_the_thing_is_absent_the_answer_is_black(regions: bool, rendered: float) -> None:
    source = EpisodeSource(
        [squares([[1, 2], [2], [1], [3, 1]], regions=regions)],
        Sampling(rendered=rendered, absent=1.0),
        side=32,
        seed=0,
    )
    for i in range(60):
        prompt, query = source[i].masks
        assert (prompt > 0).any()
        assert not ((query > 0) & (query < 255)).any()


def test_an_absent_thing_is_nowhere_in_the_query() -> None:
    """From the same set without the id, from beside it, from another domain: never an image that shows it."""
    sets = [squares([[1, 2], [2], [1], [2, 1], [1, 2]]), squares([[5], [6]], name="far"), squares([[1]], name="near")]
    sampling = replace(PLAIN, absent=1.0, domains=(("squares", "near"), ("far",)))
    source = EpisodeSource(sets, sampling, side=48, seed=0)
    places = set()
    for i in range(150):
        episode = source[i]
        asked = reds(np.where((episode.masks[0] > 0)[..., None], episode.images[0], 255))
        shown = reds(episode.images[1]) if (episode.images[1] == (128, 128, 128)).all(-1).mean() > 0.3 else {99}
        assert not asked & shown
        places.add("rendered" if 99 in shown else "far" if shown & {5, 6} else "same" if shown else "beside")
    assert places == {"far", "same", "beside"}  # drawings only where there is no other domain


def test_unknown_sets_are_never_taken_for_another_domain() -> None:
    sets = [squares([[1]]), squares([[1]], name="also")]
    for domains in ((), (("squares", "also"),), (("squares",), ("else",)), (("squares", "also"), ("also",))):
        assert EpisodeSource(sets, replace(PLAIN, domains=domains), side=32, seed=0).foreign == [[], []]


def test_a_set_may_belong_to_several_domains() -> None:
    sets = [squares([[1]], name=name) for name in ("a", "b", "both", "c")]
    sampling = replace(PLAIN, domains=(("a", "both"), ("b", "both"), ("c",)))
    assert EpisodeSource(sets, sampling, side=32, seed=0).foreign == [[1, 3], [0, 3], [3], [0, 1, 2]]


def test_rendered_images_can_lack_a_layer_of_their_scene() -> None:
    gone = 0
    for seed in range(30):
        _, first, second = render_views(np.random.default_rng(seed), (48, 48, 32), without=(1, 2))
        assert second[0].shape == (32, 32, 3)
        kept = render_views(np.random.default_rng(seed), (48,))[0]
        gone += bool(set(np.unique(kept[1])) - set(np.unique(first[1])) - set(np.unique(second[1])))
    assert gone > 15


# --- mosaics


def test_tiles_fill_the_square_row_by_row_and_repeat() -> None:
    cells = [Sight(np.full((43, 43, 3), 10 * k, np.uint8), np.full((43, 43), k, np.uint8)) for k in (1, 2, 3, 4)]
    image, mask, _ = tile(cells, (3, 3), 128)
    assert image.shape == (128, 128, 3)
    assert [mask[20 + 43 * (k // 3), 20 + 43 * (k % 3)] for k in range(9)] == [1, 2, 3, 4, 1, 2, 3, 4, 1]
    np.testing.assert_array_equal(image[..., 0], 10 * mask)
    wide = Sight(np.zeros((43, 43, 3), np.uint8), np.tile(np.arange(43, dtype=np.uint8), (43, 1)))
    np.testing.assert_array_equal(np.unique(tile([wide, wide], (2, 1), 64).mask), np.arange(43))


def test_mosaics_show_the_ids_in_every_cell_and_mostly_in_the_prompt() -> None:
    source = EpisodeSource([squares([[1]] * 4)], replace(PLAIN, mosaic=1.0), side=96, seed=0)
    several = np.zeros((30, 2), int)
    for i in range(30):
        for half, mask in enumerate(source[i].masks):
            for rows in (1, 2, 3):
                for columns in (1, 2, 3):
                    cells = [c for r in np.array_split(mask, rows) for c in np.array_split(r, columns, axis=1)]
                    if all((cell > 0).any() for cell in cells):
                        several[i, half] = max(several[i, half], rows * columns)
    assert (several.max(axis=1) > 1).all()
    assert several[:, 0].mean() > several[:, 1].mean()
    assert set(several[:, 0]) >= {1, 2, 4, 9}


def test_images_of_a_mosaic_are_never_smaller_than_their_least_side() -> None:
    for side, largest in ((16, 0), (32, 2), (48, 3)):
        grids = EpisodeSource([], Sampling(), side=side, seed=0).grids
        assert max((max(grid) for grid in grids), default=0) == largest


def test_two_views_of_a_region_are_not_copies() -> None:
    source = EpisodeSource([squares([[1, 2, 3]], regions=True)], PLAIN, side=48, seed=0)
    assert all((source[i].masks[0] != source[i].masks[1]).any() for i in range(20))


# --- which ids and which parts


def test_rare_ids_are_not_starved_and_invisible_ones_are_not_favoured() -> None:
    many = squares([[1]] * 98 + [[1, 2], [2]])
    tiny = [mask.copy() for mask in squares([[1]] * 98 + [[1, 3], [3]]).masks]
    for mask in tiny:
        mask[(mask == 3).nonzero()[0][4:] if (mask == 3).any() else [], :] = 0  # four rows of the square remain
    chosen = []
    for source in (many, ImageSet("tiny", False, many.images, tuple(tiny))):
        chooser = EpisodeSource([source], PLAIN, side=16, seed=0).choosers[0]
        rng = np.random.default_rng(0)
        chosen.append(np.mean([chooser.focus(rng) != 1 for _ in range(500)]))
    assert chosen[0] > 0.07  # two images in a hundred
    assert chosen[1] <= chosen[0]


def test_a_factor_says_how_often_a_set_is_drawn() -> None:
    sets = [squares([[i]] * 4, name=name) for i, name in enumerate(("often", "seldom", "never"), start=1)]
    sampling = replace(PLAIN, factors=(("often", 3.0), ("never", 0.0), ("elsewhere", 9.0)))
    source = EpisodeSource(sets, sampling, side=48, seed=0)
    drawn = [reds(source[i].images[0]) for i in range(200)]
    assert {1} in drawn
    assert {3} not in drawn
    assert 30 <= drawn.count({2}) <= 70  # a quarter


def test_boxes_stay_inside_and_look_for_the_thing() -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[50:56, 80:88] = 3
    rng, part = np.random.default_rng(0), Cut(whole=False)
    seen = 0
    for _ in range(100):
        left, top, right, bottom = choose_box(mask, 3, rng, part, pixels=128**2)
        assert 0 <= left < right <= 90
        assert 0 <= top < bottom <= 60
        seen += bool((mask[top:bottom, left:right] == 3).any())
    assert seen > 90
    assert choose_box(mask, 3, rng, Cut(), pixels=128**2) == (0, 0, 90, 60)


def test_what_is_too_small_to_see_is_zoomed_in_on() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[50:56, 80:86] = 3
    shares = []
    for seed in range(20):
        box = choose_box(mask, 3, np.random.default_rng(seed), Cut(zoom=1.0), pixels=64**2)
        shares.append(view(np.zeros((200, 200, 3), np.uint8), mask, box, (64, 64))[1].astype(bool).sum())
    assert np.median(shares) > 60 > 4 * 64**2 * 36 / 200**2  # pixels of 4096; four would be seen in the whole image


def test_empty_boxes_hold_nothing_of_the_ids() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[:20, :30] = 1
    mask[40:, 60:] = 2
    for seed in range(20):
        box = empty_box(mask, (1, 255), np.random.default_rng(seed))
        assert box is not None
        assert 1 not in view(np.zeros((60, 80, 3), np.uint8), mask, box, (32, 32))[1]
    assert empty_box(np.ones((60, 80), np.uint8), (1,), np.random.default_rng(0)) is None


# --- changes


def test_bending_moves_the_mask_with_the_image_and_fills_the_rim() -> None:
    rows, columns = np.mgrid[:64, :80]
    mask = ((rows // 16 + columns // 16) % 2).astype(np.uint8)
    image = np.repeat((mask * 200 + 20)[..., None], 3, axis=-1).astype(np.uint8)
    for seed in range(10):
        bent, moved = bend(image, mask, np.random.default_rng(seed), Augmentation())
        assert bent.shape == image.shape
        assert moved.shape == mask.shape
        assert bent.min() >= 20  # nothing black comes in at the rim
        assert ((bent[..., 0] > 120) == moved).mean() > 0.97
        assert (moved != mask).mean() > 0.01
        middle = bent[30:34, 38:42, 0]
        assert middle.min() < 60 < 180 < middle.max()  # the corner of four squares stays in the middle


def seen(image: np.ndarray, seed: int, **changes: float) -> np.ndarray:
    rng, some = np.random.default_rng(seed), replace(NO_AUGMENTATION, **changes)
    return lit(degrade(image, rng, some), draw_light(rng, some))


def test_light_and_quality_change_and_nothing_does_when_they_are_off() -> None:
    image = np.random.default_rng(0).integers(60, 190, (48, 48, 3), dtype=np.uint8)
    np.testing.assert_array_equal(seen(image, 0), image)
    lights = [seen(image, i, light=1.0) for i in range(10)]
    assert all(c.shape == image.shape and c.dtype == np.uint8 for c in lights)
    assert len({round(float(c.mean())) for c in lights}) > 3
    assert all(35 < c.mean() < 200 for c in lights)
    for change in ("blur", "noise", "jpeg"):
        changed = seen(image, 1, **{change: 1.0}).astype(int)
        assert 1 < np.abs(changed - image).mean() < 60
    for light in (0.0, 1.0):
        grey = seen(image, 2, grey=1.0, light=light).astype(int)
        assert np.ptp(grey, axis=-1).max() <= 1


def test_hue_turns_around_grey() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4], image[4:] = (180, 60, 60), 100
    turned = [seen(image, i, light=1.0, hue=60.0).astype(float) for i in range(30)]
    assert any(t[0, 0, 1] > t[0, 0, 0] + 5 or t[0, 0, 2] > t[0, 0, 1] + 20 for t in turned)
    assert all(np.ptp(t[7, 7]) < 0.35 * t[7, 7].mean() for t in turned)  # white balance alone


def test_noise_is_normal_and_the_same_wherever_it_is_made() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    light = AS_IT_IS.copy()
    light[14:] = 10.0, 4711
    noise = lit(image, light).astype(float) - 128
    assert abs(noise.mean()) < 0.3
    assert noise.std() == pytest.approx(10, rel=0.03)
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.03
    other = light.copy()
    other[15] = 4712
    assert abs(np.corrcoef(noise.ravel(), lit(image, other).ravel())[0, 1]) < 0.03
    together = shine(torch.from_numpy(np.stack([image] * 3)), torch.from_numpy(np.stack([other, AS_IT_IS, light])))
    np.testing.assert_array_equal(together[1], image)
    np.testing.assert_array_equal(together[2] - 128.0, noise)


def test_many_images_lit_at_once_are_those_lit_one_by_one() -> None:
    sampling = Sampling(mosaic=0.4)
    sources = [
        EpisodeSource([squares([[1], [1, 2]])], sampling, side=48, seed=3, unlit=unlit) for unlit in (False, True)
    ]
    mosaics = 0
    for i in range(40):
        alone, later = (source.draw(i, shots=2) for source in sources)
        assert alone.lights is None
        assert later.lights is not None
        np.testing.assert_array_equal(alone.masks, later.masks)
        np.testing.assert_array_equal(
            alone.images, shine(torch.from_numpy(later.images), torch.from_numpy(later.lights))
        )
        mosaics += bool((later.lights == AS_IT_IS).all(axis=1).any())
    assert mosaics


@pytest.mark.gpu
def test_an_accelerator_lights_as_the_processor_does() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (8, 40, 40, 3), dtype=np.uint8))
    lights = torch.from_numpy(np.stack([draw_light(rng, Augmentation(light=1.0, noise=0.5)) for _ in range(8)]))
    difference = shine(images.cuda(), lights.cuda()).cpu().int() - shine(images, lights).int()
    assert difference.abs().max() <= 1
    assert (difference != 0).float().mean() < 0.01  # rounding


# --- hints


def thing() -> np.ndarray:
    mask = np.zeros((64, 64), np.uint8)
    mask[16:44, 20:40] = 2
    mask[:8, :8] = 255
    return mask


def test_hints_tell_the_truth_about_whole_patches() -> None:
    mask, kinds = thing(), set()
    for seed in range(80):
        hinted, revealed = reveal(mask, 2, 8, np.random.default_rng(seed), every_id=False)
        assert revealed.any()
        assert revealed.sum() < 64
        for row, column in np.argwhere(revealed):
            part = slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)
            flat = np.unique(hinted[part])
            assert len(flat) == 1
            assert flat[0] in mask[part]
            kinds.add(int(flat[0]))
        hidden = ~revealed.repeat(8, 0).repeat(8, 1)
        np.testing.assert_array_equal(hinted[hidden], mask[hidden])
    assert kinds == {0, 2}


def test_each_id_is_pointed_at_where_nothing_else_says_what_it_is() -> None:
    mask = thing()
    mask[50:60, 50:52] = 1
    for seed in range(40):
        hinted, revealed = reveal(mask, 2, 8, np.random.default_rng(seed), every_id=True)
        shown = revealed.repeat(8, 0).repeat(8, 1)
        assert {1, 2} <= set(np.unique(hinted[shown]).tolist())


def test_hints_are_clicks_scribbles_and_boxes() -> None:
    counts = [reveal(thing(), 2, 8, np.random.default_rng(seed), every_id=False)[1].sum() for seed in range(80)]
    assert 0.3 < np.mean([count == 1 for count in counts]) + np.mean([1 < count <= 5 for count in counts]) < 0.9
    assert np.mean([count > 15 for count in counts]) > 0.1


def test_thin_things_can_be_clicked_on_and_nothing_only_beside() -> None:
    thin = np.zeros((64, 64), np.uint8)
    thin[:, 30] = 1
    assert any((reveal(thin, 1, 8, np.random.default_rng(i), every_id=False)[0] == 1).sum() > 64 for i in range(20))
    for i in range(20):
        hinted, revealed = reveal(np.zeros((64, 64), np.uint8), 1, 8, np.random.default_rng(i), every_id=False)
        assert revealed.any()
        assert not hinted.any()
    unknown, revealed = reveal(np.full((64, 64), 255, np.uint8), 1, 8, np.random.default_rng(0), every_id=False)
    assert not revealed.any()
    assert (unknown == 255).all()


def test_a_hinted_episode_hides_and_judges_everything_else() -> None:
    source = EpisodeSource([squares([[1], [1]])], PLAIN, side=64, seed=0)
    coloring = Coloring(hide_query=0.0, hints=1.0)
    for i in range(20):
        episode = source[i]
        painted = paint_episode(episode, np.random.default_rng(i), patch=8, coloring=coloring)
        np.testing.assert_array_equal(painted.masks[0], episode.masks[0])
        assert not painted.masked[:8].any()
        revealed = ~painted.masked[8:]
        assert 0 < revealed.sum() < 64
        hidden = painted.masked[8:].repeat(8, 0).repeat(8, 1)
        np.testing.assert_array_equal(painted.masks[1][hidden], episode.masks[1][hidden])


def test_hints_alone_ask_for_one_of_several_things_in_one_image_shown_twice() -> None:
    some = replace(PLAIN, by_hints_alone=1.0, one_of_several=1.0)
    source, sizes = EpisodeSource([squares([[1, 1]])], some, side=64, seed=0), set[int]()
    for i in range(30):
        episode = source[i]
        assert episode.way == "by hints alone"
        np.testing.assert_array_equal(episode.images[0], episode.images[1])
        np.testing.assert_array_equal(episode.masks[0], episode.masks[1])
        sizes.add(episode.count)
        painted = paint_episode(episode, np.random.default_rng(i), patch=8, coloring=Coloring())
        np.testing.assert_array_equal(painted.masked[:8], painted.masked[8:])
        shown = (~painted.masked[8:]).repeat(8, 0).repeat(8, 1)
        assert set(range(1, episode.count + 1)) <= set(painted.masks[1][shown].tolist())
        for each in range(1, episode.count + 1):  # one square, not both
            assert 100 < (episode.masks[1] == each).sum() < 260
    assert sizes == {1, 2}


def test_hints_win_over_an_example_that_shows_something_else() -> None:
    some = replace(PLAIN, by_hints=1.0, one_of_several=0.0)
    source, others = EpisodeSource([squares([[1, 2], [2, 1]])], some, side=64, seed=0), 0
    for i in range(40):
        episode = source[i]
        assert episode.way == "by hints"
        others += red_under(episode.images[0], episode.masks[0]) != red_under(episode.images[1], episode.masks[1])
        painted = paint_episode(episode, np.random.default_rng(i), patch=8, coloring=Coloring())
        assert not painted.masked[:8].any()
        shown = (~painted.masked[8:]).repeat(8, 0).repeat(8, 1)
        assert (painted.masks[1][shown] == 1).any()
    assert 15 < others < 40


def red_under(image: np.ndarray, mask: np.ndarray) -> int:
    """Which id's square is under what is marked, by the darkest of its pixels, which are no blends with the rest."""
    marked = image[mask == 1].astype(int)
    return round(int(marked[marked[:, 1].argmin(), 0]) / 40)
