"""Video scores: a clip, the mask of what to follow, and the true masks of later frames.

Refuses to know networks and files of masks: `evaluate_video` scores whatever answers frame by frame, as
`incontext.Tracker` does, and shows it no mask but those that introduce objects.

The protocol is that of DAVIS for given first masks (arXiv 1704.00675). J and F are measured for each object
in each frame with a mask, at the frames' own size, ignored pixels (255) left out; neither the first such frame nor the
last counts. They are averaged over an object's frames, then over all objects of all clips. Where later masks introduce
objects, those are given at that frame, which then is not scored, as its mask need not show the others; where it does
(`Clip.whole`), it is scored for those.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from incontext.evaluation.few_shot.scoring import Answer
from incontext.evaluation.lines import Lines
from incontext.evaluation.metrics import mean
from incontext.evaluation.video.clips import Clip
from incontext.evaluation.video.davis import Statistics, boundary, region
from incontext.images.ids import IGNORED, Pixels

COPY_NAME = "copy the first mask"


class Follower(Protocol):
    """Answers the frames of one clip in their order, as `incontext.Tracker` does.

    step: a frame (H, W, 3) uint8 and, where objects are introduced, their mask (H, W) uint8 -> ids (H, W) of all.
    """

    def step(self, frame: Pixels, mask: Pixels | None = None, /) -> Answer:
        """Answer the next frame (H, W, 3) uint8, of which a mask (H, W) of ids may be given."""


@dataclass(frozen=True)
class VideoMethod:
    """Something that follows objects, and how reports call it.

    Attributes:
        start: Makes a fresh one for each clip.
    """

    name: str
    start: Callable[[], Follower]
    baseline: bool = False


class CopiedMask:
    """Every object stays where its mask was given."""

    def __init__(self) -> None:
        self._mask: Pixels | None = None

    def step(self, frame: Pixels, mask: Pixels | None = None, /) -> Pixels:
        """Answer with the masks that were given, whatever the frame shows."""
        known = np.zeros(frame.shape[:2], np.uint8) if self._mask is None else self._mask
        given = np.zeros_like(known) if mask is None else mask
        self._mask = np.where((given != 0) & (given != IGNORED), given, known)
        return self._mask


COPY = VideoMethod(COPY_NAME, CopiedMask, baseline=True)


@dataclass(frozen=True)
class ObjectRecord:
    """An object's measures: the numbers of the frames, and J and F in each of them, 0..1."""

    id: int
    frames: tuple[int, ...]
    j: tuple[float, ...]
    f: tuple[float, ...]


@dataclass(frozen=True)
class ClipRecord:
    """What was measured of a method on a clip.

    Attributes:
        frames, seconds: That it answered, and that it took, files left out.
    """

    frames: int
    seconds: float
    objects: tuple[ObjectRecord, ...]


class KnownClips(Protocol):
    """What is known of clips already, as `VideoJournal` keeps it."""

    def get(self, method: VideoMethod, clip: Clip, /) -> ClipRecord | None:
        """Return what is known of a clip by a method, if something is."""

    def add(self, method: VideoMethod, clip: Clip, record: ClipRecord, /) -> None:
        """Keep what was measured of a clip by a method."""


class VideoJournal:
    """Records by method and clip in a file (see `Lines`), so that a stopped evaluation goes on at the next clip."""

    def __init__(self, path: Path, settings: Mapping[str, object]) -> None:
        self._known: dict[tuple[str, str], ClipRecord] = {}
        self._lines = Lines(path, settings, self._take)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()

    def get(self, method: VideoMethod, clip: Clip) -> ClipRecord | None:
        """Return what was measured before on the same files, if it was."""
        return self._known.get((method.name, clip.digest()))

    def add(self, method: VideoMethod, clip: Clip, record: ClipRecord) -> None:
        """Keep a record, in the file too."""
        digest = clip.digest()
        self._known[method.name, digest] = record
        self._lines.add({"method": method.name, "clip": clip.name, "digest": digest, **asdict(record)})

    def _take(self, content: Mapping[str, Any]) -> None:
        objects = tuple(
            ObjectRecord(each["id"], tuple(each["frames"]), tuple(each["j"]), tuple(each["f"]))
            for each in content["objects"]
        )
        record = ClipRecord(content["frames"], content["seconds"], objects)
        self._known[content["method"], content["digest"]] = record


