"""Folder jobs from end to end: how fast, in how much memory, and what is lost when they are killed.

python benchmarks/folder.py                      # all three parts
python benchmarks/folder.py --parts rate --files 1000
python benchmarks/folder.py --parts memory --small-files 20000
python benchmarks/folder.py --parts kills --kills 100

rate: images per second with the default weights over files of several kinds and sizes, some of them broken, beside
what the network does alone. memory: resident memory over very many small files, and what a file costs beside the
network; with a network of two blocks, as what could grow does not depend on it. kills: a job that is killed (SIGKILL)
at random moments until it is done, against one that was not, byte for byte.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import psutil
import torch
from killing import broken_promises, contents, finished, killed
from machine import photographs
from PIL import Image
from record import record

from incontext.engine import Segmenter, load
from incontext.folder import FileReport, plan, segment_folder
from incontext.folder.run import count_lanes
from incontext.images.ids import Pixels
from incontext.images.read import read_image
from incontext.network.config import ModelConfig
from incontext.network.devices import choose_device
from incontext.network.model import SegGPT
from incontext.types import Prompt

PARTS = ("rate", "memory", "kills")
KINDS = (  # of every hundred files: how many, suffix, width, height
    (60, ".jpg", 640, 480),
    (15, ".jpg", 1920, 1280),
    (2, ".jpg", 4000, 3000),
    (8, ".png", 640, 480),
    (5, ".webp", 800, 600),
    (5, ".tif", 640, 480),
    (3, ".bmp", 320, 240),
    (2, ".gif", 320, 240),
)
BROKEN_EVERY = 50  # files
EARLY, WINDOW = 1000, 200  # files: when memory is looked at first, and over how many
LONGEST = 0.4  # seconds until a kill


def tiny() -> Segmenter:
    """A network of two blocks with random weights."""
    torch.manual_seed(0)
    small = ModelConfig(
        width=16, heads=2, depth=2, patch=8, side=32, decoder_width=4, merge_layer=0, taps=(0, 1), pretrain_side=32
    )
    return Segmenter(SegGPT(small), device="cpu", dtype="float32", name="tiny")


def example(image: Pixels) -> Prompt:
    """A prompt: what lies in the middle of an image."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
    return Prompt(image, mask)


