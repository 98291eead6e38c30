"""How far a command is, how fast, and how long still: on stderr, for people. Refuses to know what is being done."""

import time
import unicodedata
from datetime import timedelta
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

SECONDS_BETWEEN_LINES = 5.0  # of progress, where stderr is no terminal

_TRICKS: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})  # categories: controls, halves of characters, ends of lines
_TURNS: Final = frozenset(
    "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)  # of the direction of writing


def printable(text: str) -> str:
    """Make text fit a line of a terminal: names of files can hold what would move its cursor or turn its letters."""
    return "".join(
        ascii(each)[1:-1] if unicodedata.category(each) in _TRICKS or each in _TURNS else each for each in text
    )


class ProgressLine:
    """How far, how fast and how long still, on stderr: a bar in a terminal, a line every few seconds elsewhere."""

    def __init__(self, unit: str, total: int | None) -> None:
        """total: None where it is not known how many there will be."""
        self._unit = unit
        self._total = total
        self._console = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
        text = TextColumn("{task.description}", markup=False)
        self._bar = Progress(
            BarColumn(), text, console=self._console, disable=not self._console.is_terminal, transient=True
        )
        self._row = self._bar.add_task("", total=total)
        self._first: tuple[float, int] | None = None  # since when the speed counts, and how much was done by then
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def say(self, sentence: str) -> None:
        """Print a line of its own, above the bar."""
        self._console.print(printable(sentence))

    def update(self, done: int, note: str = "", *, total: int | None = None) -> None:
        """Show that so much is done by now.

        Args:
            note: What else to show.
            total: Where it was not known before.
        """
        self._total = self._total if total is None else total
        now = time.monotonic()
        if self._first is None or not done:  # what comes before the first thing is done says nothing of its speed
            self._first = now, done
        parts = [f"{done} {self._unit}" if self._total is None else f"{done}/{self._total} {self._unit}"]
        since, before = self._first
        if done > before and now > since:
            speed = (done - before) / (now - since)
            parts.append(f"{speed:.1f} {self._unit}/s")
            if self._total is not None:
                parts.append(f"{timedelta(seconds=round(max(0, self._total - done) / speed))} left")
        line = ", ".join([*parts, note] if note else parts)
        self._bar.update(self._row, completed=done, total=self._total, description=line)
        if not self._console.is_terminal and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.say(line)
