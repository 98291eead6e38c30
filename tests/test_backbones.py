"""A backbone beside the network: whatever is segmented, its votes count, and without one nothing changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones import COLORS, STRONG, Hues, hues, iou, prompt, scene, voter
from commands import Done, runner

import incontext
from incontext.canvas.paint import normalise_colors
from incontext.canvas.query import PaintedAnswer
from incontext.canvas.read import Paint, SecondVotes, read_both, read_colors, read_small
from incontext.engine import Segmenter
from incontext.hints import Hints
from incontext.images.resize import resized
from incontext.images.write import write_image, write_mask
from incontext.matching import calibration as kept
from incontext.matching.calibration import Calibration
from incontext.matching.voter import MOST_KEPT, Voter, evidence
from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.prompt_tensor import PromptTensor
from incontext.tuning import tune
from incontext.types import Palette, Prompt
from incontext.video import Tracker

SIDE = 32
CONFIG = ModelConfig(
    width=16, heads=2, depth=2, patch=4, side=SIDE, decoder_width=8, merge_layer=0, taps=(0, 1), pretrain_side=16
)
SILENT = Calibration("hues", "", prototypes=0.0, neighbours=0.0, sharpness=1.0)
QUERY, TRUTH = scene({1: (40, 22)}, size=(60, 80))


def segmenter(beside: Voter | None = None, *, presence: int = 0, min_presence: float = 0.0) -> Segmenter:
    torch.manual_seed(3)
    model = SegGPT(replace(CONFIG, presence=presence))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return Segmenter(model, device="cpu", dtype="float32", min_presence=min_presence, voter=beside)


def asked(beside: Voter) -> int:
    network = beside.backbone.network
    assert isinstance(network, Hues)
    return network.asked


@pytest.fixture(autouse=True)
def _own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No calibration of whoever runs the tests."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


# --- both votes, where ids are read


def test_votes_for_nothing_leave_the_networks_ids() -> None:
    palette = Palette.spread([3, 7, 9])
    colors = torch.rand(2, 9, 9, 3) * 255
    ids, confidence = read_colors(colors, palette)
    both, sure = read_both(colors, palette, SecondVotes(torch.zeros(2, 4, 5, 5), 1.0))
    assert torch.equal(ids, both)
    assert torch.allclose(sure, torch.tanh(confidence), atol=1e-5)


def test_a_vote_counts_beside_the_margin() -> None:
    palette = Palette.spread([3])  # white on black
    colors = torch.full((1, 4, 4, 3), 255 * 0.4)  # rather black: a margin of .2
    for lead, found in ((0.1, 0), (0.3, 3)):
        votes = torch.stack([torch.full((2, 2), -lead), torch.full((2, 2), lead)])[None]
        ids, confidence = read_both(colors, palette, SecondVotes(votes, 2.0))
        assert (ids == found).all()
        assert torch.allclose(confidence, torch.tanh(torch.tensor(2 * abs(lead - 0.2))).expand(1, 4, 4), atol=1e-5)


def test_votes_of_a_batch_stay_with_their_queries() -> None:
    palette, painted = Palette.spread([1]), torch.zeros(4, 3, 8, 8)
    leads = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(4, 1, 1, 1) * torch.tensor([-9.0, 9.0]).view(1, 2, 1, 1)
    paint = Paint(painted, palette, None, SecondVotes(leads.expand(4, 2, 3, 3), 1.0))
    joined = Paint.joined([paint.part(0, 1), paint.part(1, 4)])
    ids, _ = read_small([joined])
    assert [int(each.unique()) for each in ids] == [1, 0, 1, 0]
    assert Paint.joined([paint._replace(second=None)]).second is None


# --- what is segmented


def test_without_votes_the_masks_are_the_networks() -> None:
    plain = segmenter().segment(QUERY, prompt())
    silent = segmenter(voter(SILENT)).segment(QUERY, prompt())
    assert 0 < (plain.mask == 1).mean() < 1
    small = [resized(each.mask * 255, (SIDE, SIDE)) > 127 for each in (plain, silent)]
    assert (small[0] == small[1]).mean() > 0.97  # only how sure pixels are differs, and so how they are spread


def test_a_backbone_finds_what_looks_alike() -> None:
    found = segmenter(voter()).segment(QUERY, prompt())
    assert found.shape == TRUTH.shape
    assert iou(found.mask, TRUTH, 1) > 0.75
    assert iou(segmenter().segment(QUERY, prompt()).mask, TRUTH, 1) < 0.5


def test_several_ids_are_told_apart() -> None:
    query, truth = scene({2: (20, 20), 1: (42, 44)})
    found = segmenter(voter()).segment(query, prompt((1, 2)))
    assert min(iou(found.mask, truth, i) for i in (1, 2)) > 0.7


def test_ids_in_groups_are_told_apart() -> None:
    """Nine ids go through the network in two groups, those of the other group being background."""
    prompts = [prompt((i,)) for i in (1, 2, 3, 4, 5)]
    greys = [Prompt(np.full((64, 64, 3), 20 + 50 * n, np.uint8), np.full((64, 64), i, np.uint8)) for n, i in
             enumerate((11, 12, 13, 14))]  # fmt: skip
    model = segmenter(voter())
    prepared = model.prepare([*prompts, *greys])
    assert len(prepared.passes) == 2
    query, truth = scene({1: (16, 16), 3: (16, 46), 5: (46, 30)}, shade=70)
    found = model.segment(query, prepared)
    assert min(iou(found.mask, truth, i) for i in (1, 3, 5)) > 0.6


def test_shots_are_pooled() -> None:
    """What only the third prompt shows is found."""
    prompts = [prompt((1,)), prompt((1,)), Prompt(*(each for each in scene({3: (30, 30)})))]
    last = Prompt(prompts[2].image, np.where(prompts[2].mask == 3, 1, 0).astype(np.uint8))
    query, truth = scene({3: (30, 40)})
    found = segmenter(voter()).segment(query, [*prompts[:2], last]).mask
    assert iou(found * 3, truth, 3) > 0.7


def test_small_things_are_found_in_windows() -> None:
    query, truth = scene({1: (150, 60)}, size=(200, 260), radius=7)
    small = Prompt(*scene({1: (40, 44)}, size=(200, 260), radius=7))
    model = segmenter(voter())
    prepared = model.prepare(small, tiles=64)
    assert prepared.fit(query).views > 4
    assert iou(model.segment(query, prepared).mask, truth, 1) > 0.7


@pytest.mark.parametrize("refine", [False, True])
def test_batches_answer_like_one_query(refine: bool) -> None:
    model, queries = segmenter(voter()), [scene({1: (20 + 4 * n, 30)})[0] for n in range(5)]
    prepared = model.prepare(prompt(), refine=refine)
    together = list(model.segment_many(queries, prepared, batch_size=3))
    for query, found in zip(queries, together, strict=True):
        alone = model.segment(query, prepared)
        assert np.array_equal(alone.mask, found.mask)
        assert np.allclose(alone.confidence, found.confidence, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (2, 2)])
def test_queries_and_prompts_smaller_than_a_patch(size: tuple[int, int]) -> None:
    small = np.full((*size, 3), COLORS[1], np.uint8)
    model = segmenter(voter())
    assert (model.segment(small, prompt()).mask == 1).all()
    assert model.segment(QUERY, Prompt(small, np.ones(size, np.uint8))).shape == TRUTH.shape


def test_raw_colours_are_read_by_both() -> None:
    image, mask = scene({1: (32, 30)})
    painted = np.where(mask[..., None] == 1, np.uint8([200, 10, 10]), 0).astype(np.uint8)
    found = segmenter(voter()).segment(QUERY, Prompt.from_colors(image, painted))
    assert iou(found.mask, TRUTH, 1) > 0.75


def test_what_hints_say_the_backbone_does_not_dispute() -> None:
    model = segmenter(voter())
    prepared = model.prepare(prompt())
    with_hints = prepared.fit(QUERY, hints=Hints(boxes=[(8, 8, 40, 40, 1)], points=[(70, 50, 0)]))
    (told,) = model.answer_many([with_hints], prepared)
    (free,) = model.answer_many([prepared.fit(QUERY)], prepared)
    assert isinstance(told, PaintedAnswer)
    assert isinstance(free, PaintedAnswer)
    first, second = (answer.painted[0].second for answer in (told, free))
    assert first is not None
    assert second is not None
    silent = (first.leads == 0).all(dim=1)
    assert 0 < float(silent.float().mean()) < 1
    assert torch.equal(first.leads[:, :, ~silent[0]], second.leads[:, :, ~silent[0]])
    alone = model.segment(QUERY, hints=Hints(points=[(22, 40, 1)]))  # without an example the network is alone
    assert np.array_equal(alone.mask, segmenter().segment(QUERY, hints=Hints(points=[(22, 40, 1)])).mask)


def test_queries_fitted_for_no_backbone_are_refused() -> None:
    model = segmenter(voter())
    with pytest.raises(ValueError, match="fitted for this Segmenter's backbone"):
        model.segment(segmenter().fit(QUERY), prompt())
    assert model.segment(model.fit(QUERY), prompt()).shape == TRUTH.shape


# --- what was seen is kept


def test_what_was_seen_is_not_looked_at_again() -> None:
    beside = voter()
    model, before = segmenter(beside), asked(beside)
    prepared = model.prepare([prompt((1,)), prompt((2,))])
    assert asked(beside) - before == 2
    model.prepare([prompt((2,)), prompt((1,)), prompt((1, 2))])
    assert asked(beside) - before == 3
    list(model.segment_many([QUERY, QUERY, prompt((1,)).image], prepared))
    assert asked(beside) - before == 4


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_KEPT < 1 << 28
    monkeypatch.setattr("incontext.matching.voter.MOST_KEPT", 40_000)  # an image takes some 15 000
    beside = voter()
    images = [np.full((64, 64, 3), n, np.uint8) for n in range(4)]
    first = beside.see(images)
    before = asked(beside)
    beside.see(images[-1:])
    assert asked(beside) == before
    assert torch.equal(beside.see(images), first)
    assert asked(beside) > before


def test_frames_that_are_remembered_are_not_looked_at_again() -> None:
    beside = voter()
    tracker, before = Tracker(segmenter(beside), memory=2, policy="recent"), asked(beside)
    frames = [scene({1: (24 + 2 * n, 20 + 3 * n), 2: (46, 52)}, radius=10) for n in range(5)]
    found = [tracker.step(image, mask if n == 0 else None) for n, (image, mask) in enumerate(frames)]
    assert asked(beside) - before == 5
    for answer, (_, truth) in zip(found[1:], frames[1:], strict=True):
        assert min(iou(answer.mask, truth, i) for i in (1, 2)) > 0.6


def test_a_tracker_goes_on_where_it_stood() -> None:
    frames = [scene({1: (24 + 2 * n, 20 + 3 * n)}, radius=10) for n in range(5)]
    whole = Tracker(segmenter(voter()), memory=2)
    expected = [whole.step(image, mask if n == 0 else None) for n, (image, mask) in enumerate(frames)]
    first, second = Tracker(segmenter(voter()), memory=2), Tracker(segmenter(voter()), memory=2)
    for n, (image, mask) in enumerate(frames[:3]):
        first.step(image, mask if n == 0 else None)
    second.restore(first.state())
    for (image, _), answer in zip(frames[3:], expected[3:], strict=True):
        assert np.array_equal(second.step(image).mask, answer.mask)
    with pytest.raises(ValueError, match="expected the state of a tracker"):
        Tracker(segmenter(), memory=2).restore(first.state())


# --- prompt tensors


def labelled() -> list[Prompt]:
    return [Prompt(*scene({1: (20 + 3 * n, 26), 2: (40, 46 - n)}, radius=10)) for n in range(4)]


def test_a_prompt_tensor_carries_what_the_backbone_saw(tmp_path: Path) -> None:
    model = segmenter(voter())
    key = tune(model, labelled(), steps=0)
    assert key.seen is not None
    assert key.seen.ids == (1, 2)
    assert key.seen.images == len(key.origin.images)  # those that judge are not shown
    key.save(tmp_path / "key.safetensors")
    again = PromptTensor.load(tmp_path / "key.safetensors")
    assert again.describe() == key.describe()
    assert "hues" in str(again.describe()["backbone"])
    query, truth = scene({1: (42, 20), 2: (20, 40)})
    for each in (key, again):
        found = model.segment(query, each)
        assert min(iou(found.mask, truth, i) for i in (1, 2)) > 0.7
    assert np.array_equal(model.segment(query, key).mask, model.segment(query, again).mask)
    with_prompts = model.segment(scene({3: (30, 30)})[0], [key, prompt((3,))])
    assert iou(with_prompts.mask, scene({3: (30, 30)})[1], 3) > 0.7
    assert segmenter().segment(query, key).shape == truth.shape  # without a backbone it is of use as well


def test_a_prompt_tensor_of_another_backbone_is_refused() -> None:
    key = tune(segmenter(voter(scale=2.0)), labelled(), steps=0)
    with pytest.raises(ValueError, match="with which this prompt tensor was tuned"):
        segmenter(voter()).prepare(key)


def test_a_prompt_tensor_without_a_backbone_leaves_the_network_alone() -> None:
    key = tune(segmenter(), labelled(), steps=0)
    assert key.seen is None
    assert key.format == 1
    model = segmenter(voter())
    with pytest.warns(UserWarning, match="tuned without a backbone"):
        prepared = model.prepare(key)
    assert np.array_equal(model.segment(QUERY, prepared).mask, segmenter().segment(QUERY, key).mask)


def test_damaged_examples_in_a_file_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    key, path = tune(segmenter(voter()), labelled(), steps=0), tmp_path / "key.safetensors"
    key.save(path)
    tensors = load_file(path)
    record = json.loads(_metadata(path)["incontext_prompt_tensor"])
    for change, problem in (
        ({"seen.owners": np.full_like(tensors["seen.owners"], 9)}, "expected owners among 3 places"),
        ({"seen.patches": tensors["seen.patches"] * np.float16(np.inf)}, "expected patches of finite values"),
        ({"seen.shares": tensors["seen.shares"][:3]}, "expected shares"),
        ({"seen.more": tensors["seen.mean"]}, "got others: seen.more"),
    ):
        save_file({**tensors, **change}, path, {"incontext_prompt_tensor": json.dumps(record)})
        with pytest.raises(ValueError, match=problem):
            PromptTensor.load(path)
    for seen, problem in (({**record["seen"], "ids": [1]}, "shares"), ({"backbone": "x"}, "cannot be used")):
        changed = {**record, "seen": seen}
        save_file(tensors, path, {"incontext_prompt_tensor": json.dumps(changed)})
        with pytest.raises(ValueError, match=problem):
            PromptTensor.load(path)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata())


# --- presence


def test_evidence_is_where_leads_are_greatest() -> None:
    leads = torch.full((1, 2, 10, 10), -1.0)
    leads[0, 1, 0, :5] = 3.0
    assert evidence(leads).tolist() == [[-1.0, 3.0]]


def test_presence_is_said_by_both() -> None:
    joint = Calibration("hues", "", 1.0, 0.0, 1.0, presence=(0.5, 2.0, -1.0))
    said, leads = torch.tensor([[0.7, 0.2, 1.0]]), torch.tensor([-1.0, 1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    found = voter(joint).presence(said, leads)
    expected = torch.sigmoid(0.5 * torch.logit(torch.tensor(0.2)) + 2.0 - 1.0)
    assert torch.allclose(found, torch.tensor([[0.7, float(expected), 1.0]]))  # what was pointed at stays certain
    assert torch.equal(voter().presence(said, leads), said)


def test_what_the_backbone_does_not_see_is_left_out() -> None:
    joint = Calibration("hues", "", 50.0, 0.0, 0.2, presence=(0.0, 1.0, -34.0))
    model = segmenter(voter(joint), presence=8, min_presence=0.5)
    there, absent = model.segment(QUERY, prompt()), model.segment(scene({3: (30, 30)})[0], prompt())
    assert there.presence[1] > 0.5 > absent.presence[1]
    assert not there.is_empty
    assert absent.is_empty
    assert segmenter(voter(joint)).segment(QUERY, prompt()).presence == {}  # a network that cannot tell


# --- what is told


def test_what_runs_is_described() -> None:
    plain, told = segmenter().describe(), segmenter(voter()).describe()
    assert not any("backbone" in name for name in plain)
    assert told["backbone"] == "hues"
    assert told["backbone_side"] == 64
    assert told["backbone_votes"] == "50 by prototypes, 0 by neighbours, sharpness 0.2"
    assert {name: value for name, value in told.items() if "backbone" not in name} == plain
    assert "not calibrated" in str(Voter(hues(), torch.device("cpu")).describe()["backbone_votes"])


@pytest.mark.slow
def test_memory_counts_the_backbone() -> None:
    plain, beside = segmenter(), segmenter(voter())
    own = beside.estimate_memory(shots=2) - plain.estimate_memory(shots=2)
    assert own > 64 * 64 * 3 * 4
    assert beside.estimate_memory(shots=2, batch_size=4) - plain.estimate_memory(shots=2, batch_size=4) > own
    assert beside.estimate_memory(shots=40) - plain.estimate_memory(shots=40) > own


@pytest.mark.slow
def test_little_memory_makes_batches_small(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = voter()
    model = segmenter(beside)
    monkeypatch.setattr("incontext.placed.psutil.virtual_memory", lambda: type("M", (), {"available": 12_000_000}))
    assert model._placed.room(1, SIDE, 64).batch < 64
    assert segmenter()._placed.room(1, SIDE, 64).batch > model._placed.room(1, SIDE, 64).batch


# --- calibrations


def test_calibrations_are_kept_by_the_weights(tmp_path: Path) -> None:
    backbone = hues()
    made = Calibration("hues", backbone.sha256, 1.5, 0.25, 2.0, (0.5, 1.0, -1.0), {"episodes": 12})
    assert kept.known(backbone.sha256) is None
    assert kept.keep(made) == tmp_path / "data" / "incontext" / "backbones.json"
    kept.keep(Calibration("other", "1" * 64, 1.0, 1.0, 1.0))
    found = kept.known(backbone.sha256)
    assert found is not None
    assert found.record() == made.record()
    assert Voter(backbone, torch.device("cpu")).calibration.digest == made.digest
    newer = Calibration("hues", backbone.sha256, 3.0, 0.25, 2.0)
    kept.keep(newer)
    assert len(kept.read(kept.user_file())) == 2
    assert kept.known(backbone.sha256).digest == newer.digest != made.digest  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["{", "[1]", '[{"backbone": "x"}]', '{"a": 1}'])
def test_damaged_calibrations_are_told(text: str) -> None:
    path = kept.user_file()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"backbones\.json: expected calibrations of backbones"):
        Voter(hues(), torch.device("cpu"))


@pytest.mark.parametrize(
    "numbers",
    [(-1.0, 0.0, 1.0), (1.0, float("nan"), 1.0), (1.0, 0.0, 0.0), (1.0, 0.0, 1.0, (1.0, 2.0))],
)
def test_numbers_that_make_no_sense_are_refused(numbers: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Calibration("hues", "", *numbers)  # type: ignore[arg-type]


# --- on the command line


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Done]:
    """Command lines, for which "hues" is a backbone, and weights.safetensors are weights."""
    monkeypatch.setattr("incontext.matching.voter.open_backbone", lambda _: hues())
    torch.manual_seed(3)
    save_model(tmp_path / "weights.safetensors", SegGPT(CONFIG))
    kept.keep(Calibration("hues", hues().sha256, 50.0, 0.0, 0.2))
    image, mask = scene({1: (32, 30)})
    for name in ("photos", "labelled/images", "labelled/masks"):
        (tmp_path / name).mkdir(parents=True)
    write_image(tmp_path / "example.png", image)
    write_mask(tmp_path / "example_mask.png", mask, Palette.spread([1]).table)
    for n in range(3):
        image, mask = scene({1: (20 + 8 * n, 36)})
        write_image(tmp_path / "photos" / f"{n}.png", image)
        write_image(tmp_path / "labelled" / "images" / f"{n}.png", image)
        write_mask(tmp_path / "labelled" / "masks" / f"{n}.png", mask, Palette.spread([1]).table)
    return runner(capsys)


def test_segment_takes_a_backbone_and_goes_on_with_the_same_only(run: Callable[..., Done], tmp_path: Path) -> None:
    common = [
        "segment", tmp_path / "photos", "--prompt", tmp_path / "example.png", tmp_path / "example_mask.png",
        "--weights", tmp_path / "weights.safetensors", "-o", tmp_path / "out",
    ]  # fmt: skip
    assert run(*common, "--backbone", "hues").status == 0
    found = [Prompt.open(tmp_path / "photos" / f"{n}.png", tmp_path / "out" / f"{n}.png").mask for n in range(3)]
    truth = [scene({1: (20 + 8 * n, 36)})[1] for n in range(3)]
    assert min(iou(one, other, 1) for one, other in zip(found, truth, strict=True)) > 0.7
    assert "none of them new" in run(*common, "--backbone", "hues").out
    other = run(*common)
    assert other.status == 2
    assert "there was a backbone" in other.err
    kept.keep(Calibration("hues", hues().sha256, 9.0, 0.0, 0.2))
    assert "the backbone was another, or counted otherwise" in run(*common, "--backbone", "hues").err


def test_rank_and_tune_take_a_backbone(run: Callable[..., Done], tmp_path: Path) -> None:
    with_it = ["--weights", tmp_path / "weights.safetensors", "--backbone", "hues"]
    ranked = run("rank", tmp_path / "labelled", *with_it)
    assert ranked.status == 0
    assert "0.9" in ranked.out or "0.8" in ranked.out
    tuned = run("tune", tmp_path / "labelled", "-o", tmp_path / "key.safetensors", "--steps", 1, *with_it)
    assert tuned.status == 0
    assert PromptTensor.load(tmp_path / "key.safetensors").seen is not None
    assert "hues" in run("weights", "info", tmp_path / "key.safetensors").out


def test_the_public_function_takes_a_backbone(run: Callable[..., Done], tmp_path: Path) -> None:
    del run
    model = incontext.load(tmp_path / "weights.safetensors", backbone="hues")
    assert model.describe()["backbone"] == "hues"
    assert iou(model.segment(QUERY, prompt()).mask, TRUTH, 1) > 0.7


def test_colours_stay_in_the_palette() -> None:
    """Whatever the backbone votes for, only ids that were asked for come out."""
    painted = normalise_colors(torch.rand(1, 8, 8, 3) * 255).permute(0, 3, 1, 2)
    paint = Paint(painted, Palette.spread([4, 6]), None, SecondVotes(torch.randn(1, 3, 4, 4), STRONG.sharpness))
    ids, confidence = read_small([paint])
    assert {*ids.unique().tolist()} <= {0, 4, 6}
    assert 0 <= float(confidence.min()) <= float(confidence.max()) <= 1
