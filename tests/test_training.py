"""Episodes, colours, losses and the loop: drawn the same every time, resumable, and learning."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from incontext.canvas.paint import IMAGE_MEAN, IMAGE_STD
from incontext.learning.losses import Batch, LossWeights, counts, paint_batch, reading_logits, training_loss
from incontext.network.checkpoint import load_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.training import loop
from incontext.training.coloring import Coloring, collate, paint, paint_episode, random_palette
from incontext.training.episodes import DrawnEpisode, EpisodeSource, Sampling, relabel
from incontext.training.loop import TrainingProgress, _Painter, train
from incontext.training.optimizers import Muon, make_optimizers
from incontext.training.parallel.processes import Team, joined, team_device
from incontext.training.parallel.slices import MIB, Slices, pack, read_slices, write_slices
from incontext.training.precision import Precision
from incontext.training.recipes import RECIPES, Recipe, Stage
from incontext.training.run import Run
from incontext.training.sets import ImageSet, hold_out, read_set

MODEL = ModelConfig(
    width=32, heads=2, depth=2, patch=8, side=16, decoder_width=8, merge_layer=0, taps=(0, 1), pretrain_side=16
)
RECIPE = Recipe(MODEL, (Stage(16, 6, 4), Stage(32, 4, 2)), Sampling(rendered=0.0), warmup_steps=2)
FROM_FOLDERS = Sampling(rendered=0.0)


def discs(count: int = 8, size: int = 48, *, regions: bool = False, seed: int = 0) -> ImageSet:
    """Grey images with a red disc (id 1) and a green one (id 2)."""
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
    with pytest.raises(ValueError, match=r"its image's size \(48, 48\), got \(40, 48\)"):
        read_set(write_set(tmp_path / "size", other_size))


def test_a_color_is_the_same_id_in_every_mask(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", discs(3))
    colors = ((0, 255, 0), (255, 0, 0), (0, 255, 0))
    for number, color in enumerate(colors):
        mask = np.zeros((48, 48, 3), np.uint8)
        mask[8:24, 8:24] = color
        Image.fromarray(mask).save(folder / "masks" / f"{number:02}.png")
    assert read_set(folder).ids == ((1,), (2,), (1,))


def test_what_a_set_says_of_itself_is_checked(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", discs(2))
    for content, sentence in (("[]", "expected a JSON object, got list"), ("{", "expected JSON")):
        (folder / "dataset.json").write_text(content)
        with pytest.raises(ValueError, match=rf"dataset\.json: {sentence}"):
            read_set(folder)


def test_annotations_without_their_images_are_told(tmp_path: Path) -> None:
    source, annotations = discs(2), tmp_path / "instances.json"
    square = {"category_id": 1, "iscrowd": 0, "segmentation": [[8, 8, 40, 8, 40, 40, 8, 40]], "area": 1024}
    annotations.write_text(
        json.dumps(
            {
                "images": [{"id": i, "file_name": f"{i}.png", "width": 48, "height": 48} for i in (1, 2)],
                "annotations": [{"id": i, "image_id": i, "bbox": [8, 8, 32, 32], **square} for i in (1, 2)],
                "categories": [{"id": 1, "name": "square"}],
            }
        )
    )
    with pytest.raises(ValueError, match="found none of 2"):
        read_set(annotations)
    Image.fromarray(source.images[0]).save(tmp_path / "1.png")
    with pytest.warns(UserWarning, match="1 of 2 images are not there"):
        assert len(read_set(annotations).images) == 1


def test_held_out_images_are_not_trained_on() -> None:
    source = discs(40)
    (kept, small), (held,) = hold_out([source, discs(9)], every=10)
    assert len(small.images) == 9, "too few to hold one out"
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
    for i in range(80):
        episode = source[i]
        assert episode.images.shape == (2, 32, 32, 3)
        assert episode.images.dtype == episode.masks.dtype == np.uint8
        assert 1 <= episode.count <= 6
        assert set(np.unique(episode.masks)) <= set(range(episode.count + 1)) | {255}
        shown += bool((episode.masks[0] > 0).any() and (episode.masks[1] > 0).any())
    assert shown > 70


def test_semantic_ids_are_the_same_thing_in_prompt_and_query() -> None:
    source = EpisodeSource([discs()], Sampling(rendered=0.0, single_id=0.0, absent=0.0), side=48, seed=2)
    told_apart = 0
    for i in range(40):
        episode = source[i]
        for label in range(1, episode.count + 1):
            redder = []
            for image, mask in zip(episode.images.astype(int), episode.masks, strict=True):
                red, green, _ = image[mask == label].mean(axis=0) if (mask == label).sum() > 8 else (0, 0, 0)
                if abs(red - green) > 5:  # not so in images that were made grey
                    redder.append(red > green)
            if len(redder) == 2:
                assert redder[0] == redder[1]
                told_apart += 1
    assert told_apart > 30


def test_relabel_numbers_the_ids_asked_for_and_keeps_ignored() -> None:
    mask = np.array([[0, 4, 7, 9, 255]], np.uint8)
    assert relabel(mask, [9, 4]).tolist() == [[0, 2, 0, 1, 255]]


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
    episode = EpisodeSource([discs()], FROM_FOLDERS, side=32, seed=0)[0]

    def masked(coloring: Coloring) -> np.ndarray:
        return paint_episode(episode, np.random.default_rng(0), patch=8, coloring=coloring).masked

    whole = masked(Coloring(hide_query=1.0))
    assert whole[4:].all()
    assert not whole[:4].any()
    patches = masked(Coloring(hide_query=0.0, hints=0.0, hidden_patches=0.75))
    assert patches.sum() == 24
    assert patches[:4].any()
    hinted = masked(Coloring(hide_query=0.0, hints=1.0))
    assert not hinted[:4].any()
    assert 0 < hinted[4:].sum() < 16


def make_batch(count: int = 2) -> tuple[list[DrawnEpisode], object]:
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
    right, parts = training_loss(batch.mask_canvas, batch, LossWeights(), beta=1.0)
    black, _ = training_loss(
        batch.colors[:, :1].permute(0, 2, 1)[..., None].expand_as(batch.mask_canvas), batch, LossWeights(), beta=1.0
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
    assert training_loss(torch.randn_like(answer), ignoring, LossWeights(), beta=1.0)[0] == 0.0
    base, _ = training_loss(answer, batch, LossWeights(), beta=1.0)
    answer[:, :, :16] = 99.0  # the prompt half is not hidden
    torch.testing.assert_close(training_loss(answer, batch, LossWeights(), beta=1.0)[0], base)


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
    assert parameters * 2 <= (24e6 if name != "large" else 800e6)  # stored in 16 bits


def test_a_recipe_for_another_network_keeps_to_its_patch() -> None:
    other = replace(RECIPE, stages=(Stage(4, 1, 1), Stage(60, 1, 1))).with_model(replace(MODEL, patch=16))
    assert [stage.side for stage in other.stages] == [16, 64]
    assert other.model.patch == 16


def test_every_parameter_has_exactly_one_optimizer() -> None:
    model = SegGPT(MODEL)
    held = [id(p) for optimizer in make_optimizers(model, RECIPE) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.slow
def test_resuming_gives_the_same_weights_as_not_stopping(tmp_path: Path, workers: int) -> None:
    whole = train(RECIPE, [discs()], tmp_path / "whole", workers=0)

    class StoppedError(Exception):
        pass

    def stop(progress: TrainingProgress) -> None:
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


def test_a_run_goes_on_where_bfloat16_is_not_multiplied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StoppedError(Exception):
        pass

    def stop(_: TrainingProgress) -> None:
        raise StoppedError

    said = list[str]()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    with pytest.raises(StoppedError):
        train(RECIPE, [discs()], tmp_path, workers=0, save_every=4, on_start=said.append, on_report=stop)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    train(RECIPE, [discs()], tmp_path, held_out=[discs()], workers=0, on_start=said.append)
    assert said == [f"training in {name}, Newton-Schulz in {name}" for name in ("bfloat16", "float32")]
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(row["step"], row["precision"]) for row in rows] == [(4, said[0]), (10, said[1])]


def test_the_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train(replace(RECIPE, stages=(Stage(16, 1, 2),)), [discs()], tmp_path, workers=0)
    with pytest.raises(ValueError, match="another recipe"):
        train(RECIPE, [discs()], tmp_path, workers=0)


def test_the_state_of_a_recipe_that_knew_less_goes_on(tmp_path: Path) -> None:
    train(RECIPE, [discs()], tmp_path, workers=0)
    path = tmp_path / "state.pt"
    state = torch.load(path)
    stored = json.loads(state["recipe"])
    del stored["presence_pull"], stored["sampling"]["factors"]
    torch.save({**state, "recipe": json.dumps(stored)}, path)
    train(RECIPE, [discs()], tmp_path, workers=0)
    with pytest.raises(ValueError, match="another recipe"):
        train(replace(RECIPE, presence_pull=0.1), [discs()], tmp_path, workers=0)


@pytest.mark.parametrize("content", [b"", b"no state", "half"])
def test_a_damaged_state_is_told(tmp_path: Path, content: bytes | str) -> None:
    train(RECIPE, [discs()], tmp_path, workers=0)
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:5000] if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=r"state\.pt is damaged; remove it"):
        train(RECIPE, [discs()], tmp_path, workers=0)


def test_no_state_is_ahead_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that cannot write its last weights is not taken for a finished one."""

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(loop, "save_model", full)
        with pytest.raises(OSError, match="no space"):
            train(RECIPE, [discs()], tmp_path, workers=0)
    assert train(RECIPE, [discs()], tmp_path, workers=0).is_file()


