"""What comes of a benchmark, whichever it is: figures, tables, images. Refuses to know how they were made."""

from __future__ import annotations

from dataclasses import dataclass

from incontext.evaluation.metrics import Interval
from incontext.evaluation.pages.gallery import Shown
from incontext.evaluation.pages.page import COLUMNS
from incontext.evaluation.pages.tables import Table
from incontext.evaluation.protocols.benchmarks import Benchmark


@dataclass(frozen=True)
class Figure:
    """A figure that people compare.

    It has its name as in `published`, 0..1; the middle 95 % of a bootstrap where there is one; and how it was made
    where
    there are several ways.
    """

    name: str
    value: float
    interval: Interval | None = None
    how: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        figures: What is set beside the published ones, none where nothing could be scored.
        report: A dataclass of every score, for JSON.
        sentences: What else there is to say.
        shown: The images of a page, as `page.episodes` takes them; so are note, columns, measure and of.
    """

    benchmark: Benchmark
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    report: object
    sentences: tuple[str, ...] = ()
    shown: tuple[Shown, ...] = ()
    note: str = ""
    columns: tuple[str, ...] = COLUMNS
    measure: str = "IoU"
    of: str = "episodes"
