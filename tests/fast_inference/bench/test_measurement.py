"""Servers take turns, warm up, and are compared by their medians."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from fast_inference.bench.load import LoadResult
from fast_inference.bench.measurement import Measurement, Plan, complete_rounds, measure, ratio
from fast_inference.bench.metrics import summarize
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Load, RandomPrompts
from ipc.errors import ConfigError
from tests.fast_inference.bench.test_metrics import FAILED, answer
from tests.scripted_server import ScriptedServer, completion_events, response

pytestmark = pytest.mark.usefixtures("loaded_objects_stay_frozen")

CLOSED = Load(num_prompts=3, input_len=4, output_len=2, concurrency=2)
OPEN = Load(num_prompts=3, input_len=4, output_len=2, request_rate=500.0)


def measured(answers, loads, **options):
    """The measurements, and the order and prompts of what each server was asked."""
    asked = []

    def noting(index, script):
        def answer_one(request):
            asked.append((index, request.body["prompt"]))
            return script(request)

        return answer_one

    async def run():
        async with AsyncExitStack() as stack:
            servers = [
                await stack.enter_async_context(ScriptedServer(noting(index, script)))
                for index, script in enumerate(answers)
            ]
            targets = [Target.parse(server.url, f"server {index}") for index, server in enumerate(servers)]
            source = RandomPrompts(1)
            plan = Plan(targets, loads, source, source, RequestOptions(), 1, **options)
            measurements: list[Measurement] = []
            await measure(plan, measurements, lambda line: None)
            return measurements

    return asyncio.run(run()), asked


def complete(request):
    return [response(completion_events(2))]


def refuse(request):
    return [response(b'{"error": {"message": "full", "code": "queue_full"}}', "429 Too Many")]


def rounds(*seconds: float) -> Measurement:
    target = Target("t", "h", 1)
    return Measurement(CLOSED, target, [summarize(LoadResult((answer(s, [s]),), 2 * s, 0.0)) for s in seconds])


def test_servers_take_turns_and_every_other_round_goes_backwards():
    _, asked = measured([complete, complete], [CLOSED], rounds=3, num_warmups=0)
    turns = [index for index, _ in asked]
    assert turns == [0] * 3 + [1] * 6 + [0] * 6 + [1] * 3


def test_each_server_is_asked_the_same_and_never_the_same_again():
    _, asked = measured([complete, complete], [CLOSED, OPEN], rounds=2)
    first, second = ({prompt for index, prompt in asked if index == server} for server in (0, 1))
    assert first == second
    assert len(first) == 2 + 2 * 3 + 4 + 2 * 3  # warm-ups and two rounds of each load


def test_warm_ups_do_not_count():
    (measurement,), asked = measured([complete], [CLOSED], num_warmups=5)
    assert (len(asked), measurement.completed) == (8, 3)


def test_a_server_that_answers_no_warm_up_ends_the_run():
    with pytest.raises(ConfigError, match="server 0 answered none of 2 warm-up requests: HTTP 429 queue_full: full"):
        measured([refuse], [CLOSED])


def test_refused_requests_are_counted():
    (measurement,), _ = measured([lambda r: refuse(r) if r.number == 1 else complete(r)], [OPEN], num_warmups=0)
    assert (measurement.completed, measurement.failed) == (2, 1)
    assert measurement.rounds[0].failures == {"HTTP 429 queue_full": 1}


def test_answers_of_another_length_are_counted_unless_the_model_may_end_them():
    (measurement,), _ = measured([lambda _: [response(completion_events(1))]], [CLOSED], num_warmups=0)
    assert measurement.rounds[0].num_other_lengths == 3


def test_rounds_come_to_their_median():
    assert rounds(1.0, 5.0, 2.0).median("median_ttft_ms") == pytest.approx(2000)
    assert rounds(1.0, 3.0).median("median_ttft_ms") == pytest.approx(2000)


def test_a_ratio_is_that_of_the_medians_with_its_range():
    found = ratio(rounds(1.0, 2.0, 3.0), rounds(2.0, 2.0, 4.0), "median_ttft_ms")
    assert found is not None
    assert (found.of_medians, found.low, found.high) == (1.0, 0.5, 1.0)


def test_a_server_without_a_number_has_no_ratio():
    broken = Measurement(CLOSED, Target("t", "h", 1), [summarize(LoadResult((FAILED,), 1.0, 0.0))])
    for name in ("median_ttft_ms", "output_throughput"):
        assert ratio(rounds(1.0), broken, name) is None
    assert ratio(broken, rounds(1.0), "median_ttft_ms") is None


def test_of_a_cancelled_run_the_rounds_remain_that_all_servers_have():
    source = RandomPrompts(1)
    targets = [Target("a", "h", 1), Target("b", "h", 2)]
    plan = Plan(targets, [CLOSED] * 3, source, source, RequestOptions())
    done = [rounds(1.0, 2.0), rounds(3.0, 4.0), rounds(5.0, 6.0), rounds(7.0), rounds(8.0), rounds()]
    medians = [measurement.median("median_ttft_ms") for measurement in complete_rounds(plan, done)]
    assert medians == pytest.approx([1500, 3500, 5000, 7000])
