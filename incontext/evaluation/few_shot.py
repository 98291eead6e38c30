"""Few-shot scores on fixed episodes: a query, prompts that show what to find, and the true mask.

Refuses to know networks: `evaluate` scores any function from a query and its prompts to a mask, and shows it neither
the ids of other classes nor the truth.

The protocol. Every episode asks for one id. Masks are compared at 224 x 224 pixels, both resized by nearest neighbour;
ignored pixels (255) are left out. Intersections and unions are summed over a class's episodes, then divided: that is
the class's IoU; a set's mIoU is the mean over its classes, its FB-IoU the mean of the foreground's and the
background's IoU over all its episodes.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from incontext.evaluation.metrics import ConfidenceTally, Overlap, mean, overlap
from incontext.formats import IGNORED, Pixels, read_image, read_mask
from incontext.types import Prompt

SCORING_SIDE = 224  # pixels
THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)  # of confidence
_CACHED_FILES = 256  # a shorter side of 320 pixels makes about 0.4 MB each


class Found(Protocol):
    """An answer with a confidence, as `Segmentation` is: both (H, W), confidence in 0..1."""

    @property
    def mask(self) -> npt.NDArray[Any]: ...
    @property
    def confidence(self) -> npt.NDArray[np.float32]: ...


Answer: TypeAlias = "npt.NDArray[Any] | Found"
Predict: TypeAlias = Callable[[Pixels, Sequence[Prompt]], Answer]
"""(H, W, 3) uint8 query and its prompts, whose masks hold id 1 -> (H, W) bool or ids (1 is what was asked for)."""


@dataclass(frozen=True)
class Episode:
    """One question: find class `id` of the prompts in the query. Pictures are named by the stems of their files."""

    id: int
    query: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class EpisodeSet:
    """The episodes of one set. `instances_as_one`: every id but 0 and 255 is foreground, whatever `id` says."""

    name: str
    instances_as_one: bool
    episodes: tuple[Episode, ...]


@dataclass(frozen=True)
class ConfidenceReport:
    """What confidence is worth. Means of confidence, 0..1; then, per threshold, shares of pixels 0..1.

    wrong_rejected, right_rejected: the share of all wrong (right) pixels that lie below the threshold; wrong_below:
    the share of the pixels below it that are wrong. A useful confidence rejects more of the wrong ones; None: there
    were no such pixels.
    """

    mean_right: float | None
    mean_wrong: float | None
    thresholds: tuple[float, ...]
    wrong_rejected: tuple[float | None, ...]
    right_rejected: tuple[float | None, ...]
    wrong_below: tuple[float | None, ...]

    @classmethod
    def of(cls, tally: ConfidenceTally) -> ConfidenceReport:
        (wrong, right), (wrong_total, right_total) = tally.pixels.tolist(), tally.total.tolist()
        wrong_under, right_under = tally.below.tolist()
        return cls(
            mean_right=_share(right_total, right),
            mean_wrong=_share(wrong_total, wrong),
            thresholds=tally.thresholds,
            wrong_rejected=tuple(_share(under, wrong) for under in wrong_under),
            right_rejected=tuple(_share(under, right) for under in right_under),
            wrong_below=tuple(_share(w, w + r) for w, r in zip(wrong_under, right_under, strict=True)),
        )


@dataclass(frozen=True)
class SetReport:
    """The scores of one set, 0..1; seconds: the time inside `predict`, all episodes together."""

    name: str
    episodes: int
    mean_iou: float
    fb_iou: float
    class_iou: dict[int, float]
    seconds: float


@dataclass(frozen=True)
class FewShotReport:
    """The scores of all sets that were run. confidence is None where the answers had none."""

    shots: int
    side: int
    sets: tuple[SetReport, ...]
    confidence: ConfidenceReport | None

    @property
    def mean_iou(self) -> float:
        """The mean of the sets' mIoU."""
        return mean(each.mean_iou for each in self.sets)

    @property
    def fb_iou(self) -> float:
        """The mean of the sets' FB-IoU."""
        return mean(each.fb_iou for each in self.sets)

    @property
    def seconds(self) -> float:
        """The time inside `predict`."""
        return sum(each.seconds for each in self.sets)

    def to_json(self) -> str:
        """Everything, the means included, as one JSON object."""
        means = {"mean_iou": self.mean_iou, "fb_iou": self.fb_iou, "seconds": self.seconds}
        return json.dumps({**means, **asdict(self)}, indent=1)

    def to_markdown(self) -> str:
        """Tables for people: a row for each set, then what confidence is worth where it is known."""
        lines = [
            f"| set, {self.shots} shot{'s' * (self.shots > 1)}, {self.side} px | mIoU | FB-IoU | episodes | s each |",
            "|---|---|---|---|---|",
        ]
        rows = [(each.name, each.mean_iou, each.fb_iou, each.episodes, each.seconds) for each in self.sets]
        rows.append(("mean", self.mean_iou, self.fb_iou, sum(each.episodes for each in self.sets), self.seconds))
        for name, miou, fb, episodes, seconds in rows:
            lines.append(f"| {name} | {miou:.3f} | {fb:.3f} | {episodes} | {seconds / episodes:.3f} |")
        if self.confidence is not None:
            known = self.confidence
            lines += [
                "",
                f"Mean confidence: {_percent(known.mean_right)} where right, {_percent(known.mean_wrong)} where wrong.",
            ]
            lines += [
                "",
                "| confidence below | wrong pixels rejected | right pixels rejected | of those below, wrong |",
            ]
            lines.append("|---|---|---|---|")
            columns = (known.thresholds, known.wrong_rejected, known.right_rejected, known.wrong_below)
            for row in zip(*columns, strict=True):
                lines.append(f"| {' | '.join([f'{row[0]:g}', *map(_percent, row[1:])])} |")
        return "\n".join(lines) + "\n"


