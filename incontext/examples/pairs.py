"""Which mask belongs to which image: in folders of examples, and in context files, which list the pairs.

Refuses to know what is inside of images, masks and annotation files, and that a context will be made of them
(prompts.py).
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from incontext.annotations import Categories, Labelled, Labels
from incontext.annotations.joining import readings, uploaded_as
from incontext.annotations.known import open_one, recognised
from incontext.examples.annotated import Annotations, is_annotation
from incontext.images.names import natural_order
from incontext.images.write import whole_file
from incontext.left_out import LeftOutWarning
from incontext.sources.places import StrPath, alike, is_image
from incontext.words import counted

Pair: TypeAlias = tuple[Path, Path]
"""The files of a prompt: its image, and its mask or the annotation file that has it."""

CONTEXT_FORMAT: Final = "incontext context 1"
IMAGE_FOLDERS: Final = ("images", "image", "imgs", "img", "jpegimages", "photos", "images")
MASK_FOLDERS: Final = ("masks", "mask", "labels", "label", "annotations", "segmentationclass", "ground_truth", "gt")
MASK_ENDINGS: Final = ("mask", "masks", "label", "labels", "gt", "seg", "segmentation")  # NAME_mask, NAME-mask, ...

_ENDING = re.compile(rf"[_.-](?:{'|'.join(MASK_ENDINGS)})$", re.IGNORECASE)
_LAYOUTS = (
    "images/ and masks/ (or labels/, annotations/) with files of the same names, "
    "or NAME.jpg beside NAME_mask.png or NAME.png"
)
_MOST_NAMES = 3  # in a sentence
_MOST_LETTERS = 80


class PromptWarning(UserWarning):
    """Some of the files that were given are no prompts, and the user should know."""


class PromptLeftOutWarning(PromptWarning, LeftOutWarning):
    """An example that was given and is of no use."""


@dataclass(frozen=True)
class PromptFiles:
    """The files of a context, made by :func:`gather`.

    Attributes:
        named: The pairs that were asked for one by one, and so must be of use.
        masks: Every mask that was seen, those without an image too, as none of them is a query.
        labels: What annotation files say, for the pairs that are from one.
        categories: What their ids mean, the same in all.
        sources: These annotation files, which know what had to be left out.
    """

    pairs: tuple[Pair, ...]
    named: frozenset[Pair] = frozenset()
    masks: tuple[Path, ...] = ()
    labels: Mapping[Pair, Labelled] = field(default_factory=dict)
    categories: Categories = field(default_factory=lambda: Categories({}))
    sources: tuple[Labels, ...] = ()


# --------------------------------------------------------------------------------------------- finding


def gather(prompts: Iterable[tuple[StrPath, StrPath]] = (), source: StrPath | None = None) -> PromptFiles:
    """Gather the files of a context: those given one by one, then those of a folder, a context file or annotations.

    A folder holds images/ and masks/ (subfolders included) with files of the same names, or images with their masks
    beside them; in natural order. Annotations are a file or a folder in any format of `incontext.annotations`, and such
    a file may also stand for a mask. Files of a folder that are no pair are told in a `PromptWarning`, and so is a pair
    that comes twice, which is kept once.

    Raises:
        FileNotFoundError: there is nothing at `source`, or a context file names a file that is missing.
        ValueError: there is no pair at all, or it is not clear which files belong together.
    """
    annotations = Annotations()
    named = [(Path(image), Path(mask)) for image, mask in prompts]
    found, masks = list(named), [mask for _, mask in named]
    if source is not None and (labels := _labels(Path(source))) is not None:
        pairs, told = annotations.take_all(labels)
        found, masks = found + pairs, masks + [mask for _, mask in pairs]
        for sentence in told:
            _warn(sentence)
    elif source is not None and Path(source).is_dir():
        pairs, others = _search(Path(source))
        found += pairs
        masks += [mask for _, mask in pairs] + others
    elif source is not None:
        pairs = list(read_context(source))
        named, found, masks = named + pairs, found + pairs, masks + [mask for _, mask in pairs]
    if not found:
        raise ValueError(
            "expected at least one prompt, got none; give --prompt IMAGE MASK or --prompts FOLDER, "
            "or --prompt-tensor KEY"
        )
    for image, mask in named:
        if is_annotation(mask):
            annotations.take(image, mask)
    return PromptFiles(_distinct(found), frozenset(named), tuple(masks), *annotations.finish())


def _labels(source: Path) -> Labels | None:
    """Open a source that is in an annotation format; None for any other.

    A folder that is in one itself goes before images with masks, and these go before annotation files that lie beside
    them.
    """
    if not source.exists() or not (source.is_dir() or is_annotation(source)):
        return None
    hits = recognised(source)
    if not hits or (source.is_dir() and hits[0][1].path != source and _has_masks(source)):
        return None
    try:
        return open_one(source, hits)
    except ValueError:
        if source.is_dir() and _has_masks(source):
            return None  # what is wrong with each of them is told where they are opened
        raise


def _has_masks(folder: Path) -> bool:
    images, masks = _subfolder(folder, IMAGE_FOLDERS), _subfolder(folder, MASK_FOLDERS)
    return (images is not None and masks is not None) or bool(_beside(folder)[1])


def _search(folder: Path) -> tuple[list[Pair], list[Path]]:
    """Find the pairs of a folder, and the masks that belong to no image."""
    of_images, masks = _subfolder(folder, IMAGE_FOLDERS), _subfolder(folder, MASK_FOLDERS)
    if of_images is not None and masks is not None:
        images, candidates = _keyed(_walk(of_images), of_images), _keyed(_walk(masks), masks)
    else:
        images, candidates = _beside(folder)
    pairs, lonely_masks = _matched(images, candidates)
    paired = {image for image, _ in pairs}
    lonely = sorted((path for paths in images.values() for path in paths if path not in paired), key=natural_order)
    if not pairs:
        raise ValueError(
            f"{folder}: expected {_LAYOUTS}; found {counted(len(lonely), 'image')} without a mask, "
            f"{counted(len(lonely_masks), 'mask')} without an image{_hint(folder)}"
        )
    for paths, noun, lacks in ((lonely, "image", "a mask"), (lonely_masks, "mask", "an image")):
        if paths:
            _warn(f"{folder}: left out {counted(len(paths), noun)} without {lacks}: {some_of(paths)}")
    return sorted(pairs, key=lambda pair: natural_order(pair[0])), lonely_masks


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    """Find the subfolder of one of these names that holds images."""
    found = [p for p in sorted(folder.iterdir()) if p.name.lower() in names and p.is_dir() and any(_walk(p))]
    if len(found) > 1:
        raise ValueError(
            f"{folder}: expected one of the folders {', '.join(p.name for p in found)}, got {len(found)}, each with "
            "images in it; move those that are not meant, or list the pairs in a context file"
        )
    return found[0] if found else None


def _walk(folder: Path) -> Iterator[Path]:
    """List the images below a folder, by their names; hidden ones are passed over."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        yield from (path for name in files if name[0] != "." and is_image(path := Path(parent, name)))


