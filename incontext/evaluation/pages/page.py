"""The report as one HTML page that needs nothing else: tables, drawings, images. Light or dark as the reader has it.

Refuses to know how anything in it was made. Written with f-strings and `html.escape`: a template language would be one
more dependency, for pages whose parts are computed rather than laid out.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from incontext.evaluation.few_shot.scores import FewShotReport
from incontext.evaluation.pages.charts import HUES, TONES, dot_plot, reliability, tone
from incontext.evaluation.pages.gallery import Shown
from incontext.evaluation.pages.tables import Table, beside, facts, label, sentences, tables

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --quiet: #5c6570; --rule: #e3e6ea; --wash: #f6f7f9;
  --a1: #8fbaf0; --a2: #5595e4; --a3: #2f74cf; --a4: #12437f;
  --b1: #f3cfa0; --b2: #e0a04f; --b3: #b8731a; --b4: #75460a; --stroke: #8a929c; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e9ed; --quiet: #9aa4af; --rule: #2b3138;
  --wash: #1b1f25; --a1: #3a6296; --a2: #3f79bd; --a3: #6ba8ee; --a4: #c3defc; --b1: #7a5a2b; --b2: #9a6b26;
  --b3: #d79b45; --b4: #f8d9a8; --stroke: #6d7681; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 3rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.8rem 0 .4rem; }
p { max-width: 46rem; margin: .3rem 0 .8rem; }
.quiet, .note, figcaption { color: var(--quiet); font-size: .875rem; }
.figures { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.4rem 0; padding: 0; list-style: none; }
.figures li { background: var(--wash); border-radius: .6rem; padding: .7rem 1rem; min-width: 8.5rem; }
.figures b { display: block; font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.figures span { color: var(--quiet); font-size: .8rem; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; color: var(--quiet); vertical-align: bottom; }
tr.total td { font-weight: 600; border-bottom: 0; border-top: 1px solid var(--stroke); }
svg { max-width: 100%; height: auto; font-family: system-ui, sans-serif; }
svg text { fill: var(--quiet); } svg text.strong { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--rule); stroke-width: 1; } .axis { stroke: var(--stroke); stroke-width: 1; }
.diagonal { stroke: var(--stroke); stroke-width: 1; stroke-dasharray: 4 4; }
.curve { fill: none; stroke: var(--a3); stroke-width: 2; } .bar { fill: var(--a2); }
.dot { fill: var(--tone); } .whisker { stroke: var(--tone); } .key { background: var(--tone, var(--stroke)); }
.baseline { stroke: var(--stroke); stroke-width: 2; } .whisker { stroke-width: 2; opacity: .55; }
.line { fill: none; stroke: var(--tone, var(--stroke)); stroke-width: 2; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .8rem; color: var(--quiet); margin: .5rem 0; }
.key { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-right: .4rem; }
.key.stroke { width: 2px; border-radius: 0; height: .9rem; vertical-align: -2px; }
.side { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; }
.episode { display: grid; grid-template-columns: 7.5rem repeat(4, minmax(0, 1fr)); gap: .6rem; align-items: start;
  margin: .6rem 0; }
.episode img { width: 100%; border-radius: .3rem; display: block; }
.episode b { display: block; } .episode .iou { font-variant-numeric: tabular-nums; }
.names { margin-bottom: -.3rem; }
@media (max-width: 44rem) { .episode { grid-template-columns: repeat(2, 1fr); } .names { display: none; }
  .episode > :first-child { grid-column: 1 / -1; } }
"""
_TONES = "".join(f".{hue}{shade} {{ --tone: var(--{hue}{shade}); }}\n" for hue in HUES for shade in range(1, TONES + 1))

COLUMNS = ("prompt with its mask", "query, true outline", "answer", "confidence, white is sure")


def page(report: FewShotReport, shown: Sequence[Shown], about: Mapping[str, object]) -> str:
    """Write the report as an HTML document.

    Args:
        about: What ran, shown as it is, name and value.
    """
    summary, of_sets, *others = tables(report)
    body = [
        "<h1>Few-shot scores</h1>",
        f'<p class="quiet">{escape(" · ".join(facts(about)))}</p>',
        _figures(report),
        *(f"<p>{escape(sentence)}</p>" for sentence in sentences(report)),
        section(summary),
        f"<h2>{escape(of_sets.title)}</h2>",
        _legend(report),
        f'<div class="wide">{dot_plot(report)}</div>',
        section(of_sets, heading=False),
        *_reliability(report),
        *(section(table) for table in others),
        *episodes(shown, note_on_episodes(report.columns[0].shots)),
    ]
    return document("Few-shot scores", body)


