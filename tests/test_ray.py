"""Folder jobs on Ray: the same masks and reports as in one process, and what becomes of workers that die."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import psutil
import pytest
from bright import PROMPT
from PIL import Image
from tiny_models import save_model as save_tiny
from waiting import PATIENCE

from incontext import cli
from incontext.engine import load
from incontext.folder import (
    FileReport,
    FolderJob,
    FolderReport,
    Outputs,
    UnwritableError,
    open_report,
    plan,
    segment_by_prompter,
    segment_folder,
)
from incontext.folder.ray import job as on_ray
from incontext.folder.ray.job import RayRunner, RayWarning, segment_on_ray, share_out
from incontext.folder.ray.workers import Ledger, Made, PackedQuery, RayNetworks, Setup, Share, Worker
from incontext.images.write import write_mask
from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.options import DEFAULTS, LoadOptions
from incontext.prompting import Prompting
from incontext.types import Palette, Prompt

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore:::ray.data.context"),  # Ray's defaults are deprecated in Ray's own eyes
]
COUNT = 40


class Deadly(PosixPath):
    """A path that ends each process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


class DeadlyOnce(PosixPath):
    """A path that kills the first process that unpickles it, kill -9, and is a plain one from then on."""

    def __reduce__(self) -> tuple[Any, ...]:
        mark = str(self) + ".died"
        plain = f"__import__('pathlib').Path({str(self)!r})"
        die = f"(open({mark!r}, 'x').close(), __import__('os').kill(__import__('os').getpid(), {int(signal.SIGKILL)}))"
        return eval, (f"{plain} if __import__('os').path.exists({mark!r}) else {die}",)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny_config: ModelConfig) -> Path:
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_model(path, SegGPT(tiny_config))
    return path


@pytest.fixture(scope="module")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some in a subfolder, one of them broken."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    (folder / "more").mkdir()
    for number in range(COUNT):
        pixels = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("more" if number % 3 else "") / f"{number:03}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def prompt(image_files: Path) -> Prompt:
    mask = np.zeros((24, 32), np.uint8)
    mask[6:20, 8:24] = 2
    return Prompt(np.asarray(Image.open(image_files / "000.png")), mask)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, image_files: Path, weights: Path, prompt: Prompt) -> Path:
    """What the local engine writes."""
    out = tmp_path_factory.mktemp("local") / "masks"
    segment_folder(load(weights, device="cpu"), plan([image_files], out, confidence=True), prompt)
    return out


@pytest.fixture(scope="module")
def ours() -> Iterator[Any]:
    """A Ray of this process, for all tests; started as an engine starts it."""
    if find_spec("ray") is None:
        pytest.skip("needs ray: pip install 'incontext[ray]'")
    ray = on_ray._import_ray(alone=True)
    on_ray._begin(None, 2)
    yield ray
    ray.shutdown()


def results(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.suffix == ".png"}


def lines(report: FolderReport) -> list[FileReport]:
    return [replace(file, seconds=0.0) for file in report.files]


def one_worker(weights: Path | str) -> RayNetworks:
    return RayNetworks(LoadOptions(str(weights), "cpu"), workers=1)


def setup_of(weights: Path, prompt: Prompt, outputs: Outputs) -> Setup:
    return Setup(one_worker(weights), prompt, outputs, DEFAULTS)


# ------------------------------------------------------------------------------------------------ with Ray


@pytest.mark.usefixtures("ours")
def test_a_prompter_marks_on_ray_as_it_does_here(tmp_path: Path, image_files: Path) -> None:
    pytest.importorskip("transformers", minversion="5", reason="needs the extra prompters")
    prompting = Prompting(str(save_tiny(tmp_path / "clipseg", "clipseg")), ("cat", "dog"), 0.1)
    queries = plan([image_files], tmp_path / "here").queries[:4]
    networks = RayNetworks(LoadOptions(device="cpu"), workers=1, prompting=prompting)
    jobs = [
        replace(plan([image_files], tmp_path / name), queries=queries, marked_by=prompting.describe())
        for name in ("here", "there")
    ]
    with prompting.open(networks.loading) as prompter:
        here = segment_by_prompter(prompter, jobs[0], None)
    there = segment_on_ray(networks, jobs[1], None)
    assert lines(there) == lines(here)
    assert there.job == here.job
    assert results(tmp_path / "there") == results(tmp_path / "here")
    with pytest.raises(ValueError, match="expected no examples where the prompter marks every image"):
        segment_on_ray(networks, jobs[1], Prompt(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8)))


