"""The first frame of a video, marked by a prompter for a text, to be followed from there on.

Refuses to know the tracker, and which networks a prompter is made of.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from incontext.digest import digest
from incontext.images.gate import folder_below
from incontext.images.write import write_image
from incontext.options import LOADING, LoadOptions
from incontext.prompting import Prompting, read_note, write_note
from incontext.sources.places import StrPath
from incontext.video.frames import Mark, open_frames

FIRST_FRAME: Final = "first_frame"  # below the output folder


def mark_first_frame(
    prompting: Prompting,
    source: StrPath,
    out: StrPath,
    loading: LoadOptions = LOADING,
    *,
    start: Mark = 0,
    stop: Mark | None = None,
    every: int = 1,
) -> Path:
    """Have a prompter mark the first frame that is tracked; the prompter is released from memory in the end.

    The mask is kept in `OUT/first_frame/`, with the frame under it to look at. A run that goes on takes it from there.

    Args:
        prompting: Who marks, and for what.
        source: See `open_frames`, as for start, stop and every.
        out: The folder for results; made if need be.
        loading: Where the prompter runs.

    Returns:
        The mask's file.

    Raises:
        NothingFoundError: Nothing is found in the frame.
        FileNotFoundError, ValueError: The source or the prompter cannot be used.
    """
    from incontext.prompters import NothingFoundError

    with open_frames(Path(source), start=start, stop=stop, every=every) as frames:
        frame = next(iter(frames))
    told = {**prompting.describe(), "frame": frame.number, "image": digest(frame.image)}
    folder = Path(out) / FIRST_FRAME
    mask = folder / "mask.png"
    if read_note(folder) == told and mask.is_file():
        return mask
    with prompting.open(loading) as prompter:
        found = prompter.segment(frame.image, text=prompting.text)
    if found.is_empty:
        asked = ", ".join(prompting.text)
        raise NothingFoundError(
            f"{os.fspath(source)}: {prompting.prompter} found no {asked!r:.200} in frame {frame.number}, the "
            "first that is tracked; try other words, a lower --min-score, or another --from"
        )
    Path(out).mkdir(parents=True, exist_ok=True)
    folder_below(Path(out), FIRST_FRAME)
    found.save(mask)
    write_image(folder / "overlay.jpg", found.overlay(frame.image))
    write_note(folder, told)
    return mask
