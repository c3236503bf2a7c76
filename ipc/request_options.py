"""How the core treats a request, whatever its answer is, and the ADD message that says so.

Used by every client (`ipc.client`, `ipc.sync_client`), whose `submit` takes these options as keywords.
"""

import math
import time
from array import array
from collections.abc import Sequence
from typing import TypedDict, Unpack

from ipc.messages import Add, RequestClass, RequestId, Task
from ipc.sampling_params import SamplingParams


class RequestOptions(TypedDict, total=False):
    """The keywords of every client's `submit`."""

    task: Task
    priority: int
    """Lower comes first, among the requests of a flow; 0 where not given."""
    flow: str
    """Fair-sharing unit (an API key, a user, a batch job)."""
    cache_salt: str
    """Requests share prefix-cache blocks only under equal salts."""
    request_class: RequestClass
    queue_timeout_s: float
    """Fail the request if it has not begun to run after this time; 0 leaves it to the core's setting."""
    timeout_s: float
    """Fail the request if it has not ended after this time; 0 leaves it to the core's setting."""
    num_resumed_tokens: int
    """The last ids of the prompt that are output of an earlier life; the answer goes on after them."""
    external_ids: tuple[str, ...]
    """Names by which users know the request, for the call CANCEL."""
    arrival_time_us: int
    """When it came to this client, on the wall clock in microseconds; now where not given."""
    adapter: str
    """Name of the LoRA adapter that computes it; none where not given or empty."""
    traceparent: str
    """W3C's header of the span that waits for it; not traced where not given or empty."""


def new_add(
    request_id: RequestId,
    prompt_token_ids: Sequence[int],
    sampling_params: SamplingParams,
    **options: Unpack[RequestOptions],
) -> Add:
    """The message that hands a new request to the core."""
    return Add(
        request_id=request_id,
        prompt_token_ids=array("i", prompt_token_ids),
        sampling_params=sampling_params,
        task=options.get("task", Task.GENERATE),
        arrival_time_us=options.get("arrival_time_us") or time.time_ns() // 1000,
        priority=options.get("priority", 0),
        flow=options.get("flow", ""),
        cache_salt=options.get("cache_salt", ""),
        num_resumed_tokens=options.get("num_resumed_tokens", 0),
        request_class=options.get("request_class", RequestClass.ONLINE),
        queue_timeout_ms=math.ceil(options.get("queue_timeout_s", 0.0) * 1000),
        timeout_ms=math.ceil(options.get("timeout_s", 0.0) * 1000),
        external_ids=options.get("external_ids", ()),
        adapter=options.get("adapter", ""),
        traceparent=options.get("traceparent", ""),
    )
