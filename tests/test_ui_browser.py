"""The page in a real browser: what a visitor does, with the embedded weights, and nothing that leaves this machine."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from clips import decoded, write_video
from PIL import Image

from incontext.demo import JOBS, MASKS
from incontext.images.ids import Pixels
from incontext.images.masks import read_mask
from incontext.prompt_tensor import PromptTensor

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
FRAMES = """count => new Promise(done => {
    const frame = () => count-- ? requestAnimationFrame(frame) : done();
    frame();
})"""  # of the page, however long it takes for one
EDITED = re.compile(r"/image\.png$")  # what an editor fetches
QUEUED = re.compile(r"/queue/join")  # asks for a job
WAIT = 300_000  # milliseconds: these wait for the network, on machines that may be busy
SHOTS = os.environ.get("INCONTEXT_UI_IMAGES")  # a folder for images of the page, as the README has them

pytestmark = [pytest.mark.browser]
pytest.importorskip("gradio", reason="needs gradio, of the extra ui", exc_type=ImportError)
playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")

# Notes whom it asks over the network, and forgets visitors who left sooner than the command does.
SERVER = """
import sys
asked = sys.argv[1]
def note(event, values):
    if event == "socket.connect" and isinstance(values[1], tuple) and values[1][0] not in ("127.0.0.1", "::1"):
        open(asked, "a").write(repr(values[1]) + chr(10))
sys.addaudithook(note)
from incontext.ui import PageOptions, serve
serve(PageOptions(port=0, folders=sys.argv[2:], grace=1.0), on_ready=lambda address: print(address, flush=True))
"""


@dataclass(frozen=True)
class Server:
    """A running page. folder: what was opened for it. root: where it keeps uploads."""

    address: str
    folder: Path
    root: Path
    asked: Path
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A page, of the script SERVER of the tests' own module, if there is one."""
    folder, asked = tmp_path_factory.mktemp("opened"), tmp_path_factory.mktemp("log") / "asked"
    temporary = tmp_path_factory.mktemp("temporary")
    (folder / "discs").mkdir()
    for number in (4, 5):
        Image.fromarray(scene(number)[0]).save(folder / "discs" / f"in_folder_{number}.png")
    (folder / "discs" / "outside.png").symlink_to(Path(__file__).parents[1] / "docs" / "images" / "demo.jpg")
    process = subprocess.Popen(
        [sys.executable, "-c", getattr(request.module, "SERVER", SERVER), str(asked), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert found is not None, line
    (root,) = temporary.glob("incontext-ui-*")
    yield Server(found.group(), folder, root, asked, process)
    process.send_signal(signal.SIGTERM)
    process.wait(WAIT / 1000)
    process.stdout.close()
    assert not root.exists(), "the server leaves its folder behind"
    assert not asked.exists(), f"the server asked other machines: {asked.read_text()}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"needs Chromium at {CHROMIUM}")
    playwright_api.expect.set_options(timeout=WAIT)
    with playwright_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield started
        started.close()


@dataclass
class Visit:
    """A visitor's page, and what was wrong with it."""

    page: Any
    problems: list[str] = field(default_factory=list)

    def choose(self, where: str, *files: Path) -> None:
        self.page.set_input_files(f"#{where} input[type=file]", [str(path) for path in files])

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def says(self, where: str, text: str | re.Pattern[str]) -> None:
        playwright_api.expect(self.page.locator(f"#{where}")).to_contain_text(text)

    def count(self, what: str, number: int) -> None:
        playwright_api.expect(self.page.locator(what)).to_have_count(number)

    @contextmanager
    def editing(self, where: str) -> Iterator[None]:
        """What is done in the block puts an image into an editor; go on once it is there."""
        with self.page.expect_response(EDITED, timeout=WAIT):
            yield
        self.page.locator(f"#{where} button[aria-label='Brush']").wait_for()
        self.settled(where)

    def settled(self, where: str) -> None:
        """Wait until an editor has moved its image into its place: until it looks the same twenty frames on."""
        editor, before = self.page.locator(f"#{where} canvas").first, b""
        for _ in range(WAIT // 100):
            self.page.evaluate(FRAMES, 20)
            shown = editor.screenshot()
            if shown == before:
                return
            before = shown
        raise AssertionError(f"{where} moves on and on")

    def paint(self, where: str, shape: tuple[int, int], discs: list[tuple[int, int, int]], color: int = 0) -> None:
        """Fill discs (row, column, radius) of an image of this shape with the mouse, in the brush of that number."""
        self.page.click(f"#{where} button[aria-label='Brush']")
        if color:
            self.page.click(f"#{where} button[aria-label='Color']")
            self.page.locator(f"#{where} button.color").nth(color).click()
            self.page.click(f"#{where} button[aria-label='Color']")
        self.page.evaluate("where => document.getElementById(where).scrollIntoView({block: 'center'})", where)
        box = self.page.locator(f"#{where} canvas").first.bounding_box()
        zoom = float(self.page.locator(f"#{where}").inner_text().split("%")[0].split()[-1]) / 100
        scale = min(720 / shape[0], 960 / shape[1]) * zoom
        middle_x, middle_y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for row, column, radius in discs:
            x, y = middle_x + (column - shape[1] / 2) * scale, middle_y + (row - shape[0] / 2) * scale
            reach = radius * scale * 0.8
            self.page.mouse.move(x - reach, y - reach / 2)
            self.page.mouse.down()
            for step in range(4):
                sign = 1 if step % 2 == 0 else -1
                self.page.mouse.move(x + sign * reach * 0.8, y + reach * (step / 1.5 - 1) * 0.7)
            self.page.mouse.up()

    def download(self, button: str) -> bytes:
        with self.page.expect_download(timeout=WAIT) as waiting:
            self.page.click(f"#{button}")
        return Path(waiting.value.path()).read_bytes()

    def complains(self, text: str) -> str:
        """A message with these words is shown; it is closed and returned."""
        toast = self.page.locator(".toast-body.error", has_text=text).last
        toast.wait_for()
        said = str(toast.inner_text())
        toast.locator(".toast-close").click()
        return said

    def image(self, name: str) -> None:
        """An image of the whole page, in 256 colours."""
        if SHOTS:
            shot = Image.open(io.BytesIO(self.page.screenshot(full_page=True))).convert("RGB")
            shot.thumbnail((800, 4000))
            few = shot.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            few.save(Path(SHOTS) / f"{name}.png", optimize=True)


@pytest.fixture
def visits(browser: Any, server: Server) -> Iterator[Any]:
    """visits(**settings of the browser) -> a visitor. At the end nothing must have gone wrong with any of them."""
    made: list[tuple[Any, Visit]] = []

    def begin(**settings: Any) -> Visit:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 1000}, **settings})
        context.set_default_timeout(WAIT)
        visit = Visit(context.new_page())
        made.append((context, visit))
        visit.page.on("console", lambda m: visit.problems.append(m.text) if m.type == "error" else None)
        visit.page.on("pageerror", lambda error: visit.problems.append(str(error)))
        visit.page.on("request", lambda request: _note_leaving(visit, request.url))
        visit.page.goto(server.address)
        visit.page.locator("#add").wait_for()
        return visit

    yield begin
    for context, visit in made:
        context.close()
        assert visit.problems == []