@pytest.mark.usefixtures("ours")
def test_a_killed_worker_is_replaced_and_nothing_is_lost_or_doubled(
    tmp_path: Path, image_files: Path, weights: Path, prompt: Prompt, expected: Path
) -> None:
    job = plan([image_files], tmp_path / "out", confidence=True)
    queries = list(job.queries)
    queries[12] = replace(queries[12], place=DeadlyOnce(queries[12].place))  # in the middle of a block
    job, told = replace(job, queries=tuple(queries)), []
    with pytest.warns(RayWarning, match="a worker died and had to be replaced"):
        report = segment_on_ray(one_worker(weights), job, prompt, on_file=lambda file: told.append(file.query))
    assert Path(f"{queries[12].place}.died").exists()
    assert sorted(told) == sorted(str(query.place) for query in job.queries)
    assert report.finished
    assert report.segmenter["workers"] == 1
    assert report.job == open_report(expected / "report.json").job
    assert lines(report) == lines(open_report(expected / "report.json"))
    assert results(tmp_path / "out") == results(expected)
    assert not list((tmp_path / "out").rglob(".*")), "a killed worker has left something half written"


@pytest.mark.usefixtures("ours")
def test_an_image_that_kills_every_worker_is_given_up_and_its_neighbours_are_not(
    tmp_path: Path, image_files: Path, weights: Path, prompt: Prompt, expected: Path
) -> None:
    job = plan([image_files], tmp_path, confidence=True)
    queries = [
        (number, replace(query, place=Deadly(query.place)) if number == 5 else query)
        for number, query in enumerate(job.queries[:10])
    ]
    made: dict[int, FileReport] = {}
    with (
        RayRunner(setup_of(weights, prompt, job.outputs)) as runner,
        pytest.warns(RayWarning, match="2 workers died and had to be replaced"),
    ):
        runner.run(queries, made.__setitem__)
    assert sorted(made) == list(range(10))
    bad = made.pop(5)
    assert bad.query == str(job.queries[5].place)
    assert "2 workers died of it" in (bad.error or "")
    assert {file.error for file in made.values()} == {None}
    there = results(tmp_path)
    assert len(there) == 2 * 9
    assert there.items() <= results(expected).items()


@pytest.mark.usefixtures("ours")
def test_nothing_but_this_machine_can_reach_a_ray_of_our_own() -> None:
    listening: list[tuple[str, str]] = []
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # workers of the tests before may be ending
            connections = process.net_connections("inet")
            listening += [(process.name(), each.laddr.ip) for each in connections if each.status == "LISTEN"]
    assert len(listening) > 2
    assert [each for each in listening if each[1].removeprefix("::ffff:") != "127.0.0.1"] == []


@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weights": "nowhere.safetensors"}, FileNotFoundError, "there is no file 'nowhere.safetensors'"),
        ({"side": 13}, ValueError, "expected side to be a positive multiple of the patch"),
    ],
)
def test_what_workers_cannot_use_is_said_before_anything_is_written(
    tmp_path: Path, image_files: Path, weights: Path, prompt: Prompt, options: dict[str, Any], error: type, message: str
) -> None:
    job = plan([image_files], tmp_path / "out")
    with pytest.raises(error, match=message):
        segment_on_ray(one_worker(options.pop("weights", weights)), job, prompt, **options)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def worker_on(ours: Any, weights: Path, prompt: Prompt) -> Iterator[Callable[..., Worker]]:
    """Makes workers in this process, which Ray knows nothing of."""
    ledger = ours.remote(Ledger).options(num_cpus=0).remote()

    def make(job: FolderJob, witness: Path) -> Worker:
        setup = ours.put(setup_of(weights, prompt, job.outputs))
        return Worker(setup, Share(1, 0, str(Path.cwd())), ledger, witness)

    yield make
    ours.kill(ledger)


