"""A run's state as several files of a bounded size, for places that take only so much at a time.

A folder holds the slices of one state and ``index.json``, which names them with their SHA-256 and appears last: a
writer that is killed leaves the state before. Refuses to know what is in a state.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from incontext.images.write import whole_file

MIB = 2**20


@dataclass(frozen=True)
class Slices:
    """How large the files of a state may be."""

    mib: int = 16  # of each file
    total_mib: int = 60  # of all together

    def __post_init__(self) -> None:
        if not 0 < self.mib <= self.total_mib:
            raise ValueError(f"expected slices of 1 to {self.total_mib} MiB, all of them together, got {self.mib}")


def pack(state: Mapping[str, Any]) -> bytes:
    """Pack a state as bytes, its floating tensors rounded to bfloat16; single numbers, such as steps, are kept."""
    stream = io.BytesIO()
    torch.save(_rounded(state), stream)
    return stream.getvalue()


def unpack(packed: bytes) -> dict[str, Any]:
    """Unpack what :func:`pack` made, on the CPU; rounded tensors stay in bfloat16. Nothing in it can run."""
    state: dict[str, Any] = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    return state


def write_slices(folder: Path, packed: bytes, step: int, slices: Slices) -> None:
    """Write a packed state in place of the one that ``folder`` holds.

    Raises:
        ValueError: it is larger than all slices together may be.
    """
    if len(packed) > slices.total_mib * MIB:
        raise ValueError(
            f"expected a state of at most {slices.total_mib} MiB, got {-(-len(packed) // MIB)}; allow more, or save "
            "the state whole"
        )
    folder.mkdir(parents=True, exist_ok=True)
    old = set(folder.glob("step_*.bin"))
    rows = []
    for number, start in enumerate(range(0, len(packed), slices.mib * MIB)):
        part = packed[start : start + slices.mib * MIB]
        digest = hashlib.sha256(part).hexdigest()
        path = folder / f"step_{step:07d}_{number:02d}_{digest[:8]}.bin"  # never over a slice that the index names
        with whole_file(path) as stream:
            stream.write(part)
        rows.append({"file": path.name, "bytes": len(part), "sha256": digest})
        old.discard(path)
    with whole_file(folder / "index.json") as stream:
        stream.write(json.dumps({"step": step, "slices": rows}, indent=2).encode() + b"\n")
    for path in old:
        path.unlink()


def read_slices(folder: Path) -> bytes:
    """Read the packed state of a folder.

    Raises:
        FileNotFoundError: there is no index, or a slice that it names is missing.
        ValueError: a slice is not the one that the index names.
    """
    packed = io.BytesIO()
    for row in json.loads((folder / "index.json").read_text(encoding="utf-8"))["slices"]:
        part = (folder / row["file"]).read_bytes()
        if hashlib.sha256(part).hexdigest() != row["sha256"]:
            raise ValueError(f"{folder / row['file']} is not the file that index.json names; copy the folder again")
        packed.write(part)
    return packed.getvalue()


def _rounded(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        whole = value.detach().cpu()
        return whole.to(torch.bfloat16) if whole.is_floating_point() and whole.ndim else whole
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value
