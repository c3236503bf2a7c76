"""Weights in the layout that the kernels read (`src/gemm.h`), and their quantization.

Invariant: a `PackedLinear` owns every tensor that its struct points to. Next: `bindings.py`.
"""

from dataclasses import dataclass

import torch

from engine_core.model.kernels.bindings import GROUP, PANEL, Format, Linear, stride_of

MAX_INT8 = 127
MAX_INT4 = 15
MAX_LATTICE_ERROR = 0.05
"""Of weights that lie on a lattice of four bits and were rounded to bf16, as a share of its step."""
OFFSET = 128
"""Added to int8 weights, as the processor multiplies unsigned with signed bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedLinear:
    """A linear layer for the kernels."""

    weights: torch.Tensor
    """`[panels, words, 32]` int32 words; INT4: `[panels, groups, 160]`."""
    scales: torch.Tensor | None
    """`[padded columns]` fp32."""
    bias: torch.Tensor | None
    """`[padded columns]` fp32."""
    num_columns: int
    num_inputs: int
    format: Format

    @property
    def struct(self) -> Linear:
        """As the kernels take it; valid while this object lives."""
        tensors = (self.weights, self.scales, self.bias)
        pointers = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        return Linear(*pointers, self.num_columns, self.num_inputs, self.format)


def pack_linear(weight: torch.Tensor, format: Format, bias: torch.Tensor | None = None) -> PackedLinear:
    """Pack `[columns, inputs]` weights, quantized where the format says so.

    `inputs` must be a multiple of 4; where it is none of `GROUP`, INT8 takes the place of INT4.
    """
    num_columns, num_inputs = weight.shape
    if format is Format.INT4 and num_inputs % GROUP:
        format = Format.INT8
    padded = stride_of(num_columns)
    scales = None
    if format is Format.FLOAT32:
        words = _pack(weight.float())
    elif format is Format.BF16:
        words = _pack(weight.bfloat16())
    elif format is Format.INT4:
        words = _pack_blocks(quantize_blocks(weight))
    else:
        values, scales = quantize_columns(weight)
        scales = _padded(scales, padded)
        words = _pack((values.to(torch.int16) + OFFSET).to(torch.uint8))
    return PackedLinear(
        weights=words,
        scales=scales,
        bias=None if bias is None else _padded(bias.float(), padded),
        num_columns=num_columns,
        num_inputs=num_inputs,
        format=format,
    )


def quantize_columns(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`[columns, inputs]` int8 and `[columns]` fp32 scales: each column's largest value becomes 127."""
    wide = weight.float()
    scales = wide.abs().amax(dim=1) / MAX_INT8
    quantized = torch.round(wide / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None])
    return quantized.to(torch.int8), scales


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Weights in blocks of `GROUP` inputs: minimum + scale · value."""

    values: torch.Tensor
    """`[columns, blocks, GROUP]` uint8, 0 … 15."""
    scales: torch.Tensor
    """`[columns, blocks]` fp16, as the minimums."""
    minimums: torch.Tensor

    def dequantized(self) -> torch.Tensor:
        """`[columns, inputs]` fp32."""
        return (self.values * self.scales.float()[..., None] + self.minimums.float()[..., None]).flatten(1)


def quantize_blocks(weight: torch.Tensor) -> Blocks:
    """Divide `[columns, inputs]` weights into blocks of four bits.

    Blocks that come from a GGUF file in Q4_1 or Q4_0 get their values back: Q4_1 spreads 15 steps from the smallest to
    the largest weight, Q4_0 eight steps from 0 to the one of largest magnitude. Others take what is nearer. Scale and
    minimum are then fitted to the values by least squares.
    """
    wide = weight.float().view(-1, GROUP)
    smallest, largest = wide.aminmax(dim=1)
    values, scales, minimums, errors = _fit(wide, smallest, (largest - smallest) / MAX_INT4)
    rest = (errors > (scales * MAX_LATTICE_ERROR).square()).nonzero()[:, 0]
    if len(rest):
        extreme = torch.where(-smallest > largest, smallest, largest)[rest]
        other = _fit(wide[rest], extreme, extreme / -8)
        is_nearer = other[3] < errors[rest]
        rest = rest[is_nearer]
        values[rest], scales[rest], minimums[rest] = (part[is_nearer] for part in other[:3])
    shape = (len(weight), -1)
    return Blocks(values.to(torch.uint8).view(*shape, GROUP), scales.half().view(shape), minimums.half().view(shape))


def _fit(
    wide: torch.Tensor, first: torch.Tensor, step: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Nearest values on a lattice, the scales and minimums that fit them best, and the mean squared errors."""
    steps = torch.where(step == 0, 1.0, step)[:, None]
    values = ((wide - first[:, None]) / steps).round_().clamp_(0, MAX_INT4)
    mean, mean_weight = values.mean(dim=1), wide.mean(dim=1)
    covariance = (values * wide).mean(dim=1) - mean * mean_weight
    variance = values.square().mean(dim=1) - mean.square()
    scales = (covariance / variance.clamp(min=1e-3)).half().float()
    minimums = (mean_weight - scales * mean).half().float()
    errors = torch.addcmul(minimums[:, None] - wide, values, scales[:, None]).square_().mean(dim=1)
    return values, scales, minimums, errors


def interleave_gate_up(gate_up: torch.Tensor) -> torch.Tensor:
    """Reorder `[2 * intermediate, inputs]` so that each panel holds 16 columns of the gate and the same 16 of up."""
    half, num_inputs = PANEL // 2, gate_up.shape[1]
    parts = [part.reshape(-1, half, num_inputs) for part in gate_up.chunk(2)]
    return torch.stack(parts, dim=1).flatten(0, 2)


def _pack(values: torch.Tensor) -> torch.Tensor:
    """`[columns, inputs]` as `[panels, words, 32]`."""
    words = _in_panels(values.contiguous().view(torch.int32))
    return words.transpose(1, 2).contiguous()


def _pack_blocks(blocks: Blocks) -> torch.Tensor:
    """`[panels, groups, 160]`: scales, minimums, and the words of steps 0 … 3 with those of steps 4 … 7."""
    low, high = blocks.values.view(*blocks.scales.shape, 2, GROUP // 2).unbind(2)
    nibbles = _in_panels((low | high << 4).view(torch.int32)).permute(0, 2, 3, 1)  # [panels, groups, 4, 32]
    halves = [_in_panels(part).transpose(1, 2) for part in (blocks.scales, blocks.minimums)]
    words = [part.contiguous().view(torch.int32) for part in halves]
    return torch.cat([*words, nibbles.flatten(2)], dim=2)


def _in_panels(rows: torch.Tensor) -> torch.Tensor:
    """`[columns, …]` as `[panels, 32, …]`, with zeros behind the last column."""
    missing = stride_of(len(rows)) - len(rows)
    if missing:
        rows = torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
    return rows.view(-1, PANEL, *rows.shape[1:])


def _padded(values: torch.Tensor, size: int) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, size - len(values)))
