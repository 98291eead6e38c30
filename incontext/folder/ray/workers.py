"""What runs in the processes of `job.RayRunner`: a local runner for one block of queries after another.

Images are read and results are written where the network runs, so that only names and reports travel. Refuses to
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

from incontext.folder.identity import identify, of_outputs
from incontext.folder.outputs import Outputs
from incontext.folder.plan import Query
from incontext.folder.prompted import PromptedRunner, refuse_context
from incontext.folder.report import FileReport
from incontext.folder.run import LocalRunner
from incontext.folder.work import UnwritableError
from incontext.options import LOADING, BatchSize, LoadOptions, SegmentOptions
from incontext.prompting import Prompting
from incontext.version import __version__

if TYPE_CHECKING:  # the engine brings torch
    from incontext.engine import Context

MOST_DEATHS: Final = 1  # of workers that had nothing but one image in hand, before that image is given up


@dataclass(frozen=True)
class PackedQuery:
    """A numbered query on its way.

    Attributes:
        shown: What a report calls it.
        query: Itself, pickled.
    """

    number: int
    shown: str
    query: bytes

    @classmethod
    def pack(cls, number: int, query: Query) -> Self:
        """Pack a query into plain columns: the inverse of :meth:`unpack`."""
        return cls(number, str(query.place), pickle.dumps(query))

    def unpack(self) -> Query:
        """Unpack the query."""
        query: Query = pickle.loads(self.query)
        return query


Block: TypeAlias = Sequence[PackedQuery]


@dataclass(frozen=True)
class RayNetworks:
    """Networks of many processes, and the Ray that they run on.

    Attributes:
        loading: What each process loads; a file of weights must be on storage that all machines share, and the device
            is "auto", "cpu" or "cuda".
        workers: How many; None is one for each GPU, or where there is none, for two CPU cores.
        prompting: Who marks every image in place of the network, and for what; None: the network does.
        address: Of a cluster that this machine belongs to, "auto" or HOST:PORT; None is a Ray on this machine alone,
            which others cannot reach.
    """

    loading: LoadOptions = LOADING
    workers: int | None = None
    address: str | None = None
    prompting: Prompting | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"expected at least 1 worker, got {self.workers}")


@dataclass(frozen=True, eq=False)
class Equipment:
    """What works on blocks, what it says of itself, and `identity.identify`."""

    runner: LocalRunner | PromptedRunner
    described: dict[str, object]
    identity: dict[str, object]


@dataclass(frozen=True, eq=False)
class Setup:
    """What every worker makes its runner of."""

    networks: RayNetworks
    context: Context | None
    outputs: Outputs
    options: SegmentOptions
    batch_size: BatchSize = "auto"

    def equip(self) -> Equipment:
        """Load the weights and prepare the context, or open the prompter. What is raised is what those raise."""
        if (prompting := self.networks.prompting) is not None:
            refuse_context(self.context)
            prompter = prompting.open(self.networks.loading)
            runner = PromptedRunner(prompter, prompting.text, self.outputs)
            return Equipment(runner, prompter.describe(), of_outputs(self.outputs))
        from incontext.engine import load_with

        segmenter = load_with(self.networks.loading)
        prepared = segmenter.prepare(self.context, **self.options.keywords())
        identity = identify(segmenter, prepared, self.context, self.outputs)
        network = LocalRunner(segmenter, prepared, self.outputs, batch_size=self.batch_size)
        return Equipment(network, segmenter.describe(), identity)


@dataclass(frozen=True)
class Share:
    """What a worker has of its machine.

    Attributes:
        home: The folder that relative paths start from.
    """

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


def introduce(setup: Setup, share: Share) -> Introduction:
    """Try the setup where a worker would. What is raised is what `Setup.equip` raises."""
    share.take()
    equipped = setup.equip()
    return Introduction(equipped.described, equipped.identity, __version__)


@dataclass(frozen=True)
class Made:
    """What a worker made of a block.

    Attributes:
        waited: Seconds that its network waited for files.
        trouble: Why it cannot do any more of them, if so.
    """

    files: tuple[tuple[int, FileReport], ...]
    waited: float
    trouble: Exception | None


class Ledger:
    """What has been begun and not ended, and how often: whoever begins a thing again does so because a worker died."""

    def __init__(self) -> None:
        self._begun: Counter[Hashable] = Counter()
        self._deaths = 0

    def begin(self, thing: Hashable) -> int:
        """Count how often it has been begun by now."""
        self._begun[thing] += 1
        return self._begun[thing]

    def end(self, thing: Hashable) -> None:
        """Note that a thing is done, and will not be begun again."""
        self._begun.pop(thing, None)

    def died(self) -> int:
        """Note that another worker has died, and count how many by now."""
        self._deaths += 1
        return self._deaths

    def deaths(self) -> int:
        """Count how many workers have died with a block in hand."""
        return self._deaths


class Worker:
    """A runner in a process of its own.

    Called with pickled blocks, it returns what it made of each.

    Args:
        setup: A reference to the :class:`Setup`.
        ledger: The handle of a :class:`Ledger`.
        witness: What is in the output folder, if that is one and not an address: whoever does not see it writes
            elsewhere.
    """

    def __init__(self, setup: Any, share: Share, ledger: Any, witness: Path | None) -> None:
        import ray

        self._share, self._ledger = share, ledger
        self._runner: LocalRunner | PromptedRunner | None = None
        self._trouble: Exception | None = None  # raised here, it would bring the whole traceback of Ray with it
        try:
            share.take()
            if witness is not None and not witness.exists():
                raise ValueError(
                    f"{witness}: expected to see this on every machine, but {socket.gethostname()} does not; choose an "
                    "output folder on storage that all machines share, or an address"
                )
            known: Setup = ray.get(setup)
            self._runner = known.equip().runner
        except (ValueError, OSError, ImportError) as error:
            self._trouble = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Segment a block of packed queries, and return the line of each."""
        self._share.take()  # Ray calls in another thread than the one that made this
        return {"made": [pickle.dumps(self._work(pickle.loads(block))) for block in batch["block"]]}

    def _work(self, block: Block) -> Made:
        if self._runner is None:
            return Made((), 0.0, self._trouble)
        files: list[tuple[int, FileReport]] = []
        waited, trouble, name = self._runner.waited, None, ("block", block[0].number)
        try:
            if self._tell("begin", name) == 1:
                self._run(self._runner, block, files)
            else:
                self._tell("died")
                for each in block:
                    self._run_alone(self._runner, each, files)
            self._tell("end", name)
        except UnwritableError as error:
            trouble = error
        return Made(tuple(files), self._runner.waited - waited, trouble)

    def _run(self, runner: LocalRunner | PromptedRunner, block: Block, files: list[tuple[int, FileReport]]) -> None:
        queries = ((each.number, each.unpack()) for each in block)
        runner.run(queries, lambda number, file: files.append((number, file)))

    def _run_alone(
        self, runner: LocalRunner | PromptedRunner, packed: PackedQuery, files: list[tuple[int, FileReport]]
    ) -> None:
        """Segment an image of a block that a worker died of. If it was this one, that will show."""
        begun = self._tell("begin", packed.number)
        if begun <= MOST_DEATHS:
            self._run(runner, [packed], files)
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
