"""The matrices of a decoder that an adapter may change, by the names that PEFT gives them.

The decoder computes QKV and gate/up each as one matrix; adapters know the parts. Next: `adapter_files.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engine_core.model.decoder.config import DecoderConfig

LinearName = Literal["qkv", "output", "gate_up", "down"]
"""A matrix of `LayerWeights`."""


@dataclass(frozen=True, slots=True)
class Target:
    """A part of one of the matrices of a layer."""

    linear: LinearName
    num_inputs: int
    first_row: int
    """Of the fused matrix, as for `num_rows`."""
    num_rows: int


def targets_of(config: DecoderConfig) -> Mapping[str, Target]:
    """All of a layer, by the name of the module in it, such as `self_attn.q_proj`."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    num_queries, num_keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    targets = {
        "self_attn.o_proj": Target("output", num_queries, 0, hidden),
        "mlp.down_proj": Target("down", intermediate, 0, hidden),
    }
    if config.has_fused_weights:
        targets["self_attn.qkv_proj"] = Target("qkv", hidden, 0, num_queries + 2 * num_keys)
        targets["mlp.gate_up_proj"] = Target("gate_up", hidden, 0, 2 * intermediate)
        return targets
    if config.has_gate:
        targets["mlp.gate_proj"] = Target("gate_up", hidden, 0, intermediate)
    return targets | {
        "self_attn.q_proj": Target("qkv", hidden, 0, num_queries),
        "self_attn.k_proj": Target("qkv", hidden, num_queries, num_keys),
        "self_attn.v_proj": Target("qkv", hidden, num_queries + num_keys, num_keys),
        "mlp.up_proj": Target("gate_up", hidden, intermediate if config.has_gate else 0, intermediate),
    }


def num_rows_of(config: DecoderConfig) -> Mapping[LinearName, int]:
    """Rows of each fused matrix."""
    rows: dict[LinearName, int] = {}
    for target in targets_of(config).values():
        rows[target.linear] = max(rows.get(target.linear, 0), target.first_row + target.num_rows)
    return rows
