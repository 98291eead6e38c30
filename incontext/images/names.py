"""The order that people expect of files' names. Refuses to know what is inside of files."""

import re
from pathlib import Path


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """Make a key to sort by that puts 2 before 10."""
    parts = re.split(r"(\d+)", path.as_posix().casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.as_posix()
