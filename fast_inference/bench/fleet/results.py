"""What came out of a simulation: latencies, cache hits, use and cost of the cores.

Filled by `simulation.py` while it runs; only what happens after the warm-up counts. Invariant: of each request that
arrived after the warm-up exactly one end is counted, or it is still there in the end (`num_unfinished`).
"""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from fast_inference.bench.fleet.sim_request import SimRequest

_BINS_PER_E = 50
"""Gaps are counted in classes that are 2 % wide."""


@dataclass
class Results:
    """The counts."""

    ttft_s: "array[float]" = field(default_factory=lambda: array("d"))
    e2e_s: "array[float]" = field(default_factory=lambda: array("d"))
    gaps: Counter[int] = field(default_factory=Counter)
    """Tokens by the logarithm of the time since the one before."""
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_moved: int = 0
    """Requests that lost a core, for each time."""
    num_finished: int = 0
    num_unfinished: int = 0
    num_preemptions: int = 0
    core_s: float = 0.0
    """Seconds that cores were there."""
    busy_s: float = 0.0
    """Seconds in which they computed."""
    max_num_cores: int = 0
    requests_of_cores: Counter[str] = field(default_factory=Counter)
    """Those that ended, by core."""

    def add_gaps(self, count: int, gap_s: float) -> None:
        """So many tokens came so long after the one before."""
        self.gaps[math.floor(math.log(max(gap_s, 1e-9)) * _BINS_PER_E)] += count

    @property
    def num_output_tokens(self) -> int:
        """That came out in the time that counts: further tokens, and the first ones of those that ended."""
        return self.gaps.total() + self.num_finished

    def add_finished(self, request: SimRequest) -> None:
        """A request has ended."""
        self.num_finished += 1
        self.ttft_s.append(request.first_token_s - request.arrived_s)
        self.e2e_s.append(request.last_token_s - request.arrived_s)
        self.num_prompt_tokens += request.num_prompt_tokens
        self.num_cached_tokens += max(0, request.num_cached_tokens)
        self.requests_of_cores[request.core] += 1

    def add_unfinished(self, request: SimRequest, now: float) -> None:
        """A request is still there in the end: it counts as one that got its first token now, if it had none."""
        self.num_unfinished += 1
        self.ttft_s.append((request.first_token_s if request.first_token_s >= 0 else now) - request.arrived_s)

    def summary(self, seconds: float) -> dict[str, float]:
        """By name, with units at the end; times in milliseconds."""
        return {
            "requests_per_s": self.num_finished / seconds,
            "output_tokens_per_s": self.num_output_tokens / seconds,
            "ttft_p50_ms": percentile(self.ttft_s, 50) * 1e3,
            "ttft_p99_ms": percentile(self.ttft_s, 99) * 1e3,
            "itl_p50_ms": self._gap_percentile(50) * 1e3,
            "itl_p99_ms": self._gap_percentile(99) * 1e3,
            "e2e_p50_ms": percentile(self.e2e_s, 50) * 1e3,
            "cache_hit_rate": self.num_cached_tokens / max(1, self.num_prompt_tokens),
            "utilisation": self.busy_s / self.core_s if self.core_s else math.nan,
            "core_s_per_million_tokens": self.core_s / self.num_output_tokens * 1e6
            if self.num_output_tokens
            else math.nan,
            "requests_moved": self.num_moved,
            "requests_unfinished": self.num_unfinished,
            "preemptions": self.num_preemptions,
            "max_cores": self.max_num_cores,
            "spread": self.spread(),
        }

    def spread(self) -> float:
        """Requests of the core that had the most, in relation to the mean."""
        counts = self.requests_of_cores
        return max(counts.values()) * len(counts) / counts.total() if counts else math.nan

    def _gap_percentile(self, percent: float) -> float:
        rank = percent / 100 * self.gaps.total()
        count = 0
        for log_bin in sorted(self.gaps):
            count += self.gaps[log_bin]
            if count >= rank:
                return math.exp((log_bin + 0.5) / _BINS_PER_E)
        return math.nan


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed; not a number where there is none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]
