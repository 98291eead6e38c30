"""The network behind the page: one for all visitors, to be exchanged for other weights on disk.

Refuses to know the page. Jobs come one after the other (the page's queue sees to that), so nothing is locked here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from incontext.options import DEFAULTS, LOADING, LoadOptions, SegmentOptions
from incontext.types import Prompt
from incontext.ui.places import Places

if TYPE_CHECKING:
    from incontext.engine import PreparedContext, Segmenter
    from incontext.ui.sessions import Session, Sessions

_SUFFIXES: Final = frozenset({".safetensors", ".pth", ".pt"})
_TIMED: Final = 5  # calls


@dataclass
class Model:
    """The Segmenter in use. loading, options: what was asked for at the start, and holds for other weights, too."""

    segmenter: Segmenter
    places: Places
    loading: LoadOptions = LOADING
    options: SegmentOptions = DEFAULTS

    def choices(self) -> list[str]:
        """Names of registered weights on this machine, and files of weights in the opened folders."""
        from incontext.network.registry import cached_path, registry
        from incontext.prompt_tensor import is_prompt_tensor

        named = [entry.name for entry in registry().values() if cached_path(entry) is not None]
        return named + self.places.listed(
            lambda path: path.suffix in _SUFFIXES and path.is_file() and not is_prompt_tensor(path)
        )

    def switch(self, name: str, sessions: Sessions) -> None:
        """Use other weights from now on; what sessions keep of those before goes.

        ValueError where they are neither registered nor in an opened folder.
        """
        from incontext.engine import load_with
        from incontext.network.registry import cached_path, registry

        entry = registry().get(name)
        if entry is None:
            self.places.check(name)
        elif cached_path(entry) is None:
            raise ValueError(f"{name} is not on this machine; fetch it with: incontext weights download {name}")
        self.segmenter = load_with(replace(self.loading, weights=name))
        sessions.forget_network()

    def prepared(self, session: Session, keys: list[str]) -> PreparedContext:
        """The session's examples and these keys of it, as a context; that of last time where nothing changed.

        ValueError where there is none, or a key was made for other weights.
        """
        chosen = [session.keys[name] for name in keys if name in session.keys]
        prompts = [example.prompt for example in session.examples]
        made_of = (self.segmenter, *chosen, *prompts)
        if not prompts and not chosen:
            raise ValueError(
                "expected an example, got none; paint what you mean on a picture and press 'Add as example'"
            )
        if session.prepared is None or session.prepared[0] != made_of:
            session.prepared = made_of, self.segmenter.prepare([*chosen, *prompts], **self.options.keywords())
        prepared: Any = session.prepared[1]
        return prepared  # type: ignore[no-any-return]

    def seconds_per_picture(self) -> float:
        """The median of some pictures of 640 x 480 that are segmented by one example, one after the other."""
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (480, 640, 3), np.uint8)
        mask = np.zeros((480, 640), np.uint8)
        mask[120:360, 160:480] = 1
        prepared, taken = self.segmenter.prepare(Prompt(image, mask)), []
        for _ in range(_TIMED + 1):
            start = time.perf_counter()
            self.segmenter.segment(image, prepared)
            taken.append(time.perf_counter() - start)
        return median(taken[1:])

    def describe(self) -> dict[str, object]:
        """What really runs."""
        told = self.segmenter.describe()
        name = str(told["weights"])
        return {**told, "weights": Path(name).name if Path(name).is_absolute() else name}
