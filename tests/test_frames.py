"""Frames in: videos, folders and animations, what is known of them, and what becomes of broken ones; movies out."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable, Iterable
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av.video.frame import VideoFrame
from clips import cut, decoded, grey_levels, scene, sound_packets, turn, write_frames, write_sound, write_video
from PIL import Image
from test_faults import mutated

from incontext.images.ids import Pixels
from incontext.video.frames import FOLDER_RATE, Frame, FramesError, open_frames
from incontext.video.sheet import MOST_CELLS, Sheet
from incontext.video.streams import Sound, SoundWarning, movie


def levels(frames: Iterable[Frame]) -> list[int]:
    """Which of the `grey_levels` the frames show."""
    return [round(float(frame.image.mean()) / 10) for frame in frames]


def readable(path: Path, **options: Any) -> tuple[list[Frame], tuple[str, ...]]:
    """The frames that can be read, and what is told of the others."""
    got: list[Frame] = []
    with open_frames(path, **options) as frames:
        try:
            got.extend(frames)
        except FramesError as error:
            return got, error.problems
    return got, ()


def corners() -> Pixels:
    """An image that looks different however it is turned or mirrored."""
    image = np.full((32, 48, 3), 30, np.uint8)
    image[:16, :24] = 230
    image[:16, 24:] = 150
    image[16:, :24] = 90
    return image


# -------------------------------------------------------------------------------------------------- videos


def test_a_video_is_read_frame_by_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", grey_levels(12), rate=10)
    with open_frames(path) as frames:
        assert (frames.size, frames.rate, frames.count, frames.sound) == ((32, 48), 10, 12, None)
        got = list(frames)
    assert [frame.number for frame in got] == list(range(12))
    assert levels(got) == list(range(12))
    assert [frame.seconds for frame in got] == pytest.approx([i / 10 for i in range(12)])
    assert [frame.name for frame in got][:2] == ["00000", "00001"]
    assert all(frame.image.dtype == np.uint8 and frame.image.shape == (32, 48, 3) for frame in got)


def test_pixels_of_a_lossless_video_are_those_of_its_images(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 31, 45, 3), np.uint8)
    path = write_video(tmp_path / "clip.mkv", list(noise), codec="ffv1", pixels="bgr0")
    got, problems = readable(path)
    assert problems == ()
    assert np.array_equal([frame.image for frame in got], noise)


def test_times_of_a_variable_rate_are_kept(tmp_path: Path) -> None:
    times = [0, 0.1, 0.5, 0.6, 1.6]
    got, _ = readable(write_video(tmp_path / "clip.mp4", grey_levels(5), times=times))
    assert [frame.seconds for frame in got] == pytest.approx(times, abs=2e-3)


def test_times_begin_at_the_first_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", grey_levels(3), times=[5, 5.1, 5.2], codec="ffv1", pixels="bgr0")
    got, problems = readable(path)
    assert [frame.seconds for frame in got] == pytest.approx([0, 0.1, 0.2], abs=2e-3)
    assert problems == ()


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).transpose(1, 0, 2)),
        ((1, 0, 0, 1), lambda image: image),
    ],
)
def test_frames_come_upright(
    tmp_path: Path, matrix: tuple[int, int, int, int], expected: Callable[[Pixels], Pixels]
) -> None:
    path = write_video(tmp_path / "clip.mp4", [corners()] * 2)
    turn(path, *matrix)
    upright = expected(corners())
    with open_frames(path) as frames:
        assert frames.size == upright.shape[:2]
        for frame in frames:
            assert np.abs(frame.image.astype(int) - upright).mean() < 4


@pytest.mark.slow
def test_frames_go_as_others_come(tmp_path: Path) -> None:
    """Without waiting for a garbage collection: they are large."""
    path = write_video(tmp_path / "clip.mp4", [corners()] * 20)
    turn(path, 0, 1, -1, 0)
    gc.collect()
    gc.disable()
    try:
        with open_frames(path) as frames:
            alive = [sum(type(each) is VideoFrame for each in gc.get_objects()) for _ in frames]
    finally:
        gc.enable()
    assert len(alive) == 20
    assert max(alive) < 10


@pytest.mark.parametrize("turned", [False, True])
def test_pixels_that_are_not_square_stay_so(tmp_path: Path, turned: bool) -> None:
    path = write_video(tmp_path / "clip.mp4", [corners()] * 2, pixel_aspect=Fraction(4, 3))
    if turned:
        turn(path, 0, 1, -1, 0)
    with open_frames(path) as frames:
        assert frames.pixel_aspect == (Fraction(3, 4) if turned else Fraction(4, 3))
        with movie(tmp_path / "out.mp4", frames.size, rate=frames.rate, pixel_aspect=frames.pixel_aspect) as made:
            for frame in frames:
                made.add(frame.seconds, frame.image)
        with open_frames(tmp_path / "out.mp4") as shown:
            assert (shown.pixel_aspect, shown.size) == (frames.pixel_aspect, frames.size)


def test_sound_is_seen(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", grey_levels(5), sound="aac")
    with open_frames(path) as frames:
        assert frames.sound == Sound(path, pytest.approx(0, abs=1e-3))
        assert levels(frames) == list(range(5))


def test_a_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "clip.mp4", grey_levels(2)).rename(tmp_path / "http:clip.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(readable(Path("http:clip.mp4"))[0]) == 2


# --------------------------------------------------------------------------------------- folders, animations


def test_a_folder_comes_in_natural_order(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "in", grey_levels(11))
    (folder / ".hidden.png").write_bytes((folder / "1.png").read_bytes())
    (folder / "notes.txt").touch()
    (folder / "sub.png").mkdir()
    with open_frames(folder) as frames:
        assert (frames.size, frames.rate, frames.count) == ((32, 48), FOLDER_RATE, 11)
        got = list(frames)
    assert [frame.name for frame in got] == [str(i) for i in range(11)]
    assert levels(got) == list(range(11))
    assert got[6].seconds == 0.25


@pytest.mark.parametrize(("suffix", "options"), [(".gif", {}), (".webp", {"lossless": True}), (".png", {})])
def test_an_animation_is_read(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    first, *rest = [Image.fromarray(image) for image in grey_levels(4)]
    path = tmp_path / f"moving{suffix}"
    first.save(path, save_all=True, append_images=rest, duration=[100, 200, 50, 50], loop=0, **options)
    with open_frames(path) as frames:
        assert (frames.size, frames.rate, frames.count) == ((32, 48), 10, 4)
        got = list(frames)
    assert levels(got) == [0, 1, 2, 3]
    assert [frame.seconds for frame in got] == pytest.approx([0, 0.1, 0.3, 0.35])


def test_a_still_image_is_one_frame(tmp_path: Path) -> None:
    Image.fromarray(corners()).save(tmp_path / "still.png")
    (frame,), problems = readable(tmp_path / "still.png")
    assert np.array_equal(frame.image, corners())
    assert problems == ()


# ------------------------------------------------------------------------------------------ some of them


@pytest.mark.parametrize("kind", ["video", "folder"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"start": 3}, range(3, 12)),
        ({"stop": 5}, range(5)),
        ({"start": 2, "stop": 3}, [2]),
        ({"every": 4}, [0, 4, 8]),
        ({"start": 1, "stop": 11, "every": 5}, [1, 6]),
        ({"start": timedelta(seconds=0.45)}, range(5, 12)),
        ({"start": timedelta(seconds=0.2), "stop": timedelta(seconds=0.8), "every": 2}, [2, 4, 6]),
        ({"stop": 99}, range(12)),
    ],
)
def test_some_frames_keep_their_numbers(
    tmp_path: Path, kind: str, options: dict[str, Any], expected: Iterable[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incontext.video.frames._Folder.rate", Fraction(10))
    path = tmp_path / "clip.mkv"
    if kind == "video":
        write_video(path, grey_levels(12), codec="ffv1", pixels="bgr0")
    else:
        write_frames(path, grey_levels(12))
    with open_frames(path, **options) as frames:
        count = frames.count
        got = list(frames)
    assert [frame.number for frame in got] == list(expected) == levels(got)
    assert count == len(got)
    assert got[0].name == (f"{got[0].number:05d}" if kind == "video" else str(got[0].number))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every": 0}, "expected every as a number of at least 1, got 0"),
        ({"start": -1}, "expected frames from 0 on to a later one, got -1 to the end"),
        ({"start": 5, "stop": 5}, "got 5 to 5"),
        ({"start": timedelta(seconds=2), "stop": timedelta(seconds=1.5)}, "got 2s to 1.5s"),
    ],
)
def test_choices_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        open_frames(tmp_path, **options)


def test_no_frame_among_those_asked_for_is_refused(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "in", grey_levels(3))
    with (
        open_frames(folder, start=3) as frames,
        pytest.raises(ValueError, match="expected frames from 3 to the end, found none"),
    ):
        list(frames)


# ---------------------------------------------------------------------------------------------- broken ones


@pytest.mark.parametrize("share", [0.45, 0.7])
@pytest.mark.parametrize("kind", ["mkv", "mp4"])
def test_of_a_video_that_was_cut_off_the_beginning_comes(tmp_path: Path, kind: str, share: float) -> None:
    noise = [np.random.default_rng(i).integers(0, 256, (32, 48, 3), np.uint8) for i in range(30)]
    path = tmp_path / f"clip.{kind}"
    if kind == "mkv":
        write_video(path, noise, codec="ffv1", pixels="bgr0")
    else:
        write_video(path, noise, options={"movflags": "faststart"})
    cut(path, share)
    got, problems = readable(path)
    assert 30 * share - 6 < len(got) < 30 * share + 4
    assert len(problems) == 1
    assert str(path) in problems[0]
    if kind == "mkv":
        assert np.array_equal(got[3].image, noise[3])


def test_a_video_whose_index_was_cut_off_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 64, 96, 3), np.uint8)
    path = write_video(tmp_path / "clip.mp4", list(noise))  # its index comes last
    cut(path, 0.6)
    with pytest.raises(ValueError, match=r"clip.mp4: expected a video, .* broken \("):
        open_frames(path)


def test_a_whole_video_with_longer_sound_has_no_problem(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", grey_levels(4), times=[0, 0.1, 0.2, 3], sound="aac")
    assert readable(path)[1] == ()


def test_a_broken_image_costs_one_frame(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "in", grey_levels(5))
    (folder / "0.png").write_text("none")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:40])
    got, problems = readable(folder)
    assert [frame.number for frame in got] == [1, 3, 4] == levels(got)
    assert [str(folder / name) in told for name, told in zip(("0.png", "2.png"), problems, strict=True)] == [True, True]


def test_a_frame_of_another_size_ends_it(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "in", [*grey_levels(3), *grey_levels(3, width=50)])
    got, problems = readable(folder)
    assert len(got) == 4 - 1
    assert "".join(problems).endswith(
        "frame 3 (3): expected 48 x 32 (width x height) as before, got 50 x 32; frames from there on were left out: "
        "give them by themselves"
    )


def test_an_animation_that_was_cut_off_gives_its_beginning(tmp_path: Path) -> None:
    noise = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 48, 3), np.uint8)) for i in range(6)]
    path = tmp_path / "moving.gif"
    noise[0].save(path, save_all=True, append_images=noise[1:], duration=100)
    cut(path, 0.6)
    got, problems = readable(path)
    assert 2 <= len(got) <= 4
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda path: path.write_bytes(b"no video at all" * 99),
            "expected a video, a folder of images or an animated",
        ),
        (lambda path: path.touch(), "expected a video, got an empty file"),
        (write_sound, "expected a video stream, found only audio"),
        (lambda path: path.mkdir(), "expected a folder with images in it, found none$"),
        (lambda path: write_frames(path / "frames", grey_levels(1)), "found none; is .*frames meant"),
    ],
)
def test_what_holds_no_frames_is_refused(tmp_path: Path, make: Callable[[Path], Any], sentence: str) -> None:
    make(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=sentence) as caught:
        open_frames(tmp_path / "clip.mp4")
    assert str(tmp_path / "clip.mp4") in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.mp4: there is no such file"):
        open_frames(tmp_path / "none.mp4")


def test_frames_that_share_a_name_are_refused(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "in", grey_levels(2))
    Image.fromarray(corners()).save(folder / "1.jpg")
    with pytest.raises(ValueError, match=r"got 1.jpg and 1.png"):
        open_frames(folder)


# --------------------------------------------------------------------------------------------------- movies


@pytest.mark.parametrize(("width", "height"), [(48, 32), (47, 33), (1, 1)])
def test_a_movie_shows_the_images_at_their_times(tmp_path: Path, width: int, height: int) -> None:
    times = [2, 2.1, 2.5, 2.6, 3.6]
    images = grey_levels(5, width=width, height=height)
    with movie(tmp_path / "out.mp4", (height, width), rate=Fraction(10)) as made:
        for seconds, image in zip(times, images, strict=True):
            made.add(seconds, image)
    shown = decoded(tmp_path / "out.mp4")
    assert [time for time, _ in shown] == pytest.approx([time - 2 for time in times], abs=1e-3)
    assert [round(float(image.mean()) / 10) for _, image in shown] == [0, 1, 2, 3, 4]
    assert shown[0][1].shape == (height + height % 2, width + width % 2, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_movie_keeps_colours(tmp_path: Path) -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, :32], image[:, 32:64], image[:, 64:] = (200, 40, 40), (40, 200, 40), (40, 40, 200)
    with movie(tmp_path / "out.mp4", (64, 96), rate=Fraction(10)) as made:
        made.add(0, image)
    got, _ = readable(tmp_path / "out.mp4")
    assert np.abs(got[0].image[8:-8, 8:24].astype(int) - image[8:-8, 8:24]).max() < 12
    assert np.abs(got[0].image[8:-8, 72:88].astype(int) - image[8:-8, 72:88]).max() < 12


def test_a_movie_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with movie(tmp_path / "out.mp4", (32, 48), rate=Fraction(10)) as made:
            made.add(0, grey_levels(1)[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def copied(source: Path, path: Path, **options: Any) -> list[tuple[float, bytes]]:
    """The sound of a movie of some of a source's frames."""
    with open_frames(source, **options) as frames:
        assert frames.sound is not None
        with movie(path, frames.size, rate=frames.rate, sound=frames.sound) as made:
            for frame in frames:
                made.add(frame.seconds, frame.image)
    return sound_packets(path)


