"""Simulated clicks against hand-computed cases and brute force, NoC, baselines, layouts, the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from incontext.evaluation.clicks import (
    Click,
    ClickJournal,
    ClickMethod,
    Curve,
    Thing,
    evaluate_clicks,
    next_click,
    read_things,
    simulate,
)
from incontext.evaluation.clicks.baselines import DISC, GRABCUT, RANDOM_WALKER, installed
from incontext.evaluation.clicks.scores import score
from incontext.evaluation.clicks.simulation import clicks_to_reach
from incontext.evaluation.clicks.things import Truth
from incontext.types import Prompt

EMPTY = np.zeros((16, 20), np.bool_)
Flags = np.ndarray


def rectangle(rows: slice, columns: slice, size: tuple[int, int] = (16, 20)) -> Flags:
    mask = np.zeros(size, np.bool_)
    mask[rows, columns] = True
    return mask


# --- where the next click goes


def test_the_first_click_goes_to_the_middle_of_the_thing() -> None:
    truth = rectangle(slice(4, 9), slice(6, 15))  # 5 rows, 9 columns: 3 deep along row 6, columns 8 to 12
    assert next_click(truth, EMPTY, EMPTY) == Click(8, 6, True)


def test_things_at_the_border_end_there() -> None:
    truth = rectangle(slice(0, 5), slice(0, 20))
    assert next_click(truth, EMPTY, EMPTY) == Click(2, 2, True)  # 3 deep; without the padding it would be row 0


def test_the_larger_kind_of_error_is_clicked_and_a_tie_is_negative() -> None:
    truth, found = rectangle(slice(0, 7), slice(0, 7)), rectangle(slice(8, 13), slice(8, 13))
    assert next_click(truth, EMPTY, found) == Click(3, 3, True)
    assert next_click(truth, EMPTY, rectangle(slice(8, 15), slice(8, 15))) == Click(11, 11, False)
    assert next_click(truth, EMPTY, rectangle(slice(7, 16), slice(8, 17))) == Click(12, 11, False)


def test_clicked_pixels_are_not_clicked_again() -> None:
    truth = rectangle(slice(4, 7), slice(4, 7))
    assert next_click(truth, EMPTY, EMPTY) == Click(5, 5, True)
    assert next_click(truth, EMPTY, EMPTY, [Click(5, 5, True)]) == Click(4, 4, True)


def test_ignored_pixels_are_no_errors_and_errors_end_at_them() -> None:
    truth, ignored = rectangle(slice(2, 9), slice(2, 9)), rectangle(slice(2, 9), slice(2, 6))
    assert next_click(truth, ignored, EMPTY) == Click(7, 3, True)  # columns 6 to 8 are left: 2 deep from row 3 on
    assert next_click(truth, truth, EMPTY) is None


def test_nothing_is_clicked_where_nothing_is_wrong_that_was_not_clicked() -> None:
    truth = rectangle(slice(5, 6), slice(5, 6))
    assert next_click(truth, EMPTY, truth) is None
    assert next_click(truth, EMPTY, EMPTY, [Click(5, 5, True)]) is None


def by_brute_force(truth: Flags, ignored: Flags, found: Flags, clicked: Sequence[Click]) -> Click | None:
    """The same, pixel by pixel from the definition."""
    height, width = truth.shape
    best: tuple[float, Click | None] = (0.0, None)
    for positive, wrong in ((False, found & ~truth & ~ignored), (True, truth & ~found & ~ignored)):
        right = {(y, x) for y in range(-1, height + 1) for x in range(-1, width + 1)}
        right -= {(int(y), int(x)) for y, x in np.argwhere(wrong)}
        for y, x in np.argwhere(wrong):
            if any((click.x, click.y) == (x, y) for click in clicked):
                continue
            depth = min((y - v) ** 2 + (x - u) ** 2 for v, u in right) ** 0.5
            if depth > best[0]:
                best = depth, Click(int(x), int(y), positive)
    return best[1]


def test_clicks_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        truth, found = (rng.random((9, 11)) < share for share in (0.6, rng.choice([0.0, 0.3, 0.6])))
        ignored = rng.random((9, 11)) < 0.1
        clicked = [Click(int(rng.integers(11)), int(rng.integers(9)), True) for _ in range(number % 4)]
        assert next_click(truth, ignored, found, clicked) == by_brute_force(truth, ignored, found, clicked)


# --- curves


def painter(truth: Flags, reach: int) -> ClickMethod:
    """Answers with the truth as far as it is near a click."""

    def start(_image: np.ndarray, example: Prompt | None) -> object:
        def answer(clicks: Sequence[Click]) -> Flags:
            near = np.zeros_like(truth) if example is None else example.mask == 1
            for click in clicks:
                near[max(0, click.y - reach) : click.y + reach + 1, max(0, click.x - reach) : click.x + reach + 1] = (
                    True
                )
            return near & truth

        return answer

    return ClickMethod("painter", start, uses_example=False)  # type: ignore[arg-type]


def test_a_curve_tells_the_iou_after_each_click_and_ends_where_it_is_good_enough() -> None:
    truth = rectangle(slice(0, 16), slice(0, 20))
    answer = painter(truth, 3).start(np.zeros((16, 20, 3), np.uint8), None)
    curve = simulate(answer, truth, EMPTY, enough=0.3)
    assert curve.ious == (0.0, 49 / 320, 98 / 320)
    assert [click.positive for click in curve.clicks] == [True, True]
    longer = simulate(answer, truth, EMPTY, enough=0.3, least=4)
    assert len(longer.ious) == 5
    assert longer.ious[:3] == curve.ious
    assert len(simulate(answer, truth, EMPTY, enough=2.0, most=6).ious) == 7


def test_a_curve_is_done_where_nothing_is_wrong() -> None:
    truth = rectangle(slice(3, 6), slice(3, 6))
    answer = painter(truth, 3).start(np.zeros((16, 20, 3), np.uint8), None)
    curve = simulate(answer, truth, EMPTY, enough=1.0, least=10)
    assert curve.ious == (0.0, 1.0)
    assert curve.done
    assert curve.after(10) == 1.0
    given = simulate(answer, truth, EMPTY, first=truth, least=3)
    assert given.ious == (1.0,)
    assert clicks_to_reach(given, 0.9) == 0


def test_noc_counts_failures_as_all_clicks() -> None:
    curves = [Curve((0.0, 0.5, 0.86, 0.91), ()), Curve((0.0, 0.2, 0.3), ()), Curve((0.0, 0.95), ())]
    report = score(
        {("net", False): [("a", curves[0], 1.0), ("a", curves[1], 3.0), ("b", curves[2], 2.0)]},
        qualities=(0.85, 0.9),
        counts=(1, 3),
        most=20,
        left_out=0,
    )
    (column,) = report.columns
    first, second = column.sets
    assert [(each.quality, each.clicks, each.failures) for each in first.reached] == [(0.85, 11, 1), (0.9, 11.5, 1)]
    assert [(each.clicks, each.failures) for each in second.reached] == [(1, 0), (1, 0)]
    assert column.together.ious == {0: 0.0, 1: pytest.approx(0.55), 3: pytest.approx((0.91 + 0.3 + 0.95) / 3)}
    assert [each.clicks for each in column.together.reached] == pytest.approx([23 / 3, 24 / 3])
    assert column.together.seconds == 2


# --- evaluate


def thing(name: str, truth: Flags, *, example: bool = False, set_name: str = "things") -> Thing:
    image = np.zeros((*truth.shape, 3), np.uint8)

    def read() -> Truth | None:
        if not truth.any():
            return None
        return Truth(image, truth, np.zeros_like(truth), Prompt(image, truth.astype(np.uint8)) if example else None)

    return Thing(set_name, name, read, (), has_example=example)


def test_methods_are_asked_about_what_they_can_answer_and_journals_remember(tmp_path: Path) -> None:
    truth = rectangle(slice(2, 14), slice(2, 18))
    plain = painter(truth, 4)
    given = ClickMethod("given", plain.start, uses_example=True)
    things = [thing("a", truth), thing("b", truth, example=True, set_name="others"), thing("c", EMPTY)]
    told: list[tuple[int, int]] = []
    with ClickJournal(tmp_path / "clicks.jsonl", {"side": 8}) as journal:
        report = evaluate_clicks([plain, given], things, journal=journal, on_thing=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert report.left_out == 1
    by_name = {column.method: column for column in report.columns}
    assert by_name["painter"].together.things == 2
    assert by_name["given"].together.things == 1
    assert by_name["given"].together.ious[0] == 1.0
    assert by_name["painter"].together.ious[0] == 0.0

    def refused(*_: object) -> object:
        raise AssertionError("asked again")

    unasked = [ClickMethod("painter", refused), ClickMethod("given", refused, uses_example=True)]  # type: ignore[arg-type]
    with ClickJournal(tmp_path / "clicks.jsonl", {"side": 8}) as journal:
        again = evaluate_clicks(unasked, things[:2], journal=journal)
    for old, new in zip(report.columns, again.columns, strict=True):
        assert new.together.ious == pytest.approx(old.together.ious, abs=1e-5)
    with pytest.raises(ValueError, match="other settings"):
        ClickJournal(tmp_path / "clicks.jsonl", {"side": 16})


def test_what_cannot_be_evaluated_is_refused() -> None:
    truth = rectangle(slice(2, 14), slice(2, 18))
    plain = painter(truth, 4)
    with pytest.raises(ValueError, match="at least one method"):
        evaluate_clicks([], [thing("a", truth)])
    with pytest.raises(ValueError, match="each method once"):
        evaluate_clicks([plain, plain], [thing("a", truth)])
    with pytest.raises(ValueError, match="after 1 to 4 clicks"):
        evaluate_clicks([plain], [thing("a", truth)], most=4)
    with pytest.raises(ValueError, match="needs no example"):
        evaluate_clicks([ClickMethod("given", plain.start, uses_example=True)], [thing("a", truth)])
    with pytest.raises(ValueError, match="that show what is to be clicked"):
        evaluate_clicks([plain], [thing("a", EMPTY)])
    small = ClickMethod("small", lambda *_: lambda _: np.zeros((2, 2), np.bool_))
    with pytest.raises(ValueError, match="expected answers of bool"):
        evaluate_clicks([small], [thing("a", truth)])


# --- baselines


def two_halves() -> tuple[np.ndarray, Flags]:
    """A bright half with noise beside a dark one."""
    rng = np.random.default_rng(0)
    truth = rectangle(slice(0, 60), slice(0, 40), (60, 80))
    image = np.where(truth[..., None], 190, 60) + rng.integers(-20, 20, (60, 80, 3))
    return image.astype(np.uint8), truth


def test_a_disc_is_laid_about_each_click_and_the_later_lies_above() -> None:
    answer = DISC.start(np.zeros((80, 160, 3), np.uint8), None)
    one = answer([Click(40, 40, True)])
    assert 280 < one.sum() < 330  # radius 10
    assert one[40, 50]
    assert not one[40, 51]
    cut = answer([Click(40, 40, True), Click(50, 40, False)])
    assert cut.sum() < one.sum()
    assert not cut[40, 45]


@pytest.mark.parametrize("method", [RANDOM_WALKER, GRABCUT], ids=lambda method: method.name)
def test_the_others_follow_the_images_edges(method: ClickMethod) -> None:
    pytest.importorskip({"random walker": "skimage", "GrabCut": "cv2"}[method.name])
    image, truth = two_halves()
    answer = method.start(image, None)
    found = answer([Click(20, 30, True), Click(60, 30, False)])
    assert (found & truth).sum() / (found | truth).sum() > 0.9
    assert answer([Click(20, 30, True)])[30, 20]
    assert not answer([Click(60, 30, False)]).any()
    assert method in installed()


# --- what is clicked on


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_grabcut_and_berkeley_are_read_as_everyone_reads_them(tmp_path: Path) -> None:
    image = np.full((10, 12, 3), 90, np.uint8)
    mask = np.zeros((10, 12), np.uint8)
    mask[2:6, 2:6], mask[6, 2:6] = 255, 128
    for images, masks in (("data_GT", "boundary_GT"), ("images", "masks")):
        root = tmp_path / images
        save(root / images / "one.jpg", image)
        save(root / images / "two.jpg", image)
        save(root / masks / "one.bmp", mask)
        save(root / masks / "two.png", np.repeat(mask[..., None], 3, axis=2))
        layout = "auto" if images == "data_GT" else "berkeley"
        things = read_things(root, layout=layout)  # type: ignore[arg-type]
        assert [each.name for each in things] == ["one", "two"]
        for each in things:
            truth = each.read()
            assert truth is not None
            assert truth.truth.sum() == 16
            assert truth.ignored.sum() == 4
            assert truth.example is None
        assert len(read_things(root, layout=layout, limit=1)) == 1  # type: ignore[arg-type]


def test_layouts_that_lack_something_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_things(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="expected a folder data_GT"):
        read_things(tmp_path, layout="grabcut")
    save(tmp_path / "images" / "a.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "masks").mkdir()
    with pytest.raises(ValueError, match="a mask for each image, got none for a"):
        read_things(tmp_path, layout="berkeley")
    save(tmp_path / "masks" / "a.png", np.zeros((5, 4), np.uint8))
    (only,) = read_things(tmp_path, layout="berkeley")
    with pytest.raises(ValueError, match="its image's size"):
        only.read()
    with pytest.raises(ValueError, match="names of sets"):
        read_things(tmp_path, layout="berkeley", names=["a"])


def test_things_of_sets_come_with_an_example(tmp_path: Path) -> None:
    for number in range(3):
        mask = np.zeros((20, 30), np.uint8)
        mask[2 : 8 + number, 3:9] = 1
        save(tmp_path / "images" / f"p{number}.png", np.full((20, 30, 3), 30 * number, np.uint8))
        save(tmp_path / "masks" / f"p{number}.png", mask)
    things = read_things(tmp_path, limit=4)
    assert len(things) == 4
    assert len({each.digest() for each in things}) == 4
    for each in things:
        truth = each.read()
        assert truth is not None
        assert each.has_example
        assert truth.example is not None
        assert truth.example.ids == (1,)
        assert truth.truth.sum() in (36, 42, 48)


def test_objects_of_videos_are_found_by_their_first_mask(tmp_path: Path) -> None:
    for number in range(8):
        mask = np.zeros((20, 30), np.uint8)
        mask[2:8, number : number + 5] = 1
        if number >= 3:
            mask[12:18, 10:20] = 2
        save(tmp_path / "clip" / "frames" / f"{number:03d}.png", np.full((20, 30, 3), 30 * number, np.uint8))
        save(tmp_path / "clip" / "masks" / f"{number:03d}.png", mask)
    things = read_things(tmp_path, frames=2)
    assert [each.name for each in things] == [
        "object 1 in frame 1", "object 1 in frame 7", "object 2 in frame 4", "object 2 in frame 7",
    ]  # fmt: skip
    truth = things[2].read()
    assert truth is not None
    assert truth.truth.sum() == 60
    assert truth.example is not None
    assert truth.example.image[0, 0, 0] == 90  # frame 3
    assert len(read_things(tmp_path, frames=2, limit=1)) == 1
    with pytest.raises(ValueError, match="at least 1 frame"):
        read_things(tmp_path, frames=0)
    assert json.dumps([each.set for each in things]) == json.dumps(["clip"] * 4)
