"""PromptTensor: a learned context, the network frozen, and the file in which people keep and share it.

Knows numpy and safetensors. Refuses to know networks, devices, and how it was learned (tuning). Trusts nothing that it
reads.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from incontext.images.write import whole_file
from incontext.seen_examples import NAMES, SeenExamples
from incontext.tensor_files import RefusedFileError, check_file, has_record, read_record
from incontext.types import Palette, Prompt

if TYPE_CHECKING:  # the model brings torch
    from incontext.options import Task

FORMAT: Final = 1
SEEN_FORMAT: Final = 2  # of a file that also has what a backbone saw
MAX_BYTES: Final = 1 << 29  # of a file: some fifty times what the large network with several shots needs
LARGEST: Final = 1000.0  # of a value: normalised pixels lie within 3, and bfloat16 and float16 go on counting here

# The one entry of ours in the file's metadata. One, because the library writes entries in random order, and equal keys
# should make equal files.
_RECORD = "incontext_prompt_tensor"
_WHAT = "a prompt tensor"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_NAMES = 20  # of images, where people read them


@dataclass(frozen=True, eq=False)
class LearnedGroup:
    """What one pass through the network is shown of the ids in its palette.

    Attributes:
        images, masks: (N, 3, side, side) float32, normalised: the prompt half of both canvases for each of N shots.
        palette: The colours that the network sees, in which its answer is read.
    """

    palette: Palette
    images: npt.NDArray[np.float32]
    masks: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("images", "masks"):
            values = np.array(getattr(self, name))  # a copy: what is learned goes on changing
            shape = values.shape
            if values.dtype != np.float32 or len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or 0 in shape:
                raise ValueError(f"expected {name} (N, 3, side, side) float32, got {values.dtype} {shape}")
            if not (np.abs(values) <= LARGEST).all():  # catches NaN as well
                raise ValueError(f"expected {name} of finite values within {LARGEST:g}, got others")
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if self.images.shape != self.masks.shape:
            raise ValueError(f"expected images and masks alike, got {self.images.shape} and {self.masks.shape}")
        if len(self.palette.ids) < 2:
            raise ValueError("expected a palette with an id beside the background, got none")

    @property
    def ids(self) -> tuple[int, ...]:
        """What it finds, in the palette's order."""
        return tuple(self.palette.ids[1:].tolist())


@dataclass(frozen=True)
class Origin:
    """Where a prompt tensor comes from: what it is worth, and what it can be used with.

    Attributes:
        weights, sha256: Name of the network's weights, and of their file (see `Segmenter.sha256`).
        task: The type token that it was learned with.
        images: Names of those that it was learned from.
        held_out: Of those that it was judged by.
        before, after: Mean IoU on these, 0..1, of what learning started from and of the result (on `images`, where
            nothing was held out).
        date: ISO 8601.
        version: Of this library.
    """

    weights: str
    sha256: str
    task: Task
    images: tuple[str, ...]
    held_out: tuple[str, ...]
    before: float
    after: float
    date: str
    version: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(self.images))
        object.__setattr__(self, "held_out", tuple(self.held_out))
        texts: tuple[object, ...] = (self.weights, self.version, *self.images, *self.held_out)
        if not all(isinstance(text, str) for text in texts) or not self.weights:
            raise ValueError("expected names of weights, version and images as text, got something else")
        if not _SHA256.fullmatch(str(self.sha256)):
            raise ValueError(f"expected a SHA-256 in 64 hexadecimal digits, got {str(self.sha256)[:80]!r}")
        if self.task not in ("semantic", "instance"):
            raise ValueError(f'expected task "semantic" or "instance", got {self.task!r}')
        for score in (self.before, self.after):
            if not 0 <= score <= 1:  # a TypeError where it is no number
                raise ValueError(f"expected scores in 0..1, got {score!r}")
        date.fromisoformat(self.date)


