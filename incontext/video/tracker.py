"""Objects through a video: a mask on one frame, and every later frame comes out segmented, ids kept.

Decides what each frame contributes to the context of the next. Refuses to know files of videos (frames.py), what is
kept in memory (bank.py) and the inside of the network: the Segmenter does all of that.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from incontext.canvas.query import fit_query
from incontext.engine import Context, FittedQuery, PreparedContext, Segmenter
from incontext.hints import Hints
from incontext.images.arrays import TensorLike
from incontext.images.ids import IGNORED, Pixels, ids_in
from incontext.images.masks import is_painted
from incontext.images.read import ImageLike, read_image
from incontext.network.model import PromptTokens
from incontext.options import Policy, SegmentKeywords, SegmentOptions, takes_options
from incontext.prompt_tensor import PromptTensor, listed
from incontext.types import Palette, Prompt, Segmentation
from incontext.video.bank import MemoryBank, only, refuse_tiles, sure_only
from incontext.video.colors import NOTHING_SHOWN, by_color, extended


@takes_options
def track(
    segmenter: Segmenter,
    frames: Iterable[ImageLike],
    context: Context | ImageLike | None = None,
    *,
    hints: Mapping[int, Hints] | None = None,
    memory: int = 4,
    policy: Policy = "spaced",
    **options: Unpack[SegmentKeywords],
) -> Iterator[Segmentation]:
    """Follow objects through a video: n frames in, n results out, lazily and in order.

    A frame whose mask was given comes out as given, the first one included: the published video loop drops it, and
    binarises its memory, where here every object keeps its id.

    Args:
        segmenter: The network.
        frames: Paths, PIL images or (H, W, 3) uint8 arrays, all of one size.
        context: The mask of the first frame (a path, a PIL image or an (H, W) array of ids), or a Prompt or a sequence
            of Prompts from other images, or prompt tensors. A Prompt whose image is the first frame, pixel by pixel, is
            its mask. None: hints on the first frame say what to follow.
        hints: What is said of frames, by their numbers from 0, in their own pixels; see :meth:`Tracker.step`.
        memory: Predicted frames to remember at most; see :class:`Tracker`, as for the next two.
        policy: Which of them.
        **options: See `SegmentOptions`; frames are not cut to tiles.

    Raises:
        FileNotFoundError, ValueError: a frame, the context or an option cannot be used; the message says why.
    """
    is_mask = isinstance(context, str | os.PathLike | Image.Image | np.ndarray | TensorLike)
    mask = cast("ImageLike | None", context if is_mask else None)
    prompts = cast("Context | None", None if is_mask else context)
    tracker, said = Tracker(segmenter, context=prompts, memory=memory, policy=policy, **options), hints or {}
    return (
        tracker.step(frame, None if number else mask, hints=said.get(number)) for number, frame in enumerate(frames)
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the network saw in a frame: ids and confidence at the frame's size (H, W), and at (side, side); presence."""

    mask: Pixels
    confidence: npt.NDArray[np.float32]
    small_mask: Pixels
    small_confidence: npt.NDArray[np.float32]
    presence: Mapping[int, float]


