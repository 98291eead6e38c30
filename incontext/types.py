"""The values that users hold: Prompt, Palette, Segmentation. Frozen, validated when made, numpy inside.

Refuses to know tensors, models and devices. Colours never leave a Palette except as pixels.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from incontext.images import outlines, rle
from incontext.images.ids import IGNORED, Pixels, check_ids, ids_in
from incontext.images.masks import read_mask
from incontext.images.read import ImageLike, read_colors, read_image
from incontext.images.resize import resized, resized_mask, shrunk_size
from incontext.images.write import encode_image, encode_mask, write_mask

if TYPE_CHECKING:
    import supervision  # type: ignore[import-not-found, unused-ignore]

IGNORED_COLOR = (224, 224, 192)  # what the VOC devkit shows "ignored" in

_SHOWN_SIDE = 640  # pixels, of what a notebook draws
_PIXELS_AT_ONCE = 1_000_000  # blended at a time, for which numpy needs some 20 bytes each


def _read_only(array: npt.NDArray[Any], source: object) -> Any:
    """Make an array read-only; a copy first where it shares memory with what the caller may still write to."""
    if isinstance(source, np.ndarray) and source.flags.writeable and np.may_share_memory(array, source):
        array = array.copy()
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False, repr=False)
class Palette:
    """Ids and their colours, to paint masks for the network and for people.

    Attributes:
        ids: (K+1,) uint8, distinct, the first 0.
        colors: (K+1, 3) uint8 RGB, distinct, the first black.
    """

    ids: Pixels
    colors: Pixels

    def __post_init__(self) -> None:
        ids, colors = np.asarray(self.ids), np.asarray(self.colors)
        if ids.ndim != 1 or colors.shape != (len(ids), 3):
            raise ValueError(f"expected ids (K+1,) and colors (K+1, 3), got {ids.shape} and {colors.shape}")
        if (
            ids.dtype.kind not in "ui"
            or colors.dtype.kind not in "ui"
            or colors.min(initial=0) < 0
            or colors.max(initial=0) > 255
        ):
            raise ValueError(f"expected integer ids, and colors in 0..255, got {ids.dtype} and {colors.dtype}")
        if len(ids) == 0 or ids[0] != 0 or colors[0].any():
            raise ValueError(
                "expected row 0 of the palette to be id 0 in black, got something else; put the background first"
            )
        if ids.min() < 0 or ids.max() >= IGNORED or len(np.unique(ids)) < len(ids):
            raise ValueError(f"expected distinct ids in 0..254, got {ids.tolist()}")
        if len(np.unique(colors, axis=0)) < len(colors):
            raise ValueError("expected a colour of its own for each id, got one colour twice")
        object.__setattr__(self, "ids", _read_only(ids.astype(np.uint8), self.ids))
        object.__setattr__(self, "colors", _read_only(colors.astype(np.uint8), self.colors))

    @classmethod
    def spread(cls, ids: Iterable[int]) -> Self:
        """Choose colours far from black and from each other for these ids.

        They are always the same: the smallest id is white, the next red, green, blue, yellow, magenta, cyan, then finer
        grids
        of the colour cube, each time the point farthest from those taken.

        Args:
            ids: 1..254, in any order.

        Raises:
            ValueError: There are more than 254 ids.
        """
        rows = np.array(sorted({int(i) for i in ids} - {0}), np.int64)
        if len(rows) >= IGNORED:
            raise ValueError(f"expected at most 254 ids, got {len(rows)}")
        return cls(np.concatenate([[0], rows]), np.concatenate([[(0, 0, 0)], _far_colors(254)[: len(rows)]]))

    def __repr__(self) -> str:
        rows = zip(self.ids[1:].tolist(), _hex(self.colors[1:]), strict=True)
        return f"Palette({_some([f'{i} {color}' for i, color in rows]) or 'no ids'})"

    def _repr_html_(self) -> str:
        """Show the colours with their ids: what notebooks show."""
        rows = zip(self.ids[1:].tolist(), _hex(self.colors[1:]), strict=True)
        box = "display:inline-block;width:1em;height:1em;margin:0 .4em 0 .8em;border:1px solid #888"
        return "".join(f'<span style="{box};background:{color}"></span>{i}' for i, color in rows) or "no ids"

    @property
    def table(self) -> Pixels:
        """(256, 3) uint8 for image files: row i is the colour of id i, 255 is a light grey, absent ids are black."""
        table = np.zeros((256, 3), np.uint8)
        table[self.ids] = self.colors
        table[IGNORED] = IGNORED_COLOR
        return table

    def paint(self, mask: npt.NDArray[Any]) -> Pixels:
        """Paint a mask.

        Args:
            mask: (H, W) ids; ignored pixels (255) become black.

        Returns:
            (H, W, 3) uint8 colours.

        Raises:
            ValueError: An id has no colour.
        """
        table = self.table
        table[IGNORED] = 0
        ids = check_ids(mask, "the mask")
        if missing := set(ids_in(ids)) - set(self.ids.tolist()):
            raise ValueError(f"expected ids of the palette {self.ids.tolist()}, got {sorted(missing)}")
        return table[ids]


@lru_cache
def _far_colors(count: int) -> Pixels:
    """Choose (count, 3) uint8 colours: each the grid point farthest from black and all before, coarse grids first."""
    first = np.array(
        [(255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)]
    )
    chosen = first
    for levels in (3, 5, 9):
        steps = np.rint(np.linspace(0, 255, levels)).astype(np.int64)
        grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
        taken = np.concatenate([[(0, 0, 0)], chosen])
        distance = ((grid[:, None] - taken[None]) ** 2).sum(axis=-1).min(axis=1)
        while distance.max() > 0 and len(chosen) < count:
            far = grid[np.argmax(distance)]
            chosen = np.concatenate([chosen, far[None]])
            distance = np.minimum(distance, ((grid - far) ** 2).sum(axis=-1))
    return chosen.astype(np.uint8)


@dataclass(frozen=True, eq=False, repr=False)
class Prompt:
    """One example: an image and the mask that shows what to segment in it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8 ids, 0 background, 255 ignored, of the image's size and with at least one id. Both are read
            by `read_image` and `read_mask`, an array of ids as it is.
        colors: (H, W, 3) uint8 to be painted as they are in place of the mask (`from_colors`), else None.
        palette: The colours that the mask came in, to show answers in, or None where it had none. `from_colors` always
            has one, and its answers are read with it.
        weight: How much it counts beside the other prompts of a context, above 0.
        names: What ids mean, as far as that is known; reports and exports of what is found by it say them.
    """

    image: Pixels
    mask: Pixels
    colors: Pixels | None = None
    palette: Palette | None = None
    weight: float = 1.0
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.weight < inf:
            raise ValueError(f"expected a weight above 0, got {self.weight}")
        names: dict[Any, Any] = dict(self.names)
        if not all(isinstance(i, int) and 0 < i < IGNORED and isinstance(name, str) for i, name in names.items()):
            raise ValueError(f"expected names, as text, of ids in 1..254, got {names!r:.200}")
        object.__setattr__(self, "names", names)
        image, file = read_image(self.image), read_mask(self.mask)
        mask = file.ids
        if mask.shape != image.shape[:2]:
            raise ValueError(
                f"expected a mask of the image's size {_size(image)}, got {_size(mask)}; resize one of them"
            )
        present = ids_in(mask)
        if not present:
            raise ValueError(_nothing_marked(mask))
        palette = self.palette if self.palette is not None else _palette_of(present, file.colors)
        if palette is not None and (missing := set(present) - set(palette.ids.tolist())):
            raise ValueError(f"expected a palette with colours for all ids of the mask, got none for {sorted(missing)}")
        if self.colors is not None:
            colors = read_colors(self.colors)
            if colors.shape != image.shape:
                raise ValueError(
                    f"expected colours of the image's size {_size(image)}, got {_size(colors)}; resize one of them"
                )
            if palette is None:
                raise ValueError("expected a palette to read the answers to raw colours with; use Prompt.from_colors")
            object.__setattr__(self, "colors", _read_only(colors, self.colors))
        object.__setattr__(self, "palette", palette)
        object.__setattr__(self, "image", _read_only(image, self.image))
        object.__setattr__(self, "mask", _read_only(mask, self.mask))

    @classmethod
    def open(cls, image_path: ImageLike, mask_path: ImageLike, *, snap: bool = False) -> Self:
        """Open a prompt from two files.

        Args:
            image_path: A path, a PIL image or an (H, W, 3) uint8 array.
            mask_path: A path, a PIL image or an (H, W) array of ids; `read_mask` says how files are read.
            snap: Snap stray colours of the mask to its main ones, however many there are.

        Raises:
            FileNotFoundError: One of them is not there.
            ValueError: One of them cannot be read, their sizes differ, or nothing is marked; the file is named.
        """
        image, file = read_image(image_path), read_mask(mask_path, snap=snap)
        try:
            return cls(image, file.ids, palette=_palette_of(ids_in(file.ids), file.colors))
        except ValueError as error:
            if isinstance(mask_path, str | os.PathLike):
                raise ValueError(f"{os.fspath(mask_path)}: {error}") from None
            raise

    @classmethod
    def from_colors(cls, image: ImageLike, colors: ImageLike) -> Self:
        """Make a raw colour prompt: colours are painted as they are, anti-aliasing kept, as the published code does.

        Args:
            image: A path, a PIL image or an (H, W, 3) uint8 array.
            colors: The same of the painted mask, of the image's size.

        Returns:
            A prompt whose `.mask` holds ids 1.. of the main colours (`read_mask` says which those are) and whose
                `.palette`
            holds their colours.
        """
        rgb = read_colors(colors)
        file = read_mask(rgb, snap=True)
        return cls(read_image(image), file.ids, rgb, _palette_of(ids_in(file.ids), file.colors))

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids in the mask, ascending, without 0 and 255."""
        return ids_in(self.mask)

    def __repr__(self) -> str:
        more = f", weight {self.weight:g}" if self.weight != 1 else ""
        return f"Prompt({_size(self.mask)}, {_shares(self.mask, self.names)}{more})"

    def _repr_png_(self) -> bytes:
        """Draw the image under its mask, as a PNG of at most 640 pixels a side: what notebooks show."""
        size = shrunk_size((self.mask.shape[0], self.mask.shape[1]), longest=_SHOWN_SIDE)
        palette = self.palette if self.palette is not None else Palette.spread(self.ids)
        mask = resized_mask(self.mask, size)
        shown = Segmentation(mask, np.ones(size, np.float32), palette)
        return encode_image(shown.overlay(resized(self.image, size)), name="prompt.png")


