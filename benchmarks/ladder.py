"""The speed ladder: one row for each technique added, beside transformers' SegGPT, in one run with the same weights.

python benchmarks/ladder.py --model large --shots 1,4,8 --budget-seconds 700

Every row paints the same queries by the same prompts, normalised noise on the device; the clock sees the network alone.
What a row may prepare for a context is prepared before. Medians of calls after one that is not counted; where a single
call takes longer than --row-seconds it is the only one, and counts. Milliseconds and images per second are of a query;
peak memory is the weights and what the row needed beyond them; the error is the largest difference from the row "naive
fp32" over its largest value; FLOPs are those that the mathematics asks for (flops.py). Rows that would not fit into the
rest of the budget, or into memory, are left out, and listed. The last line is everything as JSON, which also becomes a
file in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from flops import flops
from machine import folder_rate, free_bytes, matrix_rate
from record import RESULTS, document, save
from rows import ALL_SAVINGS, SHORT, Inputs, Models, Row, random_large, rows
from table import to_markdown
from torch import Tensor

from incontext.bench import MEGABYTE, PeakMemory, Timing, timed
from incontext.network.checkpoint import load_model
from incontext.network.devices import choose_device
from incontext.network.model import SegGPT
from incontext.network.registry import resolve

COMPILE_SECONDS = 60.0  # what is expected of a row that compiles


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    device: torch.device
    shots: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    patterns: tuple[str, ...] = ("*",)
    compiled: bool = False
    budget_seconds: float = float("inf")
    row_seconds: float = 10.0
    iterations: int = 30
    folder_images: int = 64  # 0: no folder row


# --------------------------------------------------------------------------------------------- the rows


@dataclass(frozen=True)
class Task:
    """A row at a number of shots and a batch size."""

    row: Row
    shots: int
    batch: int

    @property
    def rank(self) -> tuple[int, int, int]:
        """What comes first: the essential, few shots, small batches."""
        return (self.row.rank if self.batch == 1 else max(3, self.row.rank), self.shots, self.batch)


def tasks(table: list[Row], options: Options) -> list[Task]:
    """In the order in which they are run."""
    wanted = [row for row in table if any(fnmatchcase(row.name, pattern) for pattern in options.patterns)]
    every = [
        Task(row, shots, batch)
        for row in wanted
        for shots in options.shots
        for batch in row.batch_sizes(shots, options.batch_sizes)
    ]
    return sorted(every, key=lambda task: task.rank)


class Ladder:
    """Runs tasks within a budget, and keeps what came out."""

    def __init__(self, model: SegGPT, options: Options) -> None:
        self.options = options
        self.models = Models(model)
        self.results: list[dict[str, Any]] = []
        self._answers: dict[int, Tensor] = {}  # float32 plain, by the number of shots
        self._seconds: dict[str, list[tuple[int, float]]] = {}  # of a call, by row: queries * shots, seconds
        self._end = time.monotonic() + options.budget_seconds

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self._end - time.monotonic()

    def run(self, task: Task) -> dict[str, Any]:
        """Measure, or say why not."""
        result = self._identity(task)
        reason = self._obstacle(task)
        if reason is None:
            try:
                result |= self._measured(task)
            except torch.cuda.OutOfMemoryError:
                reason = "out of memory"
            except Exception as error:  # noqa: BLE001  one row that cannot run here must not cost the others
                reason = failure(error)
            finally:
                if task.row.compiles:
                    torch.compiler.reset()
        if reason is not None:
            result["left_out"] = reason
        self.results.append(result)
        return result

    def folder(self, model: SegGPT) -> dict[str, Any]:
        """The folder job, at the batch size of the fastest row of incontext at one shot; or why not."""
        options, expected = self.options, self._folder_seconds()
        if expected > self.left:
            return {"left_out": f"would take about {expected:.0f} s, {max(0, self.left):.0f} s of the budget are left"}
        batch, images, seconds = self._fastest()["batch"], options.folder_images, options.row_seconds
        try:
            return folder_rate(model, options.device, batch_size=batch, images=images, seconds=seconds)
        except Exception as error:  # noqa: BLE001  what was measured before must not be lost
            return {"left_out": failure(error)}

    def _folder_seconds(self) -> float:
        """How long the folder job will take: twice the network's share, and the files."""
        images = self.options.folder_images
        return float(images * (2 * self._fastest()["ms"] / 1000 + 0.03))

    def _fastest(self) -> dict[str, Any]:
        ours = [
            each for each in self.results if each["row"] == "incontext bf16" and each["shots"] == 1 and "ms" in each
        ]
        return min(ours, key=lambda each: float(each["ms"]), default={"batch": 1, "ms": 0.0})

    def _identity(self, task: Task) -> dict[str, Any]:
        row = task.row
        return {"row": row.name, "shots": task.shots, "batch": task.batch, "dtype": SHORT[row.dtype]}

    def _obstacle(self, task: Task) -> str | None:
        calls = 2 if self.options.device.type == "cuda" else 1
        expected, left = calls * self._expected(task), self.left - self._folder_seconds()
        if expected > left:
            return f"would take about {expected:.0f} s, {max(0, left):.0f} s of the budget are left"
        needed, free = self._scores_bytes(task), free_bytes(self.options.device)
        if needed > free:
            return f"needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
        return None

    def _expected(self, task: Task) -> float:
        """Seconds of a call, from what was seen of this row or, before that, of the first one."""
        work = task.shots * task.batch
        seen = self._seconds.get(task.row.name) or next(iter(self._seconds.values()), [])
        compiling = COMPILE_SECONDS if task.row.compiles else 0.0
        if not seen:
            return compiling
        near, seconds = min(seen, key=lambda each: abs(each[0] - work))
        return compiling + seconds * max(1.0, work / near)

    def _scores_bytes(self, task: Task) -> int:
        """Of the matrices of scores and biases that exist at a time, where there are two streams."""
        row, config = task.row, self.models.config
        if row.kind == "incontext":
            return 0
        tokens = 2 * config.grid**2
        streams = 1 if row.savings.cached_masks else 2
        matrices = 2 if row.savings.sdpa else 4
        return matrices * streams * task.batch * task.shots * config.heads * tokens**2 * row.dtype.itemsize

    @torch.inference_mode()
    def _measured(self, task: Task) -> dict[str, Any]:
        row, device, config = task.row, self.options.device, self.models.config
        answering = self.models.ready(row)
        inputs = Inputs.draw(task.shots, task.batch, config.side, device).to(row.dtype)
        painted: list[Tensor] = []

        def call() -> None:
            used = context if row.kept else answering.prepare(inputs.images, inputs.masks)
            painted[:] = [answering.answer(inputs.queries, used)]

        context = answering.prepare(inputs.images, inputs.masks)
        start = time.perf_counter()
        if row.compiles:
            call()
        compiled = time.perf_counter() - start
        with PeakMemory(device) as memory:
            context = answering.prepare(inputs.images, inputs.masks)
            timing = self._timed(call)
        first = painted[0][:1].float()
        if not torch.isfinite(first).all():
            raise ValueError("its answer holds infinities or NaN")
        if row.name == "naive fp32":
            self._answers[task.shots] = first
        self._seconds.setdefault(row.name, []).append((task.shots * task.batch, timing.median))
        figures = self._figures(task, timing, memory, relative_error(first, self._answers.get(task.shots)))
        return figures | ({"compile_s": compiled} if row.compiles else {})

    def _timed(self, call: Any) -> Timing:
        """On a card three calls at least; on a processor one that takes very long is enough."""
        options = self.options
        least = 3 if options.device.type == "cuda" else 0
        return timed(call, options.device, seconds=options.row_seconds, least=least, most=options.iterations)

    def _figures(self, task: Task, timing: Timing, memory: PeakMemory, error: float | None) -> dict[str, Any]:
        row, seconds = task.row, timing.median / task.batch
        savings = ALL_SAVINGS if row.kind == "incontext" else row.savings
        work = flops(self.models.config, task.shots, savings)
        grown = memory.grown
        return {
            "ms": 1000 * seconds,
            "spread_ms": 1000 * timing.spread / task.batch,
            "calls": max(1, len(timing.counted)),
            "first_s": timing.first,
            "images_per_second": 1 / seconds,
            "peak_mb": None if grown is None else (self.models.bytes(row.dtype) + grown) / MEGABYTE,
            "relative_error": error,
            "tflops": work / seconds / 1e12 if row.kept else None,
        }


