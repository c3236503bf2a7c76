"""The drafts of one request, and whether they pay.

A request has a credit in tokens, that is in times of a step without drafts. A draft takes off what its rows cost and
adds the tokens that were accepted; each token of the answer adds a little. While the credit is used up there are no
drafts. So drafts never slow a request by more than `START_CREDIT` tokens, one draft and `INCOME` of its length, and
where they fail they are tried again at intervals that grow with their cost.
Made by `scheduler/drafts.py` with a request's first draft. Next: `ngram_index.py`.
"""

from collections.abc import Sequence

from engine_core.speculation.ngram_index import NgramIndex

START_CREDIT = 0.5
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

    @property
    def credit(self) -> float:
        """Tokens that drafts may cost now."""
        return self._credit

    def propose(self, token_ids: Sequence[int], max_tokens: int) -> list[int]:
        """A draft of `max_tokens` tokens after these, or none.

        Args:
            token_ids: all tokens of the request, those of the last call first.
            max_tokens: at least 1.
        """
        self._add(INCOME * (len(token_ids) - self._num_tokens))
        self._num_tokens = len(token_ids)
        return self._index.draft(token_ids, max_tokens) if self._credit > 0 else []

    def observe(self, num_accepted: int, cost: float) -> None:
        """So many tokens of the last draft were right; its rows took as long as `cost` tokens without drafts."""
        self._add(num_accepted - cost)

    def _add(self, tokens: float) -> None:
        self._credit = min(MAX_CREDIT, self._credit + tokens)
