"""The settings of every process, one section per reader, all names unique so that they flatten into flags.

The launcher resolves them once (`fast_inference/settings.py`: flags > environment > YAML > defaults) and writes them
to `config.json` in the run dir; children read their sections from there with `load_sections`. A section is handed to
the class that uses it; nothing else reads the environment. Field descriptions are the help texts of the flags.
Rules between fields raise `ConfigError` with the names of the flags.
"""

import ipaddress
import json
import re
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from ipc.api_keys import digests_of
from ipc.config_section import Section
from ipc.errors import ConfigError
from ipc.metric_families import DEFAULT_PREFIX

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_MODEL_ALIAS = "fast-inference-model"
FAKE_MODEL = "fake"
"""The value of `--model` that means no model at all."""
SECRET_SETTINGS = frozenset({"api_key", "admin_api_key"})
"""Settings whose values are never repeated, not even in an error about them."""
MAX_PORT = 65535
MAX_CORES = 64
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+")
_ADAPTER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]{0,99}")
_METRICS_PREFIX = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]{0,63})?")
_HTTP_URL = re.compile(r"https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:[1-9]\d{0,4})?(/[^\s?#]*)?")
_CORES = re.compile(r"([1-9]\d?)(?::([1-9]\d?))?")


def _core_count(value: object) -> int | str:
    """A number, or a range that is written as `MIN:MAX`."""
    match = _CORES.fullmatch(str(value).strip())
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most <= MAX_CORES:
        raise ValueError(f"must be a number from 1 to {MAX_CORES}, or such a range like 1:3")
    return f"{least}:{most}" if match and match[2] else least


CoreCount = Annotated[int | str, BeforeValidator(_core_count)]
"""How many engine cores: 2, or between 1 and 3: "1:3"."""
Digests = Annotated[tuple[str, ...], AfterValidator(digests_of)]
"""Keys, of which only the digests are kept."""


class ModelConfig(Section):
    """Which model runs, on what, and in which precision."""

    model: str = Field(
        DEFAULT_MODEL, description="folder, hub id, GGUF or .pt file, a name that `pull` knows, or 'fake'"
    )
    tokenizer: str | None = Field(None, description="folder or hub id of the tokenizer, where not the model's own")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="'auto': bfloat16 where the device computes fast with it, else float32; float32 for sentence "
        "encoders",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="'auto': cuda where there is one")
    max_model_len: int | None = Field(
        None, ge=16, description="most tokens of one request; the model's own limit where not set"
    )
    model_impl: Literal["auto", "native", "transformers"] = Field(
        "auto", description="'native': our own code for the architecture; 'auto': that where it fits, else transformers"
    )
    quantization: Literal["none", "int8", "int8-dynamic", "int4"] = Field(
        "none",
        description="on CPU: 'int8' halves what a step reads and changes next to nothing; 'int8-dynamic' computes in "
        "int8, which is faster for many requests and less exact; 'int4' reads a quarter, and keeps the weights of a "
        "GGUF file in Q4_1 or Q4_0 as they are",
    )
    rope: Literal["heads", "tokens", "interleaved"] | None = Field(
        None,
        description="how a MinimalLLM checkpoint (.pt) tells positions, where its tensors do not say it: 'heads', the "
        "default for those with one qkv matrix, turns by the number of the head, 'tokens' by the position, "
        "'interleaved', the default for others, by the position in pairs (2i, 2i + 1)",
    )
    cpu_kernels: bool = Field(True, description="use compiled kernels on CPU; plain torch where there is no compiler")
    enforce_eager: bool = Field(False, description="on CUDA: launch each kernel by itself, without CUDA graphs")
    pooling: Literal["auto", "mean", "last", "cls"] = Field(
        "auto",
        description="what an embedding is made of: the mean of all positions, the last one, or the first one ('cls', "
        "which sees no other in a causal model); 'auto': what the model's own files say, else the mean",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="intra-op threads of the core; all allowed CPUs, within the cgroup's quota, where not set",
    )
    lora: tuple[str, ...] = Field(
        (), description="NAME=PATH: a LoRA adapter in PEFT's format, served under its name beside the model"
    )

    @property
    def adapters(self) -> dict[str, Path]:
        """Folder of each LoRA adapter, by name."""
        pairs = (item.partition("=") for item in self.lora)
        return {name: Path(path).expanduser() for name, _, path in pairs}

    @model_validator(mode="after")
    def _has_named_adapters(self) -> Self:
        """Raises ConfigError, which pydantic passes on as it is."""
        for item in self.lora:
            name, _, path = item.partition("=")
            if not (_ADAPTER_NAME.fullmatch(name) and path) or "\0" in path:
                raise ConfigError(f"--lora: {item[:80]!r} is not like NAME=PATH, such as sql=adapters/sql")
        if len(self.adapters) != len(self.lora):
            raise ConfigError("--lora: two adapters have the same name")
        return self


