"""Portions of outputs: nothing is lost or out of order, and each fits into a message."""

from array import array
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from engine_core.core import ClientOutputs
from engine_core.output_queue import MAX_PORTION_BYTES, OutputQueue, _num_bytes
from engine_core.request_intake import MAX_PROMPT_LOGPROB_ENTRIES
from ipc.codec import MAX_FRAME_BYTES, MAX_ITEMS, encode
from ipc.messages import Finished, FinishReason, RequestId, Started, Step

MAX_BYTES = 20_000


def add_request(outputs, request_id, num_prompt_rows, num_entries, *, is_last=False):
    """What a step gives for a request: first token with the rows of its prompt, or the next token where there are none.

    The values tell the rows apart.
    """
    num_rows = num_prompt_rows + 1
    if num_prompt_rows:
        outputs.started.append(Started(RequestId(request_id), 0, num_prompt_rows))
    outputs.request_ids.append(request_id)
    outputs.token_ids.append(len(outputs.logprobs))
    outputs.logprob_request_ids.extend([request_id] * num_rows)
    outputs.logprob_counts.extend([num_entries] * num_rows)
    outputs.logprob_ranks.extend(range(num_rows))
    outputs.logprob_token_ids.extend(range(num_rows * num_entries))
    outputs.logprobs.extend([request_id] * num_rows * num_entries)
    if is_last:
        outputs.finished.append(Finished(RequestId(request_id), FinishReason.STOP, 1, 1))


def add_embedding(outputs, request_id, size):
    outputs.embedding_request_ids.append(request_id)
    outputs.embeddings.extend([request_id] * size)
    outputs.finished.append(Finished(RequestId(request_id), FinishReason.STOP, 1, 0))


def take_all(queue):
    while queue:
        yield queue.first
        queue.pop_first()


def events_of_each_request(portions):
    """What each request gets of each kind, in order."""
    events = defaultdict(list)
    for portion in portions:
        for request_id, token_id in zip(portion.request_ids, portion.token_ids, strict=True):
            events[request_id, "token"].append(token_id)
        entry = 0
        rows = zip(portion.logprob_request_ids, portion.logprob_counts, portion.logprob_ranks, strict=True)
        for request_id, count, rank in rows:
            entries = slice(entry, entry + count)
            row = (rank, [*portion.logprob_token_ids[entries]], [*portion.logprobs[entries]])
            events[request_id, "row"].append(row)
            entry = entries.stop
        size = len(portion.embeddings) // max(1, len(portion.embedding_request_ids))
        for row, request_id in enumerate(portion.embedding_request_ids):
            events[request_id, "embedding"].append(portion.embeddings[row * size : (row + 1) * size])
        for record in (*portion.started, *portion.finished):
            events[record.request_id, type(record)].append(record)
    return events


requests_of_a_step = st.dictionaries(
    st.integers(1, 5), st.tuples(st.sampled_from([0, 3, 60]), st.sampled_from([1, 21]), st.booleans())
)


@given(steps=st.lists(requests_of_a_step, max_size=6))
def test_every_request_gets_everything_in_order(steps):
    def outputs_of(step):
        outputs = ClientOutputs()
        for request_id, (num_prompt_rows, num_entries, is_last) in step.items():
            add_request(outputs, request_id, num_prompt_rows, num_entries, is_last=is_last)
        add_embedding(outputs, 9, 64)
        return outputs

    queue = OutputQueue(MAX_BYTES)
    for step in steps:
        queue.append(outputs_of(step))
    portions = list(take_all(queue))
    assert events_of_each_request(portions) == events_of_each_request(outputs_of(step) for step in steps)
    assert all(_num_bytes(item) <= MAX_BYTES or len({*item.request_ids}) == 1 for item in portions)


def test_the_rows_of_a_prompt_stay_with_its_start():
    outputs = ClientOutputs()
    for request_id in (1, 2, 3):
        add_request(outputs, request_id, 100, 21)
    queue = OutputQueue(MAX_BYTES)
    queue.append(outputs)
    portions = list(take_all(queue))
    assert [[started.request_id for started in item.started] for item in portions] == [[1], [2], [3]]
    assert [set(item.logprob_request_ids) for item in portions] == [{1}, {2}, {3}]
    assert [len(item.logprob_ranks) for item in portions] == [101, 101, 101]


def test_small_outputs_are_merged():
    queue = OutputQueue(MAX_BYTES)
    for _ in range(50):
        outputs = ClientOutputs()
        add_request(outputs, 1, 0, 1)
        queue.append(outputs)
    assert len(queue) == 1
    assert len(queue.first.token_ids) == 50


def test_what_goes_into_one_message_is_below_the_limits_of_the_codec():
    """Records with the longest error message that there is, as many as a portion takes."""
    finished = Finished(RequestId(1), FinishReason.ERROR, 1, 1, error_message="\U0001f600" * 1000)
    outputs = ClientOutputs(finished=[finished] * 10)
    assert len(encode(Step(1, 1, array("Q"), array("i"), tuple(outputs.finished)), 1)) < _num_bytes(outputs)
    most_records = MAX_PORTION_BYTES * 10 // _num_bytes(outputs)
    assert most_records < MAX_ITEMS
    assert MAX_PORTION_BYTES <= MAX_FRAME_BYTES // 4


def test_all_that_a_prompt_may_ask_for_fits_into_one_message():
    """One entry for each position makes the most bytes."""
    outputs, count = ClientOutputs(), MAX_PROMPT_LOGPROB_ENTRIES
    outputs.logprob_request_ids.frombytes(bytes(8 * count))
    for column in (outputs.logprob_counts, outputs.logprob_ranks, outputs.logprob_token_ids, outputs.logprobs):
        column.frombytes(bytes(4 * count))
    assert _num_bytes(outputs) < MAX_FRAME_BYTES * 4 // 5
