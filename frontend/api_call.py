"""One call of the API without what carries it: who makes it, under which names, and who waits for the answer.

The HTTP side makes an `ApiCall` of each request (`call_of`), a batch job one of each line. With a checked body it is
all that the endpoints need: `complete` and `begin` of `openai/serving.py`, `complete` of `openai/pooling.py`, and
`answer_to` of both and of `translated_serving.py`. Invariant: nothing behind it knows of connections.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request

from frontend.access import ANYBODY, Caller, caller_of
from frontend.middleware import came_at_us_in, request_id_in
from ipc.messages import RequestClass
from ipc.request_options import RequestOptions

if TYPE_CHECKING:
    from frontend.beginning import Beginning
    from frontend.generation import Generation

TIMEOUT_HEADER = "X-Request-Timeout"


@dataclass(frozen=True, slots=True)
class ApiCall:
    """Everything about a call but its body."""

    caller: Caller = ANYBODY
    request_id: str = ""
    """A name by which it can be cancelled, beside the id of its answer."""
    arrival_time_us: int = 0
    """When it came, on the wall clock in microseconds; 0 for when it reaches the engine client."""
    timeout: str | None = None
    """`X-Request-Timeout` as it was given, unchecked."""
    request_class: RequestClass = RequestClass.ONLINE
    beginning: "Beginning | None" = None
    """What there is already of its one answer."""
    on_generation: "Callable[[Generation], None] | None" = None
    """Called with what is being generated for it, so that its progress can be kept."""

    def options(self, answer_id: str) -> RequestOptions:
        """What every engine request of this call has in common."""
        return RequestOptions(
            external_ids=tuple(dict.fromkeys(name for name in (self.request_id, answer_id) if name)),
            arrival_time_us=self.arrival_time_us,
            request_class=self.request_class,
        )


def call_of(request: Request) -> ApiCall:
    """The call that an HTTP request makes."""
    return ApiCall(
        caller_of(request),
        request_id_in(request.scope),
        came_at_us_in(request.scope),
        request.headers.get(TIMEOUT_HEADER),
    )
