"""From names and paths to prompters: which networks they are, and how two become one.

Refuses to know what the networks answer.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import scipy.ndimage as ndi

from incontext.images.ids import Pixels
from incontext.network.devices import choose_device
from incontext.prompters.files import Files, find_files
from incontext.prompters.opening import import_transformers
from incontext.prompters.own import AnswersHints, ByHints
from incontext.prompters.parts import Clicker, Clicks, FoundBox, Margins, Reader
from incontext.prompters.prompter import Prompter
from incontext.prompters.registry import names_of

if TYPE_CHECKING:  # brings seconds
    import torch

# How sure a find for a text must be, by family: what their authors use, or lower where scores are means over tokens.
MIN_SCORES: Final = {
    "grounding-dino": 0.3,
    "mm-grounding-dino": 0.3,
    "owlv2": 0.2,
    "clipseg": 0.4,
    "groupvit": 0.5,
    "sam3": 0.5,
    "sam3_video": 0.5,
}
_DETECTORS: Final = ("grounding-dino", "mm-grounding-dino", "owlv2")
_READERS: Final = ("clipseg", "groupvit", "sam3", "sam3_video")
_CLICKERS: Final = (
    *("sam", "sam_hq", "sam2", "sam2_video", "edgetam", "edgetam_video"),
    *("sam3_tracker", "sam3_video"),
)


def load_prompter(
    name: str | os.PathLike[str],
    *,
    device: str = "auto",
    min_score: float | None = None,
    segmenter: AnswersHints | None = None,
) -> Prompter:
    """Open another model as a prompter. Nothing is fetched: `incontext prompters download` does that.

    Args:
        name: A name that `incontext prompters list` knows; the path of a folder that transformers saved; or two of
            them with a plus between, one that finds boxes or areas for a text and one that fills them finely, such as
            "mm-grounding-dino+sam2.1".
        device: "auto" (a CUDA device if there is one, else the CPU) or a PyTorch device, which must be there.
        min_score: How sure a find for a text must be to count, 0..1; None is what is usual for the model.
        segmenter: What fills the boxes of a detector that stands alone: our own network (`incontext.load()`).

    Returns:
        The prompter.

    Raises:
        FileNotFoundError: The files are not on this machine.
        CheckpointError: The files are damaged, or lack a tensor.
        ValueError: It is no prompter, two do not go together, transformers is missing, or the device is not there.
    """
    import_transformers()
    files = [find_files(part) for part in _parts(name)]
    for each in files:
        _refuse_others(each)
    families = [each.family for each in files]
    chosen = choose_device(device)
    filler = _clicker(files[-1], chosen)
    if len(files) == 2 and (filler is None or families[0] not in (*_DETECTORS, *_READERS)):
        raise ValueError(
            f"expected A+B of a model that reads text and one that answers hints, such as mm-grounding-dino+sam2.1; "
            f"got {os.fspath(name)}, where the first is of the family {families[0]} and the second {families[1]}"
        )
    if filler is None and segmenter is not None:
        filler = ByHints(segmenter)
    first = families[0]
    reader = _reader(files[0], chosen, filler, fills=len(files) == 2)
    if first in _DETECTORS and reader is None:
        raise ValueError(
            f"{os.fspath(name)} finds boxes and fills none; put one of the SAMs behind it, as in "
            f"{os.fspath(name)}+sam2.1, or give a segmenter"
        )
    least = MIN_SCORES.get(first, 0.5) if min_score is None else min_score
    return Prompter(
        os.fspath(name),
        reader=reader,
        clicker=filler,
        sha256=prompter_sha256(files),
        min_score=least,
        device=str(chosen),
        takes_examples=first in ("sam3", "sam3_video") and len(files) == 1,
    )


def find_prompter(name: str | os.PathLike[str]) -> list[Files]:
    """Find the files of a prompter without opening them. Raises as `load_prompter` does."""
    files = [find_files(part) for part in _parts(name)]
    for each in files:
        _refuse_others(each)
    return files


def needs_segmenter(files: Sequence[Files]) -> bool:
    """Tell whether it is a detector that stands alone, whose boxes something must fill."""
    return len(files) == 1 and files[0].family in _DETECTORS


def prompter_sha256(files: Sequence[Files]) -> str:
    """One hash of all files: of a single folder its own."""
    each = [one.sha256 for one in files]
    return each[0] if len(each) == 1 else hashlib.sha256("+".join(each).encode()).hexdigest()


def usual_min_score(files: Sequence[Files]) -> float:
    """Return the least score that counts where a user names none."""
    return MIN_SCORES.get(files[0].family, 0.5)


def _parts(name: str | os.PathLike[str]) -> list[str]:
    """Split "A+B" into A and B, unless there is a folder of that name.

    Of several plus signs one counts that leaves two folders or names.
    """
    text = os.fspath(name)
    if "+" not in text or Path(text).exists():
        return [text]
    pieces = text.split("+")
    ways = [("+".join(pieces[:at]), "+".join(pieces[at:])) for at in range(1, len(pieces))]
    there = [way for way in ways if all(Path(part).exists() or part in _names() for part in way)]
    if len(ways) > 1 and not there:
        raise ValueError(f'expected two models with one plus between, such as "owlv2+sam2.1", got {text!r}')
    way = (there or ways)[0]
    if not all(way):
        raise ValueError(f'expected two models with one plus between, such as "owlv2+sam2.1", got {text!r}')
    return list(way)


def _names() -> set[str]:
    return set(names_of("prompter").split(", "))


def _refuse_others(files: Files) -> None:
    if files.family not in (*_DETECTORS, *_READERS, *_CLICKERS):
        raise ValueError(
            f"{files.name} is a model of the family {files.family!r}, which is no prompter; expected one of "
            f"{', '.join(dict.fromkeys((*_CLICKERS, *_DETECTORS, *_READERS)))}"
        )


def _clicker(files: Files, device: torch.device) -> Clicker | None:
    if files.family not in _CLICKERS:
        return None
    from incontext.prompters.sam import open_sam

    # The tracker of SAM 3 is a second network, of which who only gives text has no need.
    return _Later(files, device) if files.family == "sam3_video" else open_sam(files, device)


def _reader(files: Files, device: torch.device, filler: Clicker | None, *, fills: bool) -> Reader | None:
    """Open what reads text. fills: its finds are filled by the filler, however fine they are."""
    from incontext.prompters.detectors import open_grounding_dino, open_owl
    from incontext.prompters.located import Located
    from incontext.prompters.sam3 import open_concepts
    from incontext.prompters.words import open_words

    if files.family in _DETECTORS:
        if filler is None:
            return None
        open_detector = open_owl if files.family == "owlv2" else open_grounding_dino
        return Located(open_detector(files, device), filler)
    if files.family not in _READERS:
        return None
    reader: Reader = (
        open_words(files, device) if files.family in ("clipseg", "groupvit") else open_concepts(files, device)
    )
    return Located(BoxesOf(reader), filler) if fills and filler is not None else reader


class _Later:
    """A network that answers clicks, opened when the first of them comes."""

    def __init__(self, files: Files, device: torch.device) -> None:
        self._files, self._device = files, device
        self._opened: Clicker | None = None

    def masks(self, image: Pixels, objects: Sequence[Clicks]) -> Iterator[tuple[Margins, float]]:
        from incontext.prompters.sam import open_sam

        if self._opened is None:
            self._opened = open_sam(self._files, self._device)
        return self._opened.masks(image, objects)


class BoxesOf:
    """A reader as a detector: boxes around the connected parts of what it finds; see `parts.Detector`."""

    def __init__(self, reader: Reader) -> None:
        """Hold the reader."""
        self._reader = reader

    def check(self, phrases: Sequence[str]) -> None:
        """Raise ValueError where the phrases are too long for it."""
        self._reader.check(phrases)

    def boxes(self, image: Pixels, phrases: Sequence[str], *, least: float) -> list[FoundBox]:
        """Return a box around each part, the surest first. Specks below a thousandth of the image are left out."""
        found = []
        for claim in self._reader.read(image, phrases, least=least):
            parts, count = ndi.label(claim.margins > 0, structure=np.ones((3, 3)))
            peaks = ndi.maximum(claim.margins, parts, index=np.arange(1, count + 1))
            areas = ndi.sum_labels(parts > 0, parts, index=np.arange(1, count + 1))
            for place, peak, area in zip(ndi.find_objects(parts), peaks, areas, strict=True):
                if area >= parts.size / 1000:
                    rows, columns = place
                    box = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
                    score = float(1 / (1 + np.exp(-peak) * (1 - least) / least))
                    found.append(FoundBox(box, min(score, claim.score), claim.phrase))
        return sorted(found, key=lambda each: -each.score)
