"""Video accuracy as a file of results: `incontext evaluate video` with the same arguments, and what it found.

Several memories and every policy, unless told otherwise.

python benchmarks/video.py ../shared/data/video --out SCORES/
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the report; a stopped run goes on there")
    parser.add_argument("--memory", default="0,1,4,8", help="as for `incontext evaluate video`; default: %(default)s")
    parser.add_argument("--policy", default="recent,spaced,confident", help="likewise; default: %(default)s")
    options, others = parser.parse_known_args()
    chosen = ["--memory", options.memory, "--policy", options.policy, "--out", str(options.out)]
    subprocess.run([sys.executable, "-m", "incontext", "evaluate", "video", *others, *chosen], check=True)
    report = json.loads((options.out / "report.json").read_text())
    for each in (clip for column in report["columns"] for clip in column["clips"]):
        del each["at"], each["j_over_time"]  # of every frame alone: most of the file
    about = report["about"]
    record(
        f"video_{Path(about['weights']).stem}_side{about['side']}", report, about["device"], weights=about["weights"]
    )


if __name__ == "__main__":
    main()
