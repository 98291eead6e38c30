"""What a backbone's votes are worth beside a network's: found on labelled images that neither learned from.

Each episode is answered by both, apart; then the weights with the best mean IoU are looked up, how sure the sum of both
is, and what presence is by both. Weights are the same for all sets and numbers of shots. Refuses to know how votes are
joined in use (canvas/read.py), whose formula this repeats on what was collected.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from incontext.canvas.paint import unpaint
from incontext.canvas.query import PaintedAnswer
from incontext.canvas.read import read_colors
from incontext.engine import Segmenter
from incontext.evaluation.few_shot.episodes import Absent, Episode, EpisodeSet, draw, files, sets_in, what_is_shown
from incontext.evaluation.few_shot.images import EpisodeImages
from incontext.images.dataset import has_regions
from incontext.images.ids import IGNORED, Pixels
from incontext.images.resize import resized
from incontext.matching.calibration import Calibration
from incontext.matching.match import match
from incontext.matching.voter import Voter, evidence
from incontext.training.sets import held_out_numbers
from incontext.types import Prompt
from incontext.version import __version__

SHOTS: Final = (1, 4)
EPISODES: Final = 12  # of each set
WEIGHTS: Final = tuple((p, n) for p in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0) for n in (0.0, 0.25, 0.5, 0.75, 1.0))

_GRID = 80  # pixels along a side of what is scored
_SHARPNESS = tuple(float(each) for each in np.geomspace(0.3, 8, 24).round(3))
_RIDGE = 1e-2  # keeps the regression from certainty where a number tells all episodes apart
_ROUNDS = 50  # of Newton's method


@dataclass(frozen=True, eq=False)
class Opinion:
    """What both say of one query, apart.

    Attributes:
        set: Where it is from.
        shots: By how many prompts.
        margin: (G, G) float32, the network's lead of the id over the background, -1..1.
        prototypes: (h, w), the backbone's lead by prototypes.
        neighbours: (h, w), by nearest neighbours.
        truth: (G, G) bool; nothing where the thing is absent.
        known: (G, G) bool, where it is scored.
        said: The network's presence, 0..1; None: it cannot tell.
        there: Whether the thing is.
    """

    set: str
    shots: int
    margin: Tensor
    prototypes: Tensor
    neighbours: Tensor
    truth: Tensor
    known: Tensor
    said: float | None
    there: bool


def held_out_sets(
    data: Path,
    *,
    prompts: int,
    episodes: int = EPISODES,
    every: int = 1,
    whole: Collection[str] = (),
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[EpisodeSet, ...]:
    """Draw episodes from images that training holds out, each with a query of its set without the thing, if any.

    Args:
        data: A folder with images/ and masks/, or a folder of such folders.
        prompts: Of each episode.
        episodes: Of each set.
        every: Of each set every so-manieth image is drawn from, as `incontext train` holds them out (20); 1: all.
        whole: Sets of which all images are, as nothing was learned from them.
        names: Only these sets.
        seed: Of what is drawn.

    Raises:
        FileNotFoundError: there are no sets.
        ValueError: no set has enough images, or there is none of some name.
    """
    there = sets_in(data)
    if unknown := sorted({*(names or ()), *whole} - {each.name for each in there}):
        raise ValueError(f"expected sets out of {', '.join(each.name for each in there)}, got {', '.join(unknown)}")
    found = [each for each in there if names is None or each.name in names]
    made, scarce = [], list[str]()
    for each in found:
        if has_regions(each.folder):
            continue
        stems = sorted(files(each.folder / "masks"))
        chosen = range(len(stems)) if every == 1 or each.name in whole else held_out_numbers(len(stems), every)
        shown = what_is_shown(each, only={stems[number] for number in chosen})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of rare things, which are left out
                drawn = draw(each, shown, episodes, prompts, seed)
        except ValueError:
            scarce.append(each.name)
            continue
        made.append(replace(each, episodes=tuple(_with_absence(e, each, shown, seed + n) for n, e in enumerate(drawn))))
    if not made:
        raise ValueError(
            f"{data}: expected a set with a thing in at least {prompts + 1} images that are held out, got none; "
            "give more images, fewer shots, or a smaller --every"
        )
    return tuple(made)


def collect(
    segmenter: Segmenter,
    voter: Voter,
    sets: Sequence[EpisodeSet],
    *,
    shots: Sequence[int] = SHOTS,
    on_episode: Callable[[int], None] | None = None,
) -> list[Opinion]:
    """Ask a network without a backbone, and a backbone, all episodes with each number of shots."""
    images, found, done = EpisodeImages(sets), list[Opinion](), 0
    for each in sets:
        for episode in each.episodes:
            prompts = [images.prompt(each, episode.id, stem) for stem in episode.prompts[: max(shots)]]
            queries = [images.image(each.name, episode.query)]
            if episode.absent is not None:
                queries.append(images.image(episode.absent.set, episode.absent.query))
            mask = images.asked(each, episode.id, episode.query)
            truth, known = _small(mask == 1), _small(mask != IGNORED)
            for count in shots:
                found += _opinions(segmenter, voter, each.name, queries, prompts[:count], truth, known)
            done += 1
            if on_episode is not None:
                on_episode(done)
    return found


def fit(opinions: Sequence[Opinion], voter: Voter, segmenter: Segmenter, *, about: dict[str, Any]) -> Calibration:
    """Find the numbers that fit what was collected.

    Args:
        opinions: As :func:`collect` returns them.
        voter: Whose votes they are.
        segmenter: Whose answers.
        about: What else is kept with them.
    """
    there = [each for each in opinions if each.there]
    scored = {pair: score(there, *pair) for pair in WEIGHTS}
    best = max(WEIGHTS, key=lambda pair: (round(mean_over(scored[pair]), 4), -sum(pair)))
    sharpness = min(_SHARPNESS, key=lambda each: surprise(there, *best, each))
    presence, areas = _presence(opinions, *best)
    alone = scored[0.0, 0.0]
    origin = {
        **about,
        "weights": Path(segmenter.name).name,
        "weights_sha256": segmenter.sha256,
        "queries": len(there),
        "mean_iou_alone": _rounded(alone),
        "mean_iou_both": _rounded(scored[best]),
        "presence_auc": areas,
        "date": date.today().isoformat(),  # noqa: DTZ011  the user's own day
        "version": __version__,
    }
    return Calibration(voter.backbone.name, voter.backbone.sha256, *best, sharpness, presence, origin)


def score(opinions: Sequence[Opinion], prototypes: float, neighbours: float) -> dict[int, float]:
    """Mean IoU by the number of shots: over a set's queries first, then over the sets."""
    found: dict[int, dict[str, list[float]]] = {}
    for each in opinions:
        claimed = _sum(each, prototypes, neighbours) > 0
        union = int(((claimed | each.truth) & each.known).sum())
        iou = int((claimed & each.truth & each.known).sum()) / union if union else 1.0
        found.setdefault(each.shots, {}).setdefault(each.set, []).append(iou)
    return {n: mean_over({name: float(np.mean(v)) for name, v in by_set.items()}) for n, by_set in found.items()}


