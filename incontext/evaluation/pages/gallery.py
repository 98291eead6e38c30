"""Images of episodes, so that one sees what a score looks like: the best, the median and the worst of each set.

Answers are asked for again, because records keep counts only. Refuses to know pages and tables.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from incontext.evaluation.few_shot.episodes import Episode, EpisodeSet
from incontext.evaluation.few_shot.images import EpisodeImages, ImageSource
from incontext.evaluation.few_shot.scores import FewShotReport
from incontext.evaluation.few_shot.scoring import Method, read_answer
from incontext.images.ids import IGNORED, Pixels
from incontext.images.resize import resized_mask, shrunk, shrunk_size
from incontext.types import Palette, Segmentation

LONGER_SIDE = 240  # pixels of an image
_TINT = (255, 122, 0)
_OUTLINE = (0, 220, 255)
_UNSCORED = (128, 128, 128)
_QUALITY = 82

Flags = npt.NDArray[np.bool_]
_Kind = TypeVar("_Kind", np.bool_, np.uint8)


@dataclass(frozen=True)
class Shown:
    """An episode in images, each a JPEG file's bytes or None where there is none.

    Attributes:
        score: What ranks it, None where nothing could be scored.
        captions: Lines about it, the first says what is seen.
    """

    set: str
    rank: str
    score: float | None
    captions: tuple[str, ...]
    images: tuple[bytes | None, ...]


def gallery(
    report: FewShotReport,
    method: Method,
    sets: Sequence[EpisodeSet],
    *,
    shots: int,
    hidden: Collection[str] = (),
    images: ImageSource | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> list[Shown]:
    """Choose the best, the median and the worst episode of each set, and show them.

    Shown are the first prompt with its mask, the query with the true outline, the answer, and its confidence (white is
    sure).

    Args:
        report: The scores.
        method: Which answers.
        sets: Whose episodes were scored.
        shots: With how many prompts.
        hidden: Names of sets that are left out.
        images: Where the images come from; None: the sets' folders.
        on_image: Called with how many are done, and how many there are.
    """
    scores = {each.name: each.episode_iou for each in report.column(method.name, shots).sets}
    chosen = [
        (each, number, rank)
        for each in sets
        if each.name not in hidden
        for number, rank in best_median_worst(scores[each.name])
    ]
    source, made = images or EpisodeImages(sets), []
    for done, (each, number, rank) in enumerate(chosen, start=1):
        made.append(_show(source, method, each, each.episodes[number], shots, rank, scores[each.name][number]))
        if on_image is not None:
            on_image(done, len(chosen))
    return made


def best_median_worst(scores: Sequence[float]) -> Iterator[tuple[int, str]]:
    """Choose the places of the best, the median and the worst score; fewer where there are fewer scores."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    ranks = {0: "best", len(order) // 2: "median", len(order) - 1: "worst"}
    for place in sorted({0, len(order) // 2, len(order) - 1}):
        yield order[place], "only one" if len(order) == 1 else ranks[place]


def _show(
    images: ImageSource, method: Method, each: EpisodeSet, episode: Episode, shots: int, rank: str, iou: float
) -> Shown:
    query, asked = images.image(each.name, episode.query), images.asked(each, episode.id, episode.query)
    prompts = [images.prompt(each, episode.id, stem) for stem in episode.prompts[:shots]]
    (answer,) = method.predict([query], prompts)
    found, confidence = read_answer(answer, query)
    first = prompts[0]
    grey = None if confidence is None else np.rint(255 * np.clip(confidence, 0, 1)).astype(np.uint8)
    return Shown(
        each.name,
        rank,
        iou,
        (each.class_name(episode.id), episode.query),
        (
            _jpeg(_tinted(_shrunk(first.image), _shrunk(first.mask == 1), _shrunk(first.mask == IGNORED))),
            _jpeg(_outlined(_shrunk(query), _shrunk(asked == 1), unscored=_shrunk(asked == IGNORED))),
            _jpeg(_tinted(_shrunk(query), _shrunk(found))),
            None if grey is None else _jpeg(_shrunk(grey)),
        ),
    )


def _shrunk(array: npt.NDArray[_Kind]) -> npt.NDArray[_Kind]:
    """Shrink to at most 240 pixels along the longer side, masks by the nearest pixel."""
    if array.dtype == np.bool_:
        small = resized_mask(array.astype(np.uint8), shrunk_size((array.shape[0], array.shape[1]), longest=LONGER_SIDE))
        return small.astype(array.dtype)
    return shrunk(array.astype(np.uint8, copy=False), LONGER_SIDE).astype(array.dtype, copy=False)


def _tinted(image: Pixels, mask: Flags, unscored: Flags | None = None) -> Pixels:
    """Lay the mask over the image, tinted and outlined; what is not scored in grey."""
    blended = (image.astype(np.uint16) * 55 + np.array(_TINT, np.uint16) * 45) // 100
    shown = np.where(mask[..., None], blended.astype(np.uint8), image)
    if unscored is not None:
        shown[unscored] = shown[unscored] // 2 + np.array(_UNSCORED, np.uint8) // 2
    inner, outer = _edges(mask)
    shown[inner], shown[outer] = _TINT, (0, 0, 0)
    return shown


def _outlined(image: Pixels, mask: Flags, *, unscored: Flags) -> Pixels:
    shown = image.copy()
    shown[unscored] = shown[unscored] // 2 + np.array(_UNSCORED, np.uint8) // 2
    inner, outer = _edges(mask)
    shown[inner], shown[outer] = _OUTLINE, (0, 0, 0)
    return shown


def _edges(mask: Flags) -> tuple[Flags, Flags]:
    """Find the pixels along the inner and along the outer side of a mask's edge."""
    padded = np.pad(mask, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    surrounded, touched = np.logical_and.reduce(around), np.logical_or.reduce(around)
    inner: Flags = mask & ~surrounded
    outer: Flags = ~mask & touched
    return inner, outer


def overlaid(image: Pixels, ids: Pixels, palette: Palette) -> bytes:
    """Make a small JPEG of an image under the ids of a mask.

    Args:
        image: (H, W, 3) uint8.
        ids: (H, W); what is ignored becomes grey.
        palette: Colours of the ids.
    """
    small = _shrunk(image)
    mask = resized_mask(ids, small.shape[:2])
    shown = Segmentation(mask, np.ones(mask.shape, np.float32), palette).overlay(small)
    shown[mask == IGNORED] = _UNSCORED
    return _jpeg(shown)


def _jpeg(image: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=_QUALITY, subsampling=0)  # outlines are a pixel wide
    return stream.getvalue()
