"""The shape of the package: who imports whom, what is public, which words are used, what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import incontext

PACKAGE = Path(incontext.__file__).parent

# Lowest first. A module imports from lower rows only; modules of one row do not know each other. `__init__` is what
# the outside sees, so only the programs above it may use it.
LEVELS: list[set[str]] = [
    {"dataset", "dicom", "gate", "polygons", "refine", "rle", "smoothing", "version", "views"},
    {"light", "pictures"},
    {"formats"},
    {"types"},
    {"annotations", "attention", "devices", "presence", "tiles"},
    {"model", "votes"},
    {"layouts", "prompt_tensor"},
    {"canvas", "checkpoint", "memory"},
    {"answers", "context", "losses"},
    {"engine"},
    {"tuning", "video"},
    {"folder", "training", "evaluation"},
    {"__init__"},
    {"bench", "demo", "progress", "ui"},
    {"cli"},
    {"__main__"},
]

# What a module refuses to know.
REFUSES: dict[str, set[str]] = {
    "gate": {"PIL", "numpy", "torch", "torchvision", "timm"},
    "smoothing": {"PIL", "torch", "torchvision", "timm", "os", "pathlib"},
    "rle": {"PIL", "torch", "torchvision", "timm", "os", "pathlib"},
    "polygons": {"PIL", "torch", "torchvision", "timm", "os", "pathlib"},
    "annotations": {"torch", "torchvision", "timm"},
    "dataset": {"PIL", "numpy", "torch", "torchvision", "timm"},
    "dicom": {"PIL", "torch", "torchvision", "timm", "os", "pathlib"},
    "refine": {"PIL", "numpy", "os", "pathlib"},
    "votes": {"os", "pathlib"},
    "answers": {"PIL", "os", "pathlib"},
    "devices": {"PIL", "numpy", "os", "pathlib"},
    "tiles": {"PIL", "torch", "torchvision", "timm", "os", "pathlib"},
    "pictures": {"torch", "torchvision", "timm"},
    "formats": {"torch", "torchvision", "timm"},
    "types": {"torch", "torchvision", "timm"},
    "attention": {"PIL", "numpy", "os", "pathlib"},
    "model": {"PIL", "numpy", "os", "pathlib"},
    "presence": {"PIL", "numpy", "os", "pathlib"},
    "layouts": {"PIL", "numpy"},
    "checkpoint": {"PIL", "numpy"},
    "memory": {"PIL", "numpy", "psutil", "os"},
    "prompt_tensor": {"PIL", "torch", "torchvision", "timm"},
    "context": {"PIL", "torch", "os", "pathlib"},
    "light": {"PIL", "os", "pathlib"},
    "views": {"torch", "torchvision", "timm", "os", "pathlib"},
    "losses": {"PIL", "numpy", "os", "pathlib"},
}

# Words that the vocabulary replaces, as they would occur in identifiers.
REFUSED_WORDS = {"exemplar", "exemplars", "lut", "segtype", "colormap", "labelmap"}
REFUSED_PHRASES = (
    "bool_masked_pos",
    "color_map",
    "colour_map",
    "label_map",
    "seg_type",
    "soft_prompt",
    "support_image",
    "support_mask",
    "tmp_id",
)


def component(path: Path, package: Path) -> str:
    """The row of LEVELS that a file belongs to: its own name, or that of its folder."""
    return path.relative_to(package).with_suffix("").parts[0]


def imported(tree: ast.AST, package: Path) -> Iterator[tuple[int, str, str]]:
    """Every import of a file, wherever it stands: (line, "inside" or "outside" the package, component or library)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "inside", "(relative)"
        elif isinstance(node, ast.ImportFrom) and node.module == package.name:
            for alias in node.names:
                is_module = (package / f"{alias.name}.py").is_file() or (package / alias.name).is_dir()
                yield node.lineno, "inside", alias.name if is_module else "__init__"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for head, _, rest in (name.partition(".") for name in names):
                inside = head == package.name
                yield (
                    node.lineno,
                    "inside" if inside else "outside",
                    (rest.split(".")[0] or "__init__") if inside else head,
                )


