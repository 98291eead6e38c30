"""Every kernel against the written-out definition: values and gradients, dtypes, odd grids."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from incontext.network import kernels
from incontext.network.attention import attention, attention_with_lse, choose_kernel, merge
from incontext.network.kernels import KERNELS
from incontext.network.relative import relative_bias, relative_table

ON_A_CPU = [name for name in KERNELS if name != "flex"]
GRIDS = [(3, 2), (8, 4), (5, 3), (7, 7)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 4e-2}


def make_inputs(grid: tuple[int, int], dtype: torch.dtype, width: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    height, columns = grid
    tokens = height * columns
    shapes = [(2, 3, tokens, width)] * 3 + [(height, height, width), (columns, columns, width)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kernel", ["pieces", "bias_mask", "folded"])
def test_kernels_give_the_plain_kernels_answers_and_gradients(
    kernel: str, grid: tuple[int, int], dtype: torch.dtype
) -> None:
    results = []
    for name in ("plain", kernel):
        inputs = make_inputs(grid, dtype)
        out = attention(*inputs, kernel=name)
        out.square().sum().backward()
        results.append([out.detach(), *(tensor.grad for tensor in inputs)])
    assert results[0][0].dtype == dtype
    for expected, got in zip(*results, strict=True):
        assert got is not None
        assert expected is not None
        assert_near(got, expected, TOLERANCE[dtype])


def assert_near(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    assert (got.double() - expected.double()).norm() < tolerance * expected.double().norm()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("piece", [1, 1 << 20], ids=["one head at a time", "all at once"])
@pytest.mark.parametrize("kernel", ON_A_CPU)
def test_some_rows_of_one_query_against_many_prompts(
    kernel: str, piece: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the ensemble asks for: q (M, 1, ...) against k (M, N, ...), other rows of the grid, without gradients."""
    monkeypatch.setattr(kernels, "PIECE_BYTES", piece)
    generator = torch.Generator().manual_seed(2)
    shapes = [(2, 1, 3, 2 * 4, 8), (2, 5, 3, 3 * 4, 8), (2, 5, 3, 3 * 4, 8), (2, 3, 8), (4, 4, 8)]
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    expected, expected_lse = attention_with_lse(*inputs, kernel="plain")
    assert expected.shape == (2, 5, 3, 8, 8)
    assert expected_lse.shape == (2, 5, 3, 8)
    inputs = [each.to(dtype) for each in inputs]
    assert_near(attention(*inputs, kernel=kernel), expected, TOLERANCE[dtype])
    out, lse = attention_with_lse(*inputs, kernel=kernel)
    assert out.dtype == dtype
    assert lse.dtype == torch.promote_types(dtype, torch.float32)
    assert_near(out, expected, TOLERANCE[dtype])
    assert_near(lse, expected_lse, TOLERANCE[dtype])


@pytest.mark.parametrize("kernel", ["auto", *ON_A_CPU])
def test_two_halves_of_the_keys_merge_to_all_of_them(kernel: str) -> None:
    q, k, v, rows, columns = (each.detach() for each in make_inputs((6, 2), torch.float64))
    upper = attention_with_lse(q, k[:, :, :6], v[:, :, :6], rows[:, :3], columns, kernel=kernel)
    lower = attention_with_lse(q, k[:, :, 6:], v[:, :, 6:], rows[:, 3:], columns, kernel=kernel)
    torch.testing.assert_close(merge(*upper, *lower), attention(q, k, v, rows, columns, kernel="plain"))


def test_the_log_sum_exp_has_a_gradient_or_is_refused() -> None:
    inputs = make_inputs((3, 2), torch.float64)
    attention_with_lse(*inputs)[1].sum().backward()
    assert inputs[0].grad is not None
    assert inputs[0].grad.abs().sum() > 0
    with pytest.raises(ValueError, match="log-sum-exp of the attention kernel folded has no gradient"):
        attention_with_lse(*inputs, kernel="folded")


