"""Which files are opened at all: the promised kinds of images and videos, and nothing that starts or reads others."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from incontext.annotations import open_labels
from incontext.annotations.values import size_of_image
from incontext.images.depth import RangeWarning, noted
from incontext.images.ids import Pixels
from incontext.images.masks import is_painted, read_mask
from incontext.images.opening import FORMATS, promised_formats_only
from incontext.images.read import IMAGE_SUFFIXES, image_size, page_count, read_colors, read_image
from incontext.video.frames import open_frames

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 20 20
%%EndComments
0 0 20 20 rectfill
showpage
%%EOF
"""


def scene(height: int = 12, width: int = 20) -> Pixels:
    """Not a mirror image of itself in any direction."""
    ramp = np.linspace(0, 255, height * width).reshape(height, width)
    return np.stack([ramp, ramp[:, ::-1], np.roll(ramp, 3, axis=0)], axis=2).astype(np.uint8)


def saved(image: Pixels, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format=kind, **options)
    return stream.getvalue()


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was asked of Ghostscript, which is not started."""
    asked: list[object] = []

    def ghostscript(*arguments: object, **_: object) -> Any:
        asked.append(arguments)
        raise OSError("not here")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    return asked


@pytest.mark.parametrize("name", ["photo.jpg", "photo.eps", "photo.png", "photo.tif"])
def test_postscript_under_any_name_starts_no_program(tmp_path: Path, name: str, no_programs: list[object]) -> None:
    path = tmp_path / name
    path.write_bytes(EPS)
    ways: list[Callable[[], object]] = [
        lambda: read_image(path),
        lambda: read_image(EPS),
        lambda: read_mask(path),
        lambda: read_colors(path),
        lambda: is_painted(path),
        lambda: size_of_image(path),
        lambda: page_count(path),
        lambda: next(iter(open_frames(path))),
    ]
    for way in ways:
        with pytest.raises(ValueError, match=r"expected a(n image| image| video)"):
            way()
    assert no_programs == []


def test_postscript_inside_of_labels_starts_no_program(tmp_path: Path, no_programs: list[object]) -> None:
    text = base64.b64encode(EPS).decode()
    shapes = [{"label": "a", "shape_type": "mask", "points": [[0, 0], [9, 9]], "mask": text}]
    document = {"shapes": shapes, "imagePath": "a.jpg", "imageData": text, "imageHeight": 20, "imageWidth": 20}
    (tmp_path / "a.json").write_text(json.dumps(document), encoding="utf-8")
    (labelled,) = open_labels(tmp_path / "a.json")
    with pytest.raises(ValueError, match="expected an image file"):
        labelled.read_image()
    with pytest.raises(ValueError, match="expected an image file"):
        labelled.mask()
    assert no_programs == []


def test_libraries_of_the_page_open_promised_kinds_alone() -> None:
    with promised_formats_only():
        with pytest.raises(OSError, match="cannot identify"):
            Image.open(io.BytesIO(EPS))
        assert Image.open(io.BytesIO(saved(scene(), "PNG"))).format == "PNG"
        assert set(Image.OPEN) <= set(FORMATS)
    assert Image.open(io.BytesIO(EPS)).format == "EPS"


@pytest.mark.parametrize(
    ("suffix", "kind", "options"),
    [
        (".jpg", "JPEG", {}),
        (".jpe", "JPEG", {}),
        (".jfif", "JPEG", {}),
        (".jp2", "JPEG2000", {}),
        (".tga", "TGA", {}),
        (".tga", "TGA", {"compression": "tga_rle"}),
        (".png", "PNG", {}),
        (".gif", "GIF", {}),
        (".bmp", "BMP", {}),
        (".ppm", "PPM", {}),
        (".tif", "TIFF", {}),
        (".webp", "WEBP", {"lossless": True}),
        (".avif", "AVIF", {"quality": 100}),
    ],
)
def test_promised_kinds_are_read(tmp_path: Path, suffix: str, kind: str, options: dict[str, Any]) -> None:
    assert suffix in IMAGE_SUFFIXES
    path = tmp_path / f"a{suffix}"
    path.write_bytes(saved(scene(), kind, **options))
    found = read_image(path)
    assert image_size(path) == found.shape[:2] == (12, 20)
    assert np.abs(found.astype(int) - scene()).mean() < 12


# ------------------------------------------------------------------------------------- PNG with long words


def with_chunk(png: bytes, kind: bytes, content: bytes, *, last: bool = False) -> bytes:
    """The PNG with one chunk more, after its header or before its end."""
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    at = png.rindex(b"IEND") - 4 if last else 33
    return png[:at] + chunk + png[at:]


LONG = b"x" * (2 << 20)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"zTXt", b"Comment\0\0" + zlib.compress(LONG)),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG)),
        (b"iCCP", b"ICC Profile\0\0" + zlib.compress(LONG)),
        (b"tEXt", b"Comment\0" + LONG),
    ],
)
def test_pngs_with_long_texts_and_profiles_are_read(tmp_path: Path, kind: bytes, content: bytes, last: bool) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(with_chunk(saved(scene(), "PNG"), kind, content, last=last))
    np.testing.assert_array_equal(read_image(path), scene())
    assert image_size(path) == (12, 20)
    with open_frames(path) as frames:
        np.testing.assert_array_equal(next(iter(frames)).image, scene())
    mask = np.zeros((12, 20), np.uint8)
    mask[2:5, 3:9] = 1
    path.write_bytes(with_chunk(saved(mask * 255, "PNG"), kind, content, last=last))
    np.testing.assert_array_equal(read_mask(path).ids, mask)
    assert not is_painted(path)


# ----------------------------------------------------------------------------------------- TIFF that lies


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_a_size_is_turned_once(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.img"
    options = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}
    path.write_bytes(saved(scene(12, 20), kind, **options))
    expected = (20, 12) if orientation > 4 else (12, 20)
    assert read_image(path).shape[:2] == expected
    assert image_size(path) == expected
    assert size_of_image(path) == expected


# ------------------------------------------------------------------------------------------- animations


@pytest.mark.parametrize(("hidden", "greys"), [(True, [100, 200]), (False, [10, 100, 200])])
def test_a_hidden_image_of_an_animated_png_is_no_frame(tmp_path: Path, hidden: bool, greys: list[int]) -> None:
    path = tmp_path / "a.png"
    stream = io.BytesIO()
    first, *rest = (Image.fromarray(np.full((8, 9, 3), grey, np.uint8)) for grey in (10, 100, 200))
    first.save(stream, format="PNG", save_all=True, append_images=rest, default_image=hidden, duration=50)
    path.write_bytes(stream.getvalue())
    with open_frames(path) as frames:
        assert frames.count == len(greys)
        found = [(frame.number, int(frame.image[0, 0, 0])) for frame in frames]
    assert found == list(enumerate(greys))
    assert read_image(path)[0, 0, 0] == greys[0]


# ------------------------------------------------------------------------------------- 12 bits in 16 bits


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel: grey, grey and alpha, colours, colours and alpha."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    content = b""
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw)),
        (b"IEND", b""),
    ):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return b"\x89PNG\r\n\x1a\n" + content


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_values_of_few_bits_are_seen_by_their_range(tmp_path: Path, bits: int, channels: int) -> None:
    rgb = scene()[..., : min(channels, 3)]
    values = (rgb.astype(np.uint32) * ((1 << bits) - 1) + 127) // 255
    if channels == 4:
        values = np.dstack([values, np.full(values.shape[:2], 65535)])
    path = tmp_path / "a.png"
    path.write_bytes(deep_png(values))
    with pytest.warns(RangeWarning, match=f"its 16 bits hold values of {bits} bits"):
        found = read_image(path)
    expected = np.broadcast_to(rgb, (12, 20, 3))
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_values_of_all_bits_stay_as_they_are(tmp_path: Path) -> None:
    for channels in (1, 3):
        path = tmp_path / "a.png"
        path.write_bytes(deep_png(scene()[..., :channels].astype(np.uint32) * 257))
        expected = np.broadcast_to(scene()[..., :channels], (12, 20, 3))
        assert np.abs(read_image(path).astype(int) - expected).max() <= 1
        path.write_bytes(deep_png(np.zeros((4, 5, channels))))
        assert not read_image(path).any()


def test_notes_take_the_place_of_warnings(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(deep_png(scene()[..., :1].astype(np.uint32) * 16))
    with noted() as notes:
        read_image(path)
    assert notes == [f"{path}: its 16 bits hold values of 12 bits, up to 4080, and are seen by that range"]


# -------------------------------------------------------------------------------------------------- videos


@pytest.mark.parametrize(
    "content",
    [
        "hello world\n" * 200,
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "[Script Info]\nTitle: x\n",
        "1\n00:00:01,000 --> 00:00:02,000\nhello\n",
        ";FFMETADATA1\ntitle=x\n",
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".txt", ".ffconcat"])
def test_texts_are_no_videos_and_name_none(tmp_path: Path, content: str, suffix: str) -> None:
    film(tmp_path / "secret.mp4", "mp4", "mpeg4")
    path = tmp_path / f"clip{suffix}"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="expected a video"):
        open_frames(path)


def film(path: Path, kind: str, codec: str) -> None:
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (24, 32, 3), np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("mp4", "mpeg4"),
        ("mov", "mjpeg"),
        ("matroska", "mpeg4"),
        ("webm", "libvpx-vp9"),
        ("avi", "mpeg4"),
        ("mpegts", "mpeg2video"),
        ("mpeg", "mpeg1video"),
        ("asf", "mpeg4"),
        ("flv", "flv"),
        ("ivf", "libvpx-vp9"),
        ("nut", "mpeg4"),
        ("h264", "libx264"),
        ("m4v", "mpeg4"),
        ("mjpeg", "mjpeg"),
    ],
)
def test_promised_containers_are_read(tmp_path: Path, kind: str, codec: str) -> None:
    path = tmp_path / "clip.video"
    film(path, kind, codec)
    with open_frames(path) as frames:
        assert frames.size == (24, 32)
        assert sum(1 for _ in frames) >= 11
