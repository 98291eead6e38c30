"""Hints on the images of a session: what a visitor clicks, the answers, taking back, accepting.

An image is clicked on in a small copy, so that answers come at once, and segmented at its own size when it is accepted
or downloaded. Whatever a visitor does is a step of one history, which undo and redo walk. Refuses to know the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw

from incontext.hints import Hints
from incontext.images.ids import IGNORED, Pixels
from incontext.images.read import read_image
from incontext.images.resize import shrunk
from incontext.rounds import PrompterRounds, Rounds
from incontext.types import Segmentation
from incontext.ui import results
from incontext.ui.paint import palette_for
from incontext.ui.sessions import Example, SegmentedImage, Session

if TYPE_CHECKING:
    from incontext.engine import PreparedContext, Segmenter
    from incontext.prompters import Prompter

SMALL: Final = 640  # pixels along the longer side of what is clicked on
MOST_STEPS: Final = 64  # that can be taken back
MOST_PLACES: Final = 2000  # of a scribble
IMAGE: Final = "image"  # the key of the image that is being prepared; others are numbers of results

Kind = Literal["click", "box", "scribble"]


@dataclass(frozen=True)
class Said:
    """What a visitor did on an image: places (x, y) as shares of its width and height, 0..1."""

    key: str
    kind: Kind
    places: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, key: object, kind: object, places: object) -> Said:
        """Check what comes from a browser.

        Raises:
            ValueError: For anything else.
        """
        usable = isinstance(key, str) and (key == IMAGE or key.isdecimal()) and kind in get_args(Kind)
        listed = places if isinstance(places, list) and len(places) <= MOST_PLACES else []
        numbers = [tuple(at) for at in listed if isinstance(at, list) and len(at) == 2]
        inside = all(isinstance(v, int | float) and 0 <= v <= 1 for at in numbers for v in at)
        least = 2 if kind == "box" else 1
        if not usable or len(numbers) < max(least, len(listed)) or not inside:
            raise ValueError("expected a click, a box or a scribble within an image, got something else")
        return cls(str(key), kind, tuple((float(x), float(y)) for x, y in numbers))  # type: ignore[arg-type]

    def hints(self, size: tuple[int, int], i: int) -> Hints:
        """Say it in the pixels of an image (H, W), of an id, 0: "not this"."""
        height, width = size
        places = [(min(x * width, width - 0.5), min(y * height, height - 0.5)) for x, y in self.places]
        if self.kind == "click":
            return Hints(points=[(*places[0], i)])
        if self.kind == "box":
            (left, right), (top, bottom) = (sorted(each) for each in zip(*places[:2], strict=True))
            return Hints(boxes=[(left, top, right, bottom, i)])
        drawing = Image.new("L", (width, height), IGNORED)
        draw = ImageDraw.Draw(drawing)
        thick = max(3, round(max(size) / 100))
        for one, other in pairwise([places[0], *places]):
            draw.line([one, other], fill=i, width=thick)
        draw.point([(int(x), int(y)) for x, y in places], fill=i)
        return Hints(scribbles=np.asarray(drawing))


@dataclass(eq=False)
class Target:
    """An image that is clicked on: at its own size, and the rounds on its small copy.

    Attributes:
        settled: No round came since its result was written.
    """

    name: str
    image: Pixels
    rounds: Rounds
    context: PreparedContext | None
    drawn: list[tuple[Said, int]] = field(default_factory=list)
    redrawn: list[tuple[Said, int]] = field(default_factory=list)
    settled: bool = True

    def answer(self) -> Segmentation | None:
        """Return what the rounds came to, in the colours of the brushes."""
        found = self.rounds.answer
        return None if found is None else replace(found, palette=palette_for(found.palette.ids.tolist()))

    def whole(self, segmenter: Segmenter) -> Segmentation:
        """Return the answer at the image's own size.

        Raises:
            ValueError: Nothing was said and there is no example.
        """
        hints = self.rounds.hints
        if self.rounds.query.shape != self.image.shape or self.rounds.answer is None:
            scaled = None if hints is None else hints.resized(self.rounds.query.shape[:2], self.image.shape[:2])
            if isinstance(self.rounds, PrompterRounds):
                found = self.rounds.on(self.image)
            else:
                found = segmenter.segment(self.image, self.context, hints=scaled)
        else:
            found = self.rounds.answer
        return replace(found, palette=palette_for(found.palette.ids.tolist()))


@dataclass(frozen=True, eq=False)
class Step:
    """What can be taken back: a hint on an image, an answer that became an example, a result corrected by hand.

    Attributes:
        swapped: What stood in the place of a result before a correction, and since.
    """

    key: str
    example: Example | None = None
    swapped: tuple[SegmentedImage, SegmentedImage] | None = None

    @property
    def outlives(self) -> bool:
        """Whether it can be taken back when its image is clicked on no more."""
        return self.example is not None


@dataclass(eq=False)
class History:
    """What a visitor clicked on, and every step so far."""

    targets: dict[str, Target] = field(default_factory=dict)
    done: list[Step] = field(default_factory=list)
    undone: list[Step] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Add one more; what was taken back before cannot be given again."""
        self.done = [*self.done, step][-MOST_STEPS:]
        self.undone.clear()
        for target in self.targets.values():
            target.redrawn.clear()

    def forget(self, keep: Sequence[str] = ()) -> None:
        """Drop all images but these, and the hints on them; examples that came of them can still be taken back."""
        self.targets = {key: each for key, each in self.targets.items() if key in keep}
        self.done = [step for step in self.done if step.key in keep or step.outlives]
        self.undone.clear()


