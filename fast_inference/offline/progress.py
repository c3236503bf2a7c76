"""How far a call of an `LLM` is, on stderr: a bar in a terminal, a plain line every 5 s anywhere else (a notebook).

Next: `fast_inference/batch/progress.py`, which draws it.
"""

import time
from types import TracebackType
from typing import Any, Self

from fast_inference.batch.progress import JobProgress
from fast_inference.offline.outputs import RequestOutput


class PromptProgress:
    """A context manager around one call; tell it every output."""

    def __init__(self, num_prompts: int | None, *, is_shown: bool) -> None:
        """`num_prompts` is None where nobody knows before the end."""
        self.num_done = 0
        self.num_failed = 0
        """Always 0: a prompt that fails ends the call."""
        self.num_prompt_tokens = 0
        self.num_output_tokens = 0
        self._progress = JobProgress(self, "prompts") if is_shown else None
        if self._progress is not None:
            self._progress.num_total = num_prompts
        self._shown_at = time.monotonic()

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, error, traceback)

    def add(self, output: Any) -> None:
        """Count one output, and show it when it is time."""
        self.num_done += 1
        self.num_prompt_tokens += len(output.prompt_token_ids)
        if isinstance(output, RequestOutput):
            self.num_output_tokens += sum(len(answer.token_ids) for answer in output.outputs)
        now = time.monotonic()
        if self._progress is not None and now - self._shown_at >= self._progress.interval_s:
            self._shown_at = now
            self._progress.show()
