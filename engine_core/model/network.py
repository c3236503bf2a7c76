"""What the model runner needs of a neural network.

`decoder/` computes the Llama family by itself: it loads in a moment, because it needs no transformers.
`transformers_network.py` runs every other decoder-only model that transformers has. `paged_module.py` runs a user's own
module. All attend through `attention.StepAttention`, so requests, blocks and caches are none of their business.
`recompute_network.py` does without a cache, and so without speed.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from engine_core.model.attention import (
    AttentionMetadata,
    UnsupportedAttentionError,
    build_attention_metadata,
)
from engine_core.model.kv_tensors import KVTensors
from engine_core.model.lora.step_adapters import StepAdapters
from engine_core.model.request_span import RequestSpan

CHECK_TOKENS = 4


class Network(Protocol):
    """A decoder-only causal language model with its weights."""

    @property
    def vocab_size(self) -> int:
        """Number of logits."""
        ...

    @property
    def hidden_size(self) -> int:
        """Length of a hidden state, and so of an embedding."""
        ...

    def hidden_states(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        metadata: AttentionMetadata,
        kv_tensors: KVTensors,
    ) -> torch.Tensor:
        """`[num_tokens, hidden_size]` after the last norm, for `[num_tokens]` ids and positions of a flat batch."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab_size]` for `[rows, hidden_size]`."""
        ...

    def check(self, kv_tensors: KVTensors) -> None:
        """Run a few tokens, which also warms up; leaves the cache zeroed.

        Raises:
            UnsupportedAttentionError: the network would not compute what it should.
        """
        ...


def flat_batch(
    network: Network,
    input_ids: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
    metadata: AttentionMetadata,
    kv_tensors: KVTensors,
) -> torch.Tensor:
    """`Network.hidden_states` for arrays on the host."""
    device = kv_tensors.device
    ids, places = torch.from_numpy(input_ids).to(device), torch.from_numpy(positions).to(device)
    return network.hidden_states(ids, places, metadata, kv_tensors)


def chunk_logits(
    network: Network,
    token_ids: npt.NDArray[np.int64],
    num_computed_tokens: int,
    block_ids: npt.NDArray[np.int32],
    kv_tensors: KVTensors,
    adapters: StepAdapters | None = None,
    *,
    in_plain_torch: bool = False,
) -> torch.Tensor:
    """`[num_tokens, vocab_size]` logits of the next tokens of one request, whose tokens before are in the cache."""
    num_tokens = len(token_ids)
    span = RequestSpan(0, num_tokens, num_computed_tokens, block_ids, kv_tensors.block_size)
    positions = np.arange(num_computed_tokens, num_computed_tokens + num_tokens, dtype=np.int64)
    metadata = build_attention_metadata([span], kv_tensors, adapters, in_plain_torch=in_plain_torch)
    return network.logits(flat_batch(network, token_ids, positions, metadata, kv_tensors))


def check_decode(network: Network, kv_tensors: KVTensors) -> torch.Tensor:
    """Compute some tokens at once, and the last of them again as a decode step; both must agree.

    Returns:
        `[CHECK_TOKENS, vocab_size]` logits of the prefill.

    Raises:
        UnsupportedAttentionError: they do not, or some layer left the cache unwritten.
    """
    cache = [tensor[:CHECK_TOKENS] for tensor in (*kv_tensors.keys, *kv_tensors.values)]
    for tensor in cache:
        tensor.fill_(torch.nan)
    token_ids = np.arange(CHECK_TOKENS, dtype=np.int64) % network.vocab_size
    first_block = np.zeros(1, dtype=np.int32)
    logits = chunk_logits(network, token_ids, 0, first_block, kv_tensors)
    if any(bool(tensor.isnan().any()) for tensor in cache):
        raise UnsupportedAttentionError("not every layer of the model keeps its keys and values in the cache")
    decoded = chunk_logits(network, token_ids[-1:], CHECK_TOKENS - 1, first_block, kv_tensors)
    if not is_close(decoded[0], logits[-1]):
        raise UnsupportedAttentionError("the model's decode step differs from its prefill")
    for tensor in cache:
        tensor.zero_()
    return logits


def is_close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal up to the rounding of the type."""
    actual, expected = actual.float(), expected.float()
    return bool((actual - expected).abs().max() <= 0.05 * expected.abs().max())
