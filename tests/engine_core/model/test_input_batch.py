"""What the runner remembers, and how a step is laid out."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_core.model.input_batch import InputBatch
from engine_core.outputs import ModelRunnerOutput, NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
from ipc.messages import Task
from ipc.sampling_params import SamplingParams

PARAMS = SamplingParams(max_tokens=9)


def new(key, token_ids, block_ids=(), task=Task.GENERATE):
    return NewRequestData(RequestKey(key), tuple(token_ids), len(token_ids), PARAMS, task, tuple(block_ids))


def scheduled(key, start, count, blocks=(), is_last=True):
    return ScheduledRequest(RequestKey(key), start, count, tuple(blocks), is_last)


def apply(batch, new_requests=(), items=(), dropped=()):
    batch.apply(SchedulerOutput(0, tuple(new_requests), tuple(items), tuple(RequestKey(key) for key in dropped)))
    return batch.build(items) if items else None


def sample(batch, **token_ids):
    """`k1=77`: request 1 goes on by token 77."""
    sampled = {RequestKey(int(name[1:])): token_id for name, token_id in token_ids.items()}
    for key, token_id in sampled.items():
        batch._requests[key].sampling.append(token_id)
    batch.append_tokens(ModelRunnerOutput(sampled_token_ids=sampled))


def test_a_step_is_laid_out_request_by_request():
    batch = InputBatch(block_size=16, vocab_size=1000)
    items = [scheduled(1, 0, 3, [5]), scheduled(2, 16, 2, [7], is_last=False)]
    inputs = apply(batch, [new(1, [11, 12, 13]), new(2, range(100, 120), [9])], items)
    assert inputs.input_ids.tolist() == [11, 12, 13, 116, 117]
    assert inputs.positions.tolist() == [0, 1, 2, 16, 17]
    assert inputs.spans[0].slots.tolist() == [80, 81, 82]
    assert inputs.spans[1].slots.tolist() == [*range(144, 160), 112, 113]
    assert inputs.sampling_rows.tolist() == [2]
    assert inputs.row_token_ids == ()
    assert [request.key for request in inputs.sampling_requests] == [1]


def test_a_decode_reads_the_token_that_was_sampled():
    batch = InputBatch(block_size=16, vocab_size=1000)
    apply(batch, [new(1, [11, 12])], [scheduled(1, 0, 2, [0])])
    sample(batch, k1=77)
    inputs = apply(batch, (), [scheduled(1, 2, 1)])
    assert (inputs.input_ids.tolist(), inputs.positions.tolist()) == ([77], [2])
    assert inputs.sampling_requests[0].sampling.num_output_tokens == 1


def test_draft_tokens_follow_the_last_known_one_and_each_is_sampled_from():
    batch = InputBatch(block_size=16, vocab_size=1000)
    apply(batch, [new(1, range(100, 116)), new(2, [7])], [scheduled(1, 0, 16, [5]), scheduled(2, 0, 1, [3])])
    sample(batch, k1=77, k2=78)
    with_draft = ScheduledRequest(RequestKey(1), 16, 3, (8,), True, (50, 51))
    inputs = apply(batch, (), [with_draft, scheduled(2, 1, 1)])
    assert inputs.input_ids.tolist() == [77, 50, 51, 78]
    assert inputs.positions.tolist() == [16, 17, 18, 1]
    assert inputs.spans[0].slots.tolist()[-3:] == [128, 129, 130]
    assert inputs.sampling_rows.tolist() == [0, 1, 2, 3]
    assert [request.key for request in inputs.sampling_requests] == [1, 1, 1, 2]
    assert inputs.row_token_ids == [77, 50, 51, 78]
    assert len(batch._requests[RequestKey(1)].token_ids) == 17


def test_embedding_requests_do_not_sample():
    batch = InputBatch(block_size=16, vocab_size=1000)
    inputs = apply(batch, [new(1, [1, 2], task=Task.EMBED)], [scheduled(1, 0, 2, [0])])
    assert not inputs.sampling_requests
    assert [(request.key, done) for request, _, done in inputs.embedding_spans] == [(1, True)]


def test_a_request_dropped_and_given_again_starts_anew():
    batch = InputBatch(block_size=16, vocab_size=1000)
    apply(batch, [new(1, [1, 2, 3])], [scheduled(1, 0, 3, [4])])
    inputs = apply(batch, [new(1, [1, 2, 3, 4])], [scheduled(1, 0, 4, [6])], dropped=[1])
    assert inputs.spans[0].slots.tolist() == [96, 97, 98, 99]
    assert len(batch) == 1


def test_dropping_is_idempotent():
    batch = InputBatch(block_size=16, vocab_size=1000)
    apply(batch, [new(1, [1])], dropped=[1, 5])
    apply(batch, dropped=[1])
    apply(batch, dropped=[1])
    assert RequestKey(1) not in batch


def test_too_few_blocks_are_refused():
    batch = InputBatch(block_size=16, vocab_size=1000)
    with pytest.raises(ValueError, match="1 blocks"):
        apply(batch, [new(1, range(20))], [scheduled(1, 0, 20, [3])])


class PlainToken(NamedTuple):
    """A token of a flat batch."""

    key: int
    token_id: int
    position: int
    block_id: int
    is_sampled_from: bool


class PlainRequest:
    """A request in lists: the straightforward construction of its part of a step."""

    def __init__(self, key, prompt):
        self.key = key
        self.token_ids = list(prompt)
        self.block_ids = []
        self.num_computed = 0

    @property
    def num_left(self):
        return len(self.token_ids) - self.num_computed

    def schedule(self, count, drafts, free_blocks):
        """The next `count` tokens and drafts: the item of the step, and the tokens that it must become."""
        start, end, is_last = self.num_computed, self.num_computed + count + len(drafts), count == self.num_left
        new_blocks = [next(free_blocks) for _ in range(-(-end // 16) - len(self.block_ids))]
        self.block_ids += new_blocks
        self.num_computed += count
        known = [*self.token_ids, *drafts]
        tokens = [
            PlainToken(self.key, known[at], at, self.block_ids[at // 16], is_last and at >= self.num_computed - 1)
            for at in range(start, end)
        ]
        return ScheduledRequest(RequestKey(self.key), start, end - start, tuple(new_blocks), is_last, drafts), tokens


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_life_of_requests_is_laid_out_as_by_lists(data):
    batch, keys, free_blocks = InputBatch(block_size=16, vocab_size=10_000), itertools.count(1), itertools.count()
    plain: dict[int, PlainRequest] = {}
    for _ in range(data.draw(st.integers(1, 12))):
        dropped = [key for key in plain if data.draw(st.integers(0, 9)) == 0]
        for key in dropped:
            del plain[key]
        new_requests = []
        for key in itertools.islice(keys, data.draw(st.sampled_from([0, 0, 1, 2, 9]))):
            plain[key] = PlainRequest(key, range(key * 100, key * 100 + data.draw(st.integers(1, 70))))
            new_requests.append(new(key, plain[key].token_ids))
        items, expected = [], []
        for request in plain.values():
            count = data.draw(st.sampled_from([0, 1, request.num_left, request.num_left]))
            drafts = (7, 8, 9) if count == request.num_left and data.draw(st.integers(0, 4)) == 0 else ()
            if count:
                item, tokens = request.schedule(count, drafts, free_blocks)
                items.append(item)
                expected += tokens
        inputs = apply(batch, new_requests, items, dropped)
        if inputs is None:
            continue
        assert inputs.input_ids.tolist() == [token.token_id for token in expected]
        assert inputs.positions.tolist() == [token.position for token in expected]
        slots = np.concatenate([span.slots[span.num_computed_tokens :] for span in inputs.spans])
        assert slots.tolist() == [token.block_id * 16 + token.position % 16 for token in expected]
        assert inputs.sampling_rows.tolist() == [row for row, token in enumerate(expected) if token.is_sampled_from]
        sampled_keys = [token.key for token in expected if token.is_sampled_from]
        assert [request.key for request in inputs.sampling_requests] == sampled_keys
        sampled = {key: data.draw(st.integers(0, 9999)) for key in sampled_keys}
        sample(batch, **{f"k{key}": token_id for key, token_id in sampled.items()})
        for key, token_id in sampled.items():
            plain[key].token_ids.append(token_id)
    assert len(batch) == len(plain)
