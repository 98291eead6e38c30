"""Work that is not lost: corrections replace results, also where nothing was found, and are undone; the bin; refusals.

In place of the network the page asks a stand-in: right answers are known whatever the weights are.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import write_video
from PIL import Image
from test_ui_browser import DISCS, SHAPE, Visit, browser, files, ids_in, iou, load_example, moving, server, visits
from test_ui_hints import SERVER, click

from incontext.images.ids import Pixels

__all__ = ["SERVER", "browser", "files", "server", "visits"]  # fixtures, and the server of these tests

pytestmark = [pytest.mark.slow]
playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")


def masks(visit: Visit, button: str = "zip") -> dict[str, Pixels]:
    with zipfile.ZipFile(io.BytesIO(visit.download(button))) as archive:
        return {name: ids_in(archive.read(name)) for name in sorted(archive.namelist())}


def disc(row: int, column: int, radius: int) -> Pixels:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    inside: np.ndarray[Any, np.dtype[np.bool_]] = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    return inside.astype(np.uint8)


def test_a_correction_replaces_the_result_and_is_undone(visits: Any, files: list[Path], tmp_path: Path) -> None:
    meadow = tmp_path / "meadow.png"
    Image.fromarray(np.full((*SHAPE, 3), (70, 110, 60), np.uint8)).save(meadow)
    visit = visits()
    page = visit.page
    load_example(visit, files[0])
    visit.choose("images", files[1], meadow)
    page.get_by_text("2 images to segment").wait_for()
    page.click("#segment")
    visit.says("status", "2 of 2 images segmented, nothing found in 1.")
    playwright_api.expect(page.locator("#stop")).to_be_disabled()
    row, column, _ = DISCS[1][1]
    click(visit, "#results [data-hint='0']", row, column, button="right")  # a round by clicks before
    before = masks(visit)
    assert not before["meadow.png"].any()

    page.locator("#save-correction").wait_for(state="hidden")
    assert not page.locator("#editor button[aria-label='Clear canvas']").is_visible()  # it would take the image away
    with visit.editing("editor"):
        page.locator("#results [data-edit='1']").click()
    visit.says("status", "meadow.png is in the editor above")
    visit.paint("editor", SHAPE, [(50, 70, 18)])
    page.click("#save-correction")
    card = page.locator("#results [data-card='1']")
    playwright_api.expect(card).to_contain_text(re.compile(r"1: \d+\.\d% \(\d+ px\)\s*by hand"))
    visit.count("#examples figure", 1)  # a correction is no example unless that is wished
    after = masks(visit)
    assert iou((after["meadow.png"] == 1).astype(np.uint8), disc(50, 70, 18)) > 0.5
    np.testing.assert_array_equal(after["disc1.png"], before["disc1.png"])
    card.locator("[data-accept]").click()
    visit.count("#examples figure", 2)
    visit.says("examples", "meadow.png: 1")

    with visit.editing("editor"):
        page.locator("#results [data-edit='0']").click()
    with visit.editing("editor"):
        page.click("#clear-paint")
    visit.paint("editor", SHAPE, [(50, 20, 12)])
    page.click("#save-correction")
    visit.count("#results .ic-by-hand", 2)
    corrected = masks(visit)["disc1.png"]
    assert iou(corrected, disc(50, 20, 12)) > 0.4, "the paint goes, and the image stays"
    page.click("#hint-undo")
    visit.count("#results .ic-by-hand", 1)
    np.testing.assert_array_equal(masks(visit)["disc1.png"], before["disc1.png"])
    page.click("#hint-redo")
    visit.count("#results .ic-by-hand", 2)
    np.testing.assert_array_equal(masks(visit)["disc1.png"], corrected)


def test_a_frame_is_corrected_at_once_and_taken_back(visits: Any, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", [moving(number)[0] for number in range(4)])
    visit = visits()
    page = visit.page
    visit.tab("Track")
    playwright_api.expect(page.locator("#use-mask")).to_be_disabled()
    with visit.editing("frame-editor"):
        visit.choose("video", clip)
    visit.paint("frame-editor", SHAPE, [(48, 30, 18)])
    page.click("#use-mask")
    visit.says("given-masks", "Masks of frames 0.")
    page.click("#track")
    visit.says("track-status", "4 frames tracked, done.")
    before = masks(visit, "track-zip")
    page.locator("#scrub input[type=number]").fill("2")
    page.locator("#scrub input[type=number]").press("Enter")
    page.get_by_alt_text(re.compile("^Frame 2:")).wait_for()
    with visit.editing("frame-editor"):
        page.click("#correct")
    visit.paint("frame-editor", SHAPE, [(80, 120, 10)], color=1)
    page.click("#use-mask")
    visit.says("view-frame", "by hand")
    after = masks(visit, "track-zip")
    names = list(before)
    assert list(after) == names
    assert [name for name in names if not np.array_equal(before[name], after[name])] == [names[2]]
    assert 2 in after[names[2]]
    with visit.editing("frame-editor"):
        page.click("#undo-mask")
    visit.says("given-masks", re.compile(r"Masks of frames 0\.$"))
    visit.count("#view-frame .ic-by-hand", 0)
    for name, mask in masks(visit, "track-zip").items():
        np.testing.assert_array_equal(mask, before[name])
