"""What is clicked on: things with true masks, of episodes, of videos, and of the sets that everyone measures on.

Refuses to know clicks, methods and scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from incontext.evaluation.few_shot.episodes import EpisodeSet, files, read_sets
from incontext.evaluation.few_shot.images import EpisodeImages
from incontext.evaluation.metrics import Flags
from incontext.evaluation.video.clips import Clip, read_clips
from incontext.images.ids import IGNORED, Pixels
from incontext.images.read import read_image
from incontext.types import Prompt

Layout: TypeAlias = Literal["auto", "sets", "video", "grabcut", "berkeley"]

FRAMES = 5  # of each object of a video, unless it is said otherwise
_UNKNOWN = 128  # in masks of GrabCut and Berkeley: neither thing, which is brighter, nor background


@dataclass(frozen=True, eq=False)
class Truth:
    """An image and a thing in it.

    Attributes:
        image: (H, W, 3) uint8.
        truth: (H, W) bool, not all False.
        ignored: (H, W) bool, where nothing is scored.
        example: Another image with the like, where there is one, marked as id 1.
    """

    image: Pixels
    truth: Flags
    ignored: Flags
    example: Prompt | None = None


@dataclass(frozen=True, eq=False)
class Thing:
    """A thing to click on, read when it is wanted.

    Attributes:
        set, name: For reports, both together tell it from all others.
        read: Gives it, or None where the image does not show it after all.
        files: What it is read from.
    """

    set: str
    name: str
    read: Callable[[], Truth | None]
    files: tuple[Path, ...]
    has_example: bool

    def digest(self) -> str:
        """Make a digest that changes when a file does, by names, sizes and times."""
        lines = [f"{self.set} {self.name}"]
        lines += [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in self.files]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def read_things(
    data: Path,
    *,
    layout: Layout = "auto",
    names: Sequence[str] | None = None,
    limit: int | None = None,
    frames: int = FRAMES,
    seed: int = 0,
) -> tuple[Thing, ...]:
    """Find the things of a folder.

    Args:
        data: Sets with episodes as `read_sets` takes them, the first prompt of an episode being the example; videos as
            `read_clips` takes them, the first mask of an object being the example; GrabCut, a folder with data_GT/ and
            boundary_GT/; or Berkeley, a folder with images/ and masks/, files of the same names.
        layout: Which of these; "auto" goes by the folders, and takes images/ and masks/ for a set of ours.
        names: Only these sets or clips; None: all.
        limit: At most so many things of each set, spread evenly over it.
        frames: Of each object of a video, spread evenly over those that show it after its first mask.
        seed: Of episodes that are drawn.

    Raises:
        FileNotFoundError: There is no such folder, or nothing in it.
        ValueError: Something in it cannot be used.
    """
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: there is no such folder")
    kind = _layout_of(data) if layout == "auto" else layout
    if kind in ("grabcut", "berkeley"):
        if names is not None:
            raise ValueError(f"expected names of sets with data that holds several, got them for {kind}")
        folders = ("data_GT", "boundary_GT") if kind == "grabcut" else ("images", "masks")
        return _spread(_pairs(data, kind, *folders), limit)
    if kind == "video":
        clips = read_clips(data, names=names)
        return tuple(thing for clip in clips for thing in _spread(_of_clip(clip, frames), limit))
    sets = read_sets(data, names=names, prompts=1, limit=limit, seed=seed)
    images = EpisodeImages(sets)
    return tuple(thing for each in sets for thing in _of_set(each, images))


def _layout_of(data: Path) -> Layout:
    if (data / "data_GT").is_dir() and (data / "boundary_GT").is_dir():
        return "grabcut"
    clip = any((folder / "frames").is_dir() and (folder / "masks").is_dir() for folder in (data, *data.glob("*/")))
    return "video" if clip or (data / "JPEGImages").is_dir() else "sets"


def _spread(things: Sequence[Thing], limit: int | None) -> tuple[Thing, ...]:
    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1, got {limit}")
    if limit is None or len(things) <= limit:
        return tuple(things)
    return tuple(things[i] for i in np.linspace(0, len(things) - 1, limit).round().astype(int).tolist())


def _of_set(each: EpisodeSet, images: EpisodeImages) -> Iterator[Thing]:
    found = [files(each.folder / kind) for kind in ("images", "masks")]
    for number, episode in enumerate(each.episodes):

        def read(i: int = episode.id, query: str = episode.query, prompt: str = episode.prompts[0]) -> Truth | None:
            asked = images.asked(each, i, query)
            image = images.image(each.name, query)
            return _truth(image, asked == 1, asked == IGNORED, lambda: images.prompt(each, i, prompt))

        needed = (kind[stem] for stem in (episode.query, episode.prompts[0]) for kind in found if stem in kind)
        yield Thing(each.name, f"{number} {episode.query} {episode.id}", read, tuple(needed), has_example=True)


def _of_clip(clip: Clip, frames: int) -> tuple[Thing, ...]:
    """Take each object in frames after that whose mask shows it first."""
    if frames < 1:
        raise ValueError(f"expected at least 1 frame of each object, got {frames}")
    shown: dict[int, list[int]] = {}
    for number in sorted(clip.masks):
        mask = clip.read(number)[1]
        for i in () if mask is None else np.unique(mask).tolist():
            if i not in (0, IGNORED):
                shown.setdefault(i, []).append(number)
    found = []
    for i, (first, *later) in sorted(shown.items()):
        picked = np.unique(np.linspace(0, len(later) - 1, frames).round().astype(int)).tolist() if later else []
        for number in (later[at] for at in picked):

            def read(i: int = i, number: int = number, first: int = first) -> Truth | None:
                image, mask = clip.read(number)
                assert mask is not None  # only frames with masks are listed
                return _truth(image, mask == i, mask == IGNORED, lambda: _marked(*clip.read(first), i))

            paths = (clip.frames[number], clip.masks[number], clip.frames[first], clip.masks[first])
            found.append(Thing(clip.name, f"object {i} in frame {number}", read, paths, has_example=True))
    return tuple(found)


def _marked(image: Pixels, mask: Pixels | None, i: int) -> Prompt:
    assert mask is not None
    return Prompt(image, np.where(mask == IGNORED, np.uint8(IGNORED), (mask == i).astype(np.uint8)))


def _pairs(data: Path, kind: str, images: str, masks: str) -> tuple[Thing, ...]:
    """Take images with a mask of the same stem each, of one thing; no examples."""
    for folder in (images, masks):
        if not (data / folder).is_dir():
            raise FileNotFoundError(f"{data}: expected a folder {folder} in it for the layout {kind}, got none")
    shown, found = files(data / images), files(data / masks)
    if missing := sorted(set(shown) - set(found)):
        raise ValueError(f"{data / masks}: expected a mask for each image, got none for {', '.join(missing[:3])}")

    def thing(stem: str) -> Thing:
        def read() -> Truth | None:
            image, mask = read_image(shown[stem]), read_image(found[stem])[..., 0]
            _check_size(mask, image, found[stem])
            return _truth(image, mask > _UNKNOWN, mask == _UNKNOWN, None)

        return Thing(kind, stem, read, (shown[stem], found[stem]), has_example=False)

    if not shown:
        raise FileNotFoundError(f"{data / images}: expected images in it, got none")
    return tuple(thing(stem) for stem in shown)


def _truth(image: Pixels, truth: Flags, ignored: Flags, example: Callable[[], Prompt] | None) -> Truth | None:
    if not (truth & ~ignored).any():
        return None
    return Truth(image, truth, ignored, None if example is None else example())


def _check_size(mask: Pixels, image: Pixels, path: Path) -> None:
    if mask.shape != image.shape[:2]:
        raise ValueError(f"{path}: expected a mask of its image's size {image.shape[:2]}, got {mask.shape}")
