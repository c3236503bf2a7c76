"""Times calls of methods of objects that know nothing of it; what the scripts that look into a step measure with.

Invariant: a method that was wrapped does what it did before.
"""

import time
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """Seconds that wrapped methods took, call by call."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def wrap(self, owner: object, method: str, name: str) -> None:
        """Time every call of a method of one object, as `name`."""
        setattr(owner, method, self.timed(getattr(owner, method), name))

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The same function, timed."""
        times = self.seconds.setdefault(name, [])

        def timed(*arguments: Any, **keywords: Any) -> Any:
            started_at = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                times.append(time.perf_counter() - started_at)

        return timed

    def clear(self) -> None:
        """Forget all times so far."""
        for times in self.seconds.values():
            times.clear()