@pytest.mark.parametrize("piece", [1, 64, 2 * 64, 3 * 64, 4 * 64, 1 << 20])
@pytest.mark.parametrize("kernel", ["pieces", "bias_mask"])
def test_the_scores_may_exist_in_pieces(kernel: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PIECE_BYTES", piece * 8)
    inputs = [each.detach() for each in make_inputs((4, 2), torch.float64)]
    found, expected = (attention_with_lse(*inputs, kernel=name) for name in (kernel, "plain"))
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile", "ignore:return_lse is deprecated")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_bias_as_a_score_modification_is_the_plain_kernels(grid: tuple[int, int], dtype: torch.dtype) -> None:
    """What flex hands to PyTorch, by PyTorch's written-out FlexAttention, which also a CPU computes right."""
    inputs = [each.detach() for each in make_inputs(grid, dtype)]
    out, lse = kernels.flex_with_lse_by(kernels.written_out_with_lse, *inputs)
    expected, expected_lse = attention_with_lse(*inputs, kernel="plain")
    assert_near(out, expected, TOLERANCE[dtype])
    assert_near(lse, expected_lse, TOLERANCE[dtype])
    torch.testing.assert_close(kernels.flex_by(kernels.written_out, *inputs), out)


@pytest.mark.parametrize("ask", [attention, attention_with_lse])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_flex_is_refused_on_a_cpu(ask: Callable[..., object], dtype: torch.dtype) -> None:
    inputs = [each.detach() for each in make_inputs((3, 2), dtype)]
    with pytest.raises(ValueError, match=r"kernel flex takes .* on a CUDA device, got tensors on cpu; use auto"):
        ask(*inputs, kernel="flex")


@pytest.mark.gpu
def test_flex_takes_no_float64() -> None:
    inputs = [each.detach().cuda() for each in make_inputs((3, 2), torch.float64)]
    with pytest.raises(ValueError, match="at most 32 bits on a CUDA device, got float64"):
        attention(*inputs, kernel="flex")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grid", [(8, 4), (56, 28), (7, 5)])
@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "plain"])
def test_kernels_on_cuda(kernel: str, grid: tuple[int, int], dtype: torch.dtype) -> None:
    inputs = [each.detach().cuda() for each in make_inputs(grid, dtype, width=64)]
    exact = [each.double() for each in inputs]
    expected, expected_lse = attention_with_lse(*exact, kernel="plain")
    torch.backends.cuda.matmul.allow_tf32 = False
    out, lse = attention_with_lse(*inputs, kernel=kernel)
    tolerance = 5e-3 if kernel == "flex" and dtype == torch.float32 else TOLERANCE[dtype] * 4
    assert_near(out, expected, tolerance)
    assert_near(lse, expected_lse, tolerance)
    if dtype == torch.float32 and kernel == "flex":
        return
    results = []
    for name, tensors in (("plain", exact), (kernel, inputs)):
        leaves = [each.clone().requires_grad_() for each in tensors]
        attention(*leaves, kernel=name).square().sum().backward()
        results.append([leaf.grad for leaf in leaves])
    for reference, got in zip(*results, strict=True):
        assert reference is not None
        assert got is not None
        assert_near(got, reference, tolerance)


def test_auto_depends_on_device_precision_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_kernel(cpu, torch.float32) == "bias_mask"
    assert choose_kernel(cuda, torch.bfloat16) == "folded"
    for unit, name in ((True, "folded"), (False, "pieces")):
        monkeypatch.setattr("incontext.network.attention.has_matrix_unit", lambda unit=unit: unit)
        assert choose_kernel(cpu, torch.bfloat16) == name
        assert choose_kernel(cpu, torch.bfloat16, gradients=True) == ("folded" if unit else "plain")
    assert choose_kernel(cpu, torch.float32, gradients=True) == "plain"
    assert choose_kernel(torch.device("mps"), torch.float16) == "plain"


def test_plain_is_the_definition_entry_by_entry() -> None:
    q, k, v, rows, columns = (tensor.detach() for tensor in make_inputs((3, 2), torch.float64))
    expected = torch.zeros_like(q)
    for i in range(6):
        scores = torch.stack(
            [
                (q[..., i, :] * k[..., j, :]).sum(-1) / 12**0.5
                + q[..., i, :] @ rows[i // 2, j // 2]
                + q[..., i, :] @ columns[i % 2, j % 2]
                for j in range(6)
            ],
            dim=-1,
        )
        expected[..., i, :] = torch.einsum("...k,...kd->...d", scores.softmax(-1), v)
    torch.testing.assert_close(attention(q, k, v, rows, columns, kernel="plain"), expected)


def test_relative_table_looks_up_offsets_and_interpolates_other_lengths() -> None:
    table = torch.arange(7.0).unsqueeze(-1)  # made for a length of 4: offsets -3..3
    looked_up = relative_table(table, 4)[..., 0]
    assert looked_up[0].tolist() == [3.0, 2.0, 1.0, 0.0]
    assert looked_up[:, 0].tolist() == [3.0, 4.0, 5.0, 6.0]
    longer = relative_table(table, 6)[..., 0]
    assert longer.shape == (6, 6)
    torch.testing.assert_close(longer.diagonal(), torch.full((6,), 3.0))
    torch.testing.assert_close(longer + longer.T, torch.full((6, 6), 6.0))  # still odd around the middle
    half = relative_table(table.to(torch.bfloat16), 6)
    assert half.dtype == torch.bfloat16


def test_relative_bias_uses_the_unscaled_query() -> None:
    q, _, _, rows, columns = make_inputs((3, 2), torch.float64)
    by_row, by_column = relative_bias(q, rows, columns)
    torch.testing.assert_close(by_row[0, 0, 5, 1], q[0, 0, 5] @ rows[2, 1])
    torch.testing.assert_close(by_column[0, 0, 5, 0], q[0, 0, 5] @ columns[1, 0])


def test_an_unknown_kernel_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"among auto, plain, .*got 'fast'"):
        attention(*make_inputs((2, 1), torch.float32), kernel="fast")
