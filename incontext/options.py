"""The options that users choose, declared once: their words, what these may be, their defaults, what people read.

A new option of a segmentation is a field of `SegmentOptions`, a key of `SegmentKeywords`, and what it does where
`Segmenter.prepare` is. Python callers, the command line, folder jobs, Ray, the page, tracking and evaluation take it
from here: they pass the value on, or its keywords. Refuses to know PyTorch, typer and what any option does, so that
help costs no import.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Final, Literal, TypedDict, TypeVar, cast, get_args, get_type_hints

from incontext.words import did_you_mean

Ensemble = Literal["auto", "feature", "spatial"]
Task = Literal["instance", "semantic"]
Tiles = int | Literal["auto"] | None
BatchSize = int | Literal["auto"]
DeviceName = str
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
Policy = Literal["recent", "spaced", "confident"]
Start = Literal["best", "mean", "noise"]
TrainingDtype = Literal["auto", "bfloat16", "float32"]
Layout = Literal["incontext", "published", "transformers"]
StoredDtype = Literal["float32", "float16", "bfloat16"]
Export = Literal["coco-video", "mot", "mots"]
RunnerName = Literal["local", "ray"]

LEAST_TILES: Final = 16  # pixels along a side of a window

_Function = TypeVar("_Function", bound=Callable[..., Any])


def tiles_of(text: str) -> Tiles:
    """Read the size of windows as people write it on a command line: "auto", or a number of pixels.

    Raises:
        ValueError: it is neither.
    """
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text) >= LEAST_TILES):
        raise ValueError(f"expected --tiles as auto or a number of at least {LEAST_TILES} pixels, got {text!r}")
    return int(text)


def _about(doc: str, brief: str, **more: Any) -> dict[str, Any]:
    """Gather what is said of an option.

    Args:
        doc: What Python's documentation says.
        brief: What the command line's help says.
        **more: For the latter its `metavar`, the `least` and `most` number, and how to `parse` what is no plain number,
            word or switch.
    """
    return {"doc": doc, "brief": brief, **more}


@dataclass(frozen=True)
class SegmentOptions:
    """How queries are segmented by a context. Frozen, checked when made; the same for all queries of a job."""

    ensemble: Ensemble = field(
        default="auto",
        metadata=_about(
            'How several prompts become one answer: "feature" averages the query inside every block; "spatial" tiles '
            "up to 16 prompts into a mosaic, several mosaics being averaged (arXiv 2304.03284, section 3.3); "
            '"auto" is what measured best.',
            "Several prompts: averaged inside the network (feature), or tiled into one image (spatial).",
        ),
    )
    task: Task = field(
        default="instance",
        metadata=_about(
            '"instance" or "semantic": which type token is added.',
            "Whether the ids are objects or kinds of things.",
        ),
    )
    side: int | None = field(
        default=None,
        metadata=_about(
            "Pixels along a side of the squares that the network sees, a multiple of its patch; None is what the "
            "weights were made for.",
            "Pixels along a side of what the network sees. Default: as trained.",
            least=1,
        ),
    )
    tiles: Tiles = field(
        default=None,
        metadata=_about(
            "Pixels along a side of overlapping windows, to which larger queries are cut, and prompts around what they "
            'mark, so that small things are seen; "auto" chooses by what the prompts mark, None sees queries whole.',
            "Segment large images in overlapping windows of so many pixels, by examples cut to such windows, so that "
            "small things are seen. auto: by the size of what the examples mark.",
            metavar="auto|PIXELS",
            parse=tiles_of,
        ),
    )
    refine: bool = field(
        default=False,
        metadata=_about(
            "Let edges follow those of the photograph.",
            "Let edges follow those of the photograph.",
        ),
    )

    def __post_init__(self) -> None:
        for name, words in (("ensemble", Ensemble), ("task", Task)):
            known = get_args(words)
            if getattr(self, name) not in known:
                listed = f"{', '.join(known[:-1])} or {known[-1]}"
                given = getattr(self, name)
                raise ValueError(f"expected {name} {listed}, got {given!r}{did_you_mean(str(given), known)}")
        usable = isinstance(self.tiles, int) and not isinstance(self.tiles, bool) and self.tiles >= LEAST_TILES
        if self.tiles not in (None, "auto") and not usable:
            raise ValueError(f'expected tiles as "auto" or at least {LEAST_TILES} pixels, got {self.tiles!r}')

    def keywords(self) -> SegmentKeywords:
        """Give all of them as keywords of functions that take these."""
        return cast("SegmentKeywords", asdict(self))

    def plain(self) -> dict[str, object]:
        """Give all of them by name, in values that JSON holds."""
        return asdict(self)


DEFAULTS: Final = SegmentOptions()


@dataclass(frozen=True)
class LoadOptions:
    """Which weights are loaded, where they run and how precisely: what `engine.load` takes, as users give it."""

    weights: str = field(
        default="default",
        metadata=_about(
            "A name of the registry, or a path.",
            "A name that `incontext weights list` knows, or a file.",
            metavar="NAME|PATH",
        ),
    )
    device: DeviceName = field(
        default="auto", metadata=_about("The PyTorch device.", '"auto", "cpu", "cuda", "cuda:1", "mps".')
    )
    dtype: DtypeName = field(
        default="auto",
        metadata=_about(
            "The precision.",
            "auto: bfloat16 where the hardware multiplies it, else float32. float32 is exact.",
        ),
    )
    min_presence: float | None = field(
        default=None,
        metadata=_about(
            "0..1; ids that are less likely to be in a query at all are left out of its mask; None is 0.3.",
            "Leave out ids that are less likely than this to be in an image at all; 0 leaves out none.",
            metavar="0..1",
            least=0.0,
            most=1.0,
        ),
    )
    backbone: str | None = field(
        default=None,
        metadata=_about(
            "A frozen network whose features vote beside ours; None: ours decides alone.",
            'A second opinion: a network whose features vote, too. "timm:NAME", a folder that timm saved, or '
            '"efficientnet-lite2". Nothing is downloaded: see `incontext weights download`.',
            metavar="NAME|PATH",
        ),
    )


LOADING: Final = LoadOptions()


class SegmentKeywords(TypedDict, total=False):
    """The fields of `SegmentOptions` as keywords, for type checkers: a test holds the two together."""

    ensemble: Ensemble
    task: Task
    side: int | None
    tiles: Tiles
    refine: bool


def declared(kind: type[SegmentOptions | LoadOptions] = SegmentOptions) -> list[tuple[Field[Any], Any]]:
    """List the options of a kind, with the types of their values."""
    types = get_type_hints(kind)
    return [(each, types[each.name]) for each in fields(kind)]


def takes_options(function: _Function) -> _Function:
    """Decorate a function that takes ``**options: Unpack[SegmentKeywords]``: `help` then shows each with its default.

    The signature gets a keyword for each option, and the docstring what it means.
    """
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    keywords = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
        for each, _ in declared()
    ]
    lines = [f"{each.name}: {each.metadata['doc']}" for each, _ in declared()]
    shown = "\n".join(textwrap.fill(line, 100, initial_indent="    ", subsequent_indent="        ") for line in lines)
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n{shown}\n"
    function.__signature__ = signature.replace(parameters=[*own, *keywords])  # type: ignore[attr-defined]
    return function


def told_otherwise(decided: SegmentOptions, asked: Mapping[str, object]) -> str | None:
    """Say in which option a caller asks for something else than was decided; None where in none.

    What is None, which stands for a default, is no wish.
    """
    for name, value in asked.items():
        if value is not None and value != (own := getattr(decided, name)):
            return f"expected {name}={own!r}, for which the context was prepared, got {value!r}"
    return None
