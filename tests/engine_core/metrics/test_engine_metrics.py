"""What the core counts, by the requests that it ran."""

from engine_core.metrics.engine_metrics import EngineMetrics
from ipc.messages import CANCELLED, CORE_RETIRED, FinishReason, Task
from ipc.metric_families import FAMILIES, MetricKind, MetricOrigin
from ipc.metric_series import FAMILY_OF_SAMPLE, SEPARATOR, series_key
from tests.factories import BLOCK_SIZE, CoreHarness, make_fake_runner, make_request, make_scheduler

NOW = 1_700_000_000.0


def make_harness(folder, *, faults="", num_blocks=64, **settings) -> CoreHarness:
    return CoreHarness(make_fake_runner(folder, faults=faults, num_blocks=num_blocks), **settings)


def values_of(harness):
    return harness.metrics.values(NOW)


def count_of(harness, histogram):
    """Values that a histogram has counted."""
    values = values_of(harness)
    return sum(value for key, value in values.items() if key.split(SEPARATOR)[0] == f"{histogram}_bucket")


def test_tokens_are_those_that_clients_got(tmp_path):
    harness = make_harness(tmp_path)
    for number, max_tokens in enumerate((5, 1, 3)):
        harness.add([number] * 7, max_tokens=max_tokens)
    harness.run()
    values = values_of(harness)
    assert values["prompt_tokens_total"] == 3 * 7
    assert values["generation_tokens_total"] == sum(map(len, harness.token_ids.values())) == 9
    assert values[series_key("request_success_total", "length")] == 3


def test_each_ended_request_is_in_each_histogram_of_requests_once(tmp_path):
    harness = make_harness(tmp_path)
    for number in range(4):
        harness.add([number] * 7, max_tokens=3)
    harness.run()
    assert {count_of(harness, name) for name in FAMILIES if name.startswith("request_") and FAMILIES[name].buckets} == {
        4
    }
    assert count_of(harness, "e2e_request_latency_seconds") == count_of(harness, "time_to_first_token_seconds") == 4


def test_gaps_are_counted_between_tokens_of_a_request(tmp_path):
    harness = make_harness(tmp_path)
    harness.add([1, 2], max_tokens=1)
    harness.add([3, 4], max_tokens=4)
    harness.run()
    assert count_of(harness, "inter_token_latency_seconds") == 3


def test_a_step_counts_the_tokens_that_it_computed(tmp_path):
    harness = make_harness(tmp_path)
    harness.add([1] * 6, max_tokens=2)
    harness.run()
    assert values_of(harness)["iteration_tokens_sum"] == 6 + 1
    assert count_of(harness, "iteration_tokens") == count_of(harness, "step_duration_seconds") == 2


def test_what_is_found_in_the_prefix_cache_is_counted_as_looked_up_and_found(tmp_path):
    harness = make_harness(tmp_path)
    prompt = [7] * (2 * BLOCK_SIZE + 1)
    for _ in range(2):
        harness.add(prompt, max_tokens=1)
        harness.run()
    values = values_of(harness)
    assert values["prefix_cache_queries_total"] == 2 * len(prompt)
    assert values["prefix_cache_hits_total"] == values["prompt_tokens_cached_total"] == 2 * BLOCK_SIZE
    assert values["prompt_tokens_total"] == 2 * len(prompt)


def test_a_request_that_is_aborted_says_why(tmp_path):
    harness = make_harness(tmp_path)
    for why in ({"why": "disconnect"}, {"error_code": CANCELLED}, {}):
        request_id = harness.add([1, 2], max_tokens=50)
        harness.step()
        harness.abort(request_id, **why)
    values = values_of(harness)
    assert values[series_key("request_success_total", "abort")] == 3
    assert [values[series_key("aborts_total", reason)] for reason in ("disconnect", "cancelled", "client")] == [1, 1, 1]


def test_a_request_that_fails_counts_under_its_code(tmp_path):
    harness = make_harness(tmp_path, faults="nan@1")
    harness.add([1, 2], max_tokens=5)
    harness.run()
    values = values_of(harness)
    assert values[series_key("aborts_total", "nan_logits")] == values[series_key("request_success_total", "error")] == 1


def test_a_request_that_the_client_ended_by_a_stop_string_is_no_abort(tmp_path):
    harness = make_harness(tmp_path)
    request_id = harness.add([1, 2], max_tokens=50)
    harness.step()
    harness.abort(request_id, is_complete=True)
    values = values_of(harness)
    assert values[series_key("request_success_total", "stop")] == 1
    assert not any(key.startswith("aborts_total") for key in values)


def test_a_request_that_goes_on_with_another_core_has_not_ended(tmp_path):
    harness = make_harness(tmp_path)
    harness.add([1, 2], max_tokens=50)
    harness.step()
    harness.take(harness.core.fail_all_requests(CORE_RETIRED, "x"))
    assert count_of(harness, "e2e_request_latency_seconds") == 0
    assert values_of(harness)[series_key("request_success_total", "error")] == 0


def test_a_resumed_request_counts_only_what_is_new(tmp_path):
    harness = make_harness(tmp_path)
    harness.add([1, 2, 3, 4], num_resumed_tokens=2, max_tokens=5)
    harness.run()
    values = values_of(harness)
    assert (values["prompt_tokens_total"], values["generation_tokens_total"]) == (0, 3)
    assert count_of(harness, "time_to_first_token_seconds") == 0


def test_an_embedding_has_a_prompt_and_no_tokens(tmp_path):
    harness = make_harness(tmp_path)
    harness.add([1, 2, 3], Task.EMBED)
    harness.run()
    values = values_of(harness)
    assert (values["prompt_tokens_total"], values["generation_tokens_total"]) == (3, 0)
    assert values[series_key("request_success_total", "stop")] == 1
    assert count_of(harness, "request_generation_tokens") == 0


def test_preemptions_are_counted(tmp_path):
    harness = make_harness(tmp_path, num_blocks=8)
    for number in range(4):
        harness.add([number] * BLOCK_SIZE, max_tokens=3 * BLOCK_SIZE)
    harness.run()
    assert values_of(harness)["num_preemptions_total"] == harness.scheduler.num_preemptions > 0


def test_adapters_with_waiting_and_running_requests_are_named():
    metrics = EngineMetrics(make_scheduler(), adapters=("a", "b", "c"))
    requests = [make_request(adapter=adapter, num_queued_tokens=20) for adapter in "ab"]
    seen = []

    def look() -> None:
        seen.extend(key.split(SEPARATOR)[1:] for key in metrics.values(NOW) if key.startswith("lora_requests_info"))

    for request in requests:
        metrics.on_added(request)
    look()
    requests[1].num_queued_tokens = 0
    metrics.on_scheduled(requests[1])
    look()
    for request in requests:
        metrics.on_finished(request, request.finished(FinishReason.ABORT), NOW)
    look()
    assert seen == [["3", "a,b", ""], ["3", "a", "b"], ["3", "", ""]]


def test_every_series_is_of_a_family_that_the_core_counts(tmp_path):
    harness = make_harness(tmp_path)
    harness.add([1, 2, 3])
    harness.run()
    for key in values_of(harness):
        name, *labels = key.split(SEPARATOR)
        family = FAMILY_OF_SAMPLE[name]
        assert family.origin is MetricOrigin.CORE
        is_bucket = family.kind is MetricKind.HISTOGRAM and name.endswith("_bucket")
        assert len(labels) == len(family.labels) + is_bucket
