"""The thread that owns the core's socket: messages in, outputs and beats out, whatever the step loop is doing.

It answers HELLO, checks and hashes requests, turns aborts and dead clients into events for the step loop, and hands
what the loop gives it to `ClientSender`. A message that cannot be understood is dropped and counted. If this thread
fails, it calls `on_failure`: a core that nobody can reach must not live.
Next: `core.EngineCore`, which the events are for.
"""

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue

import zmq

from engine_core.admission import Admission
from engine_core.client_lives import ClientLives
from engine_core.client_registry import Client, ClientRegistry
from engine_core.client_sender import ClientSender
from engine_core.control_calls import answer_tokenizer, why_refused
from engine_core.core import EngineCoreOutputs
from engine_core.core_socket import CoreSocket, RemoteAccess
from engine_core.events import AbortRequests, AddRequest, ControlCall, DrainBegun, Event
from engine_core.metrics.core_snapshot import CoreSnapshot
from engine_core.metrics.engine_metrics import EngineMetrics
from engine_core.reconciliation import Reconciliation
from engine_core.request import ClientSlot, Request
from engine_core.request_intake import RequestIntake
from engine_core.step_clock import StepClock
from ipc import codec
from ipc.counted_warning import CountedWarning
from ipc.errors import FastInferenceError, ProtocolError, QueueFullError
from ipc.messages import (
    CORE_RETIRED,
    DISCONNECT,
    PROTOCOL_VERSION,
    STOP_STRING,
    Abort,
    Add,
    Bye,
    Call,
    CallMethod,
    ClientBeat,
    ClientMessage,
    ClientMetrics,
    CoreBeat,
    CoreState,
    Dying,
    Hello,
    Live,
    Load,
    Reject,
    Reply,
    RequestId,
    Welcome,
)
from ipc.metric_series import SeriesValues

log = logging.getLogger(__name__)

BEAT_INTERVAL_S = 0.5
_FAREWELL_S = 0.5
"""Clients get this long to answer the BYE of a core that stops."""
_LAST_WORDS_S = 0.1
"""A dying core waits this long, so that clients can read what it said."""
_RETRY_INTERVAL_S = 0.02
_MAX_MESSAGES_PER_WAKE = 256
_REFUSAL_CODES = {CoreState.DRAINING: "draining", CoreState.RETIRING: CORE_RETIRED}


