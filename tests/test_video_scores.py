"""Video scores: the measures against figures by hand and the usual tool's, the layouts, the protocol, the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from incontext import cli
from incontext.evaluation.pages.video_report import sentences, tables, to_text, write_report
from incontext.evaluation.video.clips import Clip, read_clips
from incontext.evaluation.video.davis import Statistics, boundary, outline, region, widened
from incontext.evaluation.video.scoring import (
    COPY,
    CopiedMask,
    VideoJournal,
    VideoMethod,
    VideoReport,
    evaluate_video,
    follow,
)
from incontext.images.ids import Pixels
from incontext.images.masks import read_mask
from incontext.images.write import write_image, write_mask
from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT

COLORS = np.random.default_rng(0).permutation(256 * 3).reshape(256, 3).astype(np.uint8)
COLORS[0] = 0
COPIED_J = {
    "blackswan": 0.546, "bmx-trees": 0.094, "breakdance": 0.216, "car-roundabout": 0.731, "dance-twirl": 0.342,
    "dog": 0.327, "motocross-jump": 0.154, "parkour": 0.101,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------- measures


def left_of(column: int, size: tuple[int, int] = (100, 100)) -> npt.NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    mask[:, :column] = True
    return mask


NOTHING = left_of(0)


@pytest.mark.parametrize(
    ("found", "truth", "j", "f"),
    [
        (NOTHING, NOTHING, 1, 1),
        (NOTHING, left_of(40), 0, 0),
        (left_of(40), NOTHING, 0, 0),
        (left_of(40), left_of(40), 1, 1),
        (left_of(40), left_of(42), 40 / 42, 1),  # 0.8 % of the diagonal are 1.13 pixels, so 2
        (left_of(40), left_of(43), 40 / 43, 0),
        (left_of(100), NOTHING, 0, 1),  # no outline runs along the image's edge
        (
            left_of(40) ^ left_of(20),
            left_of(40),
            0.5,
            2 * 0.5 / 1.5,
        ),  # one of two lines is right
    ],
)
def test_measures_of_a_frame(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], j: float, f: float) -> None:
    assert region(found, truth, NOTHING) == pytest.approx(j)
    assert boundary(found, truth, NOTHING) == pytest.approx(f)


def test_ignored_pixels_are_not_scored() -> None:
    ignored = left_of(60) ^ left_of(40)
    assert region(left_of(60), left_of(40), ignored) == 1
    assert boundary(left_of(60), left_of(40), ignored) == 1
    assert boundary(left_of(60), left_of(40), NOTHING) == 0
    with pytest.raises(ValueError, match="expected \\(H, W\\) masks of one size"):
        boundary(NOTHING, NOTHING, NOTHING[1:])


def test_outlines_lie_up_and_left_of_the_edge() -> None:
    mask = np.zeros((5, 6), np.bool_)
    mask[2:4, 2:4] = True
    wanted = ["......", ".###..", ".#.#..", ".###..", "......"]
    assert ["".join(".#"[each] for each in row) for row in outline(mask).astype(int)] == wanted
    mask = np.zeros((3, 4), np.bool_)
    mask[1:, 2:] = True  # in the corner: neither the last row nor the last column is an outline of its own
    assert ["".join(".#"[each] for each in row) for row in outline(mask).astype(int)] == [".###", ".#..", ".#.."]


@pytest.mark.parametrize("radius", [1, 3, 6])
def test_widening_is_by_euclidean_distance(radius: int) -> None:
    mask = np.random.default_rng(radius).random((30, 41)) < 0.004
    mask[0, 0] = mask[-1, 17] = True
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[:30, :41]
    nearest = ((y[..., None] - rows) ** 2 + (x[..., None] - columns) ** 2).min(axis=-1)
    np.testing.assert_array_equal(widened(mask, radius), nearest <= radius**2)


def test_statistics() -> None:
    values = [1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    found = Statistics.of(values)  # the quarters end at frames 1, 3, 5, 6 and 8
    assert found == Statistics(pytest.approx(3.9 / 8), 3 / 8, pytest.approx(2.4 / 3 - 0.6 / 3))
    assert Statistics.of([0.7]) == Statistics(0.7, 1, 0)
    assert Statistics.of([*[1.0] * 300, *[0.0] * 300]).decay == pytest.approx(1)
    assert Statistics.over([found, Statistics(0, 0, 0)]).recall == 3 / 16
    with pytest.raises(ValueError, match="at least one frame"):
        Statistics.of([])


# ----------------------------------------------------------------------------------------------------- layouts


def write_clip(frames: Path, masks: Path, ids: Mapping[int, Pixels], count: int | None = None) -> None:
    """Grey frames, and masks at some of them."""
    for folder in (frames, masks):
        folder.mkdir(parents=True)
    shape = next(iter(ids.values())).shape
    for number in range(max(ids) + 1 if count is None else count):
        write_image(frames / f"{number:05}.jpg", np.full((*shape, 3), 10 * number % 256, np.uint8))
    for number, mask in ids.items():
        write_mask(masks / f"{number:05}.png", mask, COLORS)


def moving(count: int, shape: tuple[int, int] = (24, 40)) -> dict[int, Pixels]:
    """Object 1 goes right by a column each frame, object 5 stays."""
    masks = {}
    for number in range(count):
        mask = np.zeros(shape, np.uint8)
        mask[4:12, number : number + 8] = 1
        mask[16:20, 30:36] = 5
        masks[number] = mask
    return masks


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two clips in the layout of DAVIS, each in two resolutions, listed for two years."""
    root = tmp_path / "DAVIS"
    for resolution, shape in (("480p", (24, 40)), ("Full-Resolution", (48, 80))):
        for name in ("bear", "cow"):
            places = (root / kind / resolution / name for kind in ("JPEGImages", "Annotations"))
            write_clip(*places, moving(4, shape))
    for year, split, listed in ((2016, "val", "bear\n"), (2017, "val", "bear\ncow\n\n"), (2017, "train", "cow\n")):
        (root / "ImageSets" / str(year)).mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / str(year) / f"{split}.txt").write_text(listed)
    return root


