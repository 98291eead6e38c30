"""Jobs of visitors in threads of their own, so that a page can go, and another one can follow what goes on.

A page shows the latest of what a job tells; what comes in between, while it is not looking, it does not miss. Refuses
to know what a job does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

NETWORK: Final = threading.Lock()  # held by whoever uses the network: one job after the other
_LOOKS: Final = 0.1  # seconds from one look at a job to the next


class Work:
    """A job that tells how it goes: tuples, one value for each place on the page.

    Args:
        as_it_was: The value of a place that stays as it is.
    """

    def __init__(self, as_it_was: dict[str, Any]) -> None:
        self._as_it_was = as_it_was
        self._lock = threading.Lock()
        self._told: tuple[Any, ...] | None = None
        self._version = 0
        self._error: BaseException | None = None
        self._done = threading.Event()

    @property
    def is_done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._done.is_set()

    def start(
        self, steps: Callable[[], Iterable[tuple[Any, ...]]], stop: threading.Event, stopped: tuple[Any, ...]
    ) -> None:
        """Do the steps once the network is free.

        Args:
            steps: What the job does and tells.
            stop: Asks it to end; the steps look at it themselves.
            stopped: What is told where that comes before the first step.
        """
        threading.Thread(target=self._run, args=(steps, stop, stopped), name="job", daemon=True).start()

    def wait(self) -> None:
        """Wait for the end."""
        self._done.wait()

    async def follow(self) -> AsyncIterator[tuple[Any, ...]]:
        """Yield the latest of what is told, until the end; what a place shows already is not told again.

        Raises:
            Exception: What ended the job, if it did not end well.
        """
        seen, shown = 0, tuple[Any, ...]()
        while True:
            done = self.is_done  # before what is told is looked at: nothing comes after it
            with self._lock:
                version, told = self._version, self._told
            if version != seen and told is not None:
                before = shown or tuple(self for _ in told)
                yield tuple(self._as_it_was if new is old else new for new, old in zip(told, before, strict=True))
                seen, shown = version, told
            if done:
                break
            await asyncio.sleep(_LOOKS)
        if self._error is not None:
            raise self._error

    def _run(
        self, steps: Callable[[], Iterable[tuple[Any, ...]]], stop: threading.Event, stopped: tuple[Any, ...]
    ) -> None:
        try:
            while not (is_free := NETWORK.acquire(timeout=_LOOKS)) and not stop.is_set():
                pass
            try:
                for values in [stopped] if stop.is_set() else steps():
                    self._tell(values)
            finally:
                if is_free:
                    NETWORK.release()
        except BaseException as error:  # noqa: BLE001  it is told where the job is followed
            self._error = error
        finally:
            self._done.set()

    def _tell(self, values: tuple[Any, ...]) -> None:
        with self._lock:
            before = values if self._told is None else self._told
            pairs = zip(values, before, strict=True)
            self._told = tuple(old if self._stays(new) else new for new, old in pairs)
            self._version += 1

    def _stays(self, value: Any) -> bool:
        return isinstance(value, dict) and value == self._as_it_was