class Tracker:
    """Follows the objects of one video, frame by frame: for live sources, and for masks in the middle.

    The context of a frame is all that was given (every given mask stays, however many there are) and at most `memory`
    frames that were predicted, chosen by `policy` (see :class:`~incontext.video.bank.MemoryBank`). They go through the
    network as one feature ensemble, all objects at once while colours suffice and in groups above that; objects that
    were given at different frames go through apart, each with the frames that know of it. What is predicted is
    remembered where it is sure, in its objects' own colours: the published video loop binarises its memory, so that all
    objects become one, and has no answer for frame 0.

    An object is *absent* from a frame, and from the ids of its result, when no pixel of it is sure (`bank.SURE`) at the
    network's resolution; unsure ones are background then. It may come back, for what was given stays.

    Args:
        context: Prompts from other images, one of which counts as the mask of the first frame where that is its
            image; and prompt tensors, which are asked beside the memory of the objects that they find.
        snap: See `read_mask`; it is for the masks of frames.
        options: See `SegmentOptions`; frames are not cut to tiles, as they are remembered as the network sees them.

    Raises:
        ValueError: the context or an option cannot be used; the message says why.
    """

    @takes_options
    def __init__(
        self,
        segmenter: Segmenter,
        *,
        context: Context | None = None,
        memory: int = 4,
        policy: Policy = "spaced",
        snap: bool = False,
        **options: Unpack[SegmentKeywords],
    ) -> None:
        self._segmenter = segmenter
        self._snap = snap
        self._options = SegmentOptions(**options)
        refuse_tiles(self._options)
        side = self._options.side
        self._side = segmenter.fit(np.zeros((1, 1, 3), np.uint8), side=side).pixels.shape[0]  # which checks it
        self._second = segmenter.backbone_side
        self._kept = max(self._side, self._second or 0)  # pixels along a side of what is remembered
        self._bank = MemoryBank(size=memory, policy=policy, side=self._kept)
        given = () if context is None else _checked(context)
        self._learned = tuple(each for each in given if isinstance(each, PromptTensor))
        self._forgotten: frozenset[int] = frozenset()  # of their ids
        # The rest of the context waits until the first frame says which are its own.
        self._context = tuple(each for each in given if isinstance(each, Prompt))
        self._shown = extended(NOTHING_SHOWN, given)
        self._number = 0
        self._size: tuple[int, int] | None = None
        self._prepared: tuple[tuple[tuple[Prompt, ...], ...], PreparedContext] | None = None
        self._tokens: dict[str, PromptTokens] = {}  # of the canvases in it

    @property
    def ids(self) -> tuple[int, ...]:
        """The objects that are known, ascending, whether or not they are in sight."""
        learned = {i for each in self._learned for i in each.ids} - self._forgotten
        return tuple(sorted({*self._bank.ids, *learned, *(i for prompt in self._context for i in prompt.ids)}))

    def step(self, frame: ImageLike, mask: ImageLike | None = None, *, hints: Hints | None = None) -> Segmentation:
        """Segment the next frame, at its own size (H, W), which is the same for all frames.

        Args:
            frame: A path, a PIL image, or an (H, W, 3) uint8 array.
            mask: (H, W) ids of objects that are new, or to be corrected from here on, in any form that `read_mask`
                reads; a
                colour of an RGB mask that was shown before is the object that it was. They come out as given, with
                    confidence
                1. Other known objects are predicted, where the mask is 0; where it is 255 (unknown), all are.
            hints: What is said of the frame, in its own pixels. Objects that are pointed at are found by what is
                remembered of
                them and the hints, new ones by the hints alone, and then count as given; "not this" alone is about all
                    known
                objects. Where nothing is found so, a warning says it, and the frame is predicted as ever.

        Returns:
            What is in the frame.

        Raises:
            FileNotFoundError: The frame or its mask is not there.
            ValueError: The frame or its mask cannot be used, the frame has another size than those before, or there is
                nothing
                to follow yet; the message says why, and the tracker is as it was.
        """
        image = read_image(frame)
        self._check_size(image)
        given = None if mask is None else self._opened(image, mask)
        query = self._fitted(image, hints)
        if self._number == 0:
            given = self._begun(image, given, hinted=hints is not None and bool(hints.ids))
        if hints is not None:
            given = self._with_hints(query, image, given, hints)
            query = replace(query, hints=None)
        found = self._remembered(query) if given is None else self._given(query, given)
        self._number += 1
        self._size = query.size
        return found

    def forget(self, id: int) -> None:
        """Take an object out of all that is remembered.

        Its id and colour stay its own, should it be given again.

        Raises:
            ValueError: there is no such object.
        """
        if id not in self.ids:
            raise ValueError(f"expected one of the known objects {list(self.ids)}, got {id}")
        self._bank.forget(id)
        self._forgotten |= {id}
        left = (prompt for prompt in self._context if prompt.ids != (id,))
        self._context = tuple(replace(prompt, mask=np.where(prompt.mask == id, 0, prompt.mask)) for prompt in left)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything that later answers depend on, as arrays for `numpy.savez`, to be given to `restore`."""
        return {
            "number": np.array(self._number),
            "frame_size": np.array(self._size or (0, 0)),
            "options": np.array(json.dumps(self._options.plain())),
            "learned": np.array(sorted({i for each in self._learned for i in each.ids}), np.int64),
            "forgotten": np.array(sorted(self._forgotten), np.int64),
            "shown_ids": self._shown.ids.copy(),
            "shown_colors": self._shown.colors.copy(),
            **{f"bank_{name}": array for name, array in self._bank.state().items()},
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on where the tracker stood whose `state` it is: the same answers from here on, by the same weights.

        Raises:
            ValueError: that tracker had other settings than this one.
        """
        banks = {name: array for name, array in state.items() if name.startswith("bank_")}
        bank = MemoryBank.restore({name.removeprefix("bank_"): array for name, array in banks.items()})
        theirs = {"memory": bank.size, "policy": bank.policy, **json.loads(str(state["options"])), "side": bank.side}
        own = {"memory": self._bank.size, "policy": self._bank.policy, **self._options.plain(), "side": self._kept}
        theirs["learned ids"] = state["learned"].tolist()
        own["learned ids"] = sorted({i for each in self._learned for i in each.ids})
        if theirs != own:
            raise ValueError(f"expected the state of a tracker with {own}, got {theirs}; make this one the same")
        height, width = state["frame_size"].tolist()
        self._bank, self._prepared = bank, None
        self._shown = Palette(state["shown_ids"], state["shown_colors"])
        self._number, self._size = int(state["number"]), (height, width) if height else None
        self._context = () if self._number else self._context
        self._forgotten = frozenset(state["forgotten"].tolist())

    # ------------------------------------------------------------------------------------- from here on inside

    def _check_size(self, image: Pixels) -> None:
        if self._size is not None and image.shape[:2] != self._size:
            (height, width), (its_height, its_width) = self._size, image.shape[:2]
            raise ValueError(
                f"frame {self._number}: expected {width} x {height} (width x height) like the frames before, got"
                f" {its_width} x {its_height}; resize it, or start another tracker"
            )

    def _opened(self, image: Pixels, mask: ImageLike) -> Prompt:
        try:
            prompt = Prompt.open(image, mask, snap=self._snap)
            return by_color(prompt, self._shown) if is_painted(mask) else prompt
        except ValueError as error:
            raise ValueError(f"frame {self._number}: {error}") from None

    def _fitted(self, image: Pixels, hints: Hints | None) -> FittedQuery:
        try:
            return fit_query(image, self._side, keep=self._options.refine, hints=hints, second=self._second)
        except ValueError as error:
            raise ValueError(f"frame {self._number}: {error}") from None

    def _with_hints(self, query: FittedQuery, image: Pixels, given: Prompt | None, hints: Hints) -> Prompt | None:
        """Join what is given of a frame with what hints find in it, which then is given, too."""
        known = set(self._prepared_context().ids) & set(self.ids) if self.ids else set[int]()
        asked = [i for i in hints.ids or sorted(known) if i in known]
        new = [i for i in hints.ids if i not in known]
        found = np.zeros(query.size, np.uint8)
        if asked:
            own = replace(query, hints=hints.about(known))
            (answer,) = self._segmenter.answer_many([own], self._prepared_context())
            found = only(answer.read().mask, asked)
        if new:
            alone = self._segmenter.segment(image, hints=hints.about(new), **self._options.keywords())
            found = np.where(alone.mask != 0, alone.mask, found)
        present = ids_in(found)
        if missing := [i for i in hints.ids if i not in present]:
            told = f"frame {self._number}: by these hints nothing is found of {', '.join(map(str, missing))}"
            warnings.warn(told, stacklevel=3)
        if not present:
            return given
        shown = set(present) <= set(self._shown.ids.tolist())
        hinted = Prompt(image, found, palette=self._shown if shown else None)
        return hinted if given is None else _joined([given, hinted])

    def _begun(self, image: Pixels, given: Prompt | None, *, hinted: bool) -> Prompt | None:
        """Take all that is given of the first frame; the context's other prompts go into the bank."""
        own = [np.array_equal(prompt.image, image) for prompt in self._context]
        masks = [prompt for prompt, is_own in zip(self._context, own, strict=True) if is_own]
        masks += [] if given is None else [given]
        if not masks and not self._context and not self._learned and not hinted:
            raise ValueError(
                "frame 0: expected its mask, or prompts as the context, got neither; give one of them, or hints that "
                "point at something"
            )
        for prompt, is_own in zip(self._context, own, strict=True):
            if not is_own:
                self._bank.give(prompt.image, prompt.mask, weight=prompt.weight)
        self._context = ()
        return _joined(masks) if masks else None

    def _remembered(self, query: FittedQuery) -> Segmentation:
        """Answer a frame of which nothing is given; the bank may keep it."""
        seen = self._seen(query)
        # What the backbone saw is what it remembers, so that it need not look again.
        image = query.pixels if query.second is None else query.second
        self._bank.add(self._number, image, seen.small_mask, seen.small_confidence)
        return Segmentation(seen.mask, seen.confidence, self._shown, seen.presence)

    def _given(self, query: FittedQuery, given: Prompt) -> Segmentation:
        """Answer a frame with a mask: as given, and other objects by the memory before it."""
        mask, confidence = given.mask.copy(), np.ones(given.mask.shape, np.float32)
        self._forgotten -= set(given.ids)
        others, beside = set(self.ids) - set(given.ids), None
        presence = dict.fromkeys(given.ids, 1.0)
        if others:
            seen, free = self._seen(query), mask == 0
            mask[free] = only(seen.mask, others)[free]
            confidence[free] = seen.confidence[free]
            beside = sure_only(only(seen.small_mask, others), seen.small_confidence)
            presence = {**seen.presence, **presence}
        self._bank.give(given.image, given.mask, predicted=beside, weight=given.weight)
        self._shown = extended(self._shown, [given])
        unknown = given.mask == IGNORED
        if unknown.any():  # by the memory after it, which knows new objects
            seen = self._seen(query)
            mask[unknown] = seen.mask[unknown]
            confidence[unknown] = seen.confidence[unknown]
        return Segmentation(mask, confidence, self._shown, presence)

    def _seen(self, query: FittedQuery) -> _Seen:
        """Find what there is by the present memory, without the objects that are absent."""
        small_size = (self._side, self._side)
        if not self.ids:  # all objects were forgotten
            nothing, certain = np.zeros(query.size, np.uint8), np.ones(query.size, np.float32)
            return _Seen(nothing, certain, np.zeros(small_size, np.uint8), np.ones(small_size, np.float32), {})
        (answer,) = self._segmenter.answer_many([query], self._prepared_context())
        whole, small = answer.read(), replace(answer, size=small_size, guide=None).read()
        present = set(ids_in(sure_only(small.mask, small.confidence))) & set(self.ids)
        masks = only(whole.mask, present), only(small.mask, present)
        return _Seen(masks[0], whole.confidence, masks[1], small.confidence, whole.presence)

    def _prepared_context(self) -> PreparedContext:
        """Prepare the memory as the network takes it, anew only when it changed."""
        contexts = self._bank.contexts
        if self._prepared is None or self._prepared[0] is not contexts:
            asked = _with_keys(contexts, self._learned)
            each = [
                self._segmenter.prepare(context, known=self._tokens, **self._options.keywords()) for context in asked
            ]
            passes = tuple(one for prepared in each for one in prepared.passes)
            self._tokens = {content: tokens for prepared in each for content, tokens in prepared.tokens.items()}
            self._prepared = contexts, replace(each[0], passes=passes, shown=self._shown)
        return self._prepared[1]


