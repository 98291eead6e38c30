"""Label files of the benchmarks as they are: ids in grey or indexed PNGs, classes of COCO's JSON, lists in pickles.

A benchmark says what its numbers mean, so nothing is guessed here as `read_mask` must. Refuses to know episodes.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from incontext.annotations import coco
from incontext.annotations.core import Labelled, Source
from incontext.images.ids import Pixels
from incontext.images.read import open_image

# NumPy's numbers and the containers that lists of names may be pickled in: none of them runs what a file says.
_HARMLESS: Final = {
    *((home, name) for home in ("numpy.core.multiarray", "numpy._core.multiarray") for name in ("scalar",)),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "defaultdict"),
    ("collections", "OrderedDict"),
    ("builtins", "list"),
    ("__builtin__", "list"),
}


def read_labels(path: Path) -> Pixels:
    """Read the numbers of an indexed or grey label file as they are, (H, W) uint8.

    Raises:
        FileNotFoundError, or ValueError: It is of another kind.
    """
    image, name = open_image(path, "label file")
    if image.mode not in {"P", "L", "1"}:
        raise ValueError(f"{name}: expected an indexed or an 8-bit grey label file, got mode {image.mode}")
    return np.array(image).astype(np.uint8)


def read_brightness(path: Path) -> Pixels:
    """Read the brightness of an image, as Pillow makes grey of colours, (H, W) uint8."""
    return np.array(open_image(path, "mask")[0].convert("L"))


class ClassesOfCoco:
    """The classes in the images of an instances_*.json: which are where, and their pixels.

    A class's mask is the union of all of its objects and crowds, whatever lies on top. classes: ids from 1 in the order
    of COCO's own -> names.
    """

    def __init__(self, path: Path) -> None:
        self._path, source = path, Source(path)
        labels = coco.read(source)
        self._images: dict[str, Labelled] = {each.name.stem: each for each in labels}
        order = {i: number for number, i in enumerate(labels.categories.ids, start=1)}
        self.classes: dict[int, str] = {order[i]: labels.categories.names[i] for i in labels.categories.ids}
        self._order: Mapping[int, int] = order
        self.stems: dict[int, list[str]] = _stems(source.document, order)

    def mask(self, i: int, stem: str) -> npt.NDArray[np.bool_]:
        """Find where a class is in an image, (H, W) bool.

        Raises:
            ValueError: The file does not know the image.
        """
        if stem not in self._images:
            raise ValueError(f"{self._path}: expected annotations of {stem}, which a list names; got none")
        image = self._images[stem]
        found = np.zeros(image.size, np.bool_)
        for thing in image.draw():
            if self._order[thing.category] == i:
                thing.seen_in(found)[thing.selected] = True
        return found


def _stems(document: Any, order: Mapping[int, int]) -> dict[int, list[str]]:
    """List the stems of the images that show each class, sorted."""
    names = {entry["id"]: Path(entry["file_name"]).stem for entry in document["images"]}
    found: dict[int, set[str]] = {number: set() for number in order.values()}
    for annotation in document["annotations"]:
        found[order[annotation["category_id"]]].add(names[annotation["image_id"]])
    return {number: sorted(stems) for number, stems in found.items()}


def unpickled_lists(path: Path) -> dict[int, list[str]]:
    """Read a pickled {class: [name, ...]}, without running anything that it says.

    Raises:
        ValueError: It is anything else.
    """
    try:
        with path.open("rb") as stream:
            content = _Plain(stream).load()
        return {int(i): [_text(name) for name in names] for i, names in content.items()}
    except (pickle.UnpicklingError, AttributeError, EOFError, TypeError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{path}: expected pickled lists of names by class, got something else ({error})") from None


def _text(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError(f"expected a name, got {name!r:.50}")
    return str(name)


class _Plain(pickle.Unpickler):
    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which lists of names do not need")
        return super().find_class(module, name)
