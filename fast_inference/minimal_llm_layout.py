"""What a MinimalLLM checkpoint must hold, and how it becomes the tensors of our decoder. A part of the conversion.

Three generations of attention are told apart by their keys; for two of them the keys do not say how positions are told,
so the user may (`--rope`). The decoder knows one kind of rotation: dimension i of a head turns with i + half, by
y1 = x1·cos - x2·sin, y2 = x2·cos + x1·sin. Rows of the query and key projections are put in an order in which that
computes the same; a product of query and key does not change where both change alike. By `rope`:

- `heads`: the angle depends on the head alone. Query and key of a head turn by the same angle, which leaves their
  product as it is: attention without positions.
- `tokens`: y1 = x1·cos + x2·sin, y2 = -x1·sin + x2·cos: the halves of each head change places.
- `interleaved`: pairs (2i, 2i + 1): the even dimensions of each head come first.

Invariant: what is returned fits what `engine_core/model/decoder/checkpoint.py` asks for; everything else was refused by
its name. Next: `minimal_llm_conversion.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from engine_core.config_values import ConfigValues
from engine_core.model.decoder.families import FAMILIES, MINIMAL_LLM
from engine_core.weight_files import listed
from ipc.errors import ConfigError

Rope = Literal["heads", "tokens", "interleaved"]
Tensors = dict[str, torch.Tensor]

THETA = 10_000.0
RMS_NORM_EPS = float(torch.finfo(torch.float32).eps)
"""Of `torch.nn.RMSNorm` by default: it computes in float32 whatever the type of its input, and takes that type's."""
MAX_LAYERS = 10_000
_MAX_NAME_CHARS = 80
_ROPE_TYPES: Mapping[Rope, str] = {"heads": "none", "tokens": "half_frozen", "interleaved": "default"}
_EMBEDDING, _HEAD, _NORM = "token_embedding.weight", "lm_head.weight", "norm.weight"
_FUSED, _SEPARATE = "qkv.weight", "q_proj.weight"


