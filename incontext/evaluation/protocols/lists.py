"""Episode lists as files: what one system was asked can be asked of another, by whoever has the data.

JSON: "format", "benchmark", and what the kind of benchmark needs; names as the data have them. Refuses to know pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from incontext.annotations.joining import relative_name
from incontext.annotations.values import read_json
from incontext.evaluation.few_shot.episodes import Episode, EpisodeSet, limited
from incontext.evaluation.protocols.benchmarks import Benchmark
from incontext.evaluation.protocols.few_shot_data import FewShotData
from incontext.images.write import whole_file

FORMAT: Final = "incontext episodes 1"


def write_list(path: Path, benchmark: Benchmark, content: Mapping[str, Any]) -> None:
    """Write a list; the file appears whole or not at all."""
    document = {"format": FORMAT, "benchmark": benchmark.name, "rules": benchmark.rules, **content}
    with whole_file(path) as stream:
        stream.write(json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")


def read_list(path: Path, benchmark: Benchmark) -> dict[str, Any]:
    """Read the content of a list.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is another benchmark's or none at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; --write-episodes makes one")
    document = read_json(path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'{path}: expected an episode list with "format": "{FORMAT}", got something else')
    if document.get("benchmark") != benchmark.name:
        raise ValueError(f"{path}: expected episodes of {benchmark.name}, got those of {document.get('benchmark')}")
    return document


# ------------------------------------------------------------------------------------------------ few-shot


def few_shot_content(lists: Mapping[int, Sequence[EpisodeSet]]) -> dict[str, Any]:
    """Write what a list says of few-shot episodes.

    Args:
        lists: By the number of shots.
    """
    return {
        "sets": [
            {
                "name": each.name,
                "shots": shots,
                "episodes": [{"class": e.id, "query": e.query, "prompts": list(e.prompts)} for e in each.episodes],
            }
            for shots, sets in lists.items()
            for each in sets
        ]
    }


def few_shot_lists(
    path: Path,
    benchmark: Benchmark,
    data: FewShotData,
    *,
    shots: Sequence[int] | None = None,
    folds: Sequence[int] | None = None,
    limit: int | None = None,
) -> dict[int, tuple[EpisodeSet, ...]]:
    """Read the few-shot episodes of a file, by the number of shots.

    Args:
        path: Of the list.
        benchmark: That it is to be of.
        data: Of the benchmark.
        shots: Only these, None: all that are there.
        folds: Only these, None: all that are there.
        limit: At most so many of a fold.

    Raises:
        ValueError: What is wanted is not there, or an entry is not what it should be.
    """
    document, found = read_list(path, benchmark), dict[int, list[EpisodeSet]]()
    try:
        for entry in document["sets"]:
            drawn = tuple(_episode(path, each, data) for each in entry["episodes"])
            each = EpisodeSet(str(entry["name"]), False, drawn, data.root, benchmark.title, dict(data.classes))
            if drawn and any(len(episode.prompts) != int(entry["shots"]) for episode in drawn):
                raise ValueError(f"{path}: expected {entry['shots']} prompts in each episode of {each.name}")
            found.setdefault(int(entry["shots"]), []).append(limited(each, limit))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected sets of episodes, got something else ({error!r})") from None
    wanted = list(found) if shots is None else list(shots)
    names = None if folds is None or not benchmark.folds else {f"fold {fold}" for fold in folds}
    chosen = {
        count: tuple(each for each in found.get(count, ()) if names is None or each.name in names) for count in wanted
    }
    for count, sets in chosen.items():
        if not sets or not all(each.episodes for each in sets) or (names and len(sets) < len(names)):
            there = ", ".join(f"{each.name} with {n}" for n, sets in found.items() for each in sets) or "nothing"
            raise ValueError(f"{path}: expected episodes with {count} shots of every fold, there is {there}")
    return chosen


def _episode(path: Path, entry: Mapping[str, Any], data: FewShotData) -> Episode:
    episode = Episode(int(entry["class"]), str(entry["query"]), tuple(map(str, entry["prompts"])))
    if episode.id not in data.classes or not episode.prompts or episode.query in episode.prompts:
        raise ValueError(f"{path}: expected a known class, prompts, and another query than those; got {dict(entry)}")
    for name in (episode.query, *episode.prompts):
        relative_name(name)
    return episode
