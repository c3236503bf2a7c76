"""How many of the tokens that were just sent to a core it need not compute, because it has them in its prefix cache.

A client knows how many requests it sent since a core published its load, and the tokens of their prompts. What of that
is work hangs on what the core had already: 32 turns of long chats are little, as many new documents are much.
"""

from collections import deque
from collections.abc import Iterable

_MAX_REQUESTS = 64
"""Of each core; beyond these everything counts as work."""


class SentPrefixes:
    """Of the last requests that went to each core."""

    def __init__(self) -> None:
        self._sums: dict[str, deque[int]] = {}
        """Running sums of the known tokens: the last one is that of all requests up to now."""

    def add(self, core: str, num_known_tokens: int) -> None:
        """A request goes to this core, which has so many of its tokens."""
        sums = self._sums.get(core)
        if sums is None:
            sums = self._sums[core] = deque((0,), maxlen=_MAX_REQUESTS + 1)
        sums.append(sums[-1] + num_known_tokens)

    def num_known_tokens(self, core: str, num_requests: int) -> int:
        """Known tokens of the last `num_requests` requests that went there."""
        sums = self._sums.get(core)
        if sums is None:
            return 0
        return sums[-1] - sums[max(-1 - num_requests, -len(sums))]

    def forget(self, cores: Iterable[str]) -> None:
        """These cores are gone."""
        for core in cores:
            self._sums.pop(core, None)
