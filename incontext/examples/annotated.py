"""Prompts out of annotation files: which labels belong to which image, and ids that mean the same in all of them.

Refuses to know what a format is (annotations/), and folders of masks (pairs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from incontext.annotations import Categories, Labelled, Labels, open_labels
from incontext.annotations.agree import agreed, renumbered
from incontext.annotations.joining import likeness
from incontext.words import counted

ANNOTATION_SUFFIXES: Final = frozenset({".json", ".xml", ".txt"})
_MOST_PROBLEMS: Final = 3  # in a sentence


def is_annotation(path: Path) -> bool:
    """Tell whether a file that stands for a mask is an annotation file, by its name."""
    return path.suffix.lower() in ANNOTATION_SUFFIXES


class Annotations:
    """The annotation files of a context, each opened once, and the images taken from them."""

    def __init__(self) -> None:
        self._opened: dict[Path, _Opened] = {}
        self._taken: dict[tuple[Path, Path], tuple[Labelled, Labels]] = {}

    def take(self, image: Path, file: Path) -> None:
        """Take the labels of one image.

        Raises:
            FileNotFoundError or ValueError: The file has none for it.
        """
        if not image.exists():
            raise FileNotFoundError(f"{image}: there is no such file")
        if file not in self._opened:
            self._opened[file] = _Opened(open_labels(file, images=None))
        opened = self._opened[file]
        found = opened.find(image)
        if image != file:  # else the image is part of the annotation file
            found = replace(found, image=image, embedded=None)
        self._taken[image, file] = found, opened.labels

    def take_all(self, labels: Labels) -> tuple[list[tuple[Path, Path]], list[str]]:
        """Take the labels of all images that are there: (image, annotation file) each, and sentences on the rest."""
        pairs, missing = [], []
        for labelled in labels:
            if labelled.image is None and labelled.embedded is None:
                missing.append(str(labelled.name))
                continue
            pair = labelled.image or labelled.file, labelled.file
            self._taken[pair] = labelled, labels
            pairs.append(pair)
        if not pairs:
            raise ValueError(
                f"{labels.path}: expected the images that it names in their folder, found none of "
                f"{_some(missing) or 'them, as it names none'}{_told(labels.problems)}"
            )
        told = (
            [f"{labels.path}: left out {counted(len(missing), 'image')} without a file: {_some(missing)}"]
            if missing
            else []
        )
        return pairs, told + list(labels.problems[:_MOST_PROBLEMS]) + _rest(labels.problems)

    def finish(self) -> tuple[dict[tuple[Path, Path], Labelled], Categories, tuple[Labels, ...]]:
        """Return the labels of each image, with ids that mean the same in all; what they mean; and their files."""
        sources = {id(labels): labels for _, labels in self._taken.values()}
        categories, numbers = agreed([labels.categories for labels in sources.values()])
        ids = dict(zip(sources, numbers, strict=True))
        taken = {pair: renumbered(each, ids[id(labels)]) for pair, (each, labels) in self._taken.items()}
        return taken, categories, tuple(sources.values())


class _Opened:
    """Labels, and which of them belong to an image."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels

    def find(self, image: Path) -> Labelled:
        """Find the labels of an image.

        They are those that lie with that very file, else those whose image's name is most like its own, else the only
        ones.

        Raises:
            ValueError: There are none, or several.
        """
        every = list(self.labels)
        ranks = [likeness(each.name.name, image.name) for each in every]
        best = min((rank for rank in ranks if rank is not None), default=None)
        near = [each for each, rank in zip(every, ranks, strict=True) if rank is not None and rank == best]
        same = [each for each in near if each.image is not None and each.image.samefile(image)]
        found = same or near or (every if len(every) == 1 else [])
        if len(found) != 1:
            names = f" ({found[0].name} and {found[1].name})" if found else ""
            raise ValueError(
                f"{self.labels.path}: expected labels of {image}, found {len(found) or 'none'}{names} among those of "
                f"{counted(len(every), 'image')}{_told(_about(image, self.labels.problems))}"
            )
        return found[0]


def _about(image: Path, problems: Sequence[str]) -> list[str]:
    """Put the problems that name an image before the others."""
    return sorted(problems, key=lambda problem: image.name not in problem)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_PROBLEMS} more" if len(names) > _MOST_PROBLEMS else ""
    return ", ".join(names[:_MOST_PROBLEMS]) + more


def _told(problems: Sequence[str]) -> str:
    return f" ({problems[0]})" if problems else ""


def _rest(problems: Sequence[str]) -> list[str]:
    more = len(problems) - _MOST_PROBLEMS
    return [f"and {counted(more, 'more annotation')} left out"] if more > 0 else []
