"""The command line: what goes in, what comes out, and what a user reads when something is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from commands import Done, runner
from PIL import Image
from waiting import PATIENCE, wait_until

import incontext
from incontext import cli, engine, progress
from incontext.images import masks
from incontext.images.ids import Pixels
from incontext.images.masks import read_mask
from incontext.images.read import read_image
from incontext.images.write import write_image, write_mask
from incontext.network import checkpoint, registry
from incontext.network.checkpoint import info, load_model, save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.options import SegmentOptions
from incontext.training import recipes
from incontext.types import Palette, Segmentation

CONFIG = ModelConfig(
    width=32, heads=2, depth=2, patch=8, side=32, decoder_width=8, merge_layer=0, taps=(0, 1), pretrain_side=32
)
PALETTE = Palette(np.array([0, 2]), np.array([(0, 0, 0), (255, 0, 0)]))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command line in this process."""
    return runner(capsys)


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
    """The working folder: an example (cat.jpg, cat.png) and PHOTOS with an image in it and one in a subfolder."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat.jpg", "PHOTOS/a.jpg", "PHOTOS/sub/b.png"):
        image_file(tmp_path / name)
    mask = np.zeros((24, 36), np.uint8)
    mask[4:16, 4:20] = 2
    write_mask(tmp_path / "cat.png", mask, PALETTE.table)
    return tmp_path


EXAMPLE = ("--prompt", "cat.jpg", "cat.png", "-o", "MASKS")


def image_file(path: Path, *, width: int = 36, height: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.random.default_rng(len(str(path.name))).integers(0, 255, (height, width, 3), np.uint8))


class Everything:
    """Stands in for a Segmenter: all of a query is id 2."""

    name = "everything"
    sha256 = "0" * 64
    device = SimpleNamespace(type="cpu")
    compiled = False
    config = SimpleNamespace(side=32)

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def describe(self) -> dict[str, object]:
        return {"weights": "everything", "side": 32, "dtype": "float32"}

    def prepare(self, context: object, **options: Any) -> SimpleNamespace:
        self.calls.append({"context": context, **options})
        side = options["side"] or 32
        return SimpleNamespace(options=SegmentOptions(**options), side=side, shots=1, fit=self.fit)

    def fit(self, query: Pixels, *, side: int | None = None, hints: object = None) -> Pixels:
        return query

    def answer_many(
        self,
        queries: Iterable[Pixels],
        prepared: SimpleNamespace,
        *,
        batch_size: int | str,
    ) -> Iterator[SimpleNamespace]:
        self.calls[-1]["batch_size"] = batch_size
        yield from (SimpleNamespace(read=partial(self.read, query)) for query in queries)

    def segment_many(self, queries: Iterable[Pixels], context: object, **options: Any) -> Iterator[Segmentation]:
        self.calls.append({"context": context, **options})
        yield from map(self.read, queries)

    def read(self, query: Pixels) -> Segmentation:
        shape = query.shape[:2]
        return Segmentation(np.full(shape, 2, np.uint8), np.ones(shape, np.float32), PALETTE)


@pytest.fixture
def everything(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Everything:
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
    commands = (["segment", "--help"], ["rank", "-h"], ["weights", "-h"], ["evaluate", "few-shot", "-h"])
    for arguments in (["--help"], ["-h"], *commands):
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
        (["segment", "x.jpg", "-o", "out", "--prompt", "a.jpg"], "Option '--prompt' requires 2 arguments"),
        (["segment", "x.jpg", "--prompt", "a.jpg", "-o", "out"], "Option '--prompt' requires 2 arguments"),
        (["segment", "x.jpg", "--prompt", "a.jpg", "a.png"], "Missing option '--out'"),
        (["segment", "x.jpg", "-o", "out"], "give --prompt IMAGE MASK or --prompts FOLDER"),
        (["segment", "--prompt", "a.jpg", "a.png", "-o", "out"], "Missing argument"),
        (["segment", "x", "--prompt", "a", "b", "-o", "out", "--task", "panoptic"], "'panoptic' is not one of"),
        (["segment", "x", "--prompt", "a", "b", "-o", "out", "--batch-size", "0"], "expected --batch-size as auto or"),
        (["segment", "x", "--prompt", "a", "b", "-o", "out", "--ensemble", "both"], "'both' is not one of"),
        (["segment", "x", "--prompt", "a", "b", "-o", "out", "--batch-sise", "4"], "--batch-sise"),
    ],
)
def test_mistyped_commands_are_refused(run: Callable[..., Done], arguments: list[str], sentence: str) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert sentence in done.err


def test_in_development_mode_errors_keep_their_traceback(photos: Path) -> None:
    command = [sys.executable, "-X", "dev", "-m", "incontext", "segment", "none", *EXAMPLE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=photos)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


# --------------------------------------------------------------------------------------------- segment


def test_segment_with_a_real_network(run: Callable[..., Done], photos: Path, weights: Path) -> None:
    image_file(photos / "PHOTOS" / "Größe 1 写真.jpg")
    image_file(photos / "PHOTOS" / "dot.png", width=1, height=1)
    image_file(photos / "PHOTOS" / "wide.png", width=4000, height=3)
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
    assert loading == {
        "name": "default",
        "device": "auto",
        "dtype": "auto",
        "compile": False,
        "min_presence": None,
        "backbone": None,
    }
    (prompt,) = segmenting.pop("context")
    assert (prompt.ids, prompt.image.shape) == ((2,), (24, 36, 3))
    usual = {"tiles": None, "refine": False, "batch_size": "auto"}
    assert segmenting == {"ensemble": "auto", "task": "instance", "side": None, **usual}

    everything.calls.clear()
    options = ["--weights", "w", "--device", "cuda:1", "--dtype", "float16", "--task", "semantic"]
    options += ["--ensemble", "spatial", "--side", "64", "--batch-size", "3", "--tiles", "96", "--refine"]
    options += ["--min-presence", "0.5"]
    assert run("segment", "PHOTOS", *EXAMPLE, *options, "--no-resume").status == 0
    loading, segmenting = everything.calls
    assert loading == {
        "name": "w",
        "device": "cuda:1",
        "dtype": "float16",
        "compile": False,
        "min_presence": 0.5,
        "backbone": None,
    }
    del segmenting["context"]
    given = {"tiles": 96, "refine": True, "batch_size": 3}
    assert segmenting == {"ensemble": "spatial", "task": "semantic", "side": 64, **given}


@pytest.mark.usefixtures("everything")
def test_inputs_are_folders_files_and_patterns(run: Callable[..., Done], photos: Path) -> None:
    assert run("segment", "PHOTOS/sub", "cat.jpg", "PHOTOS/*.jpg", *EXAMPLE).status == 0
    assert files(photos / "MASKS") == ["a.png", "b.png", "cat.png", "report.json"]


@pytest.mark.usefixtures("everything")
def test_overlays_and_confidences_when_asked(run: Callable[..., Done], photos: Path) -> None:
    assert run("segment", "PHOTOS/a.jpg", *EXAMPLE, "--overlay", "--save-confidence").status == 0
    assert files(photos / "MASKS") == ["a.png", "a_confidence.png", "a_overlay.jpg", "report.json"]


@pytest.mark.usefixtures("everything")
def test_a_broken_image_is_skipped_and_the_status_says_so(run: Callable[..., Done], photos: Path) -> None:
    (photos / "PHOTOS" / "[bold]broken:cat:.jpg").write_text("no image")
    done = run("segment", "PHOTOS", *EXAMPLE)
    assert done.status == 1
    assert "2 masks in MASKS" in done.out
    skipped, summary = done.err.splitlines()
    assert skipped.startswith("Skipped: PHOTOS/[bold]broken:cat:.jpg: ")
    assert summary == f"1 of 3 failed; {Path('MASKS', 'report.json')} says why."
    report = json.loads((photos / "MASKS" / "report.json").read_text())
    assert [Path(file["query"]).name for file in report["files"] if file["error"]] == ["[bold]broken:cat:.jpg"]


@pytest.fixture
def examples(photos: Path) -> Path:
    """EXAMPLES/ with three pairs in images/ and masks/, of ids 2, 3 and both, and one whose mask is empty."""
    folder = photos / "EXAMPLES"
    for name, ids in (("1", (2,)), ("2", (3,)), ("10", (2, 3)), ("11", ())):
        image_file(folder / "images" / f"{name}.jpg")
        mask = np.zeros((24, 36), np.uint8)
        for i in ids:
            mask[4 * i : 4 * i + 4, 4:20] = i
        (folder / "masks").mkdir(exist_ok=True)
        colors = np.zeros((256, 3), np.uint8)
        colors[2:4] = (255, 0, 0), (0, 0, 255)
        write_mask(folder / "masks" / f"{name}.png", mask, colors)
    return folder


@pytest.mark.filterwarnings("always::incontext.examples.pairs.PromptWarning")
@pytest.mark.usefixtures("examples")
def test_several_prompts(run: Callable[..., Done], photos: Path, everything: Everything) -> None:
    more = ("--prompts", "EXAMPLES", "--prompt=EXAMPLES/images/10.jpg", "EXAMPLES/masks/10.png")
    done = run("segment", "EXAMPLES", *EXAMPLE, *more)
    assert done.status == 1, done.err
    assert done.err.splitlines() == [
        f"Warning: 1 prompt given twice, used once: {Path('EXAMPLES/images/10.jpg')}",
        f"Warning: left out 1 prompt whose mask marks nothing: {Path('EXAMPLES/masks/11.png')}",
    ]
    context = everything.calls[-1]["context"]
    assert [prompt.ids for prompt in context] == [(2,), (2, 3), (2,), (3,)]
    assert context[0].palette.colors[:3].tolist() == [[0, 0, 0], [255, 0, 0], [0, 0, 255]]
    report = json.loads((photos / "MASKS" / "report.json").read_text())
    assert [Path(each["image"]).name for each in report["settings"]["prompts"]] == [
        "cat.jpg",
        "10.jpg",
        "1.jpg",
        "2.jpg",
    ]
    assert files(photos / "MASKS") == [*(f"images/{n}.png" for n in ("1", "10", "11", "2")), "report.json"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--prompt=cat.jpg", "cat.png", "-o", "MASKS", "PHOTOS"], 0),
        (["--prompt", "cat.jpg", "-cat.png", "-o", "MASKS", "PHOTOS"], 0),  # there is such a file
        (["--prompt", "cat.jpg", "--cat.png", "-o", "MASKS", "PHOTOS"], 2),
        (["--prompt", "cat.jpg", "cat.png", "-o", "MASKS", "--", "PHOTOS", "--prompt"], 0),  # a folder of that name
    ],
)
@pytest.mark.usefixtures("everything")
def test_ways_to_write_a_prompt(run: Callable[..., Done], photos: Path, arguments: list[str], status: int) -> None:
    (photos / "-cat.png").write_bytes((photos / "cat.png").read_bytes())
    image_file(photos / "--prompt" / "c.jpg")
    done = run("segment", *arguments)
    assert done.status == status, done.err
    assert (photos / "MASKS" / "c.png").exists() == ("--" in arguments)


@pytest.mark.filterwarnings("always::incontext.examples.pairs.PromptWarning")
@pytest.mark.usefixtures("everything")
def test_many_prompts_are_not_without_a_word(run: Callable[..., Done], photos: Path) -> None:
    for number in range(17):
        image_file(photos / "MANY" / f"{number}.jpg")
        (photos / "MANY" / f"{number}_mask.png").write_bytes((photos / "cat.png").read_bytes())
    done = run("segment", "PHOTOS", "--prompts", "MANY", "-o", "MASKS")
    assert done.status == 0, done.err
    assert done.err.startswith("Warning: 17 prompts: an image takes 8 times as long as with one, or longer; ")
    assert run("segment", "PHOTOS", "--prompts", "MANY", "-o", "SPATIAL", "--ensemble", "spatial").err == ""
    (photos / "MANY" / "16.jpg").unlink()
    done = run("segment", "PHOTOS", "--prompts", "MANY", "-o", "FEWER")
    assert done.err == f"Warning: MANY: left out 1 image without a mask: {Path('MANY/16_mask.png')}\n"


@pytest.mark.filterwarnings("always::incontext.examples.pairs.PromptWarning")
def test_several_prompts_with_a_real_network(run: Callable[..., Done], examples: Path, weights: Path) -> None:
    segment = (
        "segment",
        "PHOTOS",
        "--prompts",
        examples,
        "--weights",
        weights,
        "--device",
        "cpu",
        "--dtype",
        "float32",
    )
    confidences = []
    for out, ensemble in (("1", "feature"), ("2", "spatial")):
        assert run(*segment, "-o", out, "--ensemble", ensemble).status == 1  # a mask marks nothing
        report = json.loads(Path(out, "report.json").read_text())
        assert len(report["settings"]["prompts"]) == 3
        assert {i for file in report["files"] for i in file["ids"]} <= {2, 3}
        confidences.append([file["confidence"] for file in report["files"]])
    assert confidences[0] != confidences[1]


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
        (lambda: image_file(Path("PHOTOS/a.png")), ["PHOTOS", *EXAMPLE], "would both write MASKS/a.png"),
        (lambda: None, ["PHOTOS", *EXAMPLE[:-1], "PHOTOS"], "PHOTOS: expected another folder to write to"),
        (lambda: None, ["cat.jpg", *EXAMPLE[:-1], "."], "cat.png: this result would overwrite an image"),
        (lambda: Path("cat.jpg").unlink(), ["PHOTOS", *EXAMPLE], "cat.jpg: there is no such file"),
        (lambda: Path("cat.png").unlink(), ["PHOTOS", *EXAMPLE], "cat.png: there is no such file"),
        (change("cat.png", np.ones((24, 35), np.uint8)), ["PHOTOS", *EXAMPLE], "expected a mask of the image's size"),
        (change("cat.png", np.zeros((24, 36), np.uint8)), ["PHOTOS", *EXAMPLE], "the mask is empty"),
        (lambda: write_mask("cat.png", np.full((24, 36), 255, np.uint8), PALETTE.table), ["PHOTOS", *EXAMPLE], "255"),
        (smooth_mask, ["PHOTOS", *EXAMPLE], "--snap-colors"),
        (lambda: None, ["PHOTOS", *EXAMPLE, "--prompts", "PHOTOS"], "PHOTOS: expected images/ and masks/ "),
        (lambda: None, ["PHOTOS", *EXAMPLE, "--prompts", "cat.jpg"], "a context file, which is JSON"),
        (lambda: None, ["PHOTOS", *EXAMPLE, "--prompts", "none.json"], "none.json: there is no such file or folder"),
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
@pytest.mark.filterwarnings("default::incontext.images.masks.MaskWarning")
def test_a_warning_is_one_line(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    read = masks.read_mask

    def warn(*arguments: Any, **options: Any) -> masks.MaskFile:
        warnings.warn("cat.png: 3 stray colours", masks.MaskWarning, stacklevel=1)
        return read(*arguments, **options)

    monkeypatch.setattr("incontext.types.read_mask", warn)
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
        image_file(photos / "PHOTOS" / f"{number}.jpg")
    assert run("segment", "PHOTOS", *EXAMPLE).err == ""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    lines = run("segment", "PHOTOS", *EXAMPLE, "--no-resume").err.splitlines()
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


@pytest.mark.kill
def test_ctrl_c_leaves_a_report_and_status_130(photos: Path, weights: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 600, 3), np.uint8)
    for number in range(400):
        write_image(photos / "PHOTOS" / f"{number:03}.jpg", noise)
    command = [sys.executable, "-m", "incontext", "segment", "PHOTOS", *EXAMPLE, "--weights", str(weights)]
    running = subprocess.Popen(command, cwd=photos, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(list(photos.glob("MASKS/*.png"))) >= 3)
    running.send_signal(signal.SIGINT)
    _, complaint = running.communicate(timeout=PATIENCE)
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
    asked = {"name": "w", "device": "cpu", "dtype": "float32", "compile": False, "min_presence": None, "backbone": None}
    assert everything.calls[0] == asked
    assert "incontext segment " in done.out
    sheet = done.out.splitlines()[-1].removeprefix("All in one image: ")
    assert read_image(photos / sheet).size
    assert sheet.startswith("demo-output")
    (photos / "file").touch()
    done = run("demo", "-o", "file")
    assert done.status == 2
    assert done.err.startswith("Error: file")


# ------------------------------------------------------------------------------------------------ rank


def test_rank(run: Callable[..., Done], photos: Path, examples: Path, weights: Path) -> None:
    network = ("--weights", weights, "--device", "cpu", "--dtype", "float32")
    done = run("rank", examples, "--top", 2, "--report", "new/table.json", *network)
    assert done.status == 0, done.err
    head, _, *rows = done.out.splitlines()
    assert head == "| example | mean IoU | id 2 | id 3 | queries |"
    names = [row.split(" | ")[0].removeprefix("| ") for row in rows[:3]]
    assert sorted(names) == ["images/1.jpg", "images/10.jpg", "images/2.jpg"]
    assert all(row.endswith(" | 3 |") for row in rows[:3])  # the other two, and the one in which nothing is to be found
    assert json.loads((photos / "new" / "table.json").read_text())["examples"][0]["name"] == names[0]
    written = json.loads((photos / "context.json").read_text())
    chosen = [each["image"].removeprefix("EXAMPLES/") for each in written["prompts"]]
    assert rows[4] == f"context.json: {', '.join(chosen)}"
    assert rows[5].startswith("Mean IoU on the other 2 images: together 0.")
    assert len(chosen) == 2
    assert written["chosen_by"]["command"] == "incontext rank"
    assert written["chosen_by"]["side"] == 32
    assert set(written["chosen_by"]["mean_iou"]) == set(chosen)

    done = run("segment", "PHOTOS", "--prompts", "context.json", "-o", "MASKS", *network)
    assert done.status == 0, done.err
    report = json.loads((photos / "MASKS" / "report.json").read_text())
    assert [each["image"] for each in report["settings"]["prompts"]] == [f"EXAMPLES/{name}" for name in chosen]


def test_rank_passes_its_options_on(
    run: Callable[..., Done], examples: Path, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    done = run("rank", examples, "--weights", "w", "--device", "cpu", "--dtype", "float16", "--top", 1)
    assert done.status == 0, done.err
    loading = {
        "name": "w",
        "device": "cpu",
        "dtype": "float16",
        "compile": False,
        "min_presence": None,
        "backbone": None,
    }
    assert everything.calls[0] == loading
    assert done.err.splitlines()[-1].startswith("9/9 answers, ")
    assert "None of them shows id 3; choose more with --top" in done.out
    assert (
        run("rank", examples, "--task", "semantic", "--side", 64, "--limit", 2, "--top", 3, "-o", "new/c.json").status
        == 0
    )
    asked = everything.calls[-1]
    assert (asked["task"], asked["side"]) == ("semantic", 64)
    assert json.loads(Path("new/c.json").read_text())["chosen_by"]["side"] == 64
    assert (
        run("rank", "new/c.json", "--top", 2, "-o", "new/c.json").status == 0
    )  # a context may be ranked, and replaced
    assert len(json.loads(Path("new/c.json").read_text())["prompts"]) == 2
    with_strays = np.zeros((24, 36, 3), np.uint8)
    with_strays[:, 10:20] = 255
    with_strays[:, 20:30] = np.linspace(250, 5, 10).astype(np.uint8)[:, None]
    for name in ("1", "2"):
        Image.fromarray(with_strays).save(examples / "masks" / f"{name}.png")
    assert "2 of 4 prompts cannot be used" in run("rank", examples).err
    assert run("rank", examples, "--snap-colors").status == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere: there is no such file or folder"),
        (["PHOTOS"], "PHOTOS: expected images/ and masks/"),
        (["EXAMPLES/images"], "EXAMPLES meant?"),
        (["EXAMPLES", "--top", "4"], "expected --top to be at most 3, as many as there are examples, got 4"),
        (["EXAMPLES", "-o", "c.json"], "expected --top N beside --out"),
        (["EXAMPLES", "--top", "1", "-o", "cat.png"], "cat.png: expected a new file, or a context file to replace"),
        (["EXAMPLES", "--top", "1", "-o", "PHOTOS"], "PHOTOS: expected a file to write the context to, got a folder"),
        (["EXAMPLES", "--weights", "nothing"], "there is no file 'nothing' and no weights"),
        (["one.json"], "expected at least two examples, as each is tried on the others, got 1"),
    ],
)
@pytest.mark.usefixtures("examples")
def test_what_rank_refuses_is_one_sentence(
    run: Callable[..., Done], photos: Path, arguments: list[str], sentence: str
) -> None:
    prompts = [{"image": "cat.jpg", "mask": "cat.png"}]
    (photos / "one.json").write_text(json.dumps({"format": "incontext context 1", "prompts": prompts}))
    before = files(photos)
    done = run("rank", *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1
    assert sentence in done.err
    assert files(photos) == before


def test_a_stopped_ranking_writes_nothing(
    run: Callable[..., Done], photos: Path, examples: Path, everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> Iterator[Segmentation]:
        raise KeyboardInterrupt

    monkeypatch.setattr(everything, "segment_many", stop)
    before = files(photos)
    assert run("rank", examples, "--top", 2) == Done(130, "", "Stopped after 0 answers; nothing was written.\n")
    assert files(photos) == before


@pytest.mark.usefixtures("examples")
def test_help_and_refusals_do_not_wait_for_torch(photos: Path) -> None:
    program = """