def _size(array: npt.NDArray[Any]) -> str:
    return f"{array.shape[1]} x {array.shape[0]} (width x height)"


def _shares(mask: Pixels, names: Mapping[int, str]) -> str:
    """Write how much of a mask each id has: ids 1 nucleus (12.5 %), 2 (3 %)."""
    counts = np.bincount(mask.ravel(), minlength=IGNORED + 1)
    called = {i: " ".join([str(i), *names.get(i, "").split()]) for i in ids_in(mask)}
    rows = [f"{name} ({100 * counts[i] / mask.size:.3g} %)" for i, name in called.items()]
    return f"id{'s' if len(rows) > 1 else ''} {_some(rows)}" if rows else "nothing found"


def _hex(colors: Pixels) -> list[str]:
    return ["#" + "".join(f"{value:02x}" for value in color) for color in colors.tolist()]


def _some(rows: list[str], most: int = 6) -> str:
    """Write the first of several, and how many more there are."""
    return ", ".join(rows[:most]) + (f" and {len(rows) - most} more" if len(rows) > most else "")


def _nothing_marked(mask: Pixels) -> str:
    what = "expected a mask that marks something (an id from 1 to 254), got "
    if not mask.any():
        return what + "background (0) everywhere: the mask is empty"
    if (mask == IGNORED).all():
        return what + "ignored (255) everywhere"
    return what + "only background (0) and ignored (255); if 255 marks the object, pass `mask > 0`"


