"""Folder jobs: what is read, what is written, what is refused, and that reading, the network and writing overlap."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from bright import PROMPT, Bright, files, image_file, run_job
from PIL import Image
from waiting import PATIENCE, WorkClock, wait_until

from incontext.folder import JOURNAL_NAME, REPORT_NAME, FileReport, Outputs, plan, run, segment_folder, work
from incontext.images.ids import Pixels
from incontext.images.masks import read_mask
from incontext.images.read import read_image
from incontext.images.write import write_image
from incontext.types import Segmentation


def names(inputs: Iterable[Path | str], out: Path, **options: Any) -> list[str]:
    return [query.name.as_posix() for query in plan(inputs, out, **options).queries]


# ------------------------------------------------------------------------------------------------ plan


def test_folders_are_read_with_their_subfolders_in_order(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "in" / "masks"
    for name in ("b.jpg", "a.PNG", "z/1.tif", "c/2.webp", "c/d/3.jpeg", "masks/old.png", ".hidden/4.jpg", ".5.jpg"):
        image_file(root / name)
    (root / "notes.txt").write_text("no image")
    os.mkfifo(root / "pipe.jpg")
    (tmp_path / "elsewhere").mkdir()
    image_file(tmp_path / "elsewhere" / "6.jpg")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    assert names([root], out) == ["a.PNG", "b.jpg", "c/2.webp", "c/d/3.jpeg", "z/1.tif"]
    assert names([root / "z", root / "c"], out) == ["1.tif", "2.webp", "d/3.jpeg"]


def test_patterns_keep_what_follows_their_fixed_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a/1.jpg", "in/b/2.jpg", "in/b/3.png", "in/.c/4.jpg", "in/out/5.jpg", "in/d[1].jpg"):
        image_file(Path(name))
    Path("in/b/notes.txt").write_text("no image")
    out = Path("in/out")
    assert names(["in/**/*.jpg"], out) == ["a/1.jpg", "b/2.jpg", "d[1].jpg"]
    assert names(["in/*"], out) == ["a/1.jpg", "b/2.jpg", "b/3.png", "d[1].jpg"]
    assert names(["in/?/*"], out) == ["a/1.jpg", "b/2.jpg", "b/3.png"]
    assert names(["*/*/1.jpg"], out) == ["in/a/1.jpg"]
    assert names(["in/d[1].jpg"], out) == ["d[1].jpg"]  # a file of that name, not a pattern
    assert names(["in/out/*.jpg"], Path("in")) == ["5.jpg"]  # whoever names the output folder means it


def test_an_image_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    path = image_file(tmp_path / "in" / "a" / "1.jpg")
    (tmp_path / "same").symlink_to(tmp_path / "in")
    inputs = [tmp_path / "in", path, tmp_path / "in" / "a" / ".." / "a" / "1.jpg", tmp_path / "same" / "a" / "1.jpg"]
    assert names(inputs, tmp_path / "out") == ["a/1.jpg"]


def test_the_prompts_image_is_a_query_and_its_mask_is_not(tmp_path: Path) -> None:
    image, mask = image_file(tmp_path / "in" / "cat.jpg"), image_file(tmp_path / "in" / "cat.png")
    image_file(tmp_path / "in" / "dog.jpg")
    job = plan([tmp_path / "in"], tmp_path / "out", prompt_files=[(image, mask)])
    assert [query.place.name for query in job.queries if isinstance(query.place, Path)] == ["cat.jpg", "dog.jpg"]


def test_other_masks_are_no_queries_and_are_not_overwritten(tmp_path: Path) -> None:
    for name in ("cat.jpg", "cat_mask.png", "old/cat.png"):
        image_file(tmp_path / "in" / name)
    left_out = [tmp_path / "in" / "cat_mask.png", tmp_path / "in" / "old" / ".." / "old" / "cat.png"]
    assert names([tmp_path / "in"], tmp_path / "out", leave_out=left_out) == ["cat.jpg"]
    with pytest.raises(ValueError, match=r"old/cat.png: this result would overwrite an image"):
        plan([tmp_path / "in" / "cat.jpg"], tmp_path / "in" / "old", leave_out=left_out)


@pytest.mark.parametrize(
    ("present", "inputs", "out", "error", "message"),
    [
        (["in/a.jpg"], ["nowhere"], "out", FileNotFoundError, "nowhere: there is no such file or folder"),
        (["in/a.jpg"], ["in", "nowhere.jpg"], "out", FileNotFoundError, "nowhere.jpg: there is no such file"),
        (["in/a.jpg"], ["in/*.tif"], "out", FileNotFoundError, r"in/\*.tif: nothing matches this pattern"),
        (["in/a.txt"], ["in"], "out", ValueError, r"expected images \(.*.bmp, .*.webp\) in in, found none"),
        (["in/a.txt"], ["in/*"], "out", ValueError, r"in in/\*, found none"),
        ([], [], "out", ValueError, "in the inputs, found none"),
        (["in/a.jpg", "out"], ["in"], "out", ValueError, "out: expected a folder to write to, got a file"),
        (["in/a.jpg", "out"], ["in"], "out/of/this", ValueError, "^out: expected a folder to write to, got a file"),
        (["in/a.jpg"], ["in"], "in/../in", ValueError, "in: expected another folder .* such as in/masks"),
        (["in/a.jpg", "in/a.png"], ["in"], "out", ValueError, "in/a.jpg and in/a.png would both write out/a.png"),
        (["1/a.jpg", "2/a.jpg"], ["1", "2"], "out", ValueError, "1/a.jpg and 2/a.jpg would both .* folder above both"),
        (["in/a.jpg", "in/A.bmp"], ["in"], "out", ValueError, "in/A.bmp and in/a.jpg would both"),
        (["in/é.jpg", "in/e\u0301.bmp"], ["in"], "out", ValueError, "would both"),
        (["in/a.jpg", "in/a_overlay.gif"], ["in"], "out", ValueError, "would both write out/a_overlay.png"),
        (["in/a.jpg", "in/a_confidence.gif"], ["in"], "out", ValueError, "would both write out/a_confidence.png"),
        (["in/a.png"], ["in/a.png"], "in", ValueError, "in/a.png: this result would overwrite an image"),
        (["in/a.jpg", "out/a.png"], ["in"], "out", ValueError, "out/a.png: this result would overwrite an image"),
    ],
)
def test_what_cannot_end_well_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    present: list[str],
    inputs: list[str],
    out: str,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in present:
        image_file(Path(name))
    before = files(tmp_path)
    prompt_files = [(Path("out/a.png"), Path("mask.png"))] if "out/a.png" in present else []
    with pytest.raises(error, match=message):
        plan(inputs, out, overlay=True, confidence=True, prompt_files=prompt_files)
    assert files(tmp_path) == before


def test_only_what_is_written_can_be_in_the_way(tmp_path: Path) -> None:
    for name in ("a.jpg", "a_overlay.jpg", "a_confidence.jpg"):
        image_file(tmp_path / "in" / name)
    assert len(names([tmp_path / "in"], tmp_path / "out")) == 3
    assert names([tmp_path / "in" / "a.jpg"], tmp_path / "in") == ["a.jpg"]  # masks beside images, if one must


def test_a_subfolder_that_cannot_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_file(tmp_path / "in" / "a.jpg")
    closed, scandir = tmp_path / "in" / "closed", os.scandir
    closed.mkdir()

    def refuse(path: str) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # chmod would not stop root
    told: list[FileReport] = []
    report = run_job(Bright(), [tmp_path / "in"], tmp_path / "out", on_file=told.append)
    assert [(Path(file.query).name, file.error) for file in report.files] == [
        ("closed", f"{closed}: cannot be read (Permission denied)"),
        ("a.jpg", None),
    ]
    assert told == list(report.files)


# ------------------------------------------------------------------------------------------------- run


def test_masks_and_a_report_are_written(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "some" / "out"
    image_file(root / "dark.jpg")
    image_file(root / "sub" / "half.tif", bright=6)
    segmenter = Bright()
    asked: dict[str, Any] = {"ensemble": "spatial", "task": "semantic", "side": 64, "tiles": 96, "refine": True}
    asked["batch_size"] = 5
    report = run_job(segmenter, [root], out, **asked)
    assert segmenter.asked == asked
    assert files(out) == ["dark.png", REPORT_NAME, "sub/half.png"]
    mask = read_mask(out / "sub" / "half.png")
    assert mask.ids.tolist() == [[3] * 6 + [0] * 6] * 8
    assert mask.colors is not None
    assert mask.colors[3].tolist() == [255, 0, 0]
    dark, half = report.files
    assert (dark.query, dark.mask, dark.ids, dark.areas, dark.is_empty) == (
        str(root / "dark.jpg"), "dark.png", (), {}, True,
    )  # fmt: skip
    assert (half.mask, half.ids, half.areas, half.is_empty) == ("sub/half.png", (3,), {3: 48}, False)
    assert half.confidence == 0.75
    assert (report.finished, report.done, report.failed) == (True, 2, 0)
    written = json.loads((out / REPORT_NAME).read_text())
    assert written["finished"]
    assert written["segmenter"] == {"weights": "bright"}
    assert {name: written["settings"][name] for name in asked} == asked
    assert written["settings"]["inputs"] == [str(root)]
    assert {name: written["totals"][name] for name in ("queries", "done", "failed", "empty")} == {
        "queries": 2, "done": 2, "failed": 0, "empty": 1,
    }  # fmt: skip
    assert written["time"]["images_per_second"] == pytest.approx(report.images_per_second, abs=1e-3)
    assert written["files"][1]["areas"] == {"3": 48}


def test_overlays_and_confidences_are_written_when_asked(tmp_path: Path) -> None:
    image_file(tmp_path / "in" / "sub" / "half.jpg", bright=6)
    out = tmp_path / "out"
    run_job(Bright(), [tmp_path / "in"], out, overlay=True, confidence=True)
    assert files(out) == [REPORT_NAME, "sub/half.png", "sub/half_confidence.png", "sub/half_overlay.jpg"]
    assert np.unique(np.asarray(Image.open(out / "sub" / "half_confidence.png"))).tolist() == [round(0.75 * 255)]
    red, _, blue = read_image(out / "sub" / "half_overlay.jpg")[4, 3].astype(int)
    assert red > blue + 80


def test_prompt_files_are_reported(tmp_path: Path) -> None:
    image, mask = image_file(tmp_path / "in" / "a.jpg"), tmp_path / "mask.png"
    run_job(Bright(), [image], tmp_path / "out", prompt_files=[(image, mask)])
    written = json.loads((tmp_path / "out" / REPORT_NAME).read_text())
    assert written["settings"]["prompts"] == [{"image": str(image), "mask": str(mask)}]


def test_a_second_run_replaces_what_the_first_wrote(tmp_path: Path) -> None:
    path, out = image_file(tmp_path / "in" / "a.jpg"), tmp_path / "out"
    assert run_job(Bright(), [tmp_path / "in"], out).files[0].is_empty
    image_file(path, bright=3)
    assert not run_job(Bright(), [tmp_path / "in"], out).files[0].is_empty
    assert read_mask(out / "a.png").ids.any()


def test_broken_images_are_skipped_and_the_rest_is_finished(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("0_good.jpg", "6_good.jpg", "9_good.png"):
        image_file(root / name, bright=3)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    write_image(root / "1_truncated.jpg", noise)
    os.truncate(root / "1_truncated.jpg", 2000)
    (root / "2_text.jpg").write_text("not an image at all")
    (root / "3_empty.jpg").touch()
    (root / "4_dangling.jpg").symlink_to("nowhere.jpg")
    (root / "5_loop.jpg").symlink_to("5_loop.jpg")
    named = root / "8_notes.txt"
    named.write_text("in a folder nobody would miss it")
    told: list[FileReport] = []
    report = run_job(Bright(), [root, named], tmp_path / "out", on_file=told.append)
    assert files(tmp_path / "out") == ["0_good.png", "6_good.png", "9_good.png", REPORT_NAME]
    assert told == list(report.files)
    assert [Path(file.query).name[0] for file in report.files] == list("012345698")
    failures = {Path(file.query).name[2:]: file.error or "" for file in report.failures}
    assert list(failures) == ["truncated.jpg", "text.jpg", "empty.jpg", "dangling.jpg", "loop.jpg", "notes.txt"]
    reasons = ("broken or cut off", "expected an image", "is empty", "no such file", "", "expected an image")
    for (name, error), reason in zip(failures.items(), reasons, strict=True):
        assert name in error
        assert reason in error
    written = json.loads((tmp_path / "out" / REPORT_NAME).read_text())
    assert (written["totals"]["done"], written["totals"]["failed"]) == (3, 6)
    assert written["files"][1]["mask"] is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_image_without_permission_is_skipped(tmp_path: Path) -> None:
    image_file(tmp_path / "in" / "a.jpg").chmod(0)
    image_file(tmp_path / "in" / "b.jpg")
    report = run_job(Bright(), [tmp_path / "in"], tmp_path / "out")
    assert "Permission denied" in (next(report.failures).error or "")
    assert report.done == 1


def test_whatever_a_decoder_raises_costs_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        image_file(tmp_path / "in" / name)

    def explode(path: Path, **_: Any) -> Pixels:
        if path.name == "a.jpg":
            raise ZeroDivisionError
        if path.name == "b.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return read_image(path)

    monkeypatch.setattr(work, "read_image", explode)
    report = run_job(Bright(), [tmp_path / "in"], tmp_path / "out")
    first, second = (str(tmp_path / "in" / name) for name in ("a.jpg", "b.jpg"))
    assert [file.error for file in report.files] == [
        f"{first}: ZeroDivisionError",
        f"{second}: Permission denied",
        None,
    ]


def test_a_result_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/2.jpg", f"{'n' * 250}.gif"):
        image_file(tmp_path / "in" / name)
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("in the way")
    report = run_job(Bright(), [tmp_path / "in"], out, confidence=True)
    assert [file.error is None for file in report.files] == [False, False, True]
    assert "File name too long" in (report.files[0].error or "")
    assert str(out / "a" / "1.png") in (report.files[1].error or "")
    assert files(out) == ["a", "b/2.png", "b/2_confidence.png", REPORT_NAME]


def test_an_output_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_file(tmp_path / "in" / "a.jpg")
    monkeypatch.setattr(os, "access", lambda *_: False)  # chmod would not stop root
    with pytest.raises(ValueError, match=f"^{tmp_path}: expected a folder to write to, got one without the permission"):
        plan([tmp_path / "in"], tmp_path / "new" / "out")


def test_an_output_folder_that_cannot_be_made_stops_the_run_before_it_begins(tmp_path: Path) -> None:
    job = plan([image_file(tmp_path / "a.jpg")], tmp_path / "out")
    (tmp_path / "out").write_text("it was not there when the plan was made")
    with pytest.raises(OSError, match="out"):
        segment_folder(Bright(on_batch=lambda _: pytest.fail("the network ran")), job, PROMPT)  # type: ignore[arg-type]


def test_all_images_broken_is_a_finished_run(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    report = run_job(Bright(), [tmp_path], tmp_path / "out")
    assert (report.finished, report.done, report.failed) == (True, 0, 1)
    assert report.images_per_second == 0


def test_one_pixel_and_very_wide_images(tmp_path: Path) -> None:
    image_file(tmp_path / "in" / "dot.png", width=1, height=1, bright=1)
    image_file(tmp_path / "in" / "tall.png", width=1, height=4000, bright=1)
    image_file(tmp_path / "in" / "wide.png", width=70_000, height=2, bright=5)
    out = tmp_path / "out"
    report = run_job(Bright(), [tmp_path / "in"], out, overlay=True, confidence=True)
    assert [file.areas for file in report.files] == [{3: 1}, {3: 4000}, {3: 10}]
    assert read_mask(out / "wide.png").ids.shape == (2, 70_000)
    assert (out / "tall_overlay.jpg").is_file()
    assert read_image(out / "wide_overlay.png").shape == (2, 70_000, 3)  # a JPEG cannot be that wide


def test_names_of_all_kinds_come_through(tmp_path: Path) -> None:
    root, out = tmp_path / "Größe 写真", tmp_path / "Ergebnis für alle"
    odd = ["ein Bild.jpg", "[bold]:smile:.jpg", "写真 1.jpg", "v1.2.final.jpg", unicodedata.normalize("NFD", "é.jpg")]
    if sys.platform == "linux":
        odd.append(os.fsdecode(b"latin-\xe9.jpg"))  # no UTF-8
    for name in odd:
        image_file(root / name)
    report = run_job(Bright(), [root], out)
    assert report.failed == 0
    assert files(out) == sorted([REPORT_NAME, *(name[:-4] + ".png" for name in odd)])
    raw = (out / REPORT_NAME).read_text(encoding="utf-8")
    assert "写真 1.jpg" in raw
    assert [file["query"] for file in json.loads(raw)["files"]] == [str(root / name) for name in sorted(odd)]


# -------------------------------------------------------------------------------------------- overlap


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that have been read so far."""
    read: list[str] = []

    def counting(path: Path, **_: Any) -> Pixels:
        image = read_image(path)
        read.append(path.name)
        return image

    monkeypatch.setattr(work, "read_image", counting)
    return read


