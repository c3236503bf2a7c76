"""Exchanges with servers that keep, close and break their connections."""

import asyncio

from fast_inference.bench.connection import Client
from tests.scripted_server import CLOSE, PAUSE, ScriptedServer, response, stream_head

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def exchanges(answer, count=1, **options):
    """So many exchanges one after the other, and the server."""

    async def run():
        async with ScriptedServer(answer) as server, Client("127.0.0.1", server.port, **options) as client:
            return [await client.exchange(GET) for _ in range(count)], server

    return asyncio.run(run())


def test_pieces_of_a_body_have_their_times():
    (exchange,), _ = exchanges(lambda _: [response(b"abcd")[:-2], PAUSE, b"cd"])
    assert (exchange.failure, exchange.status, bytes(exchange.body)) == (None, 200, b"abcd")
    assert list(exchange.piece_ends) == [2, 4]
    assert exchange.sent_at < exchange.piece_times[0] < exchange.piece_times[1]


def test_a_connection_is_kept_and_used_again():
    done, server = exchanges(lambda _: [response(b"a")], 3)
    assert [bytes(exchange.body) for exchange in done] == [b"a"] * 3
    assert server.num_connections == 1


def test_without_keep_alive_each_request_has_its_connection():
    _, server = exchanges(lambda _: [response(b"a")], 3, keep_alive=False)
    assert server.num_connections == 3


def test_a_server_that_says_it_closes_is_believed():
    _, server = exchanges(lambda _: [response(b"a", "200 OK", "connection: close"), CLOSE], 2)
    assert server.num_connections == 2


def test_a_kept_connection_that_was_closed_is_replaced_and_nothing_fails():
    done, server = exchanges(lambda _: [response(b"a"), CLOSE], 3)
    assert [exchange.failure for exchange in done] == [None] * 3
    assert server.num_connections == 3


def test_a_kept_connection_that_closes_on_the_next_request_is_replaced_and_nothing_fails():
    done, server = exchanges(lambda request: [CLOSE] if request.number == 1 else [response(b"a")], 2)
    assert [exchange.failure for exchange in done] == [None] * 2
    assert (server.num_connections, len(server.requests)) == (2, 3)


def test_a_body_without_a_length_ends_with_the_connection():
    (exchange,), _ = exchanges(lambda _: [stream_head(), b"ab", PAUSE, b"c", CLOSE])
    assert (exchange.failure, bytes(exchange.body)) == (None, b"abc")


def test_a_chunked_body_is_put_together():
    head = stream_head("transfer-encoding: chunked")
    done, server = exchanges(lambda _: [head + b"2\r\nab\r\n", PAUSE, b"1\r\nc\r\n0\r\n\r\n"], 2)
    assert [bytes(exchange.body) for exchange in done] == [b"abc"] * 2
    assert server.num_connections == 1


def test_a_response_that_is_cut_is_a_failure_and_not_asked_for_again():
    (first, second), server = exchanges(
        lambda request: [response(b"a")] if request.number == 0 else [response(b"abcd")[:-2], CLOSE], 2
    )
    assert first.failure is None
    assert second.failure is not None
    assert second.failure.reason == "connection closed"
    assert len(server.requests) == 2


def test_a_new_connection_that_closes_without_an_answer_is_a_failure():
    (exchange,), server = exchanges(lambda _: [CLOSE])
    assert exchange.failure is not None
    assert exchange.failure.reason == "connection closed"
    assert len(server.requests) == 1


def test_what_is_not_http_is_a_failure():
    (exchange,), _ = exchanges(lambda _: [b"SSH-2.0-OpenSSH\r\n"])
    assert exchange.failure is not None
    assert exchange.failure.reason == "not HTTP"


def test_a_server_that_does_not_answer_in_time_is_a_failure_and_its_connection_is_left():
    (first, second), server = exchanges(
        lambda request: [response(b"a")[:-1], *[PAUSE] * 100] if request.number == 0 else [response(b"a")],
        2,
        timeout_s=0.1,
    )
    assert first.failure is not None
    assert (first.failure.reason, second.failure) == ("timeout", None)
    assert server.num_connections == 2


def test_nobody_listening_is_a_failure():
    async def run():
        async with ScriptedServer(lambda _: []) as server:
            port = server.port
        async with Client("127.0.0.1", port) as client:
            return await client.exchange(GET)

    failure = asyncio.run(run()).failure
    assert failure is not None
    assert failure.reason == "connection refused"


def test_a_host_without_an_address_is_a_failure():
    async def run():
        async with Client("no-such-host.invalid", 80) as client:
            return await client.exchange(GET)

    failure = asyncio.run(run()).failure
    assert failure is not None
    assert failure.reason == "connection failed"
