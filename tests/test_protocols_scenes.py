"""ADE20K and COCO panoptic: layouts, prompts, mIoU and PQ against outside tools, files for COCO's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import PANOPTIC, PANOPTIC_SIZE, SIZE, ade20k, box, coco_panoptic
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.detection import PanopticQuality

from incontext.annotations.core import Thing
from incontext.evaluation.protocols.benchmarks import BENCHMARKS
from incontext.evaluation.protocols.quality import (
    STUFF_LEAST,
    iou,
    matches,
    overlaps,
    panoptic_quality,
    recognition_quality,
    segmentation_quality,
    segments,
)
from incontext.evaluation.protocols.report import to_page
from incontext.evaluation.protocols.scene_data import SceneData, choose_examples, read_scenes
from incontext.evaluation.protocols.scenes import (
    SceneJournal,
    SceneReport,
    mask_path,
    run_scenes,
    scene_outcome,
    score_scenes,
    write_panoptic,
)
from incontext.images.ids import Pixels
from incontext.images.read import read_colors

ADE20K, COCO_PANOPTIC = BENCHMARKS["ade20k"], BENCHMARKS["coco-panoptic"]


def asked(data: SceneData, answers: dict[str, Pixels], out: Path, *, smallest: int = 1) -> SceneReport:
    """The report on given answers."""
    names = data.queries.names
    out.mkdir(exist_ok=True)

    def answer(images: Iterator[Pixels]) -> Iterator[Pixels]:
        for (_, found), image in zip(answers.items(), images, strict=True):
            assert image.shape[:2] == found.shape
            yield found

    with SceneJournal(out / "images.jsonl", {}) as journal:
        run_scenes(answer, data, names, out, journal, smallest=smallest)
        if data.queries.things is not None:
            write_panoptic(out, data, names, journal)
        return score_scenes(data, names, journal)


# ------------------------------------------------------------------------------------------------- measures


def test_overlaps_by_hand() -> None:
    truth = np.array([[1, 1, 2, 255]], np.uint8)
    found = np.array([[1, 2, 2, 7]], np.uint8)
    assert overlaps(found, truth) == {1: (1, 2), 2: (1, 2)}
    assert overlaps(np.zeros_like(truth), truth) == {1: (0, 2), 2: (0, 1)}
    assert iou(np.array([[1, 2], [0, 0]], np.float64)).tolist() == pytest.approx([0.5, float("nan")], nan_ok=True)
    with pytest.raises(ValueError, match="expected an answer of the truth's size"):
        overlaps(found, truth.T)


def test_overlaps_have_the_figures_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    metric = MulticlassJaccardIndex(num_classes=6, ignore_index=5, average=None)
    sums = np.zeros((5, 2))
    for _ in range(4):
        truth, found = rng.integers(0, 6, (20, 30)), rng.integers(0, 5, (20, 30))
        metric.update(torch.from_numpy(found), torch.from_numpy(truth))
        ours = overlaps((found + 1).astype(np.uint8), np.where(truth == 5, 255, truth + 1).astype(np.uint8))
        for i, each in ours.items():
            sums[i - 1] += each
    assert iou(sums).tolist() == pytest.approx(metric.compute()[:5].tolist())


def things_of(image: str) -> list[Thing]:
    made = []
    for _, category, crowd, (top, left, height, width) in PANOPTIC[image]:
        thing = Thing.cut(category, np.ones((height, width), np.bool_), top=top, left=left, is_ignored=crowd)
        assert thing is not None
        made.append(thing)
    return made


def placed(*boxes: tuple[int, int, int, int, int]) -> Pixels:
    """Ids in an image of the panoptic stand-in: (class, top, left, height, width)."""
    ids = np.zeros(PANOPTIC_SIZE, np.uint8)
    for i, top, left, height, width in boxes:
        ids[top : top + height, left : left + width] = i
    return ids


def test_panoptic_quality_by_hand() -> None:
    """One person met by 3/4, one not at all, stuff met by 79/80, a bear that is not there."""
    found = placed((1, 0, 0, 30, 30), (200, 41, 0, 79, 100), (23, 0, 75, 20, 20))
    numbers, classes = segments(found, frozenset({1, 23}), smallest=1)
    counts = matches(numbers, classes, things_of("000000000139"))
    assert counts == {
        1: (pytest.approx(0.75), 1, 0, 1),
        200: (pytest.approx(79 / 80), 1, 0, 0),
    }  # the bear lies where there is no segment, which is not held against it
    sums = np.array([counts[1], counts[200]])
    assert panoptic_quality(sums).tolist() == pytest.approx([0.75 / 1.5, 79 / 80])
    assert segmentation_quality(sums).tolist() == pytest.approx([0.75, 79 / 80])
    assert recognition_quality(sums).tolist() == pytest.approx([1 / 1.5, 1])
    assert np.isnan(panoptic_quality(np.zeros((1, 4)))).all()


def test_what_lies_in_a_crowd_of_its_class_is_not_held_against_it() -> None:
    things = things_of("000000000285")
    for found, expected in (
        (placed((1, 80, 0, 40, 30)), {23: (0, 0, 0, 1)}),  # inside of the crowd of persons
        (placed((23, 80, 0, 40, 30)), {23: (0, 0, 1, 1)}),  # not a crowd of its class
        (placed((1, 30, 10, 60, 50)), {1: (0, 0, 1, 0), 23: (0, 0, 0, 1)}),  # less than half of it
    ):
        numbers, classes = segments(found, frozenset({1, 23}), smallest=1)
        assert matches(numbers, classes, things) == expected


def test_segments_are_the_connected_parts_of_things_and_large_stuff() -> None:
    found = placed((1, 0, 0, 10, 10), (1, 0, 20, 3, 3), (200, 40, 0, 80, 100), (23, 20, 20, 5, 5))
    numbers, classes = segments(found, frozenset({1, 23}), smallest=10)
    assert sorted(classes.values()) == [1, 23, 200]
    assert np.count_nonzero(numbers) == 100 + 25 + 8000
    few = placed((200, 0, 0, 40, 100))
    assert few[few == 200].size < STUFF_LEAST
    assert segments(few, frozenset(), smallest=1)[1] == {}


def test_panoptic_quality_is_that_of_torchmetrics() -> None:
    """Without crowds, which torchmetrics does not know, and with answers everywhere, as it takes what is not answered
    out of unions, where panopticapi does not: random boxes for things, stuff, and nothing in the truth."""
    rng = np.random.default_rng(1)
    metric = PanopticQuality(things={1, 2}, stuffs={3}, allow_unknown_preds_category=True, return_per_class=True)
    sums = np.zeros((3, 4))
    for _ in range(20):
        pair = [random_scene(rng)]
        pair.append(changed(pair[0], rng))
        (real, real_classes), (found, found_classes) = pair
        things = [Thing.cut(i, real == number) for number, i in real_classes.items()]
        counts = matches(found, found_classes, [thing for thing in things if thing is not None])
        for i, each in counts.items():
            sums[i - 1] += each
        both = [colored(found, found_classes), colored(real, real_classes)]
        metric.update(*(torch.from_numpy(each)[None] for each in both))
    assert (sums[:2, 1:] > 0).all()  # of things everything occurs
    assert panoptic_quality(sums).tolist() == pytest.approx(metric.compute().squeeze().tolist(), abs=1e-6)


def random_scene(rng: np.random.Generator) -> tuple[np.ndarray, dict[int, int]]:
    numbers, classes = np.zeros((40, 50), np.int32), {1: 3}
    numbers[20:] = 1
    for number in range(2, 6):
        top, left = rng.integers(0, 30, 2)
        height, width = rng.integers(5, 20, 2)
        numbers[top : top + height, left : left + width] = number
        classes[number] = int(rng.integers(1, 3))
    present = set(np.unique(numbers).tolist())
    return numbers, {number: i for number, i in classes.items() if number in present}


def changed(scene: tuple[np.ndarray, dict[int, int]], rng: np.random.Generator) -> tuple[np.ndarray, dict[int, int]]:
    """The scene moved by a few pixels, and one segment in four of another class."""
    numbers = np.roll(scene[0], rng.integers(-3, 4, 2), axis=(0, 1)).astype(np.int32)
    numbers[numbers == 0] = 1
    classes = {n: int(rng.integers(1, 3)) if i < 3 and rng.random() < 0.25 else i for n, i in scene[1].items()}
    return numbers, classes


def colored(numbers: np.ndarray, classes: dict[int, int]) -> np.ndarray:
    """(H, W, 2) as torchmetrics takes it: the class and the number; of what is nothing, class 0."""
    table = np.zeros(int(numbers.max()) + 1, np.int64)
    for number, i in classes.items():
        table[number] = i
    kind = table[numbers]
    return np.stack([kind, np.where(kind == 3, 0, numbers)], axis=-1)


# --------------------------------------------------------------------------------------------------- ADE20K


def test_ade20k(tmp_path: Path) -> None:
    data = read_scenes(ADE20K, ade20k(tmp_path))
    assert len(data.classes) == 150
    assert data.classes[7] == "name 7"
    assert data.queries.names == ("ADE_val_00000001", "ADE_val_00000002", "ADE_val_00000003")
    half = box(1, 0, 0, 24, 20)  # finds the left half of the first image, and nothing else
    answers = {name: half if place == 0 else np.zeros(SIZE, np.uint8) for place, name in enumerate(data.queries.names)}
    report = asked(data, answers, tmp_path / "out")
    by_class = {each.id: each for each in report.classes}
    assert by_class[1].figure == pytest.approx(480 / (480 + 16))
    assert by_class[2].figure == 0
    assert by_class[150].figure == 0
    assert by_class[3].figure is None
    assert report.figure == pytest.approx(480 / 496 / 3)
    assert report.image_figures == (0.5, 0.0, 0.0)
    low, high = report.figure_interval
    assert 0 <= low <= high <= 1
    outcome = scene_outcome(ADE20K, report, data, data.queries.names, tmp_path / "out", "1 shot")
    assert outcome.figures[0].name == "mIoU, 1 shot"
    assert any("147 classes" in sentence for sentence in outcome.sentences)
    assert to_page(outcome, {}, "tiny").count("data:image/jpeg") == 9


def test_pixels_without_a_class_are_not_scored(tmp_path: Path) -> None:
    data = read_scenes(ADE20K, ade20k(tmp_path))
    wild = {name: np.where(data.queries.ids(name) == 255, 9, data.queries.ids(name)) for name in data.queries.names}
    report = asked(data, {name: ids.astype(np.uint8) for name, ids in wild.items()}, tmp_path / "out")
    assert report.figure == 1
    assert {each.id for each in report.classes if each.figure is not None} == {1, 2, 150}


def test_prompts_of_ade20k_show_their_classes(tmp_path: Path) -> None:
    data = read_scenes(ADE20K, ade20k(tmp_path))
    training = data.examples()
    done: list[tuple[int, int]] = []
    chosen = choose_examples(training, sorted(data.classes), 1, on_image=lambda *each: done.append(each))
    assert set(chosen) == set(data.classes)
    for i, (name,) in chosen.items():
        assert (training.ids(name) == i).any()
    assert done[-1][0] <= done[-1][1] == 15
    assert choose_examples(training, [7], 4, seed=3) == choose_examples(training, [7], 9, seed=3)  # one image shows it
    with pytest.raises(ValueError, match="expected an image that shows class 151"):
        choose_examples(training, [151], 1)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("images/validation", r"ADE20K: expected .*images/validation \(the images of ADEChallengeData2016\.zip\)"),
        ("annotations/validation/ADE_val_00000002.png", r"ADE_val_00000002\.png: expected these labels"),
    ],
)
def test_a_missing_part_is_named(tmp_path: Path, missing: str, said: str) -> None:
    path = ade20k(tmp_path) / "ADEChallengeData2016" / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=said):
        read_scenes(ADE20K, tmp_path)


def test_the_training_part_is_asked_for_only_where_prompts_come_from_it(tmp_path: Path) -> None:
    shutil.rmtree(ade20k(tmp_path) / "ADEChallengeData2016/annotations/training")
    data = read_scenes(ADE20K, tmp_path)
    with pytest.raises(FileNotFoundError, match="annotations/training: expected the training part of ADE20K"):
        data.examples()


# --------------------------------------------------------------------------------------------- COCO panoptic


def test_coco_panoptic(tmp_path: Path) -> None:
    data = read_scenes(COCO_PANOPTIC, coco_panoptic(tmp_path))
    assert dict(data.classes) == {1: "person", 23: "bear", 200: "rug-merged"}
    assert data.countable == {1, 23}
    answers = {
        "000000000139": placed((1, 0, 0, 30, 30), (200, 41, 0, 79, 100)),
        "000000000285": placed((23, 10, 10, 60, 60), (1, 90, 0, 20, 20)),
    }
    report = asked(data, answers, tmp_path / "out")
    person, bear, rug = (each.figure for each in report.classes)
    assert (person, bear, rug) == (pytest.approx(0.75 / 1.5), 1, pytest.approx(79 / 80))
    assert report.figure == pytest.approx((0.5 + 1 + 79 / 80) / 3)
    assert report.others["PQ, things"] == pytest.approx(0.75)
    assert report.others["RQ, stuff"] == 1
    assert report.others["SQ"] == pytest.approx((0.75 + 1 + 79 / 80) / 3)
    outcome = scene_outcome(COCO_PANOPTIC, report, data, data.queries.names, tmp_path / "out", "tuned prompt")
    assert outcome.figures[0].name == "PQ, tuned prompt"


def test_answers_are_files_for_cocos_own_tools(tmp_path: Path) -> None:
    """What panopticapi asks of a folder of results: every segment of a PNG in the JSON, and the other way round."""
    data = read_scenes(COCO_PANOPTIC, coco_panoptic(tmp_path))
    answers = {"000000000139": placed((1, 0, 0, 30, 30), (1, 0, 50, 9, 9)), "000000000285": placed()}
    asked(data, answers, tmp_path / "out")
    document = json.loads((tmp_path / "out/panoptic.json").read_text())
    assert [each["image_id"] for each in document["annotations"]] == [139, 285]
    for each in document["annotations"]:
        colors = read_colors(tmp_path / "out/panoptic" / each["file_name"]).astype(np.int64)
        numbers = colors @ np.array([1, 256, 65536])
        assert set(np.unique(numbers).tolist()) - {0} == {segment["id"] for segment in each["segments_info"]}
    assert {segment["category_id"] for segment in document["annotations"][0]["segments_info"]} == {1}


def test_images_are_asked_again_only_where_their_answers_are_gone(tmp_path: Path) -> None:
    data = read_scenes(COCO_PANOPTIC, coco_panoptic(tmp_path))
    answers = {name: placed((1, 0, 0, 30, 30)) for name in data.queries.names}
    first = asked(data, answers, tmp_path / "out")
    assert asked(data, {}, tmp_path / "out") == first
    mask_path(tmp_path / "out", "000000000285").unlink()
    again = asked(data, {"000000000285": placed((23, 10, 10, 60, 60))}, tmp_path / "out")
    assert again.figure != first.figure


def test_prompts_of_coco_come_from_the_training_part(tmp_path: Path) -> None:
    data = read_scenes(COCO_PANOPTIC, coco_panoptic(tmp_path))
    training = data.examples()
    assert choose_examples(training, sorted(data.classes), 2) == {
        1: ("000000000009",),
        23: ("000000000025",),
        200: ("000000000009",),
    }
    assert training.ids("000000000009")[0, 0] == 1
    shutil.rmtree(tmp_path / "train2017")
    with pytest.raises(FileNotFoundError, match="train2017: expected the training part of COCO panoptic"):
        data.examples()