@pytest.mark.slow
def test_a_run_learns_and_draws_its_validation(tmp_path: Path) -> None:
    recipe = replace(RECIPE, stages=(Stage(16, 120, 16),), warmup_steps=10, matrix_lr=3e-3, other_lr=3e-3)
    losses: list[TrainingProgress] = []
    kept, held = hold_out([discs(60)], every=6)
    path = train(recipe, kept, tmp_path, held_out=held, workers=0, save_every=120, on_report=losses.append)
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


# --- several processes


TEAM_RECIPE = replace(RECIPE, stages=(Stage(16, 3, 5),), matrix_lr=5e-5, other_lr=5e-5)  # shares of 3 and of 2


def batch_of(recipe: Recipe, numbers: range, shots: int = 1) -> Batch:
    painter = _Painter(recipe, [discs()], 16, None)
    return paint_batch(collate([painter[i, shots] for i in numbers]), torch.device("cpu"))


def test_several_prompts_train_what_several_prompts_ask() -> None:
    """The answer is the network's for three shots, and the loss looks at the query alone."""
    torch.manual_seed(0)
    model, batch = SegGPT(MODEL), batch_of(RECIPE, range(4), shots=3)
    assert batch.image_canvas.shape == batch.mask_canvas.shape == (4, 3, 4 * 16, 16)
    assert batch.masked.shape == (4, 4 * 2, 2)
    assert batch.masked[:, -2:].all()
    assert not batch.masked[:, :-2].any()
    images, masks = (each.unflatten(2, (4, 16)).movedim(2, 1) for each in (batch.image_canvas, batch.mask_canvas))
    painted = paint(model, batch.image_canvas, batch.mask_canvas, batch.masked)
    torch.testing.assert_close(painted[:, :, -16:], model(images[:, :3], masks[:, :3], images[:, 3]))
    loss, _ = training_loss(painted, batch, LossWeights(), beta=0.1)
    elsewhere = painted + torch.cat([torch.ones(4, 3, 48, 16), torch.zeros(4, 3, 16, 16)], dim=2)
    torch.testing.assert_close(training_loss(elsewhere, batch, LossWeights(), beta=0.1)[0], loss)
    loss.backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert silent == ["type_token_cls"]  # the other task's


