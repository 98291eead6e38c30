"""What a tracking job is: which frames, what is given of them, where results go. Nothing is written or tracked here.

Everything that a user can get wrong is found before weights are loaded. Refuses to know the tracker.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from incontext.images.masks import read_mask
from incontext.images.read import ImageLike
from incontext.images.write import refuse_unwritable
from incontext.network.model import Task
from incontext.prompt_tensor import PromptTensor
from incontext.types import Prompt
from incontext.video.bank import MemoryBank, Policy
from incontext.video.exports import FILES, Export
from incontext.video.frames import Frames, Mark, open_frames

OVERLAY_NAME: Final = "overlay.mp4"

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class TrackJob:
    """A video to track, and where the results go; made by :func:`plan_track`.

    mask: of the first frame that is tracked, if given. masks: of frames by their numbers. snap: see
    `formats.read_mask`; it is for these masks. prompts: from other pictures.
    settings: in plain values all that the results depend on, but for the network.
    """

    source: Path
    out: Path
    mask: ImageLike | None
    masks: Mapping[int, ImageLike]
    snap: bool
    prompts: tuple[Prompt, ...]
    prompt_tensors: tuple[PromptTensor, ...]
    memory: int
    policy: Policy
    task: Task
    side: int | None
    start: Mark
    stop: Mark | None
    every: int
    overlay: bool
    exports: tuple[Export, ...]
    settings: Mapping[str, object]

    def open(self) -> Frames:
        """The frames."""
        return open_frames(self.source, start=self.start, stop=self.stop, every=self.every)

    def mask_of(self, number: int, *, is_first: bool) -> ImageLike | None:
        """What is given of a frame."""
        return self.mask if is_first and self.mask is not None else self.masks.get(number)


def plan_track(
    source: StrPath,
    out: StrPath,
    *,
    mask: ImageLike | None = None,
    masks: Mapping[int, ImageLike] | None = None,
    prompts: Iterable[Prompt] = (),
    prompt_files: Iterable[tuple[StrPath, StrPath]] = (),
    prompt_tensors: Iterable[PromptTensor] = (),
    memory: int = 4,
    policy: Policy = "spaced",
    task: Task = "instance",
    side: int | None = None,
    start: Mark = 0,
    stop: Mark | None = None,
    every: int = 1,
    overlay: bool = True,
    exports: Collection[Export] = (),
    snap: bool = False,
) -> TrackJob:
    """Check what was asked for.

    mask: ids of the first frame that is tracked. masks: of later frames, by their numbers in the source, in which
    objects are added or corrected from there on. prompts: from other pictures, and the files that they came from, which
    are told in the results. prompt_tensors: what tuning learned, in place of these or beside them. snap: see
    `formats.read_mask`; it is for the masks of frames. start, stop, every: see `open_frames`; memory, policy, task,
    side: see `Tracker`. overlay: write `overlay.mp4`. exports: see exports.py.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the source, a mask or an option cannot be used, there is nothing to follow, or `out` cannot be
            written to or is what is read; the message says why.
    """
    path, folder, given = Path(source), Path(out), dict(masks or {})
    refuse_unwritable(folder)
    _refuse_overwriting(path, folder)
    MemoryBank(size=memory, policy=policy, side=1)  # for what it says of them
    if unknown := set(exports) - set(FILES):
        raise ValueError(f"expected formats among {', '.join(FILES)}, got {', '.join(sorted(unknown))}")
    if mask is not None and isinstance(start, int):
        if start in given:
            raise ValueError(f"expected one mask of frame {start}, with which tracking starts, got two; leave one out")
        given, mask = {start: mask, **given}, None
    context, keys = tuple(prompts), tuple(prompt_tensors)
    if mask is None and not context and not keys and start not in given:
        raise ValueError(
            "expected something to follow, got nothing; give the mask of the first frame (--mask), prompts "
            "(--prompt IMAGE MASK, --prompts FOLDER), or a prompt tensor (--prompt-tensor KEY)"
        )
    with open_frames(path, start=start, stop=stop, every=every) as frames:
        size = frames.size
    _refuse_numbers(given, start, stop, every)
    checked = {number: _checked(each, size, snap=snap) for number, each in sorted(given.items())}
    first = None if mask is None else _checked(mask, size, snap=snap)
    settings: dict[str, object] = {
        "source": os.fspath(source),
        "start": _plain(start),
        "stop": None if stop is None else _plain(stop),
        "every": every,
        "masks": {str(number): _name(each) for number, each in [("first", mask), *given.items()] if each is not None},
        "prompts": [{"image": os.fspath(image), "mask": os.fspath(its_mask)} for image, its_mask in prompt_files],
        "prompt_tensors": [{"ids": list(key.ids), **asdict(key.origin)} for key in keys],
        "given_sha256": _digest(first, checked, context, keys),
        "memory": memory,
        "policy": policy,
        "task": task,
        "side": side,
        "overlay": overlay,
        "exports": sorted(exports),
    }
    return TrackJob(
        source=path,
        out=folder,
        mask=first,
        masks=checked,
        snap=snap,
        prompts=context,
        prompt_tensors=keys,
        memory=memory,
        policy=policy,
        task=task,
        side=side,
        start=start,
        stop=stop,
        every=every,
        overlay=overlay,
        exports=tuple(sorted(exports)),
        settings=settings,
    )


def _refuse_overwriting(source: Path, out: Path) -> None:
    read = Path(os.path.realpath(source))
    if read in (Path(os.path.realpath(path)) for path in (out, out / OVERLAY_NAME)):
        raise ValueError(
            f"{source}: expected another folder to write to, or what is read gets overwritten; name a new one"
        )


def _refuse_numbers(masks: Mapping[int, ImageLike], start: Mark, stop: Mark | None, every: int) -> None:
    """Masks of frames that are not tracked, as far as it is known by now."""
    first = start if isinstance(start, int) else 0
    for number in masks:
        beyond = isinstance(stop, int) and number >= stop
        if number < first or beyond or (isinstance(start, int) and (number - first) % every):
            raise ValueError(
                f"expected masks of frames that are tracked, got one of frame {number}; give another number, or track "
                "that frame, too"
            )


def _checked(mask: ImageLike, size: tuple[int, int], *, snap: bool) -> ImageLike:
    """The mask, which fits the frames and marks something."""
    Prompt.open(np.zeros((*size, 3), np.uint8), mask, snap=snap)
    return mask


def _digest(
    first: ImageLike | None,
    masks: Mapping[int, ImageLike],
    prompts: Sequence[Prompt],
    keys: Sequence[PromptTensor],
) -> str:
    """Differs when a pixel of what is given does, or a weight."""
    digest = hashlib.sha256()
    for number, mask in [(-1, first), *masks.items()]:
        if mask is not None:
            file = read_mask(mask, snap=True)
            digest.update(f"{number} {file.ids.shape} {file.colors is None}".encode() + file.ids.tobytes())
            digest.update(b"" if file.colors is None else file.colors.tobytes())
    for prompt in prompts:
        digest.update(f"{prompt.image.shape}".encode() + prompt.image.tobytes() + prompt.mask.tobytes())
        digest.update(b"" if prompt.weight == 1 else f"weight {prompt.weight}".encode())
    for group in (group for key in keys for group in key.groups):
        digest.update(group.palette.table.tobytes() + group.images.tobytes() + group.masks.tobytes())
    return digest.hexdigest()


def _name(mask: ImageLike) -> str:
    return os.fspath(mask) if isinstance(mask, str | os.PathLike) else type(mask).__name__


def _plain(mark: Mark) -> int | str:
    return mark if isinstance(mark, int) else f"{mark.total_seconds():g}s"
