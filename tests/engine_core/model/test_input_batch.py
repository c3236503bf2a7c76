"""What the runner remembers, and how a step is laid out."""

import pytest

from engine_core.model.input_batch import InputBatch
from engine_core.outputs import NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
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
    first = apply(batch, [new(1, [11, 12])], [scheduled(1, 0, 2, [0])])
    first.sampling_requests[0].sampling.append(77)
    inputs = apply(batch, (), [scheduled(1, 2, 1)])
    assert (inputs.input_ids.tolist(), inputs.positions.tolist()) == ([77], [2])
    assert inputs.sampling_requests[0].sampling.num_output_tokens == 1


def test_draft_tokens_follow_the_last_known_one_and_each_is_sampled_from():
    batch = InputBatch(block_size=16, vocab_size=1000)
    apply(batch, [new(1, range(100, 116)), new(2, [7])], [scheduled(1, 0, 16, [5]), scheduled(2, 0, 1, [3])])
    batch._requests[RequestKey(1)].sampling.append(77)
    batch._requests[RequestKey(2)].sampling.append(78)
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
