"""Where a measurement is kept: a JSON file named after what was measured, on what, with which versions, and when."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

import torch

from incontext.bench import circumstances
from incontext.images.masks import whole_file

RESULTS = Path(__file__).parent / "results"


def document(name: str, measured: dict[str, object], device: torch.device | str) -> dict[str, object]:
    """``measured`` with its circumstances. device: that it was measured on."""
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
    command = shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    return {"benchmark": name, "command": command, **known, **measured}


def save(row: dict[str, object], folder: Path = RESULTS) -> Path:
    """Write a document to FOLDER/NAME_HARDWARE_torchVERSION_DATE.json; the file appears whole or not at all."""
    slug = re.sub(r"[^a-z0-9]+", "-", str(row["hardware"]).lower()).strip("-")
    path = folder / f"{row['benchmark']}_{slug}_torch{torch.__version__.split('+')[0]}_{row['date']}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as stream:
        stream.write(json.dumps(row, indent=1).encode() + b"\n")
    return path


def record(name: str, measured: dict[str, object], device: torch.device | str) -> Path:
    """Write ``measured`` with its circumstances to results/ and print it as one line, the last one, for machines."""
    row = document(name, measured, device)
    path = save(row)
    print(json.dumps(row))
    return path
