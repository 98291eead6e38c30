"""A few-shot benchmark asked of methods: the code that scores any episodes, at the benchmark's size.

Refuses to know networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from incontext.evaluation.few_shot.episodes import EpisodeSet
from incontext.evaluation.few_shot.records import AnswerJournal
from incontext.evaluation.few_shot.scores import FewShotReport
from incontext.evaluation.few_shot.scoring import Method, evaluate
from incontext.evaluation.pages.gallery import Shown, gallery
from incontext.evaluation.pages.page import note_on_episodes
from incontext.evaluation.pages.tables import tables
from incontext.evaluation.protocols.benchmarks import Benchmark
from incontext.evaluation.protocols.few_shot_data import FewShotData, FoldImages
from incontext.evaluation.protocols.outcome import Figure, Outcome

Lists = Mapping[int, tuple[EpisodeSet, ...]]
"""By the number of shots: the episodes of each fold."""


def run_few_shot(
    methods: Sequence[Method],
    lists: Lists,
    data: FewShotData,
    *,
    side: int | None,
    workers: int = 1,
    journal: AnswerJournal | None = None,
    on_episode: Callable[[int, int], None] | None = None,
) -> FewShotReport:
    """Ask the methods every episode, one number of shots after the other, and score the answers.

    Args:
        side: Pixels along a side at which masks are compared, None: each query's own size. The other arguments are
            those of `few_shot.scoring.evaluate`, whose errors may come. on_episode(done, total) counts over all numbers
            of shots.
    """
    total, done = sum(len(each.episodes) for sets in lists.values() for each in sets), 0
    reports = []
    for shots, sets in lists.items():
        before = done

        def tell(now: int, _of: int, before: int = before) -> None:
            if on_episode is not None:
                on_episode(before + now, total)

        reports.append(
            evaluate(
                [method for method in methods if method.fewest_shots <= shots],
                sets,
                shots=(shots,),
                side=side,
                images=FoldImages(data),
                workers=workers,
                journal=journal,
                on_episode=tell,
            )
        )
        done += sum(len(each.episodes) for each in sets)
    return _joined(reports)


def _joined(reports: Sequence[FewShotReport]) -> FewShotReport:
    """Join the columns of reports about the same folds."""
    names: dict[str, dict[int, str]] = {}
    for report in reports:
        for fold, of_fold in report.class_names.items():
            names.setdefault(fold, {}).update(of_fold)
    first = reports[0]
    return FewShotReport(first.side, first.seed, tuple(each for r in reports for each in r.columns), names)


def few_shot_outcome(benchmark: Benchmark, report: FewShotReport, shown: Sequence[Shown], shots: int) -> Outcome:
    """Gather what to report.

    Args:
        shots: Of the episodes that are shown.
    """
    figures = []
    several = len({column.method for column in report.columns}) > 1
    for column in report.columns:
        name = shots_name(column.shots)
        how = column.method if several else ""
        figures.append(Figure(f"mIoU, {name}", column.mean_iou, column.mean_iou_interval, how))
        figures.append(Figure(f"FB-IoU, {name}", column.fb_iou, column.fb_iou_interval, how))
    return Outcome(
        benchmark,
        tuple(figures),
        tuple(tables(report)),
        report,
        shown=tuple(shown),
        note=note_on_episodes(shots),
    )


def shots_name(shots: int) -> str:
    """Write 1 shot, 5 shots."""
    return f"{shots} shot{'s' * (shots > 1)}"


def few_shot_gallery(report: FewShotReport, method: Method, lists: Lists, data: FewShotData) -> tuple[list[Shown], int]:
    """Show the best, the median and the worst episode of each fold at the method's fewest shots, and say how many."""
    shots = next(column.shots for column in report.columns if column.method == method.name)
    return gallery(report, method, lists[shots], shots=shots, images=FoldImages(data)), shots
