"""How help looks and how wrong words are met: plain names of values, options in groups, commands in the order of use.

Typer shows a value's Python type (`<list[str]>`) and options in one list; here a value is called by what it is (FOLDER,
NUMBER), and options stand under what they are about. Refuses to know what any command does.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from incontext.words import did_you_mean

_Function = TypeVar("_Function", bound=Callable[..., Any])

FIND: Final = "What to find"
WRITE: Final = "What to write"
RUN: Final = "How to run"
REST: Final = "Options"

# Which group an option belongs to, by its name, which means the same in every command.
_GROUPS: Final[Mapping[str, frozenset[str]]] = {
    FIND: frozenset(
        {
            *(
                "prompt",
                "prompts",
                "prompt_tensor",
                "hints",
                "mask",
                "masks",
                "text",
                "prompter",
                "examples",
                "min_score",
                "points",
            ),
            *("ensemble", "task", "side", "tiles", "refine", "min_presence", "backbone", "snap_colors", "pages"),
            *("memory", "policy", "start", "stop", "every", "names", "point", "not_", "box", "refer"),
        }
    ),
    WRITE: frozenset(
        {
            *("out", "overlay", "save_confidence", "save_hints", "per_tar", "format", "formats", "instances"),
            *("smallest", "export", "exports", "top", "to", "images", "report", "write_episodes"),
        }
    ),
    RUN: frozenset(
        {
            *("weights", "device", "dtype", "batch_size", "runner", "workers", "address", "resume", "watch"),
            *("dry_run", "strict", "seed", "save_minutes", "state_mib", "shard"),
        }
    ),
}
# The commands in the order in which people meet them.
_SECTIONS: Final = {
    "Start here": ("demo", "segment", "track", "ui"),
    "Prepare examples": ("mark", "propose", "rank", "tune"),
    "Files": ("convert", "name"),
    "Weights, training, figures": ("weights", "prompters", "tune-namer", "backbone", "train", "evaluate", "bench"),
}
_MORE: Final = "More"


class Command(TyperCommand):
    """A command whose help has groups of options, and which suggests a word in place of a wrong one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for each in self.params:
            _name_value(each)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options by group."""
        _write_options(self.get_params(ctx), ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Write the line of usage with the arguments' names alone."""
        named = [_called(each) for each in self.get_params(ctx) if each.param_type_name == "argument"]
        return [self.options_metavar or "", *named]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and suggest a choice in place of a word that is none."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            words = _choices(error.param)
            given = next((word for word in _quoted(error.message) if word not in words), None)
            if words and given is not None:
                error.message = error.message.rstrip(".") + did_you_mean(given, words)
            raise


class Group(TyperGroup):
    """A group whose help lists the commands in the order of use, each with its whole first sentence."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the commands."""
        _write_options(self.get_params(ctx), ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under what they are about; in the order of their making where nothing says otherwise."""
        known = {name: each for name in self.list_commands(ctx) if (each := self.get_command(ctx, name)) is not None}
        sections = _SECTIONS if known.keys() & set(_SECTIONS["Start here"]) else {}
        listed = {title: [name for name in names if name in known] for title, names in sections.items()}
        rest = [name for name in known if not any(name in names for names in listed.values())]
        for title, names in (*listed.items(), (_MORE if listed else "Commands", rest)):
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name, _first_sentence(known[name].help or "")) for name in names])


class Program(typer.Typer):
    """A typer program whose commands are :class:`Command` and whose groups are :class:`Group`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=Group, **settings)

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = Command, **settings: Any
    ) -> Callable[[_Function], _Function]:
        """Register a command, of that class."""
        return super().command(name, cls=cls, **settings)


def _name_value(parameter: Any) -> None:
    """Name what a parameter takes, where its declaration does not."""
    if parameter.metavar is not None or getattr(parameter, "is_flag", False):
        return
    if words := _choices(parameter):
        parameter.metavar = "|".join(words)
        return
    kind = parameter.type_descriptor.annotation
    kinds = {kind, *get_args(kind)}
    if parameter.param_type_name == "argument":
        parameter.metavar = str(parameter.name).upper()
    elif kinds & {int}:
        parameter.metavar = "INTEGER"
    elif kinds & {float}:
        parameter.metavar = "NUMBER"
    else:
        parameter.metavar = "PATH" if kinds & {Path} else "TEXT"


def _choices(parameter: Any) -> list[str]:
    choices = getattr(getattr(parameter, "type_descriptor", None), "choices", None) or ()
    return [str(getattr(each, "value", each)) for each in choices]


def _called(argument: Any) -> str:
    """Write an argument as the line of usage has it: INPUT..., [DATA]..."""
    name = argument.metavar if argument.required else f"[{argument.metavar}]"
    return str(name) + ("..." if argument.nargs != 1 else "")


def _write_options(parameters: Sequence[Any], ctx: Any, formatter: Any) -> None:
    arguments: list[tuple[str, str]] = []
    groups: dict[str, list[tuple[str, str]]] = {FIND: [], WRITE: [], RUN: [], REST: []}
    for each in parameters:
        record = each.get_help_record(ctx)
        if record is None:
            continue
        if each.param_type_name == "argument":
            arguments.append((str(each.metavar), record[1]))
        else:
            group = next((title for title, names in _GROUPS.items() if each.name in names), REST)
            groups[group].append(record)
    if sum(map(len, groups.values())) - len(groups[REST]) < 4:  # a handful needs no order
        groups = {REST: [row for rows in groups.values() for row in rows]}
    for title, rows in {"Arguments": arguments, **groups}.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


def _first_sentence(text: str) -> str:
    """Take the first sentence of a help text, whole."""
    paragraph = " ".join(text.split("\n\n", 1)[0].split())
    end = paragraph.find(". ")
    return paragraph if end < 0 else paragraph[: end + 1]


def _quoted(text: str) -> list[str]:
    """Find the words between single quotes."""
    return text.split("'")[1::2]
