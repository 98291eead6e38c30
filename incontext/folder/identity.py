"""What all masks of a folder depend on, so that a job that goes on can be told from another one.

Refuses to know pictures to be segmented, and where the masks are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from incontext.folder.outputs import Outputs
from incontext.prompt_tensor import PromptTensor
from incontext.types import Palette, Prompt

if TYPE_CHECKING:  # the engine brings torch
    from incontext.engine import Context, PreparedContext, Segmenter

_MOST_LETTERS = 60  # of a value, in a sentence


def identify(segmenter: Segmenter, prepared: PreparedContext, context: Context, outputs: Outputs) -> dict[str, object]:
    """Names and plain values of everything that changes a mask, or what is written beside it.

    The weights are known by the SHA-256 of their file, the context by that of its pixels, whatever its files are
    called. Neither the pictures to be segmented are in it, nor how many go
    through the network together, nor the device.
    """
    described = segmenter.describe()
    return {
        "weights": segmenter.sha256,
        "dtype": described.get("dtype"),
        "context": context_hash(context),
        "ensemble": prepared.ensemble,
        "task": prepared.task,
        "side": prepared.side,
        "tiles": prepared.tiles,
        "refine": prepared.refine,
        "min_presence": described.get("min_presence"),
        "overlay": outputs.overlay,
        "confidence": outputs.confidence,
        "per_tar": outputs.per_tar,
    }


def context_hash(context: Context) -> str:
    """SHA-256 of what prompts and prompt tensors show, and of weights other than 1, in hexadecimal digits."""
    digest = hashlib.sha256()
    shown = (context,) if isinstance(context, Prompt | PromptTensor) else context
    for each in shown:
        if isinstance(each, Prompt):
            for array in (each.image, each.mask, each.colors):
                _add(digest, array)
            _add_palette(digest, each.palette)
            if each.weight != 1:
                digest.update(f"weight {each.weight}".encode())
        else:
            for group in each.groups:
                _add(digest, group.images)
                _add(digest, group.masks)
                _add_palette(digest, group.palette)
            _add_palette(digest, each.palette)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, array: npt.NDArray[np.generic] | None) -> None:
    if array is None:
        digest.update(b"none")
        return
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)


def _add_palette(digest: hashlib._Hash, palette: Palette | None) -> None:
    _add(digest, None if palette is None else palette.ids)
    _add(digest, None if palette is None else palette.colors)


def refuse_another(where: str, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """ValueError, with the differences, where the masks of a folder are another job's."""
    before, now = dict(before), json.loads(json.dumps(now))  # as it was written: with lists for tuples
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        told = ", ".join(_difference(name, before.get(name), now.get(name)) for name in differing)
        raise ValueError(
            f"{where}: this folder holds the masks of another job: {told}; choose another folder, or --no-resume to do "
            "everything anew"
        )


def _difference(name: str, before: object, now: object) -> str:
    if name in {"weights", "context"}:
        return f"the {name} were others" if name == "weights" else "the examples were others"
    return f"{name} was {_brief(before)}, now {_brief(now)}"


def _brief(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 3] + "..."
