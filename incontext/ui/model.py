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
    from incontext.prompters import Prompter
    from incontext.ui.sessions import Session, Sessions

_SUFFIXES: Final = frozenset({".safetensors", ".pth", ".pt"})
_TIMED: Final = 5  # calls


@dataclass
class Model:
    """The Segmenter in use.

    Attributes:
        loading, options: What was asked for at the start, and holds for other weights, too.
        prompter: Another model that marks examples by text, and perhaps by clicks.
    """

    segmenter: Segmenter
    places: Places
    loading: LoadOptions = LOADING
    options: SegmentOptions = DEFAULTS
    prompter: Prompter | None = None

    def choices(self) -> list[str]:
        """List the names of registered weights on this machine, and files of weights in the opened folders."""
        from incontext.network.registry import cached_path, registry
        from incontext.prompt_tensor import is_prompt_tensor

        named = [entry.name for entry in registry().values() if cached_path(entry) is not None]
        return named + self.places.listed(
            lambda path: path.suffix in _SUFFIXES and path.is_file() and not is_prompt_tensor(path)
        )

    def switch(self, name: str, sessions: Sessions) -> None:
        """Use other weights from now on; what sessions keep of those before goes.

        Raises:
            ValueError: They are neither registered nor in an opened folder.
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

    def backbones(self) -> list[str]:
        """Names of backbones on this machine, and folders of networks in the opened folders."""
        from incontext.matching.names import on_this_machine

        return on_this_machine() + self.places.listed(lambda path: (path / "config.json").is_file())

    def ask_beside(self, backbone: str | None, sessions: Sessions) -> None:
        """Let a backbone vote from now on, or none; what sessions keep of the network before goes.

        ValueError where it is neither on this machine nor in an opened folder.
        """
        from incontext.engine import load_with
        from incontext.matching.names import on_this_machine

        if backbone is not None and backbone not in on_this_machine():
            if backbone.startswith("timm:"):
                raise ValueError(f"{backbone} is not on this machine; fetch it: incontext weights download {backbone}")
            self.places.check(backbone)
        loading = replace(self.loading, backbone=backbone)
        self.segmenter = load_with(replace(loading, weights=self.segmenter.name))
        self.loading = loading
        sessions.forget_network()

    def prepared(self, session: Session, prompt_tensors: list[str]) -> PreparedContext:
        """Prepare the session's examples and these prompt tensors of it as a context; last time's if nothing changed.

        Raises:
            ValueError: There is none, or a prompt tensor was made for other weights.
        """
        chosen = [session.prompt_tensors[name] for name in prompt_tensors if name in session.prompt_tensors]
        prompts = [example.prompt for example in session.examples]
        made_of = (self.segmenter, *chosen, *prompts)
        if not prompts and not chosen:
            raise ValueError(
                "expected an example, got none; paint what you mean on an image and press 'Add as example'"
            )
        if session.prepared is None or session.prepared[0] != made_of:
            session.prepared = made_of, self.segmenter.prepare([*chosen, *prompts], **self.options.keywords())
        prepared: Any = session.prepared[1]
        return prepared  # type: ignore[no-any-return]

    def seconds_per_image(self) -> float:
        """Measure the median of some images of 640 x 480 that are segmented by one example, one after the other."""
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
        """Say what really runs."""
        told = self.segmenter.describe()
        name = str(told["weights"])
        beside = {} if self.prompter is None else {"prompter": self.prompter.name}
        return {**told, "weights": Path(name).name if Path(name).is_absolute() else name, **beside}