def _note_leaving(visit: Visit, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
        visit.problems.append(f"asked for {url}")


DISCS = {
    0: [(34, 36, 16), (60, 100, 20)],
    1: [(40, 70, 20), (70, 120, 14)],
    2: [(60, 40, 18)],
    3: [(30, 110, 17), (74, 60, 15)],
    4: [(50, 50, 18)],
    5: [(50, 90, 18)],
}
SHAPE = (96, 144)


def scene(number: int) -> tuple[Pixels, Pixels]:
    """Red discs on a green meadow, and where they are."""
    rng = np.random.default_rng(number)
    image = np.clip(rng.normal((70, 110, 60), 8, (*SHAPE, 3)), 0, 255)
    mask = np.zeros(SHAPE, np.uint8)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for row, column, radius in DISCS[number]:
        mask[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = 1
    image[mask == 1] = (215, 60, 50)
    return image.astype(np.uint8), mask


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("dropped")
    paths = [folder / f"disc{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        image, mask = scene(number)
        Image.fromarray(image).save(path)
        Image.fromarray(mask * 255).save(folder / f"disc{number}_mask.png")
    return paths


def mask_of(image: Path) -> Path:
    return image.with_name(f"{image.stem}_mask.png")


def iou(found: Pixels, truth: Pixels) -> float:
    return float(np.count_nonzero(found & truth) / np.count_nonzero(found | truth))


def load_example(visit: Visit, image: Path) -> None:
    """The quick way: an image and its mask as files."""
    with visit.editing("editor"):
        visit.choose("image", image)
    with visit.editing("editor"):
        visit.choose("mask", mask_of(image))
    visit.page.click("#add")
    visit.count("#examples figure", 1)


def test_paint_segment_accept_and_download(visits: Any, files: list[Path]) -> None:
    visit = visits()
    page = visit.page
    with visit.editing("editor"):
        visit.choose("image", files[0])
    visit.paint("editor", SHAPE, DISCS[0][:1])
    page.click("#editor button[aria-label='Undo']")
    page.click("#add")
    visit.complains("expected something painted")
    visit.paint("editor", SHAPE, DISCS[0])
    page.click("#add")
    visit.count("#examples figure", 1)

    visit.choose("images", *files[1:])
    page.get_by_text("3 images to segment").wait_for()
    page.click("#segment")
    visit.says("status", "3 of 3 images segmented.")
    visit.count("#results .ic-card", 3)
    visit.says("results", re.compile(r"1: \d+\.\d% \(\d+ px\)"))
    mask = page.locator("#results .ic-mask").first
    assert mask.evaluate("image => image.complete && image.naturalWidth") == SHAPE[1]
    playwright_api.expect(mask).to_have_css("opacity", "0.5")
    page.locator("#opacity input[type=range]").fill("80")
    playwright_api.expect(mask).to_have_css("opacity", "0.8")
    sure = page.locator("#results .ic-sure").first
    playwright_api.expect(sure).to_have_css("visibility", "hidden")
    page.get_by_text("Confidence", exact=True).click()
    playwright_api.expect(sure).to_have_css("visibility", "visible")

    page.locator("[data-accept='1']").click()
    visit.count("#examples figure", 2)
    page.click("#segment")
    visit.says("status", "3 of 3 images segmented.")
    with zipfile.ZipFile(io.BytesIO(visit.download("zip"))) as archive:
        assert sorted(archive.namelist()) == ["disc1.png", "disc2.png", "disc3.png"]
        for number in (1, 2, 3):
            read = read_mask(Image.open(io.BytesIO(archive.read(f"disc{number}.png"))))
            assert set(np.unique(read.ids)) == {0, 1}
            assert read.colors is not None
            assert read.colors[1].tolist() == [230, 25, 75]  # the red that was painted with
            assert iou(read.ids, scene(number)[1]) > 0.7, number

    page.locator("#kind input").click()
    page.get_by_role("option", name=re.compile("^coco: ")).click()
    page.locator("#apart input").check()
    with zipfile.ZipFile(io.BytesIO(visit.download("zip"))) as archive:
        (name,) = archive.namelist()
        document = json.loads(archive.read(name))
    assert [Path(image["file_name"]).name for image in document["images"]] == ["disc1.png", "disc2.png", "disc3.png"]
    assert len(document["annotations"]) >= 5  # five discs, apart

    with visit.editing("editor"):
        page.locator("#results [data-edit='0']").click()
    visit.says("status", "disc1.png is in the editor")
    page.click("#add")
    visit.says("results", "by hand")
    visit.count("#examples figure", 2)
    page.get_by_role("button", name="Remove example 2").click()
    visit.count("#examples figure", 1)


def test_a_folder_bad_files_and_what_they_say(visits: Any, files: list[Path], tmp_path: Path) -> None:
    visit = visits()
    page = visit.page
    page.click("#segment")
    visit.complains("expected images to segment, got none")
    bad, small = tmp_path / "bad.png", tmp_path / "small.png"
    bad.write_text("no image")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(small)
    visit.choose("image", bad)
    said = visit.complains("bad.png: expected an image file, got something else")
    assert "/" not in said.replace("- /", "")
    page.click("#image button[aria-label='Clear']")
    load_example(visit, files[0])
    page.click("#mask button[aria-label='Clear']")
    visit.choose("mask", small)
    visit.complains("expected a mask of the image's size, 144 x 96, got 8 x 8")

    page.locator("#folder input").click()
    page.get_by_role("option", name=re.compile("discs$")).click()
    page.get_by_text("2 images to segment").wait_for()  # the link out of the folder is none of them
    page.click("#segment")
    visit.says("results", "in_folder_4.png")
    visit.says("status", "2 of 2 images segmented.")
    visit.choose("images", bad, *files[1:3])
    page.get_by_text("3 images to segment").wait_for()
    page.click("#segment")
    visit.says("status", "2 of 3 images segmented, 1 could not be read.")
    visit.says("results", "bad.png: expected an image file")


def moving(number: int) -> tuple[Pixels, Pixels]:
    """A disc that goes right, and where it is."""
    image, _ = scene(2)
    image[:] = (70, 110, 60)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    there = (rows - 48) ** 2 + (columns - 30 - 6 * number) ** 2 < 18**2
    image[there] = (215, 60, 50)
    return image, there.astype(np.uint8)


def test_track_correct_and_go_on(visits: Any, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", [moving(number)[0] for number in range(10)])
    visit = visits()
    page = visit.page
    visit.tab("Track")
    with visit.editing("frame-editor"):
        visit.choose("video", clip)
    visit.says("about-video", "clip.mp4: 10 frames of 144 x 96, 10 per second.")
    page.click("#track")
    visit.complains("expected something to follow, got nothing")
    visit.paint("frame-editor", SHAPE, [(48, 30, 18)])
    page.click("#use-mask")
    visit.says("given-masks", "Masks of frames 0.")
    page.locator("#memory input[type=number]").fill("2")
    page.locator("#memory input[type=number]").press("Tab")
    page.click("#track")
    visit.says("track-status", "10 frames tracked, done.")
    with zipfile.ZipFile(io.BytesIO(visit.download("track-zip"))) as archive:
        names = sorted(archive.namelist())
        before = {name: archive.read(name) for name in names}
    assert len(names) == 10
    assert iou(ids_in(before[names[5]]), moving(5)[1]) > 0.6

    page.locator("#scrub input[type=number]").fill("6")
    page.locator("#scrub input[type=number]").press("Enter")
    page.get_by_alt_text("Frame 6: found 1").wait_for()
    with visit.editing("frame-editor"):
        page.click("#correct")
    visit.says("track-status", "Frame 6 is in the editor")
    visit.paint("frame-editor", SHAPE, [(80, 120, 10)], color=1)
    page.click("#use-mask")
    visit.says("given-masks", "Masks of frames 0, 6. Tracking goes on from frame 6.")
    page.click("#track")
    visit.says("track-status", "10 frames tracked, done.")
    with zipfile.ZipFile(io.BytesIO(visit.download("track-zip"))) as archive:
        after = {name: archive.read(name) for name in sorted(archive.namelist())}
    assert next(name for name in names if before[name] != after[name]) == names[6]
    assert set(np.unique(ids_in(after[names[6]]))) == {0, 1, 2}
    film = tmp_path / "film.mp4"
    film.write_bytes(visit.download("mp4"))
    shown = decoded(film)
    assert len(shown) == 10
    assert shown[0][1].shape == (*SHAPE, 3)
    assert np.abs(shown[0][1][48, 30].astype(int) - (222, 42, 62)).max() < 40  # the disc under its red


def ids_in(png: bytes) -> Pixels:
    return read_mask(Image.open(io.BytesIO(png))).ids


def test_tune_and_use_the_prompt_tensor(visits: Any, files: list[Path], tmp_path: Path) -> None:
    visit = visits()
    page = visit.page
    visit.tab("Tune")
    page.click("#tune")
    visit.complains("expected examples to tune on, got none")
    page.get_by_label("Files", exact=True).check()
    visit.choose("labelled", *[each for path in files[:3] for each in (path, mask_of(path))])
    page.locator("#steps input[type=number]").fill("10")
    page.locator("#steps input[type=number]").press("Tab")
    page.locator("#prompt-tensor-name input, #prompt-tensor-name textarea").first.fill("discs")
    page.click("#tune")
    visit.says("tune-status", re.compile(r"10 steps\. Mean IoU 0\.\d+ before, 0\.\d+ after: discs is ready"))
    assert page.locator("#curve svg polyline").count() == 2
    visit.count("#judges figure", 1)
    visit.says("prompt-tensor-list", "discs")
    saved = tmp_path / "discs.safetensors"
    saved.write_bytes(visit.download("save-prompt-tensor"))
    key = PromptTensor.load(saved)
    assert key.ids == (1,)
    assert len(key.origin.images) == 2

    visit.tab("Segment")
    visit.choose("images", files[1])
    page.get_by_text("1 image to segment").wait_for()
    page.get_by_label("discs").check()
    page.click("#segment")
    visit.says("status", "1 of 1 images segmented.")
    with zipfile.ZipFile(io.BytesIO(visit.download("zip"))) as archive:
        assert iou(ids_in(archive.read("disc1.png")), scene(1)[1]) > 0.6

    visit.tab("Tune")
    visit.choose("load-prompt-tensor", saved)
    visit.says("prompt-tensor-list", "discs_2")
    visit.tab("Model")
    visit.says("about-model", "default")
    page.click("#measure")
    visit.says("model-status", re.compile(r"\d\.\d{3} s for an image"))
    page.click("#load-weights")
    visit.complains("expected weights to load, got none")
    page.click("#use-backbone")
    visit.says("model-status", "The weights decide alone.")


def test_each_job_has_its_own_stop(visits: Any, files: list[Path]) -> None:
    visit = visits()
    page = visit.page
    load_example(visit, files[0])
    visit.choose("images", *files[1:])
    page.get_by_text("3 images to segment").wait_for()
    visit.tab("Tune")
    page.get_by_label("Files", exact=True).check()
    visit.choose("labelled", *[each for path in files[:3] for each in (path, mask_of(path))])
    page.locator("#steps input[type=number]").fill("1000")
    page.locator("#steps input[type=number]").press("Tab")
    page.click("#tune")
    visit.says("tune-status", "Choosing where to start")
    visit.tab("Segment")
    with page.expect_response(QUEUED, timeout=WAIT):  # from then on it waits behind the tuning
        page.click("#segment")
    page.click("#stop")
    visit.says("status", "Stopped before it began.")
    visit.tab("Tune")
    visit.says("tune-status", re.compile(r"Step \d+ of 1000"))
    page.click("#stop-tune")
    visit.says("tune-status", re.compile(r"Stopped after \d+ steps; there is no prompt tensor"))
    visit.tab("Segment")
    visit.says("status", "Stopped before it began.")
    visit.count("#results .ic-card", 0)
    page.click("#segment")
    visit.says("status", "3 of 3 images segmented.")


def test_two_visitors_at_once(visits: Any, files: list[Path], server: Server) -> None:
    one, other = visits(color_scheme="light"), visits()
    assert brightness(one) > 200
    load_example(one, files[0])
    load_example(other, files[2])
    one.choose("images", *files[1:])
    other.choose("images", files[3])
    one.page.get_by_text("3 images to segment").wait_for()
    other.page.get_by_text("1 image to segment").wait_for()
    one.page.click("#segment")
    other.page.click("#segment")
    one.says("status", "3 of 3 images segmented.")
    other.says("status", "1 of 1 images segmented.")
    one.count("#results .ic-card", 3)
    other.count("#results .ic-card", 1)
    other.says("results", "disc3.png")
    other.count("#examples figure", 1)
    folders = set((server.root / "sessions").iterdir())
    other.page.context.close()
    for _ in range(WAIT // 200):
        if len(set((server.root / "sessions").iterdir())) < len(folders):
            break
        one.page.wait_for_timeout(200)
    left = set((server.root / "sessions").iterdir())
    assert len(left) == len(folders) - 1, "what a visitor had stays behind"
    one.page.locator("[data-accept='0']").click()
    one.count("#examples figure", 2)


def test_a_telephone_at_night_and_the_keyboard(visits: Any) -> None:
    visit = visits(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page = visit.page
    for name in ("Segment", "Track", "Tune", "Model"):
        page.get_by_role("tablist").first.wait_for()
        if not page.get_by_role("tab", name=name, exact=True).is_visible():
            page.locator(".overflow-menu > button").first.click()
            page.locator(".overflow-dropdown").get_by_text(name, exact=True).click()
        else:
            visit.tab(name)
        page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth")
    assert brightness(visit) < 50
    visit.tab("Segment")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('[id]')?.id ?? ''"))
    assert {"add", "segment", "stop", "zip"} <= reached


def brightness(visit: Visit) -> float:
    """Of the page's background, 0..255."""
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(int(value) for value in re.findall(r"\d+", background)[:3]) / 3


@pytest.mark.skipif(SHOTS is None, reason="INCONTEXT_UI_IMAGES names no folder for images of the page")
def test_images_of_the_page(visits: Any, tmp_path: Path) -> None:
    """docs/images/ui_segment.png and ui_track.png: coins, as in the demo."""
    data = pytest.importorskip("skimage.data", reason="needs scikit-image, of the extra demo")
    coins = np.repeat(data.coins()[..., None], 3, axis=2)
    job = next(job for job in JOBS if job.name == "coins")
    example = tmp_path / "coins.png"
    Image.fromarray(job.prompt.of(coins)).save(example)
    shutil.copyfile(MASKS / "coins.png", mask_of(example))
    queries = [tmp_path / f"{name}.png" for name in job.queries]
    for path, crop in zip(queries, job.queries.values(), strict=True):
        Image.fromarray(crop.of(coins)).save(path)
    visit = visits(viewport={"width": 1200, "height": 900})
    load_example(visit, example)
    visit.choose("images", *queries[:4])
    visit.page.get_by_text("4 images to segment").wait_for()
    visit.page.click("#segment")
    visit.says("status", "4 of 4 images segmented.")
    visit.image("ui_segment")

    clip = write_video(tmp_path / "coins.mp4", [coins[150:300, 4 * step : 4 * step + 200] for step in range(10)])
    visit.tab("Track")
    with visit.editing("frame-editor"):
        visit.choose("video", clip)
    visit.paint("frame-editor", (150, 200), [(45 + down, 102, 20) for down in (-5, 0, 5)])
    visit.paint("frame-editor", (150, 200), [(115 + down, 114, 20) for down in (-5, 0, 5)], color=1)
    visit.page.click("#use-mask")
    visit.says("given-masks", "Masks of frames 0.")
    visit.page.click("#track")
    visit.says("track-status", "10 frames tracked, done.")
    visit.image("ui_track")
    assert {"ui_segment.png", "ui_track.png"} <= {path.name for path in Path(str(SHOTS)).iterdir()}


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("", {}, 200),
        ("", {"Host": "evil.example"}, 403),
        ("", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ("config", {"Origin": "http://evil.example"}, 403),
        ("gradio_api/file=/etc/passwd", {}, 403),
        (f"gradio_api/file={Path(__file__)}", {}, 403),
        ("gradio_api/file=http://evil.example/x.png", {}, 404),
        ("gradio_api/file=http%3A//evil.example/x.png", {}, 404),
        ("gradio_api/proxy=http://evil.example/x", {}, 404),
        ("gradio_api/runs", {}, 404),
        ("monitoring", {}, 404),
        ("login", {}, 404),
    ],
)
def test_what_a_server_refuses(server: Server, path: str, headers: dict[str, str], status: int) -> None:
    request = urllib.request.Request(server.address + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=WAIT / 1000) as answer:
            got, sent = answer.status, answer.headers
    except urllib.error.HTTPError as error:
        got, sent = error.code, error.headers
        error.close()
    assert got == status
    assert sent["Access-Control-Allow-Origin"] is None
    assert "default-src 'self'" in sent["Content-Security-Policy"]


def test_a_session_cannot_be_asked_for_other_files(server: Server, tmp_path: Path) -> None:
    """What the page sends is not trusted: files by name, addresses, folders that were not opened."""
    secret = tmp_path / "secret.png"
    shutil.copyfile(server.folder / "discs" / "in_folder_4.png", secret)
    config = json.loads(urllib.request.urlopen(server.address + "config", timeout=WAIT / 1000).read())
    by_name = {each["props"].get("elem_id"): each["id"] for each in config["components"]}
    for element, value in (
        ("image", {"path": str(secret), "meta": {"_type": "gradio.FileData"}}),
        ("image", {"path": "http://evil.example/x.png", "meta": {"_type": "gradio.FileData"}}),
        ("folder", str(tmp_path)),
        ("folder", str(server.folder / ".." / tmp_path.name)),
        ("video-path", str(secret)),
    ):
        (event,) = [
            each
            for each in config["dependencies"]
            if each["inputs"] == [by_name[element]] and each["targets"][0][1] in ("upload", "input")
        ]
        answer = asked(server, event["id"], [value])
        assert not answer["success"], (element, value)
    assert not server.asked.exists()


def asked(server: Server, function: int, data: list[Any]) -> dict[str, Any]:
    """Call one of the page's functions as its scripts would; the last message."""
    body = json.dumps({"data": data, "fn_index": function, "session_hash": "intruder", "trigger_id": None}).encode()
    join = urllib.request.Request(server.address + "gradio_api/queue/join", body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(join, timeout=WAIT / 1000).close()
    except urllib.error.HTTPError as error:
        error.close()
        return {"success": False, "status": error.code}
    told = server.address + "gradio_api/queue/data?session_hash=intruder"
    with urllib.request.urlopen(told, timeout=WAIT / 1000) as stream:
        for line in stream:
            if line.startswith(b"data:"):
                message: dict[str, Any] = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    return message
    raise AssertionError("no answer came")
