"""A module of the user's own that knows nothing of our cache: it computes the whole of each request in every step.

What an ordinary network keeps of a token are its keys and values; what is kept here is the token itself, in the same
paged cache, 4 bytes of it. So scheduling, chunked prefill, preemption and prefix caching go on as ever, and a step
gathers the tokens of each of its requests by their blocks. Requests are computed one by one, as the module knows
nothing of padding. It is slow: a token costs what the whole text before it costs. Made by `module_loader.py`.
"""

from typing import Any

import numpy as np
import torch

from engine_core.model.attention import AttentionMetadata, UnsupportedAttentionError
from engine_core.model.kv_tensors import KVTensors
from engine_core.model.network import CHECK_TOKENS, is_close


class TokenCacheShape:
    """The `CacheShape` of a cache that holds token ids."""

    num_layers = 1
    num_kv_heads = 1
    head_dim = 1


class RecomputeNetwork:
    """Implements `Network`; its hidden states are logits already."""

    hidden_size = 0
    """It shows no hidden states, so that it gives no embeddings."""

    def __init__(self, module: torch.nn.Module, device: torch.device) -> None:
        """Take over a module whose forward gives `[batch, tokens, vocab_size]` for `[batch, tokens]` ids.

        Raises:
            UnsupportedAttentionError: it gives something else.
        """
        self._module = module
        self._device = device
        self.vocab_size = int(self._whole_logits(torch.zeros(1, dtype=torch.int64, device=device)).shape[1])

    def hidden_states(
        self, input_ids: torch.Tensor, positions: torch.Tensor, metadata: AttentionMetadata, kv_tensors: KVTensors
    ) -> torch.Tensor:
        """`[num_tokens, vocab_size]`: the logits of the step's tokens."""
        cache = kv_tensors.keys[0].view(-1)
        spans = [(span, torch.from_numpy(span.slots).to(cache.device)) for span in metadata.spans]
        for span, slots in spans:
            new_ids = input_ids[span.query_start : span.query_start + span.num_queries]
            cache[slots[span.num_computed_tokens :]] = new_ids.to(cache.dtype)
        # copies, so that the logits of a whole text are there for one request at a time
        rows = [self._whole_logits(cache[slots].long())[span.num_computed_tokens :].clone() for span, slots in spans]
        return torch.cat(rows)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The same rows, laid out as samplers read them."""
        return hidden.contiguous()

    def check(self, kv_tensors: KVTensors) -> None:
        """Run a few tokens, and again with another last one and without it; the cache is not used.

        Raises:
            UnsupportedAttentionError: a token's logits depend on later tokens, so that nothing could be generated.
        """
        token_ids = torch.from_numpy(np.arange(CHECK_TOKENS) % self.vocab_size).to(self._device)
        whole = self._whole_logits(token_ids)
        other = token_ids.clone()
        other[-1] = (other[-1] + 1) % self.vocab_size
        for alike in (self._whole_logits(other)[:-1], self._whole_logits(token_ids[:-1])):
            if not is_close(alike, whole[:-1]):
                raise UnsupportedAttentionError(
                    "the module is not causal: what it says of a token depends on later ones (or on chance)"
                )

    def _whole_logits(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[num_tokens, vocab_size]` for the `[num_tokens]` ids of one request."""
        output: Any = self._module(token_ids[None])
        logits = getattr(output, "logits", output)
        if not isinstance(logits, torch.Tensor) or logits.ndim != 3 or logits.shape[:2] != (1, len(token_ids)):
            found = f"{[*logits.shape]}" if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise UnsupportedAttentionError(
                f"the module's forward must give logits [batch, tokens, vocab_size] for ids [1, {len(token_ids)}], "
                f"not {found}"
            )
        return logits[0]
