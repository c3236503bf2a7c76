"""One server to measure: its address, its model and the bytes of a request to it.

Made by `commands.py`, one for each server of a run. Invariant: the bytes are made before a load begins, so that no JSON
is written while it runs.
Next: `load.py`.
"""

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

from fast_inference.bench.answer import read_refusal
from fast_inference.bench.connection import Client
from fast_inference.bench.workload import Prompt
from fast_inference.listener import url_of
from ipc.errors import ConfigError

Endpoint = Literal["/v1/completions", "/v1/chat/completions"]
COMPLETIONS: Endpoint = "/v1/completions"
CHAT_COMPLETIONS: Endpoint = "/v1/chat/completions"
_MODELS_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What is the same for all requests of a run."""

    endpoint: Endpoint = COMPLETIONS
    ignore_eos: bool = True
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the body that win over ours."""
    api_key: str | None = None
    keep_alive: bool = True
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A server; `root` is the path before `/v1`, most often empty."""

    name: str
    host: str
    port: int
    root: str = ""
    model: str = ""

    @classmethod
    def parse(cls, url: str, name: str = "") -> "Target":
        """Take a base URL, with or without `/v1`.

        Raises:
            ConfigError: it is none, or not of plain HTTP.
        """
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port or 80
        except ValueError as error:
            raise ConfigError(f"{url!r} is no URL: {error}") from error
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(f"{url!r} is no base URL such as http://127.0.0.1:8000 (TLS is not measured)")
        root = parts.path.rstrip("/").removesuffix("/v1")
        return cls(name or url, parts.hostname, port, root)

    @property
    def url(self) -> str:
        """The base URL, without `/v1`."""
        return url_of(self.host, self.port) + self.root

    def client(self, options: RequestOptions) -> Client:
        """Connections to it."""
        return Client(self.host, self.port, keep_alive=options.keep_alive, timeout_s=options.timeout_s)

    async def with_model(self, options: RequestOptions, model: str | None) -> "Target":
        """The same with this model, or with the first that the server lists.

        Raises:
            ConfigError: the server cannot be reached or does not list models.
        """
        if model:
            return replace(self, model=model)
        async with Client(self.host, self.port, timeout_s=_MODELS_TIMEOUT_S) as client:
            exchange = await client.exchange(self._head("GET", "/v1/models", options) + b"\r\n")
        if failure := exchange.failure or read_refusal(exchange):
            hint = " (give it with --api-key)" if exchange.status == 401 else ""
            raise ConfigError(f"cannot ask {self.url}/v1/models: {failure.text}{hint}")
        try:
            listed = str(orjson.loads(exchange.body)["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"{self.url}/v1/models lists no model; name one with --model") from error
        return replace(self, model=listed)

    def request(self, prompt: Prompt, options: RequestOptions) -> bytes:
        """The bytes of a streamed request of exactly `output_len` tokens, greedy.

        Raises:
            ConfigError: the prompt is not of a form that the endpoint takes.
        """
        body: dict[str, Any] = {
            "model": self.model,
            **_prompt_fields(prompt, options.endpoint),
            "max_tokens": prompt.output_len,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if options.ignore_eos:
            body["ignore_eos"] = True
        data = orjson.dumps(body | dict(options.extra_body))
        head = self._head("POST", options.endpoint, options)
        return b"%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (head, len(data), data)

    def _head(self, method: str, path: str, options: RequestOptions) -> bytes:
        host = url_of(self.host, self.port).removeprefix("http://")
        lines = [f"{method} {self.root}{path} HTTP/1.1", f"host: {host}", "accept: */*", "user-agent: fast-inference"]
        if options.api_key is not None:
            lines.append(f"authorization: Bearer {options.api_key}")
        if not options.keep_alive:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n").encode()


def _prompt_fields(prompt: Prompt, endpoint: Endpoint) -> dict[str, Any]:
    content = prompt.content
    is_messages = isinstance(content, list) and isinstance(content[0], dict)
    if endpoint == COMPLETIONS:
        if is_messages:
            raise ConfigError(f"a prompt with messages needs --endpoint {CHAT_COMPLETIONS}")
        return {"prompt": content}
    if isinstance(content, str):
        return {"messages": [{"role": "user", "content": content}]}
    if not is_messages:
        raise ConfigError(f"a prompt of token ids needs --endpoint {COMPLETIONS}")
    return {"messages": content}
