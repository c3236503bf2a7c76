"""How far a batch job is, on stderr: a bar in a terminal, a plain line every few seconds anywhere else.

Shows lines that are done and failed, tokens per second of the last seconds, and the time that is left at this speed.
Used by `run.py` for lines, and by `LLM` (`fast_inference/offline/`) for prompts.
"""

import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from fast_inference.console import has_cursor

if TYPE_CHECKING:
    from rich.progress import Progress

BAR_INTERVAL_S = 0.2
LINE_INTERVAL_S = 5.0
_WINDOW_S = 20.0
_HOUR_S = 3600


class Counts(Protocol):
    """What has been done so far."""

    @property
    def num_done(self) -> int:
        """Lines, failed ones too."""

    @property
    def num_failed(self) -> int:
        """Those of them that failed."""

    @property
    def num_prompt_tokens(self) -> int:
        """Of all that is done."""

    @property
    def num_output_tokens(self) -> int:
        """Of all that is done."""


class _Sample(NamedTuple):
    """What there was at a moment: lines done, and tokens of prompts and of answers."""

    at: float
    lines: int
    prompt: int
    output: int


class JobProgress:
    """A context manager that clears its bar when left; call `show` again and again."""

    def __init__(self, counts: Counts, noun: str = "lines", window_s: float = _WINDOW_S) -> None:
        """`noun` is what is counted; speeds are those of the last `window_s` seconds."""
        self._counts = counts
        self._noun = noun
        self._window_s = window_s
        self.num_total: int | None = None
        """How many there are; None until they are counted."""
        self._bar: Progress | None = None
        self._samples = deque([self._sample()])
        """Of the last seconds."""

    def __enter__(self) -> Self:
        if has_cursor(sys.stderr):
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
        self._samples.append(self._sample())
        while len(self._samples) > 2 and self._samples[-1].at - self._samples[0].at > self._window_s:
            self._samples.popleft()
        if self._bar is not None:
            done = self._counts.num_done
            self._bar.update(self._task, description=self._text(), completed=done, total=self.num_total)
        else:
            sys.stderr.write(self._text() + "\n")
            sys.stderr.flush()

    def _sample(self) -> "_Sample":
        counts = self._counts
        return _Sample(time.monotonic(), counts.num_done, counts.num_prompt_tokens, counts.num_output_tokens)

    def _text(self) -> str:
        then, now = self._samples[0], self._samples[-1]
        seconds = max(now.at - then.at, 1e-3)
        total = "" if self.num_total is None else f" of {self.num_total:,}"
        speed = f"{(now.output - then.output) / seconds:,.0f} tok/s out, {(now.prompt - then.prompt) / seconds:,.0f} in"
        text = f"{now.lines:,}{total} {self._noun} done, {self._counts.num_failed:,} failed, {speed}"
        if self.num_total is None or now.lines == then.lines:
            return text
        return f"{text}, {_duration((self.num_total - now.lines) * seconds / (now.lines - then.lines))} left"


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    minutes = f"{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // _HOUR_S}:{minutes}" if whole >= _HOUR_S else minutes


def _make_bar() -> "Progress":
    from rich.console import Console  # only a terminal pays for this import
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
