"""Every metric of the server: its name, labels and buckets, who counts it, and what it means.

The core, the frontends and the batch runner count under these names; the frontend that is asked for `/metrics` writes
them out, so this table is all that they have to agree on. Stems are vLLM's where vLLM has the metric, buckets those of
OpenTelemetry's conventions. `docs/metrics.md` is made of this table.
Invariant: label values come from small fixed sets, so that the number of series is bounded.
Next: `metric_series.py` for how a value travels.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

DEFAULT_PREFIX = "fast_inference_"
VLLM_PREFIX = "vllm:"


class MetricKind(StrEnum):
    """Prometheus' types."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class MetricOrigin(StrEnum):
    """Who knows the value."""

    CORE = "core"
    """Counted in each engine core; starts anew with it."""
    CLIENT = "client"
    """Counted in each frontend and batch runner, added up in the core that each reports to; starts anew with it."""
    FRONTEND = "frontend"
    """Known to the frontend that answers, whatever the core does."""


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """One metric with all its series."""

    name: str
    """Without the prefix; a counter ends in `_total`."""
    kind: MetricKind
    origin: MetricOrigin
    documentation: str
    labels: tuple[str, ...] = ()
    """Beside `model_name`, which all with a prefix have, and the one of `is_per_core`."""
    buckets: tuple[float, ...] = ()
    """Upper bounds, without infinity."""
    is_per_core: bool = False
    """True where each core has series of its own, with its name as a label; else those of all cores are added up."""
    has_prefix: bool = True
    vllm_name: str = ""
    """What vLLM calls it, where that is not its name here."""

    def full_name(self, prefix: str) -> str:
        """As it is written out."""
        if not self.has_prefix:
            return self.name
        return prefix + (self.vllm_name if prefix == VLLM_PREFIX and self.vllm_name else self.name)


REQUEST_BUCKETS = tuple(round(0.01 * 2**power, 2) for power in range(14))
"""Seconds: 0.01, doubled up to 81.92."""
TOKEN_TIME_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
FIRST_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
STEP_BUCKETS = (0.001, 0.0025, 0.005, *TOKEN_TIME_BUCKETS)
COUNT_BUCKETS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))
"""Tokens of a request: 1, 2, 5, 10 … 500,000."""
STEP_TOKENS_BUCKETS = (1.0, *(float(2**power) for power in range(3, 15)))
PREEMPTION_BUCKETS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)

_COUNTER, _GAUGE, _HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM


def core_label(prefix: str) -> str:
    """The label with the name of a core, which vLLM calls an engine."""
    return "engine" if prefix == VLLM_PREFIX else "core"


def _core(kind: MetricKind, name: str, documentation: str, *labels: str) -> MetricFamily:
    return MetricFamily(name, kind, MetricOrigin.CORE, documentation, labels, is_per_core=True)


def _core_histogram(name: str, buckets: tuple[float, ...], documentation: str, vllm_name: str = "") -> MetricFamily:
    return MetricFamily(
        name,
        MetricKind.HISTOGRAM,
        MetricOrigin.CORE,
        documentation,
        buckets=buckets,
        is_per_core=True,
        vllm_name=vllm_name,
    )


def _client(kind: MetricKind, name: str, documentation: str, *labels: str) -> MetricFamily:
    """A counter is that of the core that keeps it: a sum would fall when one of several begins anew, and whoever takes
    rates of it would count all of the others' a second time.
    """
    return MetricFamily(name, kind, MetricOrigin.CLIENT, documentation, labels, is_per_core=kind is not _GAUGE)


def _bare(
    kind: MetricKind, name: str, documentation: str, *labels: str, buckets: tuple[float, ...] = ()
) -> MetricFamily:
    """One whose name is the same in every server, so that common dashboards find it."""
    return replace(_client(kind, name, documentation, *labels), buckets=buckets, has_prefix=False)


def _frontend(kind: MetricKind, name: str, documentation: str, *labels: str, is_per_core: bool = False) -> MetricFamily:
    return MetricFamily(name, kind, MetricOrigin.FRONTEND, documentation, labels, is_per_core=is_per_core)


