"""Chats whose answers have parts: the parser is asked, streamed and not."""

import json
from typing import Any

import pytest

from frontend.answer_parts import AnswerParser, ContentDelta, Part, ReasoningDelta, ToolCallArguments, ToolCallStart
from frontend.generation import Answer
from frontend.input_processor import EngineInput
from frontend.openai.answer_writer import AnswerEvents
from frontend.openai.chat_completions import ChatWriter
from frontend.openai.protocol import ChatCompletionRequest
from frontend.output_processor import Finish, TextDelta
from frontend.state import ServedModel
from ipc.sampling_params import SamplingParams


class LetterParser:
    """A small language: capitals are thoughts, `(` begins a call, digits are its arguments, `.` waits for the end."""

    def __init__(self) -> None:
        self._num_calls = 0
        self._held = ""

    def push(self, text: str) -> list[Part]:
        return [part for char in text for part in self._read(char)]

    def finish(self) -> list[Part]:
        return [ContentDelta(self._held)] if self._held else []

    def _read(self, char: str) -> list[Part]:
        if char == "(":
            self._num_calls += 1
            return [ToolCallStart(self._num_calls - 1, f"call_{self._num_calls}", "f")]
        if char == ".":
            self._held += char
            return []
        if char.isdigit():
            return [ToolCallArguments(self._num_calls - 1, char)]
        return [ReasoningDelta(char)] if char.isupper() else [ContentDelta(char)]


def writer_of(
    model: ServedModel, parser: AnswerParser | None, **fields: Any
) -> tuple[ChatWriter, ChatCompletionRequest]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], **fields}
    checked = ChatCompletionRequest.model_validate(body)
    return ChatWriter(model, checked, [EngineInput([5], SamplingParams(max_tokens=1))], [parser]), checked


def whole(model: ServedModel, text: str, reason: str = "stop", stop_string: str | None = None) -> dict[str, Any]:
    writer, _ = writer_of(model, LetterParser())
    (choice,) = writer.whole_choices([Answer(0, 1, finish=Finish(reason, stop_string), texts=[text])])
    return choice


def streamed(model: ServedModel, text: str) -> list[dict[str, Any]]:
    writer, body = writer_of(model, LetterParser(), stream=True)
    events = AnswerEvents(writer, [Answer(0, 1)], body, {"id": "x"})
    data = events.begin() + b"".join(events.of(0, TextDelta(char, 1, None)) for char in text)
    data += events.of(0, TextDelta("", 1, Finish("stop", None))) + events.end()
    lines = data.decode().removesuffix("\n\n").split("\n\n")[:-1]
    return [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines]


def test_a_message_has_all_parts(model: ServedModel):
    choice = whole(model, "ABc(12(3.")
    assert choice["message"] == {
        "role": "assistant",
        "content": "c.",
        "refusal": None,
        "reasoning_content": "AB",
        "reasoning": "AB",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "12"}},
            {"id": "call_2", "type": "function", "function": {"name": "f", "arguments": "3"}},
        ],
    }
    assert choice["finish_reason"] == "tool_calls"


def test_calls_alone_have_no_content(model: ServedModel):
    assert whole(model, "(1")["message"]["content"] is None
    assert whole(model, "")["message"]["content"] == ""


def test_a_call_that_was_cut_off_ends_by_length(model: ServedModel):
    assert whole(model, "(1", "length")["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("text", "reason"), [("(1", "tool_calls"), ("(1.", "tool_calls"), ("(", "stop"), ("(1(", "stop"), ("a", "stop")]
)
def test_a_stop_string_may_cut_a_call_off(model: ServedModel, text: str, reason: str):
    assert whole(model, text, stop_string="x")["finish_reason"] == reason


@pytest.mark.parametrize("text", ["ABc(12(3.", "abc", "", "...", "(1"])
def test_the_deltas_make_up_the_message(model: ServedModel, text: str):
    message = whole(model, text)["message"]
    choices = streamed(model, text)
    deltas = [choice["delta"] for choice in choices]
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        for item in delta.get("tool_calls", []):
            if "id" in item:
                calls.append({**item, "function": dict(item["function"])})
            else:
                calls[item["index"]]["function"]["arguments"] += item["function"]["arguments"]
    assert "".join(delta.get("content", "") for delta in deltas) == (message["content"] or "")
    assert "".join(delta.get("reasoning", "") for delta in deltas) == message.get("reasoning", "")
    assert [{**call, "index": None} for call in calls] == [
        {**call, "index": None} for call in message.get("tool_calls", [])
    ]
    assert choices[-1]["finish_reason"] == ("tool_calls" if calls else "stop")


def test_without_parser_and_questions_a_chunk_is_prebuilt(model: ServedModel):
    assert writer_of(model, None)[0].is_plain
    assert not writer_of(model, LetterParser())[0].is_plain
    assert not writer_of(model, None, logprobs=True)[0].is_plain
    assert not writer_of(model, None, return_token_ids=True)[0].is_plain
