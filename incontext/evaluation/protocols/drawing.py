"""Which episodes a few-shot benchmark asks: drawn by its published rules, the same ones every time.

The reference code draws with NumPy's legacy generator, so this does: `RandomState` promises the same numbers for ever.
Refuses to know files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import numpy as np

from incontext.evaluation.few_shot.episodes import Episode, EpisodeSet, limited
from incontext.evaluation.protocols.benchmarks import Benchmark
from incontext.evaluation.protocols.few_shot_data import FewShotData, Fold

EPISODES: Final = 1000  # of a fold
SEED: Final = 0

_Item = TypeVar("_Item", str, int)


def draw(
    benchmark: Benchmark, data: FewShotData, shots: int, *, seed: int = SEED, limit: int | None = None
) -> tuple[EpisodeSet, ...]:
    """Draw the episodes of each fold with that many prompts, each set drawn from the seed anew.

    They differ for different numbers of shots, as in the reference code, where each prompt takes a number of the same
    generator.

    Args:
        limit: At most so many of a fold, spread evenly over it.

    Raises:
        ValueError: a class has too few images, or a fold none.
    """
    sets = []
    for number, fold in data.folds.items():
        name = benchmark.title if len(benchmark.folds) == 0 else f"fold {number}"
        generator = np.random.RandomState(seed)
        for i in fold.classes:
            if len(set(fold.names[i])) < 2:
                raise ValueError(
                    f"{name}: expected at least 2 images of {data.classes[i]}, for a query and a prompt, got "
                    f"{len(fold.names[i])}"
                )
        if benchmark.name == "fss-1000":
            drawn = _of_neighbours(generator, fold, shots)
        elif fold.pairs is not None:
            drawn = _of_pairs(generator, fold, fold.pairs, shots)
        else:
            drawn = _uniform(generator, fold, shots)
        each = EpisodeSet(name, False, tuple(drawn), data.root, benchmark.title, dict(data.classes))
        sets.append(limited(each, limit))
    return tuple(sets)


def _uniform(generator: np.random.RandomState, fold: Fold, shots: int) -> Iterator[Episode]:
    """Draw as COCO-20i does: a class, a query of it, prompts of it."""
    for _ in range(EPISODES):
        i = _pick(generator, fold.classes)
        query = _pick(generator, fold.names[i])
        yield Episode(i, query, _prompts(generator, fold.names[i], query, shots))


def _of_pairs(
    generator: np.random.RandomState, fold: Fold, pairs: Sequence[tuple[str, int]], shots: int
) -> Iterator[Episode]:
    """Draw as PASCAL-5i does: the listed queries in turn, prompts of the same class."""
    for number in range(EPISODES):
        query, i = pairs[number % len(pairs)]
        yield Episode(i, query, _prompts(generator, fold.names[i], query, shots))


def _of_neighbours(generator: np.random.RandomState, fold: Fold, shots: int) -> Iterator[Episode]:
    """Draw as FSS-1000 does: every image once; prompts by their numbers 1 to 10, not in the order of file names."""
    for query, i in fold.pairs or ():
        by_number = sorted(fold.names[i], key=lambda name: int(name.rpartition("/")[2]))
        yield Episode(i, query, _prompts(generator, by_number, query, shots))


def _prompts(generator: np.random.RandomState, names: Sequence[str], query: str, shots: int) -> tuple[str, ...]:
    """Draw uniformly with replacement, only never the query itself."""
    prompts: list[str] = []
    while len(prompts) < shots:
        name = _pick(generator, names)
        if name != query:
            prompts.append(name)
    return tuple(prompts)


def _pick(generator: np.random.RandomState, items: Sequence[_Item]) -> _Item:
    """Draw one of them, as `generator.choice(items, 1, replace=False)[0]` does, without an array of texts each time."""
    return items[int(generator.permutation(len(items))[0])]
