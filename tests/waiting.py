"""Waiting for conditions, on machines that may be very busy; and clocks that only tests move on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 300.0  # seconds after which a condition will not come true any more


def wait_until(condition: Callable[[], bool], *, pause: float = 0.005) -> None:
    """Wait until a condition is true; fail where it never becomes true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(pause)


class WorkClock:
    """A clock for each thread, which only `work` moves on: what a thread waits for takes it no time."""

    def __init__(self) -> None:
        self._local = threading.local()

    def now(self) -> float:
        """Seconds that this thread has worked."""
        return float(getattr(self._local, "now", 0.0))

    def work(self, seconds: float) -> None:
        """Let this thread work for so many seconds, at once."""
        self._local.now = self.now() + seconds
