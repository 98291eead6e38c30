"""Which questions are asked: fixed episodes, episodes drawn from folders, and queries without the thing.

An episode asks for one id. It names its images; masks hold ids, 0 background and 255 ignored. Refuses to know
answers and scores.
"""

from __future__ import annotations

import json
import re
import warnings
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from incontext.images.dataset import described, has_instances, has_regions
from incontext.images.ids import IGNORED
from incontext.images.masks import number_colors, read_ids
from incontext.images.read import IMAGE_SUFFIXES
from incontext.left_out import LeftOutWarning
from incontext.words import did_you_mean

DRAWN_EPISODES = 100  # of a set without fixed ones
USUAL_PROMPTS = 8
_SAID_EVERYWHERE = {  # words of descriptions that name no thing
    "and", "are", "class", "each", "everyone", "file", "from", "image", "label", "labelled", "new", "not", "object",
    "one", "other", "part", "photograph", "set", "than", "the", "thin", "thing", "train", "with",
}  # fmt: skip


@dataclass(frozen=True)
class Absent:
    """A query that does not show what an episode asks for: an image of the set of that name."""

    set: str
    query: str


@dataclass(frozen=True)
class Episode:
    """One question: find class `id` of the prompts in the query.

    Images are named by the stems of their files.

    Attributes:
        absent: A second query for the same prompts, where the right answer is empty.
    """

    id: int
    query: str
    prompts: tuple[str, ...]
    absent: Absent | None = None


@dataclass(frozen=True)
class EpisodeSet:
    """The episodes of one set, whose images are in `folder`/images and `folder`/masks.

    Attributes:
        instances_as_one: Every id but 0 and 255 is foreground, whatever an episode's `id` says.
        what, classes: What the set shows and what its ids mean, where the folder's dataset.json says it.
    """

    name: str
    instances_as_one: bool
    episodes: tuple[Episode, ...]
    folder: Path
    what: str = ""
    classes: Mapping[int, str] = field(default_factory=dict)

    def class_name(self, i: int) -> str:
        """Tell what that id means, for people."""
        return self.classes.get(i, f"id {i}")


