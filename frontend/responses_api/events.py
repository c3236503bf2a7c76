"""The stream of a Response: the choices of a chat completion's chunks in, events out.

`ResponseEvents` is fed choice by choice; each call returns the events that are due. Items follow each other: one is
done before the next is added. Invariant: the events have consecutive sequence numbers, each item that was added is done
in the end, and the last event carries the Response with all of them. Next: `response.py`, which makes the objects.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from frontend.responses_api.response import (
    content_part,
    finished_response,
    item_id,
    item_status,
    output_item,
    output_logprobs,
)

Event = dict[str, Any]

_ERROR_CODES = {429: "rate_limit_exceeded"}


@dataclass(slots=True)
class _OpenItem:
    """The item that is being written."""

    kind: str
    index: int
    texts: list[str] = field(default_factory=list)
    """Pieces of its text, or of its arguments."""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    call: dict[str, Any] = field(default_factory=dict)
    call_index: int = -1
    """Chat's number of a call."""


class ResponseEvents:
    """Writes the events of one Response."""

    def __init__(self, base: dict[str, Any], clock: Callable[[], float] = time.time) -> None:
        """`base` is the Response in progress (`response_base`); `clock` tells when it is completed."""
        self._base = base
        self._clock = clock
        self._id: str = base["id"]
        self._num_events = 0
        self._output: list[dict[str, Any]] = []
        self._item: _OpenItem | None = None
        self._finish_reason = ""
        self._logprobs: list[dict[str, Any]] = []
        """Of tokens whose text is still to come."""

    def start(self, usage: dict[str, Any]) -> list[Event]:
        """The events before any output; the usage comes at the end."""
        return [
            self._event("response.created", response=self._base),
            self._event("response.in_progress", response=self._base),
        ]

    def choice(self, choice: dict[str, Any]) -> list[Event]:
        """The events of a chunk's choice."""
        delta = choice["delta"]
        events: list[Event] = []
        self._logprobs += output_logprobs((choice.get("logprobs") or {}).get("content"))
        if delta.get("reasoning_content"):
            events += self._text("reasoning", delta["reasoning_content"])
        if delta.get("content"):
            events += self._text("message", delta["content"])
        for call in delta.get("tool_calls") or ():
            events += self._call(call)
        if choice.get("finish_reason"):
            self._finish_reason = choice["finish_reason"]
            if self._item is None and not self._output:
                events += self._open("message")
            events += self._close(item_status(self._finish_reason, is_last=True))
        return events

    def finish(self, usage: dict[str, Any], extra: dict[str, Any]) -> list[Event]:
        """The last event, after the choice has finished; the Response in it has the `extra` fields too."""
        assert self._finish_reason
        response = finished_response(self._base, self._output, self._finish_reason, usage, int(self._clock())) | extra
        kind = "completed" if response["status"] == "completed" else "incomplete"  # no event is named after `cancelled`
        return [self._event(f"response.{kind}", response=response)]

    def fail(self, error_body: dict[str, Any]) -> list[Event]:
        """The last event of a stream that cannot go on; takes the body of an error answer."""
        error = error_body["error"]
        code = _ERROR_CODES.get(error["status"], "server_error" if error["status"] >= 500 else "invalid_prompt")
        response = {
            **self._base,
            "status": "failed",
            "error": {"code": code, "message": error["message"]},
            "output": self._output,
        }
        return [self._event("response.failed", response=response)]

    def _text(self, kind: str, text: str) -> list[Event]:
        events = self._open(kind) if self._item is None or self._item.kind != kind else []
        assert self._item is not None
        self._item.texts.append(text)
        if kind == "reasoning":
            return [*events, self._part_event("response.reasoning_text.delta", delta=text)]
        logprobs, self._logprobs = self._logprobs, []
        self._item.logprobs += logprobs
        return [*events, self._part_event("response.output_text.delta", delta=text, logprobs=logprobs)]

    def _call(self, call: dict[str, Any]) -> list[Event]:
        function = call.get("function") or {}
        events: list[Event] = []
        if self._item is None or self._item.kind != "function_call" or self._item.call_index != call["index"]:
            events = self._open("function_call", call_id=call["id"], name=function["name"])
            assert self._item is not None
            self._item.call_index = call["index"]
        arguments = function.get("arguments")
        if arguments:
            self._item.texts.append(arguments)
            events.append(self._item_event("response.function_call_arguments.delta", delta=arguments))
        return events

    def _open(self, kind: str, **call: Any) -> list[Event]:
        """Begin an item; the one before it is complete."""
        events = self._close("completed")
        index = len(self._output)
        self._item = _OpenItem(kind, index, call=call)
        begun = {**call, "arguments": ""} if kind == "function_call" else {}
        item = output_item(kind, self._id, index, "in_progress", **begun)
        events.append(self._event("response.output_item.added", output_index=index, item=item))
        if kind != "function_call":
            events.append(self._part_event("response.content_part.added", part=content_part(kind, text="")))
        return events

    def _close(self, status: str) -> list[Event]:
        """End the item that is open, if one is."""
        item = self._item
        if item is None:
            return []
        text = "".join(item.texts)
        values: dict[str, Any]
        if item.kind == "function_call":
            values = {**item.call, "arguments": text}
            events = [self._item_event("response.function_call_arguments.done", arguments=text)]
        elif item.kind == "reasoning":
            values = {"text": text}
            events = [self._part_event("response.reasoning_text.done", text=text)]
        else:
            item.logprobs += self._logprobs
            self._logprobs = []
            values = {"text": text, "logprobs": item.logprobs}
            events = [self._part_event("response.output_text.done", text=text, logprobs=item.logprobs)]
        if item.kind != "function_call":
            events.append(self._part_event("response.content_part.done", part=content_part(item.kind, **values)))
        done = output_item(item.kind, self._id, item.index, status, **values)
        self._output.append(done)
        events.append(self._event("response.output_item.done", output_index=item.index, item=done))
        self._item = None
        return events

    def _part_event(self, name: str, **fields: Any) -> Event:
        return self._item_event(name, content_index=0, **fields)

    def _item_event(self, name: str, **fields: Any) -> Event:
        assert self._item is not None
        place = {"item_id": item_id(self._item.kind, self._id, self._item.index), "output_index": self._item.index}
        return self._event(name, **place, **fields)

    def _event(self, name: str, **fields: Any) -> Event:
        number = self._num_events
        self._num_events += 1
        return {"type": name, "sequence_number": number, **fields}
