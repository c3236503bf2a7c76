"""What the launcher prints on stdout once everything serves: a line for programs and a request for people to paste.

Scripts wait for the ready line, so its form is fixed; `README.md` shows the same request.
"""

import json
import re
import shlex
from typing import Any

_READY_LINE = re.compile(r"ready: (http://\S+) \(model ")
EXAMPLE_QUESTION = "What is the capital of France?"


def ready_line(url: str, model_name: str, num_frontends: int, num_blocks: int, num_cores: int = 1) -> str:
    """`ready: URL (model NAME, N frontends, B blocks)`; several cores stand before the frontends, with all blocks."""
    cores = f"{num_cores} cores, " if num_cores > 1 else ""
    frontends = f"{num_frontends} frontend{'s' if num_frontends != 1 else ''}"
    return f"ready: {url} (model {model_name}, {cores}{frontends}, {num_blocks} blocks)"


def url_in_ready_line(line: str) -> str | None:
    """The URL of a ready line, None for any other line."""
    match = _READY_LINE.match(line)
    return None if match is None else match[1]


def example_request(url: str, model_name: str, *, can_generate: bool = True, needs_key: bool = False) -> str:
    """A `curl` line to paste, of what the model can do; it names the variable that holds the key, never a key."""
    path = "/v1/embeddings"
    body: dict[str, Any] = {"model": model_name, "input": [EXAMPLE_QUESTION]}
    if can_generate:
        path = "/v1/chat/completions"
        messages = [{"role": "user", "content": EXAMPLE_QUESTION}]
        body = {"model": model_name, "messages": messages, "temperature": 0, "max_tokens": 20}
    argv = ["curl", f"{url}{path}", "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    key = ' -H "Authorization: Bearer $FAST_INFERENCE_API_KEY"' if needs_key else ""
    return shlex.join(argv) + key
