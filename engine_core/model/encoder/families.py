"""What differs between the families of encoders: names of sizes and tensors, and how positions count.

Owned by `config.py`. Names of tensors are those of transformers, without the prefix of the family; each stands for a
weight and a bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class SizeNames:
    """Keys of `config.json`."""

    hidden_size: str = "hidden_size"
    intermediate_size: str = "intermediate_size"
    num_layers: str = "num_hidden_layers"
    num_heads: str = "num_attention_heads"
    hidden_act: str = "hidden_act"


@dataclass(frozen=True, slots=True)
class LayerNames:
    """Tensors of a layer, behind `LayerNames.layer` and its number."""

    layer: str = "encoder.layer"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    output_norm: str = "output.LayerNorm"


@dataclass(frozen=True, slots=True)
class EncoderFamily:
    """One value of `model_type`."""

    prefix: str
    """Before all names of tensors, in files of models with a head."""
    sizes: SizeNames = SizeNames()
    layers: LayerNames = LayerNames()
    has_token_types: bool = True
    """Each token gets the embedding of type 0."""
    has_relative_bias: bool = False
    """Attention scores get a bias by the distance of the two tokens."""
    skips_padding: bool = False
    """Positions count from behind the id of the padding token, and do not count padding tokens."""
    padding_id: int | None = None
    """Id of the padding token, where the config does not decide it."""
    norm_eps: float | None = None
    """The same of what is added to the variance in norms."""


_DISTILBERT = EncoderFamily(
    "distilbert.",
    SizeNames("dim", "hidden_dim", "n_layers", "n_heads", "activation"),
    LayerNames(
        layer="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        output_norm="output_layer_norm",
    ),
    has_token_types=False,
    norm_eps=1e-12,
)
_MPNET = EncoderFamily(
    "mpnet.",
    layers=LayerNames(
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_output="attention.attn.o",
        attention_norm="attention.LayerNorm",
    ),
    has_token_types=False,
    has_relative_bias=True,
    skips_padding=True,
    padding_id=1,
)

ENCODER_FAMILIES: Mapping[str, EncoderFamily] = MappingProxyType(
    {
        "bert": EncoderFamily("bert."),
        "roberta": EncoderFamily("roberta.", skips_padding=True),
        "xlm-roberta": EncoderFamily("roberta.", skips_padding=True),
        "distilbert": _DISTILBERT,
        "mpnet": _MPNET,
    }
)
