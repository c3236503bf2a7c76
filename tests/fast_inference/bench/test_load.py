"""Closed loops keep their concurrency, open loops their times."""

import asyncio

from fast_inference.bench.connection import Client
from fast_inference.bench.load import closed_loop, open_loop
from tests.scripted_server import PAUSE, ScriptedServer, completion_events, response

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def slow_answer(request):
    return [PAUSE, response(completion_events(2 + request.number))]


def run(loop, answer, *arguments):
    async def measure():
        async with ScriptedServer(answer) as server, Client("127.0.0.1", server.port) as client:
            return await loop(client, *arguments), server

    return asyncio.run(measure())


def test_a_closed_loop_answers_all_and_never_has_more_under_way():
    result, server = run(closed_loop, slow_answer, [GET] * 10, 3)
    assert [request.failure for request in result.requests] == [None] * 10
    assert (server.most_running, server.num_connections) == (3, 3)


def test_results_are_in_the_order_of_the_requests():
    result, _ = run(closed_loop, slow_answer, [GET] * 4, 1)
    assert [request.output_tokens for request in result.requests] == [2, 3, 4, 5]


def test_an_open_loop_sends_at_its_times_whatever_is_under_way():
    def never_soon(request):
        return [*[PAUSE] * 20, response(completion_events(2))]

    arrivals_s = [0.0, 0.0, 0.03, 0.05]
    result, server = run(open_loop, never_soon, [GET] * 4, arrivals_s)
    first = result.requests[0].sent_at
    delays_s = [request.sent_at - first for request in result.requests]
    assert all(sent >= due - 0.01 for sent, due in zip(delays_s, arrivals_s, strict=True))
    assert server.most_running == 4


def test_the_duration_lasts_to_the_end_of_the_last_answer():
    result, _ = run(closed_loop, slow_answer, [GET] * 3, 1)
    first, last = result.requests[0], result.requests[-1]
    assert last.ended_at - first.sent_at <= result.duration_s
    assert result.cpu_s > 0
