"""The blocking client of the engine core: what scripts, tools and tests hold.

The same conversation as `ipc.client`, driven by the caller: outputs arrive while it is inside `wait` or `generate`.
Requests whose core is lost end in an error.
"""

import itertools
import time
from array import array
from collections.abc import Sequence
from types import TracebackType
from typing import Unpack

import zmq

from ipc import codec
from ipc.endpoints import CoreAddress, connect_to_core
from ipc.errors import EngineUnavailableError, ServerError
from ipc.messages import (
    Abort,
    Bye,
    Call,
    CallMethod,
    ClientBeat,
    ClientMessage,
    ClientRole,
    CoreMessage,
    Reply,
    RequestId,
    Welcome,
)
from ipc.request_options import RequestOptions, new_add
from ipc.request_outputs import Output, RequestOutputs
from ipc.sampling_params import SamplingParams
from ipc.session import Session, own_hello

_HELLO_INTERVAL_S = 0.1
_BEAT_INTERVAL_S = 1.0


class SyncEngineClient:
    """A connection to the core for one thread; a context manager that says BYE at its end."""

    def __init__(self, address: CoreAddress, *, name: str, role: ClientRole = ClientRole.ADMIN) -> None:
        self.session = Session()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = connect_to_core(self._context, address)
        self._hello = own_hello(name, role, address)
        self._request_ids = itertools.count(1)
        self._last_call_id = 0
        self._beat_at = time.monotonic()

    def __enter__(self) -> "SyncEngineClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.send(Bye("closed"))
        self._socket.close(linger=100)
        self._context.term()

    def wait_ready(self, timeout_s: float) -> Welcome:
        """Say HELLO until the core welcomes us.

        Raises:
            EngineUnavailableError: it did not within the time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.session.is_ready:
            if time.monotonic() > deadline:
                raise EngineUnavailableError(f"the engine is not ready: {self.session.detail or 'no answer'}")
            is_sent = self.session.is_welcomed or self.send(self._hello)
            if not is_sent:
                self._socket.poll(int(_HELLO_INTERVAL_S * 1000), zmq.POLLOUT)  # until it is connected
            self.wait(_HELLO_INTERVAL_S if is_sent else 0)
        assert self.session.welcome is not None
        return self.session.welcome

    def submit(
        self,
        prompt_token_ids: Sequence[int],
        sampling_params: SamplingParams,
        **options: Unpack[RequestOptions],
    ) -> RequestOutputs:
        """Hand a request to the core; its outputs arrive during `wait`.

        Raises:
            EngineUnavailableError: its socket accepts nothing.
        """
        request_id = RequestId(next(self._request_ids))
        add = new_add(request_id, prompt_token_ids, sampling_params, **options)
        if not self.send(add):
            raise EngineUnavailableError("the engine accepts no messages at the moment")
        request = self.session.requests[request_id] = RequestOutputs(add)
        return request

    def generate(
        self, prompt_token_ids: Sequence[int], sampling_params: SamplingParams, timeout_s: float = 60.0
    ) -> Output:
        """Run one request to its end; raises its error, or `EngineUnavailableError` after the time."""
        return self.collect(self.submit(prompt_token_ids, sampling_params), timeout_s)

    def collect(self, request: RequestOutputs, timeout_s: float = 60.0) -> Output:
        """Wait for the end of a request and return all that is unread of it."""
        deadline = time.monotonic() + timeout_s
        whole = Output()
        while whole.finished is None:
            output = request.try_take()
            if output is not None:
                whole.extend(output)
            elif time.monotonic() > deadline:
                self.abort(request.request_id)
                raise EngineUnavailableError(f"no end within {timeout_s} s")
            else:
                self.wait(0.1)
        return whole

    def abort(self, request_id: RequestId) -> None:
        """Stop a request."""
        if self.session.requests.pop(request_id, None) is not None:
            self.send(Abort(array("Q", [request_id])))

    def call(
        self, method: CallMethod, arguments: dict[str, int | str] | None = None, timeout_s: float = 5.0
    ) -> dict[str, int | float | str]:
        """Make a control call; raises `ServerError` for its error, `EngineUnavailableError` after the time."""
        self._last_call_id += 1
        self.send(Call(self._last_call_id, method, arguments or {}))
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for message in self.wait(0.1):
                if isinstance(message, Reply) and message.call_id == self._last_call_id:
                    if message.error:
                        raise ServerError(message.error)
                    return message.result
        raise EngineUnavailableError(f"no answer to {method.name} in {timeout_s} s")

    def send(self, message: ClientMessage) -> bool:
        """Send without blocking; False while the core is away or its queue is full."""
        try:
            self._socket.send(codec.encode(message, self.session.epoch), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def wait(self, timeout_s: float) -> list[CoreMessage]:
        """Take in what has arrived, waiting at most this long for the first message."""
        if self.session.is_ready and time.monotonic() - self._beat_at > _BEAT_INTERVAL_S:
            self._beat_at = time.monotonic()
            self.send(ClientBeat(0, len(self.session.requests)))
        messages: list[CoreMessage] = []
        while self._socket.poll(0 if messages else int(timeout_s * 1000)):
            try:
                message = self.session.receive(self._socket.recv(zmq.DONTWAIT))
            except zmq.Again:  # its connection ended meanwhile, and took it along
                break
            for answer in self.session.answers_to(message):
                self.send(answer)
            if self.session.lost_request_ids and self.send(Abort(array("Q", self.session.lost_request_ids))):
                self.session.lost_request_ids.clear()
            for orphan in self.session.take_orphans():
                orphan.fail(self.session.loss)
            if message is not None:
                messages.append(message)
        return messages
