"""A stand-in for a Segmenter that needs no network, and images for it: for tests of folder jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from incontext.folder import FolderReport, plan, segment_folder
from incontext.images.ids import Pixels
from incontext.options import SegmentOptions
from incontext.types import Palette, Prompt, Segmentation

PALETTE = Palette(np.array([0, 3]), np.array([(0, 0, 0), (255, 0, 0)]))
PROMPT = Prompt(np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=np.uint8) * 3, palette=PALETTE)


class Bright:
    """Stands in for a Segmenter: id 3 is where the query is bright. `delay` seconds for each batch."""

    def __init__(self, *, batch: int = 2, delay: float = 0.0, on_batch: Callable[[int], None] | None = None) -> None:
        self.batch, self.delay, self.on_batch = batch, delay, on_batch
        self.asked: dict[str, Any] = {}
        self.threads: dict[str, set[int]] = {"fit": set(), "answer": set(), "read": set()}

    sha256 = "0" * 64
    device = SimpleNamespace(type="cpu")
    compiled = False

    def describe(self) -> dict[str, object]:
        return {"weights": "bright"}

    def estimate_memory(self, **_: int) -> int:
        return 1_000_000

    def prepare(self, context: Prompt | Sequence[Prompt], **asked: Any) -> SimpleNamespace:
        assert isinstance(context, Prompt)
        self.asked = asked
        side = asked["side"] or 16
        return SimpleNamespace(options=SegmentOptions(**asked), side=side, shots=1, fit=self.fit)

    def fit(self, query: Pixels, *, hints: object = None) -> Pixels:
        self.threads["fit"].add(threading.get_ident())
        return query

    def answer_many(
        self, queries: Iterable[Pixels], prepared: SimpleNamespace, *, batch_size: int | str
    ) -> Iterator[SimpleNamespace]:
        assert prepared.side == (self.asked["side"] or 16)
        self.asked["batch_size"], number, queries = batch_size, 0, iter(queries)
        while images := list(islice(queries, self.batch if batch_size == "auto" else int(batch_size))):
            if self.on_batch is not None:
                self.on_batch(number)
            time.sleep(self.delay)
            self.threads["answer"].add(threading.get_ident())
            yield from (SimpleNamespace(read=partial(self.read, image)) for image in images)
            number += 1

    def read(self, image: Pixels) -> Segmentation:
        self.threads["read"].add(threading.get_ident())
        found = image.mean(axis=2) > 127
        return Segmentation(found.astype(np.uint8) * 3, np.full(found.shape, 0.75, np.float32), PALETTE)


def image_file(path: Path, *, width: int = 12, height: int = 8, bright: int = 0) -> Path:
    """A dark image whose first `bright` columns are white."""
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[:, :bright] = 250
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")  # whatever the suffix says: so that its pixels are exact
    return path


def run_job(
    segmenter: Any, inputs: Iterable[Path], out: Path, *, context: Prompt = PROMPT, **options: Any
) -> FolderReport:
    planned = {name: options.pop(name) for name in ("overlay", "confidence", "prompt_files") if name in options}
    return segment_folder(segmenter, plan(inputs, out, **planned), context, **options)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
