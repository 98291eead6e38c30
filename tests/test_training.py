"""Episodes, colours, losses and the loop: drawn the same every time, resumable, and learning."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from incontext.canvas import IMAGE_MEAN, IMAGE_STD
from incontext.checkpoint import load_model
from incontext.model import ModelConfig, SegGPT
from incontext.training.coloring import (
    Coloring,
    collate,
    paint_batch,
    paint_episode,
    random_masked,
    random_palette,
    reading_logits,
    training_loss,
)
from incontext.training.episodes import (
    Episode,
    EpisodeSource,
    ImageSet,
    Sampling,
    choose_box,
    hold_out,
    jitter,
    read_set,
    relabel,
)
from incontext.training.loop import Progress, Run, make_optimizers, train
from incontext.training.recipes import RECIPES, Recipe, Stage

MODEL = ModelConfig(
    width=32, heads=2, depth=2, patch=8, side=16, decoder_width=8, merge_layer=0, taps=(0, 1), pretrain_side=16
)
RECIPE = Recipe(MODEL, (Stage(16, 6, 4), Stage(32, 4, 2)), Sampling(rendered=0.0), warmup_steps=2)
FROM_FOLDERS = Sampling(rendered=0.0)


def discs(count: int = 8, size: int = 48, *, regions: bool = False, seed: int = 0) -> ImageSet:
    """Grey pictures with a red disc (id 1) and a green one (id 2)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    images, masks = [], []
    for _ in range(count):
        mask = np.zeros((size, size), np.uint8)
        for i in (1, 2):
            centre, radius = rng.uniform(10, size - 10, 2), rng.uniform(5, 9)
            mask[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2] = i
        image = rng.integers(90, 120, (size, size, 3), dtype=np.uint8)
        image[mask == 1, 0] = 230
        image[mask == 2, 1] = 230
        images.append(image)
        masks.append(mask)
    return ImageSet("discs", regions, tuple(images), tuple(masks))


def write_set(folder: Path, source: ImageSet) -> Path:
    for what, arrays in (("images", source.images), ("masks", source.masks)):
        (folder / what).mkdir(parents=True)
        for i, array in enumerate(arrays):
            Image.fromarray(array).save(folder / what / f"{i:02}.png")
    return folder


# --- episodes


def test_a_folder_is_read_as_it_was_written_and_shrunk_to_the_shorter_side(tmp_path: Path) -> None:
    source = discs(3)
    folder = write_set(tmp_path / "set", source)
    (folder / "images" / "no_mask.png").write_bytes((folder / "images" / "00.png").read_bytes())
    read = read_set(folder)
    assert (read.name, read.regions, len(read.images)) == ("set", False, 3)
    for i in range(3):
        np.testing.assert_array_equal(read.images[i], source.images[i])
        np.testing.assert_array_equal(read.masks[i], source.masks[i])
    assert read.ids == source.ids
    assert read_set(folder, shorter_side=24).masks[0].shape == (24, 24)
    (folder / "dataset.json").write_text(json.dumps({"masks": "regions"}))
    assert read_set(folder).regions


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images/ and masks/"):
        read_set(tmp_path)
    empty = replace(discs(2), masks=tuple(np.zeros((48, 48), np.uint8) for _ in range(2)))
    with pytest.raises(ValueError, match="every mask is empty"):
        read_set(write_set(tmp_path / "empty", empty))
    other_size = replace(discs(1), masks=(discs(1).masks[0][:40],))
    with pytest.raises(ValueError, match=r"its picture's size \(48, 48\), got \(40, 48\)"):
        read_set(write_set(tmp_path / "size", other_size))


def test_held_out_pictures_are_not_trained_on() -> None:
    source = discs(40)
    kept, held = hold_out(source, every=10)
    assert len(kept.images) == 36
    assert len(held.images) == 4
    assert not {id(image) for image in kept.images} & {id(image) for image in held.images}
    assert set(kept.by_id[1]) <= set(range(36))
    assert len(kept.by_id[1]) > 30


def test_episodes_depend_on_seed_and_number_alone() -> None:
    source = EpisodeSource([discs()], Sampling(rendered=0.3), side=32, seed=5)
    again = EpisodeSource([discs()], Sampling(rendered=0.3), side=32, seed=5)
    other = EpisodeSource([discs()], Sampling(rendered=0.3), side=32, seed=6)
    for i in (9, 2, 30, 2):
        np.testing.assert_array_equal(source[i].images, again[i].images)
        np.testing.assert_array_equal(source[i].masks, again[i].masks)
    assert any((source[i].images != other[i].images).any() for i in range(3))


