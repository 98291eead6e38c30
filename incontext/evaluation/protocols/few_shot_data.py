"""The data of the few-shot benchmarks, in the layouts that their archives unpack to and that the field's code reads.

COCO-20i: val2014/ with the images, and either annotations/val2014/, masks whose number is the class (HSNet's archive),
or annotations/instances_val2014.json. PASCAL-5i: JPEGImages/ and SegmentationClassAug/ or SegmentationClass/.
FSS-1000: a folder for each class, with 1.jpg to 10.jpg and masks of the same names. Published lists of a fold's images
are taken where they lie beside the data. Refuses to know which episodes are drawn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from incontext.evaluation.few_shot.episodes import EpisodeSet
from incontext.evaluation.few_shot.images import Kept
from incontext.evaluation.protocols.benchmarks import Benchmark
from incontext.evaluation.protocols.finding import Part, beside, check_files, find, folders_below, lines_of
from incontext.evaluation.protocols.labels import ClassesOfCoco, read_brightness, read_labels, unpickled_lists
from incontext.images.ids import IGNORED, Pixels
from incontext.images.read import read_image
from incontext.types import Prompt

_COCO_CLASSES: Final = 80
_COCO_NAMES: Final = [
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep"),
    *("cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase"),
    *("frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard"),
    *("surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    *("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    *("chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote"),
    *("keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock"),
    *("vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
]
_VOC_NAMES: Final = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
_VOC_FOLD: Final = 5  # classes
_FSS_IMAGES: Final = tuple(sorted(str(number) for number in range(1, 11)))  # as files are sorted: 1, 10, 2, ...
_FSS_THRESHOLD: Final = 128
_COCO_PARTS: Final = (
    Part(("val2014",), "the images of val2014.zip"),
    Part(
        ("annotations/val2014", "annotations/instances_val2014.json"),
        "masks of classes, or the annotations of annotations_trainval2014.zip",
    ),
)
_VOC_PARTS: Final = (
    Part(("JPEGImages",), "the images of VOCtrainval_11-May-2012.tar"),
    Part(("SegmentationClassAug", "SegmentationClass"), "the masks of classes"),
)


@dataclass(frozen=True)
class Fold:
    """The test part of a fold.

    Attributes:
        classes: Its ids.
        names: Of each class, its images in the published order.
        pairs: The queries where the rules list them, (image, class) in order; None where they are drawn.
    """

    classes: tuple[int, ...]
    names: Mapping[int, Sequence[str]]
    pairs: tuple[tuple[str, int], ...] | None = None


@dataclass(frozen=True, eq=False)
class FewShotData:
    """A benchmark's images and masks.

    Attributes:
        classes: Id -> name.
        folds: By number.
        about: Facts for the report.
        image, mask: Where an image lies, by its name in the lists; and (H, W) uint8 of one of its classes, 1 where it
            is, 255 where nothing is scored, else 0.
        files: All files that a name needs.
        folders: What holds them, or the file. A `few_shot.images.ImageSource` is made of it by
            :class:`FoldImages`.
    """

    root: Path
    classes: Mapping[int, str]
    folds: Mapping[int, Fold]
    image: Callable[[str], Path]
    mask: Callable[[int, str], Pixels]
    files: Callable[[str], Sequence[Path]]
    folders: tuple[Path, ...]
    about: Mapping[str, str] = field(default_factory=dict)

    def check(self, names: Iterable[str]) -> None:
        """Look whether these images and their masks are there.

        Raises:
            FileNotFoundError: One of them is not.
        """
        check_files([path for name in dict.fromkeys(names) for path in self.files(name)], "an episode names it")

    def state(self) -> str:
        """Make a digest that changes when files come or go, or lists change: what records of answers depend on."""
        stamps = (f"{folder} {folder.stat().st_mtime_ns}" for folder in self.folders)
        return "; ".join([*stamps, *(f"{name}: {value}" for name, value in self.about.items())])


class FoldImages:
    """The images and masks of episodes: a `few_shot.images.ImageSource`.

    Bounded in memory; threads may share it.
    """

    def __init__(self, data: FewShotData) -> None:
        self._data = data
        self._kept = Kept()

    def image(self, _set_name: str, stem: str) -> Pixels:
        """Open an image, (H, W, 3) uint8."""
        return self._kept.get(stem, lambda: read_image(self._data.image(stem)))

    def asked(self, _each: EpisodeSet, i: int, stem: str) -> Pixels:
        """Read what is asked, (H, W) uint8: 1 where the class is, 255 where nothing is scored.

        Raises:
            ValueError: For another size than its image's.
        """
        mask = self._kept.get((i, stem), lambda: self._data.mask(i, stem))
        size = self.image("", stem).shape[:2]
        if mask.shape != size:
            path = self._data.files(stem)[-1]
            raise ValueError(f"{path}: expected a mask of its image's size {size}, got {mask.shape}")
        return mask

    def prompt(self, each: EpisodeSet, i: int, stem: str) -> Prompt:
        """Open an image with that mask."""
        return Prompt(self.image("", stem), self.asked(each, i, stem))


def read_few_shot(benchmark: Benchmark, data: Path, folds: Sequence[int]) -> FewShotData:
    """Read the data of a few-shot benchmark.

    Args:
        folds: Numbers of those that are wanted; FSS-1000 has one, 0.

    Raises:
        FileNotFoundError: a part is missing; the message names the file that is expected.
        ValueError: a file is not what it should be.
    """
    readers = {"coco-20i": _coco, "pascal-5i": _pascal, "fss-1000": _fss}
    return readers[benchmark.name](data, folds)


# ------------------------------------------------------------------------------------------------ COCO-20i


def _coco(data: Path, folds: Sequence[int]) -> FewShotData:
    root = find(data, "COCO-20i", _COCO_PARTS)
    masks = root / "annotations/val2014"
    lists = {
        fold: beside(
            root, data, [f"{where}/val/fold{fold}.pkl" for where in ("splits", "splits/coco", "data/splits/coco")]
        )
        for fold in folds
    }
    known = masks.is_dir()
    annotations = None if known else ClassesOfCoco(root / "annotations/instances_val2014.json")
    if annotations is not None and len(annotations.classes) != _COCO_CLASSES:
        raise ValueError(
            f"{root / 'annotations/instances_val2014.json'}: expected COCO's 80 categories, got "
            f"{len(annotations.classes)}"
        )
    missing = {i for fold, path in lists.items() if path is None for i in _coco_classes(fold)}
    shown = _coco_names(masks, annotations, missing)
    found = {}
    for fold, path in lists.items():
        by_class = shown if path is None else {i + 1: names for i, names in unpickled_lists(path).items()}
        found[fold] = Fold(_coco_classes(fold), {i: tuple(by_class.get(i, ())) for i in _coco_classes(fold)})

    def mask(i: int, name: str) -> Pixels:
        if annotations is not None:
            return annotations.mask(i, Path(name).stem).astype(np.uint8)
        found: Pixels = (read_labels(root / "annotations" / f"{_stem(name)}.png") == i).astype(np.uint8)
        return found

    def files(name: str) -> list[Path]:
        image = root / f"{_stem(name)}.jpg"
        return [image, root / "annotations" / f"{_stem(name)}.png"] if annotations is None else [image]

    return FewShotData(
        root,
        dict(enumerate(_COCO_NAMES, start=1)),
        found,
        image=lambda name: root / f"{_stem(name)}.jpg",
        mask=mask,
        files=files,
        folders=(root / "val2014", masks if annotations is None else root / "annotations/instances_val2014.json"),
        about={
            "masks": "annotations/val2014/*.png" if annotations is None else "annotations/instances_val2014.json",
            "lists": _told(lists, "every image of val2014 that shows the class, sorted by name"),
        },
    )


def _coco_classes(fold: int) -> tuple[int, ...]:
    return tuple(range(fold + 1, _COCO_CLASSES + 1, 4))


def _coco_names(masks: Path, annotations: ClassesOfCoco | None, wanted: set[int]) -> dict[int, list[str]]:
    """Name the images of each class where no list says so: by the annotations, else by reading all masks."""
    if not wanted:
        return {}
    if annotations is not None:
        return {i: [f"val2014/{stem}" for stem in annotations.stems.get(i, ())] for i in wanted}
    found: dict[int, list[str]] = {i: [] for i in wanted}
    for path in sorted(masks.glob("*.png")):
        for i in np.unique(read_labels(path)).tolist():
            if i in found:
                found[i].append(f"val2014/{path.stem}")
    return found


def _stem(name: str) -> str:
    """Take a name of a list without its suffix: val2014/COCO_val2014_000000000042.jpg."""
    path = Path(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"expected the name of an image inside of the data, got {name!r}")
    return path.with_suffix("").as_posix() if path.suffix.lower() == ".jpg" else path.as_posix()


def _told(lists: Mapping[int, Path | None], else_: str) -> str:
    return ", ".join(
        f"fold {fold}: {else_ if path is None else '/'.join(path.parts[-3:])}" for fold, path in lists.items()
    )


# ----------------------------------------------------------------------------------------------- PASCAL-5i


def _pascal(data: Path, folds: Sequence[int]) -> FewShotData:
    root = find(data, "PASCAL-5i", _VOC_PARTS)
    masks = next(root / name for name in _VOC_PARTS[1].paths if (root / name).is_dir())
    lists = {
        fold: beside(
            root, data, [f"{where}/val/fold{fold}.txt" for where in ("splits", "splits/pascal", "data/splits/pascal")]
        )
        for fold in folds
    }
    published = published_pairs()
    found = {}
    for fold, path in lists.items():
        pairs = published[fold] if path is None else _pairs(path, fold)
        classes = tuple(range(_VOC_FOLD * fold + 1, _VOC_FOLD * fold + _VOC_FOLD + 1))
        names = {i: tuple(name for name, own in pairs if own == i) for i in classes}
        found[fold] = Fold(classes, names, tuple(pairs))

    def mask(i: int, name: str) -> Pixels:
        ids = read_labels(masks / f"{name}.png")
        asked: Pixels = np.where(ids == IGNORED, np.uint8(IGNORED), (ids == i).astype(np.uint8))
        return asked

    return FewShotData(
        root,
        dict(enumerate(_VOC_NAMES, start=1)),
        found,
        image=lambda name: root / "JPEGImages" / f"{name}.jpg",
        mask=mask,
        files=lambda name: [root / "JPEGImages" / f"{name}.jpg", masks / f"{name}.png"],
        folders=(root / "JPEGImages", masks),
        about={"masks": masks.name, "lists": _told(lists, "the published pairs")},
    )


def _pairs(path: Path, fold: int) -> list[tuple[str, int]]:
    """Read the lines NAME__CLASS of a fold's list."""
    pairs = []
    for line in lines_of(path):
        match = re.fullmatch(r"(\w+?)__(\d+)", line)
        if match is None or not _VOC_FOLD * fold < int(match[2]) <= _VOC_FOLD * (fold + 1):
            raise ValueError(f"{path}: expected lines such as 2007_000033__{_VOC_FOLD * fold + 1:02}, got {line!r}")
        pairs.append((match[1], int(match[2])))
    return pairs


