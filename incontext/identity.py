"""What results depend on, in plain values, so that a run that goes on can be told from another one.

Refuses to know folders, videos and scores: each kind of job adds what is its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from incontext.digest import digest
from incontext.options import SegmentOptions
from incontext.prompt_tensor import listed
from incontext.types import Palette, Prompt
from incontext.version import __version__

if TYPE_CHECKING:  # the engine brings torch
    from incontext.engine import Context, Segmenter

_WORDS = {
    "weights": "the weights were others",
    "context": "the examples were others",
    "backbone": "the backbone was another, or counted otherwise",
    "prompter": "the prompter was another",
}
_MOST_LETTERS = 60  # of a value, in a sentence


def of_network(segmenter: Segmenter, options: SegmentOptions, side: int) -> dict[str, object]:
    """Name everything about the network that changes a mask, not the device.

    That is its weights, by the SHA-256 of their file, its precision, and the options.

    Args:
        segmenter: Whose network it is.
        options: Of the segmentation.
        side: Pixels along a side of what the network sees.
    """
    described = segmenter.describe()
    return {
        "weights": segmenter.sha256,
        "dtype": described.get("dtype"),
        "min_presence": described.get("min_presence"),
        **options.plain(),
        "side": side,
        **({"backbone": described["backbone_identity"]} if "backbone_identity" in described else {}),
    }


def about(segmenter: Segmenter, options: SegmentOptions) -> dict[str, object]:
    """Say what ran, for reports: all that is known of it."""
    return {
        **segmenter.describe(),
        **options.plain(),
        "side": segmenter.config.side if options.side is None else options.side,
        "weights_sha256": segmenter.sha256,
        "incontext": __version__,
    }


def settings_of(segmenter: Segmenter, options: SegmentOptions) -> dict[str, object]:
    """Name what scores depend on, down to rounding: the network, its kernel, its device, and this program."""
    side, kernel = segmenter.config.side if options.side is None else options.side, segmenter.describe()["attention"]
    own = {"attention": kernel, "device": segmenter.device.type, "incontext": __version__}
    return {**of_network(segmenter, options, side), **own}


def context_hash(context: Context | None) -> str:
    """Make a SHA-256, in hexadecimal digits, of what prompts and prompt tensors show, and of their weights.

    It depends on pixels, not on what files are called.
    """
    parts: list[object] = []
    for each in listed(context):
        if isinstance(each, Prompt):
            parts += [each.image, each.mask, each.colors, *_arrays(each.palette), f"weight {each.weight}"]
        else:
            for group in each.groups:
                parts += [group.images, group.masks, *_arrays(group.palette)]
            parts += _arrays(each.palette)
            parts += [] if each.seen is None else [each.seen.sha256, *each.seen.arrays().values()]
    return digest(*parts)  # type: ignore[arg-type]


def _arrays(palette: Palette | None) -> list[object]:
    return [None, None] if palette is None else [palette.ids, palette.colors]


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Tell in what two runs differ, in words: "side was 160, now 192"; "" where in nothing."""
    old, new = _flat(before), _flat(json.loads(json.dumps(now)))  # as it was written: with lists for tuples
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(_difference(name, old.get(name), new.get(name)) for name in names)


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    """Tell what is inside of a mapping one by one."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= {f"{name} {key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _difference(name: str, before: object, now: object) -> str:
    if name in ("backbone", "prompter") and (before is None or now is None):
        return f"there was {'no' if before is None else 'a'} {name}"
    if name in _WORDS:
        return _WORDS[name]
    return f"{name} was {_brief(before)}, now {_brief(now)}"


def _brief(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 3] + "..."
