"""Where a measurement is kept: a JSON file named after what was measured, on what, with which versions, and when."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def hardware() -> str:
    """The GPU's name where PyTorch sees one, else the processor's and the number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def record(name: str, measured: dict[str, object]) -> Path:
    """Write ``measured`` with its circumstances to results/ and print it as one line, the last one, for machines."""
    today = datetime.now(UTC).date().isoformat()
    row = {
        "benchmark": name,
        "command": shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "date": today,
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("incontext", "torch", "numpy", "pillow")},
        },
        **measured,
    }
    slug = re.sub(r"[^a-z0-9]+", "-", hardware().lower()).strip("-")
    path = RESULTS / f"{name}_{slug}_torch{version('torch').split('+')[0]}_{today}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row))
    return path
