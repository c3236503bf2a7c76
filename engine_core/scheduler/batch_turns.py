"""Which decodes of batch requests are in a step while online requests come, so that these wait for short steps only.

A job may hold every seat that is free. If each step computed all of it, an online request would wait for the end of
such a step before its own first one. So for some seconds after the last online request batch decodes take turns, in
steps that are as short as `PrefillBudget` says; a step's rows cost about the same in small steps, so the job loses
little. Invariant: of decodes that stay, each has its turn before any has a second one. Used by `scheduler`.
"""

from collections.abc import Sequence

from engine_core.request import Request

ONLINE_MEMORY_S = 10.0
"""After the last online request, the next one may come at any moment for so long."""


class BatchTurns:
    """Whose turn it is, on the monotonic clock that is passed in."""

    def __init__(self) -> None:
        self._online_until_s = float("-inf")
        self._turn = 0

    def note_online(self, now_s: float) -> None:
        """An online request is here."""
        self._online_until_s = now_s + ONLINE_MEMORY_S

    def has_online(self, now_s: float) -> bool:
        """True while online requests are here, or may come at any moment."""
        return now_s < self._online_until_s

    def take(self, decodes: Sequence[Request], count: int) -> list[Request]:
        """The next so many of the decodes (in the order of their turns)."""
        if count >= len(decodes):
            return list(decodes)
        taken = sorted(decodes, key=_last_turn)[:count]  # stable: those without a turn in order of admission
        for request in taken:
            self._turn += 1
            request.last_batch_turn = self._turn
        return taken


def _last_turn(request: Request) -> int:
    return request.last_batch_turn
