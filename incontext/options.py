"""The options that users choose, declared once: their words and what these may be.

Refuses to know PyTorch, so that help costs no import of it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

Task: TypeAlias = Literal["instance", "semantic"]
"""Whether ids are objects or kinds of things: which type token is added."""
