"""All that is said between a client and the engine core, one frozen record per message.

Owns the vocabulary; `ipc.codec` owns how it is written down. A record is sent as a msgpack array in field
order, so fields are only ever appended, each with a default: an older reader ignores what it does not know, a newer
one fills in what is missing. Fields typed `Ids32`, `Ids64` or `Floats` travel as raw buffers behind it.

Law: every `Add` is answered by exactly one terminal output: a `Finished` inside a `Step`, or a `Reject`.

| direction | kinds |
|---|---|
| client → core | HELLO, ADD, ABORT, BEAT (`ClientBeat`), LIVE, CALL, METRICS, BYE |
| core → client | WELCOME, STEP, REJECT, BEAT (`CoreBeat`), RECONCILE, REPLY, DYING, BYE |

Request ids are made by the client: a counter that starts at 1 in each process and is never reused. With the
client's random socket identity they are unique; ids chosen by users are only looked at by the call CANCEL.
"""

from array import array
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, NewType

from ipc.sampling_params import SamplingParams

PROTOCOL_VERSION = 2

CANCELLED = "cancelled"
"""`Finished.error_code` of a request that its user ended (CANCEL); its reason is ABORT."""

CORE_RETIRED = "core_retired"
"""Code of a `Reject` or `Finished` of a core that another one has replaced: the request is for that one."""

STOP_STRING = "stop_string"
"""`Abort.reason` where the client has the whole answer: only clients look for stop strings."""

DISCONNECT = "disconnect"
"""`Abort.reason` where nobody reads the answer any more."""

RequestId = NewType("RequestId", int)
"""A client's own number for one of its requests: u64, from 1, never reused."""

if TYPE_CHECKING:
    _IntArray = array[int]
    _FloatArray = array[float]
else:  # array.array takes no type arguments before Python 3.12
    _IntArray = _FloatArray = array

Ids32 = Annotated[_IntArray, "i"]
"""Signed 32-bit integers (token ids), sent as a little-endian buffer."""
Ids64 = Annotated[_IntArray, "Q"]
"""Unsigned 64-bit integers (request ids), sent as a little-endian buffer."""
Floats = Annotated[_FloatArray, "f"]
"""32-bit floats (embeddings), sent as a little-endian buffer."""


class MessageKind(IntEnum):
    """The first byte of every message."""

    HELLO = 1
    WELCOME = 2
    ADD = 3
    ABORT = 4
    STEP = 5
    REJECT = 6
    BEAT = 7
    RECONCILE = 8
    LIVE = 9
    CALL = 10
    REPLY = 11
    DYING = 12
    BYE = 13
    METRICS = 14


class ClientRole(IntEnum):
    """What a client is; only an ADMIN may make calls that change something."""

    FRONTEND = 1
    BATCH = 2
    ADMIN = 3


class Task(IntEnum):
    """What a request wants."""

    GENERATE = 1
    EMBED = 2


class RequestClass(IntEnum):
    """Who waits for the answer; the scheduler shares the core between the two."""

    ONLINE = 1
    """A person: comes first."""
    BATCH = 2
    """A job: takes what is left, but never nothing. All requests of a BATCH client are of this class."""


class FinishReason(IntEnum):
    """How a request ended."""

    STOP = 1
    LENGTH = 2
    ABORT = 3
    ERROR = 4


class CoreState(IntEnum):
    """Life of a core; only READY accepts requests."""

    LOADING = 1
    READY = 2
    DRAINING = 3
    DYING = 4
    RETIRING = 5
    """Another core has taken its place: it finishes what runs, and everything else is for the other one."""


# --- client → core ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a client, repeated until it is welcomed."""

    client_name: str
    role: ClientRole
    pid: int
    """0 where the core must not watch the process (another host)."""
    pid_start_ticks: int
    """Field 22 of /proc/PID/stat: tells the process from a later one with the same pid."""
    pid_namespace: int
    """Inode of /proc/self/ns/pid: pids mean something only inside one namespace."""


