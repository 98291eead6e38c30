"""Weights on disk: every layout in and out, what damaged and hostile files get, the registry, the hub."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from waiting import PATIENCE

from incontext.network import checkpoint, registry
from incontext.network.checkpoint import STORED_DTYPES
from incontext.network.config import ModelConfig
from incontext.network.layouts import LAYOUTS, CheckpointError, published_name, transformers_name
from incontext.network.model import SegGPT
from incontext.options import Layout, StoredDtype

NOTES = {"recipe": "none: random", "steps": "0"}


@pytest.fixture
def model(tiny_config: ModelConfig) -> SegGPT:
    """A network in which no two tensors are alike, so that none can be mistaken for another."""
    return random_model(tiny_config)


def random_model(config: ModelConfig) -> SegGPT:
    model = SegGPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def name_of(folder: Path, layout: Layout) -> Path:
    return folder / {"incontext": "w.safetensors", "published": "w.pth", "transformers": "w"}[layout]


def assert_same(found: SegGPT, expected: SegGPT, dtype: torch.dtype = torch.float32) -> None:
    """The same configuration, and the same weights to the last bit of their stored dtype."""
    assert found.config == expected.config
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value.to(dtype).float()), name


# --- layouts


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", STORED_DTYPES)
def test_a_model_comes_back_bit_for_bit(tmp_path: Path, model: SegGPT, layout: Layout, dtype: StoredDtype) -> None:
    path = name_of(tmp_path, layout)
    checkpoint.save_model(path, model, metadata=NOTES, layout=layout, dtype=dtype)
    found = checkpoint.load_model(path)
    assert_same(found, model, STORED_DTYPES[dtype])
    assert not found.training
    assert {(p.dtype, p.device.type, p.requires_grad) for p in found.parameters()} == {(torch.float32, "cpu", True)}
    assert checkpoint.read_config(path) == model.config
    described = checkpoint.info(path)
    assert (described.layout, described.dtype, described.metadata) == (layout, dtype, NOTES)
    assert described.parameters == sum(p.numel() for p in model.parameters())
    file = path / "model.safetensors" if layout == "transformers" else path
    assert described.path == file
    assert described.bytes == file.stat().st_size
    assert described.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_chain_of_conversions_ends_where_it_began(tmp_path: Path, model: SegGPT) -> None:
    first = tmp_path / "first.safetensors"
    checkpoint.save_model(first, model, metadata=NOTES, dtype="float16")
    source = first
    for number, layout in enumerate(("published", "transformers", "published", "incontext")):
        target = tmp_path / f"{number}"
        described = checkpoint.convert(source, target, layout=layout)
        assert (described.layout, described.dtype, described.metadata) == (layout, "float16", NOTES)
        source = target
    assert source.read_bytes() == first.read_bytes()
    assert checkpoint.convert(source, tmp_path / "wide", dtype="float32").dtype == "float32"


def test_the_average_of_weights(tmp_path: Path, model: SegGPT, tiny_config: ModelConfig) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.pth"]
    other = random_model(tiny_config)
    checkpoint.save_model(paths[0], model, metadata=NOTES)
    checkpoint.save_model(paths[1], other, layout="published")
    described = checkpoint.average(paths, tmp_path / "mean.safetensors", shares=[3, 1])
    hashes = [checkpoint.info(path).sha256 for path in paths]
    made_of = [{"sha256": hashes[0], "share": 0.75}, {"sha256": hashes[1], "share": 0.25}]
    assert described.metadata == {**NOTES, "average": json.dumps(made_of)}
    found = checkpoint.load_model(tmp_path / "mean.safetensors").state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], 0.75 * value + 0.25 * other.state_dict()[name])
    checkpoint.average([paths[0], paths[0]], tmp_path / "same.safetensors")
    assert_same(checkpoint.load_model(tmp_path / "same.safetensors"), model)


def test_what_cannot_be_averaged(tmp_path: Path, model: SegGPT, tiny_config: ModelConfig) -> None:
    one, wider = tmp_path / "one.safetensors", tmp_path / "wider.safetensors"
    checkpoint.save_model(one, model)
    checkpoint.save_model(wider, random_model(replace(tiny_config, decoder_width=2 * tiny_config.decoder_width)))
    with pytest.raises(CheckpointError, match=r"wider.safetensors: expected ModelConfig.* as in .*one.safetensors"):
        checkpoint.average([one, wider], tmp_path / "mean.safetensors")
    for shares in ([1.0], [1.0, -1.0], [0.0, 0.0], [float("nan"), 1.0]):
        with pytest.raises(ValueError, match="a share from 0 up for each"):
            checkpoint.average([one, one], tmp_path / "mean.safetensors", shares=shares)
    with pytest.raises(ValueError, match="got 0 checkpoints"):
        checkpoint.average([], tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()


def test_published_names_in_safetensors(golden: Path) -> None:
    meta = json.loads((golden / "network/meta.json").read_text())
    config = checkpoint.load_model(golden / "network/weights.safetensors").config
    assert config == ModelConfig(width=64, heads=4, side=64, decoder_width=16)
    assert (config.width, config.depth, config.heads) == (meta["embed_dim"], meta["depth"], meta["num_heads"])
    assert (2 * config.side, config.side) == tuple(meta["image_size"])
    described = checkpoint.info(golden / "end_to_end/weights_fp16.safetensors")
    assert described.config == ModelConfig(width=64, heads=4, decoder_width=16)
    assert (described.layout, described.dtype) == ("published", "float16")


INFERABLE = {
    "published proportions": {"depth": 8, "taps": (1, 3, 5, 7), "merge_layer": 1},
    "one tap": {"depth": 3, "taps": (2,), "merge_layer": 2},
    "slim MLP": {"depth": 6, "taps": (2, 5), "merge_layer": 2, "mlp_ratio": 1.5, "width": 24, "heads": 3},
    "other grids": {"depth": 6, "taps": (2, 5), "merge_layer": 2, "side": 96, "patch": 16, "pretrain_side": 112},
}


@pytest.mark.parametrize("sizes", INFERABLE.values(), ids=INFERABLE)
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "bare pickle"])
def test_a_configuration_is_inferred_from_the_tensors(
    tmp_path: Path, tiny_config: ModelConfig, sizes: dict[str, object], archive: bool
) -> None:
    model = random_model(replace(tiny_config, **sizes))
    path = tmp_path / "bare.pth"
    torch.save({"model": model.state_dict()}, path, _use_new_zipfile_serialization=archive)
    found = checkpoint.load_model(path)
    # What the merge layer was, no tensor says: it is taken as published, block 2, but not after a tap.
    assert found.config == replace(model.config, merge_layer=min(2, model.config.taps[0]))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.state_dict().items())


def test_the_published_large_network_is_inferred_and_described_in_transformers_words(tmp_path: Path) -> None:
    """Its file is 1.5 GB: here with its names and shapes, and no values."""
    with torch.device("meta"):
        large = SegGPT(ModelConfig()).state_dict()
    assert sum(value.numel() for value in large.values()) == 370_723_203
    stand_in = {name: torch.zeros(1, dtype=torch.float16).expand(value.shape) for name, value in large.items()}
    path = tmp_path / "seggpt_vit_large.pth"
    torch.save({"model": stand_in}, path)  # expanded tensors are stored as one number each
    assert checkpoint.read_config(path) == ModelConfig()


def test_names_of_transformers_are_names_of_the_model(model: SegGPT) -> None:
    names = list(model.state_dict())
    theirs = [transformers_name(name) for name in names]
    assert len(set(theirs)) == len(names)
    assert not set(theirs) & set(names)
    assert [published_name(name) for name in theirs] == names


# --- transformers as an outside oracle, at one shot


ORACLES = {
    "even taps": {"num_hidden_layers": 4, "intermediate_hidden_state_indices": [1, 3], "merge_index": 1},
    "odd sizes": {
        "hidden_size": 36,
        "num_attention_heads": 3,
        "num_hidden_layers": 5,
        "intermediate_hidden_state_indices": [0, 3, 4],
        "merge_index": 0,
        "mlp_dim": 54,
        "image_size": [96, 48],
        "pretrain_image_size": 56,
        "decoder_hidden_size": 10,
        "layer_norm_eps": 1e-3,
    },
}


@pytest.mark.parametrize("sizes", ORACLES.values(), ids=ORACLES)
def test_answers_equal_those_of_transformers(tmp_path: Path, sizes: dict[str, object]) -> None:
    transformers = pytest.importorskip("transformers")
    usual = {"hidden_size": 32, "num_attention_heads": 2, "image_size": [64, 32], "patch_size": 8}
    usual |= {"pretrain_image_size": 24, "decoder_hidden_size": 8}
    oracle = transformers.SegGptForImageSegmentation(transformers.SegGptConfig(**usual | sizes)).eval()
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.normal_(std=0.2)
    oracle.save_pretrained(tmp_path / "theirs")
    model = checkpoint.load_model(tmp_path / "theirs")
    assert_same(checkpoint.load_model(tmp_path / "theirs" / "model.safetensors"), model)
    prompt, mask, query = torch.randn(3, 1, 3, model.config.side, model.config.side).unbind()
    for task in ("semantic", "instance"):
        with torch.no_grad():
            painted = oracle(
                pixel_values=query, prompt_pixel_values=prompt, prompt_masks=mask, embedding_type=task
            ).pred_masks
            ours = model(prompt[None], mask[None], query, task=task)
        expected = painted[:, :, model.config.side :]
        assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
    # And the way back: what we write is what transformers reads, without a word about any tensor.
    checkpoint.convert(tmp_path / "theirs", tmp_path / "ours", layout="transformers")
    again, report = transformers.SegGptForImageSegmentation.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    assert all(torch.equal(value, oracle.state_dict()[name]) for name, value in again.state_dict().items())
    stored, theirs = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "theirs"))
    assert stored == {key: theirs[key] for key in stored}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv_bias": False}, "another network than SegGPT .*qkv_bias False"),
        ({"model_type": "vit", "hidden_act": "relu"}, "model_type 'vit', hidden_act 'relu'"),
        ({"image_size": [64, 64]}, r"image_size \[64, 64\]"),
        ({"image_size": 64}, "config.json has sizes that cannot be read"),
        ({"mlp_dim": "many"}, "config.json has sizes that cannot be read"),
        ({"num_hidden_layers": 3}, "8 surplus: model.encoder.layers.3.*misshapen|taps"),
        ({"hidden_size": 64}, r"network of width 64.* misshapen: \S+ .*\(1, 1, 1, 32\) instead of \(1, 1, 1, 64\)"),
    ],
)
def test_a_contradicting_config_json_is_refused(
    tmp_path: Path, model: SegGPT, change: dict[str, object], message: str
) -> None:
    checkpoint.save_model(tmp_path / "w", model, layout="transformers")
    config = tmp_path / "w" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_model(tmp_path / "w")


# --- strictness


def drop(*names: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: [tensors.pop(name) for name in names] and None


def put(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: value})


DIFFERENCES = {
    "missing": (drop("norm.weight"), r"1 missing: norm\.weight$"),
    "missing the size's source": (drop("patch_embed.proj.weight"), "'patch_embed.proj.weight' is missing, from which"),
    "a block with a hole": (drop("blocks.2.attn.proj.bias", "blocks.2.norm1.weight"), r"2 missing: blocks\.2\.norm1"),
    "surplus": (put("head.weight", torch.zeros(2)), r"1 surplus: head\.weight$"),
    "misshapen": (put("norm.bias", torch.zeros(3)), r"1 misshapen: norm\.bias \(3,\) instead of \(32,\)"),
    "integers": (put("norm.bias", torch.zeros(32, dtype=torch.int64)), r"unknown kind: norm\.bias torch\.int64"),
    "doubles": (put("norm.bias", torch.zeros(32).double()), r"unknown kind: norm\.bias torch\.float64"),
    "NaN": (put("norm.bias", torch.full((32,), torch.nan)), r"infinities or NaN in norm\.bias"),
    "infinity": (put("norm.bias", torch.full((32,), -torch.inf)), r"infinities or NaN in norm\.bias"),
    "block numbers": (put("blocks.987654321.x", torch.zeros(2)), "surplus|missing"),
    "flat patches": (put("patch_embed.proj.weight", torch.zeros(32, 192)), "shapes that no such network has"),
    "no columns": (put("blocks.0.attn.rel_pos_w", torch.zeros(7, 0)), "shapes that no such network has"),
    "narrow decoder": (put("decoder_embed.weight", torch.zeros(512, 0)), "shapes that no such network has"),
    "heads that do not divide": (put("blocks.0.attn.rel_pos_w", torch.zeros(7, 9)), "impossible network|misshapen"),
}


@pytest.mark.parametrize("container", ["safetensors", "pth"])
@pytest.mark.parametrize(("change", "message"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_what_differs_is_named(
    tmp_path: Path, model: SegGPT, change: Callable[[dict[str, Tensor]], None], message: str, container: str
) -> None:
    tensors = dict(model.state_dict())
    change(tensors)
    path = tmp_path / f"w.{container}"
    if container == "safetensors":
        save_file(tensors, path)
    else:
        torch.save({"model": tensors}, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load_model(path)
    assert str(path) in str(caught.value)


def test_many_differences_are_counted_in_the_words_of_the_file(tmp_path: Path, model: SegGPT) -> None:
    checkpoint.save_model(tmp_path / "w", model, layout="transformers")
    file = tmp_path / "w" / "model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "layers.1." not in name}, file)
    with pytest.raises(CheckpointError, match=r"14 missing: model\.encoder\.layers\.1\.\S+, \S+, \S+ and 11 more$"):
        checkpoint.info(tmp_path / "w")


def test_one_tensor_under_two_names_is_refused(tmp_path: Path, model: SegGPT) -> None:
    checkpoint.save_model(tmp_path / "w", model, layout="transformers")
    file = tmp_path / "w" / "model.safetensors"
    save_file(load_file(file) | {"blocks.0.norm1.bias": torch.zeros(32)}, file)
    with pytest.raises(CheckpointError, match="under the names of two layouts"):
        checkpoint.load_model(file)


# --- files that are something else


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch exploded",)


STRANGE_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "expected safetensors or a PyTorch file, got an empty file"),
    "text": (b"weights, honestly", "got a file that begins with b'weights,'"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(64), r"got a file that begins with b'\\x89PNG"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
    "header that is too long": (b"\xff" * 8 + b"{" * 90, "damaged or cut short"),
    "header that is no JSON": ((64).to_bytes(8, "little") + b"{" * 90, "damaged or cut short"),
    "archive that ends": (b"PK\x03\x04" + bytes(40), "damaged or cut short"),
    "pickle that ends": (b"\x80\x02}", "damaged"),
    "pickle of a number": (b"\x80\x02K\x01.", "damaged|expected"),
}


@pytest.mark.parametrize(("content", "message"), STRANGE_FILES.values(), ids=STRANGE_FILES)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_model(path)


@pytest.mark.parametrize("layout", ["incontext", "published"])
@pytest.mark.parametrize("kept", [0.001, 0.3, 0.999])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, model: SegGPT, layout: Layout, kept: float) -> None:
    path = name_of(tmp_path, layout)
    checkpoint.save_model(path, model, layout=layout)
    os.truncate(path, int(kept * path.stat().st_size))
    with pytest.raises(CheckpointError, match=r"cut short|no checkpoint"):
        checkpoint.load_model(path)


def test_an_archive_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.txt", "b")
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        checkpoint.load_model(tmp_path / "photos.zip")


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_a_pickle_does_not_run(
    tmp_path: Path, model: SegGPT, monkeypatch: pytest.MonkeyPatch, archive: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": model.state_dict(), "bomb": Bomb()}, "w.pth", _use_new_zipfile_serialization=archive)
    with pytest.raises(CheckpointError, match="refused: it is damaged, or holds more than tensors"):
        checkpoint.load_model("w.pth")
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"state_dict": {}, "epoch": 3},
            r'expected \{"model": tensors by name\}, got a dictionary of state_dict, epoch',
        ),
        ({"model": {"blocks.0": 3}}, r'expected \{"model"'),
        ({"model": {}}, "holds no weights of this network: its tensors are none"),
        ({"model": {"conv1.weight": torch.zeros(2)}}, "its tensors are conv1.weight"),
        ([1, 2], r'expected \{"model": tensors by name\}, got list'),
    ],
)
def test_another_pickle_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_model(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "its configuration is no JSON"),
        ("[" * 100_000, "its configuration is no JSON"),
        ("[1]", "expected its configuration to be a JSON object"),
        ('{"config": 3}', "impossible network"),
        ('{"widht": 32}', "impossible network: .*widht"),
        ('{"width": "32"}', "impossible network"),
        ('{"width": -32}', "impossible network"),
        ('{"patch": 0}', "impossible network"),
        ('{"depth": 1000000000, "taps": [1, 3]}', "describes a network of .*1000000000 blocks.*, and holds 74 tensors"),
        ('{"width": 64}', "misshapen"),
    ],
)
def test_an_impossible_configuration_is_refused(
    tmp_path: Path, model: SegGPT, tiny_config: ModelConfig, config: str, message: str
) -> None:
    if config.startswith('{"') and "config" not in config:
        config = json.dumps({"config": asdict(tiny_config) | json.loads(config)})
    path = tmp_path / "w.safetensors"
    save_file(model.state_dict(), path, {"incontext": config})
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_model(path)


def test_a_place_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint at .*nowhere\.pth"):
        checkpoint.load_model(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"is a folder without model\.safetensors"):
        checkpoint.load_model(tmp_path)


# --- writing


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_not_finite_is_not_written(tmp_path: Path, model: SegGPT, layout: Layout) -> None:
    path = name_of(tmp_path, layout)
    with torch.no_grad():
        model.mask_token[..., 0] = 1e6  # more than float16 holds
    with pytest.raises(CheckpointError, match="infinities or NaN in mask_token"):
        checkpoint.save_model(path, model, layout=layout, dtype="float16")
    assert list(tmp_path.iterdir()) == []
    checkpoint.save_model(path, model, layout=layout, dtype="bfloat16")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_failed_write_keeps_the_older_file(
    tmp_path: Path, model: SegGPT, monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    path = name_of(tmp_path, layout)
    checkpoint.save_model(path, model, layout=layout)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}

    def full_disk(_: object, target: object, *__: object) -> None:
        if isinstance(target, str):
            Path(target).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("incontext.network.layouts.save_file", full_disk)
    monkeypatch.setattr("torch.save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save_model(path, random_model(model.config), layout=layout)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.*")} == before


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_others_may_read_what_is_written(tmp_path: Path, model: SegGPT, layout: Layout) -> None:
    """As the user's umask says; the safetensors library alone makes private files."""
    (tmp_path / "usual.txt").touch()
    checkpoint.save_model(name_of(tmp_path, layout), model, layout=layout)
    assert len({file.stat().st_mode for file in tmp_path.rglob("*.*")}) == 1


