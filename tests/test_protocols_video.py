"""The video benchmarks: layouts, late objects and frames without masks, official scores, what servers take."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from stand_ins import SIZE, box, davis, mose, moving, youtube_vos
from vos_benchmark.benchmark import benchmark as vos_benchmark

from incontext.evaluation.protocols.benchmarks import BENCHMARKS
from incontext.evaluation.protocols.lists import read_list, write_list
from incontext.evaluation.protocols.outcome import Outcome
from incontext.evaluation.protocols.report import comparison, to_page
from incontext.evaluation.protocols.video import (
    ARCHIVE,
    MASKS,
    Answers,
    check_given,
    given_at,
    listed_videos,
    run_video,
    video_content,
    video_outcome,
    write_archive,
)
from incontext.evaluation.protocols.video_data import Videos, read_videos
from incontext.evaluation.video.scoring import CopiedMask, VideoJournal, VideoMethod, VideoReport
from incontext.images.ids import Pixels
from incontext.images.masks import read_mask

DAVIS_2016, DAVIS_2017, YOUTUBE_VOS, MOSE = (
    BENCHMARKS[name] for name in ("davis-2016", "davis-2017", "youtube-vos", "mose")
)


class Shifted:
    """Follows objects that go right by a column each frame, only too fast: by two."""

    asked: list[tuple[bool, tuple[int, ...]]] = []  # noqa: RUF012  a frame with a mask, and the ids that it gave

    def __init__(self) -> None:
        self.mask = np.zeros(SIZE, np.uint8)

    def step(self, _frame: Pixels, mask: Pixels | None = None, /) -> Pixels:
        self.mask = np.roll(self.mask, 2, axis=1)
        given = () if mask is None else tuple(i for i in np.unique(mask).tolist() if i)
        Shifted.asked.append((mask is not None, given))
        if mask is not None:
            self.mask = np.where(mask > 0, mask, self.mask)
        return self.mask


SHIFTED = VideoMethod("shifted", Shifted)
COPIED = VideoMethod("copied", CopiedMask)


def followed(method: VideoMethod, videos: Videos, out: Path) -> tuple[VideoReport, Answers]:
    out.mkdir(exist_ok=True)
    Shifted.asked = []
    with VideoJournal(out / "clips.jsonl", {}) as journal:
        answers = Answers(out, videos, journal)
        return run_video(method, answers), answers


def scores_of_vos_benchmark(truth: Path, answers: Path, *, ends: bool) -> Mapping[str, tuple[dict, dict]]:  # type: ignore[type-arg]
    """video -> J and F of each object, 0..100; ends: leave out the first and the last frame."""
    *_, per_object = vos_benchmark(
        [str(truth)], [str(answers)], strict=False, num_processes=1, verbose=False, skip_first_and_last=ends
    )
    return per_object[0]  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------- DAVIS


@pytest.mark.parametrize("method", [SHIFTED, COPIED])
def test_davis_2017_has_the_figures_of_vos_benchmark(tmp_path: Path, method: VideoMethod) -> None:
    videos = read_videos(DAVIS_2017, davis(tmp_path))
    assert [clip.name for clip in videos.clips] == ["bear", "cow"]
    report, answers = followed(method, videos, tmp_path / "out")
    theirs = scores_of_vos_benchmark(videos.root / "Annotations/480p", tmp_path / "out" / MASKS, ends=True)
    (column,) = report.columns
    for clip in column.clips:
        j, f = theirs[clip.name]
        assert {each.id: 100 * each.j.mean for each in clip.objects} == pytest.approx(j)
        assert {each.id: 100 * each.f.mean for each in clip.objects} == pytest.approx(f)
    every = [value for j, _ in theirs.values() for value in j.values()]
    assert column.j is not None
    assert 100 * column.j.mean == pytest.approx(np.mean(every))
    outcome = video_outcome(DAVIS_2017, report, answers)
    assert [figure.name for figure in outcome.figures] == ["J&F", "J", "F"]
    assert outcome.figures[1].value == column.j.mean
    low, high = outcome.figures[0].interval or (1, 0)
    assert low <= outcome.figures[0].value <= high


def test_figures_by_hand(tmp_path: Path) -> None:
    """A box of 8 columns that is `shift` columns off is met by (8 - shift) / (8 + shift)."""
    report, _ = followed(SHIFTED, read_videos(DAVIS_2017, davis(tmp_path)), tmp_path / "out")
    bear, cow = report.columns[0].clips
    iou = {shift: (8 - shift) / (8 + shift) for shift in (1, 2, 3)}
    assert [each.j.mean for each in bear.objects] == pytest.approx([np.mean([iou[1], iou[2], iou[3]])] * 2)
    assert [each.j.mean for each in cow.objects] == pytest.approx([np.mean([iou[1], iou[2]])] * 2)
    assert report.columns[0].objects == 4


def test_davis_2016_is_about_one_object(tmp_path: Path) -> None:
    videos = read_videos(DAVIS_2016, davis(tmp_path))
    assert [clip.name for clip in videos.clips] == ["bear"]  # as its own list has it
    report, answers = followed(COPIED, videos, tmp_path / "out")
    assert report.columns[0].objects == 1
    assert np.unique(answers.read(videos.clips[0], 2)).tolist() == [0, 1]


def test_missing_lists_and_frames_are_named(tmp_path: Path) -> None:
    root = davis(tmp_path) / "DAVIS"
    shutil.rmtree(root / "JPEGImages/480p/cow")
    with pytest.raises(FileNotFoundError, match="JPEGImages/480p/cow: there is no such folder, but clip cow needs it"):
        read_videos(DAVIS_2017, tmp_path)
    (root / "ImageSets/2017/val.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"ImageSets/2017/val\.txt; there is ImageSets/2016/val\.txt"):
        read_videos(DAVIS_2017, tmp_path)
    shutil.rmtree(root / "ImageSets")
    with pytest.raises(FileNotFoundError, match=r"DAVIS 2017: expected .*ImageSets \(the lists of the splits\)"):
        read_videos(DAVIS_2017, tmp_path)


def test_archives_are_the_same_for_the_same_masks(tmp_path: Path) -> None:
    videos = read_videos(DAVIS_2017, davis(tmp_path))
    contents = []
    for name in ("one", "two"):
        _, answers = followed(COPIED, videos, tmp_path / name)
        contents.append(write_archive(DAVIS_2017, answers).read_bytes())
    assert contents[0] == contents[1]
    with zipfile.ZipFile(tmp_path / "one" / ARCHIVE) as archive:
        assert archive.namelist()[0] == "bear/00000.png"


# --------------------------------------------------------------------------------------------- YouTube-VOS


def test_youtube_vos_gives_late_objects_when_they_come(tmp_path: Path) -> None:
    videos = read_videos(YOUTUBE_VOS, youtube_vos(tmp_path))
    (clip,) = videos.clips
    assert videos.root.name == "valid"
    assert given_at(clip) == {1: 0, 2: 2}
    report, answers = followed(COPIED, videos, tmp_path / "out")
    assert report.unscored == ("0a1b",)
    first, later = moving(1, 6, top=0)[0], moving(2, 6, top=12)[2]
    np.testing.assert_array_equal(answers.read(clip, 1), first)
    np.testing.assert_array_equal(answers.read(clip, 2), np.maximum(first, later))
    outcome = video_outcome(YOUTUBE_VOS, report, answers)
    assert outcome.figures == ()
    assert any("hand in submission.zip" in sentence for sentence in outcome.sentences)
    assert len(outcome.shown) == 1


def test_the_archive_of_youtube_vos_is_what_its_server_takes(tmp_path: Path) -> None:
    """Annotations/VIDEO/FRAME.png of the frames that meta.json names, indexed, in their size and the given colours."""
    videos = read_videos(YOUTUBE_VOS, youtube_vos(tmp_path))
    _, answers = followed(COPIED, videos, tmp_path / "out")
    path = write_archive(YOUTUBE_VOS, answers)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"Annotations/0a1b/{number:05}.png" for number in range(0, 30, 5)]
        archive.extractall(tmp_path / "taken")
    masks = [read_mask(file) for file in sorted((tmp_path / "taken/Annotations/0a1b").iterdir())]
    given = read_mask(next(iter(videos.clips[0].masks.values())))
    for mask in masks:
        assert mask.ids.shape == SIZE
        assert mask.colors is not None
        assert given.colors is not None
        np.testing.assert_array_equal(mask.colors[:3], given.colors[:3])


def test_frames_in_between_are_followed_and_not_handed_in(tmp_path: Path) -> None:
    videos = read_videos(YOUTUBE_VOS, youtube_vos(tmp_path), all_frames=True)
    (clip,) = videos.clips
    assert len(clip.frames) == 26
    assert videos.wanted["0a1b"] == (0, 5, 10, 15, 20, 25)
    _, answers = followed(SHIFTED, videos, tmp_path / "out")
    assert [number for number, (is_given, _) in enumerate(Shifted.asked) if is_given] == [0, 10]
    assert Shifted.asked[10] == (True, (2,))
    assert len(Shifted.asked) == 26
    np.testing.assert_array_equal(answers.read(clip, 5), box(1, 0, 10, 8, 8))  # five steps of two columns
    with zipfile.ZipFile(write_archive(YOUTUBE_VOS, answers)) as archive:
        assert len(archive.namelist()) == 6


def test_where_all_masks_are_there_an_object_counts_after_its_first_frame(tmp_path: Path) -> None:
    """vos-benchmark counts the frame of a given mask, too: one frame of J = 1 for each object."""
    videos = read_videos(YOUTUBE_VOS, youtube_vos(tmp_path), split="train")
    report, answers = followed(SHIFTED, videos, tmp_path / "out")
    first, later = report.columns[0].clips[0].objects
    assert (first.frames, later.frames) == (5, 3)  # of 6, and of 4 from the third on
    (jf,) = scores_of_vos_benchmark(tmp_path / "train/Annotations", tmp_path / "out" / MASKS, ends=False).values()
    j, f = jf
    assert (100 * first.j.mean * 5 + 100) / 6 == pytest.approx(j[1])
    assert (100 * later.j.mean * 3 + 100) / 4 == pytest.approx(j[2])
    assert (100 * later.f.mean * 3 + 100) / 4 == pytest.approx(f[2])
    outcome = video_outcome(YOUTUBE_VOS, report, answers)
    assert [figure.name for figure in outcome.figures] == ["J&F", "J", "F"]  # all its categories are seen in training


def test_g_is_the_mean_over_seen_and_unseen_categories(tmp_path: Path) -> None:
    root = youtube_vos(tmp_path)
    shutil.rmtree(root / "valid/JPEGImages/0a1b")
    shutil.rmtree(root / "valid/Annotations/0a1b")
    for kind in ("JPEGImages", "Annotations"):
        shutil.copytree(root / "train" / kind / "ffff", root / "valid" / kind / "ffff")
    meta = json.loads((root / "train/meta.json").read_text())
    meta["videos"]["ffff"]["objects"]["2"]["category"] = "otter"
    (root / "valid/meta.json").write_text(json.dumps(meta))
    videos = read_videos(YOUTUBE_VOS, root)
    assert videos.seen == {"bear", "cat"}
    report, answers = followed(SHIFTED, videos, tmp_path / "out")
    bear, otter = report.columns[0].clips[0].objects
    figures = {figure.name: figure.value for figure in video_outcome(YOUTUBE_VOS, report, answers).figures}
    assert figures["J, seen"] == bear.j.mean
    assert figures["F, unseen"] == otter.f.mean
    assert figures["G"] == pytest.approx((bear.j.mean + bear.f.mean + otter.j.mean + otter.f.mean) / 4)


def test_frames_that_meta_json_names_must_be_there(tmp_path: Path) -> None:
    root = youtube_vos(tmp_path)
    (root / "valid/JPEGImages/0a1b/00015.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"JPEGImages/0a1b/00015\.jpg: expected this frame, which meta\.json"):
        read_videos(YOUTUBE_VOS, root)
    with pytest.raises(FileNotFoundError, match="expected a folder test with YouTube-VOS"):
        read_videos(YOUTUBE_VOS, root, split="test")
    with pytest.raises(ValueError, match="expected --all-frames with youtube-vos only"):
        read_videos(MOSE, mose(tmp_path / "mose"), all_frames=True)


# ---------------------------------------------------------------------------------------------------- MOSE


def test_mose(tmp_path: Path) -> None:
    root = mose(tmp_path)
    videos = read_videos(MOSE, root)
    report, answers = followed(COPIED, videos, tmp_path / "out")
    assert report.unscored == ("7f2c",)
    with zipfile.ZipFile(write_archive(MOSE, answers)) as archive:
        assert archive.namelist() == [f"7f2c/{number:05}.png" for number in range(5)]
    training = read_videos(MOSE, root, split="train")
    report, _ = followed(SHIFTED, training, tmp_path / "scored")
    (jf,) = scores_of_vos_benchmark(root / "train/Annotations", tmp_path / "scored" / MASKS, ends=True).values()
    assert {each.id: 100 * each.j.mean for each in report.columns[0].clips[0].objects} == pytest.approx(jf[0])


# ------------------------------------------------------------------------------------- resuming, lists, pages


def test_a_video_is_followed_again_only_where_its_masks_are_gone(tmp_path: Path) -> None:
    videos = read_videos(DAVIS_2017, davis(tmp_path))
    first, _ = followed(SHIFTED, videos, tmp_path / "out")
    again, _ = followed(SHIFTED, videos, tmp_path / "out")
    assert Shifted.asked == []
    assert again.columns[0].j == first.columns[0].j
    (tmp_path / "out" / MASKS / "cow/00002.png").unlink()
    followed(SHIFTED, videos, tmp_path / "out")
    assert len(Shifted.asked) == 4


def test_lists_of_videos_hold_others_to_the_same(tmp_path: Path) -> None:
    root, path = youtube_vos(tmp_path), tmp_path / "videos.json"
    videos = read_videos(YOUTUBE_VOS, root)
    write_list(path, YOUTUBE_VOS, video_content(videos))
    document = read_list(path, YOUTUBE_VOS)
    assert document["clips"] == [{"name": "0a1b", "objects": {"1": "00000", "2": "00010"}}]
    again = read_videos(YOUTUBE_VOS, root, names=listed_videos(path, document))
    check_given(path, document, again)
    document["clips"][0]["objects"]["2"] = "00005"
    with pytest.raises(ValueError, match="in 0a1b, the data give"):
        check_given(path, document, again)
    with pytest.raises(ValueError, match=r"expected videos of .*Annotations, got none"):
        read_videos(YOUTUBE_VOS, root, names=["none"])


def test_the_page_shows_clips(tmp_path: Path) -> None:
    report, answers = followed(SHIFTED, read_videos(DAVIS_2017, davis(tmp_path)), tmp_path / "out")
    outcome: Outcome = video_outcome(DAVIS_2017, report, answers)
    assert [(each.rank, each.captions[0]) for each in outcome.shown] == [("best", "cow"), ("worst", "bear")]
    page = to_page(outcome, {}, "tiny")
    assert page.count("data:image/jpeg") == 6
    assert "Best, median and worst clips" in page
    rows = {row[0]: row for row in comparison(outcome, "tiny").rows}
    assert rows["Cutie-base+"][1] == "88.1"


def test_limits_are_of_frames(tmp_path: Path) -> None:
    videos = read_videos(DAVIS_2017, davis(tmp_path), limit=3)
    assert [len(clip.frames) for clip in videos.clips] == [3, 3]
    assert videos.wanted == {"bear": (0, 1, 2), "cow": (0, 1, 2)}
