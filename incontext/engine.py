"""The Segmenter: a network on a device, from pictures and a context to masks.

Owns the device, the dtype, compilation and batching. It refuses to know files of weights (checkpoint.py), pixels
(canvas.py) and the inside of the network (model.py): dtype and compilation are applied from outside.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from incontext import canvas
from incontext.attention import choose_kernel
from incontext.checkpoint import load_model, resolve
from incontext.formats import ImageLike, read_image
from incontext.model import SegGPT, Task
from incontext.types import Palette, Prompt, Segmentation

Context = Prompt | Sequence[Prompt]
DeviceName = str
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    name: str | os.PathLike[str] = "default",
    *,
    device: DeviceName = "auto",
    dtype: DtypeName = "auto",
    compile: bool = False,
) -> Segmenter:
    """A Segmenter with the weights of that registry name or path.

    device: "auto" (a CUDA device if there is one, else the CPU) or a PyTorch device, which must be there. dtype: "auto"
    is bfloat16 on CUDA and float32, which gives the published network's answers exactly, elsewhere. compile:
    torch.compile; the first picture then takes up to minutes, the following ones less time than without.

    Raises:
        FileNotFoundError: there is no file and no registered weights of that name.
        CheckpointError: the file is not a checkpoint of this network.
        ValueError: the device or the dtype is unknown or not available.
    """
    chosen = choose_device(device)  # first: a missing device should not cost a download
    return Segmenter(load_model(resolve(name)), device=str(chosen), dtype=dtype, compile=compile, name=str(name))


def choose_device(name: DeviceName) -> torch.device:
    """The PyTorch device of that name. Never falls back to another one than asked for."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'expected a device such as "auto", "cpu" or "cuda:0", got {name!r}') from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} was asked for, but PyTorch sees {torch.cuda.device_count()} CUDA devices; "
            "install a driver and a CUDA build of PyTorch, or ask for the CPU"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {name!r} was asked for, but PyTorch sees no Metal device here; ask for the CPU")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"expected a cpu, cuda or mps device, got {name!r}")
    return device


