"""Anthropic's own Python client against a running server.

    python tests/clients/anthropic_messages.py http://127.0.0.1:8000 smollm2-135m-instruct

Runs in an environment that has the package `anthropic`. Ends with status 1 at the first thing that is not as it should.
"""

import os
import sys
from collections.abc import Callable

import anthropic

GREEDY = {"temperature": 0}  # newer clients have no argument for it
HELLO = [{"role": "user", "content": "What is the capital of France?"}]


def check_whole_and_streamed(client: anthropic.Anthropic, model: str) -> None:
    """The stream, put together by the client, is the whole answer."""
    options = {"model": model, "max_tokens": 24, "messages": HELLO, "extra_body": GREEDY, "system": "Be brief."}
    whole = client.messages.create(**options)
    with client.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].text == text == final.content[0].text, (whole, final)
    assert whole.stop_reason == final.stop_reason, (whole, final)
    assert whole.usage.output_tokens == final.usage.output_tokens, (whole, final)


def check_stop_sequence(client: anthropic.Anthropic, model: str) -> None:
    """A stop sequence is named."""
    options = {"model": model, "max_tokens": 24, "messages": HELLO, "extra_body": GREEDY}
    stop = client.messages.create(**options).content[0].text[4:7]
    message = client.messages.create(**options, stop_sequences=[stop])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop), message


def check_counted_tokens(client: anthropic.Anthropic, model: str) -> None:
    """`count_tokens` says what the usage will."""
    count = client.messages.count_tokens(model=model, messages=HELLO).input_tokens
    usage = client.messages.create(model=model, max_tokens=1, messages=HELLO).usage
    assert count == usage.input_tokens + (usage.cache_read_input_tokens or 0), (count, usage)


def check_errors(client: anthropic.Anthropic, model: str) -> None:
    """The client knows our errors by their statuses and types."""
    request = {"model": model, "max_tokens": 5, "messages": HELLO}
    for options, expected in (
        ({"model": "no-such-model"}, anthropic.NotFoundError),
        ({"extra_body": {"temperature": 1.5}}, anthropic.BadRequestError),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, anthropic.BadRequestError),
    ):
        error = failure_of(lambda options=options: client.messages.create(**{**request, **options}))
        assert isinstance(error, expected), (options, error)
        assert error.body["type"] == "error", error.body
        assert error.request_id, error


def failure_of(call: Callable[[], object]) -> anthropic.APIStatusError | None:
    """The error of a call that should fail."""
    try:
        call()
    except anthropic.APIStatusError as error:
        return error
    return None


def main() -> None:
    """Run all checks."""
    url, model = sys.argv[1:]
    client = anthropic.Anthropic(base_url=url, api_key=os.environ.get("API_KEY", "any"), max_retries=0)
    for check in (check_whole_and_streamed, check_stop_sequence, check_counted_tokens, check_errors):
        check(client, model)
        print(f"ok {check.__name__}")


if __name__ == "__main__":
    main()
