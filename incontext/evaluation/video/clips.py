"""Which videos are scored: folders of frames with masks, in the layouts of DAVIS and in our own.

Refuses to know trackers and scores. A clip names its files; masks hold ids, 0 background and 255 ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from incontext.evaluation.few_shot.episodes import files
from incontext.images.ids import Color, Pixels
from incontext.images.masks import number_colors, read_ids
from incontext.images.names import natural_order
from incontext.images.read import read_image
from incontext.images.resize import resized_mask
from incontext.words import did_you_mean

ONE_OBJECT_YEAR = 2016  # of DAVIS: every later one tells objects apart
_USUAL_RESOLUTION = "480p"
_ROUNDING = 1  # pixels by which a mask may miss its frame's size, when both were made smaller apart


@dataclass(frozen=True, eq=False)
class Clip:
    """A video with masks.

    Attributes:
        frames: Its images in order.
        masks: Files by the number of their frame.
        as_one: Every id but 0 is the one object, 1.
        late: An id that a later mask shows first is a new object; else only the first mask with an id introduces
            objects, and ids that it does not show are background.
        whole: Each mask shows all objects that are in sight, so that one which introduces some is compared for the
            others.
        last_counts: The last mask is compared, too.
    """

    name: str
    frames: tuple[Path, ...]
    masks: Mapping[int, Path]
    as_one: bool = False
    late: bool = True
    whole: bool = False
    last_counts: bool = False

    @property
    def scored(self) -> frozenset[int]:
        """The frames whose masks are compared unless they introduce objects.

        These are all but the first and, as a rule, the last of them.
        """
        return frozenset(sorted(self.masks)[1 : None if self.last_counts else -1])

    @cached_property
    def _numbers(self) -> Mapping[Color, int]:
        """Of the colours of RGB masks: an object's is the same in every frame."""
        return number_colors(self.masks.values())

    def read(self, number: int) -> tuple[Pixels, Pixels | None]:
        """Read a frame (H, W, 3) uint8 and its mask (H, W) uint8, None where it has none.

        A mask that misses the frame's size by one pixel is stretched.

        Raises:
            ValueError: It misses it by more.
        """
        image = read_image(self.frames[number])
        if number not in self.masks:
            return image, None
        ids = self.ids(number)
        height, width = image.shape[:2]
        if max(abs(ids.shape[0] - height), abs(ids.shape[1] - width)) > _ROUNDING:
            raise ValueError(
                f"{self.masks[number]}: expected a mask of its frame's size {width} x {height} (width x height), got "
                f"{ids.shape[1]} x {ids.shape[0]}"
            )
        return image, resized_mask(ids, (height, width))

    def ids(self, number: int) -> Pixels:
        """Read the ids of a mask, (H, W) uint8 at the size of its file."""
        ids = read_ids(self.masks[number], self._numbers)
        return (ids > 0).astype(np.uint8) if self.as_one else ids

    def digest(self) -> str:
        """Make a digest that changes when a frame or a mask does, by names, sizes and times, or what masks mean."""
        lines = [f"{self.as_one} {self.late} {self.whole} {self.last_counts}"]
        for path in (*self.frames, *self.masks.values()):
            about = path.stat()
            lines.append(f"{path.parent.name}/{path.name} {about.st_size} {about.st_mtime_ns}")
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def read_clips(
    data: Path,
    *,
    names: Sequence[str] | None = None,
    split: str | None = None,
    year: int | None = None,
    resolution: str | None = None,
    limit: int | None = None,
) -> tuple[Clip, ...]:
    """Read the clips of a folder.

    Args:
        data: DAVIS, a folder with JPEGImages/RESOLUTION/NAME/*.jpg, Annotations likewise and ImageSets/YEAR/SPLIT.txt;
            or
            NAME/frames and NAME/masks, files of the same names, masks for all frames or for some; or one such NAME.
        names: Which clips, None: all.
        split: Of DAVIS; None: "val", and every clip where there is no ImageSets.
        year: Of DAVIS; None: the latest that lists the split. In 2016 all ids are one object.
        resolution: Of DAVIS; None: 480p where there are several.
        limit: At most so many frames of each, from its start.

    Raises:
        FileNotFoundError: There are no clips.
        ValueError: One cannot be used.
    """
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: there is no such folder")
    if (data / "JPEGImages").is_dir():
        found = list(_davis(data, split, year, resolution))
    elif (split, year, resolution) != (None, None, None):
        raise ValueError(f"expected a split, year or resolution with DAVIS's folder JPEGImages only; {data} has none")
    else:
        found = list(_folders(data))
    if names is not None:
        by_name = {each.name: each for each in found}
        if missing := [name for name in names if name not in by_name]:
            raise ValueError(
                f"expected clips out of {', '.join(by_name)}, got {', '.join(missing)}{did_you_mean(missing, by_name)}"
            )
        found = [by_name[name] for name in names]
    return tuple(each if limit is None else limited(each, limit) for each in found)