def test_reading_is_ahead_of_the_network_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MOST_WAITING", 5)
    for number in range(30):
        image_file(tmp_path / "in" / f"{number:02}.jpg")
    read = count_reads(monkeypatch)

    def look(batch: int) -> None:
        taken = 2 * (batch + 1)
        expected = min(30, taken - 1 + 5)  # the last that was taken was one of the five
        wait_until(lambda: len(read) == expected)
        time.sleep(0.02)
        assert len(read) == expected

    report = run_job(Bright(on_batch=look), [tmp_path / "in"], tmp_path / "out")
    assert report.done == 30


def test_large_images_are_not_read_far_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PIXELS_WAITING", 250)  # two and a half images
    monkeypatch.setattr(run, "_thread_count", lambda: 2)
    for number in range(12):
        image_file(tmp_path / "in" / f"{number:02}.jpg", width=10, height=10)
    read = count_reads(monkeypatch)

    def look(batch: int) -> None:
        left = 12 - 4 * (batch + 1)
        wait_until(lambda: len(read) >= 12 - left + min(3, left))
        time.sleep(0.05)
        assert len(read) <= 12 - left + 4  # three, and one that the other thread had begun

    report = run_job(Bright(batch=4, on_batch=look), [tmp_path / "in"], tmp_path / "out")
    assert report.done == 12  # a batch may need more than what may wait


