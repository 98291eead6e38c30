"""Jobs that read from and write to more than local folders: tars, lists, remote folders; and how they go on."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import sys
import tarfile
import threading
from collections.abc import Iterable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bright import PROMPT, Bright, files, image_file
from killing import contents, killed
from PIL import Image

from incontext.folder import (
    JOURNAL_NAME,
    REPORT_NAME,
    FileReport,
    FolderReport,
    arrivals,
    plan,
    rehearse,
    run_job,
    segment_folder,
)
from incontext.folder.outputs import UNPACKED, Outputs, folder_for
from incontext.folder.run import LocalRunner
from incontext.images.masks import read_mask
from incontext.sources import remote as remote_module


class StoppedError(Exception):
    """What stops a run in a test."""


def run(inputs: Iterable[Path | str], out: Path | str, *, segmenter: Any = None, **options: Any) -> FolderReport:
    told = {name: options.pop(name) for name in ("resume", "on_file", "on_resume") if name in options}
    return segment_folder(segmenter or Bright(), plan(inputs, out, **options), PROMPT, **told)


def stopping(batch: int) -> Bright:
    def stop(number: int) -> None:
        if number == batch:
            raise StoppedError

    return Bright(on_batch=stop)


def photos(folder: Path, count: int = 10, *, first: int = 0) -> Path:
    """Images of which each is different, one in a subfolder, and one that is broken."""
    for number in range(first, first + count):
        image_file(folder / ("sub" if number == 3 else "") / f"{number:02}.png", bright=number % 12, width=12 + number)
    (folder / "05b.jpg").write_bytes(b"no image")
    return folder


def packed(tar: Path, folder: Path) -> Path:
    """A tar of a folder's files, in natural order."""
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as stream:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                stream.add(path, path.relative_to(folder).as_posix())
    return tar


def members(tar: Path | bytes) -> dict[str, bytes]:
    """Names and contents, in order."""
    with tarfile.open(fileobj=io.BytesIO(tar if isinstance(tar, bytes) else tar.read_bytes())) as stream:
        found = {}
        for info in stream:
            member = stream.extractfile(info)
            assert member is not None
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o644)
            assert info.name not in found
            found[info.name] = member.read()
    return found


def all_members(out: Path) -> dict[str, bytes]:
    return {name: data for tar in sorted(out.glob("*.tar")) for name, data in members(tar).items()}


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """fsspec's file system in memory, which stands for object stores; and a cache of its own."""
    pytest.importorskip("fsspec", reason="needs the extra `remote`")
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_module, "_PAUSE", 0.0)
    there = MemoryFileSystem()
    there.store.clear()
    yield there
    there.store.clear()


def stored(there: Any, folder: str) -> dict[str, bytes]:
    return {name[len(folder) :].lstrip("/"): there.cat_file(name) for name in there.find(folder)}


# --------------------------------------------------------------------------------------------- tars out


def test_tars_hold_what_the_folder_would(tmp_path: Path) -> None:
    root = photos(tmp_path / "in")
    run([root], tmp_path / "single", overlay=True, confidence=True)
    report = run([root], tmp_path / "out", overlay=True, confidence=True, per_tar=4)
    assert files(tmp_path / "out") == ["000000.tar", "000001.tar", "000002.tar", REPORT_NAME]
    assert (report.done, report.failed, report.finished) == (10, 1, True)
    first = members(tmp_path / "out" / "000000.tar")
    assert list(first)[:3] == ["00.png", "00.overlay.jpg", "00.confidence.png"]  # one sample of WebDataset
    assert [len(members(tmp_path / "out" / f"00000{i}.tar")) for i in range(3)] == [12, 9, 9]  # 11 images, one broken
    single = {name: (tmp_path / "single" / name).read_bytes() for name in files(tmp_path / "single")}
    single.pop(REPORT_NAME)
    found = all_members(tmp_path / "out")
    assert {name.replace(".over", "_over").replace(".conf", "_conf"): found[name] for name in found} == single
    assert [file.mask for file in report.files if file.error is None][:5] == [
        *(f"000000.tar/0{i}.png" for i in (0, 1, 2, 4)),
        "000001.tar/05.png",
    ]


