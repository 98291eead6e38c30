"""The memory bank: which frames of a video, with which masks, are the context of the next one.

Knows images and ids. Refuses to know networks, tensors and where frames come from: who keeps what can be read, and
tested, without any of them. Everything is stored at the network's side, so memory is flat whatever the frames' size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any, Final, Self, cast, get_args

import numpy as np
import numpy.typing as npt

from incontext.images.ids import IGNORED, Pixels, ids_in
from incontext.images.resize import resized, resized_mask
from incontext.options import Policy, SegmentOptions
from incontext.types import Prompt

SURE: Final = 0.3  # the least confidence that is believed: paint nearly twice as near to one colour as to the next
HALF_LIFE: Final = 30  # frames, a second or so: what is this much older must be twice as sure to stay as surest


@dataclass(frozen=True, eq=False)
class _Frame:
    """What was given holds; predicted is what is seen beside it.

    They are kept apart so that one can be taken back.

    Attributes:
        image: (side, side, 3) uint8.
        given, predicted: (side, side) uint8 ids, 255 where nothing is known.
        unaware: Objects that may be in sight here without being marked.
        weight: See `Prompt`.
    """

    number: int
    image: Pixels
    given: Pixels
    predicted: Pixels
    confidence: float  # mean over the pixels of the objects predicted; 1 where all is given
    unaware: frozenset[int] = frozenset()
    weight: float = 1.0

    def showing(self, ids: Collection[int]) -> Prompt | None:
        """Show the network some objects of the frame, all else black, like background. None where none is seen."""
        says = (self.given != 0) & (self.given != IGNORED)
        mask = only(np.where(says, self.given, self.predicted), ids)
        return Prompt(self.image, _frozen(mask), weight=self.weight) if mask.any() else None


class MemoryBank:
    """Frames with masks that serve as context: permanent (given) and recent (predicted, bounded).

    All that was given stays, however much it is: a user's word is never traded for a prediction. Of the predicted
    frames at most `size` stay, chosen by policy:

    * "recent": the last ones;
    * "spaced": evenly spread over the past, the newest among them. When one is too many, that one leaves whose
      neighbours are closest to each other (of equals the oldest), so that gaps stay within a factor of two or so;
    * "confident": the surest, by the mean confidence of their objects' pixels, which halves every `HALF_LIFE` frames
      so that a newer frame is preferred to an equally sure older one.

    Args:
        side: Pixels along a side of what is stored. Pixels of a prediction less sure than `SURE` become 255 (unknown),
            which the network is shown as black, so that errors do not feed themselves.
    """

    def __init__(self, *, size: int, policy: Policy, side: int) -> None:
        if size < 0:
            raise ValueError(f"expected a memory of 0 or more predicted frames, got {size}")
        if policy not in get_args(Policy):
            raise ValueError(f"expected a policy among {', '.join(get_args(Policy))}, got {policy!r}")
        self.size = size
        self.policy: Policy = policy
        self.side = side
        self._permanent: list[_Frame] = []
        self._recent: list[_Frame] = []
        self._contexts: tuple[tuple[Prompt, ...], ...] | None = ()

    @property
    def contexts(self) -> tuple[tuple[Prompt, ...], ...]:
        """What the network is to be asked: a context for each group of objects of which the same frames know.

        A frame in which an object is not marked says that it is not there. So frames that do not know of an object, as
        it was given later, have no say in it. In each context permanent prompts come first, in the order given, then
        recent ones from old to new. The same tuple as long as nothing changed, so that what was made of it can be used
        again.
        """
        if self._contexts is None:
            frames = (*self._permanent, *self._recent)
            groups: dict[tuple[_Frame, ...], list[int]] = {}
            for i in self.ids:
                groups.setdefault(tuple(frame for frame in frames if i not in frame.unaware), []).append(i)
            self._contexts = tuple(self._context(knowing, ids) for knowing, ids in groups.items())
        return self._contexts

    def _context(self, frames: Iterable[_Frame], ids: Collection[int]) -> tuple[Prompt, ...]:
        """Collect what these frames show of some objects; what was given counts at least as much as all predicted."""
        shown = [(frame in self._permanent, prompt) for frame in frames if (prompt := frame.showing(ids)) is not None]
        given = [prompt.weight for is_given, prompt in shown if is_given]
        times = max(1.0, (len(shown) - len(given)) / sum(given)) if given else 1.0
        return tuple(replace(p, weight=p.weight * times) if is_given else p for is_given, p in shown)

    @property
    def ids(self) -> tuple[int, ...]:
        """The objects that were given and not forgotten, ascending."""
        return tuple(sorted({i for frame in self._permanent for i in ids_in(frame.given)}))

    @property
    def recent(self) -> tuple[int, ...]:
        """The numbers of the predicted frames that are kept, ascending."""
        return tuple(frame.number for frame in self._recent)

    def give(self, image: Pixels, mask: Pixels, *, predicted: Pixels | None = None, weight: float = 1.0) -> None:
        """Keep a permanent prompt; what was predicted of its objects leaves the bank.

        Args:
            image: (H, W, 3) uint8 RGB.
            mask: (H, W) uint8 ids, 0 none of them, 255 unknown; an object too small for a pixel at (side, side) keeps
                one.
            predicted: (H, W) uint8, what was predicted of other objects there, 255 where unsure: without it the network
                would be shown them as background in a frame that stays for good.
            weight: How much it counts beside the other permanent prompts.
        """
        ids, known = ids_in(mask), self.ids
        self._drop(ids)
        self._permanent = [_surprised(frame, ids) for frame in self._permanent]
        self._recent = [_surprised(frame, ids) for frame in self._recent]
        beside = np.full((self.side, self.side), IGNORED, np.uint8) if predicted is None else self._fitted(predicted)
        unaware = frozenset(known).difference(ids) if predicted is None else frozenset[int]()
        self._permanent.append(_Frame(0, self._image(image), self._fitted(mask), _frozen(beside), 1.0, unaware, weight))
        self._contexts = None

    def add(self, number: int, image: Pixels, mask: Pixels, confidence: npt.NDArray[np.float32]) -> bool:
        """Offer a predicted frame; whether it is kept.

        A frame in which no object is sure enough is not.

        Args:
            number: Of the frame, above those before.
            image: (H, W, 3) uint8 RGB.
            mask: (H, W) uint8 ids.
            confidence: (H, W) float32 in 0..1.
        """
        sure = sure_only(mask, confidence)
        objects = (sure != 0) & (sure != IGNORED)
        if self.size == 0 or not objects.any():
            return False
        unknown = np.full((self.side, self.side), IGNORED, np.uint8)
        mean = float(confidence[objects].mean())
        self._recent.append(_Frame(number, self._image(image), _frozen(unknown), self._fitted(sure), mean))
        if len(self._recent) > self.size and self._recent.pop(self._least()).number == number:
            return False
        self._contexts = None
        return True

    def forget(self, id: int) -> None:
        """Take an object out of all frames. A permanent prompt that shows no other given object leaves with it."""
        self._drop([id])
        without = [replace(f, given=_frozen(np.where(f.given == id, 0, f.given))) for f in self._permanent]
        self._permanent = [frame for frame in without if ids_in(frame.given)]

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return all of it as arrays, to be given to `restore`."""
        square, frames = (-1, self.side, self.side), [*self._permanent, *self._recent]
        return {
            "size": np.array(self.size),
            "policy": np.array(self.policy),
            "side": np.array(self.side),
            "permanent": np.array(len(self._permanent)),
            "numbers": np.array([frame.number for frame in frames], np.int64),
            "confidence": np.array([frame.confidence for frame in frames], np.float64),
            "images": np.array([frame.image for frame in frames], np.uint8).reshape(*square, 3),
            "given": np.array([frame.given for frame in frames], np.uint8).reshape(square),
            "predicted": np.array([frame.predicted for frame in frames], np.uint8).reshape(square),
            "weights": np.array([frame.weight for frame in frames], np.float64),
            "unaware": np.array([np.isin(range(256), [*f.unaware]) for f in frames], np.bool_).reshape(-1, 256),
        }

    @classmethod
    def restore(cls, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Make a bank that answers like the one whose `state` it is."""
        bank = cls(size=int(state["size"]), policy=cast("Policy", str(state["policy"])), side=int(state["side"]))
        names = ("images", "given", "predicted")
        images = zip(*([_frozen(each) for each in state[name].copy()] for name in names), strict=True)
        known = zip(state["numbers"], state["confidence"], state["unaware"], state["weights"], strict=True)
        frames = [
            _Frame(
                int(number),
                image,
                given,
                predicted,
                float(confidence),
                frozenset(np.flatnonzero(unaware).tolist()),
                float(weight),
            )
            for (image, given, predicted), (number, confidence, unaware, weight) in zip(images, known, strict=True)
        ]
        permanent = int(state["permanent"])
        bank._permanent, bank._recent, bank._contexts = frames[:permanent], frames[permanent:], None
        return bank

    # ------------------------------------------------------------------------------------- from here on inside

    def _least(self) -> int:
        """Find which of the predicted frames leaves."""
        if self.policy == "recent":
            return 0
        if self.policy == "spaced":
            numbers = [0, *self.recent]
            return int(np.argmin([after - before for before, after in zip(numbers, numbers[2:], strict=False)]))
        # Halving all scores alike never changes their order, so each frame's can be fixed when it comes.
        return int(np.argmin([log2(frame.confidence) + frame.number / HALF_LIFE for frame in self._recent]))

    def _drop(self, ids: Sequence[int]) -> None:
        """Make what was predicted of these objects unknown; frames with nothing else leave the recent ones."""
        self._permanent = [_without(frame, ids) for frame in self._permanent]
        self._recent = [frame for frame in (_without(f, ids) for f in self._recent) if ids_in(frame.predicted)]
        self._contexts = None

    def _image(self, image: Pixels) -> Pixels:
        return _frozen(resized(image, (self.side, self.side)))

    def _fitted(self, mask: Pixels) -> Pixels:
        """Shrink a mask to (side, side). What the nearest pixels miss altogether gets the pixel in its middle."""
        fitted = resized_mask(mask, (self.side, self.side)).copy()
        for i in set(ids_in(mask)) - set(ids_in(fitted)):
            rows, columns = np.nonzero(mask == i)
            middle = len(rows) // 2
            fitted[rows[middle] * self.side // mask.shape[0], columns[middle] * self.side // mask.shape[1]] = i
        return _frozen(fitted)


def refuse_tiles(options: SegmentOptions) -> None:
    """Refuse to cut frames to windows.

    Raises:
        ValueError: Frames would have to be cut.
    """
    if options.tiles is not None:
        raise ValueError(
            "expected tracking without tiles, as frames are remembered as the network sees them whole, got "
            f"tiles={options.tiles!r}; leave them out"
        )


def sure_only(mask: Pixels, confidence: npt.NDArray[np.float32]) -> Pixels:
    """Mark the mask as unknown, 255, where the confidence is below `SURE`."""
    return np.where(confidence >= SURE, mask, IGNORED).astype(np.uint8)


def only(mask: Pixels, ids: Collection[int]) -> Pixels:
    """Keep these ids of the mask; all others become background."""
    return np.where(np.isin(mask, list(ids)), mask, 0).astype(np.uint8)


def _surprised(frame: _Frame, ids: Iterable[int]) -> _Frame:
    """Mark as unknown what a frame does not show of objects that are given elsewhere: they may be in sight."""
    return replace(frame, unaware=frame.unaware.union(ids).difference(ids_in(frame.given)))


def _without(frame: _Frame, ids: Iterable[int]) -> _Frame:
    dropped = np.isin(frame.predicted, list(ids))
    return replace(frame, predicted=_frozen(np.where(dropped, IGNORED, frame.predicted))) if dropped.any() else frame


def _frozen(array: npt.NDArray[Any]) -> Pixels:
    """Make it read-only, so that a Prompt need not copy it."""
    array = array.astype(np.uint8, copy=False)
    array.setflags(write=False)
    return array
