"""Cancelling by id between real frontends."""

import threading

import pytest

from tests.processes import stats
from tests.waiting import wait_until

LONG = {"model": "fake", "max_tokens": 3000, "ignore_eos": True}


@pytest.mark.alone  # on a busy machine either frontend may take both requests
@pytest.mark.parametrize("name", ["cmpl-far", "trace-far"])
def test_a_request_ends_through_a_frontend_that_does_not_know_it(fake_server, name):
    answers = []

    def ask():
        with fake_server.http() as http:
            headers = {"x-request-id": "trace-far"}
            body = {**LONG, "prompt": "a" * 300, "request_id": "far"}
            answers.append(http.post("/v1/completions", json=body, headers=headers))

    with fake_server.connect() as core:
        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: stats(core)["num_running"] == 1)
        with fake_server.http() as http:  # the frontend with fewer connections takes this one
            cancelled = http.post(f"/v1/requests/{name}/cancel")
        asking.join(10)
        assert (cancelled.status_code, cancelled.json()["num_cancelled"]) == (200, 1)
        assert answers[0].json()["choices"][0]["finish_reason"] == "abort"
        wait_until(lambda: stats(core)["num_running"] == 0, timeout_s=1)
        assert stats(core)["num_free_blocks"] == fake_server.num_blocks
    lines = fake_server.access_lines()
    served_by = {
        path: next(line.split()[3] for line in reversed(lines) if f" POST {path} " in line)
        for path in ("/v1/completions", f"/v1/requests/{name}/cancel")
    }
    assert len(set(served_by.values())) == 2, served_by


def test_streams_are_ended_from_either_frontend(fake_server):
    for _ in range(4):
        with fake_server.http() as http, fake_server.http() as other:
            body = {**LONG, "prompt": "b", "stream": True, "request_id": "flow"}
            with http.stream("POST", "/v1/completions", json=body) as stream:
                lines = stream.iter_lines()
                next(lines)
                assert other.delete("/v1/requests/cmpl-flow").status_code == 200
                events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        assert '"finish_reason":"abort"' in events[-2]
