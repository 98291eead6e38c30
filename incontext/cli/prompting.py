"""What commands with `--prompter` share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from incontext.hints import Hints
    from incontext.images.ids import Pixels
    from incontext.options import LoadOptions
    from incontext.prompters import Prompter
    from incontext.types import Segmentation


def opened(name: str, loading: "LoadOptions") -> "Prompter":
    """Open a prompter; a detector that stands alone gets our own network behind it."""
    from incontext.prompters import load_prompter
    from incontext.prompters.load import find_prompter, needs_segmenter

    segmenter = None
    if needs_segmenter(find_prompter(name)):
        from incontext.engine import load_with

        segmenter = load_with(loading)
    return load_prompter(name, device=loading.device, segmenter=segmenter)


def marked(
    name: str,
    image: "Pixels",
    *,
    hints: "Hints | None",
    text: Sequence[str] | None,
    refer: str | None,
    loading: "LoadOptions",
) -> "Segmentation":
    """Mark an image by a prompter: by what a phrase refers to, or by hints, text or both."""
    with opened(name, loading) as prompter:
        if refer is not None:
            return prompter.refer(image, refer)
        return prompter.segment(image, hints=hints, text=text)
