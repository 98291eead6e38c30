"""A run of COCO-20i, PASCAL-5i or FSS-1000, from its data to what is reported."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from incontext.engine import Segmenter
from incontext.evaluation.few_shot.records import AnswerJournal
from incontext.evaluation.few_shot.scoring import Method
from incontext.evaluation.protocols.drawing import draw
from incontext.evaluation.protocols.few_shot import Lists, few_shot_gallery, few_shot_outcome, run_few_shot
from incontext.evaluation.protocols.few_shot_data import FewShotData, read_few_shot
from incontext.evaluation.protocols.lists import few_shot_content, few_shot_lists
from incontext.evaluation.protocols.outcome import Outcome
from incontext.evaluation.protocols.request import Estimate, Request, Tell, memory_with
from incontext.options import Ensemble
from incontext.types import Prompt

_IMAGE: Final = (480, 640)  # of what the time is measured with
_CACHED: Final = 512 << 20  # bytes of images and masks that are kept, and as much again for the records
_RECORD: Final = 700  # bytes of an answer in its file


class FewShotRun:
    """Which episodes are asked; and asks them."""

    def __init__(self, request: Request, data: FewShotData, lists: Lists) -> None:
        self.request = request
        self.data = data
        self.lists = lists

    @classmethod
    def open(cls, request: Request, _tell: Tell | None = None) -> Self:
        """Read the data and draw the episodes, or read their list; all their files are there then."""
        benchmark = request.benchmark
        folds = request.folds if request.folds is not None else benchmark.folds or (0,)
        listed = request.episodes
        data = read_few_shot(benchmark, request.data, folds if listed is None else ())
        lists: Lists
        if listed is None:
            shots = request.shots or benchmark.shots
            lists = {count: draw(benchmark, data, count, limit=request.limit) for count in shots}
        else:
            lists = few_shot_lists(
                listed, benchmark, data, shots=request.shots, folds=request.folds, limit=request.limit
            )
        data.check(
            name
            for sets in lists.values()
            for each in sets
            for episode in each.episodes
            for name in (episode.query, *episode.prompts)
        )
        return cls(request, data, lists)

    @property
    def about(self) -> dict[str, object]:
        """Facts for the report."""
        side = self.request.scored_at
        size = "the queries' own size" if side is None else f"{side} x {side}"
        drawn = "drawn, seed 0" if self.request.episodes is None else str(self.request.episodes)
        return {"scored at": size, "episodes": drawn, "shots": ", ".join(map(str, self.lists)), **self.data.about}

    def content(self) -> dict[str, Any]:
        """Write what an episode list says of them."""
        return few_shot_content(self.lists)

    def estimate(self, segmenter: Segmenter) -> Estimate:
        """Estimate time and memory, by a call with noise for each number of shots and ensemble."""
        seconds, count = 0.0, 0
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (*_IMAGE, 3), dtype=np.uint8)
        mask = np.zeros(_IMAGE, np.uint8)
        mask[100:300, 200:400] = 1
        for shots, sets in self.lists.items():
            episodes = sum(len(each.episodes) for each in sets)
            count += episodes
            for method in self._methods(segmenter):
                if method.fewest_shots <= shots:
                    prompts = [Prompt(image, mask)] * shots
                    list(method.predict([image], prompts))  # the first pass of a network is slower
                    start = time.perf_counter()
                    list(method.predict([image], prompts))
                    seconds += episodes * (time.perf_counter() - start)
        network = segmenter.estimate_memory(shots=max(self.lists), side=self.request.side)
        return Estimate("episodes", count, seconds / max(1, count), memory_with(network, _CACHED), count * _RECORD)

    def ask(
        self, segmenter: Segmenter, out: Path, settings: Mapping[str, object], *, workers: int, tell: Tell
    ) -> Outcome:
        """Ask all episodes, go on where a run was stopped, and say what came of it.

        Args:
            settings: What answers depend on.
        """
        methods = self._methods(segmenter)
        own = {"data": self.data.state(), "scored at": self.request.scored_at}
        with AnswerJournal(out / "answers.jsonl", {**settings, **own}) as journal:
            report = run_few_shot(
                methods,
                self.lists,
                self.data,
                side=self.request.scored_at,
                workers=workers,
                journal=journal,
                on_episode=lambda done, total: tell("episodes", done, total),
            )
        shown, shots = few_shot_gallery(report, methods[0], self.lists, self.data)
        return few_shot_outcome(self.request.benchmark, report, shown, shots)

    def _methods(self, segmenter: Segmenter) -> list[Method]:
        """Make the methods. With one prompt both ensembles are the same, so only the first of them is asked then."""
        ensembles = self.request.ensembles
        return [self._method(segmenter, each, 2 if each != ensembles[0] else 1) for each in ensembles]

    def _method(self, segmenter: Segmenter, ensemble: Ensemble, fewest: int) -> Method:
        request = self.request

        def predict(queries: Any, prompts: Any) -> Any:
            found = segmenter.segment_many(queries, prompts, ensemble=ensemble, task=request.task, side=request.side)
            return (each.mask for each in found)  # without the confidence, which no benchmark asks for

        return Method(ensemble, predict, fewest_shots=fewest)
