"""What hints are worth: NoC, and IoU after some clicks, as the field simulates them; boxes; the last answer beside.

python benchmarks/hints.py ../shared/data/test --limit 20 --out build/hints
python benchmarks/hints.py ../shared/data/video --out build/hints-video

On the things of a folder, as `incontext evaluate clicks` takes it, with an example in another image and alone, beside
a disc, and random walker and GrabCut where their libraries are installed. --variants also measures by so many clicks
what it is worth when the last answer stands as an example with some weight; and what a box says, alone and with an
example, with more or less of its inside revealed. What is in --out is not measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from record import record

from incontext.engine import Segmenter, load
from incontext.evaluation.clicks import (
    Click,
    ClickJournal,
    ClickMethod,
    ClickReport,
    Thing,
    evaluate_clicks,
    read_things,
)
from incontext.evaluation.clicks.baselines import installed
from incontext.evaluation.clicks.network import network_methods, remembering
from incontext.evaluation.clicks.scoring import Answers
from incontext.evaluation.metrics import Flags
from incontext.evaluation.workers import shared_processors
from incontext.hints import Hints
from incontext.identity import settings_of
from incontext.images.ids import Pixels
from incontext.options import DEFAULTS
from incontext.progress import ProgressLine
from incontext.types import Prompt, box

WEIGHTS = (0.25, 0.5, 1.0)  # of the last answer
# What of a box is revealed as the thing: places as shares of its width and height, beside its middle.
INSIDES = {"middle": (), "cross": ((0.35, 0.5), (0.65, 0.5), (0.5, 0.35), (0.5, 0.65))}


class Boxes:
    """Answers with the box of the thing, whose truth it is shown, in place of the first click."""

    def __init__(self, segmenter: Segmenter, things: Sequence[Thing]) -> None:
        self._segmenter = segmenter
        self._boxes = {self._key(truth.image): box(truth.truth) for thing in things if (truth := thing.read())}

    def method(self, inside: str, *, uses_example: bool) -> ClickMethod:
        """With the box and then clicks."""

        def start(image: Pixels, example: Prompt | None) -> Answers:
            left, top, right, bottom = self._boxes[self._key(image)]
            places = [(left + x * (right - left), top + y * (bottom - top), 1) for x, y in INSIDES[inside]]
            context = self._segmenter.prepare(example)

            def answer(clicks: Sequence[Click]) -> Flags:
                later = [(click.x, click.y, int(click.positive)) for click in clicks[1:]]
                if not clicks:
                    return np.zeros(image.shape[:2], np.bool_)
                hints = Hints(points=[*places, *later], boxes=[(left, top, right, bottom, 1)])
                found: Flags = self._segmenter.segment(image, context, hints=hints).mask == 1
                return found

            return answer

        kind = "with an example" if uses_example else "alone"
        return ClickMethod(f"{kind}, box for the first click, {inside}", start, uses_example=uses_example)

    @staticmethod
    def _key(image: Pixels) -> bytes:
        return image[:: max(1, len(image) // 64)].tobytes()


def measure(
    segmenter: Segmenter, things: Sequence[Thing], methods: Sequence[ClickMethod], out: Path, most: int
) -> ClickReport:
    """Ask the methods; what is known is not asked again."""
    out.mkdir(parents=True, exist_ok=True)
    settings = {**settings_of(segmenter, DEFAULTS), "clicks": most}
    counts = [count for count in (1, 3, 5, 10) if count <= most]
    with (
        shared_processors(segmenter) as workers,
        ClickJournal(out / f"clicks_{most}.jsonl", settings) as journal,
        ProgressLine("things", len(things)) as progress,
    ):
        tell: Callable[[int, int], None] = lambda done, _: progress.update(done)  # noqa: E731
        return evaluate_clicks(
            methods, things, most=most, counts=counts, workers=workers, journal=journal, on_thing=tell
        )


def rows_of(report: ClickReport) -> list[dict[str, object]]:
    """Plain figures of each method, of all things together and of each set."""
    return [
        {
            "method": column.method,
            "things": column.together.things,
            "noc": {f"{each.quality:g}": [round(each.clicks, 2), each.failures] for each in column.together.reached},
            "iou": {str(count): round(iou, 4) for count, iou in column.together.ious.items()},
            "seconds": round(column.together.seconds, 4),
            "sets": {each.set: {str(count): round(iou, 4) for count, iou in each.ious.items()} for each in column.sets},
        }
        for column in report.columns
    ]


def main() -> None:
    """Measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--limit", type=int, help="things of each set at most")
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("build/hints"))
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--variants", type=int, metavar="N", help="clicks for the last answer and boxes: 5")
    given = parser.parse_args()
    segmenter, things = load(given.weights), read_things(given.data, limit=given.limit)
    methods = network_methods(segmenter, DEFAULTS)
    baselines = () if given.no_baselines else installed()
    measured: dict[str, object] = {
        "weights": given.weights,
        "side": segmenter.config.side,
        "columns": rows_of(measure(segmenter, things, [*methods, *baselines], given.out, given.clicks)),
    }
    if given.variants:
        boxes = Boxes(segmenter, things)
        both = (True, False)
        varied = [
            *methods,
            *(remembering(segmenter, DEFAULTS, w, uses_example=use) for use in both for w in WEIGHTS),
            *(boxes.method(inside, uses_example=use) for use in both for inside in INSIDES),
        ]
        measured["variants"] = rows_of(measure(segmenter, things, varied, given.out, given.variants))
    beside = "" if given.no_baselines else "_baselines"
    name = f"hints{beside}_{Path(given.weights).stem}_side{segmenter.config.side}"
    record(name + ("_video" if "video" in given.data.name else ""), measured, "cpu", weights=given.weights)


if __name__ == "__main__":
    main()
