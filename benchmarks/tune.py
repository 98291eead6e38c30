"""What tuning is worth: each set of a folder is cut into labelled images and a test part, on which are compared the
best single example, the best few by feature ensemble, and prompt tensors tuned on the same images, at one-shot cost.

python benchmarks/tune.py ../shared/data/test --out TUNED/ --plot docs/images/tuning.png
python benchmarks/tune.py ../shared/data/test --out NOISE/ --sets cows,nuclei --start noise      (and so on: lr, shots)
python benchmarks/tune.py ../shared/data/train --out MANY/ --sets clothing --ids 20 --labelled 40

A run that was stopped goes on where it was: what is measured of a set is kept in the folder, and its prompt tensors.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from record import record

from incontext.cli.options import numbers
from incontext.engine import Context, Segmenter, load
from incontext.evaluation.ranking import Ranking, rank
from incontext.examples import gather, open_prompts
from incontext.images.dataset import has_instances
from incontext.images.ids import IGNORED
from incontext.images.write import whole_file
from incontext.network.devices import keep_freed_memory
from incontext.tuning import HELD_OUT, RATE, STEPS, TuningStep, tune
from incontext.tuning.group import mean_iou
from incontext.types import Prompt

LONGEST = 448  # pixels along an image's longer side, which bounds the cost of scoring


def read_set(folder: Path, ids: int | None) -> tuple[list[Prompt], list[str]]:
    """The labelled images of a set and their names; where ids are instances, they are one id.

    ids: only so many, those that most images show; the others become background.
    """
    opened = open_prompts(gather(source=folder), longest=LONGEST)
    prompts = list(opened.prompts)
    if has_instances(folder):
        prompts = [Prompt(p.image, np.where((p.mask > 0) & (p.mask < IGNORED), 1, p.mask)) for p in prompts]
    names = [image.name for image, _ in opened.pairs]
    if ids is None:
        return prompts, names
    kept = [i for i, _ in Counter(i for prompt in prompts for i in prompt.ids).most_common(ids)]
    masks = [np.where(np.isin(prompt.mask, [*kept, IGNORED]), prompt.mask, 0) for prompt in prompts]
    few = [Prompt(prompt.image, mask) for prompt, mask in zip(prompts, masks, strict=True)]
    showing = [n for n, prompt in enumerate(few) if prompt.ids]
    return [few[n] for n in showing], [names[n] for n in showing]


def cut(prompts: Sequence[Prompt], labelled: int, limit: int, seed: int) -> tuple[list[int], list[int]]:
    """The numbers of the labelled images, which show every id if they can, and of at most so many for the test."""
    order = np.random.default_rng(seed).permutation(len(prompts)).tolist()
    chosen: list[int] = []
    for i in sorted({i for prompt in prompts for i in prompt.ids}):
        if len(chosen) < labelled and not any(i in prompts[n].ids for n in chosen):
            chosen.append(next(n for n in order if i in prompts[n].ids))
    chosen += [n for n in order if n not in chosen][: labelled - len(chosen)]
    return chosen, [n for n in order if n not in chosen][:limit]


def score(segmenter: Segmenter, context: Context, test: Sequence[Prompt], ids: Sequence[int]) -> dict[str, float]:
    """Mean IoU of the ids over the test images, and the seconds that one takes once the context is prepared."""
    prepared = segmenter.prepare(context)
    segmenter.segment(test[0].image, prepared)  # what only the first costs
    start = time.perf_counter()
    found = [answer.mask for answer in segmenter.segment_many((prompt.image for prompt in test), prepared)]
    seconds = (time.perf_counter() - start) / len(test)
    return {"mean_iou": round(mean_iou(found, [p.mask for p in test], ids), 4), "seconds": round(seconds, 4)}


def measure(segmenter: Segmenter, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One set: untuned and tuned, by number of labelled images."""
    prompts, names = read_set(folder, given.ids)
    labelled, rest = cut(prompts, given.labelled, given.limit, given.seed)
    if len(labelled) < given.labelled or not rest:
        raise ValueError(f"{folder}: expected more than {given.labelled} labelled images, got {len(prompts)}")
    shown, test = [prompts[n] for n in labelled], [prompts[n] for n in rest]
    ids = sorted({i for prompt in shown for i in prompt.ids} & {i for prompt in test for i in prompt.ids})
    ranking = rank(segmenter, shown)
    untuned = [
        {"images": n, **score(segmenter, [shown[c] for c in ranking.best(n)], test, ids)} for n in given.ensembles
    ]
    print(f"{folder.name}: {len(test)} test images, untuned {[row['mean_iou'] for row in untuned]}", flush=True)
    tuned = [
        _tuned(segmenter, n, ranking, shown, [names[n] for n in labelled], test, ids, folder, given)
        for n in given.tuned
    ]
    return {
        "set": folder.name,
        "ids": ids,
        "labelled": [names[n] for n in labelled],
        "test": len(test),
        "untuned": untuned,
        "tuned": tuned,
    }


