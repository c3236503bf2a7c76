"""Which models are sentence encoders, and their sizes and constants; needs no torch, as `memory_plan.py` asks too.

Invariant: what `EncoderConfig.try_from` accepts is computed as transformers does (tested for each family); anything
unusual is a `ConfigError` that names it, never a guess. Next: `families.py`, `checkpoint.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine_core.config_values import ConfigValues
from engine_core.model.encoder.families import ENCODER_FAMILIES, EncoderFamily
from ipc.errors import ConfigError

EncoderAct = Literal["gelu", "gelu_tanh", "relu"]

_HIDDEN_ACTS: Mapping[str, EncoderAct] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_ORDINARY: Mapping[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "position_embedding_type": ("absolute", None),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "relative_attention_num_buckets": (32,),
}
"""Values that these keys must have: all others would compute something else."""
_HEADS = ("Model", "ForMaskedLM", "ForPreTraining")
"""Ends of the names of architectures whose vectors are of use; classifiers (rerankers among them) have others."""
_MAX_LAYERS = 10_000
_DEFAULT_NORM_EPS = 1e-12
_DEFAULT_PADDING_ID = 1
"""Of the families that count positions from it."""


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Sizes and constants."""

    family: EncoderFamily
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    num_positions: int
    """Rows of the table of positions."""
    num_token_types: int
    """0 where the family has none."""
    norm_eps: float
    hidden_act: EncoderAct
    padding_id: int
    """Only looked at where the family skips padding."""

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.hidden_size // self.num_heads

    @property
    def max_model_len(self) -> int:
        """Most tokens of a text for which there are positions."""
        return self.num_positions - self.padding_id - 1 if self.family.skips_padding else self.num_positions

    @classmethod
    def try_from(cls, config: Mapping[str, Any]) -> "EncoderConfig | None":
        """The config of a sentence encoder, or None for the model of another family, and for one that decodes.

        Raises:
            ConfigError: an encoder that would not be computed as it should.
        """
        values = ConfigValues(config)
        model_type = config.get("model_type")
        family = ENCODER_FAMILIES.get(model_type) if isinstance(model_type, str) else None
        if family is None or (not values.is_null("is_decoder") and values.boolean("is_decoder")):
            return None
        return cls._read(family, values)

    @classmethod
    def _read(cls, family: EncoderFamily, values: ConfigValues) -> "EncoderConfig":
        _refuse_unusual(values)
        sizes = family.sizes
        hidden_size, num_heads = values.integer(sizes.hidden_size), values.integer(sizes.num_heads)
        if hidden_size % num_heads:
            raise ConfigError(f"config.json: {sizes.hidden_size} is no multiple of {sizes.num_heads}")
        encoder = cls(
            family=family,
            hidden_size=hidden_size,
            intermediate_size=values.integer(sizes.intermediate_size),
            num_layers=values.integer(sizes.num_layers, maximum=_MAX_LAYERS),
            num_heads=num_heads,
            vocab_size=values.integer("vocab_size"),
            num_positions=values.integer("max_position_embeddings"),
            num_token_types=values.integer("type_vocab_size") if family.has_token_types else 0,
            norm_eps=_norm_eps(family, values),
            hidden_act=_hidden_act(values.text(sizes.hidden_act)),
            padding_id=_padding_id(family, values),
        )
        if encoder.max_model_len < 1:
            raise ConfigError(f"config.json: max_position_embeddings {encoder.num_positions} leaves no position")
        return encoder


def _refuse_unusual(values: ConfigValues) -> None:
    for name, ordinary in _ORDINARY.items():
        values.refuse_other_than(name, ordinary)
    for name in () if values.is_null("architectures") else values.texts("architectures"):
        if not name.endswith(_HEADS):
            raise ConfigError(
                f"config.json: a {name[:60]} is not served: of encoders, only those that make vectors are"
            )


def _norm_eps(family: EncoderFamily, values: ConfigValues) -> float:
    if family.norm_eps is not None:
        return family.norm_eps
    return _DEFAULT_NORM_EPS if "layer_norm_eps" not in values else values.decimal("layer_norm_eps")


def _padding_id(family: EncoderFamily, values: ConfigValues) -> int:
    if not family.skips_padding:
        return 0
    if family.padding_id is not None:
        return family.padding_id
    return values.integer("pad_token_id", minimum=0) if "pad_token_id" in values else _DEFAULT_PADDING_ID


def _hidden_act(name: str) -> EncoderAct:
    if name not in _HIDDEN_ACTS:
        raise ConfigError(f"config.json names an activation that is not known here: {name[:40]!r}")
    return _HIDDEN_ACTS[name]
