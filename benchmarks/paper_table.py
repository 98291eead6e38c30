"""The table of the SegGPT paper beside what these weights reach: every benchmark whose data is there, in one go.

python benchmarks/paper_table.py DATA/ -o TABLE/ --weights seggpt-vit-large
python benchmarks/paper_table.py DATA/ -o TABLE/ --only coco-20i,davis-2017 --limit 20
python benchmarks/paper_table.py DATA/ -o TABLE/ --dry-run

For a night on a GPU. DATA holds the unpacked archives (docs/protocols.md), anywhere below; what is not there is left
out, and the table says which file was looked for. Before anything starts, each benchmark's time and memory on this
machine are measured and printed. What was stopped goes on where it was. The table, as Markdown and JSON, is written
anew after each benchmark. With several machines give each its own --only and one OUT that all of them see.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from incontext.evaluation.protocols.benchmarks import BENCHMARKS
from incontext.evaluation.protocols.published import published
from incontext.images.write import whole_file

PAPER = ("coco-20i", "pascal-5i", "fss-1000", "davis-2017", "youtube-vos", "mose", "ade20k", "coco-panoptic")
SYSTEM = "SegGPT"
ASKED = {"davis-2017": ("--memory", "8"), "youtube-vos": ("--memory", "8"), "mose": ("--memory", "8")}  # as the paper


@dataclass(frozen=True)
class Row:
    """A figure of the paper, and ours: percent, None where it was not measured, and why not."""

    benchmark: str
    figure: str
    paper: float | None
    ours: float | None
    remark: str = ""


def command(name: str, given: argparse.Namespace) -> list[str]:
    """Return the command that measures a benchmark."""
    limit = () if given.limit is None else ("--limit", str(given.limit))
    places = (str(given.data), "-o", str(given.out / name))
    own = ("--weights", given.weights, "--device", given.device, *ASKED.get(name, ()), *limit)
    return [sys.executable, "-m", "incontext", "evaluate", "protocol", name, *places, *own]


def rows(name: str, out: Path, problem: str) -> list[Row]:
    """Return a benchmark's figures: those of the paper, and those that its report holds.

    Args:
        name: of the benchmark.
        out: the folder of its report.
        problem: why there is none.
    """
    theirs = {each.figure: each for each in published(name) if each.system == SYSTEM}
    report = out / "report.json"
    measured = json.loads(report.read_text())["figures"] if report.is_file() and not problem else []
    ours = {each["name"]: 100 * float(each["value"]) for each in measured}
    made = []
    for figure in dict.fromkeys([*theirs, *ours]):
        known = theirs.get(figure)
        remark = problem or (known.remark if known else "")
        made.append(Row(name, figure, known.value if known else None, ours.get(figure), remark))
    return made


def to_markdown(table: Iterable[Row]) -> str:
    """Return the table for people."""

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    head = "| benchmark | figure | paper | here | remark |\n|---|---|---|---|---|\n"
    cells = (
        (BENCHMARKS[row.benchmark].title, row.figure, shown(row.paper), shown(row.ours), row.remark) for row in table
    )
    return head + "".join(f"| {' | '.join(each)} |\n" for each in cells)


def write(table: Sequence[Row], out: Path) -> None:
    """Write table.md and table.json, whole or not at all."""
    for name, content in (("table.md", to_markdown(table)), ("table.json", json.dumps([vars(row) for row in table]))):
        with whole_file(out / name) as stream:
            stream.write(content.encode())


def foreseen(names: Sequence[str], given: argparse.Namespace) -> dict[str, str]:
    """Print what each benchmark will take, and return why some cannot be measured."""
    problems = {}
    for name in names:
        run = subprocess.run([*command(name, given), "--dry-run"], capture_output=True, text=True, check=False)
        if run.returncode:
            said = (run.stderr.strip().splitlines() or ["it ended without a word"])[-1].removeprefix("Error: ")
            problems[name] = said
        print(run.stdout.strip() if not run.returncode else f"{BENCHMARKS[name].title}: left out. {said}", flush=True)
    return problems


def main() -> int:
    """Estimate, measure, print the table; 1 where a benchmark failed on its way, 2 where there is no data at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with the unpacked archives, at any depth")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder of reports, and of the table")
    parser.add_argument("--weights", default="seggpt-vit-large", help="a name or a file")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", default=",".join(PAPER), help="some of %(default)s")
    parser.add_argument("--limit", type=int, help="at most so many episodes, images or frames, for a rehearsal")
    parser.add_argument("--dry-run", action="store_true", help="only say what it will take")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := sorted(set(names) - set(PAPER)):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(PAPER)}")
    given.out.mkdir(parents=True, exist_ok=True)
    problems = foreseen(names, given)
    if given.dry_run or len(problems) == len(names):
        return 2 if len(problems) == len(names) else 0
    failed = []
    for name in names:
        if name not in problems and subprocess.run(command(name, given), check=False).returncode:
            failed.append(name)
            problems[name] = "stopped before its end; the same command goes on"
        write([row for each in names for row in rows(each, given.out / each, problems.get(each, ""))], given.out)
    print((given.out / "table.md").read_text())
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
