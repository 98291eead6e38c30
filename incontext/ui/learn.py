"""Tuning a prompt tensor from labelled images of a session, told step by step while it runs in a thread of its own.

Refuses to know the page.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from incontext.examples import gather, open_prompts
from incontext.options import Task
from incontext.prompt_tensor import PromptTensor
from incontext.types import Prompt
from incontext.ui.paint import palette_for
from incontext.ui.places import Places
from incontext.ui.results import LONGEST
from incontext.ui.sessions import Session

if TYPE_CHECKING:
    from incontext.engine import Segmenter
    from incontext.tuning import TuningStep

HELD_OUT: Final = 0.25


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Images with masks, and their names."""

    names: tuple[str, ...]
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class Tried:
    """So many examples were tried as a start, of so many."""

    done: int
    total: int


class _StoppedError(Exception):
    """The user stopped the tuning."""


def accepted(session: Session) -> LabelledSet:
    """Take the examples of the session."""
    if not session.examples:
        raise ValueError("expected examples to tune on, got none; accept some results in the Segment tab first")
    return LabelledSet(tuple(each.name for each in session.examples), tuple(each.prompt for each in session.examples))


def uploaded(session: Session, files: Sequence[str]) -> LabelledSet:
    """Pair files that were dropped: NAME.jpg and NAME_mask.png, or NAME.png, beside it in any order."""
    folder = session.new_folder()
    taken: set[str] = set()
    for path in map(Path, files):
        if path.name.casefold() in taken:
            raise ValueError(f"expected files of different names, got {path.name} twice; rename one")
        taken.add(path.name.casefold())
        session.kept(path).rename(folder / path.name)
    return _opened(folder)


def in_folder(places: Places, folder: str) -> LabelledSet:
    """Find the labelled images of an opened folder."""
    return _opened(places.check(folder), places)


def _opened(folder: Path, places: Places | None = None) -> LabelledSet:
    files = gather(source=folder)
    for path in (path for pair in files.pairs for path in pair):
        if places is not None:
            places.check(path)
    opened = open_prompts(files, longest=LONGEST)
    ids = {i for prompt in opened.prompts for i in prompt.ids}
    palette = palette_for(ids)
    prompts = tuple(replace(prompt, palette=palette) for prompt in opened.prompts)
    return LabelledSet(tuple(image.name for image, _ in opened.pairs), prompts)


def tuning(
    session: Session, segmenter: Segmenter, labelled: LabelledSet, *, steps: int, shots: int, task: Task = "instance"
) -> Iterator[Tried | TuningStep | PromptTensor]:
    """Tune, and tell how it goes: the examples that were tried as a start, the steps, and at last the prompt tensor.

    It ends without one when the session is told to stop.

    Raises:
        ValueError: As `tune` says of the images and the options.
    """
    from incontext.tuning import tune

    stop = session.stops["tune"]
    told: queue.SimpleQueue[Tried | TuningStep | PromptTensor | Exception] = queue.SimpleQueue()
    left = threading.Event()

    def tell(came: Tried | TuningStep) -> None:
        told.put(came)
        if stop.is_set() or left.is_set():
            raise _StoppedError

    def work() -> None:
        try:
            told.put(
                tune(
                    segmenter,
                    labelled.prompts,
                    steps=steps,
                    shots=shots,
                    task=task,
                    held_out=HELD_OUT,
                    image_names=labelled.names,
                    on_step=tell,
                    on_tried=lambda done, total: tell(Tried(done, total)),
                )
            )
        except Exception as error:  # noqa: BLE001  told, and raised where the page hears of it
            told.put(error)

    worker = threading.Thread(target=work, name="tune", daemon=True)
    worker.start()
    try:
        while True:
            came = told.get()
            if isinstance(came, _StoppedError):
                return
            if isinstance(came, Exception):
                raise came
            yield came
            if isinstance(came, PromptTensor):
                return
    finally:
        left.set()
        worker.join()
