"""What a recorded exchange says: the times of its chunks of text and its token counts, or why it failed.

Called when the load is over. The body of a stream is server-sent events (WHATWG HTML, section 9.2): an event arrives
with the piece of the body that holds the end of its blank line. Invariant: a result without a failure is of a stream
that was complete, with `[DONE]` and at least one choice; only such results are ever taken for fast or slow.
Next: `metrics.py`.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from fast_inference.bench.connection import Exchange, Failure

_LINE_END = re.compile(rb"\r\n|\n|\r")
_DONE = b"[DONE]"
_MAX_DETAIL_CHARS = 160
_TEXT_FIELDS = ("content", "reasoning_content", "reasoning", "tool_calls")


@dataclass(frozen=True, slots=True)
class RequestResult:
    """One request as the client saw it. Times are those of `time.perf_counter`, in seconds."""

    sent_at: float
    chunk_times: tuple[float, ...] = ()
    """`[num_chunks]`: arrival of each chunk that has text; where none has, of the one that ends the answer."""
    ended_at: float = 0.0
    """Arrival of the last chunk with a choice."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, found in the server's prefix cache, where it says so."""
    output_tokens: int = 0
    has_usage: bool = False
    """Whether the server counted the tokens; if not, each chunk counts as one and the prompt as none."""
    failure: Failure | None = None

    @property
    def ttft_s(self) -> float:
        """Time to the first token: to the first chunk that has text."""
        return self.chunk_times[0] - self.sent_at

    @property
    def e2el_s(self) -> float:
        """End-to-end latency."""
        return self.ended_at - self.sent_at

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for an answer of one token."""
        return (self.e2el_s - self.ttft_s) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def itl_s(self) -> list[float]:
        """Inter-token latencies: `[num_chunks - 1]`, the gaps between chunks that have text."""
        return [later - earlier for earlier, later in zip(self.chunk_times, self.chunk_times[1:], strict=False)]


def read_events(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The data of each complete event of a stream, with the length of the body up to the end of that event."""
    lines: list[bytes] = []
    begin = 0
    for match in _LINE_END.finditer(body):
        line = body[begin : match.start()]
        begin = match.end()
        if line.startswith(b"data:"):
            lines.append(line[6:] if line[5:6] == b" " else line[5:])
        elif not line and lines:
            yield begin, b"\n".join(lines)
            lines = []


def read_answer(exchange: Exchange) -> RequestResult:
    """What a streamed completion or chat completion says."""
    failure = exchange.failure or read_refusal(exchange)
    if failure is not None:
        return RequestResult(exchange.sent_at, failure=failure)
    try:
        return _read_stream(exchange)
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # it is not of the form that the API promises
        detail = _shortened(f"{type(error).__name__}: {error}")
        return RequestResult(exchange.sent_at, failure=Failure("not a stream of completions", detail))


def _read_stream(exchange: Exchange) -> RequestResult:
    chunk_times: list[float] = []
    ended_at: float | None = None
    usage: dict[str, Any] | None = None
    for end, data in read_events(bytes(exchange.body)):
        if data == _DONE:
            break
        chunk = orjson.loads(data)
        if error := chunk.get("error"):
            return RequestResult(exchange.sent_at, failure=Failure(*_described("error in the stream", error)))
        usage = chunk.get("usage") or usage
        if choices := chunk.get("choices"):
            ended_at = exchange.piece_times[bisect_left(exchange.piece_ends, end)]
            if _has_text(choices[0]):
                chunk_times.append(ended_at)
    else:
        return RequestResult(exchange.sent_at, failure=Failure("stream without [DONE]"))
    if ended_at is None:
        return RequestResult(exchange.sent_at, failure=Failure("stream without an answer"))
    return RequestResult(
        exchange.sent_at,
        tuple(chunk_times) or (ended_at,),
        ended_at,
        prompt_tokens=0 if usage is None else int(usage["prompt_tokens"]),
        cached_tokens=0 if usage is None else int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        output_tokens=len(chunk_times) if usage is None else int(usage["completion_tokens"]),
        has_usage=usage is not None,
    )


def _has_text(choice: dict[str, Any]) -> bool:
    if "delta" in choice:
        return any(choice["delta"].get(name) for name in _TEXT_FIELDS)
    return bool(choice.get("text"))


def read_refusal(exchange: Exchange) -> Failure | None:
    """The failure that the status of a whole response means, with the code and message of its error envelope."""
    if exchange.status == 200:
        return None
    reason = f"HTTP {exchange.status}"
    try:
        error = orjson.loads(exchange.body)
    except orjson.JSONDecodeError:
        return Failure(reason, _shortened(bytes(exchange.body).decode(errors="replace")))
    return Failure(*_described(reason, error.get("error", error) if isinstance(error, dict) else error))


def _described(reason: str, error: Any) -> tuple[str, str]:
    """The reason with the error's code, if that is a word, and the message; of the forms that servers have."""
    if not isinstance(error, dict):
        return reason, _shortened(str(error))
    code = error.get("code") if isinstance(error.get("code"), str) else error.get("type")
    message = error.get("message") or error.get("detail") or ""
    return (f"{reason} {code}" if isinstance(code, str) else reason), _shortened(str(message))


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_DETAIL_CHARS else line[:_MAX_DETAIL_CHARS] + "…"
