"""Which files are prompts: in folders, context files and annotations; and how they are opened.

The public names, nothing else: `gather` and `open_prompts` make a context of files.
"""

from incontext.examples.pairs import PromptFiles, PromptWarning, gather, read_context, write_context
from incontext.examples.prompts import OpenedPrompts, open_prompts, read_empty

__all__ = [
    "OpenedPrompts",
    "PromptFiles",
    "PromptWarning",
    "gather",
    "open_prompts",
    "read_context",
    "read_empty",
    "write_context",
]