@dataclass(frozen=True, slots=True)
class Add:
    """A request. The prompt is token ids; text is the client's business."""

    request_id: RequestId
    prompt_token_ids: Ids32
    """The prompt, then the last `num_resumed_tokens` ids as output that was already emitted."""
    sampling_params: SamplingParams
    task: Task = Task.GENERATE
    arrival_time_us: int = 0
    """When it came to the client, before it was tokenized: wall clock, microseconds since the epoch. What was cancelled
    since then (CANCEL) ends at once; else the core goes by its own clock."""
    priority: int = 0
    """Lower comes first, among the requests of a flow."""
    flow: str = ""
    """Fair-sharing unit (an API key, a user, a batch job): flows of a class get equal shares of the core."""
    cache_salt: str = ""
    """Requests share prefix-cache blocks only under equal salts."""
    num_resumed_tokens: int = 0
    """The answer goes on after them as if it had never stopped."""
    request_class: RequestClass = RequestClass.ONLINE
    queue_timeout_ms: int = 0
    """Fail the request if it has not begun to run after this time; 0 leaves it to the core's setting."""
    timeout_ms: int = 0
    """Fail the request if it has not ended after this time; 0 leaves it to the core's setting."""
    external_ids: tuple[str, ...] = ()
    """Names by which users know it; several requests may share one. Only CANCEL looks at them."""
    adapter: str = ""
    """Name of the LoRA adapter that computes it beside the model's own weights; empty for none."""
    traceparent: str = ""
    """W3C's header of the span that waits for it, to which the core's spans belong; empty where nobody traces it."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop these requests; unknown and finished ids are ignored."""

    request_ids: Ids64
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ClientBeat:
    """Sign of life of a client, once a second."""

    sequence: int
    num_live_requests: int


@dataclass(frozen=True, slots=True)
class Live:
    """Answer to RECONCILE: every request that the client still waits for."""

    nonce: int
    request_ids: Ids64


@dataclass(frozen=True, slots=True)
class ClientMetrics:
    """What a client has counted; about once a second. Keys are those of `ipc/metric_series.py`."""

    counters: dict[str, int | float]
    """What has come to each since the last such message, whatever core that was for."""
    gauges: dict[str, int | float] = field(default_factory=dict)
    """As of now; those of a client that leaves are gone."""


class CallMethod(IntEnum):
    """Control calls that the core answers; nothing else can be called."""

    PING = 1
    STATS = 2
    RESET_PREFIX_CACHE = 3
    """Forget all cached prefixes; answers `num_blocks`."""
    DRAIN = 4
    """Refuse new requests and finish the others, without ending the process."""
    RESUME = 5
    """Accept requests again after DRAIN."""
    ABORT = 6
    """End requests of all clients: those of the argument `flow`, or all; answers `num_aborted`."""
    CANCEL = 7
    """End the requests of all clients that have the external id `id` (and are of `flow`, if that is given), because
    their user wants no more of them; answers `num_cancelled`. Those that came to their client before but are not here
    yet end when they come, and are not counted. For frontends too."""
    RETIRE = 8
    """Another core has taken the place of this one: finish what runs, hand back the rest, and end the process."""
    METRICS = 9
    """Answers all series of `ipc/metric_series.py` that the core knows, at once, whatever the step loop does."""
    TOKENIZER = 10
    """Answers the sizes of the tokenizer's files by name; with the arguments `file` and `offset`, a piece of one as
    `data` (`ipc/tokenizer_files.py`). For clients on other hosts, at once too."""


@dataclass(frozen=True, slots=True)
class Call:
    """A control call; answered by a `Reply` with the same id."""

    call_id: int
    method: CallMethod
    arguments: dict[str, int | str] = field(default_factory=dict)


# --- both ways -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bye:
    """An orderly end: of a client, or of the core (its reason: drained, protocol_mismatch, evicted)."""

    reason: str = ""
    detail: str = ""


