"""Chat completions of one choice, whole and as the same answer in chunks."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

ID = "chatcmpl-0123"
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@dataclass
class ChatAnswer:
    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Names and arguments."""
    finish_reason: str = "stop"
    stop_reason: str | int | None = None
    has_logprobs: bool = False

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text or (None if self.calls else "")}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [
                {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
                for index, (name, arguments) in enumerate(self.calls)
            ]
        choice = {"index": 0, "message": message, "logprobs": self._logprobs(self.text), **self._finish()}
        return {"id": ID, "model": "fake", "choices": [choice], "usage": USAGE}

    def choices(self, size: int) -> list[dict[str, Any]]:
        """The choices of its chunks, in pieces of so many characters."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": piece} for piece in pieces(self.reasoning, size)]
        deltas += [{"content": piece} for piece in pieces(self.text, size)]
        for index, (name, arguments) in enumerate(self.calls):
            begin = {"name": name, "arguments": ""}
            deltas.append(
                {"tool_calls": [{"index": index, "id": f"call_{index}", "type": "function", "function": begin}]}
            )
            deltas += [
                {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
                for piece in pieces(arguments, size)
            ]
        choices = [
            {"index": 0, "delta": delta, "logprobs": self._logprobs(delta.get("content", "")), "finish_reason": None}
            for delta in deltas
        ]
        choices.append({"index": 0, "delta": {}, "logprobs": None, **self._finish()})
        return choices

    def _finish(self) -> dict[str, Any]:
        return {"finish_reason": self.finish_reason, "stop_reason": self.stop_reason}

    def _logprobs(self, text: str) -> dict[str, Any] | None:
        """As if each character were a token."""
        if not self.has_logprobs or not text:
            return None
        tokens = [{"token": char, "logprob": -1.0, "bytes": list(char.encode())} for char in text]
        return {"content": [{**token, "top_logprobs": [token]} for token in tokens]}


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@st.composite
def chat_answers(draw: st.DrawFn) -> ChatAnswer:
    """Any order of parts that chat completions can give: reasoning, text, calls."""
    calls = draw(st.lists(st.tuples(st.sampled_from(["f", "g"]), st.sampled_from(["{}", '{"a": "ü"}'])), max_size=3))
    return ChatAnswer(
        text=draw(texts),
        reasoning=draw(texts),
        calls=calls,
        finish_reason=draw(st.sampled_from(["stop", "length", *(["tool_calls"] if calls else [])])),
        has_logprobs=draw(st.booleans()),
    )
