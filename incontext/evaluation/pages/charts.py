"""Drawings as SVG: what confidence is worth, the scores of each set, a measure over time. Colours are those of page.py.

Refuses to know files and tables. Each is a string to stand inside a page, whose style names the classes used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from incontext.evaluation.few_shot.scores import Column, ConfidenceReport, FewShotReport
from incontext.evaluation.pages.tables import beside, label

HUES = "ab"  # of the page, one for each method; then they repeat
TONES = 4  # shades of each

_PLOT = 220  # pixels along the square of a reliability diagram
_SHARES = 44  # pixels: the height of the bars under it
_LEFT, _TOP = 44, 12


def reliability(known: ConfidenceReport, title: str) -> str:
    """Draw the share of right pixels over confidence, in 20 bins; under it the share of the pixels in each bin.

    Dots on the diagonal: the confidence is the chance of being right (arXiv 1706.04599, section 2).
    """
    parts = [_square(_LEFT, _TOP)]
    dots = [
        (_LEFT + _PLOT * confidence, _TOP + _PLOT * (1 - right), pixels)
        for confidence, right, pixels in zip(known.bin_confidence, known.bin_right, known.bin_pixels, strict=True)
        if confidence is not None and right is not None
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in dots)
    parts.append(f'<polyline class="curve" points="{line}"/>')
    parts += [f'<circle class="dot a4" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y, _ in dots]
    floor = _TOP + _PLOT + 30 + _SHARES
    width = _PLOT / len(known.bin_pixels)
    most = max(*known.bin_pixels, 1e-9)
    for i, pixels in enumerate(known.bin_pixels):
        height = _SHARES * pixels / most
        parts.append(
            f'<rect class="bar" x="{_LEFT + i * width + 1:.1f}" y="{floor - height:.1f}" width="{width - 2:.1f}" '
            f'height="{height:.1f}"><title>{100 * pixels:.1f} % of the pixels</title></rect>'
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_LEFT + _PLOT}" y1="{floor}" y2="{floor}"/>')
    parts.append(_text(_LEFT + _PLOT / 2, floor + 16, "confidence; bars: share of the pixels", "middle"))
    x, y = 12, _TOP + _PLOT / 2
    parts.append(f'<text x="{x}" y="{y}" text-anchor="middle" transform="rotate(-90 {x} {y})">share right</text>')
    return _svg(_LEFT + _PLOT + 12, floor + 24, parts, f"Reliability of the confidence: {title}")


def _square(left: float, top: float) -> str:
    """Draw axes from 0 to 1 with a grid, and the diagonal."""
    parts = []
    for step in range(6):
        x, y = left + _PLOT * step / 5, top + _PLOT * (1 - step / 5)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + _PLOT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + _PLOT}"/>')
        parts.append(_text(left - 6, y + 4, f"{step / 5:g}", "end"))
        parts.append(_text(x, top + _PLOT + 16, f"{step / 5:g}", "middle"))
    parts.append(f'<line class="diagonal" x1="{left}" y1="{top + _PLOT}" x2="{left + _PLOT}" y2="{top}"/>')
    return "".join(parts)


def tone(report: FewShotReport, column: Column) -> str:
    """Choose the class that colours a column of the model: a hue for its method, darker with more shots."""
    model = [each for each in report.columns if not each.baseline]
    methods = list(dict.fromkeys(each.method for each in model))
    shots = sorted({each.shots for each in model})
    rank = shots.index(column.shots)
    shade = TONES if len(shots) == 1 else 1 + round(rank * (TONES - 1) / (len(shots) - 1))
    return f"{HUES[methods.index(column.method) % len(HUES)]}{shade}"


def dot_plot(report: FewShotReport) -> str:
    """Draw mIoU of each set: a dot with its interval for each column of the model, a stroke for each baseline."""
    columns = beside(report)
    model, baselines = [e for e in columns if not e.baseline], [e for e in columns if e.baseline]
    names = [*report.set_names, *(["mean"] if len(report.set_names) > 1 else [])]
    left, width, gap = 20 + 7 * max(map(len, names)), 560, 9
    row_height = gap * len(model) + 12
    bottom = _TOP + row_height * len(names)
    parts = []
    for step in range(6):
        x = left + width * step / 5
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 16, f"{step / 5:g}", "middle"))
    for row, name in enumerate(names):
        top = _TOP + row * row_height
        is_mean = row == len(report.set_names)
        if row:
            parts.append(f'<line class="grid" x1="0" x2="{left + width}" y1="{top}" y2="{top}"/>')
        parts.append(_text(left - 12, top + row_height / 2 + 4, name, "end", "strong" if is_mean else ""))
        for each in baselines:
            x = left + width * (each if is_mean else each.sets[row]).mean_iou
            parts.append(
                f'<line class="baseline" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 4}" y2="{top + row_height - 4}">'
                f"<title>{escape(each.method)}: {(x - left) / width:.3f}</title></line>"
            )
        for rank, each in enumerate(model):
            of = each if is_mean else each.sets[row]
            middle = top + 6 + gap * (rank + 0.5)
            low, high = (left + width * end for end in of.mean_iou_interval)
            kind = tone(report, each)
            parts.append(f'<line class="whisker {kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>')
            parts.append(
                f'<circle class="dot {kind}" cx="{left + width * of.mean_iou:.1f}" cy="{middle}" r="4">'
                f"<title>{escape(label(report, each))}: {of.mean_iou:.3f}</title></circle>"
            )
    return _svg(left + width + 16, bottom + 24, parts, "Mean IoU of each set")


def timeline(lines: Sequence[tuple[str, str, Sequence[tuple[int, float]]]], title: str) -> str:
    """Draw a measure, 0..1, over the frames of a video.

    There must be a frame.

    Args:
        lines: Name, class of its colour, and (frame, value) in order.
    """
    frames = [frame for _, _, points in lines for frame, _ in points]
    first, span = min(frames), max(1, max(frames) - min(frames))
    width, height = 640, 130
    parts = []
    for step in range(5):
        frame, y = round(span * step / 4), _TOP + height * (1 - step / 4)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{step / 4:g}", "end"))
        parts.append(_text(_LEFT + width * frame / span, _TOP + height + 16, str(first + frame), "middle"))
    for name, kind, points in lines:
        places = [(_LEFT + width * (frame - first) / span, _TOP + height * (1 - value)) for frame, value in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {kind}" points="{path}"><title>{escape(name)}</title></polyline>')
    return _svg(_LEFT + width + 20, _TOP + height + 24, parts, title)


def _text(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-size="12" role="img" aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
    )
