"""Every form of image and mask that people have, the hostile ones among them. All files are made here."""

import io
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from incontext.images.masks import MaskWarning, read_mask
from incontext.images.read import read_colors, read_image
from incontext.images.write import encode_gray, whole_file, write_image, write_mask

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def scene(*colors: tuple[int, ...], size: tuple[int, int] = (160, 120), mode: str = "RGB") -> Image.Image:
    """Ellipses of these colours on black, side by side."""
    image = Image.new(mode, size)
    step = size[0] // len(colors)
    for i, color in enumerate(colors):
        fill = color[0] if len(color) == 1 else color
        ImageDraw.Draw(image).ellipse([i * step + 8, 12, (i + 1) * step - 8, size[1] - 12], fill=fill)
    return image


def smoothed(*colors: tuple[int, ...], size: tuple[int, int] = (160, 120), times: int = 4) -> Image.Image:
    """The same, anti-aliased as drawing programs do it."""
    large = scene(*colors, size=(size[0] * times, size[1] * times))
    return large.resize(size, Image.Resampling.BOX)


def compressed(image: Image.Image, kind: str = "JPEG", quality: int = 75) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return Image.open(io.BytesIO(stream.getvalue()))


def ids_of(image: Image.Image) -> int:
    return len(np.unique(read_mask(image).ids))


# ---------------------------------------------------------------------------------------------- images

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
COLOR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
OVER_WHITE = np.full((4, 6, 3), 255, np.uint8)