def test_a_tar_without_results_is_there(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number}.png").write_bytes(b"broken")
    image_file(tmp_path / "in" / "4.png")
    report = run([tmp_path / "in"], tmp_path / "out", per_tar=2)
    assert (report.done, report.failed) == (1, 4)
    assert [list(members(tmp_path / "out" / f"00000{i}.tar")) for i in range(3)] == [[], [], ["4.png"]]
    assert run([tmp_path / "in"], tmp_path / "out", per_tar=2).masks == 0


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4])
def test_a_stopped_job_of_tars_ends_as_if_nothing_had_happened(tmp_path: Path, after: int) -> None:
    root = photos(tmp_path / "in")
    run([root], tmp_path / "whole", overlay=True, per_tar=3)
    with pytest.raises(StoppedError):
        run([root], tmp_path / "out", segmenter=stopping(after), overlay=True, per_tar=3)
    before: list[int] = []
    report = run([root], tmp_path / "out", overlay=True, per_tar=3, on_resume=before.append)
    assert before == ([2 * after] if after else [])
    assert report.masks == 10 - 2 * after
    assert same_but_for_the_place(tmp_path / "out", tmp_path / "whole")


def same_but_for_the_place(one: Path, other: Path) -> bool:
    left, right = contents(one), contents(other)
    for each in (left, right):
        each[REPORT_NAME]["settings"].pop("out")
    assert left.keys() == right.keys()
    assert left == right
    return True


class Shuffled:
    """An engine that finishes images in any order, as many machines would."""

    def __init__(self, job: Any, seed: int) -> None:
        segmenter: Any = Bright()
        self.runner = LocalRunner(segmenter, segmenter.prepare(PROMPT, side=None), job.outputs)
        self.chance = random.Random(seed)

    @property
    def waited(self) -> float:
        return self.runner.waited

    def run(self, queries: Any, finish: Any) -> None:
        made: list[tuple[int, FileReport]] = []
        self.runner.run(queries, lambda *each: made.append(each))
        self.chance.shuffle(made)
        for each in made:
            finish(*each)


def test_images_may_be_finished_in_any_order(tmp_path: Path) -> None:
    root = photos(tmp_path / "in")
    run([root], tmp_path / "whole", per_tar=3)
    for seed in range(3):
        job = plan([root], tmp_path / f"{seed}", per_tar=3)
        run_job(Shuffled(job, seed), job, settings={}, segmenter={}, identity={})
        assert all_members(tmp_path / f"{seed}") == all_members(tmp_path / "whole")
        assert files(tmp_path / f"{seed}") == files(tmp_path / "whole")


def test_few_files_lie_about_at_a_time(tmp_path: Path) -> None:
    photos(tmp_path / "in", 40)
    most = 0

    def look(_: FileReport) -> None:
        nonlocal most
        most = max(most, len(list((tmp_path / "out" / UNPACKED).glob("*"))))

    report = run([tmp_path / "in"], tmp_path / "out", per_tar=2, on_file=look, segmenter=Bright(delay=0.01))
    assert report.done == 40
    assert 0 < most < 25


@pytest.mark.slow
def test_a_killed_job_of_tars_loses_nothing(tmp_path: Path) -> None:
    root = photos(tmp_path / "in", 30)
    run([root], tmp_path / "whole", overlay=True, per_tar=4)
    out = tmp_path / "out"

    def work() -> None:
        run([root], out, segmenter=Bright(delay=0.01), overlay=True, per_tar=4)

    seen = []
    for was_killed in killed(work, 8, 0.25, random.Random(4)):
        seen.append(was_killed)
        for tar in out.glob("*.tar"):
            members(tar)
    assert any(seen)
    report = run([root], out, overlay=True, per_tar=4)
    assert report.masks < 30
    assert same_but_for_the_place(out, tmp_path / "whole")