def relative_error(got: Tensor, plain: Tensor | None) -> float | None:
    """The largest difference over the largest value. transformers' answer is another one from two shots on."""
    return None if plain is None else float((got - plain).abs().max() / plain.abs().max())


def failure(error: Exception) -> str:
    """The first line of it."""
    return f"failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def compare(results: list[dict[str, Any]]) -> None:
    """Add to each row how many times the throughput of transformers it has, in float32 and in bfloat16, one query at a
    time and at the same number of shots.
    """
    for short in ("fp32", "bf16"):
        rate = {
            each["shots"]: each["images_per_second"]
            for each in results
            if each["row"] == f"transformers {short}" and each["batch"] == 1 and "ms" in each
        }
        for each in results:
            if "ms" in each and each["shots"] in rate:
                each[f"times_transformers_{short}"] = each["images_per_second"] / rate[each["shots"]]


# ------------------------------------------------------------------------------------------------ the run


def climb(model: SegGPT, options: Options) -> Iterator[tuple[dict[str, Any], str]]:
    """Measure everything. Yields all findings so far, so that a run that is cut short leaves what it had, and news."""
    ladder = Ladder(model, options)
    machine = {SHORT[dtype]: matrix_rate(options.device, dtype) for dtype in SHORT}
    table = rows(options.device, compiled=options.compiled)
    places = {row.name: place for place, row in enumerate(table)}
    findings: dict[str, Any] = {"matrix_tflops": machine, "rows": []}
    for task in tasks(table, options):
        result = ladder.run(task)
        if result.get("tflops") is not None:
            result["share_of_matrix_rate"] = result["tflops"] / machine[SHORT[task.row.dtype]]
        compare(ladder.results)
        findings["rows"] = sorted(ladder.results, key=lambda each: (each["shots"], places[each["row"]], each["batch"]))
        yield findings, describe(result)
    if options.folder_images:
        folder = ladder.folder(model)
        yield findings | {"folder": folder}, describe_folder(folder)


