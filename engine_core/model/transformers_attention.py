"""Our attention as a function that transformers' models call in every layer.

`register_attention` makes it known under the name `ATTENTION_NAME` (called by `transformers_network.py`); a model
loaded with that `attn_implementation` builds no mask of its own and passes our two keywords through.
Invariant: a keyword that would change the result is refused, never ignored. Next: `attention.py`.
"""

from typing import Any, Protocol

import torch

from engine_core.model.attention import AttentionMetadata, UnsupportedAttentionError
from engine_core.model.kv_tensors import KVTensors

ATTENTION_NAME = "fast_inference_paged"

_MEANINGLESS_KEYWORDS = frozenset(
    {
        *("position_ids", "cache_position", "use_cache", "past_key_values", "dropout"),
        *("return_dict", "output_attentions", "output_router_logits"),
    }
)
"""Keywords that models pass on and that do not change what attention computes here."""


class AttentionModule(Protocol):
    """What we use of a model's attention module."""

    @property
    def layer_idx(self) -> int:
        """Number of the layer."""
        ...

    @property
    def config(self) -> Any:
        """The model's config, where it has kinds of layers; else None."""
        ...


def paged_attention(
    module: AttentionModule,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    attention_metadata: AttentionMetadata | None = None,
    kv_tensors: KVTensors | None = None,
    **keywords: object,
) -> tuple[torch.Tensor, None]:
    """One layer's attention in the form that transformers calls.

    Args:
        module: the layer's attention module; its `layer_idx` names the cache tensors.
        query: `[1, num_heads, num_tokens, head_dim]`, rotated; requests one after the other.
        key: `[1, num_kv_heads, num_tokens, head_dim]`, rotated; written to the cache.
        value: the same shape as `key`.
        attention_mask: None, as no mask is built for an attention function of our own name.
        scaling: factor on query · key; 1/sqrt(head_dim) where None.
        sliding_window: each token sees this many tokens, itself included; all where None.
        is_causal: must not be False.
        softcap: scores go through softcap · tanh(score / softcap) before the softmax; not at all where None.

    Returns:
        `[1, num_tokens, num_heads, head_dim]`, and None for the weights, which are never formed.

    Raises:
        UnsupportedAttentionError: a keyword would change the result, or our own keywords are missing.
    """
    if attention_metadata is None or kv_tensors is None:
        raise UnsupportedAttentionError("the model does not pass attention_metadata and kv_tensors to its attention")
    if attention_mask is not None or is_causal is False:
        raise UnsupportedAttentionError("the model makes an attention mask of its own")
    for name, keyword in keywords.items():
        if keyword is not None and name not in _MEANINGLESS_KEYWORDS:
            raise UnsupportedAttentionError(f"the model's attention uses {name}, which is not supported")
    output = attention_metadata.attention.attend(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        kv_tensors.keys[module.layer_idx],
        kv_tensors.values[module.layer_idx],
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=_window_of(module, sliding_window),
        softcap=softcap,
    )
    return output.unsqueeze(0), None


def _window_of(module: AttentionModule, sliding_window: int | None) -> int | None:
    """The layer's window: the keyword, or what the config says of a sliding layer that does not pass it on."""
    if sliding_window is not None:
        return sliding_window
    layer_types = getattr(module.config, "layer_types", None)
    if layer_types is None or layer_types[module.layer_idx] != "sliding_attention":
        return None
    window = getattr(module, "sliding_window", None) or getattr(module.config, "sliding_window", None)
    if not isinstance(window, int):
        raise UnsupportedAttentionError("the model has sliding layers without a window")
    return window


def register_attention() -> None:
    """Make `paged_attention` known to transformers; calling it again changes nothing."""
    from transformers import AttentionInterface

    if ATTENTION_NAME not in AttentionInterface._global_mapping:
        AttentionInterface.register(ATTENTION_NAME, paged_attention)
