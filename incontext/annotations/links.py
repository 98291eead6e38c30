"""Images beside labels, for layouts that want them there: links, as copies would double what a disk holds."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from incontext.annotations.values import place_of


def link_image(out: Path, name: PurePosixPath, image: Path | None) -> None:
    """Make a link of that name below `out` to an image, seen from there, so that both can move together.

    What is no link stays as it is, and where a system allows no links there is none: put the images there by hand.
    """
    if image is None:
        return
    place = place_of(out, name)
    if place.exists() and not place.is_symlink():
        return
    with suppress(OSError, ValueError):  # no links, or another drive of Windows
        target = os.path.relpath(image.resolve(), place.parent.resolve())
        place.unlink(missing_ok=True)
        place.symlink_to(target)
