"""Rounds on one query: hints one after the other, each answered, taken back, accepted.

Hints add up within a query; accepted answers join the context of the next (the memory of SEEM, arXiv 2304.06718, by the
means that are here). Refuses to know the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from incontext.engine import Context, PreparedContext, Segmenter
from incontext.hints import Hints
from incontext.images.ids import IGNORED, Pixels
from incontext.images.read import ImageLike, read_image
from incontext.network.model import PromptTokens
from incontext.prompt_tensor import PromptTensor, listed
from incontext.types import Prompt, Segmentation

if TYPE_CHECKING:  # it brings seconds
    from incontext.prompters import Prompter


@dataclass(frozen=True, eq=False)
class _Round:
    """What was said so far, and the answer to it."""

    hints: Hints | None
    answer: Segmentation | None


class Rounds:
    """A user's rounds on one query.

    Attributes:
        query: (H, W, 3) uint8.
        context: The examples, none if the hints stand alone; None where they came prepared.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        query: ImageLike,
        context: Context | PreparedContext | None = None,
        *,
        answer_weight: float = 0.0,
        **options: Any,
    ) -> None:
        """Begin, without a hint.

        Args:
            segmenter: What answers.
            query: A path, a PIL image or an (H, W, 3) uint8 array.
            context: Examples, or what `Segmenter.prepare` made of them, in which the options are decided; None: the
                hints alone say what to find.
            answer_weight: How much the last answer counts as a further example on its own query, beside examples that
                count 1 each; 0: it does not stand there, which measured best (docs/log.md).
            **options: As `Segmenter.prepare` takes them.

        Raises:
            FileNotFoundError, ValueError: the query, the context or an option cannot be used; the message says why.
        """
        if not 0 <= answer_weight < inf:
            raise ValueError(f"expected an answer_weight of at least 0, got {answer_weight}")
        self.query: Pixels = read_image(query)
        self._segmenter, self._options, self._answer_weight = segmenter, options, answer_weight
        if isinstance(context, PreparedContext):
            if answer_weight or options:
                raise ValueError("expected options and answer_weight with examples, got them with a prepared context")
            self.context: tuple[Prompt | PromptTensor, ...] | None = None
            self._prepared = context
        else:
            self.context = listed(context)
            known: dict[str, PromptTokens] | None = {} if answer_weight and self.context else None
            self._prepared = segmenter.prepare(self.context or None, known=known, **options)
        first = segmenter.segment(self.query, self._prepared) if self._prepared.passes else None
        self._done = [_Round(None, first)]
        self._undone: list[_Round] = []

    @property
    def answer(self) -> Segmentation | None:
        """The answer to all that was said so far; None as long as there is neither an example nor a hint."""
        return self._done[-1].answer

    @property
    def hints(self) -> Hints | None:
        """All that was said so far, in order; None: nothing."""
        return self._done[-1].hints

    def hint(
        self,
        hints: Hints | None = None,
        *,
        points: Iterable[Sequence[float]] = (),
        boxes: Iterable[Sequence[float]] = (),
        polygons: Iterable[tuple[Iterable[Sequence[float]], int]] = (),
        scribbles: Pixels | None = None,
    ) -> Segmentation:
        """Say more, and be answered.

        Args:
            hints: What is said; or in its place
            points: as for `Hints`,
            boxes: as for `Hints`,
            polygons: as for `Hints`,
            scribbles: as for `Hints`.

        Raises:
            ValueError: nothing is said, or what is said cannot be used; then all is as it was before.
        """
        if hints is None:
            hints = Hints(points=points, boxes=boxes, polygons=polygons, scribbles=scribbles)
        elif points or boxes or polygons or scribbles is not None:
            raise ValueError("expected either Hints or points, boxes, polygons and scribbles, got both")
        together = hints if self.hints is None else self.hints + hints
        answer = self._answered(together)
        self._done.append(_Round(together, answer))
        self._undone.clear()
        return answer

    def undo(self) -> Segmentation | None:
        """Take back what was said last; the answer as it was before.

        Raises:
            ValueError: Nothing was said.
        """
        if len(self._done) == 1:
            raise ValueError("expected a hint to take back, got none")
        self._undone.append(self._done.pop())
        return self.answer

    def redo(self) -> Segmentation | None:
        """Say again what was taken back last; the answer to it.

        Raises:
            ValueError: Nothing was taken back.
        """
        if not self._undone:
            raise ValueError("expected a hint that was taken back, got none")
        self._done.append(self._undone.pop())
        return self.answer

    def prompt(self, *, weight: float = 1.0) -> Prompt:
        """Take the query with its answer as an example for other queries.

        Raises:
            ValueError: Nothing is found in it yet.
        """
        if self.answer is None or self.answer.is_empty:
            raise ValueError("expected an answer that marks something to make an example of, got none; give a hint")
        return Prompt(self.query, self.answer.mask, palette=self.answer.palette, weight=weight)

    def accept(self, query: ImageLike, *, weight: float = 1.0) -> Rounds:
        """Accept the answer, which joins the context, and go on with the next query.

        Args:
            query: The next one.
            weight: How much this answer counts beside the examples.

        Raises:
            ValueError: nothing is found in it yet, or the context came prepared, so that its examples are not known.
        """
        if self.context is None:
            raise ValueError(
                "expected examples that an answer can join, got a prepared context; give Rounds the prompts"
            )
        context = (*self.context, self.prompt(weight=weight))
        return Rounds(self._segmenter, query, context, answer_weight=self._answer_weight, **self._options)

    def _answered(self, hints: Hints) -> Segmentation:
        prepared, last = self._prepared, self._done[-1].answer
        if self._answer_weight and self.context is not None and last is not None and not last.is_empty:
            together = (*self.context, self.prompt(weight=self._answer_weight))
            if set(hints.ids) <= {i for each in together for i in each.ids}:  # a new id has no example
                prepared = self._segmenter.prepare(together, known=prepared.tokens, **self._options)
        return self._segmenter.segment(self.query, prepared, hints=hints)


