"""The drafts of one request, and whether they pay.

A request has a credit in tokens, that is in times of a step without drafts. A draft takes off what its rows cost and
adds the tokens that were accepted; each token of the answer adds a little. A draft is only as long as the credit pays
for. So drafts that fail become short and rare, the more so the more they cost, and slow a request by no more than
`START_CREDIT` tokens and `INCOME` of its length, as far as costs were known before.
Made by `scheduler/drafts.py` with a request's first draft. Next: `ngram_index.py`.
"""

from collections.abc import Sequence

from engine_core.speculation.ngram_index import NgramIndex

START_CREDIT = 0.3
INCOME = 0.01
MAX_CREDIT = 2.0
"""What was gained while drafts were right is not spent on long rows of wrong ones."""


class Drafter:
    """Drafts for one request."""

    __slots__ = ("_credit", "_index", "_num_tokens")

    def __init__(self, num_tokens: int) -> None:
        """`num_tokens`: known tokens of the request."""
        self._index = NgramIndex()
        self._credit = START_CREDIT
        self._num_tokens = num_tokens

    def propose(self, token_ids: Sequence[int], max_tokens: int, row_cost: float) -> list[int]:
        """A draft of up to `max_tokens` tokens after these; empty where there is none, or it does not pay.

        Args:
            token_ids: all tokens of the request, those of the last call first.
            max_tokens: at least 1.
            row_cost: what a draft token is expected to cost, in tokens without drafts.
        """
        self._add(INCOME * (len(token_ids) - self._num_tokens))
        self._num_tokens = len(token_ids)
        if row_cost * max_tokens > self._credit:
            max_tokens = int(self._credit / row_cost) if self._credit > 0 else 0
        return self._index.draft(token_ids, max_tokens) if max_tokens > 0 else []

    def observe(self, num_accepted: int, cost: float) -> None:
        """So many tokens of the last draft were right; its rows took as long as `cost` tokens without drafts."""
        self._add(num_accepted - cost)

    def _add(self, tokens: float) -> None:
        self._credit = min(MAX_CREDIT, self._credit + tokens)
