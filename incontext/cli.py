"""The command line: thin commands over the Python API, progress on stderr, one sentence for whatever a user gets wrong.

Each command imports what it needs when it runs, so that help costs no import of torch. Exit status: 0 all is well,
1 some pictures failed (the report says which), 2 for a reason that stderr names nothing was done, 130 Ctrl-C.
"""

import io
import json
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from incontext import __version__
from incontext.progress import ProgressLine


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (None: the process's arguments) and exit.

    Errors of the user and warnings become one sentence each; Python's own ``-X dev`` shows the traceback as well.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name must not be what stops a run
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"Warning: {message}", file=sys.stderr)
        try:
            app(arguments, prog_name="incontext")
        except (ValueError, OSError) as error:
            if sys.flags.dev_mode:
                raise
            print(f"Error: {_sentence(error)}", file=sys.stderr)
            sys.exit(2)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


# ------------------------------------------------------------------------------------------- arguments

app = typer.Typer(
    help="Show one example, segment everything like it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
weights_app = typer.Typer(help="Weights: what there is, what is in a file, checks, other layouts, downloads.")
evaluate_app = typer.Typer(help="Scores on data with masks.")
app.add_typer(weights_app, name="weights", no_args_is_help=True)
app.add_typer(evaluate_app, name="evaluate", no_args_is_help=True)

TaskName = Literal["instance", "semantic"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
LayoutName = Literal["incontext", "published", "transformers"]
StoredDtypeName = Literal["float32", "float16", "bfloat16"]

_Weights = Annotated[
    str, typer.Option("--weights", metavar="NAME|PATH", help="A name that `incontext weights list` knows, or a file.")
]
_Device = Annotated[str, typer.Option("--device", help='"auto", "cpu", "cuda", "cuda:1", "mps".')]
_Dtype = Annotated[DtypeName, typer.Option("--dtype", help="auto: bfloat16 on CUDA, else float32, which is exact.")]
_Task = Annotated[TaskName, typer.Option("--task", help="Whether the ids are objects or kinds of things.")]
_Side = Annotated[
    int | None, typer.Option("--side", min=1, help="Pixels along a side of what the network sees. Default: as trained.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"incontext {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


# --------------------------------------------------------------------------------------------- segment


@app.command()
def segment(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT",
            help="Folders, with all their subfolders; pictures; or patterns in quotes, such as 'PHOTOS/**/*.jpg'.",
        ),
    ],
    prompt: Annotated[
        tuple[Path, Path],
        typer.Option(
            "--prompt", metavar="IMAGE MASK", help="The example: a picture, and a mask of what to find in it."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for masks and report.json; made if need be.")],
    weights: _Weights = "default",
    device: _Device = "auto",
    dtype: _Dtype = "auto",
    task: _Task = "instance",
    side: _Side = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Pictures at a time. Default: 8 on CUDA, else 1.")
    ] = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write NAME_overlay.jpg: the picture under its coloured mask.")
    ] = False,
    save_confidence: Annotated[
        bool, typer.Option("--save-confidence", help="Also write NAME_confidence.png: grey, white where it is sure.")
    ] = False,
    snap_colors: Annotated[
        bool, typer.Option("--snap-colors", help="Give each stray colour of the prompt's mask the nearest main colour.")
    ] = False,
) -> None:
    """Segment pictures by one example.

    Each picture's mask becomes an indexed PNG of the same name, with the ids and colours of the example's mask.
    Subfolders are kept. A picture that cannot be read is skipped; report.json lists everything.
    """
    from incontext.folder import REPORT_NAME, FileReport, plan, segment_folder
    from incontext.types import Prompt

    # What a user can get wrong is found before the weights are loaded.
    context = Prompt.open(*prompt, snap=snap_colors)
    job = plan(inputs, out, overlay=overlay, confidence=save_confidence, prompt_files=[prompt])

    from incontext.engine import load

    segmenter = load(weights, device=device, dtype=dtype)
    report_path, told = out / REPORT_NAME, 0
    with ProgressLine("images", len(job.queries)) as progress:

        def tell(file: FileReport) -> None:
            nonlocal told
            told += 1
            if file.error is not None:
                progress.say(f"Skipped: {file.error}")
            progress.update(told)

        try:
            report = segment_folder(segmenter, job, context, task=task, side=side, batch_size=batch_size, on_file=tell)
        except KeyboardInterrupt:
            progress.say(f"Stopped after {told} of {len(job.queries)} pictures; {report_path} lists them.")
            raise typer.Exit(130) from None
    empty = sum(file.is_empty is True for file in report.files)
    found_nothing = f", {empty} of them empty" if empty else ""
    print(f"{report.done} masks in {out}{found_nothing} ({report.images_per_second:.1f} images/s)")
    if report.failures:
        progress.say(f"{len(report.failures)} of {len(report.files)} failed; {report_path} says why.")
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for pictures and masks.")] = Path("demo-output"),
    weights: _Weights = "default",
    device: _Device = "auto",
    dtype: _Dtype = "auto",
) -> None:
    """Segment photographs that come with scikit-image by examples that we drew, and show the commands that do it."""
    from incontext.demo import find_photographs, run

    find_photographs()

    from incontext.engine import load

    start = time.perf_counter()
    segmenter = load(weights, device=device, dtype=dtype)
    print(f"{weights}: loaded in {time.perf_counter() - start:.1f} s")
    report = run(segmenter, out, on_job=lambda job: print(job.describe()))
    print(f"All in one picture: {report.sheet}")
    if any(job.result.failures for job in report.jobs):
        raise typer.Exit(1)


# --------------------------------------------------------------------------------------------- weights


@weights_app.command("list")
def weights_list() -> None:
    """The weights that have a name."""
    from incontext.checkpoint import cached_path, registry

    entries = registry().values()
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        where = "on this machine" if cached_path(entry) else "to download"
        print(f"{entry.name:{width}}  {where:15}  {entry.licence}  {entry.description}")


@weights_app.command("info")
def weights_info(weights: Annotated[str, typer.Argument(metavar="NAME|PATH")] = "default") -> None:
    """What is in a file of weights. Nothing is downloaded."""
    from incontext.checkpoint import cached_path, info, registry, resolve

    entry = registry().get(weights)
    if entry is not None:
        _print_rows({"name": entry.name, "about": entry.description, "source": entry.source, "licence": entry.licence})
        if cached_path(entry) is None:
            _print_rows(asdict(entry.config))
            print(f"not on this machine; fetch it with: incontext weights download {entry.name}")
            return
    found = info(resolve(weights))
    _print_rows(
        {
            "file": found.path,
            "layout": found.layout,
            "parameters": f"{found.parameters:,}",
            "dtype": found.dtype,
            "bytes": f"{found.bytes:,}",
            "sha256": found.sha256,
            **asdict(found.config),
            **found.metadata,
        }
    )


@weights_app.command("verify")
def weights_verify(weights: Annotated[str, typer.Argument(metavar="NAME|PATH")] = "default") -> None:
    """Check weights completely: every value, and named ones against their SHA-256."""
    from incontext.checkpoint import verify

    found = verify(weights)
    print(f"{found.path}: {found.parameters:,} finite parameters, SHA-256 {found.sha256}")


@weights_app.command("convert")
def weights_convert(
    source: Annotated[str, typer.Argument(metavar="NAME|PATH")],
    target: Annotated[Path, typer.Argument(help="The file to write; for the layout of transformers, a folder.")],
    layout: Annotated[
        LayoutName, typer.Option("--layout", help="published: what the authors' code reads.")
    ] = "incontext",
    dtype: Annotated[StoredDtypeName | None, typer.Option("--dtype", help="Default: the source's.")] = None,
) -> None:
    """Rewrite weights in another layout or precision."""
    from incontext.checkpoint import convert, resolve

    written = convert(resolve(source), target, layout=layout, dtype=dtype)
    print(f"{written.path}: {written.layout}, {written.dtype}, {written.bytes:,} bytes, SHA-256 {written.sha256}")


@weights_app.command("download")
def weights_download(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Fetch named weights into the Hugging Face cache, and check them."""
    from incontext.checkpoint import download

    print(download(name))


def _print_rows(rows: dict[str, object]) -> None:
    for name, value in rows.items():
        text = str(value)
        print(f"{name + ':':15} {text if len(text) <= 200 else text[:200] + ' ...'}")


# -------------------------------------------------------------------------------------------- training


@app.command()
def train(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder for weights, state and log. A state in it is gone on from."),
    ],
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DATA", help="Folders with images/ and masks/. None: rendered scenes only."),
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help='"default", or "smoke" to see in a minute that it works.')
    ] = "default",
    init: Annotated[
        str | None, typer.Option("--init", metavar="NAME|PATH", help="Weights to start from. Default: random.")
    ] = None,
    device: _Device = "auto",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that make episodes.")] = 1,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Default: the recipe's.")] = None,
) -> None:
    """Train weights by in-context coloring. Stop with Ctrl-C; the same command goes on where the last state was saved.

    Of every set of 20 pictures or more, one in 20 is held out for validation.
    """
    from incontext.checkpoint import load_model, resolve
    from incontext.engine import choose_device
    from incontext.training import loop
    from incontext.training.episodes import hold_out, read_set
    from incontext.training.recipes import RECIPES

    if recipe not in RECIPES:
        raise ValueError(f"expected a recipe among {', '.join(RECIPES)}, got {recipe!r}")
    chosen = RECIPES[recipe] if seed is None else replace(RECIPES[recipe], seed=seed)
    first = None if init is None else load_model(resolve(init))
    if first is not None and first.config != chosen.model:
        raise ValueError(f"{init}: expected weights of the recipe's {chosen.model}, got {first.config}")
    sets = [read_set(folder) for folder in data or []]
    small = [each for each in sets if len(each.images) < 20]
    split = [hold_out(each) for each in sets if len(each.images) >= 20]
    with ProgressLine("steps", chosen.steps) as progress:

        def tell(state: loop.Progress) -> None:
            progress.update(state.step, f"loss {state.loss:.4f}, {state.episodes_per_second:.1f} episodes/s")
            if state.validation is not None:
                progress.say(f"Step {state.step}: validation mIoU {state.validation:.3f}")

        written = loop.train(
            chosen,
            [*small, *(kept for kept, _ in split)],
            out,
            held_out=[held for _, held in split if held.by_id],
            device=str(choose_device(device)),
            workers=workers,
            init=first,
            on_report=tell,
        )
    print(written)


# ------------------------------------------------------------------------------------------ evaluation


@evaluate_app.command("few-shot")
def evaluate_few_shot(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder with episodes.json and the sets it names.")],
    shots: Annotated[int, typer.Option("--shots", min=1, help="Prompts per query.")] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many episodes of each set.")] = None,
    weights: _Weights = "default",
    device: _Device = "auto",
    dtype: _Dtype = "auto",
    task: _Task = "instance",
    side: _Side = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the scores as JSON to this file.")] = None,
) -> None:
    """Mean IoU on fixed episodes: a table on stdout."""
    from incontext.engine import load
    from incontext.evaluation.few_shot import evaluate
    from incontext.formats import whole_file

    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)  # before the work, so that it is not lost
    segmenter = load(weights, device=device, dtype=dtype)
    with ProgressLine("episodes", 0) as progress:
        report = evaluate(
            lambda query, prompts: segmenter.segment(query, prompts, task=task, side=side),
            data,
            shots=shots,
            limit=limit,
            on_episode=lambda done, total: progress.update(done, total=total),
        )
    print(report.to_markdown())
    if out is not None:
        document = {"segmenter": segmenter.describe(), "task": task, **json.loads(report.to_json())}
        with whole_file(out) as stream:
            stream.write(json.dumps(document, indent=1).encode() + b"\n")
