"""What lets an interrupted run go on where it was: its state on disk, and whose results a folder holds.

Refuses to know what the state is made of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from incontext.identity import differences
from incontext.images.write import refuse_special, whole_file
from incontext.video.tracks import read_head

STATE_NAME: Final = "state.npz"  # while a run is not finished
TRACKS_NAME: Final = "tracks.json"  # once it is
MASKS_NAME: Final = "masks"

_TRACKER = "tracker."  # what the names of a tracker's arrays begin with


@dataclass(frozen=True, eq=False)
class Saved:
    """Where a run stood.

    Attributes:
        done: Frames whose masks are written.
        lines: Bytes of the file of lines by then.
        tracker: What `Tracker.state` gave after them.
    """

    done: int
    lines: int
    tracker: dict[str, npt.NDArray[Any]]


def save(out: Path, settings: Mapping[str, object], saved: Saved) -> None:
    """Put the state into the output folder. The file appears whole or not at all."""
    arrays: dict[str, Any] = {_TRACKER + name: array for name, array in saved.tracker.items()}
    with whole_file(out / STATE_NAME) as stream:
        np.savez(
            stream,
            settings=np.array(json.dumps(settings)),
            done=np.array(saved.done),
            lines=np.array(saved.lines),
            **arrays,
        )


def find(out: Path, settings: Mapping[str, object]) -> Saved | None:
    """Find what an earlier run of the same settings left unfinished in the output folder; None where there is nothing.

    Raises:
        ValueError: the folder holds results of other settings, or masks that no run wrote, which would be overwritten.
    """
    state, tracks = out / STATE_NAME, out / TRACKS_NAME
    refuse_special(state)
    refuse_special(tracks)
    if state.exists():
        return _read(state, settings)
    if tracks.exists():
        _refuse_others(tracks, read_head(tracks).get("settings", {}), settings)
    elif (masks := out / MASKS_NAME).exists() and (not masks.is_dir() or any(masks.iterdir())):
        raise ValueError(
            f"{masks}: expected a new folder, or one of an earlier run, got one with files in it that would be mixed "
            "with the results; name another output folder"
        )
    return None


def _read(path: Path, settings: Mapping[str, object]) -> Saved:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content = dict(arrays)
        known = json.loads(str(content["settings"]))
        saved = Saved(
            int(content["done"]),
            int(content["lines"]),
            {name.removeprefix(_TRACKER): array for name, array in content.items() if name.startswith(_TRACKER)},
        )
    except Exception as error:  # a broken archive makes numpy raise nearly anything
        raise ValueError(f"{path}: expected the state of an unfinished run, got something else; remove it") from error
    _refuse_others(path, known, settings)
    return saved


def _refuse_others(path: Path, known: Mapping[str, object], settings: Mapping[str, object]) -> None:
    if told := differences(known, settings):
        raise ValueError(f"{path}: the folder holds another job's results ({told}); name another, or remove this one")
