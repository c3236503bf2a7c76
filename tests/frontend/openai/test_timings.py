"""How long an answer took: the field `timings` of each API, and the header `Server-Timing`."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from frontend.generation import Answer
from frontend.openai.timings import AnswerTimings, timings_of
from ipc.request_outputs import PhaseTimes
from tests.frontend.applications import application
from tests.processes import CoreProcess, core_process

CHAT, COMPLETION, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
TURN = {"role": "user", "content": "x" * 40}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [TURN], "max_tokens": 4, "ignore_eos": True},
    COMPLETION: {"prompt": "x" * 40, "max_tokens": 4, "ignore_eos": True},
    RESPONSES: {"input": "x" * 40, "max_output_tokens": 4, "ignore_eos": True},
    MESSAGES: {"messages": [TURN], "max_tokens": 4, "ignore_eos": True},
}
FIELDS = {
    "queue_ms",
    "prefill_ms",
    "ttft_ms",
    "decode_ms",
    "decode_tokens_per_second",
    "prompt_tokens_per_second",
    "cached_tokens",
    "prompt_n",
    "predicted_n",
    "cores",
}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    with core_process(tmp_path_factory.mktemp("run"), fake_step_ms=2) as core:
        yield core


def post(core: CoreProcess, path: str, settings: dict[str, Any] | None = None, **fields: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with application(core.run_dir, **(settings or {})) as served:
            return await served.http.post(path, json={"model": "fake"} | BODIES[path] | fields)

    answer = asyncio.run(run())
    assert answer.status_code == 200, answer.text
    return answer


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(data) for data in re.findall(r"^data: (\{.*)$", answer.text, re.MULTILINE)]


def check(timings: dict[str, Any], num_tokens: int = 4, num_answers: int = 1) -> None:
    """A step takes 2 ms, so this is the least that it can have taken."""
    assert set(timings) == FIELDS
    assert timings["predicted_n"] == num_tokens * num_answers
    assert timings["cores"] == ["0"]
    assert timings["prefill_ms"] >= 2
    assert timings["decode_ms"] >= 2 * (num_tokens - 1)
    assert timings["ttft_ms"] == pytest.approx(timings["queue_ms"] + timings["prefill_ms"])
    assert 0 < timings["decode_tokens_per_second"] <= num_answers * 1000 / 2
    assert timings["prompt_n"] + timings["cached_tokens"] >= 40
    assert timings["prompt_tokens_per_second"] > 0


@pytest.mark.parametrize("path", BODIES)
def test_a_whole_answer_has_timings_where_asked(core: CoreProcess, path: str):
    check(post(core, path, timings=True).json()["timings"])
    assert "timings" not in post(core, path).json()


@pytest.mark.parametrize("path", BODIES)
def test_a_whole_answer_says_its_times_in_a_header(core: CoreProcess, path: str):
    answer = post(core, path, timings=True)
    timings = answer.json()["timings"]
    expected = ", ".join(f"{name};dur={timings[f'{name}_ms']:.3f}" for name in ("queue", "prefill", "decode"))
    assert answer.headers["server-timing"] == expected


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
def test_the_last_chunk_of_a_stream_has_timings(core: CoreProcess, path: str, options: dict[str, Any]):
    answer = post(core, path, stream=True, n=2, timings=True, **options)
    *chunks, last = events(answer)
    check(last["timings"], num_answers=2)
    assert not any("timings" in chunk for chunk in chunks)
    assert "server-timing" not in answer.headers


def test_a_streamed_response_has_timings_when_it_is_completed(core: CoreProcess):
    *others, last = events(post(core, RESPONSES, stream=True, timings=True))
    check(last["response"]["timings"])
    assert not any("timings" in event.get("response", {}) for event in others)


def test_a_streamed_message_has_timings_beside_its_usage(core: CoreProcess):
    *_, delta, _stop = events(post(core, MESSAGES, stream=True, timings=True))
    assert delta["type"] == "message_delta"
    check(delta["timings"])


def test_an_answer_that_a_stop_string_ends_has_timings(core: CoreProcess):
    text = post(core, COMPLETION, max_tokens=20).json()["choices"][0]["text"]
    answer = post(core, COMPLETION, max_tokens=20, stop=text[5:7], timings=True).json()
    assert answer["choices"][0]["stop_reason"] == text[5:7]
    check(answer["timings"], num_tokens=answer["usage"]["completion_tokens"])


def test_a_server_can_give_timings_to_all_who_do_not_refuse_them(core: CoreProcess):
    settings = {"enable_timings": True}
    check(post(core, CHAT, settings).json()["timings"])
    assert "timings" not in post(core, CHAT, settings, timings=False).json()


def test_strict_bodies_know_the_field(core: CoreProcess):
    for path in BODIES:
        assert "timings" in post(core, path, {"strict_params": True}, timings=True).json()


def test_several_answers_take_from_the_first_that_begins_to_the_last_that_ends():
    answers = [
        Answer(
            0, 10, num_cached_tokens=4, num_output_tokens=3, times=PhaseTimes(1_000, 5_000, 7_000), core_names=("1",)
        ),
        Answer(
            1,
            10,
            num_cached_tokens=4,
            num_output_tokens=5,
            times=PhaseTimes(2_000, 4_000, 10_000),
            core_names=("0", "1"),
        ),
    ]
    assert AnswerTimings.of(answers) == AnswerTimings(2.0, 2.0, 6.0)
    assert timings_of(answers, answers_per_prompt=2) == {
        "queue_ms": 2.0,
        "prefill_ms": 2.0,
        "ttft_ms": 4.0,
        "decode_ms": 6.0,
        "decode_tokens_per_second": 1000.0,
        "prompt_tokens_per_second": 3000.0,
        "cached_tokens": 4,
        "prompt_n": 6,
        "predicted_n": 8,
        "cores": ["1", "0"],
    }


def test_the_speed_of_several_prompts_is_that_until_the_last_of_them_is_computed():
    answers = [Answer(number, 10, times=PhaseTimes(0, (number + 1) * 1_000, 9_000)) for number in range(4)]
    timings = timings_of(answers, answers_per_prompt=1)
    assert (timings["prefill_ms"], timings["prompt_tokens_per_second"]) == (1.0, 10_000.0)


def test_one_token_has_no_speed_of_decoding():
    timings = timings_of([Answer(0, 10, num_output_tokens=1, times=PhaseTimes(0, 5_000, 5_000))], 1)
    assert (timings["decode_ms"], timings["decode_tokens_per_second"]) == (0.0, 0.0)


def test_tokens_that_an_earlier_process_has_left_are_no_speed():
    answer = Answer(0, 10, num_output_tokens=9, num_resumed_tokens=4, times=PhaseTimes(0, 1_000, 5_000))
    assert timings_of([answer], 1)["decode_tokens_per_second"] == 1000.0