def mixed(folder: Path, count: int) -> Path:
    """Files of several kinds and sizes, made of one photograph-like image, some of them cut off."""
    (source,) = photographs(folder / "source", 1)
    original, root = Image.open(source), folder / "files"
    root.mkdir()
    kinds = [kind for kind in KINDS for _ in range(kind[0])]
    random.Random(0).shuffle(kinds)
    made: dict[tuple[str, int, int], bytes] = {}
    for number in range(count):
        _, suffix, width, height = kinds[number % len(kinds)]
        path = root / f"{number:06}{suffix}"
        if (suffix, width, height) not in made:
            original.resize((width, height), Image.Resampling.BICUBIC).save(path)
            made[suffix, width, height] = path.read_bytes()
        content = made[suffix, width, height]
        path.write_bytes(content[: len(content) // 3] if number % BROKEN_EVERY == BROKEN_EVERY - 1 else content)
    return root


def alone(segmenter: Segmenter, prompt: Prompt, seconds: float = 5.0) -> float:
    """Seconds of the network for an image, as many side by side as in a job, nothing being read or written."""
    prepared = segmenter.prepare(prompt)
    fitted = prepared.fit(prompt.image)
    lanes = count_lanes(segmenter, prepared, "auto")
    threads = max(1, torch.get_num_threads() // lanes)

    def answer(count: int) -> None:
        for _ in segmenter.answer_many(repeat(fitted, count), prepared, batch_size=1):
            pass

    with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        list(pool.map(answer, [3] * lanes))  # warms up
        start, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds:
            list(pool.map(answer, [10] * lanes))
            done += 10 * lanes
    torch.set_num_threads(torch.get_num_threads())  # new threads begin with what one of the pool set
    return elapsed / done


def rate(folder: Path, count: int) -> dict[str, object]:
    """Images per second, and the share of them that the network alone would do."""
    segmenter = load()
    root = mixed(folder, count)
    prompt = example(read_image(folder / "source" / "0000.jpg"))
    network = alone(segmenter, prompt)
    report = segment_folder(segmenter, plan([root], folder / "masks"), prompt)
    return {
        "files": len(report.files),
        "done": report.done,
        "failed": report.failed,
        "seconds": round(report.seconds, 2),
        "images_per_second": round(report.images_per_second, 2),
        "network_alone_per_second": round(1 / network, 2),
        "network_share_of_the_time": round(network * report.done / report.seconds, 4),
        "waiting_seconds": round(report.waiting_seconds, 2),
        "segmenter": report.segmenter,
    }


def small_files(root: Path, count: int, side: int = 64) -> Path:
    """Small images, which differ."""
    root.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    made = []
    for number in range(100):
        path = root / f"{number:06}.jpg"
        Image.fromarray(np.roll(noise, number)).save(path)
        made.append(path.read_bytes())
    for number in range(100, count):
        (root / f"{number:06}.jpg").write_bytes(made[number % 100])
    return root


def memory(folder: Path, count: int) -> dict[str, object]:
    """Resident memory after each file, and what a file costs beside the network."""
    segmenter, process, resident = tiny(), psutil.Process(), []
    root = small_files(folder / "small", count)
    prompt = example(read_image(root / "000000.jpg"))
    network = alone(segmenter, prompt)

    def watch(_: FileReport) -> None:
        resident.append(process.memory_info().rss)

    job = plan([root], folder / "small_masks")
    report = segment_folder(segmenter, job, prompt, on_file=watch)
    early = float(np.median(resident[EARLY - WINDOW // 2 : EARLY + WINDOW // 2]))
    late = float(np.median(resident[-WINDOW:]))
    start = time.perf_counter()
    again = segment_folder(segmenter, job, prompt)
    return {
        "files": len(report.files),
        "failed": report.failed,
        "seconds": round(report.seconds, 2),
        "resident_mb_early": round(early / 1e6, 1),
        "resident_mb_late": round(late / 1e6, 1),
        "resident_mb_most": round(max(resident) / 1e6, 1),
        "growth": round(late / early - 1, 4),
        "ms_per_file": round(report.seconds / count * 1e3, 3),
        "network_ms_per_file": round(network * 1e3, 3),
        "overhead_ms_per_file": round((report.seconds / count - network) * 1e3, 3),
        "seconds_to_see_that_all_is_done": round(time.perf_counter() - start, 2),
        "done_again": again.masks,
    }


def kills(folder: Path, count: int, images: int = 600) -> dict[str, object]:
    """Kill jobs until so many kills are reached, and compare each that was finished with one that was not killed."""
    torch.set_num_threads(1)  # no threads in this process: it forks
    root = small_files(folder / "queries", images, side=96)
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    prompt = example(read_image(root / "000000.jpg"))

    def work(out: Path) -> Callable[[], object]:
        job = plan([root], out, overlay=True, confidence=True)
        return lambda: segment_folder(tiny(), job, prompt)

    chance, reached, jobs = random.Random(0), 0, 0
    problems: list[str] = []
    differing: list[str] = []
    finished(work(folder / "whole" / "out"))
    whole = contents(folder / "whole" / "out")
    while reached < count:
        out = folder / f"job_{jobs}" / "out"
        for was_killed in killed(work(out), count - reached, LONGEST, chance):
            reached += was_killed
            problems += broken_promises(out) if out.exists() else []
            if not was_killed:
                break
        finished(work(out))
        jobs += 1
        found = contents(out)
        differing += [
            name for name in {**whole, **found} if _place_free(whole.get(name)) != _place_free(found.get(name))
        ]
    return {
        "kills": reached,
        "jobs": jobs,
        "files": images + 1,
        "results_of_a_job": len(whole),
        "partial_files": len(problems),
        "differing_files": len(differing),
        "what": [*problems, *differing][:10],
    }


def _place_free(content: object) -> object:
    """A report without the name of its own folder."""
    return {**content, "settings": {**content["settings"], "out": ""}} if isinstance(content, dict) else content


def main() -> None:
    """Measure the parts that were asked for, and record them together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of rate,memory,kills")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--small-files", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=100)
    given = parser.parse_args()
    parts = given.parts.split(",")
    if set(parts) - set(PARTS):
        parser.error(f"expected --parts among {', '.join(PARTS)}, got {given.parts}")
    measured: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "kills" in parts:  # first: it forks, and the others start threads
            measured["kills"] = kills(folder, given.kills)
        torch.set_num_threads(psutil.cpu_count() or 1)
        if "memory" in parts:
            measured["memory"] = memory(folder, given.small_files)
        if "rate" in parts:
            measured["rate"] = rate(folder, given.files)
    record("folder", measured, choose_device("auto"), weights="default")


if __name__ == "__main__":
    main()