def indexed() -> Image.Image:
    image = Image.fromarray((GREY // 120).astype(np.uint8))
    image.putpalette([10, 20, 30, 200, 100, 50], "RGB")
    return image


@pytest.mark.parametrize(
    ("suffix", "image", "expected"),
    [
        (".png", Image.fromarray(COLOR), COLOR),
        (".png", Image.fromarray(GREY), np.repeat(GREY[..., None], 3, axis=2)),
        (".png", Image.fromarray(GREY >= 120), np.repeat((GREY >= 120)[..., None] * 255, 3, axis=2)),
        (".png", Image.fromarray(np.dstack([COLOR, np.full_like(GREY, 255)])), COLOR),
        (".png", Image.fromarray(np.dstack([COLOR, np.zeros_like(GREY)])), OVER_WHITE),
        (".png", Image.fromarray(np.dstack([GREY, np.zeros_like(GREY)]), "LA"), OVER_WHITE),
        (".png", indexed(), np.where(GREY[..., None] < 120, (10, 20, 30), (200, 100, 50))),
        (".png", Image.fromarray(GREY.astype(np.uint16) * 257), np.repeat(GREY[..., None], 3, axis=2)),
        (".tif", Image.fromarray(GREY.astype(np.uint16) * 257), np.repeat(GREY[..., None], 3, axis=2)),
        (".tif", Image.fromarray(GREY.astype(np.int32) * 257), np.repeat(GREY[..., None], 3, axis=2)),
        (".tif", Image.fromarray(COLOR).convert("CMYK"), COLOR),
        (".bmp", Image.fromarray(COLOR), COLOR),
        (".webp", None, None),
        (".jpg", None, None),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else value if isinstance(value, str) else "",
)
def test_images_are_read_as_people_see_them(
    tmp_path: Path, suffix: str, image: Image.Image | None, expected: np.ndarray | None
) -> None:
    path = tmp_path / f"image{suffix}"
    if image is None or expected is None:  # lossy: near is enough
        smooth = Image.fromarray(COLOR).resize((60, 40), Image.Resampling.BICUBIC)
        smooth.save(path, quality=95)
        assert np.abs(read_image(path).astype(int) - np.asarray(smooth)).mean() < 6
        return
    image.save(path)
    image = read_image(str(path))
    assert image.dtype == np.uint8
    assert image.flags.writeable
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(read_image(Image.open(path)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    from PIL import ImageOps

    path = tmp_path / f"turned{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    scene(RED, GREEN, size=(64, 32)).save(path, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    np.testing.assert_array_equal(read_image(path), expected)
    assert read_image(path).shape[:2] == ((32, 64) if orientation < 5 else (64, 32))


def test_the_orientation_of_a_mask_is_applied_and_a_turned_jpeg_is_still_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    indexed().save(tmp_path / "mask.png", exif=exif)
    assert read_mask(tmp_path / "mask.png").ids.shape == (6, 4)
    scene(RED).save(tmp_path / "mask.jpg", exif=exif)
    with pytest.raises(ValueError, match="stray colours"):
        read_mask(tmp_path / "mask.jpg")


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in (RED, GREEN, BLUE)]
    for suffix in (".gif", ".png", ".tif"):
        path = tmp_path / f"moving{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(read_image(path), np.asarray(frames[0]))


def test_half_transparent_pixels_are_laid_over_white_in_images_and_over_black_in_masks() -> None:
    image = Image.new("RGBA", (2, 2), (255, 0, 0, 128))
    assert read_image(image)[0, 0].tolist() == [255, 127, 127]
    assert read_colors(image)[0, 0].tolist() == [128, 0, 0]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (COLOR, COLOR),
        (GREY, np.repeat(GREY[..., None], 3, axis=2)),
        (GREY[..., None], np.repeat(GREY[..., None], 3, axis=2)),
        (np.dstack([COLOR, np.zeros_like(GREY)]), OVER_WHITE),
        (np.dstack([COLOR, np.full_like(GREY, 255)])[:, ::-1], COLOR[:, ::-1]),
        (GREY.astype(np.float32) / 255, "uint8 array .* got float32"),
        (GREY > 3, "got bool"),
        (GREY.astype(np.uint16), "got uint16"),
        (np.zeros((4, 6, 2), np.uint8), r"got shape \(4, 6, 2\)"),
        (np.zeros((1, 4, 6, 3), np.uint8), r"got shape \(1, 4, 6, 3\)"),
        (np.zeros((0, 6, 3), np.uint8), "no pixels"),
        (np.zeros((0, 6), np.uint8), "no pixels"),
        (np.zeros((4, 0, 4), np.uint8), "no pixels"),
        (np.broadcast_to(np.zeros(3, np.uint8), (10_001, 10_000, 3)), "at most 100 megapixels, got 100"),
        (7, "a path, the bytes of a file, a PIL image, an array or a tensor, got int"),
        (None, "got NoneType"),
    ],
)
def test_arrays_as_images(array: np.ndarray, expected: np.ndarray | str) -> None:
    if isinstance(expected, str):
        with pytest.raises((ValueError, TypeError), match=expected):
            read_image(array)
    else:
        np.testing.assert_array_equal(read_image(array), expected)


def png(*, cut: int | None = None, flip: int | None = None) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    if flip is not None:
        data[flip] ^= 0xFF
    return bytes(data[:cut])


def huge(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"not an image at all", "got something else or a kind that cannot be read"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (b"\xff\xd8\xff\xe0", "image"),
        (b"GIF89a", "image|broken"),
        (b"II*\x00\x08\x00\x00\x00", "image|broken"),
        (png(cut=2000), "broken or cut off"),
        (png(cut=-100), "broken or cut off"),
        (png(flip=1500), "broken or cut off"),
        (compressed(scene(RED)).fp.getvalue()[:700], "broken or cut off"),
        (huge(10_001, 10_000), "at most 100 megapixels, got 100; make it smaller"),
        (huge(20_000, 10_000), "at most 100 megapixels, got more"),
    ],
)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_bad_files_are_refused_with_their_name(
    tmp_path: Path, read: Callable[[Path], object], content: bytes, expected: str
) -> None:
    path = tmp_path / "image of a cow.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"image of a cow.png: .*({expected})") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.png: there is no such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="got a folder"):
        read_mask(tmp_path)
    with pytest.raises(ValueError, match="cannot be opened") as caught:
        raise_permission_error(tmp_path)
    assert "secret.png" in str(caught.value)


def raise_permission_error(folder: Path) -> None:
    path = folder / "secret.png"
    path.write_bytes(png())
    with pytest.MonkeyPatch.context() as patch:  # root may read everything, so chmod proves nothing
        patch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        read_image(path)


def test_any_damage_to_a_file_is_either_harmless_or_a_sentence(tmp_path: Path) -> None:
    """Random bytes changed and files cut anywhere: a ValueError with the file's name, or pixels; nothing else."""
    generator = np.random.default_rng(0)
    sources = {}
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        stream = io.BytesIO()
        scene(RED, GREEN, size=(40, 30)).save(stream, kind)
        sources[kind] = stream.getvalue()
    for i in range(240):
        data = bytearray(sources[list(sources)[i % 6]])
        for at in generator.integers(0, len(data), 1 + i % 5):
            data[at] = generator.integers(0, 256)
        if i % 2:
            data = data[: generator.integers(1, len(data))]
        path = tmp_path / f"{i}.bin"
        path.write_bytes(data)
        for read in (read_image, read_mask):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(path)
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017


def test_pillow_s_bomb_warning_does_not_escape_and_its_error_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (10, 8)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert read_image(path).shape == (8, 10, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"large\.png: expected at most 100 megapixels"):
        read_image(path)


def test_reading_in_threads_leaves_the_filters_of_warnings_alone(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    scene(RED).save(path)
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [read_image(path) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_floating_point_and_out_of_range_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "depth.tif"
    Image.fromarray(GREY.astype(np.float32)).save(path)
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match=r"depth\.tif: .* got floating point"):
            read(path)
    Image.fromarray(GREY.astype(np.int32) * 100_000).save(path)
    with pytest.raises(ValueError, match=r"expected grey values in 0..65535"):
        read_image(path)


# ----------------------------------------------------------------------------------------------- masks

IDS = np.kron(np.array([[0, 1, 2], [3, 4, 0]], np.uint8), np.ones((10, 10), np.uint8))


def with_values(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """A mask of broad stripes with these values."""
    return np.repeat(np.array(values, dtype), 10)[None].repeat(20, axis=0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 255), (0, 1)),
        ((0, 1), (0, 1)),
        ((1,), (1,)),
        ((255,), (1,)),
        ((0,), (0,)),
        ((0, 1, 2, 3), (0, 1, 2, 3)),
        ((0, 1, 255), (0, 1, 255)),
        ((0, 7, 254), (0, 7, 254)),
        ((0, 2, 95, 156, 255), (0, 2, 95, 156, 255)),
        ((0, 100, 200), (0, 100, 200)),
        (tuple(range(256)), tuple(range(256))),
    ],
)
def test_grey_images(tmp_path: Path, values: tuple[int, ...], expected: tuple[int, ...]) -> None:
    path = tmp_path / "mask.png"
    for dtype in (np.uint8, np.uint16, np.int32):
        name = path if dtype != np.int32 else path.with_suffix(".tif")
        Image.fromarray(with_values(*values, dtype=dtype)).save(name)
        file = read_mask(name)
        assert file.ids.dtype == np.uint8
        assert file.colors is None
        np.testing.assert_array_equal(file.ids, with_values(*expected))


