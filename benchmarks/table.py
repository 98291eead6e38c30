"""The ladder's findings as Markdown, one table for each number of shots.

python benchmarks/table.py benchmarks/results/ladder_large_....json --shots 1,8
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

COLUMNS = (
    "row",
    "batch",
    "ms",
    "±",
    "images/s",
    "× transformers",
    "× its bf16",
    "peak MB",
    "error",
    "TFLOP/s",
    "share",
)


def to_markdown(findings: Mapping[str, Any], shots: Iterable[int] | None = None) -> str:
    """A document of the ladder -> tables, what was left out, and the folder job. shots: of those alone."""
    every = sorted({row["shots"] for row in findings["rows"]})
    parts = [_head(findings)]
    for count in every if shots is None else shots:
        rows = [row for row in findings["rows"] if row["shots"] == count]
        parts.append(f"{count} {'shot' if count == 1 else 'shots'}\n\n{_table([row for row in rows if 'ms' in row])}")
        if left_out := [row for row in rows if "left_out" in row]:
            lines = (f"- {row['row']}, batch {row['batch']}: {row['left_out']}" for row in left_out)
            parts.append("Left out:\n\n" + "\n".join(lines))
    folder = findings.get("folder")
    if folder and "left_out" in folder:
        parts.append(f"No folder: {folder['left_out']}")
    elif folder:
        parts.append(
            f"Folder of {folder['images']} JPEGs, one shot, {folder['dtype']}, batch {folder['batch']}: "
            f"{folder['images_per_second']:.2f} images/s from file to file, {100 * folder['share']:.0f} % of the "
            f"network's {folder['network_images_per_second']:.2f}"
        )
    return "\n\n".join(parts)


def _head(findings: Mapping[str, Any]) -> str:
    versions = findings["versions"]
    rates = ", ".join(f"{rate:.3g} TFLOP/s in {name}" for name, rate in findings["matrix_tflops"].items())
    what = f"{findings['model']} model at {findings['side']} pixels"
    where = f"{findings['hardware']}, {findings['threads']} threads"
    software = f"PyTorch {versions['torch']}, transformers {versions.get('transformers', 'none')}"
    return f"{what}; {where}; {software}; {findings['date']}; a large matrix product: {rates}"


def _table(rows: list[dict[str, Any]]) -> str:
    shown = [_cells(row) for row in rows]
    kept = [
        i for i in range(len(COLUMNS)) if any(cells[i] for cells in shown)
    ]  # a column that says nothing is left out
    lines = [[COLUMNS[i] for i in kept], ["---" if i == 0 else "---:" for i in kept]]
    lines += [[cells[i] for i in kept] for cells in shown]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """In the order of COLUMNS."""

    def shown(name: str, pattern: str) -> str:
        value = row.get(name)
        return "" if value is None else pattern.format(value)

    share = row.get("share_of_matrix_rate")
    return (
        row["row"],
        str(row["batch"]),
        f"{row['ms']:.4g}",
        shown("spread_ms", "{:.2g}") if row["calls"] > 1 else "one call",
        f"{row['images_per_second']:.4g}",
        shown("times_transformers_fp32", "{:.2f}"),
        shown("times_transformers_bf16", "{:.2f}"),
        shown("peak_mb", "{:.0f}"),
        shown("relative_error", "{:.1e}"),
        shown("tflops", "{:.3g}"),
        "" if share is None else f"{100 * share:.0f} %",
    )


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="a JSON file of the ladder")
    parser.add_argument("--shots", help="with commas; default: all")
    given = parser.parse_args()
    shots = None if given.shots is None else [int(part) for part in given.shots.split(",")]
    print(to_markdown(json.loads(given.result.read_text()), shots))


if __name__ == "__main__":
    main()
