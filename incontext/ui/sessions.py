"""What one visitor has on the page: images, examples, results, prompt tensors, a video; and the folder of its files.

Visitors never see each other's: each has a Session of its own, whose folder has a name that cannot be guessed and goes
when the visitor has gone. Refuses to know the page and the network.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from incontext.images.ids import Pixels
from incontext.prompt_tensor import PromptTensor
from incontext.types import Prompt
from incontext.ui.work import Work

GRACE: Final = 600.0  # seconds that a session outlives its page, for connections that come back
UNHEARD: Final = 3600.0  # seconds that a session stays which no page is known to show, after it was last in use
MOST_SESSIONS: Final = 32
MOST_EXAMPLES: Final = 64
MOST_IMAGES: Final = 2000
MOST_FRAMES: Final = 3000  # of a video

Job = Literal["segment", "track", "tune"]


@dataclass(frozen=True, eq=False)
class Example:
    """A prompt, the name of its image, and its miniature as a file."""

    name: str
    prompt: Prompt
    miniature: Path


@dataclass(frozen=True)
class SessionImage:
    """An image to segment.

    Attributes:
        name: How people and results call it, with / between folders.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class SegmentedImage:
    """What became of an image: the file of its mask, or a sentence."""

    image: SessionImage
    mask: Path | None = None
    size: tuple[int, int] = (0, 0)  # (H, W)
    areas: dict[int, int] = field(default_factory=dict)  # id -> pixels
    confidence: float = 0.0  # mean, 0..1
    miniatures: tuple[Path, Path, Path] | None = None  # image, mask with transparency, confidence
    by_hand: bool = False
    objects: dict[int, int] = field(default_factory=dict)  # id -> connected parts
    problem: str | None = None


@dataclass(frozen=True)
class Followed:
    """A frame that was tracked: its mask and miniature, and what was found."""

    number: int
    name: str
    mask: Path
    miniature: Path
    ids: tuple[int, ...]


@dataclass(eq=False)
class Following:
    """A video and what is known of it.

    Attributes:
        count: Its frames, as far as the file says.
        masks: (H, W) ids, by frame.
        painted: The frame that is being painted on.
        done: The frames that were tracked, in order.
        changed: The first frame whose mask is not yet in `done`.
    """

    source: Path
    name: str
    folder: Path
    size: tuple[int, int]
    rate: float
    count: int | None
    masks: dict[int, Pixels] = field(default_factory=dict)
    painted: int = 0
    done: list[Followed] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    settings: tuple[Any, ...] = ()
    changed: int | None = None
    between: int = 1  # frames from one state that is kept to the next

    @property
    def last(self) -> int:
        """The number of the last frame, as far as that is known."""
        known = max([0, *self.masks, *(frame.number for frame in self.done)])
        return max(known, (self.count or MOST_FRAMES) - 1)

    def at(self, number: int) -> Followed | None:
        """Find what was found in a frame."""
        first = self.done[0].number if self.done else 0
        place = number - first
        if 0 <= place < len(self.done) and self.done[place].number == number:
            return self.done[place]
        return next((frame for frame in self.done if frame.number == number), None)


@dataclass(eq=False)
class Session:
    """One visitor.

    Attributes:
        stops: For each kind of job, what asks the one that runs or waits to end soon.
    """

    folder: Path
    image: tuple[str, Pixels] | None = None  # that is being painted on: its name and (H, W, 3) uint8
    examples: list[Example] = field(default_factory=list)
    prompt_tensors: dict[str, PromptTensor] = field(default_factory=dict)
    images: list[SessionImage] = field(default_factory=list)
    segmented: list[SessionImage] = field(default_factory=list)  # those of the last round, of which the results are
    results: list[SegmentedImage] = field(default_factory=list)
    following: Following | None = None
    prepared: tuple[tuple[object, ...], Any] | None = None  # the last context, and what it was made of
    answered_by: Any = None  # the context of the last round, by which its results came
    history: Any = None  # what was clicked on: ui/hinting.py
    names: dict[int, str] = field(default_factory=dict)  # what ids mean
    correcting: int | None = None  # the number of the result that is in the editor
    replaced: list[SegmentedImage] = field(default_factory=list)  # what corrections took the place of: undo needs them
    works: dict[Job, Work] = field(default_factory=dict)  # the last job of each kind
    answers: int = 0  # to clicks, so far
    stops: dict[Job, threading.Event] = field(default_factory=lambda: {job: threading.Event() for job in get_args(Job)})
    uploads: set[Path] = field(default_factory=set)  # what `kept` has kept
    seen: float = field(default_factory=time.monotonic)
    left: bool = False
    heartbeats: int = 0  # connections that pages keep open while they show it

    def begin(self, job: Job) -> None:
        """Begin a job: what stopped the one before it, which may still be ending, does not stop this one."""
        if self.stops[job].is_set():
            self.stops[job] = threading.Event()

    def end(self) -> None:
        """End all jobs soon."""
        for stop in self.stops.values():
            stop.set()

    def new_file(self, suffix: str) -> Path:
        """Make up a path in the session's folder, for a file to write."""
        return self.folder / f"{secrets.token_urlsafe(12)}{suffix}"

    def new_folder(self) -> Path:
        """Make a folder of its own in the session's folder."""
        path = self.folder / secrets.token_urlsafe(12)
        path.mkdir(parents=True)
        return path

    def kept(self, uploaded: str | os.PathLike[str]) -> Path:
        """Keep an upload under its own name, in the session's folder: others may upload the same and remove it."""
        source = Path(uploaded)
        path = self.new_folder() / source.name
        try:
            path.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, path)
        self.uploads.add(path)
        return path

    def drop(self, path: Path) -> None:
        """Remove an upload that was kept; any other file stays."""
        if path in self.uploads:
            self.uploads.remove(path)
            shutil.rmtree(path.parent, ignore_errors=True)


