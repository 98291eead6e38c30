"""Calibration of a backbone's votes: which images, what is found, what is kept, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones import hues, scene
from commands import Done, runner

from incontext.engine import Segmenter
from incontext.evaluation.calibration import (
    Opinion,
    area_under_curve,
    collect,
    fit,
    held_out_sets,
    score,
    surprise,
)
from incontext.images.write import write_image, write_mask
from incontext.matching import calibration as kept
from incontext.matching.calibration import Calibration
from incontext.matching.voter import Voter
from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.training.sets import hold_out, read_set
from incontext.types import Palette

CONFIG = ModelConfig(
    width=16, heads=2, depth=2, patch=4, side=32, decoder_width=8, merge_layer=0, taps=(0, 1), pretrain_side=16,
    presence=8,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def write_set(folder: Path, count: int, *, ids: tuple[int, ...] = (1, 3)) -> Path:
    """Images with a disc, every other one of the first id, the others of the second."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(count):
        y, x = rng.integers(16, 48, 2).tolist()
        image, mask = scene({ids[n % 2]: (y, x)})
        write_image(folder / "images" / f"{n:03d}.png", image)
        write_mask(folder / "masks" / f"{n:03d}.png", mask, Palette.spread(ids).table)
    return folder


def segmenter() -> Segmenter:
    torch.manual_seed(3)
    return Segmenter(SegGPT(CONFIG), device="cpu", dtype="float32")


def voter() -> Voter:
    return Voter(hues(), torch.device("cpu"))


def opinion(*, margin: float, lead: float, there: bool = True, name: str = "a", said: float | None = 0.5) -> Opinion:
    """The left half is the thing. margin, lead: of both, for the truth where it is there, else for the thing."""
    truth = torch.zeros(80, 80, dtype=torch.bool)
    truth[:, :40] = there
    sign = torch.where(truth, 1.0, -1.0) if there else torch.ones(80, 80)
    known = torch.ones(80, 80, dtype=torch.bool)
    votes = lead * (sign[::20, ::20] if there else torch.ones(4, 4))
    return Opinion(name, 1, margin * sign, votes, torch.zeros(4, 4), truth, known, said, there)


# --- which images


def test_every_so_manieth_image_is_that_which_training_holds_out(tmp_path: Path) -> None:
    write_set(tmp_path / "a", 100)
    (found,) = held_out_sets(tmp_path, prompts=1, every=20, episodes=30)
    named = {stem for episode in found.episodes for stem in (episode.query, *episode.prompts)}
    _, (held,) = hold_out([read_set(tmp_path / "a")])
    assert len(held.images) == 5
    assert named <= {f"{n:03d}" for n in range(10, 100, 20)}
    assert len(named) >= 4


def test_whole_sets_serve_whole_and_small_ones_not_at_all(tmp_path: Path) -> None:
    write_set(tmp_path / "a", 12)
    write_set(tmp_path / "b", 12)
    write_set(tmp_path / "c", 3)
    (found,) = held_out_sets(tmp_path, prompts=2, every=20, whole=["b"], episodes=8)
    assert found.name == "b"
    assert len(found.episodes) == 8
    for episode in found.episodes:
        assert episode.absent is not None
        assert int(episode.absent.query) % 2 != int(episode.query) % 2  # the other id
    with pytest.raises(ValueError, match="expected a set with a thing in at least 3 images that are held out"):
        held_out_sets(tmp_path, prompts=2, every=20)
    with pytest.raises(ValueError, match="expected sets out of a, b, c, got d"):
        held_out_sets(tmp_path, prompts=1, names=["d"])
    (tmp_path / "b" / "dataset.json").write_text('{"masks": "regions"}')
    assert [each.name for each in held_out_sets(tmp_path, prompts=1)] == ["a", "c"]


# --- what is found


def test_scores_are_means_over_sets() -> None:
    good, bad = opinion(margin=0.5, lead=0.0), opinion(margin=-0.5, lead=0.0, name="b")
    assert score([good, good, good, bad], 0.0, 0.0) == {1: 0.5}
    assert score([bad], 1.0, 0.0) == {1: 0.0}
    assert score([opinion(margin=-0.5, lead=1.0)], 1.0, 0.0)[1] > 0.7
    assert score([replace(bad, known=torch.zeros(80, 80, dtype=torch.bool))], 0.0, 0.0) == {1: 1.0}


def test_surprise_is_least_where_confidence_is_right() -> None:
    """Three of four pixels are as the lead says: so the sharpness is best where that is the probability."""
    torch.manual_seed(0)
    made = opinion(margin=0.5, lead=0.0)
    flipped = replace(made, truth=made.truth ^ (torch.rand(80, 80) < 0.25))
    best = min((0.2, 0.5, 1.1, 2.0, 4.0), key=lambda each: surprise([flipped], 0.0, 0.0, each))
    assert best == 1.1  # sigmoid(2 * 1.1 * 0.5) is .75


