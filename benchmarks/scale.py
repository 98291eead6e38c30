"""Folder jobs by many processes: how many images a second, and what each step of an image costs.

python benchmarks/scale.py                            # all three parts
python benchmarks/scale.py --parts runners --images 300
python benchmarks/scale.py --parts steps,overhead

runners: JPEGs of 640 x 480 with the default weights, by the local runner and by Ray with one worker of all threads up
to one worker for each core; the rate from the time when a quarter is done, and the seconds until the first is done.
steps: seconds of one core for reading, fitting, the network and writing, by the image's size; and for what Ray needs
to hand a decoded image to another process, which this package avoids. overhead: the same runners with a network of
two blocks and small images: what is left is what runners cost for each image.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from folder import example, small_files, tiny
from machine import photographs
from PIL import Image
from record import record

from incontext.engine import Answer, Segmenter, load
from incontext.folder import FileReport, FolderReport, Outputs, plan, segment_folder, work
from incontext.folder.ray.job import IMAGES_FOR_THREAD, RayRunner, segment_on_ray
from incontext.folder.ray.workers import RayNetworks, Setup
from incontext.images.read import read_image
from incontext.network.checkpoint import save_model
from incontext.options import DEFAULTS, LoadOptions

PARTS = ("runners", "steps", "overhead")
SIZES = ((640, 480), (1920, 1280), (4000, 3000))
COUNTED = 0.75  # of the images: the last ones, when all workers are at work
SMALL_FILES = 2000
LOOK_AFTER = 40  # images
LEAST_CALLS, SECONDS_OF_CALLS = 5, 2.0


class Clock:
    """When each image was finished."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.ends: list[float] = []
        self.resident: list[int] = []  # bytes of each process with a network, when some images are done

    def __call__(self, _: FileReport) -> None:
        self.ends.append(time.perf_counter() - self.start)
        if len(self.ends) == LOOK_AFTER:
            self.resident = [process.memory_info().rss for process in _processes()]

    def row(self, name: str, report: FolderReport) -> dict[str, object]:
        """The figures of a run that has ended."""
        begin = round(len(self.ends) * (1 - COUNTED))
        return {
            "engine": name,
            "workers": report.segmenter.get("workers"),
            "threads": report.segmenter["device_name"],
            "images": len(self.ends),
            "failed": report.failed,
            "resident_bytes": self.resident,
            "seconds_to_first": round(self.ends[0], 2),
            "seconds": round(self.ends[-1], 2),
            "images_per_second": round((len(self.ends) - 1 - begin) / (self.ends[-1] - self.ends[begin]), 2),
        }


def _processes() -> list[psutil.Process]:
    """Ray's workers, or where there are none, this process."""
    own = psutil.Process()
    return [each for each in own.children(recursive=True) if "Worker" in "".join(each.cmdline())] or [own]


def compared(folder: Path, root: Path, weights: str, cores: int) -> list[dict[str, object]]:
    """A row for each runner, whose masks must be equal."""
    prompt = example(read_image(min(root.iterdir())))
    torch.set_num_threads(cores)
    clock = Clock()
    segmenter = load(weights, device="cpu")
    report = segment_folder(segmenter, plan([root], folder / "local"), prompt, on_file=clock)
    rows = [clock.row("local", report)]
    for workers in sorted({1, *(2**power for power in range(1, 10) if 2**power < cores), cores}):
        out, clock = folder / f"ray{workers}", Clock()
        networks = RayNetworks(LoadOptions(weights, "cpu"), workers=workers)
        report = segment_on_ray(networks, plan([root], out), prompt, on_file=clock)
        rows.append({**clock.row("ray", report), "masks_as_local": _same(folder / "local", out)})
        print(rows[-1], flush=True)
    return rows


def _same(one: Path, other: Path) -> bool:
    names = [{path.name for path in folder.glob("*.png")} for folder in (one, other)]
    return names[0] == names[1] and all((one / n).read_bytes() == (other / n).read_bytes() for n in names[0])


def runners(folder: Path, images: int, cores: int) -> dict[str, object]:
    """Images per second with the default weights."""
    photographs(folder / "in", images)
    return {"rows": compared(folder, folder / "in", "default", cores)}


def overhead(folder: Path, images: int, cores: int) -> dict[str, object]:  # noqa: ARG001  small ones cost nothing
    """Images per second with hardly any network."""
    save_model(folder / "tiny.safetensors", tiny().model)
    root = small_files(folder / "in", SMALL_FILES)
    return {
        "images_for_thread": IMAGES_FOR_THREAD,
        "rows": compared(folder, root, str(folder / "tiny.safetensors"), cores),
    }


def steps(folder: Path, images: int, cores: int) -> dict[str, object]:  # noqa: ARG001  one image, one core
    """Seconds of one core for each step, by the size of the image."""
    torch.set_num_threads(1)
    (source,) = photographs(folder / "in", 1)
    segmenter = load(device="cpu")
    networks = RayNetworks(LoadOptions(device="cpu"))
    with RayRunner(Setup(networks, example(read_image(source)), Outputs(folder), DEFAULTS)):
        rows = [_steps(folder, source, size, segmenter) for size in SIZES]
    return {"dtype": str(segmenter.dtype), "rows": rows}


def _steps(folder: Path, source: Path, size: tuple[int, int], segmenter: Segmenter) -> dict[str, object]:
    import ray

    root = folder / f"{size[0]}"
    root.mkdir()
    Image.open(source).resize(size, Image.Resampling.BICUBIC).save(root / "image.jpg", quality=90)
    (query,), outputs = plan([root], root / "out").queries, Outputs(root / "out")
    image = work.read(query)
    if isinstance(image, FileReport):
        raise ValueError(image.error)
    prepared = segmenter.prepare(example(image.image))
    fitted = prepared.fit(image.image)

    def network() -> Answer:
        (answer,) = segmenter.answer_many([fitted], prepared)
        return answer

    answer = network()
    return {
        "width": size[0],
        "height": size[1],
        "bytes_read": (root / "image.jpg").stat().st_size,
        "read": _core_seconds(lambda: work.read(query)),
        "fit": _core_seconds(lambda: prepared.fit(image.image)),
        "network": _core_seconds(network),
        "write": _core_seconds(lambda: work.write(outputs, image, answer)),
        "bytes_written": (root / "out" / "image.png").stat().st_size,
        "hand_over": _core_seconds(lambda: np.array(ray.get(ray.put(image.image)))),
    }


def _core_seconds(call: Callable[[], object]) -> float:
    """Processor time of this thread for a call, the median of some: other programs do not count."""
    call()
    spent: list[float] = []
    while len(spent) < LEAST_CALLS or sum(spent) < SECONDS_OF_CALLS:
        start = time.thread_time()
        call()
        spent.append(time.thread_time() - start)
    return round(statistics.median(spent), 5)


def main() -> None:
    """Measure, and write the figures to results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas between")
    parser.add_argument("--images", type=int, default=300)
    asked = parser.parse_args()
    cores = os.cpu_count() or 1
    measured: dict[str, object] = {}
    for name in asked.parts.split(","):
        part = {"runners": runners, "steps": steps, "overhead": overhead}[name]
        with tempfile.TemporaryDirectory() as folder:
            measured[name] = part(Path(folder), asked.images, cores)
    record("scale", measured, "cpu", weights="default")


if __name__ == "__main__":
    main()
