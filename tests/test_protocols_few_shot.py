"""The few-shot benchmarks: layouts found by content, the published episodes, official scores, lists, resuming."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools.coco import COCO
from stand_ins import (
    SIZE,
    VOC_PAIRS,
    coco_20i,
    coco_instances,
    coco_masks,
    fss_1000,
    fss_masks,
    pascal_5i,
    voc_masks,
)

from incontext.evaluation.few_shot.records import AnswerJournal
from incontext.evaluation.few_shot.scoring import Method
from incontext.evaluation.protocols.benchmarks import BENCHMARKS
from incontext.evaluation.protocols.drawing import draw
from incontext.evaluation.protocols.few_shot import Lists, few_shot_gallery, few_shot_outcome, run_few_shot
from incontext.evaluation.protocols.few_shot_data import (
    FewShotData,
    FoldImages,
    published_classes,
    published_pairs,
    read_few_shot,
)
from incontext.evaluation.protocols.labels import unpickled_lists
from incontext.evaluation.protocols.lists import few_shot_content, few_shot_lists, write_list
from incontext.evaluation.protocols.report import comparison, to_json, to_markdown, to_page
from incontext.images.ids import Pixels
from incontext.types import Prompt

COCO_20I, PASCAL_5I, FSS_1000 = (BENCHMARKS[name] for name in ("coco-20i", "pascal-5i", "fss-1000"))
Flags = npt.NDArray[np.bool_]


def copied(queries: Sequence[Pixels], prompts: Sequence[Prompt]) -> Iterator[Flags]:
    """Answers with the first prompt's mask."""
    for _ in queries:
        yield prompts[0].mask == 1


