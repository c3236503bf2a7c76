"""The listening socket: one owner for a port, and clear refusals."""

import socket
import time

import pytest

from fast_inference.listener import bind_listener, bind_listeners, local_url_of, port_of, url_of
from ipc.errors import ConfigError


def test_port_0_takes_a_free_one_that_accepts_connections_at_once():
    with bind_listener("127.0.0.1", 0) as listener:
        socket.create_connection(("127.0.0.1", port_of(listener)), timeout=1).close()


def test_a_taken_port_is_refused_in_less_than_two_seconds():
    with bind_listener("127.0.0.1", 0) as listener:
        port, started = port_of(listener), time.monotonic()
        with pytest.raises(ConfigError, match=rf"^port {port} on 127.0.0.1 is in use \(use another --port"):
            bind_listener("127.0.0.1", port)
    assert time.monotonic() - started < 2


def test_a_port_that_was_just_left_can_be_taken_again():
    with bind_listener("127.0.0.1", 0) as listener:
        port = port_of(listener)
        with socket.create_connection(("127.0.0.1", port)) as client:
            listener.accept()[0].close()  # leaves the server's side in TIME_WAIT
            assert client.recv(1) == b""
    bind_listener("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7", "a..b"])
def test_a_host_that_is_not_here_is_one_line(host):
    with pytest.raises(ConfigError, match="cannot listen on") as caught:
        bind_listener(host, 0)
    assert "\n" not in caught.value.message


def test_several_ports_follow_one_another_or_are_free_ones():
    free = bind_listeners("127.0.0.1", 0, 3)
    ports = [port_of(listener) for listener in free]
    for listener in free:
        listener.close()
    assert len(set(ports)) == 3


def test_where_one_of_several_ports_is_taken_none_is_kept():
    with bind_listener("127.0.0.1", 0) as taken:
        port = port_of(taken)
        with pytest.raises(ConfigError, match=rf"^port {port} on 127.0.0.1 is in use \(use another --port"):
            bind_listeners("127.0.0.1", port - 1, 2)
    bind_listener("127.0.0.1", port - 1).close()


def test_urls():
    assert url_of("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert url_of("::1", 80) == "http://[::1]:80"
    assert local_url_of("0.0.0.0", 80) == "http://localhost:80"