def _folders(data: Path) -> Iterator[Clip]:
    def is_clip(folder: Path) -> bool:
        return (folder / "frames").is_dir() and (folder / "masks").is_dir()

    folders = [data] if is_clip(data) else sorted(filter(is_clip, data.glob("*/")))
    if not folders:
        raise FileNotFoundError(
            f"expected JPEGImages and Annotations in {data}, or frames and masks, or folders that hold these; got none"
        )
    for folder in folders:
        yield clip_of(folder.resolve().name, folder / "frames", folder / "masks")


def _davis(data: Path, split: str | None, year: int | None, resolution: str | None) -> Iterator[Clip]:
    known = sorted(path.name for path in (data / "JPEGImages").glob("*/"))
    if not known or (resolution is not None and resolution not in known):
        raise ValueError(f"expected a resolution out of {', '.join(known) or 'nothing'}, got {resolution or 'none'}")
    chosen = resolution or (_USUAL_RESOLUTION if _USUAL_RESOLUTION in known else known[0])
    names, year = _listed(data, split, year, chosen)
    images, masks = data / "JPEGImages" / chosen, data / "Annotations" / chosen
    for name in names:
        for folder in (images / name, masks / name):
            if not folder.is_dir():
                raise FileNotFoundError(f"{folder}: there is no such folder, but clip {name} needs it")
        clip = clip_of(name, images / name, masks / name)
        yield replace(clip, as_one=year == ONE_OBJECT_YEAR, late=False)


def _listed(data: Path, split: str | None, year: int | None, resolution: str) -> tuple[list[str], int | None]:
    """List the clips of a split, and the year whose rules hold. DAVIS 2016 by itself lists files, by resolution."""
    lists = data / "ImageSets"
    if split is None and not lists.is_dir():
        return sorted(path.name for path in (data / "JPEGImages" / resolution).glob("*/")), year
    split = split or "val"
    years = {int(path.parent.name): path for path in lists.glob(f"*/{split}.txt") if path.parent.name.isdecimal()}
    if ONE_OBJECT_YEAR not in years and (alone := lists / resolution / f"{split}.txt").is_file():
        years[ONE_OBJECT_YEAR] = alone
    if not years or (year is not None and year not in years):
        there = ", ".join(str(path.relative_to(data)) for path in sorted(lists.glob("*/*.txt"))) or "none"
        raise FileNotFoundError(f"expected {lists / str(year or '*') / split}.txt; there is {there}")
    year = max(years) if year is None else year
    first = [line.split()[0] for line in years[year].read_text(encoding="utf-8").splitlines() if line.strip()]
    return list(dict.fromkeys(PurePosixPath(each).parent.name if "/" in each else each for each in first)), year


def clip_of(name: str, frames: Path, masks: Path) -> Clip:
    """Make the clip of a folder of frames and one of masks, files of the same names.

    Raises:
        ValueError: They do not fit.
    """
    found, labelled = files(frames), files(masks)
    if not found or not labelled:
        raise ValueError(f"expected images in {frames} and in {masks}, got {len(found)} and {len(labelled)}")
    if strange := [stem for stem in labelled if stem not in found]:
        raise ValueError(f"{labelled[strange[0]]}: expected a frame of the same name in {frames}, got none")
    order = sorted(found, key=lambda stem: natural_order(found[stem]))
    return Clip(name, tuple(found[s] for s in order), {i: labelled[s] for i, s in enumerate(order) if s in labelled})


def limited(clip: Clip, limit: int) -> Clip:
    """Keep at most so many of a clip's frames, from its start."""
    if limit < 1:
        raise ValueError(f"expected a limit of at least 1 frame, got {limit}")
    return replace(clip, frames=clip.frames[:limit], masks={i: path for i, path in clip.masks.items() if i < limit})
