#!/usr/bin/env python3
"""Whether tool calls that must come are valid, streamed and whole, with a running server and a real model.

    scripts/serve --dtype float32
    scripts/check_tool_calls.py --url http://127.0.0.1:8000 --count 100

Half of the requests leave the choice to the model (`required`), half name a function; all at temperature 1, each once
streamed and once whole with the same seed. The arguments must be JSON that fits the schema of the tool, and the deltas
of a stream must be the whole call. Where two tokens meet at the number that is drawn, another batch may draw the other
one (rarely in float32, often in bfloat16): such a stream is no second answer to compare, and is counted. Exits 1 if
anything is wrong.
"""

import argparse
import asyncio
import collections
import dataclasses
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


@dataclasses.dataclass
class Answer:
    """The calls of an answer, as (name, arguments), and what they were made of."""

    calls: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    reason: str = ""
    token_ids: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Verdict:
    """What one request came to."""

    reason: str
    problems: list[str]
    is_redrawn: bool
    """The stream has other tokens than the whole answer."""


async def whole(http: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
    """The calls of a whole answer."""
    choice = (await http.post("/v1/chat/completions", json=body)).raise_for_status().json()["choices"][0]
    assert choice["message"]["content"] is None or choice["finish_reason"] == "length", choice
    calls = [call["function"] for call in choice["message"].get("tool_calls", ())]
    return Answer([(call["name"], call["arguments"]) for call in calls], choice["finish_reason"], choice["token_ids"])


async def streamed(http: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
    """The calls that the deltas of a stream make."""
    answer = Answer()
    async with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            choice = json.loads(line[6:])["choices"][0]
            answer.reason = choice["finish_reason"] or answer.reason
            answer.token_ids += choice.get("token_ids") or ()
            for delta in choice["delta"].get("tool_calls", ()):
                if "id" in delta:
                    assert delta["index"] == len(answer.calls)
                    answer.calls.append((delta["function"]["name"], ""))
                name, arguments = answer.calls[delta["index"]]
                answer.calls[delta["index"]] = (name, arguments + delta["function"]["arguments"])
    return answer


def problems_of(body: dict[str, Any], answer: Answer) -> list[str]:
    """What is wrong with an answer that was not cut off."""
    choice = body["tool_choice"]
    wanted = choice["function"]["name"] if isinstance(choice, dict) else None
    problems = []
    if not answer.calls or (len(answer.calls) > 1 and (wanted or not body["parallel_tool_calls"])):
        problems.append(f"{len(answer.calls)} calls")
    for name, arguments in answer.calls:
        if wanted not in (None, name):
            problems.append(f"{name} instead of {wanted}")
        try:
            jsonschema.validate(json.loads(arguments), TOOLS[name])
        except (ValueError, jsonschema.ValidationError) as error:
            problems.append(f"{arguments}: {error}")
    return problems


async def check(http: httpx.AsyncClient, number: int) -> Verdict:
    """Make one request, whole and streamed."""
    body = {**body_of(number), "return_token_ids": True}
    answers = [await whole(http, body), await streamed(http, body)]
    problems = [problem for answer in answers if answer.reason == "tool_calls" for problem in problems_of(body, answer)]
    one, other = answers
    is_redrawn = one.token_ids != other.token_ids
    if not is_redrawn and one != other:
        problems.append(f"the stream {other} is not the whole {one}")
    return Verdict(one.reason, problems, is_redrawn)


async def run(url: str, count: int, concurrency: int) -> bool:
    """Check all and print; True if all is well."""
    slots = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(base_url=url, timeout=1800) as http:

        async def one(number: int) -> Verdict:
            async with slots:
                return await check(http, number)

        verdicts = await asyncio.gather(*map(one, range(count)))
    reasons = collections.Counter(verdict.reason for verdict in verdicts)
    problems = [problem for verdict in verdicts for problem in verdict.problems]
    num_redrawn = sum(verdict.is_redrawn for verdict in verdicts)
    print(f"{count} requests, streamed and whole; ends: {dict(reasons)}; {len(problems)} problems")
    print(f"{count - num_redrawn} streams have the tokens of the whole answer, and {num_redrawn} others")
    for problem in problems:
        print(problem)
    return not problems and reasons["tool_calls"] >= 0.9 * count and num_redrawn <= 0.1 * count


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description="check tool calls against a running server")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--count", type=int, default=100, help="requests, each streamed and whole")
    parser.add_argument("--concurrency", type=int, default=16, help="requests at a time")
    arguments = parser.parse_args()
    sys.exit(0 if asyncio.run(run(arguments.url, arguments.count, arguments.concurrency)) else 1)


if __name__ == "__main__":
    main()
