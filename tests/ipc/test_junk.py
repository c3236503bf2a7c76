"""Both ends of a connection against `tests/junk_frames.py`."""

import logging

import pytest

from ipc import codec
from ipc.errors import ProtocolError
from ipc.session import Session
from tests.factories import make_welcome
from tests.junk_frames import _KINDS, _stale, hello_of_version, junk_messages


def test_a_core_decodes_no_junk_but_what_is_stale():
    of_an_earlier_core = _KINDS.index(_stale)
    for number, frames in enumerate(junk_messages(seed=4, count=2000)):
        if number % len(_KINDS) == of_an_earlier_core and number % 1000 != 999:
            codec.decode_client_message(frames)
        else:
            with pytest.raises(ProtocolError):
                codec.decode_client_message(frames)


def test_a_client_drops_junk_and_counts_it(caplog):
    session = Session()
    session.receive(codec.encode(make_welcome(epoch=5), 5))
    with caplog.at_level(logging.WARNING):
        for frames in junk_messages(seed=3, count=2000):
            assert session.receive(frames) is None
    assert (session.num_bad_messages, session.is_ready) == (2000, True)
    assert len(caplog.records) < 20


def test_a_hello_of_another_version_names_both():
    with pytest.raises(ProtocolError, match="protocol version 99, this side speaks 1"):
        codec.decode_client_message(hello_of_version(99))
