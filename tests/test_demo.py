"""The demo: its masks fit its photographs, it writes what it promises, and its commands do the same."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from incontext import demo
from incontext.cli import main
from incontext.engine import Segmenter, load
from incontext.images.ids import Pixels
from incontext.images.masks import read_mask
from incontext.images.read import read_image
from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.types import Prompt

NAMES = [job.name for job in demo.JOBS]


@pytest.fixture(scope="module")
def photographs() -> Path:
    pytest.importorskip("skimage", reason="needs scikit-image, whose wheel holds the photographs")
    return demo.find_photographs()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny_config: ModelConfig) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(path, SegGPT(tiny_config))
    return path


@pytest.fixture(scope="module")
def segmenter(weights: Path) -> Segmenter:
    return load(weights, device="cpu")


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def report(
    photographs: Path, segmenter: Segmenter, told: list[str], tmp_path_factory: pytest.TempPathFactory
) -> demo.DemoReport:
    assert photographs.is_dir()
    out = tmp_path_factory.mktemp("a folder") / "out"
    return demo.run(segmenter, out, on_job=lambda job: told.append(job.describe()))


def photograph_of(job: demo.Job, photographs: Path) -> Pixels:
    return read_image(photographs / job.photograph)


@pytest.mark.parametrize("job", demo.JOBS, ids=NAMES)
def test_the_masks_fit(job: demo.Job, photographs: Path) -> None:
    """Each is of its crop's size, counts its ids from 1, and marks what differs from the rest in colour."""
    image = job.prompt.of(photograph_of(job, photographs))
    file = read_mask(demo.MASKS / f"{job.name}.png")
    prompt = Prompt(image, file.ids)  # which refuses other sizes and empty masks
    assert prompt.ids == tuple(range(1, len(prompt.ids) + 1))
    assert 0.05 < (prompt.mask > 0).mean() < 0.95
    assert file.colors is not None
    assert all(file.colors[i].any() for i in prompt.ids)
    mean = [image[prompt.mask == i].mean(axis=0) for i in (0, *prompt.ids)]
    assert all(np.abs(mean[i] - mean[0]).max() > 15 for i in prompt.ids)


def test_there_is_no_other_mask() -> None:
    assert sorted(path.name for path in demo.MASKS.iterdir()) == sorted(f"{name}.png" for name in NAMES)


@pytest.mark.parametrize("job", demo.JOBS, ids=NAMES)
def test_the_crops_fit(job: demo.Job, photographs: Path) -> None:
    height, width = photograph_of(job, photographs).shape[:2]
    for crop in (job.prompt, *job.queries.values()):
        assert 0 <= crop.left < crop.right <= width
        assert 0 <= crop.top < crop.bottom <= height
        assert crop.of(photograph_of(job, photographs)).shape == (crop.bottom - crop.top, crop.right - crop.left, 3)
    assert job.prompt not in job.queries.values()


def test_everything_is_written(report: demo.DemoReport, photographs: Path) -> None:
    assert [job_report.job for job_report in report.jobs] == list(demo.JOBS)
    for job, job_report in zip(demo.JOBS, report.jobs, strict=True):
        photograph, folder = photograph_of(job, photographs), job_report.folder
        assert (read_image(folder / "prompt.png") == job.prompt.of(photograph)).all()
        assert (folder / "prompt_mask.png").read_bytes() == (demo.MASKS / f"{job.name}.png").read_bytes()
        assert {path.stem for path in (folder / "queries").iterdir()} == set(job.queries)
        ids = read_mask(folder / "prompt_mask.png").ids
        for name, crop in job.queries.items():
            assert (read_image(folder / "queries" / f"{name}.png") == crop.of(photograph)).all()
            found = read_mask(folder / "masks" / f"{name}.png").ids
            assert found.shape == crop.of(photograph).shape[:2]
            assert set(np.unique(found)) <= set(np.unique(ids)) | {0}
            assert read_image(folder / "masks" / f"{name}_overlay.jpg").shape[:2] == found.shape
        assert json.loads((folder / "masks" / "report.json").read_text())["finished"] is True


def test_the_contact_sheets_show_prompt_and_answers(report: demo.DemoReport) -> None:
    sheets = [read_image(job_report.sheet) for job_report in report.jobs]
    assert (read_image(report.sheet) == np.concatenate(sheets)).all()
    for job_report, sheet in zip(report.jobs, sheets, strict=True):
        assert job_report.sheet.parent == job_report.folder
        # Every image and every caption is there, and nothing is cut off: ink in each column, none at the edges.
        columns = 1 + len(job_report.job.queries)
        for left in range(demo._GAP, demo._GAP + columns * (demo._CELL + demo._GAP), demo._CELL + demo._GAP):
            assert (sheet[:, left : left + demo._CELL] < 128).any()
        for edge in (sheet[0], sheet[-1], sheet[:, 0], sheet[:, -1]):
            assert (edge == 255).all()


def test_it_tells_the_time_and_the_command(report: demo.DemoReport, told: list[str]) -> None:
    assert [text.partition(":")[0] for text in told] == NAMES
    for job_report, text in zip(report.jobs, told, strict=True):
        assert f"{len(job_report.job.queries)} masks, {job_report.seconds_per_image:.2f} s an image" in text
        assert job_report.command in text
        assert job_report.seconds_per_image > 0


def test_the_command_does_the_same(report: demo.DemoReport, weights: Path) -> None:
    job_report = report.jobs[0]
    masks = sorted((job_report.folder / "masks").glob("*.png"))
    before = [path.read_bytes() for path in masks]
    for path in masks:
        path.unlink()
    program, *arguments = shlex.split(job_report.command)
    assert program == "incontext"
    assert arguments[-2:] == ["--weights", str(weights)]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--device", "cpu"])
    assert not stopped.value.code
    assert [path.read_bytes() for path in masks] == before


@pytest.mark.usefixtures("photographs")
def test_default_weights_need_no_option(segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter = Segmenter(segmenter.model, device="cpu", name="default")
    assert "--weights" not in demo._run_job(segmenter, demo.JOBS[0], tmp_path).command


def test_it_can_run_again(report: demo.DemoReport, segmenter: Segmenter) -> None:
    """What was left of another run is overwritten, and an image that a user added is segmented with the others."""
    job_report = report.jobs[0]
    added = job_report.folder / "queries" / "added.png"
    added.write_bytes((job_report.folder / "prompt.png").read_bytes())
    (job_report.folder / "prompt_mask.png").write_bytes(b"")
    again = demo._run_job(segmenter, job_report.job, job_report.folder)
    added.unlink()
    assert again.result.done == len(job_report.job.queries) + 1
    assert (job_report.folder / "masks" / "added.png").exists()


@pytest.mark.usefixtures("photographs")
def test_a_failure_is_told(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "added.png").write_bytes(b"no image")
    job_report = demo._run_job(segmenter, demo.JOBS[0], tmp_path)
    assert job_report.result.failed == 1
    assert "added.png" in job_report.describe()


def test_without_scikit_image(segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(FileNotFoundError, match=r'expected scikit-image, .* run: pip install "incontext\[demo\]"'):
        demo.run(segmenter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_with_another_scikit_image(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import skimage

    assert photographs.is_dir()
    monkeypatch.setattr(skimage, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(FileNotFoundError, match=r"expected scikit-image's photographs in .*, found no coins.png, "):
        demo.find_photographs()
