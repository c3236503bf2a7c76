"""What the model runner needs of a neural network; there are two kinds.

`decoder/` computes the Llama family by itself: it loads in a moment, because it needs no transformers.
`transformers_network.py` runs every other decoder-only model that transformers has. Both attend through
`attention.paged_attention`, so requests, blocks and caches are none of their business.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from engine_core.model.attention import (
    AttentionMetadata,
    RequestSpan,
    UnsupportedAttentionError,
    build_attention_metadata,
)
from engine_core.model.kv_tensors import KVTensors

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


def check_decode(network: Network, kv_tensors: KVTensors) -> torch.Tensor:
    """Compute some tokens at once, and the last of them again as a decode step; both must agree.

    Returns:
        `[CHECK_TOKENS, vocab_size]` logits of the prefill.

    Raises:
        UnsupportedAttentionError: they do not, or some layer left the cache unwritten.
    """
    slots = np.arange(CHECK_TOKENS, dtype=np.int64)
    cache = [tensor[:CHECK_TOKENS] for tensor in (*kv_tensors.keys, *kv_tensors.values)]
    for tensor in cache:
        tensor.fill_(torch.nan)
    prefill = build_attention_metadata([RequestSpan(0, CHECK_TOKENS, 0, slots.astype(np.int32), 1)], kv_tensors)
    input_ids = slots % network.vocab_size
    logits = network.logits(flat_batch(network, input_ids, slots, prefill, kv_tensors))
    if any(bool(tensor.isnan().any()) for tensor in cache):
        raise UnsupportedAttentionError("not every layer of the model uses transformers' attention interface")
    decode = build_attention_metadata([RequestSpan(0, 1, CHECK_TOKENS - 1, slots.astype(np.int32), 1)], kv_tensors)
    decoded = network.logits(flat_batch(network, input_ids[-1:], slots[-1:], decode, kv_tensors))
    if not is_close(decoded[0], logits[-1]):
        raise UnsupportedAttentionError("the model's decode step differs from its prefill")
    for tensor in cache:
        tensor.zero_()
    return logits


def is_close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal up to the rounding of the type."""
    actual, expected = actual.float(), expected.float()
    return bool((actual - expected).abs().max() <= 0.05 * expected.abs().max())