def test_white_beside_mid_grey_is_ignored_but_not_in_silence() -> None:
    """{0, 128, 255} may be one object with ignored pixels, or two objects: read by the rule, with a warning."""
    image = Image.fromarray(with_values(0, 128, 255))
    with pytest.warns(
        MaskWarning, match=r"255 \(33.3% of the pixels\) is read as ignored; if white is an object, save"
    ):
        np.testing.assert_array_equal(read_mask(image).ids, with_values(0, 128, 255))
    np.testing.assert_array_equal(read_mask(image.convert("RGB")).ids, with_values(0, 1, 2))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (IDS, IDS),
        (IDS.astype(np.int64), IDS),
        (IDS > 0, (IDS > 0).astype(np.uint8)),
        (IDS[..., None], IDS),
        (with_values(0, 255), with_values(0, 255)),  # in an array 255 is what the vocabulary says: ignored
        (with_values(0, 128, 255), with_values(0, 128, 255)),
        (np.random.default_rng(0).integers(0, 256, (30, 30)), np.random.default_rng(0).integers(0, 256, (30, 30))),
        (np.zeros((3, 3), np.int8), np.zeros((3, 3), np.uint8)),
        (IDS.astype(np.float32), "expected integer ids or bool, got float32"),
        (IDS.astype(np.int16) - 1, r"expected ids in 0..254 \(255 = ignored\), got -1..3"),
        (IDS.astype(np.int64) * 100, r"got 0..400"),
        (np.zeros((0, 4), np.uint8), "got shape"),
        (np.zeros(4, np.uint8), "got shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), "got shape"),
        (np.zeros((4, 4, 3)), "got float64"),
        (np.array([["a", "b"]]), "got <U1"),
        (np.broadcast_to(np.uint8(1), (10_001, 10_000)), "at most 100 megapixels"),
    ],
)
def test_arrays_as_masks(array: np.ndarray, expected: np.ndarray | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            read_mask(array)
    else:
        ids = read_mask(array).ids
        assert ids.dtype == np.uint8
        np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(with_values(0, 65535, dtype=np.uint16)), with_values(0, 1)),
        (Image.fromarray(with_values(0, 300, dtype=np.uint16)), r"got 0..300; number the objects anew"),
        (Image.fromarray(with_values(0, 1).astype(bool)), with_values(0, 1)),
        (Image.fromarray(with_values(0, 255)).convert("LA"), with_values(0, 1)),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), np.zeros((8, 8))),
        (Image.new("LA", (8, 8), (255, 0)), np.zeros((8, 8))),
        (Image.new("HSV", (8, 8), (0, 255, 255)), np.ones((8, 8))),
        (Image.new("RGB", (1, 1), RED), np.ones((1, 1))),
    ],
)
def test_other_images_as_masks(image: Image.Image, expected: np.ndarray | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            read_mask(image)
    else:
        np.testing.assert_array_equal(read_mask(image).ids, expected)


def test_indices_are_ids_and_the_palette_is_kept(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (256, 3)).astype(np.uint8)
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_mask(tmp_path / "mask.png", ids, colors)
    file = read_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(file.ids, ids)
    np.testing.assert_array_equal(file.colors, colors)
    ids[0, 0] = 9  # the image's memory is not shared


def test_a_short_palette_and_transparent_indices(tmp_path: Path) -> None:
    image = Image.fromarray(IDS)
    image.putpalette([0, 0, 0, *RED, *GREEN, *BLUE, *WHITE], "RGB")
    for transparency, gone in ((3, [3]), (b"\xff\x00\xff\x00", [1, 3])):
        image.save(tmp_path / "mask.png", transparency=transparency)
        file = read_mask(tmp_path / "mask.png")
        np.testing.assert_array_equal(file.ids, np.where(np.isin(IDS, gone), 0, IDS))
        assert file.colors is not None
        assert file.colors[4].tolist() == list(WHITE)


def test_an_indexed_file_whose_black_is_not_index_0_warns() -> None:
    image = Image.fromarray(with_values(0, 1))
    image.putpalette([*WHITE, 0, 0, 0], "RGB")
    with pytest.warns(MaskWarning, match="index 0 is read as background, but index 1 is the black one"):
        np.testing.assert_array_equal(read_mask(image).ids, with_values(0, 1))


def test_colours_are_counted_in_ascending_order(tmp_path: Path) -> None:
    colors = [(0, 0, 1), (0, 0, 2), (0, 7, 0), BLUE, (10, 0, 0), RED, WHITE]
    order = sorted(colors)
    scene(*colors, size=(280, 60)).save(tmp_path / "mask.png")
    file = read_mask(tmp_path / "mask.png")
    assert file.colors is not None
    assert [tuple(color) for color in file.colors[1:8].tolist()] == order
    np.testing.assert_array_equal(file.colors[file.ids], np.asarray(Image.open(tmp_path / "mask.png")))
    np.testing.assert_array_equal(read_mask(np.asarray(Image.open(tmp_path / "mask.png"))).ids, file.ids)


@pytest.mark.parametrize(("count", "expected"), [(254, None), (255, "at most 254 colours beside black, got 255")])
def test_how_many_colours_fit(count: int, expected: str | None) -> None:
    colors = [(i // 49 * 42, i // 7 % 7 * 42, i % 7 * 42) for i in range(1, count + 1)]
    rgb = np.array([(0, 0, 0), *colors], np.uint8)
    rgb = np.kron(rgb[None, :, :], np.ones((8, 8, 1), np.uint8))
    for snap in (False, True):
        if expected:
            with pytest.raises(ValueError, match=expected):
                read_mask(rgb, snap=snap)
        else:
            assert len(np.unique(read_mask(rgb, snap=snap).ids)) == count + 1


CLEAN = {
    "thin lines": lambda draw: [
        draw.line([(0, 7 * i), (159, 9 * i)], fill=c) for i, c in enumerate([RED, GREEN, WHITE])
    ],
    "single pixels": lambda draw: [draw.point((10 * i + 5, 50), fill=c) for i, c in enumerate([RED, BLUE, WHITE])],
    "outlines": lambda draw: [
        draw.ellipse([20 + 50 * i, 20, 60 + 50 * i, 90], fill=c, outline=(224, 224, 192), width=3)
        for i, c in enumerate([(128, 0, 0), (0, 128, 0)])
    ],
    "collinear": lambda draw: [
        draw.rectangle([5 + 30 * i, 20, 30 + 30 * i, 90], fill=(64 * i + 63, 0, 0)) for i in range(4)
    ],
    "a thin region between two": lambda draw: (
        draw.rectangle([0, 0, 80, 119], fill=(192, 0, 0)),
        draw.rectangle([81, 0, 82, 119], fill=(64, 0, 0)),
        draw.rectangle([120, 10, 150, 50], fill=GREEN),
        draw.rectangle([120, 60, 150, 90], fill=BLUE),
    ),
}


@pytest.mark.parametrize("name", CLEAN)
def test_clean_masks_are_exact_whatever_their_shapes(name: str) -> None:
    image = Image.new("RGB", (160, 120))
    CLEAN[name](ImageDraw.Draw(image))
    colors = len(image.getcolors())
    assert ids_of(image) == colors


def test_many_clean_instances_of_random_colours_stay_apart() -> None:
    generator = np.random.default_rng(0)
    image = Image.new("RGB", (200, 200))
    for _ in range(120):
        x, y = generator.integers(0, 195, 2)
        width, height = generator.integers(1, 14, 2)
        color = tuple(generator.integers(1, 256, 3).tolist())
        ImageDraw.Draw(image).rectangle([x, y, x + width, y + height], fill=color)
    assert ids_of(image) == len(image.getcolors(1000))


@pytest.mark.parametrize(
    ("image", "main"),
    [
        (smoothed(WHITE, size=(640, 480)), [WHITE]),
        (smoothed((128, 128, 128), WHITE, size=(640, 480)), [(128, 128, 128), WHITE]),
        (smoothed(RED, GREEN, BLUE, size=(640, 480)), [BLUE, GREEN, RED]),
        (smoothed((128, 0, 0), (64, 0, 0), (192, 0, 0), size=(640, 480)), [(64, 0, 0), (128, 0, 0), (192, 0, 0)]),
        (smoothed(WHITE, size=(640, 480)).convert("L"), [WHITE]),
        (smoothed(WHITE, size=(640, 480)).convert("L").convert("LA"), [WHITE]),
        (smoothed(RED, WHITE, size=(320, 240)).resize((640, 480), Image.Resampling.NEAREST), [RED, WHITE]),
        (smoothed(RED, WHITE, size=(320, 240)).resize((1280, 960), Image.Resampling.NEAREST), [RED, WHITE]),
    ],
)
def test_few_stray_colours_snap_with_one_line(image: Image.Image, main: list[tuple[int, ...]]) -> None:
    rgb = np.asarray(image.convert("RGB")).astype(int)
    with pytest.warns(MaskWarning, match=r"stray colours on \d\.\d\d% of the pixels snapped") as caught:
        file = read_mask(image)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert caught[0].filename == __file__
    assert file.colors is not None
    assert [tuple(color) for color in file.colors[1 : len(main) + 1].tolist()] == main
    table = np.array([(0, 0, 0), *main])
    np.testing.assert_array_equal(file.ids, ((rgb[:, :, None] - table) ** 2).sum(axis=-1).argmin(axis=-1))


def strokes() -> Image.Image:
    image = Image.new("RGB", (640 * 4, 480 * 4))
    for i, color in enumerate((RED, GREEN, BLUE)):
        ImageDraw.Draw(image).line([(40, 300 + 400 * i), (2500, 500 + 450 * i)], fill=color, width=6)
    return image.resize((640, 480), Image.Resampling.BOX)


def test_thin_smoothed_strokes_keep_their_colours() -> None:
    with pytest.warns(MaskWarning, match="snapped to the nearest of 4 main ones"):
        file = read_mask(strokes())
    assert set(np.unique(file.ids)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("image", "ids"),
    [
        (smoothed(*([RED, GREEN, BLUE] * 8), size=(480, 60)), 3),
        (scene(WHITE).resize((80, 60), Image.Resampling.LANCZOS), 1),
        (scene(WHITE).convert("L").resize((80, 60), Image.Resampling.LANCZOS), 1),
        (compressed(scene(WHITE)), 1),
        (compressed(scene(WHITE).convert("L"), quality=50), 1),
        (compressed(scene(RED, GREEN, BLUE)), 3),
        (compressed(scene((128, 0, 0), (0, 128, 0)), "WEBP"), 2),
        (compressed(scene(RED, GREEN)).copy(), 2),  # its format is forgotten
    ],
)
def test_many_stray_colours_are_refused_unless_snapped(image: Image.Image, ids: int) -> None:
    with pytest.raises(
        ValueError, match=r"got \d+ stray colours on \d+\.\d% of the pixels .*--snap-colors \(snap=True in Python\)"
    ):
        read_mask(image)
    assert len(np.unique(read_mask(image, snap=True).ids)) == ids + 1


def test_a_photograph_is_no_mask(shared: Path) -> None:
    with pytest.raises(ValueError, match=r"hmbb_1\.jpg: .* stray colours"):
        read_mask(shared / "data/examples/seggpt/hmbb_1.jpg")


def test_grey_pixels_in_an_array_are_not_taken_for_ids() -> None:
    """The slip of reading an anti-aliased mask with OpenCV: its 255 would be ignored and its edges become objects."""
    grey = np.asarray(smoothed(WHITE, size=(640, 480)).convert("L"))
    with pytest.warns(MaskWarning, match="snapped"):
        assert set(np.unique(read_mask(grey).ids)) == {0, 1}
    with pytest.raises(ValueError, match="stray colours"):
        read_mask(np.asarray(scene(WHITE).convert("L").resize((80, 60), Image.Resampling.LANCZOS)))


@pytest.mark.parametrize("name", ["hmbb_1", "hmbb_2", "hmbb_3", "video_1", "video_2", "video_3"])
def test_the_published_masks(shared: Path, name: str) -> None:
    path = shared / f"data/examples/seggpt/{name}_target.png"
    with pytest.warns(MaskWarning, match=f"{name}_target.png: .* nearest of 2 main ones"):
        file = read_mask(path)
    np.testing.assert_array_equal(file.ids, np.asarray(Image.open(path).convert("L")) > 127)


@pytest.mark.parametrize("name", ["train/nuclei", "train/car_parts", "test/streets", "test/cows"])
def test_data_masks_survive_as_indices_colours_and_grey_values(shared: Path, name: str) -> None:
    for path in sorted((shared / "data" / name / "masks").glob("*.png"))[:3]:
        file = read_mask(path)
        np.testing.assert_array_equal(file.ids, np.asarray(Image.open(path)))
        table = np.random.default_rng(0).choice(1 << 24, 256, replace=False)
        table = np.stack([table >> 16, (table >> 8) & 255, table & 255], axis=1).astype(np.uint8)
        table[0] = 0
        read = read_mask(Image.fromarray(table[file.ids]))
        assert read.colors is not None
        np.testing.assert_array_equal(read.colors[read.ids], table[file.ids])
        if set(np.unique(file.ids)) - {0, 255}:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MaskWarning)
                np.testing.assert_array_equal(read_mask(Image.fromarray(file.ids)).ids, file.ids)


# --------------------------------------------------------------------------------------------- writing


def test_random_masks_survive_a_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for i in range(20):
        mask = generator.integers(0, 256, generator.integers(1, 40, 2)).astype([np.uint8, np.int32, np.int64][i % 3])
        write_mask(tmp_path / "mask.PNG", mask, generator.integers(0, 256, (256, 3)).astype(np.uint8))
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.PNG").ids, mask)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.PNG"]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")

    def fail() -> None:
        with whole_file(path) as stream:
            stream.write(b"half of")
            stream.flush()
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with whole_file(path) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"new"


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_image(tmp_path / "grey.png", np.zeros((2, 2), np.uint8))
    assert (tmp_path / "grey.png").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(
    ("write", "error", "expected"),
    [
        (lambda p: write_mask(p / "mask.jpg", IDS, np.zeros((256, 3), np.uint8)), ValueError, "saved as PNG"),
        (lambda p: write_mask(p / "m.png", IDS, np.zeros((4, 3), np.uint8)), ValueError, r"colours \(256, 3\)"),
        (lambda p: write_mask(p / "m.png", IDS * 0.5, np.zeros((256, 3), np.uint8)), ValueError, "got float64"),
        (
            lambda p: write_mask(p / "m.png", IDS.astype(int) - 9, np.zeros((256, 3), np.uint8)),
            ValueError,
            "-9",
        ),
        (lambda p: write_image(p / "image.xyz", COLOR), ValueError, r"ends in .png, .jpg or .webp, got .xyz"),
        (lambda p: write_image(p / "image", COLOR), ValueError, "got no suffix"),
        (lambda p: write_image(p / "image.png", COLOR / 255), ValueError, "expected uint8"),
        (lambda p: write_image(p / "image.png", COLOR[None]), ValueError, "expected uint8"),
        (lambda _: encode_gray(GREY, name="image.png"), ValueError, r"values in 0..1, got uint8"),
        (lambda p: write_image(p / "no" / "image.png", COLOR), FileNotFoundError, "create it first"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, write: Callable[[Path], None], error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_images_and_grey_values_are_written(tmp_path: Path) -> None:
    write_image(tmp_path / "image.png", COLOR)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), COLOR)
    write_image(tmp_path / "image.jpg", np.asarray(scene(RED)))
    with Image.open(tmp_path / "image.jpg") as image:
        assert image.format == "JPEG"
    grey = encode_gray(np.array([[0, 0.5, 1.0]], np.float32), name="grey.png")
    assert np.asarray(Image.open(io.BytesIO(grey))).tolist() == [[0, 128, 255]]
