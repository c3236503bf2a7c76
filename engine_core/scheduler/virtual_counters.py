"""Virtual token counters: which of the flows of a class has had the least, and who may take a seat from whom.

After VTC (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): each member has a counter of the
tokens that it was given; the next admission belongs to the smallest counter.
Invariant: a member that did not wait for anything has no claim to what others got meanwhile (`lift`).
Next: `fair_queue`.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Share:
    """One member."""

    counter: float = 0.0
    """Costs of the tokens given to it (`fair_queue.DECODE_WEIGHT`)."""
    num_waiting: int = 0
    num_running: int = 0
    """Seats that it holds."""

    @property
    def is_active(self) -> bool:
        """True while it has any request."""
        return self.num_waiting + self.num_running > 0

    def can_take_seat_from(self, giver: "Share", num_taken: int = 1) -> bool:
        """True where a giver that loses `num_taken` seats still has as many as this one with one more.

        So a seat never moves back. One that has none at all may always take from one that keeps another.
        """
        num_left = giver.num_running - num_taken
        return num_left >= self.num_running + 1 or (self.num_running == 0 and num_left >= 1)


class VirtualCounters:
    """The rules for the counters of members that share among themselves."""

    def __init__(self) -> None:
        self._highest = 0.0

    def charge(self, share: Share, cost: float) -> None:
        """Count what a member is given."""
        share.counter += cost
        if share.counter > self._highest:
            self._highest = share.counter

    def lift(self, share: Share, others: Iterable[Share]) -> None:
        """To be called when a member begins to wait: it may not claim tokens from a time when it wanted none.

        It starts level with the least served of the `others` that wait. Where nobody waits, everybody has what they
        want, so nobody is owed anything: it starts level with the highest counter.
        """
        floor = min((other.counter for other in others if other.num_waiting and other is not share), default=None)
        share.counter = max(share.counter, self._highest if floor is None else floor)
