"""Scores of clicks for people: tables, Markdown, a page; and as JSON for machines.

Refuses to know how scores are made, and networks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path

from incontext.evaluation.clicks.scores import ClickColumn, ClickReport, ClickScore
from incontext.evaluation.pages.page import document, section
from incontext.evaluation.pages.report import write_files
from incontext.evaluation.pages.tables import Table, facts

_TITLE = "Clicks"
_PROTOCOL = (
    "Clicks are simulated as by RITM (arXiv 2102.06583): on the pixel farthest inside the largest error of the last "
    "answer. Masks are compared at the images' own size; every thing counts alike. NoC is the mean number of clicks "
    "until that IoU, things that never get there counting as all {most}; beside it how many those are."
)


def summary_table(report: ClickReport) -> Table:
    """Make a row for each method, of all things together."""
    rows = tuple((each.method, *_cells(report, each.together)) for each in report.columns)
    return Table("All things", _PROTOCOL.format(most=report.most), ("method", *_head(report)), rows)


def set_table(report: ClickReport, column: ClickColumn) -> Table:
    """Make a row for each set, of one method."""
    rows = [(each.set, *_cells(report, each)) for each in column.sets]
    if len(rows) > 1:
        rows.append(("all", *_cells(report, column.together)))
    return Table(f"Sets: {column.method}", "", ("set", *_head(report)), tuple(rows), total=len(rows) > 1)


def tables(report: ClickReport) -> list[Table]:
    """List every table of a report."""
    return [summary_table(report), *(set_table(report, column) for column in report.columns)]


def sentences(report: ClickReport) -> Iterator[str]:
    """Say what the tables do not say by themselves."""
    for column in report.columns:
        first = min(report.counts)
        lost = [each.set for each in column.sets if each.ious[0] > each.ious[first]]
        if lost and not column.baseline:
            clicks = "a click" if first == 1 else f"{first} clicks"
            yield f"{column.method}: {', '.join(lost)} lost by {clicks}."
    if report.left_out:
        yield f"{report.left_out} left out, as their images do not show what is to be clicked on."


def to_text(report: ClickReport) -> str:
    """Write what a terminal shows."""
    shown = [summary_table(report), *(set_table(report, each) for each in report.columns if not each.baseline)]
    if all(len(each.sets) == 1 for each in report.columns):
        shown = shown[:1]
    return "\n".join([*(f"{table.title}\n\n{table.to_markdown()}" for table in shown), *sentences(report)])


def write_report(folder: Path, report: ClickReport, about: Mapping[str, object]) -> list[Path]:
    """Write report.json, report.md and report.html.

    Args:
        folder: It is there.
        report: What came of the clicks.
        about: What ran, name and value.

    Returns:
        The files.
    """
    made = tables(report)
    markdown = [f"# {_TITLE}", "\n".join(f"- {fact}" for fact in facts(about)), *sentences(report)]
    for table in made:
        markdown += [part for part in (f"## {table.title}", table.note, table.to_markdown().rstrip()) if part]
    body = [f"<h1>{_TITLE}</h1>", f'<p class="quiet">{escape(" · ".join(facts(about)))}</p>']
    body += [f"<p>{escape(sentence)}</p>" for sentence in sentences(report)]
    body += [section(table) for table in made]
    contents = {
        "report.json": json.dumps({"about": dict(about), **asdict(report)}, indent=1) + "\n",
        "report.md": "\n\n".join(markdown) + "\n",
        "report.html": document(_TITLE, body),
    }
    return write_files(folder, contents)


def _head(report: ClickReport) -> tuple[str, ...]:
    qualities = [each.quality for each in report.columns[0].together.reached]
    noc = [name for quality in qualities for name in (f"NoC@{round(100 * quality)}", "failed")]
    return (*noc, *(f"IoU@{count}" for count in (0, *report.counts)), "things", "s/answer")


def _cells(report: ClickReport, each: ClickScore) -> tuple[str, ...]:
    noc = [text for at in each.reached for text in (f"{at.clicks:.2f}", str(at.failures))]
    ious = [f"{each.ious[count]:.3f}" for count in (0, *report.counts)]
    return (*noc, *ious, str(each.things), f"{each.seconds:.3f}")
