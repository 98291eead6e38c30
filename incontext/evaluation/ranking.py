"""Which example works best for the others: each in turn is the only prompt, and the others are segmented by it.

Refuses to know files, and how images are segmented. Ids mean the same in all prompts. As in `few_shot`,
intersections and unions are summed over the queries and then divided, ignored pixels (255) left out: what is painted
in a query that does not show an id counts against it, and a query in which an id neither is nor is painted says
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import numpy.typing as npt

from incontext.evaluation.metrics import Overlap, mean, overlap
from incontext.images.ids import IGNORED, Pixels
from incontext.options import SegmentKeywords, SegmentOptions, takes_options
from incontext.types import Prompt

if TYPE_CHECKING:  # the engine brings torch, and a ranking that is read needs none
    from incontext.engine import Context, FittedQuery, Segmenter

_MOST_COLUMNS = 8  # of ids, in a table for people
_LEAST_SHOWN = 2  # queries of each id in a sample: a candidate among them still leaves one to try it on


@dataclass(frozen=True, eq=False)
class Ranking:
    """What each of C candidates does as the only prompt for Q queries with K ids in them.

    Attributes:
        names: (C) of the candidates.
        ids: (K) ascending.
        shown: (C, K) bool, the candidate's mask has the id.
        queries: (Q) numbers of images, those below C being the candidates themselves; nobody is tried on itself.
        wanted: (Q, K) bool, the query shows the id.
        intersection, union: (C, Q, K) pixels, zeros where nothing was tried.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    shown: npt.NDArray[np.bool_]
    queries: npt.NDArray[np.int64]
    wanted: npt.NDArray[np.bool_]
    intersection: npt.NDArray[np.int32]
    union: npt.NDArray[np.int32]

    @property
    def tried(self) -> npt.NDArray[np.bool_]:
        """(C, Q): the candidate was the prompt for the query."""
        tried: npt.NDArray[np.bool_] = np.arange(len(self.names))[:, None] != self.queries
        return tried

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """(C, K): IoU of each id over a candidate's queries; NaN where it, or all of them, do not show the id."""
        known = self.shown & (self.tried[..., None] & self.wanted).any(axis=1)
        return np.where(known, _ratio(self.intersection.sum(axis=1), self.union.sum(axis=1)), np.nan)

    @property
    def score(self) -> npt.NDArray[np.float64]:
        """(C,): the mean IoU over the ids that a candidate shows, as far as they are known; NaN where none is."""
        known = ~np.isnan(self.iou)
        return _ratio(np.nansum(self.iou, axis=1), known.sum(axis=1), empty=np.nan)

    @property
    def order(self) -> tuple[int, ...]:
        """The candidates' numbers, best first; those without a score last."""
        return tuple(np.argsort(-np.nan_to_num(self.score, nan=-1.0), kind="stable").tolist())

    def best(self, count: int) -> tuple[int, ...]:
        """Choose the numbers of `count` candidates for one context, in the order in which they were chosen.

        Each is the one with the highest sum of IoU over those of its ids of which the chosen have the fewest examples
        so far. So all ids are shown as soon as that is possible, each by about as many, and with one id the chosen are
        the first of the table.
        """
        if not 1 <= count <= len(self.names):
            raise ValueError(f"expected to choose 1 to {len(self.names)} examples, as many as there are, got {count}")
        iou = np.nan_to_num(self.iou)
        rest = sorted(range(len(self.names)), key=lambda c: -iou[c].sum())
        examples = np.zeros(len(self.ids), np.int64)  # of each id, so far
        chosen: list[int] = []
        while len(chosen) < count:
            left = self.shown[rest].any(axis=0)
            lacking = left & (examples == examples[left].min())
            showing = [c for c in rest if (self.shown[c] & lacking).any()]
            chosen.append(max(showing, key=lambda c: iou[c, lacking].sum()))
            rest.remove(chosen[-1])
            examples += self.shown[chosen[-1]]
        return tuple(chosen)

    def to_markdown(self) -> str:
        """Write a table, best first: mean IoU, that of each id where they are few, else which; and how many queries."""
        few = self.ids if 1 < len(self.ids) <= _MOST_COLUMNS else ()
        many = len(self.ids) > _MOST_COLUMNS
        heads = ["example", "mean IoU", *(f"id {i}" for i in few), *(["ids"] if many else []), "queries"]
        lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        iou, score, tried = self.iou, self.score, self.tried.sum(axis=1)
        for c in self.order:
            shares = [score[c], *(iou[c] if few else ())]
            cells = [self.names[c].replace("|", "\\|"), *("-" if np.isnan(each) else f"{each:.3f}" for each in shares)]
            if many:
                cells.append(_spans([i for i, shown in zip(self.ids, self.shown[c], strict=True) if shown]))
            lines.append(f"| {' | '.join([*cells, str(tried[c])])} |")
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """Write the same as one JSON object; what is not known is null."""
        iou, score, tried = self.iou, self.score, self.tried.sum(axis=1)
        examples = [
            {
                "name": self.names[c],
                "mean_iou": _known(score[c]),
                "iou": {i: _known(iou[c, k]) for k, i in enumerate(self.ids) if self.shown[c, k]},
                "queries": int(tried[c]),
            }
            for c in self.order
        ]
        return json.dumps({"ids": list(self.ids), "examples": examples}, indent=1)


