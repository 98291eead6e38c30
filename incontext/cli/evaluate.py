"""`incontext evaluate few-shot`: scores on episodes."""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from incontext.cli.options import (
    OnlySets,
    ReportFolder,
    ensembles_of,
    evaluate_app,
    names,
    numbers,
    strictly,
    with_options,
)
from incontext.identity import about, settings_of
from incontext.options import DEFAULTS, LOADING, LoadOptions, SegmentOptions
from incontext.progress import ProgressLine

if TYPE_CHECKING:
    from incontext.engine import Segmenter
    from incontext.evaluation import FewShotReport, Method
    from incontext.evaluation.few_shot.episodes import EpisodeSet

_USUAL_SHOTS = (1, 2, 4, 8)


@evaluate_app.command("few-shot")
@strictly
@with_options(without=("ensemble",))
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
    sets: OnlySets = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of drawn episodes and of the intervals.")] = 0,
    options: SegmentOptions = DEFAULTS,
    loading: LoadOptions = LOADING,
    out: ReportFolder = None,
    hide: Annotated[
        str, typer.Option("--hide", metavar="NAME,...", help="Sets of which report.html shows no images.")
    ] = "",
) -> None:
    """Score mean IoU of episodes, beside baselines that need no network: a table on stdout.

    Shows the network a query and prompts, and compares its answer with the true mask.
    """
    wanted = None if shots is None else sorted(numbers("--shots", shots))
    chosen = ensembles_of(ensembles)

    from incontext.engine import load_with
    from incontext.evaluation import read_sets
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
    segmenter = load_with(loading)
    models = [_method(segmenter, replace(options, ensemble=each), alone=len(chosen) == 1) for each in chosen]
    facts = about(segmenter, options)
    report = evaluated(segmenter, models, found, wanted or usual_shots(found), seed, data, options, out)
    print(to_text(report))
    if out is not None:
        from incontext.evaluation.pages.gallery import gallery
        from incontext.evaluation.pages.report import write_report

        few = next(each.shots for each in report.columns if each.method == models[0].name)
        shown = gallery(report, models[0], found, shots=few, hidden=hidden)
        write_report(out, report, shown, {"data": str(data), "seed": seed, **facts})


def usual_shots(sets: "Sequence[EpisodeSet]") -> list[int]:
    """List 1, 2, 4, 8, as far as all episodes have so many prompts."""
    fewest = min(len(episode.prompts) for each in sets for episode in each.episodes)
    return [n for n in _USUAL_SHOTS if n <= fewest]


def evaluated(
    segmenter: "Segmenter",
    models: "Sequence[Method]",
    sets: "Sequence[EpisodeSet]",
    shots: Sequence[int],
    seed: int,
    data: Path,
    options: SegmentOptions,
    out: Path | None,
) -> "FewShotReport":
    """Ask the methods and the baselines, and tell how it goes.

    Args:
        out: The folder that keeps every answer's counts.
    """
    from incontext.evaluation import AnswerJournal, evaluate
    from incontext.evaluation.few_shot.baselines import BASELINES
    from incontext.evaluation.workers import shared_processors

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    settings = {} if out is None else {**settings_of(segmenter, options), "data": _state(data, sets)}
    with (
        shared_processors(segmenter) as workers,
        nullcontext() if out is None else AnswerJournal(out / "answers.jsonl", settings) as journal,
        ProgressLine("episodes", sum(len(each.episodes) for each in sets)) as progress,
    ):
        return evaluate(
            [*models, *BASELINES],
            sets,
            shots=shots,
            seed=seed,
            workers=workers,
            journal=journal,
            on_episode=lambda done, _: progress.update(done),
        )


def _hidden(text: str, known: list[str]) -> list[str]:
    hidden = names(text) if text else []
    if missing := [name for name in hidden if name not in known]:
        raise ValueError(f"expected --hide to name sets out of {', '.join(known)}, got {', '.join(missing)}")
    return hidden


def _method(segmenter: "Segmenter", options: SegmentOptions, *, alone: bool) -> "Method":
    """Make the network's method with an ensemble. With one prompt both are the same, so only one is asked then."""
    from incontext.evaluation import Method

    return Method(
        options.ensemble,
        lambda queries, prompts: segmenter.segment_many(queries, prompts, **options.keywords()),
        fewest_shots=2 if options.ensemble == "spatial" and not alone else 1,
    )


def _state(data: Path, sets: "Iterable[EpisodeSet]") -> str:
    """Make a digest that changes when an image or a mask does, or what is said of them: of names, sizes and times."""
    folders = {data, *(each.folder for each in sets)}  # a set may be a link, which ** does not follow
    patterns = ("**/images/*", "**/masks/*", "**/dataset.json", "episodes.json")
    files = sorted({path for folder in folders for pattern in patterns for path in folder.glob(pattern)})
    lines = (f"{path.relative_to(data)} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in files)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
