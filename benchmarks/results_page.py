"""docs/benchmarks.md, made from the files of benchmarks/results/: the newest of each kind as tables, and a list of all.

`python benchmarks/quote.py` writes it. A kind without a table of its own here is shown by its plain numbers, so that a
new benchmark needs no change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import table

Document = Mapping[str, Any]
ABOVE = "../benchmarks/results/"  # from docs/
INTRODUCTION = """\
# Benchmarks

This page is made from the files of `benchmarks/results/` by `make quotes`; a test compares the two. Each file is named
after hardware, versions and date, and holds the command that made it and the SHA-256 of the weights that were measured.
Shown are the newest files of each kind. What a number meant for a decision is in the [log](log/index.md).
"""


@dataclass(frozen=True)
class Kind:
    """How files of a kind are shown: those whose name is `prefix` or begins with it, and that have the fields."""

    prefix: str
    title: str
    said: str
    fields: tuple[str, ...]
    tables: Callable[[Document], Iterable[str]]

    def includes(self, document: Document) -> bool:
        """Whether a document is of this kind."""
        name: str = document["benchmark"]
        return name == self.prefix or name.startswith(f"{self.prefix}_")

    def show(self, document: Document) -> Iterable[str]:
        """Return the tables of a document: those of its kind, or plain ones where it lacks their fields."""
        return (self.tables if all(field in document for field in self.fields) else _plain)(document)


def page(folder: Path) -> str:
    """Return the page for the result files of a folder."""
    every = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    return "\n".join(f"{part.rstrip()}\n" for part in (INTRODUCTION, *_sections(every), _list(every)))


def _sections(every: Mapping[str, Document]) -> Iterator[str]:
    """Of each kind the files of its last day, and of those of one benchmark the longest."""
    left = dict(every)
    for kind in KINDS:
        of_kind = {name: left.pop(name) for name in list(left) if kind.includes(left[name])}
        last = max((document["date"] for document in of_kind.values()), default="")
        shown = _longest({name: document for name, document in of_kind.items() if document["date"] == last})
        for name, document in shown.items():
            title = kind.title if len(shown) == 1 else f"{kind.title}: `{document['benchmark']}`"
            yield _section(title, kind.said, name, document, kind.show(document))
    for name, document in _longest(left).items():
        yield _section(f"`{document['benchmark']}`", "", name, document, _plain(document))


def _longest(documents: Mapping[str, Document]) -> dict[str, Document]:
    """The last, and of several of one day the longest document of each benchmark, by its file."""
    chosen: dict[str, str] = {}
    for name in sorted(documents, key=lambda name: (documents[name]["date"], len(json.dumps(documents[name])), name)):
        chosen[documents[name]["benchmark"]] = name
    return {name: documents[name] for _, name in sorted(chosen.items())}


def _section(title: str, said: str, name: str, document: Document, tables: Iterable[str]) -> str:
    where = f"{document['hardware']}, PyTorch {document['versions']['torch']}"
    facts = [f"[`{document['benchmark']}`]({ABOVE}{name})", where, document["date"]]
    facts += [f"weights `{weights[:8]}`"] if (weights := weights_of(document)) else []
    parts = [f"## {title}", said, "; ".join(facts) + ".", *(each.strip() for each in tables)]
    return "\n\n".join(part for part in parts if part)


def _list(every: Mapping[str, Document]) -> str:
    ordered = sorted(every.items(), key=lambda each: (each[1]["benchmark"], each[1]["date"], each[0]))
    rows = [
        (f"[`{row['benchmark']}`]({ABOVE}{name})", row["date"], row["hardware"], weights_of(row)[:8])
        for name, row in ordered
    ]
    return f"## All result files\n\n{_table(('file', 'date', 'hardware', 'weights'), rows)}"


def weights_of(document: Document) -> str:
    """The SHA-256 of the weights that were measured, or nothing where the file does not say."""
    for place in (document, document.get("about"), document.get("settings"), *document.get("scores", ())):
        if isinstance(place, Mapping) and (found := place.get("weights_sha256") or place.get("sha256")):
            return str(found)
    return ""


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *([_shown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _shown(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.3f}" if abs(cell) < 10 else f"{cell:,.1f}".replace(",", " ")
    return "" if cell is None else str(cell)


def _accuracy(document: Document) -> Iterator[str]:
    """Mean IoU of every set; of the model's columns what is lost and what comes out empty."""
    columns = document["columns"]
    heads = [f"{column['method']}, {column['shots']}" for column in columns]
    rows: list[list[object]] = [
        [each["name"].replace("_", " "), *(column["sets"][place]["mean_iou"] for column in columns)]
        for place, each in enumerate(columns[0]["sets"])
    ]
    rows.append(["**mean**", *(column["mean_iou"] for column in columns)])
    yield f"Mean IoU by method and number of examples:\n\n{_table(('set', *heads), rows)}"
    judged = [column for column in columns if not column["baseline"]]
    rows = [
        [
            f"{column['method']}, {column['shots']}",
            column["mean_iou"],
            " to ".join(_shown(end) for end in column["mean_iou_interval"]),
            column["lost"],
            (column.get("absence") or {}).get("empty"),
            (column.get("confidence") or {}).get("calibration_error"),
        ]
        for column in judged
    ]
    head = ("method", "mean IoU", "95 % interval", "lost", "empty if absent", "calibration error")
    yield f"Lost: the share of things that are there and of which nothing is found.\n\n{_table(head, rows)}"


