"""Few-shot scores on episodes: a query, prompts that show what to find, and the true mask.

Refuses to know networks: `evaluate` scores any function from queries and prompts to masks, and shows it neither the ids
of other classes nor the truth.

The protocol. Every episode asks for one id. Masks are compared at 224 x 224 pixels, both resized by nearest neighbour,
unless another size is asked for; ignored pixels (255) are left out. Intersections and unions are summed over a class's
episodes, then divided: that is the class's IoU; a set's mIoU is the mean over its classes, its FB-IoU the mean of the
foreground's and the background's IoU over all its episodes. At the fewest shots each episode's prompts also get a query
without the thing, where an empty answer is right.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from incontext.evaluation.few_shot.episodes import Episode, EpisodeSet
from incontext.evaluation.few_shot.images import SCORING_SIDE, EpisodeImages, ImageSource, at_scoring_side
from incontext.evaluation.few_shot.records import AnswerJournal, Question, Record
from incontext.evaluation.few_shot.scores import FewShotReport, score
from incontext.evaluation.metrics import ConfidenceTally, overlap
from incontext.images.ids import IGNORED, Pixels
from incontext.types import Prompt


class Found(Protocol):
    """An answer with a confidence, as `Segmentation` is: both (H, W), confidence in 0..1."""

    @property
    def mask(self) -> npt.NDArray[Any]:
        """(H, W) bool, or ids of which all but 0 and 255 are the thing."""

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """(H, W) float32 in 0..1."""


Answer: TypeAlias = "npt.NDArray[Any] | Found"
Predict: TypeAlias = Callable[[Sequence[Pixels], Sequence[Prompt]], Iterable[Answer]]
"""(H, W, 3) uint8 queries, prompts whose masks hold id 1 -> for each query (H, W) bool or ids (1: what was asked)."""


@dataclass(frozen=True)
class Method:
    """Something that answers episodes, and how reports call it.

    Attributes:
        baseline: It has not learnt anything.
        fewest_shots: It is not asked with fewer.
        uses_prompts: Where it does not, it is asked at one number of shots only, the least.
    """

    name: str
    predict: Predict
    baseline: bool = False
    fewest_shots: int = 1
    uses_prompts: bool = True

    def is_asked(self, shots: int, all_shots: Sequence[int]) -> bool:
        """Tell whether it answers with that many shots when a run is about `all_shots`."""
        return shots >= self.fewest_shots and (self.uses_prompts or shots == min(all_shots))


def evaluate(
    methods: Sequence[Method],
    sets: Sequence[EpisodeSet],
    *,
    shots: Sequence[int] = (1,),
    seed: int = 0,
    side: int | None = SCORING_SIDE,
    images: ImageSource | None = None,
    workers: int = 1,
    journal: AnswerJournal | None = None,
    on_episode: Callable[[int, int], None] | None = None,
) -> FewShotReport:
    """Ask the methods all episodes of the sets with each number of shots, in one pass, and score the answers.

    A method gets the first prompts of an episode, everything but the asked id painted background.

    Args:
        seed: Of the bootstrap.
        side: Pixels along a side at which masks are compared, None: each query's own size.
        images: Where they come from, None: the sets' folders.
        workers: Threads that each work on an episode; what is reported does not depend on them.
        journal: What it knows is not asked again, and it gets what is new. on_episode(done, total) is called after each
            episode. Raises ValueError for more shots than an episode has, and for an answer that has not the query's
            size.
    """
    _check(methods, sets, shots)
    asker = _Asker(images or EpisodeImages(sets), tuple(methods), tuple(shots), side, journal)
    tasks = [(each, episode) for each in sets for episode in each.episodes]
    answered: dict[Question, Record] = {}
    for done, new in enumerate(_in_order(asker.ask, tasks, workers), start=1):
        answered.update(new)
        if journal is not None:
            for question, record in new.items():
                if journal.get(question) is None:
                    journal.add(question, record)
        if on_episode is not None:
            on_episode(done, len(tasks))
    columns = [(method, n) for method in methods for n in shots if method.is_asked(n, shots)]
    return score(
        {
            (method.name, n, method.baseline): {
                each.name: [answered[asker.question(method, n, each, episode)] for episode in each.episodes]
                for each in sets
            }
            for method, n in columns
        },
        sets,
        seed=seed,
        side=side,
    )


def _check(methods: Sequence[Method], sets: Sequence[EpisodeSet], shots: Sequence[int]) -> None:
    if not methods or not sets or not shots:
        raise ValueError("expected at least one method, one set and one number of shots, got none")
    for repeated in ([method.name for method in methods], [each.name for each in sets], shots):
        if len(set(repeated)) < len(repeated):
            raise ValueError(f"expected each method, set and number of shots once, got {', '.join(map(str, repeated))}")
    for each in sets:
        fewest = min((len(episode.prompts) for episode in each.episodes), default=0)
        if wrong := [n for n in shots if not 1 <= n <= fewest]:
            raise ValueError(
                f"expected 1 to {fewest} shots, as many as an episode of {each.name} has prompts, got {wrong[0]}"
            )


@dataclass(frozen=True, eq=False)
class _Truth:
    """A query's truth, ready to be compared: at its own size, and both masks at the size of scores."""

    own: npt.NDArray[np.bool_]
    small: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Asker:
    """Asks the methods one episode. Threads may share it."""

    images: ImageSource
    methods: tuple[Method, ...]
    shots: tuple[int, ...]
    side: int | None
    journal: AnswerJournal | None

    def question(self, method: Method, shots: int, each: EpisodeSet, episode: Episode) -> Question:
        return Question.of(method.name, each.name, episode, shots, ask_absent=shots == min(self.shots))

    def ask(self, task: tuple[EpisodeSet, Episode]) -> dict[Question, Record]:
        each, episode = task
        asked = [(m, n) for n in self.shots for m in self.methods if m.is_asked(n, self.shots)]
        questions = {self.question(method, n, each, episode): method for method, n in asked}
        known = {q: self.journal.get(q) if self.journal is not None else None for q in questions}
        if all(record is not None for record in known.values()):
            return {question: record for question, record in known.items() if record is not None}
        truth = self._truth(each, episode)
        query = self.images.image(each.name, episode.query)
        prompts = [self.images.prompt(each, episode.id, stem) for stem in episode.prompts[: max(self.shots)]]
        answered = {}
        for question, method in questions.items():
            record = known[question]
            if record is None:
                queries = [query]
                if question.absent is not None:
                    queries.append(self.images.image(question.absent.set, question.absent.query))
                start = time.perf_counter()
                answers = list(method.predict(queries, prompts[: len(question.prompts)]))
                record = self._record(answers, queries, truth, (time.perf_counter() - start) / len(queries))
            answered[question] = record
        return answered

    def _truth(self, each: EpisodeSet, episode: Episode) -> _Truth:
        asked = self.images.asked(each, episode.id, episode.query)
        own = asked == 1
        return _Truth(own, at_scoring_side(own, self.side), at_scoring_side(asked == IGNORED, self.side))

    def _record(self, answers: Sequence[Answer], queries: Sequence[Pixels], truth: _Truth, seconds: float) -> Record:
        if len(answers) != len(queries):
            raise ValueError(f"expected an answer for each of {len(queries)} queries, got {len(answers)}")
        (own, confidence), *absent = (read_answer(*each) for each in zip(answers, queries, strict=True))
        found = at_scoring_side(own, self.side)
        tally = None
        if confidence is not None:
            small = at_scoring_side(confidence, self.side)
            tally = ConfidenceTally.of(small, found == truth.small, truth.ignored)
        return Record(
            foreground=overlap(found, truth.small, truth.ignored),
            background=overlap(~found, ~truth.small, truth.ignored),
            present=bool(truth.own.any()),
            lost=bool(truth.own.any()) and not bool((own & truth.own).any()),
            absent_empty=None if not absent else not bool(absent[0][0].any()),
            confidence=tally,
            seconds=seconds,
        )


