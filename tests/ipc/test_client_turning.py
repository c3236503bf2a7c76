"""A client that turns from a core that retires to the next one; the test speaks for both cores."""

import asyncio

import pytest

from ipc import codec
from ipc.client import EngineClient
from ipc.core_link import CoreLink
from ipc.errors import EngineUnavailableError
from ipc.messages import Call, CallMethod, ClientRole, CoreBeat, CoreState, Dying, Load, RequestId
from ipc.request_options import new_add
from ipc.request_stream import RequestStream
from tests.factories import make_params, make_welcome


class Turning:
    """A client with one request, whose core retires while the next one is ready."""

    def __init__(self, folder):
        self.client = EngineClient(folder / "core.sock", name="test", role=ClientRole.FRONTEND)
        self.stream = RequestStream(new_add(RequestId(1), [1, 2], make_params()), self.client.abort)

    async def begin(self):
        await self.client.start()
        self.channel = self.client._cores.channels[0]
        self.before = self.channel.link
        self.say(self.before, make_welcome(epoch=1))
        self.before.session.requests[RequestId(1)] = self.stream
        self.say(self.before, CoreBeat(1, CoreState.RETIRING, 1, 0, Load(), ""))

    def turn(self, **fields):
        self.say(self.channel.next_link, make_welcome(epoch=2, **fields))

    def say(self, link, message):
        epoch = 1 if link is self.before else 2
        link.session.receive(codec.encode(message, epoch))
        self.channel._on_change(link)


def run(turning, conversation):
    async def converse():
        await turning.begin()
        await conversation()

    return asyncio.run(converse())


def test_a_request_of_a_core_that_dies_while_it_retires_does_not_hang(tmp_path):
    turning = Turning(tmp_path)

    async def conversation():
        turning.say(turning.before, Dying("a bug"))
        turning.turn()
        await turning.client.close()
        async with asyncio.timeout(1):
            with pytest.raises(EngineUnavailableError):
                await anext(turning.stream)

    run(turning, conversation)


def test_a_client_can_be_closed_while_it_lets_go_of_a_core(tmp_path):
    turning = Turning(tmp_path)

    async def conversation():
        turning.client.abort([RequestId(1)])
        turning.turn()
        before = turning.before
        await turning.client.close()
        assert before._socket.closed

    run(turning, conversation)


def test_a_client_may_be_closed_by_two_at_once(tmp_path):
    turning = Turning(tmp_path)

    async def conversation():
        await asyncio.gather(turning.client.close(), turning.client.close())

    run(turning, conversation)


def test_a_cancellation_reaches_the_next_core_before_the_requests_that_wait_for_it(tmp_path, monkeypatch):
    turning, called = Turning(tmp_path), []

    def send(link, message):
        if isinstance(message, Call):
            called.append(link)
        return True

    async def conversation():
        turning.client.prepare_model = lambda core: asyncio.sleep(60)
        turning.turn(model_fingerprint="other")
        monkeypatch.setattr(CoreLink, "send", send)
        with pytest.raises(EngineUnavailableError):
            await turning.client.call(CallMethod.CANCEL, {"id": "x"}, timeout_s=0.01)
        assert called == [turning.before, turning.channel.next_link]
        await turning.client.close()

    run(turning, conversation)
