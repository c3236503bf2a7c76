"""From an ADD message to a `Request`: the core's own checks, whatever the client has checked before.

Runs on the I/O thread, so that refusing and hashing do not hold up a step. Every field that becomes an index or a
length is checked here; the rest of the core relies on it.
"""

import hashlib
import itertools
import math
import time
from dataclasses import replace

from engine_core.admission import Admission
from engine_core.kv_cache.block_hash import BlockHasher
from engine_core.outputs import ModelInfo, RequestKey
from engine_core.quarantine import Quarantine
from engine_core.request import ClientSlot, Request
from engine_core.request_times import RequestTimes
from ipc.codec import MAX_FRAME_BYTES
from ipc.config import SchedulerConfig
from ipc.errors import (
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    RequestQuarantinedError,
    UnsupportedParameterError,
)
from ipc.messages import Add, ClientRole, RequestClass, Task
from ipc.sampling_params import check_range

MAX_TIMEOUT_MS = 24 * 3600 * 1000
MAX_NAME_LENGTH = 1024
MAX_EXTERNAL_IDS = 4
MAX_EXTERNAL_ID_LENGTH = 256
MAX_TRACEPARENT_LENGTH = 64
MAX_PROMPT_LOGPROB_ENTRIES = MAX_FRAME_BYTES // 32
"""Of all positions of a prompt together. They go to the client in one message, which has 8 bytes for each and 16 for
each position, so that this leaves it below three quarters of the limit."""


