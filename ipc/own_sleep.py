"""Notices that this process did not run for a while (stopped, swapped out, a suspended machine), and for how long.

Whoever judges others by their silence asks here first: what was not heard while nobody listened is no silence. Used by
the core (leases of clients), the launcher and the frontends (silence of the core). Times are passed in where tests
need them. Invariant: a process that runs never seems to have slept.
"""

import time

MAX_GAP_S = 1.5
"""More than any event loop of ours waits, or is held up, while it runs."""


class OwnSleep:
    """One for each event loop, which asks at least once in `MAX_GAP_S`."""

    def __init__(self, now: float | None = None) -> None:
        self._asked_at = time.monotonic() if now is None else now

    def slept_s(self, now: float | None = None) -> float:
        """Seconds since the last call in which this process did not run; 0 if it did."""
        now = time.monotonic() if now is None else now
        gap_s, self._asked_at = now - self._asked_at, now
        return gap_s if gap_s > MAX_GAP_S else 0.0


class Silence:
    """How long a peer has been silent while this process ran."""

    def __init__(self, now: float | None = None) -> None:
        self._own_sleep = OwnSleep(now)
        self._asked_at = time.monotonic() if now is None else now
        self._silence_s = 0.0

    def seconds(self, heard_ago_s: float, now: float | None = None) -> float:
        """The silence of a peer that was last heard so long ago, without what this process slept of it."""
        now = time.monotonic() if now is None else now
        elapsed_s, self._asked_at = now - self._asked_at, now
        if not self._own_sleep.slept_s(now):
            self._silence_s += elapsed_s
        self._silence_s = min(self._silence_s, heard_ago_s)
        return self._silence_s
