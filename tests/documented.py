"""What the pages of the documentation show: their blocks of commands, and a folder in which the commands work."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from clips import scene, scene_mask, write_frames, write_video

from incontext.images.ids import Pixels
from incontext.images.write import write_image, write_mask
from incontext.network.config import ModelConfig
from incontext.training.recipes import RECIPES, Recipe, Stage
from incontext.types import Palette

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(
    r"^```(?P<language>sh|python)(?: title=\"(?P<title>[^\"]*)\")?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_NAMES = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Block:
    """A block of commands. needs: what its title says that a machine must have, or nothing."""

    page: str
    line: int
    language: str
    text: str
    needs: str | None

    @property
    def lines(self) -> list[str]:
        """The commands of a shell block, one a line, without comments."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines())
        return [line for line in lines if line]


def pages() -> list[Path]:
    """The README and every page of the site, those of the log apart."""
    return [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "log")]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of commands of a page."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        name, line = page.relative_to(ROOT).as_posix(), text.count("\n", 0, found.start()) + 1
        yield Block(name, line, found["language"], found["text"], found["title"])


def fill(folder: Path) -> None:
    """Make the files that the documentation speaks of, small."""
    colors = Palette.spread([1, 2]).table
    for place, count in (("PHOTOS", 3), ("PHOTOS/sub", 1), ("FRAMES", 3)):
        (folder / place).mkdir()
        for number in range(count):
            write_image(folder / place / f"{number}.jpg", scene(number))
    for number, name in enumerate(("example", "second", "photo")):
        write_image(folder / f"{name}.jpg", scene(number))
        write_mask(folder / f"{name}_mask.png", _mask(number), colors)
    for number, name in ((0, "first_frame"), (8, "correction")):
        write_mask(folder / f"{name}.png", _mask(number), colors)
    for place in ("LABELLED", "DATA_1", "DATA_2"):
        for kind in ("images", "masks"):
            (folder / place / kind).mkdir(parents=True)
        for number, name in enumerate(_NAMES):
            write_image(folder / place / "images" / f"{name}.jpg", scene(number))
            write_mask(folder / place / "masks" / f"{name}.png", _mask(number), colors)
    write_video(folder / "clip.mp4", [scene(number) for number in range(10)])
    write_frames(folder / "CLIPS/squares/frames", [scene(number) for number in range(4)])
    (folder / "CLIPS/squares/masks").mkdir()
    for number in range(4):
        write_mask(folder / f"CLIPS/squares/masks/{number}.png", _mask(number), colors)
    (folder / "shards").mkdir()
    with tarfile.open(folder / "shards/000.tar", "w") as tar:
        tar.add(folder / "PHOTOS/0.jpg", "0.jpg")
    _write_annotations(folder)
    said = {"points": [[8, 10, 1]]}
    (folder / "hints.json").write_text(json.dumps({"0.jpg": said, "sub/0.jpg": {"boxes": [[2, 4, 30, 24, 1]]}}))
    (folder / "frame_hints.json").write_text(json.dumps({"0": said}))
    recipe = json.dumps(replace(RECIPES["smoke"], stages=(Stage(32, 2, 2),)).to_dict())
    (folder / "my_recipe.json").write_text(recipe, encoding="utf-8")


def quick(name: str, model: ModelConfig) -> Recipe:
    """A recipe by name, over in a moment; "smoke" keeps its own network."""
    whole = RECIPES[name]
    config = whole.model if name == "smoke" else model
    return replace(whole, model=config, stages=(Stage(config.side, 2, 2),), warmup_steps=1)


def _write_annotations(folder: Path) -> None:
    """COCO's file for two images, and LabelMe's for one: the red square and the blue one as polygons."""
    (folder / "labels").mkdir()
    images, annotations = [], []
    for number in range(2):
        name = f"{number}.jpg"
        write_image(folder / "labels" / name, scene(number))
        images.append({"id": number, "file_name": name, "width": 64, "height": 48})
        for i, ring in _rings(number).items():
            annotations.append({"id": 2 * number + i, "image_id": number, "category_id": i, "segmentation": [ring]})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels/instances.json").write_text(json.dumps(whole), encoding="utf-8")
    names = {1: "red", 2: "blue"}
    shapes = [
        {"label": names[i], "points": [ring[at : at + 2] for at in range(0, 8, 2)], "shape_type": "polygon"}
        for i, ring in _rings(2).items()
    ]
    about = {"version": "5.0", "imagePath": "photo.jpg", "imageWidth": 64, "imageHeight": 48, "imageData": None}
    (folder / "photo.json").write_text(json.dumps({**about, "shapes": shapes}), encoding="utf-8")


def _rings(number: int) -> dict[int, list[int]]:
    """Of each id of a scene the corners of its square, x and y in turn."""
    rings = {}
    for i in (1, 2):
        rows, columns = np.nonzero(_mask(number) == i)
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        rings[i] = [int(each) for each in (left, top, right, top, right, bottom, left, bottom)]
    return rings


def _mask(number: int) -> Pixels:
    return scene_mask(number, ids=(1, 2))
