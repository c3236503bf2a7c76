"""The cores of a client together: which there are, which of them take requests, and how they are as one.

Owned by `ipc.client.EngineClient`, which sends requests; this follows the list of cores and keeps a `CoreChannel` for
each. Invariant: `ready` holds cores of one model only, so that whatever is sent to one of them could go to any other.
Next: `core_channel.py`, `core_directory.py`.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import zmq

from ipc.background_tasks import BackgroundTasks
from ipc.core_channel import ChannelEvents, CoreChannel
from ipc.core_directory import ONLY_CORE, CoreDirectory
from ipc.core_link import CoreLink
from ipc.endpoints import CoreAddress, RemoteCore
from ipc.errors import ConfigError, EngineUnavailableError
from ipc.messages import ClientRole, CoreState, Load, Welcome
from ipc.placement import Capacity, CoreView
from ipc.session import own_hello

log = logging.getLogger(__name__)

_LOOK_INTERVAL_S = 0.5
"""How often the list of cores is looked at, and whether one of them is stuck."""
_LOAD_AGE_S = 0.01
"""The sum of the loads of many cores may be so old."""
_STATES = (CoreState.READY, CoreState.DRAINING, CoreState.LOADING, CoreState.DYING)
"""Of several cores the server has the first state that one of them has."""


class CoreSet:
    """The channels of one client."""

    def __init__(
        self,
        cores: CoreAddress | CoreDirectory,
        name: str,
        role: ClientRole,
        tasks: BackgroundTasks,
        events: ChannelEvents,
        on_ready_change: Callable[[], None],
    ) -> None:
        """One core, or those of a directory, which is followed. `on_ready_change` is called when `ready` is another."""
        self._directory = cores if isinstance(cores, CoreDirectory) else None
        self._addresses: Mapping[str, CoreAddress] = {} if isinstance(cores, CoreDirectory) else {ONLY_CORE: cores}
        self._name = name
        self._role = role
        self._tasks = tasks
        self._events = events
        self._on_ready_change = on_ready_change
        self.channels: list[CoreChannel] = []
        """Of listed cores in their order, then of those that only finish what they run."""
        self.ready: list[CoreChannel] = []
        """Those that get new requests: listed, ready, and of the model that is served."""
        self.ready_views: list[CoreView] = []
        """Of `ready`, in the same order."""
        self.capacity = Capacity()
        """What `ready` can hold together; of the last ones where there are none."""
        self.welcome: Welcome | None = None
        """What a core of the model that is served last said about itself; stays when the cores are lost."""
        self._load = Load()
        self._load_at = 0.0
        self._is_open = False
        self._problems: dict[str, str] = {}
        """Why there is no channel to a core that is listed, by its name."""

    # --- life ---

    def open(self) -> None:
        """Connect, and keep connected until `close`.

        Raises:
            ConfigError: there are addresses, and none of them can be used.
        """
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._follow_addresses()
        if not self.channels and self._problems:
            self._context.term()
            raise ConfigError(next(iter(self._problems.values())))
        self._is_open = True
        for name, problem in self._problems.items():
            self._log_problem(name, problem)
        self._tasks.run(self._keep_looking())

    def close(self, error: EngineUnavailableError) -> None:
        """Say BYE to all, and let go of libzmq; live streams end in the error.

        Nothing is awaited here: a socket that is opened behind the closing of the others, since a core is heard
        meanwhile, would keep libzmq waiting for ever.
        """
        self._is_open = False
        channels, self.channels, self.ready, self.ready_views = self.channels, [], [], []
        for channel in channels:
            channel.close(error)
        self._context.term()

    # --- how they are ---

    @property
    def state(self) -> CoreState | None:
        """State of the cores, READY if one is; None while none is known to live."""
        states = {channel.state for channel in self.channels if channel.is_listed}
        return next((state for state in _STATES if state in states), None)

    @property
    def is_turning(self) -> bool:
        """True while a core retires and the one in its place is not ready yet."""
        return any(channel.is_turning and channel.is_listed for channel in self.channels)

    @property
    def load(self) -> Load:
        """Occupancy of `ready` together, as last published; of the others where none is ready."""
        channels = self.ready or self.channels
        if len(channels) == 1:
            return channels[0].link.session.load
        now = time.monotonic()
        if now - self._load_at > _LOAD_AGE_S:
            self._load, self._load_at = sum_of([channel.link.session.load for channel in channels]), now
        return self._load

    @property
    def detail(self) -> str:
        """Stage of loading, or why a core was lost."""
        return next((channel.link.session.detail for channel in self.channels if channel.link.session.detail), "")

    @property
    def first(self) -> CoreChannel | None:
        """A core that speaks for all: one that takes requests, where there is one."""
        return next(iter(self.ready or self.channels), None)

    @property
    def has_remote(self) -> bool:
        """True if one of them is on another host."""
        return any(isinstance(channel.address, RemoteCore) for channel in self.channels)

    def links_with_tokenizer(self, fingerprint: str) -> list[tuple[str, CoreLink]]:
        """Names and links of those that have this tokenizer and answer calls."""
        links = [(channel.name, link) for channel in self.channels for link in channel.links]
        return [
            (name, link)
            for name, link in links
            if (welcome := link.session.welcome) is not None
            and link.session.is_welcomed
            and welcome.tokenizer_fingerprint == fingerprint
        ]

    # --- cores that come, go and change ---

    async def _keep_looking(self) -> None:
        while self._is_open:
            self._follow_addresses()
            await asyncio.sleep(_LOOK_INTERVAL_S)

    def _follow_addresses(self) -> None:
        """Open channels to the cores that are listed now, and let go of the others."""
        if self._directory is not None:
            self._addresses = self._directory.addresses()
        known = {(channel.name, channel.address): channel for channel in self.channels if channel.is_listed}
        found = [known.pop(item, None) or self._open_channel(*item) for item in self._addresses.items()]
        listed = [channel for channel in found if channel is not None]
        self._problems = {name: text for name, text in self._problems.items() if name in self._addresses}
        for channel in known.values():
            log.info("core %s is not listed any more", channel.name)
            channel.unlist()
        self.channels = listed + [channel for channel in self.channels if not channel.is_listed]
        for channel in [channel for channel in self.channels if channel.is_over()]:
            self.channels.remove(channel)
            channel.close(EngineUnavailableError("The engine has ended."))
        self.look()

    def _open_channel(self, name: str, address: CoreAddress) -> CoreChannel | None:
        """None where the address or its keys cannot be used; it is tried again with each look."""
        hello = own_hello(self._name, self._role, address)
        try:
            channel = CoreChannel(name, address, self._context, hello, self._events, self._tasks)
        except ConfigError as error:
            if self._is_open and self._problems.get(name) != error.message:
                self._log_problem(name, error.message)
            self._problems[name] = error.message
            return None
        self._problems.pop(name, None)
        return channel

    def _log_problem(self, name: str, problem: str) -> None:
        log.error("cannot connect to core %s: %s", name, problem)

    def look(self) -> None:
        """See which cores take requests now, and of which model."""
        ready = self._of_served_model([channel for channel in self.channels if channel.is_listed and channel.is_ready])
        if len(ready) > 1:
            ready = [channel for channel in ready if not channel.is_stuck] or ready
        welcomes = [channel.welcome for channel in ready if channel.welcome is not None]
        if welcomes:
            self.welcome = welcomes[0]
            self.capacity = Capacity(
                sum(welcome.max_num_seqs for welcome in welcomes),
                sum(welcome.max_queued_requests for welcome in welcomes),
                sum(welcome.max_queued_tokens for welcome in welcomes),
                sum(welcome.num_blocks for welcome in welcomes),
            )
        if ready != self.ready:
            self.ready, self.ready_views = ready, [channel.view for channel in ready]
            self._load_at = 0.0
            self._on_ready_change()

    def _of_served_model(self, ready: list[CoreChannel]) -> list[CoreChannel]:
        """Those with the model that most of them have; that of before, where two have as many."""
        counts = Counter(_fingerprint(channel) for channel in ready)
        if len(counts) <= 1:
            return ready
        before = self.welcome.model_fingerprint if self.welcome is not None else ""
        served = max(counts, key=lambda fingerprint: (counts[fingerprint], fingerprint == before, fingerprint))
        return [channel for channel in ready if _fingerprint(channel) == served]


def sum_of(loads: Sequence[Load]) -> Load:
    """The occupancy of several cores as that of one: it refuses requests only while all of them do."""
    return Load(
        sum(load.num_running for load in loads),
        sum(load.num_waiting for load in loads),
        sum(load.num_queued_tokens for load in loads),
        sum(load.num_free_blocks for load in loads),
        sum(load.num_blocks for load in loads),
        min((load.retry_after_ms for load in loads), default=0),
    )


def _fingerprint(channel: CoreChannel) -> str:
    return "" if channel.welcome is None else channel.welcome.model_fingerprint
