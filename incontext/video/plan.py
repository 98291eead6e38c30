"""What a tracking job is: which frames, what is given of them, where results go. Nothing is written or tracked here.

Everything that a user can get wrong is found before weights are loaded. Refuses to know the tracker.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Unpack

import numpy as np

from incontext.digest import digest
from incontext.hints import Hints
from incontext.identity import context_hash
from incontext.images.masks import read_mask
from incontext.images.read import ImageLike
from incontext.images.write import refuse_unwritable
from incontext.options import Export, Policy, SegmentKeywords, SegmentOptions, takes_options
from incontext.prompt_tensor import PromptTensor
from incontext.sources.places import StrPath
from incontext.types import Prompt
from incontext.video.bank import MemoryBank, refuse_tiles
from incontext.video.exports import FILES
from incontext.video.frames import Frames, Mark, open_frames

OVERLAY_NAME: Final = "overlay.mp4"


@dataclass(frozen=True, eq=False)
class TrackJob:
    """A video to track, and where the results go; made by :func:`plan_track`.

    Attributes:
        mask: Of the first frame that is tracked, if given.
        masks, hints: Of frames by their numbers.
        snap: See `formats.read_mask`; it is for these masks.
        prompts: From other images.
        settings: In plain values all that the results depend on, but for the network.
    """

    source: Path
    out: Path
    mask: ImageLike | None
    masks: Mapping[int, ImageLike]
    hints: Mapping[int, Hints]
    snap: bool
    prompts: tuple[Prompt, ...]
    prompt_tensors: tuple[PromptTensor, ...]
    memory: int
    policy: Policy
    options: SegmentOptions
    start: Mark
    stop: Mark | None
    every: int
    overlay: bool
    exports: tuple[Export, ...]
    settings: Mapping[str, object]

    def open(self) -> Frames:
        """Open the frames."""
        return open_frames(self.source, start=self.start, stop=self.stop, every=self.every)

    def mask_of(self, number: int, *, is_first: bool) -> ImageLike | None:
        """Return the mask that is given of a frame, if one is."""
        return self.mask if is_first and self.mask is not None else self.masks.get(number)


@takes_options
def plan_track(
    source: StrPath,
    out: StrPath,
    *,
    mask: ImageLike | None = None,
    masks: Mapping[int, ImageLike] | None = None,
    hints: Mapping[int, Hints] | None = None,
    prompts: Iterable[Prompt] = (),
    prompt_files: Iterable[tuple[StrPath, StrPath]] = (),
    prompt_tensors: Iterable[PromptTensor] = (),
    memory: int = 4,
    policy: Policy = "spaced",
    start: Mark = 0,
    stop: Mark | None = None,
    every: int = 1,
    overlay: bool = True,
    exports: Collection[Export] = (),
    snap: bool = False,
    **options: Unpack[SegmentKeywords],
) -> TrackJob:
    """Check what was asked for, before weights are loaded.

    Args:
        source: The video, a folder of frames, or an animated image.
        out: The folder for results.
        mask: Ids of the first frame that is tracked.
        masks: Of later frames, by their numbers in the source: objects are added or corrected from there on.
        hints: What is said of frames, by their numbers in the source: see `Tracker.step`.
        prompts: From other images.
        prompt_files: The files that these came from, which are told in the results.
        prompt_tensors: What tuning learned, in place of prompts or beside them.
        memory: See `Tracker`, as for `policy`.
        policy: Which predicted frames are remembered.
        start: See `open_frames`, as for the next two.
        stop: The first frame that is not tracked any more.
        every: Only each of so many frames.
        overlay: Write `overlay.mp4`.
        exports: Other layouts to write the tracks in, see exports.py.
        snap: See `read_mask`; it is for the masks of frames.
        **options: See `SegmentOptions`; frames are not cut to tiles.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the source, a mask or an option cannot be used, there is nothing to follow, or `out` cannot be
            written to or is what is read; the message says why.
    """
    path, folder, given, said = Path(source), Path(out), dict(masks or {}), dict(hints or {})
    chosen, context, learned = SegmentOptions(**options), tuple(prompts), tuple(prompt_tensors)
    refuse_unwritable(folder)
    _refuse_overwriting(path, folder)
    MemoryBank(size=memory, policy=policy, side=1)  # for what it says of them
    refuse_tiles(chosen)
    _refuse_unknown(exports)
    pointed = isinstance(start, int) and start in said and bool(said[start].ids)
    mask = _first_mask(mask, given, start, nothing_else=not context and not learned and not pointed)
    with open_frames(path, start=start, stop=stop, every=every) as frames:
        size = frames.size
    _refuse_numbers(given, start, stop, every, what="masks")
    _refuse_hints(said, start, stop, every, size)
    checked = {number: _checked(each, size, snap=snap) for number, each in sorted(given.items())}
    first = None if mask is None else _checked(mask, size, snap=snap)
    settings: dict[str, object] = {
        "source": os.fspath(source),
        "start": _plain(start),
        "stop": None if stop is None else _plain(stop),
        "every": every,
        "masks": {str(n): _name(each) for n, each in [("first", mask), *given.items()] if each is not None},
        "hints": {str(number): each.digest for number, each in sorted(said.items())},
        **_told_of(prompt_files, learned),
        "given_sha256": _digest(first, checked, (*context, *learned)),
        "memory": memory,
        "policy": policy,
        **chosen.plain(),
        "overlay": overlay,
        "exports": sorted(exports),
    }
    shown = (first, checked, said, snap, context, learned)
    when = (start, stop, every)
    return TrackJob(path, folder, *shown, memory, policy, chosen, *when, overlay, tuple(sorted(exports)), settings)


def _refuse_unknown(exports: Collection[Export]) -> None:
    if unknown := set(exports) - set(FILES):
        raise ValueError(f"expected formats among {', '.join(FILES)}, got {', '.join(sorted(unknown))}")


def _refuse_hints(said: Mapping[int, Hints], start: Mark, stop: Mark | None, every: int, size: tuple[int, int]) -> None:
    _refuse_numbers(said, start, stop, every, what="hints")
    for number, each in said.items():
        _check_hints(number, each, size)


def _told_of(files: Iterable[tuple[StrPath, StrPath]], prompt_tensors: Sequence[PromptTensor]) -> dict[str, object]:
    return {
        "prompts": [{"image": os.fspath(image), "mask": os.fspath(mask)} for image, mask in files],
        "prompt_tensors": [{"ids": list(each.ids), **asdict(each.origin)} for each in prompt_tensors],
    }


def _first_mask(
    mask: ImageLike | None, masks: dict[int, ImageLike], start: Mark, *, nothing_else: bool
) -> ImageLike | None:
    """Find the mask of the first frame that is tracked, where its number is not known; else it joins the others.

    Raises:
        ValueError: There are two of them, or none and nothing else to follow.
    """
    if mask is not None and isinstance(start, int):
        if start in masks:
            raise ValueError(f"expected one mask of frame {start}, with which tracking starts, got two; leave one out")
        later = dict(masks)
        masks.clear()
        masks |= {start: mask, **later}
        return None
    if mask is None and nothing_else and start not in masks:
        raise ValueError(
            "expected something to follow, got nothing; give the mask of the first frame (--mask), prompts "
            "(--prompt IMAGE MASK, --prompts FOLDER), a prompt tensor (--prompt-tensor KEY), or hints on it (--hints)"
        )
    return mask


def _refuse_overwriting(source: Path, out: Path) -> None:
    read = Path(os.path.realpath(source))
    if read in (Path(os.path.realpath(path)) for path in (out, out / OVERLAY_NAME)):
        raise ValueError(
            f"{source}: expected another folder to write to, or what is read gets overwritten; name a new one"
        )


def _refuse_numbers(masks: Iterable[int], start: Mark, stop: Mark | None, every: int, *, what: str) -> None:
    """Refuse what is given of frames that are not tracked, as far as it is known by now."""
    first = start if isinstance(start, int) else 0
    for number in masks:
        beyond = isinstance(stop, int) and number >= stop
        if number < first or beyond or (isinstance(start, int) and (number - first) % every):
            raise ValueError(
                f"expected {what} of frames that are tracked, got one of frame {number}; give another number, or track "
                "that frame, too"
            )


def _check_hints(number: int, hints: Hints, size: tuple[int, int]) -> None:
    try:
        hints.check(size)
    except ValueError as error:
        raise ValueError(f"frame {number}: {error}") from None


def _checked(mask: ImageLike, size: tuple[int, int], *, snap: bool) -> ImageLike:
    """Check that a mask fits the frames and marks something."""
    Prompt.open(np.zeros((*size, 3), np.uint8), mask, snap=snap)
    return mask


def _digest(first: ImageLike | None, masks: Mapping[int, ImageLike], context: Sequence[Prompt | PromptTensor]) -> str:
    """Make a digest that differs when a pixel of what is given does, or a weight."""
    shown = [(-1, first), *masks.items()]
    files = [(number, read_mask(mask, snap=True)) for number, mask in shown if mask is not None]
    of_masks = [part for number, file in files for part in (f"{number}", file.ids, file.colors)]
    return digest(*of_masks, context_hash(context))


def _name(mask: ImageLike) -> str:
    return os.fspath(mask) if isinstance(mask, str | os.PathLike) else type(mask).__name__


def _plain(mark: Mark) -> int | str:
    return mark if isinstance(mark, int) else f"{mark.total_seconds():g}s"
