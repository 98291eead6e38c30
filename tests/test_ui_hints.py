"""Clicks on the page in a real browser: by mouse, keyboard and touch, on the image and on results; undo.

In place of the network the page asks a stand-in, which fills what has the colour under a click: right answers are known
whatever the weights are.
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
from test_ui_browser import (
    DISCS,
    SHAPE,
    Visit,
    browser,
    files,
    ids_in,
    iou,
    load_example,
    scene,
    server,
    visits,
)

from incontext.images.ids import Pixels

__all__ = ["browser", "files", "server", "visits"]  # fixtures

pytestmark = [pytest.mark.slow]
playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")

SERVER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import clicked
clicked.stand_in()
{test_ui_browser.SERVER}"""
IMAGE = "#clicked [data-hint='image']"


def choose(visit: Visit, image: Path) -> None:
    with visit.editing("editor"):
        visit.choose("image", image)
    visit.page.locator(IMAGE).wait_for()


def at(visit: Visit, where: str, row: float, column: float) -> tuple[float, float]:
    """Where a pixel of an image is on the screen."""
    place = visit.page.locator(where)
    place.scroll_into_view_if_needed()
    visit.page.wait_for_function(
        "where => [...document.querySelectorAll(`${where} img`)].every(each => each.complete && each.naturalWidth)",
        arg=where,
    )
    box = place.bounding_box()
    return box["x"] + (column + 0.5) / SHAPE[1] * box["width"], box["y"] + (row + 0.5) / SHAPE[0] * box["height"]


def answered(visit: Visit, where: str, before: str | None) -> None:
    """Wait for the answer that follows."""
    playwright_api.expect(visit.page.locator(where)).not_to_have_attribute("data-answers", before or "none")
    playwright_api.expect(visit.page.locator(where)).to_have_attribute("data-answers", re.compile(r"\d+"))


def click(visit: Visit, where: str, row: float, column: float, **how: Any) -> None:
    before = visit.page.locator(where).get_attribute("data-answers")
    visit.page.mouse.click(*at(visit, where, row, column), **how)
    answered(visit, where, before)


def mask(visit: Visit, where: str) -> Pixels:
    """(H, W) bool: where the mask that is shown has a colour, at the image's size."""
    shown = visit.page.locator(f"{where} .ic-mask")
    pixels = shown.evaluate(
        """async (image, [height, width]) => {
          await image.decode();
          const canvas = document.createElement('canvas');
          [canvas.width, canvas.height] = [width, height];
          const context = canvas.getContext('2d');
          context.drawImage(image, 0, 0, width, height);
          return Array.from(context.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 3));
        }""",
        list(SHAPE),
    )
    return (np.array(pixels).reshape(SHAPE) > 127).astype(np.uint8)


def test_one_click_makes_an_example_and_undo_takes_it_back(visits: Any, files: list[Path]) -> None:
    visit = visits()
    page = visit.page
    page.click("#accept-image")
    visit.complains("expected an image to click on")
    choose(visit, files[2])
    page.click("#accept-image")
    visit.complains("expected a click on what you mean")
    (row, column, _), truth = DISCS[2][0], scene(2)[1]
    click(visit, IMAGE, row, column)
    one = mask(visit, IMAGE)
    assert iou(one, truth) > 0.95
    visit.count(f"{IMAGE} .ic-said circle[data-id='1']", 1)
    page.get_by_label("Not this", exact=True).check()
    click(visit, IMAGE, row + 4, column)
    visit.count(f"{IMAGE} .ic-said circle[data-id='0']", 1)
    two = mask(visit, IMAGE)
    assert not two.any()
    page.get_by_label("This", exact=True).check()
    click(visit, IMAGE, row - 4, column)
    three = mask(visit, IMAGE)
    assert iou(three, truth) > 0.95

    for keys, expected in (
        *(("Control+z", two), ("Control+z", one), ("Control+Shift+z", two)),
        *(("Control+z", one), ("Control+y", two), ("Control+y", three)),
    ):
        before = page.locator(IMAGE).get_attribute("data-answers")
        page.keyboard.press(keys)
        answered(visit, IMAGE, before)
        np.testing.assert_array_equal(mask(visit, IMAGE), expected)

    page.click("#accept-image")
    visit.count("#examples figure", 1)
    visit.says("examples", "disc2.png: 1")
    page.keyboard.press("Control+z")  # also after Accept
    visit.count("#examples figure", 0)
    page.keyboard.press("Control+y")
    visit.count("#examples figure", 1)

    visit.choose("images", *files[:2])
    page.get_by_text("2 images to segment").wait_for()
    page.click("#segment")
    visit.says("status", "2 of 2 images segmented.")