def read_episodes(data: Path) -> tuple[EpisodeSet, ...]:
    """The sets of `data/episodes.json`, in the file's order.

    Raises FileNotFoundError where there is no such file, ValueError where it is not what is expected.
    """
    path = data / "episodes.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected a file episodes.json in {data}, got none; name the folder that holds it")
    try:
        return tuple(
            EpisodeSet(
                name,
                bool(content["instances_as_one"]),
                tuple(
                    Episode(int(e["id"]), str(e["query"]), tuple(map(str, e["prompts"]))) for e in content["episodes"]
                ),
            )
            for name, content in json.loads(path.read_text(encoding="utf-8")).items()
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected {{set: {{instances_as_one, episodes: [{{id, query, prompts}}]}}}}, "
            f"got something else ({error!r}); compare it with the file that came with the data"
        ) from None


def evaluate(
    predict: Predict,
    data: Path,
    *,
    shots: int = 1,
    sets: Sequence[str] | None = None,
    limit: int | None = None,
    on_episode: Callable[[int, int], None] | None = None,
) -> FewShotReport:
    """Run `predict` over the fixed episodes of `data` and score it.

    predict: see `Predict`; it gets the first `shots` prompts of an episode, everything but the asked id painted
    background. sets: names, None: all; limit: at most so many episodes of each set, spread evenly over it so that all
    classes take part. on_episode(done, total) is called after each episode.
    Raises ValueError for an unknown set, more shots than an episode has, and an answer that has not the query's size.
    """
    chosen = [_limited(each, limit) for each in _chosen(read_episodes(data), sets)]
    for each in chosen:
        fewest = min((len(episode.prompts) for episode in each.episodes), default=0)
        if not 1 <= shots <= fewest:
            raise ValueError(
                f"expected 1 to {fewest} shots, as many as an episode of {each.name} has prompts, got {shots}"
            )
    total, done = sum(len(each.episodes) for each in chosen), 0
    reports: list[SetReport] = []
    tally: ConfidenceTally | None = None
    for each in chosen:
        foreground: defaultdict[int, Overlap] = defaultdict(Overlap)
        background, seconds = Overlap(), 0.0
        for episode in each.episodes:
            truth = _ids(data, each, episode.query)
            query, prompts = _image(_picture(data, each, episode.query)), _prompts(data, each, episode, shots)
            start = time.perf_counter()
            answer = predict(query, prompts)
            seconds += time.perf_counter() - start
            found, confidence = _read_answer(answer, query.shape[:2])
            found, wanted, ignored = _small(found), _small(_wanted(truth, each, episode)), _small(truth == IGNORED)
            foreground[episode.id] += overlap(found, wanted, ignored)
            background += overlap(~found, ~wanted, ignored)
            if confidence is not None:
                tally = (tally or ConfidenceTally.empty(THRESHOLDS)).count(_small(confidence), found == wanted, ignored)
            done += 1
            if on_episode is not None:
                on_episode(done, total)
        class_iou = {i: foreground[i].iou for i in sorted(foreground)}
        fb_iou = mean([sum(foreground.values(), Overlap()).iou, background.iou])
        reports.append(SetReport(each.name, len(each.episodes), mean(class_iou.values()), fb_iou, class_iou, seconds))
    return FewShotReport(shots, SCORING_SIDE, tuple(reports), ConfidenceReport.of(tally) if tally is not None else None)


