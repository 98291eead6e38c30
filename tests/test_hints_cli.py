"""`mark`, `propose`, `segment --hints` and `track --hints` with the embedded weights, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import Done, runner
from PIL import Image

from incontext.hint_files import save_many
from incontext.hints import Hints
from incontext.images.masks import read_mask
from incontext.proposals import Proposals

pytestmark = pytest.mark.slow
Run = Callable[..., Done]


@pytest.fixture
def incontext(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


def scene(column: int = 48, row: int = 48, radius: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on a green meadow, and where it is."""
    rng = np.random.default_rng(column)
    image = np.clip(rng.normal((70, 110, 60), 8, (96, 144, 3)), 0, 255)
    rows, columns = np.mgrid[:96, :144]
    mask = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    image[mask] = (215, 60, 50)
    return image.astype(np.uint8), mask


def saved(path: Path, column: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(column)[0]).save(path)
    return path


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def test_mark_finds_a_thing_by_a_point_and_says_what_the_mask_is_good_for(incontext: Run, tmp_path: Path) -> None:
    image, mask = saved(tmp_path / "disc.png"), tmp_path / "made" / "mask.png"
    done = incontext(
        "mark", image, "--point", "48,48", "--not", "120,20", "-o", mask,
        "--save-hints", tmp_path / "said.json", "--overlay", tmp_path / "over.jpg",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert f"--prompt {image} {mask}" in done.out
    found = read_mask(mask).ids
    assert found.shape == (96, 144)
    assert set(np.unique(found)) == {0, 1}
    assert found[48, 48] == 1
    assert iou(found == 1, scene()[1]) > 0.5
    assert Hints.load(tmp_path / "said.json").points == ((48, 48, 1), (120, 20, 0))
    with Image.open(tmp_path / "over.jpg") as over:
        assert over.size == (144, 96)
    done = incontext("mark", image, "--hints", tmp_path / "said.json", "-o", tmp_path / "again.png")
    assert done.status == 0, done.err
    np.testing.assert_array_equal(read_mask(tmp_path / "again.png").ids, found)
    done = incontext(
        "segment", saved(tmp_path / "more" / "other.png", 90), "--prompt", image, mask, "-o", tmp_path / "o"
    )
    assert done.status == 0, done.err
    assert iou(read_mask(tmp_path / "o" / "other.png").ids == 1, scene(90)[1]) > 0.4


def test_mark_takes_a_box_and_ids(incontext: Run, tmp_path: Path) -> None:
    image = saved(tmp_path / "disc.png")
    done = incontext("mark", image, "--box", "24,24,72,72,5", "-o", tmp_path / "mask.png")
    assert done.status == 0, done.err
    found = read_mask(tmp_path / "mask.png").ids
    assert set(np.unique(found)) == {0, 5}
    assert iou(found == 5, scene()[1]) > 0.5


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((), "expected something said of the image, got nothing"),
        (("--point", "10"), "expected --point as X,Y or X,Y,ID, got '10'"),
        (("--point", "a,b"), "expected --point as numbers"),
        (("--point", "1,2,1.5"), "whole number as its id"),
        (("--not", "1,2,3"), "expected --not as X,Y"),
        (("--box", "1,2,3"), "expected --box as LEFT,TOP,RIGHT,BOTTOM"),
        (("--point", "144,2"), r"within the image, 144 x 96 (width x height), got a point (144, 2)"),
        (("--point", "1,2,255"), "255, which says nothing"),
        (("--not", "1,2"), "that point at something"),
        (("--hints", "none.json"), "expected a file of hints"),
    ],
)
def test_mark_refuses_in_a_sentence(incontext: Run, tmp_path: Path, given: tuple[str, ...], sentence: str) -> None:
    done = incontext("mark", saved(tmp_path / "disc.png"), *given, "-o", tmp_path / "mask.png")
    assert done.status == 2
    assert sentence in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "mask.png").exists()


def test_propose_writes_masks_of_everything(incontext: Run, tmp_path: Path) -> None:
    saved(tmp_path / "in" / "a" / "disc.png")
    (tmp_path / "in" / "bad.png").write_text("no image")
    done = incontext(
        "propose", tmp_path / "in", "-o", tmp_path / "out", "--points-per-side", "4", "--overlay",
        "--pred-iou-thresh", "0.3", "--stability-score-thresh", "0.2",
    )  # fmt: skip
    assert done.status == 1, done.err
    assert "1 of 2 images" in done.out
    assert "Skipped: " in done.err
    assert "bad.png" in done.err
    found = Proposals.load(tmp_path / "out" / "a" / "disc.json")
    assert found.size == (96, 144)
    assert len(found) > 0
    sure = [each.predicted_iou for each in found]
    assert sure == sorted(sure, reverse=True)
    ids = read_mask(tmp_path / "out" / "a" / "disc.png").ids
    np.testing.assert_array_equal(ids, found.to_mask())
    assert (tmp_path / "out" / "a" / "disc_overlay.jpg").exists()
    done = incontext("propose", tmp_path / "nothing", "-o", tmp_path / "out")
    assert done.status == 2


