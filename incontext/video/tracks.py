"""What became of each object: a line for each frame while a video is tracked, `tracks.json` of them at the end.

Only the file of lines grows with the video; whatever is made of it is made line by line. Refuses to know the network,
videos and images.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import numpy as np

from incontext.images import rle
from incontext.images.alone import open_alone
from incontext.images.write import whole_file
from incontext.jsonlines import JsonLines
from incontext.types import Segmentation, box

TRACKS_FORMAT: Final = "incontext tracks 1"

Span = tuple[int, int]
"""The numbers of the first and the last of some frames that follow each other."""


def line_of(
    number: int, name: str, seconds: float, answer: Segmentation, known: Sequence[int], *, with_rle: bool
) -> dict[str, Any]:
    """Write what is kept of a frame, in plain numbers.

    Boxes are left, top, right and bottom edge in pixels; areas are pixels; confidence is the mean over an object's
    pixels.

    Args:
        number: Of the frame, from 0.
        name: Of the frame.
        seconds: When it is shown.
        answer: What was found in it.
        known: The ids of all objects by then; those that were not found are absent.
        with_rle: Whether COCO's run lengths are wanted.
    """
    objects = {}
    for i in answer.ids:
        found = answer.mask == i
        objects[str(i)] = {
            "area": int(np.count_nonzero(found)),
            "box": list(box(found)),
            "confidence": round(float(answer.confidence[found].mean()), 4),
            **({"rle": rle.from_mask(found)["counts"]} if with_rle else {}),
        }
    absent = [i for i in known if str(i) not in objects]
    return {"frame": number, "name": name, "seconds": round(seconds, 6), "objects": objects, "absent": absent}


class FrameLines:
    """The file of lines: grows at its end, and is read from its start as often as need be.

    A context manager.

    Args:
        keep: Bytes to keep of a file that is there, which were all whole lines; what a killed run wrote after them
            goes.

    Raises:
        ValueError: Another run has it.
    """

    def __init__(self, path: Path, *, keep: int = 0) -> None:
        self._lines = JsonLines(path, keep=keep, stream=open_alone(path, buffering=0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()

    def add(self, line: Mapping[str, Any]) -> None:
        """Write a line."""
        self._lines.add(json.dumps(line, separators=(",", ":")).encode())

    def size(self) -> int:
        """Count the bytes of all lines, which are in the file."""
        return self._lines.size

    def read(self) -> Iterator[dict[str, Any]]:
        """Read all lines, one at a time."""
        yield from map(json.loads, self._lines)


@dataclass(frozen=True)
class ObjectTrack:
    """One object over the whole video.

    Attributes:
        frames: In how many it was found.
        found, lost: The spans of frames in which it was, and in which it was absent, from the first frame on in which
            it was known. area (pixels) and confidence: means over the frames in which it was found, None where it never
            was.
    """

    id: int
    frames: int
    found: tuple[Span, ...]
    lost: tuple[Span, ...]
    area: float | None
    confidence: float | None


def write_tracks(
    path: str | os.PathLike[str], lines: FrameLines, about: Mapping[str, object], *, colors: Mapping[int, Sequence[int]]
) -> tuple[ObjectTrack, ...]:
    """Write `tracks.json`: what `about` says, how many frames there are, and each object with its frame-by-frame track.

    Args:
        colors: Of the objects, in the order of which they are written. The file appears whole or not at all. Its bytes
            depend on nothing but the arguments.
    """
    frames = sum(1 for _ in lines.read())
    head = {"format": TRACKS_FORMAT, **about, "frames": frames}
    made = []
    with whole_file(path) as stream:
        stream.write(_json(head, indent=1).rstrip()[:-2].encode("utf-8", "backslashreplace"))
        stream.write(b',\n "objects": [')
        for position, (i, color) in enumerate(colors.items()):
            stream.write(b",\n  " if position else b"\n  ")
            made.append(_write_object(stream, lines, i, color))
        stream.write(b"\n ]\n}\n")
    return tuple(made)


def read_head(path: Path) -> dict[str, Any]:
    """Read what stands in `tracks.json` before its objects, which may be far more than fits into memory.

    Raises:
        ValueError: it is no such file.
    """
    head: list[str] = []
    try:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                if line.startswith(' "objects": ['):
                    break
                head.append(line)
        document = json.loads("".join(head).rstrip().rstrip(",") + "\n}")
        if document.get("format") == TRACKS_FORMAT:
            return dict(document)
    except (ValueError, AttributeError):
        pass
    raise ValueError(
        f"{path}: expected the tracks of a video ({TRACKS_FORMAT}), got something else; name another folder"
    )


def _write_object(stream: BinaryIO, lines: FrameLines, i: int, color: Sequence[int]) -> ObjectTrack:
    """Write {"id", "color", "track": [...], and the summary}, the track line by line."""
    stream.write(f'{{"id": {i}, "color": {_json(list(color))}, "track": ['.encode())
    spans = _Spans()
    areas, confidences, count = 0, 0.0, 0
    for line in lines.read():
        there = line["objects"].get(str(i))
        if there is None and i not in line["absent"]:
            continue
        spans.add(line["frame"], found=there is not None)
        if there is None:
            continue
        entry = {"frame": line["frame"], **{name: there[name] for name in ("area", "box", "confidence")}}
        stream.write((",\n   " if count else "\n   ").encode() + _json(entry).encode())
        areas, confidences, count = areas + there["area"], confidences + there["confidence"], count + 1
    track = ObjectTrack(
        i,
        count,
        tuple(spans.found),
        tuple(spans.lost),
        round(areas / count, 1) if count else None,
        round(confidences / count, 4) if count else None,
    )
    summary = {
        "frames": track.frames,
        "found": track.found,
        "lost": track.lost,
        "mean_area": track.area,
        "mean_confidence": track.confidence,
    }
    stream.write(b"\n  ], " + _json(summary)[1:].encode())
    return track


class _Spans:
    """Frames, one after the other, joined to spans."""

    def __init__(self) -> None:
        self.found: list[Span] = []
        self.lost: list[Span] = []
        self._last: bool | None = None

    def add(self, number: int, *, found: bool) -> None:
        spans = self.found if found else self.lost
        if self._last == found:
            spans[-1] = spans[-1][0], number
        else:
            spans.append((number, number))
        self._last = found


def write_list(stream: BinaryIO, values: Iterator[Any]) -> None:
    """Write a JSON list of any length, value by value."""
    stream.write(b"[")
    texts = ((", " if position else "") + _json(value) for position, value in enumerate(values))
    stream.writelines(text.encode("utf-8", "backslashreplace") for text in texts)
    stream.write(b"]")


def column(lines: FrameLines, i: int, pick: Callable[[Mapping[str, Any]], object]) -> Iterator[object]:
    """List what `pick` takes of an object in each frame, None where it is not there."""
    for line in lines.read():
        there = line["objects"].get(str(i))
        yield None if there is None else pick(there)


def _json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False)
