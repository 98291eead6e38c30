"""The scores as tables for people, and those as Markdown.

Refuses to know files, images and HTML: page.py makes a page of the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from incontext.evaluation.few_shot.scores import Column, FewShotReport, SetScore
from incontext.evaluation.metrics import Interval


@dataclass(frozen=True)
class Table:
    """A table: title, a sentence about it, names of the columns, rows of text.

    Attributes:
        total: The last row sums up.
    """

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: bool = False

    def to_markdown(self) -> str:
        """Write the table alone."""
        rows = [tuple(f"**{cell}**" if cell else cell for cell in row) for row in self.rows[-1:]]
        lines = [*self.rows[:-1], *rows] if self.total else list(self.rows)
        return "\n".join(_line(each) for each in (self.head, ("---",) * len(self.head), *lines)) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def label(report: FewShotReport, column: Column) -> str:
    """Name a column: the shots, and the method where it is a baseline or one of several."""
    if column.baseline:
        return column.method
    shots = f"{column.shots} shot{'s' * (column.shots > 1)}"
    several = len({each.method for each in report.columns if not each.baseline}) > 1
    return f"{shots}, {column.method}" if several else shots


def beside(report: FewShotReport) -> list[Column]:
    """Choose the columns for tables of sets: the model's, then each baseline at its fewest shots."""
    model = [each for each in report.columns if not each.baseline]
    fewest: dict[str, Column] = {}
    for each in report.columns:
        if each.baseline:
            fewest.setdefault(each.method, each)
    return [*model, *fewest.values()]


def set_table(report: FewShotReport, *, intervals: bool = False) -> Table:
    """Make a row of mIoU for each set and one for their mean."""
    size = "the queries' own size" if report.side is None else f"{report.side} x {report.side} pixels"
    note = f"Masks are compared at {size}; baselines with the fewest shots."
    if intervals:
        note += f" In brackets the middle 95 % of a bootstrap over the episodes of each set, seed {report.seed}."
    return _of_sets(report, "Mean IoU by set", note, lambda e: (e.mean_iou, e.mean_iou_interval), intervals=intervals)


def tables(report: FewShotReport) -> list[Table]:
    """List every table of a report."""
    made = [summary_table(report), set_table(report, intervals=True)]
    note = "The mean of the foreground's and the background's IoU over all episodes of a set."
    made.append(_of_sets(report, "FB-IoU by set", note, lambda e: (e.fb_iou, e.fb_iou_interval), intervals=True))
    made += _class_tables(report)
    made += [table for table in (confidence_table(report), absence_table(report)) if table is not None]
    return made


def sentences(report: FewShotReport) -> list[str]:
    """Say what the tables say, for those who read nothing else."""
    model = [each for each in report.columns if not each.baseline]
    return [*_more_shots(report, model), *_what_confidence_is_worth(report, model[:1]), *_what_is_lost(report, model)]


def _more_shots(report: FewShotReport, model: Sequence[Column]) -> Iterator[str]:
    for column in model:
        first = next(each for each in model if each.method == column.method)
        if column is not first:
            pairs = list(zip(first.sets, column.sets, strict=True))
            higher = sum(more.mean_iou > less.mean_iou for less, more in pairs)
            names = f"{label(report, column)} against {label(report, first)}"
            yield f"{names}: higher in {higher} of {len(pairs)} sets."


def _what_confidence_is_worth(report: FewShotReport, model: Sequence[Column]) -> Iterator[str]:
    for column in model:
        known = column.confidence
        if known is not None:
            half = known.thresholds.index(0.5)
            yield (
                f"Mean confidence ({label(report, column)}): {percent(known.mean_right)} where right, "
                f"{percent(known.mean_wrong)} where wrong; below 0.5 lie {percent(known.wrong_rejected[half])} of the "
                f"wrong pixels and {percent(known.right_rejected[half])} of the right ones."
            )


def _what_is_lost(report: FewShotReport, model: Sequence[Column]) -> Iterator[str]:
    for column in model:
        if column.absence is not None:
            yield (
                f"Queries without the thing ({label(report, column)}): {percent(column.absence.empty)} of "
                f"{column.absence.asked} answers are empty; {percent(column.lost)} of the things that are there are "
                "lost entirely."
            )


