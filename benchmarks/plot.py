"""The ladder as an image: how far each technique gets at few and at many shots, and what a shot costs.

python benchmarks/plot.py benchmarks/results/ladder_large_....json -o docs/images/ladder.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

COLORS = {"transformers": "#8c8c8c", "naive": "#7fa8d1", "incontext": "#1b5e9e"}
LINES = (
    "transformers fp32",
    "transformers bf16",
    "naive fp32",
    "incontext fp32",
    "incontext bf16",
    "incontext bf16 compiled",
)


def draw(findings: Mapping[str, Any], path: Path) -> None:
    """A document of the ladder -> an image: bars at its fewest and its most shots, lines over all of them.

    Raises:
        ValueError: nothing was measured one query at a time.
    """
    measured = [row for row in findings["rows"] if "ms" in row and row["batch"] == 1]
    if not measured:
        raise ValueError("expected rows that were measured one query at a time, got none; run the ladder on more rows")
    shots = sorted({row["shots"] for row in measured})
    ends = sorted({shots[0], shots[-1]})
    batches = [row for row in findings["rows"] if "ms" in row and row["shots"] == 1]
    batched = len({row["batch"] for row in batches}) > 1
    panels = len(ends) + 1 + batched
    figure, axes = plt.subplots(1, panels, figsize=(4.6 * panels, 5.2), layout="constrained")
    for axis, count in zip(axes, ends, strict=False):
        _bars(axis, [row for row in measured if row["shots"] == count], count)
    _lines(axes[len(ends)], [(row["row"], row["shots"], row["ms"] / 1000) for row in measured])
    axes[len(ends)].set(xlabel="shots", ylabel="seconds per query", title="what a shot costs")
    if batched:
        _lines(axes[-1], [(row["row"], row["batch"], row["images_per_second"]) for row in batches])
        axes[-1].set(xlabel="queries at a time", ylabel="images per second", title="1 shot, batches")
    versions = findings["versions"]
    figure.suptitle(
        f"{findings['model']} model at {findings['side']} pixels, one query at a time: {findings['hardware']}, "
        f"PyTorch {versions['torch'].split('+')[0]}, {findings['date']}",
        fontsize=11,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(axis: Axes, rows: list[dict[str, Any]], shots: int) -> None:
    """One bar for each row, the first on top, with its figure at the end."""
    names, rates = [row["row"] for row in rows], [row["images_per_second"] for row in rows]
    places = range(len(rows))
    axis.barh(places, rates, color=[COLORS[_kind(name)] for name in names], height=0.75)
    for place, rate in zip(places, rates, strict=True):
        axis.annotate(f"{rate:.3g}", (rate, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.15 * max(rates))
    axis.set(xlabel="images per second", title=f"{shots} {'shot' if shots == 1 else 'shots'}")
    axis.spines[["top", "right"]].set_visible(False)


def _lines(axis: Axes, points: list[tuple[str, int, float]]) -> None:
    """A line for each row of LINES over (row, x, y), both axes logarithmic."""
    for name in LINES:
        line = sorted((x, y) for row, x, y in points if row == name)
        if line:
            style = "--" if "bf16" in name else "-"
            marker = "s" if name.endswith("compiled") else "o"
            axis.plot(*zip(*line, strict=True), style, color=COLORS[_kind(name)], marker=marker, ms=4, label=name)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


def _kind(name: str) -> str:
    """Which of COLORS a row has: what stands on top of the naive row is naive."""
    first = name.split(maxsplit=1)[0]
    return first if first in COLORS else "naive"


def main() -> None:
    """Read, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="a JSON file of the ladder")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the image")
    given = parser.parse_args()
    mpl.use("agg")  # no window
    draw(json.loads(given.result.read_text()), given.out)


if __name__ == "__main__":
    main()
