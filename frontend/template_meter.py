"""The meter of one rendering: how much work a chat template has done, and how large its values have become.

Jinja runs a template in this process and holds the interpreter lock, so the work itself is counted: evaluated nodes,
and the sizes of what operators, filters and calls read and make. `template_environment.py` reports to the meter before
an operation where its result could be far larger than its operands, else behind it. Invariant: between two reports
nothing costs more than one operation on values of `MAX_VALUE_SIZE`; what would cost more is a `TemplateLimitError`.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any, cast

from jinja2.utils import Namespace

MAX_VALUE_SIZE = 2**23
"""Largest text in characters, or container with all that is in it."""
MAX_MADE_SIZE = 2**28
"""Most characters and items that one rendering may make in all."""
SIZE_PER_ITEM = 32
"""What an item of a container counts for, besides what is in it."""
UNITS_PER_CLOCK_CHECK = 50_000
"""The clock is read after so many units of work, which are some milliseconds."""

_CHARS_PER_UNIT = 64
_UNITS_PER_LAZY_ITEM = 4
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS: tuple[type, ...] = (dict, list, tuple, set, frozenset, Namespace, *_VIEWS)


class TemplateLimitError(Exception):
    """The template takes too long, or makes too much."""


class TemplateBudgetError(Exception):
    """The budget of units is spent; with more time the template may still end."""


class TemplateMeter:
    """Counts the work of one rendering, in the thread that renders."""

    def __init__(self, max_seconds: float, max_units: int | None = None) -> None:
        """With `max_units`, `TemplateBudgetError` is raised when they are spent; `max_seconds` is processor time."""
        self._units_left = UNITS_PER_CLOCK_CHECK if max_units is None else max_units
        self._has_budget = max_units is not None
        self._deadline = time.thread_time() + max_seconds
        self._max_seconds = max_seconds
        self._made_left = MAX_MADE_SIZE

    def spend(self, units: int) -> None:
        """Count work.

        Raises:
            TemplateBudgetError: there is a budget and it is spent.
            TemplateLimitError: the time is over.
        """
        self._units_left -= units
        if self._units_left < 0:
            self._check_clock()

    def weigh(self, value: Any) -> Any:
        """Count the reading of a value, and of everything in it; raises `TemplateLimitError` if that is too much."""
        if isinstance(value, str):
            self.spend(1 + len(value) // _CHARS_PER_UNIT)
        elif isinstance(value, _CONTAINERS):
            self.spend(1 + self._deep_size(value) // _CHARS_PER_UNIT)
        return value

    def _deep_size(self, value: Any) -> int:
        """`deep_size`, which stops where the budget ends."""
        max_size = min(MAX_VALUE_SIZE, (self._units_left + 1) * _CHARS_PER_UNIT) if self._has_budget else MAX_VALUE_SIZE
        try:
            return deep_size(value, max_size)
        except TemplateLimitError:
            if max_size < MAX_VALUE_SIZE:
                raise TemplateBudgetError from None
            raise

    def made(self, value: Any) -> Any:
        """Count a new value; what is iterated over lazily is counted item by item."""
        if isinstance(value, str):
            self.allow(len(value))
            self._made_left -= len(value)
        elif isinstance(value, list | tuple | dict):
            self.allow(len(value) * SIZE_PER_ITEM)
            self._made_left -= len(value) * SIZE_PER_ITEM
        elif isinstance(value, Iterator):
            return self.items(value, _UNITS_PER_LAZY_ITEM)
        if self._made_left < 0:
            raise TemplateLimitError("it makes too much text")
        return value

    def allow(self, size: int) -> None:
        """Count the making of a value of this size, and raise `TemplateLimitError` if that is too large."""
        self.check_size(size)
        self.spend(1 + size // _CHARS_PER_UNIT)

    def check_size(self, size: int) -> None:
        """Raise `TemplateLimitError` for a value that is too large."""
        if size > MAX_VALUE_SIZE:
            raise TemplateLimitError("it makes a value that is too large")

    def items(self, iterable: Iterable[Any], units: int) -> Iterator[Any]:
        """The items, each counted before it is given."""
        for item in iterable:
            self._units_left -= units
            if self._units_left < 0:
                self._check_clock()
            yield item

    def _check_clock(self) -> None:
        if self._has_budget:
            raise TemplateBudgetError
        if time.thread_time() > self._deadline:
            raise TemplateLimitError(f"it takes longer than {self._max_seconds:g} s")
        self._units_left = UNITS_PER_CLOCK_CHECK


def deep_size(value: Any, max_size: int = MAX_VALUE_SIZE) -> int:
    """Characters, items and containers of a value, in the way that writing or comparing it meets them.

    Raises:
        TemplateLimitError: there are more than `max_size`.
    """
    size = 0
    stack: list[Any] = [value]
    while stack:
        node = stack.pop()
        size += SIZE_PER_ITEM
        if isinstance(node, str):
            size += len(node)
        elif isinstance(node, dict):
            stack += node
            stack += node.values()
        elif isinstance(node, Namespace):
            stack.append(object.__getattribute__(node, "_Namespace__attrs"))
        elif isinstance(node, _CONTAINERS):
            stack += cast("Iterable[Any]", node)
        if size + len(stack) * SIZE_PER_ITEM > max_size:
            raise TemplateLimitError("it reads a value that is too large")
    return size