def upper(queries: Sequence[Pixels], _prompts: Sequence[Prompt]) -> Iterator[Flags]:
    """Answers with the upper half."""
    for query in queries:
        found = np.zeros(query.shape[:2], np.bool_)
        found[: len(found) // 2] = True
        yield found


def lists_of(data: FewShotData, name: str, *shots: int, limit: int | None = None) -> Lists:
    return {count: draw(BENCHMARKS[name], data, count, limit=limit) for count in shots}


# ------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("inside", [".", "COCO2014"])
def test_coco_20i_with_masks_of_classes(tmp_path: Path, inside: str) -> None:
    data = read_few_shot(COCO_20I, coco_20i(tmp_path) / inside, (0, 3))
    assert data.classes[1] == "person"
    assert data.classes[80] == "toothbrush"
    assert data.folds[0].classes == tuple(range(1, 81, 4))
    assert data.folds[3].classes[-1] == 80
    assert data.folds[0].names[5] == tuple(f"val2014/COCO_val2014_{number:012}.jpg" for number in (9, 61, 74))
    assert data.image("val2014/COCO_val2014_000000000009.jpg").is_file()
    mask = data.mask(5, "val2014/COCO_val2014_000000000009.jpg")
    np.testing.assert_array_equal(mask, coco_masks()["COCO_val2014_000000000009"] == 5)
    assert data.about["lists"].startswith("fold 0: splits/val/fold0.pkl")


def test_coco_20i_without_lists_reads_which_image_shows_what(tmp_path: Path) -> None:
    data = read_few_shot(COCO_20I, coco_20i(tmp_path, lists=False), (0, 1))
    assert data.folds[0].names[1] == tuple(f"val2014/COCO_val2014_{number:012}" for number in (9, 36, 42))
    assert data.folds[1].names[2] == tuple(f"val2014/COCO_val2014_{number:012}" for number in (42, 80))
    assert "every image of val2014 that shows the class" in data.about["lists"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
def test_coco_20i_from_the_official_annotations_has_the_pixels_of_pycocotools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = coco_instances(tmp_path)
    data = read_few_shot(COCO_20I, root, (0,))
    oracle = COCO(str(root / "annotations/instances_val2014.json"))
    ids = sorted(oracle.getCatIds())
    checked = 0
    for fold in data.folds.values():
        for i, names in fold.names.items():
            for name in names:
                number = int(name.rpartition("_")[2])
                found = oracle.loadAnns(oracle.getAnnIds(imgIds=number, catIds=ids[i - 1]))
                wanted = np.any([oracle.annToMask(each).astype(np.bool_) for each in found], axis=0)
                np.testing.assert_array_equal(data.mask(i, name), wanted)
                np.testing.assert_array_equal(wanted, coco_masks()[Path(name).name] == i)
                checked += 1
    assert checked == 6
    assert data.folds[0].names[5] == tuple(f"val2014/COCO_val2014_{number:012}" for number in (9, 61, 74))
    capsys.readouterr()  # what pycocotools says


def test_published_lists_hold_with_the_official_annotations(tmp_path: Path) -> None:
    root, lists = coco_instances(tmp_path / "official"), coco_20i(tmp_path / "lists") / "COCO2014" / "splits"
    shutil.copytree(lists, root / "splits" / "coco")
    data = read_few_shot(COCO_20I, root, (0,))
    name = data.folds[0].names[1][0]
    assert name.endswith(".jpg")
    np.testing.assert_array_equal(data.mask(1, name), coco_masks()[Path(name).stem] == 1)


@pytest.mark.parametrize("masks", ["SegmentationClassAug", "SegmentationClass"])
def test_pascal_5i(tmp_path: Path, masks: str) -> None:
    data = read_few_shot(PASCAL_5I, pascal_5i(tmp_path, masks=masks), (0, 1))
    assert data.folds[0].classes == (1, 2, 3, 4, 5)
    assert data.folds[0].pairs == tuple(VOC_PAIRS[0])
    assert data.folds[0].names[4] == ("2007_000061", "2007_000129", "2007_000346")
    mask = data.mask(1, "2007_000346")
    truth = voc_masks()["2007_000346"]
    np.testing.assert_array_equal(mask, np.where(truth == 255, 255, truth == 1))
    assert data.about["masks"] == masks


def test_pascal_5i_knows_the_published_pairs(tmp_path: Path) -> None:
    pairs = published_pairs()
    assert {fold: len(each) for fold, each in pairs.items()} == {0: 346, 1: 451, 2: 725, 3: 346}
    for fold, each in pairs.items():
        assert each == sorted(each)
        assert {i for _, i in each} == set(range(5 * fold + 1, 5 * fold + 6))
    assert pairs[0][0] == ("2007_000033", 1)
    assert pairs[3][-1] == ("2011_003256", 18)
    shutil.rmtree(pascal_5i(tmp_path) / "splits")
    data = read_few_shot(PASCAL_5I, tmp_path, (2,))
    assert data.folds[2].pairs == tuple(pairs[2])
    with pytest.raises(FileNotFoundError, match=r"2007_000323\.jpg.*not there, nor are \d+ more"):
        data.check(name for name, _ in pairs[2])


def test_fss_1000(tmp_path: Path) -> None:
    data = read_few_shot(FSS_1000, fss_1000(tmp_path), (0,))
    assert dict(data.classes) == {1: "bus", 2: "coin"}
    assert data.folds[0].names[1][:3] == ("bus/1", "bus/10", "bus/2")  # as files are sorted
    mask = data.mask(1, "bus/3")
    np.testing.assert_array_equal(mask, fss_masks()["bus/3"] == 255)  # 127 is below the threshold


def test_fss_1000_knows_the_published_test_classes(tmp_path: Path) -> None:
    classes = published_classes()
    assert len(classes) == len(set(classes)) == 240
    assert {"bus", "ab_wheel", "tower_pisa"} & set(classes) == {"bus", "tower_pisa"}
    (tmp_path / "fewshot_data" / "bus").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"fewshot_data/abes_flyingfish/1\.jpg"):
        read_few_shot(FSS_1000, tmp_path, (0,))


@pytest.mark.parametrize(
    ("name", "make", "missing", "said"),
    [
        ("coco-20i", coco_20i, "COCO2014/val2014", r"expected .*COCO2014/val2014 \(the images of val2014\.zip\)"),
        ("coco-20i", coco_20i, "COCO2014/annotations", r"annotations/val2014 or .*annotations/instances_val2014\.json"),
        ("pascal-5i", pascal_5i, "VOCdevkit/VOC2012/SegmentationClassAug", r"VOC2012/SegmentationClassAug or "),
        ("fss-1000", fss_1000, "FSS-1000/data/bus/1.png", r"bus/1\.png: expected this file"),
    ],
)
def test_a_missing_part_is_named(
    tmp_path: Path, name: str, make: Callable[[Path], Path], missing: str, said: str
) -> None:
    root = make(tmp_path)
    path = root / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=said):
        read_few_shot(BENCHMARKS[name], root, BENCHMARKS[name].folds or (0,))


