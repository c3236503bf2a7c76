"""A module of the user's own that attends over our paged cache: the protocol, and the `Network` made of it.

The module computes a flat batch, the tokens of all requests of a step one after the other, and calls the `attention`
that it is given once in each layer:

    def paged_attention_config(self) -> PagedAttentionConfig
    def forward(self, input_ids, positions, attention) -> logits        # or hidden states, where it also has
    def compute_logits(self, hidden) -> logits                          # this; then it serves embeddings too

Everything else of a token must depend on that token and its position alone: where tokens of a batch met anywhere but
in `attention`, requests would reach each other, which `check` finds. Made by `module_loader.py`. Next: `attention.py`.
"""

from typing import Protocol, cast

import numpy as np
import torch

from engine_core.model.attention import AttentionMetadata, UnsupportedAttentionError
from engine_core.model.kv_tensors import KVTensors
from engine_core.model.network import CHECK_TOKENS, check_decode, chunk_logits, is_close
from engine_core.model.paged_attention_config import PagedAttentionConfig


class PagedAttention:
    """The attention of one step, which a module's layers call."""

    def __init__(self, metadata: AttentionMetadata, kv_tensors: KVTensors) -> None:
        self._attention = metadata.attention
        self._kv_tensors = kv_tensors

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
    ) -> torch.Tensor:
        """Keep the keys and values of the step's tokens, and attend to all that each token may see.

        Args:
            layer: number of the layer, from 0; each one is called once in a step.
            query: `[num_tokens, num_heads, head_dim]`; `num_heads` is a multiple of `num_kv_heads`.
            key: `[num_tokens, num_kv_heads, head_dim]`, with its position in it (rotated, say).
            value: the same shape as `key`.
            scale: factor on query · key; 1/sqrt(head_dim) where None.
            window: each token sees this many tokens, itself included; all before it where None.
            softcap: scores go through softcap · tanh(score / softcap) before the softmax; not at all where None.

        Returns:
            `[num_tokens, num_heads, head_dim]`.

        Raises:
            UnsupportedAttentionError: there is no such layer, or a shape is another one.
        """
        if not 0 <= layer < self._kv_tensors.num_layers:
            raise UnsupportedAttentionError(f"layer {layer} is not below num_layers = {self._kv_tensors.num_layers}")
        keys, values = self._kv_tensors.keys[layer], self._kv_tensors.values[layer]
        expected = (len(query), *keys.shape[1:])
        if key.shape != expected or value.shape != expected:
            found = f"{[*key.shape]} and {[*value.shape]}"
            raise UnsupportedAttentionError(f"layer {layer}: key and value must be {[*expected]}, not {found}")
        if query.ndim != 3 or query.shape[2] != keys.shape[2] or query.shape[1] % keys.shape[1]:
            raise UnsupportedAttentionError(
                f"layer {layer}: query must be [num_tokens, a multiple of {keys.shape[1]}, {keys.shape[2]}], "
                f"not {[*query.shape]}"
            )
        return self._attention.attend(
            query,
            key,
            value,
            keys,
            values,
            scale=query.shape[-1] ** -0.5 if scale is None else scale,
            window=window,
            softcap=softcap,
        )


class PagedModule(Protocol):
    """What such a module does; it is a `torch.nn.Module` too."""

    def paged_attention_config(self) -> PagedAttentionConfig:
        """Its sizes."""
        ...

    def __call__(self, input_ids: torch.Tensor, positions: torch.Tensor, attention: PagedAttention) -> torch.Tensor:
        """`[num_tokens, vocab_size]` logits for `[num_tokens]` ids and their positions in their requests.

        With a method `compute_logits` beside it: `[num_tokens, hidden_size]` hidden states after the last norm.
        """
        ...


class PagedModuleNetwork:
    """Implements `Network`."""

    def __init__(self, module: torch.nn.Module, config: PagedAttentionConfig, max_model_len: int) -> None:
        self._module = cast("PagedModule", module)
        self._max_model_len = max_model_len
        self._config = config
        self._compute_logits = getattr(module, "compute_logits", None)

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        return self._config.vocab_size

    @property
    def hidden_size(self) -> int:
        """Length of a hidden state; 0 where the module shows none."""
        return 0 if self._compute_logits is None else self._config.hidden_size

    def hidden_states(
        self, input_ids: torch.Tensor, positions: torch.Tensor, metadata: AttentionMetadata, kv_tensors: KVTensors
    ) -> torch.Tensor:
        """What the module's forward gives: `[num_tokens, hidden_size]`, or logits already."""
        return self._module(input_ids, positions, PagedAttention(metadata, kv_tensors))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab_size]` for rows of `hidden_states`, laid out as samplers read them."""
        logits: torch.Tensor = hidden if self._compute_logits is None else self._compute_logits(hidden)
        return logits.contiguous()

    def check(self, kv_tensors: KVTensors) -> None:
        """Run a few tokens in several ways, and one at the last position; leaves the cache zeroed.

        Raises:
            UnsupportedAttentionError: a shape is wrong, or tokens meet anywhere but in the attention.
            IndexError: the module has fewer positions than it says, or whatever else it raises.
        """
        block_ids = np.arange(-(-CHECK_TOKENS // kv_tensors.block_size), dtype=np.int32)
        token_ids = np.arange(CHECK_TOKENS, dtype=np.int64) % self.vocab_size
        shape = chunk_logits(self, token_ids, 0, block_ids, kv_tensors).shape
        if shape != (CHECK_TOKENS, self.vocab_size):
            expected = f"[num_tokens, vocab_size] = {[CHECK_TOKENS, self.vocab_size]}"
            raise UnsupportedAttentionError(f"the module's logits must be {expected}, not {[*shape]}")
        logits = check_decode(self, kv_tensors)
        alone = chunk_logits(self, token_ids[:1], 0, block_ids, kv_tensors)
        if not is_close(alone[0], logits[0]):
            raise UnsupportedAttentionError("the module lets a token see later ones, or tokens of other requests")
        last_block_ids = np.arange(-(-self._max_model_len // kv_tensors.block_size), dtype=np.int32)
        chunk_logits(self, token_ids[:1], self._max_model_len - 1, last_block_ids, kv_tensors)
        for tensor in (*kv_tensors.keys, *kv_tensors.values):
            tensor[:CHECK_TOKENS].zero_()
            tensor[self._max_model_len - 1].zero_()