def read_sets(
    data: Path,
    *,
    names: Sequence[str] | None = None,
    drawn: int | None = None,
    prompts: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> tuple[EpisodeSet, ...]:
    """Read the sets of a folder with their episodes, and for each a query without the thing where there is one.

    Args:
        data: A folder with `episodes.json`; one set, a folder with images/ and masks/ (the same stems); or a folder of
            such sets, whose episodes are drawn.
        names: Which sets, None: all.
        drawn: Episodes of each set to draw, even where episodes.json fixes some; None: the fixed ones, else 100.
        prompts: How many an episode that is drawn gets; None: 8, or as many as the set allows.
        limit: At most so many of each set, spread evenly over it so that all classes take part.
        seed: Of what is drawn.

    Raises:
        FileNotFoundError: There are no sets.
        ValueError: One cannot be used.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1 episode, got {limit}")
    fixed = read_episodes(data) if (data / "episodes.json").is_file() else ()
    if fixed and drawn is None:
        found = _chosen(fixed, names)
        shown = {each.name: what_is_shown(each) for each in found}
    else:
        found = _chosen(fixed or sets_in(data), names)
        if names is None:  # ids of regions mean nothing in another image
            found = [each for each in found if not has_regions(each.folder)] or found
        shown = {each.name: what_is_shown(each) for each in found}
        count = DRAWN_EPISODES if drawn is None else drawn
        found = [replace(each, episodes=draw(each, shown[each.name], count, prompts, seed)) for each in found]
    return tuple(limited(each, limit) for each in _with_absences(found, shown, seed))


def read_episodes(data: Path) -> tuple[EpisodeSet, ...]:
    """Read the sets of `data/episodes.json`, in the file's order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not what is expected.
    """
    path = data / "episodes.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected a file episodes.json in {data}, got none; name the folder that holds it")
    try:
        return tuple(
            _described(
                EpisodeSet(
                    name,
                    bool(content["instances_as_one"]),
                    tuple(
                        Episode(int(e["id"]), str(e["query"]), tuple(map(str, e["prompts"])))
                        for e in content["episodes"]
                    ),
                    data / name,
                )
            )
            for name, content in json.loads(path.read_text(encoding="utf-8")).items()
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected {{set: {{instances_as_one, episodes: [{{id, query, prompts}}]}}}}, "
            f"got something else ({error!r}); compare it with the file that came with the data"
        ) from None


def draw(
    each: EpisodeSet, shown: Mapping[str, frozenset[int]], count: int, prompts: int | None, seed: int
) -> tuple[Episode, ...]:
    """Draw `count` episodes, uniformly: first the class, then the query, then the prompts, all distinct images.

    That is the protocol of COCO-20i and PASCAL-5i (HSNet, arXiv 2104.01538).

    Args:
        shown: The ids of each image. Episode number i of a seed is the same however many are drawn. Classes with
            fewer images than one episode takes are left out with a warning.

    Raises:
        ValueError: None is left.
    """
    if has_regions(each.folder):
        raise ValueError(f"{each.folder}: expected ids that mean the same in every image; its masks are regions")
    if count < 1:
        raise ValueError(f"expected at least 1 episode to draw, got {count}")
    by_id: dict[int, list[str]] = {}
    for stem in sorted(shown):
        for i in shown[stem]:
            by_id.setdefault(i, []).append(stem)
    most = max(map(len, by_id.values()), default=0)
    wanted = max(1, min(USUAL_PROMPTS, most - 1)) if prompts is None else prompts
    usable = sorted(i for i, stems in by_id.items() if len(stems) > wanted)
    if not usable:
        raise ValueError(
            f"{each.folder}: expected a class in at least {wanted + 1} images, for a query and {wanted} prompts, "
            f"got {most}; ask for fewer shots"
        )
    if rare := [each.class_name(i) for i in sorted(set(by_id) - set(usable))]:
        warnings.warn(
            f"{each.folder}: left out, because fewer than {wanted + 1} images show them: {', '.join(rare)}",
            LeftOutWarning,
            stacklevel=2,
        )
    episodes = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        i = usable[rng.integers(len(usable))]
        query, *others = rng.permutation(by_id[i]).tolist()
        episodes.append(Episode(i, query, tuple(others[:wanted])))
    return tuple(episodes)


def what_is_shown(each: EpisodeSet, *, only: Collection[str] | None = None) -> dict[str, frozenset[int]]:
    """Find the ids in each image of a set, by its stem; instances count as id 1.

    Reads every mask of the set, or of these stems only.
    """
    images, masks, shown = files(each.folder / "images"), files(each.folder / "masks"), {}
    numbers = number_colors(masks.values())
    for stem, path in masks.items():
        if stem in images and (only is None or stem in only):
            counts = np.bincount(read_ids(path, numbers).ravel(), minlength=IGNORED + 1)
            ids = {int(i) for i in np.flatnonzero(counts)} - {0, IGNORED}
            shown[stem] = frozenset({1} if each.instances_as_one and ids else ids)
    return shown


def files(folder: Path) -> dict[str, Path]:
    """List the images in a folder by their stems, in the stems' order."""
    found = (path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return {path.stem: path for path in sorted(found)}


def _with_absences(
    sets: Sequence[EpisodeSet], shown: Mapping[str, Mapping[str, frozenset[int]]], seed: int
) -> list[EpisodeSet]:
    """Add to each episode a query without its thing: of its own set, else of one about other things, else none."""
    free = {each.name: _lacking(each, shown[each.name]) for each in sets}
    result = []
    for each in sets:
        others = {
            i: [other for other in sets if other != each and not related(each, i, other)] for i in free[each.name]
        }
        episodes = []
        for number, episode in enumerate(each.episodes):
            rng = np.random.default_rng([seed, zlib.crc32(each.name.encode()), number])
            asked = 1 if each.instances_as_one else episode.id
            absent = None
            if own := free[each.name][asked]:
                absent = Absent(each.name, own[rng.integers(len(own))])
            elif strangers := others.get(asked):
                other = strangers[rng.integers(len(strangers))]
                stems = sorted(shown[other.name])
                absent = Absent(other.name, stems[rng.integers(len(stems))]) if stems else None
            episodes.append(replace(episode, absent=absent))
        result.append(replace(each, episodes=tuple(episodes)))
    return result


def _lacking(each: EpisodeSet, shown: Mapping[str, frozenset[int]]) -> dict[int, list[str]]:
    """List for each id that is asked for the images without it."""
    asked = {1 if each.instances_as_one else episode.id for episode in each.episodes}
    return {i: [stem for stem in sorted(shown) if i not in shown[stem]] for i in asked}


def related(each: EpisodeSet, i: int, other: EpisodeSet) -> bool:
    """Tell whether images of the other set may show class i of this one, as far as their descriptions tell.

    They may where the descriptions share a word, or one of them is missing.
    """
    asked = _words([each.what, each.classes.get(i, "")])
    told = _words([other.what, *other.classes.values()])
    return not asked or not told or bool(asked & told)


def _words(texts: Iterable[str]) -> set[str]:
    found = (word.removesuffix("s") for text in texts for word in re.findall(r"[a-z]{3,}", text.lower()))
    return {word for word in found if word not in _SAID_EVERYWHERE}


def sets_in(data: Path) -> tuple[EpisodeSet, ...]:
    """Find the sets without fixed episodes: `data` itself, or the folders in it.

    Raises:
        FileNotFoundError: There are none.
    """
    if not data.is_dir():
        raise FileNotFoundError(f"{data}: there is no such folder")

    def holds_a_set(folder: Path) -> bool:
        return (folder / "images").is_dir() and (folder / "masks").is_dir()

    folders = [data] if holds_a_set(data) else sorted(filter(holds_a_set, data.glob("*/")))
    if not folders:
        raise FileNotFoundError(
            f"expected episodes.json in {data}, or the folders images and masks, or folders that hold these; got none"
        )
    return tuple(_described(EpisodeSet(folder.resolve().name, has_instances(folder), (), folder)) for folder in folders)


def _described(each: EpisodeSet) -> EpisodeSet:
    about = described(each.folder)
    named = about.get("classes", {})
    classes = {int(i): str(name) for i, name in named.items() if i.isdecimal()} if isinstance(named, dict) else {}
    return replace(each, what=str(about.get("what", "")), classes=classes)


def _chosen(known: Sequence[EpisodeSet], names: Sequence[str] | None) -> list[EpisodeSet]:
    if names is None:
        return list(known)
    by_name = {each.name: each for each in known}
    if missing := [name for name in names if name not in by_name]:
        raise ValueError(
            f"expected sets out of {', '.join(by_name)}, got {', '.join(missing)}{did_you_mean(missing, by_name)}"
        )
    return [by_name[name] for name in names]


def limited(each: EpisodeSet, limit: int | None) -> EpisodeSet:
    """Keep at most so many of a set's episodes, spread evenly over it so that all classes take part; None: all."""
    if limit is None or limit >= len(each.episodes):
        return each
    picked = np.linspace(0, len(each.episodes) - 1, limit).round().astype(int).tolist()
    return replace(each, episodes=tuple(each.episodes[i] for i in picked))
