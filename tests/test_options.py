"""Options are declared once: what that takes, and that every way to segment takes a new one from there."""

import inspect
import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import incontext
from incontext import options
from incontext.engine import Segmenter
from incontext.folder import rehearse, segment_folder
from incontext.folder.ray.job import segment_on_ray
from incontext.network.checkpoint import STORED_DTYPES
from incontext.network.layouts import LAYOUTS
from incontext.options import DEFAULTS, SegmentKeywords, SegmentOptions, tiles_of
from incontext.video import Tracker, track

PACKAGE = Path(incontext.__file__).parent


def test_keywords_are_the_fields() -> None:
    assert get_type_hints(SegmentKeywords) == get_type_hints(SegmentOptions)
    assert SegmentOptions(**DEFAULTS.keywords()) == DEFAULTS
    assert json.loads(json.dumps(DEFAULTS.plain())) == DEFAULTS.plain()


def test_words_are_those_of_the_library() -> None:
    assert set(get_args(options.Layout)) == set(LAYOUTS)
    assert set(get_args(options.StoredDtype)) == set(STORED_DTYPES)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"ensemble": "both"}, "expected ensemble auto, feature or spatial, got 'both'"),
        ({"task": "panoptic"}, "expected task instance or semantic, got 'panoptic'"),
        ({"tiles": 15}, 'expected tiles as "auto" or at least 16 pixels, got 15'),
        ({"tiles": True}, 'expected tiles as "auto" or at least 16 pixels, got True'),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SegmentOptions(**wrong)


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="ensembel"):
        SegmentOptions(ensembel="feature")  # type: ignore[call-arg]


def test_sizes_of_windows_as_people_write_them() -> None:
    assert (tiles_of("auto"), tiles_of("512")) == ("auto", 512)
    for text in ("15", "x", "", "-3", "1e3"):
        with pytest.raises(ValueError, match="expected --tiles as auto or a number"):
            tiles_of(text)


@pytest.mark.parametrize(
    "function",
    [
        Segmenter.prepare,
        Segmenter.segment,
        Segmenter.segment_many,
        segment_folder,
        segment_on_ray,
        track,
        Tracker.__init__,
    ],
)
def test_help_shows_every_option_with_its_default(function: Any) -> None:
    parameters = inspect.signature(function).parameters
    for option in fields(SegmentOptions):
        assert parameters[option.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[option.name].default == option.default
        assert f"{option.name}: " in function.__doc__
    assert inspect.Parameter.VAR_KEYWORD not in {each.kind for each in parameters.values()}


def test_folder_jobs_share_one_signature() -> None:
    shared = [
        list(inspect.signature(each).parameters.values())[1:] for each in (segment_folder, segment_on_ray, rehearse)
    ]
    assert shared[0] == shared[1] == shared[2]


# What a developer would write for an option that turns a query upside down: its declaration, and what it does.
PLANTED = {
    "options.py": [
        (
            "    def __post_init__(self) -> None:\n        for name, words",
            """    flip: bool = field(
        default=False, metadata=_about("Turn queries upside down.", "Turn images upside down.")
    )

    def __post_init__(self) -> None:
        for name, words""",
        ),
        ("    refine: bool\n", "    refine: bool\n    flip: bool\n"),
    ],
    "engine.py": [
        (
            "        return fit_query(read_image(query), self.side,",
            """        image = read_image(query)
        image = image[::-1] if self.options.flip else image
        return fit_query(image, self.side,""",
        ),
    ],
}

# Everything that takes options, in a process that has the package with the new one.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
from incontext.cli.options import app
from incontext.engine import Segmenter
from incontext.folder import open_report, plan, rehearse, segment_folder
from incontext.folder.ray.workers import RayNetworks, Setup
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.options import SegmentOptions
from incontext.types import Prompt
from incontext.video.plan import plan_track
import inspect, typer.main

torch.manual_seed(0)
small = ModelConfig(width=32, heads=2, depth=2, patch=4, side=16, decoder_width=8, merge_layer=0, taps=(0, 1),
                    pretrain_side=16)
segmenter = Segmenter(SegGPT(small), device="cpu", dtype="float32")
rng = np.random.default_rng(0)
image = rng.integers(0, 256, (16, 16, 3), np.uint8)
mask = np.zeros((16, 16), np.uint8); mask[:8] = 1
prompt = Prompt(image, mask)
there = Path(sys.argv[1])
(there / "in").mkdir(parents=True)
Image.fromarray(image).save(there / "in" / "a.png")
plain, flipped = (segmenter.segment(image, prompt, flip=flip).confidence for flip in (False, True))
job = plan([there / "in"], there / "out")
report = segment_folder(segmenter, job, prompt, flip=True)
try:
    segment_folder(segmenter, job, prompt)
    refused = ""
except ValueError as error:
    refused = str(error)
commands = typer.main.get_command(app).commands
few_shot = commands["evaluate"].commands
known = {**commands, **{f"evaluate {name}": each for name, each in few_shot.items()}}
print(json.dumps({
    "changes": bool((plain != flipped).any()),
    "settings": report.settings["flip"],
    "identity": report.job["flip"],
    "refused": refused,
    "track": plan_track(there / "in", there / "tracks", mask=mask, flip=True).options.flip,
    "ray": Setup(RayNetworks(), prompt, job.outputs, SegmentOptions(flip=True)).options.flip,
    "rehearsal": rehearse(segmenter, plan([there / "in"], there / "other"), prompt, flip=True).queries,
    "help": inspect.signature(Segmenter.segment).parameters["flip"].default,
    "commands": sorted(name for name, each in known.items() if any("--flip" in p.opts for p in each.params)),
}))
"""


@pytest.mark.slow
def test_a_new_option_touches_two_files(tmp_path: Path) -> None:
    copy = tmp_path / "code" / "incontext"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "demo_masks"))
    for name, edits in PLANTED.items():
        text = (copy / name).read_text(encoding="utf-8")
        for old, new in edits:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (copy / name).write_text(text, encoding="utf-8")
    touched = [
        path.relative_to(copy).as_posix()
        for path in sorted(copy.rglob("*.py"))
        if path.read_bytes() != (PACKAGE / path.relative_to(copy)).read_bytes()
    ]
    assert len(touched) <= 2
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "there")],
        cwd=copy.parent,
        env={"PATH": "", "PYTHONPATH": str(copy.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "flip was true, now false" in found.pop("refused")
    assert found == {
        "changes": True,
        "settings": True,
        "identity": True,
        "track": True,
        "ray": True,
        "rehearsal": 1,
        "help": False,
        "commands": ["bench", "evaluate few-shot", "evaluate video", "mark", "rank", "segment", "track", "ui"],
    }
