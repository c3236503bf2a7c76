"""Waiting for something that another process does."""

import time
from collections.abc import Callable


def wait_until(is_true: Callable[[], object], timeout_s: float = 10) -> None:
    """Ask again and again; fails after the time."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