class PrompterRounds(Rounds):
    """Rounds that a prompter answers: to a text, which hints then correct, or to hints alone.

    Attributes:
        text: The phrases; without any, hints alone say what to find.
    """

    def __init__(
        self, prompter: Prompter, query: ImageLike, text: Sequence[str] = (), *, segmenter: Segmenter | None = None
    ) -> None:
        """Begin with what is found for the text.

        Args:
            prompter: What answers.
            query: A path, a PIL image or an (H, W, 3) uint8 array.
            text: Phrases; the first becomes id 1.
            segmenter: What corrects finds by hints where the prompter reads text alone: it is shown the find.

        Raises:
            FileNotFoundError, ValueError: The query or the text cannot be used; the message says why.
        """
        self.query = read_image(query)
        self.text = tuple(text)
        self.context = None
        self._prompter, self._corrects = prompter, segmenter
        self._done = [_Round(None, self._asked(self.query, None) if self.text else None)]
        self._undone = []

    def on(self, image: Pixels) -> Segmentation:
        """Answer all that was said so far on the same image (H, W, 3) at another size."""
        hints = self.hints
        return self._asked(
            image, None if hints is None else hints.resized(self.query.shape[:2], (image.shape[0], image.shape[1]))
        )

    def _answered(self, hints: Hints) -> Segmentation:
        return self._asked(self.query, hints)

    def _asked(self, image: Pixels, hints: Hints | None) -> Segmentation:
        if hints is None or self._prompter.takes_hints or self._corrects is None:
            return self._prompter.segment(image, hints=hints, text=self.text or None)
        found = self._prompter.segment(image, text=self.text)
        if not found.is_empty:
            hints = Hints(scribbles=np.where(found.mask > 0, found.mask, IGNORED).astype(np.uint8)) + hints
        return self._corrects.segment(image, None, hints=hints)
