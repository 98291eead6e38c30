"""Kinds of image files: what a telephone, a microscope and a scanner write, whole, broken and hostile."""

from __future__ import annotations

import io
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from incontext.images import read
from incontext.images.depth import RangeWarning
from incontext.images.masks import is_painted, read_mask
from incontext.images.read import MAX_PAGES, page_count, read_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def scene(height: int = 40, width: int = 64) -> np.ndarray:
    """Smooth enough for lossy formats: red to the right, green downwards, a blue square."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = np.linspace(0, 250, width)
    rgb[..., 1] = np.linspace(0, 250, height)[:, None]
    rgb[8:24, 8:24, 2] = 200
    return rgb


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def heic(rgb: np.ndarray) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(rgb)).save(stream, quality=95)
    return stream.getvalue()


def scan(
    stored: np.ndarray, *, kind: str = "MONOCHROME2", bits: int = 16, signed: bool = False, **attributes: Any
) -> bytes:
    """A DICOM file, uncompressed: stored (H, W), (frames, H, W) or, for colours, (H, W, 3)."""
    pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    is_color = kind in ("RGB", "YBR_FULL")
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.SamplesPerPixel, data.PhotometricInterpretation = (3, kind) if is_color else (1, kind)
    if is_color:
        data.PlanarConfiguration = 0
    elif stored.ndim == 3:
        data.NumberOfFrames = len(stored)
    data.Rows, data.Columns = stored.shape[:2] if is_color else stored.shape[-2:]
    data.BitsAllocated = stored.dtype.itemsize * 8
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, int(signed)
    data.PixelData = stored.tobytes()
    for name, value in attributes.items():
        setattr(data, name, value)
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


# ------------------------------------------------------------------------------------------- where from


@pytest.mark.parametrize("form", [bytes, io.BytesIO, lambda data: Image.open(io.BytesIO(data))])
def test_a_file_s_contents_are_read_like_the_file(tmp_path: Path, form: Callable[[bytes], Any]) -> None:
    data = saved(Image.fromarray(scene()), "PNG")
    (tmp_path / "scene.png").write_bytes(data)
    np.testing.assert_array_equal(read_image(form(data)), read_image(tmp_path / "scene.png"))
    np.testing.assert_array_equal(read_image(form(data)), scene())


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (b"", r"t\.tar/a\.jpg: the file is empty"),
        (b"hello", r"t\.tar/a\.jpg: expected an image file, got something else"),
        (saved(Image.fromarray(scene()), "PNG")[:80], r"t\.tar/a\.jpg: the file is broken or cut off"),
        (io.BytesIO(b""), r"t\.tar/a\.jpg: the file is empty"),
        (42, "expected the image as a path, the bytes of a file, a PIL image, an array or a tensor, got int"),
    ],
)
def test_what_is_wrong_with_contents_is_said_with_their_name(source: Any, sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=sentence):
        read_image(source, name="t.tar/a.jpg")


def test_a_stream_is_read_from_its_start_and_left_open() -> None:
    stream = io.BytesIO(saved(Image.fromarray(scene()), "PNG"))
    stream.seek(10)
    np.testing.assert_array_equal(read_image(stream), scene())
    assert not stream.closed


# ------------------------------------------------------------------------------------- TIFF and telephones


def test_sixteen_bits_become_eight_by_what_the_file_calls_white(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)
    plain, said = tmp_path / "plain.tif", tmp_path / "said.tif"
    Image.fromarray(values).save(plain)
    Image.fromarray(values).save(said, tiffinfo={281: 4095})
    with pytest.warns(RangeWarning, match=r"plain\.tif: its 16 bits hold values of 12 bits, up to 4095"):
        np.testing.assert_allclose(read_image(plain)[..., 0], RAMP, atol=1)
    np.testing.assert_allclose(read_image(said)[..., 0], RAMP, atol=1)


def test_sixteen_bits_with_white_as_zero_are_turned_round(tmp_path: Path) -> None:
    path = tmp_path / "film.tif"
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(path, tiffinfo={262: 0})
    np.testing.assert_array_equal(read_image(path)[..., 0], 255 - RAMP)


def test_sixteen_bits_of_colour_are_read(tmp_path: Path) -> None:
    """Pillow writes none, so this one is made by hand: a header, one strip, one directory."""
    rgb = scene(4, 6)
    strip = (rgb.astype("<u2") * 257).tobytes()
    bits = 8 + len(strip)
    entries = [(256, 3, 1, 6), (257, 3, 1, 4), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8)]
    entries += [(277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 1, len(strip))]
    directory = len(entries).to_bytes(2, "little") + b"".join(
        b"".join(value.to_bytes(size, "little") for value, size in zip(entry, (2, 2, 4, 4), strict=True))
        for entry in entries
    )
    head = b"II*\0" + (bits + 6).to_bytes(4, "little")
    path = tmp_path / "deep.tif"
    path.write_bytes(head + strip + b"\x10\0" * 3 + directory + bytes(4))
    np.testing.assert_array_equal(read_image(path), rgb)


def test_pages_of_a_tiff_without_its_smaller_copies(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    pages = [Image.fromarray(np.full((6, 8, 3), shade, np.uint8)) for shade in (10, 90, 200)]
    small = Image.fromarray(np.full((3, 4, 3), 55, np.uint8))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    pages[0].save(path, save_all=True, append_images=[small, *pages[1:]])
    with Image.open(path) as stack:
        assert stack.n_frames == 4  # type: ignore[attr-defined]
    assert page_count(path) == page_count(path.read_bytes()) == 3
    assert [int(read_image(path, page=page)[0, 0, 0]) for page in range(3)] == [10, 90, 200]
    assert int(read_image(path)[0, 0, 0]) == 10
    for page in (3, -1):
        with pytest.raises(ValueError, match=r"stack\.tif: expected a page from 0 to 2, got"):
            read_image(path, page=page)


def test_an_animation_is_one_page_and_too_many_pages_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [Image.fromarray(np.full((6, 8), shade, np.uint8)) for shade in (10, 200)]
    gif, tiff = tmp_path / "a.gif", tmp_path / "a.tif"
    for path in (gif, tiff):
        frames[0].save(path, save_all=True, append_images=frames[1:])
    assert (page_count(gif), page_count(tiff)) == (1, 2)
    monkeypatch.setattr(read, "MAX_PAGES", 1)
    with pytest.raises(ValueError, match=r"a\.tif: expected at most 1 pages, got 2; split the file"):
        page_count(tiff)
    assert MAX_PAGES == 10_000


@pytest.mark.parametrize("kind", ["HEIC", "AVIF", "WEBP"])
def test_images_of_telephones(tmp_path: Path, kind: str) -> None:
    if kind == "AVIF" and ".avif" not in Image.registered_extensions():
        pytest.skip("needs a Pillow with AVIF")
    data = heic(scene()) if kind == "HEIC" else saved(Image.fromarray(scene()), kind, quality=95)
    path = tmp_path / "photo.jpg"  # the contents decide, not the name
    path.write_bytes(data)
    assert np.abs(read_image(path).astype(int) - scene()).mean() < 4
    assert page_count(path) == 1
    with pytest.raises(ValueError, match=r"photo\.jpg: the file is broken or cut off"):
        read_image(data[: len(data) // 2], name="photo.jpg")


@pytest.mark.parametrize(
    ("module", "make", "sentence"),
    [
        ("pillow_heif", lambda: heic(scene()), r"got HEIC; reading it needs: pip install 'incontext\[heif\]'"),
        ("pydicom", lambda: scan(RAMP), r"got DICOM; reading it needs: pip install 'incontext\[dicom\]'"),
    ],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, make: Callable[[], bytes], sentence: str
) -> None:
    data = make()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"a\.bin: .*{sentence}"):
        read_image(data, name="a.bin")


def test_extras_are_imported_only_for_their_files(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    program = (
        "import sys; from incontext.images.read import read_image; read_image(sys.argv[1]);"
        "print(sorted({'pydicom', 'pillow_heif', 'torch'} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "a.png")]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------ DICOM


def test_a_scan_is_shown_through_its_window_after_the_rescale() -> None:
    """Hounsfield units from -1024 on, of which the window shows 40 +- 200."""
    stored = np.array([[0, 864, 1064, 1264, 3000]], np.uint16)
    data = scan(
        stored, bits=12, RescaleSlope="1", RescaleIntercept="-1024",
        WindowCenter=["40", "300"], WindowWidth=["400", "1500"], VOILUTFunction="LINEAR_EXACT",
    )  # fmt: skip
    assert read_image(data)[0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR", [0, 127, 128, 255]),  # PS3.3, C.11.2.1.2.1: half a value and one less, so that 0 and 255 are met
        ("LINEAR_EXACT", [0, 127, 128, 254]),
        ("SIGMOID", [30, 126, 128, 223]),
    ],
)
def test_the_functions_of_a_window(function: str, expected: list[int]) -> None:
    stored = np.array([[0, 127, 128, 255]], np.uint16)
    data = scan(stored, bits=8, WindowCenter="128", WindowWidth="256", VOILUTFunction=function)
    assert np.abs(read_image(data)[0, :, 0].astype(int) - expected).max() <= 1


def test_without_a_window_the_frame_s_own_range_is_shown_and_signs_count() -> None:
    stored = np.array([[-500, 0, 500]], np.int16)
    assert read_image(scan(stored, signed=True))[0, :, 0].tolist() == [0, 128, 255]
    assert read_image(scan(np.full((2, 2), 7, np.uint16))).max() == 0  # flat: no range to stretch


def test_air_is_dark_in_monochrome1_too() -> None:
    one, two = (read_image(scan(RAMP, bits=8, kind=kind)) for kind in ("MONOCHROME1", "MONOCHROME2"))
    np.testing.assert_array_equal(one, 255 - two)
    np.testing.assert_array_equal(two[..., 0], RAMP)


def test_colours_and_palettes_of_scans() -> None:
    np.testing.assert_array_equal(read_image(scan(scene(), kind="RGB", bits=8)), scene())
    table = np.arange(256, dtype=np.uint16)
    tables = {
        f"{name}PaletteColorLookupTable{part}": value
        for name, row in (("Red", table * 257), ("Green", (255 - table) * 257), ("Blue", table * 0))
        for part, value in (("Descriptor", [256, 0, 16]), ("Data", row.astype("<u2").tobytes()))
    }
    shown = read_image(scan(RAMP, kind="PALETTE COLOR", bits=8, **tables))
    np.testing.assert_array_equal(shown, np.stack([RAMP, 255 - RAMP, RAMP * 0], axis=-1))


def test_a_table_of_values_of_interest_stands_in_for_a_window() -> None:
    pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset

    table = Dataset()
    table.LUTDescriptor = [256, 0, 8]
    table.LUTData = [255 - i for i in range(256)]
    table["LUTDescriptor"].VR = "US"
    table["LUTData"].VR = "US"
    shown = read_image(scan(RAMP.astype(np.uint16), bits=8, VOILUTSequence=[table]))
    np.testing.assert_array_equal(shown[..., 0], 255 - RAMP)


def test_frames_are_pages_with_windows_of_their_own() -> None:
    pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset

    groups = []
    for center in (64, 192):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, 128, "LINEAR_EXACT"
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    stored = np.stack([RAMP, RAMP]).astype(np.uint16)
    data = scan(stored, bits=8, PerFrameFunctionalGroupsSequence=groups)
    assert page_count(data) == 2
    low, high = (read_image(data, page=page)[..., 0] for page in range(2))
    assert (low.ravel()[[0, 64, 128]].tolist(), high.ravel()[[128, 192]].tolist()) == ([0, 128, 255], [0, 128])
    with pytest.raises(ValueError, match=r"a\.dcm: expected a page from 0 to 1, got 2"):
        read_image(data, page=2, name="a.dcm")


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"Rows": 20_000, "Columns": 20_000}, "expected at most 100 megapixels, got 400"),
        ({"Rows": 0}, "expected at least one pixel"),
        ({"PixelData": b"\0" * 8}, "broken or cut off"),
        ({"NumberOfFrames": 2_000_000}, "broken or cut off"),
    ],
)
def test_hostile_scans_are_refused_before_they_cost_memory(attributes: dict[str, Any], sentence: str) -> None:
    data = scan(RAMP, bits=8, **attributes)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"a.dcm: .*{sentence}"):
            read_image(data, name="a.dcm", page=1 if "NumberOfFrames" in attributes else 0)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_scans_that_are_no_images_or_are_deflated_are_refused() -> None:
    pytest.importorskip("pydicom")
    data = scan(RAMP, bits=8)
    with pytest.raises(ValueError, match="it holds no image"):
        read_image(data.replace(b"\x28\x00\x10\x00US", b"\x29\x00\x10\x00US"), name="report.dcm")
    plain, deflated = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"
    with pytest.raises(ValueError, match="deflated, which is not read; store it uncompressed"):
        read_image(data.replace(plain, deflated), name="a.dcm")


def test_any_damage_to_images_of_the_extras_is_harmless_or_a_sentence() -> None:
    generator = np.random.default_rng(0)
    stack = io.BytesIO()
    Image.fromarray(RAMP).save(stack, "TIFF", save_all=True, append_images=[Image.fromarray(RAMP)])
    sources = [heic(scene()), scan(np.stack([RAMP, RAMP]), bits=8, WindowCenter="90", WindowWidth="80")]
    sources.append(stack.getvalue())
    refused = 0
    for i in range(150):
        data = bytearray(sources[i % 3])
        for at in generator.integers(0, len(data), 1 + i % 7):
            data[at] = generator.integers(0, 256)
        if i % 2:
            data = data[: generator.integers(1, len(data))]
        try:
            read_image(bytes(data), name=f"{i}.bin", page=i % 2)
            page_count(bytes(data), name=f"{i}.bin")
        except ValueError as error:
            refused += 1
            assert f"{i}.bin" in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
    assert 20 < refused < 150


def test_masks_come_in_these_kinds_too(tmp_path: Path) -> None:
    """Ids as grey values; a photograph is no mask, whatever file it is in."""
    ids = np.repeat(np.arange(4, dtype=np.uint8), 16).reshape(8, 8)
    np.testing.assert_array_equal(read_mask(Image.open(io.BytesIO(saved(Image.fromarray(ids), "TIFF")))).ids, ids)
    painted, photograph = tmp_path / "mask.heic", tmp_path / "photo.heic"
    flat = np.repeat(np.repeat(np.array([[0, 255], [255, 0]], np.uint8), 16, axis=0), 16, axis=1)
    painted.write_bytes(heic(np.stack([flat, flat * 0, flat * 0], axis=-1)))
    photograph.write_bytes(heic(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)))
    assert is_painted(painted)
    assert set(np.unique(read_mask(painted, snap=True).ids)) == {0, 1}
    with pytest.raises(ValueError, match=r"photo\.heic: expected a mask of flat colours"):
        read_mask(photograph)
