"""A video benchmark asked of a tracker: its masks as files, the archive for the server, J and F where truth is there.

Refuses to know networks and layouts.
"""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from incontext.evaluation.metrics import Interval, interval, mean, resamples
from incontext.evaluation.pages.gallery import Shown, best_median_worst, overlaid
from incontext.evaluation.pages.video_report import sentences, tables
from incontext.evaluation.protocols.benchmarks import Benchmark
from incontext.evaluation.protocols.labels import read_labels
from incontext.evaluation.protocols.outcome import Figure, Outcome
from incontext.evaluation.protocols.video_data import Videos
from incontext.evaluation.video.clips import Clip
from incontext.evaluation.video.scoring import (
    ClipRecord,
    KnownClips,
    ObjectScore,
    VideoColumn,
    VideoMethod,
    VideoReport,
    evaluate_video,
)
from incontext.images.ids import IGNORED, Pixels
from incontext.images.masks import is_painted, read_mask
from incontext.images.read import read_image
from incontext.images.write import whole_file, write_mask
from incontext.types import Palette

MASKS: Final = "Annotations"  # the folder of answers, named as the servers and tools of the benchmarks expect it
ARCHIVE: Final = "submission.zip"
_COLUMNS: Final = ("what is given", "true mask", "answer", "")
_INSIDE: Final = {"youtube-vos": f"{MASKS}/", "mose": "", "davis-2016": "", "davis-2017": ""}
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # of files in archives: the same answers make the same archive


@dataclass
class Answers:
    """The masks that a method answers with, as files: OUT/Annotations/VIDEO/FRAME.png, indexed, in given colours.

    The colours are those of the given masks. They are `evaluate_video`'s ``on_answer``, and as `KnownClips` a record
    counts
    while its files are there.
    """

    out: Path
    videos: Videos
    known: KnownClips
    _colors: dict[str, Pixels] = field(default_factory=dict)

    def get(self, method: VideoMethod, clip: Clip) -> ClipRecord | None:
        """Return what was measured of the clip, if all its masks are still there."""
        there = all(self.path(clip, number).is_file() for number in self.videos.wanted[clip.name])
        return self.known.get(method, clip) if there else None

    def add(self, method: VideoMethod, clip: Clip, record: ClipRecord) -> None:
        """Keep a record; frames before the first object get empty masks."""
        for number in self.videos.wanted[clip.name]:
            if not (path := self.path(clip, number)).is_file():
                size = read_image(clip.frames[number]).shape[:2]
                self._write(path, clip, np.zeros(size, np.uint8))
        self.known.add(method, clip, record)

    def keep(self, _method: VideoMethod, clip: Clip, number: int, ids: Pixels) -> None:
        """Write the mask of a frame that is handed in."""
        if number in self.videos.wanted[clip.name]:
            self._write(self.path(clip, number), clip, ids)

    def path(self, clip: Clip, number: int) -> Path:
        """Find where the mask of a frame is."""
        return self.out / MASKS / clip.name / f"{clip.frames[number].stem}.png"

    def read(self, clip: Clip, number: int) -> Pixels:
        """Read the mask of a frame that was handed in, (H, W) uint8."""
        return read_labels(self.path(clip, number))

    def palette(self, clip: Clip) -> Pixels:
        """Give the colours of the clip's ids, (256, 3) uint8."""
        if clip.name not in self._colors:
            first = clip.masks[min(clip.masks)]
            file = read_mask(first)
            self._colors = {clip.name: Palette.spread(range(1, 255)).table}  # of one clip at a time
            if file.colors is not None and not is_painted(first):
                self._colors[clip.name] = file.colors
        return self._colors[clip.name]

    def _write(self, path: Path, clip: Clip, ids: Pixels) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, ids, self.palette(clip))


def write_archive(benchmark: Benchmark, answers: Answers) -> Path:
    """Write submission.zip as the benchmark's server takes it; the same masks make the same bytes.

    YouTube-VOS wants Annotations/VIDEO/FRAME.png, MOSE and DAVIS VIDEO/FRAME.png.
    """
    path = answers.out / ARCHIVE
    with whole_file(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:  # PNGs are packed
        for clip in answers.videos.clips:
            for number in answers.videos.wanted[clip.name]:
                file = answers.path(clip, number)
                name = f"{_INSIDE[benchmark.name]}{clip.name}/{file.name}"
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), file.read_bytes())
    return path


def run_video(
    method: VideoMethod, answers: Answers, *, on_frame: Callable[[int, int], None] | None = None
) -> VideoReport:
    """Let the method follow every clip, keep its masks, and score them where there is truth."""
    return evaluate_video([method], answers.videos.clips, journal=answers, on_frame=on_frame, on_answer=answers.keep)


# ------------------------------------------------------------------------------------------------- what comes of it


def video_outcome(benchmark: Benchmark, report: VideoReport, answers: Answers) -> Outcome:
    """Gather what to report: J&F, J and F over all objects, of YouTube-VOS G as well, and images of clips."""
    (column,) = report.columns
    shown = tuple(_gallery(report, answers))
    said = list(sentences(report))
    if column.j is None or column.f is None or column.j_and_f is None:
        said.append(
            f"No mask beyond those that introduce objects: hand in {ARCHIVE} to the server of {benchmark.title}."
        )
        figures: list[Figure] = []
    else:
        figures = [
            Figure("J&F", column.j_and_f, _interval(column, lambda each: (each.j.mean + each.f.mean) / 2)),
            Figure("J", column.j.mean, _interval(column, lambda each: each.j.mean)),
            Figure("F", column.f.mean, _interval(column, lambda each: each.f.mean)),
            *_overall(column, answers.videos),
        ]
    note = "By J&F of the clip; the first mask that is given, and a frame in the middle of those that are scored."
    return Outcome(
        benchmark,
        tuple(figures),
        tuple(tables(report)),
        report,
        tuple(said),
        shown,
        note,
        _COLUMNS,
        "J&F",
        "clips",
    )