@pytest.mark.parametrize("shots", [1, 3])
def test_a_batch_lit_at_once_is_the_one_that_workers_light(shots: int) -> None:
    lit, unlit = (
        collate([_Painter(RECIPE, [discs()], 16, None, unlit=unlit)[i, shots] for i in range(12)])
        for unlit in (False, True)
    )
    assert lit.lights is None
    assert unlit.lights is not None
    assert unlit.lights.shape == (12, shots + 1, 16)
    assert not torch.equal(lit.images, unlit.images)
    one, other = (paint_batch(each, torch.device("cpu")) for each in (lit, unlit))
    assert one.targets is other.targets is None
    for name in Batch.__dataclass_fields__.keys() - {"targets"}:
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_share_of_the_steps_has_several_prompts() -> None:
    recipe = replace(RECIPE, several_shots=0.4, most_shots=3)
    drawn = [recipe.shots_at(step) for step in range(600)]
    assert drawn == [recipe.shots_at(step) for step in range(600)]
    assert set(drawn) == {1, 2, 3}
    assert 0.55 < drawn.count(1) / 600 < 0.65
    assert {RECIPE.shots_at(step) for step in range(50)} == {1}


def test_the_losses_of_shares_add_up() -> None:
    whole = batch_of(RECIPE, range(6))
    shares = [batch_of(RECIPE, Team(rank, 3).share(0, 6)) for rank in range(3)]
    assert sorted(len(share.ids) for share in shares) == [2, 2, 2]
    total = counts(whole)
    torch.testing.assert_close(sum(counts(share) for share in shares), total, rtol=0, atol=0)
    model = SegGPT(MODEL)

    def loss(batch: Batch, total: torch.Tensor | None) -> tuple[torch.Tensor, dict[str, float]]:
        painted = model.paint_canvas(batch.image_canvas, batch.mask_canvas, batch.masked)
        return training_loss(painted, batch, LossWeights(), beta=0.1, total=total)

    expected, parts = loss(whole, None)
    found = [loss(share, total) for share in shares]
    torch.testing.assert_close(sum(each for each, _ in found), expected, rtol=1e-5, atol=1e-6)
    for name, value in parts.items():
        assert sum(each[name] for _, each in found) == pytest.approx(value, rel=1e-4)


