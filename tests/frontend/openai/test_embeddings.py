"""How vectors are made and written, and what is left of the work when the client leaves."""

import asyncio
import base64
import json
import math
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message

from frontend.openai.chat_completions import OpenAIServingChat
from frontend.openai.embeddings import OpenAIServingEmbedding, encode_vector, shortened
from frontend.state import FrontendState
from ipc.messages import CallMethod
from tests.frontend.applications import application
from tests.processes import CoreProcess, core_process

SIZE = 16
"""Of the fake model's vectors."""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    """Computes 16 tokens in a step, so that longer texts are cut into chunks."""
    settings = {"max_num_batched_tokens": 16, "max_num_seqs": 4, "max_model_len": 256}
    with core_process(tmp_path_factory.mktemp("run"), **settings) as core:
        yield core


def embed(core: CoreProcess, *bodies: dict[str, Any], **headers: str) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with application(core.run_dir) as served:
            return [
                await served.http.post("/v1/embeddings", json={"model": "fake", **body}, headers=headers)
                for body in bodies
            ]

    return asyncio.run(run())


def vectors(answer: httpx.Response) -> list[list[float]]:
    assert answer.status_code == 200, answer.text
    return [item["embedding"] for item in answer.json()["data"]]


def test_base64_is_little_endian_float32():
    encoded = encode_vector([1.0, -0.5], "base64")
    assert isinstance(encoded, str)
    assert struct.unpack("<2f", base64.b64decode(encoded)) == (1.0, -0.5)


def test_float_is_plain_numbers():
    assert encode_vector([1.0, -0.5], "float") == [1.0, -0.5]


@pytest.mark.parametrize("dimensions", range(1, SIZE + 1))
def test_dimensions_are_the_first_components_scaled_to_length_one(core: CoreProcess, dimensions: int):
    whole, short = embed(core, {"input": ["a", "b"]}, {"input": ["a", "b"], "dimensions": dimensions})
    for vector, first in zip(vectors(whole), vectors(short), strict=True):
        assert math.hypot(*first) == pytest.approx(1)
        scale = math.hypot(*vector[:dimensions])
        assert first == pytest.approx([value / scale for value in vector[:dimensions]])


def test_dimensions_in_base64(core: CoreProcess):
    (answer,) = embed(core, {"input": "a", "dimensions": 3, "encoding_format": "base64"})
    (text,) = vectors(answer)
    assert isinstance(text, str)
    assert math.hypot(*struct.unpack("<3f", base64.b64decode(text))) == pytest.approx(1)


def test_a_vector_without_direction_stays_as_it_is():
    assert shortened([0.0, 0.0, 1.0], 2) == [0.0, 0.0]


TOKENS = list(range(100, 140))


@pytest.mark.parametrize(("limit", "kept"), [(1, 1), (39, 39), (40, 40), (41, 40), (256, 40), (-1, 40)])
def test_truncation_keeps_the_last_tokens(core: CoreProcess, limit: int, kept: int):
    expected, cut = embed(core, {"input": TOKENS[-kept:]}, {"input": TOKENS, "truncate_prompt_tokens": limit})
    assert vectors(cut) == vectors(expected)
    assert cut.json()["usage"] == {"prompt_tokens": kept, "total_tokens": kept}


@pytest.mark.parametrize("text", ["abcdefgh", [97, 98, 99, 100]])
@pytest.mark.parametrize("kept", [1, 3, 256])
def test_the_first_tokens_may_be_kept(core: CoreProcess, text: Any, kept: int):
    cut, expected = embed(
        core, {"input": text, "truncate_prompt_tokens": kept, "truncation_side": "right"}, {"input": text[:kept]}
    )
    assert vectors(cut) == vectors(expected)


def test_the_id_may_be_chosen(core: CoreProcess):
    chosen, other = embed(core, {"input": "a", "request_id": "mine"}, {"input": "a"})
    assert chosen.json()["id"] == "embd-mine"
    assert other.json()["id"].startswith("embd-")


