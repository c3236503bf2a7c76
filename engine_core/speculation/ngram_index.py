"""Where the latest n-gram of a token sequence stood before, and what followed it there (prompt lookup).

Kept by `drafter.py`, one for each request that drafts. Each token is entered once, in constant time; a lookup takes a
few dictionary accesses whatever the length. After prompt lookup decoding (Saxena, 2023), as in vLLM's `ngram` method.
Invariant: a draft is what a search of the whole sequence for the longest n-gram would find.
"""

from collections.abc import Sequence

MIN_NGRAM, MAX_NGRAM = 2, 4

_BITS = 32
"""Of a token in a packed n-gram. Tokens are entered as id + 1, so that a short n-gram is equal to no longer one."""
_MASKS = tuple((1 << _BITS * size) - 1 for size in range(MAX_NGRAM, MIN_NGRAM - 1, -1))


class NgramIndex:
    """The n-grams of one growing sequence."""

    def __init__(self) -> None:
        self._followers: tuple[dict[int, int], ...] = tuple({} for _ in _MASKS)
        """By size, longest first: packed n-gram to the position of the token that followed it last."""
        self._latest = 0
        """The last `MAX_NGRAM` tokens that were entered, packed."""
        self._num_tokens = 0

    def draft(self, token_ids: Sequence[int], max_tokens: int) -> list[int]:
        """What followed the last earlier occurrence of the longest n-gram at the end; empty where there is none.

        Where the occurrence reaches into the end itself, what it repeats is repeated.

        Args:
            token_ids: the sequence; it begins with what it was at the last call.
            max_tokens: length of the draft where there is one, at least 1.
        """
        self._enter(token_ids)
        for followers, mask in zip(self._followers, _MASKS, strict=True):
            start = followers.get(self._latest & mask)
            if start is not None:
                draft = list(token_ids[start : start + max_tokens])
                period = len(token_ids) - start
                while len(draft) < max_tokens:
                    draft.append(draft[-period])
                return draft
        return []

    def _enter(self, token_ids: Sequence[int]) -> None:
        """Take in the tokens that are new. An n-gram is entered with its follower, so the last one is not yet."""
        latest, position = self._latest, self._num_tokens
        fours, threes, twos = self._followers
        all_mask, threes_mask, twos_mask = _MASKS
        for token_id in token_ids[position:]:
            fours[latest] = position
            threes[latest & threes_mask] = position
            twos[latest & twos_mask] = position
            latest = (latest << _BITS | token_id + 1) & all_mask
            position += 1
        self._latest, self._num_tokens = latest, position
