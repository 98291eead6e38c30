"""`incontext evaluate`: scores on data with masks."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from incontext import __version__
from incontext.cli.options import (
    Device,
    Dtype,
    MinPresence,
    Side,
    Task,
    TaskName,
    Weights,
    evaluate_app,
    names,
    numbers,
)
from incontext.progress import ProgressLine

if TYPE_CHECKING:
    from incontext.canvas.context import Ensemble
    from incontext.engine import Segmenter
    from incontext.evaluation import Method
    from incontext.evaluation.few_shot.episodes import EpisodeSet

_USUAL_SHOTS = (1, 2, 4, 8)
_MOST_WORKERS = 8


@evaluate_app.command("few-shot")
def evaluate_few_shot(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder with episodes.json and the sets it names; or a folder with images/ and masks/, files of the "
            "same names; or a folder of such folders.",
        ),
    ],
    shots: Annotated[
        str | None,
        typer.Option(
            "--shots", metavar="N,...", help="Prompts per query. Default: 1,2,4,8, as far as the episodes have them."
        ),
    ] = None,
    ensembles: Annotated[
        str, typer.Option("--ensembles", metavar="NAME,...", help="feature, spatial, or both with a comma.")
    ] = "feature,spatial",
    episodes: Annotated[
        int | None,
        typer.Option(
            "--episodes", min=1, help="Draw so many of each set. Default: those of episodes.json, else 100 are drawn."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many episodes of each set.")] = None,
    sets: Annotated[str | None, typer.Option("--sets", metavar="NAME,...", help="Only these sets.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of drawn episodes and of the intervals.")] = 0,
    weights: Weights = "default",
    device: Device = "auto",
    dtype: Dtype = "auto",
    task: Task = "instance",
    side: Side = None,
    min_presence: MinPresence = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Write report.json, report.md and report.html, and every answer's counts: the same command then goes "
            "on where it was stopped.",
        ),
    ] = None,
    hide: Annotated[
        str, typer.Option("--hide", metavar="NAME,...", help="Sets of which report.html shows no pictures.")
    ] = "",
) -> None:
    """Mean IoU of episodes, beside baselines that need no network: a table on stdout.

    Shows the network a query and prompts, and compares its answer with the true mask.
    """
    wanted = None if shots is None else sorted(numbers("--shots", shots))
    chosen = _ensembles(ensembles)

    from incontext.engine import load
    from incontext.evaluation import Journal, evaluate, read_sets
    from incontext.evaluation.few_shot.baselines import BASELINES
    from incontext.evaluation.pages.report import to_text

    found = read_sets(
        data,
        names=None if sets is None else names(sets),
        drawn=episodes,
        prompts=None if wanted is None else max(wanted),
        limit=limit,
        seed=seed,
    )
    hidden = _hidden(hide, [each.name for each in found])
    if wanted is None:
        fewest = min(len(episode.prompts) for each in found for episode in each.episodes)
        wanted = [n for n in _USUAL_SHOTS if n <= fewest]
    segmenter = load(weights, device=device, dtype=dtype, min_presence=min_presence)
    about = describe(segmenter, weights, task, side)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    models = [_method(segmenter, each, task, side, alone=len(chosen) == 1) for each in chosen]
    settings = {} if out is None else {**settings_of(segmenter, about), "data": _state(data, found)}
    with (
        _shared_processors(segmenter) as workers,
        nullcontext() if out is None else Journal(out / "answers.jsonl", settings) as journal,
        ProgressLine("episodes", sum(len(each.episodes) for each in found)) as progress,
    ):
        report = evaluate(
            [*models, *BASELINES],
            found,
            shots=wanted,
            seed=seed,
            workers=workers,
            journal=journal,
            on_episode=lambda done, _: progress.update(done),
        )
    print(to_text(report))
    if out is not None:
        from incontext.evaluation.pages.gallery import gallery
        from incontext.evaluation.pages.report import write_report

        few = next(each.shots for each in report.columns if each.method == models[0].name)
        shown = gallery(report, models[0], found, shots=few, hidden=hidden)
        write_report(out, report, shown, {"data": str(data), "seed": seed, **about})


def describe(segmenter: "Segmenter", weights: str, task: TaskName, side: int | None) -> dict[str, object]:
    """What ran, for reports."""
    from incontext.network.checkpoint import info, resolve

    return {
        **segmenter.describe(),
        "side": segmenter.config.side if side is None else side,
        "weights_sha256": info(resolve(weights)).sha256,
        "task": task,
        "incontext": __version__,
    }


def settings_of(segmenter: "Segmenter", about: Mapping[str, object]) -> dict[str, object]:
    """Of that, what the answers depend on: a journal made with other settings is of no use."""
    kept = ("side", "dtype", "attention", "weights_sha256", "task", "min_presence", "incontext")
    return {**{name: about[name] for name in kept}, "device": segmenter.device.type}


def _ensembles(text: str) -> "list[Ensemble]":
    known: tuple[Ensemble, ...] = ("feature", "spatial")
    asked = names(text)
    if not set(asked) <= set(known) or len(set(asked)) < len(asked):
        raise ValueError(f"expected --ensembles as feature, spatial, or both with a comma; got {text!r}")
    return [each for each in known if each in asked]


def _hidden(text: str, known: list[str]) -> list[str]:
    hidden = names(text) if text else []
    if missing := [name for name in hidden if name not in known]:
        raise ValueError(f"expected --hide to name sets out of {', '.join(known)}, got {', '.join(missing)}")
    return hidden


def _method(segmenter: "Segmenter", ensemble: "Ensemble", task: TaskName, side: int | None, *, alone: bool) -> "Method":
    """The network with an ensemble. With one prompt both are the same, so only the feature ensemble is asked then."""
    from incontext.evaluation import Method

    return Method(
        ensemble,
        lambda queries, prompts: segmenter.segment_many(queries, prompts, ensemble=ensemble, task=task, side=side),
        fewest_shots=2 if ensemble == "spatial" and not alone else 1,
    )


def _state(data: Path, sets: "Iterable[EpisodeSet]") -> str:
    """A digest that changes when a picture or a mask does, or what is said of them: of names, sizes and times."""
    folders = {data, *(each.folder for each in sets)}  # a set may be a link, which ** does not follow
    patterns = ("**/images/*", "**/masks/*", "**/dataset.json", "episodes.json")
    files = sorted({path for folder in folders for pattern in patterns for path in folder.glob(pattern)})
    lines = (f"{path.relative_to(data)} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in files)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def _shared_processors(segmenter: "Segmenter") -> Iterator[int]:
    """How many episodes to work on at a time. On a CPU each has a thread of PyTorch's to itself, on many cores some:
    threads that wait for each other lose far more to whatever else the machine does."""
    import torch

    threads = torch.get_num_threads()
    if segmenter.device.type != "cpu":
        yield 2  # one reads pictures while the other computes
        return
    workers = min(threads, _MOST_WORKERS)
    torch.set_num_threads(max(1, threads // workers))
    try:
        yield workers
    finally:
        torch.set_num_threads(threads)
