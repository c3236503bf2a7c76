"""What agents, the directory and the cores of a fleet tell each other through Ray.

Frozen records without behaviour; Ray moves them. Next: `directory.py`, which answers them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ipc.messages import Load


@dataclass(frozen=True, slots=True)
class CoreResources:
    """What Ray is asked for, for each core."""

    num_cpus: float
    num_gpus: float

    def __str__(self) -> str:
        parts = [(self.num_gpus, "GPU"), (self.num_cpus, "CPU")]
        return " and ".join(f"{amount:g} {name}" for amount, name in parts if amount) or "nothing"


@dataclass(frozen=True, slots=True)
class CoreReport:
    """A core about itself, twice a second."""

    core: str
    """Its name in the fleet."""
    incarnation: str
    """Differs each time that Ray starts its actor."""
    node_id: str
    host: str
    """Address of its node."""
    endpoint: str = ""
    """Where clients find it; empty until that is known."""
    server_key: str = ""
    """Its public key, Z85."""
    clients: tuple[str, ...] = ()
    """Names of the clients that it lets in."""
    state: str = "starting"
    """As in `status.json`."""
    pid: int | None = None
    """Of the core process, on its node."""
    epoch: int = 0
    stage: str = ""
    """What its start is at, for people."""
    failure: str = ""
    """Why it cannot start, in one line; it tries again now and then."""
    has_ended: bool = False
    """It was told to stop and has done so."""
    load: Load = field(default_factory=Load)
    max_num_seqs: int = 0
    num_blocks: int = 0
    can_generate: bool = True
    last_exit: str = ""
    restarts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CoreOrders:
    """The directory's answer to a report."""

    clients: Mapping[str, str]
    """Public keys (Z85) by name of those who may connect."""
    are_all: bool = True
    """False for a moment after the directory itself was started again: others may come, so nobody is turned out."""
    must_end: bool = False
    """Finish what runs, hand back the rest, and end."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """An agent: a launcher's frontends and batch jobs, which have one key pair together."""

    name: str
    public_key: str
    cores: tuple[str, ...] = ()
    """Which cores its processes use now."""


@dataclass(frozen=True, slots=True)
class ListedCore:
    """A core that a client is to use."""

    name: str
    endpoint: str
    server_key: str


@dataclass(frozen=True, slots=True)
class FleetView:
    """What an agent is told."""

    listed: tuple[ListedCore, ...]
    """Those to use, in order of name."""
    reports: tuple[CoreReport, ...]
    """The latest of each core that is heard."""
    num_wanted: int
    num_unplaced: int
    """Cores of which nothing was heard: Ray looks for room for them, or their node is gone."""
    is_settled: bool
    """False for a moment after the directory was started again, or has first heard of this agent: what it does not list
    may be there even so."""
    has_been_ready: bool
    """A core of this fleet has been."""
    is_ending: bool
    """The fleet is being shut down; whoever wants one starts another."""
    trouble: str = ""
    """What keeps Ray from running a core."""
