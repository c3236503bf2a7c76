"""SIGINT and SIGTERM while a benchmark runs: the measurement is cancelled, and what is there so far can be reported.

Used by `cli_bench.py`, which installs it first of all, by `commands.py` and by scripts. Invariant: the first signal
raises `Interrupted` in the main thread, where a server of one's own is then stopped; while a coroutine runs, it is
cancelled before. A further signal raises it again, wherever that is.
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self, TypeVar

from ipc.errors import ConfigError
from ipc.exit_codes import SIGNAL_EXIT_BASE

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Result = TypeVar("Result")


class Interrupted(KeyboardInterrupt):
    """A signal came."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.what_was_measured = ""
        """For people, where it is known."""

    def __str__(self) -> str:
        return f"interrupted by {signal.Signals(self.signum).name} {self.what_was_measured}".rstrip()

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return SIGNAL_EXIT_BASE + self.signum


@contextmanager
def errors_as_exits() -> Iterator[None]:
    """Around what a script does: what stops it becomes one line on stderr and an exit status."""
    try:
        yield
    except ConfigError as error:
        sys.exit(f"error: {error.message}")
    except Interrupted as interrupted:
        sys.stderr.write(f"error: {interrupted}\n")
        sys.exit(interrupted.exit_code)


class Interruption:
    """A context manager that owns both signals."""

    def __init__(self) -> None:
        self._signum = 0
        self._is_running = False
        """A coroutine, or the loop around it: signals are noted, and raised in the end."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._previous = {signum: signal.signal(signum, self._on_signal) for signum in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def run(self, measure: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run what it gives in an event loop of its own.

        Raises:
            Interrupted: a signal came; the coroutine was cancelled.
        """
        import uvloop

        self._is_running = True
        try:
            result = uvloop.run(self._cancellable(measure))
        except asyncio.CancelledError:
            if not self._signum:
                raise
            raise Interrupted(self._signum) from None
        finally:
            self._is_running = False
        if self._signum:
            raise Interrupted(self._signum)
        return result

    async def _cancellable(self, measure: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            if self._signum:
                raise asyncio.CancelledError
            return await measure()
        finally:
            self._loop = self._task = None

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        is_first, self._signum = not self._signum, signum
        if not (is_first and self._is_running):
            raise Interrupted(signum)
        if self._loop is not None and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