def _tuned(
    segmenter: Segmenter,
    count: int,
    ranking: Ranking,
    shown: Sequence[Prompt],
    names: Sequence[str],
    test: Sequence[Prompt],
    ids: Sequence[int],
    folder: Path,
    given: argparse.Namespace,
) -> dict[str, Any]:
    """A prompt tensor from the `count` best labelled images, on the test part; and how it came about."""
    chosen, told = sorted(ranking.best(count)), list[TuningStep]()
    start = time.perf_counter()
    key = tune(
        segmenter,
        [shown[c] for c in chosen],
        steps=given.steps,
        lr=given.lr,
        shots=given.shots,
        start=given.start,
        held_out=given.val_share,
        batch_size=given.batch_size,
        image_names=[names[c] for c in chosen],
        seed=given.seed,
        on_step=told.append,
    )
    minutes = (time.perf_counter() - start) / 60
    key.save(given.out / f"{folder.name}_{count}.safetensors")
    row = {
        "images": count,
        **score(segmenter, key, test, ids),
        "held_out_before": round(key.origin.before, 4),
        "held_out_after": round(key.origin.after, 4),
        "minutes": round(minutes, 2),
        "steps": len(told),
        "seconds_per_step": round(float(np.median([step.seconds for step in told])), 3),
        "peak_mib": max(step.memory for step in told) >> 20,
        "curve": [[step.step, round(step.loss, 4), round(step.score, 4)] for step in told if step.score is not None],
    }
    print(f"{folder.name}: tuned on {count}: {row['mean_iou']} in {row['minutes']} minutes", flush=True)
    return row


def summary(sets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over the sets: how far the tuned one is above the best single example and the largest ensemble."""
    of_most = [(each["untuned"][0], each["untuned"][-1], each["tuned"][-1]) for each in sets]
    return {
        "sets": len(sets),
        "mean_single": round(mean(single["mean_iou"] for single, _, _ in of_most), 4),
        "mean_ensemble": round(mean(many["mean_iou"] for _, many, _ in of_most), 4),
        "mean_tuned": round(mean(tuned["mean_iou"] for _, _, tuned in of_most), 4),
        "above_single": sum(tuned["mean_iou"] > single["mean_iou"] for single, _, tuned in of_most),
        "above_ensemble": sum(tuned["mean_iou"] > many["mean_iou"] for _, many, tuned in of_most),
    }


def draw(sets: Sequence[dict[str, Any]], path: Path) -> None:
    """mIoU against the number of labelled images, tuned and untuned, a panel for each set."""
    import matplotlib as mpl

    mpl.use("agg")  # no window
    from matplotlib import pyplot as plt

    columns = min(4, len(sets))
    rows = -(-len(sets) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.7 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(sets) :]:
        axis.set_visible(False)
    for axis, each in zip(axes.flat, sets, strict=False):
        for kind, color, name in (("untuned", "#8c8c8c", "best, averaged"), ("tuned", "#1b5e9e", "tuned, one shot")):
            points = [(row["images"], row["mean_iou"]) for row in each[kind]]
            axis.plot(*zip(*points, strict=True), color=color, marker="o", ms=4, label=name)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_title(each["set"], fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(fontsize=8, frameon=False)
    figure.supxlabel("labelled images", fontsize=10)
    figure.supylabel("mean IoU", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("data", type=Path, help="a folder of sets, each with images/ and masks/")
    made.add_argument("--out", type=Path, required=True, help="a folder for what is measured of each set, and its keys")
    made.add_argument("--sets", help="only these, with commas between")
    made.add_argument("--ids", type=int, help="of each set only so many, those that most images show")
    made.add_argument("--labelled", type=int, default=16, help="of each set; the rest is for the test")
    made.add_argument("--ensembles", type=lambda text: numbers("--ensembles", text), default=[1, 4, 8, 16])
    made.add_argument("--tuned", type=lambda text: numbers("--tuned", text), default=[16], help="on so many images")
    made.add_argument("--limit", type=int, default=40, help="test images of each set, at most")
    made.add_argument("--steps", type=int, default=STEPS)
    made.add_argument("--lr", type=float, default=RATE)
    made.add_argument("--shots", type=int, default=1)
    made.add_argument("--start", default="best", choices=["best", "mean", "noise"])
    made.add_argument("--val-share", type=float, default=HELD_OUT)
    made.add_argument("--batch-size", type=int, default=4)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--weights", default="default")
    made.add_argument("--device", default="auto")
    made.add_argument("--dtype", default="auto")
    made.add_argument("--plot", type=Path, help="draw mIoU against the number of labelled images")
    return made


def main() -> None:
    """Measure, record, draw."""
    given = parser().parse_args()
    keep_freed_memory()  # as `incontext tune` does
    folders = [each for each in sorted(given.data.glob("*/")) if (each / "images").is_dir()]
    if given.sets is not None:
        folders = [each for each in folders if each.name in given.sets.split(",")]
    segmenter = load(given.weights, device=given.device, dtype=given.dtype)
    given.out.mkdir(parents=True, exist_ok=True)
    settings = {
        name: getattr(given, name)
        for name in (
            "ids",
            "labelled",
            "ensembles",
            "tuned",
            "limit",
            "steps",
            "lr",
            "shots",
            "start",
            "val_share",
            "seed",
        )
    } | {"batch_size": given.batch_size, "sha256": segmenter.sha256, "dtype": segmenter.describe()["dtype"]}
    sets = []
    for folder in folders:
        kept = given.out / f"{folder.name}.json"
        known = json.loads(kept.read_text()) if kept.is_file() else {}
        if known.get("settings") != settings:
            known = {"settings": settings, "measured": measure(segmenter, folder, given)}
            with whole_file(kept) as stream:
                stream.write(json.dumps(known).encode())
        sets.append(known["measured"])
    if given.plot is not None:
        draw(sets, given.plot)
    name = f"tune_{Path(given.weights).stem}_side{segmenter.config.side}" + (f"_{given.ids}ids" if given.ids else "")
    measured: dict[str, object] = {
        "model": Path(given.weights).stem,
        "settings": settings,
        "summary": summary(sets),
        "sets": sets,
    }
    record(name, measured, segmenter.device, weights=given.weights)


if __name__ == "__main__":
    main()
