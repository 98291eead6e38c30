"""Where a measurement is kept: a JSON file named after what was measured, on what, with which versions, and when."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

import torch

from incontext.bench import circumstances
from incontext.images.write import whole_file
from incontext.network.checkpoint import info
from incontext.network.registry import resolve

RESULTS = Path(__file__).parent / "results"


def command_line(arguments: Sequence[str]) -> str:
    """Return the command that a script was started with, of its path and its arguments."""
    return shlex.join(["python", os.path.relpath(arguments[0]), *arguments[1:]])


def weights_sha256(name: str) -> str:
    """Return the SHA-256 of the file of some weights, by their name or path."""
    return info(resolve(name)).sha256


def document(
    name: str, measured: dict[str, object], device: torch.device | str, *, weights: str | None = None
) -> dict[str, object]:
    """Return what was measured with its circumstances.

    Args:
        name: of the benchmark.
        measured: its figures.
        device: that it was measured on.
        weights: name or path of those that it is about; None where it is about none, or about random ones.
    """
    device = torch.device(device)
    known = circumstances(device)
    versions = cast("dict[str, str]", known["versions"])
    for package in ("timm", "transformers", "triton"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    if device.type == "cuda":
        versions["cuda"] = str(torch.version.cuda)
    sha256 = None if weights is None else weights_sha256(weights)
    return {"benchmark": name, "command": command_line(sys.argv), **known, "weights_sha256": sha256, **measured}


def save(row: dict[str, object], folder: Path = RESULTS) -> Path:
    """Write a document to FOLDER/NAME_HARDWARE_torchVERSION_DATE.json; the file appears whole or not at all."""
    slug = re.sub(r"[^a-z0-9]+", "-", str(row["hardware"]).lower()).strip("-")
    path = folder / f"{row['benchmark']}_{slug}_torch{torch.__version__.split('+')[0]}_{row['date']}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as stream:
        stream.write(json.dumps(row, indent=1).encode() + b"\n")
    return path


def record(name: str, measured: dict[str, object], device: torch.device | str, *, weights: str | None = None) -> Path:
    """Write a :func:`document` to results/ and print it as one line, the last one, for machines."""
    row = document(name, measured, device, weights=weights)
    path = save(row)
    print(json.dumps(row))
    return path
