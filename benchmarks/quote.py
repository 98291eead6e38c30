"""Figures in Markdown that say which result file they come from, and are rewritten from it.

A figure is the text of a link to a file of benchmarks/results/ whose title names the field:

    an image takes [0.047 s](benchmarks/results/latency_....json "rows[shots=1].milliseconds / 1000")
    or [0.047 s][latency], with the same as a definition:  [latency]: benchmarks/results/latency_....json "..."

Shown is the number with as many decimals as it has in the text; the unit stays. A field is a path of names; of a list,
`[name=value,...]` takes the only row with these values and `[0]` a place. ` * 100` and ` / 1000` scale it, ` / PATH`
divides it by another field of the file.

python benchmarks/quote.py             rewrite the README, the pages of docs/ and docs/benchmarks.md
python benchmarks/quote.py --newest    and take each figure from the newest file of its benchmark that has the field
"""

from __future__ import annotations

import argparse
import json
import operator
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import results_page

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "benchmarks/results/"

_TITLE = r'(?P<path>[^\s()]*benchmarks/results/[^\s()]+\.json)[ \t]+"(?P<field>[^"]+)"'
_INLINE = re.compile(rf"\[(?P<text>[^\[\]]+)\]\({_TITLE}\)")
_DEFINITION = re.compile(rf"^\[(?P<label>[^\[\]]+)\]:[ \t]+{_TITLE}[ \t]*$", re.MULTILINE)
_REFERENCE = re.compile(r"\[(?P<text>[^\[\]]+)\]\[(?P<label>[^\[\]]+)\]")
_NUMBER = re.compile(r"-?(?:\d[\d\u202f ]*\d|\d)?(?:\.\d+)?(?=\D|$)")
_SELECTOR = re.compile(r"(?P<name>[^.\[\]]+)|\[(?P<rows>[^\[\]]+)\]")
_SCALING: dict[str, Callable[[float, float], float]] = {"*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True)
class Figure:
    """A figure of a page: its text, where the text begins and ends, and where its number is to be found."""

    text: str
    start: int
    end: int
    path: str  # of the result file, as the page links to it
    field: str


def figures(markdown: str) -> Iterator[Figure]:
    """Yield the figures of a page in their order.

    Raises:
        ValueError: a figure with a label has no definition, or a definition no figure.
    """
    defined = {found["label"]: found for found in _DEFINITION.finditer(markdown)}
    used, every = set(), []
    for found in _REFERENCE.finditer(markdown):
        if found["label"] in defined:
            used.add(found["label"])
            place = defined[found["label"]]
            every.append(Figure(found["text"], *found.span("text"), place["path"], place["field"]))
    if idle := sorted(set(defined) - used):
        raise ValueError(f"expected every definition of a figure to be used, got none for {', '.join(idle)}")
    every += [Figure(f["text"], *f.span("text"), f["path"], f["field"]) for f in _INLINE.finditer(markdown)]
    yield from sorted(every, key=lambda figure: figure.start)


def look_up(document: object, field: str) -> float:
    """Return the number that a field names.

    Raises:
        ValueError: there is none, or more than one row fits.
    """
    first, *others = re.split(r" ([*/]) ", field)
    value = _at(document, first)
    for sign, operand in zip(others[::2], others[1::2], strict=True):
        known = float(operand) if re.fullmatch(r"[\d.e+-]+", operand) else _at(document, operand)
        value = _SCALING[sign](value, known)
    return value


def _at(document: object, path: str) -> float:
    value: Any = document
    for step in _SELECTOR.finditer(path):
        if step["name"]:
            if not isinstance(value, Mapping) or step["name"] not in value:
                known = ", ".join(value) if isinstance(value, Mapping) else type(value).__name__
                raise ValueError(f"expected a field {step['name']} of {path}, got only {known}")
            value = value[step["name"]]
        else:
            value = _row(value, step["rows"], path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number at {path}, got {value!r:.80}")
    return value


def _row(rows: Any, wanted: str, path: str) -> Any:
    if wanted.isdecimal():
        return rows[int(wanted)]
    pairs = [pair.split("=", 1) for pair in re.split(r",(?=\w+=)", wanted)]
    fitting = [row for row in rows if all(str(row.get(name)) == value for name, value in pairs)]
    if len(fitting) != 1:
        raise ValueError(f"expected one row with {wanted} at {path}, got {len(fitting)}")
    return fitting[0]


def written(value: float, like: str) -> str:
    """Return the text of a figure with another value: as many decimals, the same unit, no zero before a point as there.

    Raises:
        ValueError: the text has no number.
    """
    number = next((found for found in _NUMBER.finditer(like) if any(map(str.isdigit, found[0]))), None)
    if number is None:
        raise ValueError(f"expected a number in the text of a figure, got {like!r}")
    decimals = len(number[0].partition(".")[2])
    shown = f"{value:,.{decimals}f}".replace(",", " ")
    if number[0].lstrip("-").startswith("."):
        shown = shown.replace("0.", ".", 1) if abs(value) < 1 else shown
    return like[: number.start()] + shown + like[number.end() :]


def rewritten(markdown: str, folder: Path) -> str:
    """Return a page with every figure as its result file has it. folder: from which its links go out."""
    parts, last = [], 0
    for figure in figures(markdown):
        document = _read(folder / figure.path)
        parts += [markdown[last : figure.start], written(look_up(document, figure.field), figure.text)]
        last = figure.end
    return "".join([*parts, markdown[last:]])


def of_newest(markdown: str, folder: Path) -> str:
    """Return a page with every link to a result file changed to a file of a later day that has the same figure.

    Of the files of one benchmark and one day the longest is taken, and any for a file that is not there any more.
    """
    changed: dict[str, str] = {}
    for figure in figures(markdown):
        path = folder / figure.path
        best = ("", 0, path.name)
        if path.is_file():
            best = (_date(path), path.stat().st_size, path.name)
        for other in _same_benchmark(path):
            if _date(other) > best[0] or (_date(other) == best[0] and not path.is_file()):
                with suppress(ValueError):
                    look_up(_read(other), figure.field)
                    best = max(best, (_date(other), other.stat().st_size, other.name))
        changed[f'{path.name} "{figure.field}"'] = f'{best[2]} "{figure.field}"'
    for old, new in changed.items():
        markdown = markdown.replace(old, new)
    return markdown


def _same_benchmark(path: Path) -> list[Path]:
    """The other files of the benchmark that a file's name begins with."""
    names = {other: str(_read(other)["benchmark"]) for other in path.parent.glob("*.json")}
    own = max((name for name in names.values() if path.name.startswith(f"{name}_")), key=len, default=None)
    return [other for other, name in names.items() if name == own and other != path]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _date(path: Path) -> str:
    return str(_read(path)["date"])


def pages(root: Path = ROOT) -> list[Path]:
    """Return the Markdown files that may quote figures."""
    return [root / "README.md", root / "weights/README.md", *sorted((root / "docs").rglob("*.md"))]


def requote(*, newest: bool = False) -> list[Path]:
    """Write every page with the figures that its result files have, and docs/benchmarks.md; return what changed.

    Args:
        newest: Take each figure from the newest file of its benchmark that has it.
    """
    made: dict[Path, str] = {}
    for path in pages():
        text = path.read_text(encoding="utf-8")
        made[path] = rewritten(of_newest(text, path.parent) if newest else text, path.parent)
    made[ROOT / "docs/benchmarks.md"] = results_page.page(ROOT / RESULTS)
    changed = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(made[path], encoding="utf-8")
    return changed


def main() -> int:
    """Rewrite, and say what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--newest", action="store_true", help="from the newest files")
    parser.add_argument("--check", action="store_true", help="exit with 1 where something was rewritten")
    given = parser.parse_args()
    changed = requote(newest=given.newest)
    for path in changed:
        print(f"rewrote {path.relative_to(ROOT)}")
    return int(given.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
