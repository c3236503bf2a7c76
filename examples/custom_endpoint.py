#!/usr/bin/env python3
"""A server with a route of your own beside those of the OpenAI API: `POST /v1/summarize` asks the model for a summary.

    python examples/custom_endpoint.py --port 8000
    curl http://127.0.0.1:8000/v1/summarize -H 'Content-Type: application/json' -d '{"text": "A long text."}'

Which model is served, and how, the environment says when the application is imported: `MODEL_PATH` (the small default
model where it is not set) and `FAST_INFERENCE_*`. docs/extending.md explains the parts.
"""

import argparse

import uvicorn
from pydantic import BaseModel, Field
from starlette.requests import Request

from fast_inference.core.engine.openai_api_server import app
from frontend.api_call import call_of
from frontend.disconnect import run_while_connected
from frontend.openai.chat_completions import OpenAIServingChat


class SummaryRequest(BaseModel):
    """The body of the route; what does not fit is a 400 that names the field."""

    text: str = Field(min_length=1)
    max_tokens: int = Field(60, ge=1, le=1000)


class Summary(BaseModel):
    """Its answer."""

    summary: str
    num_tokens: int
    """Of the prompt and the summary together."""


chat = OpenAIServingChat(app.state.frontend)


@app.post("/v1/summarize")
async def summarize(body: SummaryRequest, request: Request) -> Summary:
    """One chat completion; it is stopped when the client leaves."""
    values = {
        "model": "fast-inference-model",
        "messages": [{"role": "user", "content": f"Summarize in one sentence:\n\n{body.text}"}],
        "max_tokens": body.max_tokens,
        "temperature": 0,
    }
    answer = await run_while_connected(request, chat.answer_to(call_of(request), values))
    summary = answer["choices"][0]["message"]["content"] or ""
    return Summary(summary=summary, num_tokens=answer["usage"]["total_tokens"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    uvicorn.run(app, host=arguments.host, port=arguments.port)