# --- core → client ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """Occupancy of the core, published with every step and beat."""

    num_running: int = 0
    """Requests that have begun to run; those that were preempted since are among them."""
    num_waiting: int = 0
    """Accepted requests that have not begun to run."""
    num_queued_tokens: int = 0
    """Prompt tokens of the waiting requests."""
    num_free_blocks: int = 0
    num_blocks: int = 0
    retry_after_ms: int = 0
    """While requests are refused because too many wait: when to try again; else 0."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The core is ready, and what a client must know to talk to it."""

    epoch: int
    """Number of this core's life; grows with each restart. Frames of another epoch are stale."""
    core_pid: int
    core_pid_start_ticks: int
    model_id: str
    model_fingerprint: str
    """Equal for equal weights, adapters, tokenizer and dtype; resumed streams never cross it."""
    tokenizer_dir: str
    """Folder with `tokenizer.json`, `tokenizer_config.json` and perhaps `chat_template.jinja`."""
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    max_model_len: int
    """Most tokens of one request, prompt and output together."""
    block_size: int
    num_blocks: int
    max_num_seqs: int
    embedding_size: int
    """Length of an embedding; 0 where the model gives none."""
    max_queued_requests: int
    max_queued_tokens: int
    beat_interval_ms: int
    lease_ms: int
    dtype: str
    device: str
    core_version: str
    pooling: str = "mean"
    """Which positions an embedding is made of: mean, last or cls."""
    request_timeout_ms: int = 0
    """Time that a request has where it does not say itself; 0 for any."""
    tokenizer_fingerprint: str = ""
    """Equal for equal files in `tokenizer_dir`."""
    can_generate: bool = True
    """False where the model gives embeddings only."""
    adapters: tuple[str, ...] = ()
    """Names of the LoRA adapters that requests may ask for."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The terminal output of one request."""

    request_id: RequestId
    reason: FinishReason
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int = 0
    """Prompt tokens whose keys and values came from the prefix cache."""
    stop_token_id: int = -1
    """The token that ended the answer, if `reason` is STOP; it is the last emitted token."""
    error_code: str = ""
    error_message: str = ""
    queue_time_us: int = 0
    """From arrival in the core to the first time scheduled."""
    first_token_us: int = 0
    """From arrival in the core to the first token."""
    total_time_us: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """Goes with the first token of a request: what is known since it was scheduled."""

    request_id: RequestId
    num_cached_tokens: int
    """Prompt tokens whose keys and values came from the prefix cache."""
    num_prompt_logprobs: int = 0
    """How many of the request's logprob rows in this STEP, the first ones, are for its prompt."""
    queue_time_us: int = 0
    """As in `Finished`, which a client that ends a request itself does not hear."""
    first_token_us: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What one engine step produced for one client: columns, one row for each new token."""

    sequence: int
    """Counts this client's STEPs from 1 without gaps; a gap means that tokens were lost."""
    step: int
    request_ids: Ids64
    token_ids: Ids32
    """Same length as `request_ids`; rows of one request are in output order."""
    finished: tuple[Finished, ...] = ()
    load: Load = Load()
    embedding_request_ids: Ids64 = field(default_factory=lambda: array("Q"))
    embeddings: Floats = field(default_factory=lambda: array("f"))
    """[len(embedding_request_ids), embedding_size], row after row; those requests are in `finished` too."""
    started: tuple[Started, ...] = ()
    """Requests whose first token is in this STEP."""
    logprob_request_ids: Ids64 = field(default_factory=lambda: array("Q"))
    """One row for each position with log-probabilities: those of a prompt first, then one for each token."""
    logprob_counts: Ids32 = field(default_factory=lambda: array("i"))
    """Entries of each row, at least 1: the token itself, then the best tokens in falling order."""
    logprob_ranks: Ids32 = field(default_factory=lambda: array("i"))
    """Rank of each row's token in the whole vocabulary, from 1."""
    logprob_token_ids: Ids32 = field(default_factory=lambda: array("i"))
    """All entries, row after row."""
    logprobs: Floats = field(default_factory=lambda: array("f"))
    """Natural logarithms, one for each of `logprob_token_ids`."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Terminal: the request was not accepted, so nothing of it ran, or (`request_lost`) the core does not know it."""

    request_id: RequestId
    code: str
    message: str
    param: str = ""
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class CoreBeat:
    """Sign of life of the core's I/O thread, whatever the step loop does."""

    sequence: int
    state: CoreState
    step: int
    step_age_ms: int
    """Time since the running step began; 0 while the core is idle."""
    load: Load = Load()
    detail: str = ""
    """While LOADING: the stage, for people."""
    step_allowance_ms: int = 0
    """A running step that takes longer than this is stuck; 0 where the core does not say."""


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Asks the client for a LIVE message."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer to a CALL: `error` is empty on success."""

    call_id: int
    result: dict[str, int | float | str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Dying:
    """The core cannot go on; it exits after this. Named requests were running."""

    reason: str
    suspects: Ids64 = field(default_factory=lambda: array("Q"))


ClientMessage = Hello | Add | Abort | ClientBeat | Live | Call | ClientMetrics | Bye
CoreMessage = Welcome | Step | Reject | CoreBeat | Reconcile | Reply | Dying | Bye

CLIENT_MESSAGES: dict[MessageKind, type[ClientMessage]] = {
    MessageKind.HELLO: Hello,
    MessageKind.ADD: Add,
    MessageKind.ABORT: Abort,
    MessageKind.BEAT: ClientBeat,
    MessageKind.LIVE: Live,
    MessageKind.CALL: Call,
    MessageKind.METRICS: ClientMetrics,
    MessageKind.BYE: Bye,
}
CORE_MESSAGES: dict[MessageKind, type[CoreMessage]] = {
    MessageKind.WELCOME: Welcome,
    MessageKind.STEP: Step,
    MessageKind.REJECT: Reject,
    MessageKind.BEAT: CoreBeat,
    MessageKind.RECONCILE: Reconcile,
    MessageKind.REPLY: Reply,
    MessageKind.DYING: Dying,
    MessageKind.BYE: Bye,
}
