"""Jobs that finish: stopped, killed, out of room, given again; what is refused; what arrives while they run."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bright import PALETTE, PROMPT, Bright, files, image_file, run_job
from killing import contents
from PIL import Image
from waiting import PATIENCE, wait_until

from incontext.folder import (
    JOURNAL_NAME,
    REPORT_NAME,
    FileReport,
    Outputs,
    UnwritableError,
    arrivals,
    journal,
    open_report,
    plan,
    rehearse,
    segment_folder,
    watch,
    work,
)
from incontext.folder.labelled import open_job
from incontext.folder.overlays import OverlayWarning
from incontext.images.masks import read_mask
from incontext.images.write import HALF_WRITTEN, write_image
from incontext.types import Prompt, Segmentation


class StoppedError(Exception):
    """What stops a run in a test."""


def folder(tmp_path: Path, count: int = 12) -> Path:
    """Images of which each is different, and one that is broken."""
    root = tmp_path / "in"
    for number in range(count):
        image_file(root / f"{number:02}.png", bright=number % 12, width=12 + number)
    (root / "05b.jpg").write_bytes(b"no image")
    return root


def stopping(batch: int) -> Bright:
    def stop(number: int) -> None:
        if number == batch:
            raise StoppedError

    return Bright(on_batch=stop)


def stop_early(root: Path, out: Path, *, after: int = 3, **options: Any) -> None:
    with pytest.raises(StoppedError):
        run_job(stopping(after), [root], out, **options)


def as_if_killed(out: Path) -> Path:
    """Put the journal back that a killed run would have left in place of the report."""
    report = open_report(out / REPORT_NAME)
    head = json.dumps({"format": journal.JOURNAL_FORMAT, "job": report.job}).encode()
    lines = [head, *(file.to_line() for file in report.files)]
    (out / JOURNAL_NAME).write_bytes(b"".join(line + b"\n" for line in lines))
    (out / REPORT_NAME).unlink()
    return out / JOURNAL_NAME


# ----------------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_job_that_goes_on_ends_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    root = folder(tmp_path)
    for place in ("whole", "parts"):
        (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    run_job(Bright(), [root], Path("out"), overlay=True, confidence=True)
    monkeypatch.chdir(tmp_path / "parts")
    stop_early(root, Path("out"), overlay=True, confidence=True)
    if is_killed:
        as_if_killed(Path("out"))
    told: list[FileReport] = []
    before: list[int] = []
    report = run_job(
        Bright(), [root], Path("out"), overlay=True, confidence=True, on_file=told.append, on_resume=before.append
    )
    assert contents(tmp_path / "parts" / "out") == contents(tmp_path / "whole" / "out")
    assert before == [6]
    assert (report.masks, report.done, report.failed) == (6, 12, 1)
    assert len(told) == 7  # the broken one is tried again
    assert JOURNAL_NAME not in files(Path("out"))


def test_nothing_is_done_twice(tmp_path: Path) -> None:
    root, out = folder(tmp_path), tmp_path / "out"
    run_job(Bright(), [root], out)
    before = contents(out)
    segmenter = Bright(on_batch=lambda _: pytest.fail("there was nothing left for the network"))
    report = run_job(segmenter, [root], out)
    assert (report.masks, report.done, report.failed, report.finished) == (0, 12, 1, True)
    assert contents(out) == before
    again = run_job(Bright(), [root], out, resume=False)
    assert again.masks == 12
    assert contents(out) == before


def test_what_changed_is_done_again(tmp_path: Path) -> None:
    root, out = folder(tmp_path), tmp_path / "out"
    run_job(Bright(), [root], out)
    image_file(root / "00.png", bright=5)  # another image
    (out / "01.png").unlink()  # a mask that was thrown away
    (out / "02.png").write_bytes(b"")  # and one that a power cut left empty
    image_file(root / "05b.jpg", bright=2)  # mended
    image_file(root / "99.png", bright=1)  # new
    told: list[FileReport] = []
    report = run_job(Bright(), [root], out, on_file=told.append)
    assert [Path(file.query).name for file in told] == ["00.png", "01.png", "02.png", "05b.jpg", "99.png"]
    assert (report.done, report.failed, report.masks) == (14, 0, 5)
    assert read_mask(out / "00.png").ids[0].tolist() == [3] * 5 + [0] * 7
    assert [Path(file.query).name for file in report.files] == sorted(path.name for path in root.iterdir())


def test_an_image_that_is_gone_is_not_in_the_report(tmp_path: Path) -> None:
    root, out = folder(tmp_path), tmp_path / "out"
    run_job(Bright(), [root], out)
    (root / "03.png").unlink()
    report = run_job(Bright(), [root], out)
    assert (report.totals.queries, report.done, report.masks) == (12, 11, 0)
    assert all(Path(file.query).name != "03.png" for file in report.files)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"side": 160}, {"side": 224}, "side was 160, now 224"),
        ({}, {"task": "semantic"}, "task was instance, now semantic"),
        (
            {},
            {"ensemble": "spatial", "confidence": True},
            "ensemble was auto, now spatial, confidence was false, now true",
        ),
        ({"confidence": True}, {}, "confidence was true, now false"),
        (
            {},
            {"context": Prompt(PROMPT.image, np.rot90(PROMPT.mask).copy(), palette=PALETTE)},
            "the examples were others",
        ),
        ({}, {"context": Prompt(PROMPT.image + 1, PROMPT.mask, palette=PALETTE)}, "the examples were others"),
        ({}, {"context": replace(PROMPT, weight=2.0)}, "the examples were others"),
    ],
)
@pytest.mark.parametrize("is_killed", [False, True])
def test_another_job_is_refused_with_the_difference(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], told: str, is_killed: bool
) -> None:
    root, out = folder(tmp_path, 8), tmp_path / "out"
    stop_early(root, out, after=1, **before)
    if is_killed:
        as_if_killed(out)
    kept = {path: path.read_bytes() for path in out.iterdir()}
    expected = f"^{out}: this folder holds the masks of another job: {told}; choose another folder, or --no-resume"
    with pytest.raises(ValueError, match=expected):
        run_job(Bright(), [root], out, **now)
    assert {path: path.read_bytes() for path in out.iterdir()} == kept
    assert run_job(Bright(), [root], out, resume=False, **now).masks == 8


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("sha256", "1" * 64, "the weights were others"), ("dtype", "float16", "dtype was float32, now float16")],
)
def test_another_network_is_refused(tmp_path: Path, name: str, value: str, told: str) -> None:
    class Described(Bright):
        dtype = "float32"

        def describe(self) -> dict[str, object]:
            return {"weights": "bright", "dtype": self.dtype}

    root, out = folder(tmp_path, 3), tmp_path / "out"
    run_job(Described(), [root], out)
    other = Described()
    setattr(other, name, value)
    with pytest.raises(ValueError, match=told):
        run_job(other, [root], out)


def test_neither_the_batch_nor_the_names_of_examples_make_another_job(tmp_path: Path) -> None:
    root, out = folder(tmp_path, 4), tmp_path / "out"
    run_job(Bright(), [root], out, batch_size=1, prompt_files=[(tmp_path / "a.jpg", tmp_path / "a.png")])
    again = run_job(Bright(), [root], out, batch_size=3, prompt_files=[(tmp_path / "b.jpg", tmp_path / "b.png")])
    assert again.masks == 0


@pytest.mark.parametrize("damage", ["torn", "torn at the first", "garbled", "twice", "later failed"])
def test_a_damaged_journal_costs_the_damaged_lines(tmp_path: Path, damage: str) -> None:
    root, out = folder(tmp_path), tmp_path / "out"
    stop_early(root, out)
    path = as_if_killed(out)
    lines = path.read_bytes().splitlines(keepends=True)[:7]
    kept = 6
    if damage == "torn":
        lines[-1], kept = lines[-1][:-9], 5
    elif damage == "torn at the first":
        lines, kept = [lines[0][:9]], 0
    elif damage == "garbled":
        lines[2], lines[4], kept = b'{"query": "x"}\n', b"\xff\x00[]\n", 4
    elif damage == "twice":
        lines.append(lines[3])
    else:
        lines.append(FileReport(str(root / "00.png"), error="it could not be read then").to_line() + b"\n")
    path.write_bytes(b"".join(lines))
    before: list[int] = []
    report = run_job(Bright(), [root], out, on_resume=before.append)
    assert before == ([kept] if kept else [])
    assert (report.done, report.masks) == (12, 12 - kept)
    assert [Path(file.query).name for file in report.files] == sorted(path.name for path in root.iterdir())


def damaged_lines(root: Path) -> list[bytes]:
    """Lines as no run writes them."""
    sound = json.loads(FileReport(str(root / "00.png"), mask="00.png", ids=(3,), areas={3: 1}).to_line())
    changes: list[dict[str, object]] = [
        {"query": 3},
        {"query": "a\0b"},
        {"mask": "../00.png"},
        {"mask": "/etc/passwd"},
        {"mask": "a\0.png"},
        {"mask": ["00.png"]},
        {"ids": [[3]]},
        {"ids": 3},
        {"ids": [300]},
        {"areas": [3]},
        {"areas": {"3": []}},
        {"areas": {"three": 1}},
        {"areas": {"٣": 1}},
        {"confidences": {"3": "much"}},
        {"confidence": [0.5]},
        {"seconds": "long"},
        {"seconds": True},
        {"version": 1},
        {"error": 1},
        {"is_empty": "no"},
        {"more": 1},
    ]
    lines = [json.dumps({**sound, **change}).encode() for change in changes]
    lines.append(json.dumps(sound).replace('"seconds": 0.0', '"seconds": 1e999').encode())
    lines.append(json.dumps(sound).replace('"areas": {"3": 1}', '"areas": {"3": NaN}').encode())
    lines.append(json.dumps(sound).replace('"ids": [3]', '"ids": [' + "9" * 5000 + "]").encode())
    return [*lines, b"[" * 50_000, b'{"a":' * 50_000, b"[]", b"3", b"null", b'"x"', b"\xff\xfe", b"{}", b""]


def test_a_damaged_line_costs_itself(tmp_path: Path) -> None:
    root, out = folder(tmp_path, 3), tmp_path / "out"
    run_job(Bright(), [root], out)
    lines = damaged_lines(root)
    for line in lines:
        with pytest.raises(ValueError, match="expected"):
            FileReport.from_line(line)
    text = (out / REPORT_NAME).read_bytes()
    begin = b' "files": ['
    damaged = b"".join(b"\n  " + line + b"," for line in lines)
    (out / REPORT_NAME).write_bytes(text.replace(begin, begin + damaged))
    report = open_report(out / REPORT_NAME)
    assert [Path(file.query).name for file in report.files] == ["00.png", "01.png", "02.png", "05b.jpg"]
    told = [each for each in report.files.read() if isinstance(each, str)]
    assert len(told) == len(lines)
    assert all(each.startswith(f"{out / REPORT_NAME}, line ") for each in told)
    labels = open_job(out)
    assert ([each.name.name for each in labels], len(labels)) == (["00.png", "01.png", "02.png"], 3)
    assert list(labels.problems) == told
    again = run_job(Bright(), [root], out)
    assert (again.done, again.masks) == (3, 0)


def test_damaged_lines_of_a_journal_cost_themselves(tmp_path: Path) -> None:
    root, out = folder(tmp_path, 3), tmp_path / "out"
    run_job(Bright(), [root], out)
    path = as_if_killed(out)
    head, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + b"".join(line + b"\n" for line in damaged_lines(root)) + b"".join(rest))
    report = run_job(Bright(), [root], out)
    assert (report.done, report.masks, report.failed) == (3, 0, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"totals": {"queries": 1, "done": "many", "failed": 0, "empty": 0}},
        {"totals": [1]},
        {"time": {"started": 1, "seconds": [], "waiting_seconds": 0, "masks": 0}},
        {"job": 3},
        {"settings": "x"},
    ],
)
def test_a_damaged_head_of_a_report_is_one_sentence(tmp_path: Path, change: dict[str, object]) -> None:
    root, out = folder(tmp_path, 2), tmp_path / "out"
    run_job(Bright(), [root], out)
    document = {**json.loads((out / REPORT_NAME).read_bytes()), **change}
    files = document.pop("files")
    text = json.dumps(document, indent=1)[:-2] + ',\n "files": [\n  ' + ",\n  ".join(map(json.dumps, files))
    (out / REPORT_NAME).write_text(text + "\n ]\n}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected the report of a job"):
        open_report(out / REPORT_NAME)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("name", [JOURNAL_NAME, REPORT_NAME])
def test_a_pipe_in_place_of_an_earlier_result_hangs_nothing(tmp_path: Path, name: str) -> None:
    root, out = folder(tmp_path, 2), tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / name)
    with pytest.raises(ValueError, match=rf"{name}: expected a file, got a pipe or a device"):
        run_job(Bright(), [root], out)
    if name == REPORT_NAME:
        assert run_job(Bright(), [root], out, resume=False).done == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (REPORT_NAME, b"{}"),
        (REPORT_NAME, b"\xff\xfe"),
        (REPORT_NAME, b'{\n "finished": true,\n "files": []\n}\n'),
        (REPORT_NAME, b'{\n "format": "incontext report 2",\n "finished": true\n}\n'),
        (JOURNAL_NAME, b"[1]\n"),
        (JOURNAL_NAME, b'{"format": "incontext journal 0", "job": {}}\n'),
        (JOURNAL_NAME, b"\x00\xff\n"),
    ],
)
def test_what_is_no_report_is_refused_and_kept(tmp_path: Path, name: str, content: bytes) -> None:
    root, out = folder(tmp_path, 2), tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: expected the (report|journal) of a job .*, or --no-resume"):
        run_job(Bright(), [root], out)
    assert (out / name).read_bytes() == content
    assert run_job(Bright(), [root], out, resume=False).done == 2


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    root, out = folder(tmp_path, 4), tmp_path / "out"
    refused = []

    def meanwhile(batch: int) -> None:
        if batch == 1:
            for resume in (True, False):
                with pytest.raises(ValueError, match=f"^{out}: another run is writing to this folder; wait") as error:
                    run_job(Bright(), [root], out, resume=resume)
                refused.append(error)

    report = run_job(Bright(on_batch=meanwhile), [root], out)
    assert (len(refused), report.done, report.finished) == (2, 4, True)


def test_what_a_killed_run_had_half_written_is_swept(tmp_path: Path) -> None:
    root, out = folder(tmp_path, 4), tmp_path / "out"
    image_file(root / "sub" / "a.png")
    (out / "sub").mkdir(parents=True)
    half = f".{'0a' * 16}.part"
    for name in (half, f"sub/{half}", "mine.part", ".part"):
        (out / name).write_bytes(b"half")
    assert HALF_WRITTEN.fullmatch(half)
    run_job(Bright(), [root], out)
    assert [name for name in files(out) if name.endswith(".part")] == [".part", "mine.part"]


PROGRAM = """
import os, random, sys
sys.path[:0] = {paths!r}
from pathlib import Path
import torch
from bright import Bright, run_job
from killing import broken_promises, killed