def summary_table(report: FewShotReport) -> Table:
    """Make a row for each method and number of shots."""
    head = ("answers by", "shots", "mIoU", "95 %", "FB-IoU", "95 %", "lost", "empty where absent", "s each")
    rows = tuple(
        (
            each.method,
            str(each.shots),
            f"{each.mean_iou:.3f}",
            _span(each.mean_iou_interval),
            f"{each.fb_iou:.3f}",
            _span(each.fb_iou_interval),
            percent(each.lost),
            percent(None if each.absence is None else each.absence.empty),
            f"{each.seconds:.3f}",
        )
        for each in report.columns
    )
    note = (
        "Means over the sets. Lost: things that are there and of which no pixel was found. Empty where absent: answers "
        "to queries without the thing in which nothing was found, which is right."
    )
    return Table("Summary", note, head, rows)


def confidence_table(report: FewShotReport) -> Table | None:
    """Say what confidence is worth, for each column that has one."""
    rows, shown = [], (0.25, 0.5, 0.75)
    for each in report.columns:
        known = each.confidence
        if known is not None:
            at = [known.thresholds.index(threshold) for threshold in shown]
            rejected = (f"{percent(known.wrong_rejected[i])}, {percent(known.right_rejected[i])}" for i in at)
            means = (percent(known.mean_right), percent(known.mean_wrong), _figure(known.calibration_error))
            rows.append((label(report, each), *means, *rejected))
    if not rows:
        return None
    head = ("answers", "mean where right", "where wrong", "calibration error", *(f"below {each:g}" for each in shown))
    note = (
        "Below a threshold lie these shares of the wrong pixels and of the right ones. The calibration error is the "
        "expected one over 20 bins; the confidence is a margin between colours, not made to be calibrated."
    )
    return Table("Confidence", note, head, tuple(rows))


def absence_table(report: FewShotReport) -> Table | None:
    """Count queries without the thing, by where they are from."""
    rows = tuple(
        (
            label(report, each),
            str(each.absence.asked),
            percent(each.absence.empty),
            percent(each.absence.own_empty),
            percent(each.absence.other_empty),
            percent(each.lost),
        )
        for each in report.columns
        if each.absence is not None
    )
    if not rows:
        return None
    head = ("answers", "asked", "empty", "of the same set", "of another set", "present things lost")
    note = (
        "Each episode's prompts also get a query that does not show their thing: an image of the same set, or, where "
        "all of those show it, of a set about other things."
    )
    return Table("Queries without the thing", note, head, rows)


def _of_sets(
    report: FewShotReport,
    title: str,
    note: str,
    of: Callable[[Column | SetScore], tuple[float, Interval]],
    *,
    intervals: bool,
) -> Table:
    columns = beside(report)

    def cell(column: Column, value: Column | SetScore) -> str:
        figure, span = of(value)
        return f"{figure:.3f} [{_span(span)}]" if intervals and not column.baseline else f"{figure:.3f}"

    rows = [
        (name, *(cell(column, column.sets[row]) for column in columns), str(columns[0].sets[row].episodes))
        for row, name in enumerate(report.set_names)
    ]
    if len(rows) > 1:
        episodes = sum(each.episodes for each in columns[0].sets)
        rows.append(("mean", *(cell(column, column) for column in columns), str(episodes)))
    head = ("set", *(label(report, column) for column in columns), "episodes")
    return Table(title, note, head, tuple(rows), total=len(rows) > 1)


def _class_tables(report: FewShotReport) -> list[Table]:
    columns, made = beside(report), []
    for row, name in enumerate(report.set_names):
        classes = sorted({i for column in columns for i in column.sets[row].class_iou})
        if len(classes) > 1:
            rows = tuple(
                (report.class_names[name][i], *(_figure(column.sets[row].class_iou.get(i)) for column in columns))
                for i in classes
            )
            head = ("class", *(label(report, column) for column in columns))
            made.append(Table(f"Classes of {name}", "IoU of each class, over all of its episodes.", head, rows))
    return made


def facts(about: Mapping[str, object]) -> list[str]:
    """Say what ran, a few words each; of a digest the start."""
    return [f"{name.replace('_', ' ')} {str(each)[:12] if 'sha256' in name else each}" for name, each in about.items()]


def percent(share: float | None) -> str:
    """Write 0.123 as 12.3 %."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _span(of: Interval) -> str:
    return f"{of[0]:.3f}, {of[1]:.3f}"
