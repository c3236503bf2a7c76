"""Closed loops keep their concurrency, open loops their times."""

import asyncio
import itertools
import time

import pytest

from fast_inference.bench.connection import Client
from fast_inference.bench.load import closed_loop, closed_loop_beside, open_loop, sustained_loop
from tests.scripted_server import PAUSE, ScriptedServer, completion_events, response

pytestmark = [pytest.mark.usefixtures("loaded_objects_stay_frozen"), pytest.mark.alone]

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


def test_others_are_sent_beside_a_closed_loop_until_it_is_over():
    def answer(request):
        return [*[PAUSE] * 10, response(completion_events(2 if "loop" in request.head else 5))]

    loop, other = (b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n" % name for name in (b"loop", b"other"))
    (looped, others), server = run(closed_loop_beside, answer, [loop] * 4, 2, itertools.repeat(other), 0.05)
    assert [request.output_tokens for request in looped.requests] == [2] * 4
    assert {request.output_tokens for request in others.requests} == {5}
    assert 1 <= len(others.requests) <= 1 + looped.duration_s / 0.05
    assert len(server.requests) == 4 + len(others.requests)
    began_at = looped.requests[0].sent_at
    sent_at = [request.sent_at - began_at for request in others.requests]
    assert all(at >= 0.05 * turn - 0.01 for turn, at in enumerate(sent_at, 1))
    assert max(sent_at) <= max(request.ended_at for request in looped.requests) - began_at


def test_a_sustained_loop_goes_on_for_its_time_and_gives_every_answer():
    taken = []
    began_at = time.perf_counter()
    _, server = run(sustained_loop, slow_answer, itertools.repeat(GET), 3, 0.2, taken.append)
    assert time.perf_counter() - began_at >= 0.2
    assert len(taken) == len(server.requests) > 3
    assert all(request.failure is None for request in taken)
    assert server.most_running == 3