def surprise(opinions: Sequence[Opinion], prototypes: float, neighbours: float, sharpness: float) -> float:
    """Compute the mean negative log-likelihood of the truth, a set like any other.

    Confidence counts as twice the probability of being right, less one.
    """
    by_set: dict[str, list[float]] = {}
    for each in opinions:
        if each.known.any():
            logits = 2 * sharpness * _sum(each, prototypes, neighbours)
            loss = F.binary_cross_entropy_with_logits(logits[each.known], each.truth[each.known].float())
            by_set.setdefault(each.set, []).append(float(loss))
    return mean_over({name: float(np.mean(values)) for name, values in by_set.items()})


def mean_over(values: dict[Any, float]) -> float:
    """Compute the plain mean of the values of a dictionary."""
    return sum(values.values()) / len(values)


def area_under_curve(there: Sequence[float], absent: Sequence[float]) -> float:
    """How often a query with the thing has the higher value, ties by half."""
    higher, lower = np.array(there)[:, None], np.array(absent)[None]
    return float(((higher > lower) + 0.5 * (higher == lower)).mean())


# ----------------------------------------------------------------------------------------- from here on inside


def _with_absence(episode: Episode, each: EpisodeSet, shown: dict[str, frozenset[int]], seed: int) -> Episode:
    asked = 1 if each.instances_as_one else episode.id
    free = [stem for stem in sorted(shown) if asked not in shown[stem]]
    if not free:
        return episode
    chosen = free[np.random.default_rng([seed, 1]).integers(len(free))]
    return replace(episode, absent=Absent(each.name, chosen))