@dataclass(frozen=True, eq=False)
class PromptTensor:
    """A learned context: what the network is shown in place of prompts, for one set of weights.

    Attributes:
        groups: Ids in groups, each with canvases of its own, as many ids need several passes.
        origin: What it was made from.
        palette: The colours to show answers in; covers all ids.
        names: What ids mean, as far as that is known.
        seen: What the backbone saw that it was tuned with, for use with that one; None: there was none.
    """

    groups: tuple[LearnedGroup, ...]
    origin: Origin
    palette: Palette
    names: Mapping[int, str] = field(default_factory=dict)
    seen: SeenExamples | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(self.groups))
        object.__setattr__(self, "names", MappingProxyType(dict(self.names)))
        if not self.groups:
            raise ValueError("expected a prompt tensor of at least one group of ids, got none")
        ids = [i for group in self.groups for i in group.ids]
        if len(set(ids)) < len(ids):
            raise ValueError(f"expected each id in one group only, got {sorted(ids)}")
        if len({group.images.shape[-1] for group in self.groups}) > 1:
            raise ValueError("expected groups of one side, got several")
        if missing := set(ids) - set(self.palette.ids.tolist()):
            raise ValueError(f"expected a palette with colours for all ids, got none for {sorted(missing)}")
        if not all(i in ids and isinstance(name, str) for i, name in self.names.items()):
            raise ValueError(f"expected names, as text, of the ids {sorted(ids)}, got {dict(self.names)!r:.200}")
        if self.seen is not None and (missing := set(ids) - set(self.seen.ids)):
            raise ValueError(f"expected what a backbone saw of all ids, got none of {sorted(missing)}")

    @property
    def ids(self) -> tuple[int, ...]:
        """What it finds, ascending."""
        return tuple(sorted(i for group in self.groups for i in group.ids))

    @property
    def side(self) -> int:
        """Pixels along one side of what the network sees."""
        return int(self.groups[0].images.shape[-1])

    @property
    def shots(self) -> int:
        """Canvases that the network works on for a query, in the largest group."""
        return max(len(group.images) for group in self.groups)

    @property
    def format(self) -> int:
        """Of its file: what a backbone saw is in files of a newer format, which older programs refuse."""
        return FORMAT if self.seen is None else SEEN_FORMAT

    def check_use(self, *, weights: str, sha256: str, task: str, side: int) -> None:
        """Refuse to be used with what it was not learned for.

        Raises:
            ValueError: It was not learned for these weights, this task and this side.
        """
        made = self.origin
        if sha256 != made.sha256:
            raise ValueError(
                f"expected the weights {made.weights!r} (SHA-256 {made.sha256[:12]}...), for which this prompt tensor "
                f"was tuned, got {weights!r} ({sha256[:12]}...); load those, or tune it anew for these"
            )
        if task != made.task:
            raise ValueError(
                f"expected task {made.task!r}, for which this prompt tensor was tuned, got {task!r}; ask for that one"
            )
        if side != self.side:
            raise ValueError(
                f"expected side {self.side}, for which this prompt tensor was tuned, got {side}; leave the side out"
            )

    def describe(self) -> dict[str, object]:
        """Tell what people want to know of it, by name."""
        made = self.origin
        judged = f"on {len(made.held_out)} held-out images" if made.held_out else "on the images it was tuned on"
        seen = {} if self.seen is None else {"backbone": f"{self.seen.backbone} ({self.seen.sha256[:12]}...)"}
        return {
            "prompt tensor": f"format {self.format}, made by incontext {made.version} on {made.date}",
            "weights": made.weights,
            "sha256": made.sha256,
            **seen,
            "task": made.task,
            "side": self.side,
            "shots": self.shots,
            "ids": ", ".join(f"{i} {self.names[i]}" if i in self.names else str(i) for i in self.ids),
            "groups": " | ".join(", ".join(map(str, group.ids)) for group in self.groups),
            "mean IoU": f"{made.before:.3f} before, {made.after:.3f} after tuning, {judged}",
            "images": _listed(made.images),
            "held out": _listed(made.held_out),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as safetensors; the file appears whole or not at all."""
        record = {
            "format": self.format,
            "side": self.side,
            "groups": [_palette_record(group.palette) for group in self.groups],
            "palette": _palette_record(self.palette),
            "names": {str(i): name for i, name in sorted(self.names.items())},
            "origin": asdict(self.origin),
        }
        tensors = {
            f"group{number}.{kind}": np.ascontiguousarray(getattr(group, kind))
            for number, group in enumerate(self.groups)
            for kind in ("images", "masks")
        }
        if self.seen is not None:
            record["seen"] = self.seen.record()
            tensors |= {f"seen.{name}": array for name, array in self.seen.arrays().items()}
        content = save(tensors, {_RECORD: json.dumps(record)})
        with whole_file(path) as stream:
            stream.write(content)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        The file's words are checked before its numbers are read.

        Raises:
            FileNotFoundError: there is nothing at the path.
            ValueError: it is no prompt tensor, a damaged or an oversized one, or of another format.
        """
        path = Path(path)
        check_file(path, _WHAT, MAX_BYTES)
        try:
            with safe_open(path, framework="numpy") as file:
                record = read_record(path, file.metadata(), _RECORD, _WHAT, (FORMAT, SEEN_FORMAT))
                palettes = [_palette(row) for row in record["groups"]]
                seen = record["seen"] if record["format"] == SEEN_FORMAT else None
                _check_tensors(path, file, len(palettes), record["side"], NAMES if seen is not None else ())
                groups = tuple(
                    LearnedGroup(
                        palette, file.get_tensor(f"group{number}.images"), file.get_tensor(f"group{number}.masks")
                    )
                    for number, palette in enumerate(palettes)
                )
                arrays = {name: file.get_tensor(f"seen.{name}") for name in NAMES if seen is not None}
            names = {int(i): name for i, name in record["names"].items()}
            return cls(groups, Origin(**record["origin"]), _palette(record["palette"]), names, _seen(seen, arrays))
        except RefusedFileError:
            raise
        except SafetensorError as error:
            raise ValueError(f"{path}: expected a prompt tensor, got a damaged file ({error})") from None
        except KeyError as error:
            raise ValueError(f"{path}: expected a prompt tensor with {error} in its metadata, got none") from None
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path}: this prompt tensor cannot be used: {error}") from None


