"""A batch decodes from its first step on, at the context that was asked for."""

import pytest

from engine_core.model.fake_runner import FakeModelRunner
from engine_core.outputs import SchedulerOutput
from fast_inference.bench.decode_batch import BLOCK_SIZE, DecodeBatch, blocks_of, encode_step
from ipc.config import CacheConfig, FakeModelConfig, ModelConfig


class RecordingRunner(FakeModelRunner):
    """Keeps the steps that it was given."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.steps: list[SchedulerOutput] = []

    def execute(self, step):
        self.steps.append(step)
        return super().execute(step)


@pytest.fixture
def make_runner(tmp_path):
    def make(num_blocks: int) -> RecordingRunner:
        cache = CacheConfig(block_size=BLOCK_SIZE, num_blocks=num_blocks)
        return RecordingRunner(ModelConfig(model="fake"), cache, FakeModelConfig(), tmp_path)

    return make


@pytest.mark.parametrize(("num_seqs", "context"), [(1, 2), (1, 150), (3, 64), (7, 33)])
def test_every_step_gives_each_request_a_token(make_runner, num_seqs, context):
    num_steps = 70
    runner = make_runner(blocks_of(num_seqs, context, num_steps))
    batch = DecodeBatch(runner, num_seqs, context, num_steps)
    assert [len(batch.step().token_ids) for _ in range(num_steps)] == [num_seqs] * num_steps
    assert batch.scheduler.num_preemptions == 0


def test_the_first_step_attends_to_the_context(make_runner):
    runner = make_runner(blocks_of(3, 100, 5))
    batch = DecodeBatch(runner, 3, 100, 5)
    runner.steps.clear()
    batch.step()
    (step,) = runner.steps
    assert [item.num_computed_tokens + item.num_scheduled_tokens for item in step.scheduled] == [100] * 3


def test_of_a_prompt_only_the_last_token_is_computed(make_runner):
    runner = make_runner(blocks_of(4, 500, 5))
    DecodeBatch(runner, 4, 500, 5)
    assert sum(step.num_scheduled_tokens for step in runner.steps) == 4


def test_a_runner_takes_one_batch_after_the_other(make_runner):
    runner = make_runner(blocks_of(8, 100, 5))
    for num_seqs in (8, 2, 4):
        batch = DecodeBatch(runner, num_seqs, 100, 5)
        assert len(batch.step().token_ids) == num_seqs
        batch.close()
        batch.core.check_idle()


def test_the_message_of_a_step_is_made(make_runner):
    batch = DecodeBatch(make_runner(blocks_of(5, 10, 5)), 5, 10, 5)
    assert len(encode_step(batch.step())) > 5 * 4
