"""The rounds of a scenario: what each of them must leave behind, gathered into the figures that all scenarios have."""

from dataclasses import dataclass, field

from ipc.errors import FastInferenceError
from tests.chaos.harness.arena import Arena
from tests.chaos.harness.figures import Figure, at_most, none_of
from tests.chaos.harness.load import Load, Record
from tests.chaos.harness.oracle import Outcome

IDLE_GOAL_S = 2.0


@dataclass
class Rounds:
    """What all rounds of a scenario have in common, gathered round by round."""

    arena: Arena
    item: int
    """Of the acceptance list."""
    idle_s: list[float] = field(default_factory=list)
    """For each round: from its end until nothing ran or waited and all blocks were free."""
    leaks: list[str] = field(default_factory=list)
    violations: list[Record] = field(default_factory=list)
    num_requests: int = 0

    async def end_round(self, load: Load, since: float, allowed: tuple[Outcome, ...]) -> None:
        """Check that the server is at rest as before, and that every request came to something that is allowed."""
        self.take(load, allowed)
        try:
            self.idle_s.append(await self.arena.until_idle() - since)
        except (TimeoutError, FastInferenceError) as error:
            self.idle_s.append(float("inf"))
            self.leaks.append(f"not at rest: {error!r}")
        self.leaks += await self.arena.leaks()

    def take(self, load: Load, allowed: tuple[Outcome, ...]) -> None:
        """Count its requests, and those that came to anything else."""
        self.num_requests += len(load.records)
        self.violations += [record for record in load.records if record.outcome not in allowed]

    def figures(self) -> list[Figure]:
        """Of the promises that every scenario makes."""
        return [
            none_of(self.item, f"wrong, hanging or silently short answers, of {self.num_requests}", self.violations),
            at_most(self.item, "until running = waiting = 0 and all blocks are free", self.idle_s, IDLE_GOAL_S, "s"),
            none_of(self.item, "fds, threads, children, files and memory left over", self.leaks),
        ]