class IoThread(threading.Thread):
    """Owns the ROUTER and the clients. Public methods may be called from the step loop."""

    def __init__(
        self,
        socket_path: Path,
        epoch: int,
        inbox: "SimpleQueue[Event]",
        clock: StepClock,
        on_failure: Callable[[], None],
        num_descriptors: int = sys.maxsize,
        remote: RemoteAccess | None = None,
    ) -> None:
        """`on_failure`: called by the thread when it fails; `num_descriptors`: how many files it may have open;
        `remote`: for clients of other hosts.

        Raises:
            ConfigError: clients of other hosts cannot be served.
        """
        super().__init__(name="io", daemon=True)
        self._clock = clock
        self._on_failure = on_failure
        self._dropped = CountedWarning(log, "dropped a message")
        self._num_departures = 0
        """Clients that said good-bye or died, whose connections may end."""
        self._epoch = epoch
        self._inbox = inbox
        self._outbox: deque[Callable[[], None]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._state = CoreState.LOADING
        self._detail = ""
        self._load = Load()
        self._welcome: Welcome | None = None
        self._intake: RequestIntake | None = None
        self._admission: Admission | None = None
        self._beat_sequence = 0
        self._stop_at: float | None = None
        self._metrics = CoreSnapshot()
        self._door = CoreSocket(socket_path, num_descriptors)
        if remote is not None:
            self._door.open_remote(remote)
        self._socket = self._door.socket
        self._poller = zmq.Poller()
        self._clients = ClientRegistry()
        self._lives = ClientLives(self._clients, self._poller, inbox)
        self._sender = ClientSender(self._socket, self._clients, epoch, self._lives.evict)
        self._reconciliation = Reconciliation(self._sender, inbox)
        self._door.register(self._poller)
        self._poller.register(self._wake_fd, zmq.POLLIN)

    @property
    def num_bad_messages(self) -> int:
        """Messages that were dropped, and connections that ended without a good-bye.

        The latter are how it shows that libzmq has refused a message for its size, or bytes that are none.
        """
        return self._dropped.num + max(0, self._door.num_ended - self._num_departures)

    @property
    def connection_stats(self) -> dict[str, int]:
        """Connections of now, and how many were refused for what."""
        return self._door.stats

    # --- called by the step loop ---

    def report_loading(self, stage: str) -> None:
        """Publish what loading is at."""
        self._detail = stage
        self._post(self._send_beats)

    def become_ready(
        self, welcome: Welcome, intake: RequestIntake, admission: Admission, metrics: EngineMetrics
    ) -> None:
        """Accept requests from now on."""

        def become_ready() -> None:
            self._welcome, self._intake, self._admission = welcome, intake, admission
            self._metrics.set_engine(metrics, welcome)
            self._state, self._detail = CoreState.READY, ""
            for client in self._clients.all():
                self._sender.send_in_order(client, welcome)

        self._post(become_ready)

    def begin_draining(self, state: CoreState = CoreState.DRAINING) -> None:
        """Refuse new requests from now on, and tell everybody at once; `DrainBegun` comes behind what was accepted.

        `state` may also be RETIRING, where the requests are for another core.
        """

        def begin_draining() -> None:
            self._enter(state)
            if state is CoreState.RETIRING:
                self._door.close_remote()
            self._inbox.put(DrainBegun())

        self._post(begin_draining)

    def end_draining(self) -> None:
        """Accept requests again, and tell everybody at once."""
        self._post(lambda: self._enter(CoreState.READY))

    def open_to_remote(self, remote: RemoteAccess) -> None:
        """Listen for other hosts, as soon as the core before this one does so no longer."""
        self._post(lambda: self._door.open_remote_when_free(remote))

    def publish_load(self) -> None:
        """Tell all clients at once, because the queue has become full, or is full no longer."""
        self._post(self._send_beats)

    def send_outputs(self, outputs: EngineCoreOutputs, load: Load) -> None:
        """Send what a step gave, one STEP for each client in it."""

        def send_outputs() -> None:
            self._load = load
            self._sender.deliver(outputs, self._clock.step, self._occupancy())

        self._post(send_outputs)

    @property
    def num_clients(self) -> int:
        """Clients that are connected."""
        return len(self._clients)

    def hand_back(self, requests: Iterable[Request]) -> None:
        """Tell the clients of requests of which nothing has run that these are for another core."""

        def hand_back() -> None:
            for request in requests:
                client = self._clients.by_slot(request.client_slot)
                if client is not None and client.live.pop(request.request_id, None) is not None:
                    self._reject(client, request.request_id)

        self._post(hand_back)

    def send_reply(self, client_slot: ClientSlot, reply: Reply) -> None:
        """Answer a control call."""

        def send_reply() -> None:
            client = self._clients.by_slot(client_slot)
            if client is not None:
                self._sender.send_in_order(client, reply)

        self._post(send_reply)

    def announce_death(self, reason: str) -> None:
        """Tell everybody that the core cannot go on; returns when they had time to read it."""

        def announce_death() -> None:
            self._state = CoreState.DYING
            self._sender.send_to_all(Dying(reason))

        self._post(announce_death)
        time.sleep(_LAST_WORDS_S)

    def stop(self, reason: str) -> None:
        """Say BYE to everybody, close the socket and end the thread; returns when that is done.

        Clients answer the BYE: a DEALER with IMMEDIATE drops what it has not read yet when its connection ends.
        """

        def stop() -> None:
            self._sender.send_to_all(Bye(reason))
            self._stop_at = time.monotonic() + _FAREWELL_S

        self._post(stop)
        self.join(timeout=2.0)
        if not self.is_alive():
            os.close(self._wake_fd)

    def _post(self, action: Callable[[], None]) -> None:
        self._outbox.append(action)
        os.eventfd_write(self._wake_fd, 1)

    # --- the thread ---

    def run(self) -> None:
        """Serve until `stop`, or until it fails."""
        try:
            self._serve()
        except Exception:  # the top of this thread
            log.exception("the I/O thread failed")
            self._on_failure()
        finally:
            self._lives.evict_all("the core stops")
            self._door.close()

    def _serve(self) -> None:
        next_beat_at = time.monotonic()
        while not self._is_over():
            is_retrying = self._sender.has_blocked_clients
            is_urgent = is_retrying or self._stop_at is not None
            wait_s = _RETRY_INTERVAL_S if is_urgent else max(0.0, next_beat_at - time.monotonic())
            self._on_events([source for source, _ in self._poller.poll(int(wait_s * 1000) + 1)])
            while self._outbox:
                self._outbox.popleft()()
            self._forgive_own_sleep()
            if is_retrying:
                self._sender.retry(self._clock.step, self._occupancy())
            if time.monotonic() >= next_beat_at:
                next_beat_at = time.monotonic() + BEAT_INTERVAL_S
                self._send_beats()
                self._lives.evict_silent(self._sender)
                self._dropped.tell_rest()
                self._door.report()

    def _is_over(self) -> bool:
        return self._stop_at is not None and (not self._clients.all() or time.monotonic() > self._stop_at)

    def _on_events(self, sources: list[object]) -> None:
        """Deaths first: what a socket brings may close a pidfd, whose number the next client then gets."""
        for source in sources:
            if source == self._wake_fd:
                os.eventfd_read(self._wake_fd)
            elif isinstance(source, int):
                client = self._clients.by_pidfd(source)
                if client is not None:
                    self._num_departures += 1
                    self._lives.evict(client, "its process ended")
        if self._socket in sources:
            self._receive()
        self._door.on_events(sources)

    def _receive(self) -> None:
        for _ in range(_MAX_MESSAGES_PER_WAKE):
            try:
                identity, *frames = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                self._on_frames(identity, frames)
            except zmq.ZMQError:
                raise
            except Exception:  # noqa: BLE001 - one client's message must not take the others with it; logged there
                self._dropped.add("it could not be handled", has_trace=True)

    def _on_frames(self, identity: bytes, frames: list[bytes]) -> None:
        try:
            if len(frames) != 1:
                raise ProtocolError(f"{len(frames)} frames")
            header = codec.decode_header(frames[0])
            if header.version != PROTOCOL_VERSION:
                detail = f"this core speaks version {PROTOCOL_VERSION}"
                self._sender.turn_away(identity, Bye("protocol_mismatch", detail))
            self._on_message(identity, codec.decode_client_message(frames[0]), header.epoch)
        except ProtocolError as error:
            self._dropped.add(error.message)

    def _on_message(self, identity: bytes, message: ClientMessage, epoch: int) -> None:
        client = self._clients.by_identity(identity)
        if isinstance(message, Hello):
            self._on_hello(identity, message, client)
            return
        if client is None or epoch != self._epoch:
            if isinstance(message, Bye):
                self._num_departures += 1
            else:
                self._dropped.add("from a client that has not said HELLO to this core")
                self._sender.turn_away(identity, Bye("unknown_client", "say HELLO first"))
            return
        client.heard_at = time.monotonic()
        match message:
            case Add():
                self._on_add(client, message)
            case Abort():
                self._inbox.put(self._aborts(client, message))
            case ClientBeat():
                self._reconciliation.on_beat(client, message)
            case Live():
                self._reconciliation.on_live(client, message)
            case Call():
                self._on_call(client, message)
            case ClientMetrics():
                self._on_metrics(client, message)
            case Bye():
                self._num_departures += 1
                self._lives.evict(client, f"it said good-bye ({message.reason})")

    # --- what clients say ---

    def _on_hello(self, identity: bytes, hello: Hello, client: Client | None) -> None:
        if client is not None and (client.live or client.num_steps_sent):  # it took this core for lost meanwhile
            self._lives.evict(client, "it begins anew")
            client = None
        if client is None:
            client = self._lives.try_register(identity, hello)
        if client is None:
            return
        client.heard_at = time.monotonic()
        if self._welcome is not None:
            self._sender.send_in_order(client, self._welcome)
        if self._state is not CoreState.READY:
            self._sender.send(client, self._beat())

    def _on_add(self, client: Client, add: Add) -> None:
        if not 1 <= add.request_id < 2**64 or add.request_id in client.live:
            raise ProtocolError(f"request id {add.request_id} is out of range or in use")
        if self._intake is None or self._state is not CoreState.READY:
            self._reject(client, add.request_id)
            return
        try:
            request = self._intake.accept(add, client.slot, client.role)
        except FastInferenceError as error:
            retry_after_s = error.retry_after_s if isinstance(error, QueueFullError) else 0
            reject = Reject(add.request_id, error.code, error.message, error.param or "", int(retry_after_s * 1000))
            self._sender.send_in_order(client, reject)
            return
        client.live[add.request_id] = request.key
        self._inbox.put(AddRequest(request))

    def _reject(self, client: Client, request_id: RequestId) -> None:
        code = _REFUSAL_CODES.get(self._state, "engine_unavailable")
        self._sender.send_in_order(client, Reject(request_id, code, "The engine is not accepting requests."))

    def _on_call(self, client: Client, call: Call) -> None:
        error = why_refused(call, client.role)
        if error or call.method is CallMethod.PING:
            self._sender.send_in_order(client, Reply(call.call_id, error=error))
        elif call.method is CallMethod.METRICS:
            self._sender.send_in_order(client, Reply(call.call_id, {**self._metric_values()}))
        elif call.method is CallMethod.TOKENIZER:
            self._sender.send_in_order(client, answer_tokenizer(call, self._welcome))
        else:
            self._inbox.put(ControlCall(client.slot, call))

    def _on_metrics(self, client: Client, report: ClientMetrics) -> None:
        num_left_out = self._metrics.reports.add(report)
        client.gauges = report.gauges
        if num_left_out:
            raise ProtocolError(f"{num_left_out} series of metrics more than are kept")

    def _metric_values(self) -> SeriesValues:
        stats = self._door.stats
        return self._metrics.values(
            self._occupancy(),
            self._clients.all(),
            step_age_s=self._clock.age_s,
            num_bad_messages=self.num_bad_messages,
            num_cut_connections=stats["num_cut_connections"],
            num_refused_keys=stats["num_refused_keys"],
        )

    @staticmethod
    def _aborts(client: Client, abort: Abort) -> AbortRequests:
        keys = tuple(client.live[item] for item in abort.request_ids if item in client.live)
        reason = abort.reason if abort.reason == DISCONNECT else ""
        return AbortRequests(keys, is_complete=abort.reason == STOP_STRING, reason=reason)

    # --- beats ---

    def _enter(self, state: CoreState) -> None:
        self._state = state
        self._send_beats()

    def _beat(self) -> CoreBeat:
        return CoreBeat(
            sequence=self._beat_sequence,
            state=self._state,
            step=self._clock.step,
            step_age_ms=int(self._clock.age_s * 1000),
            load=self._occupancy(),
            detail=self._detail,
            step_allowance_ms=int(self._clock.allowance_s * 1000),
        )

    def _occupancy(self) -> Load:
        """The load as of now, although a step may take long and has not told."""
        return self._load if self._admission is None else self._admission.occupancy(self._load)

    def _send_beats(self) -> None:
        self._beat_sequence += 1
        self._sender.send_to_all(self._beat())

    def _forgive_own_sleep(self) -> None:
        slept_s = self._lives.forgive_own_sleep()
        if slept_s:
            log.log(logging.DEBUG if self._welcome is None else logging.WARNING, "did not run for %.1f s", slept_s)
            self._clock.forgive(slept_s)