def test_weights_that_help_are_found() -> None:
    """The network errs on half of the queries, by less than the backbone knows better."""
    made = [opinion(margin=-0.6, lead=0.5), opinion(margin=0.6, lead=0.5)]
    found = fit(made, voter(), segmenter(), about={"sets": ["a"]})
    assert found.prototypes * 0.5 > 0.6
    assert found.neighbours == 0.0  # which say nothing
    assert found.presence is None  # no query was without the thing
    assert found.sha256 == hues().sha256
    assert found.origin["mean_iou_alone"] == {"1": 0.5}
    assert found.origin["mean_iou_both"]["1"] > 0.9
    assert found.origin["sets"] == ["a"]


def test_votes_that_only_harm_count_nothing() -> None:
    found = fit([opinion(margin=0.3, lead=-0.5)], voter(), segmenter(), about={})
    assert (found.prototypes, found.neighbours) == (0.0, 0.0)


def test_presence_is_learned_from_queries_without_the_thing() -> None:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(30):
        made.append(opinion(margin=-0.2, lead=1.0 + 0.5 * rng.random(), said=float(rng.uniform(0.3, 0.8))))
        made.append(opinion(margin=-0.9, lead=0.8 * rng.random(), there=False, said=float(rng.uniform(0.2, 0.7))))
    found = fit(made, voter(), segmenter(), about={})
    assert found.presence is not None
    assert found.presence[1] > 0
    assert found.origin["presence_auc"]["both"] > 0.95 > found.origin["presence_auc"]["alone"]
    leads = torch.tensor([-1.0, 1.3]).view(1, 2, 1, 1).expand(1, 2, 4, 4) * found.prototypes
    joined = Voter(hues(), torch.device("cpu"), calibration=found)
    assert joined.presence(torch.tensor([[0.5, 0.5]]), leads)[0, 1] > 0.8
    assert joined.presence(torch.tensor([[0.5, 0.5]]), leads / 6)[0, 1] < 0.2
    unable = fit([replace(each, said=None) for each in made], voter(), segmenter(), about={})
    assert unable.presence is None


def test_areas_count_ties_by_half() -> None:
    assert area_under_curve([0.9, 0.5], [0.5, 0.1]) == 0.875


def test_opinions_are_collected_apart(tmp_path: Path) -> None:
    write_set(tmp_path / "a", 10)
    sets = held_out_sets(tmp_path, prompts=2, episodes=3)
    told = list[int]()
    found = collect(segmenter(), voter(), sets, shots=(1, 2), on_episode=told.append)
    assert told == [1, 2, 3]
    assert len(found) == 3 * 2 * 2
    assert [each.there for each in found[:4]] == [True, False, True, False]
    assert {each.shots for each in found} == {1, 2}
    for each in found:
        assert each.margin.shape == each.truth.shape == (80, 80)
        assert each.said is not None
        if each.there:  # the backbone knows the colour
            inside = torch.nn.functional.adaptive_avg_pool2d(each.truth.float()[None], each.prototypes.shape)[0] > 0.9
            assert (each.prototypes[inside] > 0).float().mean() > 0.9
    alone, both = score([e for e in found if e.there], 0.0, 0.0), score([e for e in found if e.there], 4.0, 0.0)
    assert both[1] > alone[1] + 0.2


# --- the command


def test_the_command_keeps_what_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("incontext.matching.voter.open_backbone", lambda _: hues())
    run: Callable[..., Done] = runner(capsys)
    write_set(tmp_path / "sets" / "a", 10)
    save_model(tmp_path / "weights.safetensors", segmenter().model)
    common = ["backbone", "calibrate", "hues", tmp_path / "sets", "--weights", tmp_path / "weights.safetensors"]
    done = run(*common, "--episodes", 3, "--shots", "1,2")
    assert done.status == 0
    assert "mean IoU at 1 shot:" in done.out
    assert "mean IoU at 2 shots:" in done.out
    assert "presence, area under the curve:" in done.out
    made = kept.known(hues().sha256)
    assert made is not None
    assert made.prototypes > 0
    assert made.origin["every"] == 1
    told = run("backbone", "info", "hues")
    assert told.status == 0
    assert f"{made.prototypes:g} by prototypes" in told.out
    assert "weights.safetensors" in told.out
    again = run(*common, "--episodes", 3, "--shots", "1,2", "-o", tmp_path / "here.json")
    assert again.status == 0
    (row,) = json.loads((tmp_path / "here.json").read_text())
    assert Calibration.of(row).digest == made.digest  # the same images, the same numbers


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--shots", "0"], "expected --shots as different numbers of at least 1"),
        (["--sets", "nothing"], "expected sets out of a, got nothing"),
        (["--every", "20"], "expected a set with a thing in at least 5 images"),
    ],
)
def test_what_cannot_be_calibrated_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    write_set(tmp_path / "sets" / "a", 10)
    done = runner(capsys)("backbone", "calibrate", "hues", tmp_path / "sets", *more)
    assert done.status == 2
    assert sentence in done.err


def test_the_projects_own_calibrations_can_be_read() -> None:
    from incontext.network.registry import weights_folder

    for each in kept.read(weights_folder() / kept.FILE):
        assert len(each.sha256) == 64
        assert each.origin["sets"]