def history_of(session: Session) -> History:
    """Return the history of a session."""
    if session.history is None:
        session.history = History()
    history: History = session.history
    return history


def target_of(session: Session, segmenter: Segmenter, key: str) -> Target:
    """Find the image of that key.

    Raises:
        ValueError: There is none.
    """
    history = history_of(session)
    if key not in history.targets:
        if key == IMAGE:
            if session.image is None:
                raise ValueError("expected an image to click on, got none; choose one first")
            (name, image), context = session.image, None
        else:
            result = results.result_of(session, int(key))
            if result.mask is None or session.answered_by is None:
                raise ValueError(f"{result.image.name}: expected a result to click on, got an image without one")
            name, image, context = result.image.name, read_image(result.image.path), session.answered_by
        history.targets[key] = Target(name, image, Rounds(segmenter, shrunk(image, SMALL), context), context)
    return history.targets[key]


def begin_by(session: Session, segmenter: Segmenter, prompter: Prompter, text: Sequence[str] = ()) -> Target:
    """Let a prompter answer from now on what is said of the image that is being prepared.

    Args:
        segmenter: What corrects finds where the prompter answers no hints.
        prompter: Opened.
        text: Phrases that it looks for at once; hints then correct what is found. Without any, hints alone count.

    Raises:
        ValueError: There is no image, or the text cannot be used.
    """
    if session.image is None:
        raise ValueError("expected an image to look at, got none; choose one first")
    name, image = session.image
    rounds = PrompterRounds(prompter, shrunk(image, SMALL), text, segmenter=segmenter)
    target = Target(name, image, rounds, None)
    history = history_of(session)
    history.forget(keep=[key for key in history.targets if key != IMAGE])
    history.targets[IMAGE] = target
    return target


def answered_by(session: Session, segmenter: Segmenter, prompter: Prompter) -> None:
    """Let a prompter answer the clicks on the image that is being prepared, unless something answers them already."""
    if IMAGE not in history_of(session).targets:
        begin_by(session, segmenter, prompter)


def say(session: Session, segmenter: Segmenter, said: Said, i: int) -> Target:
    """Take a hint and answer it.

    Raises:
        ValueError: It cannot be used.
    """
    target = target_of(session, segmenter, said.key)
    target.rounds.hint(said.hints(target.rounds.query.shape[:2], i))
    history_of(session).add(Step(said.key))
    target.drawn.append((said, i))
    target.settled = False
    return target


def accept(session: Session, segmenter: Segmenter, key: str) -> Example:
    """Make an example of an answer.

    Raises:
        ValueError: Nothing was found yet.
    """
    if key == IMAGE:
        target = target_of(session, segmenter, key)
        if target.rounds.hints is None and target.rounds.answer is None:
            raise ValueError("expected a click on what you mean, got none; click on the image first")
        example = results.add_example(session, target.name, target.image, target.whole(segmenter).mask)
    else:
        settle(session, segmenter)
        example = results.accept(session, int(key))
    history_of(session).add(Step(key, example))
    return example


def correct(session: Session, number: int, image: Pixels, ids: Pixels) -> SegmentedImage:
    """Put a mask (H, W) that was painted in the place of a result's; hints on that image count no more."""
    before, made = results.correct(session, number, image, ids)
    history, key = history_of(session), str(number)
    history.targets.pop(key, None)
    history.done = [step for step in history.done if step.key != key or step.outlives or step.swapped is not None]
    history.add(Step(key, swapped=(before, made)))
    return made


def undo(session: Session) -> str:
    """Take the last step back; the key of its image.

    Raises:
        ValueError: There is none.
    """
    history = history_of(session)
    if not history.done:
        raise ValueError("expected something to undo, got nothing")
    step = history.done.pop()
    history.undone.append(step)
    if step.example is not None:
        session.examples = [each for each in session.examples if each is not step.example]
    elif step.swapped is not None:
        results.put_back(session, int(step.key), step.swapped[0])
        history.targets.pop(step.key, None)
    elif (target := history.targets.get(step.key)) is not None:
        target.rounds.undo()
        target.redrawn.append(target.drawn.pop())
        target.settled = False
    return step.key


def redo(session: Session) -> str:
    """Do again what was taken back last; the key of its image.

    Raises:
        ValueError: There is nothing.
    """
    history = history_of(session)
    if not history.undone:
        raise ValueError("expected something to redo, got nothing")
    step = history.undone.pop()
    history.done.append(step)
    if step.example is not None:
        session.examples.append(step.example)
    elif step.swapped is not None:
        results.put_back(session, int(step.key), step.swapped[1])
        history.targets.pop(step.key, None)
    elif (target := history.targets.get(step.key)) is not None:
        target.rounds.redo()
        target.drawn.append(target.redrawn.pop())
        target.settled = False
    return step.key


def settle(session: Session, segmenter: Segmenter) -> None:
    """Write the results of images that were clicked on, at their own size."""
    for key, target in history_of(session).targets.items():
        if key != IMAGE and not target.settled:
            results.replace_result(session, int(key), target.image, target.whole(segmenter))
            target.settled = True


def plain(drawn: Sequence[tuple[Said, int]]) -> list[Mapping[str, Any]]:
    """Describe for a browser what was drawn on an image."""
    return [{"kind": said.kind, "id": i, "at": [list(at) for at in said.places]} for said, i in drawn]