def is_prompt_tensor(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file says of itself that it is a prompt tensor; nothing else of it is checked."""
    return has_record(path, _RECORD)


def _seen(record: Mapping[str, Any] | None, arrays: Mapping[str, npt.NDArray[Any]]) -> SeenExamples | None:
    return None if record is None else SeenExamples.of(record, arrays)


def _check_tensors(path: Path, file: Any, groups: int, side: object, seen: Sequence[str]) -> None:
    """Check that the file's tensors, unread so far, are the right ones.

    They are the groups', (N, 3, side, side) float32, those of what a backbone saw, and no others.
    """
    expected = {f"group{number}.{kind}" for number in range(groups) for kind in ("images", "masks")}
    if found := (expected | {f"seen.{name}" for name in seen}) ^ set(file.keys()):
        raise RefusedFileError(
            f"{path}: expected images and masks for each of {groups} groups of ids, "
            f"got others: {_listed(sorted(found))}"
        )
    for name in sorted(expected):
        piece = file.get_slice(name)
        shape, kind = piece.get_shape(), piece.get_dtype()
        if kind != "F32" or len(shape) != 4 or shape[0] < 1 or shape[1:] != [3, side, side]:
            raise RefusedFileError(f"{path}: expected {name} (N, 3, {side}, {side}) in float32, got {kind} {shape}")


def _palette_record(palette: Palette) -> dict[str, object]:
    return {"ids": palette.ids.tolist(), "colors": palette.colors.tolist()}


def _palette(record: Mapping[str, Any]) -> Palette:
    return Palette(np.array(record["ids"]), np.array(record["colors"]))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (", ".join(names[:_MOST_NAMES]) or "none") + more


def listed(
    context: Prompt | PromptTensor | Sequence[Prompt | PromptTensor] | None,
) -> tuple[Prompt | PromptTensor, ...]:
    """List what a context is made of; nothing for None.

    Raises:
        TypeError: It is something else, or holds something else.
    """
    if context is None:
        return ()
    given = (context,) if isinstance(context, Prompt | PromptTensor) else context
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
        raise TypeError(f"{_NO_CONTEXT}, got {_called(given)}")
    shown: tuple[object, ...] = tuple(given)
    if strange := [each for each in shown if not isinstance(each, Prompt | PromptTensor)]:
        raise TypeError(f"{_NO_CONTEXT}, got {_called(strange[0])} in it")
    return cast("tuple[Prompt | PromptTensor, ...]", shown)


_NO_CONTEXT: Final = "expected a Prompt, a PromptTensor or a sequence of these as the context"


def _called(thing: object) -> str:
    """Name what was given in place of a prompt, and how to make one of a path."""
    kind = type(thing).__name__
    if isinstance(thing, str | os.PathLike):
        return f"{kind} {os.fspath(thing)!r:.60}; open it first, Prompt.open(image, mask) or PromptTensor.load(path)"
    return kind
