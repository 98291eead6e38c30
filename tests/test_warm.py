"""Warm starts: what a network knows survives another side and depth, and a ViT of timm becomes an encoder."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from incontext import cli
from incontext.canvas.paint import IMAGE_MEAN, IMAGE_STD
from incontext.matching.names import open_backbone
from incontext.network.checkpoint import load_model, save_model
from incontext.network.config import ModelConfig
from incontext.network.model import SegGPT
from incontext.training.episodes import Sampling
from incontext.training.recipes import RECIPES, Recipe, Stage
from incontext.training.start.vit import from_timm, from_vit
from incontext.training.start.warm import Source, block_plan, map_weights, start_from

CONFIG = ModelConfig(
    width=32, heads=2, depth=4, patch=8, side=32, decoder_width=8, mlp_ratio=2.0, merge_layer=1, taps=(1, 3),
    pretrain_side=24,
)  # fmt: skip


def trained(config: ModelConfig = CONFIG) -> SegGPT:
    """A network in which every weight matters: fresh ones are too small to tell much apart."""
    model = SegGPT(config, kernel="plain").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def answers(model: SegGPT, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    prompts, masks, queries = (torch.randn(shape, generator=generator) for shape in
                               ((2, 2, 3, side, side), (2, 2, 3, side, side), (2, 3, side, side)))  # fmt: skip
    model.kernel = "plain"
    with torch.no_grad():
        painted: Tensor = model(prompts, masks, queries)
    return painted


def test_the_same_configuration_keeps_every_weight() -> None:
    model = trained()
    started, left = start_from(model, CONFIG)
    assert left == ()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(started.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("side", [16, 48, 64])
def test_another_side_keeps_the_answers_at_that_side(side: int) -> None:
    model = trained()
    started, left = start_from(model, replace(CONFIG, side=side))
    assert left == ()
    assert started.blocks[0].attn.rel_pos_w.shape[0] == 2 * (side // 8) - 1
    torch.testing.assert_close(answers(started, side), answers(model, side), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("deeper", "silent"),
    [
        ({"depth": 6, "merge_layer": 1, "taps": (1, 5)}, [4 - 1, 5]),
        ({"depth": 9, "merge_layer": 3, "taps": (5, 8)}, [1, 3, 4, 5, 8]),
        ({"depth": 5, "merge_layer": 1, "taps": (1, 3)}, [4]),
    ],
)
def test_more_blocks_give_exactly_the_same_answers(deeper: dict[str, object], silent: list[int]) -> None:
    target = ModelConfig(**{**CONFIG.__dict__, **deeper})
    model = trained()
    started, left = start_from(model, target)
    assert left == ()
    assert [number for number, origin in enumerate(block_plan(CONFIG, target)) if origin.silent] == silent
    torch.testing.assert_close(answers(started), answers(model), rtol=1e-4, atol=1e-5)  # its last block is a shortcut
    started.kernel = model.kernel
    images, masks, masked = torch.randn(2, 3, 64, 32), torch.randn(2, 3, 64, 32), torch.rand(2, 8, 4) < 0.5
    painted = started.paint_canvas(images, masks, masked)
    torch.testing.assert_close(painted, model.paint_canvas(images, masks, masked), rtol=0, atol=0)
    painted.square().mean().backward()  # the new blocks learn at once
    for block in (started.blocks[number] for number in silent if number <= target.taps[-1]):
        assert block.attn.proj.weight.grad.abs().sum() > 0
        assert block.mlp.fc2.weight.grad.abs().sum() > 0


def test_fewer_blocks_are_chosen_evenly() -> None:
    deep = replace(CONFIG, depth=12, merge_layer=2, taps=(5, 11))
    assert block_plan(deep, replace(deep, depth=6, merge_layer=0, taps=(2, 5))) == tuple(
        Source(block, silent=False) for block in (1, 3, 5, 7, 9, 11)
    )
    model = trained(deep)
    started, left = start_from(model, replace(deep, depth=6, merge_layer=0, taps=(2, 5)))
    assert left == ()
    torch.testing.assert_close(started.blocks[2].mlp.fc1.weight, model.blocks[5].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("other", "left"),
    [
        ({"decoder_width": 4}, {"decoder_embed", "decoder_pred"}),
        ({"taps": (1, 2, 3)}, {"decoder_embed"}),
        ({"patch": 4}, {"decoder_embed"}),
        ({"pretrain_side": 32}, set()),
    ],
)
def test_what_has_no_counterpart_is_fresh_and_named(other: dict[str, object], left: set[str]) -> None:
    target = ModelConfig(**{**CONFIG.__dict__, **other})
    model = trained()
    started, named = start_from(model, target, seed=1)
    assert {name.partition(".")[0] for name in named} == left
    assert torch.isfinite(answers(started)).all()
    flat = torch.ones(1, 3, 32, 32)
    torch.testing.assert_close(started.patch_embed(flat)[0, 0, 0], model.patch_embed(flat)[0, 0, 0])
    again, _ = start_from(model, target, seed=1)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in started.state_dict().items())


@pytest.mark.parametrize("other", [{"width": 64}, {"heads": 4}, {"mlp_ratio": 4.0}])
def test_other_widths_are_refused(other: dict[str, object]) -> None:
    target = ModelConfig(**{**CONFIG.__dict__, **other})
    with pytest.raises(ValueError, match=r"expected weights of width \d+, \d heads .* got width 32, 2 heads and 64"):
        map_weights(trained().state_dict(), CONFIG, target)


# --- encoders of timm


@pytest.fixture(scope="module")
def vit() -> VisionTransformer:
    """A plain ViT in which every weight matters; it expects pixels in -1..1."""
    made = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=6, num_heads=3, mlp_ratio=3.0).eval()
    made.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def test_the_model_follows_the_vit(vit: VisionTransformer) -> None:
    like = replace(CONFIG, depth=8, merge_layer=1, taps=(1, 3, 5, 7), side=36, patch=4, pretrain_side=36)
    config = from_vit(vit, like).config
    assert (config.width, config.heads, config.depth, config.patch, config.mlp_ratio) == (48, 3, 6, 8, 3.0)
    assert (config.pretrain_side, config.side, config.decoder_width) == (32, 32, like.decoder_width)
    assert (config.merge_layer, config.taps) == (1, (1, 2, 3, 5))


@torch.no_grad()
def test_blocks_answer_as_those_of_the_vit(vit: VisionTransformer) -> None:
    model = from_vit(vit, CONFIG)
    tokens = torch.randn(2, 2, 4, 4, 48)
    plain = tokens.flatten(1, 3)
    for block, theirs, relative in zip(model.blocks, vit.blocks, model.tables(4).relative, strict=True):
        answered = block(tokens, relative, "plain", torch.ones(1))
        torch.testing.assert_close(answered.flatten(1, 3), theirs(plain), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.norm(tokens), vit.norm(tokens))
    assert all(not table.any() for pair in model.tables(4).relative for table in pair)


@torch.no_grad()
def test_patches_and_positions_are_those_of_the_vit(vit: VisionTransformer) -> None:
    model = from_vit(vit, CONFIG)
    pixels = torch.rand(1, 3, 32, 32)
    normalised = (pixels - torch.tensor(IMAGE_MEAN).view(3, 1, 1)) / torch.tensor(IMAGE_STD).view(3, 1, 1)
    theirs = vit.patch_embed((pixels - 0.5) / 0.5)
    torch.testing.assert_close(model.patch_embed(normalised).flatten(1, 2), theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.pos_embed, vit.pos_embed)


def test_a_vit_without_a_class_position_fits_too() -> None:
    made = VisionTransformer(img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=2, no_embed_class=True)
    model = from_vit(made, CONFIG)
    torch.testing.assert_close(model.pos_embed[:, 1:], made.pos_embed)


@pytest.mark.parametrize(
    ("different", "named"),
    [
        ({"init_values": 1e-5}, "surplus: blocks.0.ls1.gamma"),
        ({"reg_tokens": 4}, "surplus: reg_token"),
        ({"qk_norm": True}, "surplus: blocks.0.attn.q_norm.weight"),
        ({"qkv_bias": False}, "missing: blocks.0.attn.qkv.bias"),
        ({"pos_embed": "none"}, "missing: pos_embed"),
        ({"act_layer": torch.nn.SiLU}, "exact GELU"),
        ({"img_size": (16, 32)}, "a square of positions"),
    ],
)
def test_vits_of_another_kind_are_refused_by_what_differs(different: dict[str, object], named: str) -> None:
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    with pytest.raises(ValueError, match=named):
        from_vit(VisionTransformer(**{**sizes, **different}), CONFIG)


def test_encoders_are_found_by_name_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = from_timm("vit_tiny_patch16_224", CONFIG, pretrained=False)
    assert (model.config.width, model.config.heads, model.config.depth, model.config.side) == (192, 3, 12, 32)
    with pytest.raises(ValueError, match="no model named 'vit_of_nobody'"):
        from_timm("vit_of_nobody", CONFIG, pretrained=False)
    with pytest.raises(ValueError, match="expected a plain VisionTransformer of timm, got a ResNet"):
        from_timm("resnet18", CONFIG, pretrained=False)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FileNotFoundError, match=r"cannot be fetched \(no network\)"):
        from_timm("vit_tiny_patch16_224", CONFIG)


# --- from the command line


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`incontext train` of two steps with these options: what it says on stderr, and on failure the sentence."""
    recipe = Recipe(CONFIG, (Stage(32, 2, 2),), Sampling(rendered=1.0), warmup_steps=1)
    monkeypatch.setitem(RECIPES, "smoke", recipe)

    def call(*options: object) -> str:
        shared = ("train", "-o", tmp_path / "run", "--recipe", "smoke", "--workers", 0, "--device", "cpu")
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(each) for each in (*shared, *options)])
        said = capsys.readouterr()
        assert stopped.value.code == (2 if "Error" in said.err else 0)
        return said.err

    return call


