"""Results written in several annotation formats at once, each of which appears whole or not at all.

Refuses to know where results come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from incontext.annotations.core import Add, Categories, Format, Result
from incontext.annotations.known import FORMATS
from incontext.images.gate import folder_below
from incontext.words import did_you_mean


def writable(names: Iterable[str]) -> tuple[Format, ...]:
    """List the formats of these names.

    Raises:
    ValueError: For a name that is none, or comes twice.
    """
    known = {each.name: each for each in FORMATS if each.write is not None}
    asked = list(names)
    if unknown := [name for name in asked if name not in known]:
        told = ", ".join(map(repr, unknown)) + did_you_mean(unknown, known)
        raise ValueError(f"expected formats out of {', '.join(known)}, got {told}")
    if len(set(asked)) < len(asked) or not asked:
        raise ValueError(f"expected at least one format, each once, got {', '.join(asked) or 'none'}")
    return tuple(known[name] for name in asked)


def folders_for(formats: Sequence[Format], out: Path, *, apart: bool) -> dict[str, Path]:
    """Map a format to the folder that it is written to, made.

    `out` itself, or `out`/FORMAT where they are kept apart.
    """
    out.mkdir(parents=True, exist_ok=True)
    return {each.name: folder_below(out, each.name) if apart else out for each in formats}


def write_all(
    results: Iterable[Result],
    formats: Sequence[Format],
    folders: Mapping[str, Path],
    categories: Categories,
    *,
    on_problem: Callable[[str], None] | None = None,
) -> int:
    """Write each result in all of the formats; how many there were.

    Memory grows by a number for each.

    Files of all images together appear at the end, and not at all when a result or a disk raises on the way.

    Args:
        on_problem: Told in a sentence what a format cannot hold, and so does not have.
    """
    count = 0
    named: dict[int, int] = {}  # hashes of names without their suffixes -> the number of the image
    with ExitStack() as stack:
        adds: list[tuple[Format, Add]] = []
        for each in formats:
            assert each.write is not None  # writable() gives no others
            folders[each.name].mkdir(parents=True, exist_ok=True)
            adds.append((each, stack.enter_context(each.write(folders[each.name], categories))))
        for result in results:
            is_first = named.setdefault(hash(str(result.name.with_suffix("")).casefold()), count) == count
            count += 1
            for each, add in adds:
                try:
                    if each.by_name and not is_first:
                        raise ValueError("expected a name that differs in more than its suffix from another image's")
                    add(result)
                except ValueError as error:
                    if on_problem is not None:
                        on_problem(f"{result.name}: left out of {each.name}: {error}")
    return count