class RequestIntake:
    """Checks and numbers requests; one for each process."""

    def __init__(
        self,
        info: ModelInfo,
        hasher: BlockHasher | None,
        admission: Admission,
        config: SchedulerConfig,
        quarantine: Quarantine,
    ) -> None:
        """`hasher` is None where prefix caching is off, so that nobody would read the hashes."""
        self._config = config
        self._info = info
        self._hasher = hasher
        self._admission = admission
        self._quarantine = quarantine
        self._keys = itertools.count(1)

    def accept(self, add: Add, client_slot: ClientSlot, role: ClientRole) -> Request:
        """Build the request and count it as waiting.

        Raises:
            InvalidRequestError, ContextLengthError: it can never run.
            ModelNotFoundError: its adapter is not here.
            RequestQuarantinedError: the core died with it too often.
            QueueFullError: it may run later.
        """
        self._check(add)
        digest = content_digest(add)
        if refusal := self._quarantine.refusal(digest):
            raise RequestQuarantinedError(refusal)
        now = time.monotonic()
        request = Request(
            key=RequestKey(next(self._keys)),
            client_slot=client_slot,
            request_id=add.request_id,
            task=add.task,
            sampling_params=add.sampling_params,
            token_ids=add.prompt_token_ids,
            num_prompt_tokens=len(add.prompt_token_ids) - add.num_resumed_tokens,
            num_resumed_tokens=add.num_resumed_tokens,
            priority=add.priority,
            request_class=RequestClass.BATCH if role is ClientRole.BATCH else add.request_class,
            flow=add.flow,
            queue_deadline=self._queue_deadline(add, now),
            deadline=_deadline(now, add.timeout_ms / 1000, self._config.request_timeout),
            times=RequestTimes(arrived_at=now),
            cache_salt=add.cache_salt,
            adapter=add.adapter,
            adapter_fingerprint=self._info.adapters[add.adapter] if add.adapter else b"",
            external_ids=add.external_ids,
            traceparent=add.traceparent,
            came_at_us=add.arrival_time_us,
            digest=digest,
        )
        self._admission.enter(request.num_tokens)
        request.num_queued_tokens = request.num_tokens
        if self._hasher is not None:
            self._hasher.extend(
                request.block_hashes, request.token_ids, request.cache_salt, request.adapter_fingerprint
            )
        return request

    def _queue_deadline(self, add: Add, now: float) -> float:
        if add.num_resumed_tokens:  # it began to run in time, at another core
            return math.inf
        return _deadline(now, add.queue_timeout_ms / 1000, self._config.queue_timeout)

    def _check(self, add: Add) -> None:
        num_tokens, limit = len(add.prompt_token_ids), self._info.max_model_len
        if add.adapter and add.adapter not in self._info.adapters:
            raise ModelNotFoundError("This adapter is not served.", param="model")
        if not 0 <= add.num_resumed_tokens < num_tokens:
            raise InvalidRequestError("the prompt is empty", param="prompt")
        if add.num_resumed_tokens and add.task is Task.EMBED:
            raise InvalidRequestError("an embedding has no output to resume", param="num_resumed_tokens")
        room = 0 if add.task is Task.EMBED or add.num_resumed_tokens else 1
        if num_tokens + room > limit:
            raise ContextLengthError(
                f"This model's maximum context length is {limit} tokens, the prompt has {num_tokens}.", param="prompt"
            )
        if min(add.prompt_token_ids) < 0 or max(add.prompt_token_ids) >= self._info.vocab_size:
            raise InvalidRequestError(f"token ids must be between 0 and {self._info.vocab_size - 1}", param="prompt")
        if add.task is Task.EMBED and not self._info.embedding_size:
            raise InvalidRequestError("this model gives no embeddings", param="model")
        if add.task is Task.GENERATE and self._info.is_encoder:
            raise InvalidRequestError("this model gives no text, only embeddings", param="model")
        if not -(2**31) <= add.priority < 2**31:
            raise InvalidRequestError("priority is out of range", param="priority")
        if add.priority and self._config.scheduling_policy == "fcfs":
            raise UnsupportedParameterError("this server was started with --scheduling-policy fcfs", param="priority")
        if add.num_resumed_tokens > add.sampling_params.max_tokens:
            raise InvalidRequestError("more tokens are resumed than may be generated", param="num_resumed_tokens")
        self._check_limits(add)

    def _check_limits(self, add: Add) -> None:
        for param, timeout_ms in (("queue_timeout", add.queue_timeout_ms), ("timeout", add.timeout_ms)):
            check_range(param, timeout_ms, 0, MAX_TIMEOUT_MS)
        for param, name in (("user", add.flow), ("cache_salt", add.cache_salt)):
            if len(name) > MAX_NAME_LENGTH:
                raise InvalidRequestError(f"{param} is longer than {MAX_NAME_LENGTH} characters", param=param)
        if len(add.external_ids) > MAX_EXTERNAL_IDS or any(
            not 1 <= len(name) <= MAX_EXTERNAL_ID_LENGTH for name in add.external_ids
        ):
            raise InvalidRequestError(
                f"a request has at most {MAX_EXTERNAL_IDS} ids of 1 to {MAX_EXTERNAL_ID_LENGTH} characters",
                param="request_id",
            )
        if len(add.traceparent) > MAX_TRACEPARENT_LENGTH:
            raise InvalidRequestError(
                f"a traceparent has at most {MAX_TRACEPARENT_LENGTH} characters", param="traceparent"
            )
        add.sampling_params.validate(self._info.vocab_size)
        num_entries = len(add.prompt_token_ids) * (add.sampling_params.num_prompt_logprobs + 1)
        if num_entries > MAX_PROMPT_LOGPROB_ENTRIES:
            raise InvalidRequestError(
                f"prompt_logprobs asks for {num_entries} numbers, {MAX_PROMPT_LOGPROB_ENTRIES} at most can be given",
                param="prompt_logprobs",
            )


def content_digest(add: Add) -> bytes:
    """Equal for requests that ask for the same: prompt, adapter and parameters, but not the seed, which may be drawn
    anew."""
    prompt = add.prompt_token_ids[: len(add.prompt_token_ids) - add.num_resumed_tokens]
    digest = hashlib.blake2b(prompt.tobytes(), digest_size=16)
    digest.update(repr((add.task, replace(add.sampling_params, seed=0), add.adapter)).encode())
    return digest.digest()


def _deadline(now: float, *timeouts_s: float) -> float:
    """The earliest end of the timeouts; 0 is none."""
    return min((now + timeout_s for timeout_s in timeouts_s if timeout_s > 0), default=math.inf)
