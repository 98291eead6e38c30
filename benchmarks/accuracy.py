"""Few-shot accuracy as a file of results: `incontext evaluate few-shot` with the same arguments, and what it found.

python benchmarks/accuracy.py ../shared/data/test --out SCORES/
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from record import record


def main() -> None:
    """Measure, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the report; a stopped run goes on there")
    options, others = parser.parse_known_args()
    subprocess.run(
        [sys.executable, "-m", "incontext", "evaluate", "few-shot", *others, "--out", str(options.out)], check=True
    )
    report = json.loads((options.out / "report.json").read_text())
    for each in (of_set for column in report["columns"] for of_set in column["sets"]):
        del each["episode_iou"]  # of every episode alone: most of the file
    about = report["about"]
    record(
        f"accuracy_{Path(about['weights']).stem}_side{about['side']}", report, about["device"], weights=about["weights"]
    )


if __name__ == "__main__":
    main()
