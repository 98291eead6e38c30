"""Broken, hostile and oddly named files through the whole command: each is reported, nothing else suffers from it."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from incontext import cli
from incontext.folder import REPORT_NAME, FileReport, open_report
from incontext.images.masks import read_mask
from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT

MUTANTS = 2200
SEED = 20

CONFIG = ModelConfig(
    width=16, heads=2, depth=2, patch=8, side=16, decoder_width=4, merge_layer=0, taps=(0, 1), pretrain_side=16
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights and an example."""
    folder = tmp_path_factory.mktemp("faults")
    torch.manual_seed(0)
    save_model(folder / "tiny.safetensors", SegGPT(CONFIG), metadata={})
    Image.fromarray(smooth(64, 64)).save(folder / "example.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[16:40, 16:40] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


def arguments(work: Path, inputs: list[Path], out: Path) -> list[str]:
    example = ["--prompt", str(work / "example.png"), str(work / "mask.png")]
    network = ["--weights", str(work / "tiny.safetensors"), "--device", "cpu", "--dtype", "float32"]
    return ["segment", *map(str, inputs), "-o", str(out), *example, *network]


@pytest.fixture
def run(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, dict[str, FileReport], str]]:
    """The command over a folder: its status, what it says of each file by name, and what it told."""

    def call(root: Path, *more: Path) -> tuple[object, dict[str, FileReport], str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments(work, [root, *more], tmp_path / "out"))
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert stopped.value.code in (0, 1), told
        files = list(open_report(tmp_path / "out" / REPORT_NAME).files)
        assert not [path for path in (tmp_path / "out").rglob("*") if path.name.endswith(".part")]
        return stopped.value.code, {Path(file.query).name: file for file in files}, told

    return call


