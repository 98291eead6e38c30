"""Reports of few-shot scores: tables, the page, its drawings and images."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from incontext.evaluation import Absent, Episode, EpisodeSet, FewShotReport, Method, evaluate
from incontext.evaluation.few_shot.scoring import Found
from incontext.evaluation.pages.charts import dot_plot, reliability, tone
from incontext.evaluation.pages.gallery import Shown, best_median_worst, gallery
from incontext.evaluation.pages.report import to_text, write_report
from incontext.evaluation.pages.tables import label, sentences, summary_table, tables
from incontext.images.ids import Pixels
from incontext.images.write import write_image, write_mask
from incontext.types import Palette, Prompt, Segmentation

ABOUT = {"weights": "<tiny>", "weights_sha256": "0123456789abcdef"}


def upper(queries: Sequence[Pixels], prompts: Sequence[Prompt]) -> Iterator[Found]:
    """Finds the upper half with one prompt, the upper three quarters with more; sure on the left side."""
    for query in queries:
        height, width = query.shape[:2]
        mask, confidence = np.zeros((height, width), np.uint8), np.full((height, width), 0.22, np.float32)
        mask[: height // 2 if len(prompts) == 1 else 3 * height // 4] = 1
        confidence[:, : width // 2] = 0.92
        yield Segmentation(mask, confidence, Palette.spread([1]))


def whole(queries: Sequence[Pixels], _prompts: Sequence[Prompt]) -> Iterator[np.ndarray]:
    return (np.ones(query.shape[:2], np.bool_) for query in queries)


FIND, WHOLE = Method("find", upper), Method("whole", whole, baseline=True, uses_prompts=False)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[EpisodeSet, ...]:
    """Two sets of grey images, 400 x 200. Id 1 are the upper 50, 100, 150 rows of "1", "2", "3", id 2 the others."""
    root, made = tmp_path_factory.mktemp("sets"), []
    for name in ("a", "b & c"):
        for kind in ("images", "masks"):
            (root / name / kind).mkdir(parents=True)
        for number in (1, 2, 3):
            mask = np.full((200, 400), 2, np.uint8)
            mask[: 50 * number], mask[:, :8] = 1, 255
            write_image(root / name / "images" / f"{number}.png", np.full((200, 400, 3), 100, np.uint8))
            write_mask(root / name / "masks" / f"{number}.png", mask, np.eye(256, 3, dtype=np.uint8))
        asked = [(1, "1"), (1, "2"), (1, "3"), (2, "2")][: 4 if name == "a" else 1]
        episodes = tuple(Episode(i, query, ("3", "2"), Absent("a", "1")) for i, query in asked)
        made.append(EpisodeSet(name, False, episodes, root / name, classes={1: "sky <b>"}))
    return tuple(made)


@pytest.fixture(scope="module")
def report(sets: tuple[EpisodeSet, ...]) -> FewShotReport:
    return evaluate([FIND, WHOLE], sets, shots=[1, 2])


def test_tables_say_what_the_scores_are(report: FewShotReport) -> None:
    text = to_text(report)
    assert "| set | 1 shot | 2 shots | whole | episodes |" in text
    # rows of id 1: 50, 100, 150. Found 100: 250 / 350, and nothing of id 2. Found 150: 300 / 450, and 50 / 200 of id 2
    assert "| a | 0.357 | 0.458 | 0.500 | 4 |" in text
    assert "| **mean** | **0.429** | **0.396** | **0.375** | **5** |" in text
    assert "2 shots against 1 shot: higher in 1 of 2 sets." in text
    assert "0.0 % of 5 answers are empty; 20.0 % of the things that are there are lost entirely" in text
    assert "Mean confidence (1 shot): " in text
    titles = [table.title for table in tables(report)]
    assert "Classes of a" in titles
    assert "Classes of b & c" not in titles, "it has one class"
    (classes,) = (table for table in tables(report) if table.title == "Classes of a")
    assert classes.rows[0] == ("sky <b>", "0.714", "0.667", "0.500")
    assert [row[:2] for row in summary_table(report).rows] == [("find", "1"), ("find", "2"), ("whole", "1")]


def test_several_methods_are_told_apart(sets: tuple[EpisodeSet, ...], report: FewShotReport) -> None:
    several = evaluate([FIND, Method("fill", whole), WHOLE], sets, shots=[1, 2])
    assert [label(several, each) for each in several.columns] == [
        "1 shot, find", "2 shots, find", "1 shot, fill", "2 shots, fill", "whole",
    ]  # fmt: skip
    assert "2 shots, fill against 1 shot, fill: higher in 0 of 2 sets." in sentences(several)
    assert [tone(several, each) for each in several.columns[:4]] == ["a1", "a4", "b1", "b4"]
    assert [tone(report, each) for each in report.columns[:2]] == ["a1", "a4"]


class WellFormed(HTMLParser):
    """Refuses elements that are not closed in order; counts the others."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_files_of_a_report(sets: tuple[EpisodeSet, ...], report: FewShotReport, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    shown = gallery(report, FIND, sets, shots=1, on_image=lambda done, total: told.append((done, total)))
    assert [(each.set, each.rank) for each in shown] == [
        ("a", "best"), ("a", "median"), ("a", "worst"), ("b & c", "only one"),
    ]  # fmt: skip
    assert told[-1] == (4, 4)
    written = write_report(tmp_path, report, shown, ABOUT)
    assert [path.name for path in written] == ["report.json", "report.md", "report.html"]

    content = json.loads((tmp_path / "report.json").read_text())
    assert content["about"]["weights_sha256"] == "0123456789abcdef"
    assert content["columns"][0]["sets"][0]["mean_iou"] == report.columns[0].sets[0].mean_iou
    assert content["columns"][0]["sets"][0]["class_iou"]["1"] == pytest.approx(250 / 350)
    assert content["class_names"]["a"] == {"1": "sky <b>", "2": "id 2"}

    text = (tmp_path / "report.md").read_text()
    assert "- weights sha256 0123456789ab\n" in text
    assert "\n| a | 0.357 [" in text

    html, page = (tmp_path / "report.html").read_text(), WellFormed()
    page.feed(html)
    assert page.open == []
    assert page.count["img"] == 4 * 4
    assert page.count["svg"] == 1 + 2, "the sets, and the confidence of two columns"
    assert page.count["table"] == len(tables(report))
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources), "needs nothing else"
    assert "&lt;tiny&gt;" in html
    assert "sky &lt;b&gt;" in html
    assert "<b>" not in html.replace("<b>best", "").replace("<b>median", "").replace("<b>worst", "").replace(
        "<b>only one", ""
    ).replace("<b>0.", "")
    assert "prefers-color-scheme: dark" in html