def test_a_checkpoint_may_be_written_over_itself(tmp_path: Path, model: SegGPT) -> None:
    path = tmp_path / "w.safetensors"
    checkpoint.save_model(path, model)
    found = checkpoint.load_model(path)
    checkpoint.convert(path, path, dtype="float16")
    assert_same(found, model)
    assert_same(checkpoint.load_model(path), model, torch.float16)


def test_a_bad_target_is_refused(tmp_path: Path, model: SegGPT) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="'transformers' is a folder, and here is a file"):
        checkpoint.save_model(tmp_path / "file", model, layout="transformers")
    with pytest.raises(CheckpointError, match="'published' is a file, and here is a folder"):
        checkpoint.save_model(tmp_path, model, layout="published")
    with pytest.raises(CheckpointError, match="got 'onnx' and 'float8'"):
        checkpoint.save_model(tmp_path / "w", model, layout="onnx", dtype="float8")  # type: ignore[arg-type]


# --- the registry


def test_the_manifest_describes_what_is_there() -> None:
    entries = registry.registry()
    assert list(entries) == ["default", "seggpt-vit-large", "seggpt-vit-large-hf"]
    for name, entry in entries.items():
        assert (entry.file is None) != (entry.hub is None)
        assert entry.licence
        if entry.hub is not None:
            assert entry.config == ModelConfig()
            continue
        described = registry.verify(name)
        assert described.path == registry.weights_folder() / str(entry.file)
        assert described.sha256 == entry.sha256
        assert described.layout == "incontext"
    embedded = {entry.file for entry in entries.values() if entry.file}
    assert {path.name for path in registry.weights_folder().glob("*.safetensors")} == embedded


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with the manifest and without weights, in which a test may write."""
    folder = tmp_path / "weights"
    folder.mkdir()
    rows = json.loads((registry.weights_folder() / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps([row for row in rows if "hub" in row]))
    monkeypatch.setattr(registry, "weights_folder", lambda: folder)
    return folder


WORDS = {"description": "a test", "source": "random", "licence": "MIT"}


def test_registering_embeds_and_describes(tmp_path: Path, own_folder: Path, model: SegGPT) -> None:
    checkpoint.save_model(tmp_path / "trained.safetensors", model, metadata=NOTES)
    entry = registry.register(tmp_path / "trained.safetensors", **WORDS)
    assert list(registry.registry()) == ["default", "seggpt-vit-large", "seggpt-vit-large-hf"]
    assert registry.registry()["default"] == entry
    assert entry.config == model.config
    assert registry.resolve("default") == own_folder / "default.safetensors" == registry.download("default")
    described = registry.verify("default")
    assert (described.sha256, described.dtype, described.metadata) == (entry.sha256, "float16", NOTES)
    # Once more, with other weights: the same row, another sum.
    again = registry.register(own_folder / "default.safetensors", dtype="bfloat16", **WORDS)
    assert again.sha256 != entry.sha256
    assert list(registry.registry()) == ["default", "seggpt-vit-large", "seggpt-vit-large-hf"]


def test_embedded_weights_that_changed_are_refused(tmp_path: Path, own_folder: Path, model: SegGPT) -> None:
    checkpoint.save_model(tmp_path / "w.safetensors", model)
    registry.register(tmp_path / "w.safetensors", **WORDS)
    shutil.copy(tmp_path / "w.safetensors", own_folder / "default.safetensors")
    for look in (registry.resolve, registry.download, registry.verify):
        with pytest.raises(
            CheckpointError, match="is not the file that the manifest names 'default': expected SHA-256"
        ):
            look("default")
    (own_folder / "default.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"embedded weights 'default' are not in .*; reinstall"):
        registry.resolve("default")


def test_another_network_than_the_manifest_says_is_refused(tmp_path: Path, own_folder: Path, model: SegGPT) -> None:
    checkpoint.save_model(tmp_path / "w.safetensors", model)
    registry.register(tmp_path / "w.safetensors", **WORDS)
    rows = json.loads((own_folder / "manifest.json").read_text())
    rows[0]["config"]["norm_eps"] = 1e-3
    (own_folder / "manifest.json").write_text(json.dumps(rows))
    with pytest.raises(CheckpointError, match="expected the manifest's ModelConfig"):
        registry.verify("default")


def test_paths_and_names(tmp_path: Path, own_folder: Path, model: SegGPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint.save_model("mine.safetensors", model)
    registry.register("mine.safetensors", **WORDS)
    assert registry.resolve("mine.safetensors") == Path("mine.safetensors")
    assert registry.verify("mine.safetensors").config == model.config
    Path("default").mkdir()
    assert registry.resolve("default") == own_folder / "default.safetensors"
    assert registry.resolve("./default") == registry.resolve(Path("default")) == Path("default")
    known = "default, seggpt-vit-large, seggpt-vit-large-hf"
    with pytest.raises(FileNotFoundError, match=f"no file 'seggpt' and no weights of that name; .* one of {known}"):
        registry.resolve("seggpt")
    with pytest.raises(FileNotFoundError, match=f"no weights named 'mine.safetensors'; expected one of {known}"):
        registry.download("mine.safetensors")


# --- the hub, played by a server on this machine


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(http.server.SimpleHTTPRequestHandler):
    """Serves /owner/repo/resolve/main/file from a folder, with the headers that the hub's client asks for."""

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.replace("/resolve/main/", "/"))

    def end_headers(self) -> None:
        self.send_header("ETag", '"etag"')
        self.send_header("X-Repo-Commit", COMMIT)
        super().end_headers()

    def log_message(self, *words: object) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(address, folder) of a hub that gives what lies in the folder."""
    folder = tmp_path / "hub"
    folder.mkdir()
    handler = functools.partial(FakeHub, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def in_new_process(program: str, **environment: str) -> str:
    """What a program prints. It needs its own process: the hub's client reads the environment when it is imported."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=keep | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOOK = """
