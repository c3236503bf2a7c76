"""Drafts in the sampler: which rows of a request with draft tokens count.

A request with a draft of n tokens has n + 1 rows, one after the other: the first is computed from its last known token,
row i from draft token i. Each row is sampled at its own output position (`num_drafts_before`), as it would be alone,
so a row counts exactly if the tokens before it came out as the draft says (`verified_rows`): what is said does not
depend on the draft. Rows of one request are told by its state, which they share.
Invariant: the first row of a request always counts. Called by `sampler.py` and `batch_sampler.py`.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from engine_core.model.sampling.state import SamplingState

NOTHING = -1
"""In place of the token of a row that failed."""


def num_drafts_before(states: Sequence[SamplingState]) -> npt.NDArray[np.int64]:
    """`[num_rows]`: how many draft tokens of the row's request come before its position; there is at least one row."""
    counts = [0]
    for before, state in pairwise(states):
        counts.append(counts[-1] + 1 if state is before else 0)
    return np.array(counts, dtype=np.int64)


def verified_rows(
    states: Sequence[SamplingState], sampled_token_ids: Sequence[int], row_token_ids: Sequence[int]
) -> Iterator[int]:
    """The rows that count, in order. A draft row that failed does not: its request comes there again without a draft.

    Args:
        states: one for each row.
        sampled_token_ids: what each row gave, or `NOTHING`.
        row_token_ids: the token from which each row was computed.
    """
    is_right = True
    for row, state in enumerate(states):
        is_draft = row > 0 and state is states[row - 1]
        is_right = not is_draft or (
            is_right and sampled_token_ids[row - 1] == row_token_ids[row] and sampled_token_ids[row] != NOTHING
        )
        if is_right:
            yield row
