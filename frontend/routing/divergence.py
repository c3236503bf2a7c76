"""Where prompts with a common beginning part: behind the system prompt that all of them have.

A beginning that much of the traffic has says nothing about a chat, and the first tokens behind it say all: every turn
of a chat has them, and another chat mostly has others. How long the common part is cannot be seen in one prompt, so it
is learned from pairs of prompts, in the end from every eighth one: the median of how much they share. Frontends see the
same kind of traffic, so they learn the same length, and find the same core for a chat without having seen its other
turns.
"""

from collections import deque

KEY_TOKENS = 8
"""Behind the common part: those that tell chats apart."""

_TOKEN_BYTES = 4
_NUM_PAIRS = 15
_EVERY = 8


class Divergence:
    """What is learned of one beginning."""

    __slots__ = ("_last", "_last_num_bytes", "_lengths", "_num_key_bytes", "_num_seen")

    def __init__(self) -> None:
        self._last = 0
        self._last_num_bytes = 0
        self._lengths: deque[int] = deque(maxlen=_NUM_PAIRS)
        self._num_key_bytes = 0
        self._num_seen = 0

    def observe(self, rest: bytes) -> int:
        """Learn from what follows the beginning in a prompt; how many bytes of it tell chats apart, 0 if unknown."""
        self._num_seen += 1
        if len(self._lengths) < _NUM_PAIRS or self._num_seen % _EVERY == 0:
            self._compare(rest)
        return self._num_key_bytes

    def _compare(self, rest: bytes) -> None:
        value = int.from_bytes(rest, "little")
        difference = value ^ self._last
        num_equal = ((difference & -difference).bit_length() - 1) // 8
        if difference and num_equal < min(len(rest), self._last_num_bytes):  # else one goes on from the other
            self._lengths.append(num_equal // _TOKEN_BYTES)
            num_common = sorted(self._lengths)[len(self._lengths) // 2]
            self._num_key_bytes = (num_common + KEY_TOKENS) * _TOKEN_BYTES
        self._last, self._last_num_bytes = value, len(rest)
