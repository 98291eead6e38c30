"""Labels from several sources given ids that mean the same in all of them, by the names of their categories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from incontext.annotations.core import Categories, Labelled, Thing
from incontext.images.ids import MOST_IDS


def agreed(every: Sequence[Categories]) -> tuple[Categories, list[Mapping[int, int]]]:
    """One set of categories for all, and for each of these, id there -> id here.

    Ids stay as they are in a single source, and where no id has two names and no name two ids; else names are counted
    from 1 in the order in which they come.

    Raises:
        ValueError: For more than 254 names.
    """
    names: dict[int, str] = {}
    same = all(names.setdefault(i, name) == name for each in every for i, name in each.names.items())
    colors = {i: color for each in reversed(every) for i, color in each.colors.items()}
    if len(every) < 2 or (same and len(set(names.values())) == len(names)):
        return Categories(names, colors), [{i: i for i in each.ids} for each in every]
    numbers: dict[str, int] = {}
    for name in (name for each in every for name in each.names.values()):
        numbers.setdefault(name, len(numbers) + 1)
    if len(numbers) > MOST_IDS:
        raise ValueError(f"expected at most 254 categories in all annotations together, got {len(numbers)}")
    maps = [{i: numbers[name] for i, name in each.names.items()} for each in every]
    colors = {
        new[i]: c for each, new in zip(reversed(every), reversed(maps), strict=True) for i, c in each.colors.items()
    }
    return Categories({i: name for name, i in numbers.items()}, colors), list(maps)


def renumbered(labelled: Labelled, ids: Mapping[int, int]) -> Labelled:
    """Return the same image, its things of other categories: id before -> id now."""
    return replace(labelled, draw=partial(_renumbered, labelled.draw, ids))


def _renumbered(draw: Callable[[], Sequence[Thing]], ids: Mapping[int, int]) -> list[Thing]:
    return [replace(thing, category=ids[thing.category]) if thing.category else thing for thing in draw()]
