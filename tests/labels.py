"""Masks that are hard on annotation formats, and folders and files made of them."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from incontext.annotations import Categories, Labels, Result, Thing
from incontext.annotations.core import things_of

NAMES = {1: "cat", 2: "dog, wet", 3: "Straße/2", 254: "sky"}
CATEGORIES = Categories(NAMES)


def hard_masks() -> dict[str, np.ndarray]:
    """Image name -> (H, W) uint8: holes, islands in holes, parts that touch at corners, single pixels, things at the
    border, ids up to 254, ignored pixels, sizes that are not square, nothing at all."""
    rng = np.random.default_rng(5)
    ring = np.zeros((40, 61), np.uint8)
    ring[4:30, 6:40], ring[8:26, 10:36], ring[14:20, 18:28] = 1, 0, 2
    ring[0, :], ring[:, 60], ring[33, 3] = 254, 3, 1
    noise = rng.choice(np.array([0, 1, 2, 254, 255], np.uint8), (23, 17), p=(0.4, 0.2, 0.2, 0.1, 0.1))
    blocks = np.kron(rng.integers(0, 4, (5, 9)), np.ones((7, 5))).astype(np.uint8)
    ignored = blocks.copy()
    ignored[10:20, 10:30] = 255
    pixel = np.zeros((1, 1), np.uint8) + 2
    line = np.array([[0, 3, 3, 0, 1, 0, 254]], np.uint8)
    return {
        "ring.png": ring,
        "a/noise.png": noise,
        "a/blocks.png": blocks,
        "b/ignored.png": ignored,
        "pixel.png": pixel,
        "line.png": line,
        "full.png": np.full((9, 4), 254, np.uint8),
        "empty.png": np.zeros((12, 30), np.uint8),
    }


def results(masks: dict[str, np.ndarray], *, confidence: float | None = None) -> list[Result]:
    known = dict.fromkeys(range(1, 255), confidence) if confidence is not None else {}
    return [Result(PurePosixPath(name), mask, things_of(mask, known)) for name, mask in masks.items()]


def masks_of(labels: Labels) -> dict[str, np.ndarray]:
    """Image name -> what its labels paint."""
    return {str(labelled.name): labelled.mask() for labelled in labels}


def same_masks(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    for name, mask in expected.items():
        np.testing.assert_array_equal(found[name], mask, err_msg=name)


def write_images(folder: Path, masks: dict[str, np.ndarray]) -> None:
    """An image of noise for each mask, in its size."""
    rng = np.random.default_rng(0)
    for name, mask in masks.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*mask.shape, 3), np.uint8)).save(path)


def coco(**changes: Any) -> dict[str, Any]:
    """A COCO document of one image, 8 x 6 pixels, with two objects; changes: other values of its keys."""
    document: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.png", "height": 6, "width": 8}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "segmentation": [[0, 0, 4, 0, 4, 3, 0, 3]]},
            {"id": 2, "image_id": 7, "category_id": 5, "segmentation": [[2, 1, 6, 1, 6, 5, 2, 5]]},
        ],
    }
    return {**document, **changes}


def annotation(**changes: Any) -> dict[str, Any]:
    """One annotation of such a document."""
    return {"id": 9, "image_id": 7, "category_id": 3, "segmentation": [[0, 0, 4, 0, 4, 3, 0, 3]], **changes}


def write_json(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def areas(things: list[Thing]) -> list[tuple[int, int]]:
    return [(thing.category, thing.area) for thing in things]