def test_when_images_come_go_and_change_the_tars_follow(tmp_path: Path) -> None:
    root, out = photos(tmp_path / "in"), tmp_path / "out"
    run([root], out, per_tar=3)
    steps: list[tuple[Any, int]] = [
        (lambda: image_file(root / "00a.png", bright=7), 1),  # near the front: all tars shift
        (lambda: image_file(root / "05b.jpg", bright=2), 1),  # mended
        ((root / "02.png").unlink, 0),
        (lambda: image_file(root / "07.png", bright=1, width=30), 1),  # another image of that name
        (lambda: (root / "08.png").write_bytes(b"broken"), 0),
        (lambda: [path.unlink() for path in sorted(root.glob("0*.png"))[3:]], 0),  # fewer tars
    ]
    for step, new in steps:
        step()
        report = run([root], out, per_tar=3)
        assert report.masks == new
        fresh = tmp_path / "fresh"
        run([root], fresh, per_tar=3)
        assert same_but_for_the_place(out, fresh)
        shutil.rmtree(fresh)


def test_a_damaged_tar_is_made_anew(tmp_path: Path) -> None:
    root, out = photos(tmp_path / "in"), tmp_path / "out"
    run([root], out, per_tar=4)
    whole = contents(out)
    (out / "000001.tar").write_bytes((out / "000001.tar").read_bytes()[:1500])
    (out / "000002.tar").unlink()
    report = run([root], out, per_tar=4)
    assert report.masks == 6  # what was in those two
    assert contents(out) == whole


def test_a_retry_that_fails_leaves_the_tars_alone(tmp_path: Path) -> None:
    root, out = photos(tmp_path / "in"), tmp_path / "out"
    run([root], out, per_tar=3)
    before = {tar.name: tar.stat().st_ino for tar in out.glob("*.tar")}
    assert run([root], out, per_tar=3).masks == 0
    assert {tar.name: tar.stat().st_ino for tar in out.glob("*.tar")} == before


def test_doing_everything_anew_trusts_nothing(tmp_path: Path) -> None:
    root, out = photos(tmp_path / "in"), tmp_path / "out"
    with pytest.raises(StoppedError):
        run([root], out, segmenter=stopping(2), per_tar=4)
    for path in (out / UNPACKED).rglob("*.png"):
        path.write_bytes(b"stale")
    assert run([root], out, per_tar=4, resume=False).masks == 10
    run([root], tmp_path / "whole", per_tar=4)
    assert all_members(out) == all_members(tmp_path / "whole")


def test_doing_everything_anew_leaves_no_tars_of_before(tmp_path: Path) -> None:
    root, out = photos(tmp_path / "in"), tmp_path / "out"
    run([root], out, per_tar=2)
    (out / "mine.tar").write_bytes(b"not a result")
    run([root], out, per_tar=100, resume=False)
    assert files(out) == ["000000.tar", "mine.tar", REPORT_NAME]
    with pytest.raises(StoppedError):
        run([root], out, segmenter=stopping(3), per_tar=2, resume=False)
    run([root], out, per_tar=100, resume=False)
    assert files(out) == ["000000.tar", "mine.tar", REPORT_NAME]