def document(title: str, body: Sequence[str]) -> str:
    """Write a whole HTML document.

    Args:
        title: Plain text.
        body: elements.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{_TONES}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _figures(report: FewShotReport) -> str:
    """Write the means in large letters."""
    cards = []
    for column in beside(report):
        low, high = column.mean_iou_interval
        cards.append(
            f"<li><span>{escape(label(report, column))}</span><b>{column.mean_iou:.3f}</b>"
            f"<span>{low:.3f} to {high:.3f}</span></li>"
        )
    return f'<ul class="figures">{"".join(cards)}</ul>\n<p class="note">Mean IoU over the sets, 95 % intervals.</p>'


def _legend(report: FewShotReport) -> str:
    model = [each for each in beside(report) if not each.baseline]
    keys = [f'<span><i class="key {tone(report, e)}"></i>{escape(label(report, e))}</span>' for e in model]
    baselines = ", ".join(each.method for each in beside(report) if each.baseline)
    if baselines:
        keys.append(f'<span><i class="key stroke"></i>baselines: {escape(baselines)}</span>')
    return f'<div class="legend">{"".join(keys)}</div>'


def section(table: Table, *, heading: bool = True) -> str:
    """Write a table as HTML, under its title and note.

    Args:
        heading: With the title.
    """

    def row(cells: Sequence[str], tag: str, kind: str = "") -> str:
        return f"<tr{kind}>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    last = len(table.rows) - 1
    rows = [
        row(cells, "td", ' class="total"' if table.total and i == last else "") for i, cells in enumerate(table.rows)
    ]
    title = f"<h2>{escape(table.title)}</h2>\n" if heading else ""
    return (
        f'{title}<p class="note">{escape(table.note)}</p>\n<div class="wide"><table>\n<thead>{row(table.head, "th")}'
        "</thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n</table></div>"
    )


def _reliability(report: FewShotReport) -> list[str]:
    figures = [
        f"<figure>{reliability(column.confidence, label(report, column))}"
        f"<figcaption>{escape(label(report, column))}</figcaption></figure>"
        for column in report.columns
        if column.confidence is not None
    ]
    if not figures:
        return []
    note = "On the dashed line the confidence would be the chance of being right; above it, it is too modest."
    start = f'<h2>Reliability of the confidence</h2>\n<p class="note">{note}</p>'
    return [start, f'<div class="side">{"".join(figures)}</div>']


def episodes(
    shown: Sequence[Shown], note: str, *, columns: Sequence[str] = COLUMNS, measure: str = "IoU", of: str = "episodes"
) -> list[str]:
    """Write what was shown by the sets, as HTML.

    Args:
        note: Plain text about it.
        columns: What the images are.
        measure: What they are ranked by.
        of: What they are images of.
    """
    if not shown:
        return []
    made = [f"<h2>Best, median and worst {escape(of)}</h2>", f'<p class="note">{escape(note)}</p>']
    names = "".join(f'<div class="quiet">{escape(name)}</div>' for name in columns)
    for name, of_set in groupby(shown, key=lambda each: each.set):
        made += [f"<h3>{escape(name)}</h3>", f'<div class="episode names"><div></div>{names}</div>']
        made += [_episode(each, columns, measure) for each in of_set]
    return made


def note_on_episodes(shots: int) -> str:
    """Say what is to be said of few-shot episodes with that many shots."""
    return (
        f"By the IoU of the episode alone, {shots} shot{'s' * (shots > 1)}; where there are more, the first prompt is "
        "shown. What is greyed out is not scored."
    )


def _episode(each: Shown, columns: Sequence[str], measure: str) -> str:
    shown = "".join(
        f'<img alt="{escape(f"{name}: {each.captions[0]}", quote=True)}" loading="lazy" '
        f'src="data:image/jpeg;base64,{b64encode(image).decode()}">'
        for name, image in zip(columns, each.images, strict=True)
        if image is not None
    )
    score = "" if each.score is None else f'<span class="iou">{escape(measure)} {each.score:.3f}</span>'
    captions = "<br>".join(map(escape, each.captions))
    return (
        f'<div class="episode"><div><b>{escape(each.rank)}</b>{score}<div class="quiet">{captions}</div></div>'
        f"{shown}</div>"
    )
