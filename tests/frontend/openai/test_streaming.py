"""SSE: chunks are the JSON that OpenAI sends, and `[DONE]` means complete."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message

from frontend.errors import ERROR_CODE_SCOPE_KEY
from frontend.openai.streaming import DONE, ChunkEncoder, Events, EventStreamResponse
from ipc.errors import RequestFailedError

HEAD = {"id": "x-1", "object": "chunk", "created": 1, "model": "m"}


def data_of(item: bytes) -> Any:
    assert item.startswith(b"data: ")
    assert item.endswith(b"\n\n")
    return json.loads(item[6:])


@pytest.mark.parametrize("text", ["plain", 'quote " \\ \n\u2028', "👩‍👩‍👧", "\x00", "data: [DONE]\n\n"])
def test_a_text_chunk_is_what_a_json_encoder_writes(text: str):
    chat = ChunkEncoder(HEAD, ("delta", "content"), has_usage=False)
    choice = {"index": 3, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    item = chat.text(3, text)
    assert data_of(item) == {**HEAD, "choices": [choice]}
    assert item.count(b"\n") == 2


def test_a_completion_chunk_keeps_its_text_in_the_choice():
    encoder = ChunkEncoder(HEAD, ("text",), has_usage=False)
    assert data_of(encoder.text(0, "a"))["choices"][0]["text"] == "a"


def test_usage_is_null_in_all_chunks_but_the_last():
    encoder = ChunkEncoder(HEAD, ("text",), has_usage=True)
    assert data_of(encoder.text(0, "a"))["usage"] is None
    assert data_of(encoder.choice(0, {}))["usage"] is None
    assert data_of(encoder.usage({"total_tokens": 1})) == {**HEAD, "choices": [], "usage": {"total_tokens": 1}}


def test_continuous_usage_is_in_the_text_chunk():
    encoder = ChunkEncoder(HEAD, ("text",), has_usage=True)
    assert data_of(encoder.text(0, "a", {"total_tokens": 2}))["usage"] == {"total_tokens": 2}


def respond(events: Events, *, leaves_after: int | None = None) -> tuple[list[Message], int]:
    """Messages that the response sends, and how often it called `close`; the client may leave after some of them."""
    sent: list[Message] = []
    closed: list[bool] = []

    async def run() -> None:
        is_gone = asyncio.Event()

        async def receive() -> Message:
            await is_gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)
            if len(sent) == leaves_after:
                is_gone.set()
            await asyncio.sleep(0)

        await EventStreamResponse(events, lambda: closed.append(True))({"type": "http"}, receive, send)

    asyncio.run(run())
    return sent, len(closed)


async def failing(error: Exception) -> Events:
    yield b"data: 1\n\n"
    raise error


def test_a_stream_ends_with_done_and_closes():
    async def events() -> Events:
        yield b"data: 1\n\n"
        yield DONE

    sent, num_closed = respond(events())
    assert b"".join(message.get("body", b"") for message in sent) == b"data: 1\n\n" + DONE
    assert sent[-1]["more_body"] is False
    assert num_closed == 1


@pytest.mark.parametrize(
    ("error", "code"), [(RequestFailedError("x", code="nan_logits"), "nan_logits"), (KeyError("x"), "internal_error")]
)
def test_a_failure_is_one_error_event_without_done(error: Exception, code: str):
    sent, num_closed = respond(failing(error))
    assert data_of(sent[-1]["body"])["error"]["code"] == code
    assert sent[-1]["more_body"] is False
    assert DONE not in [message.get("body") for message in sent]
    assert num_closed == 1


def test_when_the_client_leaves_the_stream_is_closed():
    async def endless() -> Events:
        while True:
            yield b"data: 1\n\n"

    sent, num_closed = respond(endless(), leaves_after=5)
    assert 5 <= len(sent) < 20
    assert num_closed == 1


def test_cancelled_while_waiting_it_says_so():
    sent: list[Message] = []
    is_waiting = asyncio.Event()

    async def forever() -> Events:
        yield b"data: 1\n\n"
        is_waiting.set()
        await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        response = asyncio.create_task(EventStreamResponse(forever(), lambda: None)(scope, receive, send))
        await is_waiting.wait()
        response.cancel()
        await response

    scope = {"type": "http"}
    asyncio.run(run())
    assert data_of(sent[-1]["body"])["error"]["code"] == scope[ERROR_CODE_SCOPE_KEY] == "shutting_down"
