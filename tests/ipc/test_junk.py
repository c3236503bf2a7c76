"""Both ends of a connection against `tests/junk_frames.py`."""

import itertools
import logging

import pytest
import zmq

from ipc import codec
from ipc.endpoints import make_core_socket
from ipc.errors import ProtocolError
from ipc.messages import ClientRole, Hello
from ipc.session import Session
from ipc.sync_client import SyncEngineClient
from tests.factories import make_welcome
from tests.junk_frames import _KINDS, _stale, hello_of_version, junk_messages


def single_frames(seed, count):
    """So many junk messages of one frame."""
    messages = (frames for frames in junk_messages(seed, 2 * count) if len(frames) == 1)
    return [data for [data] in itertools.islice(messages, count)]


def test_a_core_decodes_no_junk_but_what_is_stale():
    of_an_earlier_core = _KINDS.index(_stale)
    for number, frames in enumerate(junk_messages(seed=4, count=2000)):
        if number % len(_KINDS) == of_an_earlier_core and number % 1000 != 999:
            codec.decode_client_message(*frames)
        elif len(frames) == 1:  # others are dropped for that (test_process.py)
            with pytest.raises(ProtocolError):
                codec.decode_client_message(*frames)


def test_a_client_drops_junk_and_counts_it(caplog):
    session = Session()
    session.receive(codec.encode(make_welcome(epoch=5), 5))
    with caplog.at_level(logging.WARNING):
        for data in single_frames(seed=3, count=2000):
            assert session.receive(data) is None
    assert (session.num_bad_messages, session.is_ready) == (2000, True)
    assert len(caplog.records) < 20


def test_a_client_that_hears_junk_from_its_core_goes_on(tmp_path):
    with zmq.Context() as context, SyncEngineClient(tmp_path / "core.sock", name="client") as client:
        router = make_core_socket(context)
        router.bind(f"ipc://{tmp_path / 'core.sock'}")
        client.wait(0.1)
        while not router.poll(50):
            client.send(Hello("client", ClientRole.FRONTEND, 0, 0, 0))
        identity = router.recv_multipart()[0]
        for data in single_frames(seed=8, count=500):
            router.send_multipart([identity, data])
        router.send_multipart([identity, codec.encode(make_welcome(epoch=5), 5)])
        assert client.wait_ready(10).epoch == 5
        assert client.session.num_bad_messages == 500
        router.close(linger=0)


def test_a_hello_of_another_version_names_both():
    with pytest.raises(ProtocolError, match="protocol version 99, this side speaks 2"):
        codec.decode_client_message(hello_of_version(99))
