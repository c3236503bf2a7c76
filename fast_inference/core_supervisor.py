"""Keeps one engine core running: starts it, follows its beats, kills it when it hangs and replaces it when it dies.

Made by `core_fleet.py` for each core of a server. Its owner is told of each change and of the failure that ends
everything: a core that cannot start, or that crashes again and again while no other one serves. Invariant: of the
processes that run, `active` is the one that clients are to use; a death of any other one is no crash.
Next: `core_process.py` (one core), `restart_policy.py`, `hang_watch.py`; `core_reload.py` replaces a core that serves.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from engine_core.cpus import format_cpus
from fast_inference.child import Child, stop_children
from fast_inference.core_process import CoreProcess, core_title
from fast_inference.core_shares import ONLY_CORE_SHARE, CoreShare
from fast_inference.restart_policy import (
    CRASH_WINDOW_S,
    MAX_CORE_CRASHES,
    MAX_CORE_DELAY_S,
    STABLE_S,
    CoreRestartPolicy,
)
from fast_inference.status import CoreStatus
from ipc.endpoints import RunDir
from ipc.exit_codes import EXIT_CONFIG_ERROR

log = logging.getLogger(__name__)

CORE_GRACE_S = 5.0
"""What a core gets for its end beyond the time for its requests."""
_POLL_LOADING_S = 0.1
_POLL_READY_S = 1.0


class CoreSupervisor:
    """One core of a server, and all processes that were it."""

    def __init__(
        self,
        run_dir: RunDir,
        hang_timeout_s: float,
        on_change: Callable[[], None],
        on_failure: Callable[[str | None], None],
        index: int = 0,
        share: CoreShare = ONLY_CORE_SHARE,
        may_crash: Callable[[], bool] | None = None,
    ) -> None:
        """For core `index` of the server on `run_dir`.

        Args:
            run_dir: the server's.
            hang_timeout_s: how long the core may be silent.
            on_change: called whenever something may have changed.
            on_failure: gets the reason, or None where the core has said it in one line itself.
            index: which core it is.
            share: what it gets of the machine.
            may_crash: asked when the core crashes again and again: whether there are other cores; None: there are none.
        """
        self._server_run_dir = run_dir
        self.run_dir = run_dir.of_core(index)
        """The core's own."""
        self.name = str(index)
        """As clients call it."""
        self._index = index
        self._share = share
        self._may_crash = may_crash
        self._title = core_title(index, share.num_cores)
        self._the_title = self._title if share.num_cores > 1 else f"the {self._title}"
        self._hang_timeout_s = hang_timeout_s
        self._on_change = on_change
        self._on_failure = on_failure
        self._policy = CoreRestartPolicy()
        self.active: CoreProcess | None = None
        self.was_heard = asyncio.Event()
        """Set when the core was first heard: it has begun to load."""
        self._others: list[CoreProcess] = []
        """One that stands by, or one that retires."""
        self.has_been_ready = False
        self.has_failed = False
        """True from a crash too many until it has served for a while again."""
        self.is_stopping = False
        self._last_exit = ""
        self._restarts: Counter[str] = Counter()
        self._last_epoch = 0

    @property
    def children(self) -> list[Child]:
        """Every core process that was started and may still run."""
        return [core.child for core in self._cores]

    @property
    def _cores(self) -> list[CoreProcess]:
        return self._others if self.active is None else [self.active, *self._others]

    @property
    def is_ready(self) -> bool:
        """True while the active core accepts requests."""
        return self.active is not None and self.active.is_ready

    @property
    def is_stuck(self) -> bool:
        """True if the active core neither works nor dies."""
        return self.active is not None and self.active.is_stuck

    @property
    def num_blocks(self) -> int:
        """Of the active core's KV cache; 0 until it was ready."""
        welcome = None if self.active is None else self.active.client.welcome
        return 0 if welcome is None else welcome.num_blocks

    @property
    def can_generate(self) -> bool:
        """False where the active core's model gives embeddings only."""
        welcome = None if self.active is None else self.active.client.welcome
        return welcome is None or welcome.can_generate

    @property
    def num_running(self) -> int:
        """Requests that the active core runs, as it last said."""
        return 0 if self.active is None else self.active.client.load.num_running

    @property
    def stage(self) -> str:
        """What loading is at, for people; empty where that is not known."""
        return "" if self.active is None else self.active.client.detail

    def status(self) -> CoreStatus:
        """What `status.json` says of the core."""
        core = self.active
        pid, epoch, state = None, self._last_epoch, "stopped"
        if core is not None and not core.child.exited.is_set():
            pid, epoch, state = core.child.pid, core.epoch or epoch, core.state
        if self.has_failed and state != "ready":
            state = "failed"
        cpus = format_cpus(self._share.cpus)
        return CoreStatus(pid, epoch, state, self._last_exit, dict(self._restarts), self.name, cpus)

    async def run(self) -> None:
        """Keep a core running until cancelled, or until `on_failure` was called."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            await self._start_core(0)
            while not self.is_stopping:
                await self._look()
                await asyncio.sleep(_POLL_READY_S if self.is_ready else _POLL_LOADING_S)

    async def stop(self, timeout_s: float) -> None:
        """End every core: its requests get so many seconds; whoever takes longer is killed."""
        self.is_stopping = True
        await asyncio.gather(*(core.client.close() for core in self._cores))
        await stop_children(self.children, timeout_s)

    # --- two cores at once ---

    async def start_standby(self) -> CoreProcess:
        """Start a core in the other slot, with the standby configuration.

        Raises:
            OSError: it cannot be started.
        """
        slot = 0 if self.active is None or self.active.slot else 1
        core = CoreProcess(self._server_run_dir, slot, self._hang_timeout_s, self._index, self._share, is_standby=True)
        self._others.append(core)
        await core.client.start()
        self._group.create_task(self._await_death(core))
        return core

    def promote(self, core: CoreProcess) -> CoreProcess:
        """Make a standby core the active one; returns the one before, which may have ended."""
        before, self.active = self.active, core
        assert before is not None
        self._others.remove(core)
        if not before.child.exited.is_set():
            self._others.append(before)
        self.publish()
        log.info("%s (pid %d) takes the place of pid %d", self._title, core.child.pid, before.child.pid)
        return before

    def publish(self) -> None:
        """Have clients find the active core, whatever cores that started meanwhile have done to the link."""
        assert self.active is not None
        self.run_dir.publish_core(self.active.slot)

    # --- one core ---

    async def _start_core(self, slot: int) -> None:
        try:
            core = CoreProcess(self._server_run_dir, slot, self._hang_timeout_s, self._index, self._share)
        except OSError as error:
            self._on_failure(f"cannot start {self._the_title}: {error}")
            return
        self.active = core
        await core.client.start()
        self._group.create_task(self._await_death(core))
        self._on_change()

    async def _look(self) -> None:
        """Take in what the active core says of itself."""
        core = self.active
        if core is None or core.child.exited.is_set():
            return
        if core.is_ready:
            core.note_ready()
            self.has_been_ready = True
            self.has_failed &= core.served_s < STABLE_S
            self._last_epoch = core.epoch
        if core.client.state is not None:
            self.was_heard.set()
        self._on_change()
        await core.kill_if_it_hangs()

    async def _await_death(self, core: CoreProcess) -> None:
        """Replace the core when it has died, unless another one is active by then."""
        await core.child.wait()
        await core.client.close()
        if core in self._others:
            self._others.remove(core)
        if core is not self.active:
            return
        self._last_exit = core.exit_text
        self._on_change()
        if self.is_stopping:
            return
        delay_s = self._policy.on_crash(time.monotonic(), core.served_s)
        is_hopeless = not self.has_been_ready or core.child.exit_code == EXIT_CONFIG_ERROR or self._policy.is_loop
        if is_hopeless:
            reason = self._why_hopeless(core)
            if not self._is_spared():
                self._on_failure(reason)
                return
            log.critical("%s has failed: %s; the other cores serve on", self._title, reason)
            delay_s = MAX_CORE_DELAY_S
        self._restarts[core.exit_kind] += 1
        log.error("%s (pid %d) %s; restart in %.1f s", self._title, core.child.pid, core.exit_text, delay_s)
        self._on_change()
        await asyncio.sleep(delay_s)
        if core is self.active and not self.is_stopping:
            await self._start_core(core.slot)

    def _is_spared(self) -> bool:
        """Count the core as failed; True where it may be tried again, since others serve."""
        self.has_failed = self.has_been_ready
        return self.has_failed and self._may_crash is not None and self._may_crash()

    def _why_hopeless(self, core: CoreProcess) -> str | None:
        """Why it is not simply started again; None where the core itself has told people."""
        if core.child.exit_code == EXIT_CONFIG_ERROR:
            if self._share.num_cores == 1:
                return None
            with suppress(OSError):
                return self.run_dir.core_error_file.read_text().strip()
        if self._policy.is_loop:
            return f"{self._the_title} crashed {MAX_CORE_CRASHES} times in {CRASH_WINDOW_S:.0f} s"
        return f"{self._the_title} {core.exit_text} before it was ready"
