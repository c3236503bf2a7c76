"""What the core owes the batch class while online requests want all of it: a debt in token costs.

Every token that online is given while batch has requests adds `batch_share` of its cost to the debt, every token that
batch is given takes off the rest, so that at a steady debt batch has exactly its share. How many seats the debt is
worth grows with it (a proportional controller): batch may take so many before online, and keeps so many more.
Invariant: the debt stays within -1 and `MAX_DEBT` slacks. So a job that had the idle core to itself owes little, and
one that was starved cannot claim the whole core. Kept by `fair_queue`, read by `scheduler` and `places`.
"""

import math

SLACK_PER_SEAT = 64
"""The slack is about the cost of one answer for each seat: less would have classes take seats from each other often."""
FULL_SHARE_DEBT = 1 / 4
"""In slacks: a debt that is worth the seats of the batch share."""
MAX_TIMES_SHARE = 2
"""A larger debt is worth so many times those seats, and no more."""
MAX_DEBT = 4
"""In slacks; where it is reached, online admissions wait for the next batch request too."""


class BatchShare:
    """The debt, and what follows from it."""

    def __init__(self, share: float, max_num_seqs: int) -> None:
        """`share`: part of all costs that batch keeps, between 0 and 1; `max_num_seqs`: seats of the core."""
        self._share = share
        self._num_seats = share * max_num_seqs
        self._slack = float(SLACK_PER_SEAT * max_num_seqs)
        self._debt = 0.0

    @property
    def is_owed(self) -> bool:
        """True while batch has had less than its share."""
        return self._debt > 0

    @property
    def is_overdue(self) -> bool:
        """True where batch could not take what it is owed for long."""
        return self._debt >= MAX_DEBT * self._slack

    @property
    def num_owed_seats(self) -> int:
        """Seats that batch may take before online."""
        return math.ceil(self._num_seats * self._times_share_owed)

    @property
    def num_kept_seats(self) -> int:
        """Seats that online cannot take from batch: its share and what it is owed, less with a negative debt."""
        return math.ceil(self._num_seats * (1 + min(0.0, self._debt / self._slack) + self._times_share_owed))

    @property
    def _times_share_owed(self) -> float:
        return min(MAX_TIMES_SHARE, max(0.0, self._debt / (FULL_SHARE_DEBT * self._slack)))

    def charge_online(self, cost: float) -> None:
        """Online was given tokens that cost so much, while batch had requests."""
        self._debt = min(MAX_DEBT * self._slack, self._debt + self._share * cost)

    def charge_batch(self, cost: float) -> None:
        """Batch was given tokens that cost so much."""
        self._debt = max(-self._slack, self._debt - (1 - self._share) * cost)

    def forgive(self) -> None:
        """Batch wants nothing more than it has: it may not claim this time later."""
        self._debt = min(self._debt, 0.0)
