"""Prompters over folders and videos, and names for masks: `segment --text`, `track --text`, `name`, `tune-namer`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import tiny_models
from commands import Done, runner
from PIL import Image

from incontext import engine
from incontext.folder import run_job
from incontext.images.masks import read_mask
from incontext.images.variety import by_variety, look
from incontext.images.write import write_image
from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.prompters.parts import Claim, Example
from incontext.prompters.prompter import NothingFoundError, Prompter
from incontext.prompting import Prompting

pytestmark = pytest.mark.slow

RED = (220, 30, 30)


class FindsRed:
    """A reader of text that finds red pixels for "red", green ones for "green", and nothing for other words."""

    def __init__(self) -> None:
        self.asked = 0

    def check(self, phrases: Sequence[str]) -> None:
        if "too long" in phrases:
            raise ValueError("expected a text of at most 2 tokens, got 3 in 'too long'; use fewer words")

    def read(
        self, image: np.ndarray, phrases: Sequence[str], *, least: float, examples: Sequence[Example] = ()
    ) -> Iterator[Claim]:
        self.asked += 1
        for number, phrase in enumerate(phrases):
            channel = {"red": 0, "green": 1}.get(phrase)
            if channel is None:
                continue
            rest = np.delete(image.astype(int), channel, axis=2).max(axis=2)
            inside = image[..., channel] > rest + 60
            if inside.any():
                yield Claim(number, np.where(inside, 5.0, -5.0).astype(np.float32), 0.9)

    def refer(self, image: np.ndarray, phrase: str, *, least: float) -> Claim | None:
        return next(self.read(image, [phrase], least=least), None)


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> FindsRed:
    """Any name opens a prompter that finds red; its files are of a hash that is its name."""
    reader = FindsRed()

    def opened(prompting: Prompting, loading: object = None) -> Prompter:
        made = Prompter(prompting.prompter, reader=reader, clicker=None, sha256="0", min_score=0.5, device="cpu")
        made.check(text=prompting.text)
        return made

    def described(prompting: Prompting) -> dict[str, object]:
        return {"prompter": prompting.prompter, "min_score": prompting.min_score or 0.5, "text": list(prompting.text)}

    monkeypatch.setattr(Prompting, "open", opened)
    monkeypatch.setattr(Prompting, "describe", described)
    return reader


def scene(number: int, *, red: bool = True) -> np.ndarray:
    """A grey image, another grey each time, with a red square in it."""
    image = np.full((48, 64, 3), 40 + 20 * number, np.uint8)
    if red:
        image[10:30, 4 * number : 4 * number + 20] = RED
    return image


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with PHOTOS of six scenes, one in a subfolder; the sixth has nothing red."""
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        place = Path("PHOTOS", "sub" if number == 4 else "", f"{number}.png")
        place.parent.mkdir(parents=True, exist_ok=True)
        write_image(place, scene(number, red=number < 5))
    return tmp_path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny_config: ModelConfig) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(path, SegGPT(tiny_config))
    return path


