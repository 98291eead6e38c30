"""A context out of what a user names: pairs of files, a folder of examples, prompt tensors; any of them, or all.

Refuses to know the network, and what it is used for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from incontext.examples.pairs import Pair, PromptLeftOutWarning, gather, some_of
from incontext.examples.prompts import OpenedPrompts, open_prompts
from incontext.prompt_tensor import PromptTensor
from incontext.types import Prompt


@dataclass(frozen=True)
class GivenContext:
    """A context, and the files that it came from.

    Attributes:
        prompts: Examples, opened.
        prompt_tensors: What was learned from others.
        pairs: The files of the prompts, in their order.
        masks: Every mask that was seen, also those of no use: none of them is a query.
        names: What ids mean, as far as annotation files say it.
    """

    prompts: tuple[Prompt, ...] = ()
    prompt_tensors: tuple[PromptTensor, ...] = ()
    pairs: tuple[Pair, ...] = ()
    masks: tuple[Path, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def context(self) -> tuple[Prompt | PromptTensor, ...]:
        """What the network is shown."""
        return (*self.prompts, *self.prompt_tensors)


def open_context(
    pairs: Sequence[tuple[Path, Path]] = (),
    source: Path | None = None,
    prompt_tensors: Iterable[Path] = (),
    *,
    snap: bool = False,
    needed: bool = True,
) -> GivenContext:
    """Open everything that a user names.

    Warns:
        PromptWarning: prompts mark nothing and are left out, or files of a folder are no prompts.

    Args:
        pairs: Images with their masks, or with the annotation file that has these.
        source: A folder of examples, a context file, or annotations: see `gather`.
        prompt_tensors: Files that tuning wrote.
        snap: See `read_mask`.
        needed: Whether there must be something; else nothing is a context without prompts.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file cannot be used, is an address, or there is nothing although something is needed.
    """
    for path in (*(path for pair in pairs for path in pair), *([] if source is None else [source])):
        _refuse_address(path)
    learned = tuple(PromptTensor.load(path) for path in prompt_tensors)
    if not pairs and source is None and (learned or not needed):
        return GivenContext(prompt_tensors=learned)
    files = gather(pairs, source)
    opened = open_prompts(files, snap=snap)
    _tell_about_empty(opened)
    return GivenContext(opened.prompts, learned, opened.pairs, files.masks, opened.names)


def _refuse_address(path: Path) -> None:
    if path.parts and len(path.parts[0]) > 2 and path.parts[0].endswith(":"):
        raise ValueError(f"{path}: expected local files as prompts, got an address; copy them here first")


def _tell_about_empty(opened: OpenedPrompts) -> None:
    """Warn which of the prompts are left out."""
    if not opened.empty:
        return
    count, masks = len(opened.empty), some_of([mask for _, mask in opened.empty])
    what = "1 prompt whose mask marks" if count == 1 else f"{count} prompts whose masks mark"
    warnings.warn(f"left out {what} nothing: {masks}", PromptLeftOutWarning, stacklevel=3)
