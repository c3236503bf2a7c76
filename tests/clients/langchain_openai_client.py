"""LangChain's OpenAI classes against a running server: invoke, stream, tools, structured output, embeddings.

API_KEY=… python tests/clients/langchain_openai_client.py http://127.0.0.1:8000 smollm2-135m-instruct
"""

import os
import sys

from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

QUESTION = "What is the capital of France?"


class GetWeather(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=20)
    days: int


def main() -> None:
    """Run all checks."""
    url, model = sys.argv[1:]
    access = {"base_url": f"{url}/v1", "api_key": os.environ.get("API_KEY", "any"), "model": model, "max_retries": 0}
    chat = ChatOpenAI(**access, temperature=0, max_completion_tokens=16)
    whole = chat.invoke(QUESTION)
    assert "Paris" in whole.content, whole
    assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == whole.content
    print("ok invoke and stream")
    longer = ChatOpenAI(**access, temperature=0, max_completion_tokens=120)
    message = longer.bind_tools([GetWeather], tool_choice="required", parallel_tool_calls=False).invoke(QUESTION)
    assert message.tool_calls[0]["name"] == "GetWeather", message
    GetWeather.model_validate(message.tool_calls[0]["args"])
    print("ok bind_tools")
    for method in ("json_schema", "function_calling"):
        answer = longer.with_structured_output(GetWeather, method=method).invoke(QUESTION)
        assert isinstance(answer, GetWeather), answer
        print(f"ok with_structured_output {method}")
    embeddings = OpenAIEmbeddings(**access, check_embedding_ctx_length=False)
    vectors = embeddings.embed_documents(["a", "b"])
    assert len(vectors) == 2
    assert len(vectors[0]) == len(embeddings.embed_query("a"))
    print("ok embeddings")


if __name__ == "__main__":
    main()
