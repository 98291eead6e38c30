"""What is said of some of a job's images: hints, by the names of these.

Refuses to know files of hints, and the network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from incontext.canvas.hints import check_hints
from incontext.folder.plan import FolderJob
from incontext.hints import Hints

_SHOWN = 3  # names in a sentence


def with_hints(job: FolderJob, hints: Mapping[str, Hints], ids: Collection[int]) -> FolderJob:
    """Give hints to the images of a plan.

    Args:
        job: The plan.
        hints: By the names of images: paths from the folder that these were found through, with / between folders, as
            results are named.
        ids: Those of the context; none: there is no example, so that every image needs hints.

    Raises:
        ValueError: an image is not in the job, its hints do not go with the context, or it has none although there is
            no example.
    """
    names = {str(query.name) for query in job.queries}
    if unknown := [name for name in hints if name not in names]:
        raise ValueError(
            f"expected hints for images of the job, such as {_some(sorted(names))}; got some for {_some(unknown)}"
        )
    if not ids and (bare := sorted(names - set(hints))):
        raise ValueError(
            f"expected hints for every image where there is no example, got none for {_some(bare)}; give an example, "
            "or leave them out"
        )
    for name, each in hints.items():
        try:
            check_hints(each, ids)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return replace(job, queries=tuple(replace(query, hints=hints.get(str(query.name))) for query in job.queries))


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