def read_answer(answer: Answer, query: Pixels) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32] | None]:
    """Read what was found, (H, W) bool, and the confidence, (H, W) or None.

    Raises:
        ValueError: It does not fit the query.
    """
    mask, confidence = (answer, None) if isinstance(answer, np.ndarray) else (answer.mask, answer.confidence)
    for array in (mask,) if confidence is None else (mask, confidence):
        if array.shape != query.shape[:2]:
            raise ValueError(f"expected an answer of the query's size {query.shape[:2]}, got {array.shape}")
    if mask.dtype.kind not in "bui":
        raise ValueError(f"expected an answer of bool or integer ids, got {mask.dtype}")
    found: npt.NDArray[np.bool_] = mask == 1
    return found, confidence


_Task: TypeAlias = tuple[EpisodeSet, Episode]


def _in_order(
    ask: Callable[[_Task], dict[Question, Record]], tasks: Sequence[_Task], workers: int
) -> Iterator[dict[Question, Record]]:
    """Give the results in the order of the tasks, from as many threads; few wait to be taken."""
    if workers < 1:
        raise ValueError(f"expected at least 1 worker, got {workers}")
    if workers == 1:
        yield from map(ask, tasks)
        return
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[dict[Question, Record]]] = deque()
        try:
            for task in tasks:
                running.append(pool.submit(ask, task))
                if len(running) >= 2 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
