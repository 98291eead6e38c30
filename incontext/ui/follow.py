"""Following objects through a video of a session: masks on any frame, stopping, correcting a frame and going on there.

Every frame's mask and miniature is a file; the tracker's state is kept every few frames, so that going on from a frame
gives what would have come had its mask been there from the beginning. Refuses to know the page.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from incontext.images.ids import Pixels
from incontext.images.masks import read_mask
from incontext.images.read import IMAGE_SUFFIXES
from incontext.images.resize import shrunk
from incontext.options import DEFAULTS, SegmentOptions
from incontext.types import Prompt, Segmentation
from incontext.ui.paint import palette_for
from incontext.ui.results import MINIATURE, zip_folder
from incontext.ui.sessions import MOST_FRAMES, Followed, Following, Session
from incontext.video.frames import FramesError, open_frames
from incontext.video.streams import movie
from incontext.video.tracker import Tracker

if TYPE_CHECKING:
    from incontext.engine import Segmenter
    from incontext.prompt_tensor import PromptTensor

VIDEO_SUFFIXES: Final = frozenset({".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"})
MOST_STATES: Final = 64  # of the tracker, evenly over the frames; between two of them frames are tracked once more

State = dict[str, Any]


def is_video(path: Path) -> bool:
    """Tell whether people would expect to choose it as a video: such a file, or a folder of images."""
    if path.is_dir():
        return any(each.suffix.lower() in IMAGE_SUFFIXES for each in path.iterdir())
    return path.suffix.lower() in VIDEO_SUFFIXES


def open_video(session: Session, source: Path) -> Following:
    """Look at a video, forgetting the one before.

    Raises:
        FileNotFoundError, ValueError: it cannot be read, or is too long for the page.
    """
    with open_frames(source) as frames:
        size, rate, count = frames.size, float(frames.rate), frames.count
    if count is not None and count > MOST_FRAMES:
        raise ValueError(
            f"{source.name}: expected at most {MOST_FRAMES} frames on the page, got {count}; cut it, or use "
            "`incontext track`, which takes any length"
        )
    if session.following is not None:
        shutil.rmtree(session.following.folder, ignore_errors=True)
        session.drop(session.following.source)
    session.following = Following(source, source.name, session.new_folder(), size, rate, count)
    return session.following


def frame_of(following: Following, number: int) -> Pixels:
    """Read one frame, (H, W, 3) uint8.

    Raises:
        ValueError: There is none of that number.
    """
    with open_frames(following.source, start=number, stop=number + 1) as frames:
        try:
            return next(iter(frames)).image
        except FramesError as error:
            raise ValueError(str(error)) from None


def give_mask(following: Following, number: int, ids: Pixels) -> Followed | None:
    """Give objects as they are in a frame, from which on they are followed.

    Where that frame was tracked, the mask takes the place of what was found in it at once.

    Args:
        ids: (H, W) of the frame's size.

    Returns:
        The frame, if it was tracked.
    """
    Prompt(np.zeros((*following.size, 3), np.uint8), ids)  # for what it says of a mask that cannot be used
    following.masks[number] = ids
    following.changed = number if following.changed is None else min(number, following.changed)
    frame = following.at(number)
    if frame is None:
        return None
    made = replace(frame, ids=_drawn(frame_of(following, number), ids, frame))
    following.done[following.done.index(frame)] = made
    return made


def _drawn(image: Pixels, ids: Pixels, frame: Followed) -> tuple[int, ...]:
    """Write a mask (H, W), and the frame's image (H, W, 3) under it; return the ids in it."""
    palette = palette_for(np.unique(ids).tolist())
    found = Segmentation(ids, np.ones(ids.shape, np.float32), palette)
    found.save(frame.mask)
    Image.fromarray(shrunk(found.overlay(image), MINIATURE, quick=True)).save(frame.miniature, quality=85)
    return found.ids


def follow(
    session: Session,
    following: Following,
    segmenter: Segmenter,
    *,
    prompts: Sequence[Prompt] = (),
    prompt_tensors: Sequence[PromptTensor] = (),
    memory: int = 4,
    options: SegmentOptions = DEFAULTS,
) -> Iterator[Followed]:
    """Track the video from the first frame that is not known by now, or whose mask has changed since.

    Args:
        prompts, prompt_tensors: Of other images, in place of masks or beside them.
        memory, options: See `Tracker`. Ends early when the session is told to stop; called again, it goes on there.
            What could not be read is in `following.problems`.

    Raises:
        ValueError: there is nothing to follow, or an option cannot be used.
    """
    stop = session.stops["track"]
    context: tuple[Prompt | PromptTensor, ...] = (*prompt_tensors, *prompts)
    if not following.masks and not context:
        raise ValueError("expected something to follow, got nothing; paint it on a frame and press 'Use this mask'")
    tracker = Tracker(segmenter, context=context or None, memory=memory, **options.keywords())
    settings = (segmenter, memory, *context)
    start = 0 if context else min(following.masks)
    begin = _rewound(following, tracker, settings, start)
    following.changed = None
    following.problems.clear()
    try:
        yield from _steps(stop, following, tracker, begin)
    except FramesError as error:
        following.problems += error.problems


