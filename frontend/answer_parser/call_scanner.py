"""One tool call as a JSON object, `{"name": "…", "arguments": {…}}`, read character by character.

The name is given out as soon as it is known, the arguments then exactly as they are written, so that a client can show
them while they come. Used by `tagged_calls.py` and `bare_calls.py`. Invariant: until the name is given out, `raw` is
all that was read, so that what turns out to be no call can be shown as text instead.
"""

import uuid
from collections.abc import Callable
from enum import Enum, auto

import orjson

from frontend.answer_parser.json_span import JsonSpan
from frontend.answer_parts import Part, ToolCallArguments, ToolCallStart

NO_ARGUMENTS = "{}"
_ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
_WHITESPACE = frozenset(" \t\r\n")


class CallCounter:
    """Numbers the calls of one answer."""

    def __init__(self, *, has_short_ids: bool = False) -> None:
        """`has_short_ids`: nine letters and digits, the only ids that mistral's templates take back."""
        self.count = 0
        self._has_short_ids = has_short_ids

    def start(self, name: str) -> ToolCallStart:
        """The beginning of the next call."""
        self.count += 1
        digits = uuid.uuid4().hex
        return ToolCallStart(self.count - 1, digits[:9] if self._has_short_ids else f"call_{digits[:24]}", name)


class _State(Enum):
    START = auto()
    KEY = auto()
    IN_KEY = auto()
    COLON = auto()
    VALUE = auto()
    AFTER_VALUE = auto()
    DONE = auto()
    BROKEN = auto()


class CallScanner:
    """Reads one call; to be asked for `is_done` and `is_broken` after each push."""

    def __init__(
        self, counter: CallCounter, may_call: Callable[[str], bool] = bool, *, is_name_first: bool = False
    ) -> None:
        """`may_call(name)`: False for a name that is none of a tool, so that the object is no call.

        `is_name_first`: an object is a call only if it begins with the name, or with `"type": "function"` before it.
        """
        self._counter = counter
        self._is_name_first = is_name_first
        self._may_call = may_call
        self._state = _State.START
        self._raw: list[str] = []
        self._key = ""
        self._value: list[str] = []
        self._span = JsonSpan()
        self._call: ToolCallStart | None = None
        self._early_arguments: str | None = None
        """Arguments that came before the name."""
        self._has_arguments = False
        self._parts: list[Part] = []

    @property
    def is_done(self) -> bool:
        """The object is complete, and is a call."""
        return self._state is _State.DONE

    @property
    def is_broken(self) -> bool:
        """This is no call, or no JSON; what was read is in `raw`, or has been given out as parts of a call."""
        return self._state is _State.BROKEN

    @property
    def has_call(self) -> bool:
        """The beginning of a call has been given out."""
        return self._call is not None

    @property
    def raw(self) -> str:
        """What was read, as long as no part has been given out."""
        return "" if self._call else "".join(self._raw)

    def push(self, text: str) -> tuple[list[Part], str]:
        """Read on; returns what is certain, and the text behind the object or behind where it breaks."""
        self._parts = []
        position = 0
        while position < len(text) and not self.is_done:
            end = self._span.plain_end(text, position) if self._state is _State.VALUE else position
            if end > position:
                self._value.append(text[position:end])
            elif self._read(text[position]):
                end += 1
            else:
                break
            if self._call is None:
                self._raw.append(text[position:end])
            position = end
        self._flush_value()
        return self._parts, text[position:]

    def _read(self, char: str) -> bool:
        """Take in one character; False if it does not belong to the object."""
        match self._state:
            case _State.VALUE:
                return self._read_value(char)
            case _State.IN_KEY:
                self._value.append(char)
                self._span.push(char)
                if self._span.is_over:
                    self._end_key()
            case _ if char in _WHITESPACE:
                return True
            case _State.START if char == "{":
                self._state = _State.KEY
            case _State.KEY if char == '"':
                self._begin_value()
                self._state = _State.IN_KEY
                return self._read(char)
            case _State.COLON if char == ":":
                self._begin_value()
                self._state = _State.VALUE
            case _State.AFTER_VALUE if char == ",":
                self._state = _State.KEY
            case _State.KEY | _State.AFTER_VALUE if char == "}":
                self._end()
            case _:
                self._state = _State.BROKEN
        return not self.is_broken

    def _begin_value(self) -> None:
        self._value = []
        self._span = JsonSpan()

    def _end_key(self) -> None:
        key = _string("".join(self._value))
        is_wrong = self._is_name_first and self._call is None and key not in ("name", "type")
        self._state = _State.BROKEN if key is None or is_wrong else _State.COLON
        self._key = key or ""

    def _read_value(self, char: str) -> bool:
        if not self._span.has_begun and char in _WHITESPACE:
            return True
        if not self._span.push(char):  # a scalar ends with what follows it
            self._end_value()
            return not self.is_broken and self._read(char)
        self._value.append(char)
        if self._span.is_over:
            self._end_value()
        return not self.is_broken

    @property
    def _is_streamed(self) -> bool:
        return self._call is not None and self._key in _ARGUMENT_KEYS and self._span.is_container

    def _flush_value(self) -> None:
        """Give out what there is of arguments that are being read."""
        if self._state is _State.VALUE and self._is_streamed and self._value:
            self._add_arguments("".join(self._value))
            self._value = []

    def _end_value(self) -> None:
        self._state = _State.AFTER_VALUE
        text = "".join(self._value)
        self._value = []
        if self._key == "name":
            self._take_name(text)
        elif self._key == "type" and self._is_name_first and self._call is None and text != '"function"':
            self._state = _State.BROKEN
        elif self._key in _ARGUMENT_KEYS:
            if not self._span.is_container:
                text = _string(text) or NO_ARGUMENTS  # some models write the object as a string
            if self._call is None:
                self._early_arguments = text
            else:
                self._add_arguments(text)

    def _take_name(self, text: str) -> None:
        name = _string(text)
        if not name or self._call is not None or not self._may_call(name):
            self._state = _State.BROKEN
            return
        self._call = self._counter.start(name)
        self._parts.append(self._call)
        if self._early_arguments is not None:
            self._add_arguments(self._early_arguments)

    def _add_arguments(self, text: str) -> None:
        assert self._call is not None
        self._has_arguments = True
        if not text:
            return
        last = self._parts[-1] if self._parts else None
        if isinstance(last, ToolCallArguments) and last.index == self._call.index:
            self._parts[-1] = ToolCallArguments(last.index, last.text + text)
        else:
            self._parts.append(ToolCallArguments(self._call.index, text))

    def _end(self) -> None:
        if self._call is None:
            self._state = _State.BROKEN
            return
        if not self._has_arguments:
            self._add_arguments(NO_ARGUMENTS)
        self._state = _State.DONE


def _string(text: str) -> str | None:
    """What a JSON string says; None if this is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None
