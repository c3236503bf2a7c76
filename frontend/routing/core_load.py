"""How loaded a core is, as one number in which all that makes a request wait has its part.

1 is as much as a core may be ahead of another before requests leave it for the sake of load: a quarter of its seats
taken, or 16 requests that have not begun to run, or 4,096 prompt tokens of such that must be computed. Half of two of
them is 1 as well. What this client sent since the core published its load counts as not begun, so a burst spreads
before any answer.
"""

from dataclasses import dataclass

from ipc.placement import CoreView

WOULD_WAIT = 1.0
"""Added where the next request finds no free seat, or no room for its keys and values."""

REFUSES = 1e9
"""Added where the core says that it refuses requests for now."""


@dataclass(frozen=True, slots=True)
class LoadScale:
    """How much of each is as bad as 1."""

    seats: float = 0.25
    """Share of `max_num_seqs` that is taken, running or waiting: cores of different size are compared by it."""
    waiting_requests: float = 16.0
    """Requests that have not begun to run."""
    waiting_tokens: float = 4096.0
    """Prompt tokens of these, without those of known prefixes where that is known."""

    def load_of(self, core: CoreView, num_prompt_tokens: int, num_known_tokens: int = 0) -> float:
        """The load that a prompt of so many tokens meets there; 0 where nothing else is.

        Args:
            core: the core.
            num_prompt_tokens: of the prompt.
            num_known_tokens: of the prompts that were sent since: those that are in its prefix cache.
        """
        load, welcome = core.load, core.welcome
        num_waiting = load.num_waiting + core.num_sent_since
        num_waiting_tokens = load.num_queued_tokens + max(core.num_tokens_sent_since - num_known_tokens, 0)
        num_requests = load.num_running + num_waiting
        max_num_seqs = welcome.max_num_seqs if welcome is not None else 1
        result = (
            num_requests / (max_num_seqs * self.seats)
            + num_waiting / self.waiting_requests
            + num_waiting_tokens / self.waiting_tokens
        )
        if num_requests >= max_num_seqs:
            result += WOULD_WAIT
        elif welcome is not None and load.num_blocks:  # none before the first step, and where there is no cache
            num_free_tokens = load.num_free_blocks * welcome.block_size - num_waiting_tokens
            if num_free_tokens < num_prompt_tokens:
                result += WOULD_WAIT
        if load.retry_after_ms:
            result += REFUSES
        return result


USUAL_SCALE = LoadScale()
