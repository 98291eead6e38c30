"""Prompters and namers on tiny random networks in the layouts of published ones, opened by the registry's own path."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from commands import Done, runner
from PIL import Image
from safetensors.numpy import load_file, save_file

import incontext as package
from incontext import CheckpointError, Hints, load_namer, load_prompter
from incontext.images.masks import read_mask
from incontext.images.read import read_image
from incontext.prompters import NothingFoundError
from incontext.prompters.files import find_files
from incontext.prompters.registry import registry

pytest.importorskip("transformers", minversion="5", reason="needs the extra prompters")

pytestmark = pytest.mark.slow
IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
CLICKERS = ("sam", "sam_hq", "sam2", "sam2_video", "sam3_video")
DETECTORS = ("grounding-dino", "mm-grounding-dino", "owlv2")
READERS = ("clipseg", "groupvit", "sam3_video")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny model, made when it is first asked for."""
    root = tmp_path_factory.mktemp("models")

    def of(family: str) -> Path:
        folder = root / family
        return folder if folder.is_dir() else tiny_models.save_model(folder, family)

    return of


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Whoever opens a connection fails; and it is noted, so that swallowing the failure does not help."""
    asked: list[object] = []

    def refuse(_: socket.socket, address: object) -> None:
        asked.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield asked
    assert not asked


@pytest.fixture
def incontext(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    return runner(capsys)


# ------------------------------------------------------------------------------- opening, by the registry's own path


def in_cache(cache: Path, repository: str, folder: Path) -> None:
    """Lay a model's files where the hub's client keeps those of a repository."""
    place = cache / f"models--{repository.replace('/', '--')}"
    snapshot = place / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(folder, target_is_directory=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)


def test_a_name_is_found_where_the_hub_keeps_it(
    models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, incontext: Callable[..., Done]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"incontext prompters download sam2\.1"):
        load_prompter("sam2.1")
    in_cache(tmp_path, "facebook/sam2.1-hiera-base-plus", models("sam2_video"))
    with load_prompter("sam2.1", device="cpu") as prompter:
        assert prompter.takes_hints
        assert not prompter.takes_text
        assert prompter.sha256 == find_files(models("sam2_video")).sha256
    done = incontext("prompters", "list")
    assert done.status == 0
    here = {line.split()[0]: "on this machine" in line for line in done.out.splitlines()}
    assert here == {name: name == "sam2.1" for name in registry()}


@pytest.mark.parametrize("family", CLICKERS)
def test_hints_become_a_mask_of_the_image_s_size(models: Callable[[str], Path], family: str) -> None:
    hints = Hints(points=[(10, 10, 1), (60, 40, 0)], boxes=[(30, 5, 60, 30, 7)])
    with load_prompter(models(family), device="cpu") as prompter:
        found = prompter.segment(IMAGE, hints=hints)
        again = prompter.segment(IMAGE, hints=hints)
        corrected = prompter.segment(IMAGE, hints=Hints(points=[(10, 10, 1)]), start=np.ones((50, 70), np.uint8))
        proposals = prompter.propose(IMAGE, points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0)
    assert found.mask.shape == (50, 70)
    assert set(np.unique(found.mask)) <= {0, 1, 7}
    assert np.array_equal(found.mask, again.mask)
    assert set(found.presence) == {1, 7}
    assert corrected.mask[10, 10] == 1
    assert proposals.size == (50, 70)
    assert len(proposals) <= 16


@pytest.mark.parametrize("family", READERS)
def test_text_becomes_a_mask_of_the_image_s_size(models: Callable[[str], Path], family: str) -> None:
    with load_prompter(models(family), device="cpu", min_score=1e-6) as prompter:
        found = prompter.segment(IMAGE, text=["cat", "red car"])
        prompt = prompter.prompt(IMAGE, text=["cat", "red car"])
        one = prompter.refer(IMAGE, "the cat")
    assert found.mask.shape == one.mask.shape == (50, 70)
    assert set(found.presence) == {1, 2}
    assert set(one.ids) <= {1}
    assert set(prompt.names.values()) <= {"cat", "red car"}
    assert prompt.names
    assert np.array_equal(prompt.mask, found.mask)


@pytest.mark.parametrize("family", DETECTORS)
def test_a_detector_and_sam_read_text_together(models: Callable[[str], Path], family: str) -> None:
    name = f"{models(family)}+{models('sam')}"
    with load_prompter(name, device="cpu", min_score=1e-6) as prompter:
        found = prompter.segment(IMAGE, text=["cat", "dog"])
        hinted = prompter.segment(IMAGE, hints=Hints(points=[(20, 20, 3)]))
        assert prompter.takes_text
        assert prompter.takes_hints
    assert found.mask.shape == (50, 70)
    assert set(found.presence) == {1, 2}
    assert set(hinted.presence) == {3}


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_namer_scores_names(models: Callable[[str], Path], family: str) -> None:
    ids = np.zeros((50, 70), np.uint8)
    ids[5:20, 5:30], ids[30:45, 40:60] = 1, 2
    empty = np.zeros((50, 70), np.bool_)
    with load_namer(models(family), device="cpu") as namer:
        both = namer.name(IMAGE, ids, ["cat", "dog"], at_least=0.0)
        none = namer.name(IMAGE, ids, ["cat", "dog"], at_least=1.0)
        nothing = namer.name(IMAGE, [empty], ["cat", "dog"])
    assert len(both) == 2
    assert all(name in ("cat", "dog", None) and 0 <= score <= 1 for name, score in both)
    assert [name for name, _ in none] == [None, None]
    assert nothing == [(None, 0.0)]


# --------------------------------------------------------------------------------------------------------- refusals


def test_a_missing_tensor_is_refused_by_name(models: Callable[[str], Path], tmp_path: Path) -> None:
    for file in models("sam2").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in sorted(tensors) if "mask_decoder" in name)
    del tensors[gone]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"1 missing: {gone}"):
        load_prompter(tmp_path)


def test_damaged_foreign_and_absent_files_are_refused(models: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*nothing"):
        load_prompter(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"without config\.json"):
        load_prompter(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="family 'bert', which is no prompter"):
        load_prompter(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    with pytest.raises(CheckpointError, match="do not open"):
        load_prompter(tmp_path)
    with pytest.raises(ValueError, match="no namer"):
        load_namer(models("sam"))
    with pytest.raises(ValueError, match="fills none"):
        load_prompter(models("owlv2"))
    with pytest.raises(ValueError, match="reads text and one that answers hints"):
        load_prompter(f"{models('sam')}+{models('sam')}")


def test_gated_absent_and_offline_are_three_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    from incontext.prompters.files import download

    response = httpx.Response(403, request=httpx.Request("GET", "https://example.invalid"))
    sentences = {
        GatedRepoError("gated", response=response): (PermissionError, "gated: its owners"),
        RepositoryNotFoundError("gone", response=response): (FileNotFoundError, "has no repository"),
        ConnectionError("down"): (FileNotFoundError, "cannot be reached"),
    }
    for error, (kind, sentence) in sentences.items():

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
        with pytest.raises(kind, match=sentence):
            download("sam3", say=lambda _: None)
    with pytest.raises(ValueError, match="no model named 'sam9'"):
        download("sam9", say=lambda _: None)


def test_the_licence_is_said_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from types import SimpleNamespace

    import huggingface_hub

    from incontext.prompters import files

    told: list[str] = []
    order: list[str] = []
    card = SimpleNamespace(license="apache-2.0", license_name=None)
    about = SimpleNamespace(card_data=card, sha="0" * 40, siblings=[SimpleNamespace(rfilename="model.safetensors")])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: about)

    def fetch(*_: object, **__: object) -> str:
        order.append("fetched" if told else "fetched unsaid")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(files, "cached_folder", lambda _: tmp_path)
    assert files.download("sam2.1", say=told.append) == tmp_path
    assert order == ["fetched"]
    assert "apache-2.0" in told[0]


def test_texts_that_cannot_be_used_are_refused(models: Callable[[str], Path]) -> None:
    for family in ("clipseg", "sam3_video"):
        with load_prompter(models(family), device="cpu") as prompter:
            for text, sentence in (
                ("", "with words in it"),
                (" . ,", "with words in it"),
                ([], "got none"),
                (["Cat", "cat"], "different phrases"),
                ([f"cat{i}" for i in range(255)], "at most 254 phrases"),
                ("cat " * 90, "tokens"),
            ):
                with pytest.raises(ValueError, match=sentence):
                    prompter.segment(IMAGE, text=text)
            with pytest.raises(ValueError, match="got neither"):
                prompter.segment(IMAGE)
    with pytest.raises(ValueError, match="after it was closed"):
        prompter.segment(IMAGE, text="cat")


def test_what_a_prompter_cannot_do_is_said(models: Callable[[str], Path]) -> None:
    hints = Hints(points=[(20, 20, 1)])
    with load_prompter(models("clipseg"), device="cpu") as reader:
        for ask in (lambda: reader.segment(IMAGE, hints=hints), lambda: reader.propose(IMAGE)):
            with pytest.raises(ValueError, match="answers no hints"):
                ask()
    with load_prompter(models("sam"), device="cpu") as clicker:
        with pytest.raises(ValueError, match="reads no text"):
            clicker.segment(IMAGE, text="cat")
        with pytest.raises(ValueError, match="within the image"):
            clicker.segment(IMAGE, hints=Hints(boxes=[(10, 10, 90, 40, 1)]))
        with pytest.raises(ValueError, match="mask of the image's size"):
            clicker.segment(IMAGE, hints=hints, start=np.zeros((5, 5), np.uint8))


def test_nothing_found_is_an_empty_mask_and_no_example(models: Callable[[str], Path]) -> None:
    with load_prompter(models("clipseg"), device="cpu", min_score=0.999999) as prompter:
        found = prompter.segment(IMAGE, text="cat")
        assert found.is_empty
        assert found.presence == {1: 0.0}
        with pytest.raises(NothingFoundError, match="found nothing for 'cat'"):
            prompter.prompt(IMAGE, text="cat")


# ------------------------------------------------------------------------------------------------------ command line


def test_mark_by_a_prompter(models: Callable[[str], Path], tmp_path: Path, incontext: Callable[..., Done]) -> None:
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    Image.fromarray(IMAGE).save(image)
    done = incontext("mark", image, "--prompter", models("sam2"), "--point", "20,20", "-o", mask, "--device", "cpu")
    assert done.status == 0, done.err
    assert read_mask(mask).ids.shape == (50, 70)
    both = f"{models('owlv2')}+{models('sam')}"
    for asked in (("--text", "cat", "--text", "dog"), ("--refer", "the cat")):
        done = incontext("mark", image, "--prompter", both, *asked, "-o", mask, "--device", "cpu")
        assert done.status == 0, done.err
    for wrong, sentence in (
        (("--text", "cat"), "expected --prompter with --text"),
        (("--prompter", both), "got nothing"),
        (("--prompter", both, "--refer", "cat", "--text", "cat"), "--refer alone"),
        (("--prompter", models("sam"), "--text", "cat"), "reads no text"),
    ):
        done = incontext("mark", image, *wrong, "-o", mask)
        assert done.status == 2
        assert sentence in done.err


def test_propose_and_verify_by_a_prompter(
    models: Callable[[str], Path], tmp_path: Path, incontext: Callable[..., Done]
) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(IMAGE).save(image)
    done = incontext(
        "propose", image, "--prompter", models("sam"), "--points-per-side", "2", "-o", tmp_path / "out",
        "--device", "cpu",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert (tmp_path / "out" / "image.json").is_file()
    done = incontext("propose", image, "--prompter", models("clipseg"), "-o", tmp_path / "out2", "--device", "cpu")
    assert done.status == 2
    assert "answers clicks" in done.err
    done = incontext("prompters", "verify", models("sam"), "-o", tmp_path / "seen.jpg", "--device", "cpu")
    assert done.status == 0, done.err
    assert "IoU with the disc" in done.out
    assert read_image(tmp_path / "seen.jpg").shape == (240, 320, 3)
    done = incontext("prompters", "verify", models("clip"), "--device", "cpu")
    assert done.status == 0, done.err
    assert find_files(models("clip")).sha256 in done.out


def test_the_public_names_are_there() -> None:
    named: dict[str, Any] = {name: getattr(package, name) for name in ("load_prompter", "load_namer")}
    assert all(callable(value) for value in named.values())
