"""`incontext track`."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from incontext.cli.options import (
    Device,
    Dtype,
    MinPresence,
    PairsCommand,
    PromptTensors,
    Side,
    SnapColors,
    Task,
    Weights,
    app,
    names,
)
from incontext.progress import ProgressLine

if TYPE_CHECKING:
    from incontext.examples import OpenedPrompts
    from incontext.video.exports import Export
    from incontext.video.frames import Mark
    from incontext.video.job import Progress, TrackReport

PolicyName = Literal["recent", "spaced", "confident"]

_TOLD = ("weights_sha256", "incontext")  # what a Segmenter does not say of itself
_MOST_SPANS = 5  # in which an object was lost, told one by one


@app.command(cls=PairsCommand)
def track(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="A video, a folder of frames in natural order, or an animated image."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder for results; made if need be. An unfinished run is gone on with."),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask", metavar="MASK", help="The objects to follow, marked in the first frame of those tracked."
        ),
    ] = None,
    prompt_frame: Annotated[
        Path | None,
        typer.Option("--prompt-frame", metavar="IMAGE", help="The picture that --mask belongs to, if it is another."),
    ] = None,
    mask_at: Annotated[
        list[str] | None,
        typer.Option(
            "--mask-at",
            metavar="NUMBER MASK",
            help="A mask of a later frame, counted from 0 in INPUT: its objects are added, or corrected from there on. "
            "May be given several times.",
        ),
    ] = None,
    prompt: Annotated[
        list[Path] | None,
        typer.Option(
            "--prompt",
            metavar="IMAGE MASK",
            help="An example from another picture, in place of --mask or beside it. May be given several times.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FOLDER|FILE", help="More examples, as `incontext segment` takes them."),
    ] = None,
    prompt_tensor: PromptTensors = None,
    memory: Annotated[
        int, typer.Option("--memory", min=0, help="Predicted frames to remember at most. 0: only what was given.")
    ] = 4,
    policy: Annotated[
        PolicyName,
        typer.Option("--policy", help="Which of them: the last, evenly spread ones, or the surest."),
    ] = "spaced",
    start: Annotated[
        str, typer.Option("--from", metavar="FRAME", help='The first frame to track: its number, or a time, "12.5s".')
    ] = "0",
    stop: Annotated[
        str | None, typer.Option("--to", metavar="FRAME", help="The first that is tracked no more. Default: the end.")
    ] = None,
    every: Annotated[int, typer.Option("--every", min=1, metavar="N", help="Only each Nth frame from there on.")] = 1,
    weights: Weights = "default",
    device: Device = "auto",
    dtype: Dtype = "auto",
    task: Task = "instance",
    side: Side = None,
    min_presence: MinPresence = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME,...",
            help="Write the tracks in other layouts, too: coco-video, mot, mots; several with commas.",
        ),
    ] = None,
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="Write overlay.mp4.")] = True,
    snap_colors: SnapColors = False,
) -> None:
    """Follow objects through a video, from a mask of its first frame (--mask) or from examples (--prompt, --prompts,
    --prompt-tensor).

    Writes masks/, an indexed PNG for each frame; overlay.mp4; sheet.jpg; and tracks.json, which says where each object
    is and where it was lost. Stop with Ctrl-C; the same command goes on where the last state was saved.
    """
    from incontext.prompt_tensor import PromptTensor
    from incontext.video.job import track_job
    from incontext.video.plan import plan_track

    # What a user can get wrong is found before the weights are loaded.
    pairs = list(zip((prompt or [])[::2], (prompt or [])[1::2], strict=True))
    if prompt_frame is not None:
        if mask is None:
            raise ValueError("expected --mask with --prompt-frame, got none; give the mask of that picture")
        pairs, mask = [(prompt_frame, mask), *pairs], None
    opened = _opened(pairs, prompts, snap=snap_colors)
    job = plan_track(
        source,
        out,
        mask=mask,
        masks=_masks_at(mask_at or []),
        prompts=() if opened is None else opened.prompts,
        prompt_files=() if opened is None else opened.pairs,
        prompt_tensors=[PromptTensor.load(path) for path in prompt_tensor or []],
        memory=memory,
        policy=policy,
        task=task,
        side=side,
        start=_mark("--from", start),
        stop=None if stop is None else _mark("--to", stop),
        every=every,
        overlay=overlay,
        exports=_exports(formats),
        snap=snap_colors,
    )

    from incontext.cli.evaluate import describe
    from incontext.engine import load

    segmenter = load(weights, device=device, dtype=dtype, min_presence=min_presence)
    about = {name: value for name, value in describe(segmenter, weights, task, side).items() if name in _TOLD}
    done, told = 0, False
    with ProgressLine("frames", None) as progress:

        def tell(now: "Progress") -> None:
            nonlocal done, told
            done = now.done
            if not now.again:
                progress.update(now.done, total=now.total)
            elif not told:
                told = True
                progress.say("Going on with what an earlier run left unfinished; its frames are drawn once more.")

        try:
            report = track_job(segmenter, job, about=about, on_frame=tell)
        except KeyboardInterrupt:
            progress.say(f"Stopped after {done} frames; the same command goes on from there.")
            raise typer.Exit(130) from None
    _print(report)
    if report.problems:
        for problem in report.problems:
            progress.say(f"Not read: {problem}")
        raise typer.Exit(1)


def _exports(text: str | None) -> "list[Export]":
    from incontext.video.exports import FILES

    asked = [] if text is None else names(text)
    if not set(asked) <= set(FILES):
        raise ValueError(f"expected --format out of {', '.join(FILES)}, several with commas; got {text!r}")
    return [each for each in FILES if each in asked]


def _opened(pairs: list[tuple[Path, Path]], source: Path | None, *, snap: bool) -> "OpenedPrompts | None":
    from incontext.cli.segment import tell_about_empty
    from incontext.examples import gather, open_prompts

    if not pairs and source is None:
        return None
    opened = open_prompts(gather(pairs, source), snap=snap)
    tell_about_empty(opened)
    return opened


def _masks_at(values: list[str]) -> dict[int, Path]:
    """NUMBER, MASK, NUMBER, MASK ... -> masks by their frames' numbers."""
    masks: dict[int, Path] = {}
    for number, path in zip(values[::2], values[1::2], strict=True):
        if not (number.isascii() and number.isdigit()):
            raise ValueError(f"expected --mask-at with a frame's number, counted from 0, and a mask; got {number!r}")
        if int(number) in masks:
            raise ValueError(f"expected one mask of frame {int(number)}, got two; put all of its objects into one")
        masks[int(number)] = Path(path)
    return masks


def _mark(option: str, text: str) -> "Mark":
    """ "300" -> frame 300; "12.5s" -> the time."""
    try:
        number = float(text.removesuffix("s"))
        if number >= 0 and (text.endswith("s") or (text.isascii() and text.isdigit())):
            return timedelta(seconds=number) if text.endswith("s") else int(text)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f'expected {option} as a frame\'s number, or a time such as "12.5s"; got {text!r}')


def _print(report: "TrackReport") -> None:
    print(f"{report.frames} masks in {report.out / 'masks'} ({report.frames_per_second:.1f} frames/s)")
    for each in report.objects:
        spans = [f"{first}-{last}" if last > first else f"{first}" for first, last in each.lost]
        more = f" and {len(spans) - _MOST_SPANS} more times" if len(spans) > _MOST_SPANS else ""
        lost = f", lost in {', '.join(spans[:_MOST_SPANS])}{more}" if spans else ""
        print(f"object {each.id}: found in {each.frames} frame{'' if each.frames == 1 else 's'}{lost}")