def _chosen(known: Sequence[EpisodeSet], names: Sequence[str] | None) -> list[EpisodeSet]:
    if names is None:
        return list(known)
    by_name = {each.name: each for each in known}
    if missing := [name for name in names if name not in by_name]:
        raise ValueError(f"expected sets out of {', '.join(by_name)}, got {', '.join(missing)}")
    return [by_name[name] for name in names]


def _limited(each: EpisodeSet, limit: int | None) -> EpisodeSet:
    if limit is None or limit >= len(each.episodes):
        return each
    if limit < 1:
        raise ValueError(f"expected a limit of at least 1 episode, got {limit}")
    picked = np.linspace(0, len(each.episodes) - 1, limit).round().astype(int).tolist()
    return EpisodeSet(each.name, each.instances_as_one, tuple(each.episodes[i] for i in picked))


def _prompts(data: Path, each: EpisodeSet, episode: Episode, shots: int) -> list[Prompt]:
    prompts = []
    for name in episode.prompts[:shots]:
        ids = _ids(data, each, name)
        mask = np.where(ids == IGNORED, np.uint8(IGNORED), _wanted(ids, each, episode).astype(np.uint8))
        prompts.append(Prompt(_image(_picture(data, each, name)), mask))
    return prompts


def _wanted(ids: Pixels, each: EpisodeSet, episode: Episode) -> npt.NDArray[np.bool_]:
    return np.asarray((ids != 0) & (ids != IGNORED) if each.instances_as_one else ids == episode.id)


def _read_answer(answer: Answer, size: tuple[int, ...]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32] | None]:
    mask, confidence = (answer, None) if isinstance(answer, np.ndarray) else (answer.mask, answer.confidence)
    for array in (mask,) if confidence is None else (mask, confidence):
        if array.shape != size:
            raise ValueError(f"expected an answer of the query's size {size}, got {array.shape}")
    if mask.dtype.kind not in "bui":
        raise ValueError(f"expected an answer of bool or integer ids, got {mask.dtype}")
    found: npt.NDArray[np.bool_] = mask == 1
    return found, confidence


def _small(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W) -> (224, 224), nearest neighbour, as Pillow picks it."""
    kind = np.uint8 if array.dtype == np.bool_ else np.float32
    small = Image.fromarray(array.astype(kind)).resize((SCORING_SIDE, SCORING_SIDE), Image.Resampling.NEAREST)
    return np.asarray(small).astype(array.dtype)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _picture(data: Path, each: EpisodeSet, name: str) -> Path:
    folder = data / each.name / "images"
    for suffix in (".jpg", ".png"):
        if (folder / (name + suffix)).is_file():
            return folder / (name + suffix)
    raise FileNotFoundError(f"expected {name}.jpg or {name}.png in {folder}, got neither; episodes.json names it")


def _ids(data: Path, each: EpisodeSet, name: str) -> Pixels:
    return _mask(data / each.name / "masks" / f"{name}.png")


@lru_cache(_CACHED_FILES)
def _image(path: Path) -> Pixels:
    return _frozen(read_image(path))


@lru_cache(_CACHED_FILES)
def _mask(path: Path) -> Pixels:
    return _frozen(read_mask(path).ids)


def _frozen(pixels: Pixels) -> Pixels:
    pixels.setflags(write=False)  # many prompts share them
    return pixels
