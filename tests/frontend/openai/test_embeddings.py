"""How vectors are written, and what is left of the work when the client leaves."""

import asyncio
import base64
import json
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message

from frontend.openai.chat_completions import OpenAIServingChat
from frontend.openai.embeddings import OpenAIServingEmbedding, encode_vector
from frontend.state import FrontendState
from ipc.messages import CallMethod
from tests.frontend.applications import application
from tests.processes import core_process


def test_base64_is_little_endian_float32():
    encoded = encode_vector([1.0, -0.5], "base64")
    assert isinstance(encoded, str)
    assert struct.unpack("<2f", base64.b64decode(encoded)) == (1.0, -0.5)


def test_float_is_plain_numbers():
    assert encode_vector([1.0, -0.5], "float") == [1.0, -0.5]


async def leave(serve: Callable[[Request], Awaitable[Response]], body: dict[str, Any], state: FrontendState) -> None:
    """Send a request and go as soon as it runs."""
    messages = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

    async def receive() -> Message:
        if (message := next(messages, None)) is not None:
            return message
        while not state.client._session.requests:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        await serve(Request({"type": "http", "method": "POST", "headers": []}, receive))


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (OpenAIServingEmbedding, {"input": ["abc"] * 200}),
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
            assert not served.state.client._session.requests
            async with asyncio.timeout(5):
                while (stats := await served.state.client.call(CallMethod.STATS))["num_running"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert stats["num_waiting"] == 0

    with core_process(tmp_path, fake_step_ms=200, max_num_seqs=4) as core:
        asyncio.run(run())
