"""YOLO segmentation: a line of text for each object, its class and the corners of one polygon as shares of the image.

    ROOT/data.yaml              names: the classes, counted from 0 (or classes.txt, obj.names: one in each line; these
                                may lie in labels/ as well)
    ROOT/images/NAME.jpg        or ROOT/SPLIT/images, ROOT/images/SPLIT, or the images beside the text files
    ROOT/labels/NAME.txt        likewise: 0 0.1 0.2 0.5 0.2 0.5 0.9

Written are data.yaml, labels/ and, in images/, links to the images. A polygon has no holes and no parts, so an
object's rings are joined by bridges (bridges.py says who sees them). What is ignored, and how confident an answer was,
is not written: there is no place for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from incontext.annotations.bridges import one_ring
from incontext.annotations.core import Add, Categories, Format, Labelled, Labels, Result, Source, Thing
from incontext.annotations.joining import Images, is_file, join, walked
from incontext.annotations.links import link_image
from incontext.annotations.shapes import Points, Region, drawn, polygon, rectangle
from incontext.annotations.values import Problems, brief, is_number, place_of, size_of_image
from incontext.images.gate import folder_below
from incontext.images.names import natural_order
from incontext.images.read import IMAGE_SUFFIXES
from incontext.images.text import decoded
from incontext.images.write import whole_file

_NAMES_FILES: Final = ("classes.txt", "obj.names", "_darknet.labels")
_YAML_SUFFIXES: Final = frozenset({".yaml", ".yml"})
_LARGEST_YAML: Final = 1 << 20  # bytes
_DEEPEST_YAML: Final = 16  # lists in lists; what is deeper takes long to read, and is no list of classes
_BOX: Final = 4  # values: the middle, and the width and height
_TRIED: Final = 5  # text files that are looked at to tell whether they are labels
_LOOKED_AT: Final = 256  # bytes of such a file
_FIRST_LINE: Final = re.compile(r"\s*\d+(\.0*)?(\s+[-+.\deE]+){4}")
_CLASS: Final = re.compile(r"\s*(\d{1,6})(?:\.0*)?\s")
_DIGITS: Final = 6  # at least, behind the point
_OUTSIDE: Final = 0.5  # of a side, by which corners may leave the image before they are taken for a mistake


# --------------------------------------------------------------------------------------------------- in


def _recognises(source: Source) -> bool:
    if not source.is_folder:
        return source.path.suffix.lower() in _YAML_SUFFIXES and "names" in _yaml(source.path)
    if folders := _label_folders(source.path):
        return _names_file(source.path, folders) is not None or any(_looks_like_labels(folder) for folder in folders)
    stems = {path.stem for path in source.files if path.suffix.lower() in IMAGE_SUFFIXES}
    beside = any(path.stem in stems and _is_label(path) for path in source.files)
    return beside and _names_file(source.path) is not None


def _label_folders(root: Path) -> list[Path]:
    """List the folders "labels" with text files in them, at most two levels down."""
    above = [root, *sorted(root.glob("[!.]*/")), *sorted(root.glob("[!.]*/[!.]*/"))]
    folders = (path for each in above for path in sorted(each.glob("[lL][aA][bB][eE][lL][sS]/")))
    return [folder for folder in folders if any(map(_is_label, folder.rglob("*")))]


def _is_label(path: Path) -> bool:
    named = path.suffix.lower() == ".txt" and path.name[0] != "." and path.name.lower() not in _NAMES_FILES
    return named and path.is_file()


def _looks_like_labels(folder: Path) -> bool:
    """Whether one of the first few text files below a folder begins with a class and numbers."""
    return any(_FIRST_LINE.match(_beginning(path)) for path in islice(filter(_is_label, folder.rglob("*")), _TRIED))


def _beginning(path: Path) -> str:
    with path.open("rb") as stream:
        return decoded(stream.read(_LOOKED_AT))


def _names_file(root: Path, labels: Sequence[Path] = ()) -> Path | None:
    """data.yaml or another .yaml with names, else a list of them, in the folder itself or in that of the labels."""
    candidates = sorted(p for p in root.iterdir() if p.suffix.lower() in _YAML_SUFFIXES and p.name[0] != ".")
    candidates.sort(key=lambda path: path.stem != "data")
    if (usable := next(filter(_has_names, candidates), None)) is not None:
        return usable
    lists = (path for folder in (root, *labels) for name in _NAMES_FILES if is_file(path := folder / name))
    return next(lists, None)


def _has_names(path: Path) -> bool:
    try:
        return "names" in _yaml(path)
    except ValueError:
        return path.stem == "data"  # then it is told; any other may be of something else


def _yaml(path: Path) -> Mapping[str, object]:
    import yaml

    if path.stat().st_size > _LARGEST_YAML:
        raise ValueError(f"{path}: expected a short list of classes, got {path.stat().st_size} bytes")
    try:
        text = decoded(path.read_bytes())
        depth = 0
        for event in yaml.parse(text):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("aliases, which can grow without end")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST_YAML:
                raise ValueError(f"more than {_DEEPEST_YAML} lists in lists")
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected plain YAML, got something else ({' '.join(str(error).split())})") from None
    return document if isinstance(document, dict) else {}


def _read(source: Source) -> Labels:
    root = source.path if source.is_folder else source.path.parent
    folders = _label_folders(root)
    listed = _names_file(root, folders) if source.is_folder else source.path
    names = {} if listed is None else _names(listed)
    problems = Problems()
    files = list(_files(root, folders, source.images, problems))
    if not files:
        raise ValueError(f"{root}: expected labels/NAME.txt and images/NAME.jpg, got no such pair{_hint(problems)}")
    if listed is None:
        names = {k: f"class {k}" for k in range(1 + max((_highest(label) for *_, label in files), default=0))}
        problems.note(f"{root}: names no classes; the first is called {names[0]}")
    categories = Categories.listed(names.values())
    ids = dict(zip(names, categories.ids, strict=True))
    images = []
    for name, image, label in files:
        try:
            size = size_of_image(image)
        except ValueError as error:
            problems.add(str(error))
            continue
        draw = partial(_draw, label, size, ids, str(name), problems)
        images.append(Labelled(name, size, label or image, draw, image))
    return Labels(source.path, FORMAT.name, images, categories, problems)


def _hint(problems: Sequence[str]) -> str:
    return f"; name the images' folder (--images); {problems[0]}" if problems else ""


def _names(path: Path) -> dict[int, str]:
    """List the classes of a file: index -> name."""
    if path.suffix.lower() not in _YAML_SUFFIXES:
        lines = decoded(path.read_bytes()).splitlines()
        return dict(enumerate(line.strip() for line in lines if line.strip()))
    about = _yaml(path)
    if "kpt_shape" in about:
        raise ValueError(f"{path}: expected labels of regions, got labels of key points (kpt_shape)")
    names = about["names"]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(re.fullmatch(r"\d{1,6}", str(key)) for key in names):
        raise ValueError(f"{path}: expected names, a list, or numbers with names, got {brief(names)}")
    return {int(str(key)): str(name) for key, name in sorted(names.items(), key=lambda item: int(str(item[0])))}


def _files(
    root: Path, folders: Sequence[Path], images: Path | None, problems: Problems
) -> Iterator[tuple[PurePosixPath, Path, Path | None]]:
    """Give each image's name, its file, and that of its labels, None where it has none.

    Nothing is in it, then, if all labels of its set have found their images.
    """
    rest: dict[Path, None] = {}
    used: set[Path] = set()
    for labels in folders or [root]:
        split = PurePosixPath(labels.parent.relative_to(root).as_posix()) if folders else PurePosixPath()
        below = images or (_images_beside(labels) if folders else root)
        stems = {_stem(path, labels): path for path in sorted(labels.rglob("*")) if _is_label(path)}
        joined = join(stems, Images(below))
        for sentence in joined.problems:
            problems.add(sentence)
        if joined.alone:
            told = f"{len(joined.alone)}, such as {min(joined.alone)}"
            problems.add(f"{labels}: left out labels without an image in {below}: {told}")
        found = sorted(walked(below), key=natural_order)
        unlabelled = [each for each in found if each not in joined.pairs]
        is_whole = not any(map(_is_like_labels, joined.alone))
        if not is_whole and unlabelled:
            told = f"{len(unlabelled)}, such as {unlabelled[0]}"
            problems.add(f"{below}: left out images without labels, of which those without an image may be: {told}")
        of_one_set = images is None or len(folders) < 2
        for image in found:
            label = joined.pairs.get(image)
            if label is not None or (of_one_set and is_whole):
                yield split / image.relative_to(below).as_posix(), image, label
        used |= joined.pairs.keys()
        rest |= dict.fromkeys([] if of_one_set else unlabelled)
    if others := [each for each in rest if each not in used]:
        problems.add(f"{images}: left out images of no set: {len(others)}, such as {others[0]}")


def _images_beside(labels: Path) -> Path:
    """Return the folder of the images for one of labels."""
    return next(iter(sorted(labels.parent.glob("[iI][mM][aA][gG][eE][sS]/"))), labels.parent / "images")


def _stem(path: Path, folder: Path) -> PurePosixPath:
    return PurePosixPath(path.relative_to(folder).with_suffix("").as_posix())


def _is_like_labels(path: Path) -> bool:
    beginning = _beginning(path)
    return not beginning.strip() or _FIRST_LINE.match(beginning) is not None


def _highest(label: Path | None) -> int:
    """Return the highest class of a file; lines that are none do not count, they are told when the file is drawn."""
    lines = [] if label is None else decoded(label.read_bytes()).splitlines()
    found = (_CLASS.match(line) for line in lines)
    return max((int(each[1]) for each in found if each is not None), default=0)


def _draw(
    label: Path | None, size: tuple[int, int], ids: Mapping[int, int], name: str, problems: Problems
) -> list[Thing]:
    if label is None:
        return []
    things: list[Thing] = []
    bad: list[tuple[str, ValueError]] = []
    for number, line in enumerate(decoded(label.read_bytes()).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            index, region = _shape(line.split(), size)
            if index not in ids:
                raise ValueError(f"expected a class out of {brief(sorted(ids))}, got {index}")
            things.append(drawn(ids[index], region))
        except ValueError as error:
            bad.append((f"{label}, line {number}", error))
    problems.settle(bad, name, is_any_left=bool(things))
    return things


def _shape(words: Sequence[str], size: tuple[int, int]) -> tuple[int, Region]:
    """Return a line's class and what it covers: a box of four values, or a polygon; one value more is a confidence."""
    try:
        index, *values = (float(word) for word in words)
    except ValueError:
        raise ValueError(f"expected a class and the corners of a polygon, got {brief(' '.join(words))}") from None
    if not all(map(is_number, (index, *values))) or index != int(index) or index < 0:
        raise ValueError(f"expected a class and finite numbers, got {brief(' '.join(words))}")
    if len(values) % 2:
        values = values[:-1]
    if len(values) < _BOX:
        raise ValueError(f"expected a polygon of at least 3 points, got {len(values) // 2}")
    pairs: Points = np.array(values, np.float64).reshape(-1, 2)
    low, high = float(pairs.min()), float(pairs.max())
    if low < -_OUTSIDE or high > 1 + _OUTSIDE:
        raise ValueError(f"expected corners as shares of the image, 0..1, got {low:g}..{high:g}")
    corners = pairs * (size[1], size[0])
    if len(values) > _BOX:
        return int(index), polygon(corners, size)
    (x, y), (width, height) = corners
    return int(index), rectangle((x - width / 2, y - height / 2), (x + width / 2, y + height / 2), size)