def _opinions(
    segmenter: Segmenter,
    voter: Voter,
    name: str,
    queries: Sequence[Pixels],
    prompts: Sequence[Prompt],
    truth: Tensor,
    known: Tensor,
) -> list[Opinion]:
    """Of the query with the thing, and of the one without, if there is one."""
    examples = voter.examples(prompts)
    assert examples is not None  # there are prompts
    found, size = [], (voter.side, voter.side)
    answers = segmenter.answer_many(queries, prompts)
    for number, (query, answer) in enumerate(zip(queries, answers, strict=True)):
        assert isinstance(answer, PaintedAnswer)  # no windows were asked for
        (paint,) = answer.painted
        ids, confidence = read_colors(unpaint(paint.painted), paint.palette)
        margin = torch.where(ids == 0, -confidence, confidence)
        with torch.inference_mode():
            leads = match(voter.see([resized(query, size)]), examples).leads([1])
        said = None if paint.presence is None else float(paint.presence[0, 1])
        own_truth, own_known = (truth, known) if number == 0 else (torch.zeros_like(truth), torch.ones_like(known))
        prototypes, neighbours = (each[0, 1].cpu() for each in leads)
        own_margin = _spread(margin[0].cpu())
        found.append(
            Opinion(name, len(prompts), own_margin, prototypes, neighbours, own_truth, own_known, said, number == 0)
        )
    return found


def _spread(plane: Tensor) -> Tensor:
    return F.interpolate(plane[None, None], (_GRID, _GRID), mode="bilinear", align_corners=False)[0, 0]


def _small(flags: np.ndarray) -> Tensor:
    """(H, W) bool -> (G, G), the nearest pixels."""
    rows, columns = ((np.arange(_GRID) + 0.5) * length / _GRID for length in flags.shape)
    return torch.from_numpy(flags[rows.astype(int)][:, columns.astype(int)].copy())


def _sum(each: Opinion, prototypes: float, neighbours: float) -> Tensor:
    """(G, G): the lead of the id by both opinions."""
    return each.margin + _spread(prototypes * each.prototypes + neighbours * each.neighbours)


def _presence(
    opinions: Sequence[Opinion], prototypes: float, neighbours: float
) -> tuple[tuple[float, float, float] | None, dict[str, float]]:
    """Fit the regression of presence, and measure how well queries with and without the thing are told apart.

    Returns:
        The numbers of the regression, None where the network cannot tell, where there are no queries without the thing,
        or where both together tell no better; and the measures, by the network alone and by both.
    """
    told = [each for each in opinions if each.said is not None]
    truth = torch.tensor([float(each.there) for each in told], dtype=torch.float64)
    if not told or truth.min() == truth.max():
        return None, {}
    said = torch.tensor([each.said for each in told], dtype=torch.float64).clamp(1e-6, 1 - 1e-6).logit()
    leads = [prototypes * each.prototypes + neighbours * each.neighbours for each in told]
    seen = torch.cat([evidence(each[None, None])[0] for each in leads]).double()
    columns = torch.stack([said, seen, torch.ones_like(said)], dim=1)
    weights = torch.where(truth > 0, 0.5 / truth.mean(), 0.5 / (1 - truth.mean()))  # both kinds count alike
    found = _regressed(columns, truth, weights)
    both, areas = columns @ found, {}
    for name, values in (("alone", said), ("both", both)):
        areas[name] = round(area_under_curve(values[truth > 0].tolist(), values[truth == 0].tolist()), 4)
    own, other, constant = (round(float(each), 4) for each in found)
    return ((own, other, constant) if areas["both"] > areas["alone"] else None), areas


def _regressed(columns: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Logistic regression by Newton's method: the factors of the columns, the constant's among them."""
    found = torch.zeros(columns.shape[1], dtype=columns.dtype)
    ridge = _RIDGE * torch.eye(len(found), dtype=columns.dtype)
    for _ in range(_ROUNDS):
        likely = (columns @ found).sigmoid()
        slope = columns.T @ (weights * (likely - truth)) + _RIDGE * found
        bend = columns.T @ (columns * (weights * likely * (1 - likely))[:, None]) + ridge
        step = torch.linalg.solve(bend, slope)
        found = found - step
        if float(step.abs().max()) < 1e-9:
            break
    return found


def _rounded(scores: dict[int, float]) -> dict[str, float]:
    return {str(shots): round(value, 4) for shots, value in sorted(scores.items())}
