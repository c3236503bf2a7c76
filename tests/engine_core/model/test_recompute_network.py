"""What a step of a recomputed module gives, and what it holds meanwhile."""

import weakref

import numpy as np
import pytest
import torch
from torch import nn

from engine_core.model.attention import build_attention_metadata
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.recompute_network import RecomputeNetwork, TokenCacheShape
from engine_core.model.request_span import RequestSpan

VOCAB_SIZE = 8
NUM_REQUESTS = 5


class CountsWholeLogits(nn.Module):
    """Its logits say the token; counts how many of its results are alive at once."""

    def __init__(self):
        super().__init__()
        self.alive = []
        self.most = 0

    def forward(self, input_ids):
        logits = np.eye(VOCAB_SIZE, dtype=np.float32)[input_ids.numpy()]
        self.alive = [reference for reference in self.alive if reference() is not None]
        self.alive.append(weakref.ref(logits))
        self.most = max(self.most, len(self.alive))
        return torch.from_numpy(logits)


@pytest.fixture
def cache():
    return allocate_kv_tensors(
        TokenCacheShape(), num_blocks=NUM_REQUESTS, block_size=16, dtype=torch.int32, device=torch.device("cpu")
    )


def test_the_logits_of_whole_texts_are_held_for_one_request_at_a_time(cache):
    module = CountsWholeLogits()
    network = RecomputeNetwork(module, torch.device("cpu"))
    blocks = [np.array([index], dtype=np.int32) for index in range(NUM_REQUESTS)]
    prompts = [RequestSpan(3 * index, 3, 0, blocks[index], 16) for index in range(NUM_REQUESTS)]
    decodes = [RequestSpan(index, 1, 3, blocks[index], 16) for index in range(NUM_REQUESTS)]
    for spans in (prompts, decodes):
        ids = torch.arange(sum(span.num_queries for span in spans)) % VOCAB_SIZE
        rows = network.hidden_states(ids, ids, build_attention_metadata(spans, cache), cache)
        assert rows.argmax(1).tolist() == ids.tolist()
    assert module.most == 1
