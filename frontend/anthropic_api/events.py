"""The stream of a Message: the choices of a chat completion's chunks in, events out.

`MessageEvents` is fed choice by choice; each call returns the events that are due. Invariant: blocks follow each other,
each that started is stopped, and after `message_stop` nothing follows. Next: `message.py`, which makes the objects.
"""

from typing import Any

from frontend.anthropic_api.error_envelope import anthropic_error
from frontend.anthropic_api.message import message_base, stop_fields, usage_of

Event = dict[str, Any]

_EMPTY_BLOCKS: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": "", "citations": None},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


class MessageEvents:
    """Writes the events of one Message."""

    def __init__(self, message_id: str, model: str) -> None:
        self._message = message_base(message_id, model)
        self._num_blocks = 0
        self._open_block: tuple[str, int] | None = None
        """Kind of the block that is being written, with chat's number of a tool call."""
        self._stop: dict[str, Any] = {}

    def start(self, usage: dict[str, Any]) -> list[Event]:
        """The events before any content; `usage` is chat's, as far as it is known."""
        message = {**self._message, "usage": usage_of(usage)}
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def choice(self, choice: dict[str, Any]) -> list[Event]:
        """The events of a chunk's choice."""
        delta = choice["delta"]
        events: list[Event] = []
        if delta.get("reasoning_content"):
            events += self._open("thinking", -1, _EMPTY_BLOCKS["thinking"])
            events.append(self._delta("thinking_delta", thinking=delta["reasoning_content"]))
        if delta.get("content"):
            events += self._open("text", -1, _EMPTY_BLOCKS["text"])
            events.append(self._delta("text_delta", text=delta["content"]))
        for call in delta.get("tool_calls") or ():
            events += self._tool_use(call)
        if choice.get("finish_reason"):
            self._stop = stop_fields(choice)
            events += self._close()
        return events

    def finish(self, usage: dict[str, Any], extra: dict[str, Any]) -> list[Event]:
        """The last events, after the choice has finished; `extra` fields stand beside the usage."""
        assert self._stop
        delta = {"type": "message_delta", "delta": self._stop, "usage": usage_of(usage), **extra}
        return [delta, {"type": "message_stop"}]

    def fail(self, error_body: dict[str, Any]) -> list[Event]:
        """The last event of a stream that cannot go on; takes the body of an error answer."""
        return [anthropic_error(error_body)]

    def _tool_use(self, call: dict[str, Any]) -> list[Event]:
        function = call.get("function") or {}
        events: list[Event] = []
        if self._open_block != ("tool_use", call["index"]):
            block = {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}}
            events = self._open("tool_use", call["index"], block)
        if function.get("arguments"):
            events.append(self._delta("input_json_delta", partial_json=function["arguments"]))
        return events

    def _open(self, kind: str, call_index: int, block: dict[str, Any]) -> list[Event]:
        """Begin a block, unless it is open."""
        if self._open_block == (kind, call_index):
            return []
        events = self._close()
        self._open_block = (kind, call_index)
        return [*events, {"type": "content_block_start", "index": self._num_blocks, "content_block": block}]

    def _close(self) -> list[Event]:
        """End the block that is open, if one is."""
        if self._open_block is None:
            return []
        self._open_block = None
        self._num_blocks += 1
        return [{"type": "content_block_stop", "index": self._num_blocks - 1}]

    def _delta(self, kind: str, **fields: Any) -> Event:
        return {"type": "content_block_delta", "index": self._num_blocks, "delta": {"type": kind, **fields}}
