"""Every figure of the README and the model card, by the embedded weights: one command, which goes on where it stopped.

python benchmarks/figures.py ../shared/data
python benchmarks/figures.py ../shared/data --only accuracy,video
python benchmarks/figures.py ../shared/data --list

What a file in results/ already holds of these weights by the same command is not measured again. Results of other
weights are removed when all is measured (--keep leaves them). Estimates are of two cores that multiply bfloat16; those
of a run that is going on follow what its parts have taken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from quote import requote
from record import RESULTS, command_line, weights_sha256

HERE = Path(__file__).parent
WORK = Path("figures-work")  # of benchmarks that go on where they stopped, beside the tree's other ignored folders


@dataclass(frozen=True)
class Figure:
    """One benchmark with its arguments."""

    name: str
    script: str
    arguments: tuple[str, ...]
    minutes: float  # on two cores that do nothing else

    def command(self, data: Path) -> list[str]:
        """Return the arguments of the Python interpreter; {data} and {work} stand for folders."""
        work = WORK / weights_sha256("default")[:12] / self.name  # a report of other weights is not gone on with
        places = {"data": str(data), "work": str(work)}
        return [os.path.relpath(HERE / self.script), *(each.format(**places) for each in self.arguments)]


FIGURES = (
    Figure(
        "accuracy", "accuracy.py", ("{data}/test", "--out", "{work}", "--ensembles", "feature", "--shots", "1,4"), 7
    ),
    Figure("shots", "accuracy.py", ("{data}/test", "--out", "{work}", "--shots", "2,8"), 12),
    Figure("heldout", "heldout.py", ("{data}/train", "--queries", "512"), 8),
    Figure("video", "video.py", ("{data}/video", "--out", "{work}", "--memory", "0,4", "--policy", "spaced"), 12),
    Figure(
        "backbones",
        "backbones.py",
        ("{data}/test", "--out", "{work}", "--videos", "{data}/video", "--plot", "docs/images/backbones.png"),
        30,
    ),
    Figure("hints", "hints.py", ("{data}/test", "--limit", "20", "--no-baselines", "--out", "{work}"), 25),
    Figure("hint-baselines", "hints.py", ("{data}/test", "--limit", "3", "--out", "{work}"), 30),
    Figure("video-hints", "hints.py", ("{data}/video", "--limit", "5", "--no-baselines", "--out", "{work}"), 10),
    Figure("proposals", "proposals.py", ("{data}", "--limit", "10"), 10),
    Figure("refine", "refine.py", ("{data}/test", "--limit", "10", "--mosaics", "1"), 6),
    Figure("tune", "tune.py", ("{data}/test", "--out", "{work}"), 25),
    Figure("folder", "folder.py", ("--parts", "rate"), 3),
    Figure("ui", "ui.py", (), 2),
)


def measured(command: list[str], sha256: str) -> Path | None:
    """Return the file of results that a command has made of these weights, if there is one."""
    for path in sorted(RESULTS.glob("*.json"), reverse=True):
        row = json.loads(path.read_text())
        if row.get("weights_sha256") == sha256 and row.get("command") == command_line(command):
            return path
    return None


def outdated(sha256: str) -> list[Path]:
    """Return the files of results of other weights; those of random weights, or of none, are of no weights."""
    rows = {path: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    return [path for path, row in rows.items() if row.get("weights_sha256") not in (sha256, None)]


def main() -> int:
    """Measure what is missing, one benchmark after the other; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of test/, train/ and video/")
    parser.add_argument("--only", help=f"some of {','.join(figure.name for figure in FIGURES)}")
    parser.add_argument("--list", action="store_true", help="say what is measured and what is not, and do nothing")
    parser.add_argument("--keep", action="store_true", help="leave results of other weights")
    given = parser.parse_args()
    names = [figure.name for figure in FIGURES]
    only = given.only.split(",") if given.only else names
    if unknown := sorted(set(only) - set(names)):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(names)}")
    sha256 = weights_sha256("default")
    asked = [figure for figure in FIGURES if figure.name in only]
    missing = [figure for figure in asked if measured(figure.command(given.data), sha256) is None]
    for figure in asked:
        print(f"{figure.name:10} {'missing' if figure in missing else 'measured'}")
    if given.list:
        return 0
    failed, taken, foreseen = [], 0.0, 0.0
    for number, figure in enumerate(missing):
        pace = taken / foreseen if foreseen else 1.0
        left = pace * sum(each.minutes for each in missing[number:])
        print(f"{number + 1}/{len(missing)} {figure.name}, about {left:.0f} minutes left in all", flush=True)
        began = time.monotonic()
        run = subprocess.run([sys.executable, *figure.command(given.data)], check=False)
        taken += (time.monotonic() - began) / 60
        foreseen += figure.minutes
        if run.returncode or measured(figure.command(given.data), sha256) is None:
            failed.append(figure.name)
    for path in [] if given.keep or failed or given.only else outdated(sha256):
        path.unlink()
        print(f"{path.name} is of other weights: removed")
    for path in [] if failed else requote(newest=True):
        print(f"{path.name} has the new figures")
    if failed:
        print(f"Failed: {', '.join(failed)}; the same command tries them again.", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