def test_two_folders_with_the_same_data_are_refused(tmp_path: Path) -> None:
    coco_20i(tmp_path / "one")
    coco_20i(tmp_path / "two")
    with pytest.raises(ValueError, match=r"expected one folder with COCO-20i, got .*one.*two"):
        read_few_shot(COCO_20I, tmp_path, (0,))


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("print('ran')",))  # not print itself, in whose place Ray puts its own


def test_pickled_lists_run_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "fold0.pkl"
    path.write_bytes(pickle.dumps({0: _Evil()}))
    with pytest.raises(ValueError, match=r"fold0\.pkl: expected pickled lists .*builtins\.exec"):
        unpickled_lists(path)
    assert "ran" not in capsys.readouterr().out
    path.write_bytes(pickle.dumps(defaultdict(list, {np.int64(3): [np.str_("a.jpg")]})))
    assert unpickled_lists(path) == {3: ["a.jpg"]}
    path.write_bytes(pickle.dumps({0: [7]}))
    with pytest.raises(ValueError, match="expected a name, got 7"):
        unpickled_lists(path)


# ------------------------------------------------------------------------------------------------ episodes


def reference(name: str, data: FewShotData, fold: int, shots: int) -> list[tuple[int, str, list[str]]]:
    """Episodes as the published loaders draw them: NumPy's global generator, one call for each thing drawn."""
    np.random.seed(0)  # noqa: NPY002  what the published code does
    choice = lambda items: np.random.choice(items, 1, replace=False)[0]  # noqa: E731, NPY002
    part, drawn = data.folds[fold], []
    if name == "fss-1000":
        rows = [(i, query) for i in part.classes for query in part.names[i]]
    elif name == "pascal-5i":
        assert part.pairs is not None
        rows = [(i, query) for query, i in (part.pairs[number % len(part.pairs)] for number in range(1000))]
    else:
        rows = [(0, "")] * 1000
    for i, query in rows:
        if name == "coco-20i":
            i = int(choice([fold + 1 + 4 * v for v in range(20)]))  # noqa: PLW2901
            query = str(choice(list(part.names[i])))  # noqa: PLW2901
        prompts: list[str] = []
        while True:
            if name == "fss-1000":
                prompt = f"{query.partition('/')[0]}/{choice(range(1, 11))}"
            else:
                prompt = str(choice(list(part.names[i])))
            if prompt != query:
                prompts.append(prompt)
            if len(prompts) == shots:
                break
        drawn.append((i, query, prompts))
    return drawn


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("name", ["coco-20i", "pascal-5i", "fss-1000"])
def test_episodes_are_those_of_the_published_loaders(tmp_path: Path, name: str, shots: int) -> None:
    if name == "coco-20i":
        data = read_few_shot(COCO_20I, coco_20i(tmp_path), (0,))
        names = [f"val2014/{number}.jpg" for number in range(37)]  # all 20 classes of the fold
        fold = data.folds[0]
        many = type(fold)(fold.classes, {i: names[i % 7 : i % 7 + 9] for i in fold.classes})
        data = FewShotData(data.root, data.classes, {0: many}, data.image, data.mask, data.files, data.folders)
    elif name == "pascal-5i":
        data = read_few_shot(PASCAL_5I, pascal_5i(tmp_path), (0,))
        fold = data.folds[0]
        data = FewShotData(
            data.root,
            data.classes,
            {0: type(fold)((1, 4), fold.names, fold.pairs)},
            data.image,
            data.mask,
            data.files,
            data.folders,
        )
    else:
        data = read_few_shot(FSS_1000, fss_1000(tmp_path), (0,))
    (drawn,) = draw(BENCHMARKS[name], data, shots)
    assert [(e.id, e.query, list(e.prompts)) for e in drawn.episodes] == reference(name, data, 0, shots)
    assert len(drawn.episodes) == (20 if name == "fss-1000" else 1000)


def test_limits_take_all_classes_and_too_few_images_are_refused(tmp_path: Path) -> None:
    data = read_few_shot(FSS_1000, fss_1000(tmp_path), (0,))
    (few,) = draw(FSS_1000, data, 1, limit=4)
    assert [episode.id for episode in few.episodes] == [1, 1, 2, 2]
    coco = read_few_shot(COCO_20I, coco_20i(tmp_path / "coco"), (0,))
    with pytest.raises(ValueError, match="fold 0: expected at least 2 images of boat, for a query and a prompt, got 0"):
        draw(COCO_20I, coco, 1)


# -------------------------------------------------------------------------------------------------- scores


