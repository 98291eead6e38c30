"""Tracking jobs: what is written, what is told, and that an interrupted run comes out as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco
import pytest
import torch
from clips import ByColor, cut, decoded, scene, scene_mask, sound_packets, write_frames, write_video
from PIL import Image
from waiting import PATIENCE, wait_until

import incontext
from incontext.engine import Segmenter
from incontext.images.masks import read_mask
from incontext.images.read import read_image
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.types import Prompt
from incontext.video import job as jobs
from incontext.video.job import TrackProgress, TrackReport, track_job
from incontext.video.plan import plan_track

COUNT = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve frames of the scene; the blue square is away in frames 4 to 6."""
    return write_frames(tmp_path / "in", (scene(i, blue=not 4 <= i <= 6) for i in range(COUNT)))


def run(source: Path, out: Path, **options: Any) -> TrackReport:
    """A job with the stand-in for a network, the first frame's mask given."""
    running = {name: options.pop(name) for name in ("save_seconds", "on_frame") if name in options}
    mask = options.pop("mask", scene_mask(0))
    segmenter = ByColor()
    segmenter.sha256 = options.pop("sha256", segmenter.sha256)
    return track_job(segmenter, plan_track(source, out, mask=mask, **options), **running)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def contents(out: Path) -> dict[str, bytes]:
    """What must come out the same, byte for byte."""
    return {name: (out / name).read_bytes() for name in files(out) if name.endswith((".png", ".json", ".txt"))}


def tracks(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "tracks.json").read_text(encoding="utf-8")))


# ------------------------------------------------------------------------------------------ what comes out


def test_everything_is_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    told: list[TrackProgress] = []
    report = run(folder, out, on_frame=told.append)
    names = [f"masks/{i}.png" for i in range(COUNT)]
    assert files(out) == sorted([*names, "overlay.mp4", "sheet.jpg", "tracks.json"])
    assert (report.frames, report.before, report.problems) == (COUNT, 0, ())
    assert told == [TrackProgress(i + 1, COUNT, again=False) for i in range(COUNT)]
    first = read_mask(out / "masks" / "0.png")
    assert np.array_equal(first.ids, scene_mask(0))
    for number in range(COUNT):
        ids = read_mask(out / "masks" / f"{number}.png").ids
        true = scene_mask(number, ids=(3, 0 if 4 <= number <= 6 else 7))
        assert set(np.unique(ids)) == set(np.unique(true))
        assert (ids == true).mean() > 0.85
    shown = decoded(out / "overlay.mp4")
    assert [seconds for seconds, _ in shown] == pytest.approx([i / 24 for i in range(COUNT)], abs=1e-3)
    assert read_image(out / "sheet.jpg").shape == (8 + 3 * 76, 8 + 4 * 72, 3)


def test_tracks_say_where_objects_are_and_where_they_were_lost(folder: Path, tmp_path: Path) -> None:
    report = run(folder, tmp_path / "out")
    document = tracks(tmp_path / "out")
    assert document["format"] == "incontext tracks 1"
    assert (document["frames"], document["size"], document["frames_per_second"]) == (COUNT, [48, 64], 24)
    assert document["settings"]["segmenter"] == {
        "weights": "by-color",
        "side": 32,
        "dtype": "float32",
        "attention": "plain",
        "weights_sha256": "abc",
        "incontext": incontext.__version__,
    }
    red, blue = document["objects"]
    assert (red["id"], red["frames"], red["found"], red["lost"]) == (3, COUNT, [[0, COUNT - 1]], [])
    assert (blue["id"], blue["frames"], blue["found"], blue["lost"]) == (7, 9, [[0, 3], [7, 11]], [[4, 6]])
    assert [(each.id, each.frames, each.lost) for each in report.objects] == [(3, 12, ()), (7, 9, ((4, 6),))]
    assert [entry["frame"] for entry in blue["track"]] == [0, 1, 2, 3, 7, 8, 9, 10, 11]
    assert red["track"][0] == {"frame": 0, "area": 256, "box": [0, 4, 16, 20], "confidence": 1.0}
    for each in document["objects"]:
        assert each["mean_area"] == pytest.approx(np.mean([entry["area"] for entry in each["track"]]), abs=0.06)
        assert each["mean_confidence"] == pytest.approx(
            np.mean([entry["confidence"] for entry in each["track"]]), abs=1e-4
        )
        for entry in each["track"]:
            ids = read_mask(tmp_path / "out" / "masks" / f"{entry['frame']}.png").ids
            left, top, right, bottom = entry["box"]
            assert (ids == each["id"]).sum() == (ids[top:bottom, left:right] == each["id"]).sum() == entry["area"]


