"""What was given and left out is said, counted, and in the exit status; `--strict` makes an error of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import Done, runner
from PIL import Image

pytestmark = pytest.mark.filterwarnings("always::UserWarning")  # which the command line prints


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return runner(capsys)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images with masks, and one of which the mask is missing."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for number in range(4):
        mask = np.zeros((40, 60), np.uint8)
        mask[8:28, 5 + 6 * number : 30 + 6 * number] = 1
        image = rng.integers(0, 80, (40, 60, 3)).astype(np.uint8)
        image[mask == 1] = (230, 60, 40)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    Image.fromarray(image).save(folder / "images" / "lonely.png")
    return folder


def coco(folder: Path) -> Path:
    """COCO annotations of which one is of no image."""
    document = {
        "images": [{"id": 1, "file_name": "0.png", "height": 40, "width": 60}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[2, 2, 20, 2, 20, 20]], "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 1, "segmentation": [[2, 2, 20, 2, 20, 20]], "iscrowd": 0},
        ],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


SMALL = ("--device", "cpu", "--dtype", "float32")


TRAINS = [pytest.param(name, marks=pytest.mark.slow) for name in ("tune", "rank")]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("command", [*TRAINS, "segment", "track", "convert", "propose"])
def test_what_is_left_out_is_in_the_status(
    run: Callable[..., Done], labelled: Path, tmp_path: Path, command: str, strict: bool
) -> None:
    bad = tmp_path / "in"
    bad.mkdir()
    (bad / "good.png").write_bytes((labelled / "images" / "0.png").read_bytes())
    (bad / "broken.png").write_bytes(b"no image")
    words: dict[str, tuple[object, ...]] = {
        "segment": (bad, "--prompt", labelled / "images/0.png", labelled / "masks/0.png", "-o", tmp_path / "o", *SMALL),
        "tune": (labelled, "-o", tmp_path / "t.safetensors", "--steps", 1, *SMALL),
        "rank": (labelled, *SMALL),
        "track": (labelled / "images", "--prompts", labelled, "--stop", 1, "-o", tmp_path / "o", *SMALL),
        "convert": (coco(labelled / "images"), "--to", "indexed", "-o", tmp_path / "o"),
        "propose": (bad, "--points-per-side", 2, "-o", tmp_path / "o", *SMALL),
    }
    given = [str(each) for each in words[command]]
    if command == "track":
        given[given.index("--stop")] = "--to"
    done = run(command, *given, *(["--strict"] if strict else []))
    assert done.status == (2 if strict else 1), done.err
    said = done.err.splitlines()
    words_of_it = ("left out", "Left out", "Skipped", "expected an image", "expected the id")
    assert any(word in line for line in said for word in words_of_it), done.err
    if strict:
        assert said[-1].startswith("Error: ")
        assert said[-1].endswith("(--strict)")
    else:
        assert any(character.isdigit() for character in done.out.splitlines()[-1])


LAST = {
    "segment": "1 image, 1 mask",
    "tune": "4 images, 1 prompt tensor of 1 id",
    "rank": "4 examples ranked",
    "track": "1 frame, 1 object",
    "propose": "1 image, ",
}


@pytest.mark.parametrize("command", [*TRAINS, *(name for name in LAST if name not in ("tune", "rank"))])
def test_the_last_line_counts_and_the_status_is_0(
    run: Callable[..., Done], labelled: Path, tmp_path: Path, command: str
) -> None:
    whole = tmp_path / "whole"
    for part in ("images", "masks"):
        (whole / part).mkdir(parents=True)
        for path in sorted((labelled / part).glob("[0-3].png")):
            (whole / part / path.name).write_bytes(path.read_bytes())
    example = ("--prompt", whole / "images/0.png", whole / "masks/0.png")
    words: dict[str, tuple[object, ...]] = {
        "segment": (whole / "images/1.png", *example, "-o", tmp_path / "o", *SMALL),
        "tune": (whole, "-o", tmp_path / "t.safetensors", "--steps", 1, *SMALL),
        "rank": (whole, *SMALL),
        "track": (whole / "images", "--mask", whole / "masks/0.png", "--to", 1, "-o", tmp_path / "o", *SMALL),
        "propose": (whole / "images/1.png", "--points-per-side", 2, "-o", tmp_path / "o", *SMALL),
    }
    done = run(command, *words[command], "--strict")
    assert done.status == 0, done.err
    assert done.out.splitlines()[-1].startswith(LAST[command])