def main() -> None:
    """Measure, show, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["large", "default"], default="large", help="large: with random weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shots", type=numbers, default=(1, 2, 4, 8, 16), help="with commas")
    parser.add_argument("--batch-sizes", type=numbers, help="with commas; default: 1,2,4,8,16,32 on CUDA, else 1")
    parser.add_argument("--rows", default="*", help='names of rows with commas, such as "transformers*,incontext*"')
    parser.add_argument("--compile", action="store_true", help="also rows with torch.compile; on CUDA always")
    parser.add_argument("--budget-seconds", type=float, default=float("inf"))
    parser.add_argument("--row-seconds", type=float, help="about so long for a row; default: 1 on CUDA, else 10")
    parser.add_argument("--iterations", type=int, default=30, help="calls of a row at most")
    parser.add_argument("--folder-images", type=int, help="of the folder job; 0: none; default: 512 on CUDA, else 16")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder for the JSON file")
    given = parser.parse_args()

    try:
        device = choose_device(given.device)
    except ValueError as error:
        parser.error(str(error))
    cuda = device.type == "cuda"
    options = Options(
        device=device,
        shots=given.shots,
        batch_sizes=given.batch_sizes or ((1, 2, 4, 8, 16, 32) if cuda else (1,)),
        patterns=tuple(given.rows.split(",")),
        compiled=given.compile or cuda,
        budget_seconds=given.budget_seconds,
        row_seconds=given.row_seconds or (1.0 if cuda else 10.0),
        iterations=given.iterations,
        folder_images=(512 if cuda else 16) if given.folder_images is None else given.folder_images,
    )
    if cuda:
        torch.backends.cudnn.allow_tf32 = False  # float32 is float32 in the decoder's convolutions as well
    if not tasks(rows(device, compiled=options.compiled), options):
        names = ", ".join(row.name for row in rows(device, compiled=options.compiled))
        parser.error(f"expected --rows to name some of: {names}; got {given.rows}")
    model = random_large(device) if given.model == "large" else load_model(resolve("default")).to(device)
    row: dict[str, Any] = {}
    path = given.out
    for findings, news in climb(model, options):
        measured = {"model": given.model, "side": model.config.side, **rounded(findings)}
        row = document(
            f"ladder_{given.model}", measured, device, weights="default" if given.model == "default" else None
        )
        path = save(row, given.out)
        print(news, file=sys.stderr, flush=True)
    print(to_markdown(row))
    print(f"in {path}", file=sys.stderr)
    print(json.dumps(row))


def describe(result: dict[str, Any]) -> str:
    """One line while it runs."""
    what = f"{result['row']} (shots {result['shots']}, batch {result['batch']}): "
    return what + (result.get("left_out") or f"{result['ms']:.1f} ms, {result['images_per_second']:.2f} images/s")


def describe_folder(folder: dict[str, Any]) -> str:
    """One line at the end."""
    if "left_out" in folder:
        return f"folder: {folder['left_out']}"
    rates = f"{folder['images_per_second']:.2f} of {folder['network_images_per_second']:.2f} images/s"
    return f"folder (shots 1, batch {folder['batch']}): {rates}, {100 * folder['share']:.0f} %"


def rounded(findings: dict[str, Any]) -> dict[str, Any]:
    """All numbers to five digits: more were never measured."""
    return dict(json.loads(json.dumps(findings), parse_float=lambda text: float(f"{float(text):.5g}")))


def numbers(text: str) -> tuple[int, ...]:
    """ "1,4" -> (1, 4)."""
    values = tuple(int(part) for part in text.split(","))
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers of at least 1, got {text}")
    return values


if __name__ == "__main__":
    main()
