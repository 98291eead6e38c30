"""`incontext mark`: a mask of one image by hints."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from incontext.cli.options import (
    Examples,
    ExamplesFolder,
    MinScore,
    PairsCommand,
    PrompterName,
    PromptTensors,
    SnapColors,
    Text,
    app,
    decimals,
    pairs_of,
    strictly,
    with_options,
)
from incontext.options import DEFAULTS, LOADING, LoadOptions, SegmentOptions

if TYPE_CHECKING:
    from incontext.hints import Hints
    from incontext.types import Segmentation


@app.command(cls=PairsCommand)
@strictly
@with_options()
def mark(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="MASK", help="The mask, an indexed PNG.")],
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            metavar="X,Y[,ID]",
            help="A pixel of the thing, from 0,0 in the upper left corner. May be given several times.",
        ),
    ] = None,
    not_: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="X,Y", help="A pixel that is not of it. May be given several times."),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box",
            metavar="LEFT,TOP,RIGHT,BOTTOM[,ID]",
            help="A box that all of the thing is in. May be given several times.",
        ),
    ] = None,
    hints: Annotated[
        Path | None,
        typer.Option("--hints", metavar="FILE", help="Hints as JSON, beside those of the other options."),
    ] = None,
    prompt: Examples = None,
    prompts: ExamplesFolder = None,
    prompt_tensor: PromptTensors = None,
    prompter: PrompterName = None,
    text: Text = None,
    min_score: MinScore = None,
    refer: Annotated[
        str | None, typer.Option("--refer", metavar="PHRASE", help="The one thing that the prompter looks for.")
    ] = None,
    save_hints: Annotated[
        Path | None, typer.Option("--save-hints", metavar="FILE", help="Write all that was said as JSON.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option("--overlay", metavar="FILE", help="Also write the image under its coloured mask.")
    ] = None,
    snap_colors: SnapColors = False,
    options: SegmentOptions = DEFAULTS,
    loading: LoadOptions = LOADING,
) -> None:
    """Find a thing in an image by what you say of it: pixels of it, pixels that are not, a box.

    No example is needed.

    The mask is then an example for others: incontext segment FOLDER --prompt IMAGE MASK -o MASKS
    """
    from incontext.examples import open_context
    from incontext.hints import Hints
    from incontext.images.read import read_image
    from incontext.images.write import refuse_unwritable, write_image

    # What a user can get wrong is found before the weights are loaded.
    said = hints_of(point or [], not_ or [], box or [])
    if hints is not None:
        said = Hints.load(hints) if said is None else Hints.load(hints) + said
    _refuse_misfits(said, prompter, text, refer, min_score, examples=bool(prompt or prompts or prompt_tensor))
    if save_hints is not None and said is None:
        raise ValueError("expected hints to save with --save-hints, got none")
    pixels = read_image(image)
    if said is not None:
        said.check((pixels.shape[0], pixels.shape[1]))
    given = open_context(pairs_of(prompt), prompts, prompt_tensor or [], snap=snap_colors, needed=False)
    for path in (out, save_hints, overlay):
        if path is not None:
            refuse_unwritable(path.parent)

    if prompter is not None:
        from incontext.prompting import open_prompter

        with open_prompter(prompter, loading, min_score=min_score) as opened:
            asked = partial(opened.segment, hints=said, text=text or None)
            found = asked(pixels) if refer is None else opened.refer(pixels, refer)
    else:
        from incontext.engine import load_with

        found = load_with(loading).segment(pixels, given.context or None, hints=said, **options.keywords())
    out.parent.mkdir(parents=True, exist_ok=True)
    found.save(out)
    if save_hints is not None and said is not None:
        said.save(save_hints)
    if overlay is not None:
        write_image(overlay, found.overlay(pixels))
    print(told(image, out, found))


def _refuse_misfits(
    said: "Hints | None",
    prompter: str | None,
    text: list[str] | None,
    refer: str | None,
    min_score: float | None,
    *,
    examples: bool,
) -> None:
    if (text or refer is not None) and prompter is None:
        raise ValueError("expected --prompter with --text and --refer, got none; incontext prompters list shows them")
    if min_score is not None and not text and refer is None:
        raise ValueError("expected --min-score beside --text or --refer, got it alone")
    if said is None and not text and refer is None:
        raise ValueError("expected something said of the image, got nothing; give --point X,Y, --box, or --hints FILE")
    if refer is not None and (text or said is not None):
        raise ValueError("expected --refer alone, got --text or hints beside it")
    if prompter is not None and examples:
        raise ValueError("expected --prompter without examples, got --prompt, --prompts or --prompt-tensor beside it")


def hints_of(points: Sequence[str], negative: Sequence[str], boxes: Sequence[str]) -> "Hints | None":
    """Read hints as people write them on a command line; None where there are none.

    Raises:
        ValueError: one is no such hint.
    """
    from incontext.hints import Hints

    marks = [(*_numbers("--point", each, 2), _id("--point", each, 2)) for each in points]
    marks += [(*_numbers("--not", each, 2), 0) for each in negative]
    areas = [(*_numbers("--box", each, 4), _id("--box", each, 4)) for each in boxes]
    return Hints(points=marks, boxes=areas) if marks or areas else None


def _numbers(option: str, text: str, count: int) -> list[float]:
    numbers = decimals(option, text)
    most = count if option == "--not" else count + 1
    if not count <= len(numbers) <= most:
        form = {"--point": "X,Y or X,Y,ID", "--not": "X,Y", "--box": "LEFT,TOP,RIGHT,BOTTOM, perhaps with ,ID"}[option]
        raise ValueError(f"expected {option} as {form}, got {text!r}")
    return numbers[:count]


def _id(option: str, text: str, count: int) -> int:
    numbers = decimals(option, text)
    i = numbers[count] if len(numbers) > count else 1
    if i != int(i):
        raise ValueError(f"expected {option} with a whole number as its id, got {text!r}")
    return int(i)


def told(image: Path, out: Path, found: "Segmentation") -> str:
    """Say what was found, and what the mask is good for."""
    if found.is_empty:
        return f"Nothing found; {out} is empty. Say more of the thing, or where it is not."
    shares = ", ".join(f"{i}: {(found.mask == i).mean():.1%}" for i in found.ids)
    return f"{out}: {shares} of the image. To find the like: incontext segment FOLDER --prompt {image} {out} -o MASKS"
