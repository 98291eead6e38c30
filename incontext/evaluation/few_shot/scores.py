"""From the records of answers to scores: per class, per set, over all sets, with intervals; confidence; absence.

Refuses to know who answered, and how scores are shown.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from incontext.evaluation.few_shot.episodes import EpisodeSet
from incontext.evaluation.few_shot.images import SCORING_SIDE
from incontext.evaluation.few_shot.records import Record
from incontext.evaluation.metrics import (
    BINS,
    ConfidenceTally,
    Floats,
    Interval,
    Overlap,
    interval,
    mean,
    resampled_mean_iou,
    resamples,
)

THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)  # of confidence


@dataclass(frozen=True)
class ConfidenceReport:
    """What confidence is worth.

    Means of confidence, 0..1; then, per threshold, shares of pixels 0..1; then the bins.

    the share of the pixels below it that are wrong. A useful confidence rejects more of the wrong ones.

    Attributes:
        wrong_rejected, right_rejected: The share of all wrong (right) pixels that lie below the threshold; wrong_below:
        calibration_error: 0..1, see `ConfidenceTally`. Per bin of confidence, each 0.05 wide: bin_pixels, the share of
            all pixels; bin_confidence, their mean confidence; bin_right, the share of them that are right. None: there
            were no such pixels.
    """

    mean_right: float | None
    mean_wrong: float | None
    calibration_error: float | None
    thresholds: tuple[float, ...]
    wrong_rejected: tuple[float | None, ...]
    right_rejected: tuple[float | None, ...]
    wrong_below: tuple[float | None, ...]
    bin_pixels: tuple[float, ...]
    bin_confidence: tuple[float | None, ...]
    bin_right: tuple[float | None, ...]

    @classmethod
    def of(cls, tally: ConfidenceTally) -> ConfidenceReport:
        """Report on a tally."""
        wrong, right = tally.pixels.sum(axis=1).tolist()
        wrong_total, right_total = tally.total.sum(axis=1).tolist()
        under = [tally.below(threshold) for threshold in THRESHOLDS]
        in_bin, confidence = tally.pixels.sum(axis=0).tolist(), tally.total.sum(axis=0).tolist()
        return cls(
            mean_right=_share(right_total, right),
            mean_wrong=_share(wrong_total, wrong),
            calibration_error=tally.calibration_error,
            thresholds=THRESHOLDS,
            wrong_rejected=tuple(_share(w, wrong) for w, _ in under),
            right_rejected=tuple(_share(r, right) for _, r in under),
            wrong_below=tuple(_share(w, w + r) for w, r in under),
            bin_pixels=tuple(count / max(1, wrong + right) for count in in_bin),
            bin_confidence=tuple(_share(confidence[i], in_bin[i]) for i in range(BINS)),
            bin_right=tuple(_share(int(tally.pixels[1, i]), in_bin[i]) for i in range(BINS)),
        )


@dataclass(frozen=True)
class AbsenceReport:
    """Queries without the thing: how many were asked, and the share of empty answers, which are right, 0..1.

    own_*: those whose query is an image of the same set as the prompts; the others come from another set. None: none.
    """

    asked: int
    empty: float
    own_asked: int
    own_empty: float | None
    other_empty: float | None


@dataclass(frozen=True)
class SetScore:
    """The scores of one set, 0..1.

    Intervals hold the middle 95 % of a bootstrap over the set's episodes.

    Attributes:
        lost: The share of the episodes whose thing is there and was missed entirely.
        seconds: In the method, for one query on average.
        episode_iou: Of each episode alone, in the set's order.
    """

    name: str
    episodes: int
    mean_iou: float
    mean_iou_interval: Interval
    fb_iou: float
    fb_iou_interval: Interval
    class_iou: dict[int, float]
    lost: float | None
    seconds: float
    episode_iou: tuple[float, ...]


@dataclass(frozen=True)
class Column:
    """A method with a number of shots: its means over the sets, with intervals as in `SetScore`, and its sets.

    Attributes:
        lost: Over all episodes alike. confidence and absence are None where there was none, or it was not asked.
    """

    method: str
    shots: int
    baseline: bool
    mean_iou: float
    mean_iou_interval: Interval
    fb_iou: float
    fb_iou_interval: Interval
    lost: float | None
    seconds: float
    confidence: ConfidenceReport | None
    absence: AbsenceReport | None
    sets: tuple[SetScore, ...]


@dataclass(frozen=True)
class FewShotReport:
    """Every score of a run.

    Attributes:
        side: Pixels along a side at which masks were compared, None: their own.
        seed: Of the bootstrap.
        class_names: Set -> id -> what it means.
    """

    side: int | None
    seed: int
    columns: tuple[Column, ...]
    class_names: dict[str, dict[int, str]]

    @property
    def set_names(self) -> tuple[str, ...]:
        """The names of the sets, in their order."""
        return tuple(each.name for each in self.columns[0].sets)

    def column(self, method: str, shots: int) -> Column:
        """Find the column of that method with that many shots.

        Raises:
            ValueError: It was not asked so.
        """
        for each in self.columns:
            if (each.method, each.shots) == (method, shots):
                return each
        known = ", ".join(f"{each.method} with {each.shots}" for each in self.columns)
        raise ValueError(f"expected a method and a number of shots among {known}; got {method} with {shots}")


Asked = tuple[str, int, bool]
"""A method's name, the number of shots, and whether it is a baseline."""


