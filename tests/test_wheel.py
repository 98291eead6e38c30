"""What `pip install` brings: a wheel with the weights inside, which works from an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from incontext.training.scenes import render_pair

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed into a folder of its own; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(folder), str(wheel)], check=True, capture_output=True, text=True)
    return folder


def test_the_wheel_holds_the_package_the_weights_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for needed in (
        "incontext/cli/segment.py",
        "incontext/py.typed",
        "incontext/demo_masks/cat.png",
        "incontext/weights/manifest.json",
    ):
        assert needed in names
    assert "incontext/weights/default.safetensors" in names
    assert not [name for name in names if not name.startswith(("incontext/", "incontext-"))]
    assert wheel.stat().st_size < 26e6


@pytest.mark.slow
def test_the_installed_command_segments_a_folder_with_the_embedded_weights(site: Path, tmp_path: Path) -> None:
    images, masks = render_pair(np.random.default_rng(3), 128)
    (tmp_path / "photos").mkdir()
    for name, image in zip(("example", "other"), images, strict=True):
        Image.fromarray(image).save(tmp_path / "photos" / f"{name}.png")
    Image.fromarray((masks[0] == masks[0].max()).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    command = ["segment", "photos", "--prompt", "photos/example.png", "mask.png", "-o", "masks"]
    environment = os.environ | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    script = site / "bin" / "incontext"
    done = subprocess.run(
        [sys.executable, str(script), *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["example.png", "other.png", "report.json"]
    with Image.open(tmp_path / "masks" / "other.png") as mask:
        assert mask.size == (128, 128)
        assert set(np.unique(np.asarray(mask))) <= {0, 1}
    where = [sys.executable, "-c", "import incontext; print(incontext.__file__)"]
    shown = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str(site / "incontext" / "__init__.py")