def published_pairs() -> dict[int, list[tuple[str, int]]]:
    """Read the test pairs of PASCAL-5i, (image, class), by fold in their published order."""
    pairs: dict[int, list[tuple[str, int]]] = {}
    fold = 0
    for line in _own_lines("pascal_5i.txt"):
        first, *entries = line.split()
        if first == "fold":
            fold = int(entries[0])
            continue
        for entry in entries:
            number, _, i = entry.partition("/")
            pairs.setdefault(fold, []).append((f"{first}_{number}", int(i)))
    return pairs


def _own_lines(name: str) -> list[str]:
    return [line for line in lines_of(Path(__file__).with_name(name)) if line[0] != "#"]


# ------------------------------------------------------------------------------------------------ FSS-1000


def published_classes() -> list[str]:
    """Read the test classes of FSS-1000, sorted."""
    return sorted(word for line in _own_lines("fss_1000.txt") for word in line.split())


def _fss(data: Path, _folds: Sequence[int]) -> FewShotData:
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: there is no such folder")
    classes = published_classes()
    counts = {folder: sum((folder / name).is_dir() for name in classes) for folder in folders_below(data)}
    root = max(counts, key=lambda folder: counts[folder])
    listed = beside(
        root, data, [f"{where}/test.{end}" for where in ("splits", "splits/fss", ".") for end in ("txt", "text")]
    )
    names = classes if listed is None else sorted(lines_of(listed))
    stems = {number: tuple(f"{name}/{image}" for image in _FSS_IMAGES) for number, name in enumerate(names, start=1)}

    def files(name: str) -> list[Path]:
        return [root / f"{name}.jpg", root / f"{name}.png"]

    first = next(iter(stems.values()), ())
    check_files([path for name in first[:1] for path in files(name)], "FSS-1000, a folder for each of its classes")
    return FewShotData(
        root,
        dict(enumerate(names, start=1)),
        {0: Fold(tuple(stems), stems, tuple((name, i) for i, of_class in stems.items() for name in of_class))},
        image=lambda name: root / f"{name}.jpg",
        mask=lambda _i, name: (read_brightness(root / f"{name}.png") >= _FSS_THRESHOLD).astype(np.uint8),
        files=files,
        folders=(root,),
        about={"lists": "the published test classes" if listed is None else "/".join(listed.parts[-2:])},
    )
