"""How many episodes an evaluation works on at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from incontext.engine import Segmenter

_MOST_WORKERS = 8


@contextmanager
def shared_processors(segmenter: Segmenter) -> Iterator[int]:
    """Count how many episodes to work on at a time.

    On a CPU each has a thread of PyTorch's to itself, on many cores some: threads that wait for each other lose far
    more to whatever else the machine does.
    """
    threads = torch.get_num_threads()
    if segmenter.device.type != "cpu":
        yield min(_MOST_WORKERS, max(2, (os.cpu_count() or 2) // 2))  # some read images while others compute
        return
    workers = min(threads, _MOST_WORKERS)
    torch.set_num_threads(max(1, threads // workers))
    try:
        yield workers
    finally:
        torch.set_num_threads(threads)
