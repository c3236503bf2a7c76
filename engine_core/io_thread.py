"""The thread that owns the core's socket: messages in, outputs and beats out, whatever the step loop is doing.

It answers HELLO, checks and hashes requests, turns aborts and dead clients into events for the step loop, and sends
what the loop hands it. A client whose queue is full never blocks anybody: its outputs merge until it reads again or is
evicted. If this thread fails, the process exits: a core that nobody can reach must not live.
Next: `core.EngineCore`, which the events are for.
"""

import errno
import logging
import os
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import zmq

from engine_core.client_registry import Client, ClientRegistry
from engine_core.core import EngineCoreOutputs
from engine_core.events import AbortRequests, AddRequest, ControlCall, Event
from engine_core.request import ClientSlot
from engine_core.request_intake import RequestIntake
from ipc import codec
from ipc.endpoints import bind_core_socket
from ipc.errors import FastInferenceError, ProtocolError, QueueFullError
from ipc.messages import (
    PROTOCOL_VERSION,
    Abort,
    Add,
    Bye,
    Call,
    CallMethod,
    ClientMessage,
    CoreBeat,
    CoreMessage,
    CoreState,
    Hello,
    Load,
    Reject,
    Reply,
    Step,
    Welcome,
)
from ipc.process import open_pidfd, pid_namespace

log = logging.getLogger(__name__)

EXIT_INTERNAL_ERROR = 70
BEAT_INTERVAL_S = 0.5
LEASE_S = 10.0
"""A client that is silent for this long is evicted."""
_FAREWELL_S = 0.5
"""Clients get this long to answer the BYE of a core that stops."""
_RETRY_INTERVAL_S = 0.02
_MAX_MESSAGES_PER_WAKE = 256


@dataclass(slots=True)
class StepClock:
    """What the step loop is doing; written by it, read by beats."""

    step: int = 0
    started_at: float | None = None


