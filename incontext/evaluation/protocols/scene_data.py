"""Benchmarks that label whole scenes, in the layouts that their archives unpack to.

ADE20K: images/training, images/validation, annotations of the same names (0 is no class), objectInfo150.txt with the
names. COCO panoptic: val2017/ with annotations/panoptic_val2017.json and the PNGs of annotations/panoptic_val2017/; the
same of train2017, where prompts come from. Refuses to know networks and scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from incontext.annotations import panoptic
from incontext.annotations.core import Labelled, Source, Thing, paint
from incontext.evaluation.few_shot.episodes import files
from incontext.evaluation.protocols.benchmarks import Benchmark
from incontext.evaluation.protocols.finding import Part, find, lines_of
from incontext.evaluation.protocols.labels import read_labels
from incontext.images.ids import IGNORED, Pixels

CLASSES_OF_ADE: Final = 150
_LEAST_SHARE: Final = 0.001  # of an image: what an example shows at least, if there is one that does
_ADE_PARTS: Final = (
    Part(("images/validation",), "the images of ADEChallengeData2016.zip"),
    Part(("annotations/validation",), "their labels"),
)
_COCO_PARTS: Final = (
    Part(("val2017",), "the images of val2017.zip"),
    Part(("annotations/panoptic_val2017.json",), "of panoptic_annotations_trainval2017.zip"),
    Part(("annotations/panoptic_val2017",), "the PNGs of panoptic_val2017.zip inside of it"),
)


@dataclass(frozen=True, eq=False)
class Scenes:
    """Labelled images.

    Attributes:
        names: In order.
        image: Where one lies.
        ids: (H, W) uint8 of its classes, 255 where nothing is scored, 0 where there is background.
        things: Its segments, crowds ignored, where the benchmark has them.
        shown: The classes that it shows, and the share of the image that each takes.
    """

    names: tuple[str, ...]
    image: Callable[[str], Path]
    ids: Callable[[str], Pixels]
    shown: Callable[[str], Mapping[int, float]]
    things: Callable[[str], Sequence[Thing]] | None = None
    numbers: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SceneData:
    """A benchmark.

    Attributes:
        classes: Id -> name.
        countable: Classes whose parts are objects.
        queries: What is asked.
        examples: Makes the images that prompts come from, FileNotFoundError where they are not there.
    """

    root: Path
    classes: Mapping[int, str]
    countable: frozenset[int]
    queries: Scenes
    examples: Callable[[], Scenes]


def read_scenes(benchmark: Benchmark, data: Path) -> SceneData:
    """Read the data of ADE20K or COCO panoptic.

    Raises:
        FileNotFoundError: a part is missing; the message names the file that is expected.
        ValueError: a file is not what it should be.
    """
    return _ade(data) if benchmark.name == "ade20k" else _coco(data)


def choose_examples(
    examples: Scenes,
    classes: Sequence[int],
    shots: int,
    *,
    seed: int = 0,
    on_image: Callable[[int, int], None] | None = None,
) -> dict[int, tuple[str, ...]]:
    """Choose for each class the images that are its prompts: the first in a random order that show it.

    Those count first in which it takes at least a thousandth of the image. A class of which there are fewer images gets
    those; fewer shots of the same seed are the beginnings of more. on_image(done, total) is called after each image.

    Raises:
        ValueError: no image shows a class.
    """
    large: dict[int, list[str]] = {i: [] for i in classes}
    small: dict[int, list[str]] = {i: [] for i in classes}
    order = np.random.default_rng(seed).permutation(len(examples.names)).tolist()
    for done, place in enumerate(order, start=1):
        name = examples.names[place]
        for i, share in examples.shown(name).items():
            if i in large:
                (large if share >= _LEAST_SHARE else small)[i].append(name)
        if on_image is not None:
            on_image(done, len(order))
        if all(len(names) >= shots for names in large.values()):
            break
    chosen = {i: tuple((large[i] + small[i])[:shots]) for i in classes}
    if missing := [i for i, names in chosen.items() if not names]:
        raise ValueError(f"expected an image that shows class {missing[0]} among {len(examples.names)}, got none")
    return chosen


# -------------------------------------------------------------------------------------------------- ADE20K


def _ade(data: Path) -> SceneData:
    root = find(data, "ADE20K", _ADE_PARTS)
    names = {i: f"class {i}" for i in range(1, CLASSES_OF_ADE + 1)}
    table = root / "objectInfo150.txt"
    if table.is_file():
        for line in lines_of(table)[1:]:
            first, *_, last = line.split("\t")
            if int(first) in names:
                names[int(first)] = last.split(",")[0].strip()

    def examples() -> Scenes:
        for folder in (root / "images/training", root / "annotations/training"):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"{folder}: expected the training part of ADE20K, which prompts come from, there is none; "
                    "give a prompt tensor with --prompt-tensor, or an episode list with --episodes"
                )
        return _ade_scenes(root, "training")

    return SceneData(root, names, frozenset(), _ade_scenes(root, "validation"), examples)


def _ade_scenes(root: Path, part: str) -> Scenes:
    images, labels = files(root / "images" / part), files(root / "annotations" / part)
    if missing := [stem for stem in images if stem not in labels]:
        raise FileNotFoundError(
            f"{root / 'annotations' / part / missing[0]}.png: expected these labels, there are none"
        )

    def ids(name: str) -> Pixels:
        found = read_labels(labels[name])
        if found.max(initial=0) > CLASSES_OF_ADE:
            raise ValueError(f"{labels[name]}: expected classes 0 to {CLASSES_OF_ADE}, got {found.max()}")
        return np.where(found == 0, np.uint8(IGNORED), found)

    def shown(name: str) -> dict[int, float]:
        counts = np.bincount(read_labels(labels[name]).ravel(), minlength=256)
        return {i: counts[i] / counts.sum() for i in np.flatnonzero(counts).tolist() if i}

    return Scenes(tuple(images), images.__getitem__, ids, shown)


# ------------------------------------------------------------------------------------------- COCO panoptic


def _coco(data: Path) -> SceneData:
    root = find(data, "COCO panoptic", _COCO_PARTS)
    source = Source(root / "annotations/panoptic_val2017.json")
    queries, classes = _coco_scenes(source)
    countable = frozenset(int(each["id"]) for each in source.document["categories"] if each.get("isthing"))

    def examples() -> Scenes:
        path = root / "annotations/panoptic_train2017.json"
        for each in (path, path.with_suffix(""), root / "train2017"):
            if not each.exists():
                raise FileNotFoundError(
                    f"{each}: expected the training part of COCO panoptic, which prompts come from, it is not there; "
                    "give a prompt tensor with --prompt-tensor"
                )
        return _coco_scenes(Source(path))[0]

    return SceneData(root, classes, countable, queries, examples)


def _coco_scenes(source: Source) -> tuple[Scenes, dict[int, str]]:
    labels = panoptic.read(source)
    if labels.problems:
        raise ValueError(f"{labels.problems[0]} (and {len(labels.problems) - 1} more)")
    if any(int(each["id"]) not in labels.categories.names for each in source.document["categories"]):
        raise ValueError(f"{source.path}: expected ids of categories from 1 to 254, as COCO has them; got others")
    images: dict[str, Labelled] = {each.name.stem: each for each in labels}
    numbers = {Path(entry["file_name"]).stem: entry["id"] for entry in source.document["images"]}
    shares = dict(_shares(source.document))

    def image(name: str) -> Path:
        found = images[name].image
        if found is None:
            raise FileNotFoundError(f"{source.path}: names the image {images[name].name}, there is no such file")
        return found

    def ids(name: str) -> Pixels:
        things = images[name].draw()
        painted = paint(things, images[name].size)
        return np.where(painted == 0, np.uint8(IGNORED), painted)

    def shown(name: str) -> Mapping[int, float]:
        return shares[numbers[name]]

    scenes = Scenes(tuple(images), image, ids, shown, lambda name: images[name].draw(), numbers)
    return scenes, dict(labels.categories.names)


def _shares(document: Mapping[str, Any]) -> Iterator[tuple[object, dict[int, float]]]:
    """Tell of each image by its id the categories that it shows, crowds left out, and each one's share of it."""
    pixels = {entry["id"]: entry["height"] * entry["width"] for entry in document["images"]}
    for annotation in document["annotations"]:
        found: dict[int, float] = {}
        for segment in annotation["segments_info"]:
            if not segment.get("iscrowd"):
                share = segment.get("area", 0) / pixels[annotation["image_id"]]
                found[segment["category_id"]] = found.get(segment["category_id"], 0.0) + share
        yield annotation["image_id"], found
