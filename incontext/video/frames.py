"""Frames in: a video file, a folder of images or an animated image as one stream of upright RGB frames.

Nothing is kept: a frame is decoded when it is asked for, so an hour of video takes the memory of a few frames. What
cannot be read costs itself and no more. Refuses to know what frames are for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from functools import partial
from itertools import chain, count
from math import ceil
from pathlib import Path
from typing import Final, Protocol, Self, TypeAlias

from incontext.images.ids import Pixels
from incontext.images.names import natural_order
from incontext.images.read import IMAGE_SUFFIXES, open_animation, read_image
from incontext.video.streams import Image, Sound, VideoFile

Mark: TypeAlias = int | timedelta
"""A place in a video: the number of a frame, counted from 0, or the time since the first frame."""

FOLDER_RATE: Final = Fraction(24)  # frames per second of a folder, in which nothing says it: that of DAVIS
FRAME_SUFFIXES: Final = IMAGE_SUFFIXES | {".apng", ".avif"}  # everything else is a video

_STILL_MILLISECONDS = 100  # of a frame of an animation that says 0, as browsers show it
_ROUNDING = 1e-6  # frames
_MOST_PROBLEMS = 20  # told one by one; the others are counted


class FramesError(ValueError):
    """Some frames could not be read.

    Raised once all that could be have been delivered.

    Args:
        problems: A sentence for each.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame.

    Attributes:
        number: Counted from 0 in the source, whichever frames are taken.
        seconds: Since frame 0 of the source.
        image: (H, W, 3) uint8 RGB, upright.
        name: Of the image without suffix, or the number with five digits or more.
    """

    number: int
    seconds: float
    image: Pixels
    name: str


class _Reader(Protocol):
    """What a kind of source knows, the count for certain or about."""

    problems: list[str]

    @property
    def rate(self) -> Fraction: ...

    @property
    def count(self) -> int | None: ...

    @property
    def pixel_aspect(self) -> Fraction: ...

    @property
    def sound(self) -> Sound | None: ...

    def images(self) -> Iterator[Image]: ...

    def close(self) -> None: ...


class Frames:
    """The frames of a source, in order, once; a context manager.

    Made by :func:`open_frames`.

    Known before anything is decoded but the first frame: size (H, W), the same for all frames; rate, frames per second
    on average; count, how many frames will come, which is an estimate for some videos, or None; pixel_aspect, width
    over height of a pixel; sound, where there is some to be copied.
    """

    def __init__(self, source: Path, reader: _Reader, *, start: Mark, stop: Mark | None, every: int) -> None:
        self.source = source
        self._reader = reader
        self._start, self._stop, self._every = start, stop, every
        self._numbered = enumerate(reader.images())
        self._unread: list[str] = []
        self._ahead = self._find_first()
        self.size = self._ahead.image.shape[0], self._ahead.image.shape[1]
        self.rate, self.pixel_aspect, self.sound = reader.rate, reader.pixel_aspect, reader.sound
        self.count = self._count()
        self._digits = max(5, len(str(reader.count or 0)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()

    def __iter__(self) -> Iterator[Frame]:
        """Read the frames that were asked for.

        Raises:
            FramesError: After those that can be read, where some could not be, the source ended too soon, or a frame
                had
                another size, which ends it.
            ValueError: There was none.
        """
        none = True
        for number, seconds, name, decode in self._wanted():
            image = self._decoded(number, name, decode)
            if image is None:
                continue
            if image.shape[:2] != self.size:
                self._refuse_size(number, name, image)
                break
            none = False
            yield Frame(number, seconds, image, name or f"{number:0{self._digits}d}")
        problems = (*self._unread, *self._reader.problems)
        if none:
            told = "".join(f"; {problem}" for problem in problems[:1])
            asked = f"frames from {_words(self._start)} to {_words(self._stop)}"
            raise ValueError(f"{self.source}: expected {asked}, found none{told}; choose others")
        if problems:
            more = len(problems) - _MOST_PROBLEMS
            raise FramesError(problems if more <= 0 else (*problems[:_MOST_PROBLEMS], f"and {more} more frames"))

    # ------------------------------------------------------------------------------------- from here on inside

    def _find_first(self) -> Frame:
        """Find the first frame that can be read, whose size is that of all."""
        for number, (seconds, name, decode) in self._numbered:
            image = self._decoded(number, name, decode)
            if image is not None:
                return Frame(number, seconds, image, name or "")
        told = "; ".join([*self._unread, *self._reader.problems][:_MOST_PROBLEMS])
        raise ValueError(told or f"{self.source}: expected at least one frame, found none")

    def _count(self) -> int | None:
        if self._reader.count is None:
            return None
        first, end = _number(self._start, self.rate), self._reader.count
        end = end if self._stop is None else min(end, _number(self._stop, self.rate))
        return max(0, -(-(end - first) // self._every))

    def _wanted(self) -> Iterator[tuple[int, float, str | None, Callable[[], Pixels]]]:
        ahead = self._ahead
        known: tuple[int, Image] = (
            ahead.number,
            (ahead.seconds, ahead.name or None, partial(_as_it_is, ahead.image)),
        )
        first: int | None = None
        for number, (seconds, name, decode) in chain([known], self._numbered):
            if self._stop is not None and _has_come(self._stop, number, seconds):
                return
            if not _has_come(self._start, number, seconds):
                continue
            first = number if first is None else first
            if (number - first) % self._every == 0:
                yield number, seconds, name, decode

    def _decoded(self, number: int, name: str | None, decode: Callable[[], Pixels]) -> Pixels | None:
        try:
            return decode()
        except (ValueError, OSError) as error:
            sentence = str(error)
            self._unread.append(sentence if name is not None else f"{self.source}: frame {number}: {sentence}")
            return None

    def _refuse_size(self, number: int, name: str | None, image: Pixels) -> None:
        (height, width), (its_height, its_width) = self.size, image.shape[:2]
        self._unread.append(
            f"{self.source}: frame {number}{f' ({name})' if name else ''}: expected {width} x {height} (width x height)"
            f" as before, got {its_width} x {its_height}; frames from there on were left out: give them by themselves"
        )


def open_frames(source: str | os.PathLike[str], *, start: Mark = 0, stop: Mark | None = None, every: int = 1) -> Frames:
    """Open a video file of any kind that FFmpeg reads, a folder of images, or an animated image.

    A folder's images come in natural order (2 before 10), those of subfolders and hidden ones are passed over.

    Args:
        start, stop: The first frame, and the first that no longer counts, as a number counted from 0 or as the time
            since the first frame.
        every: Take one of so many. Frames before `start` are decoded all the same, so that numbers are exact.

    Raises:
        FileNotFoundError: there is nothing at that path.
        ValueError: it cannot be read, holds no image at all, or start, stop and every make no sense.
    """
    path = Path(source)
    if every < 1:
        raise ValueError(f"expected every as a number of at least 1, got {every}")
    if _negative(start) or (stop is not None and type(stop) is type(start) and not _before(start, stop)):
        raise ValueError(f"expected frames from 0 on to a later one, got {_words(start)} to {_words(stop)}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    reader: _Reader
    if path.is_dir():
        reader = _Folder(path)
    elif path.suffix.lower() in FRAME_SUFFIXES:
        reader = _Animation(path)
    else:
        reader = VideoFile(path)
    try:
        return Frames(path, reader, start=start, stop=stop, every=every)
    except BaseException:
        reader.close()
        raise


class _Folder:
    """Images of a folder."""

    rate = FOLDER_RATE
    pixel_aspect = Fraction(1)
    sound = None

    def __init__(self, folder: Path) -> None:
        self.problems: list[str] = []
        named = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".")
        self._files = sorted((path for path in named if not path.is_dir()), key=natural_order)
        self.count = len(self._files)
        if not self._files:
            deeper = next((path.name for path in sorted(folder.iterdir()) if path.is_dir()), None)
            hint = f"; is {folder / deeper} meant?" if deeper else ""
            raise ValueError(f"{folder}: expected a folder with images in it, found none{hint}")
        taken: dict[str, Path] = {}
        for path in self._files:
            if (other := taken.setdefault(path.stem.casefold(), path)) is not path:
                raise ValueError(
                    f"{folder}: expected frames of different names, got {other.name} and {path.name}; results are "
                    "named after them: move those that are not meant"
                )

    def images(self) -> Iterator[Image]:
        for number, path in enumerate(self._files):
            yield float(number / self.rate), path.stem, partial(read_image, path)

    def close(self) -> None:
        """Do nothing, as nothing stays open."""


class _Animation:
    """An animated GIF, WebP or PNG; a still image is an animation of one frame."""

    pixel_aspect = Fraction(1)
    sound = None

    def __init__(self, path: Path) -> None:
        read_image(path)  # for what it says of files that are none
        self.problems: list[str] = []
        self._path = path
        self._stream = path.open("rb")
        self._image = open_animation(self._stream, str(path))
        self._hidden = int(getattr(self._image, "default_image", False))  # frames: what is no part of the animation
        self._image.seek(self._hidden)
        self.rate = Fraction(1000, self._milliseconds())
        try:
            self.count: int | None = int(getattr(self._image, "n_frames", 1)) - self._hidden
        except (OSError, ValueError, SyntaxError, EOFError):  # a broken file is counted by reading it
            self.count = None

    def images(self) -> Iterator[Image]:
        milliseconds = 0
        for number in count():
            try:
                self._image.seek(number + self._hidden)
                self._image.load()
            except EOFError:
                return
            except Exception as error:  # noqa: BLE001  a broken file makes decoders raise nearly anything
                self.problems.append(f"{self._path}: broken or cut off after {number} frames ({error})")
                return
            yield milliseconds / 1000, None, partial(read_image, self._image)
            milliseconds += self._milliseconds()

    def close(self) -> None:
        self._image.close()
        self._stream.close()

    def _milliseconds(self) -> int:
        """Tell how long the present frame is shown."""
        return max(0, round(self._image.info.get("duration") or 0)) or _STILL_MILLISECONDS


def _as_it_is(image: Pixels) -> Pixels:
    return image


def _has_come(mark: Mark, number: int, seconds: float) -> bool:
    return seconds >= mark.total_seconds() if isinstance(mark, timedelta) else number >= mark


def _number(mark: Mark, rate: Fraction) -> int:
    """Estimate which frame comes first from there on."""
    return ceil(mark / timedelta(seconds=1) * rate - _ROUNDING) if isinstance(mark, timedelta) else mark


def _negative(mark: Mark) -> bool:
    return mark < timedelta(0) if isinstance(mark, timedelta) else mark < 0


def _before(mark: Mark, other: Mark) -> bool:
    """Tell whether it is earlier than another of its kind."""
    return _seconds(mark) < _seconds(other)


def _seconds(mark: Mark) -> float:
    return mark.total_seconds() if isinstance(mark, timedelta) else mark


def _words(mark: Mark | None) -> str:
    if mark is None:
        return "the end"
    return f"{mark.total_seconds():g}s" if isinstance(mark, timedelta) else str(mark)