import json, sys
from pathlib import Path
from incontext.network import registry
registry.weights_folder = lambda: Path({folder!r})
for verb, name in {steps!r}:
    try:
        print("ok", getattr(registry, verb)(name))
    except (ValueError, FileNotFoundError) as error:
        print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_downloads_are_cached_and_checked(
    tmp_path: Path, own_folder: Path, model: SegGPT, hub: tuple[str, Path]
) -> None:
    address, folder = hub
    (folder / "BAAI/SegGPT").mkdir(parents=True)
    file = folder / "BAAI/SegGPT/seggpt_vit_large.pth"
    checkpoint.save_model(file, model, layout="published")
    rows = json.loads((own_folder / "manifest.json").read_text())
    rows[0] |= {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "config": asdict(model.config)}
    wrong = rows[0] | {"name": "changed", "sha256": "0" * 64}
    (own_folder / "manifest.json").write_text(json.dumps([*rows, wrong]))
    cache = str(tmp_path / "cache")
    steps = [
        ("resolve", "seggpt-vit-large"),
        ("verify", "seggpt-vit-large"),
        ("download", "changed"),
        ("download", "seggpt-vit-large-hf"),
    ]
    program = LOOK.format(folder=str(own_folder), steps=steps)
    online = in_new_process(program, HF_ENDPOINT=address, HF_HUB_CACHE=cache).splitlines()
    assert online[0].startswith(f"ok {cache}")
    assert online[0].endswith("seggpt_vit_large.pth")
    assert online[1].startswith("ok WeightsInfo")
    assert online[2].startswith("CheckpointError")
    assert "expected SHA-256 000000" in online[2]
    assert online[3].startswith("FileNotFoundError 'seggpt-vit-large-hf' (BAAI/seggpt-vit-large/model.safetensors)")
    assert "404" in online[3]
    # The same machine without network: what is cached is found, what is not is explained, and nothing waits: the client
    # alone repeats its question for 20 seconds.
    steps = [("resolve", "seggpt-vit-large"), ("download", "seggpt-vit-large"), ("resolve", "seggpt-vit-large-hf")]
    program = f"import time; waits = []; time.sleep = waits.append{LOOK}print(sum(waits))"
    program = program.format(folder=str(own_folder), steps=steps)
    offline = in_new_process(program, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_CACHE=cache).splitlines()
    assert offline[:2] == [online[0], online[0]]
    assert offline[2].startswith("FileNotFoundError 'seggpt-vit-large-hf'")
    assert "is not in the cache and cannot be fetched from the hub" in offline[2]
    assert "`incontext weights download seggpt-vit-large-hf` or pass --weights PATH" in offline[2]
    assert float(offline[3]) == 0
