"""Pictures of episodes, so that one sees what a score looks like: the best, the median and the worst of each set.

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
from incontext.evaluation.few_shot.pictures import Pictures, wanted
from incontext.evaluation.few_shot.scores import FewShotReport
from incontext.evaluation.few_shot.scoring import Method, read_answer
from incontext.images.ids import IGNORED, Pixels
from incontext.images.resize import resized_mask, shrunk, shrunk_size

LONGER_SIDE = 240  # pixels of a picture
_TINT = (255, 122, 0)
_OUTLINE = (0, 220, 255)
_UNSCORED = (128, 128, 128)
_QUALITY = 82

Flags = npt.NDArray[np.bool_]
_Kind = TypeVar("_Kind", np.bool_, np.uint8)


@dataclass(frozen=True)
class Shown:
    """An episode in pictures, each a JPEG file's bytes: the first prompt with its mask, the query with the true
    outline, the answer, and its confidence (white is sure), None where there is none. iou: of this episode alone."""

    set: str
    rank: str
    class_name: str
    query: str
    shots: int
    iou: float
    prompt: bytes
    truth: bytes
    answer: bytes
    confidence: bytes | None


def gallery(
    report: FewShotReport,
    method: Method,
    sets: Sequence[EpisodeSet],
    *,
    shots: int,
    hidden: Collection[str] = (),
    on_picture: Callable[[int, int], None] | None = None,
) -> list[Shown]:
    """The best, the median and the worst episode of each set, as the method answered with that many shots.

    hidden: names of sets that are left out. on_picture(done, total) is called after each.
    """
    scores = {each.name: each.episode_iou for each in report.column(method.name, shots).sets}
    chosen = [
        (each, number, rank)
        for each in sets
        if each.name not in hidden
        for number, rank in best_median_worst(scores[each.name])
    ]
    pictures, made = Pictures(sets), []
    for done, (each, number, rank) in enumerate(chosen, start=1):
        made.append(_show(pictures, method, each, each.episodes[number], shots, rank, scores[each.name][number]))
        if on_picture is not None:
            on_picture(done, len(chosen))
    return made


def best_median_worst(scores: Sequence[float]) -> Iterator[tuple[int, str]]:
    """Which ones: (place, what it is); fewer than three where there are fewer scores. Of equals the first is better."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    ranks = {0: "best", len(order) // 2: "median", len(order) - 1: "worst"}
    for place in sorted({0, len(order) // 2, len(order) - 1}):
        yield order[place], "only one" if len(order) == 1 else ranks[place]


def _show(
    pictures: Pictures, method: Method, each: EpisodeSet, episode: Episode, shots: int, rank: str, iou: float
) -> Shown:
    query, ids = pictures.image(each.name, episode.query), pictures.ids(each.name, episode.query)
    prompts = [pictures.prompt(each, episode.id, stem) for stem in episode.prompts[:shots]]
    (answer,) = method.predict([query], prompts)
    found, confidence = read_answer(answer, query)
    first = prompts[0]
    grey = None if confidence is None else np.rint(255 * np.clip(confidence, 0, 1)).astype(np.uint8)
    return Shown(
        set=each.name,
        rank=rank,
        class_name=each.class_name(episode.id),
        query=episode.query,
        shots=shots,
        iou=iou,
        prompt=_jpeg(_tinted(_shrunk(first.image), _shrunk(first.mask == 1), _shrunk(first.mask == IGNORED))),
        truth=_jpeg(
            _outlined(_shrunk(query), _shrunk(wanted(ids, each, episode.id)), unscored=_shrunk(ids == IGNORED))
        ),
        answer=_jpeg(_tinted(_shrunk(query), _shrunk(found))),
        confidence=None if grey is None else _jpeg(_shrunk(grey)),
    )


def _shrunk(array: npt.NDArray[_Kind]) -> npt.NDArray[_Kind]:
    """At most 240 pixels along the longer side, masks by the nearest pixel."""
    if array.dtype == np.bool_:
        small = resized_mask(array.astype(np.uint8), shrunk_size((array.shape[0], array.shape[1]), longest=LONGER_SIDE))
        return small.astype(array.dtype)
    return shrunk(array.astype(np.uint8, copy=False), LONGER_SIDE).astype(array.dtype, copy=False)


def _tinted(image: Pixels, mask: Flags, unscored: Flags | None = None) -> Pixels:
    """The mask over the picture, tinted and outlined; what is not scored in grey."""
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
    """The pixels along the inner and along the outer side of a mask's edge."""
    padded = np.pad(mask, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    surrounded, touched = np.logical_and.reduce(around), np.logical_or.reduce(around)
    inner: Flags = mask & ~surrounded
    outer: Flags = ~mask & touched
    return inner, outer


def _jpeg(image: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=_QUALITY, subsampling=0)  # outlines are a pixel wide
    return stream.getvalue()
