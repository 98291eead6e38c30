"""A report as files: report.json, report.md, report.html, each whole or not at all.

Refuses to know how scores and images are made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from incontext.evaluation.few_shot.scores import FewShotReport
from incontext.evaluation.pages.gallery import Shown
from incontext.evaluation.pages.page import page
from incontext.evaluation.pages.tables import facts, sentences, set_table, tables
from incontext.images.write import whole_file


def to_text(report: FewShotReport) -> str:
    """Write what a terminal shows: the scores of the sets and what else there is to say."""
    return "\n".join([set_table(report).to_markdown(), *sentences(report)])


def to_markdown(report: FewShotReport, about: Mapping[str, object]) -> str:
    """Write every table.

    Args:
        about: What ran, name and value.
    """
    parts = ["# Few-shot scores", "\n".join(f"- {fact}" for fact in facts(about))]
    parts += sentences(report)
    for table in tables(report):
        parts += [f"## {table.title}", table.note, table.to_markdown().rstrip()]
    return "\n\n".join(parts) + "\n"


def to_json(report: FewShotReport, about: Mapping[str, object]) -> str:
    """Write every figure, as one JSON object whose key `about` holds what ran."""
    return json.dumps({"about": dict(about), **asdict(report)}, indent=1) + "\n"


def write_report(
    folder: Path, report: FewShotReport, shown: Sequence[Shown], about: Mapping[str, object]
) -> list[Path]:
    """Write report.json, report.md and report.html; the files that were written."""
    contents = {
        "report.json": to_json(report, about),
        "report.md": to_markdown(report, about),
        "report.html": page(report, shown, about),
    }
    return write_files(folder, contents)


def write_files(folder: Path, contents: Mapping[str, str]) -> list[Path]:
    """Write texts by their files' names, each whole or not at all; the files that were written."""
    for name, content in contents.items():
        with whole_file(folder / name) as stream:
            stream.write(content.encode())
    return [folder / name for name in contents]
