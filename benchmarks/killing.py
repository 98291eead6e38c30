"""Runs of a folder job that are killed at random moments, and whether anything was lost by it."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from incontext.folder import JOURNAL_NAME, REPORT_NAME, FileReport
from incontext.images.read import read_image

TIMES = ("time",)  # in report.json: what is not the same in each run
FILE_TIMES = ("seconds",)


def killed(work: Callable[[], object], kills: int, longest: float, chance: random.Random) -> Iterator[bool]:
    """Run `work` in a process of its own and kill it (SIGKILL) after a random time of up to `longest` seconds, `kills`
    times. Gives after each whether it was killed, or had come to its end before. This process must not have threads
    that hold locks."""
    for _ in range(kills):
        process = begun(work)
        time.sleep(chance.uniform(0, longest))
        os.kill(process, signal.SIGKILL)
        yield ended(process)


def finished(work: Callable[[], object]) -> None:
    """Run `work` in a process of its own to its end."""
    ended(begun(work))


def begun(work: Callable[[], object]) -> int:
    """The number of a new process that does `work`."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return process


def ended(process: int) -> bool:
    """Wait for a process. Whether it was killed.

    Raises RuntimeError where it ended by an error of its own.
    """
    _, status = os.waitpid(process, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("expected the run to be killed or to end well, got an error of its own")
    return os.WIFSIGNALED(status)


def broken_promises(out: Path) -> list[str]:
    """What must not be after a kill: an image that is not whole, a mask without what belongs to it being there, a
    line of the journal whose mask is missing."""
    problems = []
    for path in out.rglob("*"):
        if path.suffix in {".png", ".jpg"} and not path.name.startswith("."):
            try:
                read_image(path)
            except ValueError as error:
                problems.append(str(error))
    journal = out / JOURNAL_NAME
    lines = journal.read_bytes().splitlines(keepends=True)[1:] if journal.exists() else []
    listed = map(FileReport.from_line, (line for line in lines if line.endswith(b"\n")))
    masks = [file.mask for file in listed if file.mask is not None]
    problems += [f"{mask}: in the journal, but not there" for mask in masks if not (out / mask).exists()]
    return problems


def contents(out: Path) -> dict[str, Any]:
    """Every file of an output folder as its bytes, but for the report: what does not depend on time of it."""
    found: dict[str, Any] = {
        path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }
    report = json.loads(found[REPORT_NAME])
    for name in TIMES:
        del report[name]
    for file in report["files"]:
        for name in FILE_TIMES:
            del file[name]
    report["segmenter"].pop("compile_seconds", None)
    found[REPORT_NAME] = report
    return found
