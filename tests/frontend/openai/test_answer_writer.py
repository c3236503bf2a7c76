"""The law of streaming: what the chunks of a choice say, put together, is what its whole answer says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frontend.generation import Answer
from frontend.input_processor import EngineInput
from frontend.openai.answer_writer import AnswerEvents, AnswerWriter
from frontend.openai.chat_completions import ChatWriter
from frontend.openai.completions import CompletionWriter
from frontend.openai.echo import Echo
from frontend.openai.protocol import ChatCompletionRequest, CompletionRequest, GenerationBody
from frontend.output_processor import OutputProcessor, TextOptions
from frontend.state import ServedModel
from ipc.client import Output
from ipc.messages import Finished, FinishReason, RequestId
from ipc.request_outputs import TokenLogprobs
from ipc.sampling_params import SamplingParams

EOS = 1
HEAD = {"id": "x"}
PROMPT_IDS = [5, 250, 6]
ECHO = Echo("a\ufffdb", (0, 1, 2))
PROMPT_ROWS = [TokenLogprobs(3, (250, 7), (-3.0, -0.1)), TokenLogprobs(1, (6, 6), (-0.2, -0.2))]
ALPHABET = st.one_of(
    st.sampled_from("ab .é日👍\u200d👩🏽שָׁم\u0300\x00\ufffd\n"), st.characters(exclude_categories=["Cs"])
)
NO_FIXTURE_CHECK = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@dataclass(frozen=True)
class Script:
    """What the engine says about one answer, and where its outputs are cut."""

    token_ids: list[int]
    cuts: list[int]
    is_stopped: bool

    def outputs(self) -> list[Output]:
        ids = [*self.token_ids, EOS] if self.is_stopped else self.token_ids
        edges = [
            0,
            *sorted(min(cut, max(0, len(ids) - 1)) for cut in self.cuts),
            len(ids),
        ]  # the end comes with a token
        pieces = [
            Output(ids[begin:end], [row_of(token_id, begin + place) for place, token_id in enumerate(ids[begin:end])])
            for begin, end in pairwise(edges)
        ]
        reason = FinishReason.STOP if self.is_stopped else FinishReason.LENGTH
        stop_token_id = EOS if self.is_stopped else -1
        pieces[-1].finished = Finished(RequestId(1), reason, 3, len(ids), stop_token_id=stop_token_id)
        return pieces


def row_of(token_id: int, position: int) -> TokenLogprobs:
    """Tells tokens and positions apart."""
    return TokenLogprobs(2, (token_id, (token_id + 1) % 300, token_id), (-1.0 - position, -0.5, -1.0 - position))


@st.composite
def scripts(draw: st.DrawFn, model: ServedModel) -> Script:
    backend = model.tokenizer.backend
    pieces = draw(
        st.lists(
            st.one_of(
                st.text(ALPHABET, max_size=8).map(lambda text: backend.encode(text).ids),
                st.lists(st.integers(2, 257), max_size=3),  # any bytes: continuations alone, characters cut short
            ),
            max_size=5,
        )
    )
    return Script(
        [id for ids in pieces for id in ids][:60], draw(st.lists(st.integers(0, 60), max_size=8)), draw(st.booleans())
    )


@st.composite
def stop_strings(draw: st.DrawFn, model: ServedModel, answers: Sequence[Script]) -> list[str]:
    """Pieces of the answers, and other texts."""
    stops: list[str] = []
    for _ in range(draw(st.integers(0, 3))):
        text = model.tokenizer.decode(draw(st.sampled_from(list(answers))).token_ids, skip_special_tokens=True)
        begin = draw(st.integers(0, max(0, len(text) - 1)))
        piece = text[begin : begin + draw(st.integers(1, 5))]
        stops.append(draw(st.sampled_from([piece, piece + "x"])) or "zz")
    return stops


def deltas_of(model: ServedModel, body: GenerationBody, script: Script) -> list[Any]:
    options = TextOptions(
        stop_strings=body.stop_strings,
        include_stop_str_in_output=body.include_stop_str_in_output,
        skip_special_tokens=body.skip_special_tokens,
        min_tokens=body.min_tokens,
        has_tokens=body.num_logprobs is not None or body.return_token_ids,
    )
    processor = OutputProcessor(model.tokenizer, options, (EOS,))
    deltas = []
    for output in script.outputs():
        deltas.append(processor.process(output))
        if deltas[-1].finish is not None:
            break
    return deltas


def answers_of(model: ServedModel, body: GenerationBody, answers: Sequence[Script]) -> list[Answer]:
    collected = []
    for index, script in enumerate(answers):
        answer = Answer(index, len(PROMPT_IDS), prompt_logprobs=PROMPT_ROWS if index == 0 else [])
        for delta in deltas_of(model, body, script):
            answer.texts.append(delta.text)
            answer.tokens += delta.tokens
            answer.finish, answer.num_output_tokens = delta.finish, delta.num_output_tokens
        collected.append(answer)
    return collected


def chunks_of(writer: AnswerWriter, model: ServedModel, body: GenerationBody, answers: Sequence[Script]) -> list[Any]:
    """The choices of all chunks."""
    started = [Answer(index, 3, prompt_logprobs=[] if index else PROMPT_ROWS) for index in range(len(answers))]
    events = AnswerEvents(writer, started, body, HEAD)
    data = events.begin()
    for index, script in enumerate(answers):
        for delta in deltas_of(model, body, script):
            data += events.of(index, delta)
    data += events.end()
    *lines, done = data.decode("utf-8", "strict").removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [choice for line in lines for choice in json.loads(line.removeprefix("data: "))["choices"]]


def assembled(chunks: list[Any], index: int, merge_logprobs: Any) -> dict[str, Any]:
    own = [choice for choice in chunks if choice["index"] == index]
    texts = [choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in own]
    return {
        "text": "".join(texts),
        "logprobs": merge_logprobs([choice["logprobs"] for choice in own if choice["logprobs"]]),
        "token_ids": [id for choice in own for id in choice.get("token_ids", [])],
        "finish": [(choice["finish_reason"], choice["stop_reason"]) for choice in own if choice["finish_reason"]],
    }


def whole(choice: dict[str, Any], text: str) -> dict[str, Any]:
    finish = [(choice["finish_reason"], choice["stop_reason"])]
    token_ids = choice.get("token_ids", [])
    return {"text": text, "logprobs": choice["logprobs"], "token_ids": token_ids, "finish": finish}


def merge_chat(items: list[Any]) -> Any:
    return {"content": [entry for item in items for entry in item["content"]], "refusal": None} if items else None


def merge_completion(items: list[Any]) -> Any:
    return {name: [entry for item in items for entry in item[name]] for name in items[0]} if items else None


def inputs_of(num_answers: int) -> list[EngineInput]:
    return [EngineInput(PROMPT_IDS, SamplingParams(max_tokens=1))] * num_answers


@given(data=st.data())
@settings(max_examples=300, suppress_health_check=NO_FIXTURE_CHECK, deadline=None)
def test_a_streamed_completion_is_the_whole_one(model: ServedModel, data: st.DataObject):
    answers = data.draw(st.lists(scripts(model), min_size=1, max_size=2))
    fields = {
        "n": len(answers),
        "stop": data.draw(stop_strings(model, answers)),
        "logprobs": data.draw(st.sampled_from([None, 0, 2])),
        "echo": data.draw(st.booleans()),
        "return_token_ids": data.draw(st.booleans()),
        "min_tokens": data.draw(st.sampled_from([0, 0, 3])),
        "include_stop_str_in_output": data.draw(st.booleans()),
        "skip_special_tokens": data.draw(st.booleans()),
    }
    body = CompletionRequest.model_validate({"model": "tiny", "prompt": PROMPT_IDS, **fields})
    writer = CompletionWriter(model, body, inputs_of(len(answers)), [ECHO] if body.echo else [])
    collected = answers_of(model, body, answers)
    chunks = chunks_of(writer, model, body, answers)
    for choice in writer.whole_choices(collected):
        index = choice["index"]
        together = assembled(chunks, index, merge_completion)
        expected = whole(choice, choice["text"])
        if expected["logprobs"] and not expected["logprobs"]["tokens"]:
            expected["logprobs"] = None
        assert together == expected
        check_answer(model, body, answers[index], collected[index])


@given(data=st.data())
@settings(max_examples=200, suppress_health_check=NO_FIXTURE_CHECK, deadline=None)
def test_a_streamed_chat_is_the_whole_one(model: ServedModel, data: st.DataObject):
    answers = data.draw(st.lists(scripts(model), min_size=1, max_size=2))
    fields = {
        "n": len(answers),
        "stop": data.draw(stop_strings(model, answers)),
        "logprobs": data.draw(st.booleans()),
        "return_token_ids": data.draw(st.booleans()),
    }
    messages = [{"role": "user", "content": "x"}]
    body = ChatCompletionRequest.model_validate({"model": "tiny", "messages": messages, **fields})
    writer = ChatWriter(model, body, inputs_of(len(answers)), [None] * len(answers))
    collected = answers_of(model, body, answers)
    chunks = chunks_of(writer, model, body, answers)
    for choice in writer.whole_choices(collected):
        together = assembled(chunks, choice["index"], merge_chat)
        expected = whole(choice, choice["message"]["content"])
        if expected["logprobs"] and not expected["logprobs"]["content"]:
            expected["logprobs"] = None
        assert together == expected
        check_answer(model, body, answers[choice["index"]], collected[choice["index"]])


def check_answer(model: ServedModel, body: GenerationBody, script: Script, answer: Answer) -> None:
    """The text is the decoded answer up to the first stop string; the tokens are those that were counted."""
    decoded = model.tokenizer.decode(script.token_ids, skip_special_tokens=body.skip_special_tokens)
    if script.is_stopped and body.include_stop_str_in_output and not body.skip_special_tokens:
        decoded += "<|im_end|>"
    if not body.min_tokens:
        assert answer.text == cut(decoded, body)
    if body.num_logprobs is not None or body.return_token_ids:
        said = [*script.token_ids, EOS] if script.is_stopped else script.token_ids
        assert [token.token_id for token in answer.tokens] == said[: answer.num_output_tokens]
        assert [token.logprobs for token in answer.tokens] == [
            row_of(token.token_id, position) for position, token in enumerate(answer.tokens)
        ]
        offsets = [token.offset for token in answer.tokens]
        assert offsets == sorted(offsets)
        assert all(0 <= offset <= len(answer.text) for offset in offsets)


def cut(text: str, body: GenerationBody) -> str:
    for end in range(1, len(text) + 1):
        for stop in body.stop_strings:
            if text[:end].endswith(stop):
                return text[:end] if body.include_stop_str_in_output else text[: end - len(stop)]
    return text