def test_colours_are_those_of_the_mask(folder: Path, tmp_path: Path) -> None:
    image = Image.fromarray(scene_mask(0))
    image.putpalette(np.random.default_rng(0).permutation(768).astype(np.uint8).tobytes(), "RGB")
    table = np.array(image.getpalette("RGB")).reshape(-1, 3)
    image.save(tmp_path / "mask.png")
    run(folder, tmp_path / "out", mask=tmp_path / "mask.png", overlay=False)
    for number in (0, 5, 11):
        written = read_mask(tmp_path / "out" / "masks" / f"{number}.png")
        assert written.colors is not None
        assert written.colors[[3, 7]].tolist() == table[[3, 7]].tolist()
    assert [each["color"] for each in tracks(tmp_path / "out")["objects"]] == table[[3, 7]].tolist()


def test_a_video_keeps_its_times_and_its_sound(tmp_path: Path) -> None:
    times = [0, 0.1, 0.5, 0.6, 1.2]
    images = [scene(i, width=63, height=47) for i in range(5)]
    source = write_video(tmp_path / "clip.mkv", images, times=times, codec="ffv1", pixels="bgr0", sound="aac")
    report = run(source, tmp_path / "out", mask=scene_mask(0, width=63, height=47))
    assert report.problems == ()
    shown = decoded(tmp_path / "out" / "overlay.mp4")
    assert [seconds for seconds, _ in shown] == pytest.approx(times, abs=2e-3)
    assert shown[0][1].shape == (48, 64, 3)
    assert len(sound_packets(tmp_path / "out" / "overlay.mp4")) > 5
    assert files(tmp_path / "out" / "masks") == [f"{i:05d}.png" for i in range(5)]
    assert read_mask(tmp_path / "out" / "masks" / "00002.png").ids.shape == (47, 63)


