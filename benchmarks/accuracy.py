"""Few-shot accuracy of weights on the fixed test episodes, with the baselines, as one JSON file.

python benchmarks/accuracy.py ../shared/data/test --shots 1
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from record import record

import incontext
from incontext.evaluation import evaluate
from incontext.evaluation.baselines import BASELINES


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a folder with episodes.json")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--side", type=int, default=None, help="pixels; default: as trained")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()

    segmenter = incontext.load(options.weights, dtype=options.dtype)
    report = evaluate(
        lambda query, prompts: segmenter.segment(query, prompts, side=options.side), options.data, shots=options.shots
    )
    print(report.to_markdown())
    baselines = {
        name: {each.name: each.mean_iou for each in evaluate(predict, options.data, shots=options.shots).sets}
        for name, predict in BASELINES.items()
    }
    name = f"accuracy_{Path(options.weights).stem}_{options.shots}shot" + (
        f"_side{options.side}" if options.side else ""
    )
    record(name, {"model": segmenter.describe(), "report": json.loads(report.to_json()), "baselines": baselines})


if __name__ == "__main__":
    main()