def score(
    records: Mapping[Asked, Mapping[str, Sequence[Record]]],
    sets: Sequence[EpisodeSet],
    *,
    seed: int,
    side: int | None = SCORING_SIDE,
) -> FewShotReport:
    """Compute all scores: records of each method and number of shots, by set, in the order of its episodes."""
    drawn = {each.name: resamples(len(each.episodes), seed ^ zlib.crc32(each.name.encode())) for each in sets}
    columns = tuple(_column(asked, of_sets, sets, drawn) for asked, of_sets in records.items())
    names = {
        each.name: {i: each.class_name(i) for i in sorted({episode.id for episode in each.episodes})} for each in sets
    }
    return FewShotReport(side, seed, columns, names)


def _column(
    asked: Asked,
    records: Mapping[str, Sequence[Record]],
    sets: Sequence[EpisodeSet],
    drawn: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]],
) -> Column:
    scored = [_set_score(each, records[each.name], drawn[each.name]) for each in sets]
    together = [record for each in sets for record in records[each.name]]
    tallies = [record.confidence for record in together if record.confidence is not None]
    return Column(
        *asked,
        mean_iou=mean(each.mean_iou for each, _, _ in scored),
        mean_iou_interval=interval(np.mean([replicates for _, replicates, _ in scored], axis=0)),
        fb_iou=mean(each.fb_iou for each, _, _ in scored),
        fb_iou_interval=interval(np.mean([replicates for _, _, replicates in scored], axis=0)),
        lost=_lost(together),
        seconds=mean(record.seconds for record in together),
        confidence=ConfidenceReport.of(sum(tallies, ConfidenceTally.empty())) if tallies else None,
        absence=_absence(sets, records),
        sets=tuple(each for each, _, _ in scored),
    )


def _set_score(
    each: EpisodeSet, records: Sequence[Record], drawn: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> tuple[SetScore, Floats, Floats]:
    """Score a set, and make the replicates of its mIoU and FB-IoU, (R,) each."""
    by_class: defaultdict[int, Overlap] = defaultdict(Overlap)
    for episode, record in zip(each.episodes, records, strict=True):
        by_class[episode.id] += record.foreground
    class_iou = {i: by_class[i].iou for i in sorted(by_class)}
    background = sum((record.background for record in records), Overlap())
    front, back = (
        np.array([(o.intersection, o.union) for o in overlaps], np.float64)
        for overlaps in ([r.foreground for r in records], [r.background for r in records])
    )
    classes, one = np.array([episode.id for episode in each.episodes]), np.zeros(len(records), np.int64)
    mean_ious = resampled_mean_iou(drawn, classes, front)
    fb_ious = (resampled_mean_iou(drawn, one, front) + resampled_mean_iou(drawn, one, back)) / 2
    made = SetScore(
        name=each.name,
        episodes=len(records),
        mean_iou=mean(class_iou.values()),
        mean_iou_interval=interval(mean_ious),
        fb_iou=mean([sum(by_class.values(), Overlap()).iou, background.iou]),
        fb_iou_interval=interval(fb_ious),
        class_iou=class_iou,
        lost=_lost(records),
        seconds=mean(record.seconds for record in records),
        episode_iou=tuple(record.foreground.iou for record in records),
    )
    return made, mean_ious, fb_ious


def _lost(records: Sequence[Record]) -> float | None:
    return _share(sum(record.lost for record in records), sum(record.present for record in records))


def _absence(sets: Sequence[EpisodeSet], records: Mapping[str, Sequence[Record]]) -> AbsenceReport | None:
    answers: dict[bool, list[bool]] = {True: [], False: []}  # by whether the query is of the prompts' own set
    for each in sets:
        for episode, record in zip(each.episodes, records[each.name], strict=True):
            if episode.absent is not None and record.absent_empty is not None:
                answers[episode.absent.set == each.name].append(record.absent_empty)
    own, other = answers[True], answers[False]
    if not own and not other:
        return None
    return AbsenceReport(
        asked=len(own) + len(other),
        empty=(sum(own) + sum(other)) / (len(own) + len(other)),
        own_asked=len(own),
        own_empty=_share(sum(own), len(own)),
        other_empty=_share(sum(other), len(other)),
    )


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
