"""How far the start has come, on stderr: a bar in a terminal, plain lines anywhere else; or in the log.

Used by `launcher.py` while it waits and handed to `model_store.py` as its progress callback; an engine in a program of
somebody's own hands it `log_progress`.
"""

import logging
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from fast_inference.console import has_cursor

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger(__name__)

_PLAIN_LINE_INTERVAL_S = 2.0
_REMINDER_INTERVAL_S = 10.0
"""After which a stage that nobody tells more about is named again, with the time that it takes already."""


class StartProgress:
    """Shows one stage at a time; a context manager that clears its bar when left.

    Where there is no bar, a thread of its own says that a long stage goes on: whoever waits in it calls nobody.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._began_at = 0.0
        self._shown_at = 0.0
        self._lock = threading.Lock()
        """Of these three and of what is written."""
        self._closed = threading.Event()
        self._reminder: threading.Thread | None = None
        self._bar: Progress | None = None

    def __enter__(self) -> "StartProgress":
        if has_cursor(sys.stderr):
            self._bar = _make_bar()
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None)
        else:
            self._reminder = threading.Thread(target=self._remind, name="progress", daemon=True)
            self._reminder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, stage: str, fraction: float | None = None) -> None:
        """Show a stage; in plain lines, a stage that goes on is repeated at most every 2 s."""
        if self._bar is not None:
            total = None if fraction is None else 1.0
            self._bar.update(self._task, description=stage, completed=fraction or 0.0, total=total)
            return
        now = time.monotonic()
        with self._lock:
            is_due = fraction is not None and now - self._shown_at >= _PLAIN_LINE_INTERVAL_S
            if stage == self._stage and not is_due:
                return
            if stage != self._stage:
                self._stage, self._began_at = stage, now
            self._shown_at = now
            _write_line(stage if fraction is None else f"{stage} {fraction:.0%}")

    def _remind(self) -> None:
        """Until it is closed, name a stage again that has been silent for long."""
        wait_s = _REMINDER_INTERVAL_S
        while not self._closed.wait(wait_s):
            with self._lock:
                now = time.monotonic()
                wait_s = self._shown_at + _REMINDER_INTERVAL_S - now
                if wait_s > 0:
                    continue
                wait_s, self._shown_at = _REMINDER_INTERVAL_S, now
                if self._stage:
                    _write_line(f"{self._stage}, for {now - self._began_at:.0f} s")

    def close(self) -> None:
        """Take the bar away, and remind nobody any more."""
        self._closed.set()
        if self._reminder is not None:
            self._reminder.join()
            self._reminder = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _write_line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def log_progress(stage: str, fraction: float | None) -> None:
    """Log each stage once, at its beginning."""
    if not fraction:
        log.info("%s", stage)


def _make_bar() -> "Progress":
    from rich.console import Console  # only a terminal pays for this import
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
