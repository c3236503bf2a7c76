"""Rotary position embedding: the tables of all types that the decoder's models use.

The formulas are those of transformers' `modeling_rope_utils` and of the papers named there: linear (position
interpolation), YaRN (Peng et al. 2023), LongRoPE (Ding et al. 2024), and Llama 3's. Types whose table depends on the
length of the input at hand (`dynamic`, and LongRoPE beyond its first length) are refused: a cached key cannot change.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ipc.errors import ConfigError

_KEYS: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "yarn": frozenset({"factor", "original_max_position_embeddings"}),
    "longrope": frozenset({"long_factor", "short_factor", "original_max_position_embeddings"}),
}
"""Types, and what they need."""
_OPTIONAL_KEYS = frozenset(
    {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "factor"}
)


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """One kind of rotary embedding."""

    rope_type: str
    theta: float
    rotary_dim: int
    """Dimensions of a head that are rotated; the others stay."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What the type needs, by transformers' names."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], head_dim: int) -> "RopeConfig":
        """Read transformers' `rope_parameters`, or `rope_theta` and `rope_scaling` of older files.

        Raises:
            KeyError, TypeError, ValueError: it is of no type that is known here.
        """
        values = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        rope_type = str(values.pop("rope_type", None) or values.pop("type", None) or "default")
        values.pop("type", None)
        rope_type = {"su": "longrope"}.get(rope_type, rope_type)
        theta = float(values.pop("rope_theta", None) or config["rope_theta"])
        share = float(values.pop("partial_rotary_factor", None) or config.get("partial_rotary_factor") or 1.0)
        needed = _KEYS[rope_type]
        if "original_max_position_embeddings" in needed:
            original = config.get("original_max_position_embeddings") or config["max_position_embeddings"]
            values.setdefault("original_max_position_embeddings", original)
        if rope_type == "longrope":
            values.setdefault("factor", config["max_position_embeddings"] / values["original_max_position_embeddings"])
        is_known = needed <= set(values) <= needed | _OPTIONAL_KEYS | {"original_max_position_embeddings"}
        if not is_known:
            raise ValueError(f"unknown parameters of {rope_type}")
        return cls(rope_type, theta, int(head_dim * share), values)


def rotary_tables(rope: RopeConfig, max_model_len: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of each position's angles, `[max_model_len, rotary_dim // 2]` fp32.

    Dimension i is rotated together with dimension i + rotary_dim / 2.

    Raises:
        ConfigError: the type has no fixed table for this length.
    """
    frequencies, factor = _frequencies(rope, max_model_len)
    angles = torch.outer(torch.arange(max_model_len, dtype=torch.float32), frequencies)
    return angles.cos() * factor, angles.sin() * factor


def _frequencies(rope: RopeConfig, max_model_len: int) -> tuple[torch.Tensor, float]:
    """Angle per position of each pair, and a factor on the results."""
    exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.int64).float() / rope.rotary_dim
    frequencies = 1.0 / (rope.theta**exponents)
    match rope.rope_type:
        case "linear":
            return frequencies / rope.parameters["factor"], 1.0
        case "llama3":
            return _llama3(frequencies, rope.parameters), 1.0
        case "yarn":
            return _yarn(frequencies, rope)
        case "longrope":
            return _longrope(exponents, rope, max_model_len)
        case _:
            return frequencies, 1.0


def _llama3(frequencies: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
    """Long waves are stretched, short ones stay, and those between are mixed."""
    factor, low, high = (parameters[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    waves = 2 * math.pi / frequencies
    original = parameters["original_max_position_embeddings"]
    smooth = (original / waves - low) / (high - low)
    mixed = (1 - smooth) * frequencies / factor + smooth * frequencies
    stretched = torch.where(waves > original / low, frequencies / factor, mixed)
    return torch.where(waves < original / high, frequencies, stretched)


def _yarn(frequencies: torch.Tensor, rope: RopeConfig) -> tuple[torch.Tensor, float]:
    parameters, dim = rope.parameters, rope.rotary_dim
    factor, original = parameters["factor"], parameters["original_max_position_embeddings"]

    def dimension_of(num_rotations: float) -> float:
        return dim * math.log(original / (num_rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = dimension_of(parameters.get("beta_fast") or 32)
    high = dimension_of(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    kept = 1 - ramp.clamp(0, 1)
    return frequencies / factor * (1 - kept) + frequencies * kept, _yarn_factor(parameters, factor)


def _yarn_factor(parameters: Mapping[str, Any], factor: float) -> float:
    def mscale(multiplier: float) -> float:
        return 0.1 * multiplier * math.log(factor) + 1.0 if factor > 1 else 1.0

    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])
    if parameters.get("mscale") and parameters.get("mscale_all_dim"):
        return mscale(parameters["mscale"]) / mscale(parameters["mscale_all_dim"])
    return mscale(1)


def _longrope(exponents: torch.Tensor, rope: RopeConfig, max_model_len: int) -> tuple[torch.Tensor, float]:
    parameters = rope.parameters
    original, factor = parameters["original_max_position_embeddings"], parameters["factor"]
    if max_model_len > original:
        raise ConfigError(f"this model's positions change beyond {original} tokens: use --max-model-len {original}")
    scale = parameters.get("attention_factor")
    if scale is None:
        scale = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return 1.0 / (torch.tensor(parameters["short_factor"]) * rope.theta**exponents), float(scale)
