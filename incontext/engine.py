"""The Segmenter: a network on a device, from pictures and a context to masks.

Owns the device, the dtype, compilation, batching and memory. It refuses to know files of weights
(network/checkpoint.py), colours and mosaics (canvas/context.py), pixels (canvas/paint.py) and the inside of the network
(network/model.py): dtype and compilation are applied from outside.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from incontext.canvas.context import Ensemble, Stitched, content_of, cut_to_windows, shown_palette, stitch
from incontext.canvas.paint import normalise, unpaint
from incontext.canvas.query import Answer, Collected, FittedQuery, fit_query
from incontext.canvas.read import Paint, shares
from incontext.canvas.windows import Tiles
from incontext.images.read import ImageLike, read_image
from incontext.network import memory
from incontext.network.attention import choose_kernel
from incontext.network.checkpoint import fingerprint, info, load_model, resolve
from incontext.network.devices import DeviceName, DtypeName, choose_device, choose_dtype
from incontext.network.memory import Room
from incontext.network.model import ContextTokens, PromptTokens, Seen, SegGPT, Tables, Task
from incontext.prompt_tensor import PromptTensor
from incontext.types import Palette, Prompt, Segmentation

__all__ = [  # what callers find here, wherever it is defined
    "Answer",
    "BatchSize",
    "Context",
    "DtypeName",
    "FittedQuery",
    "PreparedContext",
    "Segmenter",
    "Tiles",
    "choose_device",
    "choose_dtype",
    "load",
]

Context = Prompt | PromptTensor | Sequence[Prompt | PromptTensor]
BatchSize = int | Literal["auto"]

MIN_PRESENCE = 0.5  # docs/log.md says how it was chosen

_MOST_AT_ONCE = {"cuda": 32, "mps": 8, "cpu": 1}  # queries in a batch where memory allows; a CPU gains nothing by more
_SHARE_OF_FREE = 0.8  # of the memory that is free, for what the estimate does not see


def load(
    name: str | os.PathLike[str] = "default",
    *,
    device: DeviceName = "auto",
    dtype: DtypeName = "auto",
    compile: bool = False,
    min_presence: float | None = None,
) -> Segmenter:
    """A Segmenter with the weights of that registry name or path.

    device: "auto" (a CUDA device if there is one, else the CPU) or a PyTorch device, which must be there. dtype: "auto"
    is bfloat16 on CUDA and on CPUs that multiply it in hardware, else float32, which gives the published network's
    answers exactly. compile: torch.compile; the first batch of each side and number of shots then takes up to minutes,
    the following ones less time than without. min_presence: 0..1; ids that are less likely to be in a query at all are
    left out of its mask, if the weights can tell (`Segmentation.presence`); 0 leaves out none, None is 0.5.

    Raises:
        FileNotFoundError: there is no file and no registered weights of that name.
        CheckpointError: the file is not a checkpoint of this network.
        ValueError: the device or the dtype is unknown or not available, or min_presence is outside of 0..1.
    """
    chosen = choose_device(device)  # first: a missing device should not cost a download
    path = resolve(name)
    return Segmenter(
        load_model(path),
        device=str(chosen),
        dtype=dtype,
        compile=compile,
        min_presence=min_presence,
        name=str(name),
        path=path,
    )


@dataclass(frozen=True, eq=False)
class PreparedContext:
    """A context inside a Segmenter: what all queries share, computed once. Made by `Segmenter.prepare`.

    passes: for each group of ids its palette and the network's own context, on the Segmenter's device. window: pixels
    along a side of the windows that queries are cut to, None: they are seen whole. tokens: of each canvas by its
    content, where they were asked to be kept, for other contexts that show it, too.
    """

    segmenter: Segmenter
    side: int
    task: Task
    ensemble: Ensemble
    shown: Palette
    passes: tuple[tuple[Palette, ContextTokens], ...]
    tiles: Tiles = None
    window: int | None = None
    refine: bool = False
    tokens: Mapping[bytes, PromptTokens] = field(default_factory=dict)

    def fit(self, query: ImageLike) -> FittedQuery:
        """Read a query and squeeze it to what the network sees. Uses no device, so that any thread may do it."""
        return fit_query(read_image(query), self.side, window=self.window, keep=self.refine)

    @property
    def shots(self) -> int:
        """Canvases that the network works on for a query, in the largest group of ids: N, or the number of mosaics."""
        return max(context.images.shape[1] for _, context in self.passes)


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
        name: str = "unnamed",
        path: Path | None = None,
    ) -> None:
        """name, path: of the weights, and of the file that they came from, if any. The others: see :func:`load`."""
        self.min_presence = MIN_PRESENCE if min_presence is None else min_presence
        if not 0 <= self.min_presence <= 1:
            raise ValueError(f"expected min_presence in 0..1, got {min_presence}")
        self.name = name
        self._path = path
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.compiled = compile
        self.config = model.config
        self._model = model.to(self.device, self.dtype).eval()
        self._model.decoder_pred.to(memory_format=torch.channels_last)
        self._see = torch.compile(self._model.see, dynamic=False) if compile else self._model.see
        self._compile_seconds: dict[tuple[int, ...], float] = {}  # by batch, shots and side: what its first run took
        self._tables: dict[int, Tables] = {}  # by grid
        on_cuda = self.device.type == "cuda"
        self._copies = torch.cuda.Stream(self.device) if on_cuda else None  # type: ignore[no-untyped-call]

    def prepare(
        self,
        context: Context,
        *,
        ensemble: Ensemble = "auto",
        task: Task = "instance",
        side: int | None = None,
        tiles: Tiles = None,
        refine: bool = False,
        known: Mapping[bytes, PromptTokens] | None = None,
    ) -> PreparedContext:
        """What a context contributes to every query, computed once, to be given to the other methods in its place.

        ensemble: how several prompts become one answer: "feature" averages the query inside every block; "spatial"
        tiles up to 16 prompts into a mosaic, several mosaics being averaged (arXiv 2304.03284, section 3.3); "auto" is
        what measured best. task: "instance" or "semantic", the type token that is added. side: pixels along one side
        of the squares that the network sees, a multiple of its patch; None is what the weights were made for. tiles:
        pixels along a side of overlapping windows, to which larger queries are cut, and prompts around what they mark,
        so that small things are seen; "auto" chooses by what the prompts mark (canvas/windows.py), None sees queries
        whole. refine: edges that follow the photograph (canvas/edges.py). known: the `tokens` of contexts that were
        prepared before, by the same weights, so that canvases that are seen again need not be embedded again; then this
        one's tokens are kept, too, and each canvas is embedded alone, so that answers do not depend on what was known.

        Prompts may show different ids. More ids than colours can keep apart go through the network in groups. Prompt
        tensors may stand beside prompts: where they share ids they are averaged like them.

        Raises:
            ValueError: the context or an option cannot be used, or a prompt tensor was tuned for other weights; the
                message says why.
        """
        shown = (context,) if isinstance(context, Prompt | PromptTensor) else tuple(context)
        chosen = self._side(side)
        for each in shown:
            if isinstance(each, PromptTensor):
                each.check_use(weights=self.name, sha256=self.sha256, task=task, side=chosen)
        window, parts = cut_to_windows(shown, chosen, tiles)
        passes, tokens = [], dict[bytes, PromptTokens]()
        for part in stitch(parts, chosen, ensemble):
            chunk = self._plan(part.shots, chosen, 1).chunk
            if known is not None:
                tokens |= self._embed(part, task, known)
            passes.append((part.palette, self._prepare(part, task, chunk, tokens)))
        colors = shown_palette(shown)
        return PreparedContext(self, chosen, task, ensemble, colors, tuple(passes), tiles, window, refine, tokens)

    def segment(
        self,
        query: ImageLike | FittedQuery,
        context: Context | PreparedContext,
        *,
        ensemble: Ensemble | None = None,
        task: Task | None = None,
        side: int | None = None,
        tiles: Tiles = None,
        refine: bool | None = None,
    ) -> Segmentation:
        """Find in one query what the context shows.

        query: a path, a PIL image or an (H, W, 3) uint8 array. context: a Prompt, a sequence of them, or what `prepare`
        made, in which the options are decided; `prepare` says what they mean, None is its default. The answer has the
        query's own size, and the ids of the prompts' masks.

        Raises:
            FileNotFoundError, ValueError: a picture, the context or an option cannot be used; the message says why.
        """
        prepared = self._prepared(context, ensemble, task, side, tiles, refine)
        return next(self.segment_many([query], prepared))

    def segment_many(
        self,
        queries: Iterable[ImageLike | FittedQuery],
        context: Context | PreparedContext,
        *,
        ensemble: Ensemble | None = None,
        task: Task | None = None,
        side: int | None = None,
        tiles: Tiles = None,
        refine: bool | None = None,
        batch_size: BatchSize = "auto",
    ) -> Iterator[Segmentation]:
        """Like :meth:`segment` for any number of queries: lazy, in their order, ``batch_size`` at a time.

        batch_size: queries that go through the network together; "auto" is as many as measured worth it and as memory
        has room for. Queries in a batch never influence each other. When memory runs out all the same, the batch is
        halved, with a warning. The context is checked and prepared before the first query is read.
        """
        prepared = self._prepared(context, ensemble, task, side, tiles, refine)
        return (answer.read() for answer in self.answer_many(queries, prepared, batch_size=batch_size))

    def answer_many(
        self,
        queries: Iterable[ImageLike | FittedQuery],
        context: Context | PreparedContext,
        *,
        ensemble: Ensemble | None = None,
        task: Task | None = None,
        side: int | None = None,
        tiles: Tiles = None,
        refine: bool | None = None,
        batch_size: BatchSize = "auto",
    ) -> Iterator[Answer]:
        """:meth:`segment_many` before its last step, which the caller may do in other threads: `Answer.read`.

        With `PreparedContext.fit`, the step before the network, a caller keeps the network busy. On CUDA an answer may
        still be being computed when it is yielded.
        """
        prepared = self._prepared(context, ensemble, task, side, tiles, refine)
        if batch_size != "auto" and batch_size < 1:
            raise ValueError(f'expected batch_size "auto" or at least 1, got {batch_size}')
        most = _MOST_AT_ONCE[self.device.type] if batch_size == "auto" else batch_size
        room = self._plan(prepared.shots, prepared.side, most)
        if batch_size != "auto":
            room.batch = batch_size
        return self._answer_many(iter(queries), prepared, room)

    def fit(self, query: ImageLike, *, side: int | None = None) -> FittedQuery:
        """Read a query and squeeze it to what the network sees. Uses no device, so that any thread may do it."""
        return fit_query(read_image(query), self._side(side))

    def paint(
        self,
        query: ImageLike | FittedQuery,
        context: Context | PreparedContext,
        *,
        ensemble: Ensemble | None = None,
        task: Task | None = None,
        side: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """The network's painting itself, before ids are read from it: (side, side, 3) float32 in 0..255.

        What the published code calls the output; of use with :meth:`Prompt.from_colors` and to look at. The query is
        seen whole.
        """
        (answer,) = self.answer_many([query], context, ensemble=ensemble, task=task, side=side)
        if answer.readings:
            raise ValueError("expected a context that was prepared without tiles to paint with, got one with tiles")
        if len(answer.painted) > 1:
            raise ValueError("expected a context whose ids go through the network at once; give fewer ids to paint")
        painted: npt.NDArray[np.float32] = unpaint(answer.painted[0].painted)[0].cpu().numpy()
        return painted

    def describe(self) -> dict[str, object]:
        """What really runs: weights, parameters, side, device, dtype, attention kernel, compilation, versions."""
        kernel = choose_kernel(self.device, self.dtype) if self._model.kernel == "auto" else self._model.kernel
        on_cuda = self.device.type == "cuda"
        return {
            "weights": self.name,
            "parameters": sum(p.numel() for p in self._model.parameters()),
            "side": self.config.side,
            "patch": self.config.patch,
            "device": str(self.device),
            "device_name": torch.cuda.get_device_name(self.device) if on_cuda else f"{torch.get_num_threads()} threads",
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": kernel,
            "min_presence": self.min_presence,
            "compile": self.compiled,
            "compile_seconds": round(sum(self._compile_seconds.values()), 1),
            "torch": torch.__version__,
        }

    @property
    def model(self) -> SegGPT:
        """The network itself, on its device and in its precision. What changes it changes every answer."""
        return self._model

    @cached_property
    def sha256(self) -> str:
        """What tells these weights from others: the SHA-256 of their file, or where there is none their fingerprint."""
        if self._path is not None:
            return info(self._path).sha256
        return fingerprint(self._model)

    def estimate_memory(self, *, shots: int = 1, batch_size: int = 1, side: int | None = None) -> int:
        """Bytes of tensors at the peak of a batch, the weights included, before anything runs: `memory.estimate`."""
        return memory.estimate(
            self.config,
            side=self._side(side),
            shots=shots,
            batch=batch_size,
            chunk=shots + 1,
            device=self.device.type,
            dtype=self.dtype,
            kernel=self._model.kernel,
        )

    # ------------------------------------------------------------------------------------- from here on inside

    def _prepared(
        self,
        context: Context | PreparedContext,
        ensemble: Ensemble | None,
        task: Task | None,
        side: int | None,
        tiles: Tiles = None,
        refine: bool | None = None,
    ) -> PreparedContext:
        if not isinstance(context, PreparedContext):
            return self.prepare(
                context,
                ensemble=ensemble or "auto",
                task=task or "instance",
                side=side,
                tiles=tiles,
                refine=bool(refine),
            )
        if context.segmenter is not self:
            raise ValueError("expected a context that this Segmenter prepared, got another's; prepare it here")
        asked = {"ensemble": ensemble, "task": task, "side": side, "tiles": tiles, "refine": refine}
        for name, value in asked.items():
            if value is not None and value != (decided := getattr(context, name)):
                raise ValueError(f"expected {name}={decided!r}, for which the context was prepared, got {value!r}")
        return context

    @torch.inference_mode()
    def _prepare(self, part: Stitched, task: Task, chunk: int, tokens: Mapping[bytes, PromptTokens]) -> ContextTokens:
        tables = self._tables_of(part)
        if tokens:
            each = (tokens[content_of(*shown, task)] for shown in part.canvases)
            joined = PromptTokens(*(torch.cat(parts, dim=1) for parts in zip(*each, strict=True)))
            return self._model.join(joined, task, tables, chunk=chunk, weights=part.weights)
        shown = zip(*part.canvases, strict=True)
        images, masks = (torch.cat([self._canvas(one) for one in kind]).unsqueeze(0) for kind in shown)
        return self._model.prepare(images, masks, task=task, tables=tables, chunk=chunk, weights=part.weights)

    @torch.inference_mode()
    def _embed(self, part: Stitched, task: Task, known: Mapping[bytes, PromptTokens]) -> dict[bytes, PromptTokens]:
        """The tokens of every canvas by its content; what is known is not computed again."""
        tables, found = self._tables_of(part), dict[bytes, PromptTokens]()
        for shown in part.canvases:
            content = content_of(*shown, task)
            if content not in found:
                found[content] = known.get(content) or self._model.embed(
                    *(self._canvas(each).unsqueeze(0) for each in shown), task=task, tables=tables
                )
        return found

    def _tables_of(self, part: Stitched) -> Tables:
        grid = part.side // self.config.patch
        if grid not in self._tables:
            self._tables[grid] = self._model.tables(grid)
        return self._tables[grid]

    def _canvas(self, shown: npt.NDArray[np.generic]) -> Tensor:
        """(side, side, 3) uint8, or (3, side, side) normalised -> (1, 3, side, side) normalised on the device."""
        if shown.dtype == np.uint8:
            return self._to_device(torch.from_numpy(shown[None]))
        return torch.tensor(shown[None]).to(self.device, self.dtype)

    def _answer_many(
        self, queries: Iterator[ImageLike | FittedQuery], prepared: PreparedContext, room: Room
    ) -> Iterator[Answer]:
        collected = Collected(prepared.shown, follow=prepared.refine, min_presence=self.min_presence)
        views = (view for query in queries for view in collected.views(self._fitted(query, prepared)))
        while batch := list(islice(views, room.batch)):
            yield from collected.add(self._painted(torch.from_numpy(np.stack(batch)), prepared, room))

    def _painted(self, pixels: Tensor, prepared: PreparedContext, room: Room) -> list[Paint]:
        """(B, side, side, 3) uint8 -> the paint of each pass. Halves ``room`` if it must."""
        done: list[list[Paint]] = []  # by part of the batch, by pass
        first = 0
        while first < len(pixels):
            part = pixels[first : first + room.batch]
            count = len(part)
            if self.compiled and count < room.batch:  # static shapes: the last batch is filled up
                part = torch.cat([part, part[-1:].expand(room.batch - count, -1, -1, -1)])
            try:
                done.append([self._run(part, *each, room.chunk).part(0, count) for each in prepared.passes])
                first += count
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error) or (room.batch == 1 and room.chunk == 1):
                    raise
                warnings.warn(f"memory ran out; going on with {self._halve(room)}", stacklevel=2)
            if self.device.type == "cuda" and first < len(pixels):
                torch.cuda.empty_cache()
        return [Paint.joined(parts) for parts in zip(*done, strict=True)]

    @staticmethod
    def _halve(room: Room) -> str:
        if room.batch > 1:
            room.batch = (room.batch + 1) // 2
            return f"{room.batch} queries at a time"
        room.chunk = (room.chunk + 1) // 2
        return f"{room.chunk} prompts at a time"

    @torch.inference_mode()
    def _run(self, pixels: Tensor, palette: Palette, context: ContextTokens, chunk: int) -> Paint:
        start, key = time.perf_counter(), (len(pixels), *context.images.shape[1:3])
        queries = self._to_device(pixels)
        shots = context.images.shape[1]
        seen: Seen = self._see(queries, context, chunk=None if chunk > shots else chunk)
        if self.compiled and key not in self._compile_seconds:
            self._compile_seconds[key] = time.perf_counter() - start
        return to_read(self._model, seen, palette)

    def _to_device(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H, W) normalised, in the network's precision, on its device."""
        if self._copies is None:
            return normalise(pixels.to(self.device)).to(self.dtype)
        with torch.cuda.stream(self._copies):
            moved = pixels.pin_memory().to(self.device, non_blocking=True)
        stream = torch.cuda.current_stream(self.device)
        stream.wait_stream(self._copies)
        moved.record_stream(stream)
        return normalise(moved).to(self.dtype)

    @staticmethod
    def _fitted(query: ImageLike | FittedQuery, prepared: PreparedContext) -> FittedQuery:
        if not isinstance(query, FittedQuery):
            return prepared.fit(query)
        if query.pixels.shape != (prepared.side, prepared.side, 3):
            raise ValueError(f"expected queries fitted to a side of {prepared.side}, got {query.pixels.shape[0]}")
        if query.image is None and (prepared.refine or max(query.size) > (prepared.window or max(query.size))):
            raise ValueError("expected queries fitted for tiles or refining, got others; use PreparedContext.fit")
        return query

    def _plan(self, shots: int, side: int, most: int) -> Room:
        free = (
            torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else psutil.virtual_memory().available
        )
        return memory.plan(
            self.config,
            side=side,
            shots=shots,
            most=most,
            free=int(free * _SHARE_OF_FREE),
            device=self.device.type,
            dtype=self.dtype,
            kernel=self._model.kernel,
        )

    def _side(self, side: int | None) -> int:
        if side is None:
            return self.config.side
        if side <= 0 or side % self.config.patch:
            raise ValueError(f"expected side to be a positive multiple of the patch, {self.config.patch}, got {side}")
        return side


def to_read(model: SegGPT, seen: Seen, palette: Palette) -> Paint:
    """What a network saw, as ids are read from it: float32, and how likely each id is there if the network can tell."""
    painted = seen.painted.float()
    if model.presence is None:
        return Paint(painted, palette)
    shown = shares(painted, palette, model.config.patch)
    return Paint(painted, palette, model.presence(seen.tokens, shown).float().sigmoid())


def _out_of_memory(error: Exception) -> bool:
    """Whether it is CUDA's, Python's or PyTorch's CPU allocator that has nothing left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