def _video(document: Document) -> Iterator[str]:
    columns = document["columns"]
    rows = [
        [column["method"], column["j"]["mean"], column["f"]["mean"], column["frames_per_second"]] for column in columns
    ]
    yield _table(("method", "J", "F", "frames a second"), rows)
    clips = [
        [each["name"], *(column["clips"][place]["j"] for column in columns)]
        for place, each in enumerate(columns[0]["clips"])
    ]
    yield f"J of each sequence:\n\n{_table(('sequence', *(column['method'] for column in columns)), clips)}"


def _ladder(document: Document) -> Iterator[str]:
    measured = [row for row in document["rows"] if "ms" in row]
    yield table.to_markdown({**document, "rows": measured})


def _latency(document: Document) -> Iterator[str]:
    head = ("examples", "s an image", "example not prepared, s", "preparing, s", "peak MB")
    rows = [
        [
            row["shots"],
            row["milliseconds"] / 1000,
            row["unprepared_milliseconds"] / 1000,
            row["prepare_milliseconds"] / 1000,
            row["peak_megabytes"],
        ]
        for row in document["rows"]
    ]
    yield _table(head, rows)


def _tuning(document: Document) -> Iterator[str]:
    rows = []
    for each in document["sets"]:
        single = next(row["mean_iou"] for row in each["untuned"] if row["images"] == 1)
        untuned, tuned = each["untuned"][-1], each["tuned"][-1]
        rows.append([each["set"], single, untuned["mean_iou"], tuned["mean_iou"], tuned["images"], tuned["minutes"]])
    head = ("set", "best single example", "all averaged", "prompt tensor", "labelled", "minutes")
    yield _table(head, rows)


def _edges(document: Document) -> Iterator[str]:
    edges = document["edges"]
    rows = [[name, *each["mean"], each["seconds"]] for name, each in edges.items()]
    yield _table(("edges", "IoU", "F", "F within a pixel", "seconds"), rows)
    mosaics = [[name, each["mean"], each["seconds"]] for name, each in document["mosaics"].items()]
    yield f"Mosaics of 3 x 3 images, seen whole or in windows:\n\n{_table(('how', 'IoU', 'seconds'), mosaics)}"


def _heldout(document: Document) -> Iterator[str]:
    for score in document["scores"]:
        rows = [[row["bar"], row["mean_iou"], row["lost"], row["absent_empty"]] for row in score["by_bar"]]
        said = f"Presence, area under the curve: {_shown(score['presence_auc'])}. By its bar:"
        yield f"{said}\n\n{_table(('bar', 'mean IoU', 'lost', 'empty if absent'), rows)}"


def _revealed(document: Document) -> Iterator[str]:
    heads = [f"{count} revealed" for count in document["revealed_patches"]]
    rows = [[name.replace("_", " "), *values] for name, values in document["sets"].items()]
    yield _table(("set", *heads), [*rows, ["**mean**", *document["mean_iou"]]])


def _plain(document: Document) -> Iterator[str]:
    """Whatever numbers there are: single ones by their names, lists of rows as tables."""
    known = {"benchmark", "command", "date", "hardware", "threads", "versions", "about", "recipe", "segmenter", "model"}
    single: list[tuple[str, object]] = []
    for name, value in _leaves({key: value for key, value in document.items() if key not in known}):
        if isinstance(value, list):
            heads = [key for key in value[0] if all(isinstance(row.get(key), int | float | str) for row in value)]
            title = f"{name.replace('_', ' ').replace('.', ', ')}:\n\n"
            yield title + _table(heads, [[row[key] for key in heads] for row in value])
        else:
            single.append((name.replace("_", " ").replace(".", ", "), value))
    if single:
        yield _table(("", "value"), single)


def _leaves(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, object]]:
    for name, value in document.items():
        is_table = isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value)
        if isinstance(value, Mapping):
            yield from () if name == "segmenter" else _leaves(value, f"{above}{name}.")
        elif is_table or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield above + name, value


KINDS = (  # in the order of the page
    Kind(
        "accuracy", "Accuracy: fixed episodes of eleven test sets", "Scored at 224 x 224 pixels.",
        ("columns", "side"), _accuracy,
    ),
    Kind(
        "hints", "Revealed patches",
        "Mean IoU by how many patches of the query's own mask are shown, each where most is wrong.",
        ("revealed_patches", "sets", "mean_iou"), _revealed,
    ),
    Kind(
        "heldout", "Held-out training images", "What is lost and what is left empty, by the bar of presence.",
        ("scores",), _heldout,
    ),
    Kind(
        "video", "Videos", "From the mask of the first frame; J and F as DAVIS defines them.", ("columns",), _video,
    ),
    Kind("refine", "Large images and edges", "One example, of the test sets.", ("edges", "mosaics"), _edges),
    Kind(
        "tune", "Prompt tensors", "Mean IoU of the images that were not labelled, by the most labelled images.",
        ("sets", "settings"), _tuning,
    ),
    Kind("latency", "Seconds an image", "`incontext bench` on an image of 640 x 480 in memory.", ("rows",), _latency),
    Kind(
        "ladder_large", "Speed of the published network", "Random weights at 448 pixels, a query at a time.",
        ("rows", "matrix_tflops"), _ladder,
    ),
    Kind(
        "ladder_default", "Speed of the embedded weights' network", "Each technique by itself.",
        ("rows", "matrix_tflops"), _ladder,
    ),
    Kind("folder", "Folder jobs", "", (), _plain),
    Kind("scale", "What an image costs, step by step", "", (), _plain),
    Kind("ui", "The page in the browser", "", (), _plain),
    Kind("long_video", "A long video", "", (), _plain),
    Kind("ablations", "Ablations", "", (), _plain),
)  # fmt: skip
