"""Metrics by hand, episodes on tiny generated sets, the protocol against known figures of the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from incontext.evaluation import AnswerJournal, FewShotReport, Method, SetScore, evaluate, read_episodes, read_sets
from incontext.evaluation.few_shot.baselines import BASELINES, color_histogram
from incontext.evaluation.few_shot.episodes import Absent, EpisodeSet, related
from incontext.evaluation.few_shot.scoring import Found
from incontext.evaluation.metrics import (
    ConfidenceTally,
    Overlap,
    interval,
    mean,
    overlap,
    resampled_mean_iou,
    resamples,
)
from incontext.images.ids import Pixels
from incontext.types import Palette, Prompt, Segmentation

PALETTE = Palette.spread([1])


def method(predict: Any, name: str = "it") -> Method:
    """A method from a function for one query."""
    return Method(name, lambda queries, prompts: (predict(query, prompts) for query in queries))


def bools(rows: Sequence[str]) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def test_overlap_leaves_ignored_pixels_out() -> None:
    found, truth, ignored = bools(["##.", "##."]), bools([".##", ".#."]), bools(["...", "#.."])
    assert overlap(found, truth, ignored) == Overlap(2, 4)
    assert overlap(found, truth, ~bools(["...", "..."])) == Overlap(0, 0)


def test_overlaps_are_summed_before_they_are_divided() -> None:
    assert (Overlap(1, 2) + Overlap(0, 8)).iou == 0.1  # not the mean of .5 and 0


def test_nothing_there_and_nothing_found_is_right() -> None:
    assert Overlap().iou == 1.0


@pytest.mark.parametrize(
    "shapes",
    [((2, 3), (3, 2), (2, 3)), ((2, 3), (2, 3), (1, 3)), ((6,), (6,), (6,))],
    ids=["turned", "broadcast", "flat"],
)
def test_masks_of_different_shapes_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(H, W\) arrays of one shape"):
        overlap(*(np.zeros(shape, np.bool_) for shape in shapes))


def test_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean([])


def test_confidence_tally_by_hand() -> None:
    confidence = np.array([[0.1, 0.4, 0.6, 0.9]], np.float32)
    right, ignored = np.array([[False, True, True, True]]), np.array([[False, False, False, True]])
    tally = ConfidenceTally.of(confidence, right, ignored) + ConfidenceTally.of(confidence, right, ignored)
    assert tally.pixels.sum(axis=1).tolist() == [2, 4]
    np.testing.assert_allclose(tally.total.sum(axis=1), [0.2, 2.0], rtol=1e-6)
    assert (tally.below(0.1), tally.below(0.5), tally.below(1)) == ((0, 0), (2, 2), (2, 4))
    # three bins of two pixels each: |0 - .1|, |1 - .4| and |1 - .6|
    assert tally.calibration_error == pytest.approx((0.1 + 0.6 + 0.4) / 3)
    assert ConfidenceTally.empty().calibration_error is None
    with pytest.raises(ValueError, match=r"multiple of 0\.05"):
        tally.below(0.33)


def test_the_ends_of_confidence_have_bins() -> None:
    tally = ConfidenceTally.of(np.array([[0.0, 1.0]], np.float32), bools(["##"]), bools([".."]))
    assert np.flatnonzero(tally.pixels[1]).tolist() == [0, 19]


def test_bootstrap_by_hand() -> None:
    """Two classes; drawn: each once, the first episode alone, and the last alone, which leaves class 1 out."""
    drawn = np.array([[1, 1, 1], [3, 0, 0], [0, 0, 3]])
    overlaps = np.array([[1, 4], [3, 4], [1, 2]], np.float64)
    found = resampled_mean_iou(drawn, np.array([1, 1, 7]), overlaps)
    np.testing.assert_allclose(found, [(4 / 8 + 1 / 2) / 2, 1 / 4, 1 / 2])


def test_bootstrap_intervals_narrow_with_more_episodes() -> None:
    def width(episodes: int) -> float:
        overlaps = np.stack([np.arange(episodes) % 2, np.ones(episodes)], axis=1)
        low, high = interval(resampled_mean_iou(resamples(episodes, 0), np.zeros(episodes, np.int64), overlaps))
        assert low < 0.5 < high
        return high - low

    assert width(400) == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)
    assert width(16) > 3 * width(400)
    assert np.array_equal(resamples(9, 3), resamples(9, 3))
    assert (resamples(9, 3).sum(axis=1) == 9).all()


def write_set(data: Path, name: str, masks: dict[str, np.ndarray]) -> None:
    """Images whose red channel tells the mask: 10 * id."""
    for folder in ("images", "masks"):
        (data / name / folder).mkdir(parents=True)
    for stem, mask in masks.items():
        image = np.zeros((*mask.shape, 3), np.uint8)
        image[..., 0] = 10 * mask
        Image.fromarray(image).save(data / name / "images" / f"{stem}.png")
        indexed = Image.fromarray(mask)
        indexed.putpalette(np.arange(768, dtype=np.uint16).astype(np.uint8).tobytes())
        indexed.save(data / name / "masks" / f"{stem}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """8 x 8 images, which 224 x 224 enlarges by exactly 28.

    parts: query a is half id 1, a quarter id 2, a quarter ignored; query b is all background.
    things: instances 1 and 2.
    """
    a, b, prompt = (np.zeros((8, 8), np.uint8) for _ in range(3))
    a[:, :4], a[:4, 4:], a[4:, 4:] = 1, 2, 255
    prompt[:, :2], prompt[0, 7], prompt[7, 7] = 1, 2, 255
    write_set(tmp_path, "parts", {"a": a, "b": b, "p": prompt, "q": prompt[:, ::-1].copy()})
    things = np.zeros((8, 8), np.uint8)
    things[:2], things[6:] = 1, 2
    write_set(tmp_path, "things", {"a": things, "p": things.T.copy()})
    parts = [{"id": i, "query": q, "prompts": ["p", "q"]} for i, q in ((1, "a"), (1, "b"), (2, "a"))]
    sets = {
        "parts": {"instances_as_one": False, "episodes": parts},
        "things": {"instances_as_one": True, "episodes": [{"id": 1, "query": "a", "prompts": ["p"]}]},
    }
    (tmp_path / "episodes.json").write_text(json.dumps(sets))
    return tmp_path


def one(predict: Any, data: Path, **options: Any) -> tuple[FewShotReport, tuple[SetScore, ...]]:
    """The report, and the sets of its only column."""
    names = options.pop("sets", None)
    report = evaluate([method(predict)], read_sets(data, names=names), **options)
    return report, report.columns[0].sets


def baseline(name: str) -> Any:
    (found,) = (each for each in BASELINES if each.name == name)
    return lambda query, prompts: next(iter(found.predict([query], prompts)))


def whole(query: Pixels, _prompts: Sequence[Prompt]) -> np.ndarray:
    return np.ones(query.shape[:2], np.bool_)


def nothing(query: Pixels, _prompts: Sequence[Prompt]) -> np.ndarray:
    return np.zeros(query.shape[:2], np.uint8)


def test_everything_is_foreground_by_hand(data: Path) -> None:
    report, (parts, things) = one(baseline("everything"), data)
    # id 1: 32 of 48 scored pixels in a, none of 64 in b; id 2: 16 of 48
    assert parts.class_iou == {1: pytest.approx(32 / 112), 2: pytest.approx(16 / 48)}
    assert parts.mean_iou == pytest.approx((32 / 112 + 16 / 48) / 2)
    assert parts.fb_iou == pytest.approx((48 / 160 + 0) / 2)
    assert parts.episode_iou == pytest.approx((32 / 48, 0, 16 / 48))
    assert things.mean_iou == pytest.approx(0.5), "both instances are foreground"
    (column,) = report.columns
    assert column.mean_iou == pytest.approx(mean([parts.mean_iou, things.mean_iou]))
    assert column.mean_iou_interval[0] <= column.mean_iou <= column.mean_iou_interval[1]
    assert column.confidence is None


def test_copying_the_mask_by_hand(data: Path) -> None:
    # id 1: 16 of a's 32; in b 16 that are wrong. id 2: the prompt's corner, one of a's 16
    _, (parts,) = one(baseline("copy the mask"), data, sets=["parts"])
    assert parts.class_iou == {1: pytest.approx(16 / 48), 2: pytest.approx(1 / 16)}
    # two shots, each votes for its own side and one vote of two is enough: 8 scored ones wrong in a
    _, (parts,) = one(baseline("copy the mask"), data, sets=["parts"], shots=[2])
    assert parts.class_iou[1] == pytest.approx(16 / (32 + 8 + 32))


def test_color_histogram_finds_the_prompts_colors(data: Path) -> None:
    _, (things,) = one(baseline("colour histogram"), data, sets=["things"])
    assert things.mean_iou == 0.5, "colours 10 and 20: 10 shares its bin with the black ground"
    dark, bright = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 200, np.uint8)
    prompt = Prompt(np.concatenate([dark, bright]), np.repeat([0, 1], 4)[:, None].repeat(4, axis=1).astype(np.uint8))
    (found,) = color_histogram([np.concatenate([bright, dark])], [prompt])
    np.testing.assert_array_equal(found, np.repeat([True, False], 4)[:, None].repeat(4, axis=1))


def test_what_is_shown_to_the_method(data: Path) -> None:
    """Only the asked id, as 1; ignored pixels stay ignored; instances become one; the number of shots is kept."""
    seen: list[tuple[Pixels, Sequence[Prompt]]] = []

    def look(query: Pixels, prompts: Sequence[Prompt]) -> np.ndarray:
        seen.append((query, prompts))
        return nothing(query, prompts)

    without = [
        replace(each, episodes=tuple(replace(e, absent=None) for e in each.episodes)) for each in read_sets(data)
    ]
    evaluate([method(look)], without[:1], shots=[2])
    assert [[np.bincount(p.mask.ravel(), minlength=256)[[0, 1, 2, 255]].tolist() for p in ps] for _, ps in seen] == [
        [[47, 16, 0, 1]] * 2,
        [[47, 16, 0, 1]] * 2,
        [[62, 1, 0, 1]] * 2,
    ]
    seen.clear()
    evaluate([method(look)], without[1:])
    ((query, (prompt,)),) = seen
    assert query.shape == (8, 8, 3)
    assert prompt.ids == (1,)
    assert (prompt.mask == 1).sum() == 32


def test_limit_spreads_over_the_set_and_progress_is_told(data: Path) -> None:
    calls: list[tuple[int, int]] = []
    sets = read_sets(data, names=["parts"], limit=2)
    report = evaluate([method(whole)], sets, on_episode=lambda done, total: calls.append((done, total)))
    assert sorted(report.columns[0].sets[0].class_iou) == [1, 2]
    assert calls == [(1, 2), (2, 2)]


def test_several_methods_and_shots_in_one_pass(data: Path) -> None:
    """Each column is what it would be alone; what uses no prompts is asked once; workers change nothing."""
    sets = read_sets(data, names=["parts"])
    methods = [method(whole, "whole"), replace(method(nothing, "late"), fewest_shots=2), *BASELINES]
    report = evaluate(methods, sets, shots=[1, 2])
    asked = [(each.method, each.shots) for each in report.columns]
    assert asked[:3] == [("whole", 1), ("whole", 2), ("late", 2)]
    assert [shots for name, shots in asked if name == "everything"] == [1]
    assert report.column("everything", 1).mean_iou == report.column("whole", 2).mean_iou
    assert report.column("late", 2).mean_iou == 0
    (alone,) = evaluate(BASELINES[:1], sets, shots=[2]).columns
    assert report.column("copy the mask", 2).mean_iou == alone.mean_iou
    again = evaluate(methods, sets, shots=[1, 2], workers=3)
    assert timeless(again) == timeless(report)
    with pytest.raises(ValueError, match=r"late with 2.*got late with 1"):
        report.column("late", 1)


def timeless(report: FewShotReport) -> FewShotReport:
    columns = (replace(c, seconds=0, sets=tuple(replace(s, seconds=0) for s in c.sets)) for c in report.columns)
    return replace(report, columns=tuple(columns))


def test_images_are_decoded_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from incontext.evaluation.few_shot import images

    read: list[Path] = []
    original = images.read_image
    monkeypatch.setattr(images, "read_image", lambda path: read.append(path) or original(path))
    evaluate([method(whole), *BASELINES], read_sets(data, names=["parts"]), shots=[1, 2])
    assert len(read) == len(set(read)) == 4


def test_confidence_is_reported(data: Path) -> None:
    """An answer that is sure in the left half and unsure in the right one."""

    def unsure(_query: Pixels, _prompts: Sequence[Prompt]) -> Found:
        mask, confidence = np.zeros((8, 8), np.uint8), np.full((8, 8), 0.2, np.float32)
        mask[:, :4], confidence[:, :4] = 1, 0.8
        return Segmentation(mask, confidence, PALETTE)

    report, _ = one(unsure, data, sets=["parts"])
    known = report.columns[0].confidence
    assert known is not None
    # right: a asked for 1: 48; b: 32; a asked for 2: 0. wrong: 0, 32, 32 + 16
    assert known.mean_right == pytest.approx((32 * 0.8 + 16 * 0.2 + 32 * 0.2) / 80)
    assert known.mean_wrong == pytest.approx((32 * 0.8 + 32 * 0.8 + 16 * 0.2) / 80)
    row = known.thresholds.index(0.5)
    assert known.wrong_rejected[row] == pytest.approx(16 / 80)
    assert known.right_rejected[row] == pytest.approx(48 / 80)
    assert known.wrong_below[row] == pytest.approx(16 / 64)
    assert known.wrong_below[0] is None, "nothing lies below 0.1"
    assert [known.bin_pixels[4], known.bin_pixels[16]] == [pytest.approx(64 / 160), pytest.approx(96 / 160)]
    assert [known.bin_right[4], known.bin_right[16]] == [pytest.approx(48 / 64), pytest.approx(32 / 96)]
    assert known.bin_confidence[16] == pytest.approx(0.8)
    assert known.calibration_error == pytest.approx((64 * (48 / 64 - 0.2) + 96 * (0.8 - 32 / 96)) / 160)


# ------------------------------------------------------------------------------------- absence


def describe_sets(data: Path) -> None:
    """ "parts" is about wheels and doors, "things" about snow."""
    parts = {"what": "parts of cars", "classes": {"1": "wheel", "2": "door"}}
    (data / "parts" / "dataset.json").write_text(json.dumps(parts))
    (data / "things" / "dataset.json").write_text(json.dumps({"what": "snow", "masks": "instances"}))


def test_queries_without_the_thing(data: Path) -> None:
    """An image of the same set if there is one: b shows nothing. Else one of a set about other things."""
    assert [e.absent for e in read_sets(data)[0].episodes] == [Absent("parts", "b")] * 3
    (things,) = read_sets(data)[1].episodes
    assert things.absent is None, "nobody says what the other set shows"
    describe_sets(data)
    (things,) = read_sets(data)[1].episodes
    assert things.absent is not None
    assert things.absent.set == "parts"
    (things,) = read_sets(data, names=["things"])[0].episodes
    assert things.absent is None


def test_absence_is_scored(data: Path) -> None:
    describe_sets(data)

    def snow_only(query: Pixels, _prompts: Sequence[Prompt]) -> np.ndarray:
        return query[..., 0] == 20  # id 2 of all images but b

    report, (parts, _) = one(snow_only, data)
    (column,) = report.columns
    # things in a and b of parts; a has 20 where id 2 is, so asked for 1 it is lost. b has nothing to lose
    assert parts.lost == pytest.approx(1 / 2)
    assert column.lost == pytest.approx(1 / 3)
    assert column.absence is not None
    assert (column.absence.asked, column.absence.own_asked, column.absence.own_empty) == (4, 3, 1)
    assert one(whole, data)[0].columns[0].absence.empty == 0  # type: ignore[union-attr]


def test_absence_is_asked_at_the_fewest_shots(data: Path) -> None:
    sets = read_sets(data, names=["parts"])
    report = evaluate([method(nothing)], sets, shots=[2, 1])
    assert report.column("it", 2).absence is None
    found = report.column("it", 1)
    assert found.absence is not None
    assert (found.absence.asked, found.absence.empty) == (3, 1)
    assert found.lost == 1


@pytest.mark.parametrize(
    ("what", "classes", "is_related"),
    [
        ("roads from the air", {}, True),
        ("cows", {1: "cow"}, False),
        ("cows in a street", {}, True),
        ("", {}, True),
        ("photographs", {1: "label"}, True),
    ],
)
def test_sets_that_share_a_word_are_related(what: str, classes: dict[int, str], is_related: bool) -> None:
    asked = EpisodeSet("a", False, (), Path(), "streets, with classes", {1: "road", 2: "sky"})
    other = EpisodeSet("b", False, (), Path(), what, classes)
    assert related(asked, 1, other) == is_related


# ------------------------------------------------------------------------------- drawn episodes


def many(data: Path, count: int = 9) -> Path:
    """Images p0.. with id 1 in all and id 2 in the even ones, id 3 in one."""
    masks = {}
    for number in range(count):
        mask = np.zeros((8, 8), np.uint8)
        mask[:3] = 1
        mask[4:6] = 2 * (number % 2 == 0)
        mask[7] = 3 * (number == 0)
        masks[f"p{number}"] = mask
    write_set(data, "many", masks)
    return data / "many"


def test_drawn_episodes_follow_the_protocol(tmp_path: Path) -> None:
    folder = many(tmp_path)
    with pytest.warns(UserWarning, match="fewer than 4 images show them: id 3"):
        (drawn,) = read_sets(folder, drawn=200, prompts=3)
    assert (drawn.name, len(drawn.episodes)) == ("many", 200)
    even = {f"p{n}" for n in range(0, 9, 2)}
    for episode in drawn.episodes:
        images = {episode.query, *episode.prompts}
        assert len(images) == 4
        assert episode.id == 1 or (episode.id == 2 and images <= even)
    assert sum(episode.id == 1 for episode in drawn.episodes) == pytest.approx(100, abs=30)
    queries = {episode.query for episode in drawn.episodes if episode.id == 1}
    assert len(queries) == 9
    absent = {e.absent.query for e in drawn.episodes if e.id == 2 and e.absent is not None}
    assert absent == {f"p{n}" for n in range(1, 9, 2)}


@pytest.mark.filterwarnings("ignore:.*left out")
def test_drawn_episodes_are_seeded_and_do_not_depend_on_their_number(tmp_path: Path) -> None:
    folder = many(tmp_path)

    def drawn(**options: Any) -> tuple[Any, ...]:
        return read_sets(folder, prompts=3, **options)[0].episodes

    assert drawn(drawn=20)[:5] == drawn(drawn=5)
    assert drawn(drawn=5) != drawn(drawn=5, seed=1)
    assert len(drawn()) == 100
    assert len(read_sets(folder)[0].episodes[0].prompts) == 8, "as many as there are, up to 8"


def test_a_color_is_the_same_class_in_every_mask(tmp_path: Path) -> None:
    for number in range(6):
        image, mask = np.full((20, 20, 3), number, np.uint8), np.zeros((20, 20, 3), np.uint8)
        mask[:10] = (0, 255, 0) if number % 2 else (255, 0, 0)
        for kind, pixels in (("images", image), ("masks", mask)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")
    (drawn,) = read_sets(tmp_path, drawn=8, prompts=2)
    assert {episode.id for episode in drawn.episodes} == {1, 2}
    for episode in drawn.episodes:
        assert {int(stem) % 2 for stem in (episode.query, *episode.prompts)} == {episode.id % 2}
    report = evaluate([BASELINES[0]], [drawn])
    assert report.columns[0].mean_iou == 1.0


@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_folder_of_sets(data: Path) -> None:
    many(data)
    fixed = read_sets(data)
    assert [each.name for each in fixed] == ["parts", "things"]
    assert len(read_sets(data, drawn=7, prompts=1, names=["parts"])[0].episodes) == 7, "instead of the fixed ones"
    (data / "episodes.json").unlink()
    regions = {"masks": "regions"}
    (data / "parts" / "dataset.json").write_text(json.dumps(regions))
    (data / "things" / "dataset.json").write_text(json.dumps({"masks": "instances: 1..N"}))
    drawn = read_sets(data, drawn=2, prompts=1)
    assert [each.name for each in drawn] == ["many", "things"], "ids of regions mean nothing elsewhere"
    assert drawn[1].instances_as_one
    assert {episode.id for episode in drawn[1].episodes} == {1}
    with pytest.raises(ValueError, match="its masks are regions"):
        read_sets(data, names=["parts"])
    with pytest.raises(ValueError, match=r"things: expected a class in at least 10 images.*got 2; ask for fewer"):
        read_sets(data, prompts=9, names=["things"])
    with pytest.raises(FileNotFoundError, match=r"expected episodes\.json in .*images and masks"):
        read_sets(data / "parts" / "images")


# ------------------------------------------------------------------------------------- going on


def counting(calls: list[int]) -> Method:
    def count(_query: Pixels, _prompts: Sequence[Prompt]) -> Found:
        calls.append(1)
        return Segmentation(np.eye(8, dtype=np.uint8), np.full((8, 8), 1 / 3, np.float32), PALETTE)

    return method(count)


def test_a_stopped_run_goes_on_with_the_same_result(data: Path, tmp_path: Path) -> None:
    sets, file = read_sets(data, names=["parts"]), tmp_path / "answers.jsonl"
    calls: list[int] = []
    expected = evaluate([counting([])], sets, shots=[1, 2])

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with AnswerJournal(file, {"side": 8}) as journal, pytest.raises(KeyboardInterrupt):
        evaluate([counting(calls)], sets, shots=[1, 2], journal=journal, on_episode=stop)
    text = file.read_text()
    file.write_text(text[:-20])  # killed while writing
    calls.clear()
    with AnswerJournal(file, {"side": 8}) as journal:
        assert len(journal) == 3, "of two episodes at two shots each, one is broken"
        found = evaluate([counting(calls)], sets, shots=[1, 2], journal=journal)
    assert len(calls) == 1 + 3, "the broken one, and at one shot two queries"
    assert timeless(found) == timeless(expected)
    calls.clear()
    with AnswerJournal(file, {"side": 8}) as journal:
        again = evaluate([counting(calls)], sets, shots=[1, 2], journal=journal)
    assert calls == []
    assert again == found, "seconds too"
    with pytest.raises(ValueError, match=r"other settings \(side was 8, now 16\); name another folder"):
        AnswerJournal(file, {"side": 16})
    file.write_text(file.read_text() + "{}\n")
    with pytest.raises(ValueError, match="expected a record on each line"):
        AnswerJournal(file, {"side": 8})


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sets": ["cows"]}, "expected sets out of parts, things, got cows"),
        ({"shots": [3]}, "expected 1 to 2 shots.*parts.*got 3"),
        ({"shots": [1, 2]}, "expected 1 to 1 shots.*things.*got 2"),
        ({"shots": [0]}, "expected 1 to 2 shots"),
        ({"shots": [1, 1]}, "number of shots once, got 1, 1"),
        ({"shots": []}, "one number of shots, got none"),
        ({"workers": 0}, "at least 1 worker"),
    ],
)
def test_bad_arguments(data: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one(whole, data, **arguments)


def test_bad_limit(data: Path) -> None:
    with pytest.raises(ValueError, match="expected a limit of at least 1"):
        read_sets(data, limit=0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((8, 9), np.bool_), r"expected an answer of the query's size \(8, 8\), got \(8, 9\)"),
        (np.zeros((8, 8), np.float32), "expected an answer of bool or integer ids, got float32"),
    ],
)
def test_bad_answers(data: Path, answer: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one(lambda *_: answer, data)


def test_an_answer_for_each_query(data: Path) -> None:
    def silent(_queries: Sequence[Pixels], _prompts: Sequence[Prompt]) -> Iterator[npt.NDArray[np.bool_]]:
        return iter(())

    with pytest.raises(ValueError, match="expected an answer for each of 2 queries, got 0"):
        evaluate([Method("silent", silent)], read_sets(data))


def test_missing_and_broken_files(data: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a file episodes\.json"):
        read_episodes(data / "parts")
    Image.new("P", (9, 8)).save(data / "things" / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: expected a mask of its image's size \(8, 8\), got \(8, 9\)"):
        one(whole, data, sets=["things"])
    (data / "parts" / "images" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected a file named b \(\.jpg, \.png\) in parts/images"):
        one(whole, data)
    (data / "parts" / "dataset.json").write_text("[]")
    with pytest.raises(ValueError, match=r"dataset\.json: expected a JSON object, got list"):
        read_sets(data)
    for text in ("[]", "{}}", '{"parts": {"episodes": []}}'):
        (data / "episodes.json").write_text(text)
        with pytest.raises(ValueError, match="instances_as_one"):
            read_episodes(data)


KNOWN = {  # data/README.md, measured by others
    "copy the mask": {"cows": 0.379, "pets": 0.323, "pedestrians": 0.149},
    "everything": {"cows": 0.210, "pets": 0.288, "pedestrians": 0.157},
}


def test_the_protocol_gives_the_known_figures(shared: Path) -> None:
    sets = read_sets(shared / "data" / "test", names=list(KNOWN["everything"]))
    report = evaluate([each for each in BASELINES if each.name in KNOWN], sets)
    for column in report.columns:
        for each in column.sets:
            assert each.mean_iou == pytest.approx(KNOWN[column.method][each.name], abs=1e-3)
