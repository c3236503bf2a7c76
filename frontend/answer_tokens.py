"""The tokens of an answer beside its text, for requests that ask for log-probabilities or token ids.

A token is given out when all of its text has been shown, or at the end of the answer: one whose text still ends inside
a character, or could still become a stop string, waits with it. Invariant: every counted token is given out exactly
once, in order, and never before its text. Used by `output_processor.py`.
"""

from collections import deque
from typing import NamedTuple

from ipc.request_outputs import TokenLogprobs


class AnswerToken(NamedTuple):
    """One token of an answer."""

    token_id: int
    logprobs: TokenLogprobs | None
    """None where the request did not ask for them."""
    offset: int
    """Characters of the answer before the text of this token; for one that ended the answer unshown, all of them."""


class _Waiting(NamedTuple):
    token_id: int
    logprobs: TokenLogprobs | None
    begin: int
    end: int


class AnswerTokens:
    """The tokens of one answer that wait for their text."""

    def __init__(self) -> None:
        self._unfinished: list[tuple[int, TokenLogprobs | None]] = []
        """Tokens without text so far: parts of a character, or special ones."""
        self._waiting: deque[_Waiting] = deque()
        self._num_decoded = 0
        self._num_shown = 0

    def add(self, token_id: int, logprobs: TokenLogprobs | None, decoded: str) -> None:
        """Take in a token and the text that became certain with it (its own and that of tokens before it)."""
        self._unfinished.append((token_id, logprobs))
        if decoded:
            self._place(decoded)

    def flush(self, decoded: str) -> None:
        """Take in the text that was left in the detokenizer at the end."""
        self._place(decoded)

    def release(self, shown: str, *, is_last: bool) -> list[AnswerToken]:
        """The tokens whose text has been shown with this piece; all of them with the last one."""
        self._num_shown += len(shown)
        if is_last:
            self._place("")
        released: list[AnswerToken] = []
        while self._waiting and (is_last or self._waiting[0].end <= self._num_shown):
            token = self._waiting.popleft()
            released.append(AnswerToken(token.token_id, token.logprobs, min(token.begin, self._num_shown)))
        return released

    def _place(self, decoded: str) -> None:
        begin = self._num_decoded
        self._num_decoded += len(decoded)
        for token_id, logprobs in self._unfinished:
            self._waiting.append(_Waiting(token_id, logprobs, begin, self._num_decoded))
        self._unfinished.clear()