# -------------------------------------------------------------------------------------------------- out


@contextmanager
def _write(out: Path, categories: Categories) -> Iterator[Add]:
    index = {i: k for k, i in enumerate(categories.ids)}

    def add(result: Result) -> None:
        with whole_file(place_of(out, "labels" / result.name.with_suffix(".txt"))) as stream:
            for thing in result.things:
                if not thing.is_ignored:
                    stream.write(f"{index[thing.category]} {_shares(thing, result.size)}\n".encode())
        link_image(out, "images" / result.name, result.image)

    folder_below(out, "labels")
    yield add
    with whole_file(out / "data.yaml") as stream:
        stream.write(_data_yaml(categories).encode())


def _shares(thing: Thing, size: tuple[int, int]) -> str:
    """List the corners of a thing's one ring as shares of the image's sides, exact to a hundredth of a pixel."""
    ring = one_ring(thing.selected) + np.array([thing.left, thing.top])
    digits = max(_DIGITS, 2 + math.ceil(math.log10(max(size))))
    columns = [
        [f"{share:.{digits}f}".rstrip("0").rstrip(".") for share in (ring[:, axis] / size[1 - axis]).tolist()]
        for axis in (0, 1)
    ]
    return " ".join(f"{x} {y}" for x, y in zip(*columns, strict=True))


def _data_yaml(categories: Categories) -> str:
    import yaml

    document = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(categories.names.values()))}
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return "# In images/ are links to the images; where there are none, put the images there.\n" + text


FORMAT: Final = Format(
    "yolo",
    "YOLO segmentation: data.yaml or classes.txt, images/ and labels/*.txt",
    _recognises,
    _read,
    _write,
    by_name=True,
)
