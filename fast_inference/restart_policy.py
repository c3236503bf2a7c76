"""When a child that died is started again, and when the launcher gives up. Pure decisions; times come in as arguments.

Used by `launcher.py`.
"""

from collections import deque

MAX_CORE_CRASHES = 5
CRASH_WINDOW_S = 60.0
MAX_CORE_DELAY_S = 30.0
STABLE_S = 10.0
"""A core that has served for so long did not die of its start."""
_FIRST_CORE_DELAYS_S = (0.0, 0.5)
_MIN_FRONTEND_DELAY_S = 0.1
_MAX_FRONTEND_DELAY_S = 2.0


class CoreRestartPolicy:
    """Backoff 0, 0.5, 1, 2, 4 … 30 s, beginning anew once a core has served for 10 s; 5 crashes in 60 s are a loop."""

    def __init__(self) -> None:
        self._crashes: deque[float] = deque(maxlen=MAX_CORE_CRASHES)
        self._streak = 0

    def on_crash(self, now_s: float, served_s: float) -> float:
        """Seconds to wait before the next start, of a core that served for so long."""
        if served_s >= STABLE_S:
            self._streak = 0
        self._crashes.append(now_s)
        streak, self._streak = self._streak, self._streak + 1
        if streak < len(_FIRST_CORE_DELAYS_S):
            return _FIRST_CORE_DELAYS_S[streak]
        return float(min(2.0 ** (streak - len(_FIRST_CORE_DELAYS_S)), MAX_CORE_DELAY_S))

    @property
    def is_loop(self) -> bool:
        """True if the last crash was one of too many in a short time."""
        return len(self._crashes) == MAX_CORE_CRASHES and self._crashes[-1] - self._crashes[0] <= CRASH_WINDOW_S


class FrontendRestartPolicy:
    """Backoff 0.1, 0.2 … 2 s, beginning anew once a frontend has served; never gives up."""

    def __init__(self) -> None:
        self._delay_s = _MIN_FRONTEND_DELAY_S

    def on_death(self, has_served: bool) -> float:
        """Seconds to wait before the next start."""
        if has_served:
            self._delay_s = _MIN_FRONTEND_DELAY_S
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, _MAX_FRONTEND_DELAY_S)
        return delay_s
