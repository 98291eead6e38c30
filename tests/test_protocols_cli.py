"""`incontext evaluate protocol`: every benchmark from its archive's layout to its report, by a tiny network."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Done, runner
from stand_ins import ade20k, coco_20i, coco_panoptic, davis, fss_1000, mose, pascal_5i, youtube_vos

from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT

CASES: dict[str, tuple[Callable[[Path], Path], str, list[str]]] = {
    "coco-20i": (lambda path: coco_20i(path, whole=True), "mIoU, 1 shot", ["--limit", "2"]),
    "pascal-5i": (lambda path: pascal_5i(path, whole=True), "mIoU, 5 shots", ["--limit", "2"]),
    "fss-1000": (fss_1000, "FB-IoU, 5 shots", ["--limit", "3"]),
    "davis-2016": (davis, "J&F", []),
    "davis-2017": (davis, "J", []),
    "youtube-vos": (youtube_vos, "", []),
    "mose": (mose, "", []),
    "ade20k": (ade20k, "mIoU, 1 shot", ["--limit", "2"]),
    "coco-panoptic": (coco_panoptic, "PQ, 1 shot", []),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of a few thousand parameters, without the head that leaves things out."""
    config = ModelConfig(
        width=16, heads=2, depth=2, patch=8, side=16, decoder_width=4, mlp_ratio=1.0, merge_layer=0, taps=(0, 1),
        pretrain_side=16,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(path, SegGPT(config))
    return path


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str], weights: Path) -> Callable[..., Done]:
    run = runner(capsys, "evaluate", "protocol")
    return lambda *arguments: run(*arguments, "--weights", weights, "--device", "cpu")


def report(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "report.json").read_text())
    return content


@pytest.mark.parametrize("name", CASES)
def test_every_benchmark_from_its_archive_to_its_report(
    tmp_path: Path, evaluate: Callable[..., Done], name: str
) -> None:
    make, figure, options = CASES[name]
    out = tmp_path / "out"
    done = evaluate(name, make(tmp_path / "data"), "-o", out, *options)
    assert done.status == 0, done.err
    assert "| SegGPT |" in done.out or name == "davis-2016"
    assert "| this run, " in done.out or not figure
    content = report(out)
    assert content["about"]["benchmark"] == name
    assert content["about"]["scored at"]
    figures = {each["name"]: each["value"] for each in content["figures"]}
    assert not figure or 0 <= figures[figure] <= 1
    assert "<h2>Best, median and worst " in (out / "report.html").read_text()
    assert (out / "report.md").read_text().startswith("# ")
    answers = next(path for path in sorted(out.iterdir()) if path.suffix == ".jsonl")
    before = answers.read_text()
    again = evaluate(name, tmp_path / "data", "-o", out, *options)
    assert again.status == 0
    assert answers.read_text() == before  # nothing was asked again
    assert again.out == done.out


def test_an_episode_list_asks_the_same_of_another_run(tmp_path: Path, evaluate: Callable[..., Done]) -> None:
    data, listed = fss_1000(tmp_path / "data"), tmp_path / "episodes.json"
    evaluate("fss-1000", data, "-o", tmp_path / "one", "--limit", 4, "--shots", 1, "--write-episodes", listed)
    done = evaluate("fss-1000", data, "-o", tmp_path / "two", "--episodes", listed)
    assert done.status == 0, done.err
    one, two = (report(tmp_path / name) for name in ("one", "two"))
    assert one["scores"]["columns"][0]["sets"][0]["class_iou"] == two["scores"]["columns"][0]["sets"][0]["class_iou"]
    assert two["about"]["episodes"] == str(listed)
    refused = evaluate("mose", mose(tmp_path / "mose"), "-o", tmp_path / "out", "--episodes", listed)
    assert refused.status == 2
    assert "expected episodes of mose, got those of fss-1000" in refused.err


@pytest.mark.parametrize("name", ["davis-2017", "youtube-vos", "coco-panoptic", "ade20k"])
def test_lists_of_videos_and_scenes_ask_the_same(tmp_path: Path, evaluate: Callable[..., Done], name: str) -> None:
    make, _, _ = CASES[name]
    data, listed = make(tmp_path / "data"), tmp_path / "episodes.json"
    first = evaluate(name, data, "-o", tmp_path / "one", "--write-episodes", listed)
    assert first.status == 0, first.err
    second = evaluate(name, data, "-o", tmp_path / "two", "--episodes", listed)
    assert second.status == 0, second.err
    assert report(tmp_path / "one")["figures"] == report(tmp_path / "two")["figures"]


