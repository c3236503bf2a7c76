"""Batches of decodes at fixed places, padded; no GPU is needed to see what would be in its memory."""

import numpy as np
import pytest
import torch

from engine_core.model.cuda.decode_arrays import DecodeArrays, graph_sizes
from engine_core.model.input_batch import InputBatch
from engine_core.model.request_span import RequestSpan
from engine_core.model.step_spans import StepSpans
from engine_core.outputs import NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
from ipc.messages import Task
from ipc.sampling_params import SamplingParams

BLOCK_SIZE = 16


@pytest.fixture
def arrays():
    return DecodeArrays(8, 100, BLOCK_SIZE, torch.device("cpu"))


def decode(arrays, size, positions, tables):
    """A batch of decodes at `positions` of requests with these blocks."""
    spans = [RequestSpan(row, 1, position, np.array(tables[row]), BLOCK_SIZE) for row, position in enumerate(positions)]
    arrays.fill(size, np.arange(50, 50 + len(positions)), StepSpans.of(spans))
    return arrays.views(size)


@pytest.mark.parametrize(
    ("max_num_seqs", "sizes"),
    [
        (1, [1]),
        (8, [1, 2, 4, 8]),
        (9, [1, 2, 4, 8, 16]),
        (20, [1, 2, 4, 8, 16, 24]),
        (64, [1, 2, 4, 8, 16, 24, 32, 48, 64]),
        (256, [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256]),
    ],
)
def test_sizes_of_graphs(max_num_seqs, sizes):
    assert graph_sizes(max_num_seqs) == sizes


def test_a_batch_is_where_its_views_are(arrays):
    input_ids, positions, step = decode(arrays, 2, [17, 4], [[7, 3], [5]])
    assert input_ids.tolist() == [50, 51]
    assert positions.tolist() == [17, 4]
    assert step.slots.tolist() == [3 * 16 + 1, 5 * 16 + 4]
    assert step.num_tokens.tolist() == [18, 5]
    assert step.query_starts.tolist() == [0, 1, 2]
    assert step.block_tables[:, :2].tolist() == [[7, 3], [5, 0]]


def test_padding_has_no_tokens_and_no_slots(arrays):
    decode(arrays, 4, [20, 21, 22, 23], [[1, 2]] * 4)
    input_ids, positions, step = decode(arrays, 4, [3], [[6]])
    assert step.slots.tolist() == [6 * 16 + 3, -1, -1, -1]
    assert step.num_tokens.tolist() == [4, 0, 0, 0]
    assert input_ids.tolist() == [50, 0, 0, 0]
    assert positions.tolist() == [3, 0, 0, 0]


def test_a_table_that_could_not_be_copied_is_copied_the_next_time(arrays, monkeypatch):
    class FullDevice:
        """Stands for tables on a device that takes nothing."""

        def __getitem__(self, rows):
            raise RuntimeError("CUDA error")

    with monkeypatch.context() as patch:
        patch.setattr(arrays, "_tables", FullDevice())
        with pytest.raises(RuntimeError):
            decode(arrays, 1, [17], [[7, 3]])
    _, _, step = decode(arrays, 1, [17], [[7, 3]])
    assert step.block_tables[0, :2].tolist() == [7, 3]


def test_a_table_that_grows_is_followed(arrays):
    decode(arrays, 1, [15], [[7]])
    _, _, step = decode(arrays, 1, [16], [[7, 9]])
    assert step.slots.tolist() == [9 * 16]
    assert step.block_tables[0, :2].tolist() == [7, 9]


def test_a_row_that_another_request_takes_over_gets_its_table(arrays):
    decode(arrays, 2, [20, 20], [[1, 2], [3, 4]])
    _, _, step = decode(arrays, 1, [20], [[3, 4]])
    assert step.block_tables[0, :2].tolist() == [3, 4]
    assert step.slots.tolist() == [4 * 16 + 4]


def test_a_table_that_is_not_changed_is_not_copied_again(arrays):
    _, _, step = decode(arrays, 1, [16], [[7, 8]])
    step.block_tables.zero_()
    decode(arrays, 1, [17], [[7, 8]])
    assert step.block_tables[0, :2].tolist() == [0, 0]


def test_columns_begin_at_multiples_of_16_bytes(arrays):
    for size in graph_sizes(8):
        input_ids, positions, step = arrays.views(size)
        columns = (input_ids, positions, step.slots, step.num_tokens)
        assert [column.storage_offset() % 4 for column in columns] == [0, 0, 0, 0]


def step_of(*requests):
    """Inputs of a step of requests with (tokens, computed, scheduled, task, drafts)."""
    batch, new, scheduled = InputBatch(BLOCK_SIZE, 1000), [], []
    for key, (num_tokens, num_computed, num_scheduled, task, drafts) in enumerate(requests):
        params = SamplingParams(max_tokens=9)
        tokens = tuple(range(num_tokens))
        new.append(NewRequestData(RequestKey(key), tokens, num_tokens, params, task, (key, key + 20)))
        is_last = num_computed + num_scheduled == num_tokens + len(drafts)
        scheduled.append(ScheduledRequest(RequestKey(key), num_computed, num_scheduled, (), is_last, drafts))
    step = SchedulerOutput(0, tuple(new), tuple(scheduled))
    batch.apply(step)
    return batch.build(step.scheduled)


DECODE = (20, 19, 1, Task.GENERATE, ())


def test_decodes_are_padded_to_the_next_size(arrays):
    assert arrays.try_fill(step_of(DECODE)) == 1
    assert arrays.try_fill(step_of(DECODE, DECODE, DECODE)) == 4
    _, positions, step = arrays.views(4)
    assert positions.tolist() == [19, 19, 19, 0]
    assert step.slots.tolist() == [20 * 16 + 3, 21 * 16 + 3, 22 * 16 + 3, -1]


@pytest.mark.parametrize(
    "other",
    [
        (20, 10, 10, Task.GENERATE, ()),
        (20, 18, 1, Task.GENERATE, ()),
        (20, 19, 3, Task.GENERATE, (5, 6)),
        (20, 19, 1, Task.EMBED, ()),
    ],
    ids=["prompt", "one token inside a prompt", "draft", "embedding"],
)
def test_other_steps_are_not_taken(arrays, other):
    assert arrays.try_fill(step_of(DECODE, other)) is None


def test_more_decodes_than_the_largest_size_are_not_taken(arrays):
    assert arrays.try_fill(step_of(*[DECODE] * 9)) is None
