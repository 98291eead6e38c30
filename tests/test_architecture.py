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

# Lowest first, for the package and for each package in it. A module imports from lower rows only; modules of one row do
# not know each other. `__init__` is what the outside sees, so that inside of a package only what stands above uses it.
LEVELS: dict[str, list[set[str]]] = {
    "": [
        {"images", "left_out", "progress", "version", "words"},
        {"options"},
        {"digest", "jsonlines", "tensor_files", "types"},
        {"hints"},
        {"annotations", "hint_files", "network", "proposals", "seen_examples"},
        {"prompt_tensor"},
        {"canvas", "matching", "prompters", "sources"},
        {"examples"},
        {"learning", "placed"},
        {"engine"},
        {"identity", "prompting", "rounds"},
        {"folder", "training", "tuning", "video"},
        {"__init__"},
        {"bench", "demo", "evaluation"},
        {"ui"},
        {"cli"},
        {"__main__"},
    ],
    "annotations": [
        {"bridges", "brush", "joining", "values"},
        {"core"},
        {"agree", "coco_out", "instances", "links", "mask_files", "masks", "shapes"},
        {"coco", "cvat", "davis", "label_studio", "labelme", "voc", "yolo"},
        {"panoptic"},
        {"known"},
        {"exports", "__init__"},
    ],
    "canvas": [{"edges", "paint", "windows"}, {"context", "hints", "votes"}, {"read"}, {"query"}, {"__init__"}],
    "cli": [
        {"help"},
        {"counting", "options"},
        {"exporting", "marking"},
        # The commands: none of them imports another.
        {
            "backbone",
            "bench",
            "convert",
            "demo",
            "evaluate",
            "evaluate_clicks",
            "evaluate_protocol",
            "evaluate_video",
            "mark",
            "name",
            "prompters",
            "propose",
            "rank",
            "segment",
            "track",
            "train",
            "tune",
            "ui",
        }
        | {"weights"},
        {"__init__"},
    ],
    "evaluation": [
        {"lines", "metrics", "workers"},
        {"few_shot", "proposals", "ranking"},
        {"calibration", "video"},
        {"clicks"},
        {"pages"},
        {"protocols"},
        {"__init__"},
    ],
    "evaluation.clicks": [{"simulation", "things"}, {"scores"}, {"scoring"}, {"baselines", "network"}, {"__init__"}],
    "evaluation.few_shot": [
        {"episodes"},
        {"images", "records"},
        {"scores"},
        {"scoring"},
        {"baselines"},
        {"__init__"},
    ],
    "evaluation.pages": [
        {"gallery", "tables"},
        {"charts"},
        {"page"},
        {"report", "tuning_report"},
        {"click_report", "video_report"},
        {"__init__"},
    ],
    "evaluation.protocols": [
        {"benchmarks", "finding", "labels", "published", "quality"},
        {"few_shot_data", "outcome", "request", "scene_data", "video_data"},
        {"drawing", "few_shot", "lists", "report", "scenes", "video"},
        {"few_shot_run", "scene_run", "video_run"},
        {"runs"},
        {"__init__"},
    ],
    "evaluation.video": [{"clips", "davis"}, {"scoring"}, {"__init__"}],
    "examples": [{"annotated"}, {"pairs"}, {"prompts"}, {"given"}, {"__init__"}],
    "folder": [
        {"outputs", "report"},
        {"identity", "labelled", "search", "sinks"},
        {"journal", "named", "plan"},
        {"hinted", "work"},
        {"overlays", "prompted", "run", "watch"},
        {"job", "rehearsal"},
        {"ray", "__init__"},
    ],
    "folder.ray": [{"workers"}, {"job"}, {"__init__"}],
    "images": [
        {"alone", "arrays", "dataset", "depth", "dicom", "gate", "ids", "names", "opening", "outlines", "rle", "text"},
        {"read", "resize", "smoothing"},
        {"masks", "variety", "write"},
        {"__init__"},
    ],
    "learning": [{"augmentation"}, {"light"}, {"losses"}, {"__init__"}],
    "matching": [{"backbone", "calibration", "match"}, {"names"}, {"voter"}, {"__init__"}],
    "network": [
        {"config", "devices", "relative"},
        {"kernels", "layers"},
        {"attention"},
        {"block"},
        {"model"},
        {"layouts", "memory", "reference"},
        {"checkpoint"},
        {"registry"},
        {"__init__"},
    ],
    "prompters": [
        {"crops", "mask_tokens", "parts", "phrases", "registry"},
        {"files", "layers", "located", "maps", "own"},
        {"clicking", "opening"},
        {"detectors", "prompter", "sam", "sam3", "words"},
        {"load", "namer", "trial"},
        {"__init__"},
    ],
    "sources": [{"places"}, {"remote"}, {"tars"}, {"find"}, {"pages"}, {"__init__"}],
    "training": [
        {"corrections", "features", "parallel", "scenes", "sets", "start", "teacher"},
        {"episodes", "hints"},
        {"coloring"},
        {"recipes", "validation"},
        {"optimizers", "precision"},
        {"run"},
        {"loop", "request"},
        {"__init__"},
    ],
    "training.parallel": [{"processes", "sharding", "slices"}, {"__init__"}],
    "training.scenes": [{"looks", "shapes"}, {"layers"}, {"scene"}, {"moving"}, {"__init__"}],
    "training.start": [{"warm"}, {"vit"}, {"__init__"}],
    "tuning": [{"images", "namer"}, {"group"}, {"job"}, {"__init__"}],
    "ui": [
        {"connections", "guard", "paint", "places", "work"},
        {"sessions"},
        {"model", "page", "results"},
        {"hinting"},
        {"hint_panel"},
        {"follow", "learn", "model_tab", "segment_tab"},
        {"track_tab", "tune_tab"},
        {"app"},
        {"serve"},
        {"__init__"},
    ],
    "video": [
        {"bank", "colors", "sheet", "streams", "tracks"},
        {"exports", "frames", "resume", "tracker"},
        {"plan", "prompted", "__init__"},
        {"job"},
    ],
}

