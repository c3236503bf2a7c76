"""OpenAI's own Python client against a running server: chats, completions, embeddings, responses, batches, errors.

    API_KEY=… python tests/clients/openai_python.py http://127.0.0.1:8000 smollm2-135m-instruct

Runs in an environment that has the package `openai`. Ends with status 1 at the first thing that is not as it should.
"""

import json
import os
import sys
import time

import openai
from pydantic import BaseModel, Field

HELLO = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


class Person(BaseModel):
    """What the answer must be."""

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


def check_chat(client: openai.OpenAI, model: str) -> None:
    """The stream is the whole answer; usage adds up."""
    options = {"model": model, "messages": HELLO, "temperature": 0, "max_tokens": 16}
    whole = client.chat.completions.create(**options)
    stream = client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text, text
    assert text == whole.choices[0].message.content
    counts = [(usage.prompt_tokens, usage.completion_tokens) for usage in (chunks[-1].usage, whole.usage)]
    assert counts[0] == counts[1], counts


def check_parse(client: openai.OpenAI, model: str) -> None:
    """Structured output comes back as the model class."""
    answer = client.chat.completions.parse(
        model=model, messages=HELLO, response_format=Person, max_tokens=80, temperature=1, seed=3
    )
    assert isinstance(answer.choices[0].message.parsed, Person), answer


def check_tools(client: openai.OpenAI, model: str) -> None:
    """A call that must come has arguments that fit, streamed and whole; its result can be sent back."""
    options = {"model": model, "messages": HELLO, "tools": [TOOL], "max_tokens": 120, "temperature": 0}
    options |= {"tool_choice": "required", "parallel_tool_calls": False}
    message = client.chat.completions.create(**options).choices[0].message
    [call] = message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"city", "days"}, call
    with client.chat.completions.stream(**options) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls", final
    assert final.choices[0].message.tool_calls[0].function.arguments == call.function.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}
    conversation = [*HELLO, message.model_dump(exclude_none=True), result]
    after = client.chat.completions.create(model=model, messages=conversation, tools=[TOOL], max_tokens=8)
    assert after.choices[0].finish_reason in ("stop", "length", "tool_calls"), after


def check_logprobs(client: openai.OpenAI, model: str) -> None:
    """One entry for each token, with the best ones beside it."""
    answer = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    assert all(len(entry.top_logprobs) == 3 and entry.top_logprobs[0].token == entry.token for entry in entries)


def check_completions(client: openai.OpenAI, model: str) -> None:
    """A prompt with its own log-probabilities, and several prompts."""
    scored = client.completions.create(model=model, prompt="One two three", max_tokens=0, echo=True, logprobs=1)
    assert scored.choices[0].text == "One two three"
    assert scored.choices[0].logprobs.token_logprobs[0] is None
    several = client.completions.create(model=model, prompt=["a", "b"], n=2, max_tokens=3)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]


def check_embeddings(client: openai.OpenAI, model: str) -> None:
    """Base64 (the client's default) and numbers are the same vector."""
    vectors = client.embeddings.create(model=model, input=["a", "b"])
    numbers = client.embeddings.create(model=model, input="a", encoding_format="float")
    assert max(abs(x - y) for x, y in zip(vectors.data[0].embedding, numbers.data[0].embedding, strict=True)) < 1e-3


def check_responses(client: openai.OpenAI, model: str) -> None:
    """The Responses API, whole, streamed and parsed."""
    options = {"model": model, "input": "What is the capital of France?", "temperature": 0, "max_output_tokens": 16}
    whole = client.responses.create(**options)
    with client.responses.stream(**options) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert whole.output_text == final.output_text != "", (whole, final)
    parsed = client.responses.parse(model=model, input="Who?", text_format=Person, max_output_tokens=80, temperature=1)
    assert isinstance(parsed.output_parsed, Person), parsed
    tool = {"type": "function", **TOOL["function"], "strict": True}
    called = client.responses.create(
        **options | {"max_output_tokens": 120}, tools=[tool], tool_choice="required", parallel_tool_calls=False
    )
    assert set(json.loads(called.output[0].arguments)) == {"city", "days"}, called


def check_batches(client: openai.OpenAI, model: str) -> None:
    """Upload, create, poll, download; the answers are those that come online."""
    body = {"model": model, "messages": HELLO, "temperature": 0, "max_tokens": 16}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = client.files.create(file=("in.jsonl", json.dumps(request).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=request["url"], completion_window="24h")
    deadline = time.monotonic() + 60
    while batch.status not in ("completed", "failed"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    answer = json.loads(client.files.content(batch.output_file_id).text)
    online = client.chat.completions.create(**body)
    assert answer["response"]["body"]["choices"][0]["message"]["content"] == online.choices[0].message.content
    assert batch.id in [item.id for item in client.batches.list(limit=1)]
    for file_id in (batch.input_file_id, batch.output_file_id):
        assert client.files.delete(file_id).deleted


def check_models(client: openai.OpenAI, model: str) -> None:
    """The list has the model."""
    assert model in [item.id for item in client.models.list()]


def check_errors(client: openai.OpenAI, model: str) -> None:
    """Errors are the client's own classes."""
    cases = [
        (openai.NotFoundError, "model_not_found", client, {"model": "other"}),
        (openai.BadRequestError, "context_length_exceeded", client, {"max_tokens": 10**6}),
        (openai.BadRequestError, "invalid_type", client, {"temperature": "hot"}),
        (openai.AuthenticationError, "invalid_api_key", client.with_options(api_key="wrong"), {}),
    ]
    for error_class, code, caller, fields in cases:
        error = failure_of(caller, {"model": model, "messages": HELLO, **fields})
        assert isinstance(error, error_class), error
        assert error.code == code, error


def failure_of(client: openai.OpenAI, body: dict[str, object]) -> openai.APIError | None:
    """The error of a chat that should fail."""
    try:
        client.chat.completions.create(**body)
    except openai.APIError as error:
        return error
    return None


def main() -> None:
    """Run all checks."""
    url, model = sys.argv[1:]
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("API_KEY", "any"), max_retries=0)
    for check in (
        check_chat,
        check_parse,
        check_tools,
        check_logprobs,
        check_completions,
        check_embeddings,
        check_responses,
        check_batches,
        check_models,
        check_errors,
    ):
        check(client, model)
        print(f"ok {check.__name__}")


if __name__ == "__main__":
    main()
