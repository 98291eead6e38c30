"""What the commands share: the program, its groups, and the options that mean the same everywhere."""

import inspect
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer

from incontext import __version__
from incontext.cli.help import Command, Program
from incontext.left_out import LeftOutWarning
from incontext.options import Ensemble, LoadOptions, SegmentOptions, declared

_Command = TypeVar("_Command", bound=Callable[..., None])

app = Program(
    help="Show one example, segment everything like it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
weights_app = Program(help="Weights: what there is, what is in a file, checks, other layouts, downloads.")
evaluate_app = Program(help="Scores on data with masks.")
backbone_app = Program(help="Second opinions: what is known of a backbone, and what its votes are worth.")
prompters_app = Program(help="Other models that mark and name: what there is, checks, downloads.")
app.add_typer(backbone_app, name="backbone", no_args_is_help=True)
app.add_typer(prompters_app, name="prompters", no_args_is_help=True)
app.add_typer(weights_app, name="weights", no_args_is_help=True)
app.add_typer(evaluate_app, name="evaluate", no_args_is_help=True)


Examples = Annotated[
    list[Path] | None,
    typer.Option(
        "--prompt",
        metavar="IMAGE MASK",
        help="An example: an image, and a mask of what to find in it, or the annotation file that has it (COCO, "
        "LabelMe, ...). May be given several times.",
    ),
]
ExamplesFolder = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FOLDER|FILE",
        help="More examples: a folder with images/ and masks/, files of the same names, or with NAME_mask.png "
        "beside NAME.jpg; annotations (COCO, YOLO, LabelMe, CVAT, Label Studio, VOC); or a context file, as "
        "`incontext rank --top` writes it.",
    ),
]
PromptTensors = Annotated[
    list[Path] | None,
    typer.Option(
        "--prompt-tensor",
        metavar="FILE",
        help="What `incontext tune` learned, in place of examples or beside them. May be given several times.",
    ),
]
PrompterName = Annotated[
    str | None,
    typer.Option(
        "--prompter",
        metavar="NAME|PATH|A+B",
        help="Another model that marks: a name, a folder of files, or two with a plus; see incontext prompters list.",
    ),
]
Text = Annotated[
    list[str] | None,
    typer.Option(
        "--text", metavar="PHRASE", help="What the prompter looks for. Given several times, they become ids 1, 2, ..."
    ),
]
MinScore = Annotated[
    float | None,
    typer.Option(
        "--min-score",
        metavar="NUMBER",
        help="How sure the prompter must be of what it finds for a text, above 0 and below 1. Default: the model's.",
    ),
]
OnlySets = Annotated[str | None, typer.Option("--sets", metavar="NAME,...", help="Only these sets or clips.")]
ReportFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Write report.json, report.md and report.html, and all that was measured: the same command then goes on "
        "where it was stopped.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop with an error at the first thing that would have to be left out.")
]
SnapColors = Annotated[
    bool, typer.Option("--snap-colors", help="Give each stray colour of a prompt's mask the nearest main colour.")
]


def pairs_of(paths: Sequence[Path] | None) -> list[tuple[Path, Path]]:
    """Pair [IMAGE, MASK, IMAGE, MASK], as `PairsCommand` leaves it."""
    given = paths or []
    return list(zip(given[::2], given[1::2], strict=True))


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
    """Take the options before the command."""


def numbers(option: str, text: str) -> list[int]:
    """Read "1,4" as [1, 4].

    Raises:
        ValueError: It is anything but numbers of at least 1, each once.
    """
    parts = names(text)
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts) or len(set(parts)) < len(parts):
        raise ValueError(
            f'expected {option} as different numbers of at least 1 with commas between, such as "1,4"; got {text!r}'
        )
    return [int(part) for part in parts]


def name_below(path: Path, source: Path) -> str:
    """Name a file as seen from the folder that ``source`` is or lies in; in full where it lies elsewhere."""
    root = source if source.is_dir() else source.parent
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def decimals(option: str, text: str) -> list[float]:
    """Read "7,3" or "0.7, 0.3" as floats.

    Raises:
        ValueError: It is anything else.
    """
    try:
        return [float(part) for part in names(text)]
    except ValueError:
        raise ValueError(f'expected {option} as numbers with commas between, such as "7,3"; got {text!r}') from None


def names(text: str) -> list[str]:
    """Read "a, b" as ["a", "b"]."""
    return [part.strip() for part in text.split(",")]


