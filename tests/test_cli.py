"""The command line: what goes in, what comes out, and what a user reads when something is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

import incontext
from incontext import checkpoint, cli, engine, formats, model, progress
from incontext.cli import options
from incontext.checkpoint import load_model, save_model
from incontext.formats import Pixels, read_image, read_mask, write_image, write_mask
from incontext.model import ModelConfig, SegGPT
from incontext.training import recipes
from incontext.types import Palette, Segmentation

CONFIG = ModelConfig(
    width=32, heads=2, depth=2, patch=8, side=32, decoder_width=8, merge_layer=0, taps=(0, 1), pretrain_side=32
)
PALETTE = Palette(np.array([0, 2]), np.array([(0, 0, 0), (255, 0, 0)]))


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command line in this process."""

    def call(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(each) for each in arguments])
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Done(stopped.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with random weights."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    network = SegGPT(CONFIG)
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(
            parameter, std=0.2, mean=0.5 * name.startswith("decoder_pred")
        )  # so that it finds a little
    save_model(path, network, metadata={"about": "random"})
    return path


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: an example (cat.jpg, cat.png) and PHOTOS with a picture in it and one in a subfolder."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", "PHOTOS/a.jpg", "PHOTOS/sub/b.png"):
        picture(tmp_path / name)
    mask = np.zeros((24, 36), np.uint8)
    mask[4:16, 4:20] = 2
    write_mask(tmp_path / "cat.png", mask, PALETTE.table)
    return tmp_path


EXAMPLE = ("--prompt", "cat.jpg", "cat.png", "-o", "MASKS")


def picture(path: Path, *, width: int = 36, height: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.random.default_rng(len(str(path.name))).integers(0, 255, (height, width, 3), np.uint8))


class Everything:
    """Stands in for a Segmenter: all of a query is id 2."""

    name = "everything"

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def describe(self) -> dict[str, object]:
        return {"weights": "everything"}

    def segment_many(self, queries: Iterable[Pixels], context: object, **options: Any) -> Iterator[Segmentation]:
        self.calls.append({"context": context, **options})
        for query in queries:
            shape = query.shape[:2]
            yield Segmentation(np.full(shape, 2, np.uint8), np.ones(shape, np.float32), PALETTE)