def test_hidden_sets_show_no_images(sets: tuple[EpisodeSet, ...], report: FewShotReport, tmp_path: Path) -> None:
    shown = gallery(report, FIND, sets, shots=2, hidden=["a"])
    assert [each.set for each in shown] == ["b & c"]
    write_report(tmp_path, report, [], ABOUT)
    assert "<img" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ([0.5], [(0, "only one")]),
        ([0.1, 0.9], [(1, "best"), (0, "worst")]),
        ([0.1, 0.9, 0.5], [(1, "best"), (2, "median"), (0, "worst")]),
        ([0.3, 0.3, 0.3, 0.3, 0.9], [(4, "best"), (1, "median"), (3, "worst")]),
    ],
)
def test_best_median_worst(scores: list[float], chosen: list[tuple[int, str]]) -> None:
    assert list(best_median_worst(scores)) == chosen


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)


def test_images_show_prompt_truth_answer_and_confidence(sets: tuple[EpisodeSet, ...], report: FewShotReport) -> None:
    shown = gallery(report, FIND, sets[1:], shots=1)
    (only,) = shown
    assert (only.captions[-1], only.score) == ("1", pytest.approx(0.5, abs=0.01))
    prompt, truth, answer = (pixels(each) for each in only.images[:3] if each is not None)
    assert prompt.shape == truth.shape == answer.shape == (120, 240, 3), "240 pixels along the longer side"
    tinted = (answer[..., 0] - answer[..., 2] > 40).mean(axis=1) > 0.9
    assert np.flatnonzero(tinted).tolist() == pytest.approx(list(range(60)), abs=1)
    assert np.flatnonzero((prompt[..., 0] - prompt[..., 2] > 40).mean(axis=1) > 0.9).max() == pytest.approx(89, abs=1)
    outline = (truth[:, 60:, 2] - truth[:, 60:, 0] > 80).mean(axis=1) > 0.9
    assert np.flatnonzero(outline).tolist() == pytest.approx([29], abs=1)
    assert abs(truth[100, 120] - 100).max() < 6, "else the query as it is"
    assert abs(prompt[100, 1] - 114).max() < 8, "what is not scored is greyed out"
    assert only.images[3] is not None
    grey = pixels(only.images[3])
    assert (grey[:, :110].mean(), grey[:, 130:].mean()) == (pytest.approx(235, abs=3), pytest.approx(56, abs=3))


def test_a_method_without_confidence_shows_three_images(sets: tuple[EpisodeSet, ...], tmp_path: Path) -> None:
    only = evaluate([Method("fill", whole)], sets[:1])
    shown: list[Shown] = gallery(only, Method("fill", whole), sets[:1], shots=1)
    assert {each.images[3] for each in shown} == {None}
    write_report(tmp_path, only, shown, ABOUT)
    html = (tmp_path / "report.html").read_text()
    assert html.count("<img") == 9
    assert "Reliability" not in html


def test_the_reliability_diagram_puts_bins_where_they_belong(report: FewShotReport) -> None:
    known = report.columns[0].confidence
    assert known is not None
    drawing = reliability(known, "1 shot")
    dots = [tuple(map(float, each)) for each in re.findall(r'<circle [^>]*cx="([\d.]+)" cy="([\d.]+)"', drawing)]
    left, top, side = 44, 12, 220
    assert [(x - left) / side for x, _ in dots] == pytest.approx([0.22, 0.92], abs=0.001)
    assert [1 - (y - top) / side for _, y in dots] == pytest.approx(
        [known.bin_right[4], known.bin_right[18]], abs=0.001
    )
    assert drawing.count("<rect") == 20


def test_the_dot_plot_puts_scores_where_they_belong(report: FewShotReport) -> None:
    drawing = dot_plot(report)
    told = re.findall(r'cx="([\d.]+)" cy="[\d.]+" r="4"><title>([^<]+)</title>', drawing)
    assert [title for _, title in told[:2]] == ["1 shot: 0.357", "2 shots: 0.458"]
    assert len(told) == 2 * 3
    (first, second) = (float(x) for x, _ in told[:2])
    values = [each.sets[0].mean_iou for each in report.columns[:2]]
    assert second - first == pytest.approx(560 * (values[1] - values[0]), abs=0.2)
    assert "whole: 0.500" in drawing
    assert "b &amp; c" in drawing
