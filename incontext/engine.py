"""The Segmenter: a network on a device, from images and a context to masks.

Owns what users call: options, contexts, batches. It refuses to know files of weights (network/checkpoint.py), colours
and mosaics (canvas/context.py), pixels (canvas/paint.py), and how the network is run (placed.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from itertools import islice
from pathlib import Path
from typing import Unpack

import numpy as np
import numpy.typing as npt
import torch

from incontext.canvas.context import cut_to_windows, names_of, shown_palette, stitch
from incontext.canvas.hints import check_hints
from incontext.canvas.paint import unpaint
from incontext.canvas.query import Answer, FittedQuery, PaintedAnswer, View, ViewSorter, fit_query
from incontext.canvas.read import read_logits
from incontext.hints import Hints
from incontext.images.read import ImageLike, read_image
from incontext.matching.voter import Voter, open_voter
from incontext.network import memory
from incontext.network.checkpoint import fingerprint, info, load_model
from incontext.network.devices import choose_device, choose_dtype
from incontext.network.memory import Room
from incontext.network.model import PromptTokens, SegGPT
from incontext.network.registry import resolve
from incontext.options import (
    BatchSize,
    DeviceName,
    DtypeName,
    LoadOptions,
    SegmentKeywords,
    SegmentOptions,
    takes_options,
    told_otherwise,
)
from incontext.placed import Pass, PlacedNetwork, by_passes
from incontext.prompt_tensor import PromptTensor, listed
from incontext.proposals import expected_iou
from incontext.types import Palette, Prompt, Segmentation

__all__ = ["Answer", "Context", "FittedQuery", "PreparedContext", "Segmenter", "load"]  # what callers find here

Context = Prompt | PromptTensor | Sequence[Prompt | PromptTensor]

MIN_PRESENCE = 0.3  # docs/log/presence-bar.md says how it was chosen

_CLICKS_AT_ONCE = {"cuda": 64, "mps": 8, "cpu": 8}  # on one image, which share a part of the work
_MOST_AT_ONCE = {"cuda": 32, "mps": 8, "cpu": 1}  # queries in a batch where memory allows; a CPU gains nothing by more


def load(
    name: str | os.PathLike[str] = "default",
    *,
    device: DeviceName = "auto",
    dtype: DtypeName = "auto",
    compile: bool = False,
    min_presence: float | None = None,
    backbone: str | os.PathLike[str] | None = None,
) -> Segmenter:
    """Open weights and make a Segmenter with them.

    Args:
        name: A name that `incontext weights list` knows, or a path.
        device: "auto" (a CUDA device if there is one, else the CPU) or a PyTorch device, which must be there.
        dtype: "auto" is bfloat16 on CUDA and on CPUs that multiply it in hardware, else float32, which gives the
            published network's answers exactly.
        compile: Use torch.compile; the first batch of each side and number of shots then takes up to minutes, the
            following ones less time than without.
        min_presence: 0..1; ids that are less likely to be in a query at all are left out of its mask, if the weights
            can tell (`Segmentation.presence`); 0 leaves out none, None is 0.3.
        backbone: A frozen network whose features vote beside ours: "timm:NAME", a folder that timm saved, or
            "efficientnet-lite2" (docs/backbones.md); nothing is downloaded for it.

    Raises:
        FileNotFoundError: There is no file and no registered weights of that name, or the backbone's are not here.
        CheckpointError: The file is not a checkpoint of this network, or not one of the backbone.
        ValueError: The device or the dtype is unknown or not available, or min_presence is outside of 0..1.
    """
    chosen = choose_device(device)  # first: a missing device should not cost a download
    voter = None if backbone is None else open_voter(os.fspath(backbone), chosen)
    path = resolve(name)
    return Segmenter(
        load_model(path),
        device=str(chosen),
        dtype=dtype,
        compile=compile,
        min_presence=min_presence,
        voter=voter,
        name=str(name),
        path=path,
    )


def load_with(asked: LoadOptions, *, compile: bool = False) -> Segmenter:
    """Make a Segmenter with what was asked for: :func:`load`."""
    return load(
        asked.weights,
        device=asked.device,
        dtype=asked.dtype,
        compile=compile,
        min_presence=asked.min_presence,
        backbone=asked.backbone,
    )


@dataclass(frozen=True, eq=False, repr=False)
class PreparedContext:
    """A context inside a Segmenter: what all queries share, computed once.

    Made by `Segmenter.prepare`.

    Attributes:
        segmenter: Whose it is.
        options: What was decided for all queries.
        side: Pixels along a side of what the network sees.
        shown: The colours to show answers in; None: hints bring theirs.
        passes: What it contributes for each group of ids, on the Segmenter's device; none where there is no example, so
            that hints say what to find.
        window: Pixels along a side of the windows that queries are cut to, None: they are seen whole.
        tokens: Of each canvas by its content, where they were asked to be kept, for other contexts that show it, too.
        names: What ids mean, as far as the context says it.
    """

    segmenter: Segmenter
    options: SegmentOptions
    side: int
    shown: Palette | None
    passes: tuple[Pass, ...]
    window: int | None = None
    tokens: Mapping[str, PromptTokens] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        ids = "by hints alone" if self.shown is None else f"ids {', '.join(map(str, self.shown.ids[1:].tolist()))}"
        return f"PreparedContext({ids}, {self.segmenter!r})"

    def fit(self, query: ImageLike, *, hints: Hints | None = None) -> FittedQuery:
        """Read a query and squeeze it to what the network sees.

        Uses no device, so that any thread may do it.

        Args:
            query: A path, a PIL image or an (H, W, 3) uint8 array.
            hints: What is said of it, in its own pixels; queries with hints and without may share a batch.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the query cannot be read, hints do not lie within it, they point at ids that the context does
                not know, or there is neither an example nor a hint that points at something.
        """
        check_hints(hints, self.ids)
        keep, second = self.options.refine, self.segmenter.backbone_side
        return fit_query(read_image(query), self.side, window=self.window, keep=keep, hints=hints, second=second)

    @property
    def ids(self) -> tuple[int, ...]:
        """What it asks for, ascending; nothing where there is no example."""
        return tuple(sorted({int(i) for each in self.passes for i in each.palette.ids[1:]}))

    @property
    def shots(self) -> int:
        """Canvases that the network works on for a query, in the largest group of ids: N, or the number of mosaics."""
        return max((each.context.images.shape[1] for each in self.passes if each.context is not None), default=1)


class Segmenter:
    """Segments queries by the example of a context. Thread-safe for reading; holds no state between calls."""

    def __init__(
        self,
        model: SegGPT,
        *,
        device: DeviceName = "auto",
        dtype: DtypeName = "auto",
        compile: bool = False,
        min_presence: float | None = None,
        voter: Voter | None = None,
        name: str = "unnamed",
        path: Path | None = None,
    ) -> None:
        """Put a network, and what votes beside it, on a device.

        Args:
            voter: A backbone on that device; None: there is none.
            name: Of the weights.
            path: Of the file that the weights came from, if any.

        The others are those of :func:`load`.
        """
        self.min_presence = MIN_PRESENCE if min_presence is None else min_presence
        if not 0 <= self.min_presence <= 1:
            raise ValueError(f"expected min_presence in 0..1, got {min_presence}")
        self.name = name
        self._path = path
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.compiled = compile
        self.config = model.config
        self.voter = voter
        self._placed = PlacedNetwork(model, self.device, self.dtype, compile=compile, voter=voter)

    @takes_options
    def prepare(
        self,
        context: Context | None,
        *,
        known: Mapping[str, PromptTokens] | None = None,
        **options: Unpack[SegmentKeywords],
    ) -> PreparedContext:
        """Compute what a context contributes to every query, once, to be given to the other methods in its place.

        Prompts may show different ids. More ids than colours can keep apart go through the network in groups. Prompt
        tensors may stand beside prompts: where they share ids they are averaged like them.

        Args:
            context: A Prompt, a PromptTensor, or a sequence of these; None: there is no example, and hints on each
                query say what to find in it.
            known: The `tokens` of contexts that were prepared before, by the same weights, so that canvases that are
                seen again need not be embedded again; then this one's tokens are kept, too, and each canvas is embedded
                alone, so that answers do not depend on what was known.
            **options: See `SegmentOptions`.

        Raises:
            ValueError: the context or an option cannot be used, or a prompt tensor was tuned for other weights; the
                message says why.
        """
        chosen = SegmentOptions(**options)
        side = self._side(chosen.side)
        if context is None:
            if chosen.tiles is not None:
                raise ValueError(f"expected tiles with examples only, got {chosen.tiles!r} without; crop the query")
            return PreparedContext(self, chosen, side, None, ())
        shown = listed(context)
        for each in shown:
            if isinstance(each, PromptTensor):
                each.check_use(weights=self.name, sha256=self.sha256, task=chosen.task, side=side)
        window, parts = cut_to_windows(shown, side, chosen.tiles)
        examples = None if self.voter is None else self.voter.examples(parts)
        passes, tokens = [], dict[str, PromptTokens]()
        for part in stitch(parts, side, chosen.ensemble):
            chunk = self._placed.room(part.shots, side, 1).chunk
            if known is not None:
                tokens |= self._placed.embed(part, chosen.task, known)
            own = self._placed.prepare(part, chosen.task, chunk, tokens)
            knows = examples is not None and set(part.palette.ids.tolist()) <= {0, *examples.ids}
            passes.append(Pass(part.palette, own, examples if knows else None))
        return PreparedContext(self, chosen, side, shown_palette(shown), tuple(passes), window, tokens, names_of(shown))

    @takes_options
    def segment(
        self,
        query: ImageLike | FittedQuery,
        context: Context | PreparedContext | None = None,
        *,
        hints: Hints | None = None,
        **options: Unpack[SegmentKeywords],
    ) -> Segmentation:
        """Find in one query what the context shows.

        Args:
            query: A path, a PIL image or an (H, W, 3) uint8 array.
            context: A Prompt, a PromptTensor, a sequence of these, or what `prepare` made, in which the options are
                decided; None: hints alone say what to find.
            hints: What is said of the query itself, in its own pixels.
            **options: See `SegmentOptions`.

        Returns:
            The answer, at the query's own size, with the ids of the prompts' masks, or of the hints.

        Raises:
            FileNotFoundError, ValueError: an image, the context, hints or an option cannot be used; the message says
                why.
        """
        prepared = self._prepared(context, options)
        if hints is not None:
            if isinstance(query, FittedQuery):
                raise ValueError("expected hints with the query itself, got a fitted one; give them to `fit`")
            query = prepared.fit(query, hints=hints)
        return next(self.segment_many([query], prepared))

    @takes_options
    def segment_many(
        self,
        queries: Iterable[ImageLike | FittedQuery],
        context: Context | PreparedContext | None,
        *,
        batch_size: BatchSize = "auto",
        **options: Unpack[SegmentKeywords],
    ) -> Iterator[Segmentation]:
        """Segment like :meth:`segment` any number of queries: lazily, in their order, ``batch_size`` at a time.

        Queries in a batch never influence each other. When memory runs out all the same, the batch is halved, with a
        warning. The context is checked and prepared before the first query is read.

        Args:
            queries: What :meth:`segment` takes, one after the other; those with hints from `PreparedContext.fit`.
            context: As for :meth:`segment`.
            batch_size: Queries that go through the network together; "auto" is as many as measured worth it and as
                memory has room for.
            **options: See `SegmentOptions`.
        """
        answers = self.answer_many(queries, context, batch_size=batch_size, **options)
        return (answer.read() for answer in answers)

    @takes_options
    def answer_many(
        self,
        queries: Iterable[ImageLike | FittedQuery],
        context: Context | PreparedContext | None,
        *,
        batch_size: BatchSize = "auto",
        **options: Unpack[SegmentKeywords],
    ) -> Iterator[Answer]:
        """Do all of :meth:`segment_many` but its last step, which the caller may do in other threads: `Answer.read`.

        With `PreparedContext.fit`, the step before the network, a caller keeps the network busy. On CUDA an answer may
        still be being computed when it is yielded.
        """
        if isinstance(queries, str | bytes | os.PathLike | np.ndarray):
            raise TypeError(f"expected a sequence of queries, got one {type(queries).__name__}; write [query]")
        prepared = self._prepared(context, options)
        if batch_size != "auto" and batch_size < 1:
            raise ValueError(f'expected batch_size "auto" or at least 1, got {batch_size}')
        most = _MOST_AT_ONCE[self.device.type] if batch_size == "auto" else batch_size
        room = self._placed.room(prepared.shots, prepared.side, most)
        if batch_size != "auto":
            room = replace(room, batch=batch_size)
        return self._answer_many(iter(queries), prepared, room)

    def fit(self, query: ImageLike, *, side: int | None = None) -> FittedQuery:
        """Read a query and squeeze it to what the network sees. Uses no device, so that any thread may do it."""
        return fit_query(read_image(query), self._side(side), second=self.backbone_side)

    @takes_options
    def paint(
        self,
        query: ImageLike | FittedQuery,
        context: Context | PreparedContext | None,
        **options: Unpack[SegmentKeywords],
    ) -> npt.NDArray[np.float32]:
        """Return what the network painted, before ids are read from it: (side, side, 3) float32 in 0..255.

        What the published code calls the output; of use with :meth:`Prompt.from_colors` and to look at. The query is
        seen whole.

        Raises:
            ValueError: the query is larger than the tiles that were asked for, or the ids go through the network in
                several groups; and as :meth:`segment` does.
        """
        (answer,) = self.answer_many([query], context, **options)
        if not isinstance(answer, PaintedAnswer):
            raise ValueError("expected a context that was prepared without tiles to paint with, got one with tiles")
        if len(answer.painted) > 1:
            raise ValueError("expected a context whose ids go through the network at once; give fewer ids to paint")
        painted: npt.NDArray[np.float32] = unpaint(answer.painted[0].painted)[0].cpu().numpy()
        return painted

    def answer_clicks(
        self, image: ImageLike, points: Sequence[tuple[float, float]]
    ) -> Iterator[tuple[npt.NDArray[np.float32], float]]:
        """Find the thing under each of many clicks on one image, without an example: `incontext.propose` asks this.

        Args:
            image: A path, a PIL image or an (H, W, 3) uint8 array.
            points: (x, y) in its pixels; each is answered by itself.

        Returns:
            For each point logits (side, side) float32, stretched over the whole image and above 0 where its thing is;
            and the IoU that they promise (:func:`incontext.proposals.expected_iou`).
        """
        fitted, palette = self.fit(image), Palette.spread([1])
        batch = self._placed.room(1, self.config.side, _CLICKS_AT_ONCE[self.device.type]).batch
        for first in range(0, len(points), batch):
            part = [Hints(points=[(x, y, 1)]) for x, y in points[first : first + batch]]
            views = [View(fitted.pixels, fitted.size, hints) for hints in part]
            paint = self._placed.paint_one(views, palette, "instance")
            for logits in read_logits(paint.painted, palette).cpu().numpy():
                yield logits, expected_iou(logits)

    def __repr__(self) -> str:
        beside = "" if self.voter is None else f", beside {self.voter.backbone.name}"
        return f"Segmenter({self.name}, {self.device}, {str(self.dtype).removeprefix('torch.')}{beside})"

    def _repr_html_(self) -> str:
        """Show what really runs as a table: what notebooks show."""
        rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in self.describe().items())
        return f"<table>{rows}</table>"

    def describe(self) -> dict[str, object]:
        """Say what really runs: weights, parameters, side, device, dtype, attention kernel, compilation, versions."""
        on_cuda = self.device.type == "cuda"
        return {
            "weights": self.name,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "side": self.config.side,
            "patch": self.config.patch,
            "device": str(self.device),
            "device_name": torch.cuda.get_device_name(self.device) if on_cuda else f"{torch.get_num_threads()} threads",
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": self._placed.kernel,
            "min_presence": self.min_presence,
            "compile": self.compiled,
            "compile_seconds": round(sum(self._placed.compile_seconds.values()), 1),
            "torch": torch.__version__,
            **({} if self.voter is None else self.voter.describe()),
        }

    @property
    def backbone_side(self) -> int | None:
        """Pixels along a side of what the backbone sees; None: there is none."""
        return None if self.voter is None else self.voter.side

    @property
    def model(self) -> SegGPT:
        """The network itself, on its device and in its precision. What changes it changes every answer."""
        return self._placed.model

    @cached_property
    def sha256(self) -> str:
        """What tells these weights from others: the SHA-256 of their file, or where there is none their fingerprint."""
        if self._path is not None:
            return info(self._path).sha256
        return fingerprint(self.model)

    def estimate_memory(self, *, shots: int = 1, batch_size: int = 1, side: int | None = None) -> int:
        """Estimate bytes of tensors at the peak of a batch, the weights included, before anything runs."""
        own = memory.estimate(
            self.config,
            side=self._side(side),
            shots=shots,
            batch=batch_size,
            chunk=shots + 1,
            device=self.device.type,
            dtype=self.dtype,
            kernel=self.model.kernel,
        )
        if self.voter is None:
            return own
        return own + self.voter.weights + self.voter.needs(batch=batch_size, shots=shots)

    # ------------------------------------------------------------------------------------- from here on inside

    def _prepared(self, context: Context | PreparedContext | None, options: SegmentKeywords) -> PreparedContext:
        if not isinstance(context, PreparedContext):
            return self.prepare(context, **options)
        if context.segmenter is not self:
            raise ValueError("expected a context that this Segmenter prepared, got another's; prepare it here")
        SegmentOptions(**options)  # which checks them
        decided = replace(context.options, side=context.side)
        if (difference := told_otherwise(decided, options)) is not None:
            raise ValueError(difference)
        return context

    def _answer_many(
        self, queries: Iterator[ImageLike | FittedQuery], prepared: PreparedContext, room: Room
    ) -> Iterator[Answer]:
        collected = ViewSorter(
            prepared.shown,
            follow=prepared.options.refine,
            min_presence=self.min_presence,
            names=prepared.names,
        )
        views = (view for query in queries for view in collected.views(self._fitted(query, prepared)))
        while batch := list(islice(views, room.batch)):
            for passes, part in by_passes(batch, prepared.passes):
                painted, room = self._placed.paint(part, passes, prepared.options.task, room)
                yield from collected.add(painted)

    def _fitted(self, query: ImageLike | FittedQuery, prepared: PreparedContext) -> FittedQuery:
        if not isinstance(query, FittedQuery):
            return prepared.fit(query)
        if query.pixels.shape != (prepared.side, prepared.side, 3):
            raise ValueError(f"expected queries fitted to a side of {prepared.side}, got {query.pixels.shape[0]}")
        if query.image is None and (prepared.options.refine or max(query.size) > (prepared.window or max(query.size))):
            raise ValueError("expected queries fitted for tiles or refining, got others; use PreparedContext.fit")
        if self.voter is not None and (query.second is None or query.second.shape[0] != self.voter.side):
            raise ValueError("expected queries fitted for this Segmenter's backbone, got others; use its `fit`")
        check_hints(query.hints, prepared.ids)
        return query

    def _side(self, side: int | None) -> int:
        if side is None:
            return self.config.side
        if side <= 0 or side % self.config.patch:
            raise ValueError(f"expected side to be a positive multiple of the patch, {self.config.patch}, got {side}")
        return side
