"""Video scores for people: tables, Markdown, a page with J over time; and as JSON for machines.

Refuses to know how scores are made, and networks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path

from incontext.evaluation.pages.charts import HUES, TONES, timeline
from incontext.evaluation.pages.page import document, section
from incontext.evaluation.pages.report import write_files
from incontext.evaluation.pages.tables import Table, facts
from incontext.evaluation.video.davis import Statistics
from incontext.evaluation.video.scoring import ClipScore, VideoColumn, VideoReport

_TITLE = "Video scores"
_PROTOCOL = (
    "J is the IoU of an object in a frame, F how well its outline is met within 0.8 % of the diagonal; neither the "
    "first frame with a mask nor the last counts. Means over an object's frames, then over all objects."
)


def summary_table(report: VideoReport) -> Table:
    """Make a row for each method."""
    note = f"{_PROTOCOL} Recall: frames above 0.5; decay: first quarter of the frames less the last."
    head = ("answers by", "J&F", "J", "recall", "decay", "F", "recall", "decay", "objects", "frames/s")
    rows = tuple(
        (each.method, _figure(each.j_and_f), *_cells(each.j), *_cells(each.f), str(each.objects), _rate(each))
        for each in report.columns
    )
    return Table("Summary", note, head, rows)


def clip_table(report: VideoReport, column: VideoColumn) -> Table:
    """Make a row for each clip: the scores of one method, and J of the baselines beside them."""
    baselines = [each for each in report.columns if each.baseline and each is not column]
    rows = []
    for number, clip in enumerate(column.clips):
        beside = (_figure(each.clips[number].j) for each in baselines)
        objects, figures = str(len(clip.objects)), (_figure(clip.j), _figure(clip.f), _figure(clip.j_and_f))
        rows.append((clip.name, *figures, *beside, objects, str(clip.frames), f"{clip.frames_per_second:.1f}"))
    if len(rows) > 1:
        means = (_mean(column.j), _mean(column.f))
        copied = (_mean(each.j) for each in baselines)
        frames = sum(clip.frames for clip in column.clips)
        total = (*means, _figure(column.j_and_f), *copied, str(column.objects), str(frames), _rate(column))
        rows.append(("mean", *total))
    names = (f"J: {each.method}" for each in baselines)
    head = ("clip", "J", "F", "J&F", *names, "objects", "frames", "frames/s")
    note = "The mean is that over all objects; frames per second without the decoding of images."
    return Table(f"Clips: {column.method}", note, head, tuple(rows), total=len(rows) > 1)


def region_table(report: VideoReport) -> Table:
    """Make a row of J for each clip, a column for each method."""
    rows = [
        (name, *(_figure(column.clips[number].j) for column in report.columns))
        for number, name in enumerate(report.clip_names)
    ]
    if len(rows) > 1:
        rows.append(("mean", *(_mean(each.j) for each in report.columns)))
    head = ("clip", *(each.method for each in report.columns))
    return Table("J by clip", "The mean is that over all objects.", head, tuple(rows), total=len(rows) > 1)


def object_table(column: VideoColumn) -> Table | None:
    """Make a row for each object of the clips that have several; None where none has."""
    rows = tuple(
        (clip.name, str(each.id), str(each.frames), _figure(each.j.mean), _figure(each.f.mean))
        for clip in column.clips
        if len(clip.objects) > 1
        for each in clip.objects
    )
    head = ("clip", "object", "frames scored", "J", "F")
    return Table(f"Objects: {column.method}", "Of clips with several.", head, rows) if rows else None


def tables(report: VideoReport) -> list[Table]:
    """List every table of a report."""
    model = _model(report)
    made = [summary_table(report), *([region_table(report)] if len(model) > 1 else [])]
    made += [clip_table(report, column) for column in model]
    return made + [table for column in model if (table := object_table(column)) is not None]


def sentences(report: VideoReport) -> Iterator[str]:
    """Say what the tables say, for those who read nothing else."""
    baselines = [each for each in report.columns if each.baseline]
    pairs = [(column, other) for column in _model(report) for other in baselines if column is not other]
    for column, other in pairs:
        if column.j is not None and other.j is not None:
            both = [(a.j, b.j) for a, b in zip(column.clips, other.clips, strict=True)]
            known = [(a, b) for a, b in both if a is not None and b is not None]
            higher = sum(a > b for a, b in known)
            yield (
                f"{column.method}: J {column.j.mean:.3f} against {other.j.mean:.3f} of {other.method}; higher in "
                f"{higher} of {len(known)} clips."
            )
    if report.unscored:
        yield f"Nothing to score in {', '.join(report.unscored)}: no mask there but those that introduce objects."


def to_text(report: VideoReport) -> str:
    """Write what a terminal shows."""
    model = _model(report)
    shown = [clip_table(report, model[0])] if len(model) == 1 else [region_table(report), summary_table(report)]
    return "\n".join([*(table.to_markdown() for table in shown), *sentences(report)])


def to_markdown(report: VideoReport, about: Mapping[str, object]) -> str:
    """Write every table.

    Args:
        about: What ran, name and value.
    """
    parts = [f"# {_TITLE}", "\n".join(f"- {fact}" for fact in facts(about)), *sentences(report)]
    for table in tables(report):
        parts += [f"## {table.title}", table.note, table.to_markdown().rstrip()]
    return "\n\n".join(parts) + "\n"


def to_json(report: VideoReport, about: Mapping[str, object]) -> str:
    """Write every figure, as one JSON object whose key `about` holds what ran."""
    return json.dumps({"about": dict(about), **asdict(report)}, indent=1) + "\n"


def to_page(report: VideoReport, about: Mapping[str, object]) -> str:
    """Write an HTML document that needs nothing else."""
    summary, *others = tables(report)
    body = [
        f"<h1>{_TITLE}</h1>",
        f'<p class="quiet">{escape(" · ".join(facts(about)))}</p>',
        *(f"<p>{escape(sentence)}</p>" for sentence in sentences(report)),
        section(summary),
        *_timelines(report),
        *(section(table) for table in others),
    ]
    return document(_TITLE, body)


def write_report(folder: Path, report: VideoReport, about: Mapping[str, object]) -> list[Path]:
    """Write report.json, report.md and report.html; the files that were written."""
    contents = {
        "report.json": to_json(report, about),
        "report.md": to_markdown(report, about),
        "report.html": to_page(report, about),
    }
    return write_files(folder, contents)


def _timelines(report: VideoReport) -> Iterator[str]:
    """Draw J over time, for each clip with something to score."""
    if len(report.unscored) == len(report.clip_names):
        return
    kinds = _kinds(report)
    keys = (f'<span><i class="key {kind}"></i>{escape(name)}</span>' for name, kind in kinds.items())
    yield '<h2>J over time</h2>\n<p class="note">The mean over the objects of a clip, by the number of the frame.</p>'
    yield f'<div class="legend">{"".join(keys)}</div>'
    for number, name in enumerate(report.clip_names):
        if name not in report.unscored:
            lines = [(each.method, kinds[each.method], _points(each.clips[number])) for each in report.columns]
            title = f"J over time: {name}"
            yield f'<h3>{escape(name)}</h3>\n<div class="wide">{timeline(lines, title)}</div>'


def _points(clip: ClipScore) -> list[tuple[int, float]]:
    return list(zip(clip.at, clip.j_over_time, strict=True))


def _kinds(report: VideoReport) -> dict[str, str]:
    """Choose the class that colours each method: the darkest shades of all hues first; none for baselines."""
    shades = [f"{hue}{shade}" for shade in range(TONES, 0, -1) for hue in HUES]
    model = [each.method for each in report.columns if not each.baseline]
    return {e.method: "" if e.baseline else shades[model.index(e.method) % len(shades)] for e in report.columns}


def _model(report: VideoReport) -> list[VideoColumn]:
    """List what is to be judged: the methods that are no baselines, or the baselines where there is nothing else."""
    return [each for each in report.columns if not each.baseline] or list(report.columns)


def _cells(of: Statistics | None) -> tuple[str, str, str]:
    return ("-", "-", "-") if of is None else (_figure(of.mean), _figure(of.recall), _figure(of.decay))


def _mean(of: Statistics | None) -> str:
    return _figure(None if of is None else of.mean)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _rate(of: VideoColumn) -> str:
    return f"{of.frames_per_second:.1f}"
