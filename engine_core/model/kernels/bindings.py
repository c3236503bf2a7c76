"""The compiled kernels as Python sees them: ctypes structs that mirror `src/*.h`, and the functions.

Invariant: field order and types are those of the structs of the same name in C++. Pointers are addresses of tensors
that the caller keeps alive. torch must be imported before the library is loaded, so that both use one OpenMP runtime.
"""

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from enum import IntEnum
from functools import cache
from pathlib import Path

import torch

PANEL = 32
"""Columns of packed weights that lie together."""
MAX_TILE_ROWS = 12
"""Queries that attention computes at once."""
MAX_ROW = 16384
"""Largest hidden size."""
MAX_INPUTS = 65536
"""Of a linear layer: so many products of bytes cannot leave 32 bits."""
MAX_HEAD_DIM = 256
GROUP = 32
"""Activations that share a scale."""


class Format(IntEnum):
    """How the weights of a linear layer are kept, and so how its activations are brought in."""

    FLOAT32 = 0
    BF16 = 1
    INT8 = 2
    """int8 weights with a scale per column; int8 activations with a scale per `GROUP` inputs of a row."""
    DYNAMIC_INT8 = 3
    """The same with one scale for a whole row."""
    INT4 = 4
    """Blocks of `GROUP` inputs: minimum + scale · (0 … 15); activations as for INT8."""


class Linear(Structure):
    """A packed linear layer."""

    _fields_ = (
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("num_columns", c_int32),
        ("num_inputs", c_int32),
        ("format", c_int32),
    )


class Layer(Structure):
    """One decoder layer."""

    _fields_ = (
        ("qkv", Linear),
        ("output", Linear),
        ("gate_up", Linear),
        ("down", Linear),
        ("input_norm", c_void_p),
        ("post_attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("post_mlp_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("rotary_dim", c_int32),
        ("window", c_int32),
    )


class Decoder(Structure):
    """A model."""

    _fields_ = (
        ("layers", POINTER(Layer)),
        ("embedding", c_void_p),
        ("norm", c_void_p),
        ("num_layers", c_int32),
        ("hidden_size", c_int32),
        ("intermediate_size", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("block_size", c_int32),
        ("is_bf16", c_int32),
        ("has_gelu", c_int32),
        ("has_gate", c_int32),
        ("rms_norm_eps", c_float),
        ("embedding_scale", c_float),
        ("attention_scale", c_float),
        ("attention_softcap", c_float),
    )


class Span(Structure):
    """One request's part of a step."""

    _fields_ = (
        ("block_ids", c_void_p),
        ("query_start", c_int32),
        ("num_queries", c_int32),
        ("num_computed", c_int32),
    )


class LowRank(Structure):
    """What an adapter adds to one matrix."""

    _fields_ = (("shrink", Linear), ("expand", Linear))


class LoraLayer(Structure):
    """What an adapter has for one layer."""

    _fields_ = (("qkv", LowRank), ("output", LowRank), ("gate_up", LowRank), ("down", LowRank))


class LoraStep(Structure):
    """The adapters of a step's tokens."""

    _fields_ = (
        ("layers", POINTER(LoraLayer)),
        ("adapters", c_void_p),
        ("tiles", c_void_p),
        ("operand", c_void_p),
        ("shrunk", c_void_p),
        ("gates", c_void_p),
        ("num_tiles", c_int32),
        ("num_layers", c_int32),
        ("rank_words", c_int32),
        ("format", c_int32),
    )


class Batch(Structure):
    """A step's flat batch."""

    _fields_ = (
        ("input_ids", c_void_p),
        ("positions", c_void_p),
        ("spans", c_void_p),
        ("tiles", c_void_p),
        ("num_tokens", c_int32),
        ("num_spans", c_int32),
        ("num_tiles", c_int32),
        ("lora", POINTER(LoraStep)),
    )


class Scratch(Structure):
    """Memory that a step writes."""

    _fields_ = (
        ("residual", c_void_p),
        ("qkv", c_void_p),
        ("attended", c_void_p),
        ("activated", c_void_p),
        ("query", c_void_p),
        ("operand", c_void_p),
        ("operand_scales", c_void_p),
        ("operand_sums", c_void_p),
        ("phase_seconds", c_void_p),
    )


PHASES = ("linear layers", "attention", "norms and the rest")
"""Of a step, as `Scratch.phase_seconds` counts them."""


def stride_of(size: int) -> int:
    """A row of `size` values in whole panels."""
    return -(-size // PANEL) * PANEL


@cache
def load_library(path: Path) -> ctypes.CDLL:
    """Load the library that `build.kernel_library` made."""
    assert torch.get_num_threads() > 0  # torch's OpenMP runtime is the one that is used
    library = ctypes.CDLL(str(path))
    library.decoder_step.argtypes = (POINTER(Decoder), POINTER(Batch), POINTER(Scratch), c_int32)
    library.decoder_step.restype = None
    library.linear_rows.argtypes = (
        *(POINTER(Linear), c_void_p, c_int64, c_int32, c_void_p, c_void_p, c_void_p, c_void_p, c_int32),
    )
    library.linear_rows.restype = None
    return library
