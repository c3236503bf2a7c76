"""What is asked while something breaks: a seeded catalogue of requests of every kind, each with one right answer.

Chats and completions; plain, with log-probabilities, with stop strings, with `n` answers, and sampled with a seed.
All of them are deterministic, so that `oracle.py` can compare any answer with that of an undisturbed run. Whether a
question is streamed is decided when it is asked: both forms have the same answer.
"""

import random
from dataclasses import dataclass, field
from typing import Any

import orjson

_WORDS = [
    *("river", "stone", "paper", "lantern", "winter", "garden", "number", "engine", "silver", "market"),
    *("window", "thunder", "captain", "orange", "mountain", "letter", "bridge", "music", "harbour", "copper"),
]


@dataclass(frozen=True)
class Question:
    """One request, but for whether it is streamed."""

    name: str
    path: str
    fields: dict[str, Any] = field(hash=False)

    def request(self, *, stream: bool, connection: str = "close") -> bytes:
        """The bytes of the HTTP request."""
        body = {**self.fields, "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        return post(self.path, orjson.dumps(body), connection=connection)


def post(path: str, body: bytes, *, connection: str = "close") -> bytes:
    """An HTTP request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: {connection}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def get(path: str) -> bytes:
    """An HTTP request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def questions(model: str, *, max_tokens: int, count: int = 50, seed: int = 0) -> list[Question]:
    """The catalogue: every kind in turn, prompts of 3 to 60 words, some with a common beginning."""
    rng = random.Random(f"questions {seed}")
    common = " ".join(rng.choices(_WORDS, k=40))
    return [_question(model, number, rng, common, max_tokens) for number in range(count)]


def _question(model: str, number: int, rng: random.Random, common: str, max_tokens: int) -> Question:
    is_chat = number % 2 == 0
    text = " ".join(rng.choices(_WORDS, k=rng.randint(3, 60)))
    text = f"{common} {number} {text}" if number % 5 == 0 else f"{number} {text}"
    kind, fields = _KINDS[number // 2 % len(_KINDS)]
    fields = {"model": model, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": number % 4 < 2, **fields}
    if fields.get("temperature"):
        fields["seed"] = number
    if is_chat:
        fields["messages"] = [{"role": "user", "content": text}]
        if fields.pop("logprobs", None) is not None:
            fields |= {"logprobs": True, "top_logprobs": 2}
        return Question(f"chat {number} ({kind})", "/v1/chat/completions", fields)
    return Question(f"completion {number} ({kind})", "/v1/completions", {**fields, "prompt": text})


_KINDS: list[tuple[str, dict[str, Any]]] = [
    ("plain", {}),
    ("logprobs", {"logprobs": 2}),
    ("stop strings", {"stop": ["zq", "the end"]}),
    ("two answers", {"n": 2}),
    ("sampled", {"temperature": 0.8, "top_p": 0.9}),
]
