"""Virtual token counters: who of those that share has had the least, and who may take a seat from whom.

After VTC (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): each member has a counter of the
tokens that it was given, divided by its weight; the next admission belongs to the smallest counter. `fair_queue` uses
it twice: for the classes, and for the flows of each class.
Invariant: a member that did not wait for anything has no claim to what others got meanwhile (`lift`).
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Share:
    """One member: a class or a flow."""

    weight: float = 1.0
    counter: float = 0.0
    """Tokens given to it (prefill 1, decode 2) divided by its weight."""
    num_waiting: int = 0
    num_running: int = 0
    """Seats that it holds."""

    @property
    def is_active(self) -> bool:
        """True while it has any request."""
        return self.num_waiting + self.num_running > 0

    def can_take_seat_from(self, giver: "Share", margin: float = 1.0) -> bool:
        """True where a seat that moves from the giver leaves it with `margin` times as many, by weight, or more.

        So a seat never moves back: that would need the opposite inequality. One that has none at all may always take
        from one that keeps another.
        """
        if self.num_running == 0 and giver.num_running >= 2:
            return True
        return margin * (self.num_running + 1) / self.weight <= (giver.num_running - 1) / giver.weight


class VirtualCounters:
    """The rules for the counters of members that share among themselves."""

    def __init__(self) -> None:
        self._highest = 0.0

    def charge(self, share: Share, num_tokens: float) -> None:
        """Count what a member is given."""
        share.counter += num_tokens / share.weight
        if share.counter > self._highest:
            self._highest = share.counter

    def lift(self, share: Share, others: Iterable[Share]) -> None:
        """To be called when a member begins to wait: it may not claim tokens from a time when it wanted none.

        It starts level with the least served of the `others` that wait. Where nobody waits, everybody has what they
        want, so nobody is owed anything: it starts level with the highest counter.
        """
        floor = min((other.counter for other in others if other.num_waiting and other is not share), default=None)
        share.counter = max(share.counter, self._highest if floor is None else floor)
