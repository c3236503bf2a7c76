"""Rotary position embedding: the tables of all types that the decoder's models use.

The formulas are those of transformers' `modeling_rope_utils`, in its order of operations (tested: the same bits), and
of the papers named there: linear (position interpolation), YaRN (Peng et al. 2023), LongRoPE (Ding et al. 2024), and
Llama 3's. `half_frozen` is MinimalLLM's; of `none` the tables are empty. Types whose table depends on the length of the
input at hand (`dynamic`, and LongRoPE beyond its first length) are refused: a cached key cannot change.
`rope_config.py` reads the parameters.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from engine_core.model.decoder.rope_config import RopeConfig
from ipc.errors import ConfigError


def check_length(rope: RopeConfig, max_model_len: int) -> None:
    """Raise `ConfigError` if the type has no fixed table for requests of this length."""
    if rope.rope_type == "longrope" and max_model_len > rope.parameters["original_max_position_embeddings"]:
        original = rope.parameters["original_max_position_embeddings"]
        raise ConfigError(f"this model's positions change beyond {original} tokens: use --max-model-len {original}")


def rotary_tables(rope: RopeConfig, max_model_len: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of each position's angles, `[max_model_len, rotary_dim // 2]` fp32.

    Dimension i is rotated together with dimension i + rotary_dim / 2.

    Raises:
        ConfigError: the type has no fixed table for this length.
    """
    check_length(rope, max_model_len)
    frequencies, factor = _frequencies(rope)
    angles = torch.outer(torch.arange(max_model_len, dtype=torch.float32), frequencies)
    return angles.cos() * factor, angles.sin() * factor


def _frequencies(rope: RopeConfig) -> tuple[torch.Tensor, float]:
    """Angle per position of each pair, and a factor on the results."""
    if rope.rope_type == "half_frozen":
        return _half_frozen(rope), 1.0
    waves = rope.theta ** (torch.arange(0, rope.rotary_dim, 2, dtype=torch.float32) / rope.rotary_dim)
    match rope.rope_type:
        case "linear":
            return 1.0 / waves / rope.parameters["factor"], 1.0
        case "llama3":
            return _llama3(1.0 / waves, rope.parameters), 1.0
        case "yarn":
            return _yarn(waves, rope), _yarn_factor(rope.parameters)
        case "longrope":
            return 1.0 / (torch.tensor(rope.parameters["short_factor"]) * waves), _longrope_factor(rope.parameters)
        case _:
            return 1.0 / waves, 1.0


def _half_frozen(rope: RopeConfig) -> torch.Tensor:
    """MinimalLLM's: from 1 down to 1 / theta in equal ratios, and as many pairs that never turn."""
    num_turning = rope.rotary_dim // 4
    turning = (1 / rope.theta) ** torch.linspace(0, 1, steps=num_turning)
    return torch.cat([turning, torch.zeros(num_turning)])


def _llama3(frequencies: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
    """Long waves are stretched, short ones stay, and those between are mixed."""
    factor, low, high = (parameters[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    waves = 2 * math.pi / frequencies
    original = parameters["original_max_position_embeddings"]
    smooth = (original / waves - low) / (high - low)
    mixed = (1 - smooth) * frequencies / factor + smooth * frequencies
    stretched = torch.where(waves > original / low, frequencies / factor, mixed)
    return torch.where(waves < original / high, frequencies, stretched)


def _yarn(waves: torch.Tensor, rope: RopeConfig) -> torch.Tensor:
    """Long waves are stretched, short ones stay, with a ramp between."""
    parameters, dim = rope.parameters, rope.rotary_dim

    def dimension_of(num_rotations: float) -> float:
        original = parameters["original_max_position_embeddings"]
        return dim * math.log(original / (num_rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = dimension_of(parameters.get("beta_fast", 32))
    high = dimension_of(parameters.get("beta_slow", 1))
    if parameters["truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    kept = 1 - ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    stretched: torch.Tensor = 1.0 / (parameters["factor"] * waves)
    return stretched * (1 - kept) + 1.0 / waves * kept


def _yarn_factor(parameters: Mapping[str, Any]) -> float:
    def mscale(multiplier: float) -> float:
        factor = parameters["factor"]
        return 0.1 * multiplier * math.log(factor) + 1.0 if factor > 1 else 1.0

    if "attention_factor" in parameters:
        return float(parameters["attention_factor"])
    if "mscale" in parameters and "mscale_all_dim" in parameters:
        return mscale(parameters["mscale"]) / mscale(parameters["mscale_all_dim"])
    return mscale(1)


def _longrope_factor(parameters: Mapping[str, Any]) -> float:
    if "attention_factor" in parameters:
        return float(parameters["attention_factor"])
    factor, original = parameters["factor"], parameters["original_max_position_embeddings"]
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
