"""Contexts on disk: which files are a pair, context files, and what many prompts agree on once they are opened."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from incontext.examples import PromptFiles, PromptWarning, gather, open_prompts, read_context, read_empty, write_context
from incontext.images.ids import Pixels
from incontext.images.write import write_image, write_mask

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def example(folder: Path, name: str, mask: Pixels, *, colors: Pixels | None = None) -> None:
    """An image and its mask, of the layout images/ and masks/; colors (256, 3): an indexed mask, else as it is."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    write_image(folder / "images" / f"{name}.jpg", np.full((*mask.shape[:2], 3), 90, np.uint8))
    if colors is None:
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    else:
        write_mask(folder / "masks" / f"{name}.png", mask, colors)


def square(value: int | tuple[int, int, int], *, left: int = 4) -> Pixels:
    """(24, 36) or, of a colour, (24, 36, 3): a square of that value."""
    mask = np.zeros((24, 36, *np.shape(value)), np.uint8)
    mask[4:16, left : left + 12] = value
    return mask


def table(**colors: tuple[int, int, int]) -> Pixels:
    """(256, 3), the colours of ids, such as id1=RED."""
    rows = np.zeros((256, 3), np.uint8)
    for name, color in colors.items():
        rows[int(name.removeprefix("id"))] = color
    return rows


