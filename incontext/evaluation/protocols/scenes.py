"""ADE20K or COCO panoptic asked of a method: every class in every image, answers as files, mIoU or PQ.

Refuses to know networks and layouts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from incontext.evaluation.few_shot.scoring import Answer
from incontext.evaluation.lines import Lines
from incontext.evaluation.metrics import Interval, interval, resamples
from incontext.evaluation.pages.gallery import Shown, best_median_worst, overlaid
from incontext.evaluation.pages.tables import Table
from incontext.evaluation.protocols.benchmarks import Benchmark
from incontext.evaluation.protocols.labels import read_labels
from incontext.evaluation.protocols.outcome import Figure, Outcome
from incontext.evaluation.protocols.quality import (
    Counts,
    Floats,
    iou,
    matches,
    overlaps,
    panoptic_quality,
    recognition_quality,
    segmentation_quality,
    segments,
)
from incontext.evaluation.protocols.scene_data import SceneData
from incontext.images.ids import Pixels
from incontext.images.read import read_image
from incontext.images.write import whole_file, write_image, write_mask
from incontext.types import Palette

MASKS: Final = "masks"  # the folder of answers
PANOPTIC: Final = "panoptic"  # the folder of segments, and its JSON
_COLUMNS: Final = ("image", "true labels", "answer", "")
_SEED: Final = 0
_BLOCK: Final = 100  # replicates of a bootstrap at a time

Ask = Callable[[Iterator[Pixels]], Iterable[Answer]]
"""(H, W, 3) uint8 images, as they come -> for each the classes (H, W), or an answer with a mask."""


@dataclass(frozen=True)
class ClassScore:
    """A class over all images: its figure (IoU or PQ, None where nothing shows or finds it), and what was summed."""

    id: int
    name: str
    figure: float | None
    sums: tuple[float, ...]


@dataclass(frozen=True)
class SceneReport:
    """Every score.

    Attributes:
        images: How many.
        seconds: In the method, for one on average.
        image_figures: Of each image alone, the mean over the classes in it, in the order of the images; None where
            nothing is there to score.
    """

    measure: str
    images: int
    figure: float
    figure_interval: Interval
    others: dict[str, float]
    seconds: float
    classes: tuple[ClassScore, ...]
    image_figures: tuple[float | None, ...]


class SceneJournal:
    """What was counted of each image, in a file that grows with each (see `Lines`)."""

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self._known: dict[str, dict[str, Any]] = {}
        self._lines = Lines(path, settings, self._take)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()

    def get(self, name: str) -> dict[str, Any] | None:
        """Return what is known of an image: "counts", "seconds", "segments"."""
        return self._known.get(name)

    def add(self, name: str, counts: Counts, seconds: float, found: Mapping[int, int]) -> None:
        """Keep an image's counts, and the class of each segment that was found."""
        record = {
            "name": name,
            "counts": {str(i): list(each) for i, each in counts.items()},
            "seconds": seconds,
            "segments": {str(number): i for number, i in found.items()},
        }
        self._known[name] = record
        self._lines.add(record)

    def _take(self, content: dict[str, Any]) -> None:
        for each in ("counts", "seconds", "segments"):
            content[each]
        self._known[content["name"]] = content


def run_scenes(
    ask: Ask,
    data: SceneData,
    names: Sequence[str],
    out: Path,
    journal: SceneJournal,
    *,
    smallest: int,
    on_image: Callable[[int, int], None] | None = None,
) -> None:
    """Ask for the classes in each image, keep the answers as files, and count how well they meet the truth.

    Images that the journal knows and whose files are there are not asked again.

    Args:
        smallest: Pixels of an object at least. on_image(done, total) is called after each.
    """
    rest = [name for name in names if journal.get(name) is None or not mask_path(out, name).is_file()]
    done = len(names) - len(rest)
    if on_image is not None and done:
        on_image(done, len(names))
    (out / MASKS).mkdir(parents=True, exist_ok=True)
    if data.queries.things is not None:
        (out / PANOPTIC).mkdir(exist_ok=True)
    colors = Palette.spread(data.classes).table
    start = time.perf_counter()
    waited = [0.0]  # seconds of reading, which are not the method's
    for name, answer in zip(rest, ask(_images(data, rest, waited)), strict=True):
        seconds = time.perf_counter() - start - waited[0]
        mask = answer if isinstance(answer, np.ndarray) else answer.mask
        write_mask(mask_path(out, name), mask, colors)
        counts, found = _counted(data, name, mask.astype(np.uint8), out, smallest)
        journal.add(name, counts, seconds, found)
        done += 1
        if on_image is not None:
            on_image(done, len(names))
        start, waited[0] = time.perf_counter(), 0.0


