"""Muon beside PyTorch's own, and the precision of a run."""

import copy

import pytest
import torch
from torch import Tensor, nn

from incontext.options import TrainingDtype
from incontext.training.optimizers import Muon, orthogonalised
from incontext.training.parallel.processes import Team
from incontext.training.precision import Precision

CPU = torch.device("cpu")
SHAPES = [(12, 12), (24, 10), (10, 24), (48, 12)]
MUONS = {"coefficients": (3.4445, -4.775, 2.0315), "steps": 5, "eps": 1e-7}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stepped(optimizer: torch.optim.Optimizer, first: int, count: int) -> None:
    """Steps along gradients that follow from their numbers."""
    for number in range(first, first + count):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = noise(*parameter.shape, seed=100 + number)
        optimizer.step()


def theirs(parameters: list[nn.Parameter]) -> torch.optim.Muon:
    return torch.optim.Muon(parameters, lr=1e-2, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")


def matrices() -> list[nn.Parameter]:
    return [nn.Parameter(noise(*shape)) for shape in SHAPES]


def test_muon_in_bfloat16_is_pytorchs_bit_for_bit() -> None:
    expected, found = matrices(), matrices()
    stepped(theirs(expected), 0, 4)
    stepped(Muon(found, lr=1e-2, weight_decay=0.05, newton_schulz=torch.bfloat16), 0, 4)
    for one, other, begun in zip(expected, found, matrices(), strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, begun)


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_applies_the_polynomial_to_the_singular_values_and_nothing_else(shape: tuple[int, int]) -> None:
    matrix = noise(*shape)
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    a, b, c = MUONS["coefficients"]
    for _ in range(MUONS["steps"]):
        values = a * values + b * values**3 + c * values**5
    exact = left * values @ right
    errors = {
        dtype: float((orthogonalised(matrix.to(dtype), **MUONS).double() - exact).norm() / exact.norm())
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
    }
    assert errors[torch.float64] < 1e-12
    assert errors[torch.float32] < 1e-4
    assert errors[torch.float32] < errors[torch.bfloat16] / 50


def test_muon_takes_a_step_in_float32_and_keeps_gradient_and_momentum() -> None:
    (parameter,) = found = [nn.Parameter(noise(24, 10))]
    muon = Muon(found, lr=1e-2, weight_decay=0.0, newton_schulz=torch.float32)
    stepped(muon, 0, 1)
    gradient = noise(24, 10, seed=100)
    assert parameter.grad is not None
    assert torch.equal(parameter.grad, gradient)
    torch.testing.assert_close(muon.state[parameter]["momentum_buffer"], 0.05 * gradient)
    moved = (parameter.detach() - noise(24, 10)) / (1e-2 * 0.2 * 24**0.5)
    torch.testing.assert_close(moved, -orthogonalised(gradient, **MUONS), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32], ids=str)
def test_the_state_of_one_precision_or_of_pytorchs_muon_goes_on_in_another(precision: torch.dtype) -> None:
    begun = matrices()
    first = theirs(begun)
    stepped(first, 0, 2)
    found = [nn.Parameter(each.detach().clone()) for each in begun]
    second = Muon(found, lr=1.0, weight_decay=0.0, newton_schulz=precision)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # as read from a file: no memory in common
    stepped(first, 2, 2)
    stepped(second, 2, 2)
    assert second.newton_schulz == precision
    assert second.state_dict()["param_groups"] == first.state_dict()["param_groups"]
    for one, other in zip(begun, found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0 if precision == torch.bfloat16 else 5e-3)


@pytest.mark.parametrize(
    ("multiplied", "name", "network", "newton_schulz"),
    [
        (True, "auto", torch.bfloat16, torch.bfloat16),
        (True, "bfloat16", torch.bfloat16, torch.bfloat16),
        (True, "float32", torch.float32, torch.float32),
        (False, "auto", torch.float32, torch.float32),
        (False, "bfloat16", torch.bfloat16, torch.float32),
        (False, "float32", torch.float32, torch.float32),
    ],
)
def test_precision_follows_the_hardware(
    multiplied: bool,
    name: TrainingDtype,
    network: torch.dtype,
    newton_schulz: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: multiplied)
    assert Precision.choose(name, CPU) == Precision(network, newton_schulz)
    # Of several processes all compute as the one that can do least.
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(Team, "all", lambda _, value: value and multiplied)
    assert Precision.choose(name, CPU, Team(0, 2)) == Precision(network, newton_schulz)


def test_another_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a dtype of training among auto, bfloat16, float32; got 'float16'"):
        Precision.choose("float16", CPU)  # type: ignore[arg-type]
