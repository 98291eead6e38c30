"""The Prompter: another model that marks what hints or a text mean in an image, as users hold it.

Refuses to know which networks answer (load.py puts them together), the engine, and what becomes of the masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from incontext.hints import Box, Hints
from incontext.images.ids import Pixels, check_ids, ids_in
from incontext.images.read import ImageLike, read_image
from incontext.prompters.clicking import boxes_of, mark, refuse_other_size
from incontext.prompters.layers import Layers
from incontext.prompters.parts import Clicker, Clicks, Example, Margins, Reader
from incontext.prompters.phrases import names_of_ids, phrases_of
from incontext.proposals import Proposals, propose
from incontext.types import Prompt, Segmentation

_SHOWN: Final = 200  # letters of a text, in a sentence

Text = str | Sequence[str]


class NothingFoundError(ValueError):
    """A prompter found nothing of what it was asked for. The message says of what."""


class Prompter:
    """Marks images by hints, by text, or by both. Made by `load_prompter`; a context manager that closes itself.

    Attributes:
        name: As it was asked for.
        sha256: Over the files of all of its networks.
        min_score: How sure a find for a text must be to count, 0..1.
    """

    def __init__(
        self,
        name: str,
        *,
        reader: Reader | None,
        clicker: Clicker | None,
        sha256: str,
        min_score: float,
        device: str,
        takes_examples: bool = False,
    ) -> None:
        """Hold the parts. takes_examples: whether the reader uses boxes beside a text."""
        if not 0 < min_score < 1:
            raise ValueError(f"expected a least score above 0 and below 1, got {min_score}")
        self.name, self.sha256, self.min_score = name, sha256, min_score
        self._reader, self._clicker, self._device = reader, clicker, device
        self._takes_examples = takes_examples
        self._closed = False

    @property
    def takes_text(self) -> bool:
        """Whether it reads text."""
        return self._reader is not None

    @property
    def takes_hints(self) -> bool:
        """Whether it answers hints."""
        return self._clicker is not None

    def segment(
        self, image: ImageLike, *, hints: Hints | None = None, text: Text | None = None, start: Any = None
    ) -> Segmentation:
        """Mark an image. What is not found is not in the mask.

        Args:
            image: A path, a PIL image or an (H, W, 3) uint8 array.
            hints: In the image's own pixels; ids are those of the hints. Beside a text they correct what was found
                for it: id 1 is the first phrase. SAM 3 takes boxes beside a text as examples of what is meant.
            text: A phrase, which becomes id 1; or several, which become 1, 2 and so on.
            start: (H, W) ids that hints correct, in place of a text: what no hint contradicts stays.

        Returns:
            The mask at the image's own size. Its presence is the score of each id, 0 where it was not found.

        Raises:
            ValueError: There is nothing to go by, the prompter does not take it, or it cannot be used.
        """
        self._refuse_closed()
        pixels = read_image(image)
        if hints is None and text is None:
            raise ValueError("expected hints or a text to go by, got neither")
        if text is not None and start is not None:
            raise ValueError("expected a text or a mask to begin with, got both; leave one out")
        asked: set[int] = set() if hints is None else set(hints.ids)
        if text is not None:
            phrases = phrases_of(text)
            asked |= names_of_ids(phrases).keys()
            layers = self._read(pixels, phrases, hints)
            hints = self._unused(hints)
            if hints is None:
                return layers.segmentation(asked)
            start = layers.mask
        clicker = self._asked_clicker()
        begun = None if start is None else self._begun(start, pixels)
        return mark(clicker, pixels, hints, begun).segmentation(asked | set(() if begun is None else ids_in(begun)))

    def prompt(
        self,
        image: ImageLike,
        hints: Hints | None = None,
        text: Text | None = None,
        *,
        start: npt.NDArray[Any] | None = None,
    ) -> Prompt:
        """Mark an image as an example for others.

        Args: see `segment`.

        Returns:
            A prompt, its ids called by their phrases.

        Raises:
            NothingFoundError: Nothing is marked, and so it is no example.
            ValueError: As `segment` raises it.
        """
        pixels = read_image(image)
        found = self.segment(pixels, hints=hints, text=text, start=start)
        return self._prompt(pixels, found, text)

    def refer(self, image: ImageLike, phrase: str) -> Segmentation:
        """Find the one thing that a phrase refers to: locate it, then segment it (LTS, arXiv 2103.16284).

        Args:
            image: As in `segment`.
            phrase: Such as "the cat on the left". The surest find of at least `min_score` is taken.

        Returns:
            The mask, with id 1 for it, at the image's own size.

        Raises:
            ValueError: The prompter reads no text, or the phrase cannot be used.
        """
        self._refuse_closed()
        pixels, (asked,) = read_image(image), phrases_of(phrase)
        layers = Layers(*pixels.shape[:2])
        claim = self._asked_reader().refer(pixels, asked, least=self.min_score)
        if claim is not None:
            layers.add(1, claim.margins, claim.score)
        return layers.segmentation({1})

    def prompt_of(self, image: ImageLike, phrase: str) -> Prompt:
        """Mark the one thing that a phrase refers to as an example for others. Raises as `prompt` does."""
        pixels = read_image(image)
        return self._prompt(pixels, self.refer(pixels, phrase), phrase)

    def answer_clicks(self, image: Pixels, points: Sequence[tuple[float, float]]) -> Iterator[tuple[Margins, float]]:
        """Answer each click by itself, in their order; see `incontext.proposals.AnswersClicks`.

        Raises:
            ValueError: The prompter answers no hints.
        """
        self._refuse_closed()
        on = np.ones(1, np.bool_)
        yield from self._asked_clicker().masks(image, [Clicks(np.array([point], np.float32), on) for point in points])

    def propose(self, image: ImageLike, **options: Any) -> Proposals:
        """Find masks of everything in an image, by a grid of clicks and the policy of `incontext.propose`.

        Args:
            image: As in `segment`.
            **options: Those of `incontext.propose`.
        """
        self._asked_clicker()
        return propose(self, image, **options)

    def check(self, *, text: Text | None) -> None:
        """Raise ValueError where a text cannot be used, before any image is looked at."""
        if text is not None:
            self._asked_reader().check(phrases_of(text))

    def describe(self) -> dict[str, object]:
        """Tell what changes a mask, by names and plain values."""
        return {"prompter": self.name, "sha256": self.sha256, "min_score": self.min_score}

    def close(self) -> None:
        """Release the networks from memory; the prompter is of no more use."""
        self._reader = self._clicker = None
        self._closed = True
        release(self._device)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, pixels: Pixels, phrases: Sequence[str], hints: Hints | None) -> Layers:
        """Find phrases."""
        layers = Layers(*pixels.shape[:2])
        examples: list[Example] = []
        if self._takes_examples and hints is not None:
            hints.check((pixels.shape[0], pixels.shape[1]))
            examples = [_example(box, i, len(phrases)) for box, i in boxes_of(hints)]
        for claim in self._asked_reader().read(pixels, phrases, least=self.min_score, examples=examples):
            layers.add(claim.phrase + 1, claim.margins, claim.score)
        return layers

    def _unused(self, hints: Hints | None) -> Hints | None:
        """Return what is left of hints beside a text when the boxes that are examples are taken."""
        if hints is None or not self._takes_examples:
            return hints
        rest = [each for each in hints.marks if not isinstance(each, Box)]
        return Hints.of(rest) if rest else None

    def _asked_reader(self) -> Reader:
        if self._reader is None:
            raise ValueError(
                f"{self.name} answers hints and reads no text; put a detector before it, as in mm-grounding-dino+"
                f"{self.name}, or give hints"
            )
        return self._reader

    def _asked_clicker(self) -> Clicker:
        self._refuse_closed()
        if self._clicker is None:
            raise ValueError(
                f"{self.name} reads text and answers no hints; add one that does, as in {self.name}+sam2.1"
            )
        return self._clicker

    def _prompt(self, pixels: Pixels, found: Segmentation, text: Text | None) -> Prompt:
        names = {} if text is None else dict(names_of_ids(phrases_of(text)))
        if found.is_empty:
            what = "" if text is None else f" for {', '.join(names.values())!r:.{_SHOWN}}"
            raise NothingFoundError(f"{self.name} found nothing{what} in this image; try other words, or hints")
        there = {i: name for i, name in names.items() if i in found.ids}
        return Prompt(pixels, found.mask, palette=found.palette, names=there)

    def _begun(self, start: npt.NDArray[Any], pixels: Pixels) -> Pixels:
        ids = check_ids(np.asarray(start), "the mask to begin with")
        refuse_other_size(ids, pixels)
        return ids

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ValueError(f"expected a prompter that is open, got {self.name} after it was closed; load it again")


def _example(box: tuple[float, float, float, float], number: int, phrases: int) -> Example:
    if number > phrases:
        raise ValueError(
            f'expected boxes beside a text with ids of its phrases, 1..{phrases}, or 0 for "not this"; got {number}'
        )
    return Example(box, None if number == 0 else number - 1)


def release(device: str) -> None:
    """Give memory of networks that nobody holds any more back to the device."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