_REQUESTS = (
    _core(_GAUGE, "num_requests_running", "Requests that have begun to run and have not ended."),
    _core(_GAUGE, "num_requests_waiting", "Accepted requests that have not begun to run."),
    _core(_GAUGE, "num_queued_tokens", "Prompt tokens of the waiting requests."),
    _core(
        _COUNTER,
        "request_success_total",
        "Requests that have ended, by how: stop, length, abort, error.",
        "finished_reason",
    ),
    _core(
        _COUNTER,
        "aborts_total",
        "Requests that ended in abort or error, by why: disconnect (the client left), client_lost (a frontend died), "
        "cancelled, timeout, out_of_memory, nan_logits and the other codes of docs/reliability.md.",
        "reason",
    ),
    _core(_COUNTER, "num_preemptions_total", "Times that a running request lost its place and was computed again."),
    _core(
        _GAUGE,
        "lora_requests_info",
        "Adapters with waiting and running requests; the value is the time of the look.",
        "max_lora",
        "waiting_lora_adapters",
        "running_lora_adapters",
    ),
)
_TOKENS = (
    _core(_COUNTER, "prompt_tokens_total", "Prompt tokens of requests that have their first token or embedding."),
    _core(_COUNTER, "prompt_tokens_cached_total", "Prompt tokens of these requests that came from the prefix cache."),
    _core(_COUNTER, "generation_tokens_total", "Tokens that were generated."),
    _core_histogram("request_prompt_tokens", COUNT_BUCKETS, "Prompt tokens of each ended request."),
    _core_histogram("request_generation_tokens", COUNT_BUCKETS, "Generated tokens of each ended request."),
    _core_histogram(
        "request_max_num_generation_tokens",
        COUNT_BUCKETS,
        "Generated tokens of each ended request; each answer of a request with n > 1 is a request of its own here.",
    ),
    _core_histogram("request_params_max_tokens", COUNT_BUCKETS, "The limit of generated tokens of each ended request."),
    _core_histogram(
        "request_prefill_kv_computed_tokens",
        COUNT_BUCKETS,
        "Prompt tokens of each ended request that did not come from the prefix cache.",
    ),
    _core_histogram("request_num_preemptions", PREEMPTION_BUCKETS, "Preemptions of each ended request."),
)
_TIMES = (
    _core_histogram(
        "time_to_first_token_seconds",
        FIRST_TOKEN_BUCKETS,
        "From the arrival of a request in the core to its first token.",
    ),
    _core_histogram(
        "inter_token_latency_seconds",
        TOKEN_TIME_BUCKETS,
        "Between two steps that gave a request tokens, for each request and step.",
    ),
    _core_histogram(
        "request_time_per_output_token_seconds",
        TOKEN_TIME_BUCKETS,
        "Mean time of the tokens of each ended request after its first one.",
    ),
    _core_histogram(
        "e2e_request_latency_seconds", REQUEST_BUCKETS, "From the arrival of each ended request in the core to its end."
    ),
    _core_histogram(
        "request_queue_time_seconds",
        REQUEST_BUCKETS,
        "From the arrival of each ended request in the core until it was first scheduled.",
    ),
    _core_histogram(
        "request_prefill_time_seconds",
        REQUEST_BUCKETS,
        "From when each ended request was first scheduled to its first token.",
    ),
    _core_histogram(
        "request_decode_time_seconds", REQUEST_BUCKETS, "From the first token of each ended request to its last one."
    ),
    _core_histogram(
        "request_inference_time_seconds",
        REQUEST_BUCKETS,
        "From when each ended request was first scheduled to its last token.",
    ),
)
_STEPS = (
    _core_histogram(
        "iteration_tokens", STEP_TOKENS_BUCKETS, "Tokens computed in each engine step.", "iteration_tokens_total"
    ),
    _core_histogram("step_duration_seconds", STEP_BUCKETS, "How long each engine step took in the model."),
    _core(_COUNTER, "failed_steps_total", "Engine steps that failed, so that their requests were tried apart."),
    _core(_GAUGE, "core_step_age_seconds", "How long the running step takes already; 0 while the core is idle."),
)
_CACHE = (
    _core(_GAUGE, "kv_cache_usage_perc", "Part of the KV cache that requests use; 1 is all of it."),
    _core(_GAUGE, "kv_blocks", "Blocks of the KV cache."),
    _core(_GAUGE, "kv_blocks_free", "Blocks of the KV cache that no request uses."),
    _core(_COUNTER, "prefix_cache_queries_total", "Prompt tokens that were looked up in the prefix cache."),
    _core(_COUNTER, "prefix_cache_hits_total", "Prompt tokens that were found in the prefix cache."),
    _core(
        _GAUGE,
        "cache_config_info",
        "The KV cache as it is configured; the value is 1.",
        "block_size",
        "num_gpu_blocks",
        "enable_prefix_caching",
    ),
)
_SPECULATION = (
    _core(_COUNTER, "spec_decode_num_drafts_total", "Drafts that were computed."),
    _core(_COUNTER, "spec_decode_num_draft_tokens_total", "Draft tokens that were computed."),
    _core(_COUNTER, "spec_decode_num_accepted_tokens_total", "Draft tokens that were right."),
)
_REFUSALS = (
    _client(
        _COUNTER,
        "rejects_total",
        "HTTP requests that were answered with an error, or whose stream ended in one, by its code (docs/api.md).",
        "reason",
    ),
    _client(_COUNTER, "batch_lines_total", "Lines of batches that were answered: ok or failed.", "outcome"),
    _core(_COUNTER, "ipc_bad_messages_total", "Messages to the core that were dropped, and connections that broke."),
    _core(
        _COUNTER,
        "ipc_refused_connections_total",
        "Connections to the core that were cut: above the limit, or without an allowed key.",
        "reason",
    ),
)
_HTTP = (
    _bare(
        _COUNTER,
        "http_requests_total",
        "HTTP requests by route (none: there is no such one, or not with this method) and status; 499: the client left "
        "before the answer.",
        "handler",
        "method",
        "status",
    ),
    _bare(
        _HISTOGRAM,
        "http_request_duration_seconds",
        "From the head of an HTTP request to the end of its answer, streams to their last byte.",
        "handler",
        "method",
        buckets=REQUEST_BUCKETS,
    ),
    _bare(_GAUGE, "http_requests_in_progress", "HTTP requests that are being answered, the scrape among them."),
    _bare(_GAUGE, "http_open_streams", "Answers that are being streamed."),
    _bare(_GAUGE, "http_connections", "Connections of clients."),
    _bare(_COUNTER, "http_connections_refused_total", "Connections above --max-connections, which got a 503."),
)
_PROCESSES = (
    _bare(
        _COUNTER, "process_cpu_seconds_total", "CPU time by kind of process: core, frontend, batch, program.", "role"
    ),
    _bare(
        _GAUGE, "process_resident_memory_bytes", "Memory by kind of process: core, frontend, batch, program.", "role"
    ),
    _frontend(_GAUGE, "core_up", "1 while this engine core answers, else 0.", is_per_core=True),
    _frontend(_GAUGE, "ready", "1 while requests are served, as /health says."),
    _frontend(
        _COUNTER,
        "core_restarts_total",
        "How often this core died and was replaced, by how it died: signal, hang, exit.",
        "reason",
        is_per_core=True,
    ),
    _frontend(_GAUGE, "frontends", "Frontends that serve."),
    _frontend(_COUNTER, "frontend_restarts_total", "Frontends that died and were replaced."),
    _frontend(_GAUGE, "batch_jobs", "Batches of /v1/batches, by status.", "status"),
    _frontend(_GAUGE, "build_info", "Version of the server; the value is 1.", "version"),
)

FAMILIES: dict[str, MetricFamily] = {
    family.name: family
    for group in (_REQUESTS, _TOKENS, _TIMES, _STEPS, _CACHE, _SPECULATION, _REFUSALS, _HTTP, _PROCESSES)
    for family in group
}
"""By name, in the order in which they are written out."""