class IoThread(threading.Thread):
    """Owns the ROUTER and the clients. All public methods may be called from the step loop."""

    def __init__(self, socket_path: Path, epoch: int, inbox: "SimpleQueue[Event]") -> None:
        super().__init__(name="io", daemon=True)
        self.clock = StepClock()
        self.num_bad_messages = 0
        self._epoch = epoch
        self._inbox = inbox
        self._clients = ClientRegistry()
        self._outbox: deque[Callable[[], None]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._state = CoreState.LOADING
        self._detail = ""
        self._load = Load()
        self._welcome: Welcome | None = None
        self._intake: RequestIntake | None = None
        self._beat_sequence = 0
        self._stop_at: float | None = None
        self._namespace = pid_namespace()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = bind_core_socket(self._context, socket_path)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._wake_fd, zmq.POLLIN)

    # --- called by the step loop ---

    def report_loading(self, stage: str) -> None:
        """Publish what loading is at."""
        self._detail = stage
        self._post(self._send_beats)

    def become_ready(self, welcome: Welcome, intake: RequestIntake) -> None:
        """Accept requests from now on."""

        def become_ready() -> None:
            self._welcome, self._intake = welcome, intake
            self._state, self._detail = CoreState.READY, ""
            for client in self._clients.all():
                self._welcome_client(client)

        self._post(become_ready)

    def begin_draining(self) -> None:
        """Refuse new requests from now on."""

        def begin_draining() -> None:
            self._state = CoreState.DRAINING
            self._send_beats()

        self._post(begin_draining)

    def send_outputs(self, outputs: EngineCoreOutputs, load: Load) -> None:
        """Send what a step gave, one STEP for each client in it."""
        self._post(lambda: self._on_outputs(outputs, load))

    def send_reply(self, client_slot: ClientSlot, reply: Reply) -> None:
        """Answer a control call."""

        def send_reply() -> None:
            client = self._clients.by_slot(client_slot)
            if client is not None:
                self._send(client, reply)

        self._post(send_reply)

    def stop(self, reason: str) -> None:
        """Say BYE to everybody, close the socket and end the thread; returns when that is done.

        Clients answer the BYE: a DEALER with IMMEDIATE drops what it has not read yet when its connection ends.
        """

        def stop() -> None:
            for client in self._clients.all():
                self._send(client, Bye(reason))
            self._stop_at = time.monotonic() + _FAREWELL_S

        self._post(stop)
        self.join(timeout=2.0)

    def _post(self, action: Callable[[], None]) -> None:
        self._outbox.append(action)
        os.eventfd_write(self._wake_fd, 1)

    # --- the thread ---

    def run(self) -> None:
        """Serve until `stop`; any failure ends the process."""
        try:
            self._serve()
        except Exception:  # the top of this thread
            log.exception("the I/O thread failed")
            os._exit(EXIT_INTERNAL_ERROR)

    def _serve(self) -> None:
        next_beat_at = time.monotonic()
        while not self._is_over():
            is_retrying = any(client.pending is not None for client in self._clients.all())
            is_urgent = is_retrying or self._stop_at is not None
            wait_s = _RETRY_INTERVAL_S if is_urgent else max(0.0, next_beat_at - time.monotonic())
            for source, _ in self._poller.poll(int(wait_s * 1000) + 1):
                self._on_event(source)
            while self._outbox:
                self._outbox.popleft()()
            if is_retrying:
                self._retry_pending()
            if time.monotonic() >= next_beat_at:
                next_beat_at = time.monotonic() + BEAT_INTERVAL_S
                self._send_beats()
                self._evict_silent_clients()
        self._socket.close()
        self._context.term()

    def _is_over(self) -> bool:
        return self._stop_at is not None and (not self._clients.all() or time.monotonic() > self._stop_at)

    def _on_event(self, source: object) -> None:
        if source is self._socket:
            self._receive()
        elif source == self._wake_fd:
            os.eventfd_read(self._wake_fd)
        else:
            assert isinstance(source, int)
            client = self._clients.by_pidfd(source)
            assert client is not None
            self._evict(client, "its process ended")

    def _receive(self) -> None:
        for _ in range(_MAX_MESSAGES_PER_WAKE):
            try:
                identity, *frames = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                message = codec.decode_client_message(frames)
                self._on_message(identity, message, codec.decode_header(frames).epoch)
            except ProtocolError as error:
                self._on_bad_message(identity, frames, error)

    def _on_bad_message(self, identity: bytes, frames: list[bytes], error: ProtocolError) -> None:
        self.num_bad_messages += 1
        log.warning("dropped a message: %s", error.message)
        if frames and len(frames[0]) >= 2 and frames[0][1] != PROTOCOL_VERSION:
            self._turn_away(identity, Bye("protocol_mismatch", f"this core speaks version {PROTOCOL_VERSION}"))

    def _on_message(self, identity: bytes, message: ClientMessage, epoch: int) -> None:
        client = self._clients.by_identity(identity)
        if isinstance(message, Hello):
            self._on_hello(identity, message, client)
            return
        if client is None or epoch != self._epoch:
            if not isinstance(message, Bye):
                self._turn_away(identity, Bye("unknown_client", "say HELLO first"))
            return
        client.heard_at = time.monotonic()
        if isinstance(message, Add):
            self._on_add(client, message)
        elif isinstance(message, Abort):
            self._inbox.put(self._aborts(client, message.request_ids))
        elif isinstance(message, Call):
            self._on_call(client, message)
        elif isinstance(message, Bye):
            self._evict(client, f"it said good-bye ({message.reason})")

    # --- what clients say ---

    def _on_hello(self, identity: bytes, hello: Hello, client: Client | None) -> None:
        if client is None:
            pidfd = None
            if hello.pid and hello.pid_namespace == self._namespace:
                pidfd = open_pidfd(hello.pid, hello.pid_start_ticks)
                if pidfd is None:
                    return  # it is gone already
                self._poller.register(pidfd, zmq.POLLIN)
            client = self._clients.add(identity, hello, pidfd)
            log.debug("client %s (pid %d) connected", client.name, hello.pid)
        client.heard_at = time.monotonic()
        if self._state is CoreState.LOADING:
            self._send(client, self._beat())
        else:
            self._welcome_client(client)

    def _welcome_client(self, client: Client) -> None:
        assert self._welcome is not None
        if self._send(client, self._welcome) and self._state is not CoreState.READY:
            self._send(client, self._beat())

    def _on_add(self, client: Client, add: Add) -> None:
        if add.request_id in client.live:
            raise ProtocolError(f"request id {add.request_id} is in use")
        if self._intake is None or self._state is not CoreState.READY:
            self._send(
                client, Reject(add.request_id, self._state.name.lower(), "The engine is not accepting requests.")
            )
            return
        try:
            request = self._intake.accept(add, client.slot)
        except FastInferenceError as error:
            retry_after_s = error.retry_after_s if isinstance(error, QueueFullError) else 0
            reject = Reject(add.request_id, error.code, error.message, error.param or "", int(retry_after_s * 1000))
            self._send(client, reject)
            return
        client.live[add.request_id] = request.key
        self._inbox.put(AddRequest(request))

    def _on_call(self, client: Client, call: Call) -> None:
        if call.method is CallMethod.PING:
            self._send(client, Reply(call.call_id))
        else:
            self._inbox.put(ControlCall(client.slot, call))

    @staticmethod
    def _aborts(client: Client, request_ids: "array[int]") -> AbortRequests:
        return AbortRequests(tuple(client.live[item] for item in request_ids if item in client.live))

    # --- what clients are told ---

    def _on_outputs(self, outputs: EngineCoreOutputs, load: Load) -> None:
        self._load = load
        for slot, client_outputs in outputs.items():
            client = self._clients.by_slot(slot)
            if client is None:
                continue  # it left meanwhile; its requests are being aborted
            if client.pending is None:
                client.pending, client.pending_since = client_outputs, time.monotonic()
            else:
                client.pending.extend(client_outputs)
            self._send_pending(client)

    def _send_pending(self, client: Client) -> None:
        """Try to send what waits for a client; on success nothing waits any more."""
        pending = client.pending
        assert pending is not None
        step = Step(
            sequence=client.num_steps_sent + 1,
            step=self.clock.step,
            request_ids=pending.request_ids,
            token_ids=pending.token_ids,
            finished=tuple(pending.finished),
            load=self._load,
            embedding_request_ids=pending.embedding_request_ids,
            embeddings=pending.embeddings,
            started=tuple(pending.started),
        )
        if self._send(client, step):
            client.num_steps_sent += 1
            client.pending = None
            for finished in pending.finished:
                client.live.pop(finished.request_id, None)

    def _retry_pending(self) -> None:
        for client in self._clients.all():
            if client.pending is not None:
                self._send_pending(client)
            if client.pending is not None and time.monotonic() - client.pending_since > LEASE_S:
                self._evict(client, f"it took no outputs for {LEASE_S:.0f} s")

    def _beat(self) -> CoreBeat:
        started_at = self.clock.started_at
        step_age_s = time.monotonic() - started_at if started_at is not None else 0.0
        return CoreBeat(
            sequence=self._beat_sequence,
            state=self._state,
            step=self.clock.step,
            step_age_ms=int(step_age_s * 1000),
            load=self._load,
            detail=self._detail,
        )

    def _send_beats(self) -> None:
        self._beat_sequence += 1
        beat = self._beat()
        for client in self._clients.all():
            self._send(client, beat)

    def _evict_silent_clients(self) -> None:
        for client in self._clients.all():
            is_needed = client.pidfd is None or client.live  # the death of an idle client shows in its pidfd
            if is_needed and time.monotonic() - client.heard_at > LEASE_S:
                self._send(client, Bye("evicted", "silent for too long"))
                self._evict(client, f"it was silent for {LEASE_S:.0f} s")

    def _turn_away(self, identity: bytes, bye: Bye) -> None:
        """Tell somebody who is no client to say HELLO; it may have gone already."""
        try:
            self._send_to(identity, bye)
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise

    def _evict(self, client: Client, reason: str) -> None:
        """Forget a client and abort all that it waits for; does nothing if it has left already."""
        if self._clients.by_slot(client.slot) is None:
            return
        if client.live:
            log.warning("client %s left with %d live requests: %s", client.name, len(client.live), reason)
            self._inbox.put(AbortRequests(tuple(client.live.values())))
        if client.pidfd is not None:
            self._poller.unregister(client.pidfd)
            os.close(client.pidfd)
        self._clients.remove(client)

    def _send(self, client: Client, message: CoreMessage) -> bool:
        """Send without blocking; False if the client's queue is full or the client is gone (then it is evicted)."""
        try:
            return self._send_to(client.identity, message)
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self._evict(client, "its connection is gone")
            return False

    def _send_to(self, identity: bytes, message: CoreMessage) -> bool:
        try:
            self._socket.send_multipart([identity, *codec.encode(message, self._epoch)], zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True
