"""`incontext track`: what goes in, what comes out, and what a user reads when something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import ByColor, cut, scene, scene_mask, write_frames, write_sound, write_video
from commands import Done, runner
from PIL import Image

from incontext import cli, engine
from incontext.images.masks import read_mask
from incontext.images.write import write_image, write_mask
from incontext.progress import ProgressLine
from incontext.types import Palette
from incontext.video import job as jobs
from incontext.video.job import TrackProgress

COUNT = 10
TABLE = Palette(np.array([0, 3, 7]), np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)])).table


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command line in this process."""
    return runner(capsys, "track")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: FRAMES, from which blue is away in frames 4 and 5; first.png and fifth.png, masks of frames 0
    and 5; and `load` gives the stand-in for a network."""
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "FRAMES", (scene(i, blue=i not in (4, 5)) for i in range(COUNT)))
    write_mask(tmp_path / "first.png", scene_mask(0), TABLE)
    write_mask(tmp_path / "fifth.png", scene_mask(5, ids=(9, 0)), Palette.spread([9]).table)
    segmenter = ByColor()
    monkeypatch.setattr(engine, "load", lambda *_, **__: segmenter)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def tracks() -> dict[str, Any]:
    return dict(json.loads(Path("OUT/tracks.json").read_text(encoding="utf-8")))


USUAL = ("FRAMES", "--mask", "first.png", "-o", "OUT")


def test_track(run: Callable[..., Done], place: Path) -> None:
    done = run(*USUAL)
    assert done.status == 0, done.err
    first, *objects = done.out.splitlines()
    assert first.startswith(f"10 masks in {Path('OUT/masks')} (")
    assert first.endswith(" frames/s)")
    assert objects[:-1] == ["object 3: found in 10 frames", "object 7: found in 8 frames, lost in 4-5"]
    assert objects[-1] == "10 frames, 2 objects"
    assert run("FRAMES/0.png", "--mask", "first.png", "-o", "ONE").out.splitlines()[1] == "object 3: found in 1 frame"
    assert files(place / "OUT") == sorted(
        [*(f"masks/{i}.png" for i in range(COUNT)), "overlay.mp4", "sheet.jpg", "tracks.json"]
    )
    settings = tracks()["settings"]
    assert settings["source"] == "FRAMES"
    assert settings["masks"] == {"0": "first.png"}
    assert set(settings["segmenter"]) >= {"weights", "weights_sha256", "incontext", "dtype"}


@pytest.mark.usefixtures("place")
def test_options_reach_the_job(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(engine, "load", lambda name, **options: asked.update(name=name, **options) or ByColor())
    done = run(
        *USUAL, "--mask-at", 5, "fifth.png", "--memory", 3, "--policy", "spaced", "--from", 0, "--to", "0.3s",
        "--every", 5, "--side", 16, "--weights", "w", "--device", "cuda:1", "--dtype", "float16", "--task", "semantic",
        "--format", "mot, coco-video", "--no-overlay",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert asked == {
        "name": "w", "device": "cuda:1", "dtype": "float16", "compile": False, "min_presence": None, "backbone": None
    }  # fmt: skip
    settings = tracks()["settings"]
    wanted = {"memory": 3, "policy": "spaced", "start": 0, "stop": "0.3s", "every": 5, "side": 16, "task": "semantic"}
    assert {name: settings[name] for name in wanted} == wanted
    assert settings["exports"] == ["coco-video", "mot"]
    assert settings["overlay"] is False
    assert settings["segmenter"]["weights_sha256"] == "abc"
    assert files(Path("OUT")) == [
        "coco_video.json",
        "masks/0.png",
        "masks/5.png",
        "mot.txt",
        "sheet.jpg",
        "tracks.json",
    ]
    assert [each["id"] for each in tracks()["objects"]] == [3, 7, 9]


@pytest.mark.usefixtures("place")
def test_prompts_in_place_of_a_mask(run: Callable[..., Done]) -> None:
    write_image("other.png", scene(0, width=80))
    for name, ids in (("red.png", (3, 0)), ("blue.png", (0, 7))):
        write_mask(name, scene_mask(0, ids=ids, width=80), TABLE)
    done = run("FRAMES", "--prompt", "other.png", "red.png", "--prompt", "other.png", "blue.png", "-o", "OUT")
    assert done.status == 0, done.err
    assert [(each["id"], each["frames"]) for each in tracks()["objects"]] == [(3, 10), (7, 8)]
    assert len(tracks()["settings"]["prompts"]) == 2
    done = run("FRAMES", "--prompt-frame", "other.png", "--mask", "red.png", "-o", "OUT2")
    assert done.status == 0, done.err
    assert "object 3: found in 10 frames" in done.out


@pytest.mark.usefixtures("place")
def test_a_prompt_frame_that_is_the_first_frame_is_the_first_frame(run: Callable[..., Done]) -> None:
    assert run("FRAMES", "--prompt-frame", "FRAMES/0.png", "--mask", "first.png", "-o", "OUT").status == 0
    assert np.array_equal(read_mask("OUT/masks/0.png").ids, scene_mask(0))


@pytest.mark.filterwarnings("always::incontext.examples.pairs.PromptWarning")
@pytest.mark.usefixtures("place")
def test_a_folder_of_prompts(run: Callable[..., Done]) -> None:
    for name, ids in (("1", (3, 7)), ("2", (0, 0))):
        for kind in ("images", "masks"):
            Path("EXAMPLES", kind).mkdir(parents=True, exist_ok=True)
        write_image(f"EXAMPLES/images/{name}.png", scene(0, width=80))
        write_mask(f"EXAMPLES/masks/{name}.png", scene_mask(0, ids=ids, width=80), TABLE)
    done = run("FRAMES", "--prompts", "EXAMPLES", "-o", "OUT", "--no-overlay")
    assert done.status == 1  # a mask marks nothing
    assert done.err == f"Warning: left out 1 prompt whose mask marks nothing: {Path('EXAMPLES/masks/2.png')}\n"
    assert [each["id"] for each in tracks()["objects"]] == [3, 7]


@pytest.mark.usefixtures("place")
def test_smoothed_masks_are_snapped_when_asked(run: Callable[..., Done]) -> None:
    flat = TABLE[scene_mask(0)]
    smooth = np.asarray(Image.fromarray(flat).resize((128, 96)).resize((64, 48), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save("smooth.png")
    refused = run("FRAMES", "--mask", "smooth.png", "-o", "OUT")
    assert refused.status == 2
    assert "--snap-colors" in refused.err
    done = run("FRAMES", "--mask", "smooth.png", "-o", "OUT", "--snap-colors", "--no-overlay")
    assert (done.status, done.err) == (0, "")
    assert [each["id"] for each in tracks()["objects"]] == [1, 2]
    assert (read_mask("OUT/masks/0.png").ids > 0).sum() == pytest.approx(512, abs=40)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("name", ["smooth.png", "flat.jpg"])
def test_smoothed_grey_masks_are_snapped_when_asked(run: Callable[..., Done], name: str) -> None:
    mask = scene_mask(0)
    grey = Image.fromarray(np.where(mask == 3, 128, np.where(mask == 7, 255, 0)).astype(np.uint8))
    if name == "smooth.png":
        grey = grey.resize((128, 96)).resize((64, 48), Image.Resampling.BICUBIC)
    grey.save(name)
    refused = run("FRAMES", "--mask", name, "-o", "OUT")
    assert (refused.status, "--snap-colors" in refused.err) == (2, True)
    done = run("FRAMES", "--mask", name, "-o", "OUT", "--snap-colors", "--no-overlay", "--mask-at", 5, name)
    assert (done.status, done.err) == (0, "")
    assert [each["id"] for each in tracks()["objects"]] == [1, 2]
    found = read_mask("OUT/masks/0.png")
    assert [(found.ids[mask == i] == own).mean() > 0.9 for i, own in ((3, 1), (7, 2))] == [True, True]


@pytest.mark.usefixtures("place")
def test_progress_and_going_on(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    track_job = jobs.track_job

    def stopping(*arguments: Any, on_frame: Callable[[TrackProgress], None], **options: Any) -> Any:
        def tell(now: TrackProgress) -> None:
            on_frame(now)
            if now.done == 4:
                raise KeyboardInterrupt

        return track_job(*arguments, on_frame=tell, save_seconds=0, **options)

    monkeypatch.setattr("incontext.progress.SECONDS_BETWEEN_LINES", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "track_job", stopping)
        stopped = run(*USUAL)
    assert stopped.status == 130
    assert "2/10 frames, " in stopped.err
    assert " frames/s, " in stopped.err
    assert stopped.err.endswith("Stopped after 4 frames; the same command goes on from there.\n")
    done = run(*USUAL)
    assert done.status == 0
    assert done.err.startswith("Going on with what an earlier run left unfinished; its frames are drawn once more.\n")
    assert "10/10 frames" in done.err
    assert "10 masks in OUT" in done.out


def test_progress_where_nobody_knows_how_many_will_come(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incontext.progress.SECONDS_BETWEEN_LINES", 0.0)
    with ProgressLine("frames", None) as progress:
        progress.update(1)
        progress.update(3)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "1 frames"
    assert second.startswith("3 frames, ")
    assert second.endswith(" frames/s")


@pytest.mark.usefixtures("place")
def test_frames_that_cannot_be_read_are_told_and_the_status_says_so(run: Callable[..., Done]) -> None:
    Path("FRAMES/5.png").write_text("broken")
    done = run(*USUAL)
    assert done.status == 1
    assert "9 masks in OUT" in done.out
    assert done.err.splitlines()[-1].startswith(f"Not read: {Path('FRAMES/5.png')}: expected an image file")


@pytest.mark.usefixtures("place")
def test_what_was_readable_of_a_video_is_written_and_the_status_says_so(run: Callable[..., Done]) -> None:
    noise = np.random.default_rng(0).integers(0, 8, (20, 48, 64, 1), np.uint8)
    write_video(Path("clip.mkv"), [scene(0) // 2 + noise[i] for i in range(20)], codec="ffv1", pixels="bgr0")
    cut(Path("clip.mkv"), 0.5)
    done = run("clip.mkv", "--mask", "first.png", "-o", "OUT")
    assert done.status == 1
    assert "Not read: clip.mkv: " in done.err
    assert 5 < len(list(Path("OUT/masks").iterdir())) < 15


def change(path: str, pixels: np.ndarray) -> Callable[[], None]:
    return lambda: Image.fromarray(pixels).save(path)


def too_many_ids() -> None:
    Image.fromarray(scene_mask(0).astype(np.uint16) * 100).save("first.png")


def foreign_masks() -> None:
    Path("OUT/masks").mkdir(parents=True)
    Path("OUT/masks/0.png").touch()


def other_job() -> None:
    with pytest.raises(SystemExit):
        cli.main(["track", *USUAL, "--memory", "2", "--no-overlay"])


def mixed_sizes() -> None:
    write_image("FRAMES/1.png", scene(1, width=66))


@pytest.mark.parametrize(
    ("spoil", "arguments", "sentence"),
    [
        (lambda: None, ["nowhere.mp4", *USUAL[1:]], "nowhere.mp4: there is no such file or folder"),
        (
            lambda: Path("a.mp4").write_bytes(b"none" * 99),
            ["a.mp4", *USUAL[1:]],
            "a.mp4: expected a video, a folder of",
        ),
        (lambda: write_sound(Path("a.m4a")), ["a.m4a", *USUAL[1:]], "a.m4a: expected a video stream, found only audio"),
        (lambda: Path("none").mkdir(), ["none", *USUAL[1:]], "none: expected a folder with images in it, found none"),
        (change("first.png", scene_mask(0)[1:]), USUAL, "first.png: expected a mask of the image's size 64 x 48"),
        (change("first.png", np.zeros((48, 64), np.uint8)), USUAL, "first.png: expected a mask that marks something"),
        (too_many_ids, USUAL, "first.png: expected ids in 0..254 (255 = ignored), got 0..700"),
        (lambda: None, ["FRAMES", "--mask", "none.png", "-o", "OUT"], "none.png: there is no such file"),
        (lambda: Path("OUT").touch(), USUAL, "OUT: expected a folder to write to, got a file"),
        (foreign_masks, USUAL, "masks: expected a new folder, or one of an earlier run"),
        (other_job, USUAL, "tracks.json: the folder holds another job's results (memory was 2, now 4"),
        (
            lambda: None,
            ["FRAMES", "-o", "OUT"],
            "expected something to follow, got nothing; give the mask of the first",
        ),
        (lambda: None, ["FRAMES", "-o", "FRAMES", *USUAL[1:3]], "FRAMES: expected another folder to write to"),
        (lambda: None, [*USUAL, "--from", "abc"], 'expected --from as a frame\'s number, or a time such as "12.5s"'),
        (lambda: None, [*USUAL, "--format", "mot,csv"], "expected --format out of coco-video, mot, mots, several with"),
        (lambda: None, [*USUAL, "--to", "-1"], "expected --to as a frame's number"),
        (lambda: None, [*USUAL, "--to", "nans"], "expected --to as a frame's number"),
        (lambda: None, [*USUAL, "--from", "10"], "FRAMES: expected frames from 10 to the end, found none"),
        (lambda: None, [*USUAL, "--from", "3", "--to", "2"], "expected frames from 0 on to a later one, got 3 to 2"),
        (lambda: None, [*USUAL, "--mask-at", "x", "fifth.png"], "expected --mask-at with a frame's number"),
        (lambda: None, [*USUAL, "--mask-at", "5", "none.png"], "none.png: there is no such file"),
        (
            lambda: None,
            [*USUAL, "--mask-at", "5", "fifth.png", "--mask-at", "5", "fifth.png"],
            "expected one mask of frame 5, got two",
        ),
        (
            lambda: None,
            ["FRAMES", "--prompt-frame", "FRAMES/0.png", "-o", "OUT"],
            "expected --mask with --prompt-frame",
        ),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(
    run: Callable[..., Done],
    place: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[], None],
    arguments: list[str],
    sentence: str,
) -> None:
    spoil()
    capsys.readouterr()
    before = files(place)
    done = run(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1
    assert sentence in done.err
    assert files(place) == before


@pytest.mark.usefixtures("place")
def test_frames_that_change_size_end_the_tracks_in_a_sentence(run: Callable[..., Done]) -> None:
    mixed_sizes()
    done = run(*USUAL)
    assert done.status == 1
    assert "Not read: FRAMES: frame 1 (1): expected 64 x 48 (width x height) as before, got 66 x 48" in done.err
    assert files(Path("OUT/masks")) == ["0.png"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*USUAL, "--mask-at", "5"], "Option '--mask-at' requires 2 arguments: NUMBER MASK."),
        (["FRAMES", "--prompt", "a.png", "-o", "OUT"], "Option '--prompt' requires 2 arguments: IMAGE MASK."),
        ([*USUAL, "--policy", "best"], "'best' is not one of"),
        ([*USUAL, "--memory", "-1"], "--memory"),
        ([*USUAL, "--every", "0"], "--every"),
        (["FRAMES", "--mask", "first.png"], "Missing option '--out'"),
    ],
)
@pytest.mark.usefixtures("place")
def test_mistyped_commands_are_refused(run: Callable[..., Done], arguments: list[str], sentence: str) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert sentence in done.err
    assert not Path("OUT").exists()


def test_help(run: Callable[..., Done]) -> None:
    done = run("--help")
    assert done.status == 0
    for option in ("--mask", "--mask-at", "--prompt-frame", "--from", "--to", "--every", "--policy", "--format"):
        assert option in done.out