def test_the_overlay_shows_the_objects(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out")
    (_, first), *_ = decoded(tmp_path / "out" / "overlay.mp4")
    color = np.array(tracks(tmp_path / "out")["objects"][0]["color"])
    expected = (scene(0)[12, 8].astype(int) + color) / 2
    assert np.abs(first[8:16, 4:12].mean(axis=(0, 1)) - expected).max() < 12
    assert np.abs(first[24, 30].astype(int) - scene(0)[24, 30]).max() < 12


def test_some_frames(folder: Path, tmp_path: Path) -> None:
    report = run(folder, tmp_path / "out", mask=scene_mask(2), start=2, stop=11, every=4, overlay=False)
    assert files(tmp_path / "out") == ["masks/10.png", "masks/2.png", "masks/6.png", "sheet.jpg", "tracks.json"]
    assert report.frames == 3
    assert np.array_equal(read_mask(tmp_path / "out" / "masks" / "2.png").ids, scene_mask(2))
    assert tracks(tmp_path / "out")["objects"][1]["lost"] == [[6, 6]]


def test_a_mask_of_a_later_frame_adds_and_corrects(folder: Path, tmp_path: Path) -> None:
    masks = {5: scene_mask(5, ids=(9, 0))}
    report = run(folder, tmp_path / "out", mask=scene_mask(0, ids=(0, 7)), masks=masks, overlay=False)
    blue, red = tracks(tmp_path / "out")["objects"]
    assert (blue["id"], red["id"]) == (7, 9)
    assert (red["found"], red["lost"]) == ([[5, 11]], [])
    assert blue["lost"] == [[4, 6]]
    assert report.problems == ()


def test_prompts_from_another_image(folder: Path, tmp_path: Path) -> None:
    prompt = Prompt(scene(0, width=80), scene_mask(0, ids=(4, 0), width=80))
    report = run(
        folder, tmp_path / "out", mask=None, prompts=[prompt], prompt_files=[("a.png", "b.png")], overlay=False
    )
    assert [(each.id, each.frames) for each in report.objects] == [(4, COUNT)]
    assert tracks(tmp_path / "out")["settings"]["prompts"] == [{"image": "a.png", "mask": "b.png"}]


def test_options_reach_the_tracker(folder: Path, tmp_path: Path) -> None:
    """The red square becomes brighter: who does not remember loses it."""
    bright = write_frames(tmp_path / "bright", (scene(7 * i) for i in range(6)))
    for memory in (0, 8):
        run(bright, tmp_path / f"out{memory}", memory=memory, overlay=False)
        pixels = [(read_mask(tmp_path / f"out{memory}" / "masks" / f"{i}.png").ids == 3).sum() for i in range(6)]
        assert [count > 128 for count in pixels] == [True, True, *[memory == 8] * 4]
    assert tracks(tmp_path / "out0")["settings"]["memory"] == 0
    segmenter = ByColor()
    job = plan_track(folder, tmp_path / "out", mask=scene_mask(0), side=16, task="semantic", overlay=False)
    sides = []
    prepare = segmenter.prepare

    def noting(context: Any, *, known: Any, **options: Any) -> Any:
        sides.append((options["task"], options["side"]))
        return prepare(context, known=known, **options)

    segmenter.prepare = noting  # type: ignore[method-assign]
    track_job(segmenter, job)  # type: ignore[arg-type]
    assert set(sides) == {("semantic", 16)}


def test_with_a_real_network(folder: Path, tmp_path: Path) -> None:
    config = ModelConfig(
        width=32, heads=2, depth=2, patch=8, side=32, decoder_width=8, merge_layer=0, taps=(0, 1), pretrain_side=32
    )
    torch.manual_seed(0)
    network = SegGPT(config)
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2, mean=0.5 * name.startswith("decoder_pred"))
    segmenter = Segmenter(network, device="cpu", dtype="float32", name="random")
    job = plan_track(folder, tmp_path / "out", mask=scene_mask(0))
    report = track_job(segmenter, job)
    assert report.frames == COUNT
    assert np.array_equal(read_mask(tmp_path / "out" / "masks" / "0.png").ids, scene_mask(0))
    for number in range(1, COUNT):
        assert set(np.unique(read_mask(tmp_path / "out" / "masks" / f"{number}.png").ids)) <= {0, 3, 7}


