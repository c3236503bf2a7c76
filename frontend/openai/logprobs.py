"""Log-probabilities in the three shapes of the API: chat, completions, and vLLM's `prompt_logprobs`.

A token is spelled as its text, as `bytes:\\xf0\\x9f` where its bytes are no text, or as `token_id:7` where the caller
asked for that. JSON has no minus infinity: -9999 stands for it, as in OpenAI's answers.
Used by `chat_completions.py` and `completions.py`. Next: `frontend/token_texts.py`.
"""

from collections.abc import Sequence
from typing import Any

from frontend.answer_tokens import AnswerToken
from frontend.token_texts import TokenTexts
from ipc.request_outputs import TokenLogprobs

LOWEST_LOGPROB = -9999.0


class LogprobsWriter:
    """Writes the log-probabilities of one request."""

    def __init__(self, texts: TokenTexts, *, num_best: int, as_token_ids: bool) -> None:
        self._texts = texts
        self._num_best = num_best
        self._as_token_ids = as_token_ids

    def chat(self, tokens: Sequence[AnswerToken]) -> dict[str, Any]:
        """The `logprobs` of a chat choice or chunk."""
        return {"content": [self._chat_entry(token.logprobs) for token in tokens if token.logprobs], "refusal": None}

    def completion(self, tokens: Sequence[AnswerToken], offset: int = 0) -> dict[str, list[Any]]:
        """The `logprobs` of a completion's choice or chunk whose text begins `offset` characters into the answer.

        A token without log-probabilities (the first one of a prompt) has null.
        """
        return {
            "tokens": [self._spelling(token.token_id) for token in tokens],
            "token_logprobs": [_finite(token.logprobs.logprobs[0]) if token.logprobs else None for token in tokens],
            "top_logprobs": [self._best(token.logprobs) if token.logprobs else None for token in tokens],
            "text_offset": [offset + token.offset for token in tokens],
        }

    def prompt(self, rows: Sequence[TokenLogprobs], num_best: int) -> list[dict[str, Any] | None]:
        """vLLM's `prompt_logprobs`: null for the first token, then token id → entry, the token itself first."""
        return [None, *(self._prompt_entry(row, num_best) for row in rows)]

    def _chat_entry(self, row: TokenLogprobs) -> dict[str, Any]:
        own, *best = [
            {
                "token": self._spelling(token_id),
                "logprob": _finite(logprob),
                "bytes": list(self._texts.bytes_of(token_id)),
            }
            for token_id, logprob in zip(row.token_ids[: self._num_best + 1], row.logprobs, strict=False)
        ]
        return {**own, "top_logprobs": best}

    def _best(self, row: TokenLogprobs) -> dict[str, float]:
        """Of tokens with the same text the most probable one counts."""
        best: dict[str, float] = {}
        for token_id, logprob in zip(row.token_ids[: self._num_best + 1], row.logprobs, strict=False):
            spelling = self._spelling(token_id)
            best[spelling] = max(_finite(logprob), best.get(spelling, LOWEST_LOGPROB))
        return best

    def _prompt_entry(self, row: TokenLogprobs, num_best: int) -> dict[str, Any]:
        ranks = (row.rank, *range(1, num_best + 1))
        entries: dict[str, Any] = {}
        for token_id, logprob, rank in zip(row.token_ids, row.logprobs, ranks, strict=False):
            entry = {"logprob": _finite(logprob), "rank": rank, "decoded_token": self._texts.text_of(token_id)}
            entries.setdefault(str(token_id), entry)
        return entries

    def _spelling(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self._as_token_ids else self._texts.text_of(token_id)


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)
