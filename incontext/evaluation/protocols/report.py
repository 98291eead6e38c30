"""A benchmark's outcome beside the published figures: tables, and report.json, report.md and report.html.

Refuses to know how anything was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from html import escape
from pathlib import Path
from typing import Any

from incontext.evaluation.pages.page import document, episodes, section
from incontext.evaluation.pages.report import write_files
from incontext.evaluation.pages.tables import Table, facts
from incontext.evaluation.protocols.outcome import Figure, Outcome
from incontext.evaluation.protocols.published import published


def comparison(outcome: Outcome, ours: str) -> Table:
    """Make a row for each system: ours, then those that published figures, with their sources.

    Percent. A column for each figure that we have or that somebody published.

    Args:
        ours: What ran.
    """
    others = published(outcome.benchmark.name)
    measured = {(figure.how, figure.name): figure for figure in outcome.figures}
    names = list(dict.fromkeys([*(each.figure for each in others), *(figure.name for figure in outcome.figures)]))
    rows = []
    for how in dict.fromkeys(figure.how for figure in outcome.figures):
        cells = (_ours(measured.get((how, name))) for name in names)
        rows.append((f"this run, {ours}{f', {how}' * bool(how)}", *cells, "measured here", ""))
    systems = dict.fromkeys((each.system, each.source, each.remark) for each in others)
    for system, source, remark in systems:
        known = {
            each.figure: each.value
            for each in others
            if (each.system, each.source, each.remark) == (system, source, remark)
        }
        cells = (f"{known[name]:.1f}" if name in known else "" for name in names)
        rows.append((system, *cells, source, remark))
    note = (
        "Percent. Others' figures are their authors' own, unless another source is named; in brackets the middle 95 % "
        "of a bootstrap."
    )
    return Table("Beside published figures", note, ("system", *names, "source", "remark"), tuple(rows))


def _ours(figure: Figure | None) -> str:
    if figure is None:
        return ""
    span = "" if figure.interval is None else f" [{100 * figure.interval[0]:.1f}, {100 * figure.interval[1]:.1f}]"
    return f"{100 * figure.value:.1f}{span}"


def to_text(outcome: Outcome, ours: str) -> str:
    """Write what a terminal shows."""
    return "\n".join([comparison(outcome, ours).to_markdown(), *outcome.sentences])


def to_markdown(outcome: Outcome, about: Mapping[str, object], ours: str) -> str:
    """Write every table.

    Args:
        about: What ran, name and value.
    """
    parts = [f"# {outcome.benchmark.title}", outcome.benchmark.rules, "\n".join(f"- {fact}" for fact in facts(about))]
    parts += outcome.sentences
    for table in (comparison(outcome, ours), *outcome.tables):
        parts += [f"## {table.title}", table.note, table.to_markdown().rstrip()]
    return "\n\n".join(parts) + "\n"


def to_json(outcome: Outcome, about: Mapping[str, object]) -> str:
    """Write every figure, ours and the published ones, as one JSON object whose key `about` holds what ran."""
    report = outcome.report
    scores: Any = asdict(report) if is_dataclass(report) and not isinstance(report, type) else report
    content = {
        "about": {"benchmark": outcome.benchmark.name, "rules": outcome.benchmark.rules, **about},
        "figures": [asdict(figure) for figure in outcome.figures],
        "published": [asdict(each) for each in published(outcome.benchmark.name)],
        "scores": scores,
    }
    return json.dumps(content, indent=1) + "\n"


def to_page(outcome: Outcome, about: Mapping[str, object], ours: str) -> str:
    """Write an HTML document that needs nothing else."""
    title = outcome.benchmark.title
    cards = "".join(
        f"<li><span>{escape(', '.join(filter(None, (figure.name, figure.how))))}</span>"
        f"<b>{100 * figure.value:.1f}</b>{_span(figure)}</li>"
        for figure in outcome.figures
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{escape(" · ".join(facts(about)))}</p>',
        f"<p>{escape(outcome.benchmark.rules)}</p>",
        *([f'<ul class="figures">{cards}</ul>'] if cards else []),
        *(f"<p>{escape(sentence)}</p>" for sentence in outcome.sentences),
        section(comparison(outcome, ours)),
        *(section(table) for table in outcome.tables),
        *episodes(outcome.shown, outcome.note, columns=outcome.columns, measure=outcome.measure, of=outcome.of),
    ]
    return document(title, body)


def _span(figure: Figure) -> str:
    if figure.interval is None:
        return ""
    low, high = figure.interval
    return f"<span>{100 * low:.1f} to {100 * high:.1f}</span>"


def write_report(folder: Path, outcome: Outcome, about: Mapping[str, object], ours: str) -> list[Path]:
    """Write report.json, report.md and report.html; the files that were written."""
    contents = {
        "report.json": to_json(outcome, about),
        "report.md": to_markdown(outcome, about, ours),
        "report.html": to_page(outcome, about, ours),
    }
    return write_files(folder, contents)
