"""`incontext track`."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from incontext.cli.marking import prompting_of
from incontext.cli.options import (
    Examples,
    ExamplesFolder,
    MinScore,
    PairsCommand,
    PrompterName,
    PromptTensors,
    SnapColors,
    Strict,
    Text,
    app,
    names,
    pairs_of,
    strictly,
    with_options,
)
from incontext.options import DEFAULTS, LOADING, Export, LoadOptions, Policy, SegmentOptions
from incontext.progress import ProgressLine
from incontext.words import counted, did_you_mean

if TYPE_CHECKING:
    from incontext.engine import Segmenter
    from incontext.hints import Hints
    from incontext.prompting import Prompting
    from incontext.video.frames import Mark
    from incontext.video.job import TrackProgress, TrackReport
    from incontext.video.plan import TrackJob

_MOST_SPANS = 5  # in which an object was lost, told one by one


@app.command(cls=PairsCommand)
@strictly
@with_options()
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
        typer.Option("--prompt-frame", metavar="IMAGE", help="The image that --mask belongs to, if it is another."),
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
    prompt: Examples = None,
    prompts: ExamplesFolder = None,
    prompt_tensor: PromptTensors = None,
    text: Text = None,
    prompter: PrompterName = None,
    min_score: MinScore = None,
    hints: Annotated[
        Path | None,
        typer.Option(
            "--hints",
            metavar="FILE",
            help="What is said of frames, as JSON by their numbers, counted from 0 in INPUT: {NUMBER: {points: "
            "[[x, y, id]], boxes: [[left, top, right, bottom, id]], ...}}. Objects are corrected from there on, new "
            "ones added; on the first frame they do in place of --mask.",
        ),
    ] = None,
    memory: Annotated[
        int, typer.Option("--memory", min=0, help="Predicted frames to remember at most. 0: only what was given.")
    ] = 4,
    policy: Annotated[
        Policy,
        typer.Option("--policy", help="Which of them: the last, evenly spread ones, or the surest."),
    ] = "spaced",
    start: Annotated[
        str, typer.Option("--from", metavar="FRAME", help='The first frame to track: its number, or a time, "12.5s".')
    ] = "0",
    stop: Annotated[
        str | None, typer.Option("--to", metavar="FRAME", help="The first that is tracked no more. Default: the end.")
    ] = None,
    every: Annotated[int, typer.Option("--every", min=1, metavar="N", help="Only each Nth frame from there on.")] = 1,
    strict: Strict = False,
    options: SegmentOptions = DEFAULTS,
    loading: LoadOptions = LOADING,
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
    """Follow objects through a video.

    They are shown by a mask of its first frame (--mask), by hints on it (--hints), by a text for which another model
    marks it (--text, --prompter), or by examples (--prompt, --prompts, --prompt-tensor). Writes masks/, an indexed PNG
    for each frame; overlay.mp4; sheet.jpg; and tracks.json, which says where each object is and where it was lost. Stop
    with Ctrl-C; the same command goes on where the last state was saved.
    """
    from incontext.engine import load_with
    from incontext.examples import open_context
    from incontext.video.plan import plan_track

    # What a user can get wrong is found before the weights are loaded.
    pairs, first = pairs_of(prompt), mask
    if prompt_frame is not None:
        if mask is None:
            raise ValueError("expected --mask with --prompt-frame, got none; give the mask of that image")
        pairs, first = [(prompt_frame, mask), *pairs], None
    prompting = prompting_of(prompter, text, min_score)
    if prompting is not None and mask is not None:
        raise ValueError("expected --mask or --text for the first frame, got both; leave one out")
    given = open_context(pairs, prompts, prompt_tensor or [], snap=snap_colors, needed=False)
    checked = partial(
        plan_track,
        source,
        out,
        masks=masks_at(mask_at or []),
        hints=None if hints is None else hints_at(hints),
        prompts=given.prompts,
        prompt_files=given.pairs,
        prompt_tensors=given.prompt_tensors,
        memory=memory,
        policy=policy,
        start=mark("--from", start),
        stop=None if stop is None else mark("--to", stop),
        every=every,
        overlay=overlay,
        exports=exports_of(formats),
        snap=snap_colors,
        **options.keywords(),
    )
    if prompting is None:
        job = checked(mask=first)
    else:
        when = {"start": mark("--from", start), "stop": None if stop is None else mark("--to", stop), "every": every}
        job = marked_first(prompting, source, out, loading, checked, **when)
    if not carry_out(load_with(loading), job, strict=strict):
        raise typer.Exit(1)


def marked_first(
    prompting: "Prompting",
    source: Path,
    out: Path,
    loading: LoadOptions,
    checked: "Callable[..., TrackJob]",
    **when: Any,
) -> "TrackJob":
    """Have the prompter mark the first frame, once everything else is known to be right; plan to follow that.

    checked: plans the job for a mask of the first frame.
    """
    import numpy as np

    from incontext.video.frames import open_frames
    from incontext.video.prompted import mark_first_frame

    with open_frames(source, **when) as frames:
        anything = np.ones(frames.size, np.uint8)
    checked(mask=anything)
    path = mark_first_frame(prompting, source, out, loading, **when)
    print(f"{path}: the first frame, by {prompting.prompter}")
    return checked(mask=path)


def carry_out(segmenter: "Segmenter", job: "TrackJob", *, strict: bool = False) -> bool:
    """Run a job, tell how it goes and what came of it; whether nothing was left out.

    Raises:
        typer.Exit: Ctrl-C ended it, with status 130.
        ValueError: Something was left out, and nothing may be; what was done is written.
    """
    from incontext.video.job import track_job

    done, told = 0, False
    with ProgressLine("frames", None) as progress:

        def tell(now: "TrackProgress") -> None:
            nonlocal done, told
            done = now.done
            if not now.again:
                progress.update(now.done, total=now.total)
            elif not told:
                told = True
                progress.say("Going on with what an earlier run left unfinished; its frames are drawn once more.")

        try:
            report = track_job(segmenter, job, on_frame=tell)
        except KeyboardInterrupt:
            progress.say(f"Stopped after {counted(done, 'frame')}; the same command goes on from there.")
            raise typer.Exit(130) from None
    print(*summary(report), sep="\n")
    print(f"{counted(report.frames, 'frame')}, {counted(len(report.objects), 'object')}{_left_out(report.problems)}")
    if strict and report.problems:
        raise ValueError(f"{report.problems[0]} (--strict)")
    for problem in report.problems:
        progress.say(f"Not read: {problem}")
    return not report.problems


def exports_of(text: str | None) -> list[Export]:
    """Read names of layouts with commas between."""
    from incontext.video.exports import FILES

    asked = [] if text is None else names(text)
    if not set(asked) <= set(FILES):
        told = f"{text!r}{did_you_mean(asked, FILES)}"
        raise ValueError(f"expected --format out of {', '.join(FILES)}, several with commas; got {told}")
    return [each for each in FILES if each in asked]


def hints_at(path: Path) -> "dict[int, Hints]":
    """Read hints by the numbers of frames."""
    from incontext.hint_files import load_many

    found = load_many(path)
    if strange := [name for name in found if not (name.isascii() and name.isdigit())]:
        raise ValueError(f"{path}: expected hints by the numbers of frames, counted from 0; got {strange[0]!r}")
    return {int(name): each for name, each in found.items()}


def masks_at(values: list[str]) -> dict[int, Path]:
    """Read NUMBER, MASK, NUMBER, MASK ... as masks by their frames' numbers."""
    masks: dict[int, Path] = {}
    for number, path in zip(values[::2], values[1::2], strict=True):
        if not (number.isascii() and number.isdigit()):
            raise ValueError(f"expected --mask-at with a frame's number, counted from 0, and a mask; got {number!r}")
        if int(number) in masks:
            raise ValueError(f"expected one mask of frame {int(number)}, got two; put all of its objects into one")
        masks[int(number)] = Path(path)
    return masks


def mark(option: str, text: str) -> "Mark":
    """Read "300" as frame 300, and "12.5s" as a time."""
    try:
        number = float(text.removesuffix("s"))
        if number >= 0 and (text.endswith("s") or (text.isascii() and text.isdigit())):
            return timedelta(seconds=number) if text.endswith("s") else int(text)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f'expected {option} as a frame\'s number, or a time such as "12.5s"; got {text!r}')


def _left_out(problems: tuple[str, ...]) -> str:
    return f", {len(problems)} left out" if problems else ""


def summary(report: "TrackReport") -> list[str]:
    """Say how many masks there are, and in which frames each object was lost."""
    lines = [f"{counted(report.frames, 'mask')} in {report.out / 'masks'} ({report.frames_per_second:.1f} frames/s)"]
    for each in report.objects:
        spans = [f"{first}-{last}" if last > first else f"{first}" for first, last in each.lost]
        more = f" and {len(spans) - _MOST_SPANS} more times" if len(spans) > _MOST_SPANS else ""
        lost = f", lost in {', '.join(spans[:_MOST_SPANS])}{more}" if spans else ""
        lines.append(f"object {each.id}: found in {each.frames} frame{'' if each.frames == 1 else 's'}{lost}")
    return lines