# ---------------------------------------------------------------------------------------------- exports


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools, with numpy 2
def test_exports_are_what_other_tools_read(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", exports=["coco-video", "mot", "mots"], overlay=False)
    out = tmp_path / "out"
    true = [read_mask(out / "masks" / f"{i}.png").ids for i in range(COUNT)]
    document = json.loads((out / "coco_video.json").read_text())
    assert document["videos"] == [
        {"id": 1, "width": 64, "height": 48, "length": COUNT, "file_names": [f"{i}.png" for i in range(COUNT)]}
    ]
    assert [each["id"] for each in document["annotations"]] == [3, 7]
    for each in document["annotations"]:
        assert {each["video_id"], each["category_id"]} == {1}
        columns = (each[name] for name in ("segmentations", "bboxes", "areas", "scores"))
        for ids, rle, box, area, score in zip(true, *columns, strict=True):
            found = ids == each["id"]
            assert (rle is None) == (box is None) == (area is None) == (score is None) == (not found.any())
            if rle is not None:
                assert np.array_equal(coco.decode(rle), found)
                assert coco.toBbox(rle).tolist() == box
                assert coco.area(rle) == area
    rows = [line.split(",") for line in (out / "mot.txt").read_text().splitlines()]
    assert len(rows) == COUNT + 9
    assert rows[0] == ["1", "3", "0", "4", "16", "16", "1.0", "-1", "-1", "-1"]
    for row in (line.split(" ") for line in (out / "mots.txt").read_text().splitlines()):
        frame, i, kind, height, width = map(int, row[:5])
        assert (kind, height, width) == (1, 48, 64)
        rle = {"size": [height, width], "counts": row[5]}
        assert np.array_equal(coco.decode(rle), true[frame - 1] == i)


# ------------------------------------------------------------------------------------------- going on


def stop_after(count: int, error: BaseException) -> Callable[[TrackProgress], None]:
    def tell(now: TrackProgress) -> None:
        if now.done == count:
            raise error

    return tell


@pytest.mark.parametrize("save_seconds", [0, 99])
@pytest.mark.parametrize("kind", ["folder", "video"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    folder: Path, tmp_path: Path, save_seconds: float, kind: str
) -> None:
    source = folder
    if kind == "video":
        images = [scene(i, blue=not 4 <= i <= 6) for i in range(COUNT)]
        source = write_video(tmp_path / "clip.mkv", images, codec="ffv1", pixels="bgr0", sound="aac")
    options: dict[str, Any] = {
        "exports": ["coco-video", "mot"],
        "save_seconds": save_seconds,
        "masks": {9: scene_mask(9)},
        "memory": 2,
    }
    run(source, tmp_path / "whole", **options)
    out = tmp_path / "out"
    for count in (3, 8):
        with pytest.raises(KeyboardInterrupt):
            run(source, out, on_frame=stop_after(count, KeyboardInterrupt()), **options)
        assert save_seconds or len(list((out / "masks").glob("*.png"))) >= count - 1
        assert not {"overlay.mp4", "sheet.jpg", "tracks.json", "mot.txt"} & set(files(out))
        assert not list(out.glob("*.part"))
    told: list[TrackProgress] = []
    report = run(source, out, on_frame=told.append, **options)
    before = 0 if save_seconds else 7  # the state of the last frame was not saved, as the run stopped first
    assert report.before == before
    assert [now.again for now in told] == [True] * before + [False] * (COUNT - before)
    assert report.frames == COUNT
    assert contents(out) == contents(tmp_path / "whole")
    assert files(out) == files(tmp_path / "whole")
    assert len(decoded(out / "overlay.mp4")) == COUNT
    assert np.array_equal(read_image(out / "sheet.jpg"), read_image(tmp_path / "whole" / "sheet.jpg"))
    assert sound_packets(out / "overlay.mp4") == sound_packets(tmp_path / "whole" / "overlay.mp4")


def test_a_run_that_stopped_after_its_last_frame_is_finished(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "whole", save_seconds=0)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jobs, "write_tracks", refuse)
        with pytest.raises(OSError, match="the disk is full"):
            run(folder, tmp_path / "out", save_seconds=0)
    assert run(folder, tmp_path / "out", save_seconds=0).before == COUNT
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("place", "name", "missing"),
    [("Sheet", "write", "sheet.jpg"), ("Movie", "add", "overlay.mp4"), ("Movie", "finish", "overlay.mp4")],
)
def test_what_people_look_at_costs_no_tracks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str, missing: str
) -> None:
    whole = run(folder, tmp_path / "whole", overlay=True)
    calls = []

    def refuse(*_: object) -> None:
        calls.append(name)
        raise OSError(22, "no good")

    monkeypatch.setattr(getattr(jobs, place), name, refuse)
    report = run(folder, tmp_path / "out", overlay=True)
    assert len(calls) == 1  # what failed is not tried again with each frame
    assert (report.frames, report.objects) == (whole.frames, whole.objects)
    assert [problem.split(":")[0] for problem in report.problems] == [f"{missing} is missing"]
    assert "no good" in report.problems[0]
    there = {each for each in files(tmp_path / "whole") if each != missing}
    assert set(files(tmp_path / "out")) == there  # and nothing half-written
    assert tracks(tmp_path / "out")["objects"] == tracks(tmp_path / "whole")["objects"]


