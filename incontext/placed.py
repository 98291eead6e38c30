"""A network where it runs: on a device, in a precision, perhaps compiled, and no more at a time than memory holds.

Refuses to know contexts as users give them, files and sizes of queries, and what becomes of the paint.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from math import ceil
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from incontext.canvas.context import Stitched, content_of, grouped
from incontext.canvas.hints import Told, paint_told
from incontext.canvas.paint import normalise
from incontext.canvas.query import View
from incontext.canvas.read import Paint, SecondVotes, shares
from incontext.images.ids import IGNORED
from incontext.images.resize import resized_mask
from incontext.matching.match import Examples
from incontext.matching.voter import Voter
from incontext.network import memory
from incontext.network.attention import choose_kernel
from incontext.network.memory import Room
from incontext.network.model import ContextTokens, PromptTokens, Seen, SegGPT, Tables
from incontext.options import Task
from incontext.types import Palette


class Pass(NamedTuple):
    """What a context contributes to every query, for one group of ids."""

    palette: Palette
    context: ContextTokens | None  # the network's own; None: there is no example, only hints
    examples: Examples | None = None  # a backbone's own; None: the network decides alone


Passes: TypeAlias = Sequence[Pass]

_SHARE_OF_FREE = 0.8  # of the memory that is free, for what the estimate does not see
_AMPLE = 2 << 30  # bytes for each query: no backbone needs so much


class PlacedNetwork:
    """A network, placed. Thread-safe for reading; what it keeps are tables and how long compilation took."""

    def __init__(
        self,
        model: SegGPT,
        device: torch.device,
        dtype: torch.dtype,
        *,
        compile: bool,
        voter: Voter | None = None,
    ) -> None:
        """compile: by torch.compile. voter: the backbone whose votes are joined with what is painted, if any."""
        self.voter = voter
        self.device, self.dtype, self.compiled = device, dtype, compile
        self.config = model.config
        self.model = model.to(device, dtype).eval()
        self.model.decoder_pred.to(memory_format=torch.channels_last)
        self.compile_seconds: dict[tuple[int, ...], float] = {}  # by batch, shots and side: what its first run took
        choose_kernel(device, dtype)  # which asks the processor, as compiled code cannot
        self._see = torch.compile(self.model.see, dynamic=False) if compile else self.model.see
        self._tables: dict[int, Tables] = {}  # by grid
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def kernel(self) -> str:
        """The attention kernel that runs."""
        return choose_kernel(self.device, self.dtype) if self.model.kernel == "auto" else self.model.kernel

    @torch.inference_mode()
    def prepare(self, part: Stitched, task: Task, chunk: int, tokens: Mapping[str, PromptTokens]) -> ContextTokens:
        """Compute what a pass of a context contributes to every query.

        Args:
            part: The pass.
            task: Which type token is added.
            chunk: Prompts to work on at a time.
            tokens: Of its canvases by their content, where these were embedded apart; else none.
        """
        tables = self._tables_of(part.side)
        if tokens:
            each = (tokens[content_of(*shown, task)] for shown in part.canvases)
            joined = PromptTokens(*(torch.cat(parts, dim=1) for parts in zip(*each, strict=True)))
            return self.model.join(joined, task, tables, chunk=chunk, weights=part.weights)
        shown = zip(*part.canvases, strict=True)
        images, masks = (torch.cat([self._canvas(one) for one in kind]).unsqueeze(0) for kind in shown)
        return self.model.prepare(images, masks, task=task, tables=tables, chunk=chunk, weights=part.weights)

    @torch.inference_mode()
    def embed(self, part: Stitched, task: Task, known: Mapping[str, PromptTokens]) -> dict[str, PromptTokens]:
        """Embed every canvas of a pass by itself, by its content; what is known is not computed again."""
        tables, found = self._tables_of(part.side), dict[str, PromptTokens]()
        for shown in part.canvases:
            content = content_of(*shown, task)
            if content not in found:
                found[content] = known.get(content) or self.model.embed(
                    *(self._canvas(each).unsqueeze(0) for each in shown), task=task, tables=tables
                )
        return found

    def _tables_of(self, side: int) -> Tables:
        grid = side // self.config.patch
        if grid not in self._tables:
            self._tables[grid] = self.model.tables(grid)
        return self._tables[grid]

    def _canvas(self, shown: npt.NDArray[np.generic]) -> Tensor:
        """Bring (side, side, 3) uint8, or (3, side, side) normalised, to the device: (1, 3, side, side) normalised."""
        if shown.dtype == np.uint8:
            return self._to_device(torch.from_numpy(shown[None]))
        return torch.tensor(shown[None]).to(self.device, self.dtype)

    def paint(self, views: Sequence[View], passes: Passes, task: Task, room: Room) -> tuple[list[Paint], Room]:
        """Paint views of queries by a prepared context, as many at a time as fit.

        When memory runs out all the same, less of it is asked for from then on, with a warning.

        Args:
            views: What the network is to see, of one side.
            passes: Of a context.
            task: Which type token is added where there is no context.
            room: What should fit at a time.

        Returns:
            The paint of each pass, and what turned out to fit.
        """
        done: list[list[Paint]] = []  # by part of the batch, by pass
        first = 0
        while first < len(views):
            part = [*views[first : first + room.batch]]
            count = len(part)
            if self.compiled:  # static shapes: the last batch is filled up
                part += part[-1:] * (room.batch - count)
            try:
                painted = [self._run(part, each, task, room.chunk).part(0, count) for each in passes]
                done.append(self._with_votes(painted, part[:count], passes))
                first += count
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error) or (less := room.halved) is None:
                    raise
                what = "prompts" if less.batch == room.batch else "queries"
                count = less.chunk if less.batch == room.batch else less.batch
                warnings.warn(f"memory ran out; going on with {count} {what} at a time", stacklevel=3)
                room = less
            if self.device.type == "cuda" and first < len(views):
                torch.cuda.empty_cache()
        return [Paint.joined(parts) for parts in zip(*done, strict=True)], room

    @torch.inference_mode()
    def _run(self, views: Sequence[View], own_pass: Pass, task: Task, chunk: int) -> Paint:
        """Let the network see views, by a context, or alone by what is said of them."""
        start, (palette, context, _) = time.perf_counter(), own_pass
        queries = self._to_device(torch.from_numpy(np.stack([view.pixels for view in views])))
        told = self._told(views, palette)
        own = self._with_told(queries, context, told, task, chunk)
        shots, key = own.images.shape[1], (len(own.masks), len(views), *own.images.shape[1:3])
        seen: Seen = self._see(queries, own, chunk=None if chunk > shots else chunk)
        if self.compiled and key not in self.compile_seconds:
            self.compile_seconds[key] = time.perf_counter() - start
        return to_read(self.model, seen, palette, told)

    @torch.inference_mode()
    def _with_votes(self, painted: Sequence[Paint], views: Sequence[View], passes: Passes) -> list[Paint]:
        """Add the votes of the backbone to the paint of each pass, as far as it has examples."""
        if self.voter is None or all(each.examples is None for each in passes):
            return list(painted)
        images = [view.second for view in views if view.second is not None]
        assert len(images) == len(views)  # queries are fitted for the backbone, where there are examples
        seen = self.voter.see(images)
        return [
            paint if each.examples is None else self._voted(paint, views, seen, each.examples)
            for paint, each in zip(painted, passes, strict=True)
        ]

    def _voted(self, paint: Paint, views: Sequence[View], seen: Tensor, examples: Examples) -> Paint:
        assert self.voter is not None
        ids = paint.palette.ids.tolist()
        leads = self.voter.leads(seen, examples, ids[1:])
        grid = views[0].pixels.shape[0] // self.config.patch
        for at, view in enumerate(views):
            said = view.told(ids, grid)
            if said is not None:  # the network was told, and the backbone was not
                known = resized_mask(said, (leads.shape[2], leads.shape[3])) != IGNORED
                leads[at] = leads[at].masked_fill(torch.from_numpy(known).to(leads.device), 0)
        presence = None if paint.presence is None else self.voter.presence(paint.presence, leads)
        return paint._replace(presence=presence, second=SecondVotes(leads, self.voter.calibration.sharpness))

    @torch.inference_mode()
    def paint_one(self, views: Sequence[View], palette: Palette, task: Task) -> Paint:
        """Paint views of one query that differ in their hints alone, without an example, at once.

        What does not depend on the hints is done once for all of them.
        """
        query = self._to_device(torch.from_numpy(views[0].pixels[None].copy()))
        told = self._told(views, palette)
        return to_read(self.model, self.model.see(query, self._with_told(query, None, told, task, 1)), palette, told)

    def _told(self, views: Sequence[View], palette: Palette) -> Told | None:
        """Gather what is said of views in a pass; None: nothing of any."""
        grid = views[0].pixels.shape[0] // self.config.patch
        return paint_told([view.told(palette.ids.tolist(), grid) for view in views], palette, self.config.patch)

    def _with_told(
        self, queries: Tensor, context: ContextTokens | None, told: Told | None, task: Task, chunk: int
    ) -> ContextTokens:
        """Add what is told to the context of a batch; queries of which nothing is keep the shared one to the bit."""
        if told is None:
            assert context is not None  # alone something is said of every view
            return context
        masks, hidden = self._to_device(torch.from_numpy(told.masks)), torch.from_numpy(told.hidden).to(self.device)
        if context is None:
            return self.model.alone(queries, masks, hidden, task=task, tables=self._tables_of(queries.shape[-1]))
        revealed = self.model.reveal(context, masks, hidden, chunk=None if chunk > context.images.shape[1] else chunk)
        if len(told.at) == len(queries):
            return revealed
        together = context.masks.expand(len(queries), -1, -1, -1, -1).clone()
        together[torch.from_numpy(told.at).to(self.device)] = revealed.masks
        return context._replace(masks=together)

    def _to_device(self, pixels: Tensor) -> Tensor:
        """Bring (B, H, W, 3) uint8 to the device: (B, 3, H, W) normalised, in the network's precision."""
        if self._copies is None:
            return normalise(pixels.to(self.device)).to(self.dtype)
        with torch.cuda.stream(self._copies):
            moved = pixels.pin_memory().to(self.device, non_blocking=True)
        stream = torch.cuda.current_stream(self.device)
        stream.wait_stream(self._copies)
        moved.record_stream(stream)
        return normalise(moved).to(self.dtype)

    def room(self, shots: int, side: int, most: int) -> Room:
        """Plan what fits beside what is in memory by now: at most so many queries, with so many shots."""
        free = (
            torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else psutil.virtual_memory().available
        )
        left = int(free * _SHARE_OF_FREE)
        if self.voter is not None and left < most * _AMPLE:
            while most > 1 and self.voter.needs(batch=most, shots=shots) > left // 2:
                most = ceil(most / 2)
            left -= self.voter.needs(batch=most, shots=shots)
        return memory.plan(
            self.config,
            side=side,
            shots=shots,
            most=most,
            free=left,
            device=self.device.type,
            dtype=self.dtype,
            kernel=self.model.kernel,
        )


def by_passes(views: Sequence[View], passes: Passes) -> Iterator[tuple[Passes, Sequence[View]]]:
    """Sort views, in their order, by the passes that they need: these, or if there are none by what hints point at."""
    if passes:
        yield passes, views
        return
    for ids, part in groupby(views, key=lambda view: () if view.hints is None else view.hints.ids):
        yield [Pass(palette, None) for palette in grouped({*ids})], [*part]


def to_read(model: SegGPT, seen: Seen, palette: Palette, told: Told | None = None) -> Paint:
    """Ready what a network saw for reading: float32, and how likely each id is there if the network can tell.

    Args:
        told: What was said of it; what is pointed at is there.
    """
    painted = seen.painted.float()
    if model.presence is None:
        return Paint(painted, palette)
    shown = shares(painted, palette, model.config.patch)
    presence = model.presence(seen.tokens, shown).float().sigmoid()
    if told is not None:
        pointed = torch.from_numpy(told.pointed).to(presence.device)
        presence[told.at] = presence[told.at].masked_fill(pointed, 1.0)
    return Paint(painted, palette, presence)


def _out_of_memory(error: Exception) -> bool:
    """Tell whether it is CUDA's, Python's or PyTorch's CPU allocator that has nothing left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
