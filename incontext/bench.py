"""How fast a Segmenter is on this machine, and how much memory it takes: what `incontext bench` shows.

Holds how everything here is measured: medians of repeated calls after one that is not counted, the device waited for,
the peak of memory read from the allocator or the kernel. Refuses to know the inside of the network and files.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self, Unpack

import einops
import numpy as np
import PIL
import torch

import incontext
from incontext.engine import PreparedContext, Segmenter
from incontext.options import SegmentKeywords, SegmentOptions, takes_options
from incontext.types import Prompt

IMAGE: Final = (480, 640)  # rows and columns of the images that are segmented
MEGABYTE: Final = 1_000_000

_VECTORS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}


# ------------------------------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated calls."""

    first: float  # of the call that is not counted: it warms up, and compiles what there is to compile
    counted: tuple[float, ...]  # empty: the first took so long that it had to do, and counts

    @property
    def median(self) -> float:
        """Seconds of a usual call."""
        return statistics.median(self.counted or (self.first,))

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, seconds; zero for a single call."""
        if len(self.counted) < 2:
            return 0.0
        lower, _, upper = statistics.quantiles(self.counted, n=4, method="inclusive")
        return (upper - lower) / 2


def timed(
    call: Callable[[], object], device: torch.device, *, seconds: float, least: int = 3, most: int = 50
) -> Timing:
    """Call once, then as often as fits into ``seconds``, but ``least`` times at least and ``most`` at most."""
    first = _seconds_of(call, device)
    counted: list[float] = []
    while len(counted) < most and (len(counted) < least or first + sum(counted) < seconds):
        counted.append(_seconds_of(call, device))
    return Timing(first, tuple(counted))


def _seconds_of(call: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for the device: its work goes on after a call returned."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class PeakMemory:
    """``with PeakMemory(device) as memory: ...``: bytes in use before, and the most that were in use in between.

    On CUDA what PyTorch has allocated on the card, on Linux the resident memory of this process, which is first asked
    to give back what it no longer needs. ``before`` and ``peak`` are None where nothing tells.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.before: int | None = None
        self.peak: int | None = None

    def __enter__(self) -> Self:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self.before = torch.cuda.memory_allocated(self._device)
        elif self._device.type == "cpu" and _forget_peak():
            self.before = _resident("VmRSS")
        return self

    def __exit__(self, *exception: object) -> None:
        if self.before is None:
            return
        on_cuda = self._device.type == "cuda"
        self.peak = torch.cuda.max_memory_allocated(self._device) if on_cuda else _resident("VmHWM")

    @property
    def grown(self) -> int | None:
        """Bytes by which the peak exceeds what was in use before."""
        return None if self.before is None or self.peak is None else max(0, self.peak - self.before)


def _forget_peak() -> bool:
    """Make the kernel's record of the peak start anew; False where it does not."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is kept for later would hide what is needed now
        Path("/proc/self/clear_refs").write_text("5")  # 5: the peak, proc(5)
        peak, now = _resident("VmHWM"), _resident("VmRSS")
    except (OSError, AttributeError, TypeError):
        return False
    return peak is not None and now is not None and peak - now < 64 * MEGABYTE


def _resident(field: str) -> int | None:
    """Read bytes of this process: VmRSS what is resident now, VmHWM the most that was."""
    found = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


# -------------------------------------------------------------------------------------- circumstances


def hardware(device: torch.device) -> str:
    """Name what a figure was measured on: the card, or the processor with its cores.

    A processor whose model the virtual machine hides is told by its widest vector instructions and by its numbers of
    family and model: generations that share the one may differ by half in speed.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)", text, re.MULTILINE)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = processor(found[1] if found else platform.processor() or platform.machine(), generation(text))
    return f"{name}, {usable} cores"


def processor(name: str, instructions: str | None) -> str:
    """Shorten `Intel(R) Xeon(R) Processor`, `AMX` to `Intel Xeon AMX`; a name that says the model stays alone."""
    name = re.sub(r"\((R|TM|r|tm)\)|\bCPU\b|\bProcessor\b|\b\d+-Core\b|@.*", " ", name)
    name = " ".join(name.split())
    return name if re.search(r"\d", name) or instructions is None else f"{name} {instructions}"


def generation(cpuinfo: str) -> str | None:
    """Find the widest vector instructions that the text of /proc/cpuinfo lists, and the numbers of family and model.

    `AVX512-BF16 family 25 model 17`: an EPYC of the fourth generation.
    """
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    name = next((name for flag, name in _VECTORS.items() if flag in flags), None)
    family, model = (re.search(rf"^{key}\s*:\s*(\d+)", cpuinfo, re.MULTILINE) for key in ("cpu family", "model"))
    return name if name is None or not family or not model else f"{name} family {family[1]} model {model[1]}"


