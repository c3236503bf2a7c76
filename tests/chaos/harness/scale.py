"""How much of a scenario is run: everything on demand, a little of it in the tests."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Of one scenario."""

    rounds: int = 1
    streams: int = 50
    """At once."""
    pause_s: float = 5.0
    """How long a process is stopped, where the scenario stops one."""
    total: int = 0
    """Requests in all, where the scenario counts them."""
    seconds: float = 0.0
    """Of a load that goes on for a time."""