def test_a_deeper_model_is_trained_from_weights(train: Callable[..., str], tmp_path: Path) -> None:
    shallow = replace(CONFIG, depth=3, taps=(1, 2), side=16, decoder_width=4)
    save_model(tmp_path / "shallow.safetensors", trained(shallow))
    said = train("--init", tmp_path / "shallow.safetensors", "--state-mib", 1, "--dtype", "float32")
    assert "shallow.safetensors has no counterpart: decoder_embed.weight" in said
    assert load_model(tmp_path / "run" / "model.safetensors").config == CONFIG
    assert (tmp_path / "run" / "state" / "index.json").is_file()
    assert not (tmp_path / "run" / "state.pt").exists()


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(FileNotFoundError, match=r"expected timm .* run: pip install 'incontext\[timm\]'"):
        from_timm("vit_tiny_patch16_224", ModelConfig())
    with pytest.raises(FileNotFoundError, match="expected timm"):
        open_backbone("timm:resnet18")


@pytest.mark.parametrize(("asked", "network"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_a_run_says_how_precisely_it_computes(
    train: Callable[..., str], asked: str, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert f"Training in {network}, Newton-Schulz in float32" in train("--dtype", asked)


def test_weights_of_other_widths_are_refused_in_a_sentence(train: Callable[..., str], tmp_path: Path) -> None:
    save_model(tmp_path / "wide.safetensors", SegGPT(replace(CONFIG, width=64)))
    said = train("--init", tmp_path / "wide.safetensors")
    assert "wide.safetensors: expected weights of width 32, 2 heads" in said
    assert not (tmp_path / "run").exists()


def test_the_encoder_of_a_vit_is_trained(
    train: Callable[..., str], tmp_path: Path, vit: VisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def create_model(name: str, *, pretrained: bool) -> VisionTransformer:
        assert name == "vit_tiny_patch16_224"
        asked.append(pretrained)
        return vit

    monkeypatch.setattr(timm, "create_model", create_model)
    said = train("--init", "timm:vit_tiny_patch16_224")
    assert "follows timm:vit_tiny_patch16_224: width 48, 3 heads, 6 blocks, patch 8" in said
    config = load_model(tmp_path / "run" / "model.safetensors").config
    assert (config.width, config.depth, config.decoder_width) == (48, 6, CONFIG.decoder_width)
    assert "Error" not in train("--init", "timm:vit_tiny_patch16_224")  # nothing is left to do
    assert asked == [True, False]  # what goes on needs no download