@dataclass(frozen=True)
class ObjectScore:
    """An object's measures over its frames, of which there are so many."""

    id: int
    frames: int
    j: Statistics
    f: Statistics


@dataclass(frozen=True)
class ClipScore:
    """The scores of a clip, means over its objects, 0..1; None where no mask but those that introduce objects exists.

    Attributes:
        frames: That were answered.
        frames_per_second: Of the method, decoding left out.
        at: The frames that are scored, and j_over_time: J in each of them, the mean over the objects.
    """

    name: str
    frames: int
    frames_per_second: float
    j: float | None
    f: float | None
    j_and_f: float | None
    objects: tuple[ObjectScore, ...]
    at: tuple[int, ...]
    j_over_time: tuple[float, ...]


@dataclass(frozen=True)
class VideoColumn:
    """The scores of a method: means over all objects of all clips, 0..1; None where nothing could be scored."""

    method: str
    baseline: bool
    objects: int
    j: Statistics | None
    f: Statistics | None
    j_and_f: float | None
    frames_per_second: float
    clips: tuple[ClipScore, ...]


@dataclass(frozen=True)
class VideoReport:
    """The scores of all methods on the same clips."""

    columns: tuple[VideoColumn, ...]

    @property
    def clip_names(self) -> tuple[str, ...]:
        """The names of the clips, in their order."""
        return tuple(clip.name for clip in self.columns[0].clips)

    @property
    def unscored(self) -> tuple[str, ...]:
        """The clips in which there is nothing to score."""
        return tuple(clip.name for clip in self.columns[0].clips if clip.j is None)


def evaluate_video(
    methods: Sequence[VideoMethod],
    clips: Sequence[Clip],
    *,
    journal: KnownClips | None = None,
    on_frame: Callable[[int, int], None] | None = None,
    on_answer: Callable[[VideoMethod, Clip, int, Pixels], None] | None = None,
) -> VideoReport:
    """Let every method follow the objects of every clip, and score its answers.

    Args:
        journal: What it knows is not measured again, and it gets what is new. on_frame(done, total) is called after
            each frame of each method, on_answer(method, clip, frame, ids) with each answer (H, W). Raises ValueError
            for a clip none of whose masks shows an object, and for an answer that has not the frame's size.
    """
    if not methods or not clips:
        raise ValueError("expected at least one method and one clip, got none")
    for repeated in ([method.name for method in methods], [clip.name for clip in clips]):
        if len(set(repeated)) < len(repeated):
            raise ValueError(f"expected each method and clip once, got {', '.join(repeated)}")
    total, done = len(methods) * sum(len(clip.frames) for clip in clips), 0
    records: dict[str, list[ClipRecord]] = {method.name: [] for method in methods}

    def tell(frames: int) -> None:
        nonlocal done
        done += frames
        if on_frame is not None:
            on_frame(done, total)

    for clip in clips:
        for method in methods:
            record = None if journal is None else journal.get(method, clip)
            if record is None:
                keep = None if on_answer is None else partial(on_answer, method, clip)
                record = follow(method, clip, on_frame=lambda: tell(1), on_answer=keep)
                if journal is not None:
                    journal.add(method, clip, record)
            else:
                tell(len(clip.frames))
            records[method.name].append(record)
    return VideoReport(tuple(_column(method, clips, records[method.name]) for method in methods))


@dataclass
class _Tally:
    """An object's measures so far."""

    frames: list[int] = field(default_factory=list)
    j: list[float] = field(default_factory=list)
    f: list[float] = field(default_factory=list)


