"""Files of other people's tools, after public bug reports: each is read as its makers meant it, with its value.

They lie in ../shared/cases, beside the checkout; without them these tests skip.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from clips import ByColor
from commands import Done, runner

from incontext.images.masks import read_mask
from incontext.images.read import read_image
from incontext.video.job import track_job
from incontext.video.plan import plan_track
from incontext.video.streams import SoundWarning

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
EXAMPLE = ("--prompt", CASES / "example" / "cow.jpg", CASES / "example" / "cow_mask.png")

pytestmark = [
    pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/cases"),
    pytest.mark.filterwarnings("always::UserWarning"),  # which the command line prints
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return runner(capsys)


def areas(out: Path) -> dict[str, dict[int, int]]:
    """Pixels of each id, by the masks' names."""
    found = {}
    for path in sorted(out.rglob("*.png")):
        ids, counts = np.unique(read_mask(path).ids, return_counts=True)
        found[path.relative_to(out).as_posix()] = {
            int(i): int(count) for i, count in zip(ids, counts, strict=True) if i
        }
    return found


COW = {1: 9600}
LABELLED: dict[str, tuple[int, dict[str, dict[int, int]], str]] = {
    "c1_cvat_coco": (0, {"1.png": {1: 8910}, "2.png": {1: 3616}, "3.png": {1: 12622}}, "read as objects"),
    **{
        f"c2_ls_coco/{name}.json": (0, {f"cb0618f{n}-cow {n}.png": COW for n in (1, 2, 3)}, "")
        for name in ("result", "result_139", "result_pct")
    },
    "c3_tif_orientation": (0, {"a.png": {1: 9000}}, ""),
    "d2_nfd_coco": (0, {"황소_é.png": COW}, ""),
    "d2_nfd_labelme": (0, {"황소_é.png": {1: 4800}}, ""),
    "d2_nfd_yolo": (0, {"황소_é.png": COW}, ""),
    "d4_roboflow": (0, {f"{part}/cow_jpg.rf.1a2b.png": {1: 9600, 2: 900} for part in ("test", "train", "valid")}, ""),
    "d6_cvat_2pt": (1, {"a.png": COW}, "shape 2, polygon: expected a polygon of at least 3 points, got 2"),
    "d6_labelme_empty": (1, {"a.png": COW}, "shape 2: expected a polygon of at least 3 points, got 0"),
    "e3_cvat_rle": (1, {"a.png": {1: 100}}, "shape 2, mask: expected runs over the 100 pixels"),
    "e1_davis_rgb": (0, {f"clip/0000{n}.png": {**({} if n == 1 else {1: 1600}), 2: 4000} for n in range(3)}, ""),
    "e1_pairs_rgb": (0, {f"{n}.png": {**({} if n == 1 else {1: 1600}), 2: 4000} for n in range(3)}, ""),
    "e5_labelme_gbk": (0, {"图.png": COW}, "read as GBK"),
    "f2_labelimg": (0, {"a.png": {2: 9600}}, ""),
}


@pytest.mark.parametrize("case", LABELLED)
def test_labels_are_read_as_they_were_meant(run: Callable[..., Done], tmp_path: Path, case: str) -> None:
    status, masks, told = LABELLED[case]
    done = run("convert", CASES / case, "--to", "indexed", "-o", tmp_path / "out")
    assert done.status == status, done.err
    assert {_composed(name): of for name, of in areas(tmp_path / "out").items()} == masks
    assert told in done.err
    assert (done.err == "") == (told == "")
    count = f"{len(masks)} image{'s' if len(masks) > 1 else ''}, {sum(map(len, masks.values()))} object"
    assert done.out.splitlines()[-1].startswith(count)


def _composed(name: str) -> str:
    import unicodedata

    return unicodedata.normalize("NFC", name)


def test_a_turned_tiff_has_the_size_that_people_see(run: Callable[..., Done], tmp_path: Path) -> None:
    run("convert", CASES / "c3_tif_orientation", "--to", "indexed", "-o", tmp_path)
    image = read_image(CASES / "c3_tif_orientation" / "images" / "a.tif")
    assert read_mask(tmp_path / "a.png").ids.shape == image.shape[:2]


def test_names_of_classes_beside_the_labels_are_kept(run: Callable[..., Done], tmp_path: Path) -> None:
    run("convert", CASES / "f2_labelimg", "--to", "coco", "-o", tmp_path)
    document = json.loads((tmp_path / "instances.json").read_text(encoding="utf-8"))
    names = (CASES / "f2_labelimg" / "labels" / "classes.txt").read_text(encoding="utf-8").split()
    assert [each["name"] for each in document["categories"]] == names