def test_results_are_corrected_by_clicks_and_downloaded(visits: Any, files: list[Path]) -> None:
    visit = visits()
    page = visit.page
    load_example(visit, files[0])
    visit.choose("images", *files[1:3])
    page.get_by_text("2 images to segment").wait_for()
    page.click("#segment")
    visit.says("status", "2 of 2 images segmented.")
    where, (row, column, radius) = "#results [data-hint='0']", DISCS[1][1]
    click(visit, where, row, column, button="right")  # not this: one of the two discs
    left = mask(visit, where)
    assert not left[row, column]
    assert left[DISCS[1][0][0], DISCS[1][0][1]]
    visit.count(f"{where} .ic-said circle[data-id='0']", 1)
    visit.says("results", re.compile(r"1: \d+\.\d% \(\d+ px\)"))
    with zipfile.ZipFile(io.BytesIO(visit.download("zip"))) as archive:
        got = ids_in(archive.read("disc1.png"))
    assert iou((got == 1).astype(np.uint8), left) > 0.9
    page.click("#hint-undo")
    visit.count(f"{where} .ic-said circle", 0)
    page.locator("[data-accept='0']").click()
    visit.count("#examples figure", 2)
    page.keyboard.press("Control+z")
    visit.count("#examples figure", 1)
    page.locator("#hint-id input").click()
    page.get_by_role("option", name="5", exact=True).click()
    page.mouse.click(*at(visit, where, row - radius // 2, column))
    visit.complains("expected hints with ids of the context")


def test_a_box_by_two_clicks_and_a_scribble(visits: Any, files: list[Path]) -> None:
    visit = visits()
    page = visit.page
    choose(visit, files[2])
    (row, column, radius), truth = DISCS[2][0], scene(2)[1]
    page.get_by_label("Box", exact=True).check()
    before = page.locator(IMAGE).get_attribute("data-answers")
    page.mouse.click(*at(visit, IMAGE, row - radius, column - radius))
    page.mouse.click(*at(visit, IMAGE, row + radius, column + radius))
    answered(visit, IMAGE, before)
    visit.count(f"{IMAGE} .ic-said rect", 1)
    assert iou(mask(visit, IMAGE), truth) > 0.9

    page.get_by_label("Scribble", exact=True).check()
    before = page.locator(IMAGE).get_attribute("data-answers")
    page.mouse.move(*at(visit, IMAGE, row - 8, column - 8))
    page.mouse.down()
    for step in (-4, 0, 4, 8):
        page.mouse.move(*at(visit, IMAGE, row + step, column + step))
    page.mouse.up()
    answered(visit, IMAGE, before)
    visit.count(f"{IMAGE} .ic-said polyline", 1)
    assert iou(mask(visit, IMAGE), truth) > 0.9
    with visit.editing("editor"):
        page.click("#to-brush")
    page.click("#add")
    visit.count("#examples figure", 1)


def test_keyboard_and_touch_do(visits: Any, files: list[Path]) -> None:
    visit = visits(has_touch=True, viewport={"width": 420, "height": 900})
    page = visit.page
    choose(visit, files[2])
    row, column, _ = DISCS[2][0]
    before = page.locator(IMAGE).get_attribute("data-answers")
    page.touchscreen.tap(*at(visit, IMAGE, row, column))
    answered(visit, IMAGE, before)
    assert iou(mask(visit, IMAGE), scene(2)[1]) > 0.9
    page.locator(IMAGE).focus()
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowDown")
    visit.count(f"{IMAGE} .ic-cross", 1)
    before = page.locator(IMAGE).get_attribute("data-answers")
    page.keyboard.press("Enter")
    answered(visit, IMAGE, before)
    visit.count(f"{IMAGE} .ic-said circle[data-id='1']", 2)
    assert mask(visit, IMAGE)[round(0.52 * SHAPE[0]), round(0.9 * SHAPE[1])]
    before = page.locator(IMAGE).get_attribute("data-answers")
    page.keyboard.press("Shift+Enter")
    answered(visit, IMAGE, before)
    visit.count(f"{IMAGE} .ic-said circle[data-id='0']", 1)
    assert not mask(visit, IMAGE)[round(0.52 * SHAPE[0]), round(0.9 * SHAPE[1])]
    page.keyboard.press("Escape")


def test_what_a_browser_sends_is_checked() -> None:
    from incontext.ui.hinting import Said

    good = Said.of("image", "box", [[0.5, 0.25], [0.0, 1.0]])
    assert good.hints((100, 200), 3).boxes == ((0.0, 25.0, 100.0, 99.5, 3),)
    assert Said.of("3", "click", [[1.0, 1]]).hints((100, 200), 0).points == ((199.5, 99.5, 0),)
    scribble = Said.of("3", "scribble", [[0.1, 0.1], [0.9, 0.1]]).hints((100, 200), 2).scribbles
    assert scribble is not None
    assert (scribble[10, 25:175] == 2).all()
    assert (scribble[50:] == 255).all()
    for key, kind, places in (
        ("other", "click", [[0.5, 0.5]]),
        (3, "click", [[0.5, 0.5]]),
        ("3", "circle", [[0.5, 0.5]]),
        ("3", "click", [[0.5, 1.5]]),
        ("3", "click", [["a", 0.5]]),
        ("3", "click", []),
        ("3", "click", None),
        ("3", "box", [[0.5, 0.5]]),
        ("3", "scribble", [[0.5, 0.5]] * 2001),
    ):
        with pytest.raises(ValueError, match="expected a click, a box or a scribble"):
            Said.of(key, kind, places)


def test_images_larger_than_what_is_clicked_on_are_accepted_at_their_own_size() -> None:
    from test_hinting import image, made

    from incontext.ui import hinting
    from incontext.ui.sessions import Session

    segmenter = made()
    large = np.asarray(Image.fromarray(image(60, 100)).resize((1000, 600)))
    session = Session(Path("unused"), image=("large.png", large))
    target = hinting.say(session, segmenter, hinting.Said("image", "click", ((0.5, 0.5),)), 1)
    assert target.rounds.query.shape == (384, 640, 3)
    whole = target.whole(segmenter)
    assert whole.shape == (600, 1000)
    small = target.answer()
    assert small is not None
    nearest = np.asarray(Image.fromarray(small.mask).resize((1000, 600), Image.Resampling.NEAREST))
    assert (nearest == whole.mask).mean() > 0.9
