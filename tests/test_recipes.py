"""The recipe for COCO panoptic that docs/how-to/tune.md gives, on a folder of its layout with a tiny network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from labels import write_json
from PIL import Image

from incontext import cli
from incontext.annotations import open_labels
from incontext.images.masks import read_mask
from incontext.network.checkpoint import save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.prompt_tensor import PromptTensor

CONFIG = ModelConfig(
    width=32, heads=2, depth=2, patch=4, side=16, decoder_width=8, merge_layer=0, taps=(0, 1), pretrain_side=16
)
TINY = ("--weights", "tiny.safetensors", "--device", "cpu", "--dtype", "float32", "--task", "semantic")
# COCO's ids of its 80 things and 53 kinds of stuff lie in 1..200, with gaps.
THINGS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
IDS = [*THINGS, *range(92, 144), 200]


def panoptic(folder: Path, count: int) -> None:
    """`annotations/panoptic_train2017.json` and all that belongs to it: each class in two of them at least."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(count):
        stripes = np.roll(np.array([*IDS, 0, 0]), 67 * (number % 2)).reshape(9, 15)  # the last has no label
        mask = np.repeat(np.repeat(stripes, 12, axis=0), 8, axis=1)
        name = f"{number:012d}"
        for place, pixels in (
            (f"train2017/{name}.jpg", rng.integers(0, 256, (*mask.shape, 3), np.uint8)),
            (f"annotations/panoptic_train2017/{name}.png", np.stack([mask % 7, mask, mask * 0], -1).astype(np.uint8)),
        ):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / place)
        segments = [{"id": i % 7 + 256 * i, "category_id": i, "iscrowd": 0} for i in IDS]
        images.append({"id": number, "file_name": f"{name}.jpg", "height": mask.shape[0], "width": mask.shape[1]})
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    kinds = [{"id": i, "name": f"kind {i}", "isthing": int(i < 91), "color": [i, 99, 7]} for i in IDS]
    document = {"images": images, "annotations": annotations, "categories": kinds}
    write_json(folder / "annotations" / "panoptic_train2017.json", document)
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / "train2017" / "unlabelled.png")


def command(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 0


@pytest.mark.slow
def test_the_documented_recipe_for_coco_panoptic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of the recipe, then its two commands."""
    assert (len(THINGS), len(IDS), max(IDS)) == (80, 133, 200)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_model(tmp_path / "tiny.safetensors", SegGPT(CONFIG))
    panoptic(tmp_path / "coco", 4)
    text = (Path(__file__).parents[1] / "docs/how-to/tune.md").read_text()
    recipe = text.split("## COCO panoptic")[1]
    subprocess.run([sys.executable, "-c", recipe.split("<<'LIST'\n")[1].split("\nLIST\n")[0]], check=True)
    command("tune", "coco.json", "-o", "coco133.safetensors", "--checkpointing", "--steps", "1", *TINY)
    made = PromptTensor.load("coco133.safetensors")
    assert (made.ids, len(made.groups), made.origin.task) == (tuple(IDS), 19, "semantic")
    assert dict(made.names) == {i: f"kind {i}" for i in IDS}
    assert made.palette.colors[-1].tolist() == [200, 99, 7]
    photo = "coco/train2017/unlabelled.png"
    command("segment", photo, "--prompt-tensor", "coco133.safetensors", "-o", "COCO", "--format", "panoptic", *TINY)
    labels = open_labels(tmp_path / "COCO" / "panoptic")
    assert dict(labels.categories.names) == dict(made.names)
    (labelled,) = labels
    np.testing.assert_array_equal(labelled.mask(), read_mask(tmp_path / "COCO" / "unlabelled.png").ids)
    report = json.loads((tmp_path / "COCO" / "report.json").read_text())
    assert report["settings"]["names"]["200"] == "kind 200"
