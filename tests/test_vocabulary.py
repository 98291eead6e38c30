"""The words of the project, in code and in what people read: one word for one thing."""

import ast
import re
from pathlib import Path

import pytest

import incontext

PACKAGE = Path(incontext.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

# Where "key" means a key of the keyboard, of a mapping or of attention.
_OTHER_KEYS = re.compile(r"arrow keys?|queries,? (?:and )?keys|keys computed once|a key of `SegmentKeywords`|own keys")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*MODULES, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_cameras_make_is_an_image(path: Path) -> None:
    if path.name == "licences.md":
        return  # what others say of their data stays as they said it
    text = read(path).replace("pictures are the author", "")
    assert not re.findall(r"\w*picture\w*", text, re.IGNORECASE)
    assert not re.findall(r"\b[Aa] images?\b", text)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_prompt_tensor_is_called_nothing_else(path: Path) -> None:
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            name = node.arg if isinstance(node, ast.arg) else getattr(node.target, "id", "")
            assert "PromptTensor" not in ast.unparse(node.annotation) or "key" not in name, (name, node.lineno)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.search(r"\b(tune|learn|load|save|choose|give) (a|the) keys?\b", node.value, re.IGNORECASE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_page_calls_a_prompt_tensor_a_key(page: Path) -> None:
    assert not re.findall(r".*\bkeys?\b.*", _OTHER_KEYS.sub("", read(page)))
