"""Episodes: which images stand in the prompt and in the query, and which ids are asked for.

An episode is one prompt or several, and a query that shares ids with them. Semantic data, whose ids mean the same in
every image, gives images that share an id; region and instance data, whose ids mean nothing elsewhere, gives views
of one image (arXiv 2304.03284, section 3.1); the renderer gives images of one scene, or frames of one video. In
some episodes a half is a mosaic of several images (mix-context), as it is in a spatial ensemble; in some the query
does not show what the prompt asks for, and the answer is black. Most are plain: whole images, one id.

Everything is drawn from one generator per episode, so that episode number i of a seed is the same on every run, machine
and worker. This module refuses to know tensors, colours and the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from incontext.images.ids import IGNORED
from incontext.images.resize import cells, mosaic
from incontext.learning.augmentation import Augmentation, Box, Cut, bending, choose_box, degrade, empty_box, view
from incontext.learning.light import AS_IT_IS, Light, draw_light, lit
from incontext.training.scenes import render_clip, render_views
from incontext.training.sets import ImageSet

MIN_MARKED = 4  # pixels that a prompt's mask marks at least
MIN_CELL = 16  # pixels along the side of the smallest image of a mosaic
Grid = tuple[int, int]  # rows and columns of images; (1, 1): no mosaic
Way = Literal["by example", "by hints", "by hints alone", "without masks"]  # what tells the network what to paint
_MOSAICS: tuple[Grid, ...] = ((2, 2), (2, 2), (2, 2), (3, 3), (1, 2), (2, 1))


class Sight(NamedTuple):
    """A part of an image as an episode shows it."""

    image: np.ndarray  # (h, w, 3) uint8
    mask: np.ndarray  # (h, w) uint8
    # (h, w, 3) float32, where each pixel comes from: the number of the image in all sets, -1 for none; y and x in it,
    # in 0..1. None where nobody wants to know.
    origin: np.ndarray | None = None


@dataclass(frozen=True)
class Sampling:
    """How episodes are drawn. Shares are probabilities."""

    without_masks: float = 0.0  # episodes of which only the images are looked at, for a teacher
    by_hints_alone: float = 0.0  # of the others with one prompt: one image, of which hints say what to paint
    by_hints: float = 0.0  # ... and an example whose query's hints ask for something else than the example shows
    one_of_several: float = 0.6  # of those two: one of several things of a kind, which the hints tell apart
    rendered: float = 0.15  # episodes of rendered scenes, the rest from the folders
    moving: float = 0.2  # of those without mosaics: frames of one rendered video instead of separate images
    two_views: float = 0.15  # of the episodes from semantic folders: two views of one image instead of two images
    absent: float = 0.08  # episodes whose query shows none of the ids that the prompt asks for
    mosaic: float = 0.12  # episodes with a half of several images: the prompt half, the query half or both
    single_id: float = 0.85  # episodes that ask for one id; the others ask for up to max_ids
    max_ids: int = 6
    whole_images: float = 0.8  # episodes whose images are seen whole; others show parts of them
    cut: Cut = field(default_factory=lambda: Cut(whole=False))  # those parts
    augmentation: Augmentation = field(default_factory=Augmentation)
    set_balance: float = 0.35  # a set is drawn in proportion to (number of images) ** set_balance
    factors: tuple[tuple[str, float], ...] = ()  # ... times that of its name, 1 where none is given
    id_balance: float = 0.5  # and an id of it in proportion to (number of images that show it well) ** id_balance
    domains: tuple[tuple[str, ...], ...] = ()  # groups of names of sets: two that share none show nothing in common


@dataclass(frozen=True)
class DrawnEpisode:
    """N prompts and, last, a query. Ids are 1..count, 0 background, 255 ignored."""

    images: np.ndarray  # (N + 1, side, side, 3) uint8
    masks: np.ndarray  # (N + 1, side, side) uint8
    count: int
    lights: np.ndarray | None = (
        None  # (N + 1, 16) float32, in which the images are still to be seen (learning/light.py)
    )
    origins: np.ndarray | None = None  # (N + 1, side, side, 3) float32, where each pixel comes from
    way: Way = "by example"


class _Chooser:
    """Ids of a set and images that show them: rare ids are not starved, and what is too small to see is rare."""

    def __init__(self, source: ImageSet, sampling: Sampling, side: int) -> None:
        self.ids = list(source.by_id)
        self.images = [np.array(source.by_id[i]) for i in self.ids]
        self.small = sampling.cut.small / side**2
        seen = [self.visible(source.areas[images, i]) for i, images in zip(self.ids, self.images, strict=True)]
        self.cumulated = [np.cumsum(weights) for weights in seen]
        self.by_id = np.cumsum([weights[-1] ** sampling.id_balance for weights in self.cumulated])

    def visible(self, areas: np.ndarray) -> np.ndarray:
        """Tell how well things of these areas are seen, 0.1 .. 1."""
        return np.clip(areas / self.small, 0.1, 1.0)

    def focus(self, rng: np.random.Generator) -> int:
        return self.ids[_pick(self.by_id, rng)]

    def showing(self, focus: int, count: int, rng: np.random.Generator) -> list[int]:
        """Choose ``count`` images that show an id; the same one twice only where others are hard to come by."""
        at = self.ids.index(focus)
        drawn: list[int] = []
        for _ in range(4 * count):
            number = int(self.images[at][_pick(self.cumulated[at], rng)])
            if number not in drawn and len(drawn) < count:
                drawn.append(number)
        return [drawn[k % len(drawn)] for k in range(count)]


class EpisodeSource:
    """Episode number i of a seed, from sets of images and from the renderer."""

    def __init__(
        self,
        sets: Sequence[ImageSet],
        sampling: Sampling,
        *,
        side: int,
        seed: int,
        unlit: bool = False,
        traced: bool = False,
    ) -> None:
        """Take the sets to draw from.

        Args:
            sets: of images; those that show nothing serve episodes without masks alone.
            sampling: how episodes are drawn.
            side: pixels along the side of a prompt or query.
            seed: of all episodes.
            unlit: episodes carry the light in which their images are to be seen, for whoever lights many at once.
            traced: episodes carry where each of their pixels comes from.
        """
        self.unlit = unlit
        self.traced = traced
        self.everything = tuple(sets)
        before = np.cumsum([0, *(len(each.images) for each in sets)]).tolist()
        self.sets = tuple(each for each in sets if each.by_id)  # what shows nothing can ask for nothing
        self.first_of = {id(each): first for each, first in zip(sets, before, strict=False)}
        self.all_cumulated = np.cumsum([len(each.images) ** sampling.set_balance for each in sets])
        self.sampling = sampling
        self.side = side
        self.seed = seed
        factors = dict(sampling.factors)
        self.cumulated = np.cumsum(
            [len(each.images) ** sampling.set_balance * factors.get(each.name, 1.0) for each in self.sets]
        )
        self.choosers = [_Chooser(each, sampling, side) for each in self.sets]
        self.grids = [grid for grid in _MOSAICS if side // max(grid) >= MIN_CELL]
        groups = [{n for n, names in enumerate(sampling.domains) if each.name in names} for each in self.sets]
        self.foreign = [[j for j, b in enumerate(groups) if a and b and not a & b] for a in groups]

    def __getitem__(self, index: int) -> DrawnEpisode:
        return self.draw(index)

    def draw(self, index: int, shots: int = 1) -> DrawnEpisode:
        """Draw episode number ``index`` with so many prompts."""
        rng = np.random.default_rng([self.seed, index])
        for _ in range(4):
            episode = self._draw(rng, shots)
            if episode.way == "without masks":
                break
            marked = (episode.masks[:-1] > 0) & (episode.masks[:-1] != IGNORED)
            if marked.sum(axis=(1, 2)).min() >= MIN_MARKED:
                break  # otherwise a prompt asks for nothing that can be seen
        return episode

    def _draw(self, rng: np.random.Generator, shots: int) -> DrawnEpisode:
        some = self.sampling
        if self.everything and rng.random() < some.without_masks:
            return self._without_masks(rng, shots)
        way = rng.random() if self.sets and shots == 1 else 1.0
        if way < some.by_hints_alone + some.by_hints:
            return self._by_hints(rng, alone=way < some.by_hints_alone)
        prompt, query = self._grids(rng)
        grids = (*[prompt] * shots, query)
        absent = bool(rng.random() < self.sampling.absent)
        if not self.sets or rng.random() < self.sampling.rendered:
            return self._rendered(rng, grids, absent)
        return self._drawn(rng, _pick(self.cumulated, rng), grids, absent)

    def _grids(self, rng: np.random.Generator) -> tuple[Grid, Grid]:
        """Draw how many images stand in the prompt half and in the query half."""
        if not self.grids or rng.random() >= self.sampling.mosaic:
            return (1, 1), (1, 1)
        prompt, query = (self.grids[int(rng.integers(len(self.grids)))] for _ in range(2))
        way = rng.random()
        return (prompt if way < 0.8 else (1, 1)), (query if way > 0.6 else (1, 1))

    # --- from the renderer

    def _rendered(self, rng: np.random.Generator, grids: Sequence[Grid], absent: bool) -> DrawnEpisode:
        counts = [_filled(grid, rng) for grid in grids]
        sides = [max(MIN_CELL, *self._cell(g)) for g, count in zip(grids, counts, strict=True) for _ in range(count)]
        queries = range(sum(counts[:-1]), len(sides))
        without = queries if absent else queries[: int(rng.random() < 0.1)]
        if max(counts) == 1 and rng.random() < self.sampling.moving:
            views = list(render_clip(rng, (self.side, self.side), len(sides), every=int(rng.integers(1, 30))))
        else:
            views = render_views(rng, sides, without=without)
        halves = _split([Sight(*each) for each in views], counts)
        shown = np.unique([i for half in halves[:-1] for each in half for i in np.unique(each.mask) if i])
        found = np.unique([i for each in halves[-1] for i in np.unique(each.mask) if i])
        asked = np.setdiff1d(shown, found) if absent else shown
        if absent and not len(asked):  # nothing is gone: the query comes from another scene
            asked, halves[-1] = shown, self._strangers(rng, grids[-1], counts[-1])
        ids = self._choose_ids(rng, asked.tolist()) or [1]
        masked = [[_asking(each, ids) for each in half] for half in halves]
        return self._episode(rng, masked, grids, len(ids))

    def _strangers(self, rng: np.random.Generator, grid: Grid, count: int) -> list[Sight]:
        """Render images of which nothing is asked."""
        views = render_views(rng, [max(MIN_CELL, *self._cell(grid))] * count)
        return [Sight(image, np.zeros_like(mask)) for image, mask in views]

    # --- from folders

    def _drawn(self, rng: np.random.Generator, which: int, grids: Sequence[Grid], absent: bool) -> DrawnEpisode:
        source, chooser, some = self.sets[which], self.choosers[which], self.sampling
        counts = [_filled(grid, rng) for grid in grids]
        two_views = source.regions or (not absent and rng.random() < some.two_views)
        if source.regions:
            first, focus = self._region(rng, source, chooser)
        else:
            focus = chooser.focus(rng)
            first = chooser.showing(focus, 1, rng)[0]
        drawn = [first] * sum(counts) if two_views else chooser.showing(focus, sum(counts), rng)
        prompts, queries = drawn[: -counts[-1]], drawn[-counts[-1] :]
        lacking = () if two_views else source.without[focus]
        others: list[Sight] | None = None
        shown = sorted({i for number in prompts for i in source.ids[number]} - {focus})
        if absent and len(lacking) and rng.random() < 0.5:
            queries = [int(number) for number in rng.choice(lacking, counts[-1])]
            shown = [i for i in shown if not source.areas[queries, i].any()]
        elif absent:
            beside = [] if source.regions else self._beside(rng, source, queries, focus, grids[-1])
            others, shown = (beside, []) if beside else (self._elsewhere(rng, which, grids[-1], counts[-1]), shown)
        elif counts[-1] > 1 and len(lacking) and rng.random() < 0.5:
            queries[-1] = int(rng.choice(lacking))  # a mosaic of which one image does not show it
        ids = self._choose_ids(rng, shown, first=focus)
        cut = replace(some.cut, whole=bool(rng.random() < some.whole_images))
        seen = [self._seen(rng, source, n, focus, grids[0], cut, two_views and k > 0) for k, n in enumerate(prompts)]
        halves = _split([_asking(each, ids) for each in seen], counts[:-1])
        if others is None:
            seen = [self._seen(rng, source, n, focus, grids[-1], cut, two_views) for n in queries]
            halves.append([_asking(each, ids) for each in seen])
            if two_views and grids[0] == grids[-1] and rng.random() < 0.5:
                halves.reverse()
        else:
            halves.append(others)
        return self._episode(rng, halves, grids, len(ids))

    def _region(self, rng: np.random.Generator, source: ImageSet, chooser: _Chooser) -> tuple[int, int]:
        """Choose an image of a set of regions, and a region of it."""
        number = int(rng.integers(len(source.images)))
        while not source.ids[number]:
            number = int(rng.integers(len(source.images)))
        ids = source.ids[number]
        return number, ids[_pick(np.cumsum(chooser.visible(source.areas[number, list(ids)])), rng)]

    def _beside(
        self, rng: np.random.Generator, source: ImageSet, numbers: Sequence[int], focus: int, grid: Grid
    ) -> list[Sight]:
        """Draw parts of images beside the thing that they show, half of the time; nothing where all parts have it."""
        boxes = [empty_box(source.masks[number], (focus, IGNORED), rng) for number in numbers]
        if rng.random() < 0.5 or None in boxes:
            return []
        seen = [self._view(source, n, box, self._cell(grid)) for n, box in zip(numbers, boxes, strict=True)]
        return [each._replace(mask=np.zeros_like(each.mask)) for each in seen]

    def _elsewhere(self, rng: np.random.Generator, which: int, grid: Grid, count: int) -> list[Sight]:
        """Draw images that cannot show what a set asks for: of another domain, or rendered where there is none.

        Not rendered ones otherwise: that a drawing beside a photograph is without the thing would be all they teach.
        """
        if not self.foreign[which]:
            return self._strangers(rng, grid, count)
        other = self.sets[self.foreign[which][int(rng.integers(len(self.foreign[which])))]]
        numbers = [int(number) for number in rng.integers(len(other.images), size=count)]
        seen = [self._view(other, number, None, self._cell(grid)) for number in numbers]
        return [each._replace(mask=np.zeros_like(each.mask)) for each in seen]

    def _seen(
        self, rng: np.random.Generator, source: ImageSet, number: int, focus: int, grid: Grid, cut: Cut, again: bool
    ) -> Sight:
        """View an image.

        Args:
            rng: For what is drawn.
            source: The set.
            number: Of the image.
            focus: The id that is to be seen.
            grid: Of patches.
            cut: What parts may be.
            again: The episode shows the image already, so not as a whole, or the answer would be a copy of the mask;
                and
                perhaps mirrored.
        """
        height, width = self._cell(grid)
        cut = replace(cut, whole=False) if again else cut
        box = choose_box(source.masks[number], focus, rng, cut, pixels=height * width)
        seen = self._view(source, number, box, (height, width))
        return _moved(seen, lambda a: a[:, ::-1]) if again and rng.random() < 0.25 else seen

    def _view(self, source: ImageSet, number: int, box: Box | None, size: tuple[int, int]) -> Sight:
        """View a part of an image, all of it where there is no box, at (height, width)."""
        image, mask = view(source.images[number], source.masks[number], box, size)
        if not self.traced:
            return Sight(image, mask)
        return Sight(image, mask, origin_of(self.first_of[id(source)] + number, source.masks[number].shape, box, size))

    # --- for a teacher

    def _without_masks(self, rng: np.random.Generator, shots: int) -> DrawnEpisode:
        """Draw images of one set, or twice the same, of which nothing is asked."""
        source, some = self.everything[_pick(self.all_cumulated, rng)], self.sampling
        numbers = rng.integers(len(source.images), size=shots + 1).tolist()
        if rng.random() < 0.5:
            numbers = [numbers[0]] * (shots + 1)
        cut = replace(some.cut, whole=bool(rng.random() < some.whole_images))
        halves = []
        for at, number in enumerate(numbers):
            again = at > 0 and number == numbers[0]
            seen = self._seen(rng, source, number, IGNORED, (1, 1), cut, again)
            halves.append([seen._replace(mask=np.full_like(seen.mask, IGNORED))])
        episode = self._episode(rng, halves, [(1, 1)] * len(halves), 1)
        return replace(episode, way="without masks")

    # --- by hints

    def _by_hints(self, rng: np.random.Generator, *, alone: bool) -> DrawnEpisode:
        """Draw a query of which hints say what is asked, and an example that shows another thing, or the query."""
        some, grid = self.sampling, (1, 1)
        which = _pick(self.cumulated, rng)
        source, chooser = self.sets[which], self.choosers[which]
        if source.regions:
            number, focus = self._region(rng, source, chooser)
            first = number
        else:
            focus = chooser.focus(rng)
            first, number = chooser.showing(focus, 2, rng)
        cut = replace(some.cut, whole=bool(rng.random() < some.whole_images))
        query = self._seen(rng, source, number, focus, grid, cut, first == number and not alone)
        asked = self._pointed_at(rng, query.mask, focus, source.regions, other=not alone)
        count = max(1, int(asked[asked != IGNORED].max(initial=0)))
        if alone:
            episode = self._episode(rng, [[query._replace(mask=asked)]], [grid], count)
            twice = {
                name: None if value is None else np.concatenate([value, value])
                for name, value in (
                    ("images", episode.images),
                    ("masks", episode.masks),
                    ("lights", episode.lights),
                    ("origins", episode.origins),
                )
            }
            return replace(episode, way="by hints alone", **twice)  # type: ignore[arg-type]
        example = _asking(self._seen(rng, source, first, focus, grid, cut, False), [focus])
        halves = [[example], [query._replace(mask=asked)]]
        return replace(self._episode(rng, halves, [grid, grid], count), way="by hints")

    def _pointed_at(
        self, rng: np.random.Generator, mask: np.ndarray, focus: int, regions: bool, *, other: bool
    ) -> np.ndarray:
        """Choose what hints ask for: one or several things of a kind, or ``other`` kinds; ids 1 and up."""
        kinds = [int(i) for i in np.unique(mask) if i not in (0, IGNORED)]
        strange = [i for i in kinds if i != focus]
        kind = strange[int(rng.integers(len(strange)))] if other and strange and rng.random() < 0.7 else focus
        asked = np.where(mask == IGNORED, IGNORED, mask == kind).astype(np.uint8)
        if regions or rng.random() >= self.sampling.one_of_several:
            return asked
        parts, count = ndimage.label(asked == 1)
        large = [n for n in range(1, count + 1) if (parts == n).sum() >= MIN_MARKED]
        if len(large) > 1:
            taken = rng.permutation(large)[: 2 if rng.random() < 0.3 else 1]
            asked[asked == 1] = 0
            for at, part in enumerate(taken, start=1):
                asked[parts == part] = at
        return asked

    # --- for both

    def _choose_ids(self, rng: np.random.Generator, ids: Sequence[int], first: int | None = None) -> list[int]:
        """Choose the ids that an episode asks for, in random order; ``first`` is always among them."""
        head = [] if first is None else [first]
        most = self.sampling.max_ids - len(head)
        room = 1 - len(head) if rng.random() < self.sampling.single_id else int(rng.integers(1, most + 1))
        tail = [int(i) for i in rng.permutation(np.asarray(ids, dtype=np.int64))[:room]]
        return head + tail

    def _cell(self, grid: Grid) -> tuple[int, int]:
        """Find height and width of the largest cell of a mosaic."""
        return -(-self.side // grid[0]), -(-self.side // grid[1])

    def _episode(
        self, rng: np.random.Generator, halves: Sequence[Sequence[Sight]], grids: Sequence[Grid], count: int
    ) -> DrawnEpisode:
        """Change every image for itself, tile each half, and turn or mirror both."""
        some = self.sampling.augmentation
        turn = int(rng.integers(4)) if rng.random() < some.turn else 0
        mirror = bool(rng.random() < some.mirror)
        shown, lights = list[Sight](), list[Light]()
        for half, grid in zip(halves, grids, strict=True):
            changed, light = list[Sight](), AS_IT_IS
            for each in half:
                bent = _bent(each, rng, some) if rng.random() < some.bend else each
                image, drawn = degrade(bent.image, rng, some), draw_light(rng, some)
                if grid == (1, 1):
                    light = drawn
                else:  # in a mosaic each image has a light of its own
                    image = lit(image, drawn)
                changed.append(bent._replace(image=image))
            tiled = _moved(tile(changed, grid, self.side), lambda a: np.rot90(a[:, ::-1] if mirror else a, turn))
            shown.append(tiled if self.unlit else tiled._replace(image=lit(tiled.image, light)))
            lights.append(light)
        return DrawnEpisode(
            np.stack([each.image for each in shown]),
            np.stack([each.mask for each in shown]),
            count,
            np.stack(lights) if self.unlit else None,
            np.stack([self._traced(each) for each in shown]) if self.traced else None,
        )

    @staticmethod
    def _traced(sight: Sight) -> np.ndarray:
        """Trace where pixels come from; from no image where that is not known, as of what is rendered."""
        return np.full((*sight.mask.shape, 3), -1, np.float32) if sight.origin is None else sight.origin


def origin_of(number: int, shape: tuple[int, ...], box: Box | None, size: tuple[int, int]) -> np.ndarray:
    """Return where the pixels of a view come from: (h, w, 3) float32, see :class:`Sight`.

    Args:
        number: of the image.
        shape: its height and width.
        box: the part that the view shows, None for all of it.
        size: height and width of the view.
    """
    left, top, right, bottom = box or (0, 0, shape[1], shape[0])
    y = (top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]) / shape[0]
    x = (left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]) / shape[1]
    return np.stack(np.broadcast_arrays(np.float32(number), y[:, None], x[None]), axis=-1).astype(np.float32)


def _moved(sight: Sight, move: Callable[[np.ndarray], np.ndarray]) -> Sight:
    """Move all pixels of a sight alike."""
    return Sight(*(None if each is None else move(each) for each in sight))  # type: ignore[arg-type]


def _asking(sight: Sight, ids: Sequence[int]) -> Sight:
    """Give the ids that are asked for the numbers 1..K."""
    return sight._replace(mask=relabel(sight.mask, ids))


def _bent(sight: Sight, rng: np.random.Generator, changes: Augmentation) -> Sight:
    """Rotate, shear and scale a sight a little."""
    bend = bending(sight.mask.shape, rng, changes)
    origin = sight.origin
    if origin is not None:
        places = [bend(np.ascontiguousarray(origin[..., axis]), Image.Resampling.BILINEAR) for axis in (1, 2)]
        origin = np.stack([origin[..., 0], *places], axis=-1)
    nearest = Image.Resampling.NEAREST
    return Sight(bend(sight.image, Image.Resampling.BILINEAR), bend(sight.mask, nearest), origin)


def tile(images: Sequence[Sight], grid: Grid, side: int) -> Sight:
    """Tile images side by side in a square, row by row; where there are fewer than cells, they repeat."""
    if grid == (1, 1) and images[0].mask.shape == (side, side):
        return images[0]
    image, mask = mosaic([(each.image, each.mask) for each in images], grid, side, cut=1)
    if all(each.origin is None for each in images):
        return Sight(image, mask)
    origin = np.full((side, side, 3), -1, np.float32)
    for number, at in enumerate(cells(grid, side)):
        places, size = images[number % len(images)].origin, mask[at].shape
        if places is None:
            continue
        if any(old - new not in (0, 1) for old, new in zip(places.shape, size, strict=False)):
            rows, columns = (np.arange(new) * old // new for new, old in zip(size, places.shape, strict=False))
            places = places[np.ix_(rows, columns)]
        origin[at] = places[: size[0], : size[1]]
    return Sight(image, mask, origin)


def relabel(mask: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Make the ids asked for 1..K in their order, every other one background; 255 stays ignored."""
    table = np.zeros(256, dtype=np.uint8)
    table[list(ids)] = np.arange(1, len(ids) + 1)
    table[IGNORED] = IGNORED
    relabelled: np.ndarray = table[mask]
    return relabelled


def _pick(cumulated: np.ndarray, rng: np.random.Generator) -> int:
    """Draw an index, in proportion to the weights of which ``cumulated`` is the running sum."""
    return int(np.searchsorted(cumulated, rng.random() * cumulated[-1], side="right"))


def _split(images: Sequence[Sight], counts: Sequence[int]) -> list[list[Sight]]:
    """Split images into as many for each half as are counted."""
    ends = np.cumsum(counts).tolist()
    return [list(images[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def _filled(grid: Grid, rng: np.random.Generator) -> int:
    """Count how many different images a mosaic shows: all of its cells, or fewer, which repeat."""
    cells = grid[0] * grid[1]
    return cells if cells < 4 or rng.random() < 0.5 else int(rng.integers(2, cells + 1))
