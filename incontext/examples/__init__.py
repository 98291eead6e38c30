"""Which files are prompts: in folders, context files and annotations; and how they are opened.

The public names, nothing else: `open_context` makes a context of what a user names; `gather` and `open_prompts` are its
two steps.
"""

from incontext.examples.given import GivenContext, open_context
from incontext.examples.pairs import PromptFiles, PromptWarning, gather, read_context, write_context
from incontext.examples.prompts import OpenedPrompts, open_prompts, read_empty

__all__ = [
    "GivenContext",
    "OpenedPrompts",
    "PromptFiles",
    "PromptWarning",
    "gather",
    "open_context",
    "open_prompts",
    "read_context",
    "read_empty",
    "write_context",
]
