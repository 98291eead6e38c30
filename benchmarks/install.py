"""What an installation takes on the disk: the package and all that it depends on, by the files that pip wrote.

python benchmarks/install.py                     what `pip install .` brings, with the PyTorch that is here
python benchmarks/install.py --extras ui,ray     and with extras
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import torch
from packaging.requirements import Requirement
from record import record


def normal(name: str) -> str:
    """Return the name by which a distribution is the same however it is written."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(name: str, extras: Iterable[str] = ()) -> dict[str, Distribution]:
    """Return a distribution and everything that it depends on here, by name. What is not installed is left out."""
    found: dict[str, Distribution] = {}
    done: set[tuple[str, str]] = set()
    waiting = [(normal(name), extra) for extra in ("", *extras)]
    while waiting:
        each = waiting.pop()
        if each in done:
            continue
        done.add(each)
        try:
            known = found.setdefault(each[0], distribution(each[0]))
        except PackageNotFoundError:
            continue
        for line in known.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": each[1]}):
                waiting += [(normal(needed.name), extra) for extra in ("", *needed.extras)]
    return found


def size(of: Distribution) -> int:
    """Return the bytes of a distribution's files."""
    paths = (of.locate_file(file) for file in of.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())  # type: ignore[attr-defined]


def main() -> None:
    """Add up, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", default="", help="with commas")
    given = parser.parse_args()
    extras = [extra for extra in given.extras.split(",") if extra]
    sizes = {name: size(each) for name, each in closure("incontext", extras).items()}
    rows = [{"package": name, "megabytes": sizes[name] / 1e6} for name in sorted(sizes, key=lambda name: -sizes[name])]
    measured: dict[str, object] = {
        "torch_cuda": torch.version.cuda,
        "packages": len(sizes),
        "megabytes": sum(sizes.values()) / 1e6,
        "rows": rows[:20],
    }
    kind = "install" if torch.version.cuda else "install_cpu"
    record("_".join([kind, *extras]), measured, "cpu")


if __name__ == "__main__":
    main()
