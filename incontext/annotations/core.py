"""What every annotation format is turned into, and made of: images, the things in them, and the names of ids.

A format is a module with a `FORMAT`: how to tell it (`recognises`), how to read it (`read`) and how to write it
(`write`), each of them None where there is no such thing. known.py lists them all. Refuses to know any of them, and
prompts, the network and the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from incontext.annotations.values import EncodingError, glimpse_json, read_json
from incontext.images.ids import IGNORED, MOST_IDS, Color, Pixels
from incontext.images.names import natural_order
from incontext.images.read import read_image
from incontext.types import Palette, box

Flags: TypeAlias = npt.NDArray[np.bool_]
Meaning = Literal["semantic", "instances"]
"""What the ids of a mask stand for: one for each category, or one for each thing, counted from 1 in painting order."""


# ---------------------------------------------------------------------------------------- ids and names


@dataclass(frozen=True)
class Categories:
    """What ids mean: names, id (1..254) -> name; colors, id -> (R, G, B) 0..255, for as many as have one."""

    names: Mapping[int, str]
    colors: Mapping[int, Color] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if outside := [i for i in self.names if not 0 < i <= MOST_IDS]:
            raise ValueError(f"expected categories with ids in 1..254, got {sorted(outside)}; number them anew")
        for attribute in ("names", "colors"):
            ordered = dict(sorted(getattr(self, attribute).items()))
            object.__setattr__(self, attribute, MappingProxyType(ordered))

    @classmethod
    def listed(cls, names: Iterable[str], colors: Sequence[Color] = ()) -> Self:
        """Categories of formats that list names without ids: counted from 1 in this order.

        Where all names are different numbers in 1..254, they are the ids, so that what was written without names comes
        back as it was.
        """
        listed = list(names)
        if len(listed) > MOST_IDS:
            raise ValueError(f"expected at most 254 categories, got {len(listed)}; leave some out")
        numbers = [int(name) for name in listed if re.fullmatch(r"[1-9][0-9]{0,2}", name)]
        counted = len(numbers) == len(listed) == len(set(numbers)) and max(numbers, default=0) <= MOST_IDS
        ids = numbers if counted else range(1, len(listed) + 1)
        return cls(dict(zip(ids, listed, strict=True)), dict(zip(ids, colors, strict=False)))

    @classmethod
    def plain(cls, ids: Iterable[int], names: Mapping[int, str] | None = None) -> Self:
        """Categories of these ids; one without a name is called by its number."""
        return cls({i: (names or {}).get(i, str(i)) for i in ids})

    @property
    def ids(self) -> tuple[int, ...]:
        """Ascending."""
        return tuple(self.names)

    @cached_property
    def palette(self) -> Palette:
        """A colour for each id: its own where all ids have different ones that are not black, else spread ones."""
        own = [self.colors.get(i, (0, 0, 0)) for i in self.ids]
        if len({(0, 0, 0), *own}) == len(own) + 1:
            return Palette(np.array([0, *self.ids]), np.array([(0, 0, 0), *own]))
        return Palette.spread(self.ids)


# --------------------------------------------------------------------------------------------- things


@dataclass(frozen=True, eq=False)
class Thing:
    """An object, or all of a kind, in an image; made by :meth:`cut`.

    Attributes:
        category: Its id (0 where it is ignored).
        selected: (h, w) bool, its pixels inside of its box, whose upper left pixel is (top, left) of the image.
        confidence: 0..1, or None where nobody said.
        is_ignored: Painted as 255.
    """

    category: int
    selected: Flags
    top: int
    left: int
    confidence: float | None = None
    is_ignored: bool = False

    @classmethod
    def cut(
        cls,
        category: int,
        selected: Flags,
        *,
        top: int = 0,
        left: int = 0,
        confidence: float | None = None,
        is_ignored: bool = False,
    ) -> Self | None:
        """Return the thing that covers these pixels, (h, w) bool from (top, left) on, cut down to its box.

        Without a pixel it is None.
        """
        if not selected.any():
            return None
        x0, y0, x1, y1 = box(selected)
        return cls(category, selected[y0:y1, x0:x1], top + y0, left + x0, confidence, is_ignored)

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.selected))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height, in pixels."""
        height, width = self.selected.shape
        return self.left, self.top, width, height

    def whole(self, size: tuple[int, int]) -> Flags:
        """(H, W) bool: its pixels in an image of that size."""
        selected = np.zeros(size, np.bool_)
        self.seen_in(selected)[...] = self.selected
        return selected

    def seen_in(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the part of an (H, W, ...) array inside of its box: a view."""
        height, width = self.selected.shape
        return image[self.top : self.top + height, self.left : self.left + width]


def paint(things: Sequence[Thing], size: tuple[int, int], meaning: Meaning = "semantic") -> Pixels:
    """Things -> (H, W) uint8 ids, later things over earlier ones, 255 where they are ignored.

    "semantic": the ids are those of the categories; "instances": those that are not ignored are counted from 1, and
    more than 254 of them are a ValueError.
    """
    mask = np.zeros(size, np.uint8)
    number = 0
    for thing in things:
        number += not thing.is_ignored
        if meaning == "instances" and number > MOST_IDS:
            raise ValueError("expected at most 254 objects in an image with an id each; read it as semantic")
        value = IGNORED if thing.is_ignored else thing.category if meaning == "semantic" else number
        thing.seen_in(mask)[thing.selected] = value
    return mask


def things_of(mask: Pixels, confidences: Mapping[int, float] | None = None) -> list[Thing]:
    """Turn a mask (H, W) of ids into a thing for each id, ascending, and last what is ignored."""
    counts = Image.fromarray(mask).histogram()  # np.bincount would copy the mask to 64 bits a pixel
    things = []
    for i in (i for i, count in enumerate(counts) if i and count):
        ignored = i == IGNORED
        thing = Thing.cut(0 if ignored else i, mask == i, confidence=(confidences or {}).get(i), is_ignored=ignored)
        things += [thing] if thing is not None else []
    return things


# ------------------------------------------------------------------------------------------------- in


@dataclass(frozen=True, eq=False)
class Labelled:
    """An image with its labels, as they are in `file`.

    Nothing is decoded before it is asked for.

    Attributes:
        name: The image's path, from the folder that all images lie in, with its suffix; never leads out of a
            folder.
        size: (H, W).
        draw: Its things in painting order; ValueError in a sentence where they are broken.
        image: Where the image lies, None where there is no such file.
        embedded: Reads an image that is part of the annotation file.
    """

    name: PurePosixPath
    size: tuple[int, int]
    file: Path
    draw: Callable[[], Sequence[Thing]]
    image: Path | None = None
    embedded: Callable[[], Pixels] | None = None

    def mask(self, meaning: Meaning = "semantic") -> Pixels:
        """(H, W) uint8: 0 background, 1..254, 255 ignored."""
        return paint(self.draw(), self.size, meaning)

    def read_image(self) -> Pixels:
        """(H, W, 3) uint8 RGB.

        Raises:
            FileNotFoundError or ValueError: There is none, or it cannot be read.
        """
        if self.embedded is not None:
            return self.embedded()
        if self.image is None:
            raise FileNotFoundError(f"{self.file}: names the image {self.name}, and there is no such file")
        return read_image(self.image)


class Collected(Protocol):
    """Images that can be counted, and gone through more than once."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Labelled]: ...


@dataclass(frozen=True, eq=False)
class Labels:
    """The labelled images of an annotation file or folder, in its own order.

    problems: what had to be left out of it, as far as it is known by now, a sentence each, with the name of the file.
    """

    path: Path
    format: str
    images: Collected
    categories: Categories
    problems: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Labelled]:
        return iter(self.images)


