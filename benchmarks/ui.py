"""How soon the page answers, in headless Chromium: the first result after the click, and what 50 images do to it.

    python benchmarks/ui.py [--images 50] [--chromium /usr/bin/chromium]

Reported: seconds from the click on "Segment" to the first image of a result that is drawn, the median of several
rounds; for a run over many images the seconds in all, the longest time between two frames of the page, and the
longest time that a click on it took to be answered meanwhile. Needs the extras ui and dev.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import record
from PIL import Image

from incontext.network.devices import choose_device

ROUNDS: Final = 5
SIZE: Final = (480, 640)  # rows and columns of the images
FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)

# In the page: the longest gap between two frames, and how long a click waits for its frame, every 100 ms.
WATCH = """
() => {
  const seen = window.seen = {gap: 0, click: 0, frames: 0};
  let last = performance.now();
  const frame = now => {
    seen.gap = Math.max(seen.gap, now - last); last = now; seen.frames += 1;
    if (!seen.done) requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  const slider = document.querySelector('#opacity input[type=range]');
  const click = () => {
    const start = performance.now();
    slider.dispatchEvent(new MouseEvent('click', {bubbles: true}));
    requestAnimationFrame(() => { seen.click = Math.max(seen.click, performance.now() - start); });
    if (!seen.done) setTimeout(click, 100);
  };
  click();
}
"""
# Seconds from the click to the first result whose mask is drawn.
FIRST = """
() => new Promise(resolve => {
  const old = document.querySelector('#results .ic-mask')?.src;
  const start = performance.now();
  document.querySelector('#segment').click();
  const look = () => {
    const mask = document.querySelector('#results .ic-mask');
    if (mask && mask.src !== old && mask.complete && mask.naturalWidth) resolve((performance.now() - start) / 1000);
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})
"""


def main() -> None:
    """Start the page, measure, end it, keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(folder), arguments.images)
        server = subprocess.Popen(
            [sys.executable, "-m", "incontext", "ui", "--no-open", "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            if found is None:
                raise SystemExit("the page did not start")
            measured = measure(found.group(), images, arguments.chromium)
        finally:
            server.terminate()
            server.wait(30)
    record.record("ui", measured, choose_device("auto"), weights="default")


def write_images(folder: Path, count: int) -> list[Path]:
    """Discs on a meadow, with the mask of the first."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    paths = []
    for number in range(count + 1):
        rng = np.random.default_rng(number)
        image = np.clip(rng.normal((70, 110, 60), 10, (*SIZE, 3)), 0, 255)
        row, column = rng.integers(90, SIZE[0] - 90), rng.integers(90, SIZE[1] - 90)
        there = (rows - row) ** 2 + (columns - column) ** 2 < 80**2
        image[there] = (215, 60, 50)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(image.astype(np.uint8)).save(paths[-1], quality=90)
        if number == 0:
            Image.fromarray((255 * there).astype(np.uint8)).save(folder / "0_mask.png")
    return paths


def measure(address: str, images: list[Path], chromium: str) -> dict[str, object]:
    """Load an example, then segment one image several times, then all of them."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.set_input_files("#image input[type=file]", str(images[0]))
        page.locator("#editor button[aria-label='Brush']").wait_for()
        page.wait_for_timeout(3000)
        page.set_input_files("#mask input[type=file]", str(images[0].with_name("0_mask.png")))
        page.wait_for_timeout(3000)
        page.click("#add")
        page.locator("#examples figure").wait_for()
        give(page, images[1:2])
        first = []
        for _ in range(ROUNDS):
            first.append(page.evaluate(FIRST))
            settled(page, 1)
        page.click("#images button[aria-label='Clear']")
        page.get_by_text("No images so far.").wait_for()
        give(page, images[1:])
        page.evaluate(WATCH)
        seconds = page.evaluate(FIRST)
        start = page.evaluate("performance.now()")
        settled(page, len(images) - 1)
        whole = (page.evaluate("performance.now()") - start) / 1000 + seconds
        seen: dict[str, Any] = page.evaluate("() => { window.seen.done = true; return window.seen; }")
        browser.close()
    return {
        "image": list(SIZE),
        "first_result_seconds": {"median": statistics.median(first[1:]), "first": first[0], "all": first},
        "images": len(images) - 1,
        "seconds_for_all": whole,
        "longest_gap_between_frames_seconds": seen["gap"] / 1000,
        "longest_answer_to_a_click_seconds": seen["click"] / 1000,
        "frames": seen["frames"],
    }


def give(page: Any, images: list[Path]) -> None:
    """Choose the images to segment."""
    page.set_input_files("#images input[type=file]", [str(path) for path in images])
    count = len(images)
    page.get_by_text(f"{count} image{'' if count == 1 else 's'} to segment.").wait_for()


def settled(page: Any, count: int) -> None:
    """Wait until no round runs."""
    page.locator("#status").get_by_text(f"{count} of {count} images segmented.").wait_for()
    page.wait_for_timeout(300)


if __name__ == "__main__":
    main()
