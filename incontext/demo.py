"""The demo: four jobs on photographs that lie inside scikit-image's wheel, each from one example whose mask we drew.

Writes the crops as ordinary image files and segments them as the command line would, so that every step can be
repeated by hand. Refuses to know the network: it gets a Segmenter. Nothing is downloaded.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from incontext.folder import FolderReport, plan, segment_folder
from incontext.images.ids import Pixels
from incontext.images.read import read_image
from incontext.images.resize import shrunk
from incontext.images.write import whole_file, write_image
from incontext.types import Palette, Prompt, Segmentation
from incontext.words import counted

if TYPE_CHECKING:  # what the demo needs can be checked without torch
    from incontext.engine import Segmenter

MASKS: Final = Path(__file__).with_name("demo_masks")  # NAME.png is drawn over the prompt of the job of that name
SHEET_NAME: Final = "contact_sheet.png"


class Crop(NamedTuple):
    """A part of a photograph, in its pixels; right and bottom are the first column and row outside."""

    left: int
    top: int
    right: int
    bottom: int
    mirrored: bool = False

    def of(self, photograph: Pixels) -> Pixels:
        """Cut the crop out of a photograph (H, W, 3): (bottom - top, right - left, 3)."""
        part = photograph[self.top : self.bottom, self.left : self.right]
        return part[:, ::-1] if self.mirrored else part


@dataclass(frozen=True)
class Job:
    """One example, and the images to segment by it: all of them crops of one photograph."""

    name: str  # of its folder and its mask
    title: str
    photograph: str  # a file of scikit-image's wheel
    credit: str  # what scikit-image says about its origin and licence
    prompt: Crop
    queries: dict[str, Crop]  # by the names of their files


JOBS: Final = (
    Job(
        "coins",
        "Coins: those in one corner of a photograph are the example, the others are to be found",
        "coins.png",
        "Greek coins from Pompeii, Brooklyn Museum Collection; no known copyright restrictions",
        Crop(0, 152, 138, 303),
        {
            "top_left": Crop(0, 0, 126, 151),
            "top_middle": Crop(126, 0, 243, 151),
            "top_right": Crop(243, 0, 384, 151),
            "bottom_middle": Crop(138, 152, 272, 303),
            "bottom_right": Crop(272, 152, 384, 303),
        },
    ),
    Job(
        "galaxies",
        "Galaxies: those of one crop that are more than a speck, then those of other crops of the same field",
        "hubble_deep_field.jpg",
        "Hubble eXtreme Deep Field, captured by NASA; may be freely used in the public domain",
        Crop(383, 6, 511, 134),
        {
            "red_giant": Crop(240, 40, 368, 168),
            "merger": Crop(390, 90, 518, 218),
            "group": Crop(230, 270, 358, 398),
            "spiral": Crop(70, 340, 198, 468),
            "yellow_giant": Crop(660, 410, 788, 538),
        },
    ),
    Job(
        "stained_cells",
        "Stained cells: the brown glands in one tile of a slide, then in other tiles",
        "ihc.png",
        "Colonic glands with FHL2 stained brown, CMMI; no known copyright restrictions",
        Crop(0, 171, 170, 341),
        {
            "top_right": Crop(342, 0, 512, 170),
            "middle": Crop(171, 171, 341, 341),
            "right": Crop(342, 171, 512, 341),
            "bottom_left": Crop(0, 342, 170, 512),
            "bottom": Crop(171, 342, 341, 512),
        },
    ),
    Job(
        "cat",
        "A cat: one view is the example; the others overlap it, as there is one photograph, and two are mirrored",
        "chelsea.png",
        "Chelsea the cat, photographed by Stefan van der Walt; CC0",
        Crop(150, 0, 430, 225),
        {
            "further_left": Crop(0, 0, 225, 225),
            "whole_mirrored": Crop(0, 0, 451, 300, mirrored=True),
            "right_mirrored": Crop(225, 0, 451, 225, mirrored=True),
        },
    ),
)


@dataclass(frozen=True)
class JobReport:
    """What a job wrote, and the command that would have done the same."""

    job: Job
    folder: Path  # holds prompt.png, prompt_mask.png, queries/, masks/ and the contact sheet
    command: str
    result: FolderReport

    @property
    def sheet(self) -> Path:
        """The image of the prompt, the queries and the answers."""
        return self.folder / SHEET_NAME

    @property
    def seconds_per_image(self) -> float:
        """From file to files: reading the image, the network, writing mask and overlay."""
        return self.result.seconds / max(1, self.result.done)

    def describe(self) -> str:
        """Write two lines for a terminal."""
        done = f"{self.job.name}: {counted(self.result.done, 'mask')}, {self.seconds_per_image:.2f} s an image"
        return "\n".join([done, *(f"  failed: {file.error}" for file in self.result.failures), f"  {self.command}"])


@dataclass(frozen=True)
class DemoReport:
    """What the demo wrote."""

    jobs: tuple[JobReport, ...]
    sheet: Path  # the contact sheets of all jobs in one image


def find_photographs() -> Path:
    """Find the folder of scikit-image's photographs.

    Cheap: tells what is missing before weights are loaded.

    Raises:
        FileNotFoundError: scikit-image is not installed, or its wheel holds other images than the demo was made for.
    """
    advice = 'run: pip install "incontext[demo]"'
    try:
        import skimage
    except ImportError:
        raise FileNotFoundError(
            f"expected scikit-image, whose wheel holds the demo's photographs, and found none; {advice}"
        ) from None
    folder = Path(skimage.__file__).with_name("data")
    if missing := [job.photograph for job in JOBS if not (folder / job.photograph).is_file()]:
        raise FileNotFoundError(
            f"expected scikit-image's photographs in {folder}, found no {', '.join(missing)}; {advice}"
        )
    return folder


def run(segmenter: Segmenter, out: Path, *, on_job: Callable[[JobReport], None] | None = None) -> DemoReport:
    """Do all jobs, each in its own folder below ``out``, and draw a contact sheet of them all.

    Args:
        on_job: Called after each job.

    Raises:
        FileNotFoundError: what `find_photographs` raises.
        OSError: ``out`` cannot be written to.
    """
    find_photographs()  # before anything is written
    reports = []
    for job in JOBS:
        reports.append(_run_job(segmenter, job, out / job.name))
        if on_job is not None:
            on_job(reports[-1])
    sheet = out / SHEET_NAME
    write_image(sheet, np.concatenate([read_image(report.sheet) for report in reports]))
    return DemoReport(tuple(reports), sheet)


@dataclass(frozen=True)
class JobFiles:
    """What a job begins with: the example's image and mask, and the folder of images to segment."""

    image: Path
    mask: Path
    queries: Path


