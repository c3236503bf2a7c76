"""The books of one fleet: its cores and where they are, and the agents that may connect to them. No Ray, no clock.

Kept by `directory_actor.py`, which tells of each thing that happens, with the time. Invariants: a core is listed to a
client only after it has let this client in; a core that is late, lost or to end is listed to nobody; and one that is to
end is told so only once nobody uses it any more, or after `LET_GO_S`.
"""

from dataclasses import dataclass, field

from fast_inference.ray_executor.records import (
    ClientHello,
    CoreOrders,
    CoreReport,
    FleetView,
    ListedCore,
)
from fast_inference.ray_executor.scaling import CoreLoad

LATE_S = 3.0
"""A core that reports twice a second and was not heard for so long is not listed."""
CLIENT_LEASE_S = 30.0
"""An agent that was not heard for so long is gone; without agents the fleet ends."""
LET_GO_S = 3.0
SETTLING_S = 5.0
"""What a directory that was started again waits for its cores to report, and an agent for cores to let it in."""


@dataclass(slots=True)
class _Core:
    report: CoreReport | None = None
    heard_at: float = 0.0
    is_heard: bool = False
    was_ready: bool = False
    """This incarnation has been."""
    ending_since: float | None = None
    since: float = 0.0
    """When this incarnation was first heard."""


@dataclass(slots=True)
class _Client:
    hello: ClientHello
    since: float
    heard_at: float


