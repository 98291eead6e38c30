"""Click on things by simulation, with every method, and keep what came of it.

Refuses to know networks: a method is any function from an image, perhaps an example, and clicks to masks. It is shown
no truth but that of the example.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

from incontext.evaluation.clicks.scores import ClickReport, score
from incontext.evaluation.clicks.simulation import MOST_CLICKS, Click, Curve, simulate
from incontext.evaluation.clicks.things import Thing, Truth
from incontext.evaluation.lines import Lines
from incontext.evaluation.metrics import Flags
from incontext.images.ids import Pixels
from incontext.types import Prompt

Answers: TypeAlias = Callable[[Sequence[Click]], Flags]
"""All clicks on one thing so far -> (H, W) bool."""

QUALITIES = (0.85, 0.9)  # of NoC
COUNTS = (1, 3, 5, 10)  # clicks after which the IoU is told


@dataclass(frozen=True)
class ClickMethod:
    """Something that answers clicks, and how reports call it.

    Attributes:
        start: An image (H, W, 3) uint8 and an example, or None -> what answers clicks on it.
        uses_example: Whether it is given examples, and asked only where there are some; its answer to no clicks is then
            the first one.
        baseline: It has not learnt anything.
    """

    name: str
    start: Callable[[Pixels, Prompt | None], Answers]
    uses_example: bool = False
    baseline: bool = False


@dataclass(frozen=True)
class Record:
    """What clicks on a thing brought: IoU after 0, 1, 2 ... of them, and the seconds for an answer."""

    ious: tuple[float, ...]
    seconds: float
    done: bool = False


class ClickJournal:
    """Records by method and thing in a file (see `Lines`), so that a stopped evaluation goes on at the next thing."""

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self._known: dict[tuple[str, str], Record] = {}
        self._lines = Lines(path, settings, self._take)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()

    def get(self, method: ClickMethod, thing: Thing) -> Record | None:
        """Return what was measured before on the same files, if it was."""
        return self._known.get((method.name, thing.digest()))

    def add(self, method: ClickMethod, thing: Thing, record: Record) -> None:
        """Keep a record, in the file too."""
        digest = thing.digest()
        self._known[method.name, digest] = record
        ious = [round(iou, 6) for iou in record.ious]
        self._lines.add(
            {
                "method": method.name,
                "set": thing.set,
                "thing": thing.name,
                "digest": digest,
                "ious": ious,
                "seconds": round(record.seconds, 4),
                "done": record.done,
            }
        )

    def _take(self, content: Mapping[str, Any]) -> None:
        ious = tuple(float(iou) for iou in content["ious"])
        if not ious:
            raise ValueError("expected at least one IoU")
        record = Record(ious, float(content["seconds"]), bool(content["done"]))
        self._known[content["method"], content["digest"]] = record


def evaluate_clicks(
    methods: Sequence[ClickMethod],
    things: Sequence[Thing],
    *,
    most: int = MOST_CLICKS,
    counts: Sequence[int] = COUNTS,
    workers: int = 1,
    journal: ClickJournal | None = None,
    on_thing: Callable[[int, int], None] | None = None,
) -> ClickReport:
    """Click on all things with every method and score the answers, at the images' own size.

    Args:
        methods: Those with examples are asked only about things that have one.
        things: Of one or several sets; those whose image does not show them are left out, and counted.
        most: Clicks on a thing at most. It ends earlier when an IoU of .9 is reached, but not before the last of
            `counts`.
        counts: Clicks after which the mean IoU is told.
        workers: Threads that each click on a thing; what is reported does not depend on them.
        journal: What it knows is not measured again, and it gets what is new.
        on_thing: Called with the number of things that are done, and of all.

    Raises:
        ValueError: There is nothing to ask or nobody to answer, names are not distinct, or an answer has not the
            image's size.
    """
    _check(methods, things, most, counts)
    records: dict[tuple[str, str], Record] = {}
    shown: list[Thing] = []
    pool = ThreadPoolExecutor(workers)
    try:
        made = pool.map(lambda thing: _measured(methods, thing, most, max(counts), journal), things)
        for number, (thing, new) in enumerate(zip(things, made, strict=True), start=1):
            for method, record in new:
                records[method.name, thing.digest()] = record
                if journal is not None and journal.get(method, thing) is None:
                    journal.add(method, thing, record)
            if new:
                shown.append(thing)
            if on_thing is not None:
                on_thing(number, len(things))
    finally:
        pool.shutdown(cancel_futures=True)
    if not shown:
        raise ValueError("expected images that show what is to be clicked on, got none")
    measured = {
        (method.name, method.baseline): [
            (thing.set, Curve(known.ious, (), done=known.done), known.seconds)
            for thing in shown
            if (known := records.get((method.name, thing.digest()))) is not None
        ]
        for method in methods
    }
    return score(measured, qualities=QUALITIES, counts=tuple(counts), most=most, left_out=len(things) - len(shown))


def _check(methods: Sequence[ClickMethod], things: Sequence[Thing], most: int, counts: Sequence[int]) -> None:
    if not methods or not things:
        raise ValueError("expected at least one method and one thing to click on, got none")
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise ValueError(f"expected each method once, got {', '.join(names)}")
    if most < 1 or not counts or not all(1 <= count <= most for count in counts):
        raise ValueError(f"expected IoU after 1 to {most} clicks, got {', '.join(map(str, counts)) or 'none'}")
    if not any(thing.has_example for thing in things) and all(method.uses_example for method in methods):
        raise ValueError("expected a method that needs no example, as the data has none; got only others")


def _measured(
    methods: Sequence[ClickMethod], thing: Thing, most: int, least: int, journal: ClickJournal | None
) -> list[tuple[ClickMethod, Record]]:
    """Ask every method that can be asked about a thing; nothing where the image does not show it."""
    asked = [method for method in methods if thing.has_example or not method.uses_example]
    known = {method.name: None if journal is None else journal.get(method, thing) for method in asked}
    truth = thing.read() if any(record is None for record in known.values()) else None
    found = []
    for method in asked:
        record = known[method.name]
        if record is None and truth is not None:
            record = _click(method, thing, truth, most, least)
        if record is not None:
            found.append((method, record))
    return found


def _click(method: ClickMethod, thing: Thing, truth: Truth, most: int, least: int) -> Record:
    start = time.perf_counter()
    answers = method.start(truth.image, truth.example if method.uses_example else None)
    answered = 0

    def answer(clicks: Sequence[Click]) -> Flags:
        nonlocal answered
        answered += 1
        found = answers(clicks)
        if found.shape != truth.truth.shape or found.dtype.kind != "b":
            raise ValueError(
                f"{thing.name}: expected answers of bool {truth.truth.shape}, got {found.dtype} {found.shape}"
            )
        return found

    first = answer([]) if method.uses_example else None
    curve = simulate(answer, truth.truth, truth.ignored, first=first, most=most, enough=max(QUALITIES), least=least)
    seconds = (time.perf_counter() - start) / max(1, answered)
    return Record(curve.ious, seconds, curve.done)
