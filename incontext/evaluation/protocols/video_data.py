"""The videos of the benchmarks, in the layouts that their archives unpack to.

DAVIS: JPEGImages/480p/NAME/, Annotations/480p/NAME/, ImageSets/YEAR/SPLIT.txt. YouTube-VOS: SPLIT/JPEGImages/NAME/,
SPLIT/Annotations/NAME/, SPLIT/meta.json, and all frames of the same videos in SPLIT_all_frames/JPEGImages/NAME/. MOSE:
SPLIT/JPEGImages/NAME/ and SPLIT/Annotations/NAME/. Refuses to know trackers and scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from incontext.annotations.values import read_json
from incontext.evaluation.protocols.benchmarks import Benchmark
from incontext.evaluation.protocols.finding import Part, find, subfolders
from incontext.evaluation.video.clips import ONE_OBJECT_YEAR, Clip, clip_of, limited, read_clips

_YEARS: Final = {"davis-2016": ONE_OBJECT_YEAR, "davis-2017": 2017}
_USUAL_SPLIT: Final = {"youtube-vos": "valid", "mose": "valid"}
_FRAMES: Final = Part(("JPEGImages",), "the frames of the videos")
_MASKS: Final = Part(("Annotations",), "their masks")
_PARTS: Final = {
    "davis-2016": (_FRAMES, _MASKS, Part(("ImageSets",), "the lists of the splits")),
    "davis-2017": (_FRAMES, _MASKS, Part(("ImageSets",), "the lists of the splits")),
    "youtube-vos": (_FRAMES, _MASKS, Part(("meta.json",), "which objects are in which frames")),
    "mose": (_FRAMES, _MASKS),
}


@dataclass(frozen=True, eq=False)
class Videos:
    """The clips of a benchmark.

    of each clip, what its objects are, where that is known;

    Attributes:
        wanted: Of each clip, the numbers of the frames whose masks are handed in. categories:
        seen: Those that training videos show, None: not known.
    """

    root: Path
    split: str
    clips: tuple[Clip, ...]
    wanted: Mapping[str, tuple[int, ...]]
    categories: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    seen: frozenset[str] | None = None


def read_videos(
    benchmark: Benchmark,
    data: Path,
    *,
    split: str | None = None,
    all_frames: bool = False,
    names: Sequence[str] | None = None,
    limit: int | None = None,
) -> Videos:
    """Read the videos of a benchmark.

    Args:
        split: None is the one that figures are published for, val or valid.
        all_frames: Of YouTube-VOS, follow also the frames between those that are handed in.
        names: Which videos, None: all.
        limit: At most so many frames of each, from its start.

    Raises:
        FileNotFoundError: a part is missing; the message names the file that is expected.
        ValueError: a video cannot be used, or there is none of a name.
    """
    usual = _USUAL_SPLIT.get(benchmark.name)
    if all_frames and benchmark.name != "youtube-vos":
        raise ValueError(
            f"expected --all-frames with youtube-vos only, which alone has them; got it with {benchmark.name}"
        )
    root = find(data, benchmark.title, _PARTS[benchmark.name], prefer=split or usual)
    if benchmark.name in _YEARS:
        clips = read_clips(root, names=names, split=split, year=_YEARS[benchmark.name])
        found = Videos(root, split or "val", clips, {clip.name: tuple(range(len(clip.frames))) for clip in clips})
    else:
        if split is not None and root.resolve().name != split:
            raise FileNotFoundError(
                f"{benchmark.title}: expected a folder {split} with JPEGImages in {data}, got {root}"
            )
        meta = read_json(root / "meta.json")["videos"] if benchmark.name == "youtube-vos" else {}
        found = _folders(benchmark, root, split or str(usual), meta, all_frames=all_frames, names=names)
    return found if limit is None else _limited(found, limit)


def _folders(
    benchmark: Benchmark,
    root: Path,
    split: str,
    meta: Mapping[str, Any],
    *,
    all_frames: bool,
    names: Sequence[str] | None,
) -> Videos:
    """Pair the folders of frames and of masks for each video, as YouTube-VOS and MOSE have them."""
    known = [folder.name for folder in subfolders(root / "Annotations")]
    if missing := [name for name in names or () if name not in known]:
        raise ValueError(f"expected videos of {root / 'Annotations'}, got {', '.join(missing)}")
    clips, wanted, categories = [], {}, {}
    for name in known if names is None else names:
        frames = root / "JPEGImages" / name
        if not frames.is_dir():
            raise FileNotFoundError(
                f"{frames}: expected the frames of {name}, whose masks are there; there is no such folder"
            )
        clip = clip_of(name, frames, root / "Annotations" / name)
        clip = replace(clip, whole=len(clip.masks) == len(clip.frames), last_counts=benchmark.name == "youtube-vos")
        asked = _asked(root / "meta.json", name, meta, clip) if meta else [path.stem for path in clip.frames]
        if all_frames:
            clip = _with_all_frames(root, clip)
        stems = {path.stem: number for number, path in enumerate(clip.frames)}
        wanted[name] = tuple(stems[stem] for stem in asked)
        categories[name] = {int(i): str(each["category"]) for i, each in meta[name]["objects"].items()} if meta else {}
        clips.append(clip)
    return Videos(root, split, tuple(clips), wanted, categories, _seen(root))


def _asked(path: Path, name: str, meta: Mapping[str, Any], clip: Clip) -> list[str]:
    """List the frames of a video in which meta.json names objects, in order."""
    if name not in meta:
        raise ValueError(f"{path}: expected the video {name}, whose masks are there; got none of that name")
    asked = {str(frame) for each in meta[name]["objects"].values() for frame in each["frames"]}
    there = [frame.stem for frame in clip.frames]
    if strange := sorted(asked.difference(there)):
        raise FileNotFoundError(f"{clip.frames[0].parent / strange[0]}.jpg: expected this frame, which meta.json names")
    return [stem for stem in there if stem in asked]


def _with_all_frames(root: Path, clip: Clip) -> Clip:
    """Add the frames in between to a clip; masks stay with the frames of their names."""
    frames = root.resolve().parent / f"{root.resolve().name}_all_frames" / "JPEGImages" / clip.name
    if not frames.is_dir():
        raise FileNotFoundError(
            f"{frames}: expected all frames of {clip.name} (valid_all_frames.zip), there is no such folder"
        )
    every = clip_of(clip.name, frames, next(iter(clip.masks.values())).parent)
    if missing := {path.stem for path in clip.frames} - {path.stem for path in every.frames}:
        raise FileNotFoundError(f"{frames / min(missing)}.jpg: expected this frame, which {root / 'JPEGImages'} has")
    return replace(every, whole=clip.whole, last_counts=clip.last_counts)


def _seen(root: Path) -> frozenset[str] | None:
    """Read the categories of the training videos, where their meta.json lies in the folder beside this one."""
    path = root.resolve().parent / "train" / "meta.json"
    if not path.is_file():
        return None
    videos = read_json(path)["videos"].values()
    return frozenset(str(each["category"]) for video in videos for each in video["objects"].values())


def _limited(videos: Videos, limit: int) -> Videos:
    clips = tuple(limited(clip, limit) for clip in videos.clips)
    wanted = {name: tuple(number for number in numbers if number < limit) for name, numbers in videos.wanted.items()}
    return replace(videos, clips=clips, wanted=wanted)
