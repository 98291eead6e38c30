"""The network against numbers of the published one, and the properties that make it what it is."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from incontext.learning.losses import painting_loss
from incontext.network.checkpoint import load_model
from incontext.network.config import ModelConfig
from incontext.network.kernels import KERNELS
from incontext.network.model import PromptTokens, SegGPT
from incontext.network.reference import Reference

TINY = ModelConfig(
    width=16, heads=2, depth=3, patch=4, side=16, decoder_width=4, merge_layer=1, taps=(1, 2), pretrain_side=8
)


def make_model(config: ModelConfig = TINY, *, spread: float = 0.3, dtype: torch.dtype = torch.float32) -> SegGPT:
    """Random weights that are larger than fresh ones, so that every part matters."""
    torch.manual_seed(3)
    model = SegGPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    return model.to(dtype)


def make_inputs(
    batch: int, shots: int, side: int = 16, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch * 10 + shots)
    shapes = (batch, shots, 3, side, side), (batch, shots, 3, side, side), (batch, 3, side, side)
    images, masks, queries = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return images, masks, queries


def relative_error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.double() - expected.double()).norm() / expected.double().norm())


# --- golden numbers


@pytest.fixture(scope="module")
def golden_cases(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "network" / "cases.safetensors")


@pytest.fixture(scope="module")
def golden_model(golden: Path) -> SegGPT:
    return load_model(golden / "network" / "weights.safetensors")


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "flex"])  # which is for CUDA
def test_equals_the_published_network_in_every_golden_case(
    golden: Path, golden_model: SegGPT, golden_cases: dict[str, Tensor], kernel: str
) -> None:
    golden_model.kernel = kernel
    cases = json.loads((golden / "network" / "meta.json").read_text())["cases"]
    assert len(cases) == 16
    for case in cases:
        images, masks = (golden_cases[f"{case['inputs']}/{what}"] for what in ("prompt_images", "prompt_masks"))
        with torch.no_grad():
            got = golden_model(
                images[None], masks[None], golden_cases[f"{case['inputs']}/query"], task=case["segmentation_type"]
            )
        expected = golden_cases[f"{case['name']}/prediction"].chunk(2, dim=-2)[1]
        assert relative_error(got, expected) < 1e-5, case["name"]


def test_the_reference_equals_the_published_network_in_every_golden_case(
    golden: Path, golden_model: SegGPT, golden_cases: dict[str, Tensor]
) -> None:
    reference = Reference(golden_model)
    for case in json.loads((golden / "network" / "meta.json").read_text())["cases"]:
        images, masks, query = (
            golden_cases[f"{case['inputs']}/{what}"] for what in ("prompt_images", "prompt_masks", "query")
        )
        got = reference(images[None], masks[None], query, task=case["segmentation_type"])
        assert relative_error(got, golden_cases[f"{case['name']}/prediction"].chunk(2, dim=-2)[1]) < 1e-5, case["name"]


def test_equals_the_published_training_forward_and_loss(golden_model: SegGPT, golden_cases: dict[str, Tensor]) -> None:
    golden_model.kernel = "auto"
    images, targets = golden_cases["train/images"], golden_cases["train/targets"]
    masked = golden_cases["train/masked"].bool().unflatten(1, (8, 4))
    with torch.no_grad():
        painted = golden_model.paint_canvas(images, targets, masked)
        loss = painting_loss(painted, targets, masked)
    assert relative_error(painted, golden_cases["train/prediction"]) < 1e-5
    assert relative_error(loss, golden_cases["train/loss"].squeeze()) < 1e-5


# --- what must hold for any weights


def test_a_canvas_with_a_hidden_query_is_the_one_shot_forward() -> None:
    model, (images, masks, queries) = make_model(), make_inputs(2, 1)
    masked = torch.zeros(2, 8, 4, dtype=torch.bool)
    masked[:, 4:] = True
    image_canvas = torch.cat([images[:, 0], queries], dim=-2)
    mask_canvas = torch.cat(
        [masks[:, 0], torch.randn_like(queries)], dim=-2
    )  # hidden, so what stands there is no matter
    with torch.no_grad():
        painted = model.paint_canvas(image_canvas, mask_canvas, masked)
        torch.testing.assert_close(model(images, masks, queries), painted[:, :, 16:])


@pytest.mark.parametrize("shots", [1, 2, 3])
def test_queries_of_a_batch_never_touch(shots: int) -> None:
    model, (images, masks, queries) = make_model(dtype=torch.float64), make_inputs(3, shots, dtype=torch.float64)
    with torch.no_grad():
        together = model(images, masks, queries)
        for i in range(3):
            alone = model(images[i : i + 1], masks[i : i + 1], queries[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("side", [16, 24])
@pytest.mark.parametrize("merge_layer", [0, 1, 2])
@pytest.mark.parametrize("shots", [1, 2, 3, 5])
def test_every_saving_is_exact(shots: int, merge_layer: int, side: int) -> None:
    taps = (merge_layer, 2) if merge_layer < 2 else (2,)
    model = make_model(replace(TINY, merge_layer=merge_layer, taps=taps), dtype=torch.float64)
    images, masks, queries = make_inputs(2, shots, side=side, dtype=torch.float64)
    with torch.no_grad():
        expected = Reference(model)(images[:1], masks[:1], queries)
        context = model.prepare(images[:1], masks[:1])
        for chunk in (None, 1, 2):
            assert relative_error(model.answer(queries, context, chunk=chunk), expected) < 1e-12
        own = model(images, masks, queries)  # each query with prompts of its own
        assert relative_error(own[:1], expected[:1]) < 1e-12
        assert relative_error(own[1:], Reference(model)(images[1:], masks[1:], queries[1:])) < 1e-12
        in_parts = model.prepare(images, masks, chunk=1)
        torch.testing.assert_close(in_parts.masks, model.prepare(images, masks).masks)
        tables = model.tables(side // TINY.patch)
        alone = [
            model.embed(images[:, [n]], masks[:, [n]], task="instance", tables=tables) for n in reversed(range(shots))
        ]
        joined = PromptTokens(*(torch.cat(parts[::-1], dim=1) for parts in zip(*alone, strict=True)))
        for chunk in (None, 1):
            met = model.join(joined, "instance", tables, chunk=chunk)
            torch.testing.assert_close(met.masks, in_parts.masks)
            torch.testing.assert_close(met.images, in_parts.images)


@pytest.mark.parametrize("merge_layer", [0, 2])
def test_a_prompt_of_weight_two_counts_as_if_it_were_there_twice(merge_layer: int) -> None:
    model = make_model(replace(TINY, merge_layer=merge_layer, taps=(2,)), dtype=torch.float64)
    images, masks, queries = make_inputs(1, 3, dtype=torch.float64)
    twice = [0, 1, 2, 1]
    with torch.no_grad():
        repeated = model.answer(queries, model.prepare(images[:, twice], masks[:, twice]))
        for chunk in (None, 2):
            context = model.prepare(images, masks, weights=(1.5, 3, 1.5), chunk=chunk)
            assert relative_error(model.answer(queries, context, chunk=chunk), repeated) < 1e-12
        assert relative_error(model.answer(queries, model.prepare(images, masks)), repeated) > 1e-3


def test_gradients_of_a_context_reach_the_prompts_through_every_shot() -> None:
    model, (images, masks, queries) = make_model(dtype=torch.float64), make_inputs(1, 3, dtype=torch.float64)
    leaf = images.clone().requires_grad_()
    model(leaf, masks, queries).square().sum().backward()
    step = torch.randn_like(images) * 1e-6
    with torch.no_grad():
        ends = [model(images + way * step, masks, queries).square().sum() for way in (1, -1)]
    assert leaf.grad is not None
    torch.testing.assert_close((ends[0] - ends[1]) / 2, (leaf.grad * step).sum(), rtol=1e-5, atol=0)


def test_a_prompt_given_twice_counts_like_once_and_other_prompts_change_the_answer() -> None:
    model, (images, masks, queries) = make_model(), make_inputs(1, 2)
    with torch.no_grad():
        once = model(images[:, :1], masks[:, :1], queries)
        twice = model(images[:, [0, 0]], masks[:, [0, 0]], queries)
        both = model(images, masks, queries)
    torch.testing.assert_close(once, twice, rtol=1e-4, atol=1e-5)
    assert relative_error(both, once) > 1e-3


def test_task_prompt_mask_and_hidden_patches_all_matter() -> None:
    model, (images, masks, queries) = make_model(), make_inputs(1, 1)
    canvases = torch.cat([images[:, 0], queries], dim=-2), torch.cat([masks[:, 0], queries], dim=-2)
    masked = torch.zeros(1, 8, 4, dtype=torch.bool)
    masked[:, 4:] = True
    fewer = masked.clone()
    fewer[0, 6, 1] = False
    with torch.no_grad():
        base = model(images, masks, queries)
        assert relative_error(model(images, masks, queries, task="semantic"), base) > 1e-3
        assert relative_error(model(images, -masks, queries), base) > 1e-3
        assert relative_error(model.paint_canvas(*canvases, fewer), model.paint_canvas(*canvases, masked)) > 1e-3


def test_other_sides_use_interpolated_tables() -> None:
    model = make_model()
    with torch.no_grad():
        assert model(*make_inputs(1, 2, side=24)).shape == (1, 3, 24, 24)
        assert model(*make_inputs(1, 1, side=8)).shape == (1, 3, 8, 8)


def test_gradients_match_finite_differences_and_reach_every_parameter() -> None:
    model = make_model(dtype=torch.float64)
    image_canvas, mask_canvas = (torch.randn(2, 3, 32, 16, dtype=torch.float64) for _ in range(2))
    masked = torch.rand(2, 8, 4) < 0.6

    def loss() -> Tensor:
        both = [model.paint_canvas(image_canvas, mask_canvas, masked, task=task) for task in ("semantic", "instance")]
        return painting_loss(both[0], mask_canvas, masked) + painting_loss(both[1], mask_canvas, masked)

    loss().backward()
    parameters = dict(model.named_parameters())
    assert not [name for name, parameter in parameters.items() if parameter.grad is None or not parameter.grad.any()]
    step = 1e-6
    for _ in range(4):
        directions = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
        ends = []
        with torch.no_grad():
            for way in (step, -2 * step, step):
                for name, parameter in parameters.items():
                    parameter.add_(directions[name], alpha=way)
                ends.append(loss())
        slope = sum((parameter.grad * directions[name]).sum() for name, parameter in parameters.items())  # type: ignore[operator]
        torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), slope, rtol=1e-4, atol=1e-6)


def test_the_loss_counts_masked_and_valid_pixels_only() -> None:
    painted, mask_canvas = torch.zeros(1, 3, 8, 4), torch.zeros(1, 3, 8, 4)
    mask_canvas[:, :, 4:] = 1.0
    mask_canvas[:, :, 0, 0] = 50.0  # not masked
    masked = torch.tensor([[[False], [True]]])
    assert painting_loss(painted, mask_canvas, masked).item() == pytest.approx(1.0 - 0.005)
    assert painting_loss(painted, mask_canvas, masked, beta=2.0).item() == pytest.approx(0.25)
    mask_canvas[:, :, 7] = 100.0
    valid = torch.ones(1, 8, 4, dtype=torch.bool)
    valid[:, 7] = False
    assert painting_loss(painted, mask_canvas, masked, valid=valid).item() == pytest.approx(1.0 - 0.005)
    assert painting_loss(painted, mask_canvas, torch.zeros_like(masked)).item() == 0.0


def test_the_default_configuration_is_the_published_large_model() -> None:
    with torch.device("meta"):
        model = SegGPT(ModelConfig())
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 370.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "a width that 3 heads divide, got 16"),
        ({"side": 18}, "side to be a multiple of patch 4, got 18"),
        ({"pretrain_side": 7}, "pretrain_side to be a multiple"),
        ({"merge_layer": 3}, r"merge_layer in 0\.\.2"),
        ({"taps": ()}, "increasing block numbers"),
        ({"taps": (2, 1)}, "increasing block numbers"),
        ({"taps": (0, 2)}, r"taps in 1\.\.2"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], message: str) -> None:
    fields = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__} | change
    with pytest.raises(ValueError, match=message):
        ModelConfig(**fields)  # type: ignore[arg-type]


def test_misshapen_inputs_are_refused_with_what_came() -> None:
    model, (images, masks, queries) = make_model(), make_inputs(2, 2)
    with pytest.raises(ValueError, match=r"queries .* got \(2, 3, 16, 15\)"):
        model(images, masks, queries[..., :15])
    with pytest.raises(ValueError, match=r"queries \(2, 3, 16, 16\).*, got \(3, 3, 16, 16\)"):
        model(images, masks, queries[[0, 0, 1]])
    with pytest.raises(ValueError, match=r"prompt_masks .* and \(2, 1, 3, 16, 16\)"):
        model(images, masks[:, :1], queries)
    with pytest.raises(ValueError, match="at least one shot"):
        model(images[:, :0], masks[:, :0], queries)
    with pytest.raises(ValueError, match="expected task"):
        model(images, masks, queries, task="panoptic")
