"""What the tests of video share: small scenes and files that they make themselves, and a stand-in for the network."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
from PIL import Image

from incontext.engine import FittedQuery
from incontext.images.ids import Pixels
from incontext.images.read import ImageLike, read_image
from incontext.images.resize import resized, resized_mask
from incontext.options import SegmentOptions
from incontext.types import Palette, Prompt, Segmentation

RED, BLUE = (200, 40, 40), (40, 40, 200)
GREY = 90
SOUND_RATE = 8000


def scene(number: int, *, width: int = 64, height: int = 48, blue: bool = True) -> Pixels:
    """A red square that moves right, two pixels a frame and a little brighter each time, above a blue one that moves
    left."""
    image = np.full((height, width, 3), GREY, np.uint8)
    left = 2 * number % (width - 16)
    image[4:20, left : left + 16] = (min(255, RED[0] + number), *RED[1:])
    if blue:
        image[28:44, width - 16 - left : width - left] = BLUE
    return image


def scene_mask(number: int, *, ids: tuple[int, int] = (3, 7), width: int = 64, height: int = 48) -> Pixels:
    """(H, W) ids of the red and the blue square; 0 leaves one out."""
    mask = np.zeros((height, width), np.uint8)
    left = 2 * number % (width - 16)
    mask[4:20, left : left + 16] = ids[0]
    mask[28:44, width - 16 - left : width - left] = ids[1]
    return mask


def grey_levels(count: int, *, width: int = 48, height: int = 32) -> list[Pixels]:
    """Images that are told apart by their brightness, which is 10 times their number."""
    return [np.full((height, width, 3), 10 * number, np.uint8) for number in range(count)]


def write_frames(folder: Path, images: Iterable[Pixels]) -> Path:
    """A folder of PNGs: 0.png, 1.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def write_video(
    path: Path,
    images: Sequence[Pixels],
    *,
    times: Sequence[float] | None = None,
    rate: int = 10,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    sound: str | None = None,
    options: dict[str, str] | None = None,
    pixel_aspect: Fraction = Fraction(1),
) -> Path:
    """A video; `times` in seconds, else evenly at `rate`. codec "ffv1" with pixels "bgr0" (.mkv) keeps all pixels."""
    shown = [i / rate for i in range(len(images))] if times is None else times
    with av.open(str(path), "w", options=options or {}) as container:
        video: Any = container.add_stream(codec, rate=rate, options={"crf": "8"} if codec == "libx264" else {})
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt = pixels
        video.codec_context.time_base = Fraction(1, 1000)
        video.codec_context.sample_aspect_ratio = pixel_aspect
        audio: Any = None if sound is None else container.add_stream(sound, rate=SOUND_RATE)
        if audio is not None:
            audio.codec_context.layout = "mono"
            _write_sound(container, audio, shown[-1] + 1 / rate)
        for image, seconds in zip(images, shown, strict=True):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = round(1000 * seconds), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def _write_sound(container: Any, stream: Any, seconds: float) -> None:
    """A tone."""
    step = 1024
    for start in range(0, int(seconds * SOUND_RATE), step):
        wave = np.sin(np.arange(start, start + step) / 9).astype(np.float32)[None] / 2
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_sound(path: Path) -> Path:
    """A file that holds nothing but a tone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=SOUND_RATE)
        stream.codec_context.layout = "mono"
        _write_sound(container, stream, 0.5)
    return path


def turn(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Set the display matrix of an MP4's (first) track, as a telephone does that is held upright: (0, 1, -1, 0)."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    at = header + (40 if data[header] == 0 else 52)
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def cut(path: Path, share: float) -> None:
    """Leave only the first part of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def decoded(path: Path) -> list[tuple[float, Pixels]]:
    """All images of a video with their times, through PyAV alone."""
    with av.open(str(path)) as container:
        frames = ((frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0))
        return [(seconds, np.asarray(pixels, np.uint8)) for seconds, pixels in frames]


def sound_packets(path: Path) -> list[tuple[float, bytes]]:
    """The encoded sound of a file, packet by packet, with its times."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return []
        packets = ((packet.pts, packet.time_base, bytes(packet)) for packet in container.demux(audio=0))
        return [(float(at * base), sound) for at, base, sound in packets if at is not None and base is not None]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A context of the stand-in: ids and their colours."""

    passes: tuple[tuple[int, Any], ...]
    shown: Palette | None = None
    tokens: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Found:
    """An answer of the stand-in."""

    ids: Pixels
    size: tuple[int, int]
    guide: Pixels | None = None

    def read(self) -> Segmentation:
        ids = resized_mask(self.ids, self.size)
        confidence = np.where(ids > 0, 0.75, 1.0).astype(np.float32)
        return Segmentation(ids, confidence, Palette.spread([int(i) for i in np.unique(ids) if i]))


class ByColor:
    """Stands in for a Segmenter: an object is where the colour is about that which its newest prompt shows."""

    name = "by-color"
    sha256 = "abc"
    config = SimpleNamespace(side=32)
    device = SimpleNamespace(type="cpu")
    voter = backbone_side = None

    def __init__(self, tolerance: float = 12) -> None:
        self.tolerance = tolerance
        self.asked = 0

    def describe(self) -> dict[str, object]:
        return {"weights": self.name, "side": 32, "dtype": "float32", "attention": "plain", "compile_seconds": 0.0}

    def fit(self, query: ImageLike, *, side: int | None = None) -> FittedQuery:
        image, chosen = read_image(query), side or 32
        return FittedQuery(resized(image, (chosen, chosen)), (image.shape[0], image.shape[1]))

    def prepare(self, context: Sequence[Prompt], *, known: object, **options: Any) -> _Prepared:
        side = SegmentOptions(**options).side or 32
        assert all(prompt.image.shape == (side, side, 3) for prompt in context)
        colors = {i: np.median(p.image[p.mask == i].astype(float), axis=0) for p in context for i in p.ids}
        return _Prepared(tuple(colors.items()))

    def answer_many(self, queries: Iterable[FittedQuery], prepared: _Prepared) -> Iterator[_Found]:
        for query in queries:
            self.asked += 1
            ids = np.zeros(query.pixels.shape[:2], np.uint8)
            for i, color in prepared.passes:
                ids[np.abs(query.pixels - color).max(axis=-1) <= self.tolerance] = i
            yield _Found(ids, query.size)
