"""`benchmarks/paper_table.py`: the paper's table from stand-ins of the data, with a network in the published layout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import paper_table
import pytest
from stand_ins import davis, fss_1000

from incontext.network.checkpoint import convert, save_model
from incontext.network.config import ModelConfig
from incontext.training.start.warm import fresh

TREE = Path(__file__).parents[1]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A tiny network in the layout in which the authors' file is."""
    config = ModelConfig(
        width=32, heads=2, depth=3, patch=8, side=32, decoder_width=8, merge_layer=0, taps=(0, 2), pretrain_side=32
    )
    save_model(tmp_path / "ours.safetensors", fresh(config, seed=0))
    convert(tmp_path / "ours.safetensors", tmp_path / "published.safetensors", layout="published")
    return tmp_path / "published.safetensors"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TREE / "benchmarks" / "paper_table.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(TREE)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_the_table_has_what_there_is_data_for_and_says_what_is_missing(tmp_path: Path, weights: Path) -> None:
    fss_1000(tmp_path / "data" / "fss")
    davis(tmp_path / "data" / "davis")
    asked = (tmp_path / "data", "-o", tmp_path / "out", "--weights", weights, "--device", "cpu", "--limit", 3)
    done = run(*asked, "--only", "fss-1000,davis-2017,ade20k")
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("about") < done.stdout.index("| benchmark |")  # estimates come first
    rows = {(row["benchmark"], row["figure"]): row for row in json.loads((tmp_path / "out/table.json").read_text())}
    assert rows["fss-1000", "mIoU, 1 shot"]["paper"] == 85.6
    assert 0 <= rows["fss-1000", "mIoU, 1 shot"]["ours"] <= 100
    assert rows["davis-2017", "J&F"]["paper"] == 75.6
    assert rows["davis-2017", "J&F"]["ours"] is not None
    assert rows["ade20k", "mIoU, 1 shot"]["ours"] is None
    assert "expected" in rows["ade20k", "mIoU, 1 shot"]["remark"]
    assert "| FSS-1000 | mIoU, 1 shot | 85.6 |" in (tmp_path / "out/table.md").read_text()
    assert json.loads((tmp_path / "out/davis-2017/report.json").read_text())["about"]["memory"].startswith("8 frames")


@pytest.mark.slow
def test_without_any_data_nothing_is_measured(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "data").mkdir()
    done = run(tmp_path / "data", "-o", tmp_path / "out", "--weights", weights, "--only", "mose")
    assert done.returncode == 2
    assert "MOSE: left out" in done.stdout
    assert run(tmp_path / "data", "-o", tmp_path / "out", "--only", "imagenet").returncode == 2


def test_the_paper_s_figures_are_those_that_are_published() -> None:
    theirs = [row for name in paper_table.PAPER for row in paper_table.rows(name, Path("nowhere"), "")]
    assert {row.benchmark for row in theirs} == set(paper_table.PAPER)
    assert all(row.paper is not None and row.ours is None for row in theirs)