def work():
    run_job(Bright(batch=1, delay=0.004), [Path("../in")], Path("out"), overlay=True, confidence=True)

count = 0
for was_killed in killed(work, 8, 0.2, random.Random(7)):
    problems = broken_promises(Path("out")) if os.path.exists("out") else []
    assert not problems, problems
    count += was_killed
print("killed", count)
"""


@pytest.mark.slow
def test_a_job_that_is_killed_again_and_again_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for number in range(120):
        write_image(tmp_path / "in" / ("sub" if number % 5 == 0 else "") / f"{number:03}.jpg", np.roll(noise, number))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    here = Path(__file__).parent
    program = PROGRAM.format(paths=[str(here), str(here.parent / "benchmarks")])
    for place in ("whole", "parts"):
        (tmp_path / place).mkdir()
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "parts", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout.split()[1]) >= 4
    for place in ("whole", "parts"):
        monkeypatch.chdir(tmp_path / place)
        run_job(Bright(batch=1), [Path("../in")], Path("out"), overlay=True, confidence=True)
    whole = contents(tmp_path / "whole" / "out")
    assert len(whole) == 361
    assert contents(tmp_path / "parts" / "out") == whole


# ------------------------------------------------------------------------------------------- the report


@pytest.mark.slow
def test_a_run_holds_few_reports_however_many_images_there_are(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    first = image_file(root / "0.png").read_bytes()
    for number in range(1, 400):
        (root / f"{number}.png").write_bytes(first)
    most, told = 0, 0

    def look(_: FileReport) -> None:
        nonlocal most, told
        told += 1
        if told % 100 == 0:
            most = max(most, sum(type(each) is FileReport for each in gc.get_objects()))

    report = run_job(Bright(batch=8), [root], tmp_path / "out", on_file=look)
    assert told == len(report.files) == 400
    assert 0 < most < 150


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    root, out = folder(tmp_path), tmp_path / "out"
    report = run_job(Bright(), [root], out)
    opened = open_report(out / REPORT_NAME)
    assert opened.totals == report.totals
    assert (opened.job, opened.settings, opened.finished) == (report.job, report.settings, True)
    assert list(opened.files) == list(report.files)
    assert len(opened.files) == 13
    assert opened.files[-1] == list(opened.files)[-1]
    assert opened.files[5].areas == {3: 40}
    with pytest.raises(IndexError):
        opened.files[13]
    assert [file.error is not None for file in opened.failures] == [True]
    assert json.loads((out / REPORT_NAME).read_text())["files"][5]["areas"] == {"3": 40}
    with pytest.raises(FileNotFoundError, match="a job writes it when it ends"):
        open_report(out / "other.json")


def test_confidence_is_told_for_each_id() -> None:
    mask = np.array([[0, 1, 1, 2], [0, 2, 255, 255]], np.uint8)
    confidence = np.array([[0.1, 0.5, 1.0, 0.25], [0.3, 0.5, 0.9, 0.9]], np.float32)
    palette = type(PALETTE)(np.array([0, 1, 2]), np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)]))
    areas, confidences = work.by_id(Segmentation(mask, confidence, palette))
    assert areas == {1: 2, 2: 2}
    assert confidences == {1: 0.75, 2: 0.375}


def test_large_masks_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array([0, 3], np.uint8), (31, 17))
    answer = Segmentation(mask, rng.random((31, 17)).astype(np.float32), PALETTE)
    whole = work.by_id(answer)
    monkeypatch.setattr(work, "_PIXELS_AT_ONCE", 10)
    assert work.by_id(answer) == whole
    assert whole[0] == {3: int((mask == 3).sum())}


# ---------------------------------------------------------------------------------------------- no room


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_stops_the_job_and_it_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    root, out = folder(tmp_path), tmp_path / "out"
    save = Outputs.put

    def full(self: Outputs, name: str, content: bytes) -> None:
        if name >= "04.png":
            raise OSError(code, os.strerror(code), name)
        save(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Outputs, "put", full)
        with pytest.raises(UnwritableError, match=f"^{out}: .*the same command goes on from here$"):
            run_job(Bright(), [root], out)
    assert files(out) == ["00.png", "01.png", "02.png", "03.png", JOURNAL_NAME]
    before: list[int] = []
    report = run_job(Bright(), [root], out, on_resume=before.append)
    assert (before, report.done, report.failed) == ([4], 12, 1)


def test_no_room_for_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = folder(tmp_path), tmp_path / "out"
    opened = journal._opened

    class Full:
        """A journal on a disk with room for a few lines, the last one in part."""

        def __init__(self, stream: Any) -> None:
            self.stream, self.room = stream, 1500

        def write(self, line: bytes) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = self.stream.write(line[: self.room])
            self.room -= written
            return int(written)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_opened", lambda *where: Full(opened(*where)))
        with pytest.raises(UnwritableError, match="no space left on device"):
            run_job(Bright(), [root], out)
    lines = (out / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    assert len(lines) > 3
    assert all(line.endswith(b"\n") for line in lines)
    report = run_job(Bright(), [root], out)
    assert (report.done, report.masks) == (12, 12 - (len(lines) - 1))


def test_no_room_for_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = folder(tmp_path), tmp_path / "out"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("incontext.folder.report.FolderReport.write", full)
        with pytest.raises(UnwritableError, match="no space left"):
            run_job(Bright(), [root], out)
    segmenter = Bright(on_batch=lambda _: pytest.fail("all masks were there"))
    assert run_job(segmenter, [root], out).done == 12


def test_a_file_in_the_way_of_one_mask_does_not_stop_the_job(tmp_path: Path) -> None:
    root, out = folder(tmp_path, 3), tmp_path / "out"
    (out / "01.png").mkdir(parents=True)
    report = run_job(Bright(), [root], out)
    assert (report.done, report.failed) == (2, 2)
    assert not list(out.glob(".*.part"))


# ----------------------------------------------------------------------------------------------- watching


def ticking(steps: list[Any], job: Any) -> Iterator[Any]:
    """What arrives in a job, with a step done before each look; Ctrl-C when there are no more."""
    pending = iter(steps)

    def step(_: float) -> None:
        action = next(pending, None)
        if action is None:
            raise KeyboardInterrupt
        action()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "sleep", step)
        yield from arrivals(job)


def test_images_are_segmented_as_they_arrive(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "in" / "out"
    image_file(root / "a.png", bright=2)
    whole = image_file(tmp_path / "whole.png", bright=4).read_bytes()
    growing = root / "sub" / "b.png"
    growing.parent.mkdir()
    looked: list[list[str]] = []

    def look() -> None:
        looked.append([name for name in files(out) if name.endswith(".png")])

    steps = [
        look,  # seen once: has it arrived?
        look,  # a has
        lambda: growing.write_bytes(whole[:40]),
        lambda: growing.write_bytes(whole),  # still growing
        look,
        look,
        lambda: image_file(root / "a.png", bright=7),  # changed
        look,
        look,
        lambda: (root / "c.jpg").write_bytes(b"no image"),
        look,
        look,
        lambda: image_file(root / "c.jpg", bright=1),  # mended
        look,
        look,
    ]
    job = plan([root], out, watch=True)
    told: list[FileReport] = []
    report = segment_folder(Bright(), job, PROMPT, arrivals=ticking(steps, job), on_file=told.append)  # type: ignore[arg-type]
    assert looked[:2] == [[], ["a.png"]]
    assert [(Path(file.query).name, file.error is None) for file in told] == [
        ("a.png", True), ("b.png", True), ("a.png", True), ("c.jpg", False), ("c.jpg", True),
    ]  # fmt: skip
    assert (report.finished, report.totals.queries, report.done, report.failed) == (True, 3, 3, 0)
    assert [file.areas for file in report.files] == [{3: 7 * 8}, {3: 4 * 8}, {3: 8}]
    assert files(out) == ["a.png", "c.png", REPORT_NAME, "sub/b.png"]


def test_watching_goes_on_where_it_ended(tmp_path: Path) -> None:
    root, out = folder(tmp_path, 4), tmp_path / "out"
    run_job(Bright(), [root], out)
    image_file(root / "new.png", bright=1)
    job = plan([root], out, watch=True)
    told: list[FileReport] = []
    steps = [lambda: None] * 3
    segment_folder(Bright(), job, PROMPT, arrivals=ticking(steps, job), on_file=told.append)  # type: ignore[arg-type]
    assert [Path(file.query).name for file in told] == ["05b.jpg", "new.png"]


def test_an_image_that_arrives_under_a_taken_name_is_reported(tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    image_file(root / "a.png", bright=2)
    mask = tmp_path / "mask.png"
    image_file(mask)
    job = plan([root], out, watch=True, prompt_files=[(root / "a.png", mask)])
    steps = [lambda: None, lambda: image_file(root / "a.jpg", bright=5), lambda: None, lambda: None]
    report = segment_folder(Bright(), job, PROMPT, arrivals=ticking(steps, job))  # type: ignore[arg-type]
    (failure,) = report.failures
    assert failure.query == str(root / "a.jpg")
    assert f"its result would overwrite that of {root / 'a.png'}" in (failure.error or "")
    assert read_mask(out / "a.png").ids[0].tolist() == [3] * 2 + [0] * 10
    assert (report.totals.queries, report.done) == (2, 1)


@pytest.mark.parametrize(("pattern", "names"), [("*.png", ["a.png"]), ("*", ["a.jpg", "a.png"])])
def test_an_image_that_arrives_is_not_overwritten(tmp_path: Path, pattern: str, names: list[str]) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (tmp_path / "link").symlink_to(root)

    def copy() -> None:
        for number, name in enumerate(names):
            image_file(root / name, bright=number)

    job = plan([tmp_path / "link" / pattern], root, watch=True)
    steps = [copy, *[lambda: None] * 3]
    report = segment_folder(Bright(), job, PROMPT, arrivals=ticking(steps, job))  # type: ignore[arg-type]
    whole = [image_file(tmp_path / name, bright=number).read_bytes() for number, name in enumerate(names)]
    assert [(root / name).read_bytes() for name in names] == whole
    assert [(Path(file.query).name, file.error) for file in report.failures] == [
        (name, f"{root / 'a.png'}: this result would overwrite an image") for name in names
    ]
    assert report.done == 0


def test_a_result_that_arrives_is_no_image(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    job = plan([root / "*"], root, watch=True)
    steps = [
        lambda: image_file(root / "a.jpg", bright=2),
        *[lambda: None] * 3,
        lambda: image_file(root / "a.jpg", bright=5),  # changed
        *[lambda: None] * 3,
    ]
    report = segment_folder(Bright(), job, PROMPT, arrivals=ticking(steps, job))  # type: ignore[arg-type]
    (failure,) = report.failures
    assert failure.query == str(root / "a.png")
    assert f"its result would overwrite that of {root / 'a.jpg'}" in (failure.error or "")
    assert read_mask(root / "a.png").ids[0].tolist() == [3] * 5 + [0] * 7


def test_ctrl_c_while_an_image_is_segmented_ends_a_watch_too(tmp_path: Path) -> None:
    root, out = folder(tmp_path, 6), tmp_path / "out"

    def interrupt(batch: int) -> None:
        if batch == 1:
            raise KeyboardInterrupt

    job = plan([root], out, watch=True)
    steps = [lambda: None] * 3
    report = segment_folder(Bright(on_batch=interrupt), job, PROMPT, arrivals=ticking(steps, job))  # type: ignore[arg-type]
    assert (report.finished, report.done, report.failed) == (False, 2, 0)


@pytest.mark.parametrize(("told_before", "finished"), [(7, True), (6, False)])
def test_ctrl_c_right_after_an_image(tmp_path: Path, told_before: int, finished: bool) -> None:
    """A watch is finished once all that arrived is, whatever its engine still does then."""
    root, out = folder(tmp_path, 6), tmp_path / "out"
    told: list[FileReport] = []

    def interrupt(file: FileReport) -> None:
        told.append(file)
        if len(told) == told_before:
            raise KeyboardInterrupt

    job = plan([root], out, watch=True)
    steps = [lambda: None] * 3
    report = segment_folder(Bright(), job, PROMPT, arrivals=ticking(steps, job), on_file=interrupt)  # type: ignore[arg-type]
    assert (report.finished, report.totals.queries) == (finished, 7)


def test_an_input_must_be_there_and_a_pattern_may_match_later(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such file or folder"):
        plan([tmp_path / "nowhere"], tmp_path / "out", watch=True)
    job = plan([tmp_path / "*.png"], tmp_path / "out", watch=True)
    assert job.queries == ()
    waiting = ticking([lambda: image_file(tmp_path / "a.png"), lambda: None], job)
    assert [query.place.name for query in next(waiting)] == ["a.png"]
    waiting.close()


def test_every_page_of_a_file_arrives(tmp_path: Path) -> None:
    first, second = (Image.new("L", (8, 8), bright) for bright in (50, 90))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    job = plan([tmp_path / "*.tif"], tmp_path / "out", watch=True, pages=True)
    waiting = ticking([lambda: None] * 3, job)
    assert [query.page for query in next(waiting)] == [0, 1]
    waiting.close()


# -------------------------------------------------------------------------------------------- rehearsals


def test_a_rehearsal_measures_and_writes_nothing(tmp_path: Path, tiny: Any) -> None:
    root, out = folder(tmp_path), tmp_path / "out"
    before = files(tmp_path)
    trial = rehearse(tiny, plan([root], out, overlay=True), PROMPT)
    assert files(tmp_path) == before
    assert not out.exists()
    assert (trial.queries, trial.before, len(trial.measured)) == (13, 0, 3)
    assert trial.seconds is not None
    assert trial.seconds_each is not None
    assert trial.seconds == pytest.approx(13 * trial.seconds_each)
    assert trial.seconds_each > min(each.network for each in trial.measured) > 0
    assert all(each.size > 600 for each in trial.measured)  # the overlay as well
    assert trial.memory is not None
    assert trial.memory > 50e6
    segment_folder(tiny, plan([root], out), PROMPT)
    (out / "03.png").unlink()
    kept = files(tmp_path)
    trial = rehearse(tiny, plan([root], out), PROMPT)
    assert (trial.queries, trial.before, len(trial.measured), len(trial.failures)) == (13, 11, 1, 1)
    assert rehearse(tiny, plan([root], out), PROMPT, resume=False).before == 0
    with pytest.raises(ValueError, match="confidence was false, now true"):
        rehearse(tiny, plan([root], out, confidence=True), PROMPT)
    assert files(tmp_path) == kept


def test_a_rehearsal_of_broken_images_says_so(tmp_path: Path, tiny: Any) -> None:
    for number in range(30):
        (tmp_path / f"{number}.jpg").touch()
    trial = rehearse(tiny, plan([tmp_path], tmp_path / "out"), PROMPT)
    assert (trial.measured, trial.seconds, trial.memory, trial.disk) == ((), None, None, None)
    assert 3 < len(trial.failures) < 15


# ----------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def tiny() -> Any:
    """A network that is small enough to run in milliseconds."""
    import torch

    from incontext.engine import Segmenter
    from incontext.network.config import ModelConfig
    from incontext.network.model import SegGPT

    torch.manual_seed(0)
    small = {"width": 16, "heads": 2, "depth": 2, "patch": 8, "side": 32, "decoder_width": 4}
    config = ModelConfig(**small, merge_layer=0, taps=(0, 1), pretrain_side=32)  # type: ignore[arg-type]
    return Segmenter(SegGPT(config), device="cpu", dtype="float32", name="tiny")


@pytest.fixture
def command(tmp_path: Path, tiny: Any) -> list[str]:
    """`incontext segment` in a folder with images, an example and weights."""
    from incontext.network.checkpoint import save_model

    folder(tmp_path)
    image_file(tmp_path / "example.png", bright=4)
    mask = np.zeros((8, 12), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    save_model(tmp_path / "tiny.safetensors", tiny.model, metadata={})
    program = [sys.executable, "-m", "incontext", "segment", "in", "-o", "out", "--prompt", "example.png", "mask.png"]
    return [*program, "--weights", "tiny.safetensors", "--device", "cpu"]


@pytest.mark.kill
def test_the_command_watches_until_ctrl_c(tmp_path: Path, command: list[str]) -> None:
    out = tmp_path / "out"
    (tmp_path / "in" / "05b.jpg").unlink()
    running = subprocess.Popen([*command, "--watch"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: (out / "11.png").exists() or running.poll() is not None)
        assert running.poll() is None
        image_file(tmp_path / "in" / "late.png", bright=1)
        wait_until((out / "late.png").exists)
        wait_until(lambda: b"late.png" in (out / JOURNAL_NAME).read_bytes())
    finally:
        running.send_signal(signal.SIGINT)
        shown, complaint = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, complaint
    assert shown.decode().startswith("13 masks in out")
    assert open_report(out / REPORT_NAME).finished
    assert not (out / JOURNAL_NAME).exists()


def test_the_command_rehearses_goes_on_and_refuses(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from incontext import cli

    monkeypatch.chdir(tmp_path)

    def run(*more: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*command[3:], *more])
        return stopped.value.code, *capsys.readouterr()

    status, shown, _ = run("--dry-run")
    assert status == 0
    assert shown.startswith("13 images, 0 of them done: 13 to segment.\n")
    assert "Would write out/00.png, out/01.png, ... and out/report.json. Nothing was written." in shown
    assert not (tmp_path / "out").exists()
    status, shown, told = run()
    assert status == 1
    assert shown.startswith("12 masks in out")
    (tmp_path / "out" / "07.png").unlink()
    status, shown, told = run()
    assert status == 1
    assert told.startswith("Going on: 11 masks of an earlier run in out.\n")
    assert ", 1 of them new (" in shown
    status, shown, told = run("--side", "64")
    assert (status, shown) == (2, "")
    assert "side was 32, now 64; choose another folder, or --no-resume" in told
    assert run("--side", "64", "--no-resume")[0] == 1
    assert run("--watch", "--dry-run")[::2] == (2, "Error: expected --watch or --dry-run, got both; leave one out\n")


def test_the_command_says_in_one_sentence_that_the_disk_is_full(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from incontext import cli

    def full(self: Outputs, name: str, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Outputs, "put", full)
    threads = threading.active_count()
    with pytest.raises(SystemExit) as stopped:
        cli.main(command[3:])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("Error: out: no space left on device; stopped, and what was done is kept")
    assert told.count("\n") == 1
    assert threading.active_count() == threads


def test_overlays_are_added_to_masks_that_are_there(tmp_path: Path) -> None:
    root, out = folder(tmp_path), tmp_path / "out"
    run_job(Bright(), [root], out)
    masks = {path: path.read_bytes() for path in out.glob("*.png")}
    first, second = sorted(masks)[:2]
    first.with_name(f"{first.stem}_overlay.jpg").write_bytes(b"there already")
    second.write_bytes(b"a broken mask")
    with pytest.warns(OverlayWarning, match=rf"no overlay of .*{second.stem}.*{second.name}"):
        report = run_job(Bright(), [root], out, overlay=True)
    assert (report.done, report.masks) == (len(masks), 0)  # the network saw nothing again
    drawn = {path.name for path in out.glob("*_overlay.jpg")}
    assert drawn == {f"{path.stem}_overlay.jpg" for path in masks} - {f"{second.stem}_overlay.jpg"}
    assert first.with_name(f"{first.stem}_overlay.jpg").read_bytes() == b"there already"
    whole = run_job(Bright(), [root], tmp_path / "whole", overlay=True)
    assert whole.masks == len(masks)
    for path in set(masks) - {first, second}:
        name = f"{path.stem}_overlay.jpg"
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