def named_ids(text: str | None, ids: set[int]) -> dict[int, str]:
    """Read "1=rust, 2=dent" as {1: "rust", 2: "dent"}.

    Raises:
        ValueError: It is anything else, or names other ids than these.
    """
    called: dict[int, str] = {}
    for part in names(text) if text is not None else []:
        number, equals, name = part.partition("=")
        if not equals or not number.strip().isdecimal() or not name.strip() or int(number) not in ids:
            raise ValueError(
                f'expected --names of ids that the masks show, {sorted(ids)}, such as "1=rust,2=dent"; got {part!r}'
            )
        called[int(number)] = name.strip()
    return called


def with_options(*, only: Collection[str] = (), without: Collection[str] = ()) -> Callable[[_Command], _Command]:
    """Decorate a command whose parameters `options` and `loading` stand for whole lists of options.

    Each field of `SegmentOptions` and of `LoadOptions` becomes an option of the command line; the command is called
    with the values.

    Args:
        only: The fields of `SegmentOptions` to offer; none are all.
        without: Fields of either that the command cannot offer; they keep their defaults.
    """

    def decorate(command: _Command) -> _Command:
        lists: dict[str, tuple[Any, list[Field[Any]]]] = {}
        parameters: list[inspect.Parameter] = []
        for own in inspect.signature(command, eval_str=True).parameters.values():
            kind = own.annotation
            if kind not in (SegmentOptions, LoadOptions):
                parameters.append(own)
                continue
            wanted = only if kind is SegmentOptions and only else [each.name for each, _ in declared(kind)]
            offered = [each for each in declared(kind) if each[0].name in wanted and each[0].name not in without]
            parameters += (_parameter(each, its_type, own.kind) for each, its_type in offered)
            lists[own.name] = kind, [each for each, _ in offered]

        @wraps(command)
        def run(**given: Any) -> Any:
            values = {
                name: kind(**{each.name: _value(each, given.pop(each.name)) for each in offered})
                for name, (kind, offered) in lists.items()
            }
            return command(**given, **values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return cast("_Command", run)

    return decorate


def strictly(command: _Command) -> _Command:
    """Decorate a command that leaves out what it cannot use with `--strict`, which makes an error of the first such.

    A command that has the option already is given it as well.
    """
    own = inspect.signature(command, eval_str=True)
    has_own = "strict" in own.parameters
    parameters = list(own.parameters.values())
    if not has_own:
        parameters.append(inspect.Parameter("strict", parameters[-1].kind, default=False, annotation=Strict))

    @wraps(command)
    def run(**given: Any) -> Any:
        strict = given["strict"] if has_own else given.pop("strict")
        with warnings.catch_warnings():
            if strict:
                warnings.simplefilter("error", LeftOutWarning)
            return command(**given)

    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return cast("_Command", run)


def _parameter(option: Field[Any], kind: Any, place: Any) -> inspect.Parameter:
    """Make an option as typer takes it: a word, a number, a switch, or a text that is parsed."""
    about = option.metadata
    shown = typer.Option(
        f"--{option.name.replace('_', '-')}",
        help=about["brief"],
        metavar=about.get("metavar"),
        min=about.get("least"),
        max=about.get("most"),
    )
    read = str | None if "parse" in about else kind
    return inspect.Parameter(option.name, place, default=option.default, annotation=Annotated[read, shown])


def _value(option: Field[Any], given: Any) -> Any:
    return option.metadata["parse"](given) if "parse" in option.metadata and given is not None else given


class PairsCommand(Command):
    """Lets `--prompt IMAGE MASK` come several times: typer takes lists, and it takes pairs, but no lists of pairs.

    An option is one of those when its metavar is two words.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the two words of each pair, and parse on."""
        options = (each for each in self.params if len((getattr(each, "metavar", None) or "").split()) == 2)
        paired = {name: str(each.metavar) for each in options for name in each.opts if name.startswith("-")}
        try:
            single = _one_by_one(args, paired)
        except ValueError as error:
            ctx.fail(str(error))
        return super().parse_args(ctx, single)


def _one_by_one(arguments: Sequence[str], paired: Mapping[str, str]) -> list[str]:
    """Write `--prompt IMAGE MASK` as `--prompt=IMAGE --prompt=MASK`, up to a lone `--`.

    Args:
        paired: The names of such options, and what their two values are called.

    Raises:
        ValueError: For half a pair.
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


def ensembles_of(text: str) -> list[Ensemble]:
    """Read names of ensembles with commas between."""
    known: tuple[Ensemble, ...] = ("feature", "spatial")
    asked = names(text)
    if not set(asked) <= set(known) or len(set(asked)) < len(asked):
        raise ValueError(f"expected --ensembles as feature, spatial, or both with a comma; got {text!r}")
    return [each for each in known if each in asked]