class CacheConfig(Section):
    """The paged KV cache."""

    block_size: int = Field(32, ge=16, multiple_of=16, description="tokens in a KV cache block")
    num_blocks: int | None = Field(None, ge=2, description="KV cache blocks; planned from free memory where not set")
    kv_cache_memory_bytes: int | None = Field(None, ge=1, description="memory for the KV cache, instead of a plan")
    enable_prefix_caching: bool = Field(True, description="reuse the blocks of equal prompt prefixes")

    @model_validator(mode="after")
    def _has_one_size(self) -> Self:
        """Raises ConfigError, which pydantic passes on as it is."""
        if self.num_blocks is not None and self.kv_cache_memory_bytes is not None:
            raise ConfigError("--num-blocks and --kv-cache-memory-bytes both give the size of the KV cache: use one")
        return self


class SchedulerConfig(Section):
    """How requests share the core, and what a step computes for them."""

    max_num_seqs: int = Field(64, ge=1, le=4096, description="most requests in one step")
    max_num_batched_tokens: int = Field(2048, ge=16, description="most tokens computed in one step")
    max_prefill_chunk: int = Field(
        512, ge=16, description="most prompt tokens of one request in one step while others run or wait"
    )
    scheduling_policy: Literal["fcfs", "priority", "memory_aware"] = Field(
        "priority",
        description="order of a flow's requests: arrival; priority, then arrival; or smallest need of KV cache",
    )
    priority_ageing: float = Field(
        10.0, gt=0, description="seconds of waiting that make up for one level of priority, so that nobody starves"
    )
    batch_share: float = Field(
        0.12, gt=0, lt=1, description="share of the core that batch requests keep while online requests want all of it"
    )
    step_time_target: float | None = Field(
        None,
        gt=0,
        description="seconds that a step which also decodes may take, for which prefill chunks shrink; where not set, "
        "2.2 times what its decodes take alone, and more where many requests wait",
    )
    queue_timeout: float = Field(0.0, ge=0, description="seconds after which a waiting request fails; 0 never")
    request_timeout: float = Field(0.0, ge=0, description="seconds after which any request fails; 0 never")
    max_queued_requests: int = Field(1024, ge=1, description="requests that may wait; more are refused with 429")
    max_queued_tokens: int = Field(1_000_000, ge=1, description="prompt tokens that may wait; more are refused")
    speculative: Literal["off", "ngram"] = Field(
        "off",
        description="'ngram': compute what followed the latest tokens at their last occurrence together with the next "
        "token, and keep what is right; answers stay the same",
    )
    speculative_tokens: int = Field(5, ge=1, le=64, description="most such draft tokens of a request in one step")
    speculative_max_batch: int = Field(4, ge=1, le=4096, description="no drafts while more requests run")

    @model_validator(mode="after")
    def _has_a_token_for_each_sequence(self) -> Self:
        """Raises ConfigError, which pydantic passes on as it is."""
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"--max-num-batched-tokens ({self.max_num_batched_tokens}) must be at least "
                f"--max-num-seqs ({self.max_num_seqs}), so that each sequence gets its token in a step"
            )
        return self


class FakeModelConfig(Section):
    """The fake model runner of `--model fake`: no weights, adjustable speed and faults."""

    fake_step_ms: float = Field(0.0, ge=0, description="time of one step")
    fake_token_us: float = Field(0.0, ge=0, description="additional time per computed token")
    fake_faults: str = Field(
        "",
        description="comma-separated: die@STEP, hang@STEP, raise@STEP, broken@STEP, oom@STEP; of every N-th request "
        "nan@N, bad@N (its steps fail); poison@N (who says 'poison' in a prompt kills the core at the N-th token)",
    )


