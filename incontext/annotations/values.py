"""What annotation files of others hold, as values that can be relied on, and what of it has to be left out.

Refuses to know formats, and what values mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeGuard, overload

from incontext.images import gate
from incontext.images.opening import MAX_PIXELS
from incontext.images.read import image_size
from incontext.images.text import decoded, other_encodings, python_name

_MOST_LETTERS: Final = 80  # of a value in a sentence
_DEEPEST: Final = 4  # lists in lists of it


class Problems(Sequence[str]):
    """What has to be left out of an annotation file or folder, a sentence each, as far as it is known by now.

    A part of a label that is bad costs itself: it is counted with those that are bad for the same reason, and one
    sentence tells of them. As labels are drawn when they are asked for, such sentences may come late.
    """

    def __init__(self, sentences: Sequence[str] = ()) -> None:
        self._sentences = list(sentences)
        self.notes: list[str] = []  # those of the sentences that tell of a guess, with which nothing is left out
        self._parts: dict[str, tuple[str, set[str]]] = {}  # by reason: the first sentence, and where it holds

    def add(self, sentence: str) -> None:
        """Something is left out."""
        self._sentences.append(sentence)

    def note(self, sentence: str) -> None:
        """Nothing is left out, but something was guessed that the user should know of."""
        self._sentences.append(sentence)
        self.notes.append(sentence)

    def leave_out(self, where: str, error: Exception | str) -> None:
        """Note that a part is left out: `where` says which one, with its file; told once, however often it is met."""
        reason = str(error).partition(", got")[0]
        self._parts.setdefault(reason, (f"{where}: {error}", set()))[1].add(where)

    def settle(self, bad: Sequence[tuple[str, ValueError]], image: str, *, is_any_left: bool) -> None:
        """Leave out parts of an image's labels, as long as others are left: none is taken for showing nothing.

        Raises:
            ValueError: With the first of them, where none is.
        """
        if bad and not is_any_left:
            where, error = bad[0]
            raise ValueError(f"{where}: {error}; of {len(bad)} parts nothing is left in {image}")
        for where, error in bad:
            self.leave_out(where, error)

    @property
    def parts(self) -> list[str]:
        """The sentences about parts alone."""
        return [_counted(sentence, len(places)) for sentence, places in self._parts.values()]

    def _all(self) -> list[str]:
        return [*self._sentences, *self.parts]

    def __len__(self) -> int:
        return len(self._sentences) + len(self._parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._all()[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str) and self._all() == list(other)

    __hash__ = None  # type: ignore[assignment]


def parts_left_out(problems: Sequence[str]) -> Sequence[str]:
    """List the sentences about parts of labels among some problems: those that are known once labels were drawn."""
    return problems.parts if isinstance(problems, Problems) else ()


def notes_among(problems: Sequence[str]) -> Sequence[str]:
    """List the sentences with which nothing is left out."""
    return problems.notes if isinstance(problems, Problems) else ()


def _counted(sentence: str, count: int) -> str:
    return sentence + (f"; likewise {count - 1} more" if count > 1 else "")


# ----------------------------------------------------------------------------------------- files and names


def read_json(path: Path) -> Any:
    """Tell what a JSON file holds.

    Raises:
        ValueError: It is broken, or in an unknown encoding; FileNotFoundError for none.
    """
    content = path.read_bytes()
    try:
        return json.loads(decoded(content, "strict"))
    except UnicodeDecodeError:
        others = " or ".join(other_encodings(content)) or "none that is known"
        raise EncodingError(
            f"{path}: expected JSON, got something else (not UTF-8, but perhaps {others}); save it as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got something else ({str(error) or type(error).__name__})") from None


class EncodingError(ValueError):
    """A file's text is in an encoding that it does not say."""


def glimpse_json(path: Path) -> Any:
    """Tell what a JSON file in an unknown encoding holds, its names perhaps spelled wrongly.

    Raises:
        ValueError: It is broken.
    """
    content = path.read_bytes()
    for encoding in other_encodings(content):
        try:
            return json.loads(content.decode(python_name(encoding)))
        except (ValueError, RecursionError):
            continue
    raise ValueError(f"{path}: expected JSON, got something else")


def place_of(out: Path, name: PurePosixPath) -> Path:
    """Where a result of this name is written below the folder of results; its own folder is there when this returns.

    Every writer makes its paths here. ValueError for a name that the gate refuses, and for a link that leads out.
    """
    return gate.below(out, gate.checked_name(name.as_posix()))


def size_of_image(path: Path) -> tuple[int, int]:
    """(H, W) of an image as `read_image` gives it, from its header. ValueError where it cannot be read."""
    try:
        return image_size(path)
    except (ValueError, OSError) as error:
        what = (error.strerror if isinstance(error, OSError) else None) or str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: expected an image, got a file that cannot be read ({what})") from None


# ------------------------------------------------------------------------------------------------ values


def checked_size(height: object, width: object) -> tuple[int, int]:
    """(H, W) as a file says it, as integers. ValueError unless that is an image of at most 100 megapixels."""
    whole = [int(side) for side in (height, width) if is_number(side) and float(side) == int(side) and side > 0]
    if len(whole) < 2:
        raise ValueError(f"expected height and width of at least 1 pixel, got {brief(height)} and {brief(width)}")
    if whole[0] * whole[1] > MAX_PIXELS:
        raise ValueError(f"expected at most 100 megapixels, got {whole[1]} x {whole[0]}")
    return whole[0], whole[1]


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of JSON is a finite number that a float can hold; true and false are none."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= 1 << 53
    return isinstance(value, float) and math.isfinite(value)


def brief(value: object) -> str:
    """Write a value for a sentence, however large and deep it is."""
    text = repr(_beginning(value, _DEEPEST))
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + " ..."


def _beginning(value: object, depth: int) -> object:
    """As much of a value of JSON as can be seen in a sentence."""
    if isinstance(value, str | bytes):
        return value[: 2 * _MOST_LETTERS]
    if isinstance(value, int) and abs(value) > 10**_MOST_LETTERS:
        return float("inf")
    if not isinstance(value, list | tuple | dict) or not value:
        return value
    if depth == 0:
        return type(value)()
    if isinstance(value, dict):
        return {_beginning(k, depth - 1): _beginning(v, depth - 1) for k, v in islice(value.items(), _MOST_LETTERS)}
    return type(value)(_beginning(each, depth - 1) for each in value[:_MOST_LETTERS])
