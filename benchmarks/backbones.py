"""What a second opinion is worth: the network alone, with a backbone's votes, the backbone alone, and copying the mask.

python benchmarks/backbones.py ../shared/data/test --out VOTES/ --videos ../shared/data/video
python benchmarks/backbones.py PRIVATE/ --out VOTES-PRIVATE/ --name private
python benchmarks/backbones.py ../shared/data/test --out VOTES/ --plot docs/images/backbones.png

Of each: mean IoU of every set by the protocol of `incontext evaluate few-shot`, queries without the thing, what
confidence is worth, and, one image after the other, seconds and bytes; of the videos J and F. A run that was stopped
goes on where it was. The weights of the votes are those that `incontext backbone calibrate` kept: never calibrate on
what is scored here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from record import record

from incontext.cli.evaluate import evaluated as few_shot
from incontext.cli.evaluate_video import evaluated as video
from incontext.cli.options import numbers
from incontext.engine import Segmenter, load
from incontext.evaluation import Method, read_sets
from incontext.evaluation.few_shot.episodes import EpisodeSet
from incontext.evaluation.few_shot.images import EpisodeImages
from incontext.evaluation.video.clips import read_clips
from incontext.evaluation.video.scoring import VideoMethod
from incontext.images.ids import Pixels
from incontext.images.resize import resized
from incontext.matching.voter import Voter
from incontext.options import DEFAULTS
from incontext.types import Prompt
from incontext.video import Tracker

OURS, BOTH, ALONE = "ours", "ours and backbone", "backbone alone"
TIMED = 12  # queries, after one that warms up
MEMORY = 4  # predicted frames that are remembered


def alone(voter: Voter, queries: Sequence[Pixels], prompts: Sequence[Prompt]) -> Iterator[np.ndarray]:
    """What the backbone finds by itself: where its votes for the thing lead."""
    examples = voter.examples(prompts)
    assert examples is not None
    for query in queries:
        with torch.inference_mode():
            leads = voter.leads(voter.see([resized(query, (voter.side, voter.side))]), examples, [1])
        found = F.interpolate(leads[:, 1:], query.shape[:2], mode="bilinear", align_corners=False)[0, 0] > 0
        yield found.cpu().numpy()


def methods_of(plain: Segmenter, voted: Segmenter) -> list[Method]:
    """The three that are compared beside the baselines."""
    voter = voted.voter
    assert voter is not None
    return [
        Method(OURS, plain.segment_many),
        Method(BOTH, voted.segment_many),
        Method(ALONE, lambda queries, prompts: alone(voter, queries, prompts)),
    ]


def timed(plain: Segmenter, voted: Segmenter, sets: Sequence[EpisodeSet], shots: int) -> dict[str, dict[str, float]]:
    """Median seconds of a query by a context that is prepared, one after the other, and bytes at the peak."""
    voter = voted.voter
    assert voter is not None
    images, taken = EpisodeImages(sets), {name: list[float]() for name in (OURS, BOTH, ALONE)}
    tasks = [(each, episode) for each in sets for episode in each.episodes[:3]][: TIMED + 1]
    for each, episode in tasks:
        prompts = [images.prompt(each, episode.id, stem) for stem in episode.prompts[:shots]]
        query, square = images.image(each.name, episode.query), (voter.side, voter.side)
        contexts, examples = [one.prepare(prompts) for one in (plain, voted)], voter.examples(prompts)
        assert examples is not None
        # Each looks at it for the first time: what was seen is kept.
        for name, (segmenter, context) in zip((OURS, BOTH), zip((plain, voted), contexts, strict=True), strict=True):
            start = time.perf_counter()
            segmenter.segment(query, context)
            taken[name].append(time.perf_counter() - start)
        start = time.perf_counter()
        with torch.inference_mode():
            voter.leads(voter.see([resized(query[:, ::-1], square)]), examples, [1])
        taken[ALONE].append(time.perf_counter() - start)
    own, both = (one.estimate_memory(shots=shots) for one in (plain, voted))
    needs = {OURS: own, BOTH: both, ALONE: both - own}
    return {name: {"seconds": median(values[1:]), "bytes": needs[name]} for name, values in taken.items()}


def in_short(report: Any) -> list[dict[str, Any]]:
    """The columns of a report without every episode alone."""
    columns = [asdict(column) for column in report.columns]
    for of_set in (each for column in columns for each in column["sets"]):
        del of_set["episode_iou"]
    return columns


def followed(plain: Segmenter, voted: Segmenter, data: Path, out: Path) -> list[dict[str, Any]]:
    """J and F of the clips of a folder, by each."""
    rows: list[dict[str, Any]] = []
    for name, segmenter in ((OURS, plain), (BOTH, voted)):
        method = VideoMethod(name, partial(Tracker, segmenter, memory=MEMORY))
        report = video(segmenter, [method], read_clips(data), DEFAULTS, out / name.replace(" ", "_"))
        columns = [asdict(column) for column in report.columns]
        rows += columns if not rows else [column for column in columns if column["method"] == name]
    for clip in (each for column in rows for each in column["clips"]):
        del clip["at"], clip["j_over_time"]
    return rows


def table(columns: Sequence[dict[str, Any]]) -> str:
    """Mean IoU in Markdown: a row for each method and number of shots, a column for each set."""
    names = [each["name"] for each in columns[0]["sets"]]
    lines = ["| | shots | " + " | ".join(names) + " | mean | empty | error of confidence |"]
    lines.append("|---|" + "---|" * (len(names) + 4))
    for column in columns:
        scores = [f"{each['mean_iou']:.3f}" for each in column["sets"]]
        absence, confidence = column["absence"], column["confidence"]
        empty = "" if absence is None else f"{absence['empty']:.2f}"
        error = "" if confidence is None else f"{confidence['calibration_error']:.3f}"
        row = [column["method"], str(column["shots"]), *scores, f"{column['mean_iou']:.3f}", empty, error]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def draw(columns: Sequence[dict[str, Any]], times: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Mean IoU over the time that an image takes: a line for each method, a point for each number of shots."""
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for method, color in ((OURS, "#1b5e9e"), (BOTH, "#c0392b"), (ALONE, "#8c8c8c")):
        found = [
            (1000 * times[str(column["shots"])][method]["seconds"], column["mean_iou"], column["shots"])
            for column in columns
            if column["method"] == method
        ]
        axis.plot([x for x, _, _ in found], [y for _, y, _ in found], "o-", color=color, label=method)
        for x, y, shots in found:
            axis.annotate(f"{shots}", (x, y), (4, 4), textcoords="offset points", fontsize=8)
    copied = [column["mean_iou"] for column in columns if column["method"] == "copy the mask"]
    axis.axhline(max(copied), color="#bbbbbb", linestyle=":", label="copying the mask, at best")
    axis.set(xlabel="milliseconds an image", ylabel="mean IoU", title="What a second opinion is worth (points: shots)")
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Measure, tell, draw, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of sets, as for `incontext evaluate few-shot`")
    parser.add_argument("--out", type=Path, required=True, help="what is measured is kept here")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--backbone", default="efficientnet-lite2")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shots", default="1,2,4,8")
    parser.add_argument("--limit", type=int, help="at most so many episodes of each set")
    parser.add_argument("--sets", help="only these sets, with commas between")
    parser.add_argument("--videos", type=Path, help="a folder of clips, as for `incontext evaluate video`")
    parser.add_argument("--name", default="test", help="what the file of results calls the data")
    parser.add_argument("--plot", type=Path, help="an image of mean IoU over time")
    given = parser.parse_args()
    shots = sorted(numbers("--shots", given.shots))
    plain = load(given.weights, device=given.device)
    voted = load(given.weights, device=given.device, backbone=given.backbone)
    sets = read_sets(given.data, names=given.sets.split(",") if given.sets else None, limit=given.limit)
    given.out.mkdir(parents=True, exist_ok=True)
    report = few_shot(voted, methods_of(plain, voted), sets, shots, 0, given.data, DEFAULTS, given.out)
    columns = in_short(report)
    times = {str(count): timed(plain, voted, sets, count) for count in shots}
    clips = followed(plain, voted, given.videos, given.out / "videos") if given.videos else []
    print(table(columns))
    (given.out / "table.md").write_text(table(columns) + "\n")
    (given.out / "times.json").write_text(json.dumps(times, indent=1))
    if given.plot:
        mpl.use("agg")  # no window
        draw(columns, times, given.plot)
    about = {name: value for name, value in voted.describe().items() if "backbone" in name}
    record(
        f"backbones_{given.name}_{Path(given.backbone).name.removeprefix('timm:')}",
        {**about, "columns": columns, "times": times, "videos": clips, "limit": given.limit},
        voted.device,
        weights=given.weights,
    )


if __name__ == "__main__":
    main()
