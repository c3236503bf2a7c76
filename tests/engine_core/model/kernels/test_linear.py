"""Packed linear layers against float64, in every format."""

import ctypes

import pytest
import torch

from engine_core.model.kernels.bindings import GROUP, Format, load_library, stride_of
from engine_core.model.kernels.build import kernel_library
from engine_core.model.kernels.packing import interleave_gate_up, pack_linear, quantize_blocks, quantize_columns

TOLERANCES = {Format.FLOAT32: 1e-5, Format.BF16: 0.01, Format.INT8: 0.015, Format.DYNAMIC_INT8: 0.03, Format.INT4: 0.15}


def apply(packed, rows):
    library = load_library(kernel_library())
    out = torch.empty(len(rows), stride_of(packed.num_columns))
    operand = torch.empty(len(rows), packed.num_inputs, dtype=torch.int32)
    scales, sums = (torch.empty(len(rows), -(-packed.num_inputs // GROUP)) for _ in range(2))
    library.linear_rows(
        *(ctypes.byref(packed.struct), rows.data_ptr(), rows.stride(0), len(rows)),
        *(operand.data_ptr(), scales.data_ptr(), sums.data_ptr(), out.data_ptr(), 2),
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


@pytest.mark.parametrize("has_minimum", [True, False], ids=["Q4_1", "Q4_0"])
def test_blocks_of_a_gguf_file_are_found_again(has_minimum):
    generator = torch.Generator().manual_seed(5)
    values = torch.randint(0, 16, (40, 3, GROUP), generator=generator)
    scales = (torch.rand(40, 3, 1, generator=generator) * 0.01 + 0.002).half().float()
    if has_minimum:
        values[..., 0], values[..., 1] = 0, 15  # the smallest and the largest of each block
        minimums = (-8 * scales * (torch.rand(40, 3, 1, generator=generator) + 0.5)).half().float()
    else:
        values[..., 0], values[..., 1:] = 0, values[..., 1:].clamp(1, 13)  # 0 is the one of largest magnitude
        minimums = -8 * scales
    weight = (values * scales + minimums).flatten(1)
    errors = quantize_blocks(weight.bfloat16()).dequantized() - weight  # far below a step of the values
    assert float((errors / scales.expand(40, 3, GROUP).flatten(1)).abs().max()) < 0.05


def test_blocks_of_equal_weights_keep_them():
    weight = torch.tensor([0.25, -3.0]).repeat_interleave(GROUP)[None]
    assert torch.equal(quantize_blocks(weight).dequantized(), weight)


def test_inputs_that_make_no_whole_blocks_are_kept_in_eight_bits():
    assert pack_linear(torch.randn(32, 60), Format.INT4).format is Format.INT8


def test_gate_and_up_lie_beside_each_other():
    gate_up = torch.arange(64).float()[:, None].expand(64, 4)
    order = interleave_gate_up(gate_up)[:, 0].int().tolist()
    assert order == [*range(16), *range(32, 48), *range(16, 32), *range(48, 64)]