class Source:
    """What lies at a path, looked at once, so that many formats can be tried on it."""

    def __init__(self, path: Path, *, images: Path | None = None) -> None:
        """images: the folder that the images lie in, where they lie elsewhere than the format says."""
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such file or folder")
        if not (path.is_dir() or path.is_file()):
            raise ValueError(f"{path}: expected a file or a folder, got something else, such as a pipe")
        self.path, self.images, self.is_folder = path, images, path.is_dir()

    @cached_property
    def document(self) -> Any:
        """What a .json file holds, None for any other file or a folder.

        Raises:
            ValueError: It is broken.
        """
        if self.is_folder or self.path.suffix.lower() != ".json":
            return None
        return read_json(self.path)

    @cached_property
    def glimpse(self) -> Any:
        """The same, to tell formats by: names in it may be spelled wrongly where its encoding is not known."""
        try:
            return self.document
        except EncodingError:
            return glimpse_json(self.path)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """What lies in a folder, hidden things left out, in natural order; nothing for a file."""
        if not self.is_folder:
            return ()
        return tuple(sorted((p for p in self.path.iterdir() if p.name[0] != "."), key=natural_order))

    def has_keys(self, *keys: str) -> bool:
        """Whether it is a JSON file of an object with all of these keys."""
        return isinstance(self.glimpse, dict) and all(key in self.glimpse for key in keys)


@dataclass(frozen=True)
class Format:
    """An annotation format.

    Attributes:
        name: As in --format and --to.
        about: A few words for people.
        recognises: Whether a source is of this format, a file or a folder; cheap, raises nothing but ValueError for a
            file that is broken.
        read: Makes Labels of such a source; ValueError only where nothing at all can be used.
        write: A context manager that gives `add`, to be called with one Result after another. Everything is in the
            folder `out`, which exists, when it ends well; nothing half-written is left when it raises. A result that
            the format cannot hold is a ValueError of `add`, before anything of it is written. Memory does not grow with
            the number of results.
        by_name: An image gets a file called after it, so two of them must differ in more than their suffixes.
    """

    name: str
    about: str
    recognises: Callable[[Source], bool] | None = None
    read: Callable[[Source], Labels] | None = None
    write: Callable[[Path, Categories], AbstractContextManager[Add]] | None = None
    by_name: bool = False


# ------------------------------------------------------------------------------------------------- out


@dataclass(frozen=True, eq=False)
class Result:
    """An image and what was found in it, to be written.

    Attributes:
        name: The image's path, as in `Labelled`, with its suffix.
        mask: (H, W) uint8 ids of categories, 255 ignored.
        things: Its objects in painting order, ignored ones among them.
        image: Where the image lies, if that is known.
    """

    name: PurePosixPath
    mask: Pixels
    things: Sequence[Thing]
    image: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.mask.shape[0], self.mask.shape[1]


Add: TypeAlias = Callable[[Result], None]
