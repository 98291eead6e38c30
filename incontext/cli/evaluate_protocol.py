"""`incontext evaluate protocol`: the field's own benchmarks, for whoever has their data."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from incontext.cli.options import PromptTensors, ensembles_of, evaluate_app, names, numbers, strictly, with_options
from incontext.identity import about, settings_of
from incontext.options import DEFAULTS, LOADING, LoadOptions, Policy, SegmentOptions, Task
from incontext.progress import ProgressLine

if TYPE_CHECKING:
    from incontext.engine import Segmenter
    from incontext.evaluation.protocols.outcome import Outcome
    from incontext.evaluation.protocols.request import Request
    from incontext.evaluation.protocols.runs import Run

BenchmarkName = Literal[
    "coco-20i",
    "pascal-5i",
    "fss-1000",
    "davis-2016",
    "davis-2017",
    "youtube-vos",
    "mose",
    "ade20k",
    "coco-panoptic",
]

_Benchmark = Annotated[BenchmarkName, typer.Argument(metavar="BENCHMARK", help="docs/protocols.md describes them.")]
_Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="The folder with its data, as the archives unpack, at any depth.")
]
_Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="OUT",
        help="Write report.json, report.md, report.html, the answers, and what was counted: the same command then goes "
        "on where it was stopped.",
    ),
]
_Shots = Annotated[
    str | None, typer.Option("--shots", metavar="N,...", help="Prompts per query. Default: 1,5; of whole scenes 1.")
]
_Folds = Annotated[
    str | None, typer.Option("--folds", metavar="N,...", help="Of COCO-20i and PASCAL-5i. Default: 0,1,2,3.")
]
_Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="At most so many episodes of a fold, images, or frames of a video.")
]
_Episodes = Annotated[
    Path | None, typer.Option("--episodes", metavar="FILE", help="Ask exactly these, which --write-episodes wrote.")
]
_WriteEpisodes = Annotated[
    Path | None,
    typer.Option("--write-episodes", metavar="FILE", help="Write what is asked, for another system or another day."),
]
_Ensembles = Annotated[
    str, typer.Option("--ensembles", metavar="NAME,...", help="feature, spatial, or both with a comma.")
]
_ScoredAt = Annotated[
    int | None,
    typer.Option(
        "--scored-at",
        metavar="PIXELS",
        min=1,
        help="Compare few-shot masks at so many pixels a side. Default: each query's own size.",
    ),
]
_Split = Annotated[
    str | None, typer.Option("--split", metavar="NAME", help="Of videos. Default: val or valid.", show_default=False)
]
_AllFrames = Annotated[
    bool, typer.Option("--all-frames", help="Of YouTube-VOS: follow the frames between those that count, too.")
]
_Memory = Annotated[
    int | None, typer.Option("--memory", min=0, help="Predicted frames of a video to remember. Default: 4.")
]
_Policy = Annotated[Policy | None, typer.Option("--policy", help="Which of them. Default: spaced.")]
_Smallest = Annotated[
    int | None,
    typer.Option("--smallest", metavar="PIXELS", min=1, help="Of COCO panoptic: no smaller objects. Default: 256."),
]
_Task = Annotated[
    Task | None,
    typer.Option("--task", help="Default: semantic for whole scenes, else instance.", show_default=False),
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only look at the data, and say how long it will take, and how much memory.")
]


@evaluate_app.command("protocol")
@strictly
@with_options(only=("side",))
def evaluate_protocol(
    name: _Benchmark,
    data: _Data,
    out: _Out,
    shots: _Shots = None,
    folds: _Folds = None,
    limit: _Limit = None,
    episodes: _Episodes = None,
    write_episodes: _WriteEpisodes = None,
    ensembles: _Ensembles = "feature",
    scored_at: _ScoredAt = None,
    split: _Split = None,
    all_frames: _AllFrames = False,
    memory: _Memory = None,
    policy: _Policy = None,
    prompt_tensor: PromptTensors = None,
    smallest: _Smallest = None,
    task: _Task = None,
    options: SegmentOptions = DEFAULTS,
    loading: LoadOptions = LOADING,
    dry_run: _DryRun = False,
) -> None:
    """Run a benchmark of the field by its own rules, beside the published figures: a table.

    Finds the data by what is in the folder, makes the published episodes, scores by the official definitions, and
    writes what servers take.
    """
    from incontext.engine import load_with
    from incontext.evaluation.protocols.benchmarks import BENCHMARKS
    from incontext.evaluation.protocols.report import to_text, write_report
    from incontext.evaluation.protocols.request import Request

    benchmark = BENCHMARKS[name]
    request = Request(
        benchmark,
        data,
        shots=None if shots is None else tuple(numbers("--shots", shots)),
        folds=None if folds is None else _numbers_of_folds(folds),
        limit=limit,
        episodes=episodes,
        ensembles=tuple(ensembles_of(ensembles)),
        task=task or benchmark.task,
        side=options.side,
        scored_at=scored_at,
        split=split,
        all_frames=all_frames,
        memory=memory,
        policy=policy,
        prompt_tensors=tuple(prompt_tensor or ()),
        smallest=smallest,
    )
    run = _opened(request)
    if write_episodes is not None:
        _write(write_episodes, run)
    segmenter = load_with(loading)
    asked = replace(options, task=request.task)
    if dry_run:
        print(f"{benchmark.title} in {data}: {run.estimate(segmenter).sentence()}")
        return
    out.mkdir(parents=True, exist_ok=True)
    outcome = _asked(run, segmenter, out, settings_of(segmenter, asked))
    print(to_text(outcome, segmenter.name))
    write_report(out, outcome, {"data": str(data), **run.about, **about(segmenter, asked)}, segmenter.name)


def _opened(request: "Request") -> "Run":
    """Open the run of a request; looking through training images shows how far it is."""
    from incontext.evaluation.protocols.runs import open_run

    with ProgressLine("images looked through", None) as progress:
        return open_run(request, lambda _, done, total: progress.update(done, total=total))


def _write(path: Path, run: "Run") -> None:
    from incontext.evaluation.protocols.lists import write_list

    write_list(path, run.request.benchmark, run.content())


def _asked(run: "Run", segmenter: "Segmenter", out: Path, settings: dict[str, object]) -> "Outcome":
    from incontext.evaluation.protocols.few_shot_run import FewShotRun
    from incontext.evaluation.workers import shared_processors

    unit = {"few-shot": "episodes", "video": "frames", "scenes": "images"}[run.request.benchmark.kind]
    with ProgressLine(unit, None) as progress:

        def tell(_: str, done: int, total: int) -> None:
            progress.update(done, total=total)

        if isinstance(run, FewShotRun):
            with shared_processors(segmenter) as workers:
                return run.ask(segmenter, out, settings, workers=workers, tell=tell)
        return run.ask(segmenter, out, settings, tell=tell)


def _numbers_of_folds(text: str) -> tuple[int, ...]:
    parts = names(text)
    if not all(part.isascii() and part.isdigit() for part in parts) or len({*map(int, parts)}) < len(parts):
        raise ValueError(f'expected --folds as different numbers with commas between, such as "0,1"; got {text!r}')
    return tuple(map(int, parts))
