"""The text of a scrape, read back by prometheus_client's own parsers."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from frontend.metrics.exposition import MetricsText
from ipc.metric_families import FAMILIES, VLLM_PREFIX, MetricKind
from ipc.metric_series import HistogramCounts, SeriesValues, series_key

NAMES_OF_VLLM = [
    "cache_config_info",
    "e2e_request_latency_seconds",
    "generation_tokens",
    "inter_token_latency_seconds",
    "iteration_tokens_total",
    "kv_cache_usage_perc",
    "lora_requests_info",
    "num_preemptions",
    "num_requests_running",
    "num_requests_waiting",
    "prefix_cache_hits",
    "prefix_cache_queries",
    "prompt_tokens",
    "prompt_tokens_cached",
    "request_decode_time_seconds",
    "request_generation_tokens",
    "request_inference_time_seconds",
    "request_max_num_generation_tokens",
    "request_num_preemptions",
    "request_params_max_tokens",
    "request_prefill_kv_computed_tokens",
    "request_prefill_time_seconds",
    "request_prompt_tokens",
    "request_queue_time_seconds",
    "request_success",
    "request_time_per_output_token_seconds",
    "spec_decode_num_accepted_tokens",
    "spec_decode_num_draft_tokens",
    "spec_decode_num_drafts",
    "time_to_first_token_seconds",
]
"""Names in `vllm/v1/metrics/loggers.py` and `vllm/v1/spec_decode/metrics.py` of 0.33 that we have too."""


def values_of_everything() -> SeriesValues:
    values: SeriesValues = {}
    for family in FAMILIES.values():
        labels = [f"{label} value" for label in family.labels]
        if family.kind is MetricKind.HISTOGRAM:
            histogram = HistogramCounts(family.name, *labels)
            histogram.observe(family.buckets[1], times=2)
            histogram.observe(family.buckets[-1] * 2)
            histogram.write_to(values)
        else:
            values[series_key(family.name, *labels)] = 3
    return values


def text_of(
    values: SeriesValues, *, of_other: SeriesValues | None = None, prefix: str = "fast_inference_", accept: str = ""
) -> str:
    """Of the core 0, and of another one where its values are given."""
    cores = {"0": values} | ({"b2": of_other} if of_other is not None else {})
    body, _ = MetricsText({}, cores, prefix=prefix, model_name='a "model"').encode(accept)
    return body.decode()


def samples_of(values: SeriesValues, **options) -> dict[tuple[str, ...], float]:
    samples = [sample for family in parse(text_of(values, **options)) for sample in family.samples]
    return {(sample.name, *sorted(sample.labels.values())): sample.value for sample in samples}


def test_buckets_are_cumulated_up_to_the_count():
    histogram = HistogramCounts("time_to_first_token_seconds")
    for value in (0.001, 0.0011, 3.0, 99.0):
        histogram.observe(value)
    values: SeriesValues = {}
    histogram.write_to(values)
    samples = samples_of(values)
    name, labels = "fast_inference_time_to_first_token_seconds", ("0", 'a "model"')
    bounds = ("0.001", "0.005", "2.5", "5.0", "10.0", "+Inf")
    buckets = [samples[(f"{name}_bucket", *sorted((*labels, bound)))] for bound in bounds]
    assert buckets == [1, 2, 2, 3, 3, 4]
    assert samples[(f"{name}_count", *labels)] == 4
    assert samples[(f"{name}_sum", *labels)] == 0.001 + 0.0011 + 3.0 + 99.0


def test_labels_are_those_of_the_table():
    samples = samples_of({series_key("http_requests_total", "/v1/models", "GET", "200"): 3, "num_requests_running": 2})
    assert samples[("http_requests_total", "/v1/models", "0", "200", "GET")] == 3
    assert samples[("fast_inference_num_requests_running", "0", 'a "model"')] == 2


def test_a_frontend_that_is_asked_for_openmetrics_gives_it():
    text = text_of(values_of_everything(), accept="application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    families = {family.name for family in parse_openmetrics(text)}
    assert {"fast_inference_prompt_tokens", "fast_inference_time_to_first_token_seconds"} <= families


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=abc", "text/plain;version=1..0", ",;=", "\xb2"]
)
def test_any_accept_header_gets_a_text(accept):
    assert 'fast_inference_kv_blocks{core="0"' in text_of({"kv_blocks": 2}, accept=accept)


def test_with_the_prefix_of_vllm_the_names_are_those_of_vllm():
    samples = {key[0] for key in samples_of(values_of_everything(), prefix=VLLM_PREFIX)}
    for name in NAMES_OF_VLLM:
        alternatives = {f"vllm:{name}", f"vllm:{name}_total", f"vllm:{name}_bucket"}
        assert samples & alternatives, f"vLLM's {name} is missing"


def test_series_of_another_version_are_left_out():
    assert samples_of({"metric_of_tomorrow_total": 1, "kv_blocks": 2}).keys() == {
        ("fast_inference_kv_blocks", "0", 'a "model"')
    }


def test_series_with_other_labels_than_the_table_says_are_left_out():
    values: SeriesValues = {
        "time_to_first_token_seconds_bucket": 1,
        series_key("kv_blocks", "a label"): 1,
        "num_requests_running": 2,
    }
    assert samples_of(values).keys() == {("fast_inference_num_requests_running", "0", 'a "model"')}


def test_each_core_has_series_of_its_own():
    of_one, of_other = HistogramCounts("step_duration_seconds"), HistogramCounts("step_duration_seconds")
    of_one.observe(0.002)
    of_other.observe(99.0, times=2)
    values: list[SeriesValues] = [{"num_requests_running": 1}, {"num_requests_running": 2}]
    for histogram, of_core in zip((of_one, of_other), values, strict=True):
        histogram.write_to(of_core)
    samples = samples_of(values[0], of_other=values[1])
    name = "fast_inference_num_requests_running"
    assert (samples[(name, "0", 'a "model"')], samples[(name, 'a "model"', "b2")]) == (1, 2)
    name = "fast_inference_step_duration_seconds"
    assert samples[(f"{name}_bucket", "0", "0.0025", 'a "model"')] == 1
    assert samples[(f"{name}_bucket", "0.0025", 'a "model"', "b2")] == 0
    assert (samples[(f"{name}_count", "0", 'a "model"')], samples[(f"{name}_count", 'a "model"', "b2")]) == (1, 2)
    assert samples[(f"{name}_sum", 'a "model"', "b2")] == 198


def test_the_label_is_vllms_with_its_prefix():
    text = text_of({"kv_blocks": 2}, of_other={"kv_blocks": 3}, prefix=VLLM_PREFIX)
    assert 'vllm:kv_blocks{engine="0",model_name="a \\"model\\""} 2.0\n' in text
    assert 'vllm:kv_blocks{engine="b2",model_name="a \\"model\\""} 3.0\n' in text


def test_gauges_of_clients_are_added_up_and_their_counters_stay_with_the_core_that_keeps_them():
    requests = series_key("http_requests_total", "/v1/models", "GET", "200")
    values: SeriesValues = {requests: 3, "http_connections": 2}
    text = text_of(values, of_other={requests: 4, "http_connections": 5})
    assert "http_connections 7.0\n" in text
    assert 'http_requests_total{core="0",handler="/v1/models",method="GET",status="200"} 3.0\n' in text
    assert 'http_requests_total{core="b2",handler="/v1/models",method="GET",status="200"} 4.0\n' in text
