"""What is done for one image before and after the network: read it; write its results and describe them.

Functions of a module, with arguments that can be sent to other processes. Whatever is wrong with a file becomes its
`FileReport`. Refuses to know the network, the order of images and how many there are.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from incontext.folder.outputs import Outputs
from incontext.folder.plan import Query
from incontext.folder.report import FileReport
from incontext.images.depth import noted
from incontext.images.ids import IGNORED, Pixels
from incontext.images.opening import one_large
from incontext.images.read import read_image
from incontext.images.write import encode_gray, encode_image, encode_mask
from incontext.sources.find import contents
from incontext.sources.find import version as version_at
from incontext.sources.places import Place
from incontext.types import Segmentation

_STOPS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})  # what no other image would escape
_PIXELS_AT_ONCE = 1_000_000  # counted together: numpy needs 16 bytes for each


class UnwritableError(OSError):
    """Nothing more can be written to the output folder: the disk is full, or has become read-only."""


class Readable(Protocol):
    """An answer that may still be paint."""

    def read(self) -> Segmentation:
        """Read ids and confidence, at the query's own size."""


@dataclass(frozen=True, eq=False)
class DecodedQuery:
    """A decoded query.

    Attributes:
        image: (H, W, 3) uint8.
        version: See `version_of`.
        seconds: What it has cost so far.
    """

    query: Query
    image: Pixels
    version: str | None
    seconds: float
    note: str | None = None  # what was guessed of it

    @property
    def pixels(self) -> int:
        """H * W."""
        return int(self.image.shape[0] * self.image.shape[1])


def version_of(query: Query) -> str | None:
    """Tell what changes when an image does, see `incontext.sources.find.version`, or what is said of it."""
    version = version_at(query.place)
    return version if version is None or query.hints is None else f"{version} {query.hints.digest}"


def read(query: Query) -> DecodedQuery | FileReport:
    """Decode a query. Raises nothing: whatever is wrong with a file, the others are not to suffer from it."""
    start = time.perf_counter()
    version = version_of(query)
    try:
        with noted() as notes:
            image = read_image(contents(query.place), name=str(query), page=query.page or 0)
    except Exception as error:  # noqa: BLE001  broken files make decoders raise nearly anything
        return failure(query, str(query), error, version=version, seconds=time.perf_counter() - start)
    return DecodedQuery(query, image, version, time.perf_counter() - start, "; ".join(notes) or None)


def write(outputs: Outputs, image: DecodedQuery, painted: Readable) -> FileReport:
    """Read the mask from the network's painting, write the results of an image and describe them.

    The mask comes last: where it is, the others are. Every file appears whole or not at all.

    Raises:
        UnwritableError: nothing can be written any more, so that the job had better stop.
    """
    start, query = time.perf_counter(), image.query
    mask = outputs.mask_name(query.name)
    try:
        with one_large(image.pixels):
            answer = painted.read()
            _put(outputs, image, answer)
            areas, confidences = by_id(answer)
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, OSError):
            raise_if_unwritable(error, outputs.out)
        seconds = image.seconds + time.perf_counter() - start
        return failure(query, f"{outputs.where}/{mask}", error, version=image.version, seconds=seconds)
    return FileReport(
        str(query.place),
        mask=mask,
        ids=tuple(areas),
        areas=areas,
        confidences=confidences,
        presence={i: round(value, 4) for i, value in answer.presence.items()},
        confidence=round(float(answer.confidence.mean()), 4),
        is_empty=not areas,
        version=image.version,
        seconds=round(image.seconds + time.perf_counter() - start, 4),
        note=image.note,
    )


def _put(outputs: Outputs, image: DecodedQuery, answer: Segmentation) -> None:
    """Write all results of an image."""
    query = image.query
    if outputs.overlay:
        name = outputs.overlay_name(query.name, answer.shape)
        outputs.put(name, encode_image(answer.overlay(image.image), name=name))
    if outputs.confidence:
        name = outputs.confidence_name(query.name)
        outputs.put(name, encode_gray(answer.confidence, name=name))
    name = outputs.mask_name(query.name)
    outputs.put(name, encode_mask(answer.mask, answer.palette.table, name=name))


def by_id(answer: Segmentation) -> tuple[dict[int, int], dict[int, float]]:
    """Count for each id that was found its pixels, and average the confidence over them, 0..1."""
    mask, confidence = answer.mask.ravel(), answer.confidence.ravel()
    counts, sums = np.zeros(256, np.int64), np.zeros(256, np.float64)
    for first in range(0, mask.size, _PIXELS_AT_ONCE):
        part = slice(first, first + _PIXELS_AT_ONCE)
        counts += np.bincount(mask[part], minlength=256)
        sums += np.bincount(mask[part], weights=confidence[part], minlength=256)
    ids = [int(i) for i in np.flatnonzero(counts) if i not in (0, IGNORED)]
    return {i: int(counts[i]) for i in ids}, {i: round(float(sums[i] / counts[i]), 4) for i in ids}


def failure(query: Query, path: Place | str, error: Exception, *, version: str | None, seconds: float) -> FileReport:
    """Report a skipped file.

    Args:
        path: What the error is about, put before the error's text where that does not name it.
    """
    what = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    sentence = what if str(path) in what else f"{path}: {what}"
    return FileReport(str(query.place), version=version, error=sentence, seconds=round(seconds, 4))


def raise_if_unwritable(error: OSError, out: Path) -> None:
    """Stop the job where an error says that nothing more can be written.

    Raises:
        UnwritableError: It says so; with what to do.
    """
    if error.errno in _STOPS:
        raise UnwritableError(
            f"{out}: {(os.strerror(error.errno or 0)).lower()}; stopped, and what was done is kept: "
            "make room there, and the same command goes on from here"
        ) from error
