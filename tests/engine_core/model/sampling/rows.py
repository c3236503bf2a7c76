"""States of requests and one-call sampling, for tests that care about one feature."""

import itertools
from copy import copy
from dataclasses import replace

import numpy as np
import torch

from engine_core.model.sampling.grammar_masks import NO_MASKS, GrammarMasks
from engine_core.model.sampling.sampler import build_sampling_metadata, sample
from engine_core.model.sampling.state import SamplingState
from engine_core.model.sampling.token_picker import TORCH_PICKER
from engine_core.outputs import NewRequestData, RequestKey
from ipc.messages import Task
from ipc.sampling_params import SamplingParams

EOS = (2,)
_keys = itertools.count(1)


def make_state(prompt=(), output=(), grammar=None, **params) -> SamplingState:
    token_ids = (*prompt, *output)
    item = SamplingParams(**{"max_tokens": 100_000, **params})
    key = RequestKey(next(_keys))
    return SamplingState(NewRequestData(key, token_ids, len(prompt), item, Task.GENERATE, (), grammar))


def with_seed(state: SamplingState, seed: int) -> SamplingState:
    """The same request with another seed; it must not go on, because it shares its tokens."""
    other = copy(state)
    other.params = replace(state.params, seed=seed)
    return other


def metadata_of(states, vocab_size):
    return build_sampling_metadata(states, EOS, vocab_size, torch.device("cpu"))


def masks_of(allowed: dict[int, np.ndarray]) -> GrammarMasks:
    """Packed masks of these rows, from booleans."""
    words = {}
    for row, item in allowed.items():
        padded = np.pad(item, (0, -len(item) % 32))
        words[row] = np.packbits(padded, bitorder="little").view(np.int32)
    return GrammarMasks(words, {})


def sample_rows(logits, states, masks=NO_MASKS, picker=TORCH_PICKER):
    """One `SampledToken` per row; the logits are left as they are."""
    return sample(logits.clone(), metadata_of(states, logits.shape[-1]), masks, picker)