def _palette_of(ids: tuple[int, ...], colors: Pixels | None) -> Palette | None:
    """Keep the file's colours of these ids; None where it had none or they cannot be told apart."""
    rows = [0, *ids]
    if colors is None:
        return None
    table = colors.copy()
    table[0] = 0
    return Palette(np.array(rows), table[rows]) if len(np.unique(table[rows], axis=0)) == len(rows) else None


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """What was found in a query, at the query's own size.

    Attributes:
        mask: (H, W) uint8 ids, those of the prompt.
        confidence: (H, W) float32 in 0..1, the colour margin.
        palette: The colours to show the ids in.
        presence: Of each id that was asked for, how likely it is in the query at all, 0..1; empty where the weights
            cannot tell. Ids that are too unlikely (`load(min_presence=)`) are not in the mask.
        names: What ids mean, as far as the prompts say it.
    """

    mask: Pixels
    confidence: npt.NDArray[np.float32]
    palette: Palette
    presence: Mapping[int, float] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mask, confidence = check_ids(self.mask, "the mask"), np.asarray(self.confidence)
        if confidence.shape != mask.shape or confidence.dtype.kind != "f":
            raise ValueError(
                f"expected a confidence of floats for the mask {mask.shape}, got {confidence.dtype} {confidence.shape}"
            )
        if not (confidence.min() >= 0 and confidence.max() <= 1):  # catches NaN as well
            raise ValueError(f"expected a confidence in 0..1, got {confidence.min()}..{confidence.max()}")
        if missing := set(ids_in(mask)) - set(self.palette.ids.tolist()):
            raise ValueError(f"expected a palette with colours for all ids of the mask, got none for {sorted(missing)}")
        object.__setattr__(self, "mask", _read_only(mask, self.mask))
        object.__setattr__(self, "confidence", _read_only(confidence.astype(np.float32, copy=False), self.confidence))

    def __repr__(self) -> str:
        sure = "" if self.is_empty else f", confidence {self.confidence[self.mask > 0].mean():.2f}"
        return f"Segmentation({_size(self.mask)}, {_shares(self.mask, self.names)}{sure})"

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the query."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids that were found, ascending."""
        return ids_in(self.mask)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found."""
        return not self.ids

    def overlay(self, image: ImageLike, alpha: float = 0.5) -> Pixels:
        """Lay the ids over the query, outlined in colour and black.

        Args:
            image: The query itself: a path, a PIL image or an (H, W, 3) uint8 array.
            alpha: Opacity of the ids, 0..1.

        Returns:
            (H, W, 3) uint8.

        Raises:
            ValueError: The image has another size, or alpha is outside of 0..1.
        """
        rgb = read_image(image)
        if rgb.shape[:2] != self.shape:
            raise ValueError(f"expected the query itself, {_size(self.mask)}, got an image of {_size(rgb)}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"expected alpha in 0..1, got {alpha}")
        paint, weight = self.palette.paint(self.mask), round(256 * alpha)
        inside, shown = ((self.mask > 0) & (self.mask < IGNORED))[..., None], np.empty_like(rgb)
        rows = max(1, _PIXELS_AT_ONCE // self.shape[1])
        for part in (np.s_[top : top + rows] for top in range(0, self.shape[0], rows)):
            blended = (rgb[part].astype(np.uint16) * (256 - weight) + paint[part].astype(np.uint16) * weight + 128) >> 8
            shown[part] = np.where(inside[part], blended.astype(np.uint8), rgb[part])
        reach = max(1, round(min(self.shape) / 400))
        edge = np.zeros(self.shape, np.bool_)
        for axis in (0, 1):
            ahead, behind = (np.s_[reach:], np.s_[:-reach]) if axis == 0 else (np.s_[:, reach:], np.s_[:, :-reach])
            differs = self.mask[ahead] != self.mask[behind]
            edge[ahead] |= differs
            edge[behind] |= differs
        shown[edge] = paint[edge]  # black on the background's side, so that white shows on snow
        return shown

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as an indexed PNG in the palette's colours; the file appears whole or not at all."""
        write_mask(path, self.mask, self.palette.table)

    def _repr_png_(self) -> bytes:
        """Draw the mask in the palette's colours, as a PNG of at most 640 pixels a side: what notebooks show."""
        size = shrunk_size(self.shape, longest=_SHOWN_SIDE)
        return encode_mask(resized_mask(self.mask, size), self.palette.table)

    def to_coco_rle(self) -> dict[int, dict[str, Any]]:
        """Encode each id as COCO's run lengths, as pycocotools reads them.

        Returns:
            id -> {"size": [H, W], "counts": str}.
        """
        return {i: rle.from_mask(self.mask == i) for i in self.ids}

    def to_polygons(self) -> dict[int, list[npt.NDArray[np.int32]]]:
        """Trace the exact outlines of each id.

        Returns:
            id -> rings (n, 2) int32 of (x, y); holes run the other way, see `incontext.images.outlines.rings`.
        """
        return {i: outlines.rings(self.mask == i) for i in self.ids}

    def to_supervision(self) -> "supervision.Detections":
        """Make one detection of each id: box, mask, id as class, its name if known, mean confidence.

        Raises:
            ImportError: The package supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError("expected supervision to be installed for this; run: pip install supervision") from None
        masks = np.stack([self.mask == i for i in self.ids]) if self.ids else np.zeros((0, *self.shape), np.bool_)
        boxes = [box(found) for found in masks]
        return supervision.Detections(
            xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            mask=masks,
            confidence=np.array([self.confidence[m].mean() for m in masks], np.float32),
            class_id=np.array(self.ids, np.int64),
            data={"class_name": np.array([self.names.get(i, str(i)) for i in self.ids])} if self.names else {},
        )


def box(found: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Find the left, top, right and bottom edge of the pixels of an (H, W) bool mask that is not all False."""
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
