"""The annotation formats, and which of them lies at a path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from incontext.annotations import coco, cvat, davis, label_studio, labelme, masks, panoptic, voc, yolo
from incontext.annotations.core import Format, Labels, Source

FORMATS: Final[tuple[Format, ...]] = (
    masks.INDEXED,
    masks.OBJECTS,
    masks.CLASSES,
    coco.FORMAT,
    panoptic.FORMAT,
    coco.SEMANTIC,
    yolo.FORMAT,
    labelme.FORMAT,
    cvat.FORMAT,
    label_studio.FORMAT,
    voc.FORMAT,
    davis.FORMAT,
)

_LARGE = 16 << 20  # bytes of an annotation file that is not read only to see what it is, where there are several


def open_labels(path: Path, *, images: Path | None = None) -> Labels:
    """Open the labelled images of a file or folder, in whichever format it is.

    Args:
    images: The folder of the images, where they lie elsewhere than the format says.

    Raises:
    FileNotFoundError, ValueError: It is none of the formats, several, or of no use at all.
    """
    return open_one(path, recognised(path, images=images))


def open_one(path: Path, hits: Sequence[tuple[Format, Source]]) -> Labels:
    """Open the only one of what :func:`recognised` found at a path.

    Raises:
    ValueError: It found nothing, or several.
    """
    if not hits:
        understood = "; ".join(f"{each.name} ({each.about})" for each in FORMATS if each.read is not None)
        raise ValueError(f"{path}: expected annotations, got something else; understood are {understood}")
    if len(hits) > 1:
        listed = ", ".join(f"{source.path} ({each.name})" for each, source in hits[:5])
        raise ValueError(f"{path}: expected one kind of annotations, got {len(hits)}: {listed}; name the file meant")
    ((found, source),) = hits
    assert found.read is not None  # recognised() only lists formats that can be read
    return found.read(source)


def recognised(path: Path, *, images: Path | None = None) -> Sequence[tuple[Format, Source]]:
    """Give each format that a file or folder is in.

    For a folder also those of annotation files that lie in it, or in its subfolder "annotations".

    Raises:
        ValueError: A file that was named is broken.
    """
    readable = [each for each in FORMATS if each.read is not None and each.recognises is not None]
    source = Source(path, images=images)
    hits = _tried(readable, source)
    if not source.is_folder:
        return hits
    candidates = [p for folder in (path, path / "annotations") for p in _annotation_files(folder)]
    large = sum(p.stat().st_size > _LARGE for p in candidates) > 1
    if large and not hits:
        raise ValueError(f"{path}: expected one annotation file, got {len(candidates)}; name the file meant")
    own = {each.name for each, _ in hits}
    for candidate in candidates if not own else ():
        try:
            hits += _tried(readable, Source(candidate, images=images))
        except ValueError:
            continue  # some other JSON
    return hits


def _tried(readable: Sequence[Format], source: Source) -> list[tuple[Format, Source]]:
    return [(each, source) for each in readable if each.recognises is not None and each.recognises(source)]


def _annotation_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in Source(folder).files if p.suffix.lower() in {".json", ".xml"} and p.is_file()]
