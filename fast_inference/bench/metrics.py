"""The numbers of a load, under the names that vLLM's benchmark gives them.

Called by `measurement.py`; pure arithmetic. Invariants: only complete answers are counted as fast or slow, failed
requests only by their reason; a number that cannot be known (no answer, no second token) is None, never 0.
Percentiles interpolate linearly, as numpy's do. `Metrics.values` is what JSON, tables and medians are made of.
Next: `measurement.py`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fast_inference.bench.load import LoadResult

LATENCIES = ("ttft", "tpot", "itl", "e2el")
"""Time to first token, time per output token after it, inter-token (here: inter-chunk) latency, end-to-end latency."""
STATISTICS = ("mean", "median", "p90", "p99")
THROUGHPUTS = ("request_throughput", "output_throughput", "total_token_throughput")
"""Complete answers per second, and their tokens per second: of the answers, and with those of the prompts."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """One load on one server, or the median of several rounds of it."""

    completed: int
    failures: Mapping[str, int]
    """How many requests failed for each reason."""
    examples: Mapping[str, str]
    """The first message for each reason."""
    values: Mapping[str, float | None]
    """Throughputs, `STATISTIC_LATENCY_ms` for all of both, counts of tokens, and what the generator cost."""
    short_answers: int = 0
    """Complete answers of other than the requested length."""
    without_usage: int = 0
    """Complete answers whose tokens the server did not count: each chunk is taken for one token."""

    @property
    def failed(self) -> int:
        """Requests without a complete answer."""
        return sum(self.failures.values())

    @property
    def tokens_per_chunk(self) -> float | None:
        """More than 1 where a server sends several tokens at a time: ITL is then the gap between chunks."""
        return self.values["tokens_per_chunk"]

    def as_json(self) -> dict[str, Any]:
        """All of it, flat."""
        counts = {"completed": self.completed, "failed": self.failed}
        odd = {"short_answers": self.short_answers, "answers_without_usage": self.without_usage}
        return {
            **counts,
            "failures": dict(self.failures),
            "failure_examples": dict(self.examples),
            **odd,
            **self.values,
        }


def metrics_of(load: LoadResult, output_lens: Sequence[int] = ()) -> Metrics:
    """The numbers of a load; `output_lens` (`[num_requests]`) are the requested lengths, where they are to be checked."""
    done = [result for result in load.results if result.failure is None]
    failures = [result.failure for result in load.results if result.failure is not None]
    examples: dict[str, str] = {}
    for failure in failures:
        examples.setdefault(failure.reason, failure.detail)
    input_tokens = sum(result.prompt_tokens for result in done)
    output_tokens = sum(result.output_tokens for result in done)
    num_chunks = sum(len(result.chunk_times) for result in done)
    latencies_s = {
        "ttft": [result.ttft_s for result in done],
        "tpot": [tpot_s for result in done if (tpot_s := result.tpot_s) is not None],
        "itl": [itl_s for result in done for itl_s in result.itl_s],
        "e2el": [result.e2el_s for result in done],
    }
    values: dict[str, float | None] = {
        "duration": load.duration_s,
        "total_input_tokens": input_tokens,
        "total_output_tokens": output_tokens,
        "request_throughput": len(done) / load.duration_s,
        "output_throughput": output_tokens / load.duration_s,
        "total_token_throughput": (input_tokens + output_tokens) / load.duration_s,
    }
    for name in LATENCIES:
        values |= {f"{key}_{name}_ms": value for key, value in statistics_ms(latencies_s[name]).items()}
    values["tokens_per_chunk"] = output_tokens / num_chunks if num_chunks else None
    values["generator_cpu_us_per_token"] = load.generator_cpu_s / output_tokens * 1e6 if output_tokens else None
    return Metrics(
        completed=len(done),
        failures=dict(Counter(failure.reason for failure in failures)),
        examples=examples,
        values=values,
        short_answers=sum(
            result.failure is None and result.output_tokens != asked
            for result, asked in zip(load.results, output_lens, strict=False)
        ),
        without_usage=sum(not result.has_usage for result in done),
    )


def statistics_ms(seconds: Sequence[float]) -> dict[str, float | None]:
    """Mean, median, 90th and 99th percentile in milliseconds; None for each where there is no value."""
    if not seconds:
        return dict.fromkeys(STATISTICS)
    values_ms = np.asarray(seconds) * 1e3
    median, p90, p99 = np.percentile(values_ms, (50, 90, 99)).tolist()
    return {"mean": float(values_ms.mean()), "median": median, "p90": p90, "p99": p99}


def median_of(rounds: Sequence[Metrics]) -> Metrics:
    """The median of each value over the rounds that have it; counts are summed."""
    failures: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for metrics in rounds:
        failures.update(metrics.failures)
        examples = {**metrics.examples, **examples}
    values: dict[str, float | None] = {}
    for name in rounds[0].values:
        known = [value for metrics in rounds if (value := metrics.values[name]) is not None]
        values[name] = float(np.median(known)) if known else None
    return Metrics(
        completed=sum(metrics.completed for metrics in rounds),
        failures=dict(failures),
        examples=examples,
        values=values,
        short_answers=sum(metrics.short_answers for metrics in rounds),
        without_usage=sum(metrics.without_usage for metrics in rounds),
    )
