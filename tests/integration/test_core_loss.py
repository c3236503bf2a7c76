"""A core that dies under open connections: answers go on where they stopped, or end in an error that says so."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.servers import Server
from tests.waiting import wait_until

QUESTIONS = [f"question number {number}" for number in range(8)]


def ask(client, question, *, max_tokens=150, **fields):
    """A stream with everything that a resumed answer must get right."""
    messages = [{"role": "user", "content": question}]
    fields = {"stream_options": {"include_usage": True}, "logprobs": True, "seed": 1, **fields}
    extra = {"ignore_eos": True}
    return client.chat.completions.create(
        model="fake", messages=messages, max_tokens=max_tokens, stream=True, extra_body=extra, **fields
    )


def read(stream):
    """Text, number of logprobs, finish reason and usage of a stream."""
    text, num_logprobs, finish_reason, usage = "", 0, None, None
    with stream:
        for chunk in stream:
            usage = chunk.usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                num_logprobs += len(choice.logprobs.content) if choice.logprobs else 0
                finish_reason = choice.finish_reason or finish_reason
    return text, num_logprobs, finish_reason, usage.completion_tokens, usage.prompt_tokens


def kill_core(server):
    pid = server.core_pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.core_pid not in (pid, None))


def test_streams_and_whole_answers_go_on_as_if_nothing_had_happened(fake_server):
    whole = {"model": "fake", "prompt": "whole", "max_tokens": 150, "extra_body": {"ignore_eos": True}}
    with fake_server.openai() as client, ThreadPoolExecutor(9) as pool:
        expected = [read(ask(client, question)) for question in QUESTIONS]
        expected_whole = client.completions.create(**whole).choices[0].text
        not_streamed = pool.submit(client.completions.create, **whole)
        streams = [ask(client, question) for question in QUESTIONS]
        readers = [pool.submit(read, stream) for stream in streams]
        kill_core(fake_server)
        assert [reader.result() for reader in readers] == expected
        assert not_streamed.result().choices[0].text == expected_whole
    with fake_server.connect() as core:
        assert core.session.load.num_free_blocks in (0, fake_server.num_blocks)  # 0: no STEP was heard yet


def test_a_pause_is_filled_with_comments_and_new_requests_are_refused_meanwhile(tmp_path):
    server = Server(tmp_path, "fake", "--fake-step-ms", "2", "--sse-ping-interval", "0.2")
    try:
        body = {"model": "fake", "prompt": "x", "max_tokens": 500, "ignore_eos": True, "stream": True}
        with server.http() as http, http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            os.kill(server.process.pid, signal.SIGSTOP)  # else there is a new core at once
            os.kill(server.core_pid, signal.SIGKILL)
            assert ": ping" in lines
            with server.http() as other:
                refused = other.post("/v1/completions", json=body)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert other.get("/health").status_code == 503
                assert other.get("/health/live").status_code == 200
            os.kill(server.process.pid, signal.SIGCONT)
            assert "data: [DONE]" in lines
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
        server.close()


def test_with_fail_a_stream_ends_in_an_error(tmp_path):
    server = Server(tmp_path, "fake", "--fake-step-ms", "2", "--on-core-loss", "fail")
    try:
        with server.openai() as client, ask(client, "?", max_tokens=3000) as stream:
            next(iter(stream))
            os.kill(server.core_pid, signal.SIGKILL)
            with pytest.raises(openai.APIError) as caught:
                read(stream)
        assert caught.value.code == "engine_restarted"
    finally:
        server.close()


def test_a_request_that_kills_the_core_is_tried_twice_and_harms_nobody(tmp_path):
    server = Server(tmp_path, "fake", "--fake-step-ms", "2", "--fake-faults", "poison@5")
    try:
        with server.openai() as client, ThreadPoolExecutor(4) as pool:
            expected = [read(ask(client, question)) for question in QUESTIONS[:4]]
            readers = [pool.submit(read, ask(client, question)) for question in QUESTIONS[:4]]
            poisonous = {"model": "fake", "prompt": "this is poison", "max_tokens": 10}
            for _ in range(3):  # the last two of them come to a server that knows it already
                with pytest.raises(openai.InternalServerError) as caught:
                    client.completions.create(**poisonous)
                assert caught.value.code == "request_quarantined"
                assert caught.value.response.headers["x-should-retry"] == "false"
            assert [reader.result() for reader in readers] == expected
        assert server.stderr.count("restart in") == 2
    finally:
        server.close()
