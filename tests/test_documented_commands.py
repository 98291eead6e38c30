"""Every command of the README and the site runs, on small files with a tiny network, or says what it needs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from documented import ROOT, Block, blocks, fill, pages, quick

from incontext import cli, ui
from incontext.network import registry
from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.training.recipes import RECIPES

PAGES = [page for page in pages() if any(blocks(page))]
RAY = "--runner ray"  # what starts Ray, which takes its time
QUICKLY = {"tune": ["--steps", "2"], "bench": ["--seconds", "0"], "train": ["--workers", "0"]}  # beside what is shown


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documented")
    fill(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, tiny_config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which to run commands, where the weights "default" are tiny and recipes are short."""
    place, weights = tmp_path / "here", tmp_path / "weights"
    shutil.copytree(made, place)
    weights.mkdir()
    shutil.copy(registry.weights_folder() / "manifest.json", weights)
    monkeypatch.setattr(registry, "weights_folder", lambda: weights)
    model = replace(tiny_config, presence=8)
    save_model(tmp_path / "tiny.safetensors", SegGPT(model))
    registry.register(tmp_path / "tiny.safetensors", description="Tiny.", source="a test", licence="MIT")
    for name in RECIPES:
        monkeypatch.setitem(RECIPES, name, quick(name, model))
    monkeypatch.setattr(ui, "serve", lambda options, on_ready: on_ready(f"http://{options.host}/"))
    monkeypatch.setattr("webbrowser.open", lambda address: address)
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.ray] if RAY in page.read_text(encoding="utf-8") else []) for page in PAGES],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
@pytest.mark.slow
def test_the_commands_of_a_page_run(page: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert folder.is_dir()
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.needs is not None:
            continue
        if block.language == "python":
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), names)
            continue
        for line in block.lines:
            run(line, block, capfd)


def run(line: str, block: Block, capfd: pytest.CaptureFixture[str]) -> None:
    """One command, in this process if it is ours alone."""
    where = f"{block.page}:{block.line}: {line}"
    if line.startswith("pip install "):
        check_install(line, where)
    elif RAY in line:
        in_another_process(line, where)
    elif line.startswith("incontext "):
        ours(line, where, capfd)
    elif "| incontext " in line:
        piped(line, where, capfd)
    else:
        pytest.fail(f"{where}: nothing here runs it; mark the block with what it needs")


def ours(line: str, where: str, capfd: pytest.CaptureFixture[str]) -> None:
    _, command, *arguments = shlex.split(line)
    expanded = [name for each in arguments for name in (matching(each))]
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, *expanded, *QUICKLY.get(command, [])])
    assert stopped.value.code in (0, None), f"{where}: {capfd.readouterr().err[-800:]}"


def matching(argument: str) -> list[str]:
    """What a shell makes of an argument: the files that a pattern fits, else itself."""
    found = sorted(path.as_posix() for path in Path().glob(argument)) if "*" in argument else []
    return found or [argument]


def piped(line: str, where: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What another program lists, into a command of ours."""
    first, _, second = line.partition("|")
    listed = subprocess.run(first, shell=True, check=True, capture_output=True, text=True).stdout
    assert listed, where
    with pytest.MonkeyPatch.context() as patch, Path("listed.txt").open("w+", encoding="utf-8") as stream:
        stream.write(listed)
        stream.seek(0)
        patch.setattr(sys, "stdin", stream)
        ours(second.strip(), where, capfd)


def in_another_process(line: str, where: str) -> None:
    """With the embedded weights, as Ray's workers have them."""
    pytest.importorskip("ray", reason="needs ray, of the extra ray")
    command = [sys.executable, "-m", *shlex.split(line)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"{where}: {done.stderr[-800:]}"


def check_install(line: str, where: str) -> None:
    """From a clone, with extras that there are. `tests/test_wheel.py` installs the package."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for each in shlex.split(line)[2:]:
        found = re.fullmatch(r"\.(?:\[([a-z,-]+)\])?", each)
        assert found, f"{where}: expected an installation of the clone"
        assert set((found[1] or "").split(",")) - {""} <= set(extras), where


def test_marks_say_what_is_needed() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.needs is None or block.needs.startswith("needs "), f"{block.page}:{block.line}"


def test_make_has_what_is_told_of_it() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in (*pages(), ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"