def test_segment_takes_hints_on_some_images_or_on_all_without_an_example(incontext: Run, tmp_path: Path) -> None:
    for name, column in (("a", 40), ("sub/b", 100)):
        saved(tmp_path / "in" / f"{name}.png", column)
    example, mask = saved(tmp_path / "example.png", 70), tmp_path / "example_mask.png"
    Image.fromarray(scene(70)[1].astype(np.uint8) * 255).save(mask)
    save_many(tmp_path / "some.json", {"sub/b.png": Hints(points=[(100, 48, 1), (10, 10, 0)])})
    plain = ("segment", tmp_path / "in", "--prompt", example, mask)
    assert incontext(*plain, "-o", tmp_path / "plain").status == 0
    done = incontext(*plain, "--hints", tmp_path / "some.json", "-o", tmp_path / "out")
    assert done.status == 0, done.err
    same = (tmp_path / "plain" / "a.png").read_bytes() == (tmp_path / "out" / "a.png").read_bytes()
    assert same
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["files"][1]["presence"] == {"1": 1.0}

    both = {"a.png": Hints(points=[(40, 48, 1)]), "sub/b.png": Hints(points=[(100, 48, 3), (10, 10, 0)])}
    save_many(tmp_path / "all.json", both)
    alone = ("segment", tmp_path / "in", "--hints", tmp_path / "all.json", "-o", tmp_path / "alone")
    done = incontext(*alone)
    assert done.status == 0, done.err
    first, second = (read_mask(tmp_path / "alone" / f"{name}.png").ids for name in ("a", "sub/b"))
    assert iou(first == 1, scene(40)[1]) > 0.5
    assert iou(second == 3, scene(100)[1]) > 0.5
    assert "none of them new" in incontext(*alone).out
    save_many(tmp_path / "all.json", {**both, "a.png": Hints(points=[(41, 48, 1)])})
    assert "1 of them new" in incontext(*alone).out  # only what was said of it is another


def test_segment_refuses_hints_that_do_not_go_with_the_job(incontext: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        saved(tmp_path / "in" / f"{name}.png")
    mask = tmp_path / "mask.png"
    Image.fromarray(scene()[1].astype(np.uint8) * 255).save(mask)
    example = ("--prompt", tmp_path / "in" / "a.png", mask)

    def said(hints: dict[str, Hints], *more: object) -> tuple[int, str]:
        save_many(tmp_path / "hints.json", hints)
        done = incontext("segment", tmp_path / "in", "--hints", tmp_path / "hints.json", "-o", tmp_path / "out", *more)
        assert "Traceback" not in done.err
        return done.status, done.err

    status, told = said({"c.png": Hints(points=[(1, 1, 1)])}, *example)
    assert status == 2
    assert "expected hints for images of the job, such as a.png, b.png; got some for c.png" in told
    status, told = said({"a.png": Hints(points=[(1, 1, 7)])}, *example)
    assert status == 2
    assert "a.png: expected hints with ids of the context, 1, or 0" in told
    status, told = said({"a.png": Hints(points=[(1, 1, 7)])})
    assert status == 2
    assert "expected hints for every image where there is no example, got none for b.png" in told
    status, told = said({"a.png": Hints(points=[(1, 1, 1)])}, *example, "--watch")
    assert status == 2
    assert "expected --hints for images that are there" in told
    status, told = said({"a.png": Hints(points=[(500, 1, 1)])}, *example)  # which only its size says
    assert status == 1
    assert "Skipped: " in told
    assert "within the image, 144 x 96" in told


def test_track_follows_what_hints_point_at_and_is_corrected_by_them(incontext: Run, tmp_path: Path) -> None:
    for number in range(6):
        saved(tmp_path / "clip" / f"{number}.png", 40 + 6 * number)
    hints = {"0": Hints(points=[(40, 48, 1)]), "3": Hints(points=[(58, 48, 1), (10, 10, 0)])}
    save_many(tmp_path / "hints.json", hints)
    command = ("track", tmp_path / "clip", "--hints", tmp_path / "hints.json", "-o", tmp_path / "out", "--no-overlay")
    done = incontext(*command)
    assert done.status == 0, done.err
    for number in (0, 2, 5):
        found = read_mask(tmp_path / "out" / "masks" / f"{number}.png").ids
        assert iou(found == 1, scene(40 + 6 * number)[1]) > 0.4, number
    save_many(tmp_path / "hints.json", {**hints, "3": Hints(points=[(58, 49, 1)])})
    done = incontext(*command)
    assert done.status == 2  # other hints, another job
    assert "another job's results" in done.err
    for wrong, sentence in (
        ({"9": Hints(points=[(4, 4, 1)]), "0": hints["0"]}, "hints of frame 9 were of no use"),
        ({"0": Hints(points=[(444, 4, 1)])}, "frame 0: expected hints within the image"),
        ({"2": Hints(points=[(4, 4, 1)])}, "expected something to follow"),
        ({"first": Hints(points=[(4, 4, 1)])}, "expected hints by the numbers of frames"),
    ):
        save_many(tmp_path / "hints.json", wrong)
        done = incontext(*command[:-2], tmp_path / f"out {sentence[:8]}", "--no-overlay")
        assert done.status in (1, 2)
        assert sentence in done.err
        assert "Traceback" not in done.err