@pytest.mark.parametrize("text", ["x" * 300, [120] * 300])
def test_minus_one_keeps_as_much_as_the_context_holds(core: CoreProcess, text: Any):
    cut, expected = embed(core, {"input": text, "truncate_prompt_tokens": -1}, {"input": text[:256]})
    assert cut.json()["usage"]["prompt_tokens"] == 256
    assert vectors(cut) == vectors(expected)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"dimensions": 0}, "dimensions", "invalid_value"),
        ({"dimensions": SIZE + 1}, "dimensions", "invalid_value"),
        ({"dimensions": 1.0}, "dimensions", "invalid_type"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "invalid_value"),
        ({"truncate_prompt_tokens": 257}, "truncate_prompt_tokens", "invalid_value"),
        ({"input": "x" * 257}, "input", "context_length_exceeded"),
        ({"input": ["a", [1]]}, "input", "invalid_type"),
        ({"input": [258]}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"timeout": 0}, "timeout", "invalid_value"),
        ({"truncation_side": "start"}, "truncation_side", "invalid_value"),
        ({"request_id": "a b"}, "request_id", "invalid_value"),
        ({"embed_dtype": "float16"}, "embed_dtype", "unsupported_parameter"),
        ({"endianness": "big"}, "endianness", "unsupported_parameter"),
        ({"normalize": False}, "normalize", "unsupported_parameter"),
        ({"use_activation": False}, "use_activation", "unsupported_parameter"),
        ({"input_type": "query"}, "input_type", "unsupported_parameter"),
    ],
)
def test_what_is_wrong_is_named(core: CoreProcess, body: dict[str, Any], param: str, code: str):
    (answer,) = embed(core, {"input": "a", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)


def test_mixed_lengths_equal_one_by_one_and_equal_inputs_each_other(core: CoreProcess):
    texts = ["a" * 100, "b", "c" * 17, "a" * 256, "b", "d" * 33]
    together, *alone = embed(core, {"input": texts}, *({"input": text} for text in texts))
    assert vectors(together) == [vectors(answer)[0] for answer in alone]
    assert together.json()["usage"]["prompt_tokens"] == sum(map(len, texts))


@pytest.mark.parametrize("pooling", ["last", "cls"])
def test_the_pooling_is_that_of_the_server(tmp_path: Path, core: CoreProcess, pooling: str):
    texts = ["ab" * 30, "ac" * 30]
    with core_process(tmp_path, pooling=pooling, max_num_batched_tokens=16, max_num_seqs=4) as other:
        (answer,) = embed(other, {"input": texts})
    (mean,) = embed(core, {"input": texts})
    first, second = vectors(answer)
    assert (first == second) == (pooling == "cls")
    assert first != vectors(mean)[0]


@pytest.mark.parametrize("headers", [{}, {"x-request-timeout": "0.05"}])
def test_the_time_limit_holds_for_the_whole_body(tmp_path: Path, headers: dict[str, str]):
    body: dict[str, Any] = {"input": [str(number) for number in range(40)]}
    with core_process(tmp_path, fake_step_ms=30, max_num_seqs=1) as slow:
        (answer,) = embed(slow, body if headers else {**body, "timeout": 0.05}, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


async def leave(serve: Callable[[Request], Awaitable[Response]], body: dict[str, Any], state: FrontendState) -> None:
    """Send a request and go as soon as it runs."""
    messages = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

    async def receive() -> Message:
        if (message := next(messages, None)) is not None:
            return message
        while not state.client._cores.channels[0].link.session.requests:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        await serve(Request({"type": "http", "method": "POST", "headers": []}, receive))


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (OpenAIServingEmbedding, {"input": [str(number) for number in range(200)]}),
        (OpenAIServingChat, {"messages": [{"role": "user", "content": "x"}], "n": 8, "max_tokens": 500}),
        (
            OpenAIServingChat,
            {"messages": [{"role": "user", "content": "x"}], "n": 8, "max_tokens": 500, "stream": True},
        ),
    ],
)
def test_a_client_that_leaves_stops_all_its_requests(tmp_path: Path, endpoint: Any, body: dict[str, Any]):
    async def run() -> None:
        async with application(core.run_dir) as served:
            body_and_model = {"model": "fake", "ignore_eos": True, **body}
            await leave(endpoint(served.state).serve, body_and_model, served.state)
            await asyncio.sleep(0)
            assert not served.state.client._cores.channels[0].link.session.requests
            async with asyncio.timeout(5):
                while (stats := await served.state.client.call(CallMethod.STATS))["num_running"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert stats["num_waiting"] == 0

    with core_process(tmp_path, fake_step_ms=200, max_num_seqs=4) as core:
        asyncio.run(run())
