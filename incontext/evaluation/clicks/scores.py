"""What clicks on many things come to: NoC, those that never got good enough, mean IoU after so many clicks.

Refuses to know where curves come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from incontext.evaluation.clicks.simulation import Curve, clicks_to_reach
from incontext.evaluation.metrics import mean


@dataclass(frozen=True)
class Reached:
    """Clicks until an IoU of `quality`.

    It is their mean, things that never get there counting as the most clicks that were made (NoC); and how many those
    are.
    """

    quality: float
    clicks: float
    failures: int


@dataclass(frozen=True)
class ClickScore:
    """Of a set, or of all together (set "all").

    Attributes:
        ious: Mean IoU by the number of clicks; after 0 if there are examples.
        seconds: For an answer, on the average.
    """

    set: str
    things: int
    reached: tuple[Reached, ...]
    ious: Mapping[int, float]
    seconds: float


@dataclass(frozen=True)
class ClickColumn:
    """One method: its scores of each set, and of all things together."""

    method: str
    baseline: bool
    sets: tuple[ClickScore, ...]
    together: ClickScore


@dataclass(frozen=True)
class ClickReport:
    """All methods.

    Attributes:
        most: Clicks on a thing.
        left_out: Things that their images did not show.
    """

    columns: tuple[ClickColumn, ...]
    most: int
    counts: tuple[int, ...]
    left_out: int


def score(
    measured: Mapping[tuple[str, bool], Sequence[tuple[str, Curve, float]]],
    *,
    qualities: Sequence[float],
    counts: tuple[int, ...],
    most: int,
    left_out: int,
) -> ClickReport:
    """Make the report of curves.

    Args:
        measured: By a method's name and whether it is a baseline: the set of each thing, its curve, and the seconds
            for an answer.
        qualities: IoU to be reached.
        counts: Clicks after which the IoU is told.
        most: Clicks that were made on a thing at most.
        left_out: Things that were not clicked on.
    """
    columns = []
    for (name, baseline), things in measured.items():
        if not things:
            continue
        sets = dict.fromkeys(set_name for set_name, _, _ in things)
        scores = tuple(
            _score(each, [thing for thing in things if thing[0] == each], qualities, counts, most) for each in sets
        )
        columns.append(ClickColumn(name, baseline, scores, _score("all", things, qualities, counts, most)))
    return ClickReport(tuple(columns), most, counts, left_out)


def _score(
    name: str,
    things: Sequence[tuple[str, Curve, float]],
    qualities: Iterable[float],
    counts: Iterable[int],
    most: int,
) -> ClickScore:
    curves = [curve for _, curve, _ in things]
    reached = []
    for quality in qualities:
        found = [clicks_to_reach(curve, quality) for curve in curves]
        noc = mean(most if count is None else count for count in found)
        reached.append(Reached(quality, noc, sum(count is None for count in found)))
    ious = {count: mean(curve.after(count) for curve in curves) for count in (0, *counts)}
    return ClickScore(name, len(things), tuple(reached), ious, mean(seconds for _, _, seconds in things))
