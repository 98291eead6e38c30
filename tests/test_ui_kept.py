"""What visitors make is kept: corrections take the place of results, reloads lose nothing, refusals change nothing.

In a real browser; in place of the network the page asks a stand-in, which takes its time.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_ui_browser
from PIL import Image
from test_ui_browser import DISCS, SHAPE, Visit, browser, files, iou, load_example, mask_of, scene, server, visits

from incontext.images.ids import Pixels
from incontext.images.masks import read_mask

__all__ = ["browser", "files", "server", "visits"]  # fixtures

pytestmark = [pytest.mark.browser]
playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")

SERVER = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import clicked
clicked.stand_in()
from incontext.ui import results
quick = results._segmented
def slow(*given):
    time.sleep(1.0)
    return quick(*given)
results._segmented = slow
{test_ui_browser.SERVER.replace("grace=1.0", "grace=60.0")}"""


def mask_in(archive: bytes, name: str) -> Pixels:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return read_mask(Image.open(io.BytesIO(opened.read(name)))).ids


def reloaded(visit: Visit) -> None:
    """Load the page anew; what it was waiting for is then cut off, and its scripts say so."""
    visit.page.reload()
    visit.page.locator("#add").wait_for()
    visit.problems[:] = [each for each in visit.problems if "abort" not in each and "errored out" not in each]


def segmented(visit: Visit, files: list[Path]) -> None:
    load_example(visit, files[0])
    visit.choose("images", *files[1:3])
    visit.page.get_by_text("2 images to segment").wait_for()
    visit.page.click("#segment")
    visit.says("status", "2 of 2 images segmented.")


def test_a_correction_takes_the_place_of_the_result(visits: Any, files: list[Path]) -> None:
    visit = visits()
    page = visit.page
    segmented(visit, files)
    card = page.locator("#results [data-card='0']")
    with visit.editing("editor"):
        card.locator("[data-edit]").click()
    playwright_api.expect(page.locator("#add")).to_have_text("Save the correction")
    visit.paint("editor", SHAPE, [(20, 20, 10)], color=1)  # a disc of another id, where nothing was
    page.click("#add")
    playwright_api.expect(card).to_contain_text("by hand")
    visit.says("status", "disc1.png has the corrected mask now")
    playwright_api.expect(page.locator("#add")).to_have_text("Add as example")
    visit.count("#examples figure", 1)  # correcting adds no example
    found = mask_in(visit.download("zip"), "disc1.png")
    assert found[20, 20] == 2
    assert iou(found == 1, scene(1)[1]) > 0.8
    page.keyboard.press("Control+z")
    playwright_api.expect(card).to_contain_text("sure: ")
    assert mask_in(visit.download("zip"), "disc1.png")[20, 20] == 0
    page.keyboard.press("Control+y")
    playwright_api.expect(card).to_contain_text("by hand")
    assert mask_in(visit.download("zip"), "disc1.png")[20, 20] == 2
    card.locator("[data-accept]").click()
    visit.count("#examples figure", 2)
    visit.says("examples", "disc1.png: 1, 2")


def test_what_was_not_found_is_painted_by_hand(visits: Any, files: list[Path], tmp_path: Path) -> None:
    visit = visits()
    page = visit.page
    meadow = tmp_path / "meadow.png"
    Image.fromarray(np.where(scene(2)[1][..., None], (70, 110, 60), scene(2)[0]).astype(np.uint8)).save(meadow)
    load_example(visit, files[0])
    visit.choose("images", meadow)
    page.get_by_text("1 image to segment").wait_for()
    page.click("#segment")
    visit.says("results", "nothing found")
    with visit.editing("editor"):
        page.locator("#results [data-edit='0']").click()
    visit.paint("editor", SHAPE, DISCS[2])
    page.click("#add")
    visit.says("results", "by hand")
    assert iou(mask_in(visit.download("zip"), "meadow.png") == 1, scene(2)[1]) > 0.3  # as far as the brush went


def test_a_reload_and_a_second_tab_lose_nothing(visits: Any, files: list[Path]) -> None:
    visit = visits()
    page = visit.page
    load_example(visit, files[0])
    visit.choose("images", *files[1:4])
    page.get_by_text("3 images to segment").wait_for()
    page.click("#segment")
    visit.says("status", "1 of 3 images")
    reloaded(visit)
    visit.count("#examples figure", 1)
    visit.says("status", "3 of 3 images segmented.")  # it went on, and the new page follows it
    visit.count("#results .ic-card", 3)
    with visit.editing("editor"):
        page.locator("#results [data-edit='1']").click()
    reloaded(visit)
    playwright_api.expect(page.locator("#add")).to_have_text("Save the correction")
    visit.count("#results .ic-card", 3)
    other = page.context.new_page()
    other.goto(page.url)
    playwright_api.expect(other.locator("#results .ic-card")).to_have_count(3)
    playwright_api.expect(other.locator("#examples figure")).to_have_count(1)
    other.close()
    stranger = visits()
    stranger.count("#examples figure", 0)
    stranger.count("#results .ic-card", 0)


def test_the_bin_takes_the_paint_and_leaves_the_image(visits: Any, files: list[Path]) -> None:
    visit = visits()
    page = visit.page
    with visit.editing("editor"):
        visit.choose("image", files[0])
    visit.paint("editor", SHAPE, DISCS[0])
    with visit.editing("editor"):
        page.click("#editor button[aria-label='Clear canvas']")
    page.click("#add")
    visit.complains("expected something painted")  # not: an image
    visit.paint("editor", SHAPE, DISCS[0])
    page.click("#add")
    visit.count("#examples figure", 1)


def test_a_mask_that_is_refused_is_not_shown_as_taken(visits: Any, files: list[Path], tmp_path: Path) -> None:
    visit = visits()
    page = visit.page
    with visit.editing("editor"):
        visit.choose("image", files[0])
    small = tmp_path / "small_mask.png"
    Image.fromarray(np.ones((5, 6), np.uint8)).save(small)
    visit.choose("mask", small)
    visit.complains("expected a mask of the image's size")
    playwright_api.expect(page.locator("#mask")).not_to_contain_text("small_mask")
    with visit.editing("editor"):
        visit.choose("mask", mask_of(files[0]))
    page.click("#add")
    visit.count("#examples figure", 1)


def test_the_first_minute_and_names(visits: Any) -> None:
    pytest.importorskip("skimage", reason="needs the demo's images, of the extra demo")
    visit = visits()
    page = visit.page
    with visit.editing("editor"):
        page.click("#samples")
    visit.says("status", "Press Segment")
    visit.count("#examples figure", 1)
    page.fill("#id-names input, #id-names textarea", "coin")
    page.keyboard.press("Enter")
    visit.says("examples", "1 coin")
    page.click("#segment")
    visit.says("status", re.compile(r"of 5 images, 0:00:\d\d left"))
    visit.says("status", "5 of 5 images segmented")
    visit.count("#results .ic-card", 5)
    reloaded(visit)
    visit.says("examples", "1 coin")