def _interval(column: VideoColumn, of: Callable[[ObjectScore], float]) -> Interval:
    """Bootstrap a mean over objects: over clips, as objects of one clip fail together."""
    scored = [clip for clip in column.clips if clip.objects]
    sums = np.array([(sum(map(of, clip.objects)), len(clip.objects)) for clip in scored])
    totals = resamples(len(scored), 0) @ sums
    return interval(totals[:, 0] / totals[:, 1])


def _overall(column: VideoColumn, videos: Videos) -> Iterator[Figure]:
    """Compute G of YouTube-VOS: the mean of J and F of seen and of unseen categories, where both are there."""
    groups: defaultdict[bool, list[ObjectScore]] = defaultdict(list)
    for clip in column.clips:
        for each in clip.objects:
            category = videos.categories.get(clip.name, {}).get(each.id)
            if category is not None and videos.seen is not None:
                groups[category in videos.seen].append(each)
    figures = {
        f"{letter}, {'seen' if seen else 'unseen'}": mean(getattr(each, letter.lower()).mean for each in groups[seen])
        for seen in (True, False)
        if groups[seen]
        for letter in ("J", "F")
    }
    if len(figures) == 4:
        yield Figure("G", mean(figures.values()))
        yield from (Figure(name, value) for name, value in figures.items())


def _gallery(report: VideoReport, answers: Answers) -> Iterator[Shown]:
    """Show the best, the median and the worst clip; where nothing is scored, the first one."""
    clips = {clip.name: clip for clip in answers.videos.clips}
    scored = [score for score in report.columns[0].clips if score.j_and_f is not None and score.at]
    chosen: list[tuple[str, str, float | None, int]] = [
        (scored[place].name, rank, scored[place].j_and_f, scored[place].at[len(scored[place].at) // 2])
        for place, rank in (best_median_worst([each.j_and_f or 0.0 for each in scored]) if scored else ())
    ]
    if not chosen and (name := next(iter(clips), None)) is not None and answers.videos.wanted[name]:
        wanted = answers.videos.wanted[name]
        chosen = [(name, "not scored", None, wanted[len(wanted) // 2])]
    for name, rank, value, number in chosen:
        yield _shown(clips[name], rank, value, number, answers)


def _shown(clip: Clip, rank: str, value: float | None, number: int, answers: Answers) -> Shown:
    start = min(clip.masks)
    palette = Palette.spread(range(1, 255))
    image, given = clip.read(start)
    frame, truth = clip.read(number)
    answer = answers.read(clip, number)
    objects = f"{len(np.setdiff1d(np.unique(answer), [0]))} objects found"
    return Shown(
        answers.videos.split,
        rank,
        value,
        (clip.name, clip.frames[number].name, objects),
        (
            None if given is None else overlaid(image, given, palette),
            None if truth is None else overlaid(frame, truth, palette),
            overlaid(frame, answer, palette),
            None,
        ),
    )


# ------------------------------------------------------------------------------------------------- lists


def video_content(videos: Videos) -> dict[str, Any]:
    """Write what a list says of videos: each with the frame at which each object is given."""
    return {
        "split": videos.split,
        "clips": [
            {"name": clip.name, "objects": {str(i): clip.frames[n].stem for i, n in given_at(clip).items()}}
            for clip in videos.clips
        ],
    }


def given_at(clip: Clip) -> dict[int, int]:
    """Find the number of the frame at which each object of a clip is given."""
    found: dict[int, int] = {}
    for number in sorted(clip.masks):
        for i in set(np.unique(clip.ids(number)).tolist()) - {0, IGNORED, *found}:
            found[i] = number
        if found and not clip.late:
            break
    return found


def listed_videos(path: Path, document: Mapping[str, Any]) -> list[str]:
    """Read the names of the videos in a list.

    Raises:
        ValueError: It is none.
    """
    try:
        return [str(each["name"]) for each in document["clips"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected clips with names, got something else ({error!r})") from None


def check_given(path: Path, document: Mapping[str, Any], videos: Videos) -> None:
    """Look whether the data give the objects that a list says, at the frames that it says.

    Raises:
        ValueError: They do not.
    """
    listed = {str(each["name"]): each.get("objects", {}) for each in document["clips"]}
    for entry in video_content(videos)["clips"]:
        if entry["objects"] != listed[entry["name"]]:
            expected, came = listed[entry["name"]], entry["objects"]
            raise ValueError(f"{path}: expected the objects {expected} in {entry['name']}, the data give {came}")


def frames_in(videos: Videos) -> int:
    """Count how many frames are followed."""
    return sum(len(clip.frames) for clip in videos.clips)


def objects_in(clips: Sequence[Clip]) -> int:
    """Count the most objects that a clip gives."""
    return max((len(given_at(clip)) for clip in clips), default=0)