def test_sound_is_copied_as_it_is(tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.mp4", grey_levels(20), sound="aac")
    before = [(time, packet) for time, packet in sound_packets(source) if time >= 0]
    after = copied(source, tmp_path / "out.mp4")
    assert len(before) >= 14
    assert abs(len(after) - len(before)) <= 1
    assert after == [(pytest.approx(time, abs=2e-3), packet) for time, packet in before[: len(after)]]
    assert len(decoded(tmp_path / "out.mp4")) == 20


def test_sound_of_some_frames_is_that_of_their_time(tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.mp4", grey_levels(25), sound="aac")
    after = copied(source, tmp_path / "out.mp4", start=10, stop=20)
    expected = [(time - 1, packet) for time, packet in sound_packets(source) if 1 <= time <= 2]
    assert len(expected) >= 7
    assert after == [(pytest.approx(time, abs=3e-3), packet) for time, packet in expected]


def test_sound_that_does_not_fit_is_left_out_with_a_warning(tmp_path: Path) -> None:
    source = write_video(tmp_path / "clip.mkv", grey_levels(5), sound="pcm_u8")
    with pytest.warns(SoundWarning, match="cannot be copied into an MP4"):
        assert copied(source, tmp_path / "out.mp4") == []
    assert len(decoded(tmp_path / "out.mp4")) == 5


# ---------------------------------------------------------------------------------------------------- sheet


@pytest.mark.parametrize("count", [1, 5, 12, 13, 500])
def test_a_contact_sheet_shows_frames_evenly(tmp_path: Path, count: int) -> None:
    drawn: list[int] = []
    sheet = Sheet()
    for number in range(count):

        def draw(number: int = number) -> Pixels:
            drawn.append(number)
            return np.full((20, 40, 3), number % 256, np.uint8)

        sheet.add(str(number), draw)
        assert len(sheet._kept) < 2 * MOST_CELLS
    sheet.write(tmp_path / "sheet.jpg")
    with Image.open(tmp_path / "sheet.jpg") as image:
        cells = min(count, MOST_CELLS)
        assert image.size == (8 + min(4, cells) * 48, 8 + -(-cells // 4) * 48)
    assert len(drawn) <= 12 * (1 + int(np.log2(max(count, 12) / 12)) + 1)
    assert drawn[0] == 0


def test_mutated_videos_are_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    """INCONTEXT_MUTATIONS sets how many; a release is tried with 200 and more."""
    chance = random.Random(11)
    count = max(24, int(os.environ.get("INCONTEXT_MUTATIONS", "24")) // 10)
    kinds = {".mp4": {}, ".mkv": {"codec": "ffv1", "pixels": "bgr0"}, ".avi": {"codec": "mjpeg", "pixels": "yuvj420p"}}
    images = [scene(number) for number in range(6)]
    originals = {
        kind: write_video(tmp_path / f"whole{kind}", images, **options).read_bytes()  # type: ignore[arg-type]
        for kind, options in kinds.items()
    }
    before = {path.name for path in tmp_path.iterdir()}
    read = refused = 0
    for number in range(count):
        kind = sorted(originals)[number % len(originals)]
        path = tmp_path / f"broken{kind}"
        path.write_bytes(mutated(originals[kind], chance))
        sentence = ""
        try:
            with open_frames(path) as frames:
                sum(1 for _ in zip(frames, range(60), strict=False))
        except (ValueError, OSError) as error:
            sentence = str(error).strip()
        assert "\n" not in sentence
        read, refused = read + (sentence == ""), refused + (sentence != "")
        path.unlink()
    assert read + refused == count
    assert read
    assert refused
    assert {path.name for path in tmp_path.iterdir()} == before
