"""`create_chat_completion` and `create_completion`: what the application answers over HTTP, without it."""

import asyncio

import httpx
import pytest

from fast_inference.core.engine import OpenAIServingEngine, create_universal_vllm_style_engine
from ipc.errors import InvalidRequestError, ModelNotFoundError
from tests.waiting import wait_until

FIELDS = {"temperature": 0.0, "max_tokens": 6, "ignore_eos": True}
CHAT = {"messages": [{"role": "user", "content": "hello"}], **FIELDS}


@pytest.fixture(scope="module")
def engine():
    with create_universal_vllm_style_engine("fake") as engine:
        yield engine


@pytest.fixture(scope="module")
def serving(engine):
    return OpenAIServingEngine(engine, "my-model")


def test_a_chat_is_answered(engine, serving):
    answer = asyncio.run(serving.create_chat_completion({"model": "my-model", **CHAT}))
    assert (answer["object"], answer["model"]) == ("chat.completion", "my-model")
    assert answer["choices"][0]["message"]["content"] == engine.chat(CHAT["messages"], **FIELDS)
    assert answer["usage"]["completion_tokens"] == 6


def test_chunks_are_the_whole(engine, serving):
    async def ask():
        chunks = await serving.create_chat_completion({**CHAT, "stream": True, "n": 2})
        return [chunk async for chunk in chunks]

    chunks = asyncio.run(ask())
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("chat.completion.chunk", "my-model")}
    for index in range(2):
        choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        assert text == engine.chat(CHAT["messages"], **FIELDS)
        assert choices[-1]["finish_reason"] == "length"


def test_completions_too(engine, serving):
    async def ask():
        answer = await serving.create_completion({"prompt": "one", **FIELDS})
        chunks = await serving.create_completion({"prompt": "one", "stream": True, **FIELDS})
        return answer["choices"][0]["text"], "".join([chunk["choices"][0]["text"] async for chunk in chunks])

    assert asyncio.run(ask()) == (engine.generate("one", **FIELDS),) * 2


@pytest.mark.parametrize("stream", [False, True])
def test_errors_come_before_any_chunk(serving, stream):
    with pytest.raises(ModelNotFoundError):
        asyncio.run(serving.create_chat_completion({"model": "other", "stream": stream, **CHAT}))
    with pytest.raises(InvalidRequestError) as caught:
        asyncio.run(serving.create_chat_completion({**CHAT, "stream": stream, "top_p": 3.0}))
    assert caught.value.param == "top_p"


def test_who_closes_the_chunks_stops_the_request(engine, serving):
    async def ask():
        endless = {**CHAT, "max_tokens": 4000, "stream": True}
        chunks = await serving.create_chat_completion(endless)
        await anext(chunks)
        await chunks.aclose()

    asyncio.run(ask())
    wait_until(lambda: not engine.client.state.client._cores.channels[0].link.session.requests)


def test_the_process_of_engine_and_application_is_counted_once(engine):
    """Its core is in it, and two clients of that: each once told of all its memory and CPU time."""

    async def scrape():
        app = OpenAIServingEngine(engine, "my-model").app
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x", timeout=20)
        async with app.router.lifespan_context(app), http:
            while (await http.get("/health")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            return (await http.get("/metrics")).text

    roles = [line.partition(" ")[0] for line in asyncio.run(scrape()).splitlines() if line.startswith("process_")]
    assert roles == ['process_cpu_seconds_total{core="0",role="core"}', 'process_resident_memory_bytes{role="core"}']