# What a module, or all of a package, refuses to know.
TENSORS = {"torch", "torchvision", "timm"}
FILES = {"os", "pathlib"}
REFUSES: dict[str, set[str]] = {
    "images": TENSORS,
    "images.smoothing": {"PIL"} | FILES,
    "images.rle": {"PIL"} | FILES,
    "images.outlines": {"PIL"} | FILES,
    "images.dataset": {"PIL", "numpy"},
    "images.dicom": {"PIL"} | FILES,
    "annotations": TENSORS,
    "types": TENSORS,
    "hints": {"PIL"} | TENSORS,
    "prompt_tensor": {"PIL"} | TENSORS,
    "seen_examples": {"PIL"} | TENSORS | FILES,
    "matching.match": {"PIL", "numpy", "timm"} | FILES,
    "network": {"PIL", "numpy"},
    **{
        f"network.{name}": FILES
        for name in ("attention", "block", "config", "kernels", "layers", "model", "reference", "relative")
    },
    "network.config": {"torch"} | FILES,
    "options": TENSORS | {"PIL", "numpy", "typer"} | FILES,
    "network.devices": FILES,
    "network.memory": {"psutil", "os"},
    "canvas.edges": {"PIL", "numpy"} | FILES,
    "canvas.votes": FILES,
    "canvas.query": {"PIL"} | FILES,
    "canvas.windows": {"PIL"} | TENSORS | FILES,
    "canvas.hints": {"PIL"} | TENSORS | FILES,
    "canvas.context": {"PIL", "torch"} | FILES,
    "learning": FILES,
    "learning.light": {"PIL"},
    "learning.augmentation": TENSORS,
    "learning.losses": {"PIL", "numpy"},
    "sources": TENSORS | {"numpy"},
    "examples": TENSORS,
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


Module = tuple[str, ...]


def module_of(path: Path, package: Path) -> Module:
    """The parts of a module's name below the package; those of an `__init__` end with that word."""
    return path.relative_to(package).with_suffix("").parts


def found_module(package: Path, parts: Module) -> Module:
    """The module that an import of these parts reads: a file, or the `__init__` of a folder."""
    if package.joinpath(*parts).is_dir():
        return (*parts, "__init__")
    return parts if package.joinpath(*parts).with_suffix(".py").is_file() else ()


def imported(tree: ast.AST, package: Path) -> Iterator[tuple[int, str | Module]]:
    """Every import of a file, wherever it stands: its line, and a module of the package or the name of a library."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "(relative)"
        elif isinstance(node, ast.ImportFrom):
            head, *rest = (node.module or "").split(".")
            if head != package.name:
                yield node.lineno, head
                continue
            for alias in node.names:
                whole = (*rest, alias.name)
                yield node.lineno, found_module(package, whole) or found_module(package, tuple(rest)) or whole
        elif isinstance(node, ast.Import):
            for alias in node.names:
                head, *rest = alias.name.split(".")
                yield node.lineno, (found_module(package, tuple(rest)) or tuple(rest)) if head == package.name else head


def is_above(module: Module, other: Module) -> bool:
    """Whether the levels allow the first to import the second."""
    shared = next(i for i, (one, two) in enumerate(zip(module, other, strict=False)) if one != two)
    rows = LEVELS[".".join(module[:shared])]
    level = {name: number for number, names in enumerate(rows) for name in names}
    return level.get(other[shared], len(rows)) < level[module[shared]]


def unlisted(module: Module) -> bool:
    """Whether its place, or that of a folder that it lies in, is in no row."""
    return any(
        not any(part in row for row in LEVELS.get(".".join(module[:depth]), [])) for depth, part in enumerate(module)
    )


def import_problems(package: Path) -> list[str]:
    problems = []
    for path in sorted(package.rglob("*.py")):
        module = module_of(path, package)
        where, name = path.relative_to(package.parent), ".".join(module).removesuffix(".__init__")
        if unlisted(module):
            problems.append(f"{where} is not listed in LEVELS")
            continue
        refused = set().union(*(REFUSES.get(".".join(module[: i + 1]), set()) for i in range(len(module))))
        for line, what in imported(ast.parse(path.read_text(encoding="utf-8")), package):
            if isinstance(what, tuple):
                if what != module and not is_above(module, what):
                    said = ".".join(what).removesuffix(".__init__")
                    problems.append(f"{where}:{line} imports {said}, which is not below {name}")
            elif what == "(relative)":
                problems.append(f"{where}:{line} imports relatively")
            elif what in refused:
                problems.append(f"{where}:{line} imports {what}, which {name} refuses to know")
            elif what == "importlib" and module != ("__init__",):
                problems.append(f"{where}:{line} imports by a computed name")
    return problems


def circle(package: Path) -> list[str]:
    """Modules that import each other in a circle, also where they hide it behind TYPE_CHECKING or in functions."""
    imports = {}
    for path in package.rglob("*.py"):
        module = module_of(path, package)
        found = imported(ast.parse(path.read_text(encoding="utf-8")), package)
        imports[module] = {what for _, what in found if isinstance(what, tuple) and what != module}
    done: set[Module] = set()

    def follow(way: list[Module]) -> list[Module]:
        for other in sorted(imports.get(way[-1], ())):
            if other in way:
                return [*way[way.index(other) :], other]
            if other not in done and (found := follow([*way, other])):
                return found
        done.add(way[-1])
        return []

    ways = (follow([module]) for module in sorted(imports) if module not in done)
    return next((["/".join(module) for module in way] for way in ways if way), [])


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


def test_every_row_names_something() -> None:
    for inside, rows in LEVELS.items():
        folder = PACKAGE.joinpath(*filter(None, inside.split(".")))
        named = [name for row in rows for name in row]
        assert len(named) == len(set(named)), inside
        assert set(named) == {path.stem for path in folder.iterdir() if is_unit(path)}, inside


def is_unit(path: Path) -> bool:
    """Whether it is a module, or a package."""
    return path.suffix == ".py" or (path / "__init__.py").is_file()


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(PACKAGE) == []


def test_the_vocabulary_is_kept() -> None:
    assert vocabulary_problems(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "source", "problem"),
    [
        (
            "network/model.py",
            "import incontext.engine",
            "model.py:1 imports engine, which is not below network.model",
        ),
        ("network/model.py", "from incontext import engine", "model.py:1 imports engine"),
        ("network/model.py", "from incontext.engine import load", "model.py:1 imports engine"),
        ("network/model.py", "def f():\n    from incontext.cli import main", "model.py:2 imports cli"),
        (
            "canvas/paint.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import incontext.cli",
            "paint.py:3 imports cli",
        ),
        (
            "network/model.py",
            "import incontext.network.checkpoint",
            "model.py:1 imports network.checkpoint, which is not below network.model",
        ),
        ("network/model.py", "from incontext.network import checkpoint", "model.py:1 imports network.checkpoint"),
        ("network/model.py", "from incontext.network import SegGPT", "model.py:1 imports network, which is not below"),
        ("engine.py", "from incontext import load", "engine.py:1 imports __init__"),
        ("engine.py", "import incontext", "engine.py:1 imports __init__"),
        ("engine.py", "from . import cli", "engine.py:1 imports relatively"),
        ("engine.py", "from importlib import import_module", "engine.py:1 imports by a computed name"),
        ("training/loop.py", "import incontext.evaluation", "loop.py:1 imports evaluation"),
        ("types.py", "def f():\n    import torch", "types.py:2 imports torch, which types refuses to know"),
        ("images/rle.py", "import torch", "rle.py:1 imports torch, which images.rle refuses to know"),
        ("helpers.py", "", "helpers.py is not listed"),
        ("network/helpers.py", "", "helpers.py is not listed"),
        ("helpers/__init__.py", "", "__init__.py is not listed"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, file: str, source: str, problem: str) -> None:
    package = plant(tmp_path, {file: source})
    found = import_problems(package)
    assert len(found) == 1
    assert problem in found[0]


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from incontext.ui.follow import Following"
    package = plant(
        tmp_path,
        {
            "ui/follow.py": "from incontext.ui.results import zip_folder",
            "ui/results.py": "from incontext.ui.sessions import Session",
            "ui/sessions.py": hidden,
        },
    )
    assert circle(package) == ["ui/follow", "ui/results", "ui/sessions", "ui/follow"]
    assert len(import_problems(package)) == 1


@pytest.mark.parametrize(
    "source",
    ["lut = 1", "def f(seg_type): ...", "model.bool_masked_pos", "class ColorMapper: ...; x = color_map", "f(lut=1)"],
)
def test_a_planted_word_is_found(tmp_path: Path, source: str) -> None:
    assert len(vocabulary_problems(plant(tmp_path, {"canvas/paint.py": source}))) == 1


def test_what_is_allowed_is_not_reported(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {
            "engine.py": "import torch\nfrom incontext.canvas import paint\nfrom incontext.network.model import SegGPT",
            "training/loop.py": "from incontext.training.episodes import sample\nfrom incontext.engine import load",
            "cli/options.py": "from incontext import __version__\nimport incontext.ui",
            "canvas/paint.py": "resolution = absolute = 'lut'",
        },
    )
    assert import_problems(package) + vocabulary_problems(package) == []


def plant(folder: Path, files: dict[str, str]) -> Path:
    """A small package with the usual modules, and these."""
    package = folder / "incontext"
    usual = (
        "__init__",
        *("engine", "canvas/paint", "network/model", "network/checkpoint", "training/episodes"),
        *(f"{name}/__init__" for name in ("cli", "evaluation", "network", "ui")),
    )
    for name, source in {**{f"{name}.py": "" for name in usual}, **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return package


MOST_LINES = 80  # of a function that does not declare a command's options


def long_functions(package: Path) -> list[str]:
    """Functions of too many lines, but for commands, whose parameters are the options that they declare."""
    found = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_command = any(".command" in ast.unparse(each) for each in node.decorator_list)
            lines = (node.end_lineno or 0) - (node.body[0].lineno if is_command else node.lineno) + 1
            if lines > MOST_LINES:
                found.append(f"{path.relative_to(package.parent)}:{node.lineno} {node.name} has {lines} lines")
    return found


def test_functions_are_short() -> None:
    assert long_functions(PACKAGE) == []


def test_a_planted_long_function_is_found(tmp_path: Path) -> None:
    long = "def f():\n" + "    pass\n" * MOST_LINES
    command = "@app.command()\ndef f(\n" + "".join(f"    p{i}: int = 0,\n" for i in range(90)) + "):\n    pass\n"
    package = plant(tmp_path, {"engine.py": long, "cli/segment.py": command})
    assert long_functions(package) == ["incontext/engine.py:1 f has 81 lines"]


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
    with pytest.raises(AttributeError, match="no attribute 'segment'; it exports CheckpointError, Hints"):
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


@pytest.mark.slow
def test_the_engine_loads_no_compiler() -> None:
    """PyTorch's compiler takes seconds to import, and 150 MB: who does not compile does not load it."""
    program = "import sys, incontext.engine; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & {"torch._dynamo", "torch._inductor", "timm", "transformers"}
