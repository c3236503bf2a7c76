"""The arithmetic of a load's numbers."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_inference.bench.answer import RequestResult
from fast_inference.bench.connection import Failure
from fast_inference.bench.load import LoadResult
from fast_inference.bench.metrics import Distribution, notes_on, summarize

SECONDS = st.floats(0.001, 100)
FAILED = RequestResult(0.0, failure=Failure("HTTP 429 queue_full", "the first"))


def answer(ttft_s: float, gaps_s: list[float], *, tokens_per_chunk: int = 1, prompt_tokens: int = 10) -> RequestResult:
    times = [ttft_s]
    for gap_s in gaps_s:
        times.append(times[-1] + gap_s)
    num_tokens = tokens_per_chunk * len(times)
    return RequestResult(0.0, tuple(times), times[-1], prompt_tokens, 0, num_tokens, has_usage=True)


def load(*requests: RequestResult, duration_s: float = 2.0, cpu_s: float = 0.0) -> LoadResult:
    return LoadResult(requests, duration_s, cpu_s)


@given(st.lists(SECONDS, min_size=1, max_size=50))
def test_a_distribution_is_that_of_its_values(values):
    found = Distribution.of(values)
    assert found is not None
    assert found.mean == pytest.approx(statistics.fmean(values) * 1e3)
    assert found.std == pytest.approx(statistics.pstdev(values) * 1e3, abs=1e-6)
    assert found.median == pytest.approx(statistics.median(values) * 1e3)
    assert found.median - 1e-6 <= found.p90 <= found.p99 + 1e-6 <= max(values) * 1e3 + 2e-6


@given(SECONDS, st.lists(SECONDS, min_size=1, max_size=20))
def test_an_answer_is_its_first_token_and_its_gaps(ttft_s, gaps_s):
    metrics = summarize(load(answer(ttft_s, gaps_s)))
    assert metrics.ttft is not None
    assert metrics.tpot is not None
    assert metrics.e2el is not None
    assert metrics.ttft.mean == pytest.approx(ttft_s * 1e3)
    assert metrics.tpot.mean == pytest.approx(statistics.fmean(gaps_s) * 1e3)
    assert metrics.e2el.mean == pytest.approx(metrics.ttft.mean + metrics.tpot.mean * len(gaps_s))


@given(st.lists(st.lists(SECONDS, max_size=5), min_size=1, max_size=8), st.floats(0.1, 50))
def test_throughput_counts_every_token_once(answers, duration_s):
    metrics = summarize(load(*(answer(1.0, gaps_s) for gaps_s in answers), duration_s=duration_s))
    num_tokens = sum(len(gaps_s) + 1 for gaps_s in answers)
    assert metrics.request_throughput == pytest.approx(len(answers) / duration_s)
    assert metrics.output_throughput == pytest.approx(num_tokens / duration_s)
    assert metrics.total_token_throughput == pytest.approx((num_tokens + 10 * len(answers)) / duration_s)


@given(st.lists(st.booleans(), min_size=1, max_size=10))
def test_a_failed_request_makes_nothing_faster(failures):
    good = answer(1.0, [0.5])
    metrics = summarize(load(*(FAILED if failed else good for failed in failures)))
    only_good = summarize(load(*(good for failed in failures if not failed)))
    assert metrics.failed == sum(failures)
    assert (metrics.completed, metrics.ttft, metrics.e2el) == (only_good.completed, only_good.ttft, only_good.e2el)
    assert metrics.output_throughput == only_good.output_throughput


def test_failures_are_counted_by_reason_with_the_first_message():
    later = RequestResult(0.0, failure=Failure("HTTP 429 queue_full", "the second"))
    metrics = summarize(load(FAILED, RequestResult(0.0, failure=Failure("timeout")), later))
    assert metrics.failures == {"HTTP 429 queue_full": 2, "timeout": 1}
    assert metrics.failure_details == {"HTTP 429 queue_full": "the first", "timeout": ""}


def test_numbers_that_do_not_exist_are_left_out():
    flat = summarize(load(FAILED)).as_flat()
    assert "median_ttft_ms" not in flat
    assert (flat["completed"], flat["failed"], flat["output_throughput"]) == (0, 1, 0.0)


def test_the_names_are_those_of_vllm():
    flat = summarize(load(answer(1.0, [0.5]))).as_flat()
    names = {f"{part}_{time}_ms" for part in ("mean", "median", "p99") for time in ("ttft", "tpot", "itl", "e2el")}
    assert names | {"request_throughput", "output_throughput", "total_token_throughput", "duration"} <= set(flat)


def test_several_tokens_in_a_chunk_are_noted_and_divide_the_time_of_each():
    metrics = summarize(load(answer(1.0, [0.4, 0.4, 0.4], tokens_per_chunk=2)))
    assert metrics.itl is not None
    assert metrics.tpot is not None
    assert (metrics.tokens_per_chunk, metrics.itl.mean) == (2.0, pytest.approx(400))
    assert metrics.tpot.mean == pytest.approx(1200 / 7)
    assert notes_on(metrics)[0].startswith("2.00 tokens per chunk")


@pytest.mark.parametrize(
    ("metrics", "note"),
    [
        (summarize(load(answer(1.0, [0.5])), [3]), "1 answers had more or fewer tokens"),
        (summarize(load(RequestResult(0.0, (1.0,), 1.0, 0, 0, 1))), "1 answers without usage"),
        (summarize(load(RequestResult(0.0, (1.0,), 1.0, 10, 9, 1, True))), "90% of the prompts' tokens came from"),
        (summarize(load(answer(1.0, []), cpu_s=1.5)), "the load generator used 75%"),
    ],
)
def test_what_one_must_know_is_noted(metrics, note):
    assert [line for line in notes_on(metrics) if line.startswith(note)]


def test_a_plain_load_needs_no_note():
    assert notes_on(summarize(load(answer(1.0, [0.5])), [2])) == []
