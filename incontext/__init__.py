"""In-context segmentation: show one example, segment everything like it.

The public names, nothing else. Each is imported when it is first used, so that `import incontext` stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from incontext.version import __version__

if TYPE_CHECKING:
    from incontext.engine import Segmenter, load
    from incontext.folder import plan, segment_folder
    from incontext.hints import Hints
    from incontext.network.layouts import CheckpointError
    from incontext.prompt_tensor import PromptTensor
    from incontext.prompters import load_namer, load_prompter
    from incontext.proposals import Proposals, propose
    from incontext.rounds import Rounds
    from incontext.tuning import tune
    from incontext.types import Palette, Prompt, Segmentation
    from incontext.video import Tracker, track

__all__ = [
    "CheckpointError",
    "Hints",
    "Palette",
    "Prompt",
    "PromptTensor",
    "Proposals",
    "Rounds",
    "Segmentation",
    "Segmenter",
    "Tracker",
    "__version__",
    "load",
    "load_namer",
    "load_prompter",
    "plan",
    "propose",
    "segment_folder",
    "track",
    "tune",
]

_HOMES = {
    "CheckpointError": "network.layouts",
    "Hints": "hints",
    "Palette": "types",
    "Prompt": "types",
    "Proposals": "proposals",
    "PromptTensor": "prompt_tensor",
    "Rounds": "rounds",
    "Segmentation": "types",
    "Segmenter": "engine",
    "Tracker": "video",
    "load": "engine",
    "load_namer": "prompters",
    "load_prompter": "prompters",
    "plan": "folder",
    "propose": "proposals",
    "segment_folder": "folder",
    "track": "video",
    "tune": "tuning",
}


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'incontext' has no attribute {name!r}; it exports {', '.join(__all__)}")
    value: object = getattr(import_module(f"incontext.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