def _images(data: SceneData, names: Iterable[str], waited: list[float]) -> Iterator[Pixels]:
    for name in names:
        start = time.perf_counter()
        image = read_image(data.queries.image(name))
        waited[0] += time.perf_counter() - start
        yield image


def _counted(data: SceneData, name: str, mask: Pixels, out: Path, smallest: int) -> tuple[Counts, Mapping[int, int]]:
    if data.queries.things is None:
        return overlaps(mask, data.queries.ids(name)), {}
    numbers, found = segments(mask, data.countable, smallest=smallest)
    weights = np.array([1, 256, 65536])
    write_image(out / PANOPTIC / f"{name}.png", (numbers[..., None] // weights % 256).astype(np.uint8))
    return matches(numbers, found, data.queries.things(name)), found


def mask_path(out: Path, name: str) -> Path:
    """Find where the answer to an image is kept."""
    return out / MASKS / f"{name}.png"


def write_panoptic(out: Path, data: SceneData, names: Sequence[str], journal: SceneJournal) -> Path:
    """Write panoptic.json beside the folder of PNGs, as COCO's tools read it."""
    path = out / f"{PANOPTIC}.json"
    with whole_file(path) as stream:
        stream.write(b'{"annotations": [')
        for place, name in enumerate(names):
            record = journal.get(name)
            assert record is not None
            found = [{"id": int(number), "category_id": i} for number, i in record["segments"].items()]
            entry = {"image_id": data.queries.numbers[name], "file_name": f"{name}.png", "segments_info": found}
            stream.write((",\n" if place else "\n").encode() + json.dumps(entry).encode())
        stream.write(b"\n]}\n")
    return path


# ------------------------------------------------------------------------------------------------- scores


def score_scenes(data: SceneData, names: Sequence[str], journal: SceneJournal) -> SceneReport:
    """Score these images, all of which the journal knows."""
    classes = sorted(data.classes)
    place = {i: column for column, i in enumerate(classes)}
    is_panoptic = data.queries.things is not None
    figure_of = panoptic_quality if is_panoptic else iou
    counts = np.zeros((len(names), len(classes), 4 if is_panoptic else 2))
    seconds = []
    for row, name in enumerate(names):
        record = journal.get(name)
        assert record is not None
        seconds.append(record["seconds"])
        for i, each in record["counts"].items():
            if int(i) not in place:
                raise ValueError(f"expected classes out of {classes[0]} to {classes[-1]} in the records, got {i}")
            counts[row, place[int(i)]] = each
    sums = counts.sum(axis=0)
    figures = figure_of(sums)
    alone = np.array([_mean(each) for each in figure_of(counts)])
    return SceneReport(
        measure="PQ" if is_panoptic else "IoU",
        images=len(names),
        figure=_mean(figures),
        figure_interval=_interval(counts, figure_of),
        others=_others(data, classes, sums) if is_panoptic else {},
        seconds=float(np.mean(seconds)),
        classes=tuple(
            ClassScore(i, data.classes[i], _known(figures[column]), tuple(sums[column].tolist()))
            for i, column in place.items()
        ),
        image_figures=tuple(map(_known, alone)),
    )


def _others(data: SceneData, classes: Sequence[int], sums: Floats) -> dict[str, float]:
    """Add SQ and RQ, and all three of things and of stuff."""
    countable = np.isin(classes, sorted(data.countable))
    found = {"SQ": _mean(segmentation_quality(sums)), "RQ": _mean(recognition_quality(sums))}
    for kind, chosen in (("things", countable), ("stuff", ~countable)):
        if chosen.any():
            found[f"PQ, {kind}"] = _mean(panoptic_quality(sums[chosen]))
            found[f"SQ, {kind}"] = _mean(segmentation_quality(sums[chosen]))
            found[f"RQ, {kind}"] = _mean(recognition_quality(sums[chosen]))
    return {name: value for name, value in found.items() if not np.isnan(value)}


def _interval(counts: Floats, figure_of: Callable[[Floats], Floats]) -> Interval:
    """Bootstrap the mean over classes: over images, some replicates at a time."""
    drawn = resamples(len(counts), _SEED)
    flat = counts.reshape(len(counts), -1)
    replicates = [
        _means(figure_of((drawn[first : first + _BLOCK] @ flat).reshape(-1, *counts.shape[1:])))
        for first in range(0, len(drawn), _BLOCK)
    ]
    return interval(np.concatenate(replicates))


def _means(figures: npt.NDArray[np.float64]) -> Floats:
    """Average figures (R, K) over what is known: (R,)."""
    known = ~np.isnan(figures)
    means: Floats = np.where(known, figures, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return means


def _mean(figures: Floats) -> float:
    known = figures[~np.isnan(figures)]
    return float(known.mean()) if len(known) else float("nan")


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


# ------------------------------------------------------------------------------------------------- what comes of it


def scene_outcome(
    benchmark: Benchmark, report: SceneReport, data: SceneData, names: Sequence[str], out: Path, how: str
) -> Outcome:
    """Gather what to report.

    Args:
        how: What was asked with, as the published figures say it: "tuned prompt", "1 shot".
    """
    name = "PQ" if report.measure == "PQ" else "mIoU"
    figures = [Figure(f"{name}, {how}", report.figure, report.figure_interval)]
    figures += [Figure(f"{other}, {how}", value) for other, value in report.others.items()]
    absent = [each.name for each in report.classes if each.figure is None]
    said = [f"Left out of the mean, as no image shows or finds them: {len(absent)} classes."] if absent else []
    return Outcome(
        benchmark,
        tuple(figures),
        (_class_table(report),),
        report,
        tuple(said),
        tuple(_gallery(report, data, names, out)),
        f"By the mean {report.measure} of the classes in the image alone. What is grey is not scored.",
        _COLUMNS,
        report.measure,
        "images",
    )


def _class_table(report: SceneReport) -> Table:
    head: tuple[str, ...] = ("class", report.measure)
    head += (
        ("matched", "found, left over", "real, left over")
        if report.measure == "PQ"
        else ("pixels in both", "in either")
    )
    rows = [
        (
            each.name,
            "-" if each.figure is None else f"{each.figure:.3f}",
            *(f"{value:.0f}" for value in (each.sums[1:] if report.measure == "PQ" else each.sums)),
        )
        for each in report.classes
    ]
    note = f"{report.measure} of each class over all {report.images} images; {report.seconds:.2f} s for one."
    return Table("Classes", note, head, tuple(rows))


def _gallery(report: SceneReport, data: SceneData, names: Sequence[str], out: Path) -> Iterator[Shown]:
    scored = [row for row, value in enumerate(report.image_figures) if value is not None]
    values = [report.image_figures[row] or 0.0 for row in scored]
    palette = Palette.spread(data.classes)
    for place, rank in best_median_worst(values) if values else ():
        name = names[scored[place]]
        image, answer = read_image(data.queries.image(name)), read_labels(mask_path(out, name))
        nothing = np.zeros_like(answer)
        yield Shown(
            "validation",
            rank,
            values[place],
            (name, f"{len(np.unique(answer))} classes found"),
            (*(overlaid(image, ids, palette) for ids in (nothing, data.queries.ids(name), answer)), None),
        )
