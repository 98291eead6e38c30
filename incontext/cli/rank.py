"""`incontext rank`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from incontext.cli.options import SnapColors, app, name_below, strictly, with_options
from incontext.options import DEFAULTS, LOADING, LoadOptions, SegmentOptions
from incontext.progress import ProgressLine
from incontext.words import counted

if TYPE_CHECKING:
    from incontext.engine import Segmenter
    from incontext.evaluation.ranking import Ranking, Trial
    from incontext.examples import OpenedPrompts
    from incontext.images.ids import Pixels
    from incontext.types import Prompt

_LONGEST = 512  # pixels along an image's longer side: several times what the network sees, and quick to score


@app.command()
@strictly
@with_options()
def rank(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Examples: images/ and masks/, files of the same names, or NAME_mask.png beside NAME.jpg; "
            "annotations (COCO, YOLO, LabelMe, CVAT, Label Studio, VOC); or a context file.",
        ),
    ],
    top: Annotated[
        int | None, typer.Option("--top", min=1, metavar="N", help="Write the N best to a context file.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="That file, which `segment --prompts` takes. Default: context.json."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, metavar="N", help="Try each example on at most so many others.")
    ] = 50,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Also write the table as JSON to this file.")
    ] = None,
    options: SegmentOptions = DEFAULTS,
    loading: LoadOptions = LOADING,
    snap_colors: SnapColors = False,
) -> None:
    """Find out which example works best for the others: each in turn is the only prompt for all of them.

    A table on stdout, best first: IoU with the true masks, summed over the images for each id that an example shows,
    then the mean of these. --top N takes the N best such that each id is shown by about as many.
    """
    from incontext.examples import gather, open_prompts, read_empty
    from incontext.identity import about
    from incontext.images.write import whole_file

    # What a user can get wrong is found before the weights are loaded.
    opened = open_prompts(gather(source=folder), snap=snap_colors, longest=_LONGEST)
    target = _target(out, top, len(opened.prompts))
    empty = [read_empty(pair, longest=_LONGEST) for pair in opened.empty]
    for path in (target, report):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    from incontext.engine import load_with

    segmenter = load_with(loading)
    names = [name_below(image, folder) for image, _ in opened.pairs]
    run = partial(ranked, segmenter, opened.prompts, names, empty=empty, options=options)
    ranking, chosen, trial = run(limit=limit, top=top)
    print(ranking.to_markdown(), end="")
    if report is not None:
        with whole_file(report) as stream:
            stream.write(ranking.to_json().encode("utf-8", "backslashreplace") + b"\n")
    if target is not None:
        _write(target, opened, ranking, chosen, about(segmenter, options))
        print(f"\n{target}: {', '.join(ranking.names[c] for c in chosen)}")
        if missing := [i for k, i in enumerate(ranking.ids) if not ranking.shown[list(chosen), k].any()]:
            print(f"None of them shows id {', '.join(map(str, missing))}; choose more with --top")
    if trial is not None:
        others = f"the other {counted(trial.queries, 'image')}"
        alone = f"{ranking.names[chosen[0]]} alone {trial.alone:.3f}"
        print(f"Mean IoU on {others}: together {trial.together:.3f}, {alone}")
    written = f", {len(chosen)} written" if target is not None else ""
    print(f"{counted(len(opened.prompts) + len(opened.empty), 'example')} ranked{written}")


def ranked(
    segmenter: "Segmenter",
    prompts: "Sequence[Prompt]",
    names: Sequence[str],
    *,
    empty: "Sequence[Pixels]",
    options: SegmentOptions,
    limit: int,
    top: int | None,
) -> "tuple[Ranking, tuple[int, ...], Trial | None]":
    """Rank examples, choose the best, try these together, and tell how it goes.

    Raises:
        typer.Exit: Ctrl-C ended it, with status 130.
    """
    from incontext.evaluation import ranking as ranks

    done = 0
    with ProgressLine("answers", 0) as progress:

        def tell(number: int, total: int) -> None:
            nonlocal done
            done = number
            progress.update(number, total=total)

        asked = options.keywords()
        try:
            ranking = ranks.rank(segmenter, prompts, names=names, empty=empty, limit=limit, on_answer=tell, **asked)
            chosen = () if top is None else ranking.best(top)
            several = len(chosen) > 1
            trial = ranks.try_together(segmenter, prompts, ranking, chosen, empty=empty, **asked) if several else None
        except KeyboardInterrupt:
            progress.say(f"Stopped after {done} answers; nothing was written.")
            raise typer.Exit(130) from None
    return ranking, chosen, trial


def _target(out: Path | None, top: int | None, examples: int) -> Path | None:
    """Choose the context file to write. What lies there already may only be another context file."""
    from incontext.examples import read_context

    if top is None:
        if out is not None:
            raise ValueError("expected --top N beside --out, as the N best are what is written; give both or neither")
        return None
    if top > examples:
        raise ValueError(f"expected --top to be at most {examples}, as many as there are examples, got {top}")
    target = out or Path("context.json")
    if target.is_dir():
        raise ValueError(f"{target}: expected a file to write the context to, got a folder")
    try:
        read_context(target)
    except FileNotFoundError:
        pass  # a new file, or one whose images have gone
    except ValueError:
        raise ValueError(f"{target}: expected a new file, or a context file to replace; name another with -o") from None
    return target


def _write(
    target: Path,
    opened: "OpenedPrompts",
    ranking: "Ranking",
    chosen: Sequence[int],
    segmenter: Mapping[str, object],
) -> None:
    from incontext.examples import write_context

    scores = {ranking.names[c]: round(score, 4) for c in chosen if (score := float(ranking.score[c])) >= 0}
    chosen_by = {
        "command": "incontext rank",
        **{name: segmenter[name] for name in ("weights", "side", "dtype", "task")},
        "examples": len(opened.prompts),
        "mean_iou": scores,
    }
    write_context(target, [opened.pairs[c] for c in chosen], chosen_by=chosen_by)
