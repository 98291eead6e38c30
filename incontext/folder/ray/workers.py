"""What runs in the processes of `on_ray.RayEngine`: a local engine for one block of queries after another.

Pictures are read and results are written where the network runs, so that only names and reports travel. Refuses to
know how Ray distributes blocks (job.py) and what becomes of the reports (job.py).
"""

from __future__ import annotations

import os
import pickle
import socket
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from incontext.folder.identity import identify
from incontext.folder.outputs import Outputs
from incontext.folder.plan import Query
from incontext.folder.report import FileReport
from incontext.folder.run import LocalEngine
from incontext.folder.work import UnwritableError
from incontext.version import __version__

if TYPE_CHECKING:  # the engine brings torch
    from incontext.canvas.context import Ensemble
    from incontext.canvas.windows import Tiles
    from incontext.engine import BatchSize, Context, DtypeName, PreparedContext, Segmenter
    from incontext.options import Task

MOST_DEATHS: Final = 1  # of workers that had nothing but one picture in hand, before that picture is given up


@dataclass(frozen=True)
class PackedQuery:
    """A numbered query on its way. shown: what a report calls it; query: itself, pickled."""

    number: int
    shown: str
    query: bytes

    @classmethod
    def pack(cls, number: int, query: Query) -> Self:
        """The inverse of :meth:`unpack`."""
        return cls(number, str(query.place), pickle.dumps(query))

    def unpack(self) -> Query:
        """The query itself."""
        query: Query = pickle.loads(self.query)
        return query


Block: TypeAlias = Sequence[PackedQuery]


@dataclass(frozen=True, eq=False)
class Recipe:
    """What every worker makes its engine of. The fields are those of `engine.load`, `Segmenter.prepare` and
    `run.LocalEngine`."""

    context: Context
    outputs: Outputs
    weights: str = "default"
    device: str = "auto"
    dtype: DtypeName = "auto"
    min_presence: float | None = None
    ensemble: Ensemble = "auto"
    task: Task = "instance"
    side: int | None = None
    tiles: Tiles = None
    refine: bool = False
    batch_size: BatchSize = "auto"

    def prepare(self) -> tuple[Segmenter, PreparedContext]:
        """Load the weights and prepare the context. What is raised is what those raise."""
        from incontext.engine import load

        segmenter = load(self.weights, device=self.device, dtype=self.dtype, min_presence=self.min_presence)
        return segmenter, segmenter.prepare(
            self.context,
            ensemble=self.ensemble,
            task=self.task,
            side=self.side,
            tiles=self.tiles,
            refine=self.refine,
        )

    def engine(self) -> LocalEngine:
        """What works on blocks."""
        return LocalEngine(*self.prepare(), self.outputs, batch_size=self.batch_size)


@dataclass(frozen=True)
class Share:
    """What a worker has of its machine. home: the folder that relative paths start from."""

    threads: int
    gpus: int
    home: str

    def take(self) -> None:
        """Let this thread and those that it starts use no more than that."""
        import torch

        torch.set_num_threads(self.threads)
        if Path(self.home).is_dir():
            os.chdir(self.home)


@dataclass(frozen=True)
class Introduction:
    """What one worker says of all: `Segmenter.describe`, `identity.identify`, and its version of this package."""

    described: dict[str, object]
    identity: dict[str, object]
    version: str


def introduce(recipe: Recipe, share: Share) -> Introduction:
    """Try the recipe where a worker would. What is raised is what `Recipe.prepare` raises."""
    share.take()
    segmenter, prepared = recipe.prepare()
    identity = identify(segmenter, prepared, recipe.context, recipe.outputs)
    return Introduction(segmenter.describe(), identity, __version__)


@dataclass(frozen=True)
class Made:
    """What a worker made of a block. waited: seconds that its network waited for files. trouble: why it cannot do any
    more of them, if so."""

    files: tuple[tuple[int, FileReport], ...]
    waited: float
    trouble: Exception | None


class Ledger:
    """What has been begun and not ended, and how often: whoever begins a thing again does so because a worker died."""

    def __init__(self) -> None:
        self._begun: Counter[Hashable] = Counter()
        self._deaths = 0

    def begin(self, thing: Hashable) -> int:
        """How often it has been begun by now."""
        self._begun[thing] += 1
        return self._begun[thing]

    def end(self, thing: Hashable) -> None:
        """It is done, and will not be begun again."""
        self._begun.pop(thing, None)

    def died(self) -> int:
        """Another worker has died. Returns how many by now."""
        self._deaths += 1
        return self._deaths

    def deaths(self) -> int:
        """How many workers have died with a block in hand."""
        return self._deaths


class Worker:
    """An engine in a process of its own. Called with pickled blocks, it returns what it made of each.

    recipe: a reference to the :class:`Recipe`. ledger: the handle of a :class:`Ledger`. witness: what is in the output
    folder, if that is one and not an address: whoever does not see it writes elsewhere.
    """

    def __init__(self, recipe: Any, share: Share, ledger: Any, witness: Path | None) -> None:
        import ray

        self._share, self._ledger = share, ledger
        self._engine: LocalEngine | None = None
        self._trouble: Exception | None = None  # raised here, it would bring the whole traceback of Ray with it
        try:
            share.take()
            if witness is not None and not witness.exists():
                raise ValueError(
                    f"{witness}: expected to see this on every machine, but {socket.gethostname()} does not; choose an "
                    "output folder on storage that all machines share, or an address"
                )
            known: Recipe = ray.get(recipe)
            self._engine = known.engine()
        except (ValueError, OSError, ImportError) as error:
            self._trouble = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        self._share.take()  # Ray calls in another thread than the one that made this
        return {"made": [pickle.dumps(self._work(pickle.loads(block))) for block in batch["block"]]}

    def _work(self, block: Block) -> Made:
        if self._engine is None:
            return Made((), 0.0, self._trouble)
        files: list[tuple[int, FileReport]] = []
        waited, trouble, name = self._engine.waited, None, ("block", block[0].number)
        try:
            if self._tell("begin", name) == 1:
                self._run(self._engine, block, files)
            else:
                self._tell("died")
                for each in block:
                    self._run_alone(self._engine, each, files)
            self._tell("end", name)
        except UnwritableError as error:
            trouble = error
        return Made(tuple(files), self._engine.waited - waited, trouble)

    def _run(self, engine: LocalEngine, block: Block, files: list[tuple[int, FileReport]]) -> None:
        queries = ((each.number, each.unpack()) for each in block)
        engine.run(queries, lambda number, file: files.append((number, file)))

    def _run_alone(self, engine: LocalEngine, packed: PackedQuery, files: list[tuple[int, FileReport]]) -> None:
        """A picture of a block that a worker died of. If it was this one, that will show."""
        begun = self._tell("begin", packed.number)
        if begun <= MOST_DEATHS:
            self._run(engine, [packed], files)
        else:
            why = (
                f"{packed.shown}: {begun} workers died of it, so it was given up; it may need more memory than there "
                "is, or break the library that reads it"
            )
            files.append((packed.number, FileReport(packed.shown, error=why)))
        self._tell("end", packed.number)

    def _tell(self, what: str, *arguments: Hashable) -> Any:
        import ray

        return ray.get(getattr(self._ledger, what).remote(*arguments))
