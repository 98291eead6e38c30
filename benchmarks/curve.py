"""The course of training as an image: loss and held-out validation over the episodes, run after run.

python benchmarks/curve.py RUN_1/ RUN_2/ -o docs/images/training.png      (folders of `incontext train`, in their order)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

from incontext.network.checkpoint import info


class Curve(NamedTuple):
    """A stretch of training at one side: (episodes so far, value) of the running loss and of the validation."""

    side: int
    loss: list[tuple[int, float]]
    validation: list[tuple[int, float]]


def read_runs(folders: Sequence[Path]) -> list[Curve]:
    """What the logs of runs tell, one after the other; what was done anew after a kill counts once.

    Raises:
        FileNotFoundError, ValueError: a folder has no log, or no weights that say by which recipe they were made.
    """
    curves: list[Curve] = []
    before = 0
    for folder in folders:
        stages = json.loads(info(folder / "model.safetensors").metadata["recipe"])["stages"]
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        reports = {line["step"]: line for line in lines}  # the last word on each step
        first = 0
        for stage in stages:
            curve = Curve(stage["side"], [], [])
            for step in range(first + 1, first + stage["steps"] + 1):
                if step in reports:
                    episodes = before + (step - first) * stage["batch"]
                    curve.loss.append((episodes, reports[step]["loss"]))
                    if reports[step]["validation"] is not None:
                        curve.validation.append((episodes, reports[step]["validation"]))
            done = max((step for step in reports if step <= first + stage["steps"]), default=first)
            before += max(0, done - first) * stage["batch"]
            first += stage["steps"]
            if curve.loss:
                curves.append(curve)
    if not curves:
        raise ValueError("expected logs of training with at least one report, got none")
    return curves


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Two panels, a colour for each side; stretches are not joined, as each side asks other questions."""
    mpl.use("agg")  # no window
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    sides = sorted({curve.side for curve in curves})
    colors = {side: plt.get_cmap("Blues")(0.4 + 0.6 * (n + 1) / len(sides)) for n, side in enumerate(sides)}
    for curve in curves:
        for axis, points, marker in ((axes[0], curve.loss, ""), (axes[1], curve.validation, ".")):
            thousands = [episodes / 1000 for episodes, _ in points]
            axis.plot(thousands, [value for _, value in points], color=colors[curve.side], marker=marker)
    for axis, title in ((axes[0], "running loss"), (axes[1], "validation, mean IoU")):
        axis.set(title=title, xlabel="thousand episodes")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], color=color, label=f"{side} pixels") for side, color in colors.items()]
    axes[0].legend(handles=handles, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Read, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders that incontext train wrote, in their order")
    parser.add_argument("--out", "-o", type=Path, required=True, help="the image")
    given = parser.parse_args()
    draw(read_runs(given.runs), given.out)


if __name__ == "__main__":
    main()