def smooth(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Something like a photograph: slopes, an edge, and grain."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    grain = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    image = np.stack([x * 200, y * 200, (x > y) * 120 + 40], axis=-1) + grain
    return image.clip(0, 255).astype(np.uint8)


def encoded(kind: str, *, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(smooth(48, 64))
    if mode == "I;16":
        image = Image.fromarray(smooth(48, 64)[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        image = image.convert(mode)
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def originals() -> dict[str, list[bytes]]:
    """Small images of each kind, by suffix."""
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.fromarray(smooth(32, 32)), Image.fromarray(smooth(32, 32)[::-1].copy())]
    animation = io.BytesIO()
    frames[0].save(animation, format="GIF", save_all=True, append_images=frames[1:])
    return {
        ".jpg": [
            encoded("JPEG", exif=exif),
            encoded("JPEG", progressive=True),
            encoded("JPEG", mode="CMYK"),
            encoded("JPEG", mode="L"),
        ],
        ".png": [encoded("PNG"), encoded("PNG", mode="P"), encoded("PNG", mode="RGBA"), encoded("PNG", mode="I;16")],
        ".tif": [
            encoded("TIFF"),
            encoded("TIFF", compression="tiff_lzw"),
            encoded("TIFF", compression="tiff_adobe_deflate", mode="L"),
            encoded("TIFF", mode="I;16"),
        ],
        ".webp": [encoded("WEBP"), encoded("WEBP", lossless=True), encoded("WEBP", mode="RGBA")],
        ".gif": [encoded("GIF"), animation.getvalue()],
        ".bmp": [encoded("BMP"), encoded("BMP", mode="P"), encoded("BMP", mode="1")],
        ".ppm": [encoded("PPM")],
    }


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A file with something wrong with it: cut off, bits turned, pieces lost, doubled, swapped or made extreme."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        place = chance.randrange(min(len(data), 120) if chance.random() < 0.5 else len(data))  # headers, mostly
        length = chance.randrange(1, 40)
        how = chance.randrange(7)
        if how == 0:
            del data[max(place, 1) :]
        elif how == 1:
            data[place] ^= 1 << chance.randrange(8)
        elif how == 2:
            data[place : place + length] = chance.randbytes(length)
        elif how == 3:
            del data[place : place + length]
        elif how == 4:
            data[place:place] = data[place : place + length]
        elif how == 5:
            data[place : place + 4] = chance.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\0\0"]
            )
        else:
            other = chance.randrange(len(data))
            data[place], data[other] = data[other], data[place]
        if not data:
            break
    return bytes(data)


@pytest.mark.slow
def test_two_thousand_mutated_files_through_the_whole_command(work: Path, tmp_path: Path) -> None:
    root, out, chance = tmp_path / "in", tmp_path / "out", random.Random(SEED)
    root.mkdir()
    kinds = originals()
    suffixes = list(kinds)
    for number in range(MUTANTS):
        suffix = suffixes[number % len(suffixes)]
        (root / f"{number:04}{suffix}").write_bytes(mutated(chance.choice(kinds[suffix]), chance))
    for suffix, contents in kinds.items():  # and the rest is not to suffer from them
        for number, content in enumerate(contents):
            (root / f"good_{number}_{suffix[1:]}{suffix}").write_bytes(content)
    good = sum(map(len, kinds.values()))

    errors = tmp_path / "errors.txt"
    with errors.open("wb") as stream:
        program = [sys.executable, "-m", "incontext", *arguments(work, [root], out)]
        running = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=stream)
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    told = errors.read_text(errors="replace")
    assert running.returncode == 1, told[-2000:]
    assert "Traceback" not in told
    assert used.ru_maxrss * 1024 < 2e9  # as many bytes at most; PyTorch alone takes 0.3e9

    report = open_report(out / REPORT_NAME)
    assert report.finished
    assert len(report.files) == MUTANTS + good
    found = {Path(file.query).name: file for file in report.files}
    assert set(found) == {path.name for path in root.iterdir()}
    assert all(file.error is None for name, file in found.items() if name.startswith("good"))
    failures = [file for file in found.values() if file.error is not None]
    assert MUTANTS * 0.2 < len(failures) < MUTANTS * 0.9  # both ends are well visited
    for file in failures:
        assert file.error is not None
        assert Path(file.query).name in file.error
        assert "\n" not in file.error
        assert len(file.error) < 600
    masks = {file.mask for file in found.values() if file.error is None}
    assert {path.name for path in out.iterdir()} == {*masks, REPORT_NAME}
    for name in sorted(name for name in masks if name is not None)[:: max(1, len(masks) // 60)]:
        assert read_mask(out / name).ids.size > 0


# ----------------------------------------------------------------------------------------------- hostile


def png(width: int, height: int, *chunks: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    """A PNG that says of itself that it is so large, grey."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data or zlib.compress(b"\0" * 64)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def hostile() -> Iterator[tuple[str, bytes, str]]:
    """Names, contents, and what the sentence has to say."""
    side = 65_000
    too_large = "expected at most 100 megapixels"
    yield "png_bomb.png", png(side, side), too_large
    header = struct.pack("<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    yield "bmp_bomb.bmp", b"BM" + header, too_large
    screen, frame = struct.pack("<HHBBB", side, side, 0x80, 0, 0), struct.pack("<HHHHB", 0, 0, side, side, 0)
    yield "gif_bomb.gif", b"GIF89a" + screen + b"\0" * 6 + b"," + frame + b"\x02\x02\x4c\x01\0;", too_large
    jpeg = bytearray(encoded("JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", side, side)
    yield "jpg_bomb.jpg", bytes(jpeg), too_large
    yield "ppm_bomb.ppm", b"P6 65000 65000 255\n" + b"\0" * 100, too_large
    tiff = bytearray(encoded("TIFF"))
    for tag in (b"\x00\x01", b"\x01\x01"):  # width and height
        at = tiff.rindex(tag + b"\x03\x00") if tag + b"\x03\x00" in tiff else tiff.rindex(tag + b"\x04\x00")
        tiff[at + 2 : at + 12] = struct.pack("<HII", 4, 1, side)
    yield "tif_bomb.tif", bytes(tiff), too_large
    yield "wide.png", png(2**31 - 1, 1), too_large
    yield "no_pixels.png", png(0, 7), "no_pixels.png"
    yield "text_bomb.png", png(9, 9, (b"zTXt", b"a\0\0" + zlib.compress(b"a" * 70_000_000))), "text_bomb.png"
    yield "profile_bomb.png", png(9, 9, (b"iCCP", b"a\0\0" + zlib.compress(b"a" * 70_000_000))), ""
    yield "cut_short.png", encoded("PNG")[:-300], "broken or cut off"
    yield "cut.jpg", encoded("JPEG")[:900], "broken or cut off"
    yield "nothing.jpg", b"", "the file is empty"
    yield "zeros.jpg", b"\0" * 5000, "expected an image file"
    yield "letter.png", b"this is a letter\n" * 50, "expected an image file"
    yield "page.webp", b"<html><body>404 not found</body></html>", "expected an image file"
    yield "film.gif", b"\0\0\0\x18ftypmp42" + b"\0" * 500, "expected an image file"
    yield "archive.jpg", b"PK\x03\x04" + b"\0" * 500, "expected an image file"
    yield "script.jpg", b"#!/bin/sh\nexit 1\n", "expected an image file"


def test_hostile_files_are_reported_one_by_one(
    tmp_path: Path, run: Callable[..., tuple[object, dict[str, FileReport], str]]
) -> None:
    root = tmp_path / "in"
    root.mkdir()
    expected = {}
    for name, content, words in hostile():
        (root / name).write_bytes(content)
        expected[name] = words
    (root / "a_png.jpg").write_bytes(encoded("PNG"))  # wrong suffixes do no harm
    (root / "a_jpeg.bmp").write_bytes(encoded("JPEG"))
    (root / "loop.png").symlink_to("loop.png")
    (root / "dangling.png").symlink_to("nowhere.png")
    (root / "circle").symlink_to(".")
    os.mkfifo(root / "pipe.jpg")
    (root / "folder.jpg").mkdir()
    (root / "folder.jpg" / "inside.jpg").write_bytes(encoded("JPEG"))
    status, found, told = run(root)
    assert status == 1
    harmless = {"profile_bomb.png"} if found["profile_bomb.png"].error is None else set()
    assert {name for name, file in found.items() if file.error is None} == {
        "a_png.jpg", "a_jpeg.bmp", "inside.jpg", *harmless,
    }  # fmt: skip
    for name, words in expected.items():
        error = found[name].error
        if name not in harmless:
            assert error is not None
            assert words in error, name
            assert f"Skipped: {error}" in told
    assert "pipe.jpg" not in found
    assert found["loop.png"].error is not None
    assert "no such file" in (found["dangling.png"].error or "")


def test_a_pipe_that_is_named_does_not_stop_the_job(
    tmp_path: Path, run: Callable[..., tuple[object, dict[str, FileReport], str]]
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(encoded("JPEG"))
    status, found, _ = run(tmp_path / "in", tmp_path / "pipe.jpg")
    assert status == 1
    assert (found["a.jpg"].error, found["pipe.jpg"].error is None) == (None, False)


# ------------------------------------------------------------------------------------------------- names


NAMES = [
    "plain.jpg",
    "with space.jpg",
    " leading.jpg",
    "-o.jpg",
    "--help.jpg",
    "写真.jpg",
    "صورة.jpg",
    "🐈‍⬛.jpg",
    "Ünï.jpg",
    unicodedata.normalize("NFD", "été.jpg"),
    "\u202egpj.exe.jpg",
    "\u2028line.jpg",
    "new\nline.jpg",
    "tab\tand\rreturn.jpg",
    "\x1b[31mred.jpg",
    '"quotes".jpg',
    "'single'.jpg",
    "back\\slash.jpg",
    "$(exit).jpg",
    "%s %d {}.jpg",
    "[bold]x.jpg",
    "*.jpg",
    "?.jpg",
    "CON.jpg",
    "n" * 240 + ".jpg",
    "UPPER.JPG",
]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse some of these names")
@pytest.mark.parametrize("is_broken", [False, True])
def test_names_of_all_scripts_and_none(
    tmp_path: Path, run: Callable[..., tuple[object, dict[str, FileReport], str]], is_broken: bool
) -> None:
    root = tmp_path / "in"
    (root / "sub\nfolder").mkdir(parents=True)
    names = [*NAMES, os.fsdecode(b"latin-\xe9.jpg"), os.fsdecode(b"\xff\xfe.jpg"), "sub\nfolder/é.jpg"]
    content = b"broken" if is_broken else encoded("JPEG")
    for name in names:
        (root / name).write_bytes(content)
    seen = {Path(name).name for name in names if not Path(name).name.startswith(".")}
    status, found, told = run(root)
    assert set(found) == seen
    assert status == int(is_broken)
    assert "\x1b" not in told
    if is_broken:
        assert told.count("Skipped: ") == len(seen)
        assert len(told.splitlines()) == len(seen) + 1
        return
    for name in seen:
        mask = found[name].mask
        assert mask is not None
        assert (tmp_path / "out" / mask).is_file()
    written = json.loads((tmp_path / "out" / REPORT_NAME).read_bytes())
    assert {Path(file["query"]).name for file in written["files"]} == seen


# ---------------------------------------------------------------------------------------------- the disk


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_output_folder_is_one_sentence(
    tmp_path: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "out").mkdir(mode=0o555)
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments(work, [tmp_path / "in"], tmp_path / "out"))
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_image_that_goes_away_meanwhile_is_reported(
    tmp_path: Path, run: Callable[..., tuple[object, dict[str, FileReport], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (root / name).write_bytes(encoded("JPEG"))
    begin = SegGPT.prepare

    def prepare(self: SegGPT, *tensors: Any, **options: Any) -> Any:
        (root / "b.jpg").unlink(missing_ok=True)
        return begin(self, *tensors, **options)

    monkeypatch.setattr(SegGPT, "prepare", prepare)
    status, found, _ = run(root)
    assert status == 1
    assert found["a.jpg"].error is None
    assert "no such file" in (found["b.jpg"].error or "")