def test_layout_of_davis(davis: Path) -> None:
    several = read_clips(davis)
    assert [(clip.name, clip.as_one, clip.late, len(clip.frames)) for clip in several] == [
        ("bear", False, False, 4), ("cow", False, False, 4),
    ]  # fmt: skip
    image, mask = several[0].read(2)
    assert image.shape == (24, 40, 3)
    assert mask is not None
    assert np.unique(mask).tolist() == [0, 1, 5]
    assert several[0].scored == {1, 2}
    assert [clip.name for clip in read_clips(davis, split="train")] == ["cow"]
    (one,) = read_clips(davis, year=2016, resolution="Full-Resolution")
    image, mask = one.read(0)
    assert (one.as_one, image.shape) == (True, (48, 80, 3))
    assert mask is not None
    assert np.unique(mask).tolist() == [0, 1]
    (limited,) = read_clips(davis, names=["cow"], limit=3)
    assert (len(limited.frames), sorted(limited.masks), limited.scored) == (3, [0, 1, 2], {1})
    # as DAVIS 2016 came by itself: files, listed by resolution
    for year in (2016, 2017):
        for path in (davis / "ImageSets" / str(year)).glob("*.txt"):
            path.unlink()
    (davis / "ImageSets" / "480p").mkdir()
    lines = (f"/JPEGImages/480p/cow/{i:05}.jpg /Annotations/480p/cow/{i:05}.png\n" for i in range(4))
    (davis / "ImageSets" / "480p" / "val.txt").write_text("".join(lines))
    assert [(clip.name, clip.as_one) for clip in read_clips(davis)] == [("cow", True)]


def test_folders_of_clips(tmp_path: Path) -> None:
    write_clip(tmp_path / "b" / "frames", tmp_path / "b" / "masks", moving(3), count=5)
    write_clip(tmp_path / "a" / "frames", tmp_path / "a" / "masks", {0: moving(1)[0]})
    for number in range(5):
        (tmp_path / "b" / "frames" / f"{number:05}.jpg").rename(tmp_path / "b" / "frames" / f"f{4 * number + 1}.jpg")
    for number in range(3):
        (tmp_path / "b" / "masks" / f"{number:05}.png").rename(tmp_path / "b" / "masks" / f"f{8 * number + 1}.png")
    one, two = read_clips(tmp_path)
    assert (one.name, two.name) == ("a", "b")
    assert [path.stem for path in two.frames] == ["f1", "f5", "f9", "f13", "f17"]
    assert {number: path.stem for number, path in two.masks.items()} == {0: "f1", 2: "f9", 4: "f17"}
    assert two.read(1)[1] is None
    assert two.late
    assert [clip.name for clip in read_clips(tmp_path / "b")] == ["b"]
    before = two.digest()
    (tmp_path / "b" / "masks" / "f9.png").touch()
    assert two.digest() != before