class Sessions:
    """All visitors.

    Args:
        grace: Seconds that a session outlives its page.
    """

    def __init__(self, root: Path, *, grace: float = GRACE) -> None:
        self._root, self._grace = root, grace
        self._lock = threading.Lock()
        self._all: dict[str, Session] = {}
        self._heartbeats: Counter[str] = Counter()  # by visitor; pages are heard before they ask for anything

    def of(self, visitor: str | None) -> Session:
        """Find the session of a visitor, or begin one.

        Where there are too many, the one that was left longest goes.

        Raises:
            ValueError: All of them are shown at this moment.
        """
        self.sweep()
        with self._lock:
            session = self._all.get(visitor or "")
            ended = self._make_room() if session is None else None
            if session is None:
                folder = self._root / secrets.token_urlsafe(24)
                folder.mkdir(parents=True, mode=0o700)
                session = self._all[visitor or ""] = Session(folder, heartbeats=self._heartbeats[visitor or ""])
            session.seen, session.left = time.monotonic(), False
        if ended is not None:
            _remove(ended)
        return session

    def _make_room(self) -> Session | None:
        """Take one out, if there are too many; it is still to be removed."""
        if len(self._all) < MOST_SESSIONS:
            return None
        alone = [name for name, each in self._all.items() if not each.heartbeats]
        if not alone:
            raise ValueError(f"expected at most {MOST_SESSIONS} pages at once, got one more; close some of them")
        return self._all.pop(min(alone, key=lambda name: self._all[name].seen))

    def hear(self, visitor: str, begins: bool) -> None:
        """Note that a page begins or ends to keep a connection open."""
        with self._lock:
            self._heartbeats[visitor] += 1 if begins else -1
            count = self._heartbeats[visitor]
            if count <= 0:
                del self._heartbeats[visitor]
            if (session := self._all.get(visitor)) is not None:
                session.heartbeats, session.seen = count, time.monotonic()

    def known(self, visitor: str | None) -> Session | None:
        """Find the session of a visitor, if there is one."""
        with self._lock:
            return self._all.get(visitor or "")

    def leave(self, visitor: str | None) -> None:
        """Note that the visitor's page was closed.

        Unless the visitor comes back, the session goes after a while, and its jobs end.
        """
        with self._lock:
            session = self._all.get(visitor or "")
            if session is None:
                return
            session.seen, session.left = time.monotonic(), True
        after(self._grace + 0.05, self.sweep)

    def forget_network(self) -> None:
        """Drop what was made by a network that is no longer in use."""
        with self._lock:
            for session in self._all.values():
                session.prepared = session.answered_by = session.history = None
                if session.following is not None:
                    session.following.settings = ()

    def sweep(self) -> None:
        """Remove what was left long enough ago."""
        now = time.monotonic()
        with self._lock:
            gone = [name for name, each in self._all.items() if self._is_gone(each, now)]
            ended = [self._all.pop(name) for name in gone]
        for session in ended:
            _remove(session)

    def _is_gone(self, session: Session, now: float) -> bool:
        if session.heartbeats:
            return False
        return now - session.seen >= (self._grace if session.left else max(self._grace, UNHEARD))

    def close(self) -> None:
        """Remove all of them."""
        with self._lock:
            ended = list(self._all.values())
            self._all.clear()
        for session in ended:
            _remove(session)


def _remove(session: Session) -> None:
    session.end()
    shutil.rmtree(session.folder, ignore_errors=True)


def after(seconds: float, call: Callable[[], None]) -> None:
    """Call once, later, in a thread that keeps nothing alive."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
