"""Files of several images in a folder job: each page an image, and windows and refined edges there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bright import PROMPT, Bright, image_file
from PIL import Image
from test_tiles import RED, ByColor, field, shown

from incontext.engine import Segmenter
from incontext.folder import plan, segment_folder
from incontext.folder.plan import look_again
from incontext.images.masks import read_mask


def stack(path: Path, *bright: int) -> Path:
    """A TIFF whose pages are dark but for so many columns."""
    pages = []
    for columns in bright:
        pixels = np.full((8, 12, 3), 20, np.uint8)
        pixels[:, :columns] = 250
        pages.append(Image.fromarray(pixels))
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


def test_each_page_is_an_image_when_asked(tmp_path: Path) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out"
    image_file(inputs / "a.tif")  # a PNG, whatever its name says: one page
    stack(inputs / "b.tif", 0, 3, 7)
    stack(inputs / "c.tiff", 5)
    (inputs / "d.tif").write_bytes(b"II*\0 broken")
    job = plan([inputs], out, pages=True)
    assert [query.name.as_posix() for query in job.queries] == [
        "a.tif", "b_p001.tif", "b_p002.tif", "b_p003.tif", "c.tiff", "d.tif",
    ]  # fmt: skip
    assert list(look_again(job)) == list(job.queries)
    report = segment_folder(Bright(), job, PROMPT)
    found = {file.mask: file.areas for file in report.files if file.error is None}
    assert found == {"a.png": {}, "b_p001.png": {}, "b_p002.png": {3: 24}, "b_p003.png": {3: 56}, "c.png": {3: 40}}
    (failure,) = report.failures
    assert "d.tif: " in str(failure.error)
    assert json.loads(report.path.read_text())["settings"]["pages"] is True
    again = segment_folder(Bright(), plan([inputs], out, pages=True), PROMPT)
    assert again.masks == 0  # all of them are known to be done


def test_without_asking_the_first_page_is_the_image(tmp_path: Path) -> None:
    path = stack(tmp_path / "b.tif", 2, 3)
    report = segment_folder(Bright(), plan([path], tmp_path / "out"), PROMPT)
    assert [file.areas for file in report.files] == [{3: 16}]


def test_pages_whose_names_another_file_has_are_refused(tmp_path: Path) -> None:
    stack(tmp_path / "b.tif", 2, 3)
    image_file(tmp_path / "b_p002.png")
    with pytest.raises(ValueError, match=r"b\.tif \(page 2\) and .*b_p002\.png would both write .*b_p002\.png"):
        plan([tmp_path], tmp_path / "out", pages=True)


def test_a_page_that_is_gone_is_said_by_its_number(tmp_path: Path) -> None:
    path = stack(tmp_path / "b.tif", 2, 3, 4)
    job = plan([path], tmp_path / "out", pages=True)
    stack(path, 2, 3)
    report = segment_folder(Bright(), job, PROMPT)
    (failure,) = report.failures
    assert str(failure.error).endswith("b.tif (page 3): expected a page from 0 to 1, got 2")


def test_windows_and_refined_edges_in_a_folder_are_those_of_the_segmenter(tmp_path: Path) -> None:
    image = field(90, 130, (40, 60, 3, RED))
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "a.png")
    segmenter, job = Segmenter(ByColor(), device="cpu", dtype="float32"), plan([tmp_path / "in"], tmp_path / "out")
    alone = segmenter.segment(image, shown(RED), tiles=16, refine=True)
    segment_folder(segmenter, job, shown(RED), tiles=16, refine=True)
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "a.png").ids, alone.mask)
    assert alone.ids
    with pytest.raises(ValueError, match=r"this folder holds the masks of another job: .*tiles"):
        segment_folder(segmenter, job, shown(RED), refine=True)