def _steps(stop: threading.Event, following: Following, tracker: Tracker, begin: int) -> Iterator[Followed]:
    known = {frame.number for frame in following.done}
    with open_frames(following.source, start=begin, stop=MOST_FRAMES) as frames:
        for frame in frames:
            if stop.is_set():
                return
            _save(following, frame.number, tracker.state())
            found = tracker.step(frame.image, following.masks.get(frame.number))
            if frame.number in known:  # it was known before, and is gone through again for what the tracker remembers
                continue
            mask, miniature = following.folder / f"{frame.name}.png", following.folder / f"{frame.name}.jpg"
            shown = replace(found, palette=palette_for(found.palette.ids.tolist()))
            shown.save(mask)
            image = shrunk(shown.overlay(frame.image), MINIATURE, quick=True)
            Image.fromarray(image).save(miniature, quality=85)
            done = Followed(frame.number, frame.name, mask, miniature, found.ids)
            following.done.append(done)
            yield done


def _rewound(following: Following, tracker: Tracker, settings: tuple[Any, ...], start: int) -> int:
    """Forget what is no longer true, bring the tracker to a frame that it knows, and say which comes next."""
    first_done = following.done[0].number if following.done else None
    if settings != following.settings or first_done != start:
        _forget(following, 0)
        following.settings = settings
        return start
    wanted = following.done[-1].number + 1 if following.changed is None else following.changed
    _forget(following, wanted)
    before = [number for number in _states(following) if number <= wanted]
    if not before:
        _forget(following, 0)
        return start
    with np.load(_state_file(following, before[-1])) as saved:
        tracker.restore(dict(saved))
    return before[-1]


def _forget(following: Following, first: int) -> None:
    """Forget all that was found from this frame on."""
    for frame in [frame for frame in following.done if frame.number >= first]:
        frame.mask.unlink(missing_ok=True)
        frame.miniature.unlink(missing_ok=True)
        following.done.remove(frame)
    for number in _states(following):
        if number > first or first == 0:
            _state_file(following, number).unlink()
    if not following.done:
        following.between = 1


def _save(following: Following, number: int, state: State) -> None:
    """Keep the state before a frame; where there are too many, every second one goes."""
    first = following.done[0].number if following.done else number
    if (number - first) % following.between:
        return
    np.savez(_state_file(following, number), allow_pickle=False, **state)
    states = _states(following)
    if len(states) > MOST_STATES:
        following.between *= 2
        for each in states:
            if (each - first) % following.between:
                _state_file(following, each).unlink()


def _states(following: Following) -> list[int]:
    return sorted(int(path.stem) for path in following.folder.glob("*.npz"))


def _state_file(following: Following, number: int) -> Path:
    return following.folder / f"{number}.npz"


# ------------------------------------------------------------------------------------------- downloads


def movie_of(following: Following, target: Path) -> Path:
    """Write the tracked frames under their masks as an MP4, with the sound and the times of the source."""
    if not following.done:
        raise ValueError("expected a tracked video to download, got none; track one first")
    first, last = following.done[0].number, following.done[-1].number
    by_number = {frame.number: frame for frame in following.done}
    with (
        open_frames(following.source, start=first, stop=last + 1) as frames,
        movie(target, frames.size, rate=frames.rate, pixel_aspect=frames.pixel_aspect, sound=frames.sound) as film,
    ):
        try:
            for frame in frames:
                if frame.number in by_number:
                    film.add(frame.seconds, _shown(by_number[frame.number]).overlay(frame.image))
        except FramesError:
            pass  # told when it was tracked
    return target


def _shown(frame: Followed) -> Segmentation:
    ids = read_mask(frame.mask).ids
    return Segmentation(ids, np.ones(ids.shape, np.float32), palette_for(frame.ids))


def zip_of(following: Following, target: Path) -> Path:
    """Write the masks of the tracked frames, indexed PNGs, as a ZIP."""
    if not following.done:
        raise ValueError("expected a tracked video to download, got none; track one first")
    folder = target.with_suffix("")
    folder.mkdir()
    for frame in following.done:
        shutil.copyfile(frame.mask, folder / frame.mask.name)
    zip_folder(folder, target)
    shutil.rmtree(folder)
    return target
