"""Seconds from a photograph in memory to its mask, one shot, and the network's share of them.

python benchmarks/latency.py --threads 2
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from record import record

import incontext


def seconds(call: object, repeats: int) -> dict[str, float]:
    """Median, 90th percentile and best of ``repeats`` timed calls, after three that are not timed."""
    times = []
    for i in range(repeats + 3):
        start = time.perf_counter()
        call()  # type: ignore[operator]
        if i >= 3:
            times.append(time.perf_counter() - start)
    return {"median": statistics.median(times), "p90": statistics.quantiles(times, n=10)[-1], "best": min(times)}


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--threads", type=int, default=None, help="default: PyTorch's own choice")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--side", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)

    start = time.perf_counter()
    segmenter = incontext.load(options.weights, dtype=options.dtype)
    load = time.perf_counter() - start
    rng = np.random.default_rng(0)
    photograph = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    mask = np.zeros((480, 640), np.uint8)
    mask[100:300, 200:400] = 1
    prompt = incontext.Prompt(rng.integers(0, 256, (480, 640, 3), dtype=np.uint8), mask)
    measured: dict[str, object] = {
        "model": segmenter.describe(),
        "photograph": "640 x 480",
        "load_seconds": load,
        "segment_seconds": seconds(lambda: segmenter.segment(photograph, prompt, side=options.side), options.repeats),
        "paint_seconds": seconds(lambda: segmenter.paint(photograph, prompt, side=options.side), options.repeats),
    }
    name = f"latency_{Path(options.weights).stem}" + (f"_side{options.side}" if options.side else "")
    record(name, measured)


if __name__ == "__main__":
    main()
