"""An HTTP server for tests of clients: what it does to each request is written down as bytes and pauses."""

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

PAUSE = None
CLOSE = "close"
Script = Iterable[bytes | str | None]


@dataclass
class Request:
    """One request that arrived."""

    number: int
    connection: int
    head: str
    body: dict = field(default_factory=dict)


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A whole response of known length."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def stream_head(*headers: str) -> bytes:
    """The head of a response without a length, which ends with the connection."""
    return ("\r\n".join(["HTTP/1.1 200 OK", "content-type: text/event-stream", *headers]) + "\r\n\r\n").encode()


def event(value: object) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def completion_events(num_tokens: int, prompt_tokens: int = 3) -> bytes:
    """A whole stream with a chunk for each token."""
    chunks = [{"choices": [{"index": 0, "text": "x", "finish_reason": None}]}] * num_tokens
    end = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": num_tokens}}
    return b"".join(map(event, [*chunks, end, usage, b"[DONE]"]))


class ScriptedServer:
    """An async context manager; `answer` gives the script for each request: bytes, `PAUSE` (10 ms) or `CLOSE`."""

    def __init__(self, answer: Callable[[Request], Script]) -> None:
        self._answer = answer
        self._tasks: set[asyncio.Task] = set()
        self.requests: list[Request] = []
        self.num_connections = 0
        self.num_running = 0
        self.most_running = 0

    async def __aenter__(self) -> "ScriptedServer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = self.num_connections
        self.num_connections += 1
        try:
            while await self._serve_one(connection, reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _serve_one(self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            (line.split(":")[1] for line in head.lower().splitlines() if line.startswith("content-length:")), "0"
        )
        body = json.loads(await reader.readexactly(int(length)) or b"{}")
        request = Request(len(self.requests), connection, head, body)
        self.requests.append(request)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            for part in self._answer(request):
                if part == CLOSE:
                    return False
                if part is PAUSE:
                    await asyncio.sleep(0.01)
                else:
                    writer.write(part)
                    await writer.drain()
        finally:
            self.num_running -= 1
        return True
