"""LiteLLM against a running server: completion, stream, tools, embedding.

API_KEY=… python tests/clients/litellm_client.py http://127.0.0.1:8000 smollm2-135m-instruct
"""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else importing it looks for a table on the network

import litellm

HELLO = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA | {"additionalProperties": False}}}


def main() -> None:
    """Run all checks."""
    url, model = sys.argv[1:]
    options = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": os.environ.get("API_KEY", "any")}
    chat = {**options, "messages": HELLO, "temperature": 0, "max_tokens": 16, "num_retries": 0}
    whole = litellm.completion(**chat)
    text = whole.choices[0].message.content
    assert "Paris" in text, whole
    chunks = litellm.completion(**chat, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    print("ok completion and stream")
    called = litellm.completion(
        **chat | {"max_tokens": 80}, tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    )
    arguments = json.loads(called.choices[0].message.tool_calls[0].function.arguments)
    assert set(arguments) == {"city"}, called
    print("ok tools")
    vectors = litellm.embedding(**options, input=["a", "b"])
    assert len(vectors.data) == 2
    print("ok embedding")


if __name__ == "__main__":
    main()