def test_a_color_is_the_same_object_in_every_frame(tmp_path: Path) -> None:
    write_clip(tmp_path / "frames", tmp_path / "masks", moving(2))
    for number, colors in enumerate((((0, 255, 0), (255, 0, 0)), ((255, 0, 0),))):
        mask = np.zeros((24, 40, 3), np.uint8)
        for place, color in enumerate(colors):
            mask[2:8, 10 * place : 10 * place + 6] = color
        write_image(tmp_path / "masks" / f"{number:05}.png", mask)
    (clip,) = read_clips(tmp_path)
    shown = [np.unique(mask).tolist() for mask in (clip.read(0)[1], clip.read(1)[1]) if mask is not None]
    assert shown == [[0, 1, 2], [0, 2]]


def test_a_mask_may_miss_a_pixel_by_rounding(tmp_path: Path) -> None:
    write_clip(tmp_path / "frames", tmp_path / "masks", moving(2))
    write_mask(tmp_path / "masks" / "00001.png", moving(2)[1][:, :-1], COLORS)
    (clip,) = read_clips(tmp_path)
    mask = clip.read(1)[1]
    assert mask is not None
    assert mask.shape == (24, 40)
    write_mask(tmp_path / "masks" / "00001.png", moving(2)[1][:, :-2], COLORS)
    with pytest.raises(ValueError, match=r"expected a mask of its frame.s size 40 x 24 \(.*\), got 38 x 24"):
        clip.read(1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"names": ["bear", "dog"]}, "expected clips out of bear, cow, got dog"),
        ({"split": "test"}, "test.txt; there is ImageSets/2016/val.txt, ImageSets/2017/train.txt"),
        ({"year": 2016, "split": "train"}, "train.txt; there is"),
        ({"resolution": "8k"}, "expected a resolution out of 480p, Full-Resolution, got 8k"),
        ({"limit": 0}, "expected a limit of at least 1 frame, got 0"),
    ],
)
def test_what_davis_does_not_have(davis: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        read_clips(davis, **options)
    assert sentence in str(raised.value)


def test_clips_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        read_clips(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="expected JPEGImages and Annotations in"):
        read_clips(tmp_path)
    write_clip(tmp_path / "frames", tmp_path / "masks", moving(2))
    with pytest.raises(ValueError, match="expected a split, year or resolution with DAVIS's folder JPEGImages only"):
        read_clips(tmp_path, split="val")
    (tmp_path / "frames" / "00001.jpg").unlink()
    with pytest.raises(ValueError, match=r"00001.png: expected a frame of the same name in .*frames, got none"):
        read_clips(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"expected images in .*frames and in .*masks, got 1 and 0"):
        read_clips(tmp_path)


# ---------------------------------------------------------------------------------------------------- protocol


class Replay:
    """Answers with given masks in their order; keeps what it was shown."""

    def __init__(self, answers: Sequence[Pixels]) -> None:
        self.given: dict[int, Pixels] = {}
        self._answers, self._next = answers, 0

    def step(self, frame: Pixels, mask: Pixels | None = None, /) -> Pixels:
        assert frame.dtype == np.uint8
        if mask is not None:
            self.given[self._next] = mask
        self._next += 1
        return self._answers[self._next - 1]


def clip_of(folder: Path, ids: Mapping[int, Pixels], count: int | None = None) -> Clip:
    write_clip(folder / "frames", folder / "masks", ids, count)
    (clip,) = read_clips(folder)
    return clip


def test_first_and_last_frames_do_not_count(tmp_path: Path) -> None:
    truth = moving(5)
    clip, replay = clip_of(tmp_path / "walk", truth), Replay([np.zeros_like(truth[0]), *[truth[1]] * 3, truth[0]])
    record = follow(VideoMethod("replay", lambda: replay), clip)
    assert list(replay.given) == [0]
    np.testing.assert_array_equal(replay.given[0], truth[0])
    assert record.frames == 5
    one, five = record.objects
    assert (one.id, five.id) == (1, 5)
    assert one.frames == five.frames == (1, 2, 3)
    assert one.j == pytest.approx((1, 7 / 9, 6 / 10))
    assert five.j == five.f == (1, 1, 1)
    assert one.f[0] == 1
    assert one.f[2] < 1


def test_objects_that_come_later_are_given(tmp_path: Path) -> None:
    """The mask that introduces an object is shown to the tracker without the others, and not scored."""
    truth = {number: moving(9)[number] for number in (2, 4, 6, 8)}
    for number in (2,):
        truth[number][truth[number] == 5] = 0
    truth[4][0] = 255
    truth[6][4:12] = 0  # object 1 is hidden
    clip = clip_of(tmp_path / "late", truth, count=10)
    replay = Replay([moving(9)[0]] * 8)
    record = follow(VideoMethod("replay", lambda: replay), clip)
    assert list(replay.given) == [0, 2], "frames before the first object are not shown"
    assert np.unique(replay.given[0]).tolist() == [0, 1]
    assert np.unique(replay.given[2]).tolist() == [0, 5, 255]
    assert [(each.id, each.frames, each.j) for each in record.objects] == [(1, (6,), (0.0,)), (5, (6,), (1.0,))]
    by_davis = Clip(clip.name, clip.frames, clip.masks, late=False)
    replay = Replay([moving(9)[0]] * 8)
    record = follow(VideoMethod("replay", lambda: replay), by_davis)
    assert list(replay.given) == [0]
    assert [(each.id, each.frames) for each in record.objects] == [(1, (4, 6))]


def test_one_object_of_many(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "one", moving(3))
    as_one = Clip(clip.name, clip.frames, clip.masks, as_one=True)
    (score,) = evaluate_video([COPY], [as_one]).columns
    (only,) = score.clips[0].objects
    assert (only.id, only.j.mean) == (1, pytest.approx((7 * 8 + 24) / (9 * 8 + 24)))


def test_copied_masks_join() -> None:
    first, second = np.zeros((2, 2, 4), np.uint8)
    first[0], second[:, 0], second[1, 3] = 1, 2, 255
    copied = CopiedMask()
    frame = np.zeros((2, 4, 3), np.uint8)
    assert not copied.step(frame).any()
    copied.step(frame, first)
    copied.step(frame, second)
    assert copied.step(frame).tolist() == [[2, 1, 1, 1], [2, 0, 0, 0]]


def test_means_are_over_objects(tmp_path: Path) -> None:
    still = {number: moving(1)[0] * (moving(1)[0] == 1) for number in range(4)}
    clips = [clip_of(tmp_path / "move", moving(4)), clip_of(tmp_path / "still", still)]
    told: list[tuple[int, int]] = []
    report = evaluate_video([COPY], clips, on_frame=lambda done, total: told.append((done, total)))
    (column,) = report.columns
    move = (7 / 9 + 6 / 10) / 2
    assert [clip.j for clip in column.clips] == pytest.approx([(move + 1) / 2, 1])
    assert column.j is not None
    assert column.j.mean == pytest.approx((move + 1 + 1) / 3), "three objects, not two clips"
    assert column.clips[0].at == (1, 2)
    assert column.clips[0].j_over_time == pytest.approx((8 / 9, 8 / 10))
    assert column.objects == 3
    assert told[-1] == (8, 8)


def test_what_cannot_be_scored(tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "move", moving(3))
    for methods, clips in (([], [clip]), ([COPY], []), ([COPY, COPY], [clip]), ([COPY], [clip, clip])):
        with pytest.raises(ValueError, match=r"expected (at least one method|each method and clip once)"):
            evaluate_video(methods, clips)
    small = VideoMethod("small", lambda: Replay([np.zeros((3, 3), np.uint8)]))
    with pytest.raises(ValueError, match=r"expected an answer of the frame's size \(24, 40\), got \(3, 3\)"):
        evaluate_video([small], [clip])
    empty = clip_of(tmp_path / "empty", {0: np.full((24, 40), 255, np.uint8), 1: np.zeros((24, 40), np.uint8)})
    with pytest.raises(ValueError, match="expected a mask with an object"):
        evaluate_video([COPY], [empty])


def test_a_stopped_evaluation_goes_on_at_the_next_clip(tmp_path: Path) -> None:
    clips = [clip_of(tmp_path / name, moving(4)) for name in ("a", "b")]
    started: list[str] = []

    def method(stop: bool) -> VideoMethod:
        def start() -> CopiedMask:
            started.append("start")
            if stop and len(started) == 2:
                raise KeyboardInterrupt
            return CopiedMask()

        return VideoMethod("copy", start)

    file = tmp_path / "clips.jsonl"
    with VideoJournal(file, {"side": 8}) as journal, pytest.raises(KeyboardInterrupt):
        evaluate_video([method(stop=True)], clips, journal=journal)
    with file.open("a") as stream:
        stream.write('{"method":"copy","cl')  # killed while it wrote
    told: list[tuple[int, int]] = []
    with VideoJournal(file, {"side": 8}) as journal:
        report = evaluate_video(
            [method(stop=False)], clips, journal=journal, on_frame=lambda done, total: told.append((done, total))
        )
    assert len(started) == 3
    assert told[0] == (4, 8)
    assert told[-1] == (8, 8)
    fresh = evaluate_video([method(stop=False)], clips)
    assert [(each.j, each.f, each.objects) for each in report.columns] == [
        (each.j, each.f, each.objects) for each in fresh.columns
    ]
    with VideoJournal(file, {"side": 8}) as journal:
        assert evaluate_video([method(stop=False)], clips, journal=journal) == report, "speed included"
        write_mask(tmp_path / "b" / "masks" / "00002.png", moving(4)[3], COLORS)
        changed = evaluate_video([method(stop=False)], clips, journal=journal)
    assert changed.columns[0].clips[0] == report.columns[0].clips[0]
    assert changed.columns[0].clips[1].j != report.columns[0].clips[1].j, "its mask is another now"
    with pytest.raises(ValueError, match=r"made with other settings \(side was 8, now 16\)"):
        VideoJournal(file, {"side": 16})
    file.write_text(file.read_text() + "{}\n")
    with pytest.raises(ValueError, match="expected a record on each line"):
        VideoJournal(file, {"side": 8})


def scene(rng: np.random.Generator, count: int, shape: tuple[int, int]) -> list[Pixels]:
    """Ellipses that move: 1 across the border, 2 vanishes and returns, 3 thin; 7 is there at first only."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    masks = []
    for number in range(count):
        mask = np.zeros(shape, np.uint8)

        def draw(i: int, row: float, column: float, height: float, width: float, onto: Pixels = mask) -> None:
            onto[((y - row) / height) ** 2 + ((x - column) / width) ** 2 < 1] = i

        draw(1, 20 + 3 * number, -10 + 6 * number, 25, 30)
        if number not in (4, 5):
            draw(2, 90 - 4 * number, 0.75 * shape[1] + rng.normal(0, 3), 18 + rng.normal(0, 2), 22)
        draw(3, 60, 110 + 2 * number, 3, 60)
        if number < 3:
            draw(7, shape[0] - 1, shape[1] - 1, 14, 20)
        masks.append(mask)
    return masks


@pytest.mark.parametrize("shape", [(120, 200), (96, 97)])
def test_equals_the_usual_tool(tmp_path: Path, shape: tuple[int, int]) -> None:
    """vos-benchmark scores the same masks, read from files by itself."""
    usual = pytest.importorskip("vos_benchmark.benchmark", reason="needs vos-benchmark, an outside oracle")
    truth, answers = (scene(np.random.default_rng(seed), 11, shape) for seed in (1, 2))
    answers[3][:] = 0
    answers[6] = np.where(answers[6] == 1, 2, answers[6]).astype(np.uint8)
    answers[7][answers[7] == 3] = 0
    answers[8] = np.roll(answers[8], 9, axis=1)
    answers[9][:, -5:] = 1
    clip = clip_of(tmp_path / "clips" / "scene", dict(enumerate(truth)))
    for number, mask in enumerate(answers):
        (tmp_path / "answers" / "scene").mkdir(parents=True, exist_ok=True)
        write_mask(tmp_path / "answers" / "scene" / f"{number:05}.png", mask, COLORS)
    (tmp_path / "truth").mkdir()
    (tmp_path / "clips" / "scene" / "masks").rename(tmp_path / "truth" / "scene")
    evaluator = usual.VideoEvaluator(str(tmp_path / "truth"), str(tmp_path / "answers"))
    _, j, f = evaluator("scene")
    (tmp_path / "truth" / "scene").rename(tmp_path / "clips" / "scene" / "masks")
    (column,) = evaluate_video([VideoMethod("replay", lambda: Replay(answers))], [clip]).columns
    ours = column.clips[0].objects
    assert {each.id: 100 * each.j.mean for each in ours} == pytest.approx(j, abs=1e-3)
    assert {each.id: 100 * each.f.mean for each in ours} == pytest.approx(f, abs=1e-3)
    assert set(j) == {1, 2, 3, 7}
    assert min(f.values()) < 90, "there is something to tell apart"


def test_j_of_copying_frame_0(shared: Path) -> None:
    """The figures that are known of the eight clips, from their masks alone."""
    folder = shared / "data" / "video"
    if not folder.is_dir():
        pytest.skip("needs shared/data/video beside the checkout, which is not part of the repository")
    found = {}
    for clip in read_clips(folder):
        masks = {number: read_mask(clip.masks[number]).ids for number in (0, *sorted(clip.scored))}
        first = masks.pop(0)
        values = [region(first == 1, each == 1, each == 255) for each in masks.values()]
        found[clip.name] = Statistics.of(values).mean
    assert found == pytest.approx(COPIED_J, abs=2e-3)
    assert np.mean(list(found.values())) == pytest.approx(0.314, abs=2e-3)


# ----------------------------------------------------------------------------------------- report and command


class Balanced(HTMLParser):
    """Refuses elements that are not closed in order; counts the others."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def report(tmp_path: Path) -> VideoReport:
    """Two clips of which one only introduces objects; the model knows the truth, the baseline copies."""
    truth = moving(6)
    alone = {0: truth[0] * (truth[0] == 1), 3: truth[3]}
    clips = [clip_of(tmp_path / "judo & co", alone), clip_of(tmp_path / "walk", truth)]
    model = [VideoMethod(name, lambda: Replay([truth[i] for i in range(6)])) for name in ("memory <0>", "memory 4")]
    return evaluate_video([*model, COPY], clips)


def test_files_of_a_report(report: VideoReport, tmp_path: Path) -> None:
    assert report.unscored == ("judo & co",)
    written = write_report(tmp_path, report, {"weights": "<tiny>", "weights_sha256": "0123456789abcdef"})
    assert [path.name for path in written] == ["report.json", "report.md", "report.html"]
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["about"]["weights"] == "<tiny>"
    columns = {each["method"]: each for each in content["columns"]}
    assert columns["memory 4"]["j"] == {"mean": 1, "recall": 1, "decay": 0}
    assert columns["copy the first mask"]["clips"][0]["j"] is None
    copied = sum(each / (16 - each) for each in (7, 6, 5, 4)) / 4
    assert columns["copy the first mask"]["clips"][1]["j"] == pytest.approx((copied + 1) / 2)
    text = (tmp_path / "report.md").read_text()
    assert "| walk | 1.000 | 1.000 | 0.77" in text
    assert "| judo & co | - | - | - |" in text
    assert "Nothing to score in judo & co: no mask there but those that introduce objects." in text
    html = Balanced((tmp_path / "report.html").read_text())
    assert html.open == []
    assert html.count["svg"] == 1
    assert html.count["polyline"] == 3
    assert html.count["table"] == len(tables(report)) == 1 + 1 + 2 + 2


def test_what_a_terminal_shows(report: VideoReport) -> None:
    text = to_text(report)
    assert "| clip | memory <0> | memory 4 | copy the first mask |" in text
    assert "memory 4: J 1.000 against 0.771 of copy the first mask; higher in 1 of 1 clips." in text
    single = VideoReport(report.columns[1:])
    assert "| clip | J | F | J&F | J: copy the first mask | objects | frames | frames/s |" in to_text(single)
    assert len(list(sentences(VideoReport(report.columns[2:])))) == 1, "a baseline is compared with nothing"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process: status, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(each) for each in arguments])
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, captured.out, captured.err

    return call