class Segmenter:
    """Segments queries by the example of a context. Thread-safe for reading; holds no state between calls."""

    def __init__(
        self,
        model: SegGPT,
        *,
        device: DeviceName = "auto",
        dtype: DtypeName = "auto",
        compile: bool = False,
        name: str = "unnamed",
    ) -> None:
        self.name = name
        self.device = choose_device(device)
        if dtype != "auto" and dtype not in _DTYPES:
            raise ValueError(f"expected a dtype among auto, {', '.join(_DTYPES)}; got {dtype!r}")
        auto = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.dtype = auto if dtype == "auto" else _DTYPES[dtype]
        self.compiled = compile
        self.config = model.config
        self._model = model.to(self.device, self.dtype).eval()
        self._forward = torch.compile(self._model) if compile else self._model

    def segment(
        self, query: ImageLike, context: Context, *, task: Task = "instance", side: int | None = None
    ) -> Segmentation:
        """Find in one query what the context shows.

        query: a path, a PIL image or an (H, W, 3) uint8 array. context: a Prompt or a sequence of them. task:
        "instance" or "semantic", the type token that is added. side: pixels along one side of the squares that the
        network sees, a multiple of its patch; None is the size that the weights were made for. The answer has the
        query's own size, and the ids of the prompts' masks.

        Raises:
            FileNotFoundError, ValueError: a picture, the context or an option cannot be used; the message says why.
        """
        return next(self.segment_many([query], context, task=task, side=side))

    def segment_many(
        self,
        queries: Iterable[ImageLike],
        context: Context,
        *,
        task: Task = "instance",
        side: int | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Segmentation]:
        """Like :meth:`segment` for any number of queries: lazy, in their order, ``batch_size`` at a time.

        batch_size: queries that go through the network together; None is 8 on CUDA and 1 elsewhere. Queries in a batch
        never influence each other. The context is checked and prepared before the first query is read.
        """
        prepared = _Context(_prompts(context), self._side(side))
        size = (8 if self.device.type == "cuda" else 1) if batch_size is None else batch_size
        if size < 1:
            raise ValueError(f"expected batch_size of at least 1, got {batch_size}")
        return self._segment_many(iter(queries), prepared, task, size)

    def paint(
        self, query: ImageLike, context: Context, *, task: Task = "instance", side: int | None = None
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The network's painting itself, before ids are read from it: (side, side, 3) float32 in 0..255.

        What the published code calls the output; of use with :meth:`Prompt.from_colors` and to look at.
        """
        prepared = _Context(_prompts(context), self._side(side))
        answer = self._answer([read_image(query)], prepared, task)
        return canvas.unpaint(answer)[0].cpu().numpy()

    def describe(self) -> dict[str, object]:
        """What really runs: weights, parameters, side, device, dtype, attention kernel, compilation, versions."""
        kernel = choose_kernel(self.device) if self._model.kernel == "auto" else self._model.kernel
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
            "compile": self.compiled,
            "torch": torch.__version__,
        }

    def _segment_many(
        self, queries: Iterator[ImageLike], prepared: _Context, task: Task, batch_size: int
    ) -> Iterator[Segmentation]:
        while batch := [read_image(query) for query in islice(queries, batch_size)]:
            answer = self._answer(batch, prepared, task)
            sizes = [(image.shape[0], image.shape[1]) for image in batch]
            for ids, confidence in canvas.read(answer, prepared.palette, sizes):
                yield Segmentation(ids, confidence, prepared.shown)

    @torch.inference_mode()
    def _answer(self, images: Sequence[np.ndarray[Any, Any]], prepared: _Context, task: Task) -> Tensor:
        """Painted answers (B, 3, side, side), normalised, float32, on the device."""
        queries = torch.stack([canvas.fit(image, prepared.side) for image in images])
        shots = (len(images), -1, -1, -1, -1)
        inputs = (prepared.images.expand(shots), prepared.masks.expand(shots), queries)
        moved = [tensor.to(self.device, self.dtype) for tensor in inputs]
        return self._forward(*moved, task=task).float()  # type: ignore[no-any-return]

    def _side(self, side: int | None) -> int:
        if side is None:
            return self.config.side
        if side <= 0 or side % self.config.patch:
            raise ValueError(f"expected side to be a positive multiple of the patch, {self.config.patch}, got {side}")
        return side


class _Context:
    """Prompts as the network takes them: (1, N, 3, side, side) each, with the palette that they are painted in."""

    def __init__(self, prompts: Sequence[Prompt], side: int) -> None:
        self.side = side
        self.palette = _painting_palette(prompts)
        self.shown = _shown_palette(prompts, self.palette)
        self.images = torch.stack([canvas.fit(prompt.image, side) for prompt in prompts]).unsqueeze(0)
        self.masks = torch.stack([canvas.paint(prompt, self.palette, side) for prompt in prompts]).unsqueeze(0)


def _prompts(context: Context) -> tuple[Prompt, ...]:
    prompts = (context,) if isinstance(context, Prompt) else tuple(context)
    if not prompts or not all(isinstance(prompt, Prompt) for prompt in prompts):
        kinds = ", ".join(sorted({type(prompt).__name__ for prompt in prompts})) or "nothing"
        raise ValueError(f"expected a Prompt or a sequence of Prompts as the context, got {kinds}")
    if len({prompt.colors is None for prompt in prompts}) > 1:
        raise ValueError("expected either masks or raw colours in a context, got both; use one kind for all prompts")
    return prompts


def _painting_palette(prompts: Sequence[Prompt]) -> Palette:
    """The colours that the network sees: far apart, or the prompts' own where they are raw colours."""
    if prompts[0].colors is None:
        return Palette.spread({i for prompt in prompts for i in prompt.ids})
    palettes = [prompt.palette for prompt in prompts if prompt.palette is not None]
    if any(not np.array_equal(palette.table, palettes[0].table) for palette in palettes):
        raise ValueError("expected raw colour prompts of a context to share their main colours; give masks with ids")
    return palettes[0]


def _shown_palette(prompts: Sequence[Prompt], painting: Palette) -> Palette:
    """The colours that people see: those of the first prompt's file where they cover all ids, else the painting's."""
    shown = prompts[0].palette
    return painting if shown is None or set(painting.ids.tolist()) - set(shown.ids.tolist()) else shown