def import_problems(package: Path) -> list[str]:
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    problems = []
    for path in sorted(package.rglob("*.py")):
        name = component(path, package)
        where = path.relative_to(package.parent)
        if name not in level:
            problems.append(f"{where} is not listed in LEVELS")
            continue
        for line, side, what in imported(ast.parse(path.read_text(encoding="utf-8")), package):
            if side == "inside" and what == "(relative)":
                problems.append(f"{where}:{line} imports relatively")
            elif side == "inside" and what != name and level.get(what, len(LEVELS)) >= level[name]:
                problems.append(f"{where}:{line} imports {what}, which is not below {name}")
            elif side == "outside" and what in REFUSES.get(name, set()):
                problems.append(f"{where}:{line} imports {what}, which {name} refuses to know")
            elif side == "outside" and what == "importlib" and name != "__init__":
                problems.append(f"{where}:{line} imports by a computed name")
    return problems


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield getattr(node, "lineno", 0), value


def vocabulary_problems(package: Path) -> list[str]:
    problems = []
    for path in sorted(package.rglob("*.py")):
        for line, name in identifiers(ast.parse(path.read_text(encoding="utf-8"))):
            plain = name.lower()
            if REFUSED_WORDS & set(plain.split("_")) or any(phrase in plain for phrase in REFUSED_PHRASES):
                problems.append(f"{path.relative_to(package.parent)}:{line} says {name}")
    return problems


def test_imports_point_downward() -> None:
    assert import_problems(PACKAGE) == []


def test_the_vocabulary_is_kept() -> None:
    assert vocabulary_problems(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "source", "problem"),
    [
        ("model.py", "import incontext.engine", "model.py:1 imports engine, which is not below model"),
        ("model.py", "from incontext import engine", "model.py:1 imports engine"),
        ("model.py", "from incontext.engine import load", "model.py:1 imports engine"),
        ("model.py", "def f():\n    from incontext.cli import main", "model.py:2 imports cli"),
        ("canvas.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import incontext.cli", "canvas.py:3"),
        ("canvas.py", "import incontext.checkpoint", "canvas.py:1 imports checkpoint, which is not below canvas"),
        ("engine.py", "from incontext import load", "engine.py:1 imports __init__"),
        ("engine.py", "import incontext", "engine.py:1 imports __init__"),
        ("engine.py", "from . import cli", "engine.py:1 imports relatively"),
        ("engine.py", "from importlib import import_module", "engine.py:1 imports by a computed name"),
        ("training/loop.py", "import incontext.evaluation", "loop.py:1 imports evaluation"),
        ("types.py", "def f():\n    import torch", "types.py:2 imports torch, which types refuses to know"),
        ("helpers.py", "", "helpers.py is not listed"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, file: str, source: str, problem: str) -> None:
    package = plant(tmp_path, {file: source})
    found = import_problems(package)
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    "source",
    ["lut = 1", "def f(seg_type): ...", "model.bool_masked_pos", "class ColorMapper: ...; x = color_map", "f(lut=1)"],
)
def test_a_planted_word_is_found(tmp_path: Path, source: str) -> None:
    assert len(vocabulary_problems(plant(tmp_path, {"canvas.py": source}))) == 1


def test_what_is_allowed_is_not_reported(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {
            "engine.py": "import torch\nfrom incontext import canvas\nfrom incontext.model import SegGPT",
            "training/loop.py": "from incontext.training.episodes import sample\nfrom incontext.engine import load",
            "cli.py": "from incontext import __version__\nimport incontext.ui",
            "canvas.py": "resolution = absolute = 'lut'",
        },
    )
    assert import_problems(package) + vocabulary_problems(package) == []


def plant(folder: Path, files: dict[str, str]) -> Path:
    """A small package with the usual modules, and these."""
    package = folder / "incontext"
    usual = ("model", "canvas", "checkpoint", "engine", "ui", "cli", "training/episodes", "evaluation/__init__")
    for name, source in {**{f"{name}.py": "" for name in usual}, **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return package


def test_all_is_what_is_exported() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    checked = [node for node in tree.body if isinstance(node, ast.If)]
    seen_by_type_checkers = {
        alias.name for node in ast.walk(checked[0]) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {*seen_by_type_checkers, "__version__"} == set(incontext.__all__)
    assert dir(incontext) == sorted(incontext.__all__)
    for name in incontext.__all__:
        assert getattr(incontext, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'segment'; it exports Palette"):
        _ = incontext.segment


@pytest.mark.parametrize(
    "program",
    ["import incontext", "import sys; sys.argv = ['incontext', '--help']; from incontext.cli import main; main()"],
    ids=["import", "help"],
)
def test_is_cheap(program: str) -> None:
    """Neither `import incontext` nor `incontext --help` loads what costs seconds."""
    report = "import atexit, sys; atexit.register(lambda: print('loaded:', *sorted(sys.modules)));"
    done = subprocess.run([sys.executable, "-c", report + program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert "incontext" in loaded
    assert not loaded & {"torch", "timm", "huggingface_hub", "transformers"}