def test_tars_that_no_run_wrote_are_kept(tmp_path: Path) -> None:
    root, out = photos(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    (out / "000009.tar").write_bytes(b"not a result")
    run([root], out, resume=False)
    run([root], out, per_tar=100, resume=False)
    assert {"000000.tar", "000009.tar"} < set(files(out))


def test_remote_tars_of_before_go_when_everything_is_done_anew(tmp_path: Path, memory: Any) -> None:
    root, out = photos(tmp_path / "in"), "memory://bucket/out"
    run([root], out, per_tar=2)
    shutil.rmtree(tmp_path / "cache")  # another machine
    run([root], out, per_tar=100, resume=False)
    assert sorted(stored(memory, "/bucket/out")) == ["000000.tar", REPORT_NAME]


def test_another_number_of_images_is_another_job(tmp_path: Path) -> None:
    root, out = photos(tmp_path / "in"), tmp_path / "out"
    run([root], out, per_tar=4)
    for other in (5, None):
        with pytest.raises(
            ValueError, match=f"per_tar was 4, now {'null' if other is None else other}; choose another"
        ):
            run([root], out, per_tar=other)
    with pytest.raises(ValueError, match="expected at least 1 image in a tar, got 0"):
        plan([root], out, per_tar=0)


def test_a_tar_is_not_written_over_what_is_read(tmp_path: Path) -> None:
    tar = packed(tmp_path / "x" / "000000.tar", photos(tmp_path / "in"))
    with pytest.raises(ValueError, match=r"x/000000\.tar: this result would overwrite an image"):
        plan([tar], tmp_path / "x", per_tar=100)
    tar = tar.rename(tmp_path / "x" / "000007.tar")  # which a later run would take for its own
    with pytest.raises(ValueError, match=r"x/000007\.tar: this result would overwrite an image"):
        plan([tar], tmp_path / "x", per_tar=100)
    tar = tar.rename(tmp_path / "x" / "seven.tar")
    assert len(plan([tar], tmp_path / "x", per_tar=100).queries) == 11
    assert len(plan([tar], tmp_path / "x").queries) == 11


def test_a_rehearsal_knows_what_tars_hold(tmp_path: Path) -> None:
    import torch

    from incontext.engine import Segmenter
    from incontext.network.config import ModelConfig
    from incontext.network.model import SegGPT

    torch.manual_seed(0)
    small: dict[str, Any] = {"width": 16, "heads": 2, "depth": 2, "patch": 8, "side": 32, "decoder_width": 4}
    config = ModelConfig(**small, merge_layer=0, taps=(0, 1), pretrain_side=32)
    tiny = Segmenter(SegGPT(config), device="cpu", dtype="float32", name="tiny")
    root, out = photos(tmp_path / "in"), tmp_path / "out"
    run([root], out, per_tar=4, segmenter=tiny)
    image_file(root / "99.png")
    before = contents(out)
    trial = rehearse(tiny, plan([root], out, per_tar=4), PROMPT)
    assert (trial.queries, trial.before, len(trial.measured), len(trial.failures)) == (12, 10, 1, 1)
    assert contents(out) == before


# ---------------------------------------------------------------------------------------------- tars in


def test_tars_are_folders(tmp_path: Path) -> None:
    photos(tmp_path / "a")
    run([tmp_path / "a"], tmp_path / "expected")
    one = packed(tmp_path / "in" / "deep" / "one.tar", tmp_path / "a")
    image_file(tmp_path / "in" / "x.png")
    names = [query.name.as_posix() for query in plan([one], tmp_path / "out").queries]
    assert names == [
        *(f"0{i}.png" for i in (0, 1, 2, 4, 5)),
        "05b.jpg",
        *(f"0{i}.png" for i in range(6, 10)),
        "sub/03.png",
    ]
    within = [query.name.as_posix() for query in plan([tmp_path / "in"], tmp_path / "out").queries]
    assert within == ["x.png", *(f"deep/one/{name}" for name in names)]
    assert [q.name.as_posix() for q in plan([tmp_path / "in" / "*" / "*.tar"], tmp_path / "out").queries] == within[1:]
    report = run([one], tmp_path / "out")
    assert (report.done, report.failed) == (10, 1)
    for name in ("00.png", "sub/03.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    assert [file.error for file in report.failures] == [
        f"{one}/05b.jpg: expected an image file, got something else or a kind that cannot be read"
    ]
    assert run([one], tmp_path / "out").masks == 0
    one.touch()
    assert run([one], tmp_path / "out").masks == 10  # another tar


def test_tars_of_equal_names_are_refused_with_advice(tmp_path: Path) -> None:
    for name in ("1", "2"):
        packed(tmp_path / "in" / f"{name}.tar", photos(tmp_path / "a"))
    with pytest.raises(ValueError, match=r"1\.tar/00\.png and .*2\.tar/00\.png would both write .*folder above both"):
        plan(sorted((tmp_path / "in").glob("*.tar")), tmp_path / "out")
    assert len(plan([tmp_path / "in"], tmp_path / "out").queries) == 22


def test_a_tar_that_is_cut_off_costs_its_rest(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        packed(tmp_path / "in" / f"{name}.tar", photos(tmp_path / "a", 4))
    whole = (tmp_path / "in" / "2.tar").read_bytes()
    (tmp_path / "in" / "2.tar").write_bytes(whole[:1700])
    (tmp_path / "in" / "3.tar").write_text("no tar")
    report = run([tmp_path / "in"], tmp_path / "out", per_tar=3)
    assert (report.done, report.finished) == (5, True)
    errors = [str(file.error) for file in report.failures]
    assert len(errors) == 3
    assert (
        "2.tar: the tar is broken or cut off after" in errors[0]
        or "in the middle of 03.png" in errors[0]
        or "in the middle of 02.png" in errors[0]
    )
    assert "3.tar: expected a tar without compression" in errors[1]
    assert "1.tar/05b.jpg: expected an image file" in errors[2]
    (tmp_path / "in" / "2.tar").write_bytes(whole)
    assert run([tmp_path / "in"], tmp_path / "out", per_tar=3).done == 8  # mended


# ------------------------------------------------------------------------------------------------ lists


def test_lists_name_files_by_what_they_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "in" / "a", 4)
    packed(tmp_path / "in" / "t.tar", tmp_path / "in" / "a")
    monkeypatch.chdir(tmp_path)
    lines = ["in/a/00.png", "in/b/gone.png", "./in/a/sub/03.png", "in/a/00.png", "in/a/sub", "in/t.tar"]
    job = plan(["-"], "out", listed=lines)
    names = [query.name.as_posix() for query in job.queries]
    in_tar = ["00.png", "01.png", "02.png", "05b.jpg", "sub/03.png"]
    assert names == ["a/00.png", "b/gone.png", "a/sub/03.png", *in_tar]  # the folder's one image is there already
    report = run(["-"], "out", listed=lines)
    assert (report.done, report.failed) == (6, 2)
    assert [file.error for file in report.failures if "gone" in file.query] == ["in/b/gone.png: there is no such file"]
    with pytest.raises(ValueError, match="in -, found none"):
        plan(["-"], "out")


def test_file_addresses_are_local_folders(tmp_path: Path) -> None:
    root = photos(tmp_path / "in", 4)
    with pytest.raises(ValueError, match="expected another folder to write to than the one that is read"):
        plan([root.as_uri()], root)
    report = run([root.as_uri()], (tmp_path / "out").as_uri())
    assert (report.done, report.path) == (4, tmp_path / "out" / REPORT_NAME)
    assert files(tmp_path / "out") == ["00.png", "01.png", "02.png", REPORT_NAME, "sub/03.png"]


def test_what_is_wrong_with_a_line_costs_that_line(tmp_path: Path, memory: Any) -> None:
    image_file(tmp_path / "a.png")
    memory.pipe_file("/bucket/x.png", (tmp_path / "a.png").read_bytes())
    (tmp_path / "out").mkdir()
    lines = [
        str(tmp_path / "gone.tar"),
        str(tmp_path / "out"),
        str(tmp_path / "a.png"),
        "nothing://x/y",
        "memory://bucket/none/",
        "memory://bucket",
        "http://h/..%2fx.png",
    ]
    job = plan(["-"], tmp_path / "out", listed=lines)
    assert [query.name.name for query in job.queries] == ["a.png", "x.png"]
    assert [file.query for file in job.skipped] == [
        *lines[:2],
        "nothing://x/y",
        "memory://bucket/none/",
        "http://h/..%2fx.png",
    ]
    assert [str(file.error).removeprefix(file.query)[:20] for file in job.skipped] == [
        ": there is no such f",
        ": expected another f",
        ": cannot be read (Pr",
        ": there is no such f",
        ": expected a name in",
    ]


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    for source in ("-", "http://host/a.png", "s3://bucket/a.tar", "s3://bucket/a.png"):
        with pytest.raises(ValueError, match=f"{source}: expected folders or patterns to watch"):
            plan([source], tmp_path / "out", watch=True)


# ----------------------------------------------------------------------------------------------- remote


@pytest.mark.usefixtures("memory")
def test_a_remote_pattern_can_be_watched(tmp_path: Path) -> None:
    assert plan(["memory://arriving/*.png"], tmp_path / "out", watch=True).queries == ()


def test_remote_folders_are_read_and_written(tmp_path: Path, memory: Any) -> None:
    root = photos(tmp_path / "in")
    run([root], tmp_path / "whole", overlay=True)
    for path in root.rglob("*.*g"):
        memory.pipe_file(f"/bucket/in/{path.relative_to(root).as_posix()}", path.read_bytes())
    report = run(["memory://bucket/in"], "memory://bucket/in/masks", overlay=True)
    assert (report.done, report.failed, report.finished) == (10, 1, True)
    there = stored(memory, "/bucket/in/masks")
    document = json.loads(there.pop(REPORT_NAME))
    assert there == {name: (tmp_path / "whole" / name).read_bytes() for name in there}
    assert len(there) == 20
    assert document["finished"] is True
    assert document["settings"]["out"] == "memory://bucket/in/masks"
    assert document["files"][0]["query"] == "memory:///bucket/in/00.png"
    again = run(["memory://bucket/in"], "memory://bucket/in/masks", overlay=True)  # the masks are no queries
    assert (again.masks, again.totals) == (0, report.totals)


def test_a_remote_job_goes_on_here_and_elsewhere(tmp_path: Path, memory: Any) -> None:
    root, out = photos(tmp_path / "in"), "memory://bucket/out"
    with pytest.raises(StoppedError):
        run([root], out, segmenter=stopping(2))
    assert json.loads(memory.cat_file("/bucket/out/report.json"))["finished"] is False
    memory.rm_file("/bucket/out/01.png")
    before: list[int] = []
    with pytest.raises(StoppedError):
        run([root], out, segmenter=stopping(1), on_resume=before.append)
    shutil.rmtree(tmp_path / "cache")  # another machine
    report = run([root], out, on_resume=before.append)
    assert before == [3, 5]
    assert (report.masks, report.done, report.failed) == (5, 10, 1)
    with pytest.raises(
        ValueError, match=r"^memory://bucket/out: this folder holds the masks of another job: overlay was"
    ):
        run([root], out, overlay=True)
    memory.rm("/bucket/out", recursive=True)
    assert run([root], out, overlay=True).masks == 10  # nothing is left there of the other job


@pytest.mark.usefixtures("memory")
def test_a_slash_at_the_end_of_an_address_makes_no_other_job(tmp_path: Path) -> None:
    root = photos(tmp_path / "in", 2)
    one, other = (plan([root], f"memory://bucket/out{end}").outputs for end in ("", "/"))
    assert one == other


@pytest.mark.usefixtures("memory")
def test_a_killed_remote_job_leaves_its_journal_here(tmp_path: Path) -> None:
    root, out = photos(tmp_path / "in"), "memory://bucket/out"
    run([root], out)
    local = folder_for(out)
    assert files(local) == [REPORT_NAME]
    lines = (local / REPORT_NAME).read_text().split('"files": [')[1].splitlines()[1:6]
    identity = json.loads((local / REPORT_NAME).read_text())["job"]
    head = json.dumps({"format": "incontext journal 1", "job": identity})
    (local / REPORT_NAME).unlink()
    (local / JOURNAL_NAME).write_text("\n".join([head, *(line.strip().rstrip(",") for line in lines)]) + "\n")
    before: list[int] = []
    report = run([root], out, on_resume=before.append)
    assert (before, report.masks, report.done) == ([5], 5, 10)


def test_uploads_that_fail_are_reported(tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = photos(tmp_path / "in"), "memory://bucket/out"
    put = type(memory).pipe_file

    def failing(self: Any, path: str, value: bytes, **rest: Any) -> None:
        if path.endswith("2.png"):
            raise PermissionError("Forbidden")
        put(self, path, value, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "pipe_file", failing)
        report = run([root], out)
        assert (report.done, report.failed) == (9, 2)
        assert next(file.error for file in report.failures) == (
            "memory://bucket/out/02.png: cannot be written (Forbidden); check the credentials and the permissions"
        )
        patch.setattr(type(memory), "put_file", failing)

        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError("Forbidden")

        patch.setattr(type(memory), "put_file", refuse)
        segmenter = Bright(on_batch=lambda _: pytest.fail("the network began, though nothing can be written"))
        with pytest.raises(ValueError, match=r"out/report\.json: cannot be written \(Forbidden\); check the cred"):
            run([root], out, segmenter=segmenter)
    assert run([root], out).masks == 1


def test_a_bucket_that_is_not_there_is_not_made(tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any, path: str, *__: Any, **___: Any) -> None:
        raise FileNotFoundError(path)

    made: list[str] = []
    for name in ("pipe_file", "put_file"):
        monkeypatch.setattr(type(memory), name, refuse)
    monkeypatch.setattr(type(memory), "makedirs", lambda _, path, **__: made.append(path))
    with pytest.raises(FileNotFoundError, match=r"^memory://typo/out/report\.json: there is no such file or folder$"):
        run([photos(tmp_path / "in")], "memory://typo/out")
    assert made == []


def test_a_remote_image_that_arrives_is_not_overwritten(memory: Any, tmp_path: Path) -> None:
    content = image_file(tmp_path / "a.png").read_bytes()
    job = plan(["memory://bucket/in/*"], "memory://bucket/in", watch=True)
    memory.pipe_file("/bucket/in/a.png", content)
    (arrived,) = next(arrivals(job, poll_seconds=0.0))
    assert isinstance(arrived, FileReport)
    assert arrived.error == "memory://bucket/in/a.png: this result would overwrite an image"


def test_tars_go_to_remote_folders(tmp_path: Path, memory: Any) -> None:
    root, out = photos(tmp_path / "in"), "memory://bucket/out"
    run([root], tmp_path / "whole", per_tar=3)
    with pytest.raises(StoppedError):
        run([root], out, segmenter=stopping(3), per_tar=3)
    assert [name for name in stored(memory, "/bucket/out") if name.endswith("tar")] == ["000000.tar", "000001.tar"]
    report = run([root], out, per_tar=3)
    assert report.masks == 4
    there = stored(memory, "/bucket/out")
    assert {name: data for name, data in there.items() if name != REPORT_NAME} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.tar")
    }
    assert files(folder_for(out)) == [REPORT_NAME]
    image_file(root / "00a.png", bright=2)
    for path in sorted(root.glob("0[6-9].png")):
        path.unlink()
    shutil.rmtree(tmp_path / "cache")
    assert run([root], out, per_tar=3).masks == 1
    run([root], tmp_path / "fresh", per_tar=3)
    assert {name: data for name, data in stored(memory, "/bucket/out").items() if name != REPORT_NAME} == {
        path.name: path.read_bytes() for path in (tmp_path / "fresh").glob("*.tar")
    }


@pytest.mark.parametrize(
    ("inputs", "out", "sentence"),
    [
        ("in", "https://host/masks", "https://host/masks: expected a folder to write to, such as s3://bucket/masks"),
        ("in", "memory://", "memory://: expected a folder to write to"),
        ("in", "nothing://x", "nothing://x: cannot be read (Protocol not known: nothing"),
        ("memory://bucket/in", "memory://bucket/in/", "memory://bucket/in: expected another folder to write to"),
        ("memory://bucket/in/a.png", "memory://bucket/in", "memory://bucket/in/a.png: this result would overwrite a"),
    ],
)
def test_remote_folders_that_cannot_end_well(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch, inputs: str, out: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    image_file(Path("in/a.png"))
    memory.pipe_file("/bucket/in/a.png", Path("in/a.png").read_bytes())
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        plan([inputs], out)


def test_outputs_travel(memory: Any) -> None:
    import pickle

    outputs = Outputs(Path("x"), remote="memory://bucket/out")
    pickle.loads(pickle.dumps(outputs)).put("a/b.png", b"content")
    from fsspec.implementations.memory import MemoryFileSystem

    assert MemoryFileSystem().cat_file("/bucket/out/a/b.png") == b"content"


# ---------------------------------------------------------------------------------------------- command


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the folder `web`."""
    pytest.importorskip("aiohttp", reason="needs the extra `remote`")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *rest: Any, **options: Any) -> None:
            super().__init__(*rest, **{**options, "directory": str(tmp_path / "web")})

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_config: Any
) -> Any:
    """`incontext segment` with an example and weights; what comes on stdin first. -> (status, stdout, stderr)."""
    from incontext import cli
    from incontext.network.checkpoint import save_model
    from incontext.network.model import SegGPT

    monkeypatch.chdir(tmp_path)
    image_file(tmp_path / "example.png", bright=4)
    mask = np.zeros((8, 12), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    save_model(tmp_path / "tiny.safetensors", SegGPT(tiny_config), metadata={})
    given = ["--prompt", "example.png", "mask.png", "--weights", "tiny.safetensors", "--device", "cpu"]

    def call(stdin: str, *arguments: str, example: bool = True) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin.encode())))
        status = 0
        try:
            cli.main(["segment", *arguments, *(given if example else given[3:])])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


def test_the_command_reads_a_list_of_addresses(tmp_path: Path, web: str, command: Any) -> None:
    photos(tmp_path / "web")
    lines = [
        f"{web}/{path.relative_to(tmp_path / 'web')}?sign=secret" for path in sorted((tmp_path / "web").rglob("*.*g"))
    ]
    status, shown, told = command("\n".join([*lines, f"{web}/gone.png"]), "-", "-o", "out", "--per-tar", "5")
    assert status == 1
    assert shown.startswith("10 masks in tars of 5 images in out")
    assert f"Skipped: {web}/gone.png: there is no such file or folder" in told
    assert f"Skipped: {web}/05b.jpg: expected an image file" in told
    assert "2 of 12 failed; out/report.json says why." in told
    assert "secret" not in told + (tmp_path / "out" / REPORT_NAME).read_text()
    assert list(members(tmp_path / "out" / "000002.tar")) == ["sub/03.png"]
    masks = all_members(tmp_path / "out")
    assert sorted(masks) == [*(f"0{i}.png" for i in (0, 1, 2, 4, 5, 6, 7, 8, 9)), "sub/03.png"]
    (tmp_path / "a.png").write_bytes(masks["09.png"])
    assert read_mask(tmp_path / "a.png").ids.shape == (8, 21)
    status, shown, told = command("\n".join(lines), "-", "-o", "out", "--per-tar", "5")
    assert (status, "none of them new" in shown) == (1, True)
    assert command("", lines[0].replace("//", "//user:secret@"), "-o", "one")[0] == 0
    assert "secret" not in (tmp_path / "one" / REPORT_NAME).read_text()


def test_the_command_refuses_remote_prompts(command: Any) -> None:
    status, shown, told = command("", "in", "-o", "out", "--prompt", "s3://b/a.png", "mask.png", example=False)
    assert (status, shown) == (2, "")
    assert told == "Error: s3:/b/a.png: expected local files as prompts, got an address; copy them here first\n"