def brute_force(data: FewShotData, lists: Lists, shots: int, answer: Method) -> tuple[float, float]:
    """mIoU and FB-IoU pixel by pixel, as the definition says: summed per class over a fold, then averaged."""
    mious, fbs = [], []
    images = FoldImages(data)
    for each in lists[shots]:
        inter: dict[tuple[int, int], int] = defaultdict(int)
        union: dict[tuple[int, int], int] = defaultdict(int)
        for episode in each.episodes:
            prompts = [images.prompt(each, episode.id, name) for name in episode.prompts]
            (found,) = answer.predict([images.image("", episode.query)], prompts)
            assert isinstance(found, np.ndarray)
            truth = images.asked(each, episode.id, episode.query)
            for f, t in zip(found.ravel().tolist(), truth.ravel().tolist(), strict=True):
                if t != 255:
                    for side in (0, 1):
                        inter[episode.id, side] += int(f) == side == t
                        union[episode.id, side] += side in (int(f), t)
        classes = sorted({i for i, _ in union})
        mious.append(np.mean([inter[i, 1] / max(1, union[i, 1]) for i in classes]))
        sides = [sum(inter[i, s] for i in classes) / sum(union[i, s] for i in classes) for s in (0, 1)]
        fbs.append(np.mean(sides))
    return float(np.mean(mious)), float(np.mean(fbs))


@pytest.mark.parametrize("predict", [copied, upper])
@pytest.mark.parametrize("name", ["pascal-5i", "fss-1000"])
def test_scores_are_those_of_a_scorer_by_brute_force(tmp_path: Path, name: str, predict: Any) -> None:
    data = small_folds(tmp_path, name)
    lists = lists_of(data, name, 1, 2, limit=30)
    method = Method("stand-in", predict)
    report = run_few_shot([method], lists, data, side=None)
    for shots in (1, 2):
        column = report.column("stand-in", shots)
        assert (column.mean_iou, column.fb_iou) == pytest.approx(brute_force(data, lists, shots, method))
    assert report.side is None


def small_folds(folder: Path, name: str) -> FewShotData:
    """The stand-ins, of PASCAL-5i with the classes alone that they show."""
    if name == "fss-1000":
        return read_few_shot(FSS_1000, fss_1000(folder), (0,))
    data = read_few_shot(PASCAL_5I, pascal_5i(folder), (0, 1))
    shown = {
        number: type(fold)(tuple(i for i in fold.classes if fold.names[i]), fold.names, fold.pairs)
        for number, fold in data.folds.items()
    }
    return FewShotData(data.root, data.classes, shown, data.image, data.mask, data.files, data.folders)


def test_scores_by_hand(tmp_path: Path) -> None:
    """PASCAL-5i, fold 1: two images of class 6, each the other's prompt, so that both answers are known."""
    data = small_folds(tmp_path, "pascal-5i")
    lists = lists_of(data, "pascal-5i", 1)
    report = run_few_shot([Method("copied", copied)], lists, data, side=None)
    # 24 x 12 against 12 x 22 pixels from (4, 8) on: they share 12 x 4.
    union = 24 * 12 + 12 * 22 - 12 * 4
    score = report.columns[0].sets[1]
    assert score.class_iou == {6: pytest.approx(12 * 4 / union)}
    background = SIZE[0] * SIZE[1] - union
    assert score.fb_iou == pytest.approx((12 * 4 / union + background / (background + union - 12 * 4)) / 2)
    assert score.episodes == 1000


def test_masks_may_be_compared_at_another_size(tmp_path: Path) -> None:
    data = small_folds(tmp_path, "fss-1000")
    lists = lists_of(data, "fss-1000", 1, limit=4)
    own = run_few_shot([Method("upper", upper)], lists, data, side=None)
    other = run_few_shot([Method("upper", upper)], lists, data, side=64)
    assert other.side == 64
    assert own.columns[0].mean_iou != other.columns[0].mean_iou
    assert own.columns[0].mean_iou == pytest.approx(other.columns[0].mean_iou, abs=0.05)
    outcome = few_shot_outcome(FSS_1000, own, [], 1)
    assert any("the queries' own size" in table.note for table in outcome.tables)


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    data = small_folds(tmp_path, "fss-1000")
    asked: list[int] = []

    def counting(queries: Sequence[Pixels], prompts: Sequence[Prompt]) -> Iterator[Flags]:
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return copied(queries, prompts)

    lists = lists_of(data, "fss-1000", 1, 5, limit=10)
    path, settings = tmp_path / "answers.jsonl", {"data": data.state()}
    with pytest.raises(KeyboardInterrupt), AnswerJournal(path, settings) as journal:
        run_few_shot([Method("m", counting)], lists, data, side=None, journal=journal)
    assert asked == [1] * 7
    seen: list[tuple[int, int]] = []
    with AnswerJournal(path, settings) as journal:
        first = run_few_shot(
            [Method("m", copied)], lists, data, side=None, journal=journal, on_episode=lambda *each: seen.append(each)
        )
    assert seen[-1] == (20, 20)
    with AnswerJournal(path, settings) as journal:
        assert len(journal) == 20
        again = run_few_shot([Method("m", upper)], lists, data, side=None, journal=journal)
    assert again.columns == first.columns
    with pytest.raises(ValueError, match=r"other settings \(data was "):
        AnswerJournal(path, {"data": "others"})


