"""A run of ADE20K or COCO panoptic, from its data to what is reported.

Every class is asked of every image, as many at a time as colours can be told apart. Its prompts are training images
that show it, the classes that are asked together painted; or a prompt tensor that `incontext tune` learned stands in
their place.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from incontext.canvas.context import grouped
from incontext.engine import PreparedContext, Segmenter
from incontext.evaluation.few_shot.scoring import Answer
from incontext.evaluation.protocols.few_shot import shots_name
from incontext.evaluation.protocols.lists import read_list
from incontext.evaluation.protocols.outcome import Outcome
from incontext.evaluation.protocols.request import Estimate, Request, Tell, memory_with
from incontext.evaluation.protocols.scene_data import SceneData, Scenes, choose_examples, read_scenes
from incontext.evaluation.protocols.scenes import (
    SceneJournal,
    run_scenes,
    scene_outcome,
    score_scenes,
    write_panoptic,
)
from incontext.images.ids import IGNORED, Pixels
from incontext.images.read import read_image
from incontext.prompt_tensor import PromptTensor
from incontext.types import Palette, Prompt

SMALLEST: Final = 16 * 16  # pixels of an object: a patch of the published network, beyond which paint says little
_IMAGE: Final = (480, 640)  # of what the time is measured with
_MASK: Final = 20_000  # bytes of an answer as PNG, about


class SceneRun:
    """Which images are asked, with which prompts; and asks them.

    Args:
        examples: Of each class, empty where prompt tensors are used.
    """

    def __init__(
        self, request: Request, data: SceneData, names: tuple[str, ...], examples: Mapping[int, tuple[str, ...]]
    ) -> None:
        self.request = request
        self.data = data
        self.names = names
        self.examples = examples

    @classmethod
    def open(cls, request: Request, tell: Tell | None = None) -> Self:
        """Read where the images are and choose the prompts, or read a list of both."""
        data = read_scenes(request.benchmark, request.data)
        if request.episodes is not None:
            names, examples = _listed(request, data)
        else:
            names, examples = data.queries.names, {}
        if request.limit is not None and request.limit < len(names):
            names = tuple(names[i] for i in np.linspace(0, len(names) - 1, request.limit).round().astype(int).tolist())
        if not names:
            raise ValueError(f"{data.root}: expected at least one image to label, got none")
        if not request.prompt_tensors and not examples:
            say = None if tell is None else (lambda done, total: tell("training images", done, total))
            examples = choose_examples(data.examples(), sorted(data.classes), cls._shots(request), on_image=say)
        return cls(request, data, names, {} if request.prompt_tensors else examples)

    @property
    def about(self) -> dict[str, object]:
        """Facts for the report."""
        names = ", ".join(map(str, self.request.prompt_tensors))
        prompts = (
            f"prompt tensor {names}" if names else f"{shots_name(self._shots(self.request))} of each class, seed 0"
        )
        return {"scored at": "the images' own size", "images": len(self.names), "prompts": prompts}

    def content(self) -> dict[str, Any]:
        """Write what an episode list says of them."""
        return {"queries": list(self.names), "prompts": {str(i): list(names) for i, names in self.examples.items()}}

    def estimate(self, segmenter: Segmenter) -> Estimate:
        """Estimate time and memory, by an image of noise asked for one group of classes."""
        image = np.random.default_rng(0).integers(0, 256, (*_IMAGE, 3), dtype=np.uint8)
        groups = [set(palette.ids.tolist()) - {0} for palette in grouped(set(self.data.classes))]
        if self.request.prompt_tensors:
            prepared, passes = self._prepared(segmenter), 1
        else:
            prepared, passes = self._of_noise(segmenter, image, groups[0]), len(groups)
        seconds = 0.0
        for _ in range(2):  # the first pass of a network is slower
            start = time.perf_counter()
            list(segmenter.segment_many([image], prepared))
            seconds = passes * (time.perf_counter() - start)
        network = segmenter.estimate_memory(shots=prepared.shots, side=self.request.side)
        return Estimate("images", len(self.names), seconds, memory_with(network, 0), len(self.names) * _MASK)

    def ask(self, segmenter: Segmenter, out: Path, settings: Mapping[str, object], *, tell: Tell) -> Outcome:
        """Ask all images, go on where a run was stopped, and say what came of it.

        Args:
            settings: What answers depend on.
        """
        smallest = SMALLEST if self.request.smallest is None else self.request.smallest
        own = {
            "prompts": self.content()["prompts"],
            "prompt_tensors": [str(path) for path in self.request.prompt_tensors],
            "ensemble": self.request.ensembles[0],
            "smallest": smallest,
        }

        def asked(images: Iterator[Pixels]) -> Iterable[Answer]:
            return (found.mask for found in segmenter.segment_many(images, self._prepared(segmenter)))

        with SceneJournal(out / "images.jsonl", {**settings, **own}) as journal:
            run_scenes(
                asked,
                self.data,
                self.names,
                out,
                journal,
                smallest=smallest,
                on_image=lambda done, total: tell("images", done, total),
            )
            if self.data.queries.things is not None:
                write_panoptic(out, self.data, self.names, journal)
            report = score_scenes(self.data, self.names, journal)
        how = "tuned prompt" if self.request.prompt_tensors else shots_name(self._shots(self.request))
        return scene_outcome(self.request.benchmark, report, self.data, self.names, out, how)

    @staticmethod
    def _shots(request: Request) -> int:
        return (request.shots or request.benchmark.shots)[0]

    def _prepared(self, segmenter: Segmenter) -> PreparedContext:
        """Prepare all classes, as many at a time as colours can be told apart."""
        request = self.request
        if request.prompt_tensors:
            prompt_tensors = [PromptTensor.load(path) for path in request.prompt_tensors]
            if strange := {i for each in prompt_tensors for i in each.ids} - set(self.data.classes):
                raise ValueError(
                    f"expected prompt tensors for classes of {request.benchmark.title}, got ids {sorted(strange)}"
                )
            return segmenter.prepare(
                prompt_tensors, ensemble=request.ensembles[0], task=request.task, side=request.side
            )
        training = self.data.examples()
        parts = [
            segmenter.prepare(
                list(self._prompts(training, set(palette.ids.tolist()) - {0})),
                ensemble=request.ensembles[0],
                task=request.task,
                side=request.side,
            )
            for palette in grouped(set(self.data.classes))
        ]
        passes = tuple(one for part in parts for one in part.passes)
        return replace(parts[0], passes=passes, shown=Palette.spread(self.data.classes))

    def _prompts(self, training: Scenes, group: set[int]) -> Iterator[Prompt]:
        """Open the prompts of some classes: the images chosen for them, all of these classes painted in each."""
        for name in dict.fromkeys(name for i in sorted(group) for name in self.examples[i]):
            ids = training.ids(name)
            mask = np.where(np.isin(ids, [*group, IGNORED]), ids, np.uint8(0))
            yield Prompt(read_image(training.image(name)), mask)

    def _of_noise(self, segmenter: Segmenter, image: Pixels, group: set[int]) -> PreparedContext:
        prompts = []
        for i in sorted(group):
            mask = np.zeros(_IMAGE, np.uint8)
            mask[100:300, 200:400] = i
            prompts += [Prompt(image, mask)] * self._shots(self.request)
        request = self.request
        return segmenter.prepare(prompts, ensemble=request.ensembles[0], task=request.task, side=request.side)


def _listed(request: Request, data: SceneData) -> tuple[tuple[str, ...], dict[int, tuple[str, ...]]]:
    assert request.episodes is not None
    document = read_list(request.episodes, request.benchmark)
    try:
        names = tuple(map(str, document["queries"]))
        examples = {int(i): tuple(map(str, of_class)) for i, of_class in document["prompts"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{request.episodes}: expected queries and prompts, got something else ({error!r})") from None
    _check_names(request.episodes, names, data.queries.names)
    if examples and not request.prompt_tensors:
        if set(examples) != set(data.classes):
            raise ValueError(
                f"{request.episodes}: expected prompts of all {len(data.classes)} classes, got {len(examples)}"
            )
        shots = SceneRun._shots(request)  # noqa: SLF001  its own
        examples = {i: of_class[:shots] for i, of_class in examples.items()} if request.shots else examples
        _check_names(request.episodes, [name for each in examples.values() for name in each], data.examples().names)
    return names, examples


def _check_names(path: Path, names: Sequence[str], known: Sequence[str]) -> None:
    if missing := sorted(set(names) - set(known)):
        raise FileNotFoundError(f"{path}: names {missing[0]} and {len(missing) - 1} others that the data have not")
