"""What a server that drains waits for, while that takes more than a second.

Run by `launcher.py` beside the wait itself, and cancelled with its end.
"""

import asyncio
import sys
import time
from collections.abc import Callable

from fast_inference.console import has_cursor
from fast_inference.progress import StartProgress

_QUIET_S = 1.0
"""Ends that are quicker are not spoken of."""
_BAR_INTERVAL_S = 0.2
_LINE_INTERVAL_S = 5.0


async def show_drain(num_running: Callable[[], int], deadline: float) -> None:
    """Tell how many requests run and how long they may, until cancelled; `deadline` is of `time.monotonic`."""
    await asyncio.sleep(_QUIET_S)
    with StartProgress() as progress:
        while True:
            count, left_s = num_running(), max(deadline - time.monotonic(), 0.0)
            requests = "1 request runs" if count == 1 else f"{count} requests run"
            progress(f"draining: {requests}, for at most {left_s:.0f} s more (a second signal ends them)")
            await asyncio.sleep(_BAR_INTERVAL_S if has_cursor(sys.stderr) else _LINE_INTERVAL_S)
