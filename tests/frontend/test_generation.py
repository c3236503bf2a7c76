"""Several answers side by side, against a core process with the fake model."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from frontend.generation import Generation
from frontend.input_processor import EngineInput
from frontend.output_processor import TextOptions
from frontend.state import FrontendState, ServedModel
from frontend.tokenizer import FrontendTokenizer
from ipc.client import EngineClient
from ipc.config import FrontendConfig
from ipc.endpoints import RunDir
from ipc.errors import EngineUnavailableError, QueueFullError
from ipc.messages import ClientRole
from ipc.sampling_params import SamplingParams


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDir]:
    """A running core that takes 5 ms for a step, runs 4 requests at once and lets 4 wait."""
    run_dir = RunDir(tmp_path_factory.mktemp("run"))
    run_dir.create()
    run_dir.config_file.write_text(
        json.dumps(
            {"model": "fake", "fake_step_ms": 5, "log_level": "error", "max_num_seqs": 4, "max_queued_requests": 4}
        )
    )
    core = subprocess.Popen([sys.executable, "-m", "engine_core", "--config", str(run_dir.config_file)])
    yield run_dir
    core.terminate()
    core.wait(timeout=10)


def with_client(run_dir: RunDir, use: Callable[[EngineClient, ServedModel], Awaitable[None]]) -> None:
    async def run() -> None:
        client = EngineClient(run_dir.core_socket, name="test", role=ClientRole.FRONTEND)
        await client.start()
        try:
            welcome = await client.wait_ready(20)
            tokenizer = FrontendTokenizer.load(Path(welcome.tokenizer_dir))
            await use(client, ServedModel(welcome, tokenizer, ("fake",)))
        finally:
            await client.close()

    asyncio.run(run())


def inputs(*prompts: str, max_tokens: int = 20) -> list[EngineInput]:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return [EngineInput(list(prompt.encode()), params) for prompt in prompts]


async def wait_for(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not is_true():  # noqa: ASYNC110  the core publishes its load; there is no event for it
            await asyncio.sleep(0.02)


async def wait_until_idle(client: EngineClient) -> None:
    await wait_for(lambda: client.load.num_running == client.load.num_waiting == 0)


def test_streaming_gives_the_texts_that_collecting_gives(run_dir: RunDir):
    async def use(client: EngineClient, model: ServedModel) -> None:
        prompts = inputs("one", "two", "three")
        whole = await Generation(client, model, prompts, TextOptions()).collect()
        streamed = Generation(client, model, prompts, TextOptions())
        await streamed.prime()
        texts = ["", "", ""]
        async for index, delta in streamed.deltas():
            texts[index] += delta.text
        assert texts == ["".join(answer.texts) for answer in whole]
        assert len(set(texts)) == 3
        assert [answer.num_output_tokens for answer in streamed.answers] == [20, 20, 20]

    with_client(run_dir, use)


def test_answers_come_side_by_side(run_dir: RunDir):
    async def use(client: EngineClient, model: ServedModel) -> None:
        generation = Generation(client, model, inputs("one", "two"), TextOptions())
        order = [index async for index, _ in generation.deltas()]
        assert order != sorted(order)

    with_client(run_dir, use)


def test_close_stops_every_answer_in_the_core(run_dir: RunDir):
    async def use(client: EngineClient, model: ServedModel) -> None:
        generation = Generation(client, model, inputs("one", "two", "three", max_tokens=2000), TextOptions())
        await generation.prime()
        generation.close()
        await wait_until_idle(client)
        assert all(answer.finish is None for answer in generation.answers)

    with_client(run_dir, use)


def test_a_stop_string_ends_the_answer_in_the_core(run_dir: RunDir):
    async def use(client: EngineClient, model: ServedModel) -> None:
        (whole,) = await Generation(client, model, inputs("one"), TextOptions()).collect()
        stop = "".join(whole.texts)[4:6]
        options = TextOptions(stop_strings=(stop,))
        (answer,) = await Generation(client, model, inputs("one", max_tokens=2000), options).collect()
        assert answer.finish is not None
        assert (answer.finish.reason, answer.finish.stop_reason) == ("stop", stop)
        assert answer.num_output_tokens < 20
        await wait_until_idle(client)

    with_client(run_dir, use)


def test_a_refusal_of_any_answer_is_known_before_the_first_output(run_dir: RunDir):
    async def use(client: EngineClient, model: ServedModel) -> None:
        generation = Generation(client, model, inputs(*(["x"] * 64), max_tokens=2000), TextOptions())
        with pytest.raises(QueueFullError):
            await generation.prime()
        generation.close()
        await wait_until_idle(client)

    with_client(run_dir, use)


def test_a_stream_begins_when_every_answer_has_begun(run_dir: RunDir):
    async def use(client: EngineClient, model: ServedModel) -> None:
        others = Generation(client, model, inputs("x", "y", max_tokens=20), TextOptions())
        await others.prime()
        generation = Generation(client, model, inputs(*"abcd", max_tokens=50), TextOptions())
        await generation.prime()  # two run at once and two when there is room
        assert [answer.num_output_tokens > 0 for answer in generation.answers] == [True] * 4
        generation.close()
        others.close()
        await wait_until_idle(client)

    with_client(run_dir, use)


def test_a_full_queue_refuses_before_anything_is_tokenized(run_dir: RunDir):
    async def use(client: EngineClient, model: ServedModel) -> None:
        state = FrontendState(FrontendConfig(), client, created_at=0)
        state.check_admission()
        prompts = inputs(*"abcd", max_tokens=2000)
        running = Generation(client, model, prompts, TextOptions())
        await running.prime()
        waiting = Generation(client, model, prompts, TextOptions())
        await wait_for(lambda: client.load.num_waiting == 4)
        with pytest.raises(QueueFullError):
            state.check_admission()
        running.close()
        waiting.close()
        await wait_until_idle(client)
        state.check_admission()

    with_client(run_dir, use)


def test_without_a_core_nothing_is_submitted(tmp_path: Path, model: ServedModel):
    async def run() -> None:
        client = EngineClient(tmp_path / "core.sock", name="test", role=ClientRole.FRONTEND)
        await client.start()
        with pytest.raises(EngineUnavailableError):
            Generation(client, model, inputs("one"), TextOptions())
        await client.close()

    asyncio.run(run())


def test_cached_tokens_are_known_even_if_a_stop_string_ends_the_answer(run_dir):
    async def use(client: EngineClient, model: ServedModel) -> None:
        prompt = inputs("the same long prompt " * 10, max_tokens=200)
        for expected in (0, 192):
            options = TextOptions(stop_strings=("e", "a", " ", "t", "o", "n"))
            generation = Generation(client, model, prompt, options)
            [answer] = await generation.collect()
            generation.close()
            assert (answer.finish.reason, answer.num_cached_tokens) == ("stop", expected)

    with_client(run_dir, use)
