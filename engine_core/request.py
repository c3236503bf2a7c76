"""A request inside the core: its tokens, how far they are computed, and its times.

Invariant: `num_computed_tokens <= num_tokens`; between steps an unfinished request has at least one token left to
compute, so prefill, chunked prefill, decode and recompute after preemption are one: computed catches up with known.
"""

import math
import time
from array import array
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NewType

from engine_core.kv_cache.block_hash import BlockHash
from engine_core.outputs import RequestKey
from engine_core.request_times import RequestTimes
from engine_core.speculation.drafter import Drafter
from engine_core.structured_output.grammar import CompiledGrammar
from ipc.messages import Finished, FinishReason, RequestClass, RequestId, Started, Task
from ipc.sampling_params import SamplingParams

ClientSlot = NewType("ClientSlot", int)
"""The core's own number of a client, never reused."""


class RequestStatus(IntEnum):
    """Where a request is in its life."""

    NEW = 0
    """Not queued yet: its grammar is being compiled."""
    WAITING = 1
    RUNNING = 2
    PREEMPTED = 3
    """Waiting again, its blocks taken away; comes before those that never ran."""
    FINISHED = 4


@dataclass(slots=True, eq=False)
class Request:
    """One generation (or one embedding) of one client."""

    key: RequestKey
    client_slot: ClientSlot
    request_id: RequestId
    task: Task
    sampling_params: SamplingParams
    token_ids: "array[int]"
    """Prompt and output so far."""
    num_prompt_tokens: int
    num_resumed_tokens: int = 0
    """Output that it came with: what another core gave before this one."""
    priority: int = 0
    request_class: RequestClass = RequestClass.ONLINE
    flow: str = ""
    queue_deadline: float = math.inf
    """On the monotonic clock: fails if it was not scheduled before."""
    deadline: float = math.inf
    """On the monotonic clock: fails if it has not ended before."""
    grammar: CompiledGrammar | None = None
    """Set once it is compiled, before the request is queued."""
    cache_salt: str = ""
    adapter: str = ""
    """Name of its LoRA adapter; empty for none."""
    adapter_fingerprint: bytes = b""
    external_ids: tuple[str, ...] = ()
    """Names by which users know it."""
    traceparent: str = ""
    """The span that waits for it; empty where nobody traces it."""
    came_at_us: int = 0
    """Wall clock, microseconds: when it came to its client; 0 where that is not known."""
    digest: bytes = b""
    """Of its content (`request_intake.content_digest`)."""
    block_hashes: list[BlockHash] = field(default_factory=list)
    """Hashes of the full blocks of `token_ids`, as far as computed."""
    awaited_hash: BlockHash | None = None
    """Of a block that another request computes, for which this one waits (`KVCacheManager.computing_request`)."""
    times: RequestTimes = field(default_factory=RequestTimes)
    status: RequestStatus = RequestStatus.NEW
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0
    """Prompt tokens found in the prefix cache when the request was first scheduled."""
    num_preemptions: int = 0
    num_times_skipped: int = 0
    """How often a later request was admitted past this one."""
    last_batch_turn: int = 0
    """When a batch request was last decoded while others had to stand back (`scheduler/batch_turns.py`)."""
    drafter: Drafter | None = None
    """Made with its first draft (`scheduler/drafts.py`)."""
    num_queued_tokens: int = 0
    """What `Admission` counts for it; 0 once it was scheduled."""

    @property
    def num_tokens(self) -> int:
        """Tokens known so far."""
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far, those of an earlier life included."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def reads_prefix_cache(self) -> bool:
        """False where every position must be computed: for an embedding, and for prompt logprobs not yet reported."""
        wants_prompt_logprobs = self.sampling_params.num_prompt_logprobs >= 0 and self.num_output_tokens == 0
        return self.task is Task.GENERATE and not wants_prompt_logprobs

    def append_output_token(self, token_id: int, now: float) -> None:
        """Record a token that was sampled `now`, on the monotonic clock."""
        self.token_ids.append(token_id)
        self.times.on_token(now)

    def started(self, now: float, num_prompt_logprobs: int) -> Started:
        """What tells the client that the first token was sampled `now`."""
        durations = self.times.durations(now)
        return Started(
            request_id=self.request_id,
            num_cached_tokens=self.num_cached_tokens,
            num_prompt_logprobs=num_prompt_logprobs,
            queue_time_us=_microseconds(durations.queue_s),
            first_token_us=_microseconds(durations.total_s),
        )

    def finished(
        self,
        reason: FinishReason,
        *,
        stop_token_id: int = -1,
        error_code: str = "",
        error_message: str = "",
    ) -> Finished:
        """The terminal output that tells the client how this request ended."""
        durations = self.times.durations(time.monotonic())
        first_token_s = durations.time_to_first_token_s
        return Finished(
            request_id=self.request_id,
            reason=reason,
            num_prompt_tokens=self.num_prompt_tokens,
            num_output_tokens=self.num_output_tokens,
            num_cached_tokens=self.num_cached_tokens,
            stop_token_id=stop_token_id,
            error_code=error_code,
            error_message=error_message,
            queue_time_us=_microseconds(durations.queue_s),
            first_token_us=_microseconds(durations.total_s if first_token_s is None else first_token_s),
            total_time_us=_microseconds(durations.total_s),
        )


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)
