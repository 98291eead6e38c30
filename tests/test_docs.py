"""README and pages: short enough, links that lead somewhere, and no figure without its result file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import quote
import results_page
from documented import ROOT, pages

from incontext.network.registry import registry

QUOTING = [path for path in pages() if path.name != "benchmarks.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Numbers with units that nobody measured: settings and limits.
SETTINGS = {
    "docs/hints.md": {"85 %", "90 %"},  # how good an answer to clicks must be
    "docs/how-to/segment.md": {"0.5 %", "3 %"},  # of stray colours: images/smoothing.py
    "docs/how-to/train.md": {"16 MiB"},
    "docs/protocols.md": {"0.1 s", "0.3 s", "1 GB", "3 GB", "7 GB", "20 GB"},  # which it calls estimates
}
_LOOKS_MEASURED = re.compile(
    r"(?<![\w.])\.\d{2,}\b"
    r"|(?<![\w.,])\d[\d.]*\s?(?:s|ms|%|kB|MB|MiB|GB|seconds|minutes|images a second|frames a second|times as)(?!\w)"
)


def prose(markdown: str) -> str:
    """A page without blocks of code, code in lines, and what is quoted from result files."""
    text = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    spans = [(figure.start, figure.end) for figure in quote.figures(text)]
    for start, end in reversed(spans):
        text = text[:start] + text[end:]
    text = re.sub(r"^\[[^\]]+\]:.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`]*`|<img[^>]*>", "", text)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", [*pages(), *(ROOT / "docs/log").glob("*.md"), ROOT / "CONTRIBUTING.md"], ids=str)
def test_no_line_of_prose_is_long(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not re.match(r"\||\[|<img|!\[", line)]
    if page.name != "benchmarks.md":
        assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("page", QUOTING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_figure_is_that_of_its_result_file(page: Path) -> None:
    """If this fails, run `make quotes`."""
    text = page.read_text(encoding="utf-8")
    assert quote.rewritten(text, page.parent) == text


def test_the_page_of_benchmarks_is_that_of_the_result_files() -> None:
    """If this fails, run `make quotes`."""
    made = results_page.page(ROOT / "benchmarks/results")
    assert (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8") == made


@pytest.mark.parametrize("page", QUOTING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_figure_stands_there_without_its_file(page: Path) -> None:
    found = {each.strip() for each in _LOOKS_MEASURED.findall(prose(page.read_text(encoding="utf-8")))}
    assert found - SETTINGS.get(page.relative_to(ROOT).as_posix(), set()) == set()


@pytest.mark.parametrize("page", QUOTING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_figures_are_of_the_embedded_weights_or_say_otherwise(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    files = {(page.parent / figure.path).resolve() for figure in quote.figures(text)}
    weights = {results_page.weights_of(json.loads(file.read_text(encoding="utf-8"))) for file in files}
    if weights - {"", registry()["default"].sha256}:
        assert "earlier weights" in text


@pytest.mark.parametrize(
    ("like", "value", "text"),
    [
        (".123", 0.5264, ".526"),
        ("0.99 s", 0.0473, "0.05 s"),
        ("1 %", 56.8, "57 %"),
        ("1 000 images", 18_412.0, "18 412 images"),
        (".99", 1.2, "1.20"),
        ("-.23 points", -0.1, "-.10 points"),
        ("3.9 times", 4.206, "4.2 times"),
    ],
)
def test_a_figure_keeps_its_looks(like: str, value: float, text: str) -> None:
    assert quote.written(value, like) == text


def test_fields_name_one_number() -> None:
    rows = [{"row": "fp32, kept", "shots": 1, "ms": 50}, {"row": "fp32, kept", "shots": 4, "ms": 200}]
    document = {"rows": rows, "rate": {"per second": 8}}
    assert quote.look_up(document, "rows[row=fp32, kept,shots=4].ms / 1000") == 0.2
    assert quote.look_up(document, "rows[1].ms / rows[0].ms * 2") == 8
    assert quote.look_up(document, "rate.per second") == 8
    for field, problem in {
        "rows[shots=2].ms": "expected one row",
        "rows[row=fp32, kept].ms": "got 2",
        "rows[0].seconds": "expected a field seconds",
        "rows[0].row": "expected a number",
    }.items():
        with pytest.raises(ValueError, match=problem):
            quote.look_up(document, field)


def test_quoting_again_follows_the_newest_file(tmp_path: Path) -> None:
    results = tmp_path / "benchmarks/results"
    results.mkdir(parents=True)
    for name, date, extra in (("speed_a_1", "2026-01-01", {}), ("speed_b_2", "2026-01-02", {"n": 1})):
        row = {"benchmark": "speed", "date": date, "seconds": 1.25 if extra else 1.5, **extra}
        (results / f"{name}.json").write_text(json.dumps(row))
    (results / "speed_more_3.json").write_text(
        json.dumps({"benchmark": "speed_more", "date": "2026-02-01", "seconds": 9})
    )
    place = 'benchmarks/results/speed_a_1.json "seconds"'
    page = f"[1.50 s]({place}) and [1.5][x]\n\n[x]: {place}\n"
    assert quote.rewritten(page, tmp_path) == page
    newest = page.replace("speed_a_1", "speed_b_2").replace("1.50 s", "1.25 s").replace("[1.5]", "[1.2]")
    assert quote.rewritten(quote.of_newest(page, tmp_path), tmp_path) == newest
    (results / "speed_a_1.json").unlink()
    assert quote.rewritten(quote.of_newest(page, tmp_path), tmp_path) == newest, "where the file is gone, too"


def test_a_definition_without_a_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="got none for idle"):
        list(quote.figures('[idle]: benchmarks/results/a.json "b"\n'))


def test_links_of_the_readme_lead_somewhere() -> None:
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        targets = re.findall(r"\]\(([^)\s]+)|src=\"([^\"]+)\"|^\[[^\]]+\]: (\S+)", text, re.MULTILINE)
        for target in (next(filter(None, each)).partition("#")[0] for each in targets):
            assert target.startswith("https://") or (ROOT / target).exists(), target


def rows_of_licences() -> list[list[str]]:
    text = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]


def test_the_table_of_licences_adds_up() -> None:
    text = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    told = [int(each.replace(" ", "")) for each in re.findall(r"^(\d[\d ]*) images", text, re.MULTILINE)]
    parts = [part.count("\n| `") for part in text.split("\n## ")]
    assert [int(each) for each in re.findall(r"## Data: (?:the first )?(\d+)", text)] == [
        each for each in parts if each
    ]
    assert sum(told) == sum(int(row[2]) for row in rows_of_licences())
    assert all(len(row) == 5 and row[4] for row in rows_of_licences())


def test_the_table_of_licences_is_what_the_sets_say(shared: Path) -> None:
    rows = {row[0].strip("`"): row for row in rows_of_licences()}
    folders = {path.name: path for path in (shared / "data/train").iterdir()}
    assert sorted(rows) == sorted(folders)
    for name, folder in folders.items():
        about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        assert int(rows[name][2]) == len(list((folder / "images").iterdir()))
        told, said = (text.casefold().replace("-", " ") for text in (rows[name][4], about["licence"]))
        assert told == said.replace("pictures", "images")
        for source in re.findall(r"[\w.-]+/[\w.-]+", about["source"]):
            assert source in rows[name][3]