@dataclass(frozen=True, slots=True)
class MinimalLLMShape:
    """Sizes of a checkpoint, and how it tells positions."""

    d_model: int
    n_heads: int
    n_kv_heads: int
    n_layers: int
    d_ff: int
    vocab_size: int
    max_seq_len: int
    has_separate_projections: bool
    """Generation C; else A and its relatives, with one matrix for queries, keys and values."""
    rope: Rope

    @classmethod
    def read(cls, fields: Mapping[str, Any], state: Mapping[str, Any], rope: Rope | None) -> "MinimalLLMShape":
        """From the config's fields and the names of the tensors; raises `ConfigError`."""
        config = ConfigValues(fields, where="its config")
        is_separate = _is_separate(state)
        d_model, n_heads = config.integer("d_model"), config.integer("n_heads")
        n_kv_heads = n_heads if config.is_null("n_kv_heads") else config.integer("n_kv_heads")
        if d_model % n_heads or n_heads % n_kv_heads:
            raise ConfigError(
                f"its config: n_heads ({n_heads}) must divide d_model ({d_model}), "
                f"and n_kv_heads ({n_kv_heads}) n_heads"
            )
        shape = cls(
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            n_layers=config.integer("n_layers", maximum=MAX_LAYERS),
            d_ff=config.integer("d_ff"),
            vocab_size=_vocab_size(config, state),
            max_seq_len=config.integer("max_seq_len"),
            has_separate_projections=is_separate,
            rope=rope or ("interleaved" if is_separate else "heads"),
        )
        shape._check_attention()
        return shape

    def _check_attention(self) -> None:
        if self.has_separate_projections and self.rope != "interleaved":
            raise ConfigError(f"--rope {self.rope}: a checkpoint with q_proj has interleaved rotary embeddings")
        if not self.has_separate_projections and self.n_kv_heads != self.n_heads:
            raise ConfigError(f"a fused {_FUSED} has as many key-value heads as heads, not {self.n_kv_heads}")
        if self.head_dim % (2 if self.rope == "interleaved" else 4):
            raise ConfigError(f"heads of {self.head_dim} dimensions cannot be rotated (--rope {self.rope})")

    @property
    def head_dim(self) -> int:
        """Size of a head."""
        return self.d_model // self.n_heads

    @property
    def generation(self) -> str:
        """For people."""
        return "C (q_proj, k_proj, v_proj)" if self.has_separate_projections else "A or B (one qkv)"

    def as_config(self, *, has_tied_head: bool) -> dict[str, Any]:
        """`config.json` of the decoder's family."""
        return {
            "architectures": [MINIMAL_LLM],
            "model_type": FAMILIES[MINIMAL_LLM].model_type,
            "hidden_size": self.d_model,
            "intermediate_size": self.d_ff,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": RMS_NORM_EPS,
            "use_qk_norm": self.has_separate_projections,
            "rope_parameters": {"rope_type": _ROPE_TYPES[self.rope], "rope_theta": THETA},
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_seq_len,
            "tie_word_embeddings": has_tied_head,
        }

    def decoder_tensors(self, state: Mapping[str, Any]) -> Tensors:
        """All tensors by the decoder's names; the head only where it is not the embedding.

        Raises:
            ConfigError: there are other tensors than those of this generation, or they have other shapes.
        """
        self._check_tensors(state)
        tensors = {"model.embed_tokens.weight": state[_EMBEDDING], "model.norm.weight": state[_NORM]}
        head = state.get(_HEAD)
        if head is not None and not (head.dtype == state[_EMBEDDING].dtype and torch.equal(head, state[_EMBEDDING])):
            tensors["lm_head.weight"] = head
        for index in range(self.n_layers):
            prefix = f"transformer_blocks.{index}."
            block = {name: state[prefix + name] for name in self._block_shapes()}
            tensors |= {f"model.layers.{index}.{name}": tensor for name, tensor in self._layer(block).items()}
        return tensors

    def _layer(self, block: Tensors) -> Tensors:
        attention = {name.removeprefix("attention."): tensor for name, tensor in block.items()}
        reorder = self._reorder_heads()
        if self.has_separate_projections:
            query, key, value = (attention[f"{name}_proj.weight"] for name in "qkv")
        else:
            query, key, value = attention[_FUSED].chunk(3)
        layer = {
            "self_attn.q_proj.weight": reorder(query),
            "self_attn.k_proj.weight": reorder(key),
            "self_attn.v_proj.weight": value,
            "self_attn.o_proj.weight": attention["w_o.weight"],
            "mlp.up_proj.weight": block["feed_forward.linear1.weight"],
            "mlp.down_proj.weight": block["feed_forward.linear2.weight"],
            "input_layernorm.weight": block["norm1.weight"],
            "post_attention_layernorm.weight": block["norm2.weight"],
        }
        if self.has_separate_projections:
            layer |= {f"self_attn.{name}_norm.weight": reorder(attention[f"{name}_norm.weight"]) for name in "qk"}
        return layer

    def _reorder_heads(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Puts the rows of each head in the decoder's order."""
        order = torch.arange(self.head_dim)
        if self.rope == "tokens":
            order = order.roll(self.head_dim // 2)
        elif self.rope == "interleaved":
            order = order.view(-1, 2).T.flatten()

        def reorder(rows: torch.Tensor) -> torch.Tensor:
            return rows.reshape(-1, self.head_dim, *rows.shape[1:])[:, order].flatten(0, 1)

        return reorder

    def _check_tensors(self, state: Mapping[str, Any]) -> None:
        shapes = self._shapes()
        looks = f"it looks like a MinimalLLM of generation {self.generation}"
        if unknown := state.keys() - shapes.keys():
            raise ConfigError(f"{looks}, but has the unknown {named(unknown)}")
        if missing := [name for name in shapes if name not in state and name != _HEAD]:
            raise ConfigError(f"{looks}, but lacks {listed(missing)}")
        wrong = [problem for name in state if (problem := _problem(name, state[name], shapes[name]))]
        if wrong:
            raise ConfigError(f"{looks}, but {listed(wrong)}")

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        block = self._block_shapes()
        return {
            _EMBEDDING: (self.vocab_size, self.d_model),
            **{f"transformer_blocks.{index}.{name}": block[name] for index in range(self.n_layers) for name in block},
            _NORM: (self.d_model,),
            _HEAD: (self.vocab_size, self.d_model),
        }

    def _block_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names behind `transformer_blocks.N.`."""
        shapes: dict[str, tuple[int, ...]] = {
            "attention.w_o.weight": (self.d_model, self.d_model),
            "feed_forward.linear1.weight": (self.d_ff, self.d_model),
            "feed_forward.linear2.weight": (self.d_model, self.d_ff),
            "norm1.weight": (self.d_model,),
            "norm2.weight": (self.d_model,),
        }
        if not self.has_separate_projections:
            return shapes | {f"attention.{_FUSED}": (3 * self.d_model, self.d_model)}
        num_key_rows = self.n_kv_heads * self.head_dim
        return shapes | {
            "attention.q_proj.weight": (self.d_model, self.d_model),
            "attention.k_proj.weight": (num_key_rows, self.d_model),
            "attention.v_proj.weight": (num_key_rows, self.d_model),
            "attention.q_norm.weight": (self.head_dim,),
            "attention.k_norm.weight": (self.head_dim,),
        }


def named(names: Iterable[Any]) -> str:
    """Names of a file that may say anything, for a message of one line."""
    texts = sorted(name if isinstance(name, str) and name.isprintable() else ascii(name) for name in names)
    return listed([text[:_MAX_NAME_CHARS] for text in texts]) or "nothing"


def _is_separate(state: Mapping[str, Any]) -> bool:
    """True for generation C, False for those before; raises `ConfigError` where it is none of them."""
    prefix = "transformer_blocks.0.attention."
    for name, is_separate in ((_FUSED, False), (_SEPARATE, True)):
        if prefix + name in state:
            return is_separate
    raise ConfigError(f"no MinimalLLM: its model_state_dict has no {prefix}{_FUSED} or {_SEPARATE}, but {named(state)}")


def _vocab_size(config: ConfigValues, state: Mapping[str, Any]) -> int:
    """As the config says; some leave it to the embedding."""
    if not config.is_null("vocab_size"):
        return config.integer("vocab_size")
    embedding = state.get(_EMBEDDING)
    if not isinstance(embedding, torch.Tensor) or embedding.dim() != 2:
        raise ConfigError(f"neither its config nor {_EMBEDDING} tells the size of the vocabulary")
    return len(embedding)


def _problem(name: str, tensor: Any, shape: tuple[int, ...]) -> str:
    """What is wrong with a tensor; empty for nothing."""
    if not isinstance(tensor, torch.Tensor):
        return f"{name} is no tensor"
    if tuple(tensor.shape) != shape:
        return f"{name} has the shape {list(tensor.shape)} instead of {list(shape)}"
    return "" if tensor.is_floating_point() else f"{name} has the type {str(tensor.dtype).removeprefix('torch.')}"
