"""Which rotary embeddings a model has, read from its config as transformers reads it.

Newer files have `rope_parameters`, older ones `rope_scaling` beside `rope_theta`; what both lack has the defaults of
transformers. A type or a parameter that is not known here is a `ConfigError`. Next: `rope.py` makes the tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine_core.config_values import ConfigValues
from engine_core.model.decoder.windows import FULL, SLIDING, gemma3_kinds
from ipc.errors import ConfigError

_THETA = 10_000.0
"""Default of all models but Gemma 3 (layers that see everything)."""
_GEMMA3_THETA = 1_000_000.0
_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": (),
}
"""For each type, the numbers that it needs."""
_OPTIONAL_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    "longrope": ("attention_factor", "factor"),
}
"""Numbers that may be null or missing."""
_OTHERS: Mapping[str, tuple[str, ...]] = {"yarn": ("truncate",), "longrope": ("short_factor", "long_factor")}
_ORIGINAL = "original_max_position_embeddings"
_SHARE = "partial_rotary_factor"
_ANYWHERE = ("type", "rope_type", "rope_theta", _SHARE, _ORIGINAL)
"""Parameters that every type may have."""


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """One kind of rotary embedding."""

    rope_type: str
    theta: float
    rotary_dim: int
    """Dimensions of a head that are rotated; the others stay."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What the type needs, by transformers' names; an optional number that is missing is not in it."""


@dataclass(frozen=True, slots=True)
class LayerRopes:
    """The rotary embeddings of a model, and which of them each layer has."""

    ropes: tuple[RopeConfig, ...]
    rope_of_layer: tuple[int, ...]


def one_rope(values: ConfigValues, head_dim: int, num_layers: int) -> LayerRopes:
    """The same for all layers, of any type that is known here; whole heads are rotated."""
    values.refuse_other_than(_SHARE, (None, 1, 1.0))
    parameters = _parameters(values)
    parameters.refuse_other_than(_SHARE, (1, 1.0))
    rope = _rope(parameters, values, head_dim, _theta(parameters, values), tuple(_NUMBERS))
    return LayerRopes((rope,), (0,) * num_layers)


def minimal_llm_rope(values: ConfigValues, head_dim: int, num_layers: int) -> LayerRopes:
    """The same for all layers: `none` rotates nothing, `half_frozen` every second pair, `default` whole heads."""
    parameters = ConfigValues(values.get("rope_parameters"), where="config.json: rope_parameters")
    parameters.refuse_other_than("rope_type", ("none", "half_frozen", "default"))
    rope_type = parameters.text("rope_type")
    if rope_type == "none":
        return LayerRopes((RopeConfig(rope_type, _THETA, rotary_dim=0),), (0,) * num_layers)
    if head_dim % (4 if rope_type == "half_frozen" else 2):
        raise ConfigError(f"config.json: heads of {head_dim} dimensions cannot be rotated")
    return LayerRopes((RopeConfig(rope_type, _theta(parameters, values), head_dim),), (0,) * num_layers)


def phi3_rope(values: ConfigValues, head_dim: int, num_layers: int) -> LayerRopes:
    """The same for all layers, of the two types that Phi-3 knows; a part of each head may stay as it is."""
    parameters = _parameters(values)
    share = (parameters if _SHARE in parameters else values).number(_SHARE)
    rotary_dim = int(head_dim * share)
    if rotary_dim > head_dim:
        raise ConfigError(f"config.json: {_SHARE} is above 1")
    rope = _rope(parameters, values, rotary_dim, _theta(parameters, values), ("default", "longrope"))
    usual_head_dim = values.integer("hidden_size") // values.integer("num_attention_heads")
    if rope.rope_type == "longrope" and head_dim != usual_head_dim:
        raise ConfigError("config.json: longrope with a head_dim that does not follow from hidden_size")
    return LayerRopes((rope,), (0,) * num_layers)


def gemma3_ropes(values: ConfigValues, head_dim: int, num_layers: int) -> LayerRopes:
    """One for layers that see everything, and one for those with a window."""
    values.refuse_other_than(_SHARE, (None, 1, 1.0))
    full, sliding = _gemma3_parameters(values)
    thetas = (
        _theta(full, values, default=_GEMMA3_THETA),
        _theta(sliding, values, name="rope_local_base_freq"),
    )
    ropes = []
    for parameters, theta in zip((full, sliding), thetas, strict=True):
        parameters.refuse_other_than(_SHARE, (1, 1.0))
        ropes.append(_rope(parameters, values, head_dim, theta, ("default", "linear")))
    kinds = gemma3_kinds(values, num_layers)
    return LayerRopes(tuple(ropes), tuple(int(kind == SLIDING) for kind in kinds))


# --- where the parameters are ----------------------------------------------------------------------------------------


