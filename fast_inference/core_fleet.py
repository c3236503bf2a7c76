"""All cores of one server: a supervisor for each, the file that says where they are, and what they are together.

Used by `launcher.py`. The server starts when all cores are ready; from then on it serves while one of them is. A core
that crashes again and again is tried at ever longer intervals while others serve; where all do, the server ends.
Invariant: `cores.json` names every core from before the first one starts, whatever state each of them is in.
Next: `core_supervisor.py` (one core), `core_shares.py` (what each one gets of the machine).
"""

import asyncio
from collections.abc import Callable, Sequence

from fast_inference.child import Child
from fast_inference.core_shares import CoreShare
from fast_inference.core_supervisor import CoreSupervisor
from fast_inference.status import CoreStatus
from ipc.core_directory import write_cores
from ipc.endpoints import RunDir


class CoreFleet:
    """The cores of one launcher, in the order of their numbers."""

    def __init__(
        self,
        run_dir: RunDir,
        shares: Sequence[CoreShare],
        hang_timeout_s: float,
        on_change: Callable[[], None],
        on_failure: Callable[[str | None], None],
    ) -> None:
        """One core for each share; `on_failure` gets the reason, or None where a core has told people itself."""
        self._run_dir = run_dir
        self.supervisors = [
            CoreSupervisor(
                run_dir,
                hang_timeout_s,
                on_change,
                on_failure,
                index,
                share,
                self._may_crash if len(shares) > 1 else None,
            )
            for index, share in enumerate(shares)
        ]

    @property
    def children(self) -> list[Child]:
        """Every core process that was started and may still run."""
        return [child for core in self.supervisors for child in core.children]

    @property
    def was_heard(self) -> asyncio.Event:
        """Set when the first core was first heard: it has begun to load."""
        return self.supervisors[0].was_heard

    @property
    def is_ready(self) -> bool:
        """True while a core accepts requests."""
        return any(core.is_ready for core in self.supervisors)

    @property
    def are_all_ready(self) -> bool:
        """True while each core accepts requests."""
        return all(core.is_ready for core in self.supervisors)

    @property
    def has_been_ready(self) -> bool:
        """True once each core was ready."""
        return all(core.has_been_ready for core in self.supervisors)

    @property
    def is_stuck(self) -> bool:
        """True if a core neither works nor dies."""
        return any(core.is_stuck for core in self.supervisors)

    @property
    def is_stopping(self) -> bool:
        """True from the call of `stop` on."""
        return self.supervisors[0].is_stopping

    @property
    def num_blocks(self) -> int:
        """Of the KV caches of all cores; 0 until one was ready."""
        return sum(core.num_blocks for core in self.supervisors)

    @property
    def can_generate(self) -> bool:
        """False where the model gives embeddings only."""
        return self.supervisors[0].can_generate

    @property
    def num_running(self) -> int:
        """Requests that run, as the cores last said."""
        return sum(core.num_running for core in self.supervisors)

    @property
    def stage(self) -> str:
        """What loading is at in the first core that is not ready, for people; empty where that is not known."""
        return next((core.stage for core in self.supervisors if not core.is_ready), "")

    def statuses(self) -> tuple[CoreStatus, ...]:
        """What `status.json` says of each core."""
        return tuple(core.status() for core in self.supervisors)

    def prepare(self) -> None:
        """Make the folders of the cores, and tell clients where they are.

        Raises:
            ConfigError: a folder cannot be had.
            OSError: the file cannot be written.
        """
        run_dirs = {core.name: core.run_dir for core in self.supervisors}
        if len(run_dirs) > 1:
            self._run_dir.cores_dir.mkdir(mode=0o700, exist_ok=True)
            for core in self.supervisors[1:]:
                core.run_dir.create()
        write_cores(self._run_dir, {name: run_dir.core_socket for name, run_dir in run_dirs.items()})

    async def run(self) -> None:
        """Keep all cores running until cancelled, or until `on_failure` was called."""
        async with asyncio.TaskGroup() as group:
            for core in self.supervisors:
                group.create_task(core.run())

    async def stop(self, timeout_s: float) -> None:
        """End every core: its requests get so many seconds; whoever takes longer is killed."""
        await asyncio.gather(*(core.stop(timeout_s) for core in self.supervisors))

    def _may_crash(self) -> bool:
        """True where a core that crashes again and again leaves others that do not, or that serve even so."""
        return any(core.is_ready or not core.has_failed for core in self.supervisors)