def test_writing_is_behind_the_network_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "MOST_WAITING", 3)
    for number in range(12):
        image_file(tmp_path / "in" / f"{number:02}.jpg")
    gate, save = threading.Event(), Outputs.put
    batches, written, seen = [0], [0], []

    def slow(self: Outputs, name: str, content: bytes) -> None:
        gate.wait(PATIENCE)
        save(self, name, content)
        written[0] += 1

    def look_and_open_the_gate() -> None:
        wait_until(lambda: batches[0] == 4)
        time.sleep(0.1)
        seen.append((batches[0], written[0]))
        gate.set()

    monkeypatch.setattr(Outputs, "put", slow)
    watcher = threading.Thread(target=look_and_open_the_gate)
    watcher.start()
    segmenter = Bright(batch=1, on_batch=lambda number: batches.__setitem__(0, number + 1))
    report = run_job(segmenter, [tmp_path / "in"], tmp_path / "out")
    watcher.join()
    assert seen == [(4, 0)]  # the network goes on for as many answers as may wait, and one that finds no room
    assert report.done == 12
    assert 0 < report.waiting_seconds < report.seconds


def test_reading_and_writing_cost_no_time_beside_a_slow_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        image_file(tmp_path / "in" / f"{number}.jpg")
    save, clock = Outputs.put, WorkClock()

    def slow_read(path: Path, **_: Any) -> Pixels:
        clock.work(4.0)
        return read_image(path)

    def slow_save(self: Outputs, name: str, content: bytes) -> None:
        clock.work(4.0)
        save(self, name, content)

    monkeypatch.setattr(time, "perf_counter", clock.now)
    monkeypatch.setattr(work, "read_image", slow_read)
    monkeypatch.setattr(Outputs, "put", slow_save)
    monkeypatch.setattr(run, "_thread_count", lambda: 2)
    segmenter = Bright(batch=2, on_batch=lambda _: clock.work(10.0))
    report = run_job(segmenter, [tmp_path / "in"], tmp_path / "out")
    assert report.seconds == 40  # four batches, and nothing else that the network's thread did
    for file in report.files:  # reading, writing and half a batch, without what it waited for
        assert file.seconds == 13


