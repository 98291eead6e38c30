"""Video files, read and written through PyAV: the only module that knows containers, streams, packets and timestamps.

Refuses to know what is in the images.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.context import ThreadType
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from incontext.images.ids import Pixels
from incontext.images.write import whole_file

CLOCK: Final = Fraction(1, 90_000)  # seconds; the unit of an overlay's timestamps, which fits all usual rates
_USUAL_RATE: Final = Fraction(25)  # frames per second, where a file says nothing
_CONTAINERS: Final = (
    *("asf", "av1", "avi", "dv", "flv", "h264", "hevc", "ivf", "m4v", "matroska", "mjpeg", "mov", "mpeg", "mpegts"),
    *("mpegvideo", "mxf", "nut", "obu", "ogg", "rm", "webm", "yuv4mpegpipe"),
)
"""FFmpeg's names of the containers that are read: others make images of text, or read further files."""
_ALLOWED: Final = {"format_whitelist": ",".join(_CONTAINERS), "protocol_whitelist": "file"}
_QUALITY: Final = {"crf": "20", "preset": "veryfast"}  # of H.264: hard to tell from the source, quicker than a network
_LEAST_MISSING: Final = 0.5  # seconds between what a file announces and what it holds that mean it was cut off
_BT709: Final = 1  # the number of that standard among primaries, transfer functions and matrices (ITU-T H.273)
_LIMITED_RANGE: Final = 1


Image: TypeAlias = tuple[float, str | None, Callable[[], Pixels]]
"""A frame before it is decoded: seconds since the first, a name if it has one, and how to decode it, which must happen
before the next is asked for."""

Turn: TypeAlias = tuple[int, int, int, int]
"""How a frame is to be turned, as the signs in x' = a x + c y, y' = b x + d y."""


class SoundWarning(UserWarning):
    """The sound of a video could not be copied, and the user should know."""


@dataclass(frozen=True)
class Sound:
    """Where a video's sound is: the file, and the time in it at which its first frame is shown (seconds)."""

    path: Path
    origin: float


# ----------------------------------------------------------------------------------------------- reading