class AccessConfig(Section):
    """Who may use the API, and from which web pages. A part of `FrontendConfig`."""

    api_key: Digests = Field((), description="key that requests must carry, or its sha256:HEX")
    api_key_file: Path | None = Field(None, description="file with more such keys, one per line, '#' for comments")
    admin_api_key: Digests = Field((), description="key that also opens the control routes, or its sha256:HEX")
    isolate_cache_by_key: bool = Field(False, description="let no API key find cached prefixes of another")
    allowed_origins: tuple[str, ...] = Field((), description="origin of web pages that may call (CORS), or '*'")
    allow_credentials: bool = Field(False, description="let these pages send cookies; not together with '*'")
    allowed_methods: tuple[str, ...] = Field(("*",), description="method that these pages may use")
    allowed_headers: tuple[str, ...] = Field(("*",), description="header that these pages may send")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="name in the Host header that is answered beside local names and addresses, or '*'; where not set, "
        "any, except on loopback without a key",
    )

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        """Raises ConfigError, which pydantic passes on as it is."""
        if self.allow_credentials and "*" in self.allowed_origins:
            raise ConfigError("--allow-credentials and --allowed-origins '*' would open this server to every web page")
        if self.allow_credentials and not self.allowed_origins:
            raise ConfigError("--allow-credentials needs --allowed-origins")
        for origin in self.allowed_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"--allowed-origins: {origin!r} is no origin, such as https://example.com:8443")
        for host in self.allowed_hosts:
            if host != "*" and not _HOST_NAME.fullmatch(host):
                raise ConfigError(f"--allowed-hosts: {host!r} is no name, such as api.example.com (without a port)")
        if self.isolate_cache_by_key and not (self.api_key or self.api_key_file):
            raise ConfigError("--isolate-cache-by-key needs --api-key")
        return self


class BatchApiConfig(Section):
    """Files and batches of the API. A part of `FrontendConfig`."""

    batch_api: bool = Field(True, description="serve /v1/files and /v1/batches")
    state_dir: Path | None = Field(
        None,
        description="private folder of files and batches, which outlives the server; where not set, "
        "$XDG_STATE_HOME/fast-inference/PORT, or the same in ~/.local/state; with port 0 a part of the run dir",
    )
    max_file_bytes: int = Field(512 * 2**20, ge=1024, description="largest file of /v1/files; more is refused with 413")


class FrontendConfig(AccessConfig, BatchApiConfig):
    """The HTTP side."""

    served_model_name: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="names of the model in the API; its id and 'fast-inference-model' where not set"
    )
    max_body_bytes: int = Field(4 * 2**20, ge=1024, description="largest request body; more is refused with 413")
    request_id_headers: bool = Field(True, description="echo X-Request-Id, or make one")
    chat_template: str | None = Field(None, description="file with a chat template, instead of the tokenizer's own")
    root_path: str = Field("", description="path prefix that a proxy strips")
    strict_params: bool = Field(False, description="refuse unknown fields of a body instead of only naming them")
    sse_ping_interval: float = Field(
        15.0, ge=0, description="seconds of silence after which a stream sends a comment; 0 never"
    )
    on_core_loss: Literal["resume", "fail"] = Field(
        "resume",
        description="what happens to answers that have begun when the engine core dies: 'resume' goes on with the next "
        "core where they stopped, 'fail' ends them in an error; those that have not begun wait for it either way",
    )
    docs: bool = Field(True, description="serve /docs, /redoc and /openapi.json")
    webui: bool = Field(True, description="serve the chat page at / and the charts at /dashboard")
    enable_timings: bool = Field(
        False, description="add `timings` to every answer; else to those whose request says `timings: true`"
    )
    metrics_prefix: str = Field(
        DEFAULT_PREFIX,
        description="what the names of /metrics begin with; 'vllm:' for dashboards and tools that are made for vLLM",
    )

    @model_validator(mode="after")
    def _has_a_prefix_of_names(self) -> Self:
        """Raises ConfigError, which pydantic passes on as it is."""
        if not _METRICS_PREFIX.fullmatch(self.metrics_prefix):
            raise ConfigError(
                f"--metrics-prefix: {self.metrics_prefix[:80]!r} must be letters, digits, '_' and ':', no digit first"
            )
        return self


