"""Folder jobs on Ray: the networks of many processes, on this machine or on a cluster.

The queries travel in blocks through Ray Data to a pool of workers (workers.py). Ray replaces a worker that dies and
gives its block to another; a ledger counts how often, so that an image that kills every worker is reported and not
tried for ever. Refuses to know what is done with a block (workers.py)
and what becomes of the reports (job.py).
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from incontext.folder.job import run_job, settings_of
from incontext.folder.journal import JOURNAL_NAME
from incontext.folder.outputs import Outputs
from incontext.folder.plan import FolderJob, Query
from incontext.folder.ray.workers import (
    Introduction,
    Ledger,
    Made,
    PackedQuery,
    RayNetworks,
    Setup,
    Share,
    Worker,
    introduce,
)
from incontext.folder.report import FileReport, FolderReport
from incontext.folder.run import Finish
from incontext.folder.watch import Arrived
from incontext.options import BatchSize, SegmentKeywords, SegmentOptions, takes_options
from incontext.version import __version__

if TYPE_CHECKING:  # the engine brings torch
    from incontext.engine import Context

IMAGES_FOR_THREAD: Final = 4  # in a block: a worker holds two blocks, which are lost together when it dies
IMAGES_ON_GPU: Final = 128
CORES_FOR_WORKER: Final = 2  # each is a network of its own in one process, which holds the weights once
BLOCKS_AT_ONCE: Final = 10_000  # that Ray Data is given, so that memory does not grow with the number of images

_SECONDS_TO_ANSWER = 5.0  # that a cluster has to accept a connection
_SECONDS_TO_BEGIN = 30.0  # after which the user is told that there is no room for a worker yet
_OBJECT_STORE = 256_000_000  # bytes of a Ray of our own: names and reports are small

# Ray reads them when it is imported. Who sets them otherwise is obeyed.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # else it tells on stdout of each worker that dies
}
_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the one way to make Ray bind to 127.0.0.1, on Linux as well
    "RAY_worker_niceness": "0",  # as a local runner would run
}
_SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # of HTTP/2 (RFC 9113): both sides begin with one of type 4
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS_FRAME


class RayWarning(UserWarning):
    """Something about the workers that the user should know of; the job goes on."""


@takes_options
def segment_on_ray(
    networks: RayNetworks,
    job: FolderJob,
    context: Context | None,
    *,
    batch_size: BatchSize = "auto",
    resume: bool = True,
    arrivals: Iterable[Arrived] | None = None,
    on_file: Callable[[FileReport], None] | None = None,
    on_resume: Callable[[int], None] | None = None,
    **options: Unpack[SegmentKeywords],
) -> FolderReport:
    """Do `job.segment_folder` by workers on Ray, with the same results, reports, rules for faults, and ways to go on.

    Local images and the output folder must be on storage that all machines share. Arguments but `networks` are
    `segment_folder`'s; a job may begin by one of the two and go on by the other.

    Raises:
        OSError, ValueError: as `segment_folder` and :class:`RayRunner` do.
    """
    chosen = SegmentOptions(**options)
    with RayRunner(Setup(networks, context, job.outputs, chosen, batch_size)) as runner:
        return run_job(
            runner,
            job,
            settings=settings_of(job, context, chosen, batch_size),
            segmenter=runner.described,
            identity=runner.identity,
            resume=resume,
            arrivals=arrivals,
            on_file=on_file,
            on_resume=on_resume,
        )


class RayRunner:
    """Runs queries on Ray.

    A context manager; where this process has no Ray yet, it starts one and ends it.

    Entering it has one worker try the setup: ``described`` is then its `Segmenter.describe`, and ``identity`` what
    `identity.identify` says of the job.

    Raises on entering:
        ValueError: ray is missing, the cluster does not answer or has too little room, or the workers cannot use the
            weights, the context or an option.
        FileNotFoundError: the workers do not find the weights.
        OSError: Ray gave up.
    """

    def __init__(self, setup: Setup) -> None:
        self.described: dict[str, object] = {}
        self.identity: dict[str, object] = {}
        self.workers = 1
        self._setup, self._networks = setup, setup.networks
        self._share = Share(1, 0, str(Path.cwd()))
        self._waited = 0.0  # seconds, summed over the workers
        self._is_ours = False  # whether this runner started Ray
        self._deaths = 0  # of workers, that the user knows of
        self._unswept: dict[PurePosixPath, PurePosixPath] = {}  # folders in which dead workers may have left something

    @property
    def waited(self) -> float:
        """Seconds that the networks waited for files so far, on average."""
        return self._waited / self.workers

    def __enter__(self) -> Self:
        ray = _import_ray(alone=self._networks.address is None)
        if not ray.is_initialized():
            self._is_ours = True
            _begin(self._networks.address, self._networks.workers)
        try:
            with _in_a_sentence():
                self.workers, self._share = share_out(
                    ray.cluster_resources(), self._networks.workers, self._networks.loading.device
                )
                self._setup_ref = ray.put(self._setup)
                self._ledger = ray.remote(Ledger).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
                self._introduce()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, queries: Iterable[tuple[int, Query]], finish: Finish) -> None:
        """Segment the queries and write their results.

        What stops it, Ctrl-C included, loses what the workers have in hand: those images are not finished.

        Args:
            finish: Called in this thread, whichever block is done first.

        Raises:
            UnwritableError: nothing more can be written.
            ValueError: the workers of some machine cannot use the setup.
            OSError: Ray gave up.
        """
        most = IMAGES_ON_GPU if self._share.gpus else IMAGES_FOR_THREAD * self._share.threads
        rest = iter(queries)
        with _in_a_sentence():
            while part := list(islice(rest, most * BLOCKS_AT_ONCE)):
                size = min(most, max(1, len(part) // (2 * self.workers)))  # few images are for all workers, too
                self._run([part[first : first + size] for first in range(0, len(part), size)], finish)

    def _run(self, parts: list[list[tuple[int, Query]]], finish: Finish) -> None:
        missing = {number for part in parts for number, _ in part}
        for part in parts:
            self._unswept.update((query.name.parent, query.name) for _, query in part)
        with closing(self._results(parts)) as results:
            for made in results:
                self._waited += made.waited
                for number, file in made.files:
                    missing.remove(number)
                    finish(number, file)
                if made.trouble is not None:
                    raise made.trouble
        if missing:
            raise OSError(f"expected a report for every image from Ray, {len(missing)} are missing")
        if not self._tell_of_deaths():
            self._unswept.clear()

    def _results(self, parts: list[list[tuple[int, Query]]]) -> Generator[Made]:
        import ray.data

        rows = [{"block": pickle.dumps([PackedQuery.pack(*each) for each in part])} for part in parts]
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker,
            fn_constructor_args=(self._setup_ref, self._share, self._ledger, _witness(self._setup.outputs)),
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(rows))),
            num_cpus=self._share.threads,
            num_gpus=self._share.gpus,
            batch_size=None,
            batch_format="numpy",
        )
        for batch in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            yield from map(pickle.loads, batch["made"])

    def _introduce(self) -> None:
        """Have one worker try the setup, before anything is written."""
        import ray

        share = self._share
        task = ray.remote(introduce).options(num_cpus=share.threads, num_gpus=share.gpus, max_retries=0)
        answer = task.remote(self._setup_ref, share)
        if not ray.wait([answer], timeout=_SECONDS_TO_BEGIN)[0]:
            needs = "a free GPU" if share.gpus else f"free CPU cores: {share.threads}"
            warnings.warn(f"still waiting for the first worker, which needs {needs}", RayWarning, stacklevel=3)
        said: Introduction = ray.get(answer)
        if said.version != __version__:
            raise ValueError(
                f"expected incontext {__version__} on every machine of the cluster, as here, got {said.version}; "
                "install the same version on all of them"
            )
        self.described = {**said.described, "workers": self.workers}
        self.identity = said.identity

    def _tell_of_deaths(self) -> bool:
        """Tell whether workers have died since the last time."""
        import ray

        before, self._deaths = self._deaths, ray.get(self._ledger.deaths.remote())
        if died := self._deaths - before:
            what = "a worker" if died == 1 else f"{died} workers"
            warnings.warn(f"{what} died and had to be replaced; nothing was lost", RayWarning, stacklevel=4)
        return died > 0

    def _end(self) -> None:
        import ray

        if self._is_ours:
            ray.shutdown()
        else:
            with suppress(AttributeError):
                ray.kill(self._ledger)
        self._setup.outputs.sweep(self._unswept.values())
        self._unswept.clear()


def _witness(outputs: Outputs) -> Path | None:
    """Put something into the output folder that only those see who write to the same one."""
    if outputs.folder is None:
        return None
    journal = outputs.out / JOURNAL_NAME
    return (journal if journal.exists() else outputs.out).absolute()


def share_out(resources: Mapping[str, float], asked: int | None, device: str) -> tuple[int, Share]:
    """Decide how many workers there are, and what each has.

    Args:
        resources: The "CPU" and "GPU" of the cluster.
        asked, device: What the user wants. ValueError: there is no room for that.
    """
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if device not in {"auto", "cpu", "cuda"}:
        raise ValueError(
            f"expected --device auto, cpu or cuda with --runner ray, which hands out the GPUs, got {device}"
        )
    if device == "cuda" and not gpus:
        raise ValueError(
            "device 'cuda' was asked for, but Ray knows of no GPU; ask for the CPU, or for another cluster"
        )
    on_gpu = gpus > 0 and device != "cpu"
    most, what = (gpus, "GPUs") if on_gpu else (cpus, "CPU cores")
    workers = asked or (most if on_gpu else max(1, most // CORES_FOR_WORKER))
    if not 1 <= workers <= most:
        raise ValueError(f"expected at most one worker for each of the {most} {what} that Ray has, got {workers}")
    return workers, Share(1 if on_gpu else cpus // workers, int(on_gpu), str(Path.cwd()))


def _import_ray(*, alone: bool) -> Any:
    for name, value in (_SETTINGS | (_ALONE if alone else {})).items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(
            f"expected ray with its data library to be installed ({error}); run: pip install 'incontext[ray]'"
        ) from None
    return ray


def _begin(address: str | None, workers: int | None) -> None:
    """Start Ray on this machine, or join a cluster."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # large images in tiles may take long
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is raised
    if address is not None:
        _refuse_silent(address)
    cores = os.cpu_count() or 1
    try:
        with _hushed():
            ray.init(
                address=address or "local",
                num_cpus=workers if address is None and workers is not None and workers > cores else None,
                object_store_memory=_OBJECT_STORE if address is None else None,
                include_dashboard=False if address is None else None,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
    except Exception as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        if address is None:
            raise ValueError(f"Ray cannot start on this machine: {why}") from error
        raise ValueError(
            f"{address}: cannot join this Ray cluster: {why}; if it asks for a token, set RAY_AUTH_MODE=token and see "
            "`ray get-auth-token`"
        ) from error


def _refuse_silent(address: str) -> None:
    """Refuse an address where nothing answers: Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if "://" in address or not host or not port.isdigit():
        raise ValueError(
            f"expected --address as auto or HOST:PORT of a cluster that this machine belongs to, got {address}; it is "
            "what `ray start --head` prints"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_ANSWER) as stream:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                stream.sendall(_HELLO)
                if stream.recv(len(_SETTINGS_FRAME))[3:4] != _SETTINGS_FRAME[3:4]:
                    raise ConnectionError("what answers is not Ray")
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"{address}: no Ray cluster answers there ({error}); start one with `ray start --head`, and let this "
            "machine join it with `ray start --address`"
        ) from None


@contextmanager
def _hushed() -> Iterator[None]:
    """Leave out what Ray's own processes write to stderr: they say that they were told to say nothing."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    """Raise what a worker raised, or Ray itself, without the traceback of Ray."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)  # None where a worker did not raise but died
        if isinstance(cause, ImportError):
            raise ValueError(
                f"expected incontext and all that it needs on every machine of the cluster ({cause})"
            ) from error
        if isinstance(cause, ValueError | OSError):
            raise cause from None
        raise OSError(f"Ray gave up: {str(cause or error).strip().splitlines()[-1]}") from error