def test_a_finished_run_can_be_done_again(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    assert run(folder, tmp_path / "out").before == 0
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"memory": 8}, "memory was 4, now 8"),
        ({"policy": "recent"}, "policy was spaced, now recent"),
        ({"every": 2}, "every was 1, now 2"),
        ({"stop": 9}, "stop was null, now 9"),
        ({"mask": scene_mask(1)}, "given_sha256 "),
        ({"sha256": "b"}, "segmenter weights_sha256 was abc, now b"),
    ],
)
def test_results_of_another_job_are_not_mixed_with(
    folder: Path, tmp_path: Path, finished: bool, options: dict[str, Any], difference: str
) -> None:
    if finished:
        run(folder, tmp_path / "out", overlay=False)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "out", overlay=False, on_frame=stop_after(2, KeyboardInterrupt()))
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match="the folder holds another job's results") as caught:
        run(folder, tmp_path / "out", overlay=False, **options)
    assert difference in str(caught.value)
    assert contents(tmp_path / "out") == before


def test_prompts_of_another_weight_are_another_job(folder: Path, tmp_path: Path) -> None:
    prompt = Prompt(scene(0), scene_mask(0))
    known, again, other = (
        plan_track(folder, tmp_path / "out", prompts=[each]).settings["given_sha256"]
        for each in (prompt, replace(prompt, weight=1.0), replace(prompt, weight=2.0))
    )
    assert known == again != other


