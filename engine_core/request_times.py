"""When what happened to a request, and how long its phases took: all on the monotonic clock of the core's process.

    arrived ──queue──▶ scheduled ──prefill──▶ first token ──decode──▶ last token ▶ ended

Every `Request` has one `RequestTimes`, which the scheduler and the core fill in; metrics, traces and the times in
`Finished` are all read from it, so that they agree. Times of another process are never mixed in.
Invariant: the times are in the order of the drawing, and one that is None has not been reached.
"""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds that a request spent in each phase; None for a phase that it did not complete."""

    queue_s: float
    """From its arrival until it was first scheduled, or until it ended without that."""
    prefill_s: float | None
    """From there to the first token; after a preemption with what was computed again."""
    time_to_first_token_s: float | None
    """From its arrival; `queue_s` and `prefill_s` together."""
    decode_s: float | None
    """From the first token to the last one."""
    inference_s: float | None
    """From the first time scheduled to the last token; `prefill_s` and `decode_s` together."""
    total_s: float
    """From its arrival to its end."""


@dataclass(slots=True)
class RequestTimes:
    """The times of one request, in seconds of `time.monotonic`."""

    arrived_at: float = field(default_factory=time.monotonic)
    """When its ADD was taken in."""
    first_scheduled_at: float | None = None
    first_token_at: float | None = None
    """Of this life: of a resumed request, the first one after those that it came with."""
    last_token_at: float | None = None
    """Tokens of one step have the same time."""

    def on_scheduled(self) -> None:
        """It is in a step; only the first time counts."""
        if self.first_scheduled_at is None:
            self.first_scheduled_at = time.monotonic()

    def on_token(self, now: float) -> None:
        """It has got a token."""
        self.last_token_at = now
        if self.first_token_at is None:
            self.first_token_at = now

    def durations(self, now: float) -> Durations:
        """How long its phases took, where it ends `now`."""
        prefill_s = time_to_first_token_s = decode_s = inference_s = None
        if self.first_scheduled_at is not None and self.first_token_at is not None and self.last_token_at is not None:
            prefill_s = self.first_token_at - self.first_scheduled_at
            time_to_first_token_s = self.first_token_at - self.arrived_at
            decode_s = self.last_token_at - self.first_token_at
            inference_s = self.last_token_at - self.first_scheduled_at
        queue_end = now if self.first_scheduled_at is None else self.first_scheduled_at
        return Durations(
            queue_s=queue_end - self.arrived_at,
            prefill_s=prefill_s,
            time_to_first_token_s=time_to_first_token_s,
            decode_s=decode_s,
            inference_s=inference_s,
            total_s=now - self.arrived_at,
        )
