"""What chat templates cannot do because one operation would make much of little: checked before it is done.

Raises `TemplateLimitError`. Called by `template_environment.py`; everything else is counted when it is done.
"""

import re
from types import BuiltinMethodType
from typing import Any

from frontend.template_meter import SIZE_PER_ITEM, TemplateLimitError, TemplateMeter

_MAX_INT_BITS = 1024
_MAX_FORMAT_CHARS = 10_000
GROWING = {
    "center": "",
    "ljust": "",
    "rjust": "",
    "zfill": "",
    "batch": "",
    "slice": "",
    "expandtabs": "\t",
    "indent": "\n",
}
"""Filters and methods that write as much as an argument says, once, or for each such character."""
_LEFT_OUT_METHODS = ("encode", "maketrans", "to_bytes", "translate")
"""Methods of texts and numbers that no chat template needs, and that make much of little."""
WIDE_FORMAT = re.compile(r"\{[^{}]*(?:[0-9]{5}|\{)")
WIDE_PERCENT_FORMAT = re.compile(r"%(?:\(.*\))?[^a-zA-Z%]*(?:[0-9]{5}|\*)", re.DOTALL)
"""What can make a format string write far more than its arguments have."""


def checked_method(
    meter: TemplateMeter, method: BuiltinMethodType, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """The arguments of a method of a text or a container, if its result cannot become too large."""
    owner, name = method.__self__, method.__name__
    meter.weigh(owner)
    if name in _LEFT_OUT_METHODS:
        raise TemplateLimitError(f"it calls {name}")
    if not isinstance(owner, str):
        return args
    if name in GROWING:
        check_growth(meter, name, (owner, *args), kwargs)
    elif name == "replace":
        check_replacement(meter, (owner, *args), kwargs)
    elif name == "join" and args:
        texts = list(args[0])
        meter.allow(sum(len(owner) + len(text) for text in texts if isinstance(text, str)))
        return (texts, *args[1:])
    return args


def check_growth(meter: TemplateMeter, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """For what writes a number of characters or items that an argument says."""
    first = args[0]
    num_times = first.count(GROWING[name]) + 1 if isinstance(first, str) and GROWING[name] else 1
    numbers = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, int)]
    lengths = [len(value) for value in (*args[1:], *kwargs.values()) if isinstance(value, str)]
    own_length = len(first) if isinstance(first, str) else 0
    meter.allow(own_length + num_times * max([0, *numbers, *lengths]))


def check_replacement(meter: TemplateMeter, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """For `replace`, of which the size of the result can be known."""
    text, old, new = (*args[:3], *(kwargs.get(name, "") for name in ("s", "old", "new")[len(args) :]))
    if isinstance(text, str) and isinstance(old, str) and isinstance(new, str):
        meter.allow(len(text) + text.count(old) * max(0, len(new) - len(old)))


def check_product(meter: TemplateMeter, left: Any, right: Any) -> None:
    """For `left * right`."""
    if isinstance(right, str | list | tuple):
        left, right = right, left
    if isinstance(left, str | list | tuple) and isinstance(right, int):
        meter.allow(len(left) * max(0, right) * (1 if isinstance(left, str) else SIZE_PER_ITEM))
    elif isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _MAX_INT_BITS:
        raise TemplateLimitError("it makes a number that is too large")


def check_power(left: Any, right: Any) -> None:
    """For `left ** right`."""
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MAX_INT_BITS:
        raise TemplateLimitError("it makes a number that is too large")


def check_format(wide: re.Pattern[str], pattern: Any) -> None:
    """For what fills a pattern: no width has five digits, or comes from an argument, and the pattern is short."""
    if isinstance(pattern, str) and (len(pattern) > _MAX_FORMAT_CHARS or wide.search(pattern)):
        raise TemplateLimitError("it formats with widths that are too large")
