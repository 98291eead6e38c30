"""Resident memory over a long video: a rendered one of 10 000 frames of 640 x 360, tracked from file to files.

python benchmarks/long_video.py --frames 10000

With the default weights at a small side, because what could grow does not depend on it: frames read, the memory bank,
masks, the overlay and the tracks written. Memory is that of the process after each frame; the last figure is the median
over the last hundred frames against that around frame 500.
"""

from __future__ import annotations

import argparse
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
from record import record

from incontext.engine import load
from incontext.images.ids import Pixels
from incontext.training.scenes import render_clip
from incontext.video.job import TrackProgress, track_job
from incontext.video.plan import plan_track
from incontext.video.streams import movie

SIZE = 360, 640
RATE = Fraction(30)
SIDE = 64
EARLY, WINDOW = 500, 100  # frames


def rendered(path: Path, frames: int) -> Pixels:
    """Write the video; (H, W) uint8, the mask of its first frame."""
    first: Pixels | None = None
    with movie(path, SIZE, rate=RATE) as film:
        for number, (image, mask) in enumerate(render_clip(np.random.default_rng(1), SIZE, frames, things=3)):
            first = mask if first is None else first
            film.add(float(number / RATE), image)
    assert first is not None
    return first


def main() -> None:
    """Render, track, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--memory", type=int, default=4)
    given = parser.parse_args()
    segmenter, process, resident = load(), psutil.Process(), []

    def watch(_: TrackProgress) -> None:
        resident.append(process.memory_info().rss)

    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "clip.mp4")
        mask = rendered(source, given.frames)
        job = plan_track(source, Path(name, "out"), mask=mask, memory=given.memory, side=SIDE)
        report = track_job(segmenter, job, on_frame=watch)
        masks = len(list(Path(name, "out", "masks").iterdir()))
    early = float(np.median(resident[EARLY - WINDOW // 2 : EARLY + WINDOW // 2]))
    late = float(np.median(resident[-WINDOW:]))
    measured = {
        "frames": report.frames,
        "masks": masks,
        "size": SIZE,
        "memory": given.memory,
        "side": SIDE,
        "found": {each.id: each.frames for each in report.objects},
        "problems": report.problems,
        "seconds": round(report.seconds, 1),
        "frames_per_second": round(report.frames_per_second, 2),
        "resident_mb_every_500": [round(each / 1e6, 1) for each in resident[EARLY - 1 :: EARLY]],
        "resident_mb_at_500": round(early / 1e6, 1),
        "resident_mb_at_the_end": round(late / 1e6, 1),
        "growth": round(late / early - 1, 4),
    }
    record("long_video", measured, segmenter.device, weights="default")


if __name__ == "__main__":
    main()