@pytest.fixture
def command(tmp_path: Path, tiny_config: ModelConfig, davis: Path) -> tuple[object, ...]:
    """The command without its own options, by a tiny random network."""
    weights = tmp_path / "tiny.safetensors"
    save_model(weights, SegGPT(tiny_config))
    return "evaluate", "video", davis, "--weights", weights, "--device", "cpu", "--dtype", "float32"


def test_evaluate_video(run: Callable[..., tuple[int, str, str]], command: tuple[object, ...], tmp_path: Path) -> None:
    out = tmp_path / "new" / "scores"
    asked = (*command, "--memory", "0,2", "--policy", "spaced,recent", "-o", out)
    status, shown, errors = run(*asked)
    assert status == 0, errors
    assert "| clip | memory 0 | memory 2, recent | memory 2, spaced | copy the first mask |" in shown
    assert sorted(path.name for path in out.iterdir()) == ["clips.jsonl", "report.html", "report.json", "report.md"]
    report = json.loads((out / "report.json").read_text())
    assert report["about"]["side"] == 32
    assert [clip["name"] for clip in report["columns"][0]["clips"]] == ["bear", "cow"]
    assert [each["id"] for each in report["columns"][0]["clips"][0]["objects"]] == [1, 5]
    assert report["columns"][3]["j"]["mean"] == pytest.approx(((7 / 9 + 6 / 10) / 2 + 1) / 2)
    measured = (out / "clips.jsonl").read_text()
    assert run(*asked)[1] == shown
    assert (out / "clips.jsonl").read_text() == measured, "nothing was measured again"
    status, _, errors = run(*asked, "--side", 64)
    assert status == 2
    assert "other settings (side was 32, now 64)" in errors


