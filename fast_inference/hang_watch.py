"""Whether one core hangs, by two separate signs: its I/O thread is silent, or its step takes longer than it may.

Asked by `core_supervisor.py` again and again, with what the launcher's client knows of the core. Invariant: a core is
never called hung for a time in which this process did not run, nor a step for being long as long as its allowance
(`engine_core/step_clock.py`) lasts.
"""

from ipc.own_sleep import Silence

LOADING_FACTOR = 10.0
"""A core that loads may be silent for so many times as long: imports and conversions hold up its I/O thread."""


class HangWatch:
    """Of one core process, from its start."""

    def __init__(self, hang_timeout_s: float, now: float | None = None) -> None:
        self._hang_timeout_s = hang_timeout_s
        self._silence = Silence(now)

    def why_hung(
        self,
        heard_ago_s: float,
        *,
        is_loading: bool,
        step_age_s: float = 0.0,
        step_allowance_s: float = 0.0,
        now: float | None = None,
    ) -> str:
        """The reason to kill the core; empty while there is none. An allowance of 0 s means that it is not known."""
        silence_s = self._silence.seconds(heard_ago_s, now)
        if silence_s > self._hang_timeout_s * (LOADING_FACTOR if is_loading else 1.0):
            return f"it was silent for {silence_s:.0f} s"
        is_stuck = step_allowance_s and step_age_s > max(step_allowance_s, self._hang_timeout_s)
        if is_stuck and not is_loading:
            return f"its step takes {step_age_s:.0f} s already, of {step_allowance_s:.0f} s at most"
        return ""
