"""Pictures beside labels, for layouts that want them there: links, as copies would double what a disk holds."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def link_picture(place: Path, image: Path | None) -> None:
    """Make `place` a link to a picture, seen from there, so that both can move together.

    What is no link stays as it is, and where a system allows no links there is none: put the pictures there by hand.
    """
    if image is None or (place.exists() and not place.is_symlink()):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError, ValueError):  # no links, or another drive of Windows
        target = os.path.relpath(image.resolve(), place.parent.resolve())
        place.unlink(missing_ok=True)
        place.symlink_to(target)