def test_evaluate_video_options(
    run: Callable[..., tuple[int, str, str]], command: tuple[object, ...], tmp_path: Path
) -> None:
    def scores(*options: object) -> dict[str, Any]:
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        status, _, errors = run(*command, "-o", out, *options)
        assert status == 0, errors
        content: dict[str, Any] = json.loads((out / "report.json").read_text())
        return content

    usual = scores("--clips", "cow")
    assert usual["columns"][0]["method"] == "memory 4, spaced"
    assert [clip["name"] for clip in usual["columns"][0]["clips"]] == ["cow"]
    assert usual["columns"][0]["clips"][0]["frames"] == 4
    few = scores("--split", "train", "--limit", 3, "--task", "semantic", "--side", 64)
    assert [(clip["name"], clip["at"]) for clip in few["columns"][0]["clips"]] == [("cow", [1])]
    assert (few["about"]["task"], few["about"]["side"]) == ("semantic", 64)
    one = scores("--year", 2016, "--resolution", "Full-Resolution")
    assert [[each["id"] for each in clip["objects"]] for clip in one["columns"][0]["clips"]] == [[1]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--memory", "many"], "expected --memory as different numbers of at least 0"),
        (["--memory", "1,1"], "such as \"0,4\"; got '1,1'"),
        (["--policy", "newest"], "expected --policy out of recent, spaced, confident, each once; got newest"),
        (["--clips", "dog"], "expected clips out of bear, cow, got dog"),
        (["--split", "test"], "test.txt; there is"),
    ],
)
def test_evaluate_video_refuses_in_one_sentence(
    run: Callable[..., tuple[int, str, str]], command: tuple[object, ...], options: list[object], sentence: str
) -> None:
    status, shown, errors = run(*command, *options)
    assert (status, shown) == (2, "")
    assert sentence in errors
    assert "Traceback" not in errors


def test_judo_by_the_embedded_weights(run: Callable[..., tuple[int, str, str]], shared: Path, tmp_path: Path) -> None:
    """Masks that only introduce objects: they are given, the tracker goes on, and the report says what is missing."""
    folder = shared / "data" / "video_multi" / "judo"
    if not folder.is_dir():
        pytest.skip("needs shared/data/video_multi beside the checkout, which is not part of the repository")
    status, shown, errors = run(
        "evaluate", "video", folder, "--limit", 7, "--memory", 1, "--side", 64, "--device", "cpu", "-o", tmp_path
    )
    assert status == 0, errors
    assert "Nothing to score in judo" in shown
    (clip,) = json.loads((tmp_path / "report.json").read_text())["columns"][0]["clips"]
    assert (clip["frames"], clip["j"], clip["objects"]) == (7, None, [])
