#!/usr/bin/env python3
"""Whether tool calls that must come are valid, streamed and whole, with a running server and a real model.

    scripts/serve --dtype float32
    scripts/check_tool_calls.py --url http://127.0.0.1:8000 --count 100

Half of the requests leave the choice to the model (`required`), half name a function; all at temperature 1, each once
streamed and once whole with the same seed. The arguments must be JSON that fits the schema of the tool, and the deltas
of the stream must be the whole call (in float32: bfloat16 may draw another token in another batch). Exits 1 if one
is not.
"""

import argparse
import asyncio
import collections
import json
import sys
from typing import Any

import httpx
import jsonschema

TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1, "maxLength": 40},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "send_mail": {
        "type": "object",
        "properties": {
            "to": {
                "type": "array",
                "items": {"type": "string", "pattern": "^[a-z]{2,12}@[a-z]{2,12}\\.org$"},
                "minItems": 1,
                "maxItems": 3,
            },
            "urgent": {"type": "boolean"},
            "subject": {"type": "string", "maxLength": 60},
        },
        "required": ["to", "subject", "urgent"],
        "additionalProperties": False,
    },
    "clock": {"type": "object", "properties": {}, "additionalProperties": False},
}
QUESTIONS = ["What is the weather in Paris?", "Tell Ann and Bob that I am late.", "What time is it?", "Hello!"]


def body_of(number: int) -> dict[str, Any]:
    """The request with this number."""
    names = list(TOOLS)
    named = {"type": "function", "function": {"name": names[number // 2 % len(names)]}}
    return {
        "model": "fast-inference-model",
        "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
        "tools": [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in TOOLS.items()],
        "tool_choice": named if number % 2 else "required",
        "parallel_tool_calls": number % 4 < 2,
        "temperature": 1.0,
        "seed": number,
        "max_tokens": 1500,
    }


async def whole(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """The calls of a whole answer, and why it ended."""
    answer = (await http.post("/v1/chat/completions", json=body)).raise_for_status().json()["choices"][0]
    calls = answer["message"].get("tool_calls", ())
    assert answer["message"]["content"] is None or answer["finish_reason"] == "length", answer
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls], answer["finish_reason"]


async def streamed(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """The calls that the deltas of a stream make, and why it ended."""
    calls: list[list[str]] = []
    reason = ""
    async with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            choice = json.loads(line[6:])["choices"][0]
            reason = choice["finish_reason"] or reason
            for delta in choice["delta"].get("tool_calls", ()):
                if "id" in delta:
                    assert delta["index"] == len(calls)
                    calls.append([delta["function"]["name"], ""])
                calls[delta["index"]][1] += delta["function"]["arguments"]
    return [(name, arguments) for name, arguments in calls], reason


async def check(http: httpx.AsyncClient, number: int) -> tuple[str, list[str]]:
    """Problems of one request; what it came to."""
    body = body_of(number)
    calls, reason = await whole(http, body)
    from_stream, stream_reason = await streamed(http, body)
    problems = [] if (calls, reason) == (from_stream, stream_reason) else [f"stream {from_stream} is not whole {calls}"]
    if reason != "tool_calls":
        return reason, problems  # cut off by max_tokens: the last call is not complete
    wanted = body["tool_choice"]["function"]["name"] if number % 2 else None
    if not calls or (len(calls) > 1 and (number % 2 or not body["parallel_tool_calls"])):
        problems.append(f"{len(calls)} calls")
    for name, arguments in calls:
        if wanted not in (None, name):
            problems.append(f"{name} instead of {wanted}")
        try:
            jsonschema.validate(json.loads(arguments), TOOLS[name])
        except (ValueError, jsonschema.ValidationError) as error:
            problems.append(f"{arguments}: {error}")
    return reason, problems


async def run(url: str, count: int) -> bool:
    """Check all and print; True if all is well."""
    slots = asyncio.Semaphore(16)
    async with httpx.AsyncClient(base_url=url, timeout=1800) as http:

        async def one(number: int) -> tuple[str, list[str]]:
            async with slots:
                return await check(http, number)

        results = await asyncio.gather(*map(one, range(count)))
    reasons = collections.Counter(reason for reason, _ in results)
    problems = [problem for _, found in results for problem in found]
    print(f"{count} requests, streamed and whole; ends: {dict(reasons)}; {len(problems)} problems")
    for problem in problems:
        print(problem)
    return not problems and reasons["tool_calls"] >= 0.9 * count


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description="check tool calls against a running server")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--count", type=int, default=100, help="requests, each streamed and whole")
    arguments = parser.parse_args()
    sys.exit(0 if asyncio.run(run(arguments.url, arguments.count)) else 1)


if __name__ == "__main__":
    main()