def test_two_runs_do_not_write_to_one_folder(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    out = tmp_path / "out"
    refused = []

    def meanwhile(now: TrackProgress) -> None:
        if now.done in (1, 7):
            with pytest.raises(ValueError, match=f"^{out}: another run is writing to this folder; wait") as error:
                run(folder, out)
            refused.append(error)

    report = run(folder, out, on_frame=meanwhile, save_seconds=0.0)
    assert (len(refused), report.frames) == (2, COUNT)
    assert files(out) == sorted([*(f"masks/{i}.png" for i in range(COUNT)), "overlay.mp4", "sheet.jpg", "tracks.json"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("name", ["state.npz", "tracks.json", "frames.jsonl"])
def test_a_pipe_in_place_of_an_earlier_result_hangs_nothing(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / name)
    with pytest.raises(ValueError, match=rf"{name}: expected a file, got a pipe or a device"):
        run(folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["masks", "frames.jsonl"])
def test_links_that_lead_out_are_not_written_through(folder: Path, tmp_path: Path, name: str) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.mkdir()
    (victim / "file").write_text("mine")
    (out / name).symlink_to(victim if name == "masks" else victim / "file")
    (victim / "file").rename(tmp_path / "file") if name == "masks" else None
    with pytest.raises(ValueError, match="a link"):
        run(folder, out)
    kept = tmp_path / "file" if name == "masks" else victim / "file"
    assert kept.read_text() == "mine"
    assert [path.name for path in victim.iterdir()] == ([] if name == "masks" else ["file"])


def test_masks_that_no_run_wrote_are_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "masks").mkdir(parents=True)
    (tmp_path / "out" / "masks" / "0.png").write_bytes(b"precious")
    with pytest.raises(ValueError, match="expected a new folder, or one of an earlier run"):
        run(folder, tmp_path / "out")
    assert files(tmp_path / "out") == ["masks/0.png"]


@pytest.mark.parametrize("name", ["state.npz", "tracks.json"])
def test_a_broken_file_of_an_earlier_run_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('["no state"]')
    with pytest.raises(ValueError, match=f"{name}: expected the (state|tracks) of a"):
        run(folder, tmp_path / "out")


PROGRAM = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_track_job import run
run(Path("in"), Path("out"), save_seconds=0.05, on_frame=lambda now: time.sleep(0.02))
"""


@pytest.mark.kill
def test_a_killed_run_leaves_no_partial_files_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, out = write_frames(Path("in"), (scene(i) for i in range(40))), Path("out")
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    running = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    wait_until(lambda: len(list(out.glob("masks/*.png"))) >= 15)
    running.send_signal(signal.SIGKILL)
    _, complaint = running.communicate(timeout=PATIENCE)
    assert running.returncode == -signal.SIGKILL, complaint
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == {"masks", "state.npz", "frames.jsonl"}
    for path in out.glob("masks/[0-9]*.png"):
        assert read_mask(path).ids.shape == (48, 64)
    assert 0 < run(source, out).before < 40
    run(source, Path("whole"))
    assert files(out) == files(Path("whole"))
    assert contents(out) == contents(Path("whole"))


# --------------------------------------------------------------------------------------------- bad input


def test_what_was_readable_of_a_broken_video_is_written(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 40, (30, 48, 64, 1), np.uint8)
    images = [scene(i) // 2 + noise[i] for i in range(30)]
    source = write_video(tmp_path / "clip.mkv", images, codec="ffv1", pixels="bgr0")
    cut(source, 0.5)
    report = run(source, tmp_path / "out")
    assert 9 < report.frames < 20
    assert len(report.problems) == 1
    assert tracks(tmp_path / "out")["problems"] == list(report.problems)
    assert len(list((tmp_path / "out" / "masks").iterdir())) == report.frames
    assert len(decoded(tmp_path / "out" / "overlay.mp4")) == report.frames
    assert not (tmp_path / "out" / "state.npz").exists()


def test_a_frame_of_another_size_ends_the_tracks(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(scene(7, width=66)).save(folder / "7.png")
    report = run(folder, tmp_path / "out")
    assert report.frames == 7
    assert "frame 7 (7): expected 64 x 48 (width x height) as before, got 66 x 48" in report.problems[0]


def test_a_mask_of_a_frame_that_did_not_come_is_told(folder: Path, tmp_path: Path) -> None:
    (folder / "5.png").write_text("broken")
    report = run(folder, tmp_path / "out", masks={5: scene_mask(5), 99: scene_mask(9)})
    assert len(report.problems) == 3
    assert [told for told in report.problems if "of no use" in told] == [
        "the mask of frame 5 was of no use: that frame did not come",
        "the mask of frame 99 was of no use: that frame did not come",
    ]
    assert report.frames == COUNT - 1


def odd(value: int) -> Any:
    mask = scene_mask(0).astype(np.int64)
    mask[mask == 3] = value
    return mask


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mask": None}, "expected something to follow, got nothing"),
        ({"mask": scene_mask(0)[1:]}, "expected a mask of the image's size 64 x 48"),
        ({"mask": np.zeros((48, 64), np.uint8)}, "the mask is empty"),
        ({"mask": odd(300)}, "expected ids in 0..254"),
        ({"masks": {3: scene_mask(0)[1:]}}, "expected a mask of the image's size 64 x 48"),
        ({"masks": {0: scene_mask(0)}}, "expected one mask of frame 0, with which tracking starts, got two"),
        ({"masks": {3: scene_mask(3)}, "every": 2}, "got one of frame 3"),
        ({"masks": {3: scene_mask(3)}, "stop": 3}, "got one of frame 3"),
        ({"masks": {3: scene_mask(3)}, "start": 4}, "got one of frame 3"),
        ({"memory": -1}, "expected a memory of 0 or more predicted frames, got -1"),
        ({"policy": "best"}, "expected a policy among recent, spaced, confident"),
        ({"exports": ["csv"]}, "expected formats among coco-video, mot, mots, got csv"),
    ],
)
def test_what_cannot_be_tracked_is_refused(
    folder: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        run(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_frames_that_are_not_there_leave_nothing_behind(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected frames from 50 to the end, found none"):
        run(folder, tmp_path / "out", start=50)
    assert not (tmp_path / "out").exists()


def test_the_first_mask_belongs_to_the_first_frame_by_time(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "out", mask=scene_mask(3), start=timedelta(seconds=3 / 24), overlay=False)
    assert np.array_equal(read_mask(tmp_path / "out" / "masks" / "3.png").ids, scene_mask(3))


def test_what_is_read_is_not_written_to(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected another folder to write to"):
        run(folder, folder)
    source = write_video(tmp_path / "overlay.mp4", [scene(0)])
    with pytest.raises(ValueError, match="expected another folder to write to"):
        run(source, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected a folder to write to, got a file"):
        run(folder, tmp_path / "file" / "out")