def circumstances(device: torch.device) -> dict[str, object]:
    """Note what a figure needs to be judged by: date, hardware, threads, versions."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "incontext": incontext.__version__,
            "torch": torch.__version__,
            "einops": einops.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
    }


# ------------------------------------------------------------------------------------------ benchmark


@dataclass(frozen=True)
class Row:
    """One number of shots and one batch size. Times are from images in memory to masks, their own size."""

    shots: int
    batch_size: int
    milliseconds: float  # an image, the context prepared; median
    spread: float  # of that, half the distance between the quartiles
    images_per_second: float
    unprepared_milliseconds: float  # an image, the context given anew with every batch
    prepare_milliseconds: float  # the context alone
    first_seconds: float  # of the first batch: warming up, and compiling where that was asked for
    peak_megabytes: float | None  # in use at most, weights included: on the card, or by the process
    calls: int  # that the median is of


@dataclass(frozen=True)
class BenchReport:
    """What `incontext bench` measured."""

    segmenter: dict[str, object]  # Segmenter.describe()
    circumstances: dict[str, object]
    side: int  # pixels
    load_seconds: float
    rows: tuple[Row, ...]

    def to_json(self) -> str:
        """Write it as one line."""
        where = {"image": f"{IMAGE[1]} x {IMAGE[0]}", "side": self.side}
        rows = [{name: _rounded(value) for name, value in asdict(row).items()} for row in self.rows]
        document = {"benchmark": "segmenter", **self.circumstances, "model": self.segmenter, **where}
        return json.dumps({**document, "load_seconds": _rounded(self.load_seconds), "rows": rows})

    def to_markdown(self) -> str:
        """Write what runs, and a table."""
        what, about = self.segmenter, self.circumstances
        head = (
            f"{what['weights']}, side {self.side}, {what['dtype']}, attention {what['attention']}"
            f"{', compiled' if what['compile'] else ''}, on {about['hardware']} ({about['threads']} threads); "
            f"loaded in {self.load_seconds:.1f} s"
        )
        lines = [
            head,
            "",
            "| shots | batch | ms an image | ± | images/s | ms, context anew | ms to prepare | first, s | peak MB |",
            "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for row in self.rows:
            peak = "" if row.peak_megabytes is None else f"{row.peak_megabytes:.0f}"
            lines.append(
                f"| {row.shots} | {row.batch_size} | {row.milliseconds:.1f} | {row.spread:.1f} "
                f"| {row.images_per_second:.2f} | {row.unprepared_milliseconds:.1f} | {row.prepare_milliseconds:.1f} "
                f"| {row.first_seconds:.2f} | {peak} |"
            )
        return "\n".join(lines)


@takes_options
def bench(
    segmenter: Segmenter,
    *,
    shots: Sequence[int] = (1,),
    batch_sizes: Sequence[int] = (1,),
    seconds: float = 10.0,
    load_seconds: float = 0.0,
    on_row: Callable[[Row], None] | None = None,
    **options: Unpack[SegmentKeywords],
) -> BenchReport:
    """Measure a Segmenter on noise: 640 x 480 images in memory, with a context of each number of shots.

    Args:
        batch_sizes: Images that go through the network together.
        seconds: About how long each figure may take.
        load_seconds: How long loading took, for the report.
        on_row: Called after each row.
        options: See `SegmentOptions`.

    Raises:
        ValueError: no shots or batch sizes, or some below one; what `Segmenter.segment` raises about the side.
    """
    for name, values in (("shots", shots), ("batch sizes", batch_sizes)):
        if not values or min(values) < 1:
            raise ValueError(f"expected {name} of at least 1, got {', '.join(map(str, values)) or 'none'}")
    rows, chosen = [], SegmentOptions(**options)
    for count in shots:
        for batch_size in batch_sizes:
            rows.append(_measure(segmenter, count, batch_size, chosen, seconds))
            if on_row is not None:
                on_row(rows[-1])
    used = segmenter.config.side if chosen.side is None else chosen.side
    return BenchReport(segmenter.describe(), circumstances(segmenter.device), used, load_seconds, tuple(rows))


def _measure(segmenter: Segmenter, shots: int, batch_size: int, options: SegmentOptions, seconds: float) -> Row:
    rng = np.random.default_rng(0)
    images = [_noise(rng) for _ in range(batch_size)]
    context = [_prompt(rng) for _ in range(shots)]
    device = segmenter.device

    def prepare() -> PreparedContext:
        return segmenter.prepare(context, **options.keywords())

    with PeakMemory(device) as memory:
        prepared = prepare()
        kept = timed(
            lambda: list(segmenter.segment_many(images, prepared, batch_size=batch_size)), device, seconds=seconds
        )
    anew = timed(
        lambda: list(segmenter.segment_many(images, context, batch_size=batch_size, **options.keywords())),
        device,
        seconds=seconds,
        least=1,
    )
    preparing = timed(prepare, device, seconds=seconds / 2, least=1)
    return Row(
        shots=shots,
        batch_size=batch_size,
        milliseconds=1000 * kept.median / batch_size,
        spread=1000 * kept.spread / batch_size,
        images_per_second=batch_size / kept.median,
        unprepared_milliseconds=1000 * anew.median / batch_size,
        prepare_milliseconds=1000 * preparing.median,
        first_seconds=kept.first,
        peak_megabytes=None if memory.peak is None else memory.peak / MEGABYTE,
        calls=max(1, len(kept.counted)),
    )


def _noise(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (*IMAGE, 3), dtype=np.uint8)


def _prompt(rng: np.random.Generator) -> Prompt:
    mask = np.zeros(IMAGE, np.uint8)
    top, left = (int(rng.integers(0, size // 2)) for size in IMAGE)
    mask[top : top + IMAGE[0] // 3, left : left + IMAGE[1] // 3] = 1
    return Prompt(_noise(rng), mask)


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value