@pytest.fixture
def everything(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Everything:  # noqa: ARG001  brings its folder along
    """`load` gives the stand-in, and notes what it was asked for."""
    segmenter = Everything()

    def load(name: str, **options: Any) -> Everything:
        segmenter.calls.append({"name": name, **options})
        return segmenter

    monkeypatch.setattr(engine, "load", load)
    return segmenter


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------- in general


def test_version_and_help(run: Callable[..., Done]) -> None:
    assert run("--version") == Done(0, f"incontext {incontext.__version__}\n", "")
    for arguments in (["--help"], ["-h"], ["segment", "--help"], ["weights", "-h"], ["evaluate", "few-shot", "-h"]):
        done = run(*arguments)
        assert done.status == 0
        assert done.out.startswith("Usage: incontext")


def test_python_m_runs_it() -> None:
    command = [sys.executable, "-m", "incontext", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("incontext ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["segmnt"], "No such command 'segmnt'"),
        (["segment", "x.jpg", "--prompt", "a.jpg"], "--prompt"),
        (["segment", "x.jpg", "-o", "out"], "Missing option '--prompt'"),
        (["segment", "--prompt", "a.jpg", "a.png", "-o", "out"], "Missing argument"),
        (["segment", "x", "--prompt", "a", "b", "-o", "out", "--task", "panoptic"], "'panoptic' is not one of"),
        (["segment", "x", "--prompt", "a", "b", "-o", "out", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["segment", "x", "--prompt", "a", "b", "-o", "out", "--batch-sise", "4"], "--batch-sise"),
    ],
)
def test_mistyped_commands_are_refused(run: Callable[..., Done], arguments: list[str], sentence: str) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert sentence in done.err


def test_choices_are_those_of_the_library() -> None:
    assert set(get_args(options.TaskName)) == set(get_args(model.Task)) == {"instance", "semantic"}
    assert get_args(options.DtypeName) == get_args(engine.DtypeName)
    assert set(get_args(options.LayoutName)) == set(checkpoint.LAYOUTS)
    assert set(get_args(options.StoredDtypeName)) == set(checkpoint.STORED_DTYPES)


def test_in_development_mode_errors_keep_their_traceback(photos: Path) -> None:
    command = [sys.executable, "-X", "dev", "-m", "incontext", "segment", "none", *EXAMPLE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=photos)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


# --------------------------------------------------------------------------------------------- segment


def test_segment_with_a_real_network(run: Callable[..., Done], photos: Path, weights: Path) -> None:
    picture(photos / "PHOTOS" / "Größe 1 写真.jpg")
    picture(photos / "PHOTOS" / "dot.png", width=1, height=1)
    picture(photos / "PHOTOS" / "wide.png", width=4000, height=3)
    done = run("segment", "PHOTOS", *EXAMPLE, "--weights", weights, "--device", "cpu", "--batch-size", 2)
    assert done.status == 0, done.err
    assert "5 masks in MASKS" in done.out
    assert files(photos / "MASKS") == ["Größe 1 写真.png", "a.png", "dot.png", "report.json", "sub/b.png", "wide.png"]
    report = json.loads((photos / "MASKS" / "report.json").read_text(encoding="utf-8"))
    assert report["segmenter"]["weights"] == str(weights)
    assert report["segmenter"]["device"] == "cpu"
    assert report["settings"]["prompts"] == [{"image": "cat.jpg", "mask": "cat.png"}]
    for file in report["files"]:
        image, mask = read_image(file["query"]), read_mask(photos / "MASKS" / file["mask"])
        assert mask.ids.shape == image.shape[:2]
        assert {str(i): int((mask.ids == i).sum()) for i in np.unique(mask.ids) if i} == file["areas"]
        assert set(file["ids"]) <= {2}
        assert mask.colors is not None
        assert mask.colors[2].tolist() == [255, 0, 0]  # as in the example
        assert 0 <= file["confidence"] <= 1
    assert any(file["ids"] for file in report["files"])  # or nothing was compared


def test_options_reach_the_network(run: Callable[..., Done], everything: Everything) -> None:
    assert run("segment", "PHOTOS", *EXAMPLE).status == 0
    loading, segmenting = everything.calls
    assert loading == {"name": "default", "device": "auto", "dtype": "auto"}
    context = segmenting.pop("context")
    assert (context.ids, context.image.shape) == ((2,), (24, 36, 3))
    assert segmenting == {"task": "instance", "side": None, "batch_size": None}

    everything.calls.clear()
    options = ["--weights", "w", "--device", "cuda:1", "--dtype", "float16", "--task", "semantic"]
    assert run("segment", "PHOTOS", *EXAMPLE, *options, "--side", 64, "--batch-size", 3).status == 0
    loading, segmenting = everything.calls
    assert loading == {"name": "w", "device": "cuda:1", "dtype": "float16"}
    del segmenting["context"]
    assert segmenting == {"task": "semantic", "side": 64, "batch_size": 3}


@pytest.mark.usefixtures("everything")
def test_inputs_are_folders_files_and_patterns(run: Callable[..., Done], photos: Path) -> None:
    assert run("segment", "PHOTOS/sub", "cat.jpg", "PHOTOS/*.jpg", *EXAMPLE).status == 0
    assert files(photos / "MASKS") == ["a.png", "b.png", "cat.png", "report.json"]


@pytest.mark.usefixtures("everything")
def test_overlays_and_confidences_when_asked(run: Callable[..., Done], photos: Path) -> None:
    assert run("segment", "PHOTOS/a.jpg", *EXAMPLE, "--overlay", "--save-confidence").status == 0
    assert files(photos / "MASKS") == ["a.png", "a_confidence.png", "a_overlay.jpg", "report.json"]


@pytest.mark.usefixtures("everything")
def test_a_broken_picture_is_skipped_and_the_status_says_so(run: Callable[..., Done], photos: Path) -> None:
    (photos / "PHOTOS" / "[bold]broken:cat:.jpg").write_text("no picture")
    done = run("segment", "PHOTOS", *EXAMPLE)
    assert done.status == 1
    assert "2 masks in MASKS" in done.out
    skipped, summary = done.err.splitlines()
    assert skipped.startswith("Skipped: PHOTOS/[bold]broken:cat:.jpg: ")
    assert summary == f"1 of 3 failed; {Path('MASKS', 'report.json')} says why."
    report = json.loads((photos / "MASKS" / "report.json").read_text())
    assert [Path(file["query"]).name for file in report["files"] if file["error"]] == ["[bold]broken:cat:.jpg"]


def change(name: str, values: Pixels) -> Callable[[], None]:
    return lambda: Image.fromarray(values).save(name)


def smooth_mask() -> None:
    ramp = np.zeros((24, 36, 3), np.uint8)
    ramp[:, 10:20] = 255
    ramp[:, 20:30] = np.linspace(250, 5, 10).astype(np.uint8)[:, None]
    Image.fromarray(ramp).save("cat.png")


@pytest.mark.parametrize(
    ("spoil", "arguments", "sentence"),
    [
        (lambda: None, ["nowhere", *EXAMPLE], "nowhere: there is no such file or folder"),
        (lambda: None, ["PHOTOS/*.tif", *EXAMPLE], "PHOTOS/*.tif: nothing matches"),
        (lambda: Path("empty").mkdir(), ["empty", *EXAMPLE], "in empty, found none"),
        (lambda: Path("MASKS").touch(), ["PHOTOS", *EXAMPLE], "MASKS: expected a folder to write to, got a file"),
        (lambda: picture(Path("PHOTOS/a.png")), ["PHOTOS", *EXAMPLE], "would both write MASKS/a.png"),
        (lambda: None, ["PHOTOS", *EXAMPLE[:-1], "PHOTOS"], "PHOTOS: expected another folder to write to"),
        (lambda: None, ["cat.jpg", *EXAMPLE[:-1], "."], "cat.png: this result would overwrite a picture"),
        (lambda: Path("cat.jpg").unlink(), ["PHOTOS", *EXAMPLE], "cat.jpg: there is no such file"),
        (lambda: Path("cat.png").unlink(), ["PHOTOS", *EXAMPLE], "cat.png: there is no such file"),
        (change("cat.png", np.ones((24, 35), np.uint8)), ["PHOTOS", *EXAMPLE], "expected a mask of the image's size"),
        (change("cat.png", np.zeros((24, 36), np.uint8)), ["PHOTOS", *EXAMPLE], "the mask is empty"),
        (lambda: write_mask("cat.png", np.full((24, 36), 255, np.uint8), PALETTE.table), ["PHOTOS", *EXAMPLE], "255"),
        (smooth_mask, ["PHOTOS", *EXAMPLE], "--snap-colors"),
        (lambda: None, ["PHOTOS", *EXAMPLE, "--weights", "nothing"], "there is no file 'nothing' and no weights"),
        (lambda: None, ["PHOTOS", *EXAMPLE, "--weights", "cat.jpg"], "cat.jpg"),
        (lambda: None, ["PHOTOS", *EXAMPLE, "--device", "toaster"], "got 'toaster'"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(
    run: Callable[..., Done], photos: Path, spoil: Callable[[], None], arguments: list[str], sentence: str
) -> None:
    spoil()
    before = files(photos)
    done = run("segment", *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1
    assert sentence in done.err
    assert files(photos) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_not_replaced_by_the_cpu(run: Callable[..., Done], photos: Path, weights: Path) -> None:
    done = run("segment", "PHOTOS", *EXAMPLE, "--weights", weights, "--device", "cuda")
    assert done.status == 2
    assert "CUDA" in done.err
    assert not (photos / "MASKS").exists()


@pytest.mark.usefixtures("photos")
def test_a_side_that_does_not_fit_is_one_sentence(run: Callable[..., Done], weights: Path) -> None:
    done = run("segment", "PHOTOS", *EXAMPLE, "--weights", weights, "--side", 33)
    assert done.status == 2
    assert done.err.startswith("Error: expected side to be a positive multiple of the patch, 8, got 33")


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "MASKS/x"), OSError("the disk is gone")])
def test_what_the_system_refuses_is_one_sentence(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(engine, "load", refuse)
    done = run("segment", "PHOTOS", *EXAMPLE)
    message = "MASKS/x: Permission denied" if error.errno else "the disk is gone"
    assert done == Done(2, "", f"Error: {message}\n")


@pytest.mark.usefixtures("everything")
def test_mistakes_in_the_code_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Everything, "describe", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["segment", "PHOTOS", *EXAMPLE])


@pytest.mark.usefixtures("everything")
def test_snap_colors_forces_a_smoothed_mask(run: Callable[..., Done]) -> None:
    smooth_mask()
    assert run("segment", "PHOTOS", *EXAMPLE).status == 2
    done = run("segment", "PHOTOS", *EXAMPLE, "--snap-colors")
    assert (done.status, done.err) == (0, "")


@pytest.mark.usefixtures("everything")
@pytest.mark.filterwarnings("default::incontext.formats.MaskWarning")
def test_a_warning_is_one_line(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    read = formats.read_mask

    def warn(*arguments: Any, **options: Any) -> formats.MaskFile:
        warnings.warn("cat.png: 3 stray colours", formats.MaskWarning, stacklevel=1)
        return read(*arguments, **options)

    monkeypatch.setattr(formats, "read_mask", warn)
    shown = warnings.showwarning
    done = run("segment", "PHOTOS", *EXAMPLE)
    assert done.status == 0
    assert done.err.splitlines()[0] == "Warning: cat.png: 3 stray colours"
    assert warnings.showwarning is shown


@pytest.mark.usefixtures("everything")
def test_progress_is_a_line_now_and_then(
    run: Callable[..., Done], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        picture(photos / "PHOTOS" / f"{number}.jpg")
    assert run("segment", "PHOTOS", *EXAMPLE).err == ""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    lines = run("segment", "PHOTOS", *EXAMPLE).err.splitlines()
    assert len(lines) == 6
    assert lines[0] == "1/6 images"
    assert lines[-1].startswith("6/6 images, ")
    assert lines[-1].endswith(" images/s, 0:00:00 left")


@pytest.mark.usefixtures("everything")
def test_progress_is_a_bar_in_a_terminal(
    run: Callable[..., Done], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    (photos / "PHOTOS" / "z.jpg").touch()
    done = run("segment", "PHOTOS", *EXAMPLE)
    assert "━" in done.err
    assert "3/3 images" in done.err
    assert "Skipped: PHOTOS/z.jpg" in done.err


def test_ctrl_c_leaves_a_report_and_status_130(photos: Path, weights: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 600, 3), np.uint8)
    for number in range(400):
        write_image(photos / "PHOTOS" / f"{number:03}.jpg", noise)
    command = [sys.executable, "-m", "incontext", "segment", "PHOTOS", *EXAMPLE, "--weights", str(weights)]
    running = subprocess.Popen(command, cwd=photos, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while len(list(photos.glob("MASKS/*.png"))) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, complaint = running.communicate(timeout=30)
    assert running.returncode == 130, complaint
    assert complaint.splitlines()[-1].startswith("Stopped after ")
    assert "Traceback" not in complaint
    report = json.loads((photos / "MASKS" / "report.json").read_text())
    assert not report["finished"]
    assert 3 <= report["totals"]["done"] < 402
    assert files(photos / "MASKS") == sorted([*(file["mask"] for file in report["files"]), "report.json"])


def test_demo(run: Callable[..., Done], photos: Path, everything: Everything) -> None:
    pytest.importorskip("skimage")
    done = run("demo", "--weights", "w", "--device", "cpu", "--dtype", "float32")
    assert done.status == 0, done.err
    assert everything.calls[0] == {"name": "w", "device": "cpu", "dtype": "float32"}
    assert "incontext segment " in done.out
    sheet = done.out.splitlines()[-1].removeprefix("All in one picture: ")
    assert read_image(photos / sheet).size
    assert sheet.startswith("demo-output")
    (photos / "file").touch()
    done = run("demo", "-o", "file")
    assert done.status == 2
    assert done.err.startswith("Error: file")


# --------------------------------------------------------------------------------------------- weights


@pytest.fixture
def manifest(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of an embedded file, "tiny", and one on the hub, "far"."""
    folder = tmp_path / "registry"
    folder.mkdir()
    (folder / "tiny.safetensors").write_bytes(weights.read_bytes())
    known = checkpoint.info(weights)
    common = {"source": "nowhere", "licence": "MIT", "config": vars(known.config)}
    rows = [
        {"name": "tiny", "description": "Random.", "sha256": known.sha256, "file": "tiny.safetensors", **common},
        {"name": "far", "description": "Afar.", "hub": {"repo": "a/b", "filename": "c", "revision": "d"}, **common},
    ]
    (folder / "manifest.json").write_text(json.dumps(rows))
    monkeypatch.setattr(checkpoint, "weights_folder", lambda: folder)
    monkeypatch.setattr(checkpoint, "cached_path", lambda entry: None if entry.hub else folder / str(entry.file))


@pytest.mark.usefixtures("manifest")
def test_weights_list(run: Callable[..., Done]) -> None:
    tiny, far = run("weights", "list").out.splitlines()
    assert tiny.split() == ["tiny", "on", "this", "machine", "MIT", "Random."]
    assert far.split() == ["far", "to", "download", "MIT", "Afar."]


@pytest.mark.usefixtures("manifest")
def test_weights_info(run: Callable[..., Done], weights: Path) -> None:
    rows = dict(line.split(maxsplit=1) for line in run("weights", "info", "tiny").out.splitlines())
    known = checkpoint.info(weights)
    assert rows["licence:"] == "MIT"
    assert rows["sha256:"] == known.sha256
    assert rows["parameters:"] == f"{known.parameters:,}"
    assert (rows["width:"], rows["taps:"], rows["about:"]) == ("32", "(0, 1)", "random")

    far = run("weights", "info", "far")
    assert far.status == 0
    assert "incontext weights download far" in far.out
    assert "width:" in far.out
    assert run("weights", "info", weights).out.startswith(f"file:           {weights}\n")


@pytest.mark.usefixtures("manifest")
def test_weights_verify(run: Callable[..., Done], weights: Path, tmp_path: Path) -> None:
    done = run("weights", "verify", "tiny")
    assert done.status == 0
    assert checkpoint.info(weights).sha256 in done.out
    (tmp_path / "broken.safetensors").write_bytes(weights.read_bytes()[:-100])
    done = run("weights", "verify", tmp_path / "broken.safetensors")
    assert done.status == 2
    assert "broken.safetensors" in done.err
    assert done.err.count("\n") == 1


def test_weights_convert(run: Callable[..., Done], weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "half.pth"
    done = run("weights", "convert", weights, target, "--layout", "published", "--dtype", "float16")
    assert done.status == 0, done.err
    assert (checkpoint.info(target).layout, checkpoint.info(target).dtype) == ("published", "float16")
    assert str(target) in done.out
    assert run("weights", "convert", weights, tmp_path / "same.safetensors").status == 0
    assert checkpoint.info(tmp_path / "same.safetensors").dtype == "float32"


@pytest.mark.usefixtures("manifest")
def test_weights_download(run: Callable[..., Done], tmp_path: Path) -> None:
    done = run("weights", "download", "tiny")
    assert (done.status, done.out.strip()) == (0, str(tmp_path / "registry" / "tiny.safetensors"))
    done = run("weights", "download", "no-such-name")
    assert done.status == 2
    assert "tiny, far" in done.err


# --------------------------------------------------------------------------------- training, evaluation


def labelled(folder: Path, count: int) -> Path:
    """`count` pictures with masks: a bright square, id 1."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        image, mask = rng.integers(0, 90, (32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
        top, left = rng.integers(0, 16, 2)
        image[top : top + 16, left : left + 16] += 150
        mask[top : top + 16, left : left + 16] = 1
        write_image(folder / "images" / f"{number}.png", image)
        write_mask(folder / "masks" / f"{number}.png", mask, np.eye(256, 3, dtype=np.uint8))
    return folder


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> recipes.Recipe:
    small = recipes.Recipe(CONFIG, (recipes.Stage(32, 3, 2),), warmup_steps=1)
    monkeypatch.setitem(recipes.RECIPES, "smoke", small)
    return small


@pytest.mark.usefixtures("small_recipe")
def test_train(
    run: Callable[..., Done],
    tmp_path: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    data = labelled(tmp_path / "squares", 20)
    train = ("train", data, "--recipe", "smoke", "--device", "cpu", "--workers", 0)
    done = run(*train, "-o", tmp_path / "one")
    assert done.status == 0, done.err
    assert done.out.strip() == str(tmp_path / "one" / "model.safetensors")
    assert "3/3 steps, loss " in done.err
    assert "Step 3: validation mIoU " in done.err
    assert load_model(tmp_path / "one" / "model.safetensors").config == CONFIG

    def first_weight(folder: str) -> torch.Tensor:
        return load_model(tmp_path / folder / "model.safetensors").blocks[0].attn.qkv.weight

    assert run(*train, "-o", tmp_path / "two", "--seed", 1).status == 0
    assert not torch.equal(first_weight("one"), first_weight("two"))
    assert run(*train, "-o", tmp_path / "three", "--init", weights).status == 0
    assert first_weight("three").std() > 3 * first_weight("one").std()  # the given weights are large
    assert run(*train, "-o", tmp_path / "one").status == 0  # nothing left to do


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--recipe", "grand"], "expected a recipe among default, smoke, got 'grand'"),
        (["--init", "other.safetensors"], "other.safetensors: expected weights of the recipe's ModelConfig"),
        (["nowhere"], "nowhere"),
        (["--device", "toaster"], "got 'toaster'"),
    ],
)
def test_train_refuses_in_one_sentence(
    run: Callable[..., Done],
    tmp_path: Path,
    small_recipe: recipes.Recipe,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model("other.safetensors", SegGPT(replace(small_recipe.model, depth=3)))
    recipe = [] if "--recipe" in arguments else ["--recipe", "smoke"]
    done = run("train", "-o", "run", *recipe, *arguments)
    assert done.status == 2
    assert sentence in done.err
    assert not Path("run").exists()


def test_evaluate_few_shot(run: Callable[..., Done], tmp_path: Path, weights: Path) -> None:
    labelled(tmp_path / "data" / "squares", 4)
    episodes = [{"id": 1, "query": str(i), "prompts": ["0", "1", "2"]} for i in (3, 1, 2)]
    (tmp_path / "data" / "episodes.json").write_text(
        json.dumps({"squares": {"instances_as_one": False, "episodes": episodes}})
    )
    evaluate = ("evaluate", "few-shot", tmp_path / "data", "--weights", weights, "--device", "cpu")
    scores = tmp_path / "new" / "scores.json"
    done = run(*evaluate, "-o", scores)
    assert done.status == 0, done.err
    assert "| squares |" in done.out
    written = json.loads(scores.read_text())
    assert (written["shots"], written["sets"][0]["episodes"], written["task"]) == (1, 3, "instance")
    assert written["segmenter"]["weights"] == str(weights)
    assert 0 <= written["mean_iou"] <= 1
    options = ["--shots", 2, "--limit", 1, "--task", "semantic", "--side", 64]
    done = run(*evaluate, *options, "-o", scores)
    assert done.status == 0, done.err
    again = json.loads(scores.read_text())
    assert (again["shots"], again["sets"][0]["episodes"], again["task"]) == (2, 1, "semantic")

    done = run(*evaluate, "--shots", 9)
    assert done.status == 2
    assert "shots" in done.err
    done = run("evaluate", "few-shot", tmp_path, "--weights", weights)
    assert done.status == 2
    assert "episodes.json" in done.err
