"""Names that were cancelled lately: what came to a frontend before that, and reaches the core after it, ends at once.

CANCEL finds only what is in the core, but a frontend tokenizes a prompt before it sends it, and sends the texts of a
long body one after the other. Owned by `core.py`. Invariant: a request that came after the cancellation is never
touched, so that a client may use the same name for its next attempt; memory is bounded.
Times are wall clock, because a frontend's is compared with the core's.
"""

from engine_core.request import Request

MAX_NAMES = 4096
"""Beyond that the oldest are forgotten."""


class CancelledNames:
    """External ids with the time at which they were cancelled."""

    def __init__(self, max_names: int = MAX_NAMES) -> None:
        self._max_names = max_names
        self._cancelled_at_us: dict[tuple[str, str | None], int] = {}
        """By name and flow, oldest first; the flow None stands for all."""

    def add(self, name: str, flow: str | None, now_us: int) -> None:
        """A name was cancelled, for one flow or for all."""
        self._cancelled_at_us.pop((name, flow), None)
        self._cancelled_at_us[name, flow] = now_us
        if len(self._cancelled_at_us) > self._max_names:
            del self._cancelled_at_us[next(iter(self._cancelled_at_us))]

    def covers(self, request: Request) -> bool:
        """True if the request came before one of its names was cancelled; one of unknown age never did."""
        if not self._cancelled_at_us or not request.came_at_us:
            return False
        keys = ((name, flow) for name in request.external_ids for flow in (None, request.flow))
        return any(request.came_at_us <= self._cancelled_at_us.get(key, 0) for key in keys)