@dataclass(frozen=True)
class Trial:
    """A chosen context on the queries that are not part of it, mean IoU over the ids that these show, 0..1.

    Attributes:
        together: Of the context.
        alone: Of the first that was chosen, as the only prompt for the same queries.
    """

    together: float
    alone: float
    queries: int


@takes_options
def rank(
    segmenter: Segmenter,
    prompts: Sequence[Prompt],
    *,
    names: Sequence[str] | None = None,
    empty: Sequence[Pixels] = (),
    limit: int | None = None,
    seed: int = 0,
    on_answer: Callable[[int, int], None] | None = None,
    **options: Unpack[SegmentKeywords],
) -> Ranking:
    """Segment every prompt's image by every other prompt alone, and score the answers (leave one out).

    Args:
        names: Of the prompts, for the tables; None: their numbers.
        empty: (H, W, 3) uint8 images in which nothing is to be found; queries only.
        limit: At most so many queries, the same for all candidates, drawn with `seed` so that each id is among them;
            the cost is candidates x queries answers.
        options: See `SegmentOptions`. on_answer(done, total) is called after each answer. Answers are scored at the
            queries' own sizes, so large images cost time.

    Raises:
        ValueError: fewer than two prompts, no id that two of them show, or an option that cannot be used.
    """
    if len(prompts) < 2:
        raise ValueError(f"expected at least two examples, as each is tried on the others, got {len(prompts)}")
    ids = sorted({i for prompt in prompts for i in prompt.ids})
    shown = np.array([[i in prompt.ids for i in ids] for prompt in prompts])
    if not (shown.sum(axis=0) > 1).any():
        raise ValueError(
            f"expected an id that two examples show, so that one can be tried on the other; got ids {_spans(ids)}, "
            "each in one mask only; give the same thing the same id in all masks"
        )
    everything = np.concatenate([shown, np.zeros((len(empty), len(ids)), np.bool_)])
    queries = _sample(everything, limit, seed)
    chosen = SegmentOptions(**options)
    images = _images(segmenter, prompts, empty, queries.tolist(), chosen)
    shape = (len(prompts), len(queries), len(ids))
    intersection, union = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    total, done = int((np.arange(len(prompts))[:, None] != queries).sum()), 0
    for c, prompt in enumerate(prompts):
        columns, rows = np.flatnonzero(queries != c).tolist(), np.flatnonzero(shown[c]).tolist()
        scores = _scores(segmenter, prompt, [images[n] for n in columns], [ids[k] for k in rows], chosen)
        for n, overlaps in zip(columns, scores, strict=True):
            intersection[c, n, rows] = [each.intersection for each in overlaps]
            union[c, n, rows] = [each.union for each in overlaps]
            done += 1
            if on_answer is not None:
                on_answer(done, total)
    labels = tuple(map(str, range(len(prompts)))) if names is None else tuple(names)
    return Ranking(labels, tuple(ids), shown, queries, everything[queries], intersection, union)


