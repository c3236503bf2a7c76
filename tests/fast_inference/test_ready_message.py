"""The ready line has the form that scripts wait for."""

import json
import shlex

from fast_inference.ready_message import example_request, ready_line, url_in_ready_line


def test_ready_line():
    assert ready_line("http://h:1", "m", 2, 9) == "ready: http://h:1 (model m, 2 frontends, 9 blocks)"
    assert ready_line("http://h:1", "m", 1, 9) == "ready: http://h:1 (model m, 1 frontend, 9 blocks)"
    assert ready_line("http://h:1", "m", 1, 9, 2) == "ready: http://h:1 (model m, 2 cores, 1 frontend, 9 blocks)"


def test_the_request_survives_the_shell_whatever_the_model_is_called():
    curl, url, *_, body = shlex.split(example_request("http://h:1", "it's a model"))
    assert (curl, url) == ("curl", "http://h:1/v1/chat/completions")
    assert json.loads(body)["model"] == "it's a model"


def test_the_request_to_a_model_without_text_asks_for_vectors():
    _, url, *_, body = shlex.split(example_request("http://h:1", "m", can_generate=False))
    assert url == "http://h:1/v1/embeddings"
    assert json.loads(body) == {"model": "m", "input": ["What is the capital of France?"]}


def test_the_url_is_found_in_a_ready_line_and_nowhere_else():
    assert url_in_ready_line(ready_line("http://h:1", "m", 2, 9) + "\n") == "http://h:1"
    assert url_in_ready_line("error: no ready: http://h:1 (model m") is None
    assert url_in_ready_line("") is None