class ConnectionConfig(Section):
    """How long a connection may keep a frontend waiting, and how many it holds."""

    header_timeout: float = Field(10.0, ge=0, description="seconds for the head of a request; 0 for ever")
    body_timeout: float = Field(
        30.0,
        ge=0,
        description="seconds from there for its body; again while it comes at 16 KiB/s; 0 for ever",
    )
    keep_alive_timeout: float = Field(
        75.0, ge=0, description="seconds that a connection stays open without a request; 0 for ever"
    )
    send_timeout: float = Field(
        30.0, ge=0, description="seconds after which a client that takes no byte of its answer is cut off; 0 never"
    )
    max_connections: int | None = Field(
        None,
        ge=1,
        description="most connections of each frontend; more get a 503; where not set, what the limit of open files "
        "leaves, and not more than 16384",
    )


class TracingConfig(Section):
    """Traces of requests, for an OpenTelemetry collector."""

    otlp_traces_endpoint: str | None = Field(
        None,
        description="URL where a collector takes traces by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; "
        "where not set, nothing is traced; needs fast-inference[otel]",
    )

    @property
    def traces_url(self) -> str | None:
        """The URL with its path, which is /v1/traces where none is given; None: nothing is traced."""
        if self.otlp_traces_endpoint is None:
            return None
        url = urlsplit(self.otlp_traces_endpoint)
        return self.otlp_traces_endpoint if url.path.strip("/") else url._replace(path="/v1/traces").geturl()

    @model_validator(mode="after")
    def _has_a_url(self) -> Self:
        """Raises ConfigError, which pydantic passes on as it is; what may be a secret has no place in a URL."""
        if self.otlp_traces_endpoint is not None and not _HTTP_URL.fullmatch(self.otlp_traces_endpoint):
            raise ConfigError(
                "--otlp-traces-endpoint must be like http://HOST:4318/v1/traces (keys go into "
                "OTEL_EXPORTER_OTLP_HEADERS)"
            )
        return self


class LogConfig(Section):
    """Logging of every process."""

    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field("info", description="lowest level")
    log_format: Literal["text", "json"] = Field("text", description="'json': one object per line")


class LauncherConfig(Section):
    """What the launcher starts, and where."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=MAX_PORT, description="port to listen on; 0 takes a free one")
    cores: CoreCount = Field(
        1,
        description="engine cores, each with a GPU of its own, or an equal part of the CPUs and of the memory; MIN:MAX "
        "with --executor ray: as many as the tokens that wait ask for",
    )
    frontends: int = Field(
        2, ge=0, le=64, description="frontend processes; 0 for cores that serve other hosts alone (--core-endpoint)"
    )
    frontend_ports: bool = Field(
        False,
        description="give each frontend a port of its own, for a load balancer: --port, the one after it, and so on",
    )
    run_dir: Path | None = Field(None, description="private folder of sockets and status.json, made if missing")
    drain_timeout: float = Field(30.0, ge=0, description="seconds that running requests get after SIGTERM")
    hang_timeout: float = Field(
        30.0,
        ge=1,
        description="seconds of silence after which the core is killed and started anew; a step that hangs is given as "
        "many, and more the more it computes",
    )

    @model_validator(mode="after")
    def _has_a_port_for_each(self) -> Self:
        """Raises ConfigError, which pydantic passes on as it is."""
        if self.frontend_ports and self.port + self.frontends - 1 > MAX_PORT:
            raise ConfigError(f"--frontend-ports: {self.frontends} ports from {self.port} on end above {MAX_PORT}")
        return self

    @property
    def core_range(self) -> tuple[int, int]:
        """Fewest and most cores; the same number twice where it is fixed."""
        return core_range(self.cores)

    @property
    def num_cores(self) -> int:
        """How many cores there are where the number is fixed, else how many there may be."""
        return self.core_range[1]

    @property
    def is_local(self) -> bool:
        """True if only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


def core_range(cores: int | str) -> tuple[int, int]:
    """Fewest and most cores of a `CoreCount`."""
    least, _, most = str(cores).partition(":")
    return int(least), int(most or least)


SectionT = TypeVar("SectionT", bound=BaseModel)


def load_section(config_file: Path, section: type[SectionT]) -> SectionT:
    """Read one section from the `config.json` that the launcher wrote.

    Raises:
        ConfigError: the file is missing or not what the launcher writes.
    """
    try:
        return section.model_validate(json.loads(config_file.read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {config_file}: {error}") from error