def test_the_networks_thread_neither_fits_images_nor_reads_answers(tmp_path: Path) -> None:
    for number in range(8):
        image_file(tmp_path / "in" / f"{number}.jpg")
    segmenter = Bright()
    run_job(segmenter, [tmp_path / "in"], tmp_path / "out")
    assert segmenter.threads["answer"] == {threading.get_ident()}
    assert all(segmenter.threads.values())
    assert not segmenter.threads["answer"] & (segmenter.threads["fit"] | segmenter.threads["read"])


def test_an_answer_that_cannot_be_read_costs_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        image_file(tmp_path / "in" / f"{number}.jpg", bright=number)
    read = Bright.read

    def broken(self: Bright, image: Pixels) -> Segmentation:
        if (image > 127).any(axis=(0, 2)).sum() == 1:
            raise MemoryError
        return read(self, image)

    monkeypatch.setattr(Bright, "read", broken)
    report = run_job(Bright(), [tmp_path / "in"], tmp_path / "out")
    assert [file.error is None for file in report.files] == [True, False, True]
    assert next(report.failures).error == f"{tmp_path / 'out' / '1.png'}: MemoryError"


def test_options_that_do_not_fit_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("expected side to be a multiple")

    monkeypatch.setattr(Bright, "prepare", refuse)
    with pytest.raises(ValueError, match="expected side"):
        run_job(Bright(), [image_file(tmp_path / "in" / "a.jpg")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_are_told_in_order_whatever_order_they_are_written_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        image_file(tmp_path / "in" / f"{number}.jpg")
    (tmp_path / "in" / "3b.jpg").touch()
    save = Outputs.put

    def uneven(self: Outputs, name: str, content: bytes) -> None:
        time.sleep(0.05 if name == "0.png" else 0)
        save(self, name, content)

    monkeypatch.setattr(Outputs, "put", uneven)
    told: list[FileReport] = []
    report = run_job(Bright(), [tmp_path / "in"], tmp_path / "out", on_file=told.append)
    assert told == list(report.files)
    assert [Path(file.query).stem for file in told] == ["0", "1", "2", "3", "3b", "4", "5"]


# ---------------------------------------------------------------------------------------------- lanes


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_on_a_cpu_images_go_through_the_network_side_by_side(tmp_path: Path) -> None:
    for number in range(12):
        image_file(tmp_path / "in" / f"{number:02}.png", bright=number)
    (tmp_path / "in" / "05b.jpg").touch()
    together = threading.Barrier(4)  # opens where four go through the network at a time
    segmenter, threads = Bright(on_batch=lambda _: together.wait(PATIENCE)), []
    told: list[FileReport] = []
    set_by = segmenter.answer_many

    def answer_many(*queries: Any, **options: Any) -> Any:
        threads.append(torch.get_num_threads())
        return set_by(*queries, **options)

    segmenter.answer_many = answer_many  # type: ignore[method-assign]
    report = run_job(segmenter, [tmp_path / "in"], tmp_path / "out", on_file=told.append)
    assert [Path(file.query).stem for file in told] == [f"{n:02}" for n in range(6)] + [
        "05b",
        *(f"{n:02}" for n in range(6, 12)),
    ]
    assert [file.areas for file in told if file.error is None] == [{}, *({3: 8 * n} for n in range(1, 12))]
    assert len(segmenter.threads["answer"]) == 4
    assert threading.get_ident() not in segmenter.threads["answer"]
    assert set(threads) == {1}  # each of them with one of the four
    assert report.waiting_seconds < report.seconds
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
def test_lanes_are_stopped_like_anything_else(tmp_path: Path) -> None:
    for number in range(12):
        image_file(tmp_path / "in" / f"{number:02}.png", bright=number)

    class Stops(Bright):
        def answer_many(self, queries: Any, *rest: Any, **options: Any) -> Any:
            (query,) = queries
            if (query > 127).any(axis=(0, 2)).sum() == 6:
                raise RuntimeError("the network broke")
            return super().answer_many([query], *rest, **options)

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the network broke"):
        run_job(Stops(), [tmp_path / "in"], tmp_path / "out")
    written = json.loads((tmp_path / "out" / REPORT_NAME).read_text())
    assert not written["finished"]
    assert [file["mask"] for file in written["files"]] == [f"{number:02}.png" for number in range(6)]
    assert threading.active_count() == before


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(
    ("changed", "batch_size", "lanes"),
    [
        ({}, "auto", 4),
        ({}, 1, 1),
        ({"device": SimpleNamespace(type="cuda")}, "auto", 1),
        ({"compiled": True}, "auto", 1),
        ({"estimate_memory": lambda **_: psutil.virtual_memory().available // 5}, "auto", 2),
        ({"estimate_memory": lambda **_: 10**15}, "auto", 1),
    ],
)
def test_there_are_as_many_lanes_as_help(changed: dict[str, Any], batch_size: Any, lanes: int) -> None:
    segmenter = Bright()
    for name, value in changed.items():
        setattr(segmenter, name, value)
    prepared: Any = SimpleNamespace(shots=1, side=16)
    assert run.count_lanes(segmenter, prepared, batch_size) == lanes  # type: ignore[arg-type]
    torch.set_num_threads(1)
    assert run.count_lanes(segmenter, prepared, batch_size) == 1  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), ValueError("expected a task, got nonsense")])
def test_what_stops_a_run_leaves_a_report_of_what_was_done(tmp_path: Path, stop: BaseException) -> None:
    for number in range(20):
        image_file(tmp_path / "in" / f"{number:02}.jpg")

    def raise_it(batch: int) -> None:
        if batch == 3:
            raise stop

    before = threading.active_count()
    with pytest.raises(type(stop)):
        run_job(Bright(on_batch=raise_it), [tmp_path / "in"], tmp_path / "out")
    written = json.loads((tmp_path / "out" / REPORT_NAME).read_text())
    assert not written["finished"]
    assert (written["totals"]["queries"], written["totals"]["done"]) == (20, 6)
    assert files(tmp_path / "out") == [*(file["mask"] for file in written["files"]), REPORT_NAME]
    assert threading.active_count() == before


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from bright import Bright, run_job
run_job(Bright(batch=1, delay=0.003), [Path("in")], Path("out"), overlay=True, confidence=True)
"""


@pytest.mark.kill
@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_no_partial_files(tmp_path: Path, kill: signal.Signals) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 120, 3), np.uint8)
    (tmp_path / "in").mkdir()
    for number in range(150):
        write_image(tmp_path / "in" / f"{number:03}.jpg", noise)
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    running = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.PIPE)
    out = tmp_path / "out"
    wait_until(lambda: len(list(out.glob("*.png"))) > 40)
    running.send_signal(kill)
    _, complaint = running.communicate(timeout=PATIENCE)
    assert running.returncode in (-kill, 130), complaint
    visible = [path for path in out.iterdir() if path.suffix in {".png", ".jpg"}]
    assert 20 < len(visible) < 450
    for path in visible:
        assert read_image(path).shape == (120, 120, 3)
    for path in out.glob("[0-9][0-9][0-9].png"):  # where the mask is, the rest is
        assert path.with_name(f"{path.stem}_overlay.jpg").is_file()
        assert path.with_name(f"{path.stem}_confidence.png").is_file()
    masks = {path.name for path in out.glob("[0-9][0-9][0-9].png")}
    if kill == signal.SIGINT:
        report = json.loads((out / REPORT_NAME).read_text())
        assert not report["finished"]
        assert {file["mask"] for file in report["files"]} == masks
        assert not list(out.glob(".*.part"))
        assert not (out / JOURNAL_NAME).exists()
    else:
        lines = (out / JOURNAL_NAME).read_text().splitlines()[1:]
        listed = {json.loads(line)["mask"] for line in lines}
        assert listed <= masks
        assert len(listed) > 10
        assert not (out / REPORT_NAME).exists()
