"""Packed linear layers against float64, in every format."""

import ctypes

import pytest
import torch

from engine_core.model.kernels.bindings import GROUP, Format, load_library, stride_of
from engine_core.model.kernels.build import kernel_library
from engine_core.model.kernels.packing import interleave_gate_up, pack_linear, quantize_columns

TOLERANCES = {Format.FLOAT32: 1e-5, Format.BF16: 0.01, Format.INT8: 0.015, Format.DYNAMIC_INT8: 0.03}


def apply(packed, rows):
    library = load_library(kernel_library())
    out = torch.empty(len(rows), stride_of(packed.num_columns))
    operand = torch.empty(len(rows), packed.num_inputs, dtype=torch.int32)
    scales, offsets = torch.empty(len(rows), -(-packed.num_inputs // GROUP)), torch.empty(len(rows))
    library.linear_rows(
        *(ctypes.byref(packed.struct), rows.data_ptr(), rows.stride(0), len(rows)),
        *(operand.data_ptr(), scales.data_ptr(), offsets.data_ptr(), out.data_ptr(), 2),
    )
    return out[:, : packed.num_columns]


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("num_rows", [1, 5, 12, 13, 40])
@pytest.mark.parametrize(("num_columns", "num_inputs"), [(64, 96), (100, 60), (96, 1536)])
def test_a_layer_computes_what_float64_does(format, num_rows, num_columns, num_inputs):
    generator = torch.Generator().manual_seed(num_rows)
    weight = torch.randn(num_columns, num_inputs, generator=generator) * 0.05
    bias = torch.randn(num_columns, generator=generator)
    rows = torch.randn(num_rows, num_inputs, generator=generator)
    expected = rows.double() @ weight.double().T + bias
    actual = apply(pack_linear(weight, format, bias), rows)
    assert (actual - expected).abs().max() <= TOLERANCES[format] * expected.abs().max()


@pytest.mark.parametrize("format", Format)
def test_a_row_does_not_depend_on_the_rows_beside_it(format):
    packed = pack_linear(torch.randn(96, 64), format)
    rows = torch.randn(37, 64)
    together = apply(packed, rows)
    for index in (0, 11, 12, 36):
        assert torch.equal(apply(packed, rows[index : index + 1])[0], together[index])


@pytest.mark.parametrize("format", [Format.INT8, Format.DYNAMIC_INT8])
def test_the_largest_sums_stay_in_range(format):
    num_inputs = 8192
    packed = pack_linear(torch.ones(32, num_inputs), format)
    assert torch.allclose(apply(packed, torch.ones(1, num_inputs)), torch.tensor(float(num_inputs)), rtol=1e-3)


@pytest.mark.parametrize("format", Format)
def test_nan_in_a_row_stays_in_that_row(format):
    rows = torch.randn(3, 64)
    rows[1, 5] = torch.nan
    result = apply(pack_linear(torch.randn(32, 64), format), rows)
    assert result[1].isnan().all()
    assert not result[[0, 2]].isnan().any()


def test_a_column_of_zeros_stays_zero():
    quantized, scales = quantize_columns(torch.zeros(2, 8))
    assert not quantized.any()
    assert not scales.any()


def test_gate_and_up_lie_beside_each_other():
    gate_up = torch.arange(64).float()[:, None].expand(64, 4)
    order = interleave_gate_up(gate_up)[:, 0].int().tolist()
    assert order == [*range(16), *range(32, 48), *range(16, 32), *range(48, 64)]
