"""Whole chat completions as Response objects that OpenAI's client takes."""

from openai.types.responses import Response

from frontend.request_body import validate_body
from frontend.responses_api.protocol import ResponsesRequest
from frontend.responses_api.response import response_base, whole_response
from tests.chat_answers import ID, ChatAnswer

CREATED, COMPLETED = 1000, 1005


def response_of(answer: ChatAnswer, **fields) -> Response:
    body = validate_body(ResponsesRequest, {"model": "fake", "input": "hi", **fields})
    base = response_base(body, {"id": ID, "created": CREATED})
    return Response.model_validate(whole_response(base, answer.whole(), COMPLETED), strict=True)


def test_a_text():
    response = response_of(ChatAnswer("Paris"))
    assert response.output_text == "Paris"
    assert (response.id, response.status, response.output[0].id) == ("resp_0123", "completed", "msg_0123_0")
    assert (response.created_at, response.completed_at) == (CREATED, COMPLETED)


def test_all_kinds_of_items_in_order():
    response = response_of(ChatAnswer("Let me see.", "Hm.", [("f", '{"a": 1}'), ("g", "{}")], "tool_calls"))
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    reasoning, _, call, _ = response.output
    assert reasoning.content[0].text == "Hm."
    assert (call.name, call.arguments, call.call_id, call.status) == ("f", '{"a": 1}', "call_0", "completed")


def test_only_calls_have_no_message():
    assert [item.type for item in response_of(ChatAnswer(calls=[("f", "{}")])).output] == ["function_call"]


def test_an_empty_answer_is_an_empty_message():
    (message,) = response_of(ChatAnswer()).output
    assert message.content[0].text == ""


def test_an_answer_that_was_cut_off_is_incomplete():
    response = response_of(ChatAnswer("Par", "Hm.", finish_reason="length"))
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert [item.status for item in response.output] == ["completed", "incomplete"]
    assert response.completed_at is None


def test_an_answer_that_was_cancelled_says_so():
    response = response_of(ChatAnswer("Par", finish_reason="abort"))
    assert (response.status, response.completed_at, response.output[0].status) == ("cancelled", None, "incomplete")


def test_usage():
    usage = response_of(ChatAnswer("a")).usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (7, 5, 12)
    assert usage.input_tokens_details.cached_tokens == 4
    assert usage.output_tokens_details.reasoning_tokens == 2


def test_logprobs():
    (message,) = response_of(ChatAnswer("é", has_logprobs=True), top_logprobs=1).output
    (logprob,) = message.content[0].logprobs
    assert (logprob.token, logprob.bytes, logprob.top_logprobs[0].logprob) == ("é", [195, 169], -1.0)


def test_the_request_is_repeated():
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    text = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}
    choice = {"type": "function", "name": "f"}
    response = response_of(
        ChatAnswer("a"), tools=[tool], text=text, tool_choice=choice, metadata={"k": "v"}, temperature=0.5
    )
    assert response.tools[0].name == "f"
    assert response.text.format.schema_ == {"type": "object"}
    assert response.tool_choice.name == "f"
    assert (response.metadata, response.temperature, response.top_p) == ({"k": "v"}, 0.5, 1.0)