import sys
from incontext.cli import main
refused = ["segment", "x", "--prompts", "EXAMPLES", "-o", "y"]
for arguments in (["segment", "-h"], ["rank", "-h"], ["rank", "nowhere"], refused):
    try:
        main(arguments)
    except SystemExit:
        assert "torch" not in sys.modules, arguments
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=photos)
    assert done.returncode == 0, done.stderr
    assert "x: there is no such file or folder" in done.stderr


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
    monkeypatch.setattr(registry, "weights_folder", lambda: folder)
    monkeypatch.setattr(registry, "cached_path", lambda entry: None if entry.hub else folder / str(entry.file))


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
def test_weights_average(run: Callable[..., Done], weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "mean.safetensors"
    done = run("weights", "average", "tiny", weights, "--shares", "7,3", "-o", target, "--dtype", "float16")
    assert done.status == 0, done.err
    assert done.out.startswith(f"{target}: float16, ")
    shares = [each["share"] for each in json.loads(checkpoint.info(target).metadata["average"])]
    assert shares == [0.7, 0.3]
    done = run("weights", "average", weights, weights, "--shares", "seven", "-o", target)
    assert done.status == 2
    assert '--shares as numbers with commas between, such as "7,3"' in done.err


@pytest.mark.usefixtures("manifest")
def test_weights_download(run: Callable[..., Done], tmp_path: Path) -> None:
    done = run("weights", "download", "tiny")
    assert (done.status, done.out.strip()) == (0, str(tmp_path / "registry" / "tiny.safetensors"))
    done = run("weights", "download", "no-such-name")
    assert done.status == 2
    assert "tiny, far" in done.err


# --------------------------------------------------------------------------------- training, evaluation


def labelled(folder: Path, count: int) -> Path:
    """`count` images with masks: a bright square, id 1."""
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


@pytest.mark.slow
def test_weights_get_a_presence_head_and_leave_out_what_is_not_there(
    run: Callable[..., Done], photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(recipes.RECIPES["presence"], stages=(recipes.Stage(32, 2, 2),))
    monkeypatch.setitem(recipes.RECIPES, "presence", small)
    data = labelled(photos / "squares", 20)
    done = run(
        "train", data, "--recipe", "presence", "--init", weights, "-o", "HEAD", "--device", "cpu", "--workers", 0
    )
    assert done.status == 0, done.err
    with_head, without = load_model("HEAD/model.safetensors"), load_model(weights)
    assert with_head.config == replace(without.config, presence=small.model.presence)
    for name, value in without.state_dict().items():
        assert torch.equal(value, with_head.state_dict()[name]), name
    for bar, empty in (("0", 0), ("1", 2)):
        arguments = ("segment", "PHOTOS", *EXAMPLE, "--weights", "HEAD/model.safetensors", "--min-presence", bar)
        assert run(*arguments, "--no-resume").status == 0
        report = json.loads((photos / "MASKS" / "report.json").read_text())
        assert report["totals"]["empty"] == empty
        assert [list(file["presence"]) for file in report["files"]] == [["2"]] * 2
        assert all(0 < file["presence"]["2"] < 1 for file in report["files"])
    done = run(*arguments[:-1], "0.5")
    assert done.status == 2
    assert "min_presence was 1.0, now 0.5" in done.err  # these masks are another job's
    assert run(*arguments[:-1], "1.5").status == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--recipe", "grand"],
            "expected a recipe among default, presence, distill, smoke, large, or a JSON file of one, got 'grand'",
        ),
        (["--recipe", "presence"], "expected --init with weights whose network is to get a presence head"),
        (["--init", "other.safetensors"], "other.safetensors: expected weights of width 32, 2 heads and 128 channels"),
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
    save_model("other.safetensors", SegGPT(replace(small_recipe.model, width=64)))
    recipe = [] if "--recipe" in arguments else ["--recipe", "smoke"]
    done = run("train", "-o", "run", *recipe, *arguments)
    assert done.status == 2
    assert sentence in done.err
    assert not Path("run").exists()


@pytest.fixture
def scored(tmp_path: Path, weights: Path) -> tuple[object, ...]:
    """The command without its own options, on a set of four images with three fixed episodes of three prompts."""
    labelled(tmp_path / "data" / "squares", 4)
    episodes = [{"id": 1, "query": str(i), "prompts": ["0", "1", "2"]} for i in (3, 1, 2)]
    (tmp_path / "data" / "episodes.json").write_text(
        json.dumps({"squares": {"instances_as_one": False, "episodes": episodes}})
    )
    return ("evaluate", "few-shot", tmp_path / "data", "--weights", weights, "--device", "cpu", "--dtype", "float32")


def test_evaluate_few_shot(
    run: Callable[..., Done], tmp_path: Path, weights: Path, scored: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    out = tmp_path / "new" / "scores"
    done = run(*scored, "-o", out)
    assert done.status == 0, done.err
    assert "| set | 1 shot, feature | 2 shots, feature | 2 shots, spatial | copy the mask |" in done.out
    assert "| squares |" in done.out
    assert "3/3 episodes" in done.err
    assert files(out) == ["answers.jsonl", "report.html", "report.json", "report.md"]
    written = json.loads((out / "report.json").read_text())
    assert written["about"]["weights"] == str(weights)
    assert written["about"]["weights_sha256"] == info(weights).sha256
    assert [(each["method"], each["shots"]) for each in written["columns"] if not each["baseline"]] == [
        ("feature", 1), ("feature", 2), ("spatial", 2),
    ]  # fmt: skip
    assert written["columns"][0]["sets"][0]["episodes"] == 3
    assert (out / "report.html").read_text().count("<img") == 3 * 4
    asked = (out / "answers.jsonl").read_text()
    again = run(*scored, "-o", out)
    assert again.out == done.out
    assert (out / "answers.jsonl").read_text() == asked, "nothing was asked again"
    assert json.loads((out / "report.json").read_text()) == written

    done = run(*scored, "-o", out, "--side", 64)
    assert done.status == 2
    assert "other settings (side was " in done.err


def test_answers_of_other_data_are_not_taken(
    run: Callable[..., Done], tmp_path: Path, scored: tuple[object, ...]
) -> None:
    """Nor where only what the ids mean has changed."""
    out = tmp_path / "scores"
    assert run(*scored, "--shots", "2,1", "--limit", 1, "-o", out).status == 0
    written = json.loads((out / "report.json").read_text())
    assert [each["shots"] for each in written["columns"] if each["method"] == "feature"] == [1, 2]
    (tmp_path / "data" / "squares" / "dataset.json").write_text(json.dumps({"masks": "instances"}))
    done = run(*scored, "--shots", "2,1", "--limit", 1, "-o", out)
    assert (done.status, "other settings (data was " in done.err) == (2, True)


def test_evaluate_few_shot_options(run: Callable[..., Done], tmp_path: Path, scored: tuple[object, ...]) -> None:
    def scores(*options: object) -> dict[str, Any]:
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        done = run(*scored, "-o", out, *options)
        assert done.status == 0, done.err
        written: dict[str, Any] = json.loads((out / "report.json").read_text())
        return {**written, "images": (out / "report.html").read_text().count("<img")}

    usual = scores("--shots", "1")
    few = scores("--shots", "2, 3", "--limit", 1, "--task", "semantic", "--ensembles", "spatial", "--hide", "squares")
    assert [(each["method"], each["shots"]) for each in few["columns"]][:2] == [("spatial", 2), ("spatial", 3)]
    assert (few["columns"][0]["sets"][0]["episodes"], few["about"]["task"], few["images"]) == (1, "semantic", 0)
    assert scores("--shots", 1, "--side", 64)["about"]["side"] == 64
    assert scores("--shots", 1, "--dtype", "bfloat16")["about"]["dtype"] == "bfloat16"
    drawn = scores("--episodes", 5, "--shots", 1, "--sets", "squares")
    assert drawn["columns"][0]["sets"][0]["episodes"] == 5
    other = scores("--episodes", 5, "--shots", 1, "--seed", 1)
    copied = [{each["method"]: each for each in of["columns"]}["copy the mask"] for of in (usual, drawn, other)]
    assert len({tuple(each["sets"][0]["episode_iou"]) for each in copied}) == 3
    (tmp_path / "data" / "episodes.json").unlink()
    again = {each["method"]: each for each in scores("--shots", 1, "--episodes", 5)["columns"]}["copy the mask"]
    assert again["mean_iou"] == copied[1]["mean_iou"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--shots", 9], "expected 1 to 3 shots"),
        (["--shots", "1,1"], "expected --shots as different numbers of at least 1"),
        (["--shots", "two"], "such as \"1,4\"; got 'two'"),
        (["--ensembles", "mean"], "expected --ensembles as feature, spatial"),
        (["--sets", "circles"], "expected sets out of squares, got circles"),
        (["--hide", "circles"], "expected --hide to name sets out of squares, got circles"),
    ],
)
def test_evaluate_few_shot_refuses_in_one_sentence(
    run: Callable[..., Done], scored: tuple[object, ...], options: list[object], sentence: str
) -> None:
    done = run(*scored, *options)
    assert done.status == 2
    assert sentence in done.err
    assert done.out == ""


def test_evaluate_few_shot_without_data(run: Callable[..., Done], tmp_path: Path, weights: Path) -> None:
    done = run("evaluate", "few-shot", tmp_path, "--weights", weights)
    assert done.status == 2
    assert "expected episodes.json in" in done.err
