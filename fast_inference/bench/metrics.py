"""The numbers of one load, named and computed as in vLLM's benchmark (`vllm bench serve`).

Called by `measurement.py`. Invariant: a failed request is in `failed` and in no other number, so that it can make
nothing look fast; the duration is that of the whole load, failed requests included.
Next: `measurement.py`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from fast_inference.bench.load import LoadResult

MANY_TOKENS_PER_CHUNK = 1.1
"""From here on, gaps between chunks are no gaps between tokens."""
_MANY_CACHED = 0.02
_BUSY_LOAD_GENERATOR = 0.5


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of one time over all requests, or over all gaps, in milliseconds."""

    mean: float
    std: float
    median: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values_s: Sequence[float]) -> "Distribution | None":
        """Of values in seconds, interpolated linearly; None where there are none."""
        if not values_s:
            return None
        values_ms = np.asarray(values_s) * 1e3
        median, p90, p99 = np.percentile(values_ms, (50, 90, 99)).tolist()
        return cls(float(values_ms.mean()), float(values_ms.std()), median, p90, p99)


@dataclass(frozen=True, slots=True)
class LoadMetrics:
    """What one load on one server came to."""

    duration: float
    """Seconds from the first request to the end of the last."""
    completed: int
    failed: int
    failures: dict[str, int]
    """Failed requests by reason."""
    failure_details: dict[str, str]
    """What was said the first time, by reason."""
    total_input_tokens: int
    total_output_tokens: int
    total_cached_tokens: int
    """Tokens of prompts that servers say they had in their prefix caches."""
    request_throughput: float
    """Answers per second."""
    output_throughput: float
    """Tokens of answers per second."""
    total_token_throughput: float
    """Tokens of prompts and answers per second."""
    ttft: Distribution | None
    tpot: Distribution | None
    itl: Distribution | None
    e2el: Distribution | None
    tokens_per_chunk: float | None
    num_without_usage: int
    """Answers whose tokens the server did not count."""
    num_other_lengths: int
    """Answers that had more or fewer tokens than they were to have."""
    load_generator_cpu: float
    """Seconds of processor time of the load generator."""
    load_generator_cpu_us_per_token: float | None

    def as_flat(self) -> dict[str, float]:
        """All numbers by vLLM's names, such as `median_ttft_ms`; without those that do not exist."""
        flat: dict[str, float] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Distribution):
                parts = {part.name: getattr(value, part.name) for part in fields(value)}
                flat |= {f"{part}_{field.name}_ms": number for part, number in parts.items()}
            elif isinstance(value, int | float):
                flat[field.name] = value
        return flat


def summarize(load: LoadResult, expected_tokens: Sequence[int] = ()) -> LoadMetrics:
    """The numbers of a load; `expected_tokens` (`[num_requests]`) are the answers' lengths, if they are checked."""
    good = [request for request in load.requests if request.failure is None]
    failures = [request.failure for request in load.requests if request.failure is not None]
    lengths = zip(load.requests, expected_tokens, strict=False)
    num_input = sum(request.prompt_tokens for request in good)
    num_output = sum(request.output_tokens for request in good)
    num_chunks = sum(len(request.chunk_times) for request in good)
    return LoadMetrics(
        duration=load.duration_s,
        completed=len(good),
        failed=len(failures),
        failures=dict(Counter(failure.reason for failure in failures).most_common()),
        failure_details={failure.reason: failure.detail for failure in reversed(failures)},
        total_input_tokens=num_input,
        total_output_tokens=num_output,
        total_cached_tokens=sum(request.cached_tokens for request in good),
        request_throughput=len(good) / load.duration_s,
        output_throughput=num_output / load.duration_s,
        total_token_throughput=(num_input + num_output) / load.duration_s,
        ttft=Distribution.of([request.ttft_s for request in good]),
        tpot=Distribution.of([tpot_s for request in good if (tpot_s := request.tpot_s) is not None]),
        itl=Distribution.of([gap_s for request in good for gap_s in request.itl_s]),
        e2el=Distribution.of([request.e2el_s for request in good]),
        tokens_per_chunk=num_output / num_chunks if num_chunks else None,
        num_without_usage=sum(not request.has_usage for request in good),
        num_other_lengths=sum(r.failure is None and r.output_tokens != expected for r, expected in lengths),
        load_generator_cpu=load.cpu_s,
        load_generator_cpu_us_per_token=load.cpu_s / num_output * 1e6 if num_output else None,
    )


def notes_on(metrics: LoadMetrics) -> list[str]:
    """What one must know to read the numbers, a line each."""
    notes = []
    if metrics.tokens_per_chunk is not None and metrics.tokens_per_chunk >= MANY_TOKENS_PER_CHUNK:
        notes.append(f"{metrics.tokens_per_chunk:.2f} tokens per chunk: ITL is the gap of chunks, TPOT that of tokens")
    if metrics.num_without_usage:
        notes.append(f"{metrics.num_without_usage} answers without usage: each of their chunks counts as a token")
    if metrics.num_other_lengths:
        notes.append(f"{metrics.num_other_lengths} answers had more or fewer tokens than asked for")
    if metrics.total_cached_tokens > _MANY_CACHED * metrics.total_input_tokens:
        share = metrics.total_cached_tokens / metrics.total_input_tokens
        notes.append(f"{share:.0%} of the prompts' tokens came from the server's prefix cache")
    if metrics.load_generator_cpu > _BUSY_LOAD_GENERATOR * metrics.duration:
        busy = metrics.load_generator_cpu / metrics.duration
        notes.append(f"the load generator used {busy:.0%} of a processor: it may be the limit")
    return notes