class VideoFile:
    """The images of a video file's best video stream, decoded one by one, upright, with their own times.

    rate: frames per second on average. count: frames as far as the file says or lets estimate, or None.

    problems: what was found to be wrong once all images were read.
    """

    def __init__(self, path: Path) -> None:
        self.problems: list[str] = []
        self._path = path
        self._container = _opened(path)
        try:
            self._stream = _video_stream(self._container, path)
        except BaseException:
            self._container.close()
            raise
        stream = self._stream
        stream.thread_type = ThreadType.AUTO
        self.rate = _fraction(stream.average_rate) or _fraction(stream.guessed_rate) or _USUAL_RATE
        self.pixel_aspect = _fraction(stream.sample_aspect_ratio) or Fraction(1)
        self.count = stream.frames or self._estimated_count()
        self._origin: float | None = None  # of the first image
        self._reach = 0.0  # how far into the file its packets have come, in seconds
        self._damaged = 0  # packets
        self._rotation: int | None = None  # of the last image, and the whole of its turn
        self._turn: Turn | None = None

    @property
    def sound(self) -> Sound | None:
        """Known once the first image has been decoded."""
        has_sound = any(stream.codec_context is not None for stream in self._container.streams.audio)
        return Sound(self._path, self._origin or 0.0) if has_sound else None

    def images(self) -> Iterator[Image]:
        """Give each one's time since the first in seconds, None (no name), and how to convert it."""
        number = 0
        for packet in self._packets():
            for frame in self._decoded(packet):
                time = None if frame.pts is None else frame.time
                turn = self._turn_of(frame)
                if self._origin is None:
                    self._origin = time or 0.0
                    if turn is not None and turn[0] == 0 and turn[1] != 0:  # rows become columns
                        self.pixel_aspect = 1 / self.pixel_aspect
                decode = partial(_upright, frame, turn)
                yield float(number / self.rate) if time is None else time - self._origin, None, decode
                number += 1
        self._conclude()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _packets(self) -> Iterator[Packet[VideoStream] | None]:
        """Read the packets of the video, and at the end one that brings out what the decoder still holds."""
        packets = self._container.demux()  # of all streams: how far they reach shows whether the file was cut off
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                self.problems.append(f"{self._path}: broken or cut off after {self._reach:.1f} s ({_reason(error)})")
                yield None
                return
            if packet is None:
                return
            if packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * (_fraction(packet.time_base) or CLOCK)
                self._reach = max(self._reach, float(end))
            if packet.stream.index == self._stream.index:
                yield cast("Packet[VideoStream]", packet)

    def _decoded(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        self._damaged += packet is not None and packet.is_corrupt
        try:
            return self._stream.decode(packet)
        except EOFError:
            return []
        except FFmpegError:
            self._damaged += packet is not None and not packet.is_corrupt
            return []

    def _turn_of(self, frame: VideoFrame) -> Turn | None:
        """Look a frame's turn up where it changes: side data and its frame hold each other until a collection."""
        if frame.rotation != self._rotation:
            self._rotation, self._turn = frame.rotation, _turn(frame)
        return self._turn

    def _conclude(self) -> None:
        """Say what was wrong.

        Most containers end without a complaint where they were cut off, and only their length shows it. Where one says
        none (MPEG-TS), or skips what it cannot read (a hole in Matroska), nobody knows.
        """
        damaged = "1 packet is damaged" if self._damaged == 1 else f"{self._damaged} packets are damaged"
        announced, is_told = self._seconds(), bool(self.problems)  # told where reading ended
        if not is_told and announced is not None:
            start = (self._container.start_time or 0) * _seconds_per_tick()
            missing = announced - self._reach + min(0.0, start)  # some count their length from 0, others from the start
            if missing > max(_LEAST_MISSING, float(2 / self.rate)):
                ends = f"it announces {announced:.1f} s and ends after {announced - missing:.1f} s"
                also = f"; {damaged}" if self._damaged else ""
                self.problems.append(f"{self._path}: cut off: {ends}{also}")
                return
        if self._damaged:
            self.problems.append(f"{self._path}: {damaged}; frames there are missing or look broken")

    def _seconds(self) -> float | None:
        """Read how long the file says that it is."""
        duration = self._container.duration
        return None if duration is None or duration <= 0 else duration * _seconds_per_tick()

    def _estimated_count(self) -> int | None:
        own, unit = self._stream.duration, _fraction(self._stream.time_base)
        seconds = self._seconds() if own is None or unit is None else float(own * unit)
        return None if seconds is None else max(1, round(seconds * self.rate))


def _opened(path: Path) -> InputContainer:
    if not path.is_file() or path.stat().st_size == 0:
        raise ValueError(f"{path}: expected a video, got {'an empty file' if path.is_file() else 'a pipe or a device'}")
    try:
        # "file:", or FFmpeg takes what stands before a colon in a name for a protocol.
        return av.open(f"file:{os.fspath(path)}", "r", metadata_errors="ignore", options=dict(_ALLOWED))
    except FFmpegError as error:
        raise ValueError(
            f"{path}: expected a video, a folder of images or an animated image; the file is none, of a kind that is "
            f"not read, or broken ({_reason(error)})"
        ) from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    moving = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    if not moving:
        kinds = ", ".join(sorted({each.type for each in container.streams if each not in container.streams.video}))
        found = f"only {kinds}" if kinds else "none"
        raise ValueError(
            f"{path}: expected a video stream, found {found}; give a file with images, or copy it again if it "
            "was cut off"
        )
    stream = next((each for each in moving if best is not None and each.index == best.index), moving[0])
    if stream.codec_context is None:
        raise ValueError(f"{path}: expected a video that FFmpeg can decode, got one that it cannot; convert it first")
    return stream


def _fraction(value: object) -> Fraction | None:
    """Read PyAV's rationals, of which 0 and None both mean that nothing is known."""
    numerator, denominator = getattr(value, "numerator", 0), getattr(value, "denominator", 0)
    return Fraction(numerator, denominator) if numerator and denominator else None


def _seconds_per_tick() -> float:
    return 1 / int(av.time_base)


def _reason(error: FFmpegError) -> str:
    return (error.strerror or type(error).__name__).rstrip(".")


def _turn(frame: VideoFrame) -> Turn | None:
    data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(data, SideData):
        return None
    a, b, _, c, d, *_ = np.sign(np.frombuffer(bytes(data), np.int32)).tolist()
    return None if (a, b, c, d) == (1, 0, 0, 1) else (a, b, c, d)


def _upright(frame: VideoFrame, turn: Turn | None) -> Pixels:
    """Convert a frame to (H, W, 3) uint8 RGB, turned and mirrored as the file's display matrix says.

    Angles beside 90, 180 and 270 degrees are left as they are.
    """
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    if turn is None:
        return image
    a, b, c, d = turn
    if a and d and not b and not c:
        return np.ascontiguousarray(image[::d, ::a])
    if b and c and not a and not d:
        return np.ascontiguousarray(image.transpose(1, 0, 2)[::b, ::c])
    return image


# ----------------------------------------------------------------------------------------------- writing


class Movie:
    """An MP4 file that grows: H.264 (yuv420p), each image at its own time, a source's sound beside it.

    Made by :func:`movie`. An odd side is made even by repeating the last row or column, as H.264 demands.
    """

    def __init__(
        self, stream: BinaryIO, size: tuple[int, int], *, rate: Fraction, pixel_aspect: Fraction, sound: Sound | None
    ) -> None:
        self._size = size[0] + size[0] % 2, size[1] + size[1] % 2
        self._step = max(1, round(1 / (rate * CLOCK)))  # ticks of a frame
        self._start: float | None = None  # seconds of the first image, which is shown at 0
        self._last = -1  # ticks of the last image
        self._container = av.open(stream, "w", format="mp4")
        self._video = self._container.add_stream("libx264", rate=rate, options=dict(_QUALITY))
        self._video.height, self._video.width = self._size
        self._video.pix_fmt = "yuv420p"
        self._video.codec_context.time_base = CLOCK
        self._video.codec_context.sample_aspect_ratio = pixel_aspect
        self._video.codec_context.color_range = _LIMITED_RANGE
        self._video.codec_context.colorspace = _BT709
        self._video.codec_context.color_primaries = _BT709
        self._video.codec_context.color_trc = _BT709
        self._sound = None if sound is None else _SoundCopy(sound, self._container)

    def begin(self) -> None:
        """Write the header. FFmpegError or ValueError where the sound does not fit into the file."""
        self._container.start_encoding()

    def add(self, seconds: float, image: Pixels) -> None:
        """Write the next image, (H, W, 3) uint8 RGB, and its time in the source."""
        self._start = seconds if self._start is None else self._start
        image = np.pad(
            image, ((0, self._size[0] - image.shape[0]), (0, self._size[1] - image.shape[1]), (0, 0)), "edge"
        )
        rgb = VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
        frame = rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        self._last = max(self._last + 1, round((seconds - self._start) / CLOCK))
        frame.pts, frame.time_base = self._last, CLOCK
        self._container.mux(self._video.encode(frame))
        self._copy_sound(self._last)

    def finish(self) -> None:
        """Write what the encoder still holds, and the sound of the last image."""
        self._container.mux(self._video.encode(None))
        self._copy_sound(self._last + self._step)

    def close(self) -> None:
        """Write what the encoder still holds, and close the file."""
        if self._sound is not None:
            self._sound.close()
        self._container.close()

    def _copy_sound(self, ticks: int) -> None:
        if self._sound is None or self._start is None:
            return
        try:
            self._sound.copy(self._start, float(ticks * CLOCK))
        except FFmpegError as error:
            _warn_of_sound(f"the sound of the source ends early in the overlay ({_reason(error)})")
            self._sound.close()
            self._sound = None


class _SoundCopy:
    """The packets of a file's best sound stream on their way into another file, as they are, at their own times."""

    def __init__(self, sound: Sound, into: OutputContainer) -> None:
        self._into = into
        self._origin = sound.origin
        self._container = _opened(sound.path)
        try:
            best = self._container.streams.best("audio")
            source = next(each for each in self._container.streams.audio if best is None or each.index == best.index)
            self._stream: AudioStream = into.add_stream_from_template(source)
        except BaseException:
            self._container.close()
            raise
        self._packets = self._container.demux(source)
        self._ahead: Packet[AudioStream] | None = None  # that is for later
        self._last: int | None = None

    def copy(self, start: float, until: float) -> None:
        """Copy what is heard until then: `until` seconds after `start`, which is a time since the first frame."""
        while (packet := self._ahead or next(self._packets, None)) is not None:
            self._ahead = None
            unit = _fraction(packet.time_base)
            if packet.pts is None or packet.dts is None or unit is None:
                continue
            shift = round((self._origin + start) / unit)
            if float((packet.pts - shift) * unit) > until:
                self._ahead = packet
                return
            if packet.pts < shift or (self._last is not None and packet.dts - shift <= self._last):
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            self._last = packet.dts
            packet.stream = self._stream
            self._into.mux(packet)

    def close(self) -> None:
        self._container.close()


@contextmanager
def movie(
    path: str | os.PathLike[str],
    size: tuple[int, int],
    *,
    rate: Fraction,
    pixel_aspect: Fraction = Fraction(1),
    sound: Sound | None = None,
) -> Iterator[Movie]:
    """Open a video file to write frame by frame; it appears whole when the block ends, else not at all.

    Args:
        size: (H, W).
        rate: Frames per second on average, for the encoder and the length of the last frame; times are those of the
            frames.
        sound: Copied without being encoded anew; where MP4 cannot hold it, a `SoundWarning` says so and there is none.
    """
    with whole_file(path) as stream:
        made = _begun(stream, size, rate=rate, pixel_aspect=pixel_aspect, sound=sound)
        try:
            yield made
            made.finish()
        finally:
            made.close()


def _begun(
    stream: BinaryIO, size: tuple[int, int], *, rate: Fraction, pixel_aspect: Fraction, sound: Sound | None
) -> Movie:
    if sound is not None:
        try:
            _try_sound(sound)
        except (FFmpegError, ValueError) as error:
            told = _reason(error) if isinstance(error, FFmpegError) else error
            _warn_of_sound(f"{sound.path}: its sound cannot be copied into an MP4 ({told}); the overlay is silent")
            sound = None
    made = Movie(stream, size, rate=rate, pixel_aspect=pixel_aspect, sound=sound)
    made.begin()
    return made


def _try_sound(sound: Sound) -> None:
    """Copy the first second of a sound into an MP4 in memory: some kinds fail at its beginning, some at its end.

    Raises:
        FFmpegError, ValueError: MP4 cannot hold it.
    """
    container = av.open(io.BytesIO(), "w", format="mp4")
    try:
        copy = _SoundCopy(sound, container)
        try:
            container.start_encoding()
            copy.copy(0.0, 1.0)
        finally:
            copy.close()
    finally:
        container.close()


def _warn_of_sound(sentence: str) -> None:
    warnings.warn(sentence, SoundWarning, stacklevel=4)