def _checked(context: Context) -> tuple[Prompt | PromptTensor, ...]:
    given = listed(context)
    if not given:
        raise ValueError(
            "expected a mask of the first frame, a Prompt, a PromptTensor or a sequence of these, got none"
        )
    if any(isinstance(each, Prompt) and each.colors is not None for each in given):
        raise ValueError("expected prompts with masks of ids, got raw colours, which no memory can join; give masks")
    return given


def _with_keys(
    contexts: Sequence[Sequence[Prompt]], prompt_tensors: Sequence[PromptTensor]
) -> list[Sequence[Prompt | PromptTensor]]:
    """Put prompt tensors beside the prompts that show an id of theirs, or by themselves where there are none."""
    learned = {i for each in prompt_tensors for i in each.ids}
    shares = [any(learned & set(prompt.ids) for prompt in prompts) for prompts in contexts]
    asked: list[Sequence[Prompt | PromptTensor]] = [
        [*prompt_tensors, *prompts] if own else prompts for prompts, own in zip(contexts, shares, strict=True)
    ]
    return asked if any(shares) or not prompt_tensors else [*asked, prompt_tensors]


def _joined(prompts: Sequence[Prompt]) -> Prompt:
    """Join prompts of one image; where two say something of a pixel, the later one holds."""
    if len(prompts) == 1:
        return prompts[0]
    mask = prompts[0].mask
    for prompt in prompts[1:]:
        says = (prompt.mask != 0) & ((prompt.mask != IGNORED) | (mask == 0))
        mask = np.where(says, prompt.mask, mask)
    return replace(prompts[0], mask=mask, palette=extended(NOTHING_SHOWN, prompts))
