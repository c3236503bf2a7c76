"""Counters and histograms of the engine: requests, tokens, times, steps, prefix cache, adapters.

The step loop tells it of each step and of each request that begins or ends, never of a token alone; the I/O thread
reads it at any moment (`values`). Numbers are only added to, so a reader sees at worst a step half counted.
Invariant: nothing here waits, and nothing grows with the number of requests.
Next: `ipc/metric_families.py` for what each name means.
"""

from collections import Counter
from collections.abc import Collection, Iterable

from engine_core.request import Request
from engine_core.scheduler.scheduler import Scheduler
from ipc.messages import CORE_RETIRED, Finished, FinishReason, Task
from ipc.metric_series import HistogramCounts, SeriesValues, series_key

_UNKNOWN_REASON = "client"
"""Why a request was aborted whose client did not say."""


class EngineMetrics:
    """All that is counted of one engine."""

    def __init__(self, scheduler: Scheduler, *, has_prefix_cache: bool = True, adapters: Collection[str] = ()) -> None:
        """`scheduler` counts preemptions and drafts itself; `adapters` are those that are served."""
        self.has_prefix_cache = has_prefix_cache
        self._scheduler = scheduler
        self._num_adapters = len(adapters)
        self._num_prompt_tokens = 0
        self._num_cached_tokens = 0
        self._num_generated_tokens = 0
        self._num_looked_up_tokens = 0
        self._num_found_tokens = 0
        self._num_failed_steps = 0
        self._num_finished = dict.fromkeys(FinishReason, 0)
        self._num_aborted: dict[str, int] = {}
        """By reason."""
        self._waiting_adapters: Counter[str] = Counter()
        self._running_adapters: Counter[str] = Counter()
        self._step_tokens = HistogramCounts("iteration_tokens")
        self._step_seconds = HistogramCounts("step_duration_seconds")
        self._token_gaps = HistogramCounts("inter_token_latency_seconds")
        self._first_token = HistogramCounts("time_to_first_token_seconds")
        self._time_per_token = HistogramCounts("request_time_per_output_token_seconds")
        self._total = HistogramCounts("e2e_request_latency_seconds")
        self._queue = HistogramCounts("request_queue_time_seconds")
        self._prefill = HistogramCounts("request_prefill_time_seconds")
        self._decode = HistogramCounts("request_decode_time_seconds")
        self._inference = HistogramCounts("request_inference_time_seconds")
        self._prompt_tokens = HistogramCounts("request_prompt_tokens")
        self._generation_tokens = HistogramCounts("request_generation_tokens")
        self._max_generation_tokens = HistogramCounts("request_max_num_generation_tokens")
        self._max_tokens = HistogramCounts("request_params_max_tokens")
        self._computed_prompt_tokens = HistogramCounts("request_prefill_kv_computed_tokens")
        self._preemptions = HistogramCounts("request_num_preemptions")
        self._histograms = [item for item in vars(self).values() if isinstance(item, HistogramCounts)]

    # --- told by the step loop ---

    def on_added(self, request: Request) -> None:
        """A request came."""
        if request.adapter:
            self._waiting_adapters[request.adapter] += 1

    def on_scheduled(self, request: Request) -> None:
        """A request is in a step for the first time."""
        if request.adapter:
            self._waiting_adapters[request.adapter] -= 1
            self._running_adapters[request.adapter] += 1
        if self.has_prefix_cache and request.reads_prefix_cache:
            self._num_looked_up_tokens += request.num_prompt_tokens
            self._num_found_tokens += request.num_cached_tokens

    def on_first_token(self, request: Request, now: float) -> None:
        """A request gets its first token; one that came with tokens was counted by another core."""
        if request.num_resumed_tokens:
            return
        self._count_prompt(request)
        self._first_token.observe(now - request.times.arrived_at)

    def on_embedding(self, request: Request) -> None:
        """A request has its embedding."""
        self._count_prompt(request)

    def on_step(
        self, num_tokens: int, seconds: float, num_generated: int, token_times: Iterable[float | None], now: float
    ) -> None:
        """A step ended `now`.

        Args:
            num_tokens: tokens that it computed.
            seconds: how long the model took.
            num_generated: tokens that requests got.
            token_times: of each request that got any, when it had got one before, if it had.
            now: end of the step on the monotonic clock.
        """
        self._step_tokens.observe(num_tokens)
        self._step_seconds.observe(seconds)
        self._num_generated_tokens += num_generated
        for token_time, times in Counter(token_times).items():  # nearly all of them are the end of the step before
            if token_time is not None:
                self._token_gaps.observe(now - token_time, times)

    def on_failed_step(self) -> None:
        """A step failed."""
        self._num_failed_steps += 1

    def on_finished(self, request: Request, finished: Finished, now: float, abort_reason: str = "") -> None:
        """A request ended; one that goes on with another core did not."""
        if request.adapter:
            adapters = self._waiting_adapters if request.num_queued_tokens else self._running_adapters
            adapters[request.adapter] -= 1
        if finished.error_code == CORE_RETIRED:
            return
        self._num_finished[finished.reason] += 1
        if finished.reason in (FinishReason.ABORT, FinishReason.ERROR):
            reason = finished.error_code or abort_reason or _UNKNOWN_REASON
            self._num_aborted[reason] = self._num_aborted.get(reason, 0) + 1
        self._observe_sizes(request)
        self._observe_times(request, now)

    def on_withdrawn(self, request: Request) -> None:
        """A request of which nothing has run is for another core."""
        if request.adapter:
            self._waiting_adapters[request.adapter] -= 1

    def _count_prompt(self, request: Request) -> None:
        self._num_prompt_tokens += request.num_prompt_tokens
        self._num_cached_tokens += request.num_cached_tokens

    def _observe_sizes(self, request: Request) -> None:
        self._prompt_tokens.observe(request.num_prompt_tokens)
        self._computed_prompt_tokens.observe(request.num_prompt_tokens - request.num_cached_tokens)
        self._preemptions.observe(request.num_preemptions)
        if request.task is Task.GENERATE:
            self._generation_tokens.observe(request.num_output_tokens)
            self._max_generation_tokens.observe(request.num_output_tokens)
            self._max_tokens.observe(request.sampling_params.max_tokens)

    def _observe_times(self, request: Request, now: float) -> None:
        durations = request.times.durations(now)
        self._total.observe(durations.total_s)
        self._queue.observe(durations.queue_s)
        if durations.prefill_s is None or durations.decode_s is None or durations.inference_s is None:
            return
        self._prefill.observe(durations.prefill_s)
        self._decode.observe(durations.decode_s)
        self._inference.observe(durations.inference_s)
        num_later_tokens = request.num_output_tokens - request.num_resumed_tokens - 1
        if num_later_tokens > 0:
            self._time_per_token.observe(durations.decode_s / num_later_tokens)

    # --- read by the I/O thread ---

    def values(self, now: float) -> SeriesValues:
        """All series; `now` is the wall clock in seconds."""
        scheduler = self._scheduler
        values: SeriesValues = {
            "prompt_tokens_total": self._num_prompt_tokens,
            "prompt_tokens_cached_total": self._num_cached_tokens,
            "generation_tokens_total": self._num_generated_tokens,
            "prefix_cache_queries_total": self._num_looked_up_tokens,
            "prefix_cache_hits_total": self._num_found_tokens,
            "failed_steps_total": self._num_failed_steps,
            "num_preemptions_total": scheduler.num_preemptions,
            "spec_decode_num_drafts_total": scheduler.num_drafts,
            "spec_decode_num_draft_tokens_total": scheduler.num_draft_tokens,
            "spec_decode_num_accepted_tokens_total": scheduler.num_accepted_tokens,
        }
        for finish_reason, count in self._num_finished.items():
            values[series_key("request_success_total", finish_reason.name.lower())] = count
        for reason, count in self._num_aborted.copy().items():
            values[series_key("aborts_total", reason)] = count
        for histogram in self._histograms:
            histogram.write_to(values)
        if self._num_adapters:
            waiting, running = _names(self._waiting_adapters), _names(self._running_adapters)
            values[series_key("lora_requests_info", str(self._num_adapters), waiting, running)] = now
        return values


def _names(adapters: Counter[str]) -> str:
    """Of those with requests, as vLLM writes them."""
    return ",".join(sorted(name for name, count in adapters.copy().items() if count > 0))
