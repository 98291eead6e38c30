"""Images that arrive while a job runs: the inputs are looked through again and again.

Refuses to know what becomes of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import monotonic, sleep
from typing import Final, TypeAlias

from incontext.folder.plan import FolderJob, Query, look_again
from incontext.folder.report import FileReport
from incontext.folder.search import Search
from incontext.folder.work import version_of
from incontext.sources.places import Place, alike

POLL_SECONDS: Final = 1.0

_MOST_SHARE = 5  # it is looked for at most this part of the time

Arrived: TypeAlias = list[Query | FileReport]
"""Images to segment, and what became of those that cannot be."""


def arrivals(job: FolderJob, *, poll_seconds: float = POLL_SECONDS) -> Iterator[Arrived]:
    """Wait for what is in the inputs of a plan, and whatever comes there later, for ever, list by list.

    An image has arrived once its file has not changed between two looks, ``poll_seconds`` apart; longer where looking
    takes long. One that changes later arrives again. One whose results would go where another's are, or over an image,
    arrives as a failure.
    """
    names = _Names(job)
    arrived: dict[str, str] = {}  # the version of each image when it arrived
    before: dict[str, str] = {}  # the versions of the others at the last look
    while True:
        start, now, fresh = monotonic(), {}, []
        seen = tuple(look_again(job))
        names.keep(seen)
        for query in seen:
            which, version = str(query), version_of(query)  # of a file each page by itself
            if version is None or arrived.get(which) == version:
                continue
            if before.get(which) == version:
                arrived[which] = version
                fresh.append(names.check(query, version))
            else:
                now[which] = version
        before = now
        if fresh:
            yield fresh
        took = monotonic() - start
        sleep(max(poll_seconds, 0 if fresh else _MOST_SHARE * took))


class _Names:
    """Which names of results are taken, by which images, and where images are that no result may overwrite."""

    def __init__(self, job: FolderJob) -> None:
        self._outputs = job.outputs
        self._search = Search(job.outputs, needs_inputs=False, needs_matches=False)
        self._kept = {
            self._alike(path) for path in (*(path for pair in job.prompt_files for path in pair), *job.left_out)
        }
        self._taken: dict[str, str] = {}

    def keep(self, queries: Iterable[Query]) -> None:
        """Note that these images are there. What is called like the result of one is taken for that result."""
        self._kept.update({self._alike(query.place) for query in queries}.difference(self._taken))

    def check(self, query: Query, version: str) -> Query | FileReport:
        """Return the query itself, or why it cannot be segmented."""
        path = str(query.place)
        for result in map(self._outputs.place, self._outputs.names(query.name)):
            same = self._alike(result)
            if same in self._kept and self._outputs.per_tar is None:
                return FileReport(path, version=version, error=f"{result}: this result would overwrite an image")
            other = self._taken.setdefault(same, path)
            if other != path:
                error = f"{path}: its result would overwrite that of {other}, {result}; rename one of them"
                return FileReport(path, version=version, error=error)
        return query

    def _alike(self, place: Place) -> str:
        return alike(self._search.place(place))
