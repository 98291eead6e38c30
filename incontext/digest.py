"""Digests by which arrays are known again, in another run or on another machine. Refuses to know what they mean."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt


def digest(*parts: npt.NDArray[Any] | str | None) -> str:
    """Make a SHA-256 of arrays with their types and shapes, of texts, and of what is absent: 64 hexadecimal digits."""
    made = hashlib.sha256()
    for part in parts:
        if part is None:
            made.update(b"none")
        elif isinstance(part, str):
            made.update(part.encode("utf-8", "surrogateescape"))
        else:
            made.update(f"{part.dtype.str}{part.shape}".encode())
            made.update(np.ascontiguousarray(part).data)
    return made.hexdigest()