@pytest.mark.slow
def test_a_dry_run_estimates_and_writes_nothing(tmp_path: Path, evaluate: Callable[..., Done]) -> None:
    for name, units in (("fss-1000", "40 episodes"), ("davis-2017", "9 frames"), ("ade20k", "3 images")):
        make, _, _ = CASES[name]
        done = evaluate(name, make(tmp_path / name), "-o", tmp_path / "out", "--dry-run")
        assert done.status == 0, done.err
        assert f": {units}, about 0:0" in done.out
        assert "GB of memory" in done.out
    assert not (tmp_path / "out").exists()


def test_archives_are_written(tmp_path: Path, evaluate: Callable[..., Done]) -> None:
    evaluate("youtube-vos", youtube_vos(tmp_path / "data"), "-o", tmp_path / "out", "--all-frames", "--memory", 1)
    with zipfile.ZipFile(tmp_path / "out/submission.zip") as archive:
        assert len(archive.namelist()) == 6
    about = report(tmp_path / "out")["about"]
    assert about["memory"] == "1 frames, spaced"
    assert about["frames"] == "those in between, too"


def test_options_change_what_is_reported(tmp_path: Path, evaluate: Callable[..., Done]) -> None:
    data = pascal_5i(tmp_path / "data", whole=True)
    options = ("--shots", "2", "--folds", "1,3", "--ensembles", "feature,spatial", "--scored-at", 32, "--limit", 2)
    done = evaluate("pascal-5i", data, "-o", tmp_path / "out", *options)
    assert done.status == 0, done.err
    content = report(tmp_path / "out")
    assert content["scores"]["side"] == 32
    assert [each["method"] for each in content["scores"]["columns"]] == ["feature", "spatial"]
    assert [each["name"] for each in content["scores"]["columns"][0]["sets"]] == ["fold 1", "fold 3"]
    assert content["about"]["scored at"] == "32 x 32"
    refused = evaluate("pascal-5i", data, "-o", tmp_path / "out", *options[:-4], "--limit", 2)
    assert refused.status == 2
    assert "made with other settings (scored at was 32, now null)" in refused.err


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("davis-2017", ["--shots", "5"], "expected no --shots with davis-2017, which has no use for it"),
        ("fss-1000", ["--folds", "0"], "expected --folds out of no folds with fss-1000, got 0"),
        ("coco-20i", ["--folds", "4"], "expected --folds out of 0, 1, 2, 3 with coco-20i, got 4"),
        ("coco-20i", ["--folds", "x"], "expected --folds as different numbers"),
        ("coco-20i", ["--memory", "4"], "expected no --memory with coco-20i"),
        ("ade20k", ["--smallest", "9"], "expected --smallest with coco-panoptic, which alone has objects"),
        ("ade20k", ["--shots", "1,2"], "expected one number of shots and one ensemble with ade20k"),
        ("mose", ["--split", "none"], "expected a folder none with MOSE"),
        ("coco-panoptic", [], "val2017"),
    ],
)
def test_what_a_benchmark_has_no_use_for_is_refused(
    tmp_path: Path, evaluate: Callable[..., Done], name: str, options: list[str], said: str
) -> None:
    mose(tmp_path) if name == "mose" else tmp_path.mkdir(exist_ok=True)
    done = evaluate(name, tmp_path, "-o", tmp_path / "out", *options)
    assert done.status == 2
    assert said in done.err


def test_a_prompt_tensor_stands_in_place_of_training_images(
    tmp_path: Path, evaluate: Callable[..., Done], weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = coco_panoptic(tmp_path / "data")
    learned = tmp_path / "learned.safetensors"
    tune = runner(capsys, "tune", str(data / "annotations/panoptic_train2017.json"), "-o", str(learned))
    assert tune("--weights", weights, "--steps", 2, "--task", "semantic", "--device", "cpu").status == 0
    shutil.rmtree(data / "train2017")
    done = evaluate("coco-panoptic", data, "-o", tmp_path / "out", "--prompt-tensor", learned)
    assert done.status == 0, done.err
    content = report(tmp_path / "out")
    assert content["figures"][0]["name"] == "PQ, tuned prompt"
    assert "34.4" in done.out
    refused = evaluate("coco-panoptic", data, "-o", tmp_path / "out", "--prompt-tensor", learned, "--shots", 1)
    assert "expected --prompt-tensor or --shots, got both" in refused.err
