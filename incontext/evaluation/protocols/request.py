"""What is wanted of a benchmark, and what it will take. Refuses to know how it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import psutil

from incontext.evaluation.protocols.benchmarks import Benchmark
from incontext.options import Ensemble, Policy, Task

Tell: TypeAlias = Callable[[str, int, int], None]
"""tell(unit, done, total): how far a run is."""


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Fields that a benchmark has no use for are None or empty, see :meth:`check`.

    Attributes:
        data: The folder.
        shots, folds: None is what is published.
        limit: At most so many episodes of a fold, images, or frames of a video.
        episodes: A list to ask in place of drawing one.
        ensembles: Of several prompts.
        task: The type token.
        side: Pixels along a side of what the network sees, None: as trained.
        scored_at: Pixels along a side at which few-shot masks are compared, None: the queries' own size.
        split, all_frames: Of videos, see `read_videos`.
        memory, policy: Of the tracker.
        prompt_tensors: Prompt tensors in place of examples.
        smallest: Pixels of an object in a scene.
    """

    benchmark: Benchmark
    data: Path
    shots: tuple[int, ...] | None = None
    folds: tuple[int, ...] | None = None
    limit: int | None = None
    episodes: Path | None = None
    ensembles: tuple[Ensemble, ...] = ("feature",)
    task: Task = "instance"
    side: int | None = None
    scored_at: int | None = None
    split: str | None = None
    all_frames: bool = False
    memory: int | None = None
    policy: Policy | None = None
    prompt_tensors: tuple[Path, ...] = ()
    smallest: int | None = None

    def check(self) -> None:
        """Refuse what the benchmark has not.

        Raises:
            ValueError: Something of the kind is wanted.
        """
        kind = self.benchmark.kind
        kinds = {
            "--shots": (self.shots is not None, ("few-shot", "scenes")),
            "--folds": (self.folds is not None, ("few-shot",)),
            "--ensembles": (self.ensembles != ("feature",), ("few-shot", "scenes")),
            "--scored-at": (self.scored_at is not None, ("few-shot",)),
            "--split": (self.split is not None, ("video",)),
            "--all-frames": (self.all_frames, ("video",)),
            "--memory": (self.memory is not None, ("video",)),
            "--policy": (self.policy is not None, ("video",)),
            "--prompt-tensor": (bool(self.prompt_tensors), ("scenes",)),
            "--smallest": (self.smallest is not None, ("scenes",)),
        }
        name = self.benchmark.name
        for option, (is_given, known) in kinds.items():
            if is_given and kind not in known:
                raise ValueError(f"expected no {option} with {name}, which has no use for it; leave it out")
        if self.folds is not None and (wrong := set(self.folds) - set(self.benchmark.folds)):
            there = ", ".join(map(str, self.benchmark.folds)) or "no folds"
            raise ValueError(f"expected --folds out of {there} with {name}, got {min(wrong)}")
        if self.smallest is not None and name != "coco-panoptic":
            raise ValueError(f"expected --smallest with coco-panoptic, which alone has objects; got it with {name}")
        if self.prompt_tensors and self.shots is not None:
            raise ValueError(
                "expected --prompt-tensor or --shots, got both: a prompt tensor stands in place of examples"
            )
        if kind == "scenes" and (len(self.shots or (1,)) > 1 or len(self.ensembles) > 1):
            raise ValueError(f"expected one number of shots and one ensemble with {name}; run it once for each")


@dataclass(frozen=True)
class Estimate:
    """What a run will take, measured on a few calls with noise.

    Units are episodes, frames or images; it tells how many, seconds for each, bytes of memory of this process and of
    the
    network on its device, and bytes of files that are written.
    """

    unit: str
    count: int
    seconds_each: float
    memory: int
    disk: int

    @property
    def seconds(self) -> float:
        """For all of them."""
        return self.count * self.seconds_each

    def sentence(self) -> str:
        """Write it for people."""
        return (
            f"{self.count} {self.unit}, about {timedelta(seconds=round(self.seconds))} at {self.seconds_each:.3g} s "
            f"each, {self.memory / 1e9:.1f} GB of memory, {self.disk / 1e9:.2f} GB of files (estimated)"
        )


def memory_with(network: int, cached: int) -> int:
    """Add up bytes: of this process by now, of the network's tensors, of the images that are kept."""
    return int(psutil.Process().memory_info().rss) + network + cached
