"""What clients are told: one STEP per client and step, and all else, without ever waiting for anybody.

Owned by the I/O thread. A client whose queue is full keeps its outputs here, merged, until it reads again; one that
takes nothing for `LEASE_S` is given up. Invariant: what somebody waits for (outputs, rejects, replies) is sent or its
client is gone; beats may be dropped. No message is larger than the client's socket accepts.
Next: `output_queue.py` divides what is too large.
"""

import errno
import time
from collections.abc import Callable

import zmq

from engine_core.client_registry import Client, ClientRegistry
from engine_core.core import EngineCoreOutputs
from ipc import codec
from ipc.messages import Bye, CoreMessage, Load, Step

LEASE_S = 10.0
"""A client that is silent, or takes nothing, for this long is evicted."""


class ClientSender:
    """Sends through the ROUTER."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        clients: ClientRegistry,
        epoch: int,
        on_gone: Callable[[Client, str], None],
    ) -> None:
        """`on_gone(client, reason)` is called for a client that cannot be reached any more."""
        self._socket = socket
        self._clients = clients
        self._epoch = epoch
        self._on_gone = on_gone

    @property
    def has_blocked_clients(self) -> bool:
        """True while something waits for room in a client's queue."""
        return any(client.is_blocked for client in self._clients.all())

    def deliver(self, outputs: EngineCoreOutputs, step: int, load: Load) -> None:
        """Send what a step gave; clients that have left meanwhile are skipped (their requests are being aborted)."""
        for slot, client_outputs in outputs.items():
            client = self._clients.by_slot(slot)
            if client is None:
                continue
            _mark_blocked(client)
            client.pending.append(client_outputs)
            self._send_pending(client, step, load)

    def retry(self, step: int, load: Load) -> None:
        """Try again what had no room; give up clients that take nothing."""
        for client in self._clients.all():
            while client.unsent and self.send(client, client.unsent[0]):
                client.unsent.popleft()
                client.blocked_since = time.monotonic()
            self._send_pending(client, step, load)
            if client.is_blocked and time.monotonic() - client.blocked_since > LEASE_S:
                self._on_gone(client, f"it took no messages for {LEASE_S:.0f} s")

    def send_in_order(self, client: Client, message: CoreMessage) -> None:
        """Send now, or as soon as there is room: for messages that somebody waits for."""
        if client.unsent or not self.send(client, message):
            _mark_blocked(client)
            client.unsent.append(message)

    def send_to_all(self, message: CoreMessage) -> None:
        """Send to every client that has room."""
        for client in self._clients.all():
            self.send(client, message)

    def send(self, client: Client, message: CoreMessage) -> bool:
        """Send without waiting; False if the client's queue is full or the client is gone."""
        try:
            return self._send_to(client.identity, message)
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self._on_gone(client, "its connection is gone")
            return False

    def turn_away(self, identity: bytes, bye: Bye) -> None:
        """Tell somebody who is no client why; it may have gone already."""
        try:
            self._send_to(identity, bye)
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise

    def _send_pending(self, client: Client, step: int, load: Load) -> None:
        """Send the outputs that wait for a client, as far as there is room."""
        while client.pending and self.send(client, _step_message(client, step, load)):
            client.num_steps_sent += 1
            client.blocked_since = time.monotonic()
            for finished in client.pending.first.finished:
                client.live.pop(finished.request_id, None)
            client.pending.pop_first()

    def _send_to(self, identity: bytes, message: CoreMessage) -> bool:
        try:
            self._socket.send_multipart([identity, codec.encode(message, self._epoch)], zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True


def _mark_blocked(client: Client) -> None:
    if not client.is_blocked:
        client.blocked_since = time.monotonic()


def _step_message(client: Client, step: int, load: Load) -> Step:
    """The first portion of what waits for a client."""
    outputs = client.pending.first
    return Step(
        sequence=client.num_steps_sent + 1,
        step=step,
        request_ids=outputs.request_ids,
        token_ids=outputs.token_ids,
        finished=tuple(outputs.finished),
        load=load,
        embedding_request_ids=outputs.embedding_request_ids,
        embeddings=outputs.embeddings,
        started=tuple(outputs.started),
        logprob_request_ids=outputs.logprob_request_ids,
        logprob_counts=outputs.logprob_counts,
        logprob_ranks=outputs.logprob_ranks,
        logprob_token_ids=outputs.logprob_token_ids,
        logprobs=outputs.logprobs,
    )
