"""One engine core that the launcher started: the process, the launcher's own link to it, and whether it hangs.

Made by `core_supervisor.py` for each start. The link goes to the socket of the core's slot, not to `core.sock`, so
that it is to this core whatever clients are told. Invariant: `is_ready` is about this very process.
"""

import logging
import signal
import time

from fast_inference.child import Child
from fast_inference.core_shares import ONLY_CORE_SHARE, CoreShare
from fast_inference.hang_watch import HangWatch
from ipc.client import EngineClient
from ipc.endpoints import RunDir
from ipc.messages import ClientRole
from ipc.process import STACK_DUMP_SIGNAL

log = logging.getLogger(__name__)

_STACK_DUMP_S = 0.5
"""A core that hangs gets this long to write its stacks."""


def core_title(index: int, num_cores: int) -> str:
    """What people call a core: one of several has a number."""
    return "engine core" if num_cores == 1 else f"engine core {index}"


class CoreProcess:
    """A started core; use it from the event loop that created it."""

    def __init__(
        self,
        run_dir: RunDir,
        slot: int,
        hang_timeout_s: float,
        index: int = 0,
        share: CoreShare = ONLY_CORE_SHARE,
        *,
        is_standby: bool = False,
    ) -> None:
        """Start core `index` of the server on `run_dir`; clients find a standby core only once it is ready.

        Raises:
            OSError: it cannot be started.
        """
        config_file = run_dir.standby_config_file if is_standby else run_dir.config_file
        arguments = ["--config", str(config_file), "--slot", str(slot), *share.arguments]
        arguments += ["--core", str(index)] if index else []
        arguments += ["--standby"] if is_standby else []
        name = core_title(index, share.num_cores)
        self.child = Child(name, "engine_core", arguments, environment=share.environment)
        self.slot = slot
        self.client = EngineClient(run_dir.of_core(index).slot_socket(slot), name="launcher", role=ClientRole.ADMIN)
        self._hang_watch = HangWatch(hang_timeout_s)
        self._hung_because = ""
        self._ready_at: float | None = None

    def note_ready(self) -> None:
        """It has been seen to accept requests."""
        self.child.ready.set()
        if self._ready_at is None:
            self._ready_at = time.monotonic()

    @property
    def served_s(self) -> float:
        """Seconds since it first accepted requests; 0 before that."""
        return 0.0 if self._ready_at is None else time.monotonic() - self._ready_at

    @property
    def is_ready(self) -> bool:
        """True while it accepts requests."""
        welcome = self.client.welcome
        return self.client.is_ready and welcome is not None and welcome.core_pid == self.child.pid

    @property
    def epoch(self) -> int:
        """Number of its life; 0 until it is known."""
        welcome = self.client.welcome
        return 0 if welcome is None or welcome.core_pid != self.child.pid else welcome.epoch

    @property
    def state(self) -> str:
        """starting, loading, ready, draining, dying or stopped; one that retires counts as ready."""
        if self.child.exited.is_set():
            return "stopped"
        state = self.client.state
        return "starting" if state is None else state.name.lower()

    @property
    def is_stuck(self) -> bool:
        """True if it was killed because it hangs, and has not ended even so."""
        return bool(self._hung_because) and not self.child.exited.is_set()

    @property
    def exit_text(self) -> str:
        """How it ended, for people."""
        return f"hung ({self._hung_because}) and was killed" if self._hung_because else self.child.exit_text

    @property
    def exit_kind(self) -> str:
        """The same as metrics count it: hang, signal or exit."""
        if self._hung_because:
            return "hang"
        return "signal" if self.child.exit_code < 0 else "exit"

    async def kill_if_it_hangs(self) -> None:
        """Judge it by what is known now; where it hangs, have it write its stacks to the log, and kill it."""
        reason = self._hang_watch.why_hung(
            self.client.beat_age_s,
            is_loading=not self.child.ready.is_set(),
            step_age_s=self.client.step_age_s,
            step_allowance_s=self.client.step_allowance_s,
        )
        if not reason or self.child.exited.is_set():
            return
        log.error("%s (pid %d) hangs: %s; it is killed", self.child.name, self.child.pid, reason)
        self.child.send_signal(STACK_DUMP_SIGNAL)
        if not await self.child.wait(_STACK_DUMP_S):
            self._hung_because = reason
            self.child.send_signal(signal.SIGKILL)