def test_the_report_has_our_figures_beside_the_published_ones(tmp_path: Path) -> None:
    data = small_folds(tmp_path, "fss-1000")
    lists = lists_of(data, "fss-1000", 1, 5, limit=6)
    methods = [Method("feature", copied), Method("spatial", upper, fewest_shots=2)]
    report = run_few_shot(methods, lists, data, side=None)
    assert [(each.method, each.shots) for each in report.columns] == [("feature", 1), ("feature", 5), ("spatial", 5)]
    shown, shots = few_shot_gallery(report, methods[0], lists, data)
    assert [each.rank for each in shown] == ["best", "median", "worst"]
    assert shots == 1
    outcome = few_shot_outcome(FSS_1000, report, shown, shots)
    table = comparison(outcome, "tiny")
    assert table.head[:3] == ("system", "mIoU, 1 shot", "mIoU, 5 shots")
    by_name = {row[0]: row for row in table.rows}
    assert by_name["SegGPT"][1:3] == ("85.6", "89.3")
    assert by_name["this run, tiny, feature"][1].startswith(f"{100 * report.columns[0].mean_iou:.1f} [")
    assert by_name["this run, tiny, spatial"][1] == ""
    about = {"weights": "tiny"}
    content = json.loads(to_json(outcome, about))
    assert content["about"]["benchmark"] == "fss-1000"
    assert content["figures"][0]["value"] == report.columns[0].mean_iou
    assert all(each["source"] for each in content["published"])
    page = to_page(outcome, about, "tiny")
    assert page.count("data:image/jpeg") == 9  # no confidence is asked for
    assert "SANSA, strict" in page
    assert "arXiv 2505.21795" in to_markdown(outcome, about, "tiny")


# --------------------------------------------------------------------------------------------------- lists


def test_episode_lists_come_back(tmp_path: Path) -> None:
    data = small_folds(tmp_path, "pascal-5i")
    lists = lists_of(data, "pascal-5i", 1, 5, limit=8)
    path = tmp_path / "episodes.json"
    write_list(path, PASCAL_5I, few_shot_content(lists))
    bare = FewShotData(data.root, data.classes, {}, data.image, data.mask, data.files, data.folders)
    assert few_shot_lists(path, PASCAL_5I, bare) == lists
    chosen = few_shot_lists(path, PASCAL_5I, bare, shots=(5,), folds=(1,), limit=3)
    assert list(chosen) == [5]
    assert [each.name for each in chosen[5]] == ["fold 1"]
    assert len(chosen[5][0].episodes) == 3
    with pytest.raises(ValueError, match="expected episodes with 2 shots of every fold, there is fold 0 with 1"):
        few_shot_lists(path, PASCAL_5I, bare, shots=(2,))
    with pytest.raises(ValueError, match="expected episodes of fss-1000, got those of pascal-5i"):
        few_shot_lists(path, FSS_1000, bare)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e.update(query="../../etc/passwd"), "inside of its folder"),
        (lambda e: e.update({"class": 99}), "expected a known class"),
        (lambda e: e.update(prompts=[]), "expected a known class, prompts"),
        (lambda e: e.pop("query"), "expected sets of episodes"),
    ],
)
def test_an_episode_list_is_checked(tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    data = small_folds(tmp_path, "fss-1000")
    path = tmp_path / "episodes.json"
    write_list(path, FSS_1000, few_shot_content(lists_of(data, "fss-1000", 1, limit=2)))
    document = json.loads(path.read_text())
    change(document["sets"][0]["episodes"][0])
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=said):
        few_shot_lists(path, FSS_1000, data)