@takes_options
def try_together(
    segmenter: Segmenter,
    prompts: Sequence[Prompt],
    ranking: Ranking,
    chosen: Sequence[int],
    *,
    empty: Sequence[Pixels] = (),
    **options: Unpack[SegmentKeywords],
) -> Trial | None:
    """Segment the ranking's queries that are not chosen by the chosen prompts as one context; None if none is left.

    Args:
        prompts, empty, options: What the ranking was made with.
    """
    columns = [n for n, q in enumerate(ranking.queries.tolist()) if q not in chosen]
    wanted = np.flatnonzero(ranking.wanted[columns].any(axis=0)).tolist()
    if not wanted:
        return None
    asked = SegmentOptions(**options)
    images = _images(segmenter, prompts, empty, ranking.queries[columns].tolist(), asked)
    context, ids = [prompts[c] for c in chosen], [ranking.ids[k] for k in wanted]
    sums = [Overlap() for _ in ids]
    for overlaps in _scores(segmenter, context, images, ids, asked):
        sums = [total + each for total, each in zip(sums, overlaps, strict=True)]
    first = np.ix_([chosen[0]], columns, wanted)
    alone = _ratio(ranking.intersection[first].sum(axis=1), ranking.union[first].sum(axis=1))  # 0 for ids it lacks
    return Trial(mean(each.iou for each in sums), float(alone.mean()), len(columns))


def _images(
    segmenter: Segmenter,
    prompts: Sequence[Prompt],
    empty: Sequence[Pixels],
    queries: Sequence[int],
    options: SegmentOptions,
) -> list[tuple[FittedQuery | Pixels, Pixels]]:
    """Give each query, as the network sees it where that is the same for all candidates, and its true mask."""
    as_it_is = options.refine or options.tiles is not None
    made: list[tuple[FittedQuery | Pixels, Pixels]] = []
    for q in queries:
        image = prompts[q].image if q < len(prompts) else empty[q - len(prompts)]
        truth = prompts[q].mask if q < len(prompts) else np.zeros(image.shape[:2], np.uint8)
        made.append((image if as_it_is else segmenter.fit(image, side=options.side), truth))
    return made


def _scores(
    segmenter: Segmenter,
    context: Context,
    images: Sequence[tuple[FittedQuery | Pixels, Pixels]],
    ids: Sequence[int],
    options: SegmentOptions,
) -> Iterator[list[Overlap]]:
    """Count for each image the overlaps of what the context finds in it with its true mask, one for each id."""
    answers = segmenter.segment_many((query for query, _ in images), context, **options.keywords())
    for answer, (_, truth) in zip(answers, images, strict=True):
        ignored = truth == IGNORED
        yield [overlap(answer.mask == i, truth == i, ignored) for i in ids]


def _sample(shown: npt.NDArray[np.bool_], limit: int | None, seed: int) -> npt.NDArray[np.int64]:
    """Choose at most `limit` images out of (images, K), by their numbers; each id twice before any at random."""
    if limit is None or limit >= len(shown):
        return np.arange(len(shown))
    if limit < 1:
        raise ValueError(f"expected a limit of at least 1 query, got {limit}")
    order = np.random.default_rng(seed).permutation(len(shown)).tolist()
    picked: list[int] = []
    for k in np.argsort(shown.sum(axis=0), kind="stable"):  # the rarest first
        showing = [n for n in order if shown[n, k]]
        lacking = max(0, _LEAST_SHOWN - sum(n in picked for n in showing))
        picked += [n for n in showing if n not in picked][:lacking]
    picked += [n for n in order if n not in picked]
    return np.sort(np.array(picked[:limit]))


def _known(share: float) -> float | None:
    return None if np.isnan(share) else float(share)


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any], *, empty: float = 0.0) -> npt.NDArray[np.float64]:
    ratio: npt.NDArray[np.float64] = np.divide(part, whole, out=np.full(np.shape(part), empty), where=whole > 0)
    return ratio


def _spans(ids: Sequence[int]) -> str:
    """Write [1, 2, 3, 7] as "1-3, 7"."""
    spans: list[list[int]] = []
    for i in ids:
        if spans and spans[-1][1] == i - 1:
            spans[-1][1] = i
        else:
            spans.append([i, i])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
