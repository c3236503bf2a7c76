"""How far the start has come, on stderr: a bar in a terminal, plain lines anywhere else; or in the log.

Used by `launcher.py` while it waits and handed to `model_store.py` as its progress callback; an engine in a program of
somebody's own hands it `log_progress`.
"""

import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger(__name__)

_PLAIN_LINE_INTERVAL_S = 2.0


class StartProgress:
    """Shows one stage at a time; a context manager that clears its bar when left."""

    def __init__(self) -> None:
        self._stage = ""
        self._shown_at = 0.0
        self._bar: Progress | None = None

    def __enter__(self) -> "StartProgress":
        if sys.stderr.isatty():
            self._bar = _make_bar()
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None)
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
        is_due = fraction is not None and now - self._shown_at >= _PLAIN_LINE_INTERVAL_S
        if stage == self._stage and not is_due:
            return
        self._stage, self._shown_at = stage, now
        percent = "" if fraction is None else f" {fraction:.0%}"
        sys.stderr.write(f"{stage}{percent}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def log_progress(stage: str, fraction: float | None) -> None:
    """Log each stage once, at its beginning."""
    if not fraction:
        log.info("%s", stage)


def _make_bar() -> "Progress":
    from rich.console import Console  # only a terminal pays for this import
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