def _keyed(paths: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    """Key files by their path from the root, without the suffix."""
    keyed: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(paths):
        keyed[alike(path.relative_to(root).with_suffix(""))].append(path)
    return keyed


def _beside(folder: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Tell the images and the masks of one folder apart.

    A mask is called after another image, or is the PNG among two files of one name.
    """
    images = _keyed((path for path in folder.iterdir() if path.name[0] != "." and is_image(path)), folder)
    masks = {key: paths for key, paths in images.items() if (name := _ENDING.sub("", key)) != key and name in images}
    images = {key: paths for key, paths in images.items() if key not in masks}
    for key, paths in images.items():
        pngs = [path for path in paths if path.suffix.lower() == ".png"]
        if pngs and len(pngs) < len(paths):
            masks[key] = pngs
            images[key] = [path for path in paths if path not in pngs]
    return images, masks


def _matched(images: Mapping[str, list[Path]], masks: Mapping[str, list[Path]]) -> tuple[list[Pair], list[Path]]:
    """Match pairs of equal names, the mask's with or without an ending; and list the masks of no image."""
    owned: defaultdict[str, list[Path]] = defaultdict(list)
    lonely: list[Path] = []
    before: defaultdict[str, list[str]] = defaultdict(list)  # what images were called before an upload -> their names
    for key in images:
        if (plain := uploaded_as(key)) is not None:
            before[plain].append(key)
    for key, paths in masks.items():
        owner = _owner(key, images) or next(iter(before.get(_ENDING.sub("", key), ())), None)
        (lonely if owner is None else owned[owner]).extend(paths)
    for key, paths in owned.items():
        if len(paths) > 1 or len(images[key]) > 1:
            raise ValueError(
                f"expected one image and one mask of a name, got {some_of([*images[key], *paths], len(paths) + 2)}; "
                "move those that are not meant, or list the pairs in a context file"
            )
    return [(images[key][0], paths[0]) for key, paths in owned.items()], sorted(lonely, key=natural_order)


def _owner(key: str, images: Mapping[str, list[Path]]) -> str | None:
    """Find the image that a mask's name means: as it stands or as `joining` reads it, with its ending or without."""
    names = dict.fromkeys([key, _ENDING.sub("", key)])
    depth = key.count("/")  # masks in folders of their own are not those of images in other ones
    spelled = (alike(Path(each)) for name in names for each in readings(name) if len(each.parts) == depth + 1)
    return next((name for name in (*names, *spelled) if name in images), None)


def _hint(folder: Path) -> str:
    folder = folder.absolute()
    above = folder.parent
    beside = folder.name.lower() in IMAGE_FOLDERS and any(p.name.lower() in MASK_FOLDERS for p in above.iterdir())
    return f"; is {above} meant?" if beside else ""


def _distinct(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    kept: dict[tuple[Path, ...], Pair] = {}
    twice = []
    for pair in pairs:
        place = tuple(Path(os.path.realpath(path.parent)) / path.name for path in pair)
        if kept.setdefault(place, pair) is not pair:
            twice.append(pair[0])
    if twice:
        warnings.warn(
            f"{counted(len(twice), 'prompt')} given twice, used once: {some_of(twice)}", PromptWarning, stacklevel=2
        )
    return tuple(kept.values())


def some_of(paths: Sequence[Path], most: int = _MOST_NAMES) -> str:
    """Name the first few paths, and how many more there are, for a sentence."""
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(str(path) for path in paths[:most]) + more


def _warn(sentence: str) -> None:
    warnings.warn(sentence, PromptLeftOutWarning, stacklevel=3)


# --------------------------------------------------------------------------------------- context files


def read_context(path: StrPath) -> tuple[Pair, ...]:
    """Read the pairs that a context file lists, their paths taken from the file's own folder.

    A context file is JSON: {"format": "incontext context 1", "prompts": [{"image": PATH, "mask": PATH}, ...]}, and may
    say in "chosen_by" how its prompts were found.

    Raises:
        FileNotFoundError: there is no such file, or a file that it names is missing.
        ValueError: it is no context file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected a folder of images and masks, or a context file, which is JSON; got something else "
            f"({str(error) or type(error).__name__})"
        ) from None
    if not isinstance(document, dict) or document.get("format") != CONTEXT_FORMAT:
        came = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise ValueError(
            f'{path}: expected a context file with "format": "{CONTEXT_FORMAT}", got {_brief(came)}; nor are these '
            "annotations"
        )
    if unknown := sorted(document.keys() - {"format", "prompts", "chosen_by"}):
        raise ValueError(f"{path}: expected format, prompts and chosen_by in a context file, got {', '.join(unknown)}")
    listed = document.get("prompts")
    if not isinstance(listed, list) or not listed:
        raise ValueError(f'{path}: expected "prompts", a list of {{"image", "mask"}}, got {_brief(listed)}')
    pairs = tuple(_listed_pair(path, number, each) for number, each in enumerate(listed))
    if missing := [file for pair in pairs for file in pair if not _is_there(file)]:
        raise FileNotFoundError(
            f"{path}: names {some_of(missing)}, and there is no such file; paths start at the context file's folder"
        )
    return pairs


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # such as a name that is longer than names can be
        return False


def _listed_pair(path: Path, number: int, listed: object) -> Pair:
    if not isinstance(listed, dict) or listed.keys() != {"image", "mask"}:
        raise ValueError(f'{path}: expected {{"image", "mask"}} as prompt {number + 1}, got {_brief(listed)}')
    image, mask = listed["image"], listed["mask"]
    if not all(isinstance(each, str) and each for each in (image, mask)):
        raise ValueError(f"{path}: expected paths as image and mask of prompt {number + 1}, got {_brief(listed)}")
    return path.parent / image, path.parent / mask


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + " ..."


def write_context(path: StrPath, pairs: Iterable[Pair], *, chosen_by: Mapping[str, object] | None = None) -> None:
    """Write a context file that :func:`gather` reads, with paths from its own folder, so that both can move together.

    Args:
        chosen_by: How the prompts were found, for people; what JSON can hold. The file appears whole or not at all.
    """
    folder = os.path.realpath(Path(path).parent)
    prompts = [{"image": _from(folder, image), "mask": _from(folder, mask)} for image, mask in pairs]
    document: dict[str, object] = {"format": CONTEXT_FORMAT, "prompts": prompts}
    if chosen_by is not None:
        document["chosen_by"] = dict(chosen_by)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    with whole_file(path) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))  # a name that is not UTF-8 becomes a JSON escape


def _from(folder: str, path: Path) -> str:
    place = Path(os.path.realpath(path.parent)) / path.name
    try:
        return Path(os.path.relpath(place, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return place.as_posix()
