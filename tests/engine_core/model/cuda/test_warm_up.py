"""What runs before the first request so that nothing has to be compiled later; seen with a network that records it."""

from types import SimpleNamespace

import pytest
import torch

from engine_core.model.cuda.step_arrays import SEGMENT_CHOICES, Tiling
from engine_core.model.cuda.warm_up import warm_up
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.sampling.token_picker import TORCH_PICKER, RandomRows

TILING = Tiling(num_kv_heads=2, group=4, head_bytes=128)


class RecordingNetwork:
    """Writes to the cache what steps write, and keeps their spans."""

    vocab_size, hidden_size = 50, 8

    def __init__(self):
        self.spans = []

    def hidden_states(self, input_ids, positions, metadata, kv_tensors):
        (span,) = metadata.spans
        self.spans.append(span)
        kv_tensors.keys[0][torch.from_numpy(span.slots[span.num_computed_tokens :])] = 1.0
        return torch.zeros(len(input_ids), self.hidden_size)

    def logits(self, hidden):
        return torch.randn(len(hidden), self.vocab_size)


class RecordingPicker:
    def __init__(self):
        self.randoms: list[RandomRows] = []

    def pick(self, logits, random):
        self.randoms.append(random)
        return TORCH_PICKER.pick(logits, random)


def warmed_up(max_model_len):
    shape = SimpleNamespace(num_layers=1, num_kv_heads=2, head_dim=64)
    cache = allocate_kv_tensors(shape, num_blocks=2, block_size=16, dtype=torch.float32, device=torch.device("cpu"))
    network, picker = RecordingNetwork(), RecordingPicker()
    warm_up(network, cache, picker, max_model_len)
    return network, picker, cache


def test_every_kind_of_tile_and_every_number_of_segments_runs_once():
    network, _, _ = warmed_up(8192)
    prompt, *decodes = network.spans
    assert prompt.num_queries > TILING.short_queries
    segments = [TILING.num_segments(1, span.num_tokens) for span in decodes]
    assert segments == list(SEGMENT_CHOICES)
    assert [span.num_queries for span in decodes] == [1, 1, 1]


def test_a_draw_with_everything_is_made():
    _, picker, _ = warmed_up(8192)
    (random,) = picker.randoms
    params = random.states[0].params
    assert params.temperature > 0
    assert params.top_k > 0
    assert params.top_p < 1
    assert params.min_p > 0


@pytest.mark.parametrize("max_model_len", [16, 100, 8192])
def test_the_cache_is_left_zeroed_and_no_position_is_beyond_the_model(max_model_len):
    network, _, cache = warmed_up(max_model_len)
    assert not cache.keys[0].any()
    assert max(span.num_tokens for span in network.spans) <= max_model_len
