"""Which core takes a request: what a policy is told of the cores, and what it answers.

`ipc.client.EngineClient` asks for each request that is new or has lost its core. The policy of servers and batch jobs
is `frontend.engine_router.EngineRouter`; `LeastLoaded` serves tools that have no prefixes to care for.
Invariant: a policy only chooses. What was sent where is the client's to know.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ipc.messages import Add, CoreState, Load, Welcome


@dataclass(slots=True)
class CoreView:
    """What a client knows of one core."""

    name: str
    is_ready: bool = False
    """True while it accepts requests."""
    state: CoreState | None = None
    """None while no living core is known."""
    welcome: Welcome | None = None
    """What it last said about itself; stays when it is lost."""
    load: Load = field(default_factory=Load)
    """Its occupancy, as it last published it."""
    num_sent_since: int = 0
    """Requests that this client has sent it after that, which `load` does not contain."""
    num_tokens_sent_since: int = 0
    """Tokens of their prompts."""
    num_live: int = 0
    """Requests of this client that it has."""
    detail: str = ""
    """Stage of loading, or why it was lost."""
    beat_age_s: float = 0.0
    """Seconds since it was last heard."""
    step_age_s: float = 0.0
    """How long its running step takes already, as of its last beat; 0 while it is idle."""
    step_allowance_s: float = 0.0
    """A step that takes longer than this is stuck; 0 where the core does not say."""


def is_step_stuck(age_s: float, allowance_s: float) -> bool:
    """True where a step takes longer than it may; an allowance of 0 s means that the core does not say."""
    return 0 < allowance_s < age_s


class Capacity(NamedTuple):
    """What the ready cores can hold together."""

    max_num_seqs: int = 0
    max_queued_requests: int = 0
    max_queued_tokens: int = 0
    num_blocks: int = 0
    """Of their KV caches."""


class Placement(Protocol):
    """A policy."""

    def choose(self, add: Add, cores: Sequence[CoreView]) -> int:
        """The index of the core that is to take this request; there is at least one core, and all of them are ready."""
        ...

    def on_cores_changed(self, names: Sequence[str]) -> None:
        """These cores are ready now, and no others."""
        ...


class LeastLoaded:
    """The core with the fewest requests."""

    def choose(self, add: Add, cores: Sequence[CoreView]) -> int:
        """The index of the first one of those that have the fewest."""
        return min(range(len(cores)), key=lambda index: _num_requests(cores[index]))

    def on_cores_changed(self, names: Sequence[str]) -> None:
        """Nothing is remembered."""


def _num_requests(core: CoreView) -> int:
    return core.load.num_running + core.load.num_waiting + core.num_sent_since