def follow(
    method: VideoMethod,
    clip: Clip,
    *,
    on_frame: Callable[[], None] | None = None,
    on_answer: Callable[[int, Pixels], None] | None = None,
) -> ClipRecord:
    """Show a method the clip from the first frame on whose mask has an object, and measure what it answers.

    It gets each object's mask once, at the first frame that shows it, with other objects as background. on_frame() is
    called after each frame, on_answer(frame, ids) with each answer (H, W).
    """
    follower = method.start()
    tallies: dict[int, _Tally] = {}
    frames, seconds = 0, 0.0
    for number in range(len(clip.frames)):
        image, truth = clip.read(number)
        given = _introduced(truth, tallies, clip)
        new = set() if given is None else set(_ids(given))
        tallies |= {i: _Tally() for i in new}
        if tallies:
            start = time.perf_counter()
            answer = follower.step(image, given)
            found = answer if isinstance(answer, np.ndarray) else answer.mask
            seconds, frames = seconds + time.perf_counter() - start, frames + 1
            if found.shape != image.shape[:2]:
                raise ValueError(f"expected an answer of the frame's size {image.shape[:2]}, got {found.shape}")
            if on_answer is not None:
                on_answer(number, found.astype(np.uint8))
            if truth is not None and number in clip.scored and (not new or clip.whole):
                for i, tally in ((i, tally) for i, tally in tallies.items() if i not in new):
                    masks = found == i, truth == i, truth == IGNORED
                    tally.frames.append(number)
                    tally.j.append(region(*masks))
                    tally.f.append(boundary(*masks))
        if on_frame is not None:
            on_frame()
    if not tallies:
        raise ValueError(f"expected a mask with an object (ids 1 to 254) in {clip.name}, got background everywhere")
    objects = tuple(ObjectRecord(i, tuple(t.frames), tuple(t.j), tuple(t.f)) for i, t in sorted(tallies.items()))
    return ClipRecord(frames, seconds, objects)


def _introduced(truth: Pixels | None, known: Mapping[int, object], clip: Clip) -> Pixels | None:
    """Find the mask to give at this frame: of the objects that it is the first to show; None where there are none."""
    if truth is None or (known and not clip.late):
        return None
    new = [i for i in _ids(truth) if i not in known]
    return np.where(np.isin(truth, [*new, IGNORED]), truth, np.uint8(0)) if new else None


def _ids(mask: Pixels) -> Iterator[int]:
    present = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    return (i for i in present.tolist() if i not in (0, IGNORED))


def _column(method: VideoMethod, clips: Sequence[Clip], records: Sequence[ClipRecord]) -> VideoColumn:
    scores = tuple(_clip_score(clip, record) for clip, record in zip(clips, records, strict=True))
    objects = [each for clip in scores for each in clip.objects]
    j = Statistics.over(each.j for each in objects) if objects else None
    f = Statistics.over(each.f for each in objects) if objects else None
    rate = sum(record.frames for record in records) / max(1e-9, sum(record.seconds for record in records))
    both = None if j is None or f is None else (j.mean + f.mean) / 2
    return VideoColumn(method.name, method.baseline, len(objects), j, f, both, rate, scores)


def _clip_score(clip: Clip, record: ClipRecord) -> ClipScore:
    scored = [each for each in record.objects if each.frames]
    objects = tuple(ObjectScore(o.id, len(o.frames), Statistics.of(o.j), Statistics.of(o.f)) for o in scored)
    j = mean(each.j.mean for each in objects) if objects else None
    f = mean(each.f.mean for each in objects) if objects else None
    at = sorted({number for each in scored for number in each.frames})
    values = [dict(zip(each.frames, each.j, strict=True)) for each in scored]
    return ClipScore(
        name=clip.name,
        frames=record.frames,
        frames_per_second=record.frames / max(1e-9, record.seconds),
        j=j,
        f=f,
        j_and_f=None if j is None or f is None else (j + f) / 2,
        objects=objects,
        at=tuple(at),
        j_over_time=tuple(mean(each[number] for each in values if number in each) for number in at),
    )
