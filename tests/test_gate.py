"""The gate: what files of others call things never leads out of the folder that it is put into."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from bright import PALETTE, Bright, image_file, run_job
from commands import Done, runner
from labels import hard_masks, results, write_json

from incontext.annotations import FORMATS, Categories
from incontext.annotations.core import Result
from incontext.folder.report import REPORT_NAME
from incontext.images.gate import below, checked_name, folder_below
from incontext.images.write import write_mask

HOSTILE = [
    "/victim/a.png",
    "../victim/a.png",
    "a/../../victim/a.png",
    "..",
    "..\\victim\\a.png",
    "a\\..\\..\\victim.png",
    "\\\\host\\share\\a.png",
    "C:\\victim.png",
    "c:victim.png",
    "nul\0.png",
    "new\nline.png",
    "esc\x1b[2Jape.png",
    "\x85.png",
    "n" * 252 + ".png",
    "é" * 126 + ".png",
    "d" * 256 + "/a.png",
    "",
    " ",
    "/",
    ".",
    None,
    7,
    ["a.png"],
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: repr(name)[:30])
def test_what_leads_out_is_refused_and_named(name: object) -> None:
    with pytest.raises(ValueError, match="expected a name") as refused:
        checked_name(name)
    assert repr(name)[:80] in str(refused.value)


@pytest.mark.parametrize("name", ["a.png", "a/b c/d.png", "a..b.png", "...png", "ü/写真.png", "n" * 255, "./a.png"])
def test_what_stays_inside_is_let_through(name: str) -> None:
    assert checked_name(name) == PurePosixPath(name)


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    victim.mkdir()
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "link").symlink_to(victim)
    (out / "dangling").symlink_to(tmp_path / "not there")
    (out / "inner").symlink_to(out / "deep")
    for name in ("deep/link/a.png", "deep/link/b/a.png", "dangling/a.png", "inner/link/a.png"):
        with pytest.raises(ValueError, match="a link to"):
            below(out, PurePosixPath(name))
    with pytest.raises(ValueError, match="a link to"):
        folder_below(out, "dangling")
    assert below(out, PurePosixPath("inner/new/a.png")) == out / "inner" / "new" / "a.png"
    assert (out / "deep" / "new").is_dir()
    assert list(victim.iterdir()) == []
    assert not (tmp_path / "not there").exists()


WRITABLE = [each for each in FORMATS if each.write is not None]


@pytest.mark.parametrize("form", WRITABLE, ids=lambda form: form.name)
@pytest.mark.parametrize("name", ["/victim/a.png", "../victim/a.png", "x/../../victim/a.png", "C:\\a.png", "a\nb.png"])
def test_no_writer_leaves_its_folder(tmp_path: Path, form, name: str) -> None:  # type: ignore[no-untyped-def]
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.mkdir()
    out.mkdir()
    mask = np.ones((4, 5), np.uint8)
    name = name.replace("/victim", str(victim), 1) if name.startswith("/victim") else name
    image = tmp_path / "a.png"
    write_mask(image, mask, np.zeros((256, 3), np.uint8))
    good = results({"good.png": mask})[0]
    with form.write(out, Categories({1: "cat"})) as add:
        try:
            add(Result(PurePosixPath(name), mask, good.things, image))
        except ValueError as error:
            assert "expected a name" in str(error)  # noqa: PT017  formats of one file take any name
        add(good)
    assert list(victim.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "out", "victim"]


@pytest.mark.parametrize("form", WRITABLE, ids=lambda form: form.name)
def test_no_writer_follows_a_link_out_of_its_folder(tmp_path: Path, form) -> None:  # type: ignore[no-untyped-def]
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.mkdir()
    out.mkdir()
    for name in ("a", "labels", "images", "SegmentationClass", "SegmentationObject", "JPEGImages", "ImageSets", "cat"):
        (out / name).symlink_to(victim)
    (out / "panoptic").symlink_to(victim)
    made = results({"a/x.png": hard_masks()["line.png"]})
    try:
        with form.write(out, Categories({1: "cat", 3: "dog", 254: "sky"})) as add:
            add(made[0])
    except ValueError as error:
        assert "a link to" in str(error)  # noqa: PT017
    assert list(victim.iterdir()) == []


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command line in this process."""
    return runner(capsys)


XML = """<annotations><version>1.1</version>
<image id="0" name="a.jpg" width="9" height="8"><box label="cow" xtl="1" ytl="1" xbr="5" ybr="5"/></image>
<image id="1" name="a.jpg" task_id="{task}" width="9" height="8"><box label="cow" xtl="1" ytl="1" xbr="5" ybr="5"/>
</image>
</annotations>"""


@pytest.mark.parametrize("form", [each.name for each in WRITABLE])
@pytest.mark.parametrize("source", ["cvat", "label-studio"])
def test_numbers_of_tasks_that_are_paths(tmp_path: Path, run: Callable[..., Done], source: str, form: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    task = f"/../..{victim}/c"
    if source == "cvat":
        path = tmp_path / "annotations.xml"
        path.write_text(XML.format(task=task), encoding="utf-8")
    else:
        region = {
            "type": "rectanglelabels",
            "original_width": 9,
            "original_height": 8,
            "value": {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["cow"]},
        }
        tasks = [
            {"id": number, "data": {"image": "/data/a.jpg"}, "annotations": [{"result": [region]}]}
            for number in (1, task)
        ]
        path = write_json(tmp_path / "tasks.json", tasks)
    done = run("convert", path, "--to", form, "-o", tmp_path / "deep" / "out")
    assert done.status == 1
    assert "expected a name inside of its folder, got 'task_/../.." in done.err
    assert list(victim.iterdir()) == []
    outside = [
        each for each in tmp_path.rglob("*") if each.is_file() and not each.is_relative_to(tmp_path / "deep/out")
    ]
    assert outside == [path]


@pytest.mark.parametrize("mask", ["/{}/m.png", "../m.png", "x/../../m.png"])
def test_masks_of_a_report_that_lead_out(tmp_path: Path, run: Callable[..., Done], mask: str) -> None:
    out = tmp_path / "out"
    for name in ("a.png", "b.png"):
        image_file(tmp_path / "in" / name, bright=3)
    run_job(Bright(), [tmp_path / "in"], out)
    write_mask(tmp_path / "m.png", np.ones((4, 5), np.uint8), PALETTE.table)
    lines = (out / REPORT_NAME).read_bytes().split(b"\n")
    at = next(number for number, line in enumerate(lines) if line.startswith(b' "files": [')) + 1
    entry = json.loads(lines[at].rstrip(b","))
    entry["mask"] = mask.format(str(tmp_path).lstrip("/"))
    lines[at] = json.dumps(entry).encode() + b","
    (out / REPORT_NAME).write_bytes(b"\n".join(lines))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    done = run("convert", out, "--to", "indexed,coco", "-o", tmp_path / "again")
    assert done.status == 1
    assert "expected a name" in done.err or "expected another mask, got" in done.err
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert made
    assert all(path.is_relative_to(tmp_path / "again") for path in made)


def test_an_output_folder_of_a_job_with_a_link_in_it(tmp_path: Path) -> None:
    victim, out, photos = tmp_path / "victim", tmp_path / "out", tmp_path / "in"
    victim.mkdir()
    out.mkdir()
    (out / "sub").symlink_to(victim)
    image_file(photos / "a.png")
    image_file(photos / "sub" / "a.png")
    report = run_job(Bright(), [photos], out)
    assert (report.done, report.failed) == (1, 1)
    assert "a link to" in str(next(report.failures).error)
    assert list(victim.iterdir()) == []
