"""What all masks of a folder depend on, so that a job that goes on can be told from another one.

Refuses to know images to be segmented, and where the masks are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from incontext.folder.outputs import Outputs
from incontext.identity import context_hash, differences, of_network

if TYPE_CHECKING:  # the engine brings torch
    from incontext.engine import Context, PreparedContext, Segmenter


def identify(
    segmenter: Segmenter, prepared: PreparedContext, context: Context | None, outputs: Outputs
) -> dict[str, object]:
    """Name everything that changes a mask, or what is written beside it, in plain values.

    Neither the images to be segmented are in it, nor how many go through the network together, nor the device; nor
    overlays, where they can be drawn later: beside single files in a local folder.
    """
    return {
        **of_network(segmenter, prepared.options, prepared.side),
        "context": context_hash(context),
        **of_outputs(outputs),
    }


def of_outputs(outputs: Outputs) -> dict[str, object]:
    """Name what of it is about the files that are written."""
    return {
        **({} if outputs.draws_later else {"overlay": outputs.overlay}),
        "confidence": outputs.confidence,
        "per_tar": outputs.per_tar,
    }


def refuse_another(where: str, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Refuse to write where the masks of another job are.

    Raises:
        ValueError: They are another job's; the differences are named.
    """
    if told := differences(before, now):
        raise ValueError(
            f"{where}: this folder holds the masks of another job: {told}; choose another folder, or --no-resume to do "
            "everything anew"
        )