@pytest.fixture
def incontext(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return runner(capsys)


def truth(name: str) -> np.ndarray:
    image = np.asarray(Image.open(Path("PHOTOS", name)).convert("RGB")).astype(int)
    return (image[..., 0] > image[..., 1] + 60).astype(np.uint8)


# ------------------------------------------------------------------------------------------------- examples


def test_a_prompter_marks_examples_and_the_network_does_the_rest(
    photos: Path, finder: FindsRed, weights: Path, incontext: Callable[..., Done]
) -> None:
    asked = ("segment", "PHOTOS", "--text", "red", "--prompter", "rigged", "--weights", weights, "-o", "MASKS")
    done = incontext(*asked, "--examples", "3")
    assert done.status == 0, done.err
    examples = Path("MASKS/examples")
    assert f"3 examples by rigged in {examples}" in done.out
    names = json.loads((examples / "prompter.json").read_text())["names"]
    assert len(names) == 3
    assert "5.png" not in names, "nothing is red there"
    for name in names:
        assert (read_mask(examples / "masks" / name).ids == truth(name)).all()
        assert (read_mask(Path("MASKS", name)).ids == truth(name)).all(), "the prompter's own mask stays"
        assert (
            np.asarray(Image.open(examples / "images" / name)) == np.asarray(Image.open(Path("PHOTOS", name)))
        ).all()
        assert (examples / "overlays" / name).with_suffix(".jpg").is_file()
    report = json.loads(Path("MASKS/report.json").read_text())
    assert report["settings"]["names"] == {"1": "red"}
    assert report["job"]["prompter"] == "rigged"
    assert report["job"]["text"] == ["red"]
    assert len([each for each in report["files"] if each.get("mask")]) == 6
    before = finder.asked
    done = incontext(*asked, "--examples", "3")
    assert done.status == 0
    assert finder.asked == before, "what is kept is not marked again"
    assert "of an earlier run" in done.out
    assert "none of them new" in done.out
    # What was marked is an example for other jobs.
    done = incontext("segment", "PHOTOS/5.png", "--prompts", examples, "--weights", weights, "-o", "OTHER")
    assert done.status == 0, done.err


def test_images_without_a_find_are_no_examples_and_are_counted(
    photos: Path, finder: FindsRed, weights: Path, incontext: Callable[..., Done]
) -> None:
    asked = ("segment", "PHOTOS", "--prompter", "rigged", "--weights", weights)
    done = incontext(*asked, "--text", "red", "--examples", "6", "-o", "MASKS")
    assert done.status == 0, done.err
    assert "5 examples by rigged" in done.out
    assert "nothing found in 1 more" in done.out
    assert "5.png: the prompter finds nothing here" in done.err
    done = incontext(*asked, "--text", "blue", "-o", "NONE")
    assert done.status == 2
    assert "found no 'blue' in 6 images" in done.err
    assert not Path("NONE/examples").exists()


def test_another_text_or_prompter_is_another_job(
    photos: Path, finder: FindsRed, weights: Path, incontext: Callable[..., Done]
) -> None:
    def run(*more: object) -> Done:
        return incontext("segment", "PHOTOS", "--weights", weights, "-o", "MASKS", *more)

    assert run("--text", "red", "--prompter", "rigged").status == 0
    for more, why in (
        (("--text", "green", "--prompter", "rigged"), 'text was ["red"], now ["green"]'),
        (("--text", "red", "--prompter", "other"), "the prompter was another"),
        (("--text", "red", "--prompter", "rigged", "--min-score", "0.7"), "min_score was 0.5, now 0.7"),
        (("--text", "red", "--prompter", "rigged", "--examples", "2"), "examples was 4, now 2"),
        (("--text", "red", "--prompter", "rigged", "--examples", "all"), "this folder holds the masks of another job"),
    ):
        done = run(*more)
        assert done.status == 2
        assert why in done.err
    done = run("--text", "red", "--prompter", "other", "--examples", "2", "--no-resume")
    assert done.status == 0, done.err
    assert len(list(Path("MASKS/examples/masks").rglob("*.png"))) == 2


def test_a_kill_while_examples_are_marked_costs_only_those(
    photos: Path, finder: FindsRed, weights: Path, incontext: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("segment", "PHOTOS", "--text", "red", "--prompter", "rigged", "--weights", weights, "-o", "MASKS")
    monkeypatch.setattr("incontext.folder.prompted._write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    done = incontext(*asked)
    assert done.status == 130
    assert "begins them anew" in done.err
    monkeypatch.undo()
    again = FindsRed()
    monkeypatch.setattr(
        Prompting,
        "open",
        lambda prompting, *_: Prompter(
            prompting.prompter, reader=again, clicker=None, sha256="0", min_score=0.5, device="cpu"
        ),
    )
    monkeypatch.setattr(
        Prompting,
        "describe",
        lambda prompting: {"prompter": prompting.prompter, "min_score": 0.5, "text": list(prompting.text)},
    )
    monkeypatch.chdir(photos)
    done = incontext(*asked)
    assert done.status == 0, done.err
    assert again.asked >= 4


def test_a_folder_of_others_is_not_taken_for_examples(
    photos: Path, finder: FindsRed, weights: Path, incontext: Callable[..., Done]
) -> None:
    asked = ("segment", "--text", "red", "--prompter", "rigged", "--weights", weights)
    Path("MASKS/examples").mkdir(parents=True)
    Path("MASKS/examples/mine.txt").write_text("keep me")
    done = incontext(*asked, "PHOTOS", "-o", "MASKS")
    assert done.status == 2
    assert "has other files" in done.err
    assert Path("MASKS/examples/mine.txt").read_text() == "keep me"
    Path("PHOTOS/examples").mkdir()
    write_image(Path("PHOTOS/examples/7.png"), scene(1))
    done = incontext(*asked, "PHOTOS", "-o", "MASKS2")
    assert done.status == 2
    assert "no images in a folder of this name" in done.err


def test_a_rehearsal_writes_nothing(
    photos: Path, finder: FindsRed, weights: Path, incontext: Callable[..., Done]
) -> None:
    for more in ((), ("--examples", "all")):
        asked = ("segment", "PHOTOS", "--text", "red", "--prompter", "rigged", "--weights", weights, "-o", "MASKS")
        done = incontext(*asked, "--dry-run", *more)
        assert done.status == 0, done.err
        assert "6 images, 0 of them done: 6 to segment." in done.out
        assert not Path("MASKS").exists()


# ------------------------------------------------------------------------------------------------ all images


def test_a_prompter_marks_all_images(
    photos: Path, finder: FindsRed, incontext: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "load", lambda *_, **__: pytest.fail("no network of ours is needed"))
    asked = ("segment", "PHOTOS", "--text", "red", "--text", "green", "--prompter", "rigged", "--examples", "all")
    Path("PHOTOS/broken.png").write_bytes(b"\x89PNG no more")
    done = incontext(*asked, "-o", "MASKS", "--format", "coco", "--overlay")
    assert done.status == 1, "one image could not be read"
    assert "6 masks in MASKS, 1 of them empty" in done.out
    for name in ("0.png", "sub/4.png", "5.png"):
        assert (read_mask(Path("MASKS", name)).ids == truth(name)).all()
    document = json.loads(next(Path("MASKS/coco").glob("*.json")).read_text())
    assert [each["name"] for each in document["categories"]] == ["red", "green"]
    assert not Path("MASKS/examples").exists()
    Path("PHOTOS/broken.png").unlink()
    before = finder.asked
    write_image(Path("PHOTOS/new.png"), scene(2))
    done = incontext(*asked, "-o", "MASKS", "--overlay")
    assert done.status == 0, done.err
    assert finder.asked == before + 1, "what is done is not done again"


def test_what_does_not_go_together_is_said(
    photos: Path, finder: FindsRed, weights: Path, incontext: Callable[..., Done]
) -> None:
    write_image(Path("cat.png"), scene(1))
    Image.fromarray(truth("1.png")).save("cat_mask.png")
    red = ("--text", "red", "--prompter", "rigged")
    for more, sentence in (
        (("--text", "red"), "expected --prompter with --text"),
        (("--prompter", "rigged"), "expected --text with --prompter"),
        (("--examples", "3", "--prompt", "cat.png", "cat_mask.png"), "beside --examples"),
        (("--min-score", "0.3", "--prompt", "cat.png", "cat_mask.png"), "beside --min-score"),
        ((*red, "--examples", "none"), "expected --examples as all or a number"),
        ((*red, "--examples", "0"), "expected --examples as all or a number"),
        ((*red, "--min-score", "1.5"), "above 0 and below 1"),
        ((*red, "--examples", "all", "--prompt", "cat.png", "cat_mask.png"), "expected no examples with"),
        ((*red, "--examples", "all", "--tiles", "32"), "expected no --tiles with"),
        ((*red, "--watch"), "--examples all with --watch"),
        (("--text", "too long", "--prompter", "rigged"), "at most 2 tokens"),
        (("--text", "...", "--prompter", "rigged"), "with words in it"),
        (("--text", "red", "--text", "RED", "--prompter", "rigged"), "expected different phrases"),
    ):
        done = incontext("segment", "PHOTOS", "-o", "MASKS", "--weights", weights, *more)
        assert done.status == 2, (more, done)
        assert sentence in done.err, (more, done.err)


def test_text_and_examples_go_together(
    photos: Path, finder: FindsRed, weights: Path, incontext: Callable[..., Done]
) -> None:
    write_image(Path("cat.png"), scene(1))
    Image.fromarray(truth("1.png")).save("cat_mask.png")
    done = incontext(
        "segment", "PHOTOS", "-o", "MASKS", "--weights", weights, "--text", "red", "--prompter", "rigged",
        "--prompt", "cat.png", "cat_mask.png", "--examples", "1",
    )  # fmt: skip
    assert done.status == 0, done.err
    report = json.loads(Path("MASKS/report.json").read_text())
    assert len(report["settings"]["prompts"]) == 2


def test_no_job_is_planned_for_a_text_that_is_none() -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        Prompting("any", ("red",), 0.0)
    with pytest.raises(ValueError, match="got none"):
        Prompting("any", ())
    assert callable(run_job)


# --------------------------------------------------------------------------------------------------- variety


def test_examples_differ() -> None:
    dark, light = np.zeros((20, 30, 3), np.uint8), np.full((20, 30, 3), 250, np.uint8)
    red = np.zeros((20, 30, 3), np.uint8)
    red[...] = RED
    images = [dark, dark + 1, dark + 2, light, light - 1, red]
    order = by_variety([look(each) for each in images])
    assert sorted(order) == list(range(6))
    assert {("dark", "dark", "dark", "light", "light", "red")[i] for i in order[:3]} == {"dark", "light", "red"}
    assert by_variety([]) == []
    assert by_variety([look(red)]) == [0]


# ----------------------------------------------------------------------------------------------------- video


def test_the_first_frame_is_marked_by_a_text(
    photos: Path, finder: FindsRed, weights: Path, incontext: Callable[..., Done]
) -> None:
    Path("CLIP").mkdir()
    for number in range(4):
        write_image(Path("CLIP", f"{number:03}.png"), scene(number))
    asked = ("track", "CLIP", "--text", "red", "--prompter", "rigged", "--weights", weights, "-o", "OUT")
    done = incontext(*asked, "--from", "1")
    assert done.status == 0, done.err
    assert "OUT/first_frame/mask.png: the first frame, by rigged" in done.out
    marked = read_mask("OUT/first_frame/mask.png").ids
    assert marked.sum() == 400
    assert (marked[10:30, 4:24] == 1).all()
    assert Path("OUT/first_frame/overlay.jpg").is_file()
    assert (read_mask("OUT/masks/001.png").ids == marked).all()
    asked_before = finder.asked
    assert incontext(*asked, "--from", "1").status == 0
    assert finder.asked == asked_before, "what is kept is not marked again"
    for more, sentence in (
        (("--text", "blue", "--prompter", "rigged"), "found no 'blue' in frame 0"),
        (("--text", "red"), "expected --prompter with --text"),
        (("--text", "red", "--prompter", "rigged", "--mask", "OUT/first_frame/mask.png"), "--mask or --text"),
        (("--text", "red", "--prompter", "rigged", "--tiles", "32"), "tiles"),
    ):
        done = incontext("track", "CLIP", "-o", "OUT2", "--weights", weights, *more)
        assert done.status == 2, done
        assert sentence in done.err


# ----------------------------------------------------------------------------------------------------- names


class NamesByColor:
    """Names a mask by its mean colour: "red" or "grey"; another word fits nothing."""

    def name(
        self, image: np.ndarray, masks: Sequence[np.ndarray], names: Sequence[str], *, at_least: float | None = None
    ) -> list[tuple[str | None, float]]:
        found: list[tuple[str | None, float]] = []
        for mask in masks:
            mean = image[mask].mean(axis=0)
            name = "red" if mean[0] > mean[1] + 60 else "grey"
            found.append((name if name in names else None, 0.75))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def labelled_folder() -> None:
    """Masks of PHOTOS: id 3 is the red square, id 7 a part of the ground."""
    for number in range(5):
        name = f"sub/{number}.png" if number == 4 else f"{number}.png"
        mask = 3 * truth(name)
        mask[40:46, 50:60] = 7
        Path("MASKS", name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(Path("MASKS", name))


def test_masks_are_named_in_any_format(
    photos: Path, incontext: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incontext.prompters.load_namer", lambda *_, **__: NamesByColor())
    labelled_folder()
    done = incontext("name", "MASKS", "PHOTOS", "--names", "grey,red", "-o", "NAMED", "--to", "coco,labelme")
    assert done.status == 0, done.err
    document = json.loads(next(Path("NAMED/coco").glob("*.json")).read_text())
    assert {each["id"]: each["name"] for each in document["categories"]} == {1: "grey", 2: "red"}
    areas = sorted((each["category_id"], each["area"]) for each in document["annotations"])
    assert areas == [(1, 60)] * 5 + [(2, 400)] * 5
    shapes = json.loads(Path("NAMED/labelme/0.json").read_text())["shapes"]
    assert {each["label"] for each in shapes} == {"grey", "red"}
    done = incontext("name", "MASKS", "PHOTOS", "--names", "red,blue", "-o", "NAMED2")
    assert done.status == 0, done.err
    assert "5 images, 5 objects, 5 without a name" in done.out
    done = incontext("name", "MASKS", "PHOTOS", "--names", "red,blue", "-o", "NAMED3", "--strict")
    assert done.status == 2
    assert "none of the names fits" in done.err
    Path("PHOTOS/0.png").unlink()
    write_image(Path("PHOTOS/1.png"), scene(1)[:20])
    done = incontext("name", "MASKS", "PHOTOS", "--names", "red,blue", "-o", "NAMED4")
    assert done.status == 1
    assert "expected the image of this mask, got none" in done.err
    assert "of the mask's size, 64 x 48, got 64 x 20" in done.err
    for more, sentence in (
        (("MASKS", "NOWHERE"), "no such folder of images"),
        (("MASKS", "PHOTOS", "--to", "cocoa"), "coco"),
    ):
        done = incontext("name", *more, "--names", "red", "-o", "NAMED5")
        assert done.status == 2
        assert sentence in done.err


def test_a_namer_learns_from_annotations(photos: Path, incontext: Callable[..., Done]) -> None:
    pytest.importorskip("transformers", minversion="5", reason="needs the extra prompters")
    clip = tiny_models.save_model(photos / "clip", "clip")
    labelled_folder()
    for path in Path("MASKS").rglob("*.png"):  # shapes that leave corners of their boxes empty
        mask = np.array(Image.open(path))
        mask[10:22, :] = np.where(np.arange(64) % 20 < 12, 0, mask[10:22, :])
        Image.fromarray(mask).save(path)
    done = incontext("convert", "MASKS", "--images", "PHOTOS", "--to", "coco", "-o", "COCO", "--names", "3=red,7=grey")
    assert done.status == 0, done.err
    learn: tuple[Any, ...] = ("tune-namer", "COCO", "--images", "PHOTOS", "--namer", clip, "--device", "cpu")
    done = incontext(*learn, "-o", "TOKENS.safetensors", "--steps", "3")
    assert done.status == 0, done.err
    assert "10 masks of 2 names" in done.out
    named = ("name", "MASKS", "PHOTOS", "--names", "grey,red", "--namer", clip, "--device", "cpu", "--at-least", "0")
    done = incontext(*named, "--tokens", "TOKENS.safetensors", "-o", "NAMED")
    assert done.status == 0, done.err
    Path("mine.safetensors").write_bytes(b"mine")
    done = incontext(*learn, "-o", "mine.safetensors")
    assert done.status == 2
    assert "or mask tokens to replace" in done.err
    done = incontext(*named, "--tokens", "mine.safetensors", "-o", "NAMED2")
    assert done.status == 2
    assert "expected mask tokens, got a damaged file" in done.err


def test_nothing_found_is_no_example() -> None:
    assert issubclass(NothingFoundError, ValueError)