@contextmanager
def told(*sentences: str) -> Iterator[None]:
    """These warnings and no others."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert len(caught) == len(sentences), [str(each.message) for each in caught]
    for each, sentence in zip(caught, sentences, strict=True):
        assert issubclass(each.category, PromptWarning)
        assert sentence in str(each.message)


def pairs(folder: Path, files: PromptFiles) -> list[tuple[str, str]]:
    return [(image.relative_to(folder).as_posix(), mask.relative_to(folder).as_posix()) for image, mask in files.pairs]


# --------------------------------------------------------------------------------------------- finding


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["images/10.jpg", "images/9.JPG", "masks/9.png", "masks/10.png"],
            [("images/9.JPG", "masks/9.png"), ("images/10.jpg", "masks/10.png")],
        ),
        (["Images/a.jpg", "Labels/a_mask.png"], [("Images/a.jpg", "Labels/a_mask.png")]),
        (
            ["JPEGImages/a.jpg", "SegmentationClass/a.png", "Annotations/a.xml"],
            [("JPEGImages/a.jpg", "SegmentationClass/a.png")],
        ),
        (
            ["images/train/a.jpg", "images/val/a.jpg", "masks/train/a.png", "masks/val/a.png", "images/.x/b.jpg"],
            [("images/train/a.jpg", "masks/train/a.png"), ("images/val/a.jpg", "masks/val/a.png")],
        ),
        (
            ["a.jpg", "a_mask.png", "b.tif", "b.png", "B2.png", "b2-mask.bmp", "notes.txt", ".c.jpg"],
            [("a.jpg", "a_mask.png"), ("B2.png", "b2-mask.bmp"), ("b.tif", "b.png")],
        ),
        (["face_mask.jpg", "face_mask.png"], [("face_mask.jpg", "face_mask.png")]),  # an image of a mask
        (["images/face_mask.jpg", "masks/face_mask.png"], [("images/face_mask.jpg", "masks/face_mask.png")]),
        (["images/e\u0301.jpg", "masks/\u00e9.png"], [("images/e\u0301.jpg", "masks/\u00e9.png")]),
        (["a.jpg", "a.png", "images/notes.txt", "masks/x.png"], [("a.jpg", "a.png")]),  # images/ has no image
    ],
)
def test_layouts(tmp_path: Path, names: list[str], expected: list[tuple[str, str]]) -> None:
    touch(tmp_path, *names)
    with told():
        assert pairs(tmp_path, gather(source=tmp_path)) == expected


def test_files_without_a_partner_are_told(tmp_path: Path) -> None:
    images = [f"images/{n}.jpg" for n in range(12)]
    touch(tmp_path, *images, "masks/1.png", "masks/x.png", "masks/old/1.png")
    with told(
        "left out 11 images without a mask: " + ", ".join(str(tmp_path / f"images/{n}.jpg") for n in (0, 2, 3)),
        f"left out 2 masks without an image: {tmp_path / 'masks/old/1.png'}, {tmp_path / 'masks/x.png'}",
    ):
        files = gather(source=tmp_path)
    assert pairs(tmp_path, files) == [("images/1.jpg", "masks/1.png")]
    assert {path.relative_to(tmp_path).as_posix() for path in files.masks} == {
        "masks/1.png", "masks/x.png", "masks/old/1.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "source", "message"),
    [
        (["a.jpg", "b.jpg"], ".", "expected images/ and masks/ .* found 2 images without a mask, 0 masks"),
        ([], ".", "found 0 images without a mask, 0 masks without an image"),
        (["images/a.jpg", "masks/b.png"], ".", "found 1 image without a mask, 1 mask without an image"),
        (["images/a.jpg", "masks/a.png"], "images", "found 1 image .*; is .* meant?"),
        (["images/a.jpg", "masks/a.png", "labels/a.png"], ".", "expected one of the folders labels, masks, got 2"),
        (["images/a.jpg", "images/a.png", "masks/a.png"], ".", "expected one image and one mask of a name, got .*"),
        (["images/a.jpg", "masks/a.png", "masks/a_mask.png"], ".", r"masks/a.png, .*masks/a_mask.png; move those"),
        (["a.jpg", "a_mask.png", "a_label.png"], ".", "expected one image and one mask of a name"),
    ],
)
def test_unclear_folders_are_refused(tmp_path: Path, names: list[str], source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gather(source=touch(tmp_path, *names) / source)


def test_prompts_given_one_by_one_come_first_and_once(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg", "x.png", "in/images/a.jpg", "in/masks/a.png", "in/images/b.jpg", "in/masks/b.png")
    (tmp_path / "same").symlink_to(tmp_path / "in")
    given = [(tmp_path / "x.jpg", tmp_path / "x.png"), (tmp_path / "same/images/b.jpg", tmp_path / "same/masks/b.png")]
    with told(f"1 prompt given twice, used once: {tmp_path / 'in/images/b.jpg'}"):
        files = gather(given, tmp_path / "in")
    assert pairs(tmp_path, files) == [
        ("x.jpg", "x.png"), ("same/images/b.jpg", "same/masks/b.png"), ("in/images/a.jpg", "in/masks/a.png"),
    ]  # fmt: skip
    assert files.named == set(given)
    with told():  # one image with two masks is two prompts
        assert len(gather([given[0], (tmp_path / "x.jpg", tmp_path / "other.png")]).pairs) == 2
    with pytest.raises(
        ValueError, match="expected at least one prompt, got none; give --prompt IMAGE MASK or --prompts"
    ):
        gather()


# --------------------------------------------------------------------------------------- context files


def test_a_context_file_and_its_images_can_move_together(tmp_path: Path) -> None:
    touch(
        tmp_path / "here",
        "data/images/a b.jpg",
        "data/masks/a b.png",
        "data/images/\u00f6.jpg",
        "data/masks/\u00f6.png",
    )
    (tmp_path / "link").symlink_to(tmp_path / "here")
    found = gather(source=tmp_path / "link" / "data").pairs
    (tmp_path / "here" / "sets").mkdir()
    write_context(tmp_path / "here" / "sets" / "c.json", found, chosen_by={"command": "x"})
    document = json.loads((tmp_path / "here" / "sets" / "c.json").read_text(encoding="utf-8"))
    assert document == {
        "format": "incontext context 1",
        "prompts": [
            {"image": f"../data/images/{name}.jpg", "mask": f"../data/masks/{name}.png"} for name in ("a b", "\u00f6")
        ],
        "chosen_by": {"command": "x"},
    }
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "far").symlink_to(tmp_path / "there" / "sets")  # ".." leads out of where the link leads
    for folder in ("there/sets", "far"):
        files = gather(source=tmp_path / folder / "c.json")
        assert [Path(os.path.realpath(image)).name for image, _ in files.pairs] == ["a b.jpg", "\u00f6.jpg"]
        assert files.named == set(files.pairs)
        assert set(files.masks) == {mask for _, mask in files.pairs}


def test_names_that_are_no_text_come_through_a_context_file(tmp_path: Path) -> None:
    try:
        touch(tmp_path, "a\udcff.jpg", "a\udcff.png")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only names that are text")
    write_context(tmp_path / "c.json", gather(source=tmp_path).pairs)
    assert [image.name for image, _ in read_context(tmp_path / "c.json")] == ["a\udcff.jpg"]


GOOD = '{"format": "incontext context 1", "prompts": [{"image": "a.jpg", "mask": "a.png"}]}'


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, FileNotFoundError, "c.json: there is no such file or folder"),
        (
            "",
            ValueError,
            "expected a folder of images and masks, or a context file, which is JSON; got something else",
        ),
        ("{broken", ValueError, "which is JSON"),
        ("[" * 100_000, ValueError, "which is JSON"),
        ("\u00ff\u00d8", ValueError, "which is JSON"),
        ("[1]", ValueError, "got 'list'"),
        ("{}", ValueError, 'expected a context file with "format": "incontext context 1", got None'),
        (GOOD.replace("context 1", "context 2"), ValueError, "got 'incontext context 2'"),
        (GOOD.replace("prompts", "prompt"), ValueError, "expected format, prompts and chosen_by .*, got prompt"),
        ('{"format": "incontext context 1"}', ValueError, 'expected "prompts", a list of .* got None'),
        ('{"format": "incontext context 1", "prompts": []}', ValueError, r"got \[\]"),
        (GOOD.replace('"mask"', '"msk"'), ValueError, r'expected {"image", "mask"} as prompt 1, got {.*msk'),
        (GOOD.replace('"a.png"', "7"), ValueError, "expected paths as image and mask of prompt 1, got .*7"),
        (GOOD.replace("a.png", "a" * 500), FileNotFoundError, "there is no such file"),
        (GOOD, FileNotFoundError, r"c.json: names .*a.jpg, .*a.png, and there is no such file; paths start at"),
    ],
)
def test_what_is_no_context_file_is_refused(
    tmp_path: Path, text: str | None, error: type[Exception], message: str
) -> None:
    if text is not None:
        (tmp_path / "c.json").write_text(text, encoding="latin-1")
    with pytest.raises(error, match=message) as caught:
        read_context(tmp_path / "c.json")
    assert str(tmp_path / "c.json") in str(caught.value)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "a.png")
    (tmp_path / "c.json").write_text(GOOD, encoding="utf-8-sig")
    assert read_context(tmp_path / "c.json") == ((tmp_path / "a.jpg", tmp_path / "a.png"),)


# --------------------------------------------------------------------------------------------- opening


def test_an_empty_mask_is_set_apart_unless_it_was_named(tmp_path: Path) -> None:
    example(tmp_path, "a", square(1))
    example(tmp_path, "b", square(0))
    files = gather(source=tmp_path)
    opened = open_prompts(files)
    (a, b) = files.pairs
    assert (opened.pairs, opened.empty) == ((a,), (b,))
    assert [prompt.ids for prompt in opened.prompts] == [(1,)]
    assert read_empty(b, longest=18).shape == (12, 18, 3)
    with pytest.raises(ValueError, match=r"b.png: expected a mask that marks something"):
        open_prompts(PromptFiles(files.pairs, named=frozenset([b])))
    write_context(tmp_path / "c.json", [a, b])
    with pytest.raises(ValueError, match=r"b.png: expected a mask that marks something"):
        open_prompts(gather(source=tmp_path / "c.json"))
    with pytest.raises(ValueError, match=r"got background \(0\) everywhere in .*b.png"):
        open_prompts(PromptFiles((b,)))


def test_every_problem_names_its_file(tmp_path: Path) -> None:
    for name in "abcdef":
        example(tmp_path, name, square(1))
    Image.fromarray(np.ones((5, 5), np.uint8)).save(tmp_path / "masks" / "b.png")
    files = gather(source=tmp_path)
    with pytest.raises(ValueError, match=r"^.*b.png: expected a mask of the image's size 36 x 24"):
        open_prompts(files)
    (tmp_path / "images" / "c.jpg").write_text("no image")
    write_mask(tmp_path / "masks" / "d.png", square(255), table(id255=RED))  # 255 is no object, and not empty either
    (tmp_path / "masks" / "e.png").unlink()
    with pytest.raises(ValueError, match=r"^4 of 6 prompts cannot be used: ") as caught:
        open_prompts(files)
    for part in ("b.png: expected a mask of the", "c.jpg: expected an image file", "d.png: expected", "; and 1 more"):
        assert part in str(caught.value)


def test_a_colour_is_the_same_id_in_every_mask(tmp_path: Path) -> None:
    """Counted file by file, red would be id 1 in the first and id 2 in the second."""
    example(tmp_path, "a", square(RED))
    example(tmp_path, "b", square(BLUE) + square(RED, left=20))
    example(tmp_path, "c", square(GREEN))
    a, b, c = open_prompts(gather(source=tmp_path)).prompts
    assert (a.ids, b.ids, c.ids) == ((3,), (1, 3), (2,))  # ascending: blue, green, red
    assert b.mask[8, 8] == 1
    assert b.mask[8, 24] == 3
    for prompt in (a, b, c):  # so that answers are shown in these colours, whichever prompt comes first
        assert prompt.palette is not None
        assert prompt.palette.paint(np.array([[1, 2, 3]])).tolist() == [[list(BLUE), list(GREEN), list(RED)]]


def test_indexed_masks_keep_their_ids_and_share_their_colours(tmp_path: Path) -> None:
    example(tmp_path, "a", square(2), colors=table(id2=RED))
    example(tmp_path, "b", square(7), colors=table(id7=BLUE))
    a, b = open_prompts(gather(source=tmp_path)).prompts
    assert (a.ids, b.ids) == ((2,), (7,))
    assert a.palette is not None
    assert a.palette.ids.tolist() == [0, 2, 7]
    assert a.palette.colors.tolist() == [[0, 0, 0], list(RED), list(BLUE)]
    example(tmp_path, "c", square(2), colors=table(id2=GREEN))  # now they disagree about id 2
    own = [prompt.palette for prompt in open_prompts(gather(source=tmp_path)).prompts]
    assert [palette and palette.colors[1:].tolist() for palette in own] == [[list(RED)], [list(BLUE)], [list(GREEN)]]


def test_too_many_colours_together_are_refused(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 150)):
        mask = np.zeros((30, 150, 3), np.uint8)
        mask[..., 0], mask[..., 1] = np.arange(first, first + 150) % 200 + 1, first
        example(tmp_path, name, mask)
    with pytest.raises(ValueError, match="expected at most 254 colours beside black in the masks together, got 300"):
        open_prompts(gather(source=tmp_path))


def test_large_images_are_shrunk_as_long_as_no_id_gets_lost(tmp_path: Path) -> None:
    example(tmp_path, "a", square(1), colors=table(id1=RED))
    dot = square(1)
    dot[0, 0] = 2
    example(tmp_path, "b", dot)
    a, b = open_prompts(gather(source=tmp_path), longest=12).prompts
    assert (a.image.shape, a.mask.shape, a.ids) == ((8, 12, 3), (8, 12), (1,))
    assert a.palette is not None
    assert a.palette.colors[1].tolist() == list(RED)
    assert (b.image.shape, b.ids) == ((24, 36, 3), (1, 2))
    whole, _ = open_prompts(gather(source=tmp_path)).prompts
    assert whole.image.shape == (24, 36, 3)


def test_stray_colours_snap_when_asked(tmp_path: Path) -> None:
    ramp = np.zeros((24, 36, 3), np.uint8)
    ramp[:, 10:20] = 255
    ramp[:, 20:30] = np.linspace(250, 5, 10).astype(np.uint8)[:, None]
    example(tmp_path, "a", ramp)
    with pytest.raises(ValueError, match="--snap-colors"):
        open_prompts(gather(source=tmp_path))
    assert open_prompts(gather(source=tmp_path), snap=True).prompts[0].ids == (1,)
