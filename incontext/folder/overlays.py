"""Overlays of masks that are there already, for a job that is asked for them after it was done.

Refuses to know the network: a mask and its image are enough.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from incontext.folder.outputs import Outputs
from incontext.folder.plan import Query
from incontext.folder.report import FileReport
from incontext.folder.work import raise_if_unwritable, read
from incontext.images.ids import IGNORED, ids_in
from incontext.images.masks import MaskFile, read_mask
from incontext.images.write import encode_image
from incontext.left_out import LeftOutWarning
from incontext.types import Palette, Segmentation


class OverlayWarning(LeftOutWarning):
    """An overlay that could not be drawn, and why."""


def draw_missing(outputs: Outputs, done: Iterable[Query]) -> None:
    """Draw the overlays that are missing beside the masks of queries, in the masks' own colours.

    One that cannot be drawn costs nothing but itself, and an `OverlayWarning`.

    Args:
        outputs: Single files in a local folder.
        done: Queries whose masks are there.

    Raises:
        UnwritableError: Nothing can be written any more.
    """
    for query in done:
        if not _is_there(outputs, query):
            try:
                _draw(outputs, query)
            except (OSError, ValueError) as error:
                if isinstance(error, OSError):
                    raise_if_unwritable(error, outputs.out)
                warnings.warn(f"no overlay of {query}: {error}", OverlayWarning, stacklevel=2)


def _draw(outputs: Outputs, query: Query) -> None:
    image = read(query)
    if isinstance(image, FileReport):
        raise ValueError(image.error)
    mask = read_mask(outputs.out / outputs.mask_name(query.name))
    shown = Segmentation(mask.ids, np.ones(mask.ids.shape, np.float32), _palette(mask))
    name = outputs.overlay_name(query.name, mask.ids.shape)
    outputs.put(name, encode_image(shown.overlay(image.image), name=name))


def _palette(mask: MaskFile) -> Palette:
    """Take the colours of a mask's own file, which `report.json` and other masks of the job share."""
    ids = [i for i in ids_in(mask.ids) if i not in (0, IGNORED)]
    if mask.colors is None:
        return Palette.spread(ids)
    return Palette(np.array([0, *ids]), np.concatenate([np.zeros((1, 3), np.uint8), mask.colors[ids]]))


def _is_there(outputs: Outputs, query: Query) -> bool:
    """Tell whether the overlay is there, as a JPEG or, of what is too large for one, as a PNG."""
    with_overlay, without = (replace(outputs, overlay=wanted).names(query.name) for wanted in (True, False))
    return any((outputs.out / name).exists() for name in with_overlay if name not in without)
