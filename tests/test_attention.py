"""Every kernel against the written-out definition: values and gradients, dtypes, odd grids."""

import pytest
import torch
from torch import Tensor

from incontext.attention import KERNELS, attention, relative_bias, relative_table

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
@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "plain"])
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
        assert got.shape == expected.shape
        assert (got.double() - expected.double()).norm() < TOLERANCE[dtype] * expected.double().norm()


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
