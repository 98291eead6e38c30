"""Help as people read it, and what they are told when a word is wrong."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import typer.main
from commands import Done, runner

from incontext.cli.help import FIND, RUN, WRITE
from incontext.cli.options import app
from incontext.network.checkpoint import load_model, save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.words import counted, did_you_mean


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return runner(capsys)


def commands() -> list[tuple[str, ...]]:
    """Every command, by the words that call it."""
    found: list[tuple[str, ...]] = []
    waiting = [((), typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        below = getattr(command, "commands", {})
        waiting += [((*words, name), each) for name, each in below.items()]
        found += [] if below else [words]
    return sorted(found)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_names_values_and_says_sentences(run: Callable[..., Done], words: tuple[str, ...]) -> None:
    done = run(*words, "--help")
    assert done.status == 0
    usage = done.out.splitlines()[0]
    for raw in ("<", ">", "{", "list[", "[str", "int range"):
        assert raw not in usage
    for line in done.out.splitlines():
        names = line.strip().split("  ")[0]
        assert not names.startswith("-") or "<" not in names, line
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]  # type: ignore[attr-defined]
    for each in command.params:
        assert each.help is None or each.help.rstrip()[-1] in '.)"', f"{each.name}: {each.help}"


def test_commands_stand_in_the_order_of_use(run: Callable[..., Done]) -> None:
    out = run("--help").out
    places = [
        out.index(f"\n  {name} ") for name in ("demo", "segment", "track", "ui", "mark", "tune", "convert", "train")
    ]
    assert places == sorted(places)
    assert "More:" not in out  # each has its section
    assert "..." not in out.split("Start here")[1]  # whole sentences


def test_options_stand_in_groups(run: Callable[..., Done]) -> None:
    out = run("segment", "--help").out
    titles = [f"\n{title}:\n" for title in (FIND, WRITE, RUN, "Options")]
    places = [out.index(title) for title in titles]
    assert places == sorted(places)
    find, write, how = (out[a:b] for a, b in pairwise(places))
    assert "--prompt IMAGE MASK" in find
    assert "--side INTEGER" in find
    assert "--overlay" in write
    assert "--device TEXT" in how
    assert out[places[-1] :].split() == ["Options:", "-h,", "--help", "Show", "this", "message", "and", "exit."]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("segment", "x", "-o", "y", "--task", "instanc"), "Did you mean 'instance'?"),
        (("bench", "--device", "gpu"), "Did you mean 'cuda'?"),
        (("bench", "--weights", "defalt"), "Did you mean 'default'?"),
        (("train", "-o", "y", "--recipe", "smok"), "Did you mean 'smoke'?"),
        (("segment", "x", "-o", "y", "--devise", "cpu"), "--device"),
        (("segmnt",), "Did you mean 'segment'?"),
    ],
)
def test_a_wrong_word_is_met_with_the_right_one(
    run: Callable[..., Done], words: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert done.status == 2
    assert told in done.err


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert did_you_mean("zebra", ["coco", "yolo"]) == ""
    assert did_you_mean(["coco", "yolq"], ["coco", "yolo"]) == ". Did you mean 'yolo'?"
    assert did_you_mean("gpu", ["coco"]) == ""
    assert (counted(1, "image"), counted(0, "image"), counted(2, "image")) == ("1 image", "0 images", "2 images")


@pytest.mark.filterwarnings("always::UserWarning")  # which the command line prints
def test_a_layout_without_a_place_for_the_head_says_so(tmp_path: Path, run: Callable[..., Done]) -> None:
    torch.manual_seed(0)
    tiny = ModelConfig(
        width=16, heads=1, depth=2, patch=8, side=16, decoder_width=4, merge_layer=0, taps=(0, 1), presence=4
    )
    save_model(tmp_path / "own.safetensors", SegGPT(tiny))
    done = run("weights", "convert", tmp_path / "own.safetensors", tmp_path / "p.pth", "--layout", "published")
    assert done.status == 0
    assert "no place for the presence head" in done.err
    assert load_model(tmp_path / "p.pth").config.presence == 0
    again = run("weights", "convert", tmp_path / "p.pth", tmp_path / "q.safetensors")
    assert "presence" not in again.err  # there was none to lose
