"""How often one request said each token, kept up token by token, for the penalties.

Kept in `state.SamplingState`, read by `penalties.py`. Invariant: equal to what counting all tokens anew would give.
"""

import numpy as np

from engine_core.model.growing_array import GrowingArray, Int32Array


class TokenCounts:
    """The different tokens of one request and how often its output has each, kept up token by token."""

    def __init__(self, seen: Int32Array, output: Int32Array) -> None:
        """`seen` tokens take part with a count of 0 unless the `output` has them too."""
        token_ids = np.unique(np.concatenate((seen, output)))
        counts = np.bincount(np.searchsorted(token_ids, output), minlength=len(token_ids))
        self._token_ids = GrowingArray(token_ids)
        self._counts = GrowingArray(counts.astype(np.int32))
        self._index_of = {token_id: index for index, token_id in enumerate(token_ids.tolist())}

    def __len__(self) -> int:
        return len(self._token_ids)

    @property
    def token_ids(self) -> Int32Array:
        """`[num_tokens]`, each once."""
        return self._token_ids.values

    @property
    def counts(self) -> Int32Array:
        """`[num_tokens]`: how often the output has each."""
        return self._counts.values

    def add(self, token_id: int) -> None:
        """Count one more output token."""
        index = self._index_of.setdefault(token_id, len(self._token_ids))
        if index == len(self._token_ids):
            self._token_ids.append(token_id)
            self._counts.append(1)
        else:
            self._counts.values[index] += 1