def packed(job: FolderJob) -> dict[str, list[bytes]]:
    return {"block": [pickle.dumps([PackedQuery.pack(*each) for each in enumerate(job.queries[:4])])]}


def test_a_machine_with_another_output_folder_is_named(
    tmp_path: Path, image_files: Path, worker_on: Callable[..., Worker]
) -> None:
    job = plan([image_files], tmp_path / "out")
    worker = worker_on(job, tmp_path / "out" / "report.partial.jsonl")
    made: Made = pickle.loads(worker(packed(job))["made"][0])
    assert made.files == ()
    assert "expected to see this on every machine" in str(made.trouble)
    assert socket.gethostname() in str(made.trouble)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_stops_the_job_and_keeps_what_was_done(
    tmp_path: Path, image_files: Path, worker_on: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, put = plan([image_files], tmp_path), Outputs.put
    masks: list[str] = []

    def full_after_one(outputs: Outputs, name: str, content: bytes) -> None:
        if masks:
            raise OSError(errno.ENOSPC, "no space")
        put(outputs, name, content)
        masks.append(name)

    monkeypatch.setattr(Outputs, "put", full_after_one)
    made: Made = pickle.loads(worker_on(job, tmp_path)(packed(job))["made"][0])
    assert [file.mask for _, file in made.files if file.error is None] == masks
    assert isinstance(made.trouble, UnwritableError)

    runner, finished = RayRunner(Setup(RayNetworks(), PROMPT, job.outputs, DEFAULTS)), []
    monkeypatch.setattr(runner, "_results", lambda _: (each for each in [made]))
    with pytest.raises(UnwritableError, match="make room there"):
        runner.run(list(enumerate(job.queries[:4])), lambda *each: finished.append(each))
    assert tuple(finished) == made.files


@pytest.mark.usefixtures("ours")
def test_what_stops_ray_is_one_sentence(
    tmp_path: Path,
    image_files: Path,
    weights: Path,
    prompt: Prompt,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import ray.exceptions

    def lost(*_: object) -> Iterator[Made]:
        raise ray.exceptions.RaySystemError("the head node is gone")
        yield

    Image.fromarray(prompt.image).save(tmp_path / "image.png")
    write_mask(tmp_path / "mask.png", prompt.mask, Palette.spread([2]).table)
    given = ["--prompt", tmp_path / "image.png", tmp_path / "mask.png", "--weights", weights, "--device", "cpu"]
    command = ["segment", image_files, *given, "-o", tmp_path / "out", "--runner", "ray", "--workers", "1"]
    for results, sentence in (
        (lost, "Ray gave up: System error: the head node is gone"),
        (lambda *_: (each for each in ()), f"expected a report for every image from Ray, {COUNT + 1} are missing"),
    ):
        monkeypatch.setattr(RayRunner, "_results", results)
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(each) for each in command])
        assert stopped.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"Error: {sentence}"


# --------------------------------------------------------------------------------------------- without Ray


@pytest.mark.parametrize(
    ("resources", "asked", "device", "workers", "threads", "gpus"),
    [
        ({"CPU": 2.0}, None, "auto", 1, 2, 0),
        ({"CPU": 1.0}, None, "auto", 1, 1, 0),
        ({"CPU": 2.0}, 2, "auto", 2, 1, 0),
        ({"CPU": 9.0}, None, "auto", 4, 2, 0),
        ({"CPU": 8.0}, 3, "auto", 3, 2, 0),
        ({"CPU": 32.0, "GPU": 4.0}, None, "auto", 4, 1, 1),
        ({"CPU": 32.0, "GPU": 4.0}, 2, "cuda", 2, 1, 1),
        ({"CPU": 4.0, "GPU": 4.0}, None, "cpu", 2, 2, 0),
    ],
)
def test_workers_share_what_the_cluster_has(
    resources: dict[str, float], asked: int | None, device: str, workers: int, threads: int, gpus: int
) -> None:
    count, share = share_out(resources, asked, device)
    assert (count, share.threads, share.gpus) == (workers, threads, gpus)


