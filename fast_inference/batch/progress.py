"""How far a batch job is, on stderr: a bar in a terminal, a plain line every few seconds anywhere else.

Shows lines that are done and failed, tokens per second of the last seconds, and the time that is left at this speed.
"""

import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

from frontend.batch.job import JobCounts

if TYPE_CHECKING:
    from rich.progress import Progress

BAR_INTERVAL_S = 0.2
LINE_INTERVAL_S = 5.0
_WINDOW_S = 20.0
_HOUR_S = 3600


class JobProgress:
    """A context manager that clears its bar when left; call `show` again and again."""

    def __init__(self, counts: JobCounts) -> None:
        self._counts = counts
        self.num_lines: int | None = None
        """Of the input; None until they are counted."""
        self._bar: Progress | None = None
        self._samples: deque[tuple[float, int, int]] = deque([(time.monotonic(), counts.num_done, 0)])
        """Time, lines done and tokens made, of the last seconds."""

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = _make_bar()
            self._bar.start()
            self._task = self._bar.add_task("", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def interval_s(self) -> float:
        """Seconds between two calls of `show`."""
        return BAR_INTERVAL_S if self._bar is not None else LINE_INTERVAL_S

    def show(self) -> None:
        """Say how far the job is now."""
        now, counts = time.monotonic(), self._counts
        self._samples.append((now, counts.num_done, counts.num_output_tokens + counts.num_prompt_tokens))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        if self._bar is not None:
            self._bar.update(self._task, description=self._text(), completed=counts.num_done, total=self.num_lines)
        else:
            sys.stderr.write(self._text() + "\n")
            sys.stderr.flush()

    def _text(self) -> str:
        counts, (began_at, lines_then, tokens_then), (now, lines, tokens) = (
            self._counts,
            self._samples[0],
            self._samples[-1],
        )
        seconds = max(now - began_at, 1e-3)
        total = "" if self.num_lines is None else f" of {self.num_lines:,}"
        text = (
            f"{lines:,}{total} lines done, {counts.num_failed:,} failed, {(tokens - tokens_then) / seconds:,.0f} tok/s"
        )
        if self.num_lines is None or lines == lines_then:
            return text
        return f"{text}, {_duration((self.num_lines - lines) * seconds / (lines - lines_then))} left"


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    minutes = f"{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // _HOUR_S}:{minutes}" if whole >= _HOUR_S else minutes


def _make_bar() -> "Progress":
    from rich.console import Console  # only a terminal pays for this import
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