def write_files(job: Job, folder: Path) -> JobFiles:
    """Write what a job begins with into a folder.

    Raises:
        FileNotFoundError: What `find_photographs` raises.
        OSError: The folder cannot be written to.
    """
    photograph = read_image(find_photographs() / job.photograph)
    files = JobFiles(folder / "prompt.png", folder / "prompt_mask.png", folder / "queries")
    files.queries.mkdir(parents=True, exist_ok=True)
    write_image(files.image, job.prompt.of(photograph))
    with whole_file(files.mask) as stream:
        stream.write((MASKS / f"{job.name}.png").read_bytes())
    for name, crop in job.queries.items():
        write_image(files.queries / f"{name}.png", crop.of(photograph))
    return files


def _run_job(segmenter: Segmenter, job: Job, folder: Path) -> JobReport:
    files, masks = write_files(job, folder), folder / "masks"
    prompt_image, prompt_mask, queries = files.image, files.mask, files.queries

    # From here on it is what `command` does: files in, files out.
    prompt = Prompt.open(prompt_image, prompt_mask)
    folder_job = plan([queries], masks, overlay=True, prompt_files=[(prompt_image, prompt_mask)])
    result = segment_folder(segmenter, folder_job, prompt, resume=False)
    command = ["incontext", "segment", str(queries), "--prompt", str(prompt_image), str(prompt_mask)]
    command += ["-o", str(masks), "--overlay", *(["--weights", segmenter.name] if segmenter.name != "default" else [])]
    report = JobReport(job, folder, shlex.join(command), result)

    shown = Segmentation(
        prompt.mask, np.ones(prompt.mask.shape, np.float32), prompt.palette or Palette.spread(prompt.ids)
    )
    columns = [_Column("prompt", prompt.image, "its mask, drawn by us", shown.overlay(prompt.image))]
    segmented = {Path(file.query).stem for file in result.files if file.error is None}
    for name in (name for name in job.queries if name in segmented):
        image, overlay = read_image(queries / f"{name}.png"), read_image(masks / f"{name}_overlay.jpg")
        columns.append(_Column(f"query: {name.replace('_', ' ')}", image, "found", overlay))
    write_image(report.sheet, _contact_sheet(job, columns))
    return report


# ------------------------------------------------------------------------------------------ contact sheets

_CELL = 160  # pixels along a side of a thumbnail
_GAP = 8
_LINE = 20  # height of a line of text
_WIDTH = _GAP + 6 * (_CELL + _GAP)  # all sheets are as wide as the job of most images needs
_PAPER, _INK, _PALE_INK = (255, 255, 255), (20, 20, 20), (110, 110, 110)


class _Column(NamedTuple):
    """An image above, what belongs to it below."""

    upper_caption: str
    upper: Pixels
    lower_caption: str
    lower: Pixels


def _contact_sheet(job: Job, columns: Sequence[_Column]) -> Pixels:
    """Draw the prompt over its mask, beside it each query over its answer, under the job's title; (H, W, 3)."""
    head, row = 2 * _LINE + _GAP, _LINE + _CELL + _GAP
    sheet = Image.new("RGB", (_WIDTH, head + 2 * row + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), job.title, _INK, ImageFont.load_default(16))
    draw.text((_GAP, _GAP + _LINE), job.credit, _PALE_INK, ImageFont.load_default(12))
    between = _GAP + _CELL + _GAP // 2  # the prompt and the queries
    draw.line([(between, head), (between, sheet.height - 2 * _GAP)], _PALE_INK)
    for i, column in enumerate(columns):
        left = _GAP + i * (_CELL + _GAP)
        for top, caption, image in (
            (head, column.upper_caption, column.upper),
            (head + row, column.lower_caption, column.lower),
        ):
            draw.text((left, top + 2), caption, _INK, ImageFont.load_default(13))
            sheet.paste(Image.fromarray(shrunk(image, _CELL)), (left, top + _LINE))
    return np.array(sheet)