@pytest.mark.parametrize(
    ("resources", "asked", "device", "message"),
    [
        ({"CPU": 2.0}, 3, "auto", "one worker for each of the 2 CPU cores that Ray has, got 3"),
        ({"CPU": 8.0, "GPU": 1.0}, 2, "auto", "one worker for each of the 1 GPUs that Ray has, got 2"),
        ({"CPU": 8.0}, None, "cuda", "Ray knows of no GPU"),
        ({"CPU": 8.0, "GPU": 2.0}, None, "cuda:1", "expected --device auto, cpu or cuda"),
        ({}, None, "auto", "of the 0 CPU cores"),
    ],
)
def test_more_than_the_cluster_has_is_refused(
    resources: dict[str, float], asked: int | None, device: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        share_out(resources, asked, device)


@pytest.mark.parametrize("address", ["nowhere", "ray://host:1", "host:port", ":1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected --address as auto or HOST:PORT"):
        on_ray._refuse_silent(address)


@pytest.mark.parametrize("answer", [None, b"", b"SSH-2.0-server\r\n"], ids=["silence", "end", "another program"])
def test_an_address_where_no_ray_answers_is_refused_at_once(
    answer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "_SECONDS_TO_ANSWER", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        closing = threading.Event()

        def serve() -> None:
            with server.accept()[0] as stream:
                if answer is None:
                    closing.wait(10)
                else:
                    stream.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ValueError, match=f"{address}: no Ray cluster answers there"):
            on_ray._refuse_silent(address)
        closing.set()
        thread.join()
    with pytest.raises(ValueError, match="no Ray cluster answers there"):  # nobody listens now
        on_ray._refuse_silent(address)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ValueError, match=r"pip install 'incontext\[ray\]'"),
        RayRunner(Setup(RayNetworks(), PROMPT, Outputs(tmp_path), DEFAULTS)),
    ):
        pass


# --------------------------------------------------------------------------------------------- the command


def test_ctrl_c_ends_with_a_report_and_the_local_runner_goes_on(tmp_path: Path, weights: Path, prompt: Prompt) -> None:
    if find_spec("ray") is None:
        pytest.skip("needs ray: pip install 'incontext[ray]'")
    folder, random = tmp_path / "in", np.random.default_rng(1)
    folder.mkdir()
    for number in range(300):
        Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(folder / f"{number:03}.png")
    Image.fromarray(prompt.image).save(tmp_path / "image.png")
    write_mask(tmp_path / "mask.png", prompt.mask, Palette.spread([2]).table)
    given = ["--prompt", tmp_path / "image.png", tmp_path / "mask.png", "--weights", weights, "--device", "cpu"]
    command = [sys.executable, "-m", "incontext", "segment", folder, *given, "-o", tmp_path / "out"]
    process = subprocess.Popen(
        [*map(str, command), "--runner", "ray", "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    journal = tmp_path / "out" / "report.partial.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 8):
        time.sleep(0.02)
    started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert output == ""
    assert "Traceback" not in errors
    assert "Stopped after" in errors
    assert psutil.wait_procs(started, timeout=PATIENCE)[1] == []
    stopped = open_report(tmp_path / "out" / "report.json")
    assert not stopped.finished
    assert 8 <= stopped.done < 300
    assert not list((tmp_path / "out").rglob(".*"))

    example, earlier = Prompt.open(tmp_path / "image.png", tmp_path / "mask.png"), []
    segmenter = load(weights, device="cpu")
    segment_folder(segmenter, plan([folder], tmp_path / "out"), example, on_resume=earlier.append)
    assert earlier == [stopped.done]
    segment_folder(segmenter, plan([folder], tmp_path / "alone"), example)
    assert results(tmp_path / "out") == results(tmp_path / "alone")