@pytest.mark.parametrize("rendered", [0.0, 1.0])
@pytest.mark.parametrize("regions", [False, True])
def test_an_episode_shows_the_ids_that_it_asks_for(rendered: float, regions: bool) -> None:
    source = EpisodeSource([discs(regions=regions)], Sampling(rendered=rendered, absent=0.0), side=32, seed=1)
    shown = 0
    for i in range(60):
        episode = source[i]
        assert episode.images.shape == (2, 32, 32, 3)
        assert episode.images.dtype == episode.masks.dtype == np.uint8
        assert 1 <= episode.count <= 6
        assert set(np.unique(episode.masks)) <= set(range(episode.count + 1)) | {255}
        shown += bool((episode.masks[0] > 0).any() and (episode.masks[1] > 0).any())
    assert shown > 50


def test_semantic_ids_are_the_same_thing_in_prompt_and_query() -> None:
    source = EpisodeSource([discs()], Sampling(rendered=0.0, single_id=0.0, absent=0.0), side=48, seed=2)
    told_apart = 0
    for i in range(40):
        episode = source[i]
        for label in range(1, episode.count + 1):
            redder = []
            for image, mask in zip(episode.images.astype(int), episode.masks, strict=True):
                red, green, _ = image[mask == label].mean(axis=0) if (mask == label).sum() > 8 else (0, 0, 0)
                if abs(red - green) > 5:  # not so in pictures that were made grey
                    redder.append(red > green)
            if len(redder) == 2:
                assert redder[0] == redder[1]
                told_apart += 1
    assert told_apart > 30


def test_absent_episodes_have_queries_without_the_thing() -> None:
    masks = list(discs(8).masks)
    only_one = replace(
        discs(8), masks=tuple(relabel(m, [1]) if i % 2 else relabel(m, [9, 1]) for i, m in enumerate(masks))
    )
    source = EpisodeSource(
        [only_one], Sampling(rendered=0.0, two_views=0.0, absent=1.0, whole_picture=1.0), side=32, seed=3
    )
    empty = [not (source[i].masks[1] == 1).any() for i in range(30)]
    assert any(empty)


def test_boxes_stay_inside_and_look_for_the_thing() -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[50:56, 80:88] = 3
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(100):
        left, top, right, bottom = choose_box(mask, 3, rng, replace(FROM_FOLDERS, whole_picture=0.0))
        assert 0 <= left < right <= 90
        assert 0 <= top < bottom <= 60
        seen += bool((mask[top:bottom, left:right] == 3).any())
    assert seen > 90
    assert choose_box(mask, 3, rng, replace(FROM_FOLDERS, whole_picture=1.0)) == (0, 0, 90, 60)


def test_relabel_numbers_the_ids_asked_for_and_keeps_ignored() -> None:
    mask = np.array([[0, 4, 7, 9, 255]], np.uint8)
    assert relabel(mask, [9, 4]).tolist() == [[0, 2, 0, 1, 255]]


def test_jitter_keeps_shape_and_changes_light() -> None:
    image = discs(1).images[0]
    rng = np.random.default_rng(0)
    changed = [jitter(image, rng) for _ in range(10)]
    assert all(c.shape == image.shape and c.dtype == np.uint8 for c in changed)
    assert len({round(float(c.mean())) for c in changed}) > 3


# --- coloring


def test_palettes_start_black_and_keep_their_distance() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 3, 6):
        for _ in range(30):
            palette = random_palette(rng, count, Coloring()).astype(float)
            assert palette.shape == (count + 1, 3)
            assert not palette[0].any()
            distances = np.linalg.norm(palette[:, None] - palette[None], axis=-1)[np.triu_indices(count + 1, 1)]
            assert distances.min() >= 90 * 0.9**3
    assert len(random_palette(rng, 40, Coloring())) == 41


def test_patches_are_hidden_as_asked() -> None:
    rng = np.random.default_rng(0)
    whole = random_masked(rng, 4, Coloring(hide_query=1.0))
    assert whole[4:].all()
    assert not whole[:4].any()
    patches = random_masked(rng, 4, Coloring(hide_query=0.0, hidden_patches=0.75))
    assert patches.sum() == 24
    assert patches[:4].any()


def make_batch(count: int = 2) -> tuple[list[Episode], object]:
    episodes = [EpisodeSource([discs()], FROM_FOLDERS, side=16, seed=0)[i] for i in range(count)]
    rng = np.random.default_rng(0)
    coloring = Coloring(hide_query=1.0, corner_colors=1.0)
    painted = [paint_episode(episode, rng, patch=8, coloring=coloring) for episode in episodes]
    return episodes, paint_batch(collate(painted), torch.device("cpu"))


def test_a_batch_is_the_episodes_painted_and_normalised() -> None:
    episodes, batch = make_batch()
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    for number, episode in enumerate(episodes):
        stacked = torch.from_numpy(np.concatenate(list(episode.images)))
        shown = batch.image_canvas[number].permute(1, 2, 0) * std + mean
        torch.testing.assert_close(shown * 255, stacked.float(), rtol=0, atol=1e-3)
        ids = np.concatenate(list(episode.masks))
        for i in np.unique(ids[ids < 255]):
            color = batch.mask_canvas[number].permute(1, 2, 0)[torch.from_numpy(ids == i)]
            torch.testing.assert_close(color, batch.colors[number, int(i)].expand_as(color))
    assert batch.used.sum().item() == sum(e.count + 1 for e in episodes)


