"""What the commands share: the program, its groups, and the options that mean the same everywhere."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from incontext import __version__

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
EngineName = Literal["local", "ray"]
EnsembleName = Literal["auto", "feature", "spatial"]
LayoutName = Literal["incontext", "published", "transformers"]
StoredDtypeName = Literal["float32", "float16", "bfloat16"]

Weights = Annotated[
    str, typer.Option("--weights", metavar="NAME|PATH", help="A name that `incontext weights list` knows, or a file.")
]
Device = Annotated[str, typer.Option("--device", help='"auto", "cpu", "cuda", "cuda:1", "mps".')]
Dtype = Annotated[
    DtypeName,
    typer.Option("--dtype", help="auto: bfloat16 where the hardware multiplies it, else float32. float32 is exact."),
]
Task = Annotated[TaskName, typer.Option("--task", help="Whether the ids are objects or kinds of things.")]
PromptTensors = Annotated[
    list[Path] | None,
    typer.Option(
        "--prompt-tensor",
        metavar="KEY",
        help="What `incontext tune` learned, in place of examples or beside them. May be given several times.",
    ),
]
Ensemble = Annotated[
    EnsembleName,
    typer.Option(
        "--ensemble",
        help="Several prompts: averaged inside the network (feature), or tiled into one picture (spatial).",
    ),
]
MinPresence = Annotated[
    float | None,
    typer.Option(
        "--min-presence",
        metavar="0..1",
        min=0.0,
        max=1.0,
        help="Leave out ids that are less likely than this to be in a picture at all; 0 leaves out none.",
    ),
]
SnapColors = Annotated[
    bool, typer.Option("--snap-colors", help="Give each stray colour of a prompt's mask the nearest main colour.")
]
Side = Annotated[
    int | None, typer.Option("--side", min=1, help="Pixels along a side of what the network sees. Default: as trained.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"incontext {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


def numbers(option: str, text: str) -> list[int]:
    """ "1,4" -> [1, 4]. ValueError for anything but numbers of at least 1, each once."""
    parts = names(text)
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts) or len(set(parts)) < len(parts):
        raise ValueError(
            f'expected {option} as different numbers of at least 1 with commas between, such as "1,4"; got {text!r}'
        )
    return [int(part) for part in parts]


def name_below(path: Path, source: Path) -> str:
    """A file's name as seen from the folder that ``source`` is or lies in; the whole path where it lies elsewhere."""
    root = source if source.is_dir() else source.parent
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def decimals(option: str, text: str) -> list[float]:
    """ "7,3" or "0.7, 0.3" -> floats. ValueError for anything else."""
    try:
        return [float(part) for part in names(text)]
    except ValueError:
        raise ValueError(f'expected {option} as numbers with commas between, such as "7,3"; got {text!r}') from None


def names(text: str) -> list[str]:
    """ "a, b" -> ["a", "b"]."""
    return [part.strip() for part in text.split(",")]


def named_ids(text: str | None, ids: set[int]) -> dict[int, str]:
    """ "1=rust, 2=dent" -> {1: "rust", 2: "dent"}. ValueError for anything else or other ids than these."""
    called: dict[int, str] = {}
    for part in names(text) if text is not None else []:
        number, equals, name = part.partition("=")
        if not equals or not number.strip().isdecimal() or not name.strip() or int(number) not in ids:
            raise ValueError(
                f'expected --names of ids that the masks show, {sorted(ids)}, such as "1=rust,2=dent"; got {part!r}'
            )
        called[int(number)] = name.strip()
    return called


class PairsCommand(TyperCommand):
    """Lets `--prompt IMAGE MASK` come several times: typer takes lists, and it takes pairs, but no lists of pairs.

    An option is one of those when its metavar is two words.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = (each for each in self.params if len((getattr(each, "metavar", None) or "").split()) == 2)
        paired = {name: str(each.metavar) for each in options for name in each.opts if name.startswith("-")}
        try:
            single = _one_by_one(args, paired)
        except ValueError as error:
            ctx.fail(str(error))
        return super().parse_args(ctx, single)


def _one_by_one(arguments: Sequence[str], paired: Mapping[str, str]) -> list[str]:
    """`--prompt IMAGE MASK` -> `--prompt=IMAGE --prompt=MASK`, up to a lone `--`. ValueError for half a pair.

    paired: the names of such options, and what their two values are called.
    """
    done: list[str] = []
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name == "--":
            return [*done, name, *rest]
        if name not in paired:
            done.append(name + equals + value)
            continue
        pair = [value] if equals else []
        while len(pair) < 2:
            if not rest or (rest[0].startswith("-") and not os.path.lexists(rest[0])):
                raise ValueError(f"Option '{name}' requires 2 arguments: {paired[name]}.")
            pair.append(rest.pop(0))
        done += [f"{name}={each}" for each in pair]
    return done
