"""Files of several images: each page of a TIFF and each frame of a DICOM file as an image of its own.

Opens files for their headers, which plan.py leaves to it. Refuses to know the network and where results go.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from incontext.images.read import page_count
from incontext.sources.find import contents
from incontext.sources.places import Place

_MAY_HAVE_PAGES: Final = frozenset({".dcm", ".dicom", ".tif", ".tiff"})


def paged(place: Place, name: PurePosixPath) -> Iterator[tuple[PurePosixPath, int | None]]:
    """List the pages of a file, each with its name and its number from 0: NAME_p001.tif and so on.

    A file with one page, of another kind, or that cannot be read keeps its name, and None is its page: what is wrong
    with it is told later.
    """
    count = _pages(place) if name.suffix.lower() in _MAY_HAVE_PAGES else 1
    if count == 1:
        yield name, None
        return
    for page in range(count):
        yield name.with_name(f"{name.stem}_p{page + 1:03d}{name.suffix}"), page


def _pages(place: Place) -> int:
    try:
        return page_count(contents(place), name=str(place))
    except (OSError, ValueError):
        return 1
