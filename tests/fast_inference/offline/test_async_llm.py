"""`AsyncLLM`: the same answers, awaited and streamed, and cancelled."""

import asyncio
from contextlib import aclosing

import pytest

from fast_inference import AsyncLLM, SamplingParams
from ipc.errors import EngineUnavailableError, InvalidRequestError
from tests.waiting import wait_until

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def async_llm():
    llm = AsyncLLM("fake", max_num_seqs=8)
    yield llm
    llm.close()


def texts(outputs):
    return [output.outputs[0].text for output in outputs]


def test_answers_are_those_of_the_synchronous_one(llm, async_llm):
    async def ask():
        return (
            await async_llm.generate(["one", "two"], GREEDY),
            await async_llm.chat(HELLO, GREEDY),
            await async_llm.embed(["one"]),
        )

    generated, chatted, embedded = asyncio.run(ask())
    assert texts(generated) == texts(llm.generate(["one", "two"], GREEDY))
    assert texts(chatted) == texts(llm.chat(HELLO, GREEDY))
    assert embedded[0].outputs == llm.embed(["one"])[0].outputs


def test_a_stream_keeps_the_engine():
    async def ask():
        return [piece async for piece in (await AsyncLLM.start("fake")).stream("one", GREEDY)]

    assert asyncio.run(ask())


def test_prompts_may_come_from_an_asynchronous_iterable(async_llm):
    async def prompts():
        for number in range(50):
            yield f"prompt {number}"

    async def ask():
        return [output.prompt async for output in async_llm.generate_each(prompts(), GREEDY)]

    assert asyncio.run(ask()) == [f"prompt {number}" for number in range(50)]


@pytest.mark.parametrize("num_logprobs", [None, 1])
def test_pieces_are_the_whole(async_llm, num_logprobs):
    params = SamplingParams(temperature=0.0, max_tokens=9, n=2, ignore_eos=True, logprobs=num_logprobs)

    async def ask():
        pieces = [piece async for piece in async_llm.stream("one", params)]
        return pieces, await async_llm.generate("one", params)

    pieces, [whole] = asyncio.run(ask())
    for answer in whole.outputs:
        own = [piece for piece in pieces if piece.index == answer.index]
        assert "".join(piece.text for piece in own) == answer.text
        assert [token_id for piece in own for token_id in piece.token_ids] == answer.token_ids
        assert [piece.finish_reason for piece in own] == [None] * (len(own) - 1) + ["length"]
        if num_logprobs is not None:
            assert [entries for piece in own for entries in piece.logprobs] == answer.logprobs


def test_a_chat_is_streamed_too(llm, async_llm):
    async def ask():
        return "".join([piece.text async for piece in async_llm.stream_chat(HELLO, GREEDY)])

    assert [asyncio.run(ask())] == texts(llm.chat(HELLO, GREEDY))


def test_what_is_wrong_is_raised(async_llm):
    async def ask():
        with pytest.raises(InvalidRequestError):
            await async_llm.generate("one", SamplingParams(top_p=2.0))
        with pytest.raises(InvalidRequestError):
            await anext(async_llm.stream("one", SamplingParams(top_p=2.0)))

    asyncio.run(ask())


def test_cancelling_and_leaving_stop_the_requests(async_llm):
    endless = SamplingParams(max_tokens=4000, ignore_eos=True)
    requests = async_llm._client.state.client._cores.channels[0].link.session.requests

    async def ask():
        generating = asyncio.create_task(async_llm.generate(["one", "two"], endless))
        await asyncio.to_thread(wait_until, lambda: requests)
        generating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await generating
        async with aclosing(async_llm.stream("one", endless)) as pieces:
            await anext(pieces)

    asyncio.run(ask())
    wait_until(lambda: not requests)


def test_it_starts_beside_the_event_loop_and_ends_with_its_block():
    async def ask():
        async with await AsyncLLM.start("fake") as llm:
            await llm.generate("one", GREEDY)
        return llm

    with pytest.raises(EngineUnavailableError, match="closed"):
        asyncio.run(asyncio.run(ask()).generate("one"))
