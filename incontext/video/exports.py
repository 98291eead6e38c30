"""Tracks in the layouts that other tools read, made of the lines of all frames.

* "coco-video": `coco_video.json`, the layout of YouTube-VIS (arXiv 1905.04804): one annotation for each object, with a
  COCO run-length encoding, a box [x, y, width, height] and an area for each frame, null where it is absent.
* "mot": `mot.txt`, the layout of MOTChallenge (arXiv 1603.00831): frame, id, left, top, width, height, confidence and
  three times -1, for each object in each frame, with commas.
* "mots": `mots.txt`, the layout of MOTS (arXiv 1902.03604): frame, id, class, height, width and COCO's compressed
  run-length encoding, with blanks. The class is 1.

MOT and MOTS count frames from 1, in the order in which they were tracked. Refuses to know anything but lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from incontext.images.write import whole_file
from incontext.options import Export
from incontext.video.tracks import FrameLines, column, write_list

FILES: Final[dict[Export, str]] = {"coco-video": "coco_video.json", "mot": "mot.txt", "mots": "mots.txt"}
NEEDS_RLE: Final = frozenset({"coco-video", "mots"})


def write_export(folder: Path, kind: Export, lines: FrameLines, ids: Sequence[int], size: tuple[int, int]) -> Path:
    """Write one of the layouts into a folder and say where.

    Args:
        size: (H, W) of the frames. The file appears whole or not at all.
    """
    path = folder / FILES[kind]
    if kind == "coco-video":
        _write_coco_video(path, lines, ids, size)
    else:
        _write_text(path, _mot(lines) if kind == "mot" else _mots(lines, size))
    return path


def _write_coco_video(path: Path, lines: FrameLines, ids: Sequence[int], size: tuple[int, int]) -> None:
    height, width = size
    length = sum(1 for _ in lines.read())
    with whole_file(path) as stream:
        stream.write(
            f'{{"videos": [{{"id": 1, "width": {width}, "height": {height}, "length": {length}, "file_names": '.encode()
        )
        write_list(stream, (f"{line['name']}.png" for line in lines.read()))
        stream.write(b'}],\n "categories": [{"id": 1, "name": "object"}],\n "annotations": [')
        for position, i in enumerate(ids):
            stream.write(b",\n  " if position else b"\n  ")
            stream.write(f'{{"id": {i}, "video_id": 1, "category_id": 1, "iscrowd": 0'.encode())
            stream.write(f', "width": {width}, "height": {height}'.encode())
            for name, pick in _columns(size):
                stream.write(f',\n   "{name}": '.encode())
                write_list(stream, column(lines, i, pick))
            stream.write(b"}")
        stream.write(b"\n ]\n}\n")


def _columns(size: tuple[int, int]) -> Iterator[tuple[str, Callable[[Mapping[str, Any]], object]]]:
    yield "segmentations", lambda there: {"size": list(size), "counts": there["rle"]}
    yield "bboxes", lambda there: _left_top_width_height(there["box"])
    yield "areas", lambda there: there["area"]
    yield "scores", lambda there: there["confidence"]


def _mot(lines: FrameLines) -> Iterator[str]:
    for position, line in enumerate(lines.read(), start=1):
        for i, there in line["objects"].items():
            edges = ",".join(map(str, _left_top_width_height(there["box"])))
            yield f"{position},{i},{edges},{there['confidence']},-1,-1,-1\n"


def _mots(lines: FrameLines, size: tuple[int, int]) -> Iterator[str]:
    for position, line in enumerate(lines.read(), start=1):
        for i, there in line["objects"].items():
            yield f"{position} {i} 1 {size[0]} {size[1]} {there['rle']}\n"


def _write_text(path: Path, rows: Iterator[str]) -> None:
    with whole_file(path) as stream:
        for row in rows:
            stream.write(row.encode())


def _left_top_width_height(box: Sequence[int]) -> list[int]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