@dataclass(slots=True)
class Directory:
    """Of one fleet."""

    started_at: float
    num_wanted: int
    _cores: dict[str, _Core] = field(default_factory=dict)
    _clients: dict[str, _Client] = field(default_factory=dict)
    _left: set[str] = field(default_factory=set)
    """Agents that have left in order."""
    _last_client_at: float = 0.0
    _is_settled: bool = False
    _has_been_ready: bool = False
    is_ending: bool = False
    trouble: str = ""
    """What keeps Ray from running a core; until one is ready."""

    def __post_init__(self) -> None:
        self._last_client_at = self.started_at

    # --- cores ---

    def add_core(self, name: str) -> None:
        """Ray has been asked for it, or has had it from before."""
        self._cores[name] = _Core()

    def forget_core(self, name: str) -> None:
        """Its actor is gone for good."""
        self._cores.pop(name, None)

    def on_report(self, report: CoreReport, now: float) -> CoreOrders:
        """Take in what a core says, and answer what it is to do."""
        core = self._cores.get(report.core)
        if core is None:  # an actor of before, which nobody counts any more
            return CoreOrders(self._client_keys(), self._has_heard_all_clients(now), must_end=True)
        if core.report is None or core.report.incarnation != report.incarnation:
            core.was_ready, core.since = False, now
        core.report, core.heard_at, core.is_heard = report, now, True
        if report.state == "ready":
            core.was_ready, self.trouble = True, ""
        self._has_been_ready |= core.was_ready
        return CoreOrders(self._client_keys(), self._has_heard_all_clients(now), self._must_end(report.core, core, now))

    def on_unavailable(self, name: str, asked_at: float) -> bool:
        """Ray says that its actor does not answer, or is being started elsewhere; True where that is new.

        What was asked before this incarnation was heard may tell of the one before.
        """
        core = self._cores.get(name)
        if core is None or not core.is_heard or asked_at <= core.since:
            return False
        core.is_heard = False
        return True

    def end_core(self, name: str, now: float) -> None:
        """Have it end: clients let go of it first."""
        core = self._cores[name]
        if core.ending_since is None:
            core.ending_since = now

    @property
    def names(self) -> list[str]:
        """Of all cores."""
        return list(self._cores)

    @property
    def kept(self) -> list[str]:
        """Those that are not to end."""
        return [name for name, core in self._cores.items() if core.ending_since is None]

    def ended(self, now: float, timeout_s: float) -> list[str]:
        """Those that were to end and have ended, are lost, or take longer than they may."""
        return [
            name
            for name, core in self._cores.items()
            if core.ending_since is not None
            and (
                core.report is None
                or core.report.has_ended
                or not core.is_heard
                or now - core.ending_since > LET_GO_S + timeout_s
            )
        ]

    def idlest(self) -> str:
        """The core that is best given up: one that does not serve, else that with the fewest requests."""

        def requests(name: str) -> tuple[bool, int]:
            core = self._cores[name]
            if core.report is None or not self._is_usable(core):
                return False, 0
            return True, core.report.load.num_running + core.report.load.num_waiting

        return min(reversed(self.kept), key=requests)

    def loads(self) -> list[CoreLoad]:
        """Of the cores that take requests."""
        usable = [core.report for core in self._cores.values() if core.report is not None and self._is_usable(core)]
        return [CoreLoad(report.load, report.max_num_seqs) for report in usable if report.state == "ready"]

    # --- clients ---

    def on_client(self, hello: ClientHello, now: float) -> None:
        """An agent is there."""
        known = self._clients.get(hello.name)
        self._clients[hello.name] = _Client(hello, now if known is None else known.since, now)
        self._last_client_at = now
        self._left.discard(hello.name)

    def on_leave(self, name: str) -> bool:
        """An agent leaves in order; True where it was the last one.

        Not so where a core still lets in one that has not left: a directory that was started again has not heard of it
        yet. If that one is gone too, the fleet ends after a lease.
        """
        self._clients.pop(name, None)
        self._left.add(name)
        let_in = {client for core in self._cores.values() if core.report is not None for client in core.report.clients}
        return not self._clients and let_in <= self._left

    def is_deserted(self, now: float) -> bool:
        """True where no agent was heard for the time of a lease."""
        return not self._clients and now - self._last_client_at > CLIENT_LEASE_S

    def expire(self, now: float, slept_s: float = 0.0) -> None:
        """See who is late. What was not heard while this process did not run (`slept_s`) counts for nobody."""
        for core in self._cores.values():
            core.heard_at += slept_s
            if now - core.heard_at > LATE_S:
                core.is_heard = False
        self._last_client_at += slept_s
        for name, client in list(self._clients.items()):
            client.heard_at += slept_s
            if now - client.heard_at > CLIENT_LEASE_S:
                del self._clients[name]
        are_all_heard = all(core.is_heard for core in self._cores.values())
        if (self._cores and are_all_heard) or now - self.started_at > SETTLING_S:
            self._is_settled = True

    def view_for(self, client: str, now: float) -> FleetView:
        """What this agent is to know."""
        usable = [
            core.report for _, core in sorted(self._cores.items()) if core.report is not None and self._is_usable(core)
        ]
        listed = [
            ListedCore(report.core, report.endpoint, report.server_key) for report in usable if client in report.clients
        ]
        is_new = now - self._clients[client].since < SETTLING_S if client in self._clients else True
        is_awaited = is_new and len(listed) < len(usable)  # they let this client in any moment
        reports = [core.report for _, core in sorted(self._cores.items()) if core.report is not None and core.is_heard]
        num_unplaced = sum(not core.is_heard for core in self._cores.values() if core.ending_since is None)
        return FleetView(
            listed=tuple(listed),
            reports=tuple(reports),
            num_wanted=self.num_wanted,
            num_unplaced=num_unplaced,
            is_settled=self._is_settled and not is_awaited,
            has_been_ready=self._has_been_ready,
            is_ending=self.is_ending,
            trouble=self.trouble,
        )

    # ---

    def _client_keys(self) -> dict[str, str]:
        return {name: client.hello.public_key for name, client in self._clients.items()}

    def _has_heard_all_clients(self, now: float) -> bool:
        """Cores may report to a directory that was started again before agents do."""
        return now - self.started_at > SETTLING_S

    def _is_usable(self, core: _Core) -> bool:
        return core.is_heard and core.was_ready and core.ending_since is None and not self.is_ending

    def _must_end(self, name: str, core: _Core, now: float) -> bool:
        if core.ending_since is None:
            return False
        is_used = any(name in client.hello.cores for client in self._clients.values())
        return not is_used or now - core.ending_since > LET_GO_S
