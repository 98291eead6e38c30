"""The site builds strictly, and its notebook runs."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documented import ROOT
from PIL import Image

pytestmark = pytest.mark.slow
NOTEBOOK = ROOT / "docs/notebooks/quickstart.ipynb"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(name, reason="needs mkdocs-material and mkdocstrings, of the extra docs")
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_every_page_is_on_the_site(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("")
        folder = name.parent if name.name == "index" else name
        assert (site / folder / "index.html").is_file(), name


def test_the_reference_has_the_public_names_and_every_command(site: Path) -> None:
    from incontext import __all__

    python = (site / "reference/python/index.html").read_text(encoding="utf-8")
    for name in set(__all__) - {"__version__"}:
        assert re.search(rf'id="incontext\.[a-z_.]*{name}"', python), name
    commands = (site / "reference/cli/index.html").read_text(encoding="utf-8")
    for command in ("segment", "track", "evaluate few-shot", "weights average"):
        assert f"Usage: incontext {command} " in commands


def test_figures_lead_to_their_files(site: Path) -> None:
    page = site / "how-to/video/index.html"
    targets = re.findall(r'href="([^"]*results/[^"]+\.json)"', page.read_text(encoding="utf-8"))
    assert len(targets) >= 2
    assert all((page.parent / target).resolve().is_file() for target in targets)


def test_the_notebook_runs_and_segmentations_draw_themselves() -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, of the extra dev")
    pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra dev")
    pytest.importorskip("skimage", reason="needs scikit-image, whose wheel holds the photographs")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra dev")
    stored = nbformat.read(NOTEBOOK, as_version=4)
    notebook = nbformat.from_dict(stored)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute(env=environment)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (drawing,) = (cell for cell in cells if cell.source.rstrip().endswith("\nfound"))
    (output,) = drawing.outputs
    with Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))) as drawn:
        assert drawn.size == (141, 151)
        assert len(drawn.getcolors()) == 2, "coins, and what is none"
    for cell, before in zip(cells, (each for each in stored.cells if each.cell_type == "code"), strict=True):
        kinds = [[sorted(each.get("data", each.get("name"))) for each in one.outputs] for one in (cell, before)]
        assert kinds[0] == kinds[1], "what is stored is what comes out; run the notebook and save it"
