"""Running a tracking job: frames in, masks, an overlay and tracks out, and on from where it was when interrupted.

A thread writes behind the network. Memory stays flat however long the video is. Refuses to know how frames are read
(frames.py), what is remembered (tracker.py) and terminals (cli).
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final, Self

import numpy as np

from incontext.engine import Segmenter
from incontext.identity import about
from incontext.images.alone import open_alone
from incontext.images.gate import folder_below
from incontext.images.ids import Pixels
from incontext.images.masks import MaskWarning, read_mask
from incontext.images.write import remove_half_written
from incontext.prompt_tensor import PromptTensor
from incontext.types import Palette, Prompt, Segmentation
from incontext.video.exports import NEEDS_RLE, write_export
from incontext.video.frames import Frame, Frames, FramesError
from incontext.video.plan import OVERLAY_NAME, TrackJob
from incontext.video.resume import MASKS_NAME, STATE_NAME, TRACKS_NAME, Saved, find, save
from incontext.video.sheet import Sheet
from incontext.video.streams import Movie, movie
from incontext.video.tracker import Tracker
from incontext.video.tracks import FrameLines, ObjectTrack, line_of, write_tracks

SHEET_NAME: Final = "sheet.jpg"
LINES_NAME: Final = "frames.jsonl"  # while a run is not finished
MOST_WAITING: Final = 4  # frames behind the network

_UNSTEADY = frozenset({"compile_seconds", "device_name"})  # of what is known of the network: other in each run

_Answered = tuple[Frame, Segmentation | None, tuple[int, ...]]
"""A frame, its answer (None: an earlier run wrote it), and the ids of all objects that are known by then."""


@dataclass(frozen=True)
class TrackProgress:
    """How far a job is.

    Attributes:
        total: An estimate for some videos, None where nothing is known.
        again: An earlier run had done this frame, and only its overlay is drawn once more.
    """

    done: int
    total: int | None
    again: bool


@dataclass(frozen=True)
class TrackReport:
    """What a run did.

    Attributes:
        frames: Whose masks are there.
        before: Of those, how many an earlier run had done.
        problems: A sentence for each frame or part of the source that could not be read, and each mask that was of no
            use.
    """

    out: Path
    frames: int
    before: int
    seconds: float
    problems: tuple[str, ...]
    objects: tuple[ObjectTrack, ...]

    @property
    def frames_per_second(self) -> float:
        """Of this run, everything included but loading the weights."""
        return (self.frames - self.before) / self.seconds if self.seconds else 0.0


def track_job(
    segmenter: Segmenter,
    job: TrackJob,
    *,
    save_seconds: float = 5.0,
    on_frame: Callable[[TrackProgress], None] | None = None,
) -> TrackReport:
    """Track a video and write into the job's output folder.

    * `masks/NAME.png`: an indexed PNG for each frame, as DAVIS has them;
    * `overlay.mp4`: the video under its coloured masks, with its sound and its own times;
    * `sheet.jpg`: up to twelve frames of that, evenly spread;
    * `tracks.json`: what was asked for, and each object's areas, boxes, confidence and the spans in which it was lost;
    * the exports that were asked for.

    A run that was interrupted is gone on from where its state was last saved, every `save_seconds`; masks and
    `tracks.json` come out as if nothing had happened, byte for byte. Every file appears whole or not at all. What
    cannot be read of the source is told in the report, and the rest is done.

    Raises:
        ValueError, FileNotFoundError: nothing can be tracked, or the output folder holds other results.
        OSError: a result cannot be written. The run can be gone on with.
    """
    clock = time.perf_counter()
    context: tuple[Prompt | PromptTensor, ...] = (*job.prompt_tensors, *job.prompts)
    tracker = Tracker(
        segmenter,
        context=context or None,
        memory=job.memory,
        policy=job.policy,
        snap=job.snap,
        **job.options.keywords(),
    )
    left_out = _UNSTEADY | (job.options.plain().keys() - {"side"})  # which are in the settings
    described = {name: value for name, value in about(segmenter, job.options).items() if name not in left_out}
    settings = {**job.settings, "segmenter": described}
    refuse_in_use(job.out)
    saved = find(job.out, settings) or Saved(0, 0, tracker.state())
    tracker.restore(saved.tracker)
    with job.open() as frames:
        run = _Run(job, tracker, frames, settings, saved, save_seconds, on_frame)
        answers = run.answers()
        first = next(answers)  # what is wrong with the first frame is told before anything is written
        job.out.mkdir(parents=True, exist_ok=True)
        with FrameLines(job.out / LINES_NAME, keep=saved.lines) as lines:  # from here on, the folder is this run's
            _begin(job, settings, saved)
            objects = run.write(chain([first], answers), lines)
            for name in (STATE_NAME, LINES_NAME):
                (job.out / name).unlink()
    return TrackReport(job.out, run.done, saved.done, time.perf_counter() - clock, tuple(run.problems), objects)


def _begin(job: TrackJob, settings: Mapping[str, object], saved: Saved) -> None:
    """Leave a mark that these results are unfinished, and nothing of what a killed run wrote half."""
    masks = folder_below(job.out, MASKS_NAME)
    for folder in (job.out, masks):
        remove_half_written(folder)
    save(job.out, settings, saved)
    (job.out / TRACKS_NAME).unlink(missing_ok=True)


def refuse_in_use(out: Path) -> None:
    """Refuse a folder of results that another run is writing to.

    What that has half written is not to be touched, nor its state to be gone on from.

    Raises:
        ValueError: Another run is writing to it.
    """
    if (out / LINES_NAME).exists():
        open_alone(out / LINES_NAME).close()


class _Run:
    """One run of a job."""

    def __init__(
        self,
        job: TrackJob,
        tracker: Tracker,
        frames: Frames,
        settings: Mapping[str, object],
        saved: Saved,
        save_seconds: float,
        on_frame: Callable[[TrackProgress], None] | None,
    ) -> None:
        self.done = 0
        self.problems: list[str] = []
        self._job, self._tracker, self._frames = job, tracker, frames
        self._settings, self._saved = settings, saved
        self._save_seconds, self._on_frame = save_seconds, on_frame

    def answers(self) -> Iterator[_Answered]:
        """Give all frames in order. Each is tracked when it is asked for, but those that an earlier run had done."""
        unused, unheard = set(self._job.masks), set(self._job.hints)
        try:
            for number, frame in enumerate(self._frames):
                unused.discard(frame.number)
                unheard.discard(frame.number)
                again = number < self._saved.done
                answer = None if again else self._step(frame, is_first=number == 0)
                yield frame, answer, self._tracker.ids
        except FramesError as error:
            self.problems += error.problems
        self.problems += [
            f"the {what} of frame {number} {was} of no use: that frame did not come"
            for what, was, numbers in (("mask", "was", unused), ("hints", "were", unheard))
            for number in sorted(numbers)
        ]

    def write(self, answers: Iterator[_Answered], lines: FrameLines) -> tuple[ObjectTrack, ...]:
        """Write everything, and say what became of the objects."""
        job = self._job
        with _results(job, self._frames, lines, self.problems) as results:
            last = time.monotonic()
            for frame, answer, known in answers:
                results.add(frame, answer, known)
                self.done += 1
                if self._on_frame is not None:
                    self._on_frame(TrackProgress(self.done, self._frames.count, answer is None))
                if answer is not None and time.monotonic() - last >= self._save_seconds:
                    results.wait()
                    save(job.out, self._settings, Saved(self.done, lines.size(), self._tracker.state()))
                    last = time.monotonic()
            results.wait()
        try:
            results.sheet.write(job.out / SHEET_NAME)
        except (OSError, ValueError) as error:
            self.problems.append(f"{SHEET_NAME} is missing: {error}")
        ids = self._tracker.ids
        for kind in job.exports:
            write_export(job.out, kind, lines, ids, self._frames.size)
        facts = {
            "settings": self._settings,
            "problems": self.problems,
            "size": list(self._frames.size),
            "frames_per_second": round(float(self._frames.rate), 3),
        }
        colors = {i: results.table[i].tolist() for i in ids}
        return write_tracks(job.out / TRACKS_NAME, lines, facts, colors=colors)

    def _step(self, frame: Frame, *, is_first: bool) -> Segmentation:
        mask, hints = self._job.mask_of(frame.number, is_first=is_first), self._job.hints.get(frame.number)
        if mask is None:
            return self._tracker.step(frame.image, hints=hints)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MaskWarning)  # the plan has said it
            return self._tracker.step(frame.image, mask, hints=hints)


@contextmanager
def _results(job: TrackJob, frames: Frames, lines: FrameLines, problems: list[str]) -> Iterator[_Results]:
    """Open what is written frame by frame; the overlay is there when the block ends."""
    with ExitStack() as stack:
        overlay = stack.enter_context(_Overlay(job, frames, problems)) if job.overlay else None
        yield stack.enter_context(_Results(job, lines, overlay))


class _Overlay:
    """The film of the overlays, which costs masks and tracks nothing: where it fails, it is given up, and that is told.

    A context manager; the file is there when the block ends without an exception.
    """

    def __init__(self, job: TrackJob, frames: Frames, problems: list[str]) -> None:
        self._job, self._frames, self._problems = job, frames, problems
        self._film: AbstractContextManager[Movie] | None = None
        self._movie: Movie | None = None

    def __enter__(self) -> Self:
        frames = self._frames
        self._film = movie(
            self._job.out / OVERLAY_NAME,
            frames.size,
            rate=frames.rate / self._job.every,
            pixel_aspect=frames.pixel_aspect,
            sound=frames.sound,
        )
        try:
            self._movie = self._film.__enter__()
        except (OSError, ValueError) as error:
            self._tell(error)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._film is None or self._movie is None:
            return
        try:
            self._film.__exit__(*exception)  # type: ignore[arg-type]
        except (OSError, ValueError) as error:
            if exception[0] is None:
                self._tell(error)

    def add(self, seconds: float, drawn: Pixels) -> None:
        """Write the next frame, unless the film was given up."""
        if self._film is None or self._movie is None:
            return
        try:
            self._movie.add(seconds, drawn)
        except (OSError, ValueError) as error:
            film, self._movie = self._film, None
            with suppress(OSError, ValueError):  # what it fails with again
                film.__exit__(type(error), error, error.__traceback__)
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        self._movie = None
        self._problems.append(f"{OVERLAY_NAME} is missing: {getattr(error, 'strerror', None) or error}")


class _Results:
    """Masks, lines, overlay and contact sheet, written in the order of the frames by one thread beside the network.

    Attributes:
        table: (256, 3) uint8, the colours of the ids in the last frame.
    """

    def __init__(self, job: TrackJob, lines: FrameLines, overlay: _Overlay | None) -> None:
        self.sheet = Sheet()
        self.table: Pixels = np.zeros((256, 3), np.uint8)
        self._masks = job.out / MASKS_NAME
        self._with_rle = bool(NEEDS_RLE & set(job.exports))
        self._lines, self._overlay = lines, overlay
        self._thread = ThreadPoolExecutor(1, "write")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add(self, frame: Frame, answer: Segmentation | None, known: tuple[int, ...]) -> None:
        """Write a frame soon, all of it, or only what people look at where its mask is there (no answer)."""
        while len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._write, frame, answer, known))

    def wait(self) -> None:
        """Wait until all is written."""
        while self._waiting:
            self._waiting.popleft().result()

    def _write(self, frame: Frame, answer: Segmentation | None, known: tuple[int, ...]) -> None:
        path = self._masks / f"{frame.name}.png"
        if answer is None:
            answer, self.table = _read_again(path)
        else:
            answer.save(path)
            self._lines.add(line_of(frame.number, frame.name, frame.seconds, answer, known, with_rle=self._with_rle))
            self.table = answer.palette.table
        draw: Callable[[], Pixels] = partial(answer.overlay, frame.image)
        if self._overlay is not None:
            drawn = draw()
            self._overlay.add(frame.seconds, drawn)
            draw = partial(np.asarray, drawn)
        self.sheet.add(f"{frame.name}   {frame.seconds:.2f} s", draw)


def _read_again(path: Path) -> tuple[Segmentation, Pixels]:
    """Read what an earlier run wrote of a frame, and the colours of all ids."""
    try:
        file = read_mask(path)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{error}; an unfinished run wrote it, and needs it to go on: to start anew, remove the folder of results"
        ) from error
    table = np.zeros((256, 3), np.uint8) if file.colors is None else file.colors
    rows = [0, *(int(i) for i in np.unique(file.ids) if i)]
    return Segmentation(file.ids, np.ones(file.ids.shape, np.float32), Palette(np.array(rows), table[rows])), table
