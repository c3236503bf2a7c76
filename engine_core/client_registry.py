"""The clients that the core knows: their identities, their live requests, and what they have not been sent yet.

Owned by the I/O thread alone. Invariant: a request id is in its client's `live` map from ADD until the STEP with its
`Finished` has been handed to the socket.
"""

import time
from collections import deque
from dataclasses import dataclass, field

from engine_core.output_queue import OutputQueue
from engine_core.outputs import RequestKey
from engine_core.request import ClientSlot
from ipc.messages import ClientRole, CoreMessage, Hello
from ipc.metric_series import SeriesValues


@dataclass(slots=True, eq=False)
class Client:
    """One client, from its HELLO until it leaves."""

    slot: ClientSlot
    identity: bytes
    name: str
    role: ClientRole
    pidfd: int | None
    heard_at: float = field(default_factory=time.monotonic)
    live: dict[int, RequestKey] = field(default_factory=dict)
    """Core's keys of its requests by its own request ids."""
    unsent: deque[CoreMessage] = field(default_factory=deque)
    """Messages that its queue had no room for."""
    pending: OutputQueue = field(default_factory=OutputQueue)
    """Outputs that its queue had no room for."""
    blocked_since: float = 0.0
    """When it last took something, while it is blocked."""
    num_steps_sent: int = 0
    num_live_mismatches: int = 0
    """Beats in a row that disagreed with `live`."""
    gauges: SeriesValues = field(default_factory=dict)
    """That it has reported last (`ClientMetrics`)."""

    @property
    def is_blocked(self) -> bool:
        """True while something waits for room in its queue."""
        return bool(self.pending) or bool(self.unsent)


class ClientRegistry:
    """Finds clients by identity, slot and pidfd."""

    def __init__(self) -> None:
        self._by_identity: dict[bytes, Client] = {}
        self._by_slot: dict[ClientSlot, Client] = {}
        self._last_slot = 0

    def __len__(self) -> int:
        return len(self._by_slot)

    def all(self) -> list[Client]:
        """Every client, in order of arrival."""
        return list(self._by_slot.values())

    def add(self, identity: bytes, hello: Hello, pidfd: int | None) -> Client:
        """Register a new client."""
        self._last_slot += 1
        client = Client(ClientSlot(self._last_slot), identity, hello.client_name, hello.role, pidfd)
        self._by_identity[identity] = client
        self._by_slot[client.slot] = client
        return client

    def remove(self, client: Client) -> None:
        """Forget a client."""
        del self._by_identity[client.identity]
        del self._by_slot[client.slot]

    def forgive(self, seconds: float) -> None:
        """Move the clocks of all clients forward: nobody listened to them for so long."""
        for client in self._by_slot.values():
            client.heard_at += seconds
            client.blocked_since += seconds

    def by_identity(self, identity: bytes) -> Client | None:
        """The client with this socket identity."""
        return self._by_identity.get(identity)

    def by_slot(self, slot: ClientSlot) -> Client | None:
        """The client with this slot; None if it has left."""
        return self._by_slot.get(slot)

    def by_pidfd(self, pidfd: int) -> Client | None:
        """The client whose process this descriptor watches."""
        return next((client for client in self._by_slot.values() if client.pidfd == pidfd), None)
