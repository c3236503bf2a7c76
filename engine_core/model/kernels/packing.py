"""Weights in the layout that the kernels read (`src/gemm.h`), and their quantization.

Invariant: a `PackedLinear` owns every tensor that its struct points to. Next: `bindings.py`.
"""

from dataclasses import dataclass

import torch

from engine_core.model.kernels.bindings import PANEL, Format, Linear, stride_of

_WORD_TYPES = {
    Format.FLOAT32: torch.int32,
    Format.BF16: torch.int32,
    Format.INT8: torch.int32,
    Format.DYNAMIC_INT8: torch.int32,
}
"""Of a word of weights: one to four values that are multiplied in one step."""
MAX_INT8 = 127
OFFSET = 128
"""Added to int8 weights, as the processor multiplies unsigned with signed bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedLinear:
    """A linear layer for the kernels."""

    weights: torch.Tensor
    """`[panels, words, 32]` words."""
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

    `inputs` must be a multiple of 4.
    """
    num_columns, num_inputs = weight.shape
    padded = stride_of(num_columns)
    scales = None
    if format is Format.FLOAT32:
        values = weight.float()
    elif format is Format.BF16:
        values = weight.bfloat16()
    else:
        values, scales = quantize_columns(weight)
        scales = _padded(scales, padded)
        values = (values.to(torch.int16) + OFFSET).to(torch.uint8)
    return PackedLinear(
        weights=_pack(values, _WORD_TYPES[format]),
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


def interleave_gate_up(gate_up: torch.Tensor) -> torch.Tensor:
    """Reorder `[2 * intermediate, inputs]` so that each panel holds 16 columns of the gate and the same 16 of up."""
    half, num_inputs = PANEL // 2, gate_up.shape[1]
    parts = [part.reshape(-1, half, num_inputs) for part in gate_up.chunk(2)]
    return torch.stack(parts, dim=1).flatten(0, 2)


def _pack(values: torch.Tensor, word_type: torch.dtype) -> torch.Tensor:
    words = values.contiguous().view(word_type)
    missing = stride_of(len(words)) - len(words)
    if missing:
        words = torch.cat([words, words.new_zeros(missing, words.shape[1])])
    return words.reshape(-1, PANEL, words.shape[1]).transpose(1, 2).contiguous()


def _padded(values: torch.Tensor, size: int) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, size - len(values)))