def test_the_class_that_holds_no_object_is_dropped(run: Callable[..., Done], tmp_path: Path) -> None:
    run("convert", CASES / "d4_roboflow", "--to", "coco", "-o", tmp_path)
    document = json.loads((tmp_path / "instances.json").read_text(encoding="utf-8"))
    used = {each["category_id"] for each in document["annotations"]}
    assert {each["id"] for each in document["categories"]} == used


def test_every_file_of_a_camera_is_an_image(run: Callable[..., Done], tmp_path: Path) -> None:
    done = run("segment", CASES / "c5_jfif", *EXAMPLE, "-o", tmp_path)
    assert (done.status, sorted(path.name for path in tmp_path.glob("*.png"))) == (0, ["b.png", "from_browser.png"])


def test_a_mask_in_a_sample_is_no_photograph(run: Callable[..., Done], tmp_path: Path) -> None:
    done = run("segment", CASES / "e4_wds.tar", *EXAMPLE, "-o", tmp_path)
    assert (done.status, sorted(path.name for path in tmp_path.glob("*.png"))) == (
        0,
        [f"00000{n}.png" for n in range(3)],
    )
    assert done.out.splitlines()[-1].endswith("6 files passed over: .json (3), masks of samples (3)")


def test_twelve_bits_are_seen_by_their_range(run: Callable[..., Done], tmp_path: Path) -> None:
    folder = CASES / "e6_12bit"
    for number in range(2):
        plain = read_image(folder / "q" / f"{number}_8bit.png").astype(int)
        for name in ("12bit.tif", "12bitpng.png"):
            with pytest.warns(UserWarning, match="seen by that range"):
                deep = read_image(folder / "q" / f"{number}_{name}").astype(int)
            assert np.abs(deep - plain).max() <= 2
    prompt = ("--prompt", folder / "q" / "0_8bit.png", folder / "mask.png")
    done = run("segment", folder / "q", *prompt, "-o", tmp_path)
    assert done.status == 0
    assert done.err.count("seen by that range") == 1
    for number in range(2):
        plain = read_mask(tmp_path / f"{number}_8bit.png").ids
        for name in ("12bit", "12bitpng"):
            assert (read_mask(tmp_path / f"{number}_{name}.png").ids != plain).mean() < 0.02


@pytest.mark.parametrize(
    ("cwd", "text", "names"),
    [(".", "e7_list_bom.txt", ["b.png", "cow.png"]), ("g1_utf16_dir", "g1_utf16_dir/list.txt", ["a.png"])],
)
def test_a_list_names_what_is_segmented_and_nothing_else(
    run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cwd: str, text: str, names: list[str]
) -> None:
    monkeypatch.chdir(CASES / cwd)
    data = (CASES / text).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    done = run("segment", "-", *EXAMPLE, "-o", tmp_path / "out")
    assert done.status == 0, done.err
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == names


@pytest.mark.parametrize("name", ["w_pcm.avi", "w_mjpeg_pcm.avi"])
def test_a_film_is_written_without_sound_that_it_cannot_hold(tmp_path: Path, name: str) -> None:
    mask = read_mask(CASES / "swan_mask.png").ids
    with pytest.warns(SoundWarning, match=f"{name}: its sound cannot be copied into an MP4 .*; the overlay is silent"):
        report = track_job(ByColor(), plan_track(CASES / name, tmp_path, mask=mask, overlay=True))  # type: ignore[arg-type]
    assert (report.frames, report.problems) == (12, ())
    with av.open(str(tmp_path / "overlay.mp4")) as film:
        assert (len(film.streams.video), len(film.streams.audio)) == (1, 0)
        assert sum(1 for _ in film.decode(video=0)) == 12
    assert len(json.loads((tmp_path / "tracks.json").read_text(encoding="utf-8"))["objects"]) == 1


def test_a_video_that_ends_early_is_called_cut_off(tmp_path: Path) -> None:
    with av.open(str(CASES / "v6_cut.mp4")) as video:
        frame = next(video.decode(video=0))
        mask = np.zeros((frame.height, frame.width), np.uint8)
    mask[5:20, 5:20] = 1
    report = track_job(ByColor(), plan_track(CASES / "v6_cut.mp4", tmp_path, mask=mask))  # type: ignore[arg-type]
    assert report.frames >= 29
    assert any("cut off" in problem for problem in report.problems)