def _parameters(values: ConfigValues) -> ConfigValues:
    """`rope_scaling` wins where it says anything."""
    for name in ("rope_scaling", "rope_parameters"):
        if not values.is_null(name) and values[name] != {}:
            return ConfigValues(values[name], where=f"config.json: {name}")
    return ConfigValues({})


def _gemma3_parameters(values: ConfigValues) -> tuple[ConfigValues, ConfigValues]:
    """Of layers that see everything, and of those with a window, for which older files have none."""
    if values.is_null("rope_parameters"):
        full = _parameters(values)
        if "type" in full and "rope_type" not in full:
            raise ConfigError("config.json: rope_scaling has a type but no rope_type")
        return full, ConfigValues({})
    values.refuse_other_than("rope_scaling", (None,))
    where = "config.json: rope_parameters"
    both = ConfigValues(values["rope_parameters"], where=where)
    if set(both) != {FULL, SLIDING}:
        raise ConfigError(f"{where} must have {FULL} and {SLIDING}")
    return ConfigValues(both[FULL], where=f"{where}: {FULL}"), ConfigValues(both[SLIDING], where=f"{where}: {SLIDING}")


# --- one rotary embedding --------------------------------------------------------------------------------------------


def _rope(
    parameters: ConfigValues, values: ConfigValues, rotary_dim: int, theta: float, known_types: tuple[str, ...]
) -> RopeConfig:
    rope_type = _type(parameters)
    if rope_type not in known_types:
        raise ConfigError("config.json: rotary embeddings of an unknown type")
    allowed = {*_NUMBERS[rope_type], *_OPTIONAL_NUMBERS.get(rope_type, ()), *_OTHERS.get(rope_type, ()), *_ANYWHERE}
    if not allowed.issuperset(parameters):
        raise ConfigError(f"config.json: {rope_type} rotary embeddings with unknown parameters")
    if rotary_dim < 2 or rotary_dim % 2:
        raise ConfigError(f"config.json: {rotary_dim} dimensions cannot be rotated")
    read: dict[str, Any] = {name: parameters.number(name) for name in _NUMBERS[rope_type]}
    for name in _OPTIONAL_NUMBERS.get(rope_type, ()):
        if not parameters.is_null(name):
            read[name] = parameters.number(name)
    match rope_type:
        case "llama3":
            read |= _llama3(parameters, values)
        case "yarn":
            read |= _yarn(parameters, values)
        case "longrope":
            read = _longrope(parameters, values, rotary_dim) | read
    return RopeConfig(rope_type, theta, rotary_dim, read)


def _type(parameters: ConfigValues) -> str:
    for name in ("rope_type", "type"):
        if name in parameters:
            return parameters.text(name)
    return "default"


def _theta(
    parameters: ConfigValues, values: ConfigValues, *, name: str = "rope_theta", default: float = _THETA
) -> float:
    """From the parameters, else from the key of that name beside them."""
    theta = default
    if "rope_theta" in parameters:
        theta = parameters.number("rope_theta")
    elif name in values:
        theta = values.number(name)
    if theta <= 1:
        raise ConfigError("config.json: rope_theta must be above 1")
    return theta


def _llama3(parameters: ConfigValues, values: ConfigValues) -> dict[str, Any]:
    if parameters.number("low_freq_factor") >= parameters.number("high_freq_factor"):
        raise ConfigError("config.json: llama3 needs a low_freq_factor below its high_freq_factor")
    return {_ORIGINAL: _original_length(parameters, values)}


def _yarn(parameters: ConfigValues, values: ConfigValues) -> dict[str, Any]:
    truncate = parameters.boolean("truncate") if "truncate" in parameters else True
    return {_ORIGINAL: _original_length(parameters, values), "truncate": truncate}


def _longrope(parameters: ConfigValues, values: ConfigValues, rotary_dim: int) -> dict[str, Any]:
    """The factors of each frequency, and by how much the model's length has grown where no `factor` says it."""
    read: dict[str, Any] = {name: parameters.numbers(name) for name in ("short_factor", "long_factor")}
    if any(len(factors) != rotary_dim // 2 for factors in read.values()):
        raise ConfigError(f"config.json: longrope needs {rotary_dim // 2} short and long factors")
    original = _original_length(parameters, values)
    if original < 2:
        raise ConfigError(f"config.json: longrope needs an {_ORIGINAL} above 1")
    read[_ORIGINAL] = original
    if parameters.is_null("factor"):
        read["factor"] = values.integer("max_position_embeddings") / original
    return read


def _original_length(parameters: ConfigValues, values: ConfigValues) -> int:
    """Tokens of the first training: beside the parameters, else in them, else the model's whole length."""
    if _ORIGINAL in values:
        return values.integer(_ORIGINAL)
    return parameters.integer(_ORIGINAL) if _ORIGINAL in parameters else values.integer("max_position_embeddings")