def _member(rank: int, folder: str, port: int) -> None:
    """What each of two processes runs: whole runs, the rest of runs that one process began, the beginning of another;
    with the network in each of them, and sharded."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined("cpu") as team:
        losses: list[float] = []
        for name in ("together", "resumed", "sharded", "resumed_sharded"):
            train(
                TEAM_RECIPE,
                [discs()],
                Path(folder, name),
                workers=0,
                dtype="float32",
                team=team,
                sharded=name.endswith("sharded"),
                on_report=lambda progress: losses.append(progress.loss),
            )
        parted = Run(TEAM_RECIPE, torch.device("cpu"), team=team, dtype="float32", sharded=True)
        parted.advance(batch_of(TEAM_RECIPE, team.share(0, 5)))
        parted.save(Path(folder, "begun_sharded"))
        moments = [value for each in parted.optimizers for row in each.state.values() for value in row.values()]
        parts = [*parted.model.parameters(), *parted._average.values(), *(value for value in moments if value.ndim)]
        held = sum(part.to_local().numel() for part in parts), sum(part.numel() for part in parts)
        run = Run(TEAM_RECIPE, torch.device("cpu"), team=team, dtype="float32")
        run.backward(batch_of(TEAM_RECIPE, team.share(0, 5)))
        gradients = {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}
        told = {"gradients": gradients, "losses": losses, "held": held}
        torch.save(told, Path(folder, f"rank_{rank}.pt"))
        with pytest.raises(ValueError, match="different"):
            team.check_equal(rank, "different")
        assert team.all(True)
        assert not team.all(rank == 0)
        torch.cpu._is_avx512_bf16_supported = lambda: rank == 0
        assert Precision.choose("auto", torch.device("cpu"), team) == Precision(torch.float32, torch.float32)
        _compare_muon_in_parts(team)


def _compare_muon_in_parts(team: Team) -> None:
    """A matrix in parts is moved as a whole one is, in both precisions."""
    mesh = init_device_mesh("cpu", (team.size,))
    whole = torch.randn(9, 15, generator=torch.Generator().manual_seed(3))
    for dtype in (torch.bfloat16, torch.float32):
        moved = list[torch.Tensor]()
        for start in (whole.clone(), distribute_tensor(whole.clone(), mesh, [Shard(0)])):
            parameter = torch.nn.Parameter(start)
            muon = Muon([parameter], lr=0.1, weight_decay=0.1, newton_schulz=dtype)
            for factor in (0.5, -2.0):
                parameter.grad = parameter.detach() * factor
                muon.step()
            moved.append(parameter.detach())
        assert isinstance(moved[1], DTensor)
        torch.testing.assert_close(moved[1].full_tensor(), moved[0], rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # in the processes they would only be printed
@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    alone = load_model(train(TEAM_RECIPE, [discs()], tmp_path / "alone", workers=0, dtype="float32"))
    first = Run(TEAM_RECIPE, torch.device("cpu"), dtype="float32")
    first.advance(batch_of(TEAM_RECIPE, range(5)))
    for name in ("resumed", "resumed_sharded", "begun_sharded"):
        (tmp_path / name).mkdir()
        if name != "begun_sharded":
            first.save(tmp_path / name)
    run = Run(TEAM_RECIPE, torch.device("cpu"), dtype="float32")
    run.backward(batch_of(TEAM_RECIPE, range(5)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_member, (str(tmp_path), port), nprocs=2)

    told = [torch.load(tmp_path / f"rank_{rank}.pt") for rank in range(2)]
    for name, parameter in run.model.named_parameters():
        for one in told:
            if parameter.grad is None:
                assert name not in one["gradients"]
            else:
                torch.testing.assert_close(one["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
    train(TEAM_RECIPE, [discs()], tmp_path / "begun_sharded", workers=0, dtype="float32")
    for folder in ("together", "resumed", "sharded", "resumed_sharded", "begun_sharded"):
        found = load_model(tmp_path / folder / "model.safetensors").state_dict()
        for name, tensor in alone.state_dict().items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=name)
    assert told[1]["losses"] == []  # process 0 alone reports
    rows = [json.loads((tmp_path / each / "log.jsonl").read_text()) for each in ("alone", "together", "sharded")]
    for row in rows[1:]:
        assert row["loss"] == pytest.approx(rows[0]["loss"], rel=1e-4)
    assert told[0]["losses"][0] == rows[1]["loss"]
    (one, whole), (other, _) = (each["held"] for each in told)
    assert one + other == whole
    assert max(one, other) < 0.6 * whole  # rows do not always come out even


def test_one_process_cannot_be_sharded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected several processes to share a network among, got one"):
        train(RECIPE, [discs()], tmp_path / "run", sharded=True)
    assert not (tmp_path / "run").exists()


def test_more_processes_than_episodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 2 processes, as the smallest batch has episodes, got 3"):
        train(RECIPE, [discs()], tmp_path / "run", team=Team(0, 3))
    assert not (tmp_path / "run").exists()


def test_processes_of_torchrun_take_their_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert team_device("auto") == "auto"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert (team_device("auto"), team_device("cuda"), team_device("cpu")) == ("cuda:3", "cuda:3", "cpu")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match='"cpu" or "cuda"'), joined("mps"):
        pass


# --- the state on disk


def advanced(steps: int) -> Run:
    run = Run(RECIPE, torch.device("cpu"))
    for step in range(steps):
        run.advance(batch_of(RECIPE, range(4 * step, 4 * step + 4)))
    return run


def test_a_state_in_slices_comes_back_rounded(tmp_path: Path) -> None:
    run = advanced(2)
    run.save(tmp_path, Slices())
    again = Run(RECIPE, torch.device("cpu"))
    again.restore(tmp_path)
    assert again.step == 2
    for saved, read in ((run.model, again.model), (run.averaged(), again.averaged())):
        for name, tensor in saved.state_dict().items():
            torch.testing.assert_close(read.state_dict()[name], tensor.bfloat16().float(), rtol=0, atol=0)
    for saved, read in zip(run.optimizers, again.optimizers, strict=True):
        for number, values in saved.state_dict()["state"].items():
            for name, tensor in values.items():
                kept = tensor if tensor.ndim == 0 else tensor.bfloat16().float()
                torch.testing.assert_close(read.state_dict()["state"][number][name], kept, rtol=0, atol=0)
    again.advance(batch_of(RECIPE, range(8, 12)))
    again.save(tmp_path)
    assert not (tmp_path / "state").exists()
    newest = Run(RECIPE, torch.device("cpu"))
    newest.restore(tmp_path)
    assert newest.step == 3


def test_slices_are_as_small_as_asked_and_a_torn_one_is_found(tmp_path: Path) -> None:
    packed = pack({"noise": torch.randn(3 * MIB // 2 + 100)})
    write_slices(tmp_path, packed[: 2 * MIB], 1, Slices(1))
    write_slices(tmp_path, packed, 2, Slices(1))
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.bin")}
    assert len(sizes) == 4
    assert all(name.startswith("step_0000002") for name in sizes)
    assert max(sizes.values()) == MIB
    assert read_slices(tmp_path) == packed
    with pytest.raises(ValueError, match="at most 3 MiB, got 4"):
        write_slices(tmp_path, packed, 3, Slices(1, 3))
    assert read_slices(tmp_path) == packed
    victim = sorted(tmp_path.glob("*.bin"))[1]
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is not the file that index"):
        read_slices(tmp_path)
    with pytest.raises(ValueError, match="slices of 1 to 60 MiB"):
        Slices(61)


def test_optimizers_are_left_out_where_the_slices_are_full(tmp_path: Path) -> None:
    wide = replace(RECIPE, model=replace(MODEL, decoder_width=32, patch=16, width=64))
    assert 1 < 4 * sum(p.numel() for p in SegGPT(wide.model).parameters()) / MIB < 5
    run = Run(wide, torch.device("cpu"))
    run.advance(paint_batch(collate([_Painter(wide, [discs()], 16, None)[0, 1]]), torch.device("cpu")))
    full, weights_only = len(pack(run.state())), len(pack({**run.state(), "optimizers": None}))
    total = -(-weights_only // MIB)
    assert full > total * MIB
    run.save(tmp_path, Slices(1, total))
    again = Run(wide, torch.device("cpu"))
    again.restore(tmp_path)
    assert again.step == 1
    assert not again.optimizers[0].state_dict()["state"]
    with pytest.raises(ValueError, match="fits into 1 MiB of slices"):
        train(wide, [discs()], tmp_path / "run", slices=Slices(1, 1))


@pytest.mark.parametrize("slices", [None, Slices(1, 8)])
def test_a_killed_run_loses_at_most_the_last_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slices: Slices | None
) -> None:
    saved: list[int] = []
    save = Run.save

    def watched(run: Run, out: Path, slices: Slices | None = None) -> None:
        save(run, out, slices)
        saved.append(run.step)
        if run.step == 4:
            raise KeyboardInterrupt

    ticks = iter(range(10_000))
    monkeypatch.setattr(Run, "save", watched)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: 6.0 * next(ticks))  # each step takes 18 seconds or more
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, [discs()], tmp_path, workers=0, save_minutes=0.5, slices=slices)
    assert saved == [2, 4]
    resumed = Run(RECIPE, torch.device("cpu"))
    resumed.restore(tmp_path)
    assert resumed.step == 4
    train(RECIPE, [discs()], tmp_path, workers=0, save_minutes=1000, slices=slices)
    assert saved == [2, 4, 10]