def test_a_right_answer_costs_nothing_and_reads_back_as_the_ids() -> None:
    _, batch = make_batch(6)
    right, parts = training_loss(batch.mask_canvas, batch, Coloring(), beta=1.0)
    black, _ = training_loss(
        batch.colors[:, :1].permute(0, 2, 1)[..., None].expand_as(batch.mask_canvas), batch, Coloring(), beta=1.0
    )
    assert parts["l1"] == pytest.approx(0.0, abs=1e-6)
    assert parts["cross_entropy"] < 0.05
    assert parts["soft_iou"] < 0.1
    assert right < 0.1 < black
    read = reading_logits(batch.mask_canvas, batch.colors, batch.used, sharpness=6.0).argmax(1)
    assert (read == batch.ids)[batch.ids < 255].all()


def test_ignored_and_visible_pixels_do_not_count() -> None:
    _, batch = make_batch()
    answer = batch.mask_canvas.clone()
    ignoring = replace(batch, ids=torch.full_like(batch.ids, 255))
    assert training_loss(torch.randn_like(answer), ignoring, Coloring(), beta=1.0)[0] == 0.0
    base, _ = training_loss(answer, batch, Coloring(), beta=1.0)
    answer[:, :, :16] = 99.0  # the prompt half is not hidden
    torch.testing.assert_close(training_loss(answer, batch, Coloring(), beta=1.0)[0], base)


# --- recipes and the loop


def test_recipes_count_their_steps_and_schedules() -> None:
    assert RECIPE.steps == 10
    assert RECIPE.stage_at(5) == (Stage(16, 6, 4), 0, 0)
    assert RECIPE.stage_at(6) == (Stage(32, 4, 2), 6, 24)
    with pytest.raises(IndexError, match="past the last of 10"):
        RECIPE.stage_at(10)
    rates = [RECIPE.rate(step) for step in range(11)]
    assert rates[0] == pytest.approx(0.5)
    assert rates[1] == rates[7] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(0.0)
    assert RECIPE.beta_at(0) == 1.0
    assert RECIPE.beta_at(10) == pytest.approx(RECIPE.final_beta)
    assert json.loads(json.dumps(RECIPE.to_dict()))["seed"] == 0


@pytest.mark.parametrize("name", RECIPES)
def test_named_recipes_are_possible(name: str) -> None:
    recipe = RECIPES[name]
    assert all(stage.side % recipe.model.patch == 0 for stage in recipe.stages)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in SegGPT(recipe.model).parameters())
    assert parameters * 2 <= 24e6  # stored in 16 bits


def test_every_parameter_has_exactly_one_optimizer() -> None:
    model = SegGPT(MODEL)
    held = [id(p) for optimizer in make_optimizers(model, RECIPE) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_gives_the_same_weights_as_not_stopping(tmp_path: Path, workers: int) -> None:
    whole = train(RECIPE, [discs()], tmp_path / "whole", workers=0)

    class StoppedError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(RECIPE, [discs()], tmp_path / "halves", workers=workers, save_every=4, on_report=stop)
    resumed = train(RECIPE, [discs()], tmp_path / "halves", workers=workers, save_every=4)
    expected, got = load_model(whole).state_dict(), load_model(resumed).state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=0, msg=name)
    rows = [json.loads(line) for line in (tmp_path / "halves" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 10]
    assert rows[-1]["side"] == 32


def test_the_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train(replace(RECIPE, stages=(Stage(16, 1, 2),)), [discs()], tmp_path, workers=0)
    with pytest.raises(ValueError, match="another recipe"):
        train(RECIPE, [discs()], tmp_path, workers=0)


def test_a_run_learns_and_draws_its_validation(tmp_path: Path) -> None:
    recipe = replace(RECIPE, stages=(Stage(16, 120, 16),), warmup_steps=10, matrix_lr=3e-3, other_lr=3e-3)
    losses: list[Progress] = []
    kept, held = hold_out(discs(60), every=6)
    path = train(recipe, [kept], tmp_path, held_out=[held], workers=0, save_every=120, on_report=losses.append)
    assert losses[-1].loss < 0.8 * losses[0].loss
    assert losses[-1].validation is not None
    assert 0 <= losses[-1].validation <= 1
    with Image.open(tmp_path / "validation" / "step_0000120.png") as sheet:
        assert sheet.size == (2 * 5 * 16, 8 * 16)
    assert load_model(path).config == MODEL


def test_warm_starts_begin_from_the_given_weights() -> None:
    given = SegGPT(MODEL)
    run = Run(RECIPE, torch.device("cpu"), given)
    for name, tensor in given.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], tensor)
