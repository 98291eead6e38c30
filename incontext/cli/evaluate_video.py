"""`incontext evaluate video`: scores of tracking on videos with masks."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from incontext.cli.options import ReportFolder, evaluate_app, names, strictly, with_options
from incontext.identity import about, settings_of
from incontext.options import DEFAULTS, LOADING, LoadOptions, Policy, SegmentOptions
from incontext.progress import ProgressLine
from incontext.words import did_you_mean

if TYPE_CHECKING:
    from incontext.engine import Segmenter
    from incontext.evaluation.video.clips import Clip
    from incontext.evaluation.video.scoring import VideoMethod, VideoReport


@evaluate_app.command("video")
@strictly
@with_options()
def evaluate_video(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="DAVIS, a folder with JPEGImages, Annotations and ImageSets; or a folder of clips, each with frames/ "
            "and masks/, files of the same names.",
        ),
    ],
    memory: Annotated[
        str,
        typer.Option("--memory", metavar="N,...", help="Predicted frames to remember; several with commas."),
    ] = "4",
    policy: Annotated[
        str,
        typer.Option(
            "--policy", metavar="NAME,...", help="Which ones: recent, spaced, confident; several with commas."
        ),
    ] = "spaced",
    clips: Annotated[str | None, typer.Option("--clips", metavar="NAME,...", help="Only these clips.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Of DAVIS. Default: val.", show_default=False)
    ] = None,
    year: Annotated[
        int | None,
        typer.Option("--year", help="Of DAVIS: in 2016 all ids are one object. Default: the latest with the split."),
    ] = None,
    resolution: Annotated[
        str | None, typer.Option("--resolution", metavar="NAME", help="Of DAVIS. Default: 480p, if there.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many frames of each clip.")] = None,
    options: SegmentOptions = DEFAULTS,
    loading: LoadOptions = LOADING,
    out: ReportFolder = None,
) -> None:
    """Score J and F of objects followed through videos from their first masks, beside the mask copied: a table.

    By the definition of DAVIS. Masks that introduce objects are given to the tracker, the others are compared with its
    answers.
    """
    memories, policies = memories_of(memory), policies_of(policy)

    from incontext.engine import load_with
    from incontext.evaluation.pages.video_report import to_text, write_report
    from incontext.evaluation.video.clips import read_clips

    found = read_clips(
        data,
        names=None if clips is None else names(clips),
        split=split,
        year=year,
        resolution=resolution,
        limit=limit,
    )
    segmenter = load_with(loading)
    methods = _methods(segmenter, memories, policies, options)
    report = evaluated(segmenter, methods, found, options, out)
    print(to_text(report))
    if out is not None:
        write_report(out, report, {"data": str(data), **about(segmenter, options)})


def evaluated(
    segmenter: "Segmenter",
    methods: "Sequence[VideoMethod]",
    clips: "Sequence[Clip]",
    options: SegmentOptions,
    out: Path | None,
) -> "VideoReport":
    """Ask the methods beside the mask copied, and tell how it goes.

    Args:
        out: The folder that keeps what was measured.
    """
    from incontext.evaluation.video.scoring import COPY, VideoJournal, evaluate_video

    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    settings = settings_of(segmenter, options)
    with (
        nullcontext() if out is None else VideoJournal(out / "clips.jsonl", settings) as journal,
        ProgressLine("frames", None) as progress,
    ):
        return evaluate_video(
            [*methods, COPY],
            clips,
            journal=journal,
            on_frame=lambda done, total: progress.update(done, total=total),
        )


def memories_of(text: str) -> list[int]:
    """Read numbers of frames to remember, with commas between."""
    parts = names(text)
    if not all(part.isascii() and part.isdigit() for part in parts) or len({*map(int, parts)}) < len(parts):
        raise ValueError(
            f'expected --memory as different numbers of at least 0 with commas between, such as "0,4"; got {text!r}'
        )
    return [int(part) for part in parts]


def policies_of(text: str) -> list[Policy]:
    """Read names of policies, with commas between."""
    asked, known = names(text), get_args(Policy)
    if not set(asked) <= set(known) or len(set(asked)) < len(asked):
        told = ", ".join(asked) + did_you_mean(asked, known)
        raise ValueError(f"expected --policy out of {', '.join(known)}, each once; got {told}")
    return [each for each in known if each in asked]


def _methods(
    segmenter: "Segmenter", memories: list[int], policies: list[Policy], options: SegmentOptions
) -> "list[VideoMethod]":
    """Make a tracker for each memory and policy. Without memory there is nothing to choose, so that is asked once."""
    from incontext.evaluation.video.scoring import VideoMethod
    from incontext.video.tracker import Tracker

    def method(memory: int, policy: Policy, name: str) -> VideoMethod:
        return VideoMethod(name, lambda: Tracker(segmenter, memory=memory, policy=policy, **options.keywords()))

    made = []
    for memory in memories:
        if memory == 0:
            made.append(method(0, policies[0], "memory 0"))
        else:
            made += [method(memory, policy, f"memory {memory}, {policy}") for policy in policies]
    return made
